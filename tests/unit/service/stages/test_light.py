"""Light: which photos are in linear light, and that their faces are ordinary ones to the networks and come back."""

import struct

import numpy as np
import pytest
from PIL import ImageCms
from skimage import data

from service.core.types import Background, DecodedImage, Face, OutputFormat
from service.stages.align import align
from service.stages.containers.icc import matrix_profile
from service.stages.containers.png_chunks import pack
from service.stages.light import as_encoded, in_light, is_linear
from service.stages.paste import paste
from service.stages.seen import as_seen, is_seen
from service.stages.tone import in_photo

_LINEAR = pack({b"gAMA": struct.pack(">I", 100_000)})
_BT709 = (0.3127, 0.3290, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
_ASTRONAUT = data.astronaut()
_FACE = Face((170, 60, 280, 200), np.array(((201, 112), (252, 110), (227, 142), (207, 160), (249, 158)), np.float32), 1)


def photo(pixels=_ASTRONAUT, png_chunks=b"", icc_profile=None, alpha=None):
    return DecodedImage(pixels, alpha, icc_profile, None, OutputFormat.PNG, False, png_chunks=png_chunks)


def light_of(pixels, dtype):
    """Samples on the curve of sRGB, 0 to 1 -> samples of linear light."""
    light = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    return np.rint(light * np.iinfo(dtype).max).astype(dtype)


def profile(*, curve=(1.0,), grey=False):
    return matrix_profile(curve, None if grey else _BT709)


def with_curve(old, new):
    """A profile of power 1 that says so by another curve."""
    return profile().replace(old, new)


PARAMETRIC = b"para" + bytes(8) + b"\0\1\0\0"
CHUNKS = {
    "nothing": ({}, False),
    "gAMA of 1": ({b"gAMA": struct.pack(">I", 100_000)}, True),
    "gAMA of sRGB": ({b"gAMA": struct.pack(">I", 45_455)}, False),
    "gAMA of 1, and sRGB": ({b"gAMA": struct.pack(">I", 100_000), b"sRGB": b"\0"}, False),
    "cICP, linear": ({b"cICP": bytes((1, 8, 0, 1)), b"sRGB": b"\0"}, True),
    "cICP, sRGB": ({b"cICP": bytes((1, 13, 0, 1)), b"gAMA": struct.pack(">I", 100_000)}, False),
    "cICP, PQ": ({b"cICP": bytes((9, 16, 0, 1))}, False),
}
PROFILES = {
    "none": (None, False),
    "parametric": (profile(), True),
    "grey": (profile(grey=True), True),
    "power 2.2": (profile(curve=(2.2,)), False),
    "no values": (with_curve(PARAMETRIC, b"curv" + bytes(12)), True),
    "one value": (with_curve(PARAMETRIC, b"curv" + bytes(7) + b"\1\1\0\0\0"), True),
    "sRGB": (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), False),
    "cut short": (profile()[:140], False),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_state_linear_light(name):
    chunks, linear = CHUNKS[name]
    assert is_linear(photo(png_chunks=pack(chunks))) is linear


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_states_linear_light(name):
    held, linear = PROFILES[name]
    assert is_linear(photo(icc_profile=held)) is linear


def test_cicp_is_above_a_profile():
    assert not is_linear(photo(png_chunks=pack({b"cICP": bytes((1, 13, 0, 1))}), icc_profile=profile()))


def test_other_photos_are_themselves():
    image = photo()
    assert as_seen(image) is image
    assert is_seen(image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_sample_comes_back(dtype):
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    encoded = as_encoded(photo(levels.reshape(1, -1, 1), _LINEAR)).pixels
    light = in_light(encoded.astype(np.float32) / np.float32(65_535)).ravel() * np.iinfo(dtype).max
    assert np.abs(light - levels).max() < (0.01 if dtype == np.uint8 else 1.5)
    assert not encoded.flags.writeable


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_face_in_linear_light_is_the_usual_one_to_the_networks_and_returns(dtype):
    image = photo(light_of(_ASTRONAUT / 255, dtype), _LINEAR)
    assert not is_seen(image)
    usual = align(photo(), _FACE, 0, 128)
    face = align(as_seen(image), _FACE, 0, 128)
    assert np.abs(face.crop.astype(int) - usual.crop).mean() < (2 if dtype == np.uint8 else 0.6)
    assert face.tone == usual.tone
    same = in_photo(face.crop.astype(np.float32) / 255, face, is_linear=True)
    pasted = paste(image, [(face, same)], upscale=1, background=Background.NONE).pixels
    away = np.abs(pasted.astype(float) - image.pixels) / np.iinfo(dtype).max
    assert away.mean() < 0.002  # the crop is as fine as the photo
    assert (away[250:] == 0).all()


def test_values_beyond_follow():
    assert in_light(np.array([-0.04, 0, 0.5, 1], np.float32)) == pytest.approx([-0.0031, 0, 0.21404, 1], abs=1e-4)
    assert 1.2 < in_light(np.float32([1.1]))[0] < 1.3
