"""Previews of faces on their way: decoded when there is room, dropped when there is none.

    FlowFace.estimate -> vae_decoder -> the photo's colour and tone -> JPEG -> FacePreview

Nothing waits for a preview, and none waits in a line: a step that is due while another preview is made is passed over.
A photo that has the sampler to itself pays for its previews with its own time. As soon as others are there, previews
take a small share of the time: the longer one took, the longer none is made.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from service.core.errors import ServiceError
from service.core.tasks import end_tasks
from service.core.types import F32Array, FaceJob, FacePreview, U8Image
from service.sampling.phases import FlowFace, Phase, Phases

SHARE_IN_COMPANY = 0.02
"""Of the time, while faces of several photos are in the sampler."""

SIDE_PX = 160
_QUALITY = 75
_AT_ONCE = 4  # faces of one call, where the bundle allows as many

Look = Callable[[F32Array, U8Image], F32Array]
"""What a decoded picture, (S, S, 3) in [0, 1], looks like in the photo that its (S, S, 3) crop was cut from."""

logger = logging.getLogger(__name__)


class Previews:
    """Of one sampler.

    Args:
        phases: Decodes.
        look: Of a face as its result will have it, beyond [0, 1] or not; None shows what the networks give.
    """

    def __init__(self, phases: Phases, look: Look | None = None) -> None:
        self._phases = phases
        self._at_once = min([_AT_ONCE, *(network.max_batch_size for network in phases.networks(Phase.LEAVE))])
        self._look = look
        self._making: asyncio.Task[list[FacePreview]] | None = None
        self._not_before_s = 0.0
        self._seen: dict[tuple[str, int], int] = {}  # steps at which faces that are here were seen last

    def offer(self, faces: Sequence[FlowFace], *, in_company: bool) -> None:
        """Begin to make previews of those faces on their way that are due, if none are being made and there is room.

        Faces are in company where there are some of several photos in the sampler.
        """
        here = {face.job.key for face in faces}
        self._seen = {key: steps for key, steps in self._seen.items() if key in here}
        due = [
            face for face in faces if face.estimate is not None and self._seen.get(face.job.key, 0) < face.steps_done
        ]
        now_s = asyncio.get_running_loop().time()
        if not due or self._making is not None or (in_company and now_s < self._not_before_s):
            return
        due.sort(key=lambda face: self._seen.get(face.job.key, 0))
        chosen = due[: self._at_once]
        self._seen.update((face.job.key, face.steps_done) for face in chosen)
        self._making = asyncio.create_task(self._make(chosen), name="previews")

    def take(self) -> list[FacePreview]:
        """Those that are ready."""
        if self._making is None or not self._making.done():
            return []
        made, self._making = self._making.result(), None
        return made

    async def abandon(self) -> None:
        """Stop what is under way."""
        if self._making is not None:
            await end_tasks(self._making)
            self._making = None

    async def _make(self, faces: Sequence[FlowFace]) -> list[FacePreview]:
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        try:
            pictures = await self._phases.glance(faces)
            files = await asyncio.to_thread(self._files_of, pictures, [face.job for face in faces])
        except ServiceError as error:
            logger.warning("no preview is made: %s", error.detail)
            return []
        except Exception:
            logger.exception("unexpected error with a preview")
            return []
        finally:
            took_s = loop.time() - begin_s
            self._not_before_s = loop.time() + took_s * (1 / SHARE_IN_COMPANY - 1)
        return [
            FacePreview(face.job.job_id, face.job.face_index, face.steps_done, face.job.num_steps, data)
            for face, data in zip(faces, files, strict=True)
        ]

    def _files_of(self, pictures: Sequence[F32Array], jobs: Sequence[FaceJob]) -> list[bytes]:
        look = self._look or (lambda picture, _crop: picture)
        return [_jpeg(job.tone.undo(look(picture, job.crop))) for picture, job in zip(pictures, jobs, strict=True)]


def _jpeg(picture: F32Array) -> bytes:
    """A small file of an (S, S, 3) picture; values beyond [0, 1] are clipped."""
    image = Image.fromarray(np.rint(picture.clip(0, 1) * 255).astype(np.uint8))
    image.thumbnail((SIDE_PX, SIDE_PX))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
