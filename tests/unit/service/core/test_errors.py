import json
import re

import pytest

from service.core import errors
from service.core.errors import InputError, ServiceError
from tests.errors import ERRORS


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_carries_what_a_caller_needs(kind):
    error = kind("what happened", hint="what to do", limit=3)
    assert (str(error), error.detail, error.hint, error.extra) == (
        "what happened",
        "what happened",
        "what to do",
        {"limit": 3},
    )
    assert kind.title[0].isupper()
    assert json.dumps(error.extra)


def test_the_tree_drawn_is_the_tree():
    one_word = "cancelled|draining|abandoned|unauthenticated"
    drawn = dict(re.findall(rf"── (\w+) +([a-z]+_[a-z_]+|{one_word})?", errors.__doc__))
    stated = {kind.__name__: kind.code for kind in ERRORS if kind is not ServiceError}
    assert drawn == stated | {"InputError": ""}


def test_faults_of_the_caller_are_never_retryable_but_for_impatience():
    assert [kind.__name__ for kind in ERRORS if issubclass(kind, InputError) and kind.retryable] == ["NotFinished"]


def test_an_upload_may_have_the_limit():
    errors.check_upload_bytes(10, 10)
    with pytest.raises(errors.UploadTooLarge, match="has 11 bytes, the limit is 10") as whole:
        errors.check_upload_bytes(11, 10)
    assert whole.value.extra == {"upload_bytes": 11, "max_upload_bytes": 10}
    with pytest.raises(errors.UploadTooLarge, match="has at least 11 bytes") as begun:
        errors.check_upload_bytes(11, 10, whole=False)
    assert begun.value.extra == {"max_upload_bytes": 10}
