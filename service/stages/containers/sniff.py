"""Bytes -> `Container`: the signature alone decides the format, never a file name or a declared type."""

from __future__ import annotations

from service.core.errors import UnsupportedFormat
from service.core.types import OutputFormat
from service.stages.containers import jpeg, png, webp
from service.stages.containers.container import Container

_HINT = "send a JPEG, PNG or WebP file"
_OTHERS = (
    (0, b"GIF8", "a GIF file"),
    (0, b"BM", "a BMP file"),
    (0, b"II*\0", "a TIFF file"),
    (0, b"MM\0*", "a TIFF file"),
    (0, b"%PDF", "a PDF file"),
    (4, b"ftypavi", "an AVIF file"),
    (4, b"ftyphe", "a HEIC file"),
    (4, b"ftypmif1", "a HEIC file"),
)
_READERS = {OutputFormat.JPEG: jpeg.read_jpeg, OutputFormat.PNG: png.read_png, OutputFormat.WEBP: webp.read_webp}


def announced_format(data: bytes) -> OutputFormat | None:
    """The encoding that a file's first bytes announce, or None; `read_container` has the last word."""
    if data.startswith(jpeg.SIGNATURE):
        return OutputFormat.JPEG
    if data.startswith(png.SIGNATURE):
        return OutputFormat.PNG
    return OutputFormat.WEBP if webp.is_webp(data) else None


def read_container(data: bytes) -> Container:
    """Recognise a file and read its header and metadata.

    Raises:
        UnsupportedFormat: Neither JPEG, PNG nor WebP, or a kind of JPEG without a decoder.
        CorruptImage: The signature is known and the header is not valid.
    """
    if (announced := announced_format(data)) is not None:
        return _READERS[announced](data)
    kind = next((name for at, magic, name in _OTHERS if data[at:].startswith(magic)), "not an image file known here")
    raise UnsupportedFormat(f"the upload is {kind}", hint=_HINT)
