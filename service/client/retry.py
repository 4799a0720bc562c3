"""Again after a while: what may be asked again, how often, and how long to wait before it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from service.client.errors import NOT_OURS, RestorationError, ServerUnreachable, deadline_passed
from service.client.results import Job

T = TypeVar("T")
_LEAST_JITTER = 0.5  # clients that were refused together do not come back together
_NOT_FOUND = "not_found"
# Ends of an attempt after which nobody knows whether it was made: the connection was lost, a proxy has answered, or the
# service has lost the answer of what keeps its jobs.
_WITHOUT_ANSWER = {"unreachable", NOT_OURS, "dependency_unavailable"}


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again. Only what the service calls retryable is, and every call is made so that repeating it is safe.

    Attributes:
        attempts: Attempts in all; 1 is none again.
        first_s: Longest wait before the second attempt; it doubles with every further one.
        longest_s: Where the doubling ends. A service that says how long to wait is obeyed beyond it.
    """

    attempts: int = 5
    first_s: float = 0.5
    longest_s: float = 10.0

    def wait_s(self, failures: int, error: RestorationError) -> float | None:
        """Seconds to wait after so many failed attempts, the last with `error`; None: it is not tried again."""
        if not error.retryable or failures >= self.attempts:
            return None
        longest_s = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 32))
        return max(secrets.SystemRandom().uniform(_LEAST_JITTER, 1.0) * longest_s, error.retry_after_s or 0.0)


async def retried(attempt: Callable[[float], Awaitable[T]], policy: Retry, timeout_s: float) -> T:
    """Make attempts until one succeeds.

    Args:
        attempt: Gets the seconds that are left.
        policy: When to try again.
        timeout_s: For all attempts and the waits between them.

    Raises:
        RestorationError: The last attempt's, or that the time is over.
    """
    clock = asyncio.get_running_loop().time
    ends_s = clock() + timeout_s
    failures = 0
    while True:
        left_s = ends_s - clock()
        try:
            async with asyncio.timeout(left_s) as patience:
                return await attempt(left_s)
        except TimeoutError:
            if not patience.expired():  # a file system has its own
                raise
            raise deadline_passed(timeout_s) from None
        except RestorationError as error:
            failures += 1
            wait_s = policy.wait_s(failures, error)
            if wait_s is None or wait_s >= ends_s - clock():
                raise
        await asyncio.sleep(wait_s)


def until_gone(attempt: Callable[[float], Awaitable[object]]) -> Callable[[float], Awaitable[None]]:
    """An attempt to delete that may be repeated: what is not found after an attempt without an answer is deleted."""
    may_be_gone = False

    async def repeated(left_s: float) -> None:
        nonlocal may_be_gone
        try:
            await attempt(left_s)
        except RestorationError as error:
            if may_be_gone and error.code == _NOT_FOUND:
                return
            may_be_gone = may_be_gone or error.code in _WITHOUT_ANSWER
            raise

    return repeated


async def unless_gone(fetching: Awaitable[T]) -> T | None:
    """What is fetched, such as a result that an attempt before has left; None where it is not there any more."""
    try:
        return await fetching
    except RestorationError as error:
        if error.code != _NOT_FOUND:
            raise
        return None


async def watched(connect: Callable[[], AsyncGenerator[Job, None]], policy: Retry) -> AsyncGenerator[Job, None]:
    """The states of a job to its end, over as many connections as that takes; none is told twice in a row.

    Args:
        connect: The states as one connection tells them, from where the job is now.
        policy: When to connect again; attempts count from the last state.

    Raises:
        RestorationError: The service refuses, or stays away.
    """
    failures, last = 0, None
    while True:
        try:
            async with contextlib.aclosing(connect()) as states:
                async for job in states:
                    failures = 0
                    if job != last:
                        yield job
                    last = job
                    if job.ended:
                        return
            raise ServerUnreachable("the service stopped telling before the job ended")
        except RestorationError as error:
            failures += 1
            wait_s = policy.wait_s(failures, error)
            if wait_s is None:
                raise
        await asyncio.sleep(wait_s)
