"""Slots for faces of many photos, and the phases they share network calls in.

    admit -> [ enter ] -> [ advance ] x num_steps -> [ leave ] -> Outcome

Each bracket is a batched call of faces that are ready for it; who is in which call is the schedule's affair. The three
phases run side by side where the backend can do that, each with at most one call under way, so that a long decode does
not hold up the steps of other faces. Between two calls a face may join, end, or be dropped because nobody waits for it
any more; a face inside a call is dropped when that call ends.

Batch faces use slots that interactive ones leave, and never keep one out: interactive faces have all the slots whatever
else is on its way. Those that come when the slots are taken get one more each and rows at once, and batch faces are
parked for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.core.errors import Cancelled, DeadlineExceeded, InferenceFailed, ServiceError
from service.core.interfaces import InferenceBackend
from service.core.manifest import Manifest
from service.core.metrics import Metrics
from service.core.tasks import end_tasks
from service.core.types import FaceJob, FaceKey, FacePreview, Lane, RestoredFace
from service.sampling.observation import Observation
from service.sampling.phases import FlowFace, Phase, Phases, isolated
from service.sampling.previews import Look, Previews
from service.sampling.schedule import CallShape, Schedule
from service.sampling.slots import Slot

_Results = Sequence[FlowFace | RestoredFace | ServiceError]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a face ended: restored, or why not."""

    job: FaceJob
    result: RestoredFace | ServiceError


class Sampler:
    """Restores faces in batches; used by one worker.

    Args:
        backend: Runs the networks.
        manifest: The bundle's contract.
        slots: Faces in flight at once, at least 1; batch faces that are parked for interactive ones do not count. More
            than fit one call let short faces go before long ones when there is much to do.
        metrics: Told about slots, steps and time per face; traces and the log are told of faces, too.
        look: How previews are to look, see `Previews`.
        clock: Unix time, for deadlines.

    Raises:
        ManifestMismatch: The bundle's networks are not called as the sampler calls them.
    """

    def __init__(  # noqa: PLR0913 - the parts of a sampler
        self,
        backend: InferenceBackend,
        manifest: Manifest,
        slots: int,
        *,
        metrics: Metrics,
        look: Look | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend = backend
        self._observation = Observation(metrics)
        self._phases = Phases(backend, manifest, self._observation.called)
        shapes = {phase: CallShape.of(self._phases.networks(phase), slots) for phase in Phase}
        self._schedule = Schedule(shapes, concurrent=backend.concurrent)
        self._manifest = manifest
        self._capacity = slots
        self._metrics = metrics
        self._clock = clock
        self._slots: list[Slot] = []
        self._calls: dict[asyncio.Task[_Results], tuple[Phase, list[Slot]]] = {}
        self._previews = Previews(self._phases, look)
        metrics.slots(slots)

    @property
    def free_slots(self) -> int:
        """How many faces of any lane can be admitted now."""
        return max(0, self._capacity - len(self._slots))

    @property
    def free_interactive_slots(self) -> int:
        """How many faces of the interactive lane can be admitted now."""
        return self._capacity - sum(not slot.is_batch for slot in self._slots)

    @property
    def jobs(self) -> list[FaceJob]:
        """The faces in the slots."""
        return [slot.job for slot in self._slots]

    async def ready(self) -> bool:
        """Whether the networks can be called."""
        return await self._backend.ready()

    def admit(self, job: FaceJob) -> None:
        """Give a face a slot; its way begins with the next `step`.

        Raises:
            DeadlineExceeded: Nobody waits for the face any more.
            InferenceFailed: The face does not fit the bundle.
            ValueError: No slot is free.
        """
        if not (self.free_slots if job.lane is Lane.BATCH else self.free_interactive_slots):
            raise ValueError(f"no slot is free for a face of lane {job.lane}")
        if self._expired(job):
            raise DeadlineExceeded("the deadline passed while the face was queued")
        self._check(job)
        self._slots.append(Slot(job, time.perf_counter()))
        self._observation.admitted(job)
        self._metrics.slots_active(len(self._slots))

    @property
    def steps_done(self) -> dict[FaceKey, int]:
        """Euler steps that each face in the slots has taken."""
        return {slot.job.key: slot.steps_done for slot in self._slots}

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
        outcomes += self._drop_unwanted()
        self._offer_previews()
        self._metrics.slots_active(len(self._slots))
        return outcomes

    def take_previews(self) -> list[FacePreview]:
        """Previews of faces that are ready to be shown, each once."""
        here = {slot.job.key for slot in self._slots if slot.unwanted is None}
        return [preview for preview in self._previews.take() if (preview.job_id, preview.face_index) in here]

    async def abandon(self) -> None:
        """Free every slot at once, whatever is under way."""
        calls, abandoned = list(self._calls), self.jobs
        self._calls, self._slots = {}, []
        await end_tasks(*calls)
        await self._previews.abandon()
        self._observation.abandoned(abandoned)
        self._metrics.slots_active(0)

    def _offer_previews(self) -> None:
        moving = [slot.flow for slot in self._slots if slot.flow is not None and slot.unwanted is None]
        if any(slot.job.preview_every for slot in self._slots):
            self._previews.offer(moving, in_company=len({slot.job.job_id for slot in self._slots}) > 1)

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
        for phase, slots in self._schedule.begin(self._slots, {phase for phase, _ in self._calls.values()}):
            self._calls[asyncio.create_task(self._run(phase, slots), name=phase.name.lower())] = (phase, slots)

    def _run(self, phase: Phase, slots: Sequence[Slot]) -> Coroutine[Any, Any, _Results]:
        if phase is Phase.ENTER:
            return isolated(self._phases.enter, [slot.job for slot in slots])
        faces = [slot.flow for slot in slots if slot.flow is not None]
        if phase is Phase.LEAVE:
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
                outcomes.append(self._end(slot, slot.unwanted or result))
        return outcomes

    def _end(self, slot: Slot, result: RestoredFace | ServiceError) -> Outcome:
        self._slots.remove(slot)
        self._observation.ended(slot.job, result, time.perf_counter() - slot.admitted_s)
        return Outcome(slot.job, result)
