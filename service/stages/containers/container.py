"""What a picture file says about itself before a single pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from service.core.types import OutputFormat

MAX_ICC_BYTES = 4 * 1024 * 1024  #: larger profiles are dropped; press profiles have 0.5 to 3 MB
MAX_PARTS = 65_536  #: chunks or segments of one file; honest files have a few thousand at most


@dataclass(frozen=True, slots=True)
class Container:
    """Header and metadata of a file, and the file without its metadata.

    Decoders are given `stripped` only: they see no text, profile, EXIF or animation chunk, hence no compressed
    metadata that could unpack into memory and nothing to warn about.

    Attributes:
        format: Encoding.
        width_px: Width as stored, before the EXIF orientation.
        height_px: Height as stored.
        animated: More than one frame.
        is_grey: One colour channel (alpha aside).
        is_lossless: A WebP that was written without loss.
        bit_depth: Bits per sample, 1 to 16.
        icc_profile: Embedded profile, at most `MAX_ICC_BYTES`.
        exif: EXIF as a TIFF stream, unchecked.
        colour_key: The grey value or the RGB triple that stands for "transparent" in a PNG without alpha channel.
        png_chunks: What small chunks say of colours and density, as `png_chunks` packs it.
        stripped: The same picture without metadata.
        damage: Why the file cannot be decoded, or None.
    """

    format: OutputFormat
    width_px: int
    height_px: int
    animated: bool = False
    is_grey: bool = False
    is_lossless: bool = False
    bit_depth: int = 8
    icc_profile: bytes | None = None
    exif: bytes | None = None
    colour_key: tuple[int, ...] | None = None
    png_chunks: bytes = b""
    stripped: bytes = b""
    damage: str | None = None
