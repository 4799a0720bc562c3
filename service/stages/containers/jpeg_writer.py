"""Samples -> JPEG: grey or RGB, with profile, EXIF and density.

OpenCV compresses, byte for byte as Pillow does (both call libjpeg-turbo), but lets go of the interpreter's lock
meanwhile: Pillow keeps it in pieces of up to 6 ms, and the event loop waits for each. What OpenCV writes of profiles is
one segment, too short for many, so the segments are put in here.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from service.core.types import U8Image
from service.stages.containers.jpeg import APP1, APP2, EXIF_PREFIX, ICC_PREFIX

_HEAD_BYTES = 20  # SOI and the JFIF segment, which every file of libjpeg begins with
_DENSITY_AT = 13  # behind the segment's name and version
_ICC_BYTES = 65_533 - len(ICC_PREFIX) - 2  # of a profile in one segment, beside its place among them


def write_jpeg(  # noqa: PLR0913 - what a file holds
    samples: U8Image,
    quality: int,
    *,
    full_colour: bool,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    density: bytes = b"",
) -> bytes:
    """Encode a picture.

    Args:
        samples: (H, W) grey or (H, W, 3) RGB.
        quality: 1 to 100, as libjpeg counts.
        full_colour: Colour planes keep their resolution (4:4:4); else half of it along each side (4:2:0).
        icc_profile: Profile of the pixels, at most some 16 MB.
        exif: EXIF as a TIFF stream, at most `exif.MAX_EXIF_BYTES`.
        density: What the JFIF segment says of it: unit, across, down; empty says that a pixel is a square.

    Raises:
        ValueError: The array has another shape, or the profile or the EXIF block does not fit.
    """
    if samples.dtype != np.uint8 or samples.ndim not in (2, 3) or samples.shape[2:] not in ((), (3,)):
        raise ValueError(f"(H, W) or (H, W, 3) samples of 8 bits are needed, got {samples.dtype} {samples.shape}")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if samples.ndim == 3:
        samples = cv2.cvtColor(samples, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)
        planes = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if full_colour else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, planes]
    written, encoded = cv2.imencode(".jpg", samples, options)
    if not written:
        raise ValueError(f"a picture of {samples.shape} cannot be written")
    data = encoded.data
    head = bytearray(data[:_HEAD_BYTES])
    head[_DENSITY_AT : _DENSITY_AT + len(density)] = density
    return b"".join([head, *_segments(icc_profile, exif), data[_HEAD_BYTES:]])


def _segments(icc_profile: bytes | None, exif: bytes | None) -> Iterator[bytes]:
    if exif is not None:
        yield _segment(APP1, EXIF_PREFIX + exif)
    if icc_profile is not None:
        parts = [icc_profile[at : at + _ICC_BYTES] for at in range(0, len(icc_profile), _ICC_BYTES)]
        for number, part in enumerate(parts, 1):
            yield _segment(APP2, ICC_PREFIX + bytes([number, len(parts)]) + part)


def _segment(marker: int, body: bytes) -> bytes:
    length = len(body) + 2
    if length > 0xFFFF:
        raise ValueError(f"{len(body)} bytes do not fit into a segment")
    return bytes([0xFF, marker]) + length.to_bytes(2, "big") + body
