"""What is told of each photo when it has ended, however it came: a span around all that was done, a line in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from service.core import tracing
from service.core.errors import ServiceError
from service.core.types import FaceStatus, Lane, Restoration

logger = logging.getLogger(__name__)


class PhotoLog:
    """One photo's; what is noted here is told at its end."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def size(self, width_px: int, height_px: int) -> None:
        """Note the size of the photo."""
        self._note(width_px=width_px, height_px=height_px)

    def restored(self, restoration: Restoration) -> Restoration:
        """Note what was done; returns it."""
        report = restoration.report
        restored = sum(face.status is FaceStatus.RESTORED for face in report.faces)
        self._note(faces=restored, skipped=len(report.faces) - restored, num_steps=report.num_steps)
        return restoration

    @property
    def known(self) -> dict[str, int]:
        """What has been noted."""
        return self._known

    def _note(self, **values: int) -> None:
        self._known |= values
        tracing.note({f"restore.{name}": value for name, value in values.items()})


@contextlib.contextmanager
def photo_log(lane: Lane) -> Iterator[PhotoLog]:
    """Watch a photo for the duration of the block."""
    begin_s = time.perf_counter()
    told = PhotoLog()
    with tracing.span("gateway", attributes={tracing.LANE: lane.value}):
        outcome = ServiceError.code  # unless it is known better
        try:
            yield told
        except ServiceError as error:
            outcome = error.code
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        else:
            outcome = "succeeded"
            tracing.note({tracing.OUTCOME: outcome})
        finally:
            duration_ms = round((time.perf_counter() - begin_s) * 1000, 1)
            fields = {"outcome": outcome, "lane": lane.value, **told.known, "duration_ms": duration_ms}
            logger.info("a photo has ended", extra={"fields": fields})
