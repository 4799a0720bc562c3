"""A result over HTTP in parts, so that who holds something for it learns when the last one is on its way."""

from __future__ import annotations

import contextlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.core.sending import PART_BYTES

_HELD = "held_until_sent"


class HoldUntilSent:
    """ASGI middleware: what a request has entered by `held_until_sent` is left when its answer is sent, or fails.

    Args:
        app: What it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        async with contextlib.AsyncExitStack() as held:
            scope.setdefault("state", {})[_HELD] = held
            await self._app(scope, receive, send)


def held_until_sent(request: Request) -> contextlib.AsyncExitStack:
    """What is held for the answer to a request."""
    held = getattr(request.state, _HELD)
    if not isinstance(held, contextlib.AsyncExitStack):
        raise TypeError("the application has no HoldUntilSent")
    return held


class ResponseInParts(Response):
    """A body that is written as fast as it is read: an answer in one piece would all be handed to the connection."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer; the last part is empty, and goes when there is little left of those before it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for begin in range(0, len(self.body), PART_BYTES):
            part = self.body[begin : begin + PART_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
