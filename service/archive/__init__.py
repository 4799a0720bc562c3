"""Archives on a Ray cluster. Nothing else of the service knows Ray."""

import os

# Ray reads it when it is imported. Without it, whoever asks after the cluster is lost would get a new one, silently.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
