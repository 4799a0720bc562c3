"""`latent-pmrf doctor`: what is installed and configured here, whether it works, and what to do where it does not.

settings -> checks -> findings -> table or JSON, exit status
"""
