"""Photos over HTTP: restore one, look at its report, fetch it again, delete it, ask for the limits."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.api.context import ApiContext, Context
from service.api.hang_up import while_connected
from service.api.negotiation import Representation, negotiate, sniff
from service.api.openapi import image_content, problem_responses, restore_request_body, restored_headers
from service.api.photo_form import read_photo_form
from service.api.schemas import LimitsSchema, RestorationSchema, report_url
from service.core import errors
from service.core.errors import ServiceError
from service.core.options import parse_options
from service.core.results import StoredResult
from service.core.types import FaceStatus, Restoration, RestoreOptions, Upload

_NO_STORE = {"Cache-Control": "no-store"}
_RESTORE_PROBLEMS = (
    errors.EmptyUpload,
    errors.MalformedRequest,
    errors.NotAcceptable,
    errors.UploadTooLarge,
    errors.ImageTooLarge,
    errors.UnsupportedMediaType,
    errors.UnsupportedFormat,
    errors.CorruptImage,
    errors.AnimatedImage,
    errors.ImageTooSmall,
    errors.NoFaceFound,
    errors.TooManyFaces,
    errors.InvalidOption,
    errors.QueueFull,
    errors.InferenceFailed,
    errors.Draining,
    errors.DependencyUnavailable,
    errors.DeadlineExceeded,
)

router = APIRouter()


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
        **problem_responses(*_RESTORE_PROBLEMS),
    },
    openapi_extra={"requestBody": restore_request_body()},
)
async def restore(request: Request, context: Context) -> Response:
    """Send the photo as file field `image` of a multipart form, options as further fields.

    The answer has the photo's own encoding unless `output_format` or the Accept header says otherwise. It is worked on
    while you wait; hanging up cancels the work.
    """
    async with context.uploads.place():
        upload, options, wanted = await _read(request, context)
        work = context.gateway.restore(upload, replace(options, output_format=wanted.output_format))
        restoration = await while_connected(request.receive, work)
    stored = await context.results.put(restoration)
    return _answer(restoration, stored, wanted)


@router.get(
    "/v1/restorations/{restoration_id}",
    summary="Report of a restoration",
    tags=["restorations"],
    responses=problem_responses(errors.NotFound),
)
async def get_report(restoration_id: str, context: Context, response: Response) -> RestorationSchema:
    """What was done with each face, with which seed and steps, and how long it took."""
    stored = await context.results.get(restoration_id)
    response.headers.update(_NO_STORE)
    return RestorationSchema.of(stored.restoration.report, stored)


@router.get(
    "/v1/restorations/{restoration_id}/result",
    summary="Image of a restoration",
    tags=["restorations"],
    response_class=Response,
    responses={
        200: {"description": "The restored image.", "content": image_content()},
        **problem_responses(errors.NotFound),
    },
)
async def get_result(restoration_id: str, context: Context) -> Response:
    """The same bytes `POST /restore` answered with."""
    stored = await context.results.get(restoration_id)
    restoration = stored.restoration
    return Response(restoration.data, media_type=restoration.media_type, headers=_NO_STORE)


@router.delete(
    "/v1/restorations/{restoration_id}",
    summary="Forget a restoration",
    tags=["restorations"],
    status_code=204,
    response_class=Response,
    responses=problem_responses(errors.NotFound),
)
async def delete(restoration_id: str, context: Context) -> Response:
    """Report and image are gone at once."""
    await context.results.delete(restoration_id)
    return Response(status_code=204)


@router.get("/v1/limits", summary="What the service accepts", tags=["service"])
async def limits(context: Context) -> LimitsSchema:
    """Sizes, times, encodings, and every option with its range and default."""
    return LimitsSchema.of(context.gateway.settings, context.gateway.manifest)


async def _read(request: Request, context: ApiContext) -> tuple[Upload, RestoreOptions, Representation]:
    gateway = context.gateway
    try:
        form = await read_photo_form(
            request, max_bytes=gateway.settings.max_upload_bytes, timeout_s=gateway.settings.request_timeout_s
        )
        options = parse_options(form.options, gateway.option_limits)
        accept = ",".join(request.headers.getlist("accept"))
        wanted = negotiate(accept, requested=options.output_format, source=sniff(form.upload.data))
    except ServiceError as error:
        gateway.metrics.rejected(error.code)
        raise
    return form.upload, options, wanted


def _answer(restoration: Restoration, stored: StoredResult | None, wanted: Representation) -> Response:
    report = restoration.report
    restored = sum(face.status is FaceStatus.RESTORED for face in report.faces)
    headers = {
        **_NO_STORE,
        "Vary": "Accept",
        "X-Restoration-Seed": str(report.seed),
        "X-Faces-Restored": str(restored),
        "X-Faces-Skipped": str(len(report.faces) - restored),
        "Server-Timing": ", ".join(f"{stage};dur={value_ms:.1f}" for stage, value_ms in report.timings_ms.items()),
    }
    if stored is not None:
        headers["Location"] = report_url(report.id)
    if wanted.as_report:
        return JSONResponse(RestorationSchema.of(report, stored).model_dump(mode="json"), headers=headers)
    return Response(restoration.data, media_type=restoration.media_type, headers=headers)
