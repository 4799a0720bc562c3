"""A request for a restoration with job semantics in, an admitted job out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from starlette.requests import Request

from service.api import idempotency
from service.api.context import ApiContext
from service.api.photo_form import read_photo_form
from service.api.preferences import Preferences
from service.core.errors import Draining, InvalidOption
from service.core.jobs import Admitted, Idempotency, PhotoJob
from service.core.options import parse_options
from service.core.types import Lane
from service.gateway import new_job_id, new_seed
from service.webhooks.targets import OPTION, WebhookTargets


@dataclass(frozen=True, slots=True)
class _Submission:
    """A job that can be admitted."""

    job: PhotoJob
    idempotency: Idempotency | None


async def admit(request: Request, context: ApiContext, preferences: Preferences) -> Admitted:
    """Read a request, refuse what is bound to fail, and queue the rest.

    The photo is not held beyond that: from here on it is the queue's.

    Raises:
        InputError: The request, the photo's header, an option or the webhook is at fault.
        IdempotencyConflict: The key belongs to another request.
        QueueFull: There is no room; come back later.
        Draining: The process is shutting down.
    """
    with context.refusals_counted():
        _refuse_while_draining(context)
        async with context.uploads.place():
            submission = await _read(request, context, preferences)
            _refuse_while_draining(context)  # the upload may have taken long, and nobody is left to take the job
            return await context.jobs.admit(submission.job, submission.idempotency)


def _refuse_while_draining(context: ApiContext) -> None:
    if context.gateway.admission.closed:
        raise Draining("the service is shutting down and takes no new photo", hint="try another instance")


async def _read(request: Request, context: ApiContext, preferences: Preferences) -> _Submission:
    gateway = context.gateway
    key = idempotency.parse_key(request.headers.getlist(idempotency.HEADER))
    form = await read_photo_form(
        request, max_bytes=gateway.settings.max_upload_bytes, timeout_s=gateway.settings.request_timeout_s
    )
    webhook_url = _webhook_url(form.options.pop(OPTION, ""), context.webhooks)
    options = parse_options(form.options, gateway.option_limits)
    await gateway.check(form.upload, options)
    same = None
    if key is not None:
        digest = await asyncio.to_thread(idempotency.fingerprint, form.upload, options, webhook_url)
        same = Idempotency(key, digest)
    job = PhotoJob(
        job_id=new_job_id(),
        upload=form.upload,
        options=replace(options, seed=new_seed() if options.seed is None else options.seed),
        lane=Lane.BATCH if preferences.respond_async else Lane.INTERACTIVE,
        deadline_s=time.time() + gateway.settings.job_timeout_s,
        webhook_url=webhook_url,
    )
    return _Submission(job, same)


def _webhook_url(text: str, targets: WebhookTargets | None) -> str | None:
    if not text:
        return None
    if targets is None:
        raise InvalidOption(
            f"{OPTION}: this service sends no notices",
            hint="its operator sets LATENT_PMRF_WEBHOOK_SECRET; without it, watch the restoration's events",
            option=OPTION,
        )
    targets.check(text)
    return text
