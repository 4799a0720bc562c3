"""Whether a process answers gRPC, too, is the operator's choice."""

import contextlib
from types import SimpleNamespace

import pytest

from service.composition.rpc import rpc_beside, stream_room
from service.core.settings import Settings


async def test_without_a_port_a_process_stays_what_it_is():
    said = []
    context = SimpleNamespace(gateway=SimpleNamespace(settings=Settings(grpc_port=0)))
    async with rpc_beside(context, "127.0.0.1", said.append) as server:
        assert server is None
    assert said == []


@pytest.mark.parametrize(("places", "at_once"), [(16, 8), (1, 1)])
async def test_streams_leave_half_of_the_places_to_single_photos(places, at_once):
    room = stream_room(Settings(max_concurrent_photos=places))
    assert room.max_photos == 4 * places
    async with contextlib.AsyncExitStack() as stack:
        window = stack.enter_context(room.window())
        for _ in range(at_once):
            await stack.enter_async_context(window.turn())
        assert room.turns.locked()
