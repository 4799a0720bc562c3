"""Stand-ins that implement the service's protocols."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from service.core.errors import DependencyUnavailable, InferenceFailed, ServiceError
from service.core.types import Face, FaceJob, FacePreview, RestoredFace
from tests.pictures import saved


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

    async def results(self, job_id, timeout_s, on_progress=None, on_preview=None) -> list[RestoredFace]:
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return [self._restore(job) for job in self.jobs[job_id]]

    async def cancel(self, job_id: str) -> None:
        self.withdrawn.append(job_id)

    async def beat(self, steps_done):
        return {key for key in steps_done if key[0] in self.withdrawn}

    async def take(self, max_items: int, wait_s: float) -> list[FaceJob]:
        return []

    async def take_interactive(self, max_items: int) -> list[FaceJob]:
        return []

    async def show(self, previews) -> None: ...

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


class AnalyticBackend:
    """Networks in closed form for `tiny_manifest`, row by row.

    The estimator gives its picture back, the latent is the mean of 8 x 8 cells, the decoder spreads it again; the
    velocity is what it is told. A call that holds a `guilty` row fails as one with a non-finite output would, and
    a network waits for its gate to open.
    """

    concurrent = True

    def __init__(
        self,
        velocity: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda x_t, t: 0 * x_t,
        *,
        guilty: Callable[[str, np.ndarray], bool] = lambda network, row: False,
        error: Exception | None = None,
        gates: Mapping[str, asyncio.Event] | None = None,
    ):
        self._networks = {
            "estimator": lambda image: {"posterior_mean": image},
            "vae_encoder": lambda image: {"latent": _cell_means(image)},
            "velocity": lambda x_t, t: {"velocity": velocity(x_t, t.reshape(-1, 1, 1, 1))},
            "vae_decoder": lambda latent: {"image": latent.repeat(8, axis=2).repeat(8, axis=3).repeat(3, axis=1)},
        }
        self._guilty = guilty
        self._error = error
        self._gates = gates or {}
        self.calls: list[tuple[str, int]] = []
        self.called: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def infer(self, network, inputs):
        first = next(iter(inputs.values()))
        self.calls.append((network, len(first)))
        self.called[network].set()
        await asyncio.sleep(0)
        if network in self._gates:
            await self._gates[network].wait()
        if any(self._guilty(network, row) for row in first):
            raise self._error or InferenceFailed(f"{network}: output is not finite")
        return self._networks[network](**inputs)

    def rows(self, network):
        """Batch sizes of the network's calls, in order."""
        return [rows for name, rows in self.calls if name == network]

    async def ready(self):
        return True

    async def close(self): ...


def _cell_means(image: np.ndarray) -> np.ndarray:
    """(B, 1, H/8, W/8) means of the cells of (B, 3, H, W)."""
    rows, channels, height, width = image.shape
    cells = image.reshape(rows, channels, height // 8, 8, width // 8, 8)
    return cells.mean(axis=(1, 3, 5), dtype=np.float32)[:, None]


def face_job(job_id="photo", face_index=0, *, grey=128, size_px=64, num_steps=2, seed=7, **fields) -> FaceJob:
    """A face of one shade of grey, by which it can be told apart."""
    crop = np.full((size_px, size_px, 3), grey, np.uint8)
    return FaceJob(job_id, face_index, crop, num_steps, seed, **fields)


class UnsteadyBroker(EchoBroker):
    """A queue of faces that fails in turn, and then works."""

    def __init__(self, *errors: Exception):
        super().__init__()
        self.errors = list(errors)

    async def results(self, job_id, timeout_s, on_progress=None, on_preview=None):
        if self.errors:
            raise self.errors.pop(0)
        return await super().results(job_id, timeout_s, on_progress, on_preview)


class HeldBroker(EchoBroker):
    """Holds results back until the test lets go, which may be in another thread than the server's."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.dropped = threading.Event()
        self.go = threading.Event()

    async def submit(self, faces):
        await super().submit(faces)
        self.begun.release()

    async def results(self, job_id, timeout_s, on_progress=None, on_preview=None):
        for _ in range(3000):
            if self.go.is_set():
                break
            await asyncio.sleep(0.01)
        return await super().results(job_id, timeout_s, on_progress, on_preview)

    async def cancel(self, job_id):
        await super().cancel(job_id)
        self.dropped.set()


class PreviewingBroker(HeldBroker):
    """Shows each face on its way, again and again, as long as it holds the results back."""

    async def results(self, job_id, timeout_s, on_progress=None, on_preview=None):
        files = [(job, saved(Image.fromarray(job.crop), "JPEG")) for job in self.jobs[job_id]]
        while on_preview and not self.go.is_set():
            for job, data in files:
                on_preview(FacePreview(job_id, job.face_index, 1, job.num_steps, data))
            await asyncio.sleep(0.05)
        return await super().results(job_id, timeout_s, on_progress, on_preview)


class CutOff:
    """Networks on a server that does not answer until a test says so."""

    concurrent = True

    def __init__(self, networks):
        self._networks = networks
        self.away = True
        self.asked = asyncio.Event()

    async def infer(self, network, inputs):
        if self.away:
            raise DependencyUnavailable("no Triton server can be called")
        return await self._networks.infer(network, inputs)

    async def ready(self):
        self.asked.set()
        return not self.away

    async def close(self):
        await self._networks.close()
