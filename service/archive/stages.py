"""The pipeline's three stages as the engine runs them on blocks of photos, each in processes of its own.

    block of Task --prepare_block--> Passage --FaceRestorer--> Passage --finish_block--> Ending

The first and the last are functions for any number of CPU processes, the second is an object that keeps its networks.
Nothing here knows Ray: blocks are columns by name.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.api.schemas import RestorationSchema
from service.archive.faces import restore_block
from service.archive.halves import Halves
from service.archive.passage import Ending, Passage, Task, told
from service.archive.places import Place
from service.batch.items import unwritable
from service.client import Report
from service.client.errors import unreadable
from service.composition.decoders import Decode, decoding
from service.composition.networks import open_backend
from service.core.detector import DETECTOR
from service.core.errors import ManifestMismatch, defect
from service.core.manifest import Manifest, load_manifest
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.types import Restoration, RestoreOptions
from service.local.results import ends_everything
from service.sampling.sampler import Sampler
from service.stages.detect import FaceDetector

PHOTO = "photo"
ENDING = "ending"

Block = Mapping[str, Sequence[Any]]
Column = dict[str, npt.NDArray[np.object_]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """What every process of the pipeline needs to know.

    Attributes:
        settings: The operator's; the bundle lies at the same path on every machine.
        manifest: The bundle's contract.
        options: The caller's choices for all photos.
        source: Where photos are read.
        target: Where results are written.
    """

    settings: Settings
    manifest: Manifest
    options: RestoreOptions
    source: Place
    target: Place

    @property
    def halves(self) -> Halves:
        """The gateway's part of it."""
        return Halves(self.settings, self.manifest, self.options, decode=_decoding(self.settings))


def prepare_block(block: Block, work: Work) -> Iterator[Column]:
    """Read photos and find their faces."""
    runner, detector = _detecting(work.settings, work.manifest.tag)
    halves = work.halves
    for task in block[PHOTO]:
        try:
            passage = _prepared(task, work.source, halves, runner, detector)
        except Exception:  # of one photo: the others of its block go on
            logger.exception("unexpected error with a photo")
            passage = Passage(task, error=told(defect()))
        yield column([passage])


class FaceRestorer:
    """Keeps the networks and the sampler from block to block.

    Args:
        work: What is to be done.

    Raises:
        ManifestMismatch: This machine has another bundle than the one that gave the command.
    """

    def __init__(self, work: Work) -> None:
        here = load_manifest(work.settings.model_repository)
        if here.tag != work.manifest.tag:
            where = f"{work.settings.model_repository} on {socket.gethostname()}"
            raise ManifestMismatch(f"{where} is {here.tag}, the batch is for {work.manifest.tag}")
        metrics = Metrics()
        self._runner = asyncio.Runner()
        networks = work.manifest.networks
        backend = self._runner.run(open_backend(work.settings, work.manifest, metrics, only=networks))
        self._sampler = Sampler(backend, work.manifest, work.settings.slots, metrics=metrics)

    def __call__(self, block: Block) -> Iterator[Column]:
        """Restore the faces of the block's photos together; each photo goes on as soon as it can."""
        for passage in restore_block(block[PHOTO], self._sampler, self._runner):
            yield column([passage])


def finish_block(block: Block, work: Work) -> Iterator[dict[str, list[str]]]:
    """Write results, and tell what became of each photo, as JSON."""
    halves = work.halves
    for passage in block[PHOTO]:
        try:
            ending = _ended(passage, work.target, halves)
        except Exception:  # likewise
            logger.exception("unexpected error with a photo")
            ending = Ending(passage.task.item_id, error=told(defect()))
        yield {ENDING: [json.dumps(asdict(ending))]}


def column(photos: Sequence[object]) -> Column:
    """A block's column of objects."""
    values = np.empty(len(photos), dtype=object)
    values[:] = photos
    return {PHOTO: values}


def _prepared(task: Task, source: Place, halves: Halves, runner: asyncio.Runner, detector: FaceDetector) -> Passage:
    try:
        data = source.read(task.source, halves.settings.max_upload_bytes + 1)  # one more is refused by the decoder
    except OSError as error:
        return Passage(task, error=unreadable(error).as_document())
    return runner.run(halves.prepare(Passage(task, data), detector))


def _ended(passage: Passage, target: Place, halves: Halves) -> Ending:
    with asyncio.Runner() as runner:
        if passage.restoration is None and passage.error is None:
            passage = runner.run(halves.finish(passage))
    if passage.restoration is None:
        return Ending(passage.task.item_id, error=passage.error)
    return _written(passage.task, passage.restoration, target)


def _written(task: Task, restoration: Restoration, target: Place) -> Ending:
    try:
        target.write(task.target, restoration.data)
    except OSError as error:
        errno = error.errno or 0
        fatal = errno if ends_everything(error) else 0
        return Ending(task.item_id, error=unwritable(task.target, error), errno=fatal)
    document = RestorationSchema.of(restoration.report, None).model_dump(mode="json")
    return Ending(task.item_id, len(restoration.data), Report.of(document).as_document())


@functools.lru_cache(maxsize=1)
def _decoding(settings: Settings) -> Decode:
    """A decoder for this process, which restores one photo after the other, and ends with it however that ends.

    Ray would start the process again, and at last give the batch up, over a photo that ends it.
    """
    until_exit = contextlib.ExitStack()
    atexit.register(until_exit.close)
    one = settings.model_copy(update={"decoder_children": min(1, settings.decoder_children)})
    return until_exit.enter_context(decoding(one, Metrics()))[0]


@functools.lru_cache(maxsize=1)
def _detecting(settings: Settings, _tag: str) -> tuple[asyncio.Runner, FaceDetector]:
    """The detector of this process, and its loop. One thread: there is a process for each core."""
    own = settings.model_copy(update={"inference_threads": 1})
    manifest = load_manifest(own.model_repository)
    runner = asyncio.Runner()
    return runner, FaceDetector(runner.run(open_backend(own, manifest, Metrics(), only=(DETECTOR,))))
