"""What is refused, by which error, and that nothing else ever comes out of a file."""

import contextlib
import random
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.core.errors import (
    AnimatedImage,
    CorruptImage,
    EmptyUpload,
    ImageTooLarge,
    ImageTooSmall,
    InputError,
    UnsupportedFormat,
    UploadTooLarge,
)
from service.core.types import Upload
from service.stages.decode import DecodeLimits, decode
from tests.pictures import animated, encoded, pixels, png_bomb, png_file, png_header, saved

LIMITS = DecodeLimits(max_upload_bytes=10**6, max_image_px=200_000, min_side_px=32)
SMALL = Image.fromarray(pixels(60, 50))
RGBA = SMALL.copy()
RGBA.putalpha(SMALL.getchannel(0))
DEEP = Image.fromarray(pixels(60, 50)[:, :, 0].astype(np.uint16) * 257)
ROWS = zlib.compress(bytes(50 * (1 + 60 * 3)))
FILES = {
    "jpeg": saved(SMALL, "JPEG", exif=b"Exif\0\0" + Image.Exif().tobytes()[6:]),
    "progressive": saved(SMALL, "JPEG", progressive=True),
    "cmyk": saved(SMALL.convert("CMYK"), "JPEG"),
    "png": saved(SMALL, "PNG", icc_profile=bytes(200)),
    "palette": saved(SMALL.quantize(16), "PNG", transparency=3),
    "png16": saved(DEEP, "PNG"),
    "webp": saved(SMALL, "WEBP", exif=Image.Exif().tobytes()),
    "lossless": saved(RGBA, "WEBP", lossless=True),
    "alpha": saved(RGBA, "WEBP", quality=60),
    "apng": animated("PNG"),
}
STILL = [name for name in FILES if name != "apng"]


def refused(data, error, limits=LIMITS):
    with pytest.raises(error) as caught:
        decode(Upload(data), limits)
    assert type(caught.value) is error
    return caught.value


def test_no_bytes():
    refused(b"", EmptyUpload)


def test_too_many_bytes_are_not_looked_at():
    error = refused(bytes(1001), UploadTooLarge, DecodeLimits(1000, 10**6, 8))
    assert error.extra == {"upload_bytes": 1001, "max_upload_bytes": 1000}


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"hello, this is a text", "not an image"),
        (b"%PDF-1.7 ", "PDF"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"\0\0\0\x20ftypheic", "HEIC"),
        (saved(SMALL, "TIFF"), "TIFF"),
        (saved(SMALL, "BMP"), "BMP"),
        (saved(SMALL, "GIF"), "GIF"),
        (animated("GIF"), "GIF"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not an image"),
        (b"\xff\xd8", "not an image"),
    ],
)
def test_other_formats_are_named(data, named):
    error = refused(data, UnsupportedFormat)
    assert named in error.detail
    assert "JPEG, PNG or WebP" in error.hint


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_animations(kind):
    assert refused(animated(kind), AnimatedImage).hint == "send one frame"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_size_limits(kind):
    data = encoded(pixels(120, 100), kind)
    assert decode(Upload(data), DecodeLimits(10**6, 12_000, 100)).pixels.shape == (100, 120, 3)
    large = refused(data, ImageTooLarge, DecodeLimits(10**6, 11_999, 8))
    assert large.extra == {"width_px": 120, "height_px": 100, "max_image_px": 11_999}
    small = refused(data, ImageTooSmall, DecodeLimits(10**6, 10**6, 101))
    assert small.extra == {"width_px": 120, "height_px": 100, "min_side_px": 101}


def test_a_bomb_is_refused_by_its_header():
    bomb = png_bomb()
    assert len(bomb) < 400_000
    tracemalloc.start()
    refused(bomb, ImageTooLarge)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2 * len(bomb)


def test_a_profile_that_unpacks_to_much_is_left_out():
    packed = b"bomb\0\0" + zlib.compress(bytes(300_000_000), 9)
    data = png_file(png_header(60, 50), (b"iCCP", packed), (b"IDAT", ROWS), (b"IEND", b""))
    tracemalloc.start()
    image = decode(Upload(data), LIMITS)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.icc_profile is None
    assert peak_bytes < 20_000_000


@pytest.mark.parametrize("name", STILL)
def test_a_file_cut_anywhere_is_corrupt_or_not_recognised(name):
    data = FILES[name]
    for length in {*range(1, 40), *range(40, len(data) - 12, max(1, len(data) // 60)), len(data) - 12}:
        with pytest.raises((CorruptImage, UnsupportedFormat)):
            decode(Upload(data[:length]), LIMITS)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("bit_depth", [8, 16])
def test_pixels_cut_short_inside_an_intact_png(bit_depth, share):
    row = bytes([0]) + np.random.default_rng(0).bytes(60 * 3 * bit_depth // 8)
    packed = zlib.compress(row * 50)
    part = packed[: int(len(packed) * share)]
    refused(png_file(png_header(60, 50, bit_depth), (b"IDAT", part), (b"IEND", b"")), CorruptImage)


def lying_webp():
    lossless = saved(SMALL, "WEBP", lossless=True)
    canvas = struct.pack("<I", 0x10)[:4] + (99).to_bytes(3, "little") + (99).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + lossless[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


LIES = {
    "a JPEG of no width": FILES["jpeg"].replace(struct.pack(">HH", 50, 60), struct.pack(">HH", 50, 0)),
    "a PNG of no height": png_file(png_header(60, 0), (b"IDAT", ROWS), (b"IEND", b"")),
    "a PNG of a depth that is none": png_file(png_header(60, 50, 3), (b"IDAT", ROWS), (b"IEND", b"")),
    "a PNG without header": png_file((b"IDAT", ROWS), (b"IEND", b"")),
    "a PNG without pixels": png_file(png_header(60, 50), (b"IEND", b"")),
    "a wrong checksum": FILES["png"][:-20] + bytes([FILES["png"][-20] ^ 1]) + FILES["png"][-19:],
    "a WebP whose canvas is larger than its picture": lying_webp(),
    "a WebP with an empty canvas chunk": b"RIFF\x14\0\0\0WEBPVP8X\0\0\0\0VP8L\0\0\0\0",
    "a JPEG of too many scans": FILES["jpeg"][:-2] + b"\xff\xda\0\x02" * 200 + b"\xff\xd9",
    "a JPEG that hides scans behind an end in a comment": (
        FILES["jpeg"][:-2] + b"\xff\xfe\0\x04\xff\xd9" + b"\xff\xda\0\x02" * 200 + b"\xff\xd9"
    ),
    "a PNG of too many chunks": png_file(png_header(60, 50), *[(b"tEXt", b"")] * 66_000, (b"IEND", b"")),
}


BUSY = 8_000_000  # bytes; a walk that is slow for each of them does not end within a test's time
TIRESOME = {
    "filling before a JPEG's markers": b"\xff\xd8" + b"\xff" * BUSY,
    "filling in a JPEG's scan": FILES["jpeg"][:-2] + b"\xff" * BUSY,
    "stray bytes in a JPEG": FILES["jpeg"][:20] + bytes(BUSY),
    "stray zeros after stray 0xFF in a JPEG": FILES["jpeg"][:20] + b"\xff\0" * (BUSY // 2),
    "stray bytes between a JPEG's empty comments": FILES["jpeg"][:20] + b"\xff\xfe\0\2\0" * (BUSY // 5),
    "lone markers in a JPEG": b"\xff\xd8" + b"\xff\x01" * (BUSY // 2),
    "escaped bytes in a JPEG's scan": FILES["jpeg"][:-2] + b"\xff\0" * (BUSY // 2),
    "empty comments in a JPEG": b"\xff\xd8" + b"\xff\xfe\0\2" * (BUSY // 4),
    "empty chunks in a PNG": FILES["png"][:33] + bytes(BUSY),
    "empty chunks in a WebP": FILES["webp"][:12] + bytes(BUSY),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("trick", TIRESOME)
def test_files_made_to_keep_the_walkers_busy(trick):
    with pytest.raises((CorruptImage, UnsupportedFormat)):
        decode(Upload(TIRESOME[trick]), DecodeLimits(10**8, 10**6, 8))


@pytest.mark.parametrize("trick", ["filling before a JPEG's markers", "escaped bytes in a JPEG's scan"])
def test_walkers_let_others_run_between_short_searches(trick):
    searches, before = [], sys.getprofile()

    def note(frame, event, function):
        if event == "c_call" and function.__name__ == "search":
            searches.append(function)

    sys.setprofile(note)
    try:
        with pytest.raises((CorruptImage, UnsupportedFormat)):
            decode(Upload(TIRESOME[trick]), DecodeLimits(10**8, 10**6, 8))
    finally:
        sys.setprofile(before)
    assert len(searches) > BUSY / 50_000


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers(lie):
    refused(LIES[lie], CorruptImage)


def test_two_headers_of_two_sizes_do_not_pass_the_limit():
    small = struct.pack(">HH", 50, 60)
    first = FILES["jpeg"].index(b"\xff\xc0")
    frame = FILES["jpeg"][first : first + 19]
    data = (
        FILES["jpeg"][:first]
        + frame
        + frame.replace(small, struct.pack(">HH", 5000, 6000))
        + FILES["jpeg"][first + 19 :]
    )
    refused(data, CorruptImage)


@pytest.mark.parametrize("frame", [0xC3, 0xC5, 0xC9, 0xCA, 0xCF])
def test_a_jpeg_without_a_decoder(frame):
    error = refused(FILES["jpeg"].replace(b"\xff\xc0", bytes([0xFF, frame]), 1), UnsupportedFormat)
    assert "arithmetic-coded, lossless or hierarchical" in error.detail
    assert "baseline" in error.hint


def test_a_12_bit_jpeg():
    refused(FILES["jpeg"].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c", 1), UnsupportedFormat)


def damaged(data, dice):
    """A file with a few bytes changed, removed or put in, its lengths and checksums made to fit again half the time."""
    changed = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4, 16])):
        at = min(dice.randrange(dice.choice([len(data), 120])), len(changed) - 1)
        match dice.randrange(4):
            case 0 | 1:
                changed[at] = dice.choice([0, 255, changed[at] ^ 1 << dice.randrange(8)])
            case 2:
                del changed[at : min(at + dice.randrange(1, 16), len(changed) - 1)]
            case 3:
                changed[at:at] = dice.randbytes(dice.randrange(1, 8))
    if dice.random() < 0.5 and data.startswith(b"\x89PNG"):
        return with_right_checksums(bytes(changed))
    if dice.random() < 0.5 and data.startswith(b"RIFF"):
        changed[4:8] = struct.pack("<I", len(changed) - 8)
    return bytes(changed)


def with_right_checksums(data):
    chunks, at = [], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : end]))
        at = end + 4
    return png_file(*chunks)


@settings(max_examples=400)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**32))
def test_whatever_the_bytes_there_is_a_photo_or_an_input_error(name, seed):
    data = damaged(FILES[name], random.Random(seed))
    with contextlib.suppress(InputError):
        image = decode(Upload(data), LIMITS)
        assert image.pixels.shape[2] == 3
        assert image.pixels.shape[0] * image.pixels.shape[1] <= LIMITS.max_image_px
