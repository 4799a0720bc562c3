"""What every route needs, put together by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from service.access.guard import Access
from service.core.admission import Admission
from service.core.interfaces import JobQueue
from service.core.sending import SendingRoom
from service.core.shares import Places
from service.gateway import Gateway
from service.webhooks.targets import WebhookTargets

_MAX_WATCHERS = 512
_ASK_INSTEAD = "watch fewer restorations at once, or ask for their state now and then"


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The parts behind the routes.

    Attributes:
        gateway: Restores photos.
        jobs: Queue of photos, and what became of them.
        uploads: Bounds the request bodies held in memory.
        sending: Bounds the results of jobs that are being sent.
        access: Who may come in, and what he may use.
        webhooks: Where notices may go, or None where none are sent.
        reasons_not_ready: Why photos cannot be restored now; empty when they can.
        version: Version of the service.
        heartbeat_s: Longest silence of an event stream.
        watchers: Bounds the event streams.
    """

    gateway: Gateway
    jobs: JobQueue
    uploads: Admission
    sending: SendingRoom
    access: Access
    webhooks: WebhookTargets | None
    reasons_not_ready: Callable[[], Awaitable[list[str]]]
    version: str
    heartbeat_s: float = 15.0
    watchers: Places = field(default_factory=lambda: Places(_MAX_WATCHERS, "event streams", hint=_ASK_INSTEAD))


async def get_context(request: Request) -> ApiContext:
    """The context `create_app` was given; FastAPI would call what is not `async` on a thread."""
    return cast(ApiContext, request.app.state.context)


Context = Annotated[ApiContext, Depends(get_context)]
