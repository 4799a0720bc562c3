"""What stands behind every interface; a photo and what is wanted of it in, an admitted job out: the same for all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace

from service.access.accounts import Reserved
from service.access.caller import Caller
from service.access.guard import Access
from service.access.ownership import OwnedJobs, scoped
from service.core.admission import Admission
from service.core.errors import DependencyUnavailable, InvalidOption, ServiceError
from service.core.interfaces import JobQueue
from service.core.jobs import Admitted, Idempotency, PhotoJob
from service.core.results import StoredResult
from service.core.sending import SendingRoom
from service.core.types import Lane, Restoration, RestoreOptions, Upload
from service.gateway import Gateway, new_job
from service.webhooks.targets import OPTION, WebhookTargets

MAX_KEY_CHARS = 255


@dataclass(frozen=True, slots=True)
class Submission:
    """What a caller asks for.

    Attributes:
        caller: Who asks.
        upload: The photo, or the id of an earlier restoration that keeps it.
        options: The caller's choices.
        lane: Interactive if the caller waits for the end, else batch.
        webhook_url: Who is told how it ended; empty for nobody.
        idempotency_key: Makes a repetition the same job; None for a job of its own.
        keep_upload: Whether the photo stays as long as the job is remembered.
        previews: Whether those who watch are shown faces on their way.
    """

    caller: Caller
    upload: Upload | str
    options: RestoreOptions
    lane: Lane
    webhook_url: str = ""
    idempotency_key: str | None = None
    keep_upload: bool = False
    previews: bool = False

    @property
    def wishes(self) -> list[str]:
        """What is wanted beyond the result."""
        return [*["keep_image"] * self.keep_upload, *["preview"] * self.previews]


@dataclass(frozen=True, slots=True)
class Parts:
    """What stands behind every interface, put together by the composition root.

    Attributes:
        gateway: Restores photos.
        jobs: Queue of photos, and what became of them.
        uploads: Bounds the photos that are received for requests of one photo, by all interfaces together.
        sending: Bounds the results that are being sent, likewise.
        access: Who may come in, and what he may use.
        webhooks: Where notices may go, or None where none are sent.
        reasons_not_ready: Why photos cannot be restored now; empty when they can.
    """

    gateway: Gateway
    jobs: JobQueue
    uploads: Admission
    sending: SendingRoom
    access: Access
    webhooks: WebhookTargets | None
    reasons_not_ready: Callable[[], Awaitable[list[str]]]

    async def keep(self, restoration: Restoration, owner: str) -> StoredResult | None:
        """Keep the result of a photo that was restored while its owner waited; None: it cannot be fetched again."""
        with contextlib.suppress(DependencyUnavailable):
            return await self.jobs.keep(restoration, owner)
        return None

    async def admit(self, caller: Caller, read: Callable[[], Awaitable[Submission]]) -> Admitted:
        """Read a request, refuse what is bound to fail, and queue the rest.

        The photo is not held beyond that: from here on it is the queue's.

        Args:
            caller: Who asks.
            read: Receives the request.

        Raises:
            InputError: The request, the photo's header, an option or the webhook is at fault.
            UploadGone: The photo of an earlier restoration is not kept.
            IdempotencyConflict: The key belongs to another request.
            QuotaExceeded: The caller has spent his.
            QueueFull: There is no room; come back later.
            Draining: The process is shutting down.
        """
        with self.gateway.metrics.refusals_counted():
            self.gateway.admission.check_open()
            async with self.uploads.place(caller.owner):
                return await self._bring(await read())

    async def _bring(self, submission: Submission) -> Admitted:
        webhook_url = self._webhook_url(submission.webhook_url)
        caller, options = submission.caller, submission.options
        same = await self._same(submission, webhook_url)
        if isinstance(submission.upload, Upload):
            upload = submission.upload
        else:  # it may be gone when the request is repeated
            if same is not None and (known := await self.jobs.known_by(same)) is not None:
                return Admitted(known, is_new=False)
            upload = await OwnedJobs(self.jobs, caller.owner).upload(submission.upload)
        photo_px = await self.gateway.check(upload, options)
        mark = "" if same is None else f"{submission.idempotency_key}\0{same.fingerprint}"
        reserved = await self.access.accounts.reserve(caller, photo_px, mark)
        job = new_job(
            upload,
            options,
            submission.lane,
            within_s=self.gateway.settings.job_timeout_s,
            owner=caller.owner,
            webhook_url=webhook_url,
            charge=reserved.charge,
        )
        job = replace(job, keep_upload=submission.keep_upload, previews=submission.previews)
        try:
            self.gateway.admission.check_open()  # the upload may have taken long, and nobody is left to take the job
            admitted = await self.jobs.admit(job, same)
        except ServiceError:
            await self.access.accounts.release(reserved, mark)
            raise
        await self._reconcile(caller, job, reserved, admitted)
        return admitted

    async def _same(self, submission: Submission, webhook_url: str | None) -> Idempotency | None:
        """What makes a repetition of a request the same; None where nothing does."""
        if submission.idempotency_key is None:
            return None
        wanted = (submission.upload, submission.options, webhook_url, submission.wishes)
        digest = await asyncio.to_thread(fingerprint, *wanted)
        return Idempotency(scoped(submission.idempotency_key, submission.caller.owner), digest)

    async def _reconcile(self, caller: Caller, job: PhotoJob, reserved: Reserved, admitted: Admitted) -> None:
        """Let charge and job fit: each new job was charged, and nothing else was."""
        if not admitted.is_new:
            await self.access.accounts.release(reserved)
        elif reserved.charge is not None and not reserved.is_new:  # what was charged before is a job that is gone
            try:
                await self.access.accounts.reserve(caller, reserved.charge.photo_px)
            except ServiceError:
                await self.jobs.delete(job.job_id)
                raise

    def _webhook_url(self, text: str) -> str | None:
        if not text:
            return None
        if self.webhooks is None:
            raise InvalidOption(
                f"{OPTION}: this service sends no notices",
                hint="its operator sets LATENT_PMRF_WEBHOOK_SECRET; without it, watch the restoration's events",
                option=OPTION,
            )
        self.webhooks.check(text)
        return text


def is_idempotency_key(text: str) -> bool:
    """Whether a text can be a key: 1 to `MAX_KEY_CHARS` visible ASCII characters, not only spaces."""
    return bool(text.strip()) and len(text) <= MAX_KEY_CHARS and all(" " <= character <= "~" for character in text)


def fingerprint(
    upload: Upload | str, options: RestoreOptions, webhook_url: str | None, wishes: Sequence[str] = ()
) -> str:
    """Digest of what a request asks for: the photo's bytes or id, the options as chosen, webhook, wishes."""
    told = [asdict(options), webhook_url, *wishes]
    if isinstance(upload, str):
        return hashlib.sha256(json.dumps([*told, {"image_from": upload}]).encode()).hexdigest()
    digest = hashlib.sha256(json.dumps(told).encode())
    digest.update(b"\0")  # no JSON text holds one: where it ends and the photo begins is plain
    digest.update(upload.data)
    return digest.hexdigest()
