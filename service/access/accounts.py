"""Rates and quotas: who asks in, a refusal or a charge out, and what a photo has cost in the end.

    knock ... reserve -> restored | failed -> settle

A photo costs its pixels times the faces restored in it. The faces are not known before it is worked on: one face is
charged when the photo is taken, the others when it is done. So a window may be overspent by the photos that are under
way, and refuses everything until it renews. A photo that fails by no fault of its own, so that it may be sent again,
costs nothing, but at a deadline the faces that were restored before it; one that fails by its own fault has been
worked on, and costs its one face.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.access.caller import Caller
from service.access.meter import Meter, Passage
from service.core.errors import (
    Cancelled,
    DeadlineExceeded,
    DependencyUnavailable,
    QuotaExceeded,
    RateLimited,
    ServiceError,
)
from service.core.interfaces import OnProgress
from service.core.jobs import Charge, Progress
from service.core.photo_log import FACES_DONE, ended_by_caller
from service.core.types import FaceStatus, Restoration

logger = logging.getLogger(__name__)

Outcome = Restoration | ServiceError


@dataclass(frozen=True, slots=True)
class Reserved:
    """A photo that may be worked on.

    Attributes:
        charge: What it costs for one face; None where there is no quota.
        is_new: Whether that was charged now, and not before.
    """

    charge: Charge | None
    is_new: bool


@dataclass(frozen=True, slots=True)
class Accounts:
    """What callers may use.

    Attributes:
        meter: Counts.
    """

    meter: Meter

    async def knock(self, caller: Caller) -> Passage | None:
        """Count a request; None where the caller may ask as often as he likes.

        Raises:
            RateLimited: Too many; `extra["retry_after_s"]` says when to come back.
            DependencyUnavailable: It cannot be told now.
        """
        if caller.rate is None:
            return None
        passage = await self.meter.knock(caller.owner, caller.rate)
        if passage.wait_s > 0:
            raise RateLimited(
                f"this key may make {caller.rate.per_s:g} requests a second, {caller.rate.burst} at once",
                hint="come back after the time in Retry-After",
                retry_after_s=round(passage.wait_s, 3),
            )
        return passage

    async def queue(self, caller: Caller) -> None:
        """Count a photo of a stream: it waits for its time instead of being refused.

        Raises:
            DependencyUnavailable: It cannot be told now.
        """
        while True:
            try:
                await self.knock(caller)
            except RateLimited as early:
                await asyncio.sleep(early.extra["retry_after_s"])
            else:
                return

    async def reserve(self, caller: Caller, photo_px: int, mark: str = "") -> Reserved:
        """Charge a photo for one face.

        Args:
            caller: Who sends it.
            photo_px: Its pixels.
            mark: As of `Meter.spend`.

        Raises:
            QuotaExceeded: The quota is spent; `extra["retry_after_s"]` says when it renews.
            DependencyUnavailable: It cannot be told now.
        """
        quota = caller.quota
        if quota is None:
            return Reserved(None, is_new=False)
        spending = await self.meter.spend(caller.owner, quota, photo_px, mark)
        if not spending.accepted:
            raise QuotaExceeded(
                f"{spending.spent_face_px} of {quota.face_px} pixels times faces are spent",
                hint="come back after the time in Retry-After, or ask the operator for more",
                retry_after_s=max(1, round(spending.renews_s)),
                quota_face_px=quota.face_px,
                spent_face_px=spending.spent_face_px,
            )
        return Reserved(Charge(caller.owner, photo_px, quota.window_s), spending.is_new)

    async def release(self, reserved: Reserved, mark: str = "") -> None:
        """Take back what was charged just now for a photo that nobody will work on.

        Args:
            reserved: What `reserve` has told.
            mark: As `reserve` was given, if the photo is to be charged when it is sent again.
        """
        if reserved.charge is not None and reserved.is_new:
            await self._correct(reserved.charge, -reserved.charge.photo_px, forget=mark)

    async def settle(self, charge: Charge | None, photo_id: str, outcome: Outcome, *, at_least: int = 0) -> None:
        """Charge what a photo has cost beyond what was charged when it was taken, or take that back; once.

        Args:
            charge: What was charged for it.
            photo_id: Stands for the photo.
            outcome: How it has ended.
            at_least: Faces that it costs whatever its end.
        """
        if charge is not None:
            faces = max(at_least, _faces_of(outcome))
            if faces != 1:
                await self._correct(charge, charge.photo_px * (faces - 1), once=photo_id)

    async def charge(self, caller: Caller, measure: Callable[[], Awaitable[int]]) -> Charge | None:
        """Charge a photo that is worked on at once; None where there is no quota.

        Args:
            caller: Who sends it.
            measure: Tells its pixels; asked only where that matters.

        Raises:
            QuotaExceeded: The quota is spent.
            DependencyUnavailable: That cannot be told now.
            ServiceError: What `measure` raises.
        """
        return None if caller.quota is None else (await self.reserve(caller, await measure())).charge

    async def settled(
        self,
        charge: Charge | None,
        photo_id: str,
        work: Callable[[OnProgress], Awaitable[Restoration]],
        on_progress: OnProgress | None = None,
        *,
        until_s: float | None = None,
    ) -> Restoration:
        """Work on a photo, and settle its charge.

        Args:
            charge: What was charged for it.
            photo_id: Stands for the photo.
            work: Restores it, and tells how far it is; cancelled where the photo is withdrawn.
            on_progress: Told of that, too.
            until_s: Unix time after which the caller does not wait, or None. A photo that this ends is one that he has
                withdrawn: one face stays charged, or short deadlines would buy computing for nothing.

        Raises:
            ServiceError: What `work` raises.
        """
        faces_done = 0

        def follow(progress: Progress) -> None:
            nonlocal faces_done
            faces_done = progress.faces_done
            if on_progress is not None:
                on_progress(progress)

        try:
            restoration = await work(follow)
        except asyncio.CancelledError:
            await asyncio.shield(self.settle(charge, photo_id, Cancelled("withdrawn"), at_least=faces_done))
            raise
        except ServiceError as error:
            await self.settle(charge, photo_id, error, at_least=int(ended_by_caller(error, until_s)))
            raise
        await self.settle(charge, photo_id, restoration)
        return restoration

    async def _correct(self, charge: Charge, face_px: int, *, once: str = "", forget: str = "") -> None:
        """Correct an account; while that cannot be done, the photo is not held up for it."""
        try:
            await self.meter.correct(charge.account, charge.window_s, face_px, once=once, forget=forget)
        except DependencyUnavailable as error:
            logger.warning("an account was not corrected: %s", error.detail)


def _faces_of(outcome: Outcome) -> int:
    """Faces to pay for."""
    if isinstance(outcome, DeadlineExceeded):
        return int(outcome.extra.get(FACES_DONE, 0))
    if isinstance(outcome, ServiceError):
        return 0 if outcome.retryable else 1
    return max(1, sum(face.status is FaceStatus.RESTORED for face in outcome.report.faces))
