import pytest

from service.client.errors import RestorationError, ServerUnreachable, of_problem
from service.client.results import Job
from service.client.retry import Retry, retried, watched

AT_ONCE = Retry(attempts=3, first_s=0.0)


def refusals(*errors):
    """An attempt that fails so and then succeeds; and how often it was made."""
    left, made = list(errors), []

    async def attempt(left_s):
        made.append(left_s)
        if left:
            raise left.pop(0)
        return "done"

    return attempt, made


async def test_what_may_succeed_later_is_tried_again():
    attempt, made = refusals(ServerUnreachable("gone"), ServerUnreachable("gone"))
    assert await retried(attempt, AT_ONCE, 10) == "done"
    assert len(made) == 3


async def test_the_last_attempt_s_error_is_told():
    attempt, made = refusals(*(ServerUnreachable(str(number)) for number in range(9)))
    with pytest.raises(ServerUnreachable, match="2"):
        await retried(attempt, AT_ONCE, 10)
    assert len(made) == 3


async def test_a_refusal_is_final():
    attempt, made = refusals(RestorationError("cut", code="corrupt_image", title="t"))
    with pytest.raises(RestorationError, match="cut"):
        await retried(attempt, AT_ONCE, 10)
    assert len(made) == 1


async def test_a_wait_beyond_the_caller_s_time_is_not_begun():
    later = RestorationError("full", code="queue_full", title="t", retryable=True, retry_after_s=60.0)
    attempt, made = refusals(later)
    with pytest.raises(RestorationError, match="full"):
        await retried(attempt, AT_ONCE, 10)
    assert len(made) == 1
    assert made[0] <= 10


def test_waits_double_up_to_a_limit_and_obey_the_service():
    policy, gone = Retry(attempts=99, first_s=1.0, longest_s=8.0), ServerUnreachable("gone")
    for failures, longest_s in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (90, 8)):
        assert longest_s / 2 <= policy.wait_s(failures, gone) <= longest_s
    told = RestorationError("full", code="queue_full", title="t", retryable=True, retry_after_s=30.0)
    assert policy.wait_s(1, told) == 30.0
    assert policy.wait_s(99, told) is None


async def test_a_job_is_watched_over_lost_connections():
    queued, running = Job("a", "queued", position=0), Job("a", "running")
    connections = [[queued, running], [running], [running, Job("a", "cancelled")]]

    async def connect():
        for job in connections.pop(0):
            yield job
        if len(connections) == 1:
            raise ServerUnreachable("lost")

    states = [job.status async for job in watched(connect, AT_ONCE)]
    assert states == ["queued", "running", "cancelled"]


async def test_a_job_that_is_gone_is_not_waited_for():
    async def connect():
        raise RestorationError("unknown", code="not_found", title="t")
        yield

    with pytest.raises(RestorationError, match="unknown"):
        await anext(watched(connect, AT_ONCE))


def test_a_proxy_s_answer_is_an_error_too():
    error = of_problem({}, status=502, retry_after="7")
    assert (error.code, error.retryable, error.retry_after_s) == ("http_error", True, 7.0)
    error = of_problem({}, status=401, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")
    assert (error.retryable, error.retry_after_s) == (False, None)
