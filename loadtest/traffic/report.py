"""Samples and observations in, one row for each offered rate out; rows as Markdown, JSON and a plot."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.traffic.mix import OK
from loadtest.traffic.observed import Observation
from loadtest.traffic.offer import Sample
from loadtest.traffic.senders import GAVE_UP

PERCENTILES = (50, 90, 95, 99, 100)
REFUSED = ("queue_full", "rate_limited", "draining")
TOO_LATE = (GAVE_UP, "deadline_exceeded")

_HEADER = (
    "| way | load | offered, a second | restored, a second | within the objective, a second "
    "| p50 | p90 | p95 | p99 | largest, s | refused | gave up | wrong | queue wait, ms | compute, ms | faces a step "
    "| peak, MiB | slope, MiB a minute | sent late, p99 ms |"
)
_NETWORKS = ("estimator", "vae_encoder", "velocity", "vae_decoder")


@dataclass(frozen=True, slots=True)
class Row:
    """One rate.

    Attributes:
        way: HTTP or gRPC.
        load: Share of what saturates the service.
        offered_per_s: Requests sent a second.
        asked_per_s: Requests a second, from the first arrival to the last answer: no more can be restored of them.
        restored_per_s: Photos restored a second, in the same time.
        good_per_s: Of those, within the objective.
        percentiles_s: Latency from the intended time of photos that were restored, and of those that were given up, who
            have waited at least so long; by percentile, empty when there are none.
        refused: Requests that admission turned away.
        gave_up: Requests whose sender lost patience.
        wrong: Answers that the photo did not deserve, by code: what must not happen at any load.
        queue_wait_ms: Mean wait of a face in the queue.
        compute_ms: Network time of the service per restored photo; calls that faces share are counted once.
        rows_per_step: Mean rows of a velocity call.
        peak_mib: Largest resident memory.
        slope_mib_per_min: Its growth over the second half.
        late_p99_ms: How late requests left the client; where that is much, the machine was too slow to ask.
    """

    way: str
    load: float
    offered_per_s: float
    asked_per_s: float
    restored_per_s: float
    good_per_s: float
    percentiles_s: dict[int, float]
    refused: int
    gave_up: int
    wrong: dict[str, int]
    queue_wait_ms: float | None
    compute_ms: float | None
    rows_per_step: float | None
    peak_mib: float
    slope_mib_per_min: float | None
    late_p99_ms: float

    def as_markdown(self) -> str:
        """Its line of the table."""
        latencies = [f"{self.percentiles_s[number]:.2f}" if self.percentiles_s else "" for number in PERCENTILES]
        wrong = ", ".join(f"{count} {code}" for code, count in sorted(self.wrong.items())) or "0"
        cells = [self.way, f"{self.load:.0%}", f"{self.offered_per_s:.2f}", f"{self.restored_per_s:.2f}"]
        cells += [f"{self.good_per_s:.2f}", *latencies, str(self.refused), str(self.gave_up), wrong]
        cells += [_shown(value) for value in (self.queue_wait_ms, self.compute_ms)]
        cells += [_shown(self.rows_per_step, 2), _shown(self.peak_mib), _shown(self.slope_mib_per_min, 1)]
        cells.append(_shown(self.late_p99_ms))
        return f"| {' | '.join(cells)} |"


def row_of(way: str, load: float, samples: Sequence[Sample], seen: Observation, objective_s: float) -> Row:
    """What a run has shown.

    Args:
        way: HTTP or gRPC.
        load: Share of saturation.
        samples: At least one.
        seen: The service meanwhile.
        objective_s: Latency that a sender is content with.
    """
    lasted_s = max(sample.ended_s for sample in samples)
    offered_s = max(sample.intended_s for sample in samples) or 1.0
    restored = [sample for sample in samples if sample.code == OK]
    given_up = [sample for sample in samples if sample.code in TOO_LATE]
    waited_s = [sample.latency_s for sample in (*restored, *given_up)]
    busy_s = sum(seen.grown(f"restore_network_duration_seconds_sum[network={name}]") for name in _NETWORKS)
    wait_s = seen.mean("restore_queue_wait_seconds", "[lane=interactive]")
    return Row(
        way=way,
        load=load,
        offered_per_s=len(samples) / offered_s,
        asked_per_s=len(samples) / lasted_s,
        restored_per_s=len(restored) / lasted_s,
        good_per_s=sum(sample.latency_s <= objective_s for sample in restored) / lasted_s,
        percentiles_s={number: percentile(waited_s, number) for number in PERCENTILES} if waited_s else {},
        refused=sum(sample.code in REFUSED for sample in samples),
        gave_up=len(given_up),
        wrong=dict(Counter(sample.code for sample in samples if is_wrong(sample))),
        queue_wait_ms=None if wait_s is None else wait_s * 1000,
        compute_ms=busy_s * 1000 / len(restored) if restored else None,
        rows_per_step=seen.mean("restore_batch_size", "[network=velocity]"),
        peak_mib=seen.peak_mib,
        slope_mib_per_min=seen.slope_mib_per_min,
        late_p99_ms=percentile([sample.sent_s - sample.intended_s for sample in samples], 99) * 1000,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """What `percent` of the values do not exceed: one that occurred, which of few values is the largest."""
    return float(np.percentile(values, percent, method="inverted_cdf"))


def is_wrong(sample: Sample) -> bool:
    """Whether the answer is neither what the photo deserves nor a refusal that an overloaded service may give."""
    return sample.code not in (sample.expected, *REFUSED, *TOO_LATE)


def as_markdown(rows: Sequence[Row]) -> str:
    """The table."""
    return "\n".join([_HEADER, "|" + "---|" * (_HEADER.count("|") - 1), *(row.as_markdown() for row in rows)])


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """For machines."""
    return [dataclasses.asdict(row) for row in rows]


def verdict(rows: Sequence[Row], objective_s: float) -> str:
    """Whether admission keeps its promises past saturation, in words and figures."""
    lines = []
    for way in dict.fromkeys(row.way for row in rows):
        mine = [row for row in rows if row.way == way]
        peak = max(row.good_per_s for row in mine)
        past = [row for row in mine if row.load > 1]
        if past and peak:
            # What chance offered too little of cannot have given the peak.
            least = min(row.good_per_s / min(peak, row.asked_per_s) for row in past)
            slowest = max(row.percentiles_s.get(99, 0.0) for row in past)
            lines.append(
                f"{way}, past saturation: least goodput {least:.0%} of the peak ({peak:.2f} a second) or of what was "
                f"asked, if less, p99 of what was restored or given up at most {slowest:.2f} s (objective "
                f"{objective_s:g} s), answers that were wrong: "
                f"{sum(sum(row.wrong.values()) for row in mine)}."
            )
    return "\n".join(lines)


def draw(rows: Sequence[Row], objective_s: float, target: Path) -> None:
    """Goodput and latency against offered rate, a curve for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    goodput, latency = figure.subplots(1, 2)
    for way in dict.fromkeys(row.way for row in rows):
        mine = sorted((row for row in rows if row.way == way), key=lambda row: row.offered_per_s)
        offered = [row.offered_per_s for row in mine]
        goodput.plot(offered, [row.good_per_s for row in mine], marker="o", label=f"{way}, within {objective_s:g} s")
        for number, style in ((50, "-"), (99, "--")):
            found = [row.percentiles_s.get(number, float("nan")) for row in mine]
            latency.plot(offered, found, style, marker="o", label=f"{way}, p{number}")
    ends = [0.0, max(row.offered_per_s for row in rows)]
    goodput.plot(ends, ends, color="0.7", linewidth=1, label="all that is offered")
    latency.axhline(objective_s, color="0.7", linewidth=1)
    goodput.set(xlabel="requests a second", ylabel="restored a second", ylim=(0, None))
    latency.set(xlabel="requests a second", ylabel="seconds from the intended time", ylim=(0, None))
    for axes in (goodput, latency):
        axes.legend(fontsize=8)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)


def _shown(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"
