"""JPEG files hold the pixels as Pillow would write them, with any profile."""

import io

import numpy as np
import pytest
from PIL import Image

from service.stages.containers.jpeg_writer import write_jpeg
from tests.pictures import pixels

GREY, COLOUR = pixels(120, 100)[:, :, 0].copy(), pixels(120, 100)


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("samples", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize(("quality", "full_colour"), [(1, False), (80, False), (95, True), (100, True)])
def test_a_file_is_pillows(samples, quality, full_colour):
    buffer = io.BytesIO()
    sampling = {"subsampling": "4:4:4" if full_colour else "4:2:0"} if samples.ndim == 3 else {}
    Image.fromarray(samples).save(buffer, "JPEG", quality=quality, **sampling)
    assert write_jpeg(samples, quality, full_colour=full_colour) == buffer.getvalue()


@pytest.mark.parametrize("size", [1, 65_519, 65_520, 300_000])
def test_a_profile_is_kept_in_as_many_segments_as_it_needs(size):
    profile = np.random.default_rng(size).bytes(size)
    image = opened(write_jpeg(COLOUR, 90, full_colour=True, icc_profile=profile))
    assert image.info["icc_profile"] == profile
    assert image.size == (120, 100)


def test_exif_profile_and_density_stand_before_the_pixels_and_change_none():
    camera = Image.Exif()
    camera[0x010F] = "Maker"
    density = b"\x01" + (300).to_bytes(2, "big") + (200).to_bytes(2, "big")
    plain = opened(write_jpeg(COLOUR, 90, full_colour=True))
    image = opened(
        write_jpeg(COLOUR, 90, full_colour=True, icc_profile=b"profile", exif=camera.tobytes()[6:], density=density)
    )
    assert dict(image.getexif()) == {0x010F: "Maker"}
    assert image.info["icc_profile"] == b"profile"
    assert image.info["dpi"] == (300, 200)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(plain))


@pytest.mark.parametrize(
    "samples", [COLOUR.astype(np.uint16), COLOUR[:, :, :2], COLOUR[None]], ids=["16 bits", "two channels", "a batch"]
)
def test_what_is_no_picture(samples):
    with pytest.raises(ValueError, match="samples of 8 bits"):
        write_jpeg(samples, 90, full_colour=True)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="65534 bytes"):
        write_jpeg(COLOUR, 90, full_colour=True, exif=bytes(65_528))
