"""Charges of photos that are worked on while their caller waits."""

import asyncio
import time

import pytest

from service.access.accounts import Accounts
from service.access.caller import Caller, Quota
from service.brokers.memory_meter import MemoryMeter
from service.core.errors import DeadlineExceeded

QUOTA = Quota(face_px=1000, window_s=3600)
CALLER = Caller("shop", quota=QUOTA)


async def _spent_face_px(until_s, faces_done=0):
    """What a photo of 100 pixels has cost that was not done in time."""

    async def too_late():
        raise DeadlineExceeded("the photo took too long", faces_done=faces_done)

    meter = MemoryMeter()
    accounts = Accounts(meter)
    charge = (await accounts.reserve(CALLER, 100)).charge
    with pytest.raises(DeadlineExceeded):
        await accounts.settled(charge, "photo", too_late, until_s=until_s)
    return (await meter.spend("shop", QUOTA, 0)).spent_face_px


def test_a_photo_that_the_service_was_too_slow_for_costs_nothing():
    assert asyncio.run(_spent_face_px(None)) == 0
    assert asyncio.run(_spent_face_px(time.time() + 3600)) == 0


def test_faces_that_were_restored_before_a_deadline_are_paid_for():
    assert asyncio.run(_spent_face_px(None, faces_done=3)) == 300
    assert asyncio.run(_spent_face_px(time.time() - 1, faces_done=3)) == 300


def test_a_photo_that_its_caller_did_not_wait_for_stays_charged():
    assert asyncio.run(_spent_face_px(time.time() - 1)) == 100
