"""Charges of photos that are worked on while their caller waits."""

import asyncio
import time

import pytest

from service.access.accounts import Accounts
from service.access.caller import Caller, Quota
from service.brokers.memory_meter import MemoryMeter
from service.core.errors import DeadlineExceeded
from service.core.jobs import Progress
from tests.rpc_serving import until

QUOTA = Quota(face_px=1000, window_s=3600)
CALLER = Caller("shop", quota=QUOTA)


async def _spent_face_px(until_s, faces_done=0):
    """What a photo of 100 pixels has cost that was not done in time."""

    async def too_late(_on_progress):
        raise DeadlineExceeded("the photo took too long", faces_done=faces_done)

    accounts = Accounts(MemoryMeter())
    charge = (await accounts.reserve(CALLER, 100)).charge
    with pytest.raises(DeadlineExceeded):
        await accounts.settled(charge, "photo", too_late, until_s=until_s)
    return await _spent_of(accounts)


async def _spent_of(accounts):
    return (await accounts.meter.spend("shop", QUOTA, 0)).spent_face_px


def test_a_photo_that_the_service_was_too_slow_for_costs_nothing():
    assert asyncio.run(_spent_face_px(None)) == 0
    assert asyncio.run(_spent_face_px(time.time() + 3600)) == 0


def test_faces_that_were_restored_before_a_deadline_are_paid_for():
    assert asyncio.run(_spent_face_px(None, faces_done=3)) == 300
    assert asyncio.run(_spent_face_px(time.time() - 1, faces_done=3)) == 300


def test_a_photo_that_its_caller_did_not_wait_for_stays_charged():
    assert asyncio.run(_spent_face_px(time.time() - 1)) == 100
    assert asyncio.run(_spent_face_px(time.time() + 0.5)) == 100  # clocks differ: a worker's ended it a little early


@pytest.mark.parametrize(("faces_done", "spent_face_px"), [(0, 100), (1, 100), (3, 300)])
async def test_a_photo_that_its_caller_withdraws_costs_the_faces_that_were_restored(faces_done, spent_face_px):
    told = []

    async def endless(on_progress):
        on_progress(Progress(num_faces=9, faces_done=faces_done, num_steps=9, steps_done=faces_done))
        await asyncio.Event().wait()

    accounts = Accounts(MemoryMeter())
    charge = (await accounts.reserve(CALLER, 100)).charge
    work = asyncio.create_task(accounts.settled(charge, "photo", endless, told.append))
    await until(lambda: told)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await _spent_of(accounts) == spent_face_px
