"""Whose a job is. The id says it, so no store has to be asked, and none can tell a stranger whether the job exists.

    new_job_id("shop") -> 24 random characters + 16 that bind them to "shop"

An id without owner is the random part alone. Who shows an id that is not his gets the answer for unknown ids, before
anybody has looked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from service.core.interfaces import JobQueue
from service.core.jobs import JobStatus, unknown_job, upload_gone
from service.core.results import StoredResult
from service.core.types import FacePreview, Upload

_RANDOM_BYTES = 18  # 144 bits, 24 characters
_RANDOM_CHARS = 24
_TAG_BYTES = 12  # 16 characters


def new_job_id(owner: str = "") -> str:
    """An id that cannot be guessed.

    Args:
        owner: Who may use it; empty: whoever knows it, where no keys are asked for.
    """
    drawn = secrets.token_urlsafe(_RANDOM_BYTES)
    return drawn + _tag(drawn, owner)


def belongs_to(job_id: str, owner: str) -> bool:
    """Whether an id was made for this owner."""
    drawn, tag = job_id[:_RANDOM_CHARS], job_id[_RANDOM_CHARS:]
    return hmac.compare_digest(tag.encode(errors="replace"), _tag(drawn, owner).encode())


def scoped(idempotency_key: str, owner: str) -> str:
    """An Idempotency-Key that is its owner's alone: no caller can send the character between the two."""
    return f"{owner}\0{idempotency_key}" if owner else idempotency_key


@dataclass(frozen=True, slots=True)
class OwnedJobs:
    """The jobs of one caller, as far as callers deal with jobs; for anybody else's they are unknown.

    Attributes:
        jobs: All jobs.
        owner: The caller's name.
    """

    jobs: JobQueue
    owner: str

    async def status(self, job_id: str) -> JobStatus:
        """As `JobQueue.status`."""
        return await self.jobs.status(self._own(job_id))

    async def result(self, job_id: str) -> StoredResult:
        """As `JobQueue.result`."""
        return await self.jobs.result(self._own(job_id))

    async def upload(self, job_id: str) -> Upload:
        """As `JobQueue.upload`."""
        if not belongs_to(job_id, self.owner):
            raise upload_gone()
        return await self.jobs.upload(job_id)

    def watch(self, job_id: str) -> AsyncGenerator[JobStatus, None]:
        """As `JobQueue.watch`, but refused at the call, not at the first status."""
        return self.jobs.watch(self._own(job_id))

    def previews(self, job_id: str) -> AsyncGenerator[FacePreview, None]:
        """As `JobQueue.previews`, but refused at the call."""
        return self.jobs.previews(self._own(job_id))

    async def cancel(self, job_id: str) -> JobStatus:
        """As `JobQueue.cancel`."""
        return await self.jobs.cancel(self._own(job_id))

    async def delete(self, job_id: str) -> None:
        """As `JobQueue.delete`."""
        await self.jobs.delete(self._own(job_id))

    def _own(self, job_id: str) -> str:
        if not belongs_to(job_id, self.owner):
            raise unknown_job()
        return job_id


def _tag(drawn: str, owner: str) -> str:
    if not owner:
        return ""
    bound = "\0".join((drawn, owner)).encode(errors="replace")  # callers may send anything for an id
    mark = hashlib.blake2b(bound, digest_size=_TAG_BYTES, person=b"lpmrf job owner")
    return base64.urlsafe_b64encode(mark.digest()).decode()
