"""Which job a caller's `Idempotency-Key` stands for, in this process."""

from __future__ import annotations

from service.brokers.intake import key_conflict
from service.brokers.memory_job import MemoryJob
from service.core.jobs import Idempotency


class MemoryKeys:
    """Keys of jobs that are remembered."""

    def __init__(self) -> None:
        self._jobs: dict[str, MemoryJob] = {}

    def find(self, idempotency: Idempotency) -> MemoryJob | None:
        """The job that a request repeats; None for one that is to be admitted.

        Raises:
            IdempotencyConflict: The key was used for another photo or other options.
        """
        entry = self._jobs.get(idempotency.key)
        if entry is None:
            return None
        if entry.idempotency != idempotency:
            raise key_conflict()
        may_be_tried_again = entry.failure is not None and entry.failure.to_error().retryable
        return None if may_be_tried_again else entry

    def note(self, entry: MemoryJob) -> None:
        """From now on a job's key stands for it."""
        if entry.idempotency is not None:
            self._jobs[entry.idempotency.key] = entry

    def forget(self, entry: MemoryJob) -> None:
        """A job is not remembered any more; its key may stand for another one by now."""
        if entry.idempotency is not None and self._jobs.get(entry.idempotency.key) is entry:
            del self._jobs[entry.idempotency.key]
