"""What the bench measured, as Markdown for the reader and as JSON for the plots."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from service.bench.scenarios import FLOORS, Comparison
from service.bench.trial import Policy, Trial

_COMPARISON = (
    ("equal_p99", "p99, 25 steps each, 80 % of saturation", "at most"),
    ("mixed_p50", "p50, 5 to 50 steps, half of saturation", "at most"),
    ("mixed_p99", "p99, 5 to 50 steps, half of saturation", "at most"),
    ("mixed_saturation", "load sustained, 5 to 50 steps", "at least"),
)


@dataclass(frozen=True, slots=True)
class Point:
    """One trial at one load.

    Attributes:
        policy: How requests were served.
        share: Offered load as a share of whole-request batching's saturation.
        offered_per_s: The same in requests a second.
        per_s: Requests served in a second.
        p50_ms: Median latency.
        p99_ms: Latency that one request in a hundred exceeded.
    """

    policy: Policy
    share: float
    offered_per_s: float
    per_s: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, policy: Policy, share: float, offered_per_s: float, trial: Trial) -> Point:
        """From what came of a trial."""
        return cls(policy, share, offered_per_s, trial.per_s, trial.percentile_ms(50), trial.percentile_ms(99))


@dataclass(slots=True)
class Curves:
    """The trials of one scenario.

    Attributes:
        title: Its title.
        saturation: Requests in a second when there are always more, by policy.
        points: In order of load; none where the load is more than a policy sustains.
    """

    title: str
    saturation: dict[Policy, float]
    points: list[Point] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Numbers only."""
        return asdict(self)

    def as_markdown(self, decimals: int = 0) -> str:
        """A section with a table."""
        sustained = ", ".join(f"{policy} {per_s:.1f}" for policy, per_s in self.saturation.items())
        lines = [
            f"\n### {self.title}\n",
            f"Saturation in requests a second: {sustained}.\n",
            "| load | offered, a second | policy | served, a second | p50, ms | p99, ms |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {point.share:.0%} | {point.offered_per_s:.1f} | {point.policy} | {point.per_s:.1f} "
            f"| {point.p50_ms:.{decimals}f} | {point.p99_ms:.{decimals}f} |"
            for point in self.points
        ]
        return "\n".join(lines)


def floors_table(comparisons: Sequence[Comparison]) -> str:
    """Ratios of step-level to whole-request batching beside their floors, over several seeds."""
    lines = [
        "\n### Step-level batching against whole-request batching\n",
        f"Ratios, least and largest of {len(comparisons)} seeds.\n",
        "| | required | measured |",
        "|---|---|---|",
    ]
    for name, meaning, bound in _COMPARISON:
        values = [getattr(comparison, name) for comparison in comparisons]
        lines.append(f"| {meaning} | {bound} {getattr(FLOORS, name)} | {min(values):.2f} to {max(values):.2f} |")
    return "\n".join(lines)


def ratios_table(what: str, rounds: Mapping[str, Sequence[float]], base: str, *, decimals: int, of_ratios: int) -> str:
    """What several ways showed that took turns, with ratios round by round.

    Args:
        what: That was measured, with its unit.
        rounds: By way, a figure of each round.
        base: The way that the others are compared with.
        decimals: Of the figures.
        of_ratios: Likewise of the ratios.
    """
    lines = [f"| way | {what}, median (least-largest) | ratio to {base} |", "|---|---|---|"]
    for way, values in rounds.items():
        ratio = statistics.median(mine / other for mine, other in zip(values, rounds[base], strict=True))
        figures = statistics.median(values), min(values), max(values)
        median, least, most = (f"{figure:.{decimals}f}" for figure in figures)
        lines.append(f"| {way} | {median} ({least}-{most}) | {ratio:.{of_ratios}f} |")
    return "\n".join(lines)
