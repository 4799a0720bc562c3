"""What the servicer needs, put together by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.core.windows import StreamRoom
from service.submission import Parts


@dataclass(frozen=True, slots=True)
class RpcContext(Parts):
    """The parts behind the calls.

    Attributes:
        room: Bounds what streams hold.
        draining: Returns when the process begins to shut down.
    """

    room: StreamRoom
    draining: Callable[[], Awaitable[object]]

    @property
    def max_upload_bytes(self) -> int:
        """Largest photo."""
        return self.gateway.settings.max_upload_bytes

    @property
    def max_message_bytes(self) -> int:
        """Largest message in either direction."""
        return self.gateway.settings.grpc_max_message_bytes
