"""`make loadtest`: what the service does as requests come faster, past what it can do.

It starts a service of its own on the loopback interface, measures what saturates it, and then offers shares of that,
open loop. Everything is bounded: so many seconds and so many requests for each rate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.process import RunningService, held_port, running_service
from loadtest.traffic import report
from loadtest.traffic.arrivals import poisson
from loadtest.traffic.mix import MIXES, MixedPhoto
from loadtest.traffic.observed import observing
from loadtest.traffic.offer import offer, saturate
from loadtest.traffic.report import Row
from loadtest.traffic.senders import GrpcSender, HttpSender, Sender

_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured.

    Attributes:
        photos: The mix.
        shares: Of the rate that saturates the service, in this order.
        seconds: Of each rate.
        most_requests: Of each rate.
        objective_s: Latency that a sender is content with.
        patience_s: When a sender gives up.
        calibration: Photos by which saturation is measured.
        seed: Of the schedules.
    """

    photos: list[MixedPhoto]
    shares: tuple[float, ...]
    seconds: float
    most_requests: int
    objective_s: float
    patience_s: float
    calibration: int
    seed: int


async def ramp(service: RunningService, sender: Sender, plan: Plan, say: Callable[[str], None]) -> list[Row]:
    """Measure saturation, then offer each share of it.

    Args:
        service: To be watched.
        sender: The way to ask.
        plan: What to measure.
        say: Told how it goes.
    """
    weights = [photo.weight for photo in plan.photos]
    order = [arrival.photo for arrival in poisson(1.0, 4.0 * plan.calibration, weights, plan.seed)][: plan.calibration]
    await saturate(sender, plan.photos, order[:_AT_ONCE], _AT_ONCE)  # the first photos of a service are slower
    per_s = await saturate(sender, plan.photos, order, _AT_ONCE)
    say(f"{sender.name}: {per_s:.2f} requests a second saturate the service ({_AT_ONCE} under way, closed loop)")
    rows = []
    for share in plan.shares:
        arrivals = poisson(share * per_s, plan.seconds, weights, plan.seed)[: plan.most_requests]
        if not arrivals:
            continue
        async with observing(service) as seen:
            samples = await offer(sender, arrivals, plan.photos, plan.patience_s)
        rows.append(report.row_of(sender.name, share, samples, seen, plan.objective_s))
        say(rows[-1].as_markdown())
    return rows


async def _all(service: RunningService, ways: Sequence[Callable[[], Sender]], plan: Plan) -> list[Row]:
    rows: list[Row] = []
    for make in ways:
        sender = make()
        try:
            rows += await ramp(service, sender, plan, _tell)
        finally:
            await sender.close()
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments`, run the load test, return the exit status: 1 when an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.traffic", description=__doc__)
    parser.add_argument("--way", choices=("http", "grpc", "both"), default="both")
    parser.add_argument("--mix", choices=sorted(MIXES), default="everyday")
    parser.add_argument(
        "--shares", type=_shares, default="0.3,0.6,0.8,0.95,1.2,1.6,2.0", help="of saturation, by commas"
    )
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="of each rate; default: 30")
    parser.add_argument("--most-requests", type=int, default=500, metavar="N", help="of each rate; default: 500")
    parser.add_argument("--objective-s", type=float, default=30.0, metavar="S", help="latency that is good enough")
    parser.add_argument("--patience-s", type=float, default=60.0, metavar="S", help="when a sender gives up")
    parser.add_argument("--calibration", type=int, default=40, metavar="N", help="photos that measure saturation")
    parser.add_argument("--num-steps", type=int, metavar="K", help="of each photo; default: the bundle's")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the schedules")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for loadtest.md, loadtest.json and loadtest.png")
    given = parser.parse_args(arguments)
    plan = Plan(
        photos=MIXES[given.mix](),
        shares=given.shares,
        seconds=given.seconds,
        most_requests=given.most_requests,
        objective_s=given.objective_s,
        patience_s=given.patience_s,
        calibration=given.calibration,
        seed=given.seed,
    )
    with held_port() as port, running_service({"LATENT_PMRF_GRPC_PORT": str(port)}) as service:
        ways: dict[str, Callable[[], Sender]] = {
            "http": lambda: HttpSender(str(service.client.base_url), given.num_steps),
            "grpc": lambda: GrpcSender(f"127.0.0.1:{port}", given.num_steps),
        }
        chosen = list(ways) if given.way == "both" else [given.way]
        rows = asyncio.run(_all(service, [ways[way] for way in chosen], plan))
    text = f"{report.as_markdown(rows)}\n\n{report.verdict(rows, plan.objective_s)}\n"
    sys.stdout.write(f"\n{text}")
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "loadtest.md").write_text(text, encoding="utf-8")
        (given.out / "loadtest.json").write_text(json.dumps(report.as_json(rows), indent=1) + "\n", encoding="utf-8")
        report.draw(rows, plan.objective_s, given.out / "loadtest.png")
    return int(any(row.wrong for row in rows))


def _shares(text: str) -> tuple[float, ...]:
    with contextlib.suppress(ValueError):
        shares = tuple(float(share) for share in text.split(","))
        if all(0 < share < math.inf for share in shares):
            return shares
    raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers above 0, such as 0.5,1.2")


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
