"""From the queue of photos to the gateway and back.

    jobs -> take -> gateway (decode ... encode) -> finish | fail -> jobs

The gateway-side loop for photos that nobody holds the line for. What a photo needs lives in the task that restores it;
the runner knows only which photos it has on lease. While the queue of photos does not answer, the photos under way go
on, and what has ended is told when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from service.access.accounts import Accounts
from service.core.errors import (
    DECODERS_KILLED,
    FACES_LOST,
    Cancelled,
    DeadlineExceeded,
    DependencyUnavailable,
    Draining,
    ImageTooLarge,
    NotFound,
    ServiceError,
    defect,
    forget_trace,
)
from service.core.interfaces import JobQueue, OnPreview, OnProgress
from service.core.jobs import JobState, PhotoJob, Progress
from service.core.outages import OutageLog
from service.core.photo_log import CANCELLED, SUCCEEDED, PhotoLog, note_outcome
from service.core.preview_box import PreviewBox
from service.core.tasks import beside, end_tasks
from service.core.tracing import LANE, consuming, told_with_problems
from service.core.types import Restoration
from service.gateway import Gateway

_IDLE_WAIT_S = 0.2  # how long a runner without work may take to notice that it should stop
_PAUSE_S = 1.0  # after an error that is likely to come again at once
BEAT_S = 1.0  # a withdrawn photo goes on for as long
_MAX_DOUBTS = 3
_PREVIEW_PAUSE_S = 0.2  # between two looks at the faces of a photo; what is older is dropped

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Held:
    """A photo on lease.

    Attributes:
        job: What is to be done.
        log: Told how it ended, once that is stored.
        pipeline: The gateway at work on it.
        unwanted: Nobody waits for it from here any more.
        ended: Set when nothing of it is left here.
    """

    job: PhotoJob
    log: PhotoLog
    pipeline: asyncio.Task[Restoration] | None = None
    unwanted: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def drop(self) -> None:
        """Let the work end; its outcome is told to nobody."""
        self.unwanted = True
        if self.pipeline is not None:
            self.pipeline.cancel()


class PhotoRunner:
    """Restores photos of jobs, some at once.

    Args:
        jobs: The queue of photos.
        gateway: Restores them.
        at_once: Photos under way together.
        finish_queue: Whether photos that still wait when the stop comes are restored, too: for a queue that ends with
            this process.
        has_workers: Asked whether anybody restores faces. While nobody does, no photo is taken here, and one whose time
            is over is handed back instead of failed: other gateways may have workers, or there will be some later.
        pause_s: Seconds to wait after an unexpected error, and while something needed does not answer.
        beat_s: Seconds between two signs of life.
        accounts: Told what charged photos have cost in the end.
    """

    def __init__(  # noqa: PLR0913 - times that a deployment and the tests set
        self,
        jobs: JobQueue,
        gateway: Gateway,
        *,
        at_once: int = 4,
        finish_queue: bool = False,
        has_workers: Callable[[], Awaitable[bool]] | None = None,
        pause_s: float = _PAUSE_S,
        beat_s: float = BEAT_S,
        accounts: Accounts | None = None,
    ) -> None:
        self._jobs = jobs
        self._gateway = gateway
        self._room = asyncio.Semaphore(at_once)
        self._finish_queue = finish_queue
        self._has_workers = has_workers or _always
        self._pause_s = pause_s
        self._beat_s = beat_s
        self._accounts = accounts
        self._outages = OutageLog(logger, "the queue of photos")
        self._late_results = OutageLog(logger, "the queue of photos, asked to keep a result,")
        self._held: dict[str, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and every photo that was taken has ended; cancelled, hand back what is left.

        An unexpected error fails the photo it met, never the runner.
        """
        async with beside(self._give_signs_of_life(), "beat"):
            try:
                await self._work(stop)
            finally:
                await end_tasks(*self._tasks)
                await self._hand_back()

    async def _work(self, stop: asyncio.Event) -> None:
        while True:
            await self._room.acquire()
            if stop.is_set() and not (self._finish_queue and await self._jobs.depth()):
                break
            if not await self._begin_one():
                self._room.release()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _begin_one(self) -> bool:
        """Take a photo and begin it, if there is one; nothing of it stays here."""
        job = await self._take()
        if job is None:
            return False
        # A lease that ran out while the queue was away may bring a photo here that is still under way here.
        if (held := self._held.get(job.job_id)) is not None:
            if not held.unwanted:
                return False
            await held.ended.wait()  # it was another's meanwhile, and here it was dropped: again
        held = self._held[job.job_id] = _Held(job, PhotoLog(job.lane))
        task = asyncio.create_task(self._serve(held), name="photo")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _take(self) -> PhotoJob | None:
        try:
            if not await self._has_workers():
                await asyncio.sleep(self._pause_s)
                return None
            job = await self._jobs.take(_IDLE_WAIT_S)
        except DependencyUnavailable as error:
            self._outages.away(error)
            await asyncio.sleep(self._pause_s)
        except Exception:
            logger.exception("unexpected error while a photo was taken")
            await asyncio.sleep(self._pause_s)
        else:
            self._outages.back()
            return job
        return None

    async def _serve(self, held: _Held) -> None:
        """One photo from its lease to its outcome; it stays held only if this is cut short."""
        with consuming("runner", held.job.origin, {LANE: held.job.lane.value}):
            try:
                await self._see_through(held)
            except Exception:
                logger.exception("unexpected error at the end of a photo")
        del self._held[held.job.job_id]
        held.ended.set()
        self._room.release()

    async def _see_through(self, held: _Held) -> None:
        """Work on a photo, and tell its end or hand it back."""
        outcome = await self._outcome(held)
        held.pipeline = None
        if isinstance(outcome, ServiceError):
            forget_trace(outcome)  # the queue may be long in taking it
        if outcome is None:
            logger.warning("there are no workers; a photo is handed back")
            with contextlib.suppress(DependencyUnavailable):  # its lease runs out
                await self._jobs.hand_back(held.job.job_id)
        else:
            note_outcome(await self._tell(held, outcome))

    async def _outcome(self, held: _Held) -> Restoration | ServiceError | None:
        """Restore a photo, and again while it is the surroundings that fail; None if it cannot be done here."""
        job, doubts = held.job, 0
        if job.deadline_s < time.time():
            return DeadlineExceeded("the restoration was not begun in time", hint="come back when less is waiting")
        while not held.unwanted:
            held.pipeline = asyncio.create_task(self._restore(held), name="pipeline")
            try:
                return await held.pipeline
            except asyncio.CancelledError:
                if not held.unwanted:
                    raise
            except DeadlineExceeded as error:
                return error if job.deadline_s < time.time() or await self._has_workers() else None
            except (DependencyUnavailable, Draining) as error:
                # A gateway that has lost this photo withdraws its faces; they are those of this attempt, too. And what
                # has several decoders killed may be the photo.
                doubts += not {FACES_LOST, DECODERS_KILLED}.isdisjoint(error.extra)
                if doubts > _MAX_DOUBTS or job.deadline_s < time.time():
                    return error
                logger.warning("a photo is begun again: %s", error.detail)
                forget_trace(error)
                await asyncio.sleep(self._pause_s)
            except ServiceError as error:
                return error
            except Exception:
                logger.exception("unexpected error with a photo")
                return defect()
        return _unwanted()

    async def _restore(self, held: _Held) -> Restoration:
        async with self._notes(held.job.job_id) as on_progress, self._previews() as on_preview:
            return await self._gateway.work_off(held.job, on_progress, on_preview, log=held.log)

    async def _tell(self, held: _Held, outcome: Restoration | ServiceError) -> Restoration | ServiceError:
        """Bring the outcome to the queue, however long it takes to answer; it counts the photo where it is stored.

        Returns:
            What was told in the end: another where the queue cannot take the first.
        """
        while not held.unwanted:
            try:
                is_stored = await self._store(held.job.job_id, outcome)
            except ImageTooLarge as error:  # of the result
                outcome = error
            except DependencyUnavailable as error:
                self._late_results.away(error)
                await asyncio.sleep(self._pause_s)
            except Exception:
                logger.exception("unexpected error with an outcome")
                if isinstance(outcome, ServiceError):
                    return outcome
                outcome = defect()
            else:
                self._late_results.back()
                if not is_stored:  # it is withdrawn, or another gateway's to tell and to settle
                    break
                held.log.tell(SUCCEEDED if isinstance(outcome, Restoration) else outcome.code)
                await self._settle(held, outcome)
                return outcome
        with contextlib.suppress(DependencyUnavailable):
            if await self._is_withdrawn(held.job.job_id):
                held.log.tell(CANCELLED)
                await self._settle(held, _unwanted(), at_least=held.log.faces_done)
        return _unwanted()

    async def _settle(self, held: _Held, outcome: Restoration | ServiceError, *, at_least: int = 0) -> None:
        if self._accounts is not None:
            await self._accounts.settle(held.job.charge, held.job.job_id, outcome, at_least=at_least)

    async def _store(self, job_id: str, outcome: Restoration | ServiceError) -> bool:
        """Tell the queue of an outcome; whether it is the job's."""
        if isinstance(outcome, Restoration):
            return await self._jobs.finish(outcome)
        outcome.extra.update(told_with_problems())  # whoever asks later has a request of his own
        return await self._jobs.fail(job_id, outcome)

    async def _is_withdrawn(self, job_id: str) -> bool:
        """Whether nobody has a photo any more, and not only this gateway."""
        try:
            return (await self._jobs.status(job_id)).state is JobState.CANCELLED
        except NotFound:  # its caller had all of it forgotten
            return True

    async def _hand_back(self) -> None:
        """Let other gateways have what is left."""
        left = [held.job.job_id for held in self._held.values() if not held.unwanted]
        if left:
            logger.warning("%d photos are handed back unfinished", len(left))
        for job_id in left:
            with contextlib.suppress(ServiceError):  # its lease runs out
                await self._jobs.hand_back(job_id)

    @contextlib.asynccontextmanager
    async def _notes(self, job_id: str) -> AsyncIterator[OnProgress]:
        """Something to call with progress; the newest is told to the queue as fast as that can take it."""
        newest: list[Progress] = []
        moved = asyncio.Event()

        def on_progress(progress: Progress) -> None:
            newest[:] = [progress]
            moved.set()

        async def tell() -> None:
            while True:
                await moved.wait()
                moved.clear()
                with contextlib.suppress(ServiceError):
                    await self._jobs.note(job_id, newest[0])

        async with beside(tell(), "progress"):
            yield on_progress

    @contextlib.asynccontextmanager
    async def _previews(self) -> AsyncIterator[OnPreview]:
        """Something to call with previews; the newest of each face are shown, not faster than anybody looks."""
        box = PreviewBox()

        async def show() -> None:
            while True:
                for preview in await box.take():
                    with contextlib.suppress(ServiceError):
                        await self._jobs.show(preview)
                await asyncio.sleep(_PREVIEW_PAUSE_S)

        async with beside(show(), "previews"):
            yield box.put

    async def _give_signs_of_life(self) -> None:
        """Renew the leases, and drop what nobody waits for."""
        while True:
            await asyncio.sleep(self._beat_s)
            beaten = dict(self._held)
            try:
                unwanted = await self._jobs.beat(list(beaten)) if beaten else set()
            except DependencyUnavailable:
                continue
            except Exception:
                logger.exception("unexpected error while leases were renewed")
                continue
            for job_id in unwanted:
                beaten[job_id].drop()


def _unwanted() -> Cancelled:
    return Cancelled("nobody waits for the photo")


async def _always() -> bool:
    return True
