"""Hours of work with accidents: a deployment whose processes are killed, good and bad photos, and a count at the end.

stamped photos -> jobs at any gateway, sent again under their key when that is killed -> every job once, its own photo
"""
