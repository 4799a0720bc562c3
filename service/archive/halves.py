"""The gateway's way of a photo, cut in two at the faces, for machines that are not the same.

    prepare: file -> decode -> detect -> align -> faces to restore
    finish:  file, detections, restored faces -> decode -> align -> blend -> paste -> encode -> result

Both halves are the gateway itself with a queue of its own. The first ends when the faces are taken from the queue; in
the second the faces that are taken come back at once, and the detector remembers what it has seen. Pixels of whole
photos do not travel: decoding again costs less than moving them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from service.archive.passage import Passage, told
from service.brokers.memory import MemoryBroker
from service.core.admission import Admission
from service.core.errors import ServiceError
from service.core.interfaces import Detector
from service.core.manifest import Manifest
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.tasks import end_tasks
from service.core.threads import Threads
from service.core.types import DecodedImage, Face, FaceJob, Restoration, RestoreOptions, Upload
from service.gateway import Gateway
from service.stages.decode import DecodeLimits, decode
from service.stages.samples import Samples


@dataclass(frozen=True, slots=True)
class Halves:
    """The two halves, for one photo after the other.

    Attributes:
        settings: The operator's limits.
        manifest: The bundle's contract.
        options: The caller's choices for all photos; seed and encoding are each task's.
        metrics: Told about stages and faces.
        decode: Makes pixels of a file.
    """

    settings: Settings
    manifest: Manifest
    options: RestoreOptions
    metrics: Metrics = field(default_factory=Metrics)
    decode: Callable[[Upload, DecodeLimits], DecodedImage] = decode

    async def prepare(self, passage: Passage, detector: Detector) -> Passage:
        """Find the faces of a photo; one without any to restore is finished here.

        Args:
            passage: With the photo's file.
            detector: Finds faces.

        Returns:
            With the faces to restore, or the restoration, or the error.
        """
        remembered = _Remembering(detector)
        try:
            async with self._under_way(passage, remembered) as (photo, taking, _):
                await asyncio.wait({photo, taking}, return_when=asyncio.FIRST_COMPLETED)
                if photo.done():
                    return replace(passage, data=b"", restoration=photo.result())
                jobs = tuple(replace(job, deadline_s=None) for job in taking.result())
        except ServiceError as error:
            return replace(passage, data=b"", error=told(error))
        return replace(passage, jobs=jobs, faces=tuple(remembered.faces))

    async def finish(self, passage: Passage) -> Passage:
        """Put the restored faces back into the photo.

        Args:
            passage: With the photo's file, and what was found and restored.

        Returns:
            With the restoration, or the error.
        """
        restored = {face.face_index: face for face in passage.restored}
        try:
            async with self._under_way(passage, _Remembered(passage.faces)) as (photo, taking, broker):
                await asyncio.wait({photo, taking}, return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    for job in taking.result():
                        await broker.complete(restored[job.face_index])
                return replace(passage, data=b"", restored=(), restoration=await photo)
        except ServiceError as error:
            return replace(passage, data=b"", restored=(), error=told(error))

    @contextlib.asynccontextmanager
    async def _under_way(
        self, passage: Passage, detector: Detector
    ) -> AsyncIterator[tuple[asyncio.Task[Restoration], asyncio.Task[list[FaceJob]], MemoryBroker]]:
        """The photo goes through a gateway; its faces, and the gateway's queue; both end with the block."""
        task = passage.task
        broker = MemoryBroker(max_queued_faces=self.settings.max_queued_faces, metrics=self.metrics)
        with Threads(1) as pool:
            gateway = Gateway(
                broker=broker,
                detector=detector,
                manifest=self.manifest,
                settings=self.settings,
                metrics=self.metrics,
                pool=pool,
                admission=Admission(1, 0),
                decode=self.decode,
            )
            options = replace(self.options, seed=task.seed, output_format=task.output_format)
            photo = asyncio.create_task(gateway.restore(Upload(passage.data), options, job_id=task.job_id))
            taking = asyncio.create_task(broker.take(self.settings.max_faces, self.settings.request_timeout_s))
            try:
                yield photo, taking, broker
            finally:
                await end_tasks(photo, taking)
                await broker.close()


@dataclass(slots=True)
class _Remembering:
    """A detector, and what it has found."""

    detector: Detector
    faces: list[Face] = field(default_factory=list)

    async def detect(self, pixels: Samples, *, det_threshold: float, min_face_px: int) -> list[Face]:
        """As the detector does."""
        self.faces = await self.detector.detect(pixels, det_threshold=det_threshold, min_face_px=min_face_px)
        return self.faces


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What a detector has found earlier."""

    faces: tuple[Face, ...]

    async def detect(self, pixels: Samples, *, det_threshold: float, min_face_px: int) -> list[Face]:  # noqa: ARG002
        """The same again."""
        return list(self.faces)
