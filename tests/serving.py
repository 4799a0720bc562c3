"""Real uvicorn servers on free ports, in a thread of the test process."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from service.api.app import create_app
from service.api.context import ApiContext
from service.core.admission import Admission
from service.core.metrics import Metrics
from service.core.results import ResultStore
from service.core.settings import Settings
from service.gateway import Gateway
from tests.bundle import tiny_manifest
from tests.fakes import EchoBroker, FakeDetector


@contextlib.contextmanager
def serving(app: ASGIApp, **settings: Any) -> Iterator[str]:
    """Serve `app`; the value is its address, `http://127.0.0.1:PORT`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, lifespan="off", log_level="critical", access_log=False, timeout_graceful_shutdown=5, **settings
        )
        server = _Server(config)
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
def fake_service(*, broker=None, detector=None, places=4, waiting=4, uploads=64, reasons=(), **settings):
    """A running service with a fake queue and detector behind the real stages: a client and the gateway behind it."""

    async def reasons_not_ready():
        return list(reasons)

    own = Settings(**settings)
    with ThreadPoolExecutor(2) as pool:
        gateway = Gateway(
            broker=broker or EchoBroker(),
            detector=detector or FakeDetector(),
            manifest=tiny_manifest(),
            settings=own,
            metrics=Metrics(),
            pool=pool,
            admission=Admission(places, waiting),
        )
        context = ApiContext(
            gateway=gateway,
            results=ResultStore(ttl_s=own.result_ttl_s, max_bytes=own.result_cache_bytes),
            uploads=Admission(uploads, 0),
            reasons_not_ready=reasons_not_ready,
            version="1.2.3",
        )
        with serving(create_app(context)) as address, httpx.Client(base_url=address, timeout=30) as client:
            yield client, gateway


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
