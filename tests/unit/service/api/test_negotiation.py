import pytest

from service.api.negotiation import Representation, negotiate
from service.core.errors import NotAcceptable
from service.core.types import OutputFormat
from service.stages.containers.sniff import announced_format

JPEG, PNG, WEBP = OutputFormat.JPEG, OutputFormat.PNG, OutputFormat.WEBP


@pytest.mark.parametrize(
    ("accept", "requested", "source", "expected"),
    [
        ("", None, PNG, (False, PNG)),
        ("*/*", None, WEBP, (False, WEBP)),
        ("image/*", None, JPEG, (False, JPEG)),
        ("image/webp", None, JPEG, (False, WEBP)),
        ("image/webp;q=0.5, image/png", None, JPEG, (False, PNG)),
        ("image/avif,image/webp,*/*;q=0.8", None, JPEG, (False, WEBP)),
        ("image/png, image/jpeg", None, JPEG, (False, JPEG)),
        ("application/json", None, PNG, (True, None)),
        ("application/json", WEBP, PNG, (True, WEBP)),
        ("application/json, image/png;q=0.9", None, JPEG, (True, PNG)),
        ("application/json;q=0.1, image/*", None, JPEG, (False, JPEG)),
        ("application/json, text/plain, */*", None, JPEG, (False, JPEG)),
        ("*/*;q=0.5, image/jpeg;q=0", None, JPEG, (False, PNG)),
        ("IMAGE/PNG ; Q=1", None, JPEG, (False, PNG)),
        ("*/*", PNG, JPEG, (False, PNG)),
        ("image/webp, */*;q=0.1", PNG, JPEG, (False, PNG)),
    ],
)
def test_choice(accept, requested, source, expected):
    assert negotiate(accept, requested=requested, source=source) == Representation(*expected)


@pytest.mark.parametrize(
    ("accept", "requested"),
    [("text/html", None), ("image/gif", None), ("image/webp", PNG), ("*/*;q=0", None), ("image/png;q=x", None)],
)
def test_nothing_acceptable(accept, requested):
    with pytest.raises(NotAcceptable):
        negotiate(accept, requested=requested, source=JPEG)


def test_an_unknown_upload_leaves_the_word_to_the_decoder():
    assert announced_format(b"hello, I am a text") is None
    assert negotiate("*/*", requested=None, source=None).as_report is False


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (b"\xff\xd8\xff\xe0", JPEG),
        (b"\x89PNG\r\n\x1a\n", PNG),
        (b"RIFF\0\0\0\0WEBPVP8 ", WEBP),
        (b"RIFF\0\0\0\0WAVE", None),
    ],
)
def test_sniff(data, known):
    assert announced_format(data) is known
