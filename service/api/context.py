"""What every route needs, put together by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from service.core.admission import Admission
from service.core.results import ResultStore
from service.gateway import Gateway


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The parts behind the routes.

    Attributes:
        gateway: Restores photos.
        results: Keeps finished restorations for a while.
        uploads: Bounds the request bodies held in memory.
        reasons_not_ready: Why photos cannot be restored now; empty when they can.
        version: Version of the service.
    """

    gateway: Gateway
    results: ResultStore
    uploads: Admission
    reasons_not_ready: Callable[[], Awaitable[list[str]]]
    version: str


def get_context(request: Request) -> ApiContext:
    """The context `create_app` was given."""
    return cast(ApiContext, request.app.state.context)


Context = Annotated[ApiContext, Depends(get_context)]
