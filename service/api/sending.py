"""A result over HTTP in parts, so that who holds something for it learns when the last one is on its way."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.core.sending import PART_BYTES


async def _held() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as held:
        yield held


HeldUntilSent = Annotated[contextlib.AsyncExitStack, Depends(_held, scope="request")]
"""What a route enters here is left when its answer is sent, or fails."""


class ResponseInParts(Response):
    """A body that is written as fast as it is read: an answer in one piece would all be handed to the connection."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer; the last part is empty, and goes when there is little left of those before it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for begin in range(0, len(self.body), PART_BYTES):
            part = self.body[begin : begin + PART_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
