"""The queue's server is killed under gateways and workers, and comes back with what it had on its disk."""

import pytest

from tests.fleet import check_result, check_results, submit, until_ready
from tests.job_client import ASYNC, ask, problem
from tests.numbered_photos import numbered
from tests.processes import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SLOW = ("--call-s", "0.1")
MANY_STEPS = {"num_steps": "8"}
AWAY = {"the queue of faces cannot be used", "the queue of photos cannot be used"}


def test_a_server_that_is_killed_and_restarted_has_lost_nothing(fleet):
    (gateway,) = fleet.start("gateway")
    worker = fleet.start_odd_worker(*SLOW)
    until_ready(gateway, worker)
    where = submit(gateway, range(16), **MANY_STEPS)
    for _ in range(3):
        before = worker.counted("restore_ode_steps_total")
        until(lambda before=before: worker.counted("restore_ode_steps_total") > before)
        fleet.server.kill()
        fleet.server.start()
    check_results(gateway, where)
    assert gateway.counted("restore_photos_total") == len(where)
    assert "Traceback" not in fleet.logs()


def test_while_the_server_is_away_requests_are_refused_and_work_goes_on_afterwards(fleet):
    (gateway, other) = fleet.start("gateway", "gateway")
    worker = fleet.start_odd_worker(*SLOW)
    until_ready(gateway, other, worker)
    where = submit(gateway, range(6), **MANY_STEPS)
    until(lambda: worker.counted("restore_ode_steps_total") > 0)
    fleet.server.kill()
    retried = {**ASYNC, "Idempotency-Key": "the same"}
    for _ in range(3):
        direct = gateway.client.post("/restore", files={"image": numbered(50)}, data={"aligned": "true"})
        for refused in (direct, ask(gateway.client, numbered(51), {"aligned": "true"}, **retried)):
            problem(refused, 503, "dependency_unavailable")
            assert int(refused.headers["retry-after"]) > 0
    for location in where.values():
        problem(gateway.client.get(location), 503, "dependency_unavailable")
    for service in (gateway, other):
        assert set(service.reasons_not_ready()) == AWAY
        assert service.client.get("/livez").status_code == 200
    assert worker.reasons_not_ready() == ["the queue of faces cannot be used"]
    until(lambda: [service.counted("restore_ready") for service in (gateway, other, worker)] == [0, 0, 0])
    fleet.server.start()
    until_ready(gateway, other, worker)
    until(lambda: [service.counted("restore_ready") for service in (gateway, other, worker)] == [1, 1, 1])
    accepted = [ask(service.client, numbered(51), {"aligned": "true"}, **retried) for service in (gateway, other)]
    assert {answer.status_code for answer in accepted} == {202}
    assert len({answer.headers["location"] for answer in accepted}) == 1
    where[51] = accepted[0].headers["location"]
    check_results(gateway, where)
    check_result(gateway.client.post("/restore", files={"image": numbered(50)}, data={"aligned": "true"}), 50)
    for location in where.values():
        results = [service.client.get(f"{location}/result").content for service in (gateway, other)]
        assert results[0] == results[1]
    done = sum(service.counted("restore_photos_total") for service in (gateway, other))
    assert done == len(where) + 1 + 3  # and the direct one, and three that were refused
    assert "Traceback" not in fleet.logs()


def test_without_a_server_gateways_and_workers_start_and_wait_for_it(fleet):
    fleet.server.kill()
    gateway, worker = fleet.start("gateway", "worker")
    assert set(gateway.reasons_not_ready()) == AWAY
    fleet.server.start()
    until_ready(gateway, worker)
    check_results(gateway, submit(gateway, [3]))
