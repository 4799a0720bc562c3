"""WebP: bytes -> `Container`, by walking the RIFF chunks."""

from __future__ import annotations

from collections.abc import Iterator

from service.core.errors import CorruptImage
from service.core.types import OutputFormat
from service.stages.containers.container import MAX_ICC_BYTES, MAX_PARTS, Container

_PICTURE_CHUNKS = {b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"}
_METADATA_FLAGS = 0x20 | 0x08 | 0x04  # profile, EXIF, XMP


def is_webp(data: bytes) -> bool:
    """Whether the signature is WebP's."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_webp(data: bytes) -> Container:
    """Read header and metadata of a WebP file.

    Raises:
        CorruptImage: No size can be found. Later damage is reported in `Container.damage`.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    damage = "the WebP file is shorter than its header says" if end > len(data) else None
    width_px = height_px = frames = 0
    pictures: set[bytes] = set()
    found: dict[bytes, bytes] = {}
    kept: list[bytes | memoryview] = []
    for number, (kind, body, whole) in enumerate(_chunks(data, min(end, len(data)))):
        if number >= MAX_PARTS:
            damage = f"the WebP file has more than {MAX_PARTS} chunks"
            break
        # The canvas and the picture in it may disagree in a hostile file: the larger one counts.
        width, height = _size(kind, bytes(body[:10]))
        width_px, height_px = max(width_px, width), max(height_px, height)
        frames += kind == b"ANMF"
        pictures.add(bytes(body[16:20]) if kind == b"ANMF" else kind)
        if kind == b"VP8X" and body:
            kept.append(b"".join([whole[:8], bytes((body[0] & ~_METADATA_FLAGS,)), whole[9:]]))
        elif kind in _PICTURE_CHUNKS:
            kept.append(whole)
        elif kind not in found:
            found[kind] = bytes(body)
    if not width_px or not height_px:
        raise CorruptImage("the WebP file has no picture header")
    stripped = b""
    if damage is None:
        picture = b"".join([b"WEBP", *kept])
        stripped = b"RIFF" + len(picture).to_bytes(4, "little") + picture
    icc_profile = found.get(b"ICCP")
    return Container(
        format=OutputFormat.WEBP,
        width_px=width_px,
        height_px=height_px,
        animated=frames > 1,
        is_lossless=b"VP8L" in pictures and not pictures & {b"VP8 ", b"ALPH"},
        icc_profile=icc_profile if icc_profile and len(icc_profile) <= MAX_ICC_BYTES else None,
        exif=found.get(b"EXIF", b"").removeprefix(b"Exif\0\0") or None,  # some writers keep JPEG's prefix
        stripped=stripped,
        damage=damage,
    )


def _chunks(data: bytes, end: int) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Kind, body and whole of each chunk; the last one may be cut short by the end of the file."""
    view, position = memoryview(data), 12
    while position + 8 <= end:
        length = int.from_bytes(view[position + 4 : position + 8], "little")
        stop = min(position + 8 + length + (length & 1), end)
        yield bytes(view[position : position + 4]), view[position + 8 : position + 8 + length], view[position:stop]
        position += 8 + length + (length & 1)


def _size(kind: bytes, head: bytes) -> tuple[int, int]:
    """Width and height that the first ten bytes of a chunk declare, (0, 0) where they declare none."""
    if kind == b"VP8X" and len(head) == 10:
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a" and len(head) == 10:
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    if kind == b"VP8L" and head[:1] == b"\x2f" and len(head) >= 5:
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return 0, 0
