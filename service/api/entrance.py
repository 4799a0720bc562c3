"""A request in, the caller out: what every route asks first that is not for everybody."""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from service.access.caller import Caller
from service.access.guard import API_KEY, AUTHORIZATION, refuse_in_address
from service.access.ownership import OwnedJobs
from service.api.context import Context

LIMIT_HEADERS = "limit_headers"
"""Attribute of a request's state: headers (draft-ietf-httpapi-ratelimit-headers) that its answer has in any case."""

_DESCRIPTION = "A key of `latent-pmrf keys new`. Needed only where the operator has set `LATENT_PMRF_API_KEYS_FILE`."
_bearer = HTTPBearer(scheme_name="bearer", description=_DESCRIPTION, auto_error=False)
_header = APIKeyHeader(name="X-API-Key", scheme_name="header", description=_DESCRIPTION, auto_error=False)


async def enter(request: Request, context: Context) -> Caller:
    """Who asks; his request is counted.

    Raises:
        Unauthenticated: The service asks for keys, and the request has none that is known.
        RateLimited: The key has made too many requests.
        DependencyUnavailable: That cannot be told now.
    """
    with context.gateway.metrics.refusals_counted():
        refuse_in_address(request.url.query)
        headers = request.headers
        caller = context.access.identify(headers.getlist(AUTHORIZATION), headers.getlist(API_KEY))
        passage = await context.access.accounts.knock(caller)
    if passage is not None and caller.rate is not None:
        window_s = max(1, math.ceil(caller.rate.burst / caller.rate.per_s))
        policy = f'"requests";q={caller.rate.burst};w={window_s}'
        told = {"RateLimit-Policy": policy, "RateLimit": f'"requests";r={passage.left}'}
        setattr(request.state, LIMIT_HEADERS, told)
    return caller


KEY_HOLDERS = [Security(enter), Security(_bearer), Security(_header)]
"""Dependencies of a router that is not for everybody; the last two only tell OpenAPI."""

Asking = Annotated[Caller, Security(enter)]


async def _jobs_of(caller: Asking, context: Context) -> OwnedJobs:
    return OwnedJobs(context.jobs, caller.owner)


Jobs = Annotated[OwnedJobs, Depends(_jobs_of)]
