"""Around every call of ours: its count and duration for the metrics, its errors as statuses.

behaviour -> answer | ServiceError | anything else -> answer | status with details
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.trace import Span

from service.core.errors import ServiceError, defect
from service.core.metrics import Metrics
from service.core.sending import SendingRoom
from service.core.tracing import correlation_headers, end_request, serving
from service.rpc.handlers import Behaviour, Context, behaviour_of, streaming
from service.rpc.status import abort, code_of, undecodable

_OURS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

logger = logging.getLogger(__name__)


class Answering(grpc.aio.ServerInterceptor):
    """Wraps the calls of one service; others pass.

    Args:
        service: Full name of the service; to the library each of its calls has a stream of requests (`Bounding`).
        metrics: Told about every call.
        sending: Bounds the time in which one of many answers is read.
    """

    def __init__(self, service: str, metrics: Metrics, sending: SendingRoom) -> None:
        self._prefix = f"/{service}/"
        self._metrics = metrics
        self._sending = sending

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find who answers a call, and watch him."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith(self._prefix):
            return handler
        return streaming(handler, self._watched(method, behaviour_of(handler)), handler.request_deserializer)

    def _watched(self, method: str, behaviour: Behaviour) -> Behaviour:
        if inspect.isasyncgenfunction(behaviour):
            # A coroutine to the server, so that a call which ends early closes the generator then and there.
            async def write_all(requests: Any, context: Context) -> None:  # noqa: ANN401 - any of the service's
                async with (
                    self._told(method, context),
                    contextlib.aclosing(behaviour(requests, context)) as responses,
                ):
                    async for response in responses:
                        await self._sending.in_time(context.write(response))

            return write_all

        async def answer(requests: Any, context: Context) -> Any:  # noqa: ANN401 - any of the service's
            async with self._told(method, context):
                return await behaviour(requests, context)

        return answer

    @contextlib.asynccontextmanager
    async def _told(self, method: str, context: Context) -> AsyncIterator[None]:
        name = method.lstrip("/")
        with serving(name, _metadata(context), {"rpc.system": "grpc", "rpc.method": name}) as call:
            context.set_trailing_metadata(tuple(correlation_headers().items()))
            async with self._counted(method, context, call):
                yield

    @contextlib.asynccontextmanager
    async def _counted(self, method: str, context: Context, call: Span) -> AsyncIterator[None]:
        """Count and time a call before its caller hears of its end."""
        begin_s = time.perf_counter()
        code = grpc.StatusCode.OK
        told: ServiceError | None = None
        try:
            yield
        except ServiceError as error:
            told, code = error, code_of(error)
            if code is grpc.StatusCode.INTERNAL:
                known = {"code": error.code, **({"stage": error.stage} if error.stage else {})}
                logger.error("%s %s: %s", method, error.code, error.detail, extra={"fields": known})
        except DecodeError:
            told = undecodable()
            code = code_of(told)
        except asyncio.CancelledError:
            left_s = context.time_remaining()
            is_late = left_s is not None and left_s <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL
            instance = uuid.uuid4().urn
            logger.exception("%s %s", instance, method)
            told = defect()
            told.extra["instance"] = instance
        finally:
            self._account(method, code, time.perf_counter() - begin_s, call)
        if told is not None:
            # Who does not read what was written before does not hear of the end either, and lets us wait for him: the
            # photo that the call was about is not kept for that.
            traceback.clear_frames(told.__traceback__)
            await abort(context, told)

    def _account(self, method: str, code: grpc.StatusCode, seconds: float, call: Span) -> None:
        self._metrics.requests(method, code.name)
        self._metrics.observe_request(method, seconds)
        error_type = code.name if code in _OURS else None
        end_request(call, method.lstrip("/"), {"rpc.response.status_code": code.name}, error_type=error_type)
        fields = {"method": method, "status": code.name, "duration_ms": round(seconds * 1000, 1)}
        logger.info("answered", extra={"fields": fields})


def _metadata(context: Context) -> dict[str, str]:
    """What the caller says beside his message; of values that are there twice the last one, no binary ones."""
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
