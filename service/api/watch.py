"""Around every request: its count and duration for the metrics, headers that keep browsers out of trouble."""

from __future__ import annotations

import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.correlation import template_of
from service.api.entrance import LIMIT_HEADERS
from service.api.safe_headers import make_safe
from service.core.metrics import Metrics


class WatchRequests:
    """ASGI middleware; it passes `receive` on untouched, so that a hang-up reaches the route.

    Args:
        app: What it wraps.
        metrics: Told about every request.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin_s = time.perf_counter()
        code = 500

        async def watched(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(scope.get("state", {}).get(LIMIT_HEADERS, {}))
                make_safe(headers)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = template_of(scope)
            self._metrics.requests(route, code)
            self._metrics.observe_request(route, time.perf_counter() - begin_s)
