"""Ray Data as the engine of a batch: waves of photos through CPU tasks, a pool of actors with networks, CPU tasks.

    items -> wave -> [ prepare_block ] -> [ FaceRestorer ] x workers -> [ finish_block ] -> outcomes

A wave bounds what this process and Ray know at once. Blocks of processes that end are done again by Ray; photos of
which that still tells nothing are tried once more, each alone, so that one that kills its process takes no other along.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import warnings
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from service.access.ownership import new_job_id
from service.archive.cluster import joined
from service.archive.passage import Ending, Task, lost
from service.archive.stages import ENDING, PHOTO, FaceRestorer, Work, finish_block, prepare_block
from service.batch.items import Item, Outcome
from service.client import RestorationError, ServerUnreachable
from service.core.suffixes import SUFFIXES
from service.gateway import seed_of

_WAVE = 4096  # photos that are under way at once
_ATTEMPTS = 3  # of a block whose process has ended

logger = logging.getLogger(__name__)


class RayEngine:
    """Restores photos by Ray, which starts with the first photo.

    Args:
        work: What is to be done.
        workers: Processes that run the networks.
        block: Photos whose faces share network calls.
    """

    def __init__(self, work: Work, *, workers: int, block: int) -> None:
        self._work = work
        self._workers = workers
        self._block = block

    async def run(self, items: Iterator[Item]) -> AsyncGenerator[Outcome, None]:
        """See `Engine`."""
        waves = iter(lambda: list(itertools.islice(items, _WAVE)), [])
        if (wave := await asyncio.to_thread(next, waves, None)) is None:
            return
        with joined(self._workers):
            context = DataContext.get_current()
            context.enable_progress_bars = False
            context.max_errored_blocks = -1  # they are tried again, photo by photo
            while wave is not None:
                async for outcome in self._restored(wave):
                    yield outcome
                wave = await asyncio.to_thread(next, waves, None)

    async def _restored(self, wave: Sequence[Item]) -> AsyncGenerator[Outcome, None]:
        left = {item.id: item for item in wave}
        try:
            for block in (self._block, 1):
                async for outcome in self._passed(left, block):
                    yield outcome
                if not left:
                    return
                self._doubt(wave, left)
        except RayError as error:
            raise ServerUnreachable(f"Ray: {str(error).strip().splitlines()[-1]}") from error
        for item in left.values():
            yield Outcome(item, error=lost())

    async def _passed(self, left: dict[str, Item], block: int) -> AsyncGenerator[Outcome, None]:
        """Send what is left of a wave through the pipeline; takes what has ended out of `left`."""
        rows = self._pipeline([self._task(item) for item in left.values()], block)
        while (row := await asyncio.to_thread(next, rows, None)) is not None:
            ending = Ending(**json.loads(row[ENDING]))
            if ending.errno:
                raise OSError(ending.errno, str((ending.error or {})["detail"]))
            if (item := left.pop(ending.item_id, None)) is not None:
                yield Outcome(item, ending.result_bytes, ending.report, ending.error)

    def _pipeline(self, tasks: Sequence[Task], block: int) -> Iterator[dict[str, Any]]:
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= self._workers else 0
        on_cpus: dict[str, Any] = {
            "fn_kwargs": {"work": self._work},
            "num_cpus": 1,
            "ray_remote_args_fn": lambda: {"max_retries": _ATTEMPTS},
        }
        with warnings.catch_warnings():
            # `ray_remote_args_fn` goes with 2.64, and there is no other way yet to give up a block.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            photos = ray.data.from_items(
                [{PHOTO: task} for task in tasks], override_num_blocks=math.ceil(len(tasks) / block)
            )
            prepared = photos.map_batches(prepare_block, **on_cpus)
            restored = prepared.map_batches(
                FaceRestorer,
                fn_constructor_args=(self._work,),
                num_cpus=1,
                num_gpus=gpus,
                compute=ActorPoolStrategy(size=self._workers),
                ray_remote_args_fn=lambda: {"max_task_retries": _ATTEMPTS},
            )
            rows: Iterator[dict[str, Any]] = iter(restored.map_batches(finish_block, **on_cpus).iter_rows())
        return rows

    def _task(self, item: Item) -> Task:
        return Task(
            item_id=item.id,
            source=item.source.as_posix(),
            target=item.target.as_posix(),
            output_format=SUFFIXES[item.target.suffix.lower()],
            job_id=new_job_id(),
            seed=seed_of(self._work.options.seed),
        )

    def _doubt(self, wave: Sequence[Item], left: dict[str, Item]) -> None:
        """Give up where no process of the pipeline works.

        Raises:
            RestorationError: Nothing has come back of several blocks.
        """
        logger.warning("%d of %d photos were lost with their processes", len(left), len(wave))
        if len(left) == len(wave) and len(wave) > self._block:
            raise RestorationError(
                "no worker process has told anything",
                code="worker_lost",
                title="Ray's workers do not work",
                hint="is the extra `ray` installed on every node, and the bundle at the same path? See Ray's logs",
            )
