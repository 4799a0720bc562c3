"""Notices that have yet to be delivered, in memory: due, on lease, due again."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from service.core.jobs import Notice
from service.core.metrics import Metrics
from service.core.shares import Shares
from service.core.tasks import pause

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Entry:
    notice: Notice
    due_s: float


class Outbox:
    """Hands out each notice when its time has come; used within one event loop.

    Args:
        lease_s: After how long a notice that was handed out and not settled is handed out again.
        max_notices: Most of them; the oldest of the owner who has most makes room, because receivers that are away for
            long must not fill the memory.
        clock: Seconds.
        metrics: Told of notices that are given up.
    """

    def __init__(self, *, lease_s: float, max_notices: int, clock: Callable[[], float], metrics: Metrics) -> None:
        self._lease_s = lease_s
        self._max_notices = max_notices
        self._clock = clock
        self._metrics = metrics
        self._entries: dict[str, _Entry] = {}
        self._held = Shares(math.inf)
        self._order: list[tuple[float, str]] = []  # a heap; a pair whose time is not its entry's any more is void
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, notice: Notice) -> None:
        """Let a notice come due at once."""
        if len(self._entries) >= self._max_notices:
            oldest = self._first_to_go(notice.owner)
            tell_given_up(oldest, self._metrics)
            self._drop(oldest)
        self._drop(notice.notice_id)
        self._entries[notice.notice_id] = _Entry(notice, 0.0)
        self._held.take(notice.owner)
        self._schedule(notice.notice_id, self._clock())

    async def due(self, wait_s: float) -> Notice | None:
        """The notice that has been due longest, on lease; None after `wait_s` without one, or when closed."""
        end_s = self._clock() + wait_s
        while True:
            now_s = self._clock()
            first_s = math.inf if self._closed else self._first_due_s()
            if first_s <= now_s:
                _, notice_id = self._order[0]
                self._schedule(notice_id, now_s + self._lease_s)
                return self._entries[notice_id].notice
            if now_s >= end_s:
                return None
            self._changed.clear()
            await pause(min(first_s, end_s) - now_s, self._changed)
            if self._closed:
                return None

    def settle(self, notice: Notice, retry_in_s: float | None) -> None:
        """Drop a notice, or let it come due again as the next attempt; one that is gone stays gone."""
        if retry_in_s is None:
            self._drop(notice.notice_id)
        else:
            self.postpone(replace(notice, attempt=notice.attempt + 1), retry_in_s)

    def postpone(self, notice: Notice, wait_s: float) -> None:
        """Let a notice come due later as the same attempt; one that is gone stays gone."""
        entry = self._entries.get(notice.notice_id)
        if entry is not None:
            entry.notice = notice
            self._schedule(notice.notice_id, self._clock() + wait_s)

    def close(self) -> None:
        """Hand out nothing more and wake who waits; what waits here ends with the process."""
        if self._entries and not self._closed:
            logger.warning("%d notices end with this process and are never delivered", len(self._entries))
        self._closed = True
        self._changed.set()

    def _first_to_go(self, owner: str) -> str:
        """The oldest notice of who has most, counting the one that comes; his, where several have as many."""
        most = self._held.largest(owner)
        return next(notice_id for notice_id, entry in self._entries.items() if entry.notice.owner == most)

    def _drop(self, notice_id: str) -> None:
        entry = self._entries.pop(notice_id, None)
        if entry is not None:
            self._held.give_back(entry.notice.owner)

    def _schedule(self, notice_id: str, due_s: float) -> None:
        self._entries[notice_id].due_s = due_s
        heapq.heappush(self._order, (due_s, notice_id))
        self._changed.set()

    def _first_due_s(self) -> float:
        while self._order:
            due_s, notice_id = self._order[0]
            entry = self._entries.get(notice_id)
            if entry is not None and entry.due_s == due_s:
                return due_s
            heapq.heappop(self._order)
        return math.inf


def tell_given_up(notice_id: str, metrics: Metrics) -> None:
    """Tell of a notice that makes room for others."""
    logger.warning("notice %s makes room and is never delivered", notice_id)
    metrics.notices("given_up")
