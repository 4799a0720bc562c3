"""`grpc.health.v1`: the same readiness as HTTP's /readyz, asked for when somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.core.tasks import pause

_LOOK_S = 1.0

Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """Says whether photos can be restored now.

    Args:
        services: Full names that may be asked for, besides "" for the whole server.
        reasons_not_ready: Why not; empty when they can.
        left: Set when nothing more can be seen from here.
    """

    def __init__(
        self,
        services: Collection[str],
        reasons_not_ready: Callable[[], Awaitable[list[str]]],
        left: asyncio.Event,
    ) -> None:
        self._services = {"", *services}
        self._reasons_not_ready = reasons_not_ready
        self._left = left

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Response:
        """Answer once."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:80]!r}")
        return await self._look()

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Response]:
        """Answer now, and whenever it changes."""
        if request.service not in self._services:
            yield Response(status=Response.SERVICE_UNKNOWN)
            await self._left.wait()  # the protocol keeps the call open: a service may come
        told = None
        while not self._left.is_set():
            response = await self._look()
            if response != told:
                told = response
                yield response
            await pause(_LOOK_S, self._left)

    async def _look(self) -> Response:
        ready = not await self._reasons_not_ready()
        return Response(status=Response.SERVING if ready else Response.NOT_SERVING)
