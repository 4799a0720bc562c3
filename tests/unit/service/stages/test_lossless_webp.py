"""A WebP without loss comes back without loss, unless a quality is asked for."""

import socket

import numpy as np
import pytest
from PIL import Image

from service.core.types import OutputFormat, Upload
from service.decoders.wire import Channel, receive_answer, send_photo
from service.stages.decode import DecodeLimits, decode
from service.stages.encode import encode
from tests.pictures import decoded, encoded, saved

LIMITS = DecodeLimits(max_upload_bytes=10**8, max_image_px=10**7, min_side_px=1)
NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
CLEAR = Image.fromarray(NOISE)
PLAIN = NOISE[:, :, :3].copy()
WEBP = OutputFormat.WEBP


def opened(data):
    return decode(Upload(data), LIMITS)


def is_lossless(data):
    return opened(data).is_lossless


def animation_of_one(image, **parameters):
    """Pillow writes a plain file of a single frame: the second one is cut off."""
    data = saved(image, "WEBP", save_all=True, append_images=[Image.new("RGBA", image.size)], exact=True, **parameters)
    kept = data[: data.rindex(b"ANMF")]
    return kept[:4] + (len(kept) - 8).to_bytes(4, "little") + kept[8:]


@pytest.mark.parametrize("given", [{}, {"exif": b"II*\0\x08\0\0\0\0\0\0\0\0\0", "icc_profile": b"profile"}])
@pytest.mark.parametrize("image", [CLEAR, Image.fromarray(PLAIN)])
def test_what_is_lossless_is_seen_in_the_header(image, given):
    assert is_lossless(saved(image, "WEBP", lossless=True, **given))
    assert not is_lossless(saved(image, "WEBP", quality=100, **given))
    assert not is_lossless(encoded())


def test_a_single_frame_of_an_animation_counts_likewise():
    assert is_lossless(animation_of_one(CLEAR, lossless=True))
    assert not is_lossless(animation_of_one(CLEAR, quality=90))


@pytest.mark.parametrize("clear", [False, True])
def test_every_pixel_comes_back(clear):
    picture = NOISE if clear else PLAIN
    image = opened(encoded(picture, "WEBP", lossless=True, exact=True))
    again = encode(image, WEBP)
    np.testing.assert_array_equal(decoded(again), picture)
    assert is_lossless(again)


def test_a_quality_that_is_asked_for_is_given():
    image = opened(encoded(PLAIN, "WEBP", lossless=True))
    small = encode(image, WEBP, 50)
    assert not is_lossless(small)
    assert len(small) < len(encode(image, WEBP)) / 2
    assert encode(image, OutputFormat.JPEG) == encode(image, OutputFormat.JPEG, 95)


def test_what_had_loss_is_written_as_before():
    image = opened(encoded(PLAIN, "WEBP", quality=80))
    assert encode(image, WEBP) == encode(image, WEBP, 95)
    assert not is_lossless(encode(image, WEBP))


@pytest.mark.parametrize("lossless", [False, True])
def test_a_decoders_process_tells_it(lossless):
    ours, childs = socket.socketpair()
    with ours, childs:
        send_photo(Channel(childs), opened(encoded(PLAIN, "WEBP", lossless=lossless)))
        assert receive_answer(Channel(ours), LIMITS).is_lossless is lossless
