import asyncio
import threading

import pytest

from service.core import tracing
from service.core.metrics import Metrics
from service.core.stopwatch import Stopwatch
from service.core.threads import Threads


@pytest.fixture
def pool():
    with Threads(1) as threads:
        yield threads


async def test_stages_are_timed_and_told(pool):
    metrics = Metrics()
    watch = Stopwatch(pool, metrics)
    assert await watch.compute("decode", divmod, 7, 2) == (3, 1)
    assert await watch.compute("encode", sorted, [2, 1], reverse=True) == [2, 1]
    with watch.stage("detect"):
        await asyncio.sleep(0)
    report = watch.report_ms([{"velocity": 12.0, "estimator": 3.0}, {"velocity": 11.0}])
    assert list(report) == ["decode", "encode", "detect", "velocity", "estimator", "total"]
    assert (report["velocity"], report["estimator"]) == (12.0, 3.0)
    assert all(value >= 0 for value in report.values())
    assert b'restore_stage_duration_seconds_count{stage="decode"} 1.0' in metrics.render()


async def test_stages_of_one_way_to_the_pool_are_timed_each(pool):
    def work(first, second):
        with watch.stage("blend"):
            total = first + second
        with watch.stage("paste"):
            return total, tracing.current_stage(), threading.current_thread()

    watch = Stopwatch(pool, Metrics())
    total, stage, thread = await pool.run(work, 1, 2)
    assert (total, stage) == (3, "paste")
    assert thread is not threading.current_thread()
    assert list(watch.report_ms([])) == ["blend", "paste", "total"]


async def test_an_error_of_a_stage_comes_through_untimed(pool):
    watch = Stopwatch(pool, Metrics())
    with pytest.raises(ZeroDivisionError):
        await watch.compute("decode", divmod, 1, 0)
    assert list(watch.report_ms([])) == ["total"]
