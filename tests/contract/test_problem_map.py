"""Every error of the tree has an HTTP status, a code of its own and an explanation."""

import pytest

from service.api import problems
from tests.errors import ERRORS


def test_every_error_has_a_status():
    assert set(problems.STATUS) == set(ERRORS)


def test_codes_are_distinct():
    codes = [error.code for error in ERRORS]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", ERRORS)
def test_every_code_is_explained(error):
    assert problems.explanation(error.code)
    assert problems.catalogue()[error.code]["status"] == problems.STATUS[error]


def test_only_overload_and_absence_ask_to_come_back():
    asking = {error.code for error, status in problems.STATUS.items() if status in (429, 503)}
    assert asking == {"rate_limited", "quota_exceeded", "queue_full", "draining", "dependency_unavailable"}
