"""The face detector as every backend knows it: fetched at set-up, so no entry of the manifest tells of it."""

from __future__ import annotations

from service.core.manifest import BATCH, TensorSpec

DETECTOR = "detector"
MAX_ROWS = 16  #: views of one call

INPUTS = (TensorSpec(name="image", dtype="float32", shape=(BATCH, 3, "height", "width")),)
OUTPUTS = tuple(
    TensorSpec(name=name, dtype="float32", shape=(BATCH, channels, "map_height", "map_width"))
    for name, channels in (("heatmap", 1), ("scale", 2), ("offset", 2), ("landmarks", 10))
)
