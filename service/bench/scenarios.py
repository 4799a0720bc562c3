"""Modelled accelerators and loads of the bench, and what step-level batching must reach on them.

Saturation is the rate at which requests are served that are all there from the beginning. Loads are told as shares of
the saturation of whole-request batching, the opponent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.bench import virtual_time
from service.bench.accelerator import Cost, ModelledAccelerator, modelled_manifest
from service.bench.traffic import Request, backlog, poisson
from service.bench.trial import Networks, Policy, Trial, serve

ROWS = 16
SLOTS = 2 * ROWS
STEP_COST = Cost(call_ms=8.0, row_ms=1.0)
EQUAL = (25,)
#: About as many requests of each length: 26 % of 5 and of 10 steps, 24 % of 25 and of 50. With a quarter of each the
#: median would lie anywhere between the slowest of 10 steps and the fastest of 25, which takes 225 ms when alone.
MIXED = (5,) * 13 + (10,) * 13 + (25,) * 12 + (50,) * 12

_BACKLOG_REQUESTS = 400


@dataclass(frozen=True, slots=True)
class Scenario:
    """A modelled accelerator and the requests it gets.

    Attributes:
        title: What it shows.
        costs: Of a call, by network; the others cost nothing.
        deck: Steps of the requests.
    """

    title: str
    costs: Mapping[str, Cost]
    deck: Sequence[int]

    def run(self, policy: Policy, requests: Sequence[Request], batch_backlog: Sequence[int] = ()) -> Trial:
        """Serve requests in virtual time."""

        async def trial() -> Trial:
            manifest = modelled_manifest(ROWS, max(*self.deck, *EQUAL, *batch_backlog, 1))
            crop = np.zeros((manifest.image_size_px, manifest.image_size_px, 3), np.uint8)
            networks = Networks(ModelledAccelerator(self.costs, ROWS), manifest, ROWS, SLOTS, crop)
            return await serve(policy, networks, requests, batch_backlog)

        return virtual_time.run(trial())

    def saturation(self, policy: Policy, count: int = _BACKLOG_REQUESTS) -> float:
        """Requests in a second when there are always more."""
        return self.run(policy, backlog(self.deck, count, seed=0)).per_s

    def at(self, policy: Policy, per_s: float, count: int, seed: int) -> Trial:
        """Serve `count` requests that come at this rate."""
        return self.run(policy, poisson(per_s, self.deck, count, seed))


_EVERY_NETWORK = dict.fromkeys(("estimator", "vae_encoder", "velocity", "vae_decoder"), STEP_COST)

EQUAL_STEPS = Scenario("25 steps each", {"velocity": STEP_COST}, EQUAL)
MIXED_STEPS = Scenario("5, 10, 25 and 50 steps", {"velocity": STEP_COST}, MIXED)
EQUAL_STEPS_ALL_COST = Scenario("25 steps each, every network costs 8 + 1 ms a row", _EVERY_NETWORK, EQUAL)
MIXED_STEPS_ALL_COST = Scenario("5 to 50 steps, every network costs 8 + 1 ms a row", _EVERY_NETWORK, MIXED)
ONE_STEP_ALL_COST = Scenario("1 step each, every network costs 8 + 1 ms a row", _EVERY_NETWORK, (1,))
ROWS_ONLY = Scenario("25 steps each, 9 ms a row and nothing a call", {"velocity": Cost(0.0, 9.0)}, EQUAL)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Step-level batching against whole-request batching, as ratios.

    Attributes:
        equal_p99: Latency, equal steps, at 80 % of saturation.
        mixed_p50: Latency, mixed steps, at half of saturation.
        mixed_p99: Likewise.
        mixed_saturation: Load sustained, mixed steps.
    """

    equal_p99: float
    mixed_p50: float
    mixed_p99: float
    mixed_saturation: float


FLOORS = Comparison(equal_p99=0.8, mixed_p50=0.25, mixed_p99=0.65, mixed_saturation=1.2)
"""Latencies may be at most this, the load at least."""

EQUAL_LOAD, MIXED_LOAD = 0.8, 0.5


def compare(count: int, seed: int) -> Comparison:
    """What the floors are about, for `count` requests of each kind."""
    equal_per_s = EQUAL_LOAD * EQUAL_STEPS.saturation(Policy.WHOLE)
    equal = {policy: EQUAL_STEPS.at(policy, equal_per_s, count, seed) for policy in (Policy.STEP, Policy.WHOLE)}
    saturation = {policy: MIXED_STEPS.saturation(policy) for policy in (Policy.STEP, Policy.WHOLE)}
    mixed_per_s = MIXED_LOAD * saturation[Policy.WHOLE]
    mixed = {policy: MIXED_STEPS.at(policy, mixed_per_s, count, seed) for policy in (Policy.STEP, Policy.WHOLE)}
    return Comparison(
        equal_p99=_ratio(equal, 99),
        mixed_p50=_ratio(mixed, 50),
        mixed_p99=_ratio(mixed, 99),
        mixed_saturation=saturation[Policy.STEP] / saturation[Policy.WHOLE],
    )


def _ratio(trials: Mapping[Policy, Trial], percent: float) -> float:
    return trials[Policy.STEP].percentile_ms(percent) / trials[Policy.WHOLE].percentile_ms(percent)
