"""PNG: bytes -> `Container`, by walking the chunks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.core.errors import CorruptImage
from service.core.types import OutputFormat
from service.stages.containers.container import MAX_ICC_BYTES, MAX_PARTS, Container
from service.stages.containers.png_chunks import LENGTHS, pack

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6

_DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGB_ALPHA: (8, 16)}
_KEY_VALUES = {GREY: 1, RGB: 3}
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_ANCILLARY = 0x20  # this bit of the first letter is set in chunks that a decoder may ignore


@dataclass(frozen=True, slots=True)
class _Chunk:
    kind: bytes
    body: memoryview
    whole: memoryview
    intact: bool


@dataclass(slots=True)
class _Parts:
    pixel_chunks: list[memoryview] = field(default_factory=list)
    packed_profile: bytes | None = None
    exif: bytes | None = None
    transparency: bytes | None = None
    notes: dict[bytes, bytes] = field(default_factory=dict)
    frames: int = 1
    damage: str | None = None
    ended: bool = False


def read_png(data: bytes) -> Container:
    """Read header and metadata of a PNG file.

    Raises:
        CorruptImage: There is no valid IHDR chunk. Later damage is reported in `Container.damage`, so that a caller
            can check the size first.
    """
    width_px, height_px, bit_depth, colour = _header(data)
    parts = _collect(data, colour)
    stripped = b"" if parts.damage else b"".join([SIGNATURE, *parts.pixel_chunks])
    return Container(
        format=OutputFormat.PNG,
        width_px=width_px,
        height_px=height_px,
        animated=parts.frames > 1,
        is_grey=colour in (GREY, GREY_ALPHA),
        bit_depth=bit_depth,
        icc_profile=None if parts.packed_profile is None else _inflate_profile(parts.packed_profile),
        exif=parts.exif,
        colour_key=_colour_key(parts.transparency, colour, bit_depth),
        png_chunks=pack(parts.notes),
        stripped=stripped,
        damage=parts.damage,
    )


def _header(data: bytes) -> tuple[int, int, int, int]:
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise CorruptImage("the PNG file has no IHDR chunk")
    width_px, height_px, bit_depth, colour = struct.unpack(">IIBB", data[16:26])
    if not (0 < width_px < 2**31 and 0 < height_px < 2**31) or bit_depth not in _DEPTHS.get(colour, ()):
        raise CorruptImage("the PNG file's IHDR chunk is invalid")
    return width_px, height_px, bit_depth, colour


def _chunks(data: bytes) -> Iterator[_Chunk]:
    view, position = memoryview(data), len(SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(view[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            return
        checked, stored = view[position + 4 : end - 4], int.from_bytes(view[end - 4 : end], "big")
        yield _Chunk(
            kind=bytes(checked[:4]),
            body=checked[4:],
            whole=view[position:end],
            intact=zlib.crc32(checked) == stored,
        )
        position = end


def _collect(data: bytes, colour: int) -> _Parts:
    parts = _Parts()
    for number, chunk in enumerate(_chunks(data)):
        if number >= MAX_PARTS:
            parts.damage = f"the PNG file has more than {MAX_PARTS} chunks"
            return parts
        if not chunk.intact:
            if chunk.kind[0] & _ANCILLARY:
                continue
            parts.damage = f"the checksum of a {chunk.kind.decode('ascii', 'replace')} chunk is wrong"
            return parts
        _keep(parts, chunk, colour)
        if chunk.kind == b"IEND":
            parts.ended = True
            break
    if not parts.ended:
        parts.damage = "the PNG file ends before its IEND chunk"
    return parts


def _keep(parts: _Parts, chunk: _Chunk, colour: int) -> None:
    if chunk.kind in _PIXEL_CHUNKS or (chunk.kind == b"tRNS" and colour == PALETTE):
        parts.pixel_chunks.append(chunk.whole)
    elif chunk.kind == b"tRNS":
        parts.transparency = bytes(chunk.body)
    elif chunk.kind == b"iCCP" and parts.packed_profile is None:  # one is inflated, however many there are
        parts.packed_profile = bytes(chunk.body)
    elif chunk.kind == b"eXIf":
        parts.exif = bytes(chunk.body).removeprefix(b"Exif\0\0")  # some writers keep JPEG's prefix
    elif chunk.kind in LENGTHS and bytes(parts.pixel_chunks[-1][4:8]) != b"IDAT":  # what comes later is void
        parts.notes.setdefault(chunk.kind, bytes(chunk.body))
    elif chunk.kind == b"acTL" and len(chunk.body) == 8:
        parts.frames = int.from_bytes(chunk.body[:4], "big")


def _inflate_profile(body: bytes) -> bytes | None:
    _, _, rest = body.partition(b"\0")
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], MAX_ICC_BYTES)
    except zlib.error:
        return None
    return profile if inflater.eof else None


def _colour_key(transparency: bytes | None, colour: int, bit_depth: int) -> tuple[int, ...] | None:
    count = _KEY_VALUES.get(colour, 0)
    if transparency is None or count == 0 or len(transparency) < 2 * count:
        return None
    values = struct.unpack(f">{count}H", transparency[: 2 * count])
    # Decoders spread samples of fewer than 8 bits over 0..255.
    spread = 255 // (2**bit_depth - 1) if bit_depth < 8 else 1
    return tuple((value & (2**bit_depth - 1)) * spread for value in values)
