"""What a PNG file's small chunks say of its pixels: their colours (cICP, sRGB, gAMA, cHRM) and their density (pHYs).

They travel with the photo as one short string, kind and body by turns, for every kind has one length. A JPEG file's
density travels as a pHYs chunk, too.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

LENGTHS: Mapping[bytes, int] = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"pHYs": 9}  #: bytes of a body
MAX_CHUNKS_BYTES = sum(4 + length for length in LENGTHS.values())

_PQ = 16
_SUPERSEDED = (b"sRGB", b"gAMA", b"cHRM")  # by a profile; only cICP is above it (PNG, third edition, 4.3)
_DENSITY = struct.Struct(">IIB")
_PER_METRE = 1
_METRE = {1: 0.0254, 2: 0.01}  # JFIF's units: inch, centimetre
_MAX_JFIF = 65_535


def pack(chunks: Mapping[bytes, bytes]) -> bytes:
    """Kind and body by turns, in the order of `LENGTHS`; bodies of another length are left out."""
    return b"".join(kind + chunks[kind] for kind, length in LENGTHS.items() if len(chunks.get(kind, b"")) == length)


def unpack(packed: bytes) -> dict[bytes, bytes]:
    """The chunks by kind, each of its length; what is no such chunk ends them."""
    chunks, position = {}, 0
    while (length := LENGTHS.get(packed[position : position + 4])) and position + 4 + length <= len(packed):
        chunks[packed[position : position + 4]] = packed[position + 4 : position + 4 + length]
        position += 4 + length
    return chunks


def is_pq(packed: bytes) -> bool:
    """Whether the pixels follow the curve PQ, by cICP: transfer function 16 of ITU-T H.273."""
    return unpack(packed).get(b"cICP", b"\0\0")[1] == _PQ


def settled(packed: bytes, *, profiled: bool, turned: bool) -> bytes:
    """What still holds of a decoded photo: one that keeps a profile, or whose width has become its height."""
    chunks = unpack(packed)
    for kind in _SUPERSEDED if profiled else ():
        chunks.pop(kind, None)
    if turned and b"pHYs" in chunks:
        x, y, unit = _DENSITY.unpack(chunks[b"pHYs"])
        chunks[b"pHYs"] = _DENSITY.pack(y, x, unit)
    return pack(chunks)


def density_of_jfif(head: bytes) -> bytes:
    """The pHYs chunk, packed, that says what a JFIF segment's first twelve bytes do; empty where that is nothing."""
    if len(head) < 12 or not head.startswith(b"JFIF\0"):
        return b""
    unit, x, y = struct.unpack(">BHH", head[7:12])
    if not x or not y or (unit not in _METRE and (unit != 0 or x == y)):
        return b""
    if unit in _METRE:
        x, y = round(x / _METRE[unit]), round(y / _METRE[unit])
    return pack({b"pHYs": _DENSITY.pack(x, y, _PER_METRE if unit in _METRE else 0)})


def jfif_density(packed: bytes) -> bytes:
    """Unit and density as a JFIF segment has them: five bytes, or none where nothing is said or it is too much."""
    x, y, unit = _DENSITY.unpack(unpack(packed).get(b"pHYs", bytes(_DENSITY.size)))
    if unit == _PER_METRE:
        x, y = round(x * _METRE[1]), round(y * _METRE[1])
    if unit > _PER_METRE or not 0 < x <= _MAX_JFIF or not 0 < y <= _MAX_JFIF:
        return b""
    return struct.pack(">BHH", unit, x, y)
