import numpy as np
import pytest

from service.core.types import DecodedImage, OutputFormat, RestoreOptions
from service.stages.memory import photo_bytes, result_bytes, undecoded_bytes


def image(dtype=np.uint8, *, has_alpha=False, source_format=OutputFormat.JPEG):
    alpha = np.zeros((10, 20), dtype) if has_alpha else None
    return DecodedImage(np.zeros((10, 20, 3), dtype), alpha, None, None, source_format, is_grey=False)


def test_a_photo_takes_its_samples_and_what_is_shown_of_it_where_alpha_hides_something():
    assert photo_bytes(image()) == 3 * 200
    assert photo_bytes(image(np.uint16)) == 6 * 200
    assert photo_bytes(image(has_alpha=True)) == (4 + 6) * 200


def test_no_photo_takes_more_than_one_that_is_not_decoded_yet():
    assert photo_bytes(image(np.uint16, has_alpha=True)) == undecoded_bytes(200, 10**6)


def test_some_photos_are_decoded_side_by_side_in_any_room():
    assert undecoded_bytes(10**9, 10**6) == 250_000
    assert undecoded_bytes(10**9, 1) == 1


@pytest.mark.parametrize(
    ("options", "bytes_of_a_pixel"),
    [
        (RestoreOptions(), 6),
        (RestoreOptions(upscale=2), 4 * 9),
        (RestoreOptions(output_format=OutputFormat.WEBP), 6 + 16),
    ],
)
def test_a_result_takes_its_samples_where_it_is_larger_and_what_encoding_takes(options, bytes_of_a_pixel):
    assert result_bytes(image(), options) == bytes_of_a_pixel * 200


def test_the_format_of_a_result_is_the_uploads_where_none_is_chosen():
    webp = image(source_format=OutputFormat.WEBP)
    assert result_bytes(webp, RestoreOptions()) == result_bytes(
        image(), RestoreOptions(output_format=OutputFormat.WEBP)
    )
