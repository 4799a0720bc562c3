"""Network calls with an eye on the clock: how long the oldest call has been under way."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from service.core.interfaces import Arrays, InferenceBackend, Tensors
from service.core.tracing import BATCH_SIZE, span_in_trace


class WatchedBackend:
    """Implements `service.core.interfaces.InferenceBackend` by another one; the clock is monotonic, in seconds."""

    def __init__(self, backend: InferenceBackend, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend = backend
        self._clock = clock
        self._numbers = itertools.count()
        self._begun_s: dict[int, float] = {}

    @property
    def oldest_s(self) -> float:
        """Seconds since the oldest call under way was asked for, its wait for its turn included; 0 without any."""
        return self._clock() - min(self._begun_s.values()) if self._begun_s else 0.0

    @property
    def concurrent(self) -> bool:
        """Whether calls of the sampler's networks run side by side."""
        return self._backend.concurrent

    async def infer(self, network: str, inputs: Tensors) -> Arrays:
        """Run one network on a batch.

        Raises:
            ServiceError: As the other backend does.
        """
        number = next(self._numbers)
        self._begun_s[number] = self._clock()
        rows = len(next(iter(inputs.values()), ()))
        try:
            # A call for one photo is a span of its trace; those of the sampler are for many (service.sampling).
            with span_in_trace(network, {BATCH_SIZE: rows}):
                return await self._backend.infer(network, inputs)
        finally:
            del self._begun_s[number]

    async def ready(self) -> bool:
        """Whether every network can be called."""
        return await self._backend.ready()

    async def close(self) -> None:
        """Release the other backend."""
        await self._backend.close()
