import grpc
import pytest
from tritonclient.utils import InferenceServerException

from service.backends.triton_status import VERDICTS, Verdict, status_of, verdict_of, words_of


def error(status="StatusCode.UNAVAILABLE", message="Socket closed"):
    return InferenceServerException(msg=message, status=status)


def test_only_what_did_not_happen_may_happen_elsewhere():
    assert {status.name for status, verdict in VERDICTS.items() if verdict is Verdict.ELSEWHERE} == {
        "CANCELLED",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNAVAILABLE",
    }


def test_only_what_a_network_said_itself_tells_that_it_broke():
    assert [status.name for status, verdict in VERDICTS.items() if verdict is Verdict.BROKE] == ["INTERNAL"]


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        ("failed to connect to all addresses", Verdict.ELSEWHERE),
        ("[request id: <id_unknown>] Exceeds maximum queue size", Verdict.BUSY),
        ("Request timeout expired", Verdict.LATE),
    ],
)
def test_one_status_means_several_things(message, verdict):
    assert verdict_of(error(message=message)) is verdict


@pytest.mark.parametrize("status", [None, "", "400", "StatusCode.NO_SUCH"])
def test_an_error_without_a_status_of_grpc_is_the_calls_own(status):
    assert status_of(error(status)) is grpc.StatusCode.UNKNOWN
    assert verdict_of(error(status)) is Verdict.FAILED


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("[request id: <id_unknown>] no such shape\nat line 3", "no such shape"),
        ("", "no reason given"),
        (None, "no reason given"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_words_are_one_line_without_an_id(message, words):
    assert words_of(error(message=message)) == words
