"""The loop of notices, on a real queue; the sender is a fake, but for one test with a real receiver."""

import asyncio
import contextlib
import logging
import time

import pytest
from standardwebhooks.webhooks import Webhook
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.core.errors import DependencyUnavailable
from service.core.metrics import Metrics
from service.webhooks.courier import RETRY_S, Courier
from service.webhooks.sender import Delivery, NoticeSender
from service.webhooks.targets import WebhookTargets
from tests.job_queues import HOOK, photo
from tests.serving import serving

LONG_S = 30.0
SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"


class Outbox(MemoryJobQueue):
    """A queue whose clock can be put forward, and which keeps how notices were settled."""

    def __init__(self, notice_lease_s=60.0):
        self.ahead_s = 0.0
        self.settled = []
        self.told = asyncio.Event()
        self.failures = 0
        limits = JobLimits(
            max_queued_photos=64,
            max_queued_bytes=10**6,
            result_ttl_s=60,
            max_result_bytes=10**6,
            notice_lease_s=notice_lease_s,
        )
        super().__init__(limits, metrics=Metrics(), clock=lambda: time.time() + self.ahead_s)

    async def leave_notice(self, job_id="a", url=HOOK, owner=""):
        await self.admit(photo(job_id, webhook_url=url, owner=owner))
        await self.cancel(job_id)

    async def settle_notice(self, notice, retry_in_s):
        self.settled.append((notice.attempt, retry_in_s))
        await super().settle_notice(notice, retry_in_s)
        self.told.set()

    async def due_notice(self, wait_s):
        if self.failures:
            self.failures -= 1
            raise DependencyUnavailable("no answer")
        return await super().due_notice(min(wait_s, 0.01))

    async def until_settled(self, times):
        async with asyncio.timeout(LONG_S):
            while len(self.settled) < times:
                self.told.clear()
                await self.told.wait()


class Scripted:
    """A sender whose attempts end as told, the last one again and again."""

    def __init__(self, *ends, hold=None):
        self.ends = list(ends)
        self.hold = hold
        self.sent = []
        self.came = asyncio.Event()
        self.at_once = 0
        self.most_at_once = 0

    async def until_sent(self, times):
        async with asyncio.timeout(LONG_S):
            while len(self.sent) < times:
                self.came.clear()
                await self.came.wait()

    async def send(self, notice):
        self.sent.append(notice)
        self.came.set()
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        if self.hold is not None:
            await self.hold.wait()
        self.at_once -= 1
        end = self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
        if isinstance(end, Exception):
            raise end
        return end


@contextlib.asynccontextmanager
async def running(outbox, sender, **times):
    metrics, stop = Metrics(), asyncio.Event()
    courier = Courier(outbox, sender, metrics=metrics, pause_s=0.01, **times)
    task = asyncio.create_task(courier.run(stop))
    yield metrics
    stop.set()
    await asyncio.wait_for(task, LONG_S)
    await outbox.close()


def counted(metrics, outcome):
    prefix = f'restore_notices_total{{outcome="{outcome}"}} '
    return sum(float(line.removeprefix(prefix)) for line in metrics.render().decode().splitlines() if prefix in line)


async def until_given_up(outbox, metrics):
    """The whole day of attempts; each failed, and the last was told as such."""
    for attempt in range(len(RETRY_S) + 1):
        await outbox.until_settled(attempt + 1)
        outbox.ahead_s += RETRY_S[min(attempt, len(RETRY_S) - 1)]
    assert counted(metrics, "failed") == len(RETRY_S)
    assert counted(metrics, "given_up") == 1


@pytest.mark.parametrize("end", [Delivery.DELIVERED, Delivery.GONE, Delivery.REFUSED])
async def test_these_ends_end_a_notice(end):
    outbox, sender = Outbox(), Scripted(end)
    async with running(outbox, sender) as metrics:
        await outbox.leave_notice()
        await outbox.until_settled(1)
        assert counted(metrics, end.value) == 1
    assert outbox.settled == [(0, None)]
    assert [notice.url for notice in sender.sent] == [HOOK]


async def test_a_failed_delivery_is_tried_again_later_and_later_for_a_day():
    outbox, sender = Outbox(), Scripted(Delivery.FAILED)
    async with running(outbox, sender) as metrics:
        await outbox.leave_notice()
        await until_given_up(outbox, metrics)
    waits = [wait_s for _, wait_s in outbox.settled]
    assert waits[-1] is None
    assert all(0.75 * most <= wait <= most for wait, most in zip(waits[:-1], RETRY_S, strict=True))
    assert [attempt for attempt, _ in outbox.settled] == list(range(len(RETRY_S) + 1))
    assert 12 * 3600 < sum(RETRY_S) <= 24 * 3600
    assert len({notice.notice_id for notice in sender.sent}) == 1


async def test_a_delivery_that_succeeds_late_is_the_last():
    outbox, sender = Outbox(), Scripted(Delivery.FAILED, Delivery.DELIVERED)
    async with running(outbox, sender):
        await outbox.leave_notice()
        await outbox.until_settled(1)
        outbox.ahead_s += RETRY_S[0]
        await outbox.until_settled(2)
        outbox.ahead_s += 10**6
        await asyncio.sleep(0.05)
    assert len(sender.sent) == 2


async def test_a_slow_receiver_does_not_hold_up_the_others():
    hold = asyncio.Event()
    outbox, sender = Outbox(), Scripted(Delivery.DELIVERED, hold=hold)
    async with running(outbox, sender, at_once=3):
        for number in range(5):
            await outbox.leave_notice(f"job {number}")
        for _ in range(500):
            if sender.at_once == 3:
                break
            await asyncio.sleep(0.01)
        assert sender.most_at_once == 3
        hold.set()
        await outbox.until_settled(5)
    assert sender.most_at_once == 3


async def test_it_goes_on_while_the_queue_is_away_and_after_a_defect(caplog):
    outbox, sender = Outbox(), Scripted(ZeroDivisionError("a defect"), Delivery.DELIVERED)
    outbox.failures = 3
    async with running(outbox, sender):
        await outbox.leave_notice()
        await outbox.until_settled(1)
        outbox.ahead_s += RETRY_S[0]
        await outbox.until_settled(2)
    assert len(sender.sent) == 2
    assert [record.exc_info[0] for record in caplog.records if record.levelno == logging.ERROR] == [ZeroDivisionError]
    assert caplog.text.count("the queue of notices does not answer: no answer") == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), DependencyUnavailable("not the queue")], ids=str)
async def test_a_notice_that_no_attempt_gets_over_is_given_up_like_any_other(error):
    outbox, sender = Outbox(), Scripted(error)
    async with running(outbox, sender) as metrics:
        await outbox.leave_notice()
        await until_given_up(outbox, metrics)
    assert outbox.settled[-1] == (len(RETRY_S), None)


async def test_stopping_delivers_what_is_due_and_leaves_what_is_not():
    hold = asyncio.Event()
    outbox, sender = Outbox(), Scripted(Delivery.FAILED, hold=hold)
    async with running(outbox, sender, at_once=1):
        for number in range(3):
            await outbox.leave_notice(f"job {number}")
        asyncio.get_running_loop().call_later(0.05, hold.set)
    assert outbox.settled
    assert {attempt for attempt, _ in outbox.settled} == {0}
    assert len(outbox.settled) == 3


async def test_stopping_does_not_wait_for_a_slow_receiver_without_end():
    outbox, sender = Outbox(), Scripted(Delivery.DELIVERED, hold=asyncio.Event())
    async with running(outbox, sender, grace_s=0.05):
        await outbox.leave_notice()
        for _ in range(500):
            if sender.at_once:
                break
            await asyncio.sleep(0.01)
    assert outbox.settled == []


async def test_from_the_end_of_a_job_to_a_receiver_that_verifies():
    received = []

    async def hook(request):
        received.append(Webhook(SECRET).verify(await request.body(), dict(request.headers)))
        return Response(status_code=503 if len(received) == 1 else 204)

    outbox = Outbox()
    sender = NoticeSender(SECRET, WebhookTargets("127.0.0.0/8"), version="1")
    with serving(Starlette(routes=[Route("/hook", hook, methods=["POST"])])) as address:
        async with running(outbox, sender):
            await outbox.leave_notice(url=f"{address}/hook")
            await outbox.until_settled(1)
            outbox.ahead_s += RETRY_S[0]
            await outbox.until_settled(2)
        await sender.close()
    assert [document["type"] for document in received] == ["restoration.cancelled"] * 2
    assert received[0] == received[1]


async def test_slow_receivers_of_one_owner_do_not_hold_up_the_notices_of_others():
    hold = asyncio.Event()
    outbox, sender = Outbox(), Scripted(Delivery.DELIVERED, hold=hold)
    async with running(outbox, sender, at_once=4):
        for name in "abcde":
            await outbox.leave_notice(name, owner="flood")
        await outbox.leave_notice("mine", owner="shop")
        await sender.until_sent(3)
        assert [notice.owner for notice in sender.sent] == ["flood", "flood", "shop"]
        hold.set()
        for sent in (4, 5, 6):
            outbox.ahead_s += 30
            await sender.until_sent(sent)
    assert {notice.attempt for notice in sender.sent} == {0}
    assert len({notice.notice_id for notice in sender.sent}) == len(sender.sent) == 6
