import time
from dataclasses import replace

from service.brokers.outbox import Outbox
from service.core.jobs import Notice
from service.core.metrics import Metrics


def notice(name):
    return Notice(name, "https://example.org", b"{}")


async def drain(outbox):
    found = []
    while (due := await outbox.due(0)) is not None:
        found.append(due.notice_id)
    return found


async def test_what_has_been_due_longest_is_first():
    now_s = [0.0]
    outbox = Outbox(lease_s=60, max_notices=9, clock=lambda: now_s[0], metrics=Metrics())
    for name in "abc":
        outbox.put(notice(name))
        now_s[0] += 1
    first = await outbox.due(0)
    outbox.settle(first, 5)
    now_s[0] += 10
    assert await drain(outbox) == ["b", "c", "a"]


async def test_the_oldest_makes_room(caplog):
    outbox = Outbox(lease_s=60, max_notices=2, clock=time.time, metrics=Metrics())
    for name in "abc":
        outbox.put(notice(name))
    assert await drain(outbox) == ["b", "c"]
    assert "notice a" in caplog.text


async def test_a_notice_that_was_rescheduled_often_is_handed_out_once_each_time():
    now_s = [0.0]
    outbox = Outbox(lease_s=1000, max_notices=9, clock=lambda: now_s[0], metrics=Metrics())
    outbox.put(notice("a"))
    for attempt in range(5):
        due = await outbox.due(0)
        assert due.attempt == attempt
        outbox.settle(due, 10)
        assert await drain(outbox) == []
        now_s[0] += 11
    assert len(await drain(outbox)) == 1
    assert await drain(outbox) == []


async def test_who_has_most_notices_makes_room_for_others():
    outbox = Outbox(lease_s=60, max_notices=3, clock=time.time, metrics=Metrics())
    outbox.put(replace(notice("mine"), owner="shop"))
    for name in "abcd":
        outbox.put(replace(notice(name), owner="flood"))
    assert await drain(outbox) == ["mine", "c", "d"]


async def test_who_had_notices_before_makes_room_among_those_who_have_some():
    outbox = Outbox(lease_s=60, max_notices=1, clock=time.time, metrics=Metrics())
    for name, owner in (("a", "shop"), ("b", "flood"), ("c", "shop")):
        outbox.put(replace(notice(name), owner=owner))
    assert await drain(outbox) == ["c"]


async def test_what_ends_with_the_process_is_told(caplog):
    outbox = Outbox(lease_s=60, max_notices=9, clock=time.time, metrics=Metrics())
    for name in "ab":
        outbox.put(notice(name))
    outbox.settle(await outbox.due(0), None)
    outbox.close()
    outbox.close()
    assert [record.message for record in caplog.records] == ["1 notices end with this process and are never delivered"]
