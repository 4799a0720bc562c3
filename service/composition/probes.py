"""Health and metrics of a process that has no other use for HTTP, without a web framework.

GET /livez, /readyz, /metrics -> the same answers as a gateway's
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from service.core.metrics import Metrics

Message = dict[str, Any]
_JSON = "application/json"


class Probes:
    """An ASGI application.

    Args:
        reasons_not_ready: Why the process cannot do its work now; empty when it can.
        metrics: What it has to say of itself.
    """

    def __init__(self, reasons_not_ready: Callable[[], Awaitable[list[str]]], metrics: Metrics) -> None:
        self._reasons_not_ready = reasons_not_ready
        self._metrics = metrics

    async def __call__(
        self,
        scope: Message,
        _receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        accept = b",".join(value for name, value in scope.get("headers", ()) if name == b"accept").decode("latin-1")
        status, content_type, body = await self._answer(scope["method"], scope["path"], accept)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send(
            {"type": "http.response.start", "status": status, "headers": [*headers, (b"cache-control", b"no-store")]}
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, method: str, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, _JSON, b"{}"
        match path:
            case "/livez":
                return HTTPStatus.OK, _JSON, json.dumps({"live": True}).encode()
            case "/readyz":
                reasons = await self._reasons_not_ready()
                status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
                return status, _JSON, json.dumps({"ready": not reasons, "reasons": reasons}).encode()
            case "/metrics":
                told, content_type = self._metrics.answer(accept)
                return HTTPStatus.OK, content_type, told
        return HTTPStatus.NOT_FOUND, _JSON, b"{}"
