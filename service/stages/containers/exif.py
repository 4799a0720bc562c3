"""EXIF: reads the orientation, and rewrites a block without what must not leave the service.

Left out: the GPS directory, the thumbnail directory, maker notes (their offsets break when moved, and they hold serial
numbers and positions), comments and what else people write about a picture but its author and rights, names and serial
numbers of owners, cameras and lenses, embedded XMP, IPTC and Photoshop blocks (positions, thumbnails), the orientation
(it has been applied), the picture size (upscaling changes it) and how its samples were stored. Values are copied byte
for byte in the block's own byte order.
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

MAX_EXIF_BYTES = 65_000  #: what fits into one JPEG segment; of larger blocks the largest values are dropped

_ORIENTATION, _EXIF_IFD, _INTEROP_IFD = 0x0112, 0x8769, 0xA005
_LONG = 4
_FRAME_BYTES = 8 + 3 * (2 + 4) + 2 * 12  # the header, three directories and the two links between them
_LINKS = (_LONG, 13)  # also a type of its own
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 129: 1}
_COLOUR_SPACE = 0xA001
_ACROSS_AND_ALONG = ((0x011A, 0x011B), (0xA20E, 0xA20F))  # densities of the picture and of the sensor
_LEFT_OUT = frozenset(
    {
        _ORIENTATION,
        _EXIF_IFD,  # written anew, as is the next
        _INTEROP_IFD,
        0x8825,  # GPS directory
        0x927C,  # maker note
        0x0100,  # image width
        0x0101,  # image height
        0x0102,  # bits per sample
        0x0103,  # compression
        0x0106,  # photometric interpretation
        0x010E,  # description
        0x0115,  # samples per pixel
        0x9286,  # user comment
        *range(0x9C9B, 0x9CA0),  # title, comment, author, keywords and subject, by Windows
        0xA430,  # camera's owner
        0xA431,  # camera's serial number
        0xA435,  # lens' serial number
        0xC62F,  # camera's serial number, again
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


class _Span(NamedTuple):
    kind: int
    values: int
    start: int
    size: int


_Directory = dict[int, _Entry]
_Spans = dict[int, _Span]


def orientation(block: bytes | None) -> int:
    """How the stored picture must be turned, 1 to 8 as EXIF, a TIFF stream, counts; 1 where it does not say."""
    header = _header(block)
    if block is None or header is None:
        return 1
    order, offset = header
    span = _spans(block, order, offset, lenient=True).get(_ORIENTATION)
    if span is None or span.kind not in (1, 3, 4):
        return 1
    at = span.start
    value = int.from_bytes(block[at : at + _TYPE_BYTES[span.kind]], "little" if order == "<" else "big")
    return value if 1 <= value <= 8 else 1


def sanitise(block: bytes | None, *, turned: bool = False, converted: bool = False) -> bytes | None:
    """Rewrite an EXIF block without what must not leave, and without what is not true of the picture any more.

    Args:
        block: EXIF as a TIFF stream, or None.
        turned: The picture's rows have become its columns.
        converted: Its colours were converted to sRGB.

    Returns:
        A new TIFF stream of at most `MAX_EXIF_BYTES`, for which the largest values are left out where need be, or None
        where nothing is left or the block is malformed.
    """
    header = _header(block)
    if block is None or header is None:
        return None
    order, offset = header
    main = _spans(block, order, offset)
    camera = _spans(block, order, _pointer(block, main, _EXIF_IFD, order))
    interop = _spans(block, order, _pointer(block, camera, _INTEROP_IFD, order))
    if turned:
        main, camera = _densities_swapped(main), _densities_swapped(camera)
    if converted:
        camera.pop(_COLOUR_SPACE, None)
    kept = [_copies(block, spans) for spans in _fitting(main, camera, interop)]
    return _serialise(order, *kept) if kept[0] or kept[1] else None


def _header(block: bytes | None) -> tuple[_Order, int] | None:
    """Byte order and offset of the first directory."""
    if block is None:
        return None
    if block[:4] == b"II*\0":
        return "<", int.from_bytes(block[4:8], "little")
    if block[:4] == b"MM\0*":
        return ">", int.from_bytes(block[4:8], "big")
    return None


def _spans(block: bytes, order: _Order, offset: int | None, *, lenient: bool = False) -> _Spans:
    """Where the values of the directory at `offset` lie; none where it does not fit into the block.

    Where `lenient`, the entries that are there are taken where fewer than the directory counts fit.
    """
    if offset is None or offset < 8 or offset + 2 > len(block):
        return {}
    (count,) = struct.unpack_from(f"{order}H", block, offset)
    room = (len(block) - offset - 2) // 12
    if count > room and not lenient:
        return {}
    spans: _Spans = {}
    for index in range(min(count, room)):
        at = offset + 2 + 12 * index
        tag, kind, values = struct.unpack_from(f"{order}HHI", block, at)
        size = _TYPE_BYTES.get(kind, 0) * values
        if size == 0 or tag in spans:
            continue
        start = at + 8 if size <= 4 else struct.unpack_from(f"{order}I", block, at + 8)[0]
        if start + size <= len(block):
            spans[tag] = _Span(kind, values, start, size)
    return spans


def _pointer(block: bytes, spans: _Spans, tag: int, order: _Order) -> int | None:
    span = spans.get(tag)
    if span is None or span.kind not in _LINKS or span.values != 1:
        return None
    return int(struct.unpack_from(f"{order}I", block, span.start)[0])


def _densities_swapped(spans: _Spans) -> _Spans:
    other = {one: another for pair in _ACROSS_AND_ALONG for one, another in (pair, pair[::-1])}
    return {other.get(tag, tag): span for tag, span in spans.items()}


def _fitting(*directories: _Spans) -> list[_Spans]:
    """What may be kept of each directory, without the largest values where all do not fit into `MAX_EXIF_BYTES`.

    Many entries may point at the same bytes: the sum of the copies is what counts.
    """
    room = MAX_EXIF_BYTES - _FRAME_BYTES
    kept: list[_Spans] = [{} for _ in directories]
    found = [
        (span.size, number, tag, span)
        for number, spans in enumerate(directories)
        for tag, span in spans.items()
        if tag not in _LEFT_OUT
    ]
    for size, number, tag, span in sorted(found):
        room -= 12 + (size + (size & 1) if size > 4 else 0)
        if room < 0:
            break
        kept[number][tag] = span
    return kept


def _copies(block: bytes, spans: _Spans) -> _Directory:
    return {
        tag: _Entry(span.kind, span.values, block[span.start : span.start + span.size]) for tag, span in spans.items()
    }


def _serialise(order: _Order, main: _Directory, camera: _Directory, interop: _Directory) -> bytes:
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
    return block


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
