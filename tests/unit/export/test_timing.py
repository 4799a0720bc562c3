import pytest

from export.cli import main
from export.timing import HEADER, Timing, table_row


def test_one_call_has_no_quartiles(capsys):
    assert main(["bench", "--repeats", "1", "--threads", "1"]) == 2
    assert "error: repeats must be at least 2, for quartiles, not 1" in capsys.readouterr().err


def test_ratio_compares_medians_so_that_one_slow_call_does_not_count():
    timing = Timing("velocity", 1, torch_ms=[20.0, 20.0, 900.0], onnx_ms=[10.0, 500.0, 10.0])
    assert timing.ratio == pytest.approx(0.5)


def test_row_shows_median_and_quartiles_under_the_header():
    row = table_row(Timing("velocity", 4, torch_ms=[1, 2, 3, 4, 5], onnx_ms=[6, 6, 6, 6, 6]))
    assert row == "| velocity | 4 | 3.0 (1.5-4.5) | 6.0 (6.0-6.0) | 2.00 |"
    assert row.count("|") == HEADER.splitlines()[0].count("|")
