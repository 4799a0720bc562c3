"""The photos that wait, in memory: two lanes, bounded in photos and in bytes, for all and for each owner."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from service.brokers.intake import owners_share
from service.brokers.lanes import LaneTurns
from service.brokers.memory_job import MemoryJob
from service.core.jobs import PhotoJob
from service.core.metrics import Metrics
from service.core.shares import OWNERS_SHARE, Shares
from service.core.types import Lane


class PhotoLanes:
    """Holds who waits, and says whose turn it is.

    Args:
        max_photos: Photos that may wait in one lane; an owner's are half of them at most.
        max_bytes: Bytes of all photos that wait; one alone may be larger. An owner's are half of them, or are one.
        metrics: Told how many photos wait, and how long the oldest has.
    """

    def __init__(self, *, max_photos: int, max_bytes: int, metrics: Metrics) -> None:
        if max_photos < 1:
            raise ValueError(f"max_queued_photos must be at least 1, not {max_photos}")
        self._max_photos = max_photos
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._lanes: dict[Lane, deque[MemoryJob]] = {lane: deque() for lane in Lane}
        self._photos = {lane: Shares(owners_share(max_photos)) for lane in Lane}
        self._bytes = Shares(OWNERS_SHARE * max_bytes)
        self._turns = LaneTurns()
        self._changed = asyncio.Event()  # set while a photo waits or the lanes are closed
        self._closed = False

    def depth(self, *lanes: Lane) -> int:
        """Photos that wait, in these lanes or in all."""
        return sum(len(self._lanes[lane]) for lane in lanes or Lane)

    async def wait(self, wait_s: float) -> None:
        """Wait until there is a photo, the lanes are closed, or `wait_s` are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not (self._closed or self.depth()):
                    await self._changed.wait()

    def close(self) -> None:
        """Wake who waits for a photo."""
        self._closed = True
        self._changed.set()

    def has_room(self, photo: PhotoJob) -> bool:
        """Whether a photo may enter."""
        fits = self._bytes.total == 0 or self._bytes.total + len(photo.upload.data) <= self._max_bytes
        return fits and len(self._lanes[photo.lane]) < self._max_photos

    def has_room_for_owner(self, photo: PhotoJob) -> bool:
        """Whether photos of the same owner leave room for one."""
        fits = self._bytes.allow(photo.owner, len(photo.upload.data))
        return fits and self._photos[photo.lane].allow(photo.owner)

    def position(self, job: MemoryJob) -> int | None:
        """Photos before one in its lane; None when it does not wait."""
        lane = None if job.photo is None else self._lanes[job.photo.lane]
        return lane.index(job) if lane is not None and job in lane else None

    def enter(self, job: MemoryJob, photo: PhotoJob, *, first: bool = False) -> None:
        """Let a photo wait, at the end of its lane or at its front."""
        lane = self._lanes[photo.lane]
        lane.appendleft(job) if first else lane.append(job)
        self._photos[photo.lane].take(photo.owner)
        self._bytes.take(photo.owner, len(photo.upload.data))
        self._moved(photo.lane)

    def leave(self, job: MemoryJob, photo: PhotoJob) -> None:
        """Take a photo that waits out of its lane."""
        self._lanes[photo.lane].remove(job)
        self._photos[photo.lane].give_back(photo.owner)
        self._bytes.give_back(photo.owner, len(photo.upload.data))
        self._moved(photo.lane)

    def take(self) -> tuple[MemoryJob, PhotoJob] | None:
        """Take the photo out whose turn it is; None when none waits."""
        lane = self._turns.next(interactive=bool(self._lanes[Lane.INTERACTIVE]), batch=bool(self._lanes[Lane.BATCH]))
        job = None if lane is None else self._lanes[lane][0]
        if lane is None or job is None or job.photo is None:
            return None
        photo = job.photo
        self._turns.taken(lane)
        self.leave(job, photo)
        return job, photo

    def _moved(self, lane: Lane) -> None:
        self._metrics.photos_waiting(lane.value, len(self._lanes[lane]))
        self._metrics.photos_oldest(lane.value, min((job.created_s for job in self._lanes[lane]), default=None))
        for job in self._lanes[lane]:
            job.wake()  # its position may have changed
        if self.depth():
            self._changed.set()
        elif not self._closed:
            self._changed.clear()
