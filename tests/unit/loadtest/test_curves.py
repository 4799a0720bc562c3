import json

import cv2

from loadtest.curves import main
from service.bench.scenarios import EQUAL_STEPS, Comparison
from service.bench.tables import Curves, Point, floors_table
from service.bench.traffic import Request
from service.bench.trial import Policy


def measured():
    """The curves of a bench of one request."""
    curves = Curves(EQUAL_STEPS.title, dict.fromkeys(Policy, 20.0))
    for policy in Policy:
        trial = EQUAL_STEPS.run(policy, [Request(0.0, 25)])
        curves.points += [Point.of(policy, share, 20 * share, trial) for share in (0.1, 0.5)]
    return curves


def test_the_plot_is_drawn_from_what_the_bench_wrote(tmp_path):
    source, target = tmp_path / "batching.json", tmp_path / "batching.png"
    source.write_text(json.dumps([measured().as_json(), measured().as_json()]))
    assert main([str(source), str(target)]) == 0
    height, width, _ = cv2.imread(str(target)).shape
    assert (width, height) == (1260, 540)


def test_the_table_has_a_row_for_every_trial():
    lines = measured().as_markdown().splitlines()
    assert "### 25 steps each" in lines
    assert "| 50% | 10.0 | whole-request | 4.4 | 225 | 225 |" in lines
    assert sum(line.startswith("| 10%") for line in lines) == len(Policy)


def test_floors_stand_beside_what_was_measured():
    table = floors_table([Comparison(0.7, 0.2, 0.6, 1.4), Comparison(0.75, 0.21, 0.61, 1.4)])
    assert "| p99, 25 steps each, 80 % of saturation | at most 0.8 | 0.70 to 0.75 |" in table
    assert "| load sustained, 5 to 50 steps | at least 1.2 | 1.40 to 1.40 |" in table
