"""Photos under way: never more than the window, and each of them until it is answered."""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.client.errors import RestorationError, ServerUnreachable
from service.client.results import Photo
from service.client.retry import Retry
from service.client.supply import Supply

AT_ONCE = Retry(attempts=5, first_s=0.0)
FULL = RestorationError("full", code="queue_full", title="t", retryable=True, retry_after_s=0.0)
BROKEN = RestorationError("nan", code="inference_failed", title="t", retryable=True)
CORRUPT = RestorationError("cut", code="corrupt_image", title="t")


class Source:
    """Counts what was taken from it."""

    def __init__(self, count):
        self.count = count
        self.taken = 0

    def __iter__(self):
        for number in range(self.count):
            self.taken += 1
            yield Photo(str(number), b"")


@contextlib.asynccontextmanager
async def supplying(photos, window, policy=AT_ONCE):
    supply = Supply(photos, window, policy)
    try:
        yield supply
    finally:
        await supply.close()


async def waits(supply):
    """Whether the supply has nothing to give now; the wait is given up."""
    try:
        async with asyncio.timeout(0.05):
            await supply.next()
    except TimeoutError:
        return True
    return False


async def test_two_thousand_photos_through_a_window_of_eight():
    source, answered = Source(2_000), 0
    async with supplying(source, 8) as supply:
        under_way = set()
        while (photo := await supply.next()) is not None:
            under_way.add(photo.client_id)
            assert len(under_way) == supply.unanswered <= 8
            assert source.taken - answered <= 8
            if len(under_way) == 8 or source.taken == source.count:
                answered += len(under_way)
                assert all(supply.answered(client_id) for client_id in under_way)
                under_way.clear()
        assert supply.finished
    assert answered == 2_000


async def test_nothing_is_given_beyond_the_window():
    source = Source(9)
    async with supplying(source, 2) as supply:
        first, second = await supply.next(), await supply.next()
        assert await waits(supply)
        assert source.taken == 2
        supply.answered(first.client_id)
        assert (await supply.next()).client_id == "2"
        assert second.client_id == "1"


async def test_a_wait_that_is_given_up_loses_no_photo():
    gate = asyncio.Event()

    async def slow():
        await gate.wait()
        yield Photo("a", b"")

    async with supplying(slow(), 1) as supply:
        assert await waits(supply)
        gate.set()
        assert (await supply.next()).client_id == "a"


async def test_what_was_under_way_when_the_stream_was_lost_comes_again_in_order():
    async with supplying(Source(5), 3) as supply:
        given = [(await supply.next()).client_id for _ in range(3)]
        supply.answered("1")
        supply.lost()
        assert [(await supply.next()).client_id for _ in range(3)] == ["0", "2", "3"]
        assert given == ["0", "1", "2"]


async def test_a_photo_that_may_succeed_later_comes_again_a_few_times():
    async with supplying(Source(1), 1) as supply:
        for again in (True, True, False):
            assert (await supply.next()).client_id == "0"
            assert supply.failed("0", BROKEN) is again
        assert await supply.next() is None


async def test_a_service_that_says_when_to_come_back_is_asked_more_often():
    async with supplying(Source(1), 1) as supply:
        for again in (True, True, True, True, False):
            assert (await supply.next()).client_id == "0"
            assert supply.failed("0", FULL) is again


async def test_a_photo_that_waits_for_its_time_holds_its_place():
    later = RestorationError("full", code="queue_full", title="t", retryable=True, retry_after_s=60.0)
    source = Source(3)
    async with supplying(source, 1) as supply:
        await supply.next()
        assert supply.failed("0", later)
        assert await waits(supply)
        assert source.taken == 1


async def test_a_hopeless_photo_is_told_at_once():
    async with supplying(Source(1), 1) as supply:
        await supply.next()
        assert not supply.failed("0", CORRUPT)
        assert not supply.answered("0")
        assert supply.finished is False  # whether more come is not known yet
        assert await supply.next() is None


async def test_two_photos_of_one_name_are_refused():
    async with supplying([Photo("a", b""), Photo("a", b"")], 2) as supply:
        await supply.next()
        with pytest.raises(ValueError, match="'a'"):
            await supply.next()


async def test_what_the_source_raises_comes_through():
    def broken():
        yield "photo.jpg"
        raise OSError("the disk is gone")

    async with supplying(broken(), 2) as supply:
        assert (await supply.next()).client_id == "photo.jpg"
        with pytest.raises(OSError, match="disk"):
            await supply.next()


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 12),
    window=st.integers(1, 4),
    events=st.lists(st.sampled_from(["answer", "lose", "fail", "full"]), max_size=40),
)
def test_whatever_happens_on_the_way_every_photo_is_answered_once(count, window, events):
    async def run():
        happening = iter(events)
        told, under_way = [], []
        async with supplying(Source(count), window) as supply:
            while (photo := await supply.next()) is not None:
                under_way.append(photo.client_id)
                match next(happening, "answer"):
                    case "answer":
                        told.append(under_way.pop())
                        assert supply.answered(told[-1])
                    case "lose":
                        under_way.clear()
                        supply.lost()
                    case "fail" | "full" as kind:
                        client_id = under_way.pop()
                        if not supply.failed(client_id, BROKEN if kind == "fail" else FULL):
                            told.append(client_id)
                if len(under_way) == window or len(under_way) + len(told) == count:
                    told += [name for name in under_way if supply.answered(name)]
                    under_way.clear()
        assert sorted(told, key=int) == [str(number) for number in range(count)]

    asyncio.run(run())


def test_names_that_no_service_takes_travel_as_digests():
    for name in ("", "\u00fc" * 128, "\udcff.jpg"):
        assert 0 < len(Photo(name, b"").wire_id.encode()) <= 255
    assert Photo("\u00fc" * 127, b"").wire_id == "\u00fc" * 127
    assert Photo("\udcff.jpg", b"").wire_id != Photo("\udcfe.jpg", b"").wire_id


def test_a_lost_server_is_worth_another_attempt():
    assert ServerUnreachable("gone").retryable


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_without_room_is_refused(window):
    with pytest.raises(ValueError, match="window"):
        Supply([], window, Retry())
