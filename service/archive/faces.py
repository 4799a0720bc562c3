"""Faces of a block of photos in, restored faces out, by one sampler: they share network calls step by step.

Photos come out in the order in which their last face ends, so that a group picture does not hold up a portrait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace

from service.archive.passage import Passage, told
from service.core.errors import ServiceError
from service.core.types import FaceJob, RestoredFace
from service.sampling.sampler import Sampler


def restore_block(passages: Iterable[Passage], sampler: Sampler, runner: asyncio.Runner) -> Iterator[Passage]:
    """Restore the faces of photos.

    Args:
        passages: Photos, prepared; those without faces to restore are passed on.
        sampler: Restores faces; nobody else uses it.
        runner: Whose loop the sampler's networks belong to.

    Yields:
        Each photo once, with its restored faces or with the first error of one.
    """
    open_photos: dict[str, Passage] = {}
    waiting: deque[FaceJob] = deque()
    for passage in passages:
        if passage.jobs and passage.error is None:
            open_photos[passage.task.job_id] = passage
            waiting.extend(passage.jobs)
        else:
            yield passage
    try:
        while open_photos:
            for job_id, result in runner.run(_turn(sampler, waiting, open_photos)):
                if job_id not in open_photos:
                    continue  # another face of its photo has failed
                passage = open_photos[job_id] = _with(open_photos[job_id], result)
                if passage.error is not None:
                    sampler.withdraw([job.key for job in passage.jobs])
                if passage.error is not None or len(passage.restored) == len(passage.jobs):
                    yield replace(open_photos.pop(job_id), jobs=())
    finally:
        runner.run(sampler.abandon())  # what an unexpected end has left in the slots


async def _turn(
    sampler: Sampler, waiting: deque[FaceJob], wanted: Container[str]
) -> list[tuple[str, RestoredFace | ServiceError]]:
    """Fill the free slots with faces of the wanted photos and take one step."""
    ended: list[tuple[str, RestoredFace | ServiceError]] = []
    while waiting and sampler.free_slots:
        job = waiting.popleft()
        try:
            if job.job_id in wanted:
                sampler.admit(job)
        except ServiceError as error:
            ended.append((job.job_id, error))
    outcomes = await sampler.step() if sampler.jobs else []
    return ended + [(outcome.job.job_id, outcome.result) for outcome in outcomes]


def _with(passage: Passage, result: RestoredFace | ServiceError) -> Passage:
    if isinstance(result, ServiceError):
        return replace(passage, data=b"", restored=(), error=told(result))
    return replace(passage, restored=(*passage.restored, result))
