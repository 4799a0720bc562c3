import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latent_pmrf.cli import main

ROOT = Path(__file__).resolve().parents[4]
CHEAP = ["--no-identity", "--threads", "1", "--steps", "1", "--limit", "2"]


def test_a_missed_floor_fails_the_command_and_is_named(make_bundle, val_dir, tmp_path, capsys):
    out = tmp_path / "out"
    status = main(["evaluate", "--bundle", str(make_bundle()), "--data", str(val_dir), "--out", str(out), *CHEAP])
    printed = capsys.readouterr().out
    assert status == 1
    assert "| severe: share of faces nearer than the input | - | at least 0.75 | **FAIL** |" in printed
    assert "of 11 floors missed" in printed
    assert (out / "report.md").read_text() in printed
    assert json.loads((out / "results.json").read_text())["faces"] == 2


@pytest.mark.parametrize(
    ("bundle", "data", "message"),
    [("nowhere", "val", "nowhere/manifest.json does not exist"), ("bundle", "nowhere", "nowhere is not a folder")],
)
def test_what_cannot_be_measured_is_told_in_a_line(make_bundle, val_dir, tmp_path, capsys, bundle, data, message):
    make_bundle()
    places = {"bundle": tmp_path / "bundle", "val": val_dir, "nowhere": "nowhere"}
    out = tmp_path / "out"
    arguments = ["--bundle", str(places[bundle]), "--data", str(places[data]), "--out", str(out)]
    assert main(["evaluate", *arguments, *CHEAP]) == 2
    assert message in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize("option", [["--limit", "0"], ["--steps", "0"], ["--threads", "-1"], ["--seeds", "x"]])
def test_senseless_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", *option])
    assert option[0] in capsys.readouterr().err


@pytest.mark.slow
def test_make_evaluate_in_processes_with_identity(make_bundle, val_dir, tmp_path):
    card = tmp_path / "docs" / "MODEL_CARD.md"
    recipe = subprocess.run(
        [
            *("make", "--no-print-directory", "-n", "-o", "install-dev", "evaluate", "VENV_DEV=dev"),
            f"REPOSITORY={make_bundle()}",
            f"ARGS=--data {val_dir} --out {tmp_path / 'out'} --model-card {card} --threads 2 --steps 1 --limit 2",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    command = recipe.replace("\\\n", " ").split()
    assert command[:4] == ["dev/bin/python", "-m", "latent_pmrf.cli", "evaluate"]
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr  # an estimator that grays faces misses its floors
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert all(0 <= row["identity"] < 1.5 for row in rows)
    assert next(row for row in rows if row["method"] == "vae")["identity"] == 0
    assert (card.parent / "images" / "card_sheet.jpg").is_file()
    assert f"Model card: {card}" in done.stdout
