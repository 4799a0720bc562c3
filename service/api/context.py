"""What every route needs, put together by the composition root."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from service.core.shares import Places
from service.submission import Parts

_MAX_WATCHERS = 512
_ASK_INSTEAD = "watch fewer restorations at once, or ask for their state now and then"


@dataclass(frozen=True, slots=True)
class ApiContext(Parts):
    """The parts behind the routes.

    Attributes:
        version: Version of the service.
        heartbeat_s: Longest silence of an event stream.
        watchers: Bounds the event streams.
    """

    version: str
    heartbeat_s: float = 15.0
    watchers: Places = field(default_factory=lambda: Places(_MAX_WATCHERS, "event streams", hint=_ASK_INSTEAD))


async def get_context(request: Request) -> ApiContext:
    """The context `create_app` was given; FastAPI would call what is not `async` on a thread."""
    return cast(ApiContext, request.app.state.context)


Context = Annotated[ApiContext, Depends(get_context)]
