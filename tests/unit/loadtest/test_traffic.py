"""The open loop: when requests leave, what their latency is counted from, and what the rows say."""

import asyncio
import dataclasses
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from loadtest.process import resident_bytes
from loadtest.traffic.__main__ import main
from loadtest.traffic.arrivals import Arrival, poisson
from loadtest.traffic.mix import MIXES, OK, MixedPhoto, everyday
from loadtest.traffic.observed import Observation
from loadtest.traffic.offer import Sample, offer, saturate
from loadtest.traffic.report import as_markdown, draw, percentile, row_of, verdict
from loadtest.traffic.senders import GAVE_UP

PHOTO = MixedPhoto("any", b"photo", 1)


def test_a_child_that_ends_while_it_is_looked_at_takes_no_memory_away(monkeypatch):
    def gone():
        raise psutil.NoSuchProcess(2)

    child = SimpleNamespace(memory_info=gone)
    parent = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=3), children=lambda recursive: [child])
    monkeypatch.setattr(psutil, "Process", lambda pid: parent)
    assert resident_bytes(1) == 3


class OneAtATime:
    """Answers one request after another, each after `pause_s`, as an overloaded service does."""

    name = "queue"

    def __init__(self, pause_s):
        self._lock, self._pause_s = asyncio.Lock(), pause_s
        self.under_way, self.most = 0, 0

    async def send(self, image, timeout_s):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            async with asyncio.timeout(timeout_s), self._lock:
                await asyncio.sleep(self._pause_s)
        except TimeoutError:
            return GAVE_UP
        finally:
            self.under_way -= 1
        return OK

    async def close(self):
        pass


def test_arrivals_are_a_poisson_process_of_the_rate_that_was_asked_for():
    arrivals = poisson(50.0, 200.0, [1, 3], seed=4)
    gaps = np.diff([arrival.at_s for arrival in arrivals])
    assert len(arrivals) == pytest.approx(10_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as exponential gaps have it, and even ones have not
    assert np.mean([arrival.photo for arrival in arrivals]) == pytest.approx(0.75, abs=0.02)
    assert poisson(50.0, 1.0, [1], seed=4) == poisson(50.0, 1.0, [1], seed=4) != poisson(50.0, 1.0, [1], seed=5)


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 requests a second"):
        poisson(0.0, 1.0, [1], seed=0)


@pytest.mark.parametrize("shares", ["abc", "", "0.3,,2", "0,1", "nan", "-1", "inf"])
def test_shares_that_offer_nothing_are_refused_before_anything_is_started(capsys, shares):
    with pytest.raises(SystemExit) as caught:
        main([f"--shares={shares}"])
    assert caught.value.code == 2
    assert f"argument --shares: '{shares}' is no list of numbers above 0" in capsys.readouterr().err


async def test_requests_leave_on_time_however_long_the_answers_take():
    sender = OneAtATime(0.02)
    samples = await offer(sender, [Arrival(0.0, 0)] * 10, [PHOTO], patience_s=60)
    assert sender.most == 10
    latencies = [sample.latency_s for sample in samples]
    assert latencies == sorted(latencies)
    assert latencies[-1] >= 10 * 0.02  # who came last has waited for all the others


async def test_latency_counts_from_the_intended_time_where_the_client_was_late():
    sample = Sample(photo=0, intended_s=1.0, sent_s=3.0, ended_s=3.5, code=OK, expected=OK)
    assert sample.latency_s == 2.5


async def test_senders_lose_patience_by_the_intended_time():
    samples = await offer(OneAtATime(0.8), [Arrival(0.0, 0)] * 4, [PHOTO], patience_s=2.4)
    assert samples[0].code == OK
    assert samples[-1].code == GAVE_UP


async def test_saturation_keeps_so_many_under_way():
    sender = OneAtATime(0.001)
    per_s = await saturate(sender, [PHOTO], [0] * 30, at_once=5)
    assert sender.most == 5
    assert 0 < per_s <= 1000


async def test_what_is_refused_does_not_count_towards_saturation():
    class Refusing(OneAtATime):
        async def send(self, image, timeout_s):
            await super().send(image, timeout_s)
            return "queue_full"

    assert await saturate(Refusing(0.0), [PHOTO], [0] * 3, at_once=3) == 0


def samples_of(*codes, expected=OK):
    return [
        Sample(photo=0, intended_s=float(at), sent_s=at + 0.01, ended_s=at + 1.0 + at, code=code, expected=expected)
        for at, code in enumerate(codes, start=1)
    ]


def test_a_row_counts_what_was_restored_in_time_refused_given_up_and_wrong():
    samples = [*samples_of(OK, OK, "queue_full", GAVE_UP), *samples_of("corrupt_image", expected="corrupt_image")]
    samples += samples_of("internal")
    row = row_of("HTTP", 1.5, samples, Observation(), objective_s=2.5)
    assert row.offered_per_s == pytest.approx(6 / 4)
    assert row.asked_per_s == pytest.approx(6 / 9)
    assert row.restored_per_s == pytest.approx(2 / 9)
    assert row.good_per_s == pytest.approx(1 / 9)  # latencies are 2 and 3 s
    assert (row.refused, row.gave_up, row.wrong) == (1, 1, {"internal": 1})
    assert row.percentiles_s[100] == pytest.approx(5.0)
    assert row.late_p99_ms == pytest.approx(10.0)


def test_who_gives_up_has_waited_and_counts_among_the_latencies():
    quick = [Sample(0, intended_s=1.0, sent_s=1.0, ended_s=2.0, code=OK, expected=OK)] * 98
    lost = [Sample(0, intended_s=1.0, sent_s=1.0, ended_s=61.0, code=GAVE_UP, expected=OK)] * 2
    row = row_of("HTTP", 1.5, [*quick, *lost], Observation(), objective_s=30)
    assert row.percentiles_s[50] == 1.0
    assert row.percentiles_s[99] == 60.0
    assert row.good_per_s == pytest.approx(98 / 61)


def test_a_percentile_of_few_is_one_that_occurred():
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0
    assert percentile([1.0, 10.0], 99) == 10.0
    assert percentile(range(1, 201), 99) == 198


def test_a_bad_photo_that_is_restored_is_wrong():
    row = row_of("HTTP", 0.5, samples_of(OK, expected="corrupt_image"), Observation(), objective_s=5)
    assert row.wrong == {OK: 1}


def test_the_service_s_own_figures_are_those_of_the_run():
    seen = Observation(
        before={"restore_batch_size_sum[network=velocity]": 100, "restore_batch_size_count[network=velocity]": 50},
        after={"restore_batch_size_sum[network=velocity]": 130, "restore_batch_size_count[network=velocity]": 60},
        memory_mib=[(0.0, 300.0), (1.0, 500.0), (2.0, 400.0)],
    )
    row = row_of("HTTP", 0.5, samples_of(OK), seen, objective_s=5)
    assert row.rows_per_step == 3.0
    assert row.peak_mib == 500.0
    assert row.slope_mib_per_min is None  # too short for one
    assert row.queue_wait_ms is None


def test_memory_that_grows_is_seen_once_the_first_photos_have_been_served():
    seen = Observation(memory_mib=[(second, min(second, 30) * 10 + second * 0.5) for second in range(60)])
    assert row_of("HTTP", 0.5, samples_of(OK), seen, objective_s=5).slope_mib_per_min == pytest.approx(30)


def test_past_saturation_goodput_is_compared_with_the_peak(tmp_path):
    rows = [
        row_of("HTTP", 0.8, samples_of(OK, OK), Observation(), objective_s=5),
        row_of("HTTP", 2.0, samples_of(OK, GAVE_UP), Observation(), objective_s=5),
    ]
    assert "least goodput 50% of the peak" in verdict(rows, 5)
    assert as_markdown(rows).count("\n") == 3
    draw(rows, 5, tmp_path / "plot" / "loadtest.png")
    assert (tmp_path / "plot" / "loadtest.png").read_bytes().startswith(b"\x89PNG")


def test_what_chance_offered_too_little_of_need_not_give_the_peak():
    row = row_of("HTTP", 0.8, samples_of(OK, OK), Observation(), objective_s=5)
    peak = dataclasses.replace(row, load=2.5, asked_per_s=4.0, good_per_s=2.0)
    less = dataclasses.replace(row, load=1.2, asked_per_s=1.5, good_per_s=1.5)
    assert "least goodput 100% of the peak (2.00 a second)" in verdict([peak, less], 5)
    lost = dataclasses.replace(less, good_per_s=0.75)
    assert "least goodput 50% of the peak" in verdict([peak, lost], 5)


def test_the_time_to_the_last_answer_is_held_against_nobody():
    peak = dataclasses.replace(row_of("HTTP", 2.5, samples_of(OK, OK), Observation(), objective_s=5), good_per_s=9.0)
    all_came = row_of("HTTP", 1.2, samples_of(OK, OK, OK), Observation(), objective_s=5)
    assert all_came.good_per_s < all_came.offered_per_s
    assert "least goodput 100% of the peak" in verdict([peak, all_came], 5)


def test_one_in_ten_of_the_everyday_mix_is_of_no_use():
    photos = everyday()
    useless = sum(photo.weight for photo in photos if photo.expected != OK)
    assert useless / sum(photo.weight for photo in photos) == pytest.approx(0.1)
    assert set(MIXES) == {"everyday", "portraits"}
