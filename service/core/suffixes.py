"""Names of picture files: which suffix means which encoding, and what a result is called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

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


def result_names(names: Iterable[str], output_format: OutputFormat | None, folders: Iterable[str]) -> list[str]:
    """What the results of photos of one folder are called, in the same order; each name is there once.

    Args:
        names: Of the photos.
        output_format: Encoding of the results, or None for each photo's own.
        folders: Names of folders in the folder of the results.
    """
    taken, results = set(folders), []
    for name in names:
        stem, suffix = os.path.splitext(name)
        result = name
        if output_format is not None and output_format is not SUFFIXES[suffix.lower()]:
            result = f"{stem}{SUFFIX_OF[output_format]}"
        while result in taken:  # a.jpg and a.png, both to become a.jpg
            begin, end = os.path.splitext(result)
            result = f"{begin}_{suffix[1:].lower()}{end}"
        taken.add(result)
        results.append(result)
    return results
