import asyncio
import tempfile

import httpx
import pytest
from starlette.requests import Request

from service.api.photo_form import read_photo_form
from service.core.errors import (
    Cancelled,
    DeadlineExceeded,
    EmptyUpload,
    InvalidOption,
    MalformedRequest,
    UnsupportedMediaType,
    UploadTooLarge,
)


def request_of(body, headers, *, chunk=64, lie=None, disconnect=False, stall=False):
    """A request whose body arrives in pieces; `lie` replaces the declared length."""
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)] or [b""]
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    if lie is not None:
        raw = [(name, value) for name, value in raw if name != b"content-length"]
        raw.append((b"transfer-encoding", b"chunked") if lie == "chunked" else (b"content-length", lie.encode()))
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages[-1] = (
        {"type": "http.disconnect"} if disconnect else {"type": "http.request", "body": pieces[-1], "more_body": False}
    )
    left = iter(messages)

    async def receive():
        if stall:
            await asyncio.Event().wait()
        return next(left)

    return Request({"type": "http", "method": "POST", "path": "/restore", "headers": raw}, receive)


def multipart(files=None, data=None):
    request = httpx.Request("POST", "http://x/restore", files=files, data=data)
    return request.read(), dict(request.headers)


def photo(size=300):
    return {"image": ("a.jpg", b"x" * size, "image/jpeg")}


async def read(request, max_bytes=10_000):
    return await read_photo_form(request, max_bytes=max_bytes, timeout_s=5)


async def test_photo_and_options():
    form = await read(request_of(*multipart(photo(), {"fidelity": "0.5", "seed": "1"})))
    assert form.upload.data == b"x" * 300
    assert form.options == {"fidelity": "0.5", "seed": "1"}


async def test_one_photo_a_request():
    files = [("image", ("a.jpg", b"x", "image/jpeg")), ("image", ("b.jpg", b"y", "image/jpeg"))]
    with pytest.raises(MalformedRequest, match="more than one file") as caught:
        await read(request_of(*multipart(files)))
    assert "latent-pmrf batch" in caught.value.hint


async def test_a_photo_never_touches_the_disk(monkeypatch):
    def roll(_file):
        raise AssertionError("it is written to a file")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", roll)
    size = 3 << 20
    form = await read(request_of(*multipart(photo(size))), max_bytes=2 * size)
    assert len(form.upload.data) == size


async def test_a_declared_length_above_the_limit_is_refused_unread():
    body, headers = multipart(photo(5000))
    with pytest.raises(UploadTooLarge) as caught:
        await read(request_of(body, headers, stall=True), max_bytes=1000)
    assert caught.value.extra["max_upload_bytes"] == 1000


@pytest.mark.parametrize("lie", ["10", "chunked"])
async def test_bytes_are_counted_whatever_was_declared(lie):
    with pytest.raises(UploadTooLarge):
        await read(request_of(*multipart(photo(5000)), lie=lie), max_bytes=1000)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"", {"content-length": "0", "content-type": "multipart/form-data; boundary=b"}),
        (b"", {"transfer-encoding": "chunked", "content-type": "multipart/form-data; boundary=b"}),
    ],
)
async def test_no_body(body, headers):
    with pytest.raises(EmptyUpload):
        await read(request_of(body, headers))


async def test_a_photo_without_bytes():
    with pytest.raises(EmptyUpload):
        await read(request_of(*multipart({"image": ("a.jpg", b"")})))


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/json", "application/x-www-form-urlencoded", ""])
async def test_another_content_type(content_type):
    with pytest.raises(UnsupportedMediaType):
        await read(request_of(b"abc", {"content-length": "3", "content-type": content_type}))


@pytest.mark.parametrize(
    "charset", ["undefined", "punycode", "unicode_escape", "utf-7", "utf-16", "latin-1", "none-such", '"utf-7"', ""]
)
async def test_another_charset(charset):
    body, headers = multipart(photo(), {"fidelity": "0.5"})
    headers["content-type"] += f"; charset={charset}"
    with pytest.raises(UnsupportedMediaType):
        await read(request_of(body, headers))


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "us-ascii", '"US-ASCII"'])
async def test_the_charset_that_is_meant_may_be_said(charset):
    body, headers = multipart(photo(), {"fidelity": "0.5"})
    headers["content-type"] += f"; charset={charset}"
    assert (await read(request_of(body, headers))).options == {"fidelity": "0.5"}


@pytest.mark.parametrize(
    ("files", "data"),
    [
        ({"photo": ("a.jpg", b"x")}, None),
        ({"image": (None, b"text")}, None),
        ([("image", ("a.jpg", b"x")), ("image", ("b.jpg", b"y"))], None),
        (photo(), {f"f{index}": "1" for index in range(40)}),
        (photo(), {"fidelity": "1" * 5000}),
    ],
)
async def test_not_one_photo(files, data):
    with pytest.raises(MalformedRequest):
        await read(request_of(*multipart(files, data)))


async def test_a_body_that_is_not_what_its_header_says():
    headers = {"content-length": "9", "content-type": "multipart/form-data; boundary=b"}
    with pytest.raises(MalformedRequest):
        await read(request_of(b"no parts!", headers))


async def test_a_missing_boundary():
    with pytest.raises(MalformedRequest):
        await read(request_of(b"no parts!", {"content-length": "9", "content-type": "multipart/form-data"}))


async def test_an_option_given_twice():
    body, headers = multipart([("image", ("a.jpg", b"x")), ("seed", (None, b"1")), ("seed", (None, b"2"))])
    with pytest.raises(InvalidOption, match="seed"):
        await read(request_of(body, headers))


async def test_a_client_that_goes_away_in_the_middle():
    with pytest.raises(Cancelled):
        await read(request_of(*multipart(photo()), disconnect=True))


async def test_a_body_that_does_not_come():
    with pytest.raises(DeadlineExceeded):
        await read_photo_form(request_of(*multipart(photo()), stall=True), max_bytes=10_000, timeout_s=0.01)


@pytest.mark.parametrize("come", [1, 4])
async def test_a_body_that_trickles_is_given_up_before_its_time(come):
    body, headers = multipart(photo())
    pieces = iter([body[at : at + 10] for at in range(0, 10 * come, 10)])

    async def receive():
        piece = next(pieces, None)
        if piece is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": piece, "more_body": True}

    request = request_of(body, headers)
    with pytest.raises(DeadlineExceeded, match="is not there after"):
        await read_photo_form(Request(request.scope, receive), max_bytes=10_000, timeout_s=3600, first_bytes_s=0.05)


async def test_a_body_that_keeps_coming_has_more_time_than_its_first_bytes():
    body, headers = multipart(photo(50_000))
    pieces = iter([body[at : at + 10_000] for at in range(0, len(body), 10_000)])
    left = len(body)

    async def receive():
        nonlocal left
        await asyncio.sleep(0.5)
        piece = next(pieces)
        left -= len(piece)
        return {"type": "http.request", "body": piece, "more_body": left > 0}

    request = request_of(body, headers)
    form = await read_photo_form(Request(request.scope, receive), max_bytes=100_000, timeout_s=3600, first_bytes_s=2)
    assert len(form.upload.data) == 50_000
