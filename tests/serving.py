"""Real uvicorn servers on free ports, in a thread of the test process."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from service.api.app import create_app
from service.api.context import ApiContext
from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.composition.access import open_access
from service.composition.ending import Ending
from service.composition.loops import Loops
from service.core.admission import Admission
from service.core.metrics import Metrics
from service.core.sending import SendingRoom
from service.core.settings import Settings
from service.core.threads import Threads
from service.gateway import Gateway
from service.runner import PhotoRunner
from service.webhooks.courier import Courier
from service.webhooks.sender import NoticeSender
from service.webhooks.targets import WebhookTargets
from tests.bundle import tiny_manifest
from tests.fakes import EchoBroker, FakeDetector


@contextlib.contextmanager
def serving(app: ASGIApp, **settings: Any) -> Iterator[str]:
    """Serve `app`; the value is its address, `http://127.0.0.1:PORT`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        defaults = {"lifespan": "off", "log_level": "critical", "access_log": False, "timeout_graceful_shutdown": 5}
        server = _Server(uvicorn.Config(app, **defaults | settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        if not server.ready.wait(timeout=30):
            raise RuntimeError("the server did not start")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)


@contextlib.contextmanager
def fake_service(
    *,
    broker=None,
    detector=None,
    places=4,
    waiting=4,
    uploads=64,
    reasons=(),
    heartbeat_s=15.0,
    jobs=None,
    sending=None,
    watchers=None,
    **settings,
):
    """A running service with a fake queue of faces and a fake detector behind the real stages.

    The value is a client and the gateway behind it. Jobs are restored by a real runner.
    """

    async def reasons_not_ready():
        return list(reasons)

    own = Settings(**settings)
    metrics = Metrics()
    access = open_access(own)
    with Threads(2) as pool:
        gateway = Gateway(
            broker=broker or EchoBroker(),
            detector=detector or FakeDetector(),
            manifest=tiny_manifest(),
            settings=own,
            metrics=metrics,
            pool=pool,
            admission=Admission(places, waiting),
        )
        context = ApiContext(
            gateway=gateway,
            jobs=jobs or MemoryJobQueue(JobLimits.of(own), metrics=metrics),
            uploads=Admission(uploads, 0),
            sending=sending or SendingRoom(1 << 28),
            access=access,
            webhooks=None if own.webhook_secret is None else WebhookTargets(own.webhook_networks),
            reasons_not_ready=reasons_not_ready,
            version="1.2.3",
            heartbeat_s=heartbeat_s,
            **({} if watchers is None else {"watchers": watchers}),
        )
        app = create_app(context)
        app.router.lifespan_context = lambda _: _working(context, gateway)
        with serving(app, lifespan="on") as address, httpx.Client(base_url=address, timeout=30) as client:
            yield client, gateway


@contextlib.asynccontextmanager
async def _working(context: ApiContext, gateway: Gateway) -> AsyncIterator[None]:
    """The runner, and where there is a secret the courier, for as long as the server serves."""
    settings, jobs, accounts, loops = gateway.settings, context.jobs, context.access.accounts, Loops(Ending(0.5))
    async with contextlib.AsyncExitStack() as parts:
        parts.push_async_callback(accounts.meter.close)
        parts.push_async_callback(jobs.close)
        if settings.webhook_secret is not None:
            targets = WebhookTargets(settings.webhook_networks)
            sender = NoticeSender(settings.webhook_secret.get_secret_value(), targets, version="1.2.3")
            parts.push_async_callback(sender.close)
            courier = Courier(jobs, sender, metrics=gateway.metrics)
            await parts.enter_async_context(loops.running("courier", courier.run))
        runner = PhotoRunner(jobs, gateway, at_once=settings.job_photos, accounts=accounts, pause_s=0.05, beat_s=0.02)
        await parts.enter_async_context(loops.running("runner", runner.run))
        yield
    assert not loops.failures()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
