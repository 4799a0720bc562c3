"""A service that restores faces in photos."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reads it once: else it reports to its makers
