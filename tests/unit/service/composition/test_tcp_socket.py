import asyncio
import socket

import pytest

from service.composition.http import tcp_socket


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_the_family_is_the_hosts(host, family):
    with tcp_socket(host) as created:
        assert created.family == family


async def test_answers_are_sent_at_once():
    """What asyncio makes of a connection to this socket has Nagle's algorithm off."""
    accepted = asyncio.get_running_loop().create_future()
    with tcp_socket("127.0.0.1") as listener:
        listener.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listener)
        _, client = await asyncio.open_connection(*listener.getsockname())
        writer = await accepted
        connection = writer.get_extra_info("socket")
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for side in (writer, client):
            side.close()
            await side.wait_closed()
        server.close()
