"""Restorations as jobs over HTTP: ask for one, look at it, watch it, fetch it, withdraw it, forget it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.access.ownership import OwnedJobs
from service.api import problems
from service.api.context import Context
from service.api.entrance import KEY_HOLDERS, Asking, Jobs
from service.api.events import LAST_ID, EventStream, events_of
from service.api.hang_up import while_connected
from service.api.job_schemas import JobSchema
from service.api.openapi import (
    ACCESS_PROBLEMS,
    ENDS_OF_A_JOB,
    JOB_PROBLEMS,
    event_content,
    image_content,
    job_headers,
    job_parameters,
    job_request_body,
    problem_responses,
)
from service.api.preferences import parse_preferences
from service.api.schemas import RestorationSchema
from service.api.sending import HeldUntilSent, ResponseInParts
from service.api.submission import read_submission
from service.core import errors
from service.core.errors import DependencyUnavailable, Draining
from service.core.jobs import JobState, JobStatus, no_result
from service.core.notices import report_path

_POLL_S = 1
_PATH = "/v1/restorations/{restoration_id}"

router = APIRouter(tags=["restorations"], dependencies=KEY_HOLDERS)


@router.post(
    "/v1/restorations",
    summary="Restore a photo as a job",
    response_model=RestorationSchema,
    responses={
        200: {"description": "It has ended while you waited: its report.", "headers": job_headers(200)},
        202: {"description": "It has not ended yet.", "model": JobSchema, "headers": job_headers(202)},
        **problem_responses(*JOB_PROBLEMS),
    },
    openapi_extra={"requestBody": job_request_body(), "parameters": job_parameters()},
)
async def submit(request: Request, caller: Asking, jobs: Jobs, context: Context) -> Response:
    """Send the same form as to `/restore`; the answer is always JSON, and the work goes on when you hang up.

    Without a `Prefer` header the answer waits for the end as long as a photo may take. With `Prefer: wait=N` it comes
    after N seconds at the latest, and with `Prefer: respond-async` at once: 202, and where to look. A job that fails
    while you wait is answered by its error, as `/restore` would; `Location` leads to the job in every case.

    With an `Idempotency-Key` a repetition of the same request means the job that is there already, however often it is
    sent, unless that has failed with a `retryable` error: then it is a new job. `webhook_url` is told when the job has
    ended.
    """
    preferences = parse_preferences(request.headers.getlist("prefer"))
    longest_s = context.gateway.settings.request_timeout_s
    patience_s = preferences.patience_s(longest_s)
    admitted = await context.admit(caller, partial(read_submission, request, caller, context, preferences))
    status = await while_connected(request.receive, _wait_for_end(jobs, admitted.job_id, patience_s))
    answered_async = patience_s == 0 or not status.state.final
    headers = {"Location": report_path(admitted.job_id)}
    if not admitted.is_new:
        headers["Idempotent-Replayed"] = "true"
    if applied := preferences.applied(longest_s, is_async=answered_async):
        headers["Preference-Applied"] = applied
    if answered_async:
        headers["Retry-After"] = str(_POLL_S)
        return _json(_describe(status), 202, headers)
    if status.state is JobState.SUCCEEDED:
        return _json(_describe(status), 200, headers)
    refusal = problems.of_service_error(request, no_result(status.state, status.failure))
    refusal.headers.update(headers)
    return refusal


@router.get(
    _PATH,
    summary="State of a restoration, and its report",
    responses=problem_responses(errors.NotFound, *ACCESS_PROBLEMS),
)
async def get_state(restoration_id: str, jobs: Jobs) -> RestorationSchema | JobSchema:
    """Where it is in the line, how far its faces are, or how it ended.

    Once it has succeeded: what was done with each face, with which seed and steps, and how long it took.
    """
    return _describe(await jobs.status(restoration_id))


@router.get(
    f"{_PATH}/result",
    summary="Image of a restoration",
    response_class=Response,
    responses={
        200: {"description": "The restored image.", "content": image_content()},
        **problem_responses(
            *(errors.NotFound, errors.NotFinished, *ENDS_OF_A_JOB, errors.QueueFull, errors.Unauthenticated),
            errors.RateLimited,
        ),
    },
)
async def get_result(restoration_id: str, jobs: Jobs, context: Context, held: HeldUntilSent) -> Response:
    """The same bytes `POST /restore` would answer with.

    409 and `Retry-After` before the end, 410 if it was cancelled; if it failed, the error that ended it. 429 while
    results that are read slowly leave no room for it.
    """
    sending = context.sending.fetched(jobs.owner, partial(jobs.result, restoration_id))
    restoration = (await held.enter_async_context(sending)).restoration
    return ResponseInParts(restoration.data, media_type=restoration.media_type)


@router.get(
    f"{_PATH}/events",
    summary="Watch a restoration",
    response_class=Response,
    responses={
        200: {"description": "Events until it has ended.", "content": event_content()},
        204: {"description": "You have seen the last event: do not connect again."},
        **problem_responses(errors.NotFound, errors.QueueFull, *ACCESS_PROBLEMS),
    },
)
async def get_events(
    restoration_id: str, request: Request, jobs: Jobs, context: Context, held: HeldUntilSent
) -> Response:
    """Server-sent events: the state now, and again whenever it changes.

    The data of each event is what a GET of the restoration answers at that moment: position in the line, steps taken,
    report or error. Events are named `status`, the last one `end`.

    A restoration that was sent with `preview` has events `preview` besides, without an id: small pictures of where its
    faces seem to arrive, at most 12 of a face and 32 of a photo, and none while there is no room to make them. Their
    data: `face_index` and `steps_done` of `num_steps`; `image`, a JPEG as a `data:` URL; `matrix`, six numbers a to f:
    the point (u, v) of the picture, from 0 to 1, lies at pixel (a u + c v + e, b u + d v + f) of the photo.
    """
    if request.headers.get("last-event-id") == LAST_ID:
        return Response(status_code=204)
    await jobs.status(restoration_id)
    held.enter_context(context.watchers.held(jobs.owner))
    return EventStream(
        events_of(
            jobs.watch(restoration_id),
            _describe,
            previews=jobs.previews(restoration_id),
            heartbeat_s=context.heartbeat_s,
            draining=lambda: context.gateway.admission.closed,
        )
    )


@router.post(
    f"{_PATH}/cancel",
    summary="Withdraw a restoration",
    responses=problem_responses(errors.NotFound, *ACCESS_PROBLEMS),
)
async def cancel(restoration_id: str, jobs: Jobs) -> RestorationSchema | JobSchema:
    """It is taken out of the line, or stopped within a few steps; one that has ended stays as it is."""
    return _describe(await jobs.cancel(restoration_id))


@router.delete(
    _PATH,
    summary="Forget a restoration",
    status_code=204,
    response_class=Response,
    responses=problem_responses(errors.NotFound, *ACCESS_PROBLEMS),
)
async def delete(restoration_id: str, jobs: Jobs) -> Response:
    """Photo, report and image are gone at once; if it has not ended yet, it is withdrawn, and nobody is told."""
    await jobs.delete(restoration_id)
    return Response(status_code=204)


async def _wait_for_end(jobs: OwnedJobs, job_id: str, patience_s: float) -> JobStatus:
    """Where a job is when it has ended or the patience has; whatever else happens, it has been admitted."""
    status = None
    with contextlib.suppress(DependencyUnavailable, Draining):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s), contextlib.aclosing(jobs.watch(job_id)) as statuses:
                async for latest in statuses:
                    status = latest
        status = status or await jobs.status(job_id)
    return status or JobStatus(job_id, JobState.QUEUED, created_s=time.time())


def _describe(status: JobStatus) -> RestorationSchema | JobSchema:
    if status.report is None:
        return JobSchema.of(status)
    return RestorationSchema.of(status.report, status.expires_s)


def _json(content: RestorationSchema | JobSchema, status: int, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(content.model_dump(mode="json"), status, headers)
