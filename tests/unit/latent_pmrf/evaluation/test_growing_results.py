"""What a run leaves that does not come to its end: the scores of all that it had measured, and of nothing else."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

from latent_pmrf.cli import main
from latent_pmrf.evaluation.bundle import BundleRestorer
from latent_pmrf.evaluation.folders import scan_folder
from latent_pmrf.evaluation.growing import PARTIAL, GrowingTable
from latent_pmrf.evaluation.learned import load_learned
from latent_pmrf.evaluation.report import EvaluationPlan, evaluate
from latent_pmrf.evaluation.survey import SurveyPlan, survey
from latent_pmrf.evaluation.survey_report import write_survey
from tests.bundle import write_bundle

PLAN = EvaluationPlan(num_steps=(1, 2), fidelities=(0.0, 1.0), with_identity=False, sheet_faces=1)
SURVEY = SurveyPlan(num_steps=(1,), fidelities=(0.5,), batch_size=3, num_landmarks=None, sheet_faces=1)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("growing") / "bundle")


@pytest.fixture(scope="module")
def whole(repository, val_dir, tmp_path_factory):
    """The folder of a run that came to its end."""
    out = tmp_path_factory.mktemp("whole")
    evaluate(repository, val_dir, out, PLAN)
    return out


def breaking(at):
    """Progress that fails at a stage."""

    def progress(stage, _done, _total):
        if stage == at:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    ("at", "methods"),
    [
        ("restore moderate", {("clean", "vae")}),
        ("restore severe", {("clean", "vae"), *(("moderate", method) for method in ("input", "estimator", "sample"))}),
    ],
)
def test_what_was_measured_before_a_run_broke_off_is_there_as_in_a_whole_run(
    repository, val_dir, whole, tmp_path, at, methods
):
    with pytest.raises(KeyboardInterrupt):
        evaluate(repository, val_dir, tmp_path, PLAN, breaking(at))
    left = rows_of(tmp_path / PARTIAL)
    assert left == [row for row in rows_of(whole / "faces.csv") if (row["level"], row["method"]) in methods]
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL]


def test_candidates_for_the_defaults_are_left_too(repository, val_dir, tmp_path):
    plan = EvaluationPlan(num_steps=(1,), fidelities=(1.0,), with_identity=False, sheet_faces=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate(repository, val_dir, tmp_path, plan, breaking("moderate default, 2 steps, fidelity 0.5"))
    methods = {row["method"] for row in rows_of(tmp_path / PARTIAL)}
    assert methods - {"candidate"} == {"vae", "input", "estimator", "sample"}


def test_a_whole_run_leaves_its_report_alone(whole):
    assert not (whole / PARTIAL).exists()
    assert (whole / "results.json").exists()


def test_a_survey_that_fails_in_its_last_measure_leaves_every_face(repository, val_dir, tmp_path):
    bundle, folder = BundleRestorer(repository), scan_folder(val_dir)

    def run(out, fails):
        with GrowingTable(out) as table:
            measured = survey(bundle, folder, load_learned({}), SURVEY, None, table.add)
            if fails:
                raise ValueError("the last measure")
            write_survey(measured, out)

    with pytest.raises(ValueError, match="the last"):
        run(tmp_path / "broken", fails=True)
    run(tmp_path / "whole", fails=False)
    left, written = rows_of(tmp_path / "broken" / PARTIAL), rows_of(tmp_path / "whole" / "faces.csv")
    assert sorted(left, key=str) == sorted(written, key=str)
    assert not (tmp_path / "whole" / PARTIAL).exists()


def test_rows_of_an_earlier_run_are_gone_before_the_first_of_this_one(tmp_path):
    (tmp_path / PARTIAL).write_text("name\r\nold\r\n")
    with GrowingTable(tmp_path) as table:
        assert not (tmp_path / PARTIAL).exists()
        table.add([{"other": "new"}])
        assert rows_of(tmp_path / PARTIAL) == [{"other": "new"}]


def test_what_measures_nothing_makes_no_folder(tmp_path):
    with GrowingTable(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [[], ["--no-floors"]])
def test_a_killed_command_leaves_what_it_had_measured(repository, val_dir, tmp_path, options):
    arguments = ["evaluate", "--bundle", repository, "--data", val_dir, "--out", tmp_path, "--no-identity"]
    arguments += ["--threads", "1", *options]
    child = subprocess.Popen([sys.executable, "-m", "latent_pmrf.cli", *map(str, arguments)], stdout=subprocess.DEVNULL)
    until_s = time.monotonic() + 120
    while not (tmp_path / PARTIAL).exists() or (tmp_path / PARTIAL).stat().st_size < 500:
        assert child.poll() is None
        assert time.monotonic() < until_s
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    *rows, _ = rows_of(tmp_path / PARTIAL)  # the last may be half of one
    assert all(float(row["psnr"]) > 0 for row in rows)
    assert main([*map(str, arguments), "--limit", "1", "--steps", "1"]) in (0, 1)
    assert not (tmp_path / PARTIAL).exists()
