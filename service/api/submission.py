"""A request for a restoration with job semantics in, an admitted job out."""

from __future__ import annotations

from starlette.requests import Request

from service.access.caller import Caller
from service.api import idempotency
from service.api.context import ApiContext
from service.api.photo_form import read_photo_form
from service.api.preferences import Preferences
from service.core.jobs import Admitted
from service.core.options import parse_options
from service.core.types import Lane
from service.submission import Submission, Submissions
from service.webhooks.targets import OPTION


async def admit(request: Request, caller: Caller, context: ApiContext, preferences: Preferences) -> Admitted:
    """Read a request, refuse what is bound to fail, and queue the rest.

    The photo is not held beyond that: from here on it is the queue's.

    Raises:
        InputError: The request, the photo's header, an option or the webhook is at fault.
        IdempotencyConflict: The key belongs to another request.
        QuotaExceeded: The caller has spent his.
        QueueFull: There is no room; come back later.
        Draining: The process is shutting down.
    """
    submissions = Submissions(context.gateway, context.jobs, context.webhooks, context.access.accounts)
    with context.gateway.metrics.refusals_counted():
        submissions.refuse_while_draining()
        async with context.uploads.place():
            return await submissions.bring(await _read(request, caller, context, preferences))


async def _read(request: Request, caller: Caller, context: ApiContext, preferences: Preferences) -> Submission:
    gateway = context.gateway
    key = idempotency.parse_key(request.headers.getlist(idempotency.HEADER))
    form = await read_photo_form(
        request, max_bytes=gateway.settings.max_upload_bytes, timeout_s=gateway.settings.request_timeout_s
    )
    webhook_url = form.options.pop(OPTION, "")
    return Submission(
        caller=caller,
        upload=form.upload,
        options=parse_options(form.options, gateway.option_limits),
        lane=Lane.BATCH if preferences.respond_async else Lane.INTERACTIVE,
        webhook_url=webhook_url,
        idempotency_key=key,
    )
