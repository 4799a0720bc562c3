"""Names of picture files: which suffix means which encoding, and what a result is called."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

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


def result_name(name: str, output_format: OutputFormat | None, taken: Collection[str]) -> str:
    """What the result of a photo of that name is called, in its own encoding or another.

    `taken` are the names of results and of folders in the same folder.
    """
    stem, suffix = os.path.splitext(name)
    result = name
    if output_format is not None and output_format is not SUFFIXES[suffix.lower()]:
        result = f"{stem}{SUFFIX_OF[output_format]}"
    while result in taken:  # a.jpg and a.png, both to become a.jpg
        begin, end = os.path.splitext(result)
        result = f"{begin}_{suffix[1:].lower()}{end}"
    return result
