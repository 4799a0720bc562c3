"""Stand-ins that implement the service's protocols."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from service.core.errors import ServiceError
from service.core.types import Face, FaceJob, RestoredFace


def face_at(left: float, top: float, side: float, score: float = 0.9) -> Face:
    """A face whose landmarks lie in its box as they do in the template."""
    template = np.array([(0.38, 0.47), (0.62, 0.47), (0.50, 0.61), (0.39, 0.73), (0.61, 0.73)])
    landmarks = (template * side + (left, top)).astype(np.float32)
    return Face((left, top, left + side, top + side), landmarks, score)


class FakeDetector:
    """Finds what it is told to, whatever the photo shows."""

    def __init__(self, find: Callable[[np.ndarray], list[Face]] = lambda pixels: [face_at(8, 8, 48)]):
        self._find = find

    async def detect(self, pixels, *, det_threshold, min_face_px):
        faces = [face for face in self._find(pixels) if face.score >= det_threshold]
        return sorted(faces, key=lambda face: face.box[2] - face.box[0], reverse=True)


class EchoBroker:
    """A queue with a worker inside: the sample is the inverted crop, the posterior mean the crop.

    `hold` keeps results back until it is set; `error` fails every job.
    """

    def __init__(self, *, hold: asyncio.Event | None = None, error: ServiceError | None = None):
        self.hold = hold
        self.error = error
        self.jobs: dict[str, list[FaceJob]] = {}
        self.withdrawn: list[str] = []
        self.submitted = asyncio.Event()

    async def submit(self, faces: Sequence[FaceJob]) -> None:
        self.jobs[faces[0].job_id] = list(faces)
        self.submitted.set()

    async def results(self, job_id: str, timeout_s: float | None) -> list[RestoredFace]:
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return [self._restore(job) for job in self.jobs[job_id]]

    async def cancel(self, job_id: str) -> None:
        self.withdrawn.append(job_id)

    async def cancelled(self, job_ids: Sequence[str]) -> set[str]:
        return set(job_ids) & set(self.withdrawn)

    async def take(self, max_items: int, wait_s: float) -> list[FaceJob]:
        return []

    async def complete(self, result: RestoredFace) -> None: ...

    async def fail(self, job: FaceJob, error: ServiceError) -> None: ...

    async def depth(self) -> int:
        return 0

    async def ready(self) -> bool:
        return True

    async def close(self) -> None: ...

    @staticmethod
    def _restore(job: FaceJob) -> RestoredFace:
        crop = job.crop.astype(np.float32) / 255
        timings = {"queue_wait": 1.0 + job.face_index, "velocity": 5.0}
        return RestoredFace(job.job_id, job.face_index, 1 - crop, crop, timings)
