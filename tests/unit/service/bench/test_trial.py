import asyncio
from collections import Counter

import numpy as np
import pytest

from service.bench import virtual_time
from service.bench.accelerator import Cost, ModelledAccelerator, modelled_manifest
from service.bench.scenarios import EQUAL_STEPS, ROWS, ROWS_ONLY, Scenario
from service.bench.traffic import Request, backlog, poisson
from service.bench.trial import Policy
from service.core.interfaces import InferenceBackend


def test_requests_come_at_the_rate_that_was_asked_for_and_with_the_mix_that_was_meant():
    requests = poisson(20.0, (5, 10, 10, 50), 4000, seed=3)
    gaps_s = np.diff([request.at_s for request in requests])
    assert gaps_s.mean() == pytest.approx(1 / 20, rel=0.05)
    assert gaps_s.std() == pytest.approx(1 / 20, rel=0.1)
    assert Counter(request.num_steps for request in requests) == {5: 1000, 10: 2000, 50: 1000}
    assert requests == poisson(20.0, (5, 10, 10, 50), 4000, seed=3)
    assert requests != poisson(20.0, (5, 10, 10, 50), 4000, seed=4)


def test_a_backlog_is_there_from_the_beginning():
    assert {request.at_s for request in backlog((1, 2), 10, seed=0)} == {0.0}


def test_the_accelerator_makes_one_call_at_a_time_of_its_cost():
    async def calls():
        accelerator = ModelledAccelerator({"velocity": Cost(8.0, 1.0)}, max_rows=4)
        assert isinstance(accelerator, InferenceBackend)
        rows = {"x_t": np.zeros((3, 1, 1, 1)), "t": np.zeros(3)}
        first, second = await asyncio.gather(accelerator.infer("velocity", rows), accelerator.infer("velocity", rows))
        assert first["velocity"].shape == second["velocity"].shape == (3, 1, 1, 1)
        await accelerator.infer("estimator", {"image": np.zeros((2, 3, 8, 8))})
        with pytest.raises(ValueError, match="5 rows in a call, 4 fit"):
            await accelerator.infer("estimator", {"image": np.zeros((5, 3, 8, 8))})
        return asyncio.get_running_loop().time()

    assert virtual_time.run(calls()) == pytest.approx(0.022)


def test_the_modelled_bundle_takes_the_steps_that_are_asked_of_it():
    assert modelled_manifest(4, 50).max_num_steps == 50


@pytest.mark.parametrize("policy", Policy)
def test_a_request_alone_takes_its_calls_and_no_more(policy):
    trial = EQUAL_STEPS.run(policy, [Request(1.0, 25)])
    assert trial.percentile_ms(50) == pytest.approx(25 * 9)
    assert trial.per_s == pytest.approx(1 / 1.225)


def test_equal_steps_are_served_at_the_rate_of_full_calls():
    full = 1000 * ROWS / (25 * 24)
    for policy in (Policy.STEP, Policy.WHOLE):
        assert EQUAL_STEPS.saturation(policy, 5 * ROWS) == pytest.approx(full, rel=0.01)
    assert EQUAL_STEPS.saturation(Policy.ONE, 10) == pytest.approx(1000 / (25 * 9))


def test_a_whole_batch_waits_for_its_longest_request_whose_company_takes_no_rows_any_more():
    scenario = Scenario("", {"velocity": Cost(8.0, 1.0)}, (2, 10))
    trial = scenario.run(Policy.WHOLE, [Request(0.0, 2), Request(0.0, 10)])
    assert trial.latencies_s == pytest.approx([0.100 - 0.008] * 2)
    trial = scenario.run(Policy.STEP, [Request(0.0, 2), Request(0.0, 10)])
    assert trial.latencies_s == pytest.approx([0.020, 0.092])


def test_nobody_joins_a_whole_batch_that_has_begun():
    requests = [Request(0.0, 10), Request(0.001, 1)]
    whole, step = (EQUAL_STEPS.run(policy, requests).latencies_s for policy in (Policy.WHOLE, Policy.STEP))
    assert whole[1] == pytest.approx(0.090 + 0.009 - 0.001)
    assert step[1] == pytest.approx(0.009 + 0.010 - 0.001)


def test_where_rows_are_all_that_costs_there_is_nothing_to_gain():
    rates = [ROWS_ONLY.saturation(policy, 2 * ROWS) for policy in Policy]
    assert rates == pytest.approx([1000 / (25 * 9)] * 3)


def test_batch_work_beside_the_requests_is_counted_and_withdrawn_in_the_end():
    trial = EQUAL_STEPS.run(Policy.STEP, [Request(1.0, 25), Request(3.0, 25)], (25,) * 500)
    assert 15 < trial.backlog_per_s < 1000 * ROWS / (25 * 24)
    with pytest.raises(ValueError, match="backlog of 3"):
        EQUAL_STEPS.run(Policy.STEP, [Request(3.0, 25)], (25,) * 3)
