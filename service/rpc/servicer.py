"""The calls of `restoration.v1`: messages in, one call of the core each, messages out. Errors are the caller's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc

from service.access.caller import Caller
from service.access.ownership import OwnedJobs, new_job_id
from service.core.arriving import arriving
from service.core.errors import (
    DependencyUnavailable,
    Draining,
    ImageTooLarge,
    MalformedRequest,
    QueueFull,
    check_upload_bytes,
)
from service.core.jobs import JobState, JobStatus
from service.core.sending import PART_BYTES
from service.core.types import Lane
from service.rpc import restoration_pb2 as pb
from service.rpc.batch import restore_batch
from service.rpc.context import RpcContext
from service.rpc.guarding import caller_of
from service.rpc.messages import (
    job_of,
    limits_of,
    options_of,
    parts_of,
    report_of,
    upload_of,
)
from service.rpc.restoration_pb2_grpc import RestorationServiceServicer
from service.rpc.watching import awaited_here, while_here
from service.submission import MAX_KEY_CHARS, Submission, is_idempotency_key

Context = grpc.aio.ServicerContext[Any, Any]


class RestorationServicer(RestorationServiceServicer):
    """Answers calls; safe for many at once.

    Args:
        context: The parts behind it.
        left: Set when jobs are better watched elsewhere.
    """

    def __init__(self, context: RpcContext, left: asyncio.Event) -> None:
        self._context = context
        self._left = left

    async def Restore(self, request: pb.RestoreRequest, context: Context) -> pb.RestoreResponse:
        """A photo while the caller waits."""
        parts, gateway, accounts = self._context, self._context.gateway, self._context.access.accounts
        caller = caller_of(parts.access, context.invocation_metadata())
        job_id = new_job_id(caller.owner)
        async with contextlib.AsyncExitStack() as held:
            with gateway.metrics.refusals_counted():  # what the gateway refuses it counts itself
                await held.enter_async_context(parts.uploads.place(caller.owner))
                upload = upload_of(request.image, parts.max_upload_bytes)
                options = options_of(request.options, gateway.option_limits)
                parts.sending.check(caller.owner)
                charge = await accounts.charge(caller, partial(gateway.check, upload, options))
            until_s = _until_s(context)
            work = partial(gateway.restore, upload, options, job_id=job_id, until_s=until_s)
            restoration = await accounts.settled(charge, job_id, work, until_s=until_s)
        stored = await parts.keep(restoration, caller.owner)
        report = report_of(restoration.report, None if stored is None else stored.expires_at_s)
        response = pb.RestoreResponse(image=restoration.data, report=report)
        if response.ByteSize() <= parts.max_message_bytes:
            try:
                let_go = await parts.sending.hold(caller.owner, len(restoration.data))
            except QueueFull:
                if stored is None:
                    raise
                return pb.RestoreResponse(report=report)
            context.add_done_callback(lambda _context: let_go())  # type: ignore[arg-type] # any callable will do
            return response
        if stored is None:
            raise ImageTooLarge(
                f"the result has {len(restoration.data)} bytes, and could not be kept to be fetched in parts",
                hint="use RestoreBatch, or choose a smaller upscale or another output_format",
                result_bytes=len(restoration.data),
                max_message_bytes=parts.max_message_bytes,
            )
        return pb.RestoreResponse(report=report)

    async def RestoreBatch(
        self, request_iterator: AsyncIterator[pb.RestoreBatchRequest], context: Context
    ) -> AsyncIterator[pb.RestoreBatchResponse]:
        """Many photos."""
        caller = caller_of(self._context.access, context.invocation_metadata())
        responses = restore_batch(self._context, caller, request_iterator, _until_s(context))
        async with contextlib.aclosing(responses):
            async for response in responses:
                yield response

    async def Submit(self, request_iterator: AsyncIterator[pb.SubmitRequest], context: Context) -> pb.SubmitResponse:
        """A photo as a job."""
        parts = self._context
        caller = caller_of(parts.access, context.invocation_metadata())
        admitted = await parts.admit(caller, partial(self._read_submission, caller, request_iterator))
        status = await _status_of_new(OwnedJobs(parts.jobs, caller.owner), admitted.job_id)
        return pb.SubmitResponse(job=job_of(status), idempotent_replayed=not admitted.is_new)

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:
        """A job."""
        jobs = self._jobs(context)
        return pb.GetResponse(job=job_of(await jobs.status(request.id)))

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        """A job, again and again."""
        jobs = self._jobs(context)
        async with contextlib.aclosing(while_here(jobs.watch(request.id), self._left)) as statuses:
            async for status in statuses:
                yield pb.WatchResponse(job=job_of(status))

    async def GetResult(  # type: ignore[override] # the library lets who writes by himself return nothing
        self, request: pb.GetResultRequest, context: Context
    ) -> None:
        """A job's image; each part is written in time, or the call ends."""
        sending, part_bytes = self._context.sending, min(PART_BYTES, self._context.max_message_bytes)
        jobs = self._jobs(context)
        async with sending.fetched(jobs.owner, partial(jobs.result, request.id)) as stored:
            data, report = stored.restoration.data, report_of(stored.restoration.report, stored.expires_at_s)
            for index, part in enumerate(parts_of(data, report, part_bytes)):
                response = pb.GetResultResponse(data=part)
                if index == 0:
                    response.report.CopyFrom(report)
                    response.size_bytes = len(data)
                await sending.in_time(context.write(response))

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        """The end of a job."""
        jobs = self._jobs(context)
        return pb.CancelResponse(job=job_of(await jobs.cancel(request.id)))

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        """The end of all that is known of a job."""
        await self._jobs(context).delete(request.id)
        return pb.DeleteResponse()

    async def GetLimits(self, _request: pb.GetLimitsRequest, _context: Context) -> pb.GetLimitsResponse:
        """What is accepted."""
        gateway = self._context.gateway
        return limits_of(gateway.settings, gateway.manifest, max_window=self._context.room.max_photos)

    def _jobs(self, context: Context) -> OwnedJobs:
        """The caller's."""
        caller = caller_of(self._context.access, context.invocation_metadata())
        return OwnedJobs(self._context.jobs, caller.owner)

    async def _read_submission(self, caller: Caller, requests: AsyncIterator[pb.SubmitRequest]) -> Submission:
        parts = self._context
        first: pb.SubmitRequest | None = None
        image = bytearray()
        async with arriving(parts.gateway.settings.request_timeout_s) as come, awaited_here(self._left):
            async for request in requests:
                if first is None:
                    first = request
                elif [field.name for field, _ in request.ListFields()] not in ([], ["image"]):
                    raise MalformedRequest("messages after the first have nothing but an image")
                check_upload_bytes(len(image) + len(request.image), parts.max_upload_bytes, whole=False)
                image += request.image
                come(len(image))
        first = first or pb.SubmitRequest()
        if first.idempotency_key and not is_idempotency_key(first.idempotency_key):
            raise MalformedRequest(
                f"idempotency_key must have 1 to {MAX_KEY_CHARS} visible ASCII characters", hint="a UUID will do"
            )
        return Submission(
            caller=caller,
            upload=upload_of(bytes(image), parts.max_upload_bytes),
            options=options_of(first.options, parts.gateway.option_limits),
            lane=Lane.BATCH,
            webhook_url=first.webhook_url,
            idempotency_key=first.idempotency_key or None,
        )


async def _status_of_new(jobs: OwnedJobs, job_id: str) -> JobStatus:
    """Where a job is that has just been admitted, whatever else happens."""
    with contextlib.suppress(DependencyUnavailable, Draining):
        return await jobs.status(job_id)
    return JobStatus(job_id, JobState.QUEUED, created_s=time.time())


def _until_s(context: Context) -> float | None:
    """Unix time of a call's deadline, or None if it has none."""
    left_s = context.time_remaining()
    return None if left_s is None else time.time() + left_s
