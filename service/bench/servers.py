"""How requests are served without step-level batching: what the bench compares the sampler with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from service.core.interfaces import Broker
from service.core.types import FaceJob
from service.sampling.phases import Phases

_IDLE_WAIT_S = 0.1


class WholeRequestServer:
    """Batches requests, not steps: nobody joins a batch that has begun, and it ends as a whole.

    A batch begins as soon as the last one has ended and anyone waits, with `max_rows` faces at most. It lasts as long
    as the face that wants most steps; a face that wants fewer takes no rows after its last one, and waits for the
    others. With one row, faces are served one at a time.

    Args:
        broker: The queue.
        phases: The networks.
        max_rows: Most faces of a batch.
    """

    def __init__(self, broker: Broker, phases: Phases, max_rows: int) -> None:
        self._broker = broker
        self._phases = phases
        self._max_rows = max_rows

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; a batch that has begun is finished."""
        while not stop.is_set():
            jobs = await self._broker.take(self._max_rows, _IDLE_WAIT_S)
            if jobs:
                await self._serve(jobs)

    async def _serve(self, jobs: Sequence[FaceJob]) -> None:
        faces = await self._phases.enter(jobs)
        while going := [index for index, face in enumerate(faces) if not face.arrived]:
            advanced = await self._phases.advance([faces[index] for index in going])
            for index, face in zip(going, advanced, strict=True):
                faces[index] = face
        for result in await self._phases.leave(faces):
            await self._broker.complete(result)
