"""What the service tells of itself during a run: the difference of its metrics, and its memory."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loadtest.process import RunningService

_BEAT_S = 0.5
_LEAST_LOOKS = 8
_MIB = 1024 * 1024

Counts = dict[str, float]
"""Values by name and labels, as they are written in the exposition."""


@dataclass(slots=True)
class Observation:
    """Of one run.

    Attributes:
        before: Counters at its beginning.
        after: Counters at its end.
        memory_mib: Resident memory, (seconds, MiB).
    """

    before: Counts = field(default_factory=dict)
    after: Counts = field(default_factory=dict)
    memory_mib: list[tuple[float, float]] = field(default_factory=list)

    def grown(self, name: str) -> float:
        """Growth of a counter."""
        return self.after.get(name, 0.0) - self.before.get(name, 0.0)

    def mean(self, name: str, labels: str = "") -> float | None:
        """Mean of what a histogram was told meanwhile; None when it was told nothing."""
        count = self.grown(f"{name}_count{labels}")
        return self.grown(f"{name}_sum{labels}") / count if count else None

    @property
    def peak_mib(self) -> float:
        """Largest resident memory seen."""
        return max((mib for _, mib in self.memory_mib), default=0.0)

    @property
    def slope_mib_per_min(self) -> float | None:
        """Growth of the resident memory over the second half, by least squares; None when it was hardly looked at."""
        half = self.memory_mib[len(self.memory_mib) // 2 :]
        if len(half) < _LEAST_LOOKS:
            return None
        return statistics.linear_regression(*zip(*half, strict=True)).slope * 60


@contextlib.asynccontextmanager
async def observing(service: RunningService) -> AsyncIterator[Observation]:
    """Watch the service for the duration of the block."""
    observation = Observation()
    begun_s = time.perf_counter()
    async with httpx.AsyncClient(base_url=str(service.client.base_url), timeout=60.0) as client:
        observation.before = await _counts(client)

        async def watch() -> None:
            while True:
                mib = await asyncio.to_thread(service.resident_bytes) / _MIB
                observation.memory_mib.append((time.perf_counter() - begun_s, mib))
                await asyncio.sleep(_BEAT_S)

        watching = asyncio.create_task(watch())
        try:
            yield observation
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            observation.after = await _counts(client)


async def _counts(client: httpx.AsyncClient) -> Counts:
    told = (await client.get("/metrics")).raise_for_status().text
    return {
        sample.name + "".join(f"[{name}={value}]" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(told)
        for sample in family.samples
    }
