"""Errors as a caller keeps them."""

import copy
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from service.client import Answer, RestorationError, ServerUnreachable

REFUSED = RestorationError(
    "no room", code="queue_full", title="Full", hint="wait", retryable=True, retry_after_s=2.0, values={"limit": 3}
)


def refused():
    raise REFUSED


@pytest.mark.parametrize("error", [REFUSED, ServerUnreachable("nothing listens")])
def test_a_copy_is_the_same_error(error):
    made = copy.copy(error)
    assert type(made) is type(error)
    assert str(made) == str(error)
    assert vars(made) == vars(error)


def test_errors_come_out_of_processes():
    """An error that cannot be read on the other side breaks the whole pool."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(RestorationError) as told:
            pool.submit(refused).result(60)
        assert vars(told.value) == vars(REFUSED)
        answer = pool.submit(Answer, "a", None, REFUSED).result(60)
        assert answer.error.code == "queue_full"
