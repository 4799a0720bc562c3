"""Requests made to harm a running service: each is refused with a reason, and the service goes on as before."""

import contextlib
import socket
import struct
import zlib

import httpx
import psutil
import pytest
from PIL import Image

from tests.pictures import encoded, packed_zeros, pixels, png_bomb, png_file, png_header, saved
from tests.processes import service_process, until

MIB = 1 << 20
MAX_BYTES = 2 * MIB
MAX_PX = 2_000_000
BOUNDARY = "b0undary"
PHOTO = encoded(pixels(120, 100))
SMALL = Image.fromarray(pixels(64, 64))
JPEG = saved(SMALL, "JPEG")
ROWS = zlib.compress(bytes(64 * (1 + 64 * 3)))
MOST_MIB = 150  # what all of it together may leave in the service's memory, heaps and networks included


@pytest.fixture(scope="module")
def running(arithmetic_bundle, tmp_path_factory):
    """A service with small limits."""
    log = tmp_path_factory.mktemp("log") / "service.log"
    limits = {"max_upload_bytes": MAX_BYTES, "max_image_px": MAX_PX, "min_image_side_px": 32, "decode_cpu_s": 5}
    with service_process(arithmetic_bundle, log, **limits) as service:
        restore(service, PHOTO)
        yield service


@pytest.fixture
def service(running):
    """The service, which is as well after the test as before."""
    before = running.resident_bytes()
    yield running
    assert restore(running, PHOTO).status_code == 200
    assert running.resident_bytes() - before < MOST_MIB * MIB
    until(lambda: psutil.STATUS_ZOMBIE not in states(running))


def states(service):
    found = []
    for process in psutil.Process(service.child.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(process.status())
    return found


def restore(service, photo):
    return service.client.post("/restore", files={"image": ("photo", photo)}, data={"faces": "any"})


def refused(reply, status, code):
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text


def form(*parts):
    """A multipart body of parts, each a head and a body."""
    return b"".join(
        b"--" + BOUNDARY.encode() + b"\r\n" + head + b"\r\n\r\n" + body + b"\r\n" for head, body in parts
    ) + (b"--" + BOUNDARY.encode() + b"--\r\n")


def head_of(name, filename=None):
    return b'Content-Disposition: form-data; name="%s"' % name + (
        b'; filename="%s"' % filename if filename is not None else b""
    )


def send_form(service, body):
    return service.client.post(
        "/restore", content=body, headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    )


def talk(service, head, pieces=()):
    """What is answered to a head and pieces of a body."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        with contextlib.suppress(OSError):
            for piece in (head, *pieces):
                connection.sendall(piece)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65_536):
                answer += data
                if b"\r\n\r\n" in answer and b"}" in answer:
                    break
    return answer


def request_head(*lines):
    first = (b"POST /restore HTTP/1.1", b"Host: here", b"Content-Type: multipart/form-data; boundary=" + b"b0undary")
    return b"\r\n".join([*first, *lines]) + b"\r\n\r\n"


def chunks(data, size=MIB):
    yield from (
        b"%x\r\n" % len(part) + part + b"\r\n" for part in (data[at : at + size] for at in range(0, len(data), size))
    )


def test_a_body_without_a_length_is_cut_off_at_the_limit(service):
    endless = chunks(form((head_of(b"image", b"a"), bytes(64 * MIB))))
    answer = talk(service, request_head(b"Transfer-Encoding: chunked"), endless)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"upload_too_large"' in answer


def test_chunks_of_one_byte_are_counted_too(service):
    data = form((head_of(b"image", b"a"), bytes(20_000)))
    answer = talk(service, request_head(b"Transfer-Encoding: chunked"), [*chunks(data, 1), b"0\r\n\r\n"])
    assert answer.startswith(b"HTTP/1.1 415")
    assert b'"unsupported_format"' in answer


def test_a_length_above_the_limit_is_refused_before_the_body(service):
    answer = talk(service, request_head(b"Content-Length: 99999999999999"))
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("lines", [[b"Content-Length: -1"], [b"Content-Length: 1, 2"], [b"Content-Length: 1e9"]])
def test_a_length_that_is_none(service, lines):
    assert talk(service, request_head(*lines)).startswith(b"HTTP/1.1 400")


def test_more_bytes_than_declared_are_no_part_of_the_photo(service):
    body = form((head_of(b"image", b"a"), PHOTO))
    answer = talk(service, request_head(b"Content-Length: 200"), [body])
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"malformed_request"' in answer


def test_a_length_beside_chunks_smuggles_nothing(service):
    inner = b"POST /restore HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"
    answer = talk(service, request_head(b"Content-Length: 4", b"Transfer-Encoding: chunked"), [b"0\r\n\r\n", inner])
    assert answer.count(b"HTTP/1.1") == 1


def test_a_head_that_is_too_long(service):
    answer = talk(service, request_head(*(b"X-%d: " % number + b"x" * 1000 for number in range(200))))
    assert answer.startswith(b"HTTP/1.1 400")


TOO_MUCH = {
    "many fields": form(*[(head_of(b"field%d" % number), b"1") for number in range(5000)]),
    "many files": form(*[(head_of(b"image", b"a"), PHOTO) for _ in range(100)]),
    "a field that is large": form((head_of(b"fidelity"), b"1" * MIB), (head_of(b"image", b"a"), PHOTO)),
    "a header of a part that is large": form((head_of(b"image", b"a" * MIB), PHOTO)),
    "a name of a header that is large": form((b"X" * MIB + b": 1\r\n" + head_of(b"image", b"a"), PHOTO)),
    "many headers of a part": form((b"X-A: 1\r\n" * 10_000 + head_of(b"image", b"a"), PHOTO)),
    "no end": form((head_of(b"image", b"a"), PHOTO))[:-30],
    "no beginning": b"x" * MIB,
    "boundaries that are almost boundaries": b"\r\n--b0undar" * 100_000,
}


@pytest.mark.parametrize("trick", TOO_MUCH)
def test_forms_made_to_be_too_much(service, trick):
    refused(send_form(service, TOO_MUCH[trick]), 400, "malformed_request")


def jpeg_of_size(width, height):
    return JPEG.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", height, width), 1)


def webp_of_size(width, height):
    canvas = struct.pack("<I", 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + saved(SMALL, "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png_with(*more):
    return png_file(png_header(64, 64), *more, (b"IDAT", ROWS), (b"IEND", b""))


BOMB = packed_zeros(512 * MIB)
REFUSED = {
    "a PNG of 2.5 gigapixels": (png_bomb(), 413, "image_too_large"),
    "a JPEG of 65500 x 65500": (jpeg_of_size(65_500, 65_500), 413, "image_too_large"),
    "a WebP of 16384 x 16384": (webp_of_size(16_384, 16_384), 413, "image_too_large"),
    "a JPEG of more pixels than it has": (jpeg_of_size(1400, 1400)[:-2] + b"\xff\xd9", None, None),
    "a WebP of more pixels than it has": (webp_of_size(1400, 1400), 422, "corrupt_image"),
    "a PNG whose rows unpack to more": (
        png_file(png_header(64, 64), (b"IDAT", BOMB), (b"IEND", b"")),
        None,
        None,
    ),
    "a JPEG of thousands of scans": (JPEG[:-2] + b"\xff\xda\0\x02" * 5000 + b"\xff\xd9", 422, "corrupt_image"),
    "a GIF": (saved(SMALL, "GIF"), 415, "unsupported_format"),
    "a TIFF": (saved(SMALL, "TIFF"), 415, "unsupported_format"),
}
HARMLESS = {
    "a profile that unpacks to 512 MiB": png_with((b"iCCP", b"p\0\0" + BOMB)),
    "a text that unpacks to 512 MiB": png_with((b"zTXt", b"t\0\0" + BOMB)),
    "an international text that unpacks to 512 MiB": png_with((b"iTXt", b"t\0\1\0\0\0" + BOMB)),
    "a million bytes of EXIF": png_with((b"eXIf", b"II*\0\x08\0\0\0" + b"\xff" * 1_000_000)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bombs(service, name):
    data, status, code = REFUSED[name]
    reply = restore(service, data)
    if status is None:  # what is missing is grey, what is too much is left where it is
        assert reply.status_code in (200, 422)
    else:
        refused(reply, status, code)


@pytest.mark.parametrize("name", HARMLESS)
def test_bombs_in_what_is_not_unpacked(service, name):
    assert restore(service, HARMLESS[name]).status_code == 200


def slow_progressive():
    """Within all limits of sizes, and each of a hundred scans costs a walk through all coefficients."""
    photo = saved(Image.fromarray(pixels(1400, 1400)), "JPEG", progressive=True, quality=30)
    last = photo.rindex(b"\xff\xda")
    scan = photo[last:-2]
    return photo[:-2] + scan * 80 + b"\xff\xd9"


def test_a_photo_of_many_scans_ends_by_its_limits(service):
    reply = restore(service, slow_progressive()[:MAX_BYTES])
    assert reply.status_code in (200, 422), reply.text


def test_decoders_that_are_ended_from_outside_harm_nobody(service):
    def children():
        (template,) = psutil.Process(service.child.pid).children()
        return template.children()

    until(lambda: len(children()) == 2)
    for child in children():
        child.kill()
    with httpx.Client(base_url=service.client.base_url, timeout=60) as client:
        for _ in range(3):
            reply = client.post("/restore", files={"image": ("photo", PHOTO)}, data={"faces": "any"})
            assert reply.status_code == 200
    until(lambda: len(children()) == 2)
