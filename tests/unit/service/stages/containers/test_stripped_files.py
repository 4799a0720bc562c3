"""What the walkers keep for the decoders: the picture, and nothing else of the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from service.core.types import OutputFormat
from service.stages.containers.sniff import read_container
from tests.pictures import decoded, encoded, pixels, png_file, png_header, saved

WORDS = b"words that do not belong to the picture"
EXIF = Image.Exif()
EXIF[0x010E] = WORDS.decode()


def noted(kind):
    image = Image.fromarray(pixels())
    if kind == "JPEG":
        return saved(image, kind, exif=EXIF, icc_profile=bytes(128) + WORDS, comment=WORDS, xmp=WORDS) + WORDS
    if kind == "WEBP":
        return saved(image, kind, exif=EXIF.tobytes(), icc_profile=bytes(128) + WORDS, xmp=WORDS)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", WORDS.decode())
    return saved(image, kind, exif=EXIF, pnginfo=text) + WORDS


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_decoder_gets_the_picture_without_the_words(kind):
    data = noted(kind)
    container = read_container(data)
    assert WORDS in data
    assert WORDS not in container.stripped
    assert WORDS in container.exif
    assert (container.format, container.width_px, container.height_px) == (OutputFormat(kind.lower()), 120, 100)
    assert container.damage is None
    np.testing.assert_array_equal(decoded(container.stripped), decoded(data))


def test_a_profile_in_many_segments_is_put_together_in_its_order():
    profile = np.random.default_rng(0).integers(0, 128, 150_000, dtype=np.uint8).tobytes()  # without markers in it
    data = encoded(kind="JPEG", icc_profile=profile)
    assert read_container(data).icc_profile == profile
    segments = data.split(b"\xff\xe2")
    assert len(segments) == 4
    tail = segments[3][segments[3].index(b"\xff\xdb") :]
    third = segments[3][: -len(tail)]
    swapped = b"\xff\xe2".join([segments[0], segments[2], third, segments[1]]) + tail
    assert read_container(swapped).icc_profile == profile
    missing = b"\xff\xe2".join([segments[0], segments[1], segments[3]])
    assert read_container(missing).icc_profile is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_profile_of_megabytes_is_left_out(kind):
    data = encoded(kind=kind, icc_profile=np.random.default_rng(0).bytes(5_000_000))
    assert read_container(data).icc_profile is None


def test_exif_of_a_webp_file_with_the_prefix_of_jpeg():
    plain = encoded(kind="WEBP", exif=EXIF.tobytes())
    block = read_container(plain).exif
    chunk = b"EXIF" + struct.pack("<I", len(block))
    prefixed = plain.replace(chunk, b"EXIF" + struct.pack("<I", len(block) + 6) + b"Exif\0\0")
    prefixed = prefixed[:4] + struct.pack("<I", len(prefixed) - 8) + prefixed[8:]
    assert prefixed != plain
    assert read_container(prefixed).exif == block


def test_exif_of_a_png_file_with_the_prefix_of_jpeg():
    block = EXIF.tobytes()[6:]
    rows = zlib.compress(bytes(8 * 25))
    data = png_file(png_header(8, 8), (b"eXIf", b"Exif\0\0" + block), (b"IDAT", rows), (b"IEND", b""))
    assert read_container(data).exif == block


@pytest.mark.parametrize("stray", [b"\0\0", b"words", b"\xff\0", b"\0\xff", b"\0" * 100_000])
def test_stray_bytes_between_the_segments_of_a_jpeg(stray):
    data = encoded(kind="JPEG", progressive=True, exif=EXIF)
    strewn = data[:20] + stray + data[20:].replace(b"\xff\xdb", stray + b"\xff\xdb")
    container = read_container(strewn)
    assert container.damage is None
    assert container.stripped == read_container(data).stripped
    assert container.exif == read_container(data).exif


def test_fill_bytes_before_a_marker():
    data = encoded(kind="JPEG")
    filled = data.replace(b"\xff\xdb", b"\xff\xff\xff\xdb")[:-2] + b"\xff\xff\xd9"
    np.testing.assert_array_equal(decoded(read_container(filled).stripped), decoded(data))
