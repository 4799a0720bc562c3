"""JPEG: bytes -> `Container`, by walking the marker segments.

What follows the end-of-image marker (further pictures, a phone's film of the moment) is left alone and not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.core.errors import CorruptImage, UnsupportedFormat
from service.core.types import OutputFormat
from service.stages.containers.container import MAX_ICC_BYTES, MAX_PARTS, Container
from service.stages.containers.png_chunks import density_of_jfif

SIGNATURE = b"\xff\xd8\xff"
MAX_SCANS = 100  #: a progressive file has about ten; thousands of empty scans only burn time

APP1, APP2 = 0xE1, 0xE2  #: segments of EXIF and of profiles
EXIF_PREFIX = b"Exif\0\0"
ICC_PREFIX = b"ICC_PROFILE\0"

_SOS, _EOI, _APP0, _APP14, _COM = 0xDA, 0xD9, 0xE0, 0xEE, 0xFE
_DCT_FRAMES = {0xC0, 0xC1, 0xC2}
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_ALONE = {0x01, *range(0xD0, 0xD8)}
_METADATA = {*range(0xE0, 0xF0), _COM} - {_APP0, _APP14}  # JFIF and Adobe segments tell the colour transform
_LEAST_BODY_BYTES = {_APP0: 14, _APP14: 12}  # libjpeg takes shorter ones for anybody's, and Pillow the file for broken
# In a scan's data 0xFF is always followed by a zero, a restart marker or, as filling, by another 0xFF.
_MARKER_IN_SCAN = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
# Between segments libjpeg passes over whatever is no marker.
_MARKER = re.compile(rb"\xff([^\x00\xff])", re.DOTALL)
_PIECE_BYTES = 16 * 1024  # looked at without letting others run: a search keeps the interpreter's lock


@dataclass(frozen=True, slots=True)
class _Segment:
    marker: int
    body: memoryview
    whole: memoryview
    start: int


@dataclass(slots=True)
class _Parts:
    pixel_segments: list[memoryview] = field(default_factory=list)
    frame: bytes | None = None
    exif: bytes | None = None
    density: bytes = b""
    icc: dict[int, bytes] = field(default_factory=dict)
    icc_count: int = 0
    scan_start: int | None = None


def read_jpeg(data: bytes) -> Container:
    """Read header and metadata of a JPEG file.

    Raises:
        CorruptImage: No frame header can be found. Later damage is reported in `Container.damage`.
        UnsupportedFormat: A 12-bit, arithmetic-coded, lossless or hierarchical file.
    """
    parts = _collect(data)
    if parts.frame is None or len(parts.frame) < 6:
        raise CorruptImage("the JPEG file has no frame header")
    height_px = int.from_bytes(parts.frame[1:3], "big")
    width_px = int.from_bytes(parts.frame[3:5], "big")
    components = parts.frame[5]
    if not width_px or not height_px:
        raise CorruptImage("the JPEG file's frame header is invalid")
    if parts.frame[0] != 8 or components not in (1, 3, 4):
        raise UnsupportedFormat(
            f"{parts.frame[0]}-bit JPEG with {components} components", hint="save it as an 8-bit JPEG or as PNG"
        )
    end, damage = _end_of_image(data, parts.scan_start)
    stripped = b""
    if damage is None:
        stripped = b"".join([SIGNATURE[:2], *parts.pixel_segments, memoryview(data)[parts.scan_start : end]])
    return Container(
        format=OutputFormat.JPEG,
        width_px=width_px,
        height_px=height_px,
        is_grey=components == 1,
        icc_profile=_profile(parts),
        exif=parts.exif,
        png_chunks=parts.density,
        stripped=stripped,
        damage=damage,
    )


def _segments(data: bytes) -> Iterator[_Segment]:
    """Segments up to and including the header of the first scan; ends early where the file does."""
    view, position = memoryview(data), 2
    for _ in range(MAX_PARTS):
        found = _search(_MARKER, data, position)
        if found is None:
            return
        position, marker = found.start(), found[1][0]
        if marker in _ALONE:
            position += 2
            continue
        length = int.from_bytes(view[position + 2 : position + 4], "big")
        end = position + 2 + length
        if length < 2 or end > len(data):
            return
        yield _Segment(marker, view[position + 4 : end], view[position:end], position)
        if marker == _SOS:
            return
        position = end


def _search(marker: re.Pattern[bytes], data: bytes, position: int) -> re.Match[bytes] | None:
    """The first marker, two bytes, from `position` on; looked for in pieces, as hostile files have none for long."""
    for start in range(position, len(data), _PIECE_BYTES):
        found = marker.search(data, start, start + _PIECE_BYTES + 1)
        if found is not None:
            return found
    return None


def _collect(data: bytes) -> _Parts:
    parts = _Parts()
    for segment in _segments(data):
        if segment.marker == _SOS:
            parts.scan_start = segment.start
        elif segment.marker in _METADATA:
            _keep_metadata(parts, segment)
        elif len(segment.body) < _LEAST_BODY_BYTES.get(segment.marker, 0):
            continue
        elif segment.marker in _OTHER_FRAMES:
            raise UnsupportedFormat(
                "an arithmetic-coded, lossless or hierarchical JPEG", hint="save it as a baseline JPEG or as PNG"
            )
        else:
            parts.pixel_segments.append(segment.whole)
            if segment.marker in _DCT_FRAMES and parts.frame is None:
                parts.frame = bytes(segment.body)
            elif segment.marker == _APP0:
                parts.density = parts.density or density_of_jfif(bytes(segment.body[:12]))
    return parts


def _keep_metadata(parts: _Parts, segment: _Segment) -> None:
    head = bytes(segment.body[:14])
    if segment.marker == APP1 and head.startswith(EXIF_PREFIX) and parts.exif is None:
        parts.exif = bytes(segment.body[len(EXIF_PREFIX) :])
    elif segment.marker == APP2 and head.startswith(ICC_PREFIX) and len(head) == 14:
        parts.icc[head[12]] = bytes(segment.body[14:])
        parts.icc_count = head[13]


def _profile(parts: _Parts) -> bytes | None:
    if not parts.icc or sorted(parts.icc) != list(range(1, parts.icc_count + 1)):
        return None
    if sum(map(len, parts.icc.values())) > MAX_ICC_BYTES:
        return None
    return b"".join(parts.icc[number] for number in sorted(parts.icc))


def _end_of_image(data: bytes, start: int | None) -> tuple[int, str | None]:
    """End of the picture whose first scan's header is at `start`, or what is wrong with its scans."""
    if start is None:
        return 0, "the JPEG file ends before its first scan"
    position, scans = start, 0
    for _ in range(MAX_PARTS):
        found = _search(_MARKER_IN_SCAN, data, position)
        if found is None:
            break
        marker = found[1][0]
        if marker == _EOI:
            return found.end(), None
        scans += marker == _SOS
        if scans > MAX_SCANS:
            return 0, f"the JPEG file has more than {MAX_SCANS} scans"
        position = found.end() + (0 if marker in _ALONE else int.from_bytes(data[found.end() : found.end() + 2], "big"))
    return 0, "the JPEG file ends before its end-of-image marker"
