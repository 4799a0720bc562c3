import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from service.stages.containers.png_chunks import pack
from service.stages.containers.png_writer import write_png
from service.stages.containers.sniff import read_container
from tests.pictures import decoded, encoded, pixels

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@given(
    arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)), elements=st.integers(0, 255)
    )
)
def test_every_picture_of_8_bits_comes_back(samples):
    with Image.open(io.BytesIO(write_png(samples, None, None))) as image:
        assert image.mode == MODES[samples.shape[2]]
        np.testing.assert_array_equal(np.asarray(image).reshape(samples.shape), samples)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_header_of_16_bits(channels):
    container = read_container(write_png(np.zeros((3, 5, channels), np.uint16), None, None))
    assert (container.width_px, container.height_px, container.bit_depth) == (5, 3, 16)
    assert container.is_grey is (channels < 3)
    assert container.damage is None


def test_a_picture_larger_than_a_band():
    samples = np.random.default_rng(0).integers(0, 256, (700, 800, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(write_png(samples, None, None)), samples)


def test_a_view_with_gaps_is_written_as_it_looks():
    samples = pixels()[::2, ::-3]
    np.testing.assert_array_equal(decoded(write_png(samples, None, None)), samples)


def test_profile_and_exif():
    container = read_container(write_png(pixels(), b"a profile" * 99, b"II*\0\x08\0\0\0"))
    assert container.icc_profile == b"a profile" * 99
    assert container.exif == b"II*\0\x08\0\0\0"


def test_chunks_of_colour_and_density():
    chunks = pack({b"cICP": bytes((12, 13, 0, 1)), b"sRGB": b"\1", b"pHYs": struct.pack(">IIB", 11811, 11811, 1)})
    written = write_png(pixels(), None, None, chunks)
    assert read_container(written).png_chunks == chunks
    with Image.open(io.BytesIO(written)) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        assert image.info["srgb"] == 1


@pytest.mark.parametrize("chunks", [b"gAMA\0\0", b"tEXtsecret", b"sRGB\0tEXtsecret", bytes(99)])
def test_what_is_no_such_chunk_is_not_written(chunks):
    written = write_png(pixels(), None, None, chunks)
    assert b"secret" not in written
    assert read_container(written).damage is None


def test_size_is_near_pillows():
    picture = pixels(400, 300)
    assert len(write_png(picture, None, None)) < 1.5 * len(encoded(picture))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 5), (4, 4, 3, 1)])
def test_other_shapes(shape):
    with pytest.raises(ValueError, match="samples"):
        write_png(np.zeros(shape, np.uint8), None, None)
