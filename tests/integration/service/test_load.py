"""`make loadtest`, short, against a real service: both ways, good and bad photos, below and past saturation."""

import json

import pytest

from loadtest.traffic.__main__ import main


@pytest.mark.slow
def test_every_photo_gets_the_answer_it_deserves_at_any_load(arithmetic_bundle, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LATENT_PMRF_MODEL_REPOSITORY", str(arithmetic_bundle))
    monkeypatch.setenv("LATENT_PMRF_MAX_CONCURRENT_PHOTOS", "2")
    arguments = ["--shares", "0.5,3", "--most-requests", "40", "--calibration", "8", "--seconds", "4"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "loadtest.json").read_text())
    assert [(row["way"], row["load"]) for row in rows] == [
        ("HTTP", 0.5),
        ("HTTP", 3.0),
        ("gRPC", 0.5),
        ("gRPC", 3.0),
    ]
    for row in rows:
        assert row["restored_per_s"] > 0
        assert row["wrong"] == {}
        assert row["rows_per_step"] >= 1
        assert row["percentiles_s"]["50"] <= row["percentiles_s"]["99"]
    assert (tmp_path / "out" / "loadtest.png").stat().st_size > 10_000
    assert "answers that were wrong: 0" in capsys.readouterr().out
