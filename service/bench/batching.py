"""`make bench-batching`: what step-level batching brings, on modelled accelerators and on the bundled networks.

Requests come as a Poisson process. Three policies serve them from the same queue: step-level batching, which is the
service's own worker and sampler; whole-request batching (`service.bench.servers`); one request at a time. The
accelerators are models in virtual time, so that their figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from service.bench import real
from service.bench.scenarios import (
    EQUAL_STEPS,
    EQUAL_STEPS_ALL_COST,
    MIXED_STEPS,
    MIXED_STEPS_ALL_COST,
    ONE_STEP_ALL_COST,
    ROWS_ONLY,
    Scenario,
    compare,
)
from service.bench.tables import Curves, Point, floors_table
from service.bench.traffic import poisson
from service.bench.trial import Policy

Say = Callable[[str], None]

_SCENARIOS = (EQUAL_STEPS, MIXED_STEPS, EQUAL_STEPS_ALL_COST, MIXED_STEPS_ALL_COST, ONE_STEP_ALL_COST, ROWS_ONLY)
_SHARES = (0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 1.1, 1.3)
_SUSTAINED = 0.97  # of a policy's saturation: beyond it, latency tells how long the run was
_SEEDS = 5
_LANES = ((2.0, 25), (8.0, 25), (2.0, 100))
_LANE_REQUESTS, _LANE_BACKLOG = 200, 4000


def curves_of(scenario: Scenario, count: int, seed: int) -> Curves:
    """Every policy at every load that it sustains."""
    saturation = {policy: scenario.saturation(policy) for policy in Policy}
    curves = Curves(scenario.title, saturation)
    for share in _SHARES:
        per_s = share * saturation[Policy.WHOLE]
        for policy in Policy:
            if per_s <= _SUSTAINED * saturation[policy]:
                curves.points.append(Point.of(policy, share, per_s, scenario.at(policy, per_s, count, seed)))
    return curves


def lanes_table(seed: int) -> str:
    """Interactive requests beside batch work that never ends."""
    lines = [
        "\n### Interactive requests of 25 steps beside a batch lane that is never empty\n",
        "| interactive, a second | steps of batch faces | policy | p50, ms | p99, ms | batch faces, a second |",
        "|---|---|---|---|---|---|",
    ]
    for per_s, batch_steps in _LANES:
        for policy in (Policy.STEP, Policy.WHOLE):
            requests = poisson(per_s, EQUAL_STEPS.deck, _LANE_REQUESTS, seed)
            trial = EQUAL_STEPS.run(policy, requests, (batch_steps,) * _LANE_BACKLOG)
            lines.append(
                f"| {per_s:g} | {batch_steps} | {policy} | {trial.percentile_ms(50):.0f} "
                f"| {trial.percentile_ms(99):.0f} | {trial.backlog_per_s:.1f} |"
            )
    return "\n".join(lines)


def run(count: int, seed: int, say: Say) -> list[Curves]:
    """The models, telling each table as it is done."""
    say(floors_table([compare(count, seed + offset) for offset in range(_SEEDS)]))
    say(lanes_table(seed))
    every = []
    for scenario in _SCENARIOS:
        every.append(curves_of(scenario, count, seed))
        say(every[-1].as_markdown())
    return every


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments`, run the bench, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service.bench.batching", description=__doc__)
    parser.add_argument("--requests", type=int, default=1500, metavar="N", help="of each trial on a model; 0: none")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of arrivals")
    parser.add_argument("--real", type=Path, metavar="DIR", help="first this bundle on this machine, in real time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what the curves are plotted from")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    if given.real is not None:
        say(real.run(given.real).as_markdown())
    if given.requests == 0:
        return 0
    every = run(given.requests, given.seed, say)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps([curves.as_json() for curves in every], indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
