"""Every queue of photos, for the tests that all of them have to pass."""

from __future__ import annotations

import pytest

from tests.job_queues import JOB_QUEUES


@pytest.fixture(params=JOB_QUEUES, ids=lambda factory: factory.__name__)
def make_queue(request):
    """A factory of one implementation."""
    return request.param


@pytest.fixture
async def queue(make_queue):
    """A queue with room."""
    async with make_queue() as made:
        yield made
