"""What a photo was charged travels with its job, through every queue, to whoever settles it."""

import pytest

from service.core.jobs import Charge
from tests.job_queues import photo

CHARGE = Charge("shop", 40_000_000, 86400.5)


@pytest.mark.parametrize("charge", [CHARGE, None])
async def test_a_charge_reaches_who_takes_the_job(queue, charge):
    await queue.admit(photo("a", charge=charge))
    assert (await queue.take(1)).charge == charge
