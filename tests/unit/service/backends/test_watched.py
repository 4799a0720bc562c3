import asyncio

import pytest

from service.backends.watched import WatchedBackend
from service.core.errors import InferenceFailed


class Gated:
    """A backend whose calls wait to be let through; the last one fails."""

    def __init__(self):
        self.gates = {name: asyncio.Event() for name in ("first", "second")}

    concurrent = False

    async def infer(self, network, inputs):
        if network not in self.gates:
            raise InferenceFailed(network)
        await self.gates[network].wait()
        return dict(inputs)

    async def ready(self):
        return True


async def test_the_age_is_that_of_the_oldest_call():
    time_s = [0.0]
    backend = Gated()
    watched = WatchedBackend(backend, lambda: time_s[0])
    assert (watched.oldest_s, await watched.ready()) == (0.0, True)
    calls = []
    for name in backend.gates:
        calls.append(asyncio.create_task(watched.infer(name, {})))
        await asyncio.sleep(0)
        time_s[0] += 10.0
    assert watched.oldest_s == 20.0
    backend.gates["first"].set()
    await calls[0]
    assert watched.oldest_s == 10.0
    backend.gates["second"].set()
    await calls[1]
    assert watched.oldest_s == 0.0


async def test_calls_that_fail_are_over():
    watched = WatchedBackend(Gated())
    with pytest.raises(InferenceFailed):
        await watched.infer("third", {})
    assert not watched.concurrent
    assert watched.oldest_s == 0.0
