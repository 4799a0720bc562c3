import pytest

from service.api.preferences import Preferences, parse_preferences


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Preferences()),
        (["respond-async"], Preferences(respond_async=True)),
        (["wait=10"], Preferences(wait_s=10)),
        (['Wait = "10"'], Preferences(wait_s=10)),
        (["respond-async, wait=3"], Preferences(True, 3)),
        (["RESPOND-ASYNC", "wait=3; foo=bar"], Preferences(True, 3)),
        (["wait=3, wait=9"], Preferences(wait_s=3)),
        (["return=minimal, handling=lenient"], Preferences()),
        (["wait"], Preferences()),
        (["wait=-1"], Preferences()),
        (["wait=1.5"], Preferences()),
        (["wait=soon"], Preferences()),
        (["wait=²"], Preferences()),
        ([",,;=;,"], Preferences()),
    ],
)
def test_what_is_known_is_read_and_the_rest_ignored(headers, expected):
    assert parse_preferences(headers) == expected


@pytest.mark.parametrize(
    ("preferences", "patience_s"),
    [
        (Preferences(), 60),
        (Preferences(respond_async=True), 0),
        (Preferences(wait_s=10), 10),
        (Preferences(wait_s=10**30), 60),
        (Preferences(True, 10), 10),
    ],
)
def test_the_wait_is_bounded(preferences, patience_s):
    assert preferences.patience_s(60) == patience_s


def test_only_what_was_done_is_said_to_be_applied():
    assert Preferences().applied(60, is_async=False) == ""
    assert Preferences(respond_async=True).applied(60, is_async=True) == "respond-async"
    assert Preferences(True, 10).applied(60, is_async=True) == "respond-async, wait=10"
    assert Preferences(True, 10).applied(60, is_async=False) == "wait=10"
    assert Preferences(wait_s=100).applied(60, is_async=True) == ""


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_longer_than_can_be_reckoned_with_is_a_long_wait(digits):
    preferences = parse_preferences([f"wait={'9' * digits}"])

    assert preferences.patience_s(60) == 60
    assert preferences.applied(60, is_async=False) == ""
