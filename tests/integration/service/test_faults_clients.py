"""Clients that take their time hold up nobody but themselves."""

import socket

import numpy as np
import pytest

from tests.fleet import check_result, check_results, submit, until_ready
from tests.numbered_photos import number_of, numbered
from tests.pictures import decoded, encoded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BOUNDARY = "b"
SIDE_PX = 500  # enlarged four times some 8 MB as a PNG: more than what sockets hold for a reader
RECEIVE_BUFFER_BYTES = 4096
OK = b"HTTP/1.1 200 OK"


def connection(gateway, receive_buffer_bytes=None):
    client = socket.socket()
    client.settimeout(240)
    if receive_buffer_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    client.connect(("127.0.0.1", gateway.port))
    return client


def request(photo, **options):
    """A request for a restoration, as it goes over the wire."""
    parts = [(f'name="{name}"', value.encode()) for name, value in options.items()]
    parts.append(('name="image"; filename="a"', photo))
    lines = [
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {names}\r\n\r\n".encode() + value for names, value in parts
    ]
    body = b"\r\n".join([*lines, f"--{BOUNDARY}--\r\n".encode()])
    head = (
        f"POST /restore HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    return head.encode() + body


def test_slow_clients_hold_up_nobody(fleet):
    gateway, worker = fleet.start("gateway", "worker", max_concurrent_photos=2)
    until_ready(gateway, worker)
    noise = np.random.default_rng(0).integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    late = request(numbered(1), aligned="true")
    with connection(gateway) as uploader, connection(gateway, RECEIVE_BUFFER_BYTES) as reader:
        uploader.sendall(late[:-200])
        reader.sendall(request(encoded(noise), faces="any", upscale="4"))
        assert reader.recv(len(OK)) == OK  # the answer has begun, and does not end before it is read
        for number in range(2, 8):
            answer = gateway.client.post("/restore", files={"image": numbered(number)}, data={"aligned": "true"})
            check_result(answer, number)
        check_results(gateway, submit(gateway, range(8, 14)))
        assert gateway.reasons_not_ready() == []
        uploader.sendall(late[-200:])
        assert uploader.recv(len(OK)) == OK
        with uploader.makefile("rb") as rest:
            assert number_of(rest.read().partition(b"\r\n\r\n")[2]) == 1
        with reader.makefile("rb") as rest:
            assert decoded(rest.read().partition(b"\r\n\r\n")[2]).shape == (4 * SIDE_PX, 4 * SIDE_PX, 3)
