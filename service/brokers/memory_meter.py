"""What callers have used lately, in this process. Used within one event loop; no method suspends."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from service.access.caller import Quota, Rate
from service.access.meter import MARK_S, Passage, Spending

_MAX_MARKS = 100_000


@dataclass(slots=True)
class _Window:
    ends_s: float
    spent_face_px: int = 0


class MemoryMeter:
    """Implements `service.access.meter.Meter`.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_s: dict[str, float] = {}  # when requests so far would have come, had they come evenly
        self._windows: dict[str, _Window] = {}
        self._marks: OrderedDict[str, float] = OrderedDict()

    async def knock(self, account: str, rate: Rate) -> Passage:
        """Let a request pass, or say how long it has to wait."""
        now_s, interval_s = self._clock(), 1.0 / rate.per_s
        due_s = max(now_s, self._due_s.get(account, now_s))
        wait_s = due_s - now_s - (rate.burst - 1) * interval_s
        if wait_s > 0:
            return Passage(wait_s)
        due_s += interval_s
        self._due_s[account] = due_s
        return Passage(0.0, math.floor(rate.burst - (due_s - now_s) / interval_s + 1e-6))

    async def spend(self, account: str, quota: Quota, face_px: int, mark: str = "") -> Spending:
        """Charge a photo, unless the quota is spent."""
        now_s = self._clock()
        window = self._window(account, quota.window_s)
        left_s = window.ends_s - now_s
        if mark and self._is_marked(f"photo:{account}:{mark}"):
            return Spending(True, False, window.spent_face_px, left_s)
        if window.spent_face_px >= quota.face_px:
            return Spending(False, False, window.spent_face_px, left_s)
        window.spent_face_px += face_px
        if mark:
            self._mark(f"photo:{account}:{mark}")
        return Spending(True, True, window.spent_face_px, left_s)

    async def correct(self, account: str, window_s: float, face_px: int, *, once: str = "", forget: str = "") -> None:
        """Add to what was spent, or take from it."""
        if once:
            if self._is_marked(f"settled:{account}:{once}"):
                return
            self._mark(f"settled:{account}:{once}")
        window = self._window(account, window_s)
        window.spent_face_px = max(0, window.spent_face_px + face_px)
        if forget:
            self._marks.pop(f"photo:{account}:{forget}", None)

    async def close(self) -> None:
        """Nothing is held."""

    def _window(self, account: str, window_s: float) -> _Window:
        window = self._windows.get(account)
        if window is None or window.ends_s <= self._clock() or window.spent_face_px == 0:
            window = self._windows[account] = _Window(self._clock() + window_s)
        return window

    def _is_marked(self, name: str) -> bool:
        return self._marks.get(name, -math.inf) > self._clock()

    def _mark(self, name: str) -> None:
        self._marks.pop(name, None)
        self._marks[name] = self._clock() + MARK_S
        while len(self._marks) > _MAX_MARKS or next(iter(self._marks.values())) <= self._clock():
            self._marks.popitem(last=False)
