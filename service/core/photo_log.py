"""What is told of each photo when it has ended, however it came: a span around all that was done, a line in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from service.core import tracing
from service.core.errors import DeadlineExceeded, ServiceError
from service.core.interfaces import OnProgress
from service.core.jobs import CLOCKS_DIFFER_S, Progress
from service.core.metrics import Metrics
from service.core.types import FaceStatus, Lane, Restoration

SUCCEEDED = "succeeded"
CANCELLED = "cancelled"

FACES_DONE = "faces_done"
"""How many faces were restored before a deadline, in `DeadlineExceeded.extra`."""

logger = logging.getLogger(__name__)


class PhotoLog:
    """One photo's; what is noted here is told at its end."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._begin_s = time.perf_counter()
        self._known: dict[str, int] = {}
        self.faces_done = 0

    def follow(self, on_progress: OnProgress | None) -> OnProgress:
        """To be told how far the faces are: that is noted here, and passed on."""

        def note(progress: Progress) -> None:
            self.faces_done = progress.faces_done
            if on_progress is not None:
                on_progress(progress)

        return note

    def restored(self, restoration: Restoration) -> Restoration:
        """Note what was done; returns it."""
        report = restoration.report
        restored = sum(face.status is FaceStatus.RESTORED for face in report.faces)
        self.note(faces=restored, skipped=len(report.faces) - restored, num_steps=report.num_steps)
        return restoration

    def tell(self, outcome: str) -> None:
        """Write the photo's line: `succeeded`, `cancelled` or an error's code, and what is known."""
        duration_ms = round((time.perf_counter() - self._begin_s) * 1000, 1)
        fields = {"outcome": outcome, "lane": self._lane.value, **self._known, "duration_ms": duration_ms}
        logger.info("a photo has ended", extra={"fields": fields})

    def note(self, **values: int) -> None:
        """Note what is known of the photo, in the log's names."""
        self._known |= values
        tracing.note({f"restore.{name}": value for name, value in values.items()})


def note_outcome(outcome: Restoration | ServiceError) -> None:
    """Note on the span around the caller what a photo's work ended with: an error that nobody raises, too."""
    if isinstance(outcome, ServiceError):
        tracing.note_failure(outcome)
    else:
        tracing.note({tracing.OUTCOME: SUCCEEDED})


def ended_by_caller(error: ServiceError, until_s: float | None) -> bool:
    """Whether a photo failed because its caller had no more time; `until_s` is the Unix time of that, or None."""
    return isinstance(error, DeadlineExceeded) and until_s is not None and until_s < time.time() + CLOCKS_DIFFER_S


def count_failed(metrics: Metrics, error: ServiceError, until_s: float | None) -> None:
    """Count a photo that has failed; one that was `ended_by_caller` as if he had hung up."""
    metrics.photos(CANCELLED) if ended_by_caller(error, until_s) else metrics.photo_failed(error.code)


@contextlib.contextmanager
def photo_log(lane: Lane, kept: PhotoLog | None = None) -> Iterator[PhotoLog]:
    """Watch a photo for the duration of the block, which is its end; of one that ends later, `kept` takes note."""
    log = PhotoLog(lane) if kept is None else kept
    with tracing.span("gateway", attributes={tracing.LANE: lane.value}):
        outcome = ServiceError.code  # unless it is known better
        try:
            yield log
        except ServiceError as error:
            outcome = error.code
            if isinstance(error, DeadlineExceeded):
                error.extra[FACES_DONE] = log.faces_done
            raise
        except asyncio.CancelledError:
            outcome = CANCELLED
            raise
        else:
            outcome = SUCCEEDED
            tracing.note({tracing.OUTCOME: outcome})
        finally:
            if kept is None:
                log.tell(outcome)
