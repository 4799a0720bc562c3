import itertools
import os
import signal
import threading
import time
from dataclasses import dataclass

import psutil
import pytest
import torch

from latent_pmrf.data.pictures import UnreadablePicture
from latent_pmrf.data.prefetch import Prefetcher, WorkerPrefetcher


def test_prefetcher_keeps_the_order_and_stays_ahead():
    made, ahead = [], threading.Event()

    def make(step):
        made.append(step)
        if step == 6:
            ahead.set()
        return 10 * step

    prefetcher = Prefetcher(make, iter(range(5, 100)), depth=2)
    assert ahead.wait(10)  # computed before anybody asked
    assert [prefetcher.next() for _ in range(3)] == [50, 60, 70]
    prefetcher.close()
    assert made == sorted(made)
    assert max(made) <= 9


def test_prefetcher_raises_where_the_step_is_due():
    def make(step):
        if step == 1:
            raise RuntimeError("step 1 is broken")
        return step

    prefetcher = Prefetcher(make, iter(range(100)))
    assert prefetcher.next() == 0
    with pytest.raises(RuntimeError, match="step 1"):
        prefetcher.next()
    assert prefetcher.next() == 2
    prefetcher.close()


@dataclass
class Square:
    broken: int = -1

    def __call__(self, index):
        if index == self.broken:
            raise RuntimeError(f"batch {index} is broken")
        return index, torch.full((2,), float(index**2))


def test_workers_keep_the_order_and_the_batch():
    batches = WorkerPrefetcher(Square(), itertools.count(3, 2), workers=2)
    found = [batches.next() for _ in range(5)]
    batches.close()
    assert [index for index, _ in found] == [3, 5, 7, 9, 11]
    assert [batch.tolist() for _, batch in found] == [[float(index**2)] * 2 for index in (3, 5, 7, 9, 11)]
    with pytest.raises(ValueError, match="closed"):
        batches.next()


def batch_of_tuples(index):
    return index, (torch.zeros(1), (torch.ones(1), "name"))


def test_workers_leave_tuples_alone():
    batches = WorkerPrefetcher(batch_of_tuples, itertools.count(), workers=1)
    _, (first, second) = found = batches.next()
    batches.close()
    assert found == (0, (first, second))
    assert isinstance(found[1], tuple)
    assert isinstance(second, tuple)


def unreadable(index):
    if index == 1:
        raise UnreadablePicture("train.tar:1.png cannot be read: it is no picture")
    return index


def test_workers_tell_of_a_picture_in_a_line():
    batches = WorkerPrefetcher(unreadable, itertools.count(), workers=1)
    assert batches.next() == 0
    with pytest.raises(UnreadablePicture) as caught:
        batches.next()
    batches.close()
    assert str(caught.value) == "train.tar:1.png cannot be read: it is no picture"


def own_number(index):
    return os.getpid()


def busy_number(index):
    if index > 0:
        time.sleep(60)
    return os.getpid()


def wait_for_the_end_of(number):
    deadline_s = time.monotonic() + 30
    while psutil.pid_exists(number):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_leaves_the_workers_to_the_one_that_trains(sig):
    batches = WorkerPrefetcher(own_number, itertools.count(), workers=1)
    number = batches.next()
    os.kill(number, sig)
    assert [batches.next() for _ in range(5)] == [number] * 5
    batches.close()
    wait_for_the_end_of(number)


def test_a_worker_that_is_busy_ends_with_the_batches():
    batches = WorkerPrefetcher(busy_number, itertools.count(), workers=1)
    number = batches.next()
    batches.close()
    wait_for_the_end_of(number)


def test_workers_raise_what_the_batch_raised():
    batches = WorkerPrefetcher(Square(broken=1), itertools.count(), workers=1)
    batches.next()
    with pytest.raises(RuntimeError, match="batch 1 is broken"):
        batches.next()
    batches.close()
