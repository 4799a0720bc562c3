"""Origins in, what lets their pages call the interface out (CORS). Without any, browsers keep answers from others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from service.access.guard import API_KEY, AUTHORIZATION
from service.api import idempotency

_ASKED = (
    *(AUTHORIZATION, API_KEY, "content-type", "prefer", idempotency.HEADER, "last-event-id"),
    *("x-request-id", "traceparent", "tracestate"),
)
_TOLD = (
    *("Location", "Retry-After", "Preference-Applied", "Idempotent-Replayed", "WWW-Authenticate", "Server-Timing"),
    *("X-Restoration-Seed", "X-Faces-Restored", "X-Faces-Skipped", "RateLimit", "RateLimit-Policy"),
    *("X-Request-ID", "traceresponse"),
)


_Handler = Callable[[Request, Exception], Response]


def allow_pages_of(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these origins call `app`; `*` is all.

    They send keys by themselves: there are no cookies, and browsers add no credentials of their own.
    """
    if origins:
        app.add_middleware(CORSMiddleware, **_terms(origins))


def readable_by_pages_of(origins: Sequence[str], handler: _Handler) -> _Handler:
    """The same handler of defects, whose answers leave outside all middleware; these pages can read them, too."""

    def handle(request: Request, error: Exception) -> Response:
        answer = CORSMiddleware(handler(request, error), **_terms(origins))
        return cast(Response, answer)  # all that is done with it is to call it

    return handle if origins else handler


def _terms(origins: Sequence[str]) -> dict[str, Any]:
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "HEAD", "POST", "DELETE"],
        "allow_headers": list(_ASKED),
        "expose_headers": list(_TOLD),
        "max_age": 600,
    }
