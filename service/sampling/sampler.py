"""Slots for faces of many photos, and the phases they share network calls in.

    admit -> [ enter ] -> [ advance ] x num_steps -> [ leave ] -> Outcome

Each bracket is a batched call of all faces that are ready for it. The three phases run side by side, each with at most
one call under way, so that a long decode does not hold up the steps of other faces. Between two calls a face may join,
end, or be dropped because nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np

from service.core.errors import Cancelled, DeadlineExceeded, InferenceFailed, ServiceError
from service.core.interfaces import InferenceBackend
from service.core.manifest import Manifest
from service.core.metrics import Metrics
from service.core.types import FaceJob, FaceKey, RestoredFace
from service.sampling.phases import FlowFace, Phases, isolated

_Results = Sequence[FlowFace | RestoredFace | ServiceError]


class _Phase(Enum):
    ENTER = auto()
    ADVANCE = auto()
    LEAVE = auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a face ended: restored, or why not."""

    job: FaceJob
    result: RestoredFace | ServiceError


@dataclass(slots=True, eq=False)
class _Slot:
    """Room for one face.

    Attributes:
        job: What was asked for.
        admitted_s: When, on the performance counter.
        flow: Where the face is, or None before it has entered.
        busy: A call is working on it.
        unwanted: Why nobody waits for it any more, or None.
    """

    job: FaceJob
    admitted_s: float
    flow: FlowFace | None = None
    busy: bool = False
    unwanted: ServiceError | None = None

    @property
    def phase(self) -> _Phase:
        if self.flow is None:
            return _Phase.ENTER
        return _Phase.LEAVE if self.flow.arrived else _Phase.ADVANCE


class Sampler:
    """Restores faces in batches; used by one worker.

    Args:
        backend: Runs the networks.
        manifest: The bundle's contract.
        slots: Faces in flight at once.
        metrics: Told about slots, steps and time per face.
        clock: Unix time, for deadlines.

    Raises:
        ManifestMismatch: The bundle's networks are not called as the sampler calls them.
        ValueError: `slots` is below 1.
    """

    def __init__(
        self,
        backend: InferenceBackend,
        manifest: Manifest,
        slots: int,
        *,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots}")
        self._phases = Phases(backend, manifest)
        self._manifest = manifest
        self._capacity = slots
        self._metrics = metrics
        self._clock = clock
        self._slots: list[_Slot] = []
        self._calls: dict[asyncio.Task[_Results], tuple[_Phase, list[_Slot]]] = {}

    @property
    def free_slots(self) -> int:
        """How many faces can be admitted now."""
        return self._capacity - len(self._slots)

    @property
    def jobs(self) -> list[FaceJob]:
        """The faces in the slots."""
        return [slot.job for slot in self._slots]

    def admit(self, job: FaceJob) -> None:
        """Give a face a slot; its way begins with the next `step`.

        Raises:
            DeadlineExceeded: Nobody waits for the face any more.
            InferenceFailed: The face does not fit the bundle.
            ValueError: No slot is free.
        """
        if not self.free_slots:
            raise ValueError("no slot is free")
        if self._expired(job):
            raise DeadlineExceeded("the deadline passed while the face was queued")
        self._check(job)
        self._slots.append(_Slot(job, time.perf_counter()))
        self._metrics.slots_active(len(self._slots))

    @property
    def steps_done(self) -> dict[FaceKey, int]:
        """Euler steps that each face in the slots has taken."""
        return {slot.job.key: 0 if slot.flow is None else slot.flow.steps_done for slot in self._slots}

    def withdraw(self, faces: Collection[FaceKey]) -> None:
        """Drop faces, at the latest when the call they take part in has ended."""
        for slot in self._slots:
            if slot.job.key in faces:
                slot.unwanted = Cancelled("the job was withdrawn")

    async def step(self) -> list[Outcome]:
        """Start the calls that faces are ready for and wait until one of all calls under way has ended.

        Returns:
            The faces that ended, whose slots are free again; each admitted face ends exactly once.
        """
        outcomes = self._drop_unwanted()
        self._start_calls()
        if self._calls and not outcomes:
            await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
        for call in [call for call in self._calls if call.done()]:
            outcomes += self._settle(call)
        self._metrics.slots_active(len(self._slots))
        return outcomes

    async def abandon(self) -> list[FaceJob]:
        """Free every slot at once, whatever is under way; returns the faces that were there."""
        calls, abandoned = list(self._calls), self.jobs
        self._calls, self._slots = {}, []
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        self._metrics.slots_active(0)
        return abandoned

    def _check(self, job: FaceJob) -> None:
        size_px = self._manifest.image_size_px
        if job.crop.shape != (size_px, size_px, 3) or job.crop.dtype != np.uint8:
            raise InferenceFailed(
                f"a crop is {job.crop.dtype} {job.crop.shape}, the bundle takes uint8 {(size_px, size_px, 3)}",
                hint="gateway and worker must use the same bundle",
            )
        if not 1 <= job.num_steps <= self._manifest.max_num_steps:
            raise InferenceFailed(
                f"{job.num_steps} steps asked for, the bundle takes 1 to {self._manifest.max_num_steps}",
                hint="gateway and worker must use the same bundle",
            )
        if job.seed < 0:
            raise InferenceFailed(f"seed {job.seed} is negative")

    def _expired(self, job: FaceJob) -> bool:
        return job.deadline_s is not None and job.deadline_s <= self._clock()

    def _drop_unwanted(self) -> list[Outcome]:
        """Faces nobody waits for; those inside a call stay until it has ended."""
        outcomes = []
        for slot in [slot for slot in self._slots if not slot.busy]:
            if slot.unwanted is None and self._expired(slot.job):
                slot.unwanted = DeadlineExceeded("the deadline passed while the face was restored")
            if slot.unwanted is not None:
                outcomes.append(self._end(slot, slot.unwanted))
        return outcomes

    def _start_calls(self) -> None:
        under_way = {phase for phase, _ in self._calls.values()}
        for phase in _Phase:
            ready = [slot for slot in self._slots if not slot.busy and slot.phase is phase]
            if not ready or phase in under_way:
                continue
            for slot in ready:
                slot.busy = True
            self._calls[asyncio.create_task(self._run(phase, ready), name=phase.name.lower())] = (phase, ready)

    def _run(self, phase: _Phase, slots: Sequence[_Slot]) -> Coroutine[Any, Any, _Results]:
        if phase is _Phase.ENTER:
            return isolated(self._phases.enter, [slot.job for slot in slots])
        faces = [slot.flow for slot in slots if slot.flow is not None]
        if phase is _Phase.LEAVE:
            return isolated(self._phases.leave, faces)
        self._metrics.ode_steps(len(faces))
        return isolated(self._phases.advance, faces)

    def _settle(self, call: asyncio.Task[_Results]) -> list[Outcome]:
        _, slots = self._calls.pop(call)
        outcomes = []
        for slot, result in zip(slots, call.result(), strict=True):
            slot.busy = False
            if isinstance(result, FlowFace):
                slot.flow = result
            else:
                outcomes.append(self._end(slot, result))
        return outcomes

    def _end(self, slot: _Slot, result: RestoredFace | ServiceError) -> Outcome:
        self._slots.remove(slot)
        if isinstance(result, RestoredFace):
            self._metrics.observe_stage("sampler", time.perf_counter() - slot.admitted_s)
        return Outcome(slot.job, result)
