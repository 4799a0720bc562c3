"""What is seen of faces on their way through the sampler: spans of their requests' traces, times, lines in the log.

    admitted -> called, called, ... -> ended

A network call is for faces of many traces. Each face has spans of its own: `queue_wait`; `sampler` from its slot to its
end; in that, one for each network, of which `velocity` spans all steps, with an event for each. So a face has at most
six spans, however many steps it takes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Span, set_span_in_context, use_span

from service.core import tracing
from service.core.errors import Cancelled, DeadlineExceeded, ServiceError
from service.core.metrics import Metrics
from service.core.types import FaceJob, FaceKey, RestoredFace

_STEPPING = "velocity"

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Traced:
    """A face whose trace is kept.

    Attributes:
        span: `sampler`.
        context: Where spans of its network calls belong.
        steps: `velocity`, from its first step on, or None.
        stepped_s: Unix time of its last step's end.
    """

    span: Span
    context: Context
    steps: Span | None = None
    stepped_s: float = 0.0

    def end(self) -> None:
        """End what is open."""
        if self.steps is not None:
            self.steps.end(tracing.nanoseconds(self.stepped_s))
        self.span.end()


class Observation:
    """Of one sampler; metrics are told how long faces take."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._traced: dict[FaceKey, _Traced] = {}

    def admitted(self, job: FaceJob) -> None:
        """A face has got a slot."""
        if job.origin is None:
            return
        tracing.waited(job.origin, {tracing.LANE: job.lane.value})
        known = {tracing.LANE: job.lane.value, tracing.NUM_STEPS: job.num_steps, "restore.face_index": job.face_index}
        span = tracing.start_span("sampler", time.time(), tracing.context_of(job.origin), known)
        if span.is_recording():
            self._traced[job.key] = _Traced(span, set_span_in_context(span))

    def called(self, network: str, jobs: Sequence[FaceJob], begin_s: float) -> None:
        """A network call has ended that was begun at `begin_s`, in Unix time."""
        end_s = time.time()
        known = {tracing.BATCH_SIZE: len(jobs)}
        for traced in filter(None, [self._traced.get(job.key) for job in jobs]):
            if network != _STEPPING:
                tracing.past_span(network, begin_s, end_s, traced.context, known)
                continue
            if traced.steps is None:
                traced.steps = tracing.start_span(network, begin_s, traced.context)
            traced.steps.add_event("step", {**known, "duration_ms": (end_s - begin_s) * 1000})
            traced.stepped_s = end_s

    def ended(self, job: FaceJob, result: RestoredFace | ServiceError, seconds: float) -> None:
        """A face has left its slot, after so many seconds."""
        traced = self._traced.pop(job.key, None)
        error = result if isinstance(result, ServiceError) else None
        if traced is not None:
            if error is None:
                traced.span.set_attribute(tracing.OUTCOME, "restored")
            else:
                tracing.blame(traced.span, error)
            traced.end()
        with tracing.within(job.origin), contextlib.nullcontext() if traced is None else use_span(traced.span):
            if error is None:
                self._metrics.observe_stage("sampler", seconds)
            _log(job, error, seconds)

    def abandoned(self, jobs: Sequence[FaceJob]) -> None:
        """Faces were taken out of their slots as they are."""
        for traced in filter(None, [self._traced.pop(job.key, None) for job in jobs]):
            traced.span.set_attribute(tracing.OUTCOME, "abandoned")
            traced.end()


def _log(job: FaceJob, error: ServiceError | None, seconds: float) -> None:
    known = {"face_index": job.face_index, "lane": job.lane.value, "duration_ms": round(seconds * 1000, 1)}
    if error is None:
        logger.info("a face is restored", extra={"fields": {**known, "num_steps": job.num_steps}})
        return
    level = logging.INFO if isinstance(error, Cancelled | DeadlineExceeded) else logging.WARNING
    known |= {"code": error.code, **({"stage": error.stage} if error.stage else {})}
    logger.log(level, "a face is not restored: %s", error.detail, extra={"fields": known})
