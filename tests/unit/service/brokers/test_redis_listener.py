import asyncio

from service.brokers.redis_listener import Listener
from service.core import tracing
from service.core.origin import Origin


async def test_what_it_logs_is_about_no_request():
    """The task that reads outlives the request that came first."""
    seen, tried = [], asyncio.Event()

    def make_connection():
        seen.append(tracing.correlated())
        tried.set()
        raise ConnectionError

    listener = Listener(make_connection)
    with tracing.within(Origin("the first request", "")):
        assert tracing.correlated()
        async with listener.listen("news", patience_s=0):
            await tried.wait()
    await listener.close()
    assert seen[0] == {}
