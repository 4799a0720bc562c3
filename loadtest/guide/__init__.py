"""docs/API.md: examples written by hand, and the whole interface as the service and its proto file describe it.

examples.md + /openapi.json of a running service + restoration.proto -> docs/API.md
"""
