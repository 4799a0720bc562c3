"""A connection is not kept for a client that does nothing with it, whichever half of the talk is his."""

import socket
import time
from typing import ClassVar

import pytest

from service.api.sending import ResponseInParts
from service.composition.connections import TimedConnection
from tests.processes import until
from tests.serving import serving

HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n"
LARGE = 32_000_000  # more than the system's buffers hold
PATIENCE_S = 30
SENDING = []  # requests whose answers in parts are under way


class Hasty(TimedConnection):
    head_s = 1.0
    read_check_s = 1.0
    refused_s = 2.5
    ended: ClassVar[set[int]] = set()  # ports of clients

    def connection_lost(self, exc):
        super().connection_lost(exc)
        self.ended.add(self.client[1])


class Trusting(Hasty):
    refused_s = 1000.0  # bodies have all the time, heads have not


async def app(scope, receive, send):
    """Reads the body and answers with much; refuses some without reading."""
    if scope["path"] == "/no":
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
        return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/parts":
        SENDING.append(scope)
        await ResponseInParts(bytes(LARGE))(scope, receive, send)
        SENDING.remove(scope)
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
    await send({"type": "http.response.body", "body": bytes(LARGE)})


@pytest.fixture(scope="module")
def port():
    with serving(app, http=Hasty) as address:
        yield int(address.rpartition(":")[2])


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def hung_up(connection):
    """Whether the other side ends the connection instead of answering."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def answer_bytes(connection, wanted=LARGE):
    count = 0
    while count < wanted:
        data = connection.recv(1 << 20)
        if not data:
            break
        count += len(data)
    return count


def test_a_connection_without_a_request(port):
    with connected(port) as connection:
        assert hung_up(connection)


def test_a_head_that_does_not_end(port):
    with connected(port) as connection:
        connection.sendall(HEAD)
        assert hung_up(connection)


def test_a_head_that_trickles(port):
    def trickle(connection):
        connection.sendall(HEAD)
        for _ in range(1000):
            time.sleep(0.02)
            connection.sendall(b"X-Slow: 1\r\n")

    with connected(port) as connection, pytest.raises(OSError, match=r"reset|pipe|aborted"):
        trickle(connection)


def test_a_second_head_that_does_not_end(port):
    with connected(port) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert answer_bytes(connection) >= LARGE
        connection.sendall(HEAD)
        while not hung_up(connection):  # what is left of the first answer
            pass


def test_a_body_may_take_its_time(port):
    with connected(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            time.sleep(0.4)
            connection.sendall(b"x")
        assert answer_bytes(connection) >= LARGE


def test_a_body_that_goes_on_after_its_answer(port):
    def go_on(connection):
        connection.sendall(b"POST /no HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            connection.sendall(bytes(100_000))

    with connected(port) as connection, pytest.raises(OSError, match=r"reset|pipe|aborted"):
        go_on(connection)


def refusals(connection, count):
    """The answers of `/no`, as they come."""
    for _ in range(count):
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            data = connection.recv(65_536)
            assert data, "the connection is ended"
            answer += data
        assert answer.startswith(b"HTTP/1.1 413")


def test_a_body_that_was_refused_may_come_to_its_end(port):
    """Many clients read no answer before they have sent everything."""
    with connected(port) as connection:
        connection.sendall(b"POST /no HTTP/1.1\r\nHost: here\r\nContent-Length: 6\r\n\r\n")
        for _ in range(6):
            time.sleep(0.25)
            connection.sendall(b"x")
        refusals(connection, 1)
        connection.sendall(b"GET /no HTTP/1.1\r\nHost: here\r\n\r\n")
        refusals(connection, 1)


def test_a_connection_is_kept_after_a_body_that_was_refused_and_not_for_ever(port):
    with connected(port) as connection:
        connection.sendall(b"POST /no HTTP/1.1\r\nHost: here\r\nContent-Length: 6\r\n\r\n")
        refusals(connection, 1)
        connection.sendall(b"x" * 6)
        time.sleep(1.5)
        connection.sendall(b"POST /no HTTP/1.1\r\nHost: here\r\nContent-Length: 6\r\n\r\n")
        refusals(connection, 1)
        connection.sendall(b"x" * 6)
        assert hung_up(connection)


def test_a_head_behind_a_body_that_was_refused():
    with serving(app, http=Trusting) as address, connected(int(address.rpartition(":")[2])) as connection:
        connection.sendall(b"POST /no HTTP/1.1\r\nHost: here\r\nContent-Length: 6\r\n\r\n")
        refusals(connection, 1)
        connection.sendall(b"xxx")
        time.sleep(0.1)
        connection.sendall(b"xxxGET ")
        assert hung_up(connection)


def test_a_body_that_was_refused_and_trickles(port):
    def trickle(connection):
        connection.sendall(b"POST /no HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000000000\r\n\r\n")
        for _ in range(1000):
            time.sleep(0.02)
            connection.sendall(b"x")

    with connected(port) as connection, pytest.raises(OSError, match=r"reset|pipe|aborted"):
        trickle(connection)


@pytest.mark.parametrize("declared", [0, 4])
def test_nothing_is_smuggled_behind_a_request_with_two_lengths(port, declared):
    head = b"POST /no HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n" % declared
    inner = b"GET /no HTTP/1.1\r\nHost: here\r\n\r\n"
    with connected(port) as connection:
        connection.sendall(head + b"0\r\n\r\n" + inner)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
    assert answer.count(b"HTTP/1.1 413") == 1


def test_an_answer_that_is_not_read(port):
    with connected(port) as connection:
        connection.sendall(HEAD + b"\r\n")
        until(lambda: connection.getsockname()[1] in Hasty.ended)
        assert answer_bytes(connection) < LARGE


def test_an_answer_that_is_read_slowly(port):
    with connected(port) as connection:
        connection.sendall(HEAD + b"\r\n")
        count = 0
        while count < LARGE:
            before, count = count, count + answer_bytes(connection, 2_000_000)
            assert count > before
            time.sleep(0.05)


@pytest.mark.parametrize("path", [b"/", b"/parts"])
def test_a_slow_reader_is_seen_to_read_whatever_the_system_takes_ahead_of_him(port, path):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.settimeout(PATIENCE_S)
        connection.connect(("127.0.0.1", port))
        connection.sendall(HEAD.replace(b"/ ", path + b" ") + b"\r\n")
        for _ in range(50):  # 5 looks, some 300 KiB between two: as 10 KiB/s at the service's own looks
            assert answer_bytes(connection, 32_768) >= 32_768
            time.sleep(0.1)


def test_an_answer_in_parts_that_is_not_read(port):
    with connected(port) as connection:
        connection.sendall(HEAD.replace(b"/ ", b"/parts ") + b"\r\n")
        until(lambda: SENDING)
        until(lambda: connection.getsockname()[1] in Hasty.ended)
        until(lambda: not SENDING)
        assert answer_bytes(connection) < LARGE


def test_an_answer_in_parts_that_is_read_slowly(port):
    with connected(port) as connection:
        connection.sendall(HEAD.replace(b"/ ", b"/parts ") + b"\r\n")
        count = 0
        while count < LARGE:
            before, count = count, count + answer_bytes(connection, 2_000_000)
            assert count > before
            time.sleep(0.05)
