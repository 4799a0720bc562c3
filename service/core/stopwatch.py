"""Times the stages of one photo: into its report, its trace and the service's metrics, by the stage's file name."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import ParamSpec, TypeVar

from service.core import tracing
from service.core.metrics import Metrics
from service.core.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")


class Stopwatch:
    """One photo's timings; it belongs to one request. Stages that only compute run in the pool, off the event loop."""

    def __init__(self, pool: Threads, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics
        self._begin_s = time.perf_counter()
        self._timings_ms: dict[str, float] = {}

    async def compute(self, stage: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a stage in the pool; the time counts from its start there, not from its place in the line."""
        return await self._pool.run(self._staged, stage, partial(function, *args, **kwargs))

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block, if it ends well, as a stage; in any thread."""
        with tracing.stage(name), tracing.span(name):
            begin_s = time.perf_counter()
            yield
            seconds = time.perf_counter() - begin_s
            self._timings_ms[name] = seconds * 1000
            self._metrics.observe_stage(name, seconds)

    def report_ms(self, faces_ms: Iterable[Mapping[str, float]]) -> dict[str, float]:
        """Milliseconds by stage, the longest of the faces', which are restored side by side, and `total`."""
        total_ms = (time.perf_counter() - self._begin_s) * 1000
        slowest_ms: dict[str, float] = {}
        for face_ms in faces_ms:
            slowest_ms |= {stage: max(value_ms, slowest_ms.get(stage, 0.0)) for stage, value_ms in face_ms.items()}
        merged = {**self._timings_ms, **slowest_ms, "total": total_ms}
        return {stage: round(value_ms, 3) for stage, value_ms in merged.items()}

    def _staged(self, name: str, call: Callable[[], T]) -> T:
        with self.stage(name):
            return call()
