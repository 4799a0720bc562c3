import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latent_pmrf.cli import main
from tests.metric_networks import write_mean_difference

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


def survey_arguments(bundle, data, out):
    return ["evaluate", "--bundle", str(bundle), "--data", str(data), "--out", str(out), *CHEAP]


@pytest.mark.parametrize("options", [[], ["--no-floors"]])
def test_any_other_folder_is_surveyed(make_bundle, val_dir, tmp_path, capsys, options):
    data, out = (val_dir if options else val_dir / "severe"), tmp_path / "out"
    assert (
        main([*survey_arguments(make_bundle(), data, out), "--fidelities", "0.25", "--landmarks", "5", *options]) == 0
    )
    printed = capsys.readouterr().out
    assert "without lpips: no weights given" in printed or "without lpips: needs clean faces" in printed
    assert "| 2 steps, fidelity 0.25 |" in printed
    assert (out / "report.md").read_text() in printed
    levels = {row["level"] for row in json.loads((out / "results.json").read_text())["rows"]}
    assert levels == ({"clean", "moderate", "severe"} if options else {"degraded"})


def test_given_weights_and_clean_faces_are_used(make_bundle, val_dir, tmp_path, capsys):
    weights = write_mean_difference(tmp_path / "lpips.onnx")
    options = ["--clean", str(val_dir / "clean"), "--weights", f"lpips={weights}"]
    assert main([*survey_arguments(make_bundle(), val_dir / "severe", tmp_path / "out"), *options]) == 0
    assert "| LPIPS ↓ |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "lpips"], "--weights lpips: expected KIND=FILE"),
        (["--weights", "lpips=a.onnx", "--weights", "lpips=b.onnx"], "each kind once"),
        (["--weights", "lpips=nowhere.onnx"], "nowhere.onnx does not exist"),
        (["--model-card", "card.md"], "--model-card: only the report of the floors"),
        (["--seeds", "1", "2"], "--seeds: only the report of the floors"),
        (["--floors"], "clean is not a folder"),
    ],
)
def test_a_survey_that_cannot_be_made_is_told_in_a_line(make_bundle, val_dir, tmp_path, capsys, options, message):
    assert main([*survey_arguments(make_bundle(), val_dir / "severe", tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().out


def test_a_file_in_the_place_of_the_report_is_told_in_a_line(make_bundle, val_dir, tmp_path, capsys):
    out = tmp_path / "file"
    out.touch()
    assert main(survey_arguments(make_bundle(), val_dir / "severe", out)) == 2
    assert f"evaluate: [Errno 20] Not a directory: '{out}" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "value"), [("--fidelities", "0"), ("--landmarks", "5"), ("--device", "cpu")])
def test_options_that_the_floors_do_not_know_are_refused(make_bundle, val_dir, tmp_path, capsys, option, value):
    assert main([*survey_arguments(make_bundle(), val_dir, tmp_path / "out"), option, value]) == 2
    assert f"{option}: add --no-floors" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option", [["--limit", "0"], ["--steps", "0"], ["--threads", "-1"], ["--seeds", "-1"], ["--fidelities", "1.5"]]
)
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
