"""Processes are ended in the middle of their work, by `kill -9` or by a signal they hear; nothing is lost."""

import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.fleet import check_results, state, submit, until_ended, until_ready
from tests.job_client import ASYNC, ask
from tests.numbered_photos import numbered
from tests.pictures import encoded
from tests.processes import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SLOW = ("--call-s", "0.2")  # a face of eight steps takes two seconds
SLOWER = ("--call-s", "0.5")
LONG_LEASE_S = 60  # of who may take from others: one that is slow today is not silent
MANY_STEPS = {"num_steps": "8"}
RECLAIMED = "restore_reclaimed_total"
STEPS = "restore_ode_steps_total"
HOOK_SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"


def test_a_worker_killed_in_mid_batch_loses_no_face(fleet):
    (gateway,) = fleet.start("gateway")
    doomed = fleet.start_odd_worker(*SLOW)
    until_ready(gateway, doomed)
    where = submit(gateway, range(12), **MANY_STEPS)
    until(lambda: doomed.counted(STEPS) > 0)
    doomed.kill()
    (survivor,) = fleet.start("worker")
    check_results(gateway, where)
    assert survivor.counted(RECLAIMED) > 0


def test_jobs_wait_until_there_are_workers_again(fleet):
    (gateway,) = fleet.start("gateway", request_timeout_s=10)
    doomed = fleet.start_odd_worker(*SLOW)
    until_ready(gateway, doomed)
    where = submit(gateway, range(6), **MANY_STEPS)
    until(lambda: doomed.counted(STEPS) > 0)
    doomed.kill()
    until(lambda: {state(gateway, location)["status"] for location in where.values()} == {"queued"})
    fleet.start("worker")
    check_results(gateway, where)


def test_the_jobs_of_a_killed_gateway_end_at_another(fleet):
    (doomed,) = fleet.start("gateway")
    worker = fleet.start_odd_worker(*SLOW)
    until_ready(doomed, worker)
    where = submit(doomed, range(8), **MANY_STEPS)
    until(lambda: worker.counted(STEPS) > 0)
    doomed.kill()
    (other,) = fleet.start("gateway")
    check_results(other, where)
    assert other.counted(RECLAIMED) > 0


@pytest.mark.parametrize("reaction", ["--dies", "--hangs"])
def test_a_photo_that_ends_every_worker_is_given_up_and_no_other(fleet, reaction):
    settings = {"max_deliveries": 3, "call_timeout_s": 5}
    (gateway,) = fleet.start("gateway", **settings)
    worker = fleet.start_odd_worker(reaction, **settings)
    white = encoded(np.full((64, 64, 3), 255, np.uint8))
    where = submit(gateway, range(3))
    poison = ask(gateway.client, white, {"aligned": "true"}, **ASYNC).headers["location"]
    where |= submit(gateway, range(3, 6))
    ends = 0
    while state(gateway, poison)["status"] in ("queued", "running"):
        if worker.child.poll() is not None:
            ends += 1
            worker = fleet.start_odd_worker(reaction, **settings)
    assert ends == 3
    ended = state(gateway, poison)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "abandoned")
    assert gateway.client.get(f"{poison}/result").json()["code"] == "abandoned"
    check_results(gateway, where)
    (letters,) = fleet.server.tell("KEYS", "*:dead").split()
    assert fleet.server.tell("XLEN", letters) == "1"
    assert "deliveries" in fleet.server.tell("XRANGE", letters, "-", "+")


@pytest.mark.parametrize("grace_s", [60, 0])
def test_a_worker_that_is_told_to_end_finishes_its_faces_or_hands_them_back(fleet, grace_s):
    (gateway,) = fleet.start("gateway")
    leaving = fleet.start_odd_worker(*SLOWER, grace_s=grace_s)
    until_ready(gateway, leaving)
    where = submit(gateway, range(12), **MANY_STEPS)
    until(lambda: leaving.counted(STEPS) > 0)
    leaving.child.send_signal(signal.SIGTERM)
    if grace_s:
        until(lambda: leaving.reasons_not_ready() == ["the worker is shutting down"])
    assert leaving.child.wait(120) == 0

    def any_succeeded():
        return any(state(gateway, location)["status"] == "succeeded" for location in where.values())

    if grace_s:
        until(any_succeeded)  # the gateway has the last faces when the worker ends, and may not have told it yet
    else:
        assert not any_succeeded()
    (successor,) = fleet.start("worker", lease_s=LONG_LEASE_S)
    check_results(gateway, where)
    assert successor.counted(RECLAIMED) == 0


def test_a_gateway_that_is_told_to_end_finishes_its_photos_and_leaves_the_others(fleet):
    leaving, other = fleet.start("gateway", "gateway", job_photos=2, lease_s=LONG_LEASE_S)
    worker = fleet.start_odd_worker(*SLOWER)
    until_ready(leaving, other, worker)
    where = submit(leaving, range(6), **MANY_STEPS)
    until(lambda: worker.counted(STEPS) > 0)
    leaving.child.send_signal(signal.SIGTERM)
    until(lambda: leaving.reasons_not_ready() == ["the service is shutting down"])
    for path in ("/restore", "/v1/restorations"):
        refused = leaving.client.post(path, files={"image": b"anything"})
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) > 0
    assert leaving.client.get("/livez").status_code == 200
    assert state(leaving, where[5])["status"] in ("queued", "running")
    assert leaving.child.wait(120) == 0
    check_results(other, where)
    assert other.counted(RECLAIMED) == 0


def test_a_second_signal_ends_a_gateway_at_once_and_its_photos_elsewhere(fleet):
    (leaving,) = fleet.start("gateway", grace_s=600)
    worker = fleet.start_odd_worker("--call-s", "1")
    until_ready(leaving, worker)
    (location,) = submit(leaving, [7], **MANY_STEPS).values()
    until(lambda: worker.counted(STEPS) > 0)
    leaving.child.send_signal(signal.SIGTERM)
    until(leaving.reasons_not_ready)
    leaving.child.send_signal(signal.SIGTERM)
    assert leaving.child.wait(60) == 130
    (other,) = fleet.start("gateway")
    assert until_ended(other, location)["status"] == "succeeded"
    assert other.counted(RECLAIMED) == 0


def test_a_gateway_with_webhooks_ends_while_a_caller_still_waits(fleet):
    (leaving,) = fleet.start("gateway", grace_s=600, webhook_secret=HOOK_SECRET)
    worker = fleet.start_odd_worker("--call-s", "1")
    until_ready(leaving, worker)
    form = {"files": {"image": numbered(7)}, "data": {"aligned": "true", **MANY_STEPS}}
    with ThreadPoolExecutor(1) as caller:
        waiting = caller.submit(leaving.client.post, "/restore", **form)
        until(lambda: worker.counted(STEPS) > 0)
        leaving.child.send_signal(signal.SIGTERM)
        until(leaving.reasons_not_ready)
        leaving.child.send_signal(signal.SIGTERM)
        assert leaving.child.wait(60) == 130
        assert waiting.result().status_code == 503
