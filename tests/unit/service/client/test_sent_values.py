"""What a caller gives and what is sent of it."""

import re

import pytest

from service.client.errors import RestorationError
from service.client.messages import options_message
from service.client.photo_files import read_photo

BYTES = bytes(range(16))


@pytest.mark.parametrize(
    "image",
    [BYTES, bytearray(BYTES), memoryview(BYTES), memoryview(BYTES).cast("H")],
    ids=["bytes", "array", "view", "H"],
)
async def test_bytes_are_a_photo_whatever_holds_them(image):
    sent = await read_photo(image, 16)
    assert type(sent) is bytes
    assert sent == BYTES
    with pytest.raises(RestorationError, match="16 bytes"):
        await read_photo(image, 15)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("num_steps", -1, ValueError),
        ("quality", 2**32, ValueError),
        ("max_faces", 2.5, TypeError),
        ("fidelity", "much", TypeError),
        ("faces", "some", ValueError),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_name(name, value, kind):
    with pytest.raises(kind, match=f"^{name}={re.escape(repr(value))}: "):
        options_message({"seed": 3, name: value})
