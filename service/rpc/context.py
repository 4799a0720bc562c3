"""What the servicer needs, put together by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.access.guard import Access
from service.core.admission import Admission
from service.core.interfaces import JobQueue
from service.core.sending import SendingRoom
from service.core.windows import StreamRoom
from service.gateway import Gateway
from service.submission import Submissions
from service.webhooks.targets import WebhookTargets


@dataclass(frozen=True, slots=True)
class RpcContext:
    """The parts behind the calls.

    Attributes:
        gateway: Restores photos.
        jobs: Queue of photos, and what became of them.
        uploads: Bounds the photos that are received for calls of one photo; HTTP's bound, too.
        room: Bounds what streams hold.
        sending: Bounds the results of jobs that are being sent; HTTP's bound, too.
        access: Who may come in, and what he may use.
        webhooks: Where notices may go, or None where none are sent.
        reasons_not_ready: Why photos cannot be restored now; empty when they can.
        draining: Returns when the process begins to shut down.
    """

    gateway: Gateway
    jobs: JobQueue
    uploads: Admission
    room: StreamRoom
    sending: SendingRoom
    access: Access
    webhooks: WebhookTargets | None
    reasons_not_ready: Callable[[], Awaitable[list[str]]]
    draining: Callable[[], Awaitable[object]]

    @property
    def submissions(self) -> Submissions:
        """Where jobs are brought."""
        return Submissions(self.gateway, self.jobs, self.webhooks, self.access.accounts)

    @property
    def max_upload_bytes(self) -> int:
        """Largest photo."""
        return self.gateway.settings.max_upload_bytes

    @property
    def max_message_bytes(self) -> int:
        """Largest message in either direction."""
        return self.gateway.settings.grpc_max_message_bytes
