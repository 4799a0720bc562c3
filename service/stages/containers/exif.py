"""EXIF: reads the orientation, and rewrites a block without what must not leave the service.

Left out: the GPS directory, the thumbnail directory, maker notes (their offsets break when moved, and they hold serial
numbers and positions), embedded XMP, IPTC and Photoshop blocks (positions, thumbnails), the orientation (it has been
applied) and the picture size (upscaling changes it). Values are copied byte for byte in the block's own byte order.
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

MAX_EXIF_BYTES = 65_000  #: what fits into one JPEG segment; larger blocks are dropped

_ORIENTATION, _EXIF_IFD, _INTEROP_IFD = 0x0112, 0x8769, 0xA005
_LONG = 4
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 129: 1}
_LEFT_OUT = frozenset(
    {
        _ORIENTATION,
        _EXIF_IFD,  # written anew, as is the next
        _INTEROP_IFD,
        0x8825,  # GPS directory
        0x927C,  # maker note
        0x0100,  # image width
        0x0101,  # image height
        0xA002,  # pixel width
        0xA003,  # pixel height
        0x0111,  # strip offsets
        0x0117,  # strip sizes
        0x014A,  # sub-directories
        0x0201,  # thumbnail offset
        0x0202,  # thumbnail size
        0x02BC,  # XMP
        0x83BB,  # IPTC
        0x8649,  # Photoshop
        0x8773,  # ICC profile
        0xC4A5,  # print matching
    }
)

_Order = Literal["<", ">"]


class _Entry(NamedTuple):
    kind: int
    values: int
    value: bytes


_Directory = dict[int, _Entry]


def orientation(block: bytes | None) -> int:
    """How the stored picture must be turned, 1 to 8 as EXIF counts; 1 where the block does not say.

    Args:
        block: EXIF as a TIFF stream, or None.
    """
    header = _header(block)
    if block is None or header is None:
        return 1
    order, offset = header
    entry = (_read(block, order, offset) or {}).get(_ORIENTATION)
    if entry is None or entry.kind not in (1, 3, 4):
        return 1
    size = _TYPE_BYTES[entry.kind]
    value = int.from_bytes(entry.value[:size], "little" if order == "<" else "big")
    return value if 1 <= value <= 8 else 1


def sanitise(block: bytes | None) -> bytes | None:
    """Rewrite an EXIF block without GPS, thumbnail, maker note, orientation and picture size.

    Args:
        block: EXIF as a TIFF stream, or None.

    Returns:
        A new TIFF stream of at most `MAX_EXIF_BYTES`, or None where nothing is left or the block is malformed.
    """
    header = _header(block)
    if block is None or header is None:
        return None
    order, offset = header
    main = _read(block, order, offset)
    if main is None:
        return None
    camera = _read(block, order, _pointer(main, _EXIF_IFD, order)) or {}
    interop = _read(block, order, _pointer(camera, _INTEROP_IFD, order)) or {}
    main, camera, interop = _clean(main), _clean(camera), _clean(interop)
    if not (main or camera):
        return None
    return _serialise(order, main, camera, interop)


def _header(block: bytes | None) -> tuple[_Order, int] | None:
    """Byte order and offset of the first directory."""
    if block is None:
        return None
    if block[:4] == b"II*\0":
        return "<", int.from_bytes(block[4:8], "little")
    if block[:4] == b"MM\0*":
        return ">", int.from_bytes(block[4:8], "big")
    return None


def _read(block: bytes, order: _Order, offset: int | None) -> _Directory | None:
    """Entries of the directory at `offset`; None where it does not fit into the block or unpacks to too much."""
    if offset is None or offset < 8 or offset + 2 > len(block):
        return None
    (count,) = struct.unpack_from(f"{order}H", block, offset)
    if offset + 2 + 12 * count > len(block):
        return None
    directory: _Directory = {}
    total_bytes = 0
    for index in range(count):
        at = offset + 2 + 12 * index
        tag, kind, values = struct.unpack_from(f"{order}HHI", block, at)
        size = _TYPE_BYTES.get(kind, 0) * values
        if size == 0 or tag in directory:
            continue
        start = at + 8 if size <= 4 else struct.unpack_from(f"{order}I", block, at + 8)[0]
        if start + size > len(block):
            continue
        if tag not in _LEFT_OUT:
            # Many entries may point at the same bytes: the sum of the copies is what counts.
            total_bytes += size
            if total_bytes > MAX_EXIF_BYTES:
                return None
        directory[tag] = _Entry(kind, values, block[start : start + size])
    return directory


def _pointer(directory: _Directory, tag: int, order: _Order) -> int | None:
    entry = directory.get(tag)
    if entry is None or entry.kind != _LONG or entry.values != 1:
        return None
    return int(struct.unpack(f"{order}I", entry.value)[0])


def _clean(directory: _Directory) -> _Directory:
    return {tag: entry for tag, entry in directory.items() if tag not in _LEFT_OUT}


def _serialise(order: _Order, main: _Directory, camera: _Directory, interop: _Directory) -> bytes | None:
    def link(offset: int) -> _Entry:
        return _Entry(_LONG, 1, struct.pack(f"{order}I", offset))

    # A link is stored in place, so a directory's size does not depend on where the link points.
    if interop:
        camera = {**camera, _INTEROP_IFD: link(0)}
    if camera:
        main = {**main, _EXIF_IFD: link(0)}
    camera_at = 8 + len(_pack(order, main, 8))
    interop_at = camera_at + len(_pack(order, camera, camera_at))
    if interop:
        camera[_INTEROP_IFD] = link(interop_at)
    if camera:
        main[_EXIF_IFD] = link(camera_at)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    block = magic + struct.pack(f"{order}I", 8) + _pack(order, main, 8)
    block += _pack(order, camera, camera_at) if camera else b""
    block += _pack(order, interop, interop_at) if interop else b""
    return block if len(block) <= MAX_EXIF_BYTES else None


def _pack(order: _Order, directory: _Directory, offset: int) -> bytes:
    """One directory followed by the values too long for its entries; empty for an empty one."""
    if not directory:
        return b""
    entries, values = [], b""
    values_at = offset + 2 + 12 * len(directory) + 4
    for tag in sorted(directory):
        kind, count, value = directory[tag]
        field = value.ljust(4, b"\0")
        if len(value) > 4:
            field = struct.pack(f"{order}I", values_at + len(values))
            values += value + b"\0" * (len(value) & 1)
        entries.append(struct.pack(f"{order}HHI", tag, kind, count) + field)
    return struct.pack(f"{order}H", len(entries)) + b"".join(entries) + b"\0\0\0\0" + values
