"""Names of picture files: which suffix means which encoding."""

from __future__ import annotations

from collections.abc import Mapping

from service.core.types import OutputFormat

SUFFIXES: Mapping[str, OutputFormat] = {
    ".jpg": OutputFormat.JPEG,
    ".jpeg": OutputFormat.JPEG,
    ".png": OutputFormat.PNG,
    ".webp": OutputFormat.WEBP,
}
SUFFIX_OF: Mapping[OutputFormat, str] = {
    OutputFormat.JPEG: ".jpg",
    OutputFormat.PNG: ".png",
    OutputFormat.WEBP: ".webp",
}
