"""What step-level batching must bring on the modelled accelerator, in virtual time: the same on every machine."""

import pytest

from service.bench.scenarios import EQUAL_STEPS, FLOORS, compare
from service.bench.traffic import poisson
from service.bench.trial import Policy

pytestmark = pytest.mark.timeout(400)  # a quarter of a minute alone, more beside other work


@pytest.mark.slow
def test_step_level_batching_is_better_than_whole_request_batching_by_what_was_asked_for():
    found = compare(1500, seed=0)
    assert found.equal_p99 <= FLOORS.equal_p99
    assert found.mixed_p50 <= FLOORS.mixed_p50
    assert found.mixed_p99 <= FLOORS.mixed_p99
    assert found.mixed_saturation >= FLOORS.mixed_saturation


def test_the_same_seed_gives_the_same_latencies():
    first, second = (EQUAL_STEPS.at(Policy.STEP, 20.0, 40, seed=5).latencies_s for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_batch_work_that_never_ends_costs_an_interactive_request_little():
    requests = poisson(2.0, EQUAL_STEPS.deck, 40, seed=0)
    step, whole = (EQUAL_STEPS.run(policy, requests, (100,) * 1000) for policy in (Policy.STEP, Policy.WHOLE))
    assert step.percentile_ms(99) < 0.2 * whole.percentile_ms(99)
    assert step.percentile_ms(50) < 2 * 25 * 9
    assert step.backlog_per_s > 0.5 * whole.backlog_per_s
