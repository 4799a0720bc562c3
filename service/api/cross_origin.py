"""Origins in, what lets their pages call the interface out (CORS). Without any, browsers keep answers from others."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

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


def allow_pages_of(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these origins call `app`; `*` is all.

    They send keys by themselves: there are no cookies, and browsers add no credentials of their own.
    """
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=list(_ASKED),
            expose_headers=list(_TOLD),
            max_age=600,
        )
