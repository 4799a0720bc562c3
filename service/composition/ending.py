"""How a process ends: told once, it finishes what it has begun; told twice, it stops.

SIGTERM, SIGINT -> Ending -> everybody who has something under way asks it how long that may still take
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any, Self

from service.core.tasks import end_tasks

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """That the process was told to end, and until when what it has begun may go on.

    A context manager, so that the signals are the system's again afterwards.

    Args:
        grace_s: Seconds from the telling to the end of all patience.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._ends_s: float | None = None
        self._begun = asyncio.Event()
        self._hurried = asyncio.Event()
        self._hears_signals = False

    def __enter__(self) -> Self:
        """Begin; nothing ends yet."""
        return self

    def __exit__(self, *_ended: object) -> None:
        """Hear no more signals."""
        self._deafen()

    @property
    def begun(self) -> bool:
        """Whether the process was told to end."""
        return self._begun.is_set()

    @property
    def hurried(self) -> bool:
        """Whether it was told so again, and does not finish what it has begun."""
        return self._hurried.is_set()

    @property
    def over(self) -> bool:
        """Whether nothing may go on any more."""
        return self.hurried or (self._ends_s is not None and self._ends_s <= asyncio.get_running_loop().time())

    def begin(self) -> None:
        """Let the grace time run, unless it does already."""
        if self._ends_s is None:
            self._ends_s = asyncio.get_running_loop().time() + self._grace_s
            self._begun.set()

    def hurry(self) -> None:
        """Let the grace time be over."""
        self.begin()
        self._hurried.set()

    def hear_signals(self) -> None:
        """Take the first signal as `begin`, the second as `hurry`; a third ends the process as it does everywhere."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._be_told)
        self._hears_signals = True

    async def wait(self) -> None:
        """Wait until the process is told to end."""
        await self._begun.wait()

    async def allow(self, work: asyncio.Future[Any]) -> None:
        """Wait for work as long as it may go on; it is left as it is then, and so are its errors.

        Without `begin`, it may go on for ever.
        """
        signs = [asyncio.create_task(event.wait(), name="sign") for event in (self._begun, self._hurried)]
        try:
            while not (work.done() or self.over):
                left_s = None if self._ends_s is None else self._ends_s - asyncio.get_running_loop().time()
                awaited = {work, *(sign for sign in signs if not sign.done())}
                await asyncio.wait(awaited, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(*signs)

    def _be_told(self) -> None:
        if self.begun:
            self.hurry()
            self._deafen()
        else:
            self.begin()

    def _deafen(self) -> None:
        if self._hears_signals:
            self._hears_signals = False
            for number in _SIGNALS:
                asyncio.get_running_loop().remove_signal_handler(number)
