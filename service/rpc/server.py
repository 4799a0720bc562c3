"""The gRPC server: our service, health and reflection on one port.

start -> calls ... finish (watchers are sent on, other calls end) -> stop
"""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.rpc import restoration_pb2 as pb
from service.rpc.answering import Answering
from service.rpc.bounding import Bounding
from service.rpc.context import RpcContext
from service.rpc.guarding import Guarding
from service.rpc.health import Health
from service.rpc.restoration_pb2_grpc import add_RestorationServiceServicer_to_server
from service.rpc.servicer import RestorationServicer

SERVICE = pb.DESCRIPTOR.services_by_name["RestorationService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_FAREWELL_S = 1.0  # for what is no call of ours


class RpcServer:
    """Serves until it is stopped.

    Args:
        context: The parts behind the calls.
        address: `HOST:PORT`; port 0 is any that is free.
        credentials: TLS, or None for connections in the clear.

    Raises:
        RuntimeError: The address cannot be listened on.
    """

    def __init__(self, context: RpcContext, address: str, credentials: grpc.ServerCredentials | None = None) -> None:
        self._left = asyncio.Event()
        metrics = context.gateway.metrics
        self._bounding = Bounding(context, SERVICE, f"/{_HEALTH}/Check")
        self._server = grpc.aio.server(
            interceptors=(
                Answering(SERVICE, metrics, context.sending),
                Guarding(context.access, SERVICE, _HEALTH, metrics),
                self._bounding,
            ),
            options=_options(context.max_message_bytes),
        )
        add_RestorationServiceServicer_to_server(RestorationServicer(context, self._left), self._server)
        health = Health((SERVICE,), context.reasons_not_ready, self._left)
        health_pb2_grpc.add_HealthServicer_to_server(health, self._server)
        reflection.enable_server_reflection((SERVICE, _HEALTH, reflection.SERVICE_NAME), self._server)
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()

    async def finish(self) -> None:
        """Send those on who only watch, and wait for the calls under way; who asks meanwhile is answered, too."""
        self._left.set()
        await self._bounding.emptied()

    async def stop(self) -> None:
        """Take no more calls, and cancel those under way."""
        await self._server.stop(_FAREWELL_S)


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.so_reuseport", 0),  # two processes on one port would share its calls at random
        # A caller that is gone is noticed within 80 s, also while nothing is sent.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Callers may ask as often as every ten seconds whether we are still here.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
