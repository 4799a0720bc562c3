"""Latency and throughput against offered load, drawn from what `service.bench.batching` wrote.

    python -m loadtest.curves build/batching.json docs/images/batching.png

One row of panels per scenario: p50, p99 and requests served; one line per policy, which ends where it sustains no more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_PANELS = (("p50_ms", "p50, ms"), ("p99_ms", "p99, ms"), ("per_s", "served, a second"))
_COLOURS = {"step-level": "tab:blue", "whole-request": "tab:orange", "one at a time": "tab:gray"}


def draw(scenarios: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the picture.

    Args:
        scenarios: As `service.bench.tables.Curves.as_json` gives them.
        path: PNG file to write.
    """
    figure = Figure(figsize=(4.2 * len(_PANELS), 2.7 * len(scenarios)), layout="constrained")
    rows = figure.subplots(len(scenarios), len(_PANELS), squeeze=False)
    for row, scenario in zip(rows, scenarios, strict=True):
        for axes, (key, label) in zip(row, _PANELS, strict=True):
            _panel(axes, scenario, key)
            axes.set(xlabel="offered, a second", ylabel=label)
        row[1].set_title(scenario["title"])
    rows[0][0].legend(fontsize=8)
    FigureCanvasAgg(figure).print_figure(path, dpi=100)


def _panel(axes: Axes, scenario: Mapping[str, Any], key: str) -> None:
    for policy, colour in _COLOURS.items():
        points = [point for point in scenario["points"] if point["policy"] == policy]
        offered = [point["offered_per_s"] for point in points]
        axes.plot(offered, [point[key] for point in points], "o-", markersize=3, color=colour, label=policy)
        axes.axvline(scenario["saturation"][policy], color=colour, linestyle=":", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def main(arguments: Sequence[str]) -> int:
    """Draw what the first argument names into what the second one names; returns the exit status."""
    source, target = map(Path, arguments)
    draw(json.loads(source.read_text(encoding="utf-8")), target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
