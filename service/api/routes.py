"""A photo over HTTP while the caller waits, and the limits."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.access.ownership import new_job_id
from service.api import problems
from service.api.context import ApiContext, Context
from service.api.entrance import KEY_HOLDERS, Asking
from service.api.hang_up import while_connected
from service.api.negotiation import Representation, negotiate
from service.api.openapi import (
    ACCESS_PROBLEMS,
    RESTORE_PROBLEMS,
    image_content,
    problem_responses,
    restore_request_body,
    restored_headers,
)
from service.api.photo_form import read_photo_form
from service.api.schemas import LimitsSchema, RestorationSchema
from service.api.sending import HeldUntilSent, ResponseInParts
from service.core.errors import QueueFull
from service.core.notices import report_path
from service.core.options import parse_options
from service.core.results import StoredResult
from service.core.types import FaceStatus, Restoration, RestoreOptions, Upload
from service.stages.containers.sniff import announced_format

_KEPT = "the photo is restored and kept: fetch it after the time in Retry-After, where Location says"

router = APIRouter(dependencies=KEY_HOLDERS)


@router.post(
    "/restore",
    summary="Restore the faces of a photo",
    tags=["restorations"],
    response_class=Response,
    responses={
        200: {
            "description": "The restored image, or its report with `Accept: application/json`.",
            "content": {
                **image_content(),
                "application/json": {"schema": {"$ref": "#/components/schemas/RestorationSchema"}},
            },
            "headers": restored_headers(),
        },
        **problem_responses(*RESTORE_PROBLEMS),
    },
    openapi_extra={"requestBody": restore_request_body()},
)
async def restore(request: Request, caller: Asking, context: Context, sent: HeldUntilSent) -> Response:
    """Send the photo as file field `image` of a multipart form, options as further fields.

    The answer has the photo's own encoding unless `output_format` or the Accept header says otherwise. Pixels outside
    the faces stay as they were in PNG, and in WebP of a WebP without loss; else JPEG and WebP are compressed anew. The
    photo is worked on while you wait; hanging up cancels the work. Nothing is done that could be done twice, so an
    `Idempotency-Key` is ignored here. 429 while answers that are read slowly leave no room for another; where
    `Location` is there all the same, the photo is restored, and can be fetched.
    """
    accounts, gateway = context.access.accounts, context.gateway
    async with contextlib.AsyncExitStack() as held:
        with gateway.metrics.refusals_counted():  # what the gateway refuses it counts itself
            await held.enter_async_context(context.uploads.place(caller.owner))
            upload, options, wanted = await _read(request, context)
            options = replace(options, output_format=wanted.output_format)
            if not wanted.as_report:
                context.sending.check(caller.owner)
            charge = await accounts.charge(caller, partial(gateway.check, upload, options))
        job_id = new_job_id(caller.owner)
        work = accounts.settled(charge, job_id, partial(gateway.restore, upload, options, job_id=job_id))
        restoration = await while_connected(request.receive, work)
        stored = await context.keep(restoration, caller.owner)
        if not wanted.as_report:
            room = sent.enter_async_context(context.sending.held(caller.owner, len(restoration.data)))
            try:
                await while_connected(request.receive, room)
            except QueueFull as full:
                if stored is None:
                    raise
                refusal = problems.of_service_error(request, QueueFull(full.detail, hint=_KEPT))
                refusal.headers["Location"] = report_path(restoration.report.id)
                return refusal
    return _answer(restoration, stored, wanted)


@router.get(
    "/v1/limits", summary="What the service accepts", tags=["service"], responses=problem_responses(*ACCESS_PROBLEMS)
)
async def limits(context: Context) -> LimitsSchema:
    """Sizes, times, encodings, and every option with its range and default."""
    return LimitsSchema.of(context.gateway.settings, context.gateway.manifest)


async def _read(request: Request, context: ApiContext) -> tuple[Upload, RestoreOptions, Representation]:
    gateway = context.gateway
    form = await read_photo_form(
        request, max_bytes=gateway.settings.max_upload_bytes, timeout_s=gateway.settings.request_timeout_s
    )
    options = parse_options(form.options, gateway.option_limits)
    accept = ",".join(request.headers.getlist("accept"))
    wanted = negotiate(accept, requested=options.output_format, source=announced_format(form.photo.data))
    return form.photo, options, wanted


def _answer(restoration: Restoration, stored: StoredResult | None, wanted: Representation) -> Response:
    report = restoration.report
    restored = sum(face.status is FaceStatus.RESTORED for face in report.faces)
    headers = {
        "Vary": "Accept",
        "X-Restoration-Seed": str(report.seed),
        "X-Faces-Restored": str(restored),
        "X-Faces-Skipped": str(len(report.faces) - restored),
        "Server-Timing": ", ".join(f"{stage};dur={value_ms:.1f}" for stage, value_ms in report.timings_ms.items()),
    }
    if stored is not None:
        headers["Location"] = report_path(report.id)
    if wanted.as_report:
        expires_s = None if stored is None else stored.expires_at_s
        return JSONResponse(RestorationSchema.of(report, expires_s).model_dump(mode="json"), headers=headers)
    return ResponseInParts(restoration.data, media_type=restoration.media_type, headers=headers)
