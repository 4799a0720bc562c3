"""Around every call: how many there may be, and how long the single message of one may take to arrive.

a place among the calls -> the message -> under way -> the answer is with the caller, or he is gone -> the place is free

To the library every call has a stream of requests (`service.rpc.handlers`).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from service.core.arriving import FIRST_BYTES_S, arriving
from service.core.errors import MalformedRequest, QueueFull, ServiceError
from service.core.shares import Places
from service.rpc.context import RpcContext
from service.rpc.guarding import caller_of
from service.rpc.handlers import Behaviour, Context, behaviour_of, streaming
from service.rpc.status import abort, undecodable

_MAX_CALLS = 512  # of ours; each may hold an answer that is not read
_MAX_ELSEWHERE = 64  # of each other service
_FEWER = "make fewer at once, or come back after the time in RetryInfo"
_OWNERS_AWAITED = 64  # messages to ours without a photo that an owner lets wait at once: half arrived, each is 4 MiB
_MAX_AWAITED = 64  # messages to all others, of up to 4 MiB each: most are for everybody, and not counted


class Bounding(grpc.aio.ServerInterceptor):
    """Bounds the calls of all services, and knows which of ours are under way.

    Args:
        context: The parts behind our calls.
        ours: Full name of our service; its errors are told by who is around this (`Answering`).
        uncounted: A method that is answered however many calls there are.
        max_calls: Calls of ours at once.
    """

    def __init__(self, context: RpcContext, ours: str, uncounted: str, *, max_calls: int = _MAX_CALLS) -> None:
        self._context = context
        self._ours = ours
        self._with_photo = f"/{ours}/Restore"
        self._uncounted = uncounted
        self._calls = defaultdict(lambda: Places(_MAX_ELSEWHERE, "calls", hint=_FEWER))
        self._calls[ours] = Places(max_calls, "calls", hint=_FEWER)
        self._awaited = _Awaited(_MAX_AWAITED)
        self._owners_awaited = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(_OWNERS_AWAITED))
        self._under_way = 0
        self._left = asyncio.Event()

    async def emptied(self) -> None:
        """Wait until no call of ours is under way; one whose message or whose reader is waited for is not."""
        while self._under_way:
            self._left.clear()
            await self._left.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find who answers a call, and bound it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        bounded = self._bounded(str(handler_call_details.method), handler, behaviour_of(handler))
        return streaming(handler, bounded, handler.request_deserializer if handler.request_streaming else None)

    def _bounded(self, method: str, handler: grpc.RpcMethodHandler[Any, Any], behaviour: Behaviour) -> Behaviour:
        if inspect.isasyncgenfunction(behaviour):

            async def generate(requests: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401 - any service's
                async with (
                    self._begun(method, handler, requests, context) as request,
                    contextlib.aclosing(behaviour(request, context)) as responses,
                ):
                    async for response in responses:
                        yield response

            return generate

        async def answer(requests: Any, context: Context) -> Any:  # noqa: ANN401 - any service's
            async with self._begun(method, handler, requests, context) as request:
                return await behaviour(request, context)

        return answer

    @contextlib.asynccontextmanager
    async def _begun(
        self,
        method: str,
        handler: grpc.RpcMethodHandler[Any, Any],
        requests: Any,  # noqa: ANN401 - any service's
        context: Context,
    ) -> AsyncIterator[Any]:
        """A call, from when there is room for it and it has what it begins with."""
        service = method.split("/")[1]
        owner = caller_of(self._context.access, context.invocation_metadata()).owner if service == self._ours else ""
        try:
            if method != self._uncounted:
                self._calls[service].take(owner)
                leave = partial(self._calls[service].give_back, owner)  # when its caller has its end, or is gone
                context.add_done_callback(lambda _context: leave())  # type: ignore[arg-type] # any callable will do
            request = requests
            if not handler.request_streaming:
                request = await self._message(method, owner, handler.request_deserializer, context)
        except ServiceError as error:
            if service == self._ours:
                raise
            await abort(context, error)
        self._under_way += service == self._ours
        try:
            yield request
        finally:
            self._under_way -= service == self._ours
            self._left.set()

    async def _message(self, method: str, owner: str, read: Callable[[bytes], Any] | None, context: Context) -> Any:  # noqa: ANN401
        """The single message of a call; one that may have a photo has the time of a photo, and a place meanwhile."""
        gateway = self._context.gateway
        longest_s = FIRST_BYTES_S
        async with contextlib.AsyncExitStack() as held:
            if not method.startswith(f"/{self._ours}/"):
                await held.enter_async_context(self._awaited.place())
            elif method == self._with_photo:
                longest_s = gateway.settings.request_timeout_s
                with gateway.metrics.refusals_counted():
                    await held.enter_async_context(self._context.uploads.place(owner))
            async with arriving(longest_s, longest_s):
                if owner and method != self._with_photo:
                    await held.enter_async_context(self._owners_awaited[owner])
                message = await context.read()
        if message is grpc.aio.EOF:
            await asyncio.sleep(0)  # who has gone is cancelled now
            raise MalformedRequest("the call has no message", hint="see restoration.proto")
        try:
            return message if read is None else read(message)
        except DecodeError as error:
            raise undecodable() from error


class _Awaited:
    """Messages that are awaited: an honest one comes with its call, so the call that has waited longest makes room.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._ends: dict[asyncio.Timeout, None] = {}  # in the order in which they began

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a message in the block.

        Raises:
            QueueFull: Others came, and it was still not there.
        """
        if len(self._ends) >= self._most:
            oldest = next(iter(self._ends))
            del self._ends[oldest]
            oldest.reschedule(0)
        try:
            async with asyncio.timeout(None) as end:
                self._ends[end] = None
                try:
                    yield
                finally:
                    self._ends.pop(end, None)
        except TimeoutError as error:
            if not end.expired():
                raise
            raise QueueFull("the message was not there when others came", hint="send it with its call") from error
