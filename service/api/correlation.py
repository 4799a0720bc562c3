"""Around every request: its span, its line in the log, its count and duration, and headers that its answer has anyway.

`X-Request-ID` is the caller's if it is sane, else a new one; `traceresponse` (W3C Trace Context) is there where there
is a trace. The log holds the route's template, never the path or the query of a request.
"""

from __future__ import annotations

import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.entrance import LIMIT_HEADERS
from service.api.safe_headers import make_safe
from service.core.metrics import Metrics
from service.core.origin import Origin
from service.core.tracing import Attributes, correlation_headers, end_request, here, serving

_ORIGIN = "latent_pmrf.origin"
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}
_PROBES = {"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}  # asked every few seconds
_OURS = 500  # statuses from here on are the service's fault

logger = logging.getLogger(__name__)


class CorrelateRequests:
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
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        is_probe = scope["path"] in _PROBES
        code = _OURS

        async def correlated(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update({**correlation_headers(), **scope.get("state", {}).get(LIMIT_HEADERS, {})})
                make_safe(headers)
            await send(message)

        known = {"http.request.method": method}
        with serving(method, Headers(scope=scope), known, traced=not is_probe) as request:
            scope[_ORIGIN] = here()
            try:
                await self._app(scope, receive, correlated)
            finally:
                route = template_of(scope)
                answer: Attributes = {"http.route": route, "http.response.status_code": code}
                error_type = str(code) if code >= _OURS else None
                end_request(request, f"{method} {route}", answer, error_type=error_type)
                duration_s = time.perf_counter() - begin_s
                self._metrics.requests(route, code)
                self._metrics.observe_request(route, duration_s)
                fields = {"method": method, "route": route, "status": code, "duration_ms": round(duration_s * 1000, 1)}
                logger.log(logging.DEBUG if is_probe else logging.INFO, "answered", extra={"fields": fields})


def template_of(scope: Scope) -> str:
    """The route's path with its parameters' names: the path itself would tell ids, and make a label of each."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


def origin_of(scope: Scope) -> Origin | None:
    """The request, for what is done about it outside this middleware."""
    found = scope.get(_ORIGIN)
    return found if isinstance(found, Origin) else None
