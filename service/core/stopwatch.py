"""Times the stages of one photo: into its report, its trace and the service's metrics, by the stage's file name."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

from service.core import tracing
from service.core.metrics import Metrics

P = ParamSpec("P")
T = TypeVar("T")


class Stopwatch:
    """One photo's timings; it belongs to one request.

    Args:
        pool: Where stages that only compute run, off the event loop.
        metrics: Told about every stage.
    """

    def __init__(self, pool: Executor, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics
        self._begin_s = time.perf_counter()
        self._timings_ms: dict[str, float] = {}

    async def compute(self, stage: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a stage in the pool; the time counts from its start there, not from its place in the line."""
        call = partial(function, *args, **kwargs)
        with _named(stage):
            run = partial(contextvars.copy_context().run, _timed, call)  # what it logs belongs to the photo, too
            result, seconds = await asyncio.get_running_loop().run_in_executor(self._pool, run)
            self._note(stage, seconds)
        return result

    async def wait(self, stage: str, work: Awaitable[T]) -> T:
        """Await a stage that hands its work elsewhere."""
        begin_s = time.perf_counter()
        with _named(stage):
            result = await work
            self._note(stage, time.perf_counter() - begin_s)
        return result

    def report_ms(self, others_ms: Mapping[str, float]) -> dict[str, float]:
        """Milliseconds by stage, with those another process measured, and `total` since construction."""
        total_ms = (time.perf_counter() - self._begin_s) * 1000
        merged = {**self._timings_ms, **others_ms, "total": total_ms}
        return {stage: round(value_ms, 3) for stage, value_ms in merged.items()}

    def _note(self, stage: str, seconds: float) -> None:
        self._timings_ms[stage] = seconds * 1000
        self._metrics.observe_stage(stage, seconds)


@contextlib.contextmanager
def _named(stage: str) -> Iterator[None]:
    with tracing.stage(stage), tracing.span(stage):
        yield


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    begin_s = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begin_s
