"""Readiness as a metric: what is answered, what fails, what hangs, and the end."""

import asyncio
import contextlib

import pytest

from service.composition.readiness import keep_ready
from service.core.metrics import Metrics
from tests.processes import until

LONG_S = 30.0


@contextlib.asynccontextmanager
async def looking(reasons_not_ready, **times):
    metrics, stop = Metrics(), asyncio.Event()

    def shown():
        return metrics.registry.get_sample_value("restore_ready")

    assert shown() == 0  # before the first look
    task = asyncio.create_task(keep_ready(reasons_not_ready, metrics, stop, **{"look_s": 0.01, **times}))
    yield lambda value: asyncio.to_thread(until, lambda: shown() == value)
    stop.set()
    await asyncio.wait_for(task, LONG_S)
    assert shown() == 0


async def test_it_follows_what_is_answered():
    reasons = []

    async def reasons_not_ready():
        return list(reasons)

    async with looking(reasons_not_ready) as shows:
        await shows(1)
        reasons.append("the queue of faces cannot be used")
        await shows(0)
        reasons.clear()
        await shows(1)


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
async def test_a_question_without_an_answer_is_a_reason_and_ends_nothing(trouble, caplog):
    troubled = False

    async def reasons_not_ready():
        if troubled and trouble == "hangs":
            await asyncio.Event().wait()
        if troubled:
            raise ZeroDivisionError("a defect")
        return []

    async with looking(reasons_not_ready, patience_s=0.05) as shows:
        await shows(1)
        troubled = True
        await shows(0)
        troubled = False
        await shows(1)
    assert ("a defect" in caplog.text) == (trouble == "fails")
