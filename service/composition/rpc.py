"""gRPC beside HTTP in one process: the same parts behind both, and one way to end.

signal -> drain (both still answer) -> calls under way end -> HTTP stops -> gRPC stops
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from service.composition.tls import Tls
from service.core.settings import ENV_PREFIX, Settings, UnusableSettings
from service.core.windows import StreamRoom
from service.rpc.context import RpcContext
from service.rpc.server import RpcServer

_ANY_PORT = -1
_PHOTOS_PER_PLACE = 4


@contextlib.asynccontextmanager
async def rpc_beside(
    context: RpcContext, host: str, say: Callable[[str], None], tls: Tls | None = None
) -> AsyncIterator[RpcServer | None]:
    """Serve gRPC for the duration of the block, unless the operator wants none.

    A default port that is taken is no reason not to serve HTTP; one that the operator has chosen is.

    Args:
        context: The parts behind the calls.
        host: Where HTTP listens.
        say: Told the address.
        tls: How connections are encrypted; None: in the clear.

    Raises:
        UnusableSettings: The port that the operator has chosen cannot be listened on.
    """
    settings = context.gateway.settings
    if settings.grpc_port == 0:
        yield None
        return
    shown_host = f"[{host}]" if ":" in host else host
    address = f"{shown_host}:{0 if settings.grpc_port == _ANY_PORT else settings.grpc_port}"
    try:
        server = RpcServer(context, address, None if tls is None else tls.for_grpc())
    except RuntimeError as error:
        if "grpc_port" in settings.model_fields_set:
            raise UnusableSettings(f"{ENV_PREFIX}GRPC_PORT: cannot listen on {address}") from error
        say(f"No gRPC: {address} is taken. {ENV_PREFIX}GRPC_PORT chooses another port, or 0 for none")
        yield None
        return
    try:
        await server.start()
        say(f"gRPC{' with TLS' if tls else ''} on {shown_host}:{server.port}")
        yield server
    finally:
        await server.stop()


def stream_room(settings: Settings) -> StreamRoom:
    """What gRPC streams may hold: half of the photos that are restored at once, and a line in front of them."""
    places = settings.max_concurrent_photos
    return StreamRoom(
        at_once=max(1, places // 2), max_photos=_PHOTOS_PER_PLACE * places, max_bytes=settings.stream_bytes
    )
