"""A run that is killed and started again ends with the bits of a run that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training_files import write_faces, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # four processes that import torch

ROOT = Path(__file__).resolve().parents[3]
STAGES = ("estimator", "vae", "flow")
FAR = 100_000  # a length that no killed run reaches
MORE = 6  # steps after the kill, the last of them with a falling learning rate


def arguments(stage, folder, steps):
    places = ["--data", str(folder / "faces"), "--runs", str(folder / "runs")]
    return ["train", stage, "--config", str(folder / f"{stage}.yaml"), *places, "--steps", str(steps)]


def start(*commands):
    """A process that trains one stage after another."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training_stages", json.dumps(commands)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process, *statuses):
    output, _ = process.communicate(timeout=300)
    assert process.returncode in statuses, output
    return output


def saved_step(run):
    with safe_open(run / "state.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["latent_pmrf"])["info"]["step"]


def kill_when_under_way(process, run, sig):
    while not (run / "state.safetensors").exists() or saved_step(run) < 3:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(sig)


def prepared(folder, faces):
    folder.mkdir()
    (folder / "faces").symlink_to(faces)
    for stage in STAGES:
        write_recipe(folder, stage, checkpoint_minutes=0.0, decay_steps=3)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of killed and resumed runs, folder of undisturbed ones, and the step of each kill."""
    root = tmp_path_factory.mktemp("training")
    (root / "data").mkdir()
    faces = write_faces(root / "data")
    killed, alone = prepared(root / "killed", faces), prepared(root / "alone", faces)
    steps, told, goes_on = {}, [], []
    for stage, sig in zip(STAGES, (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL), strict=True):
        run = killed / "runs" / stage
        process = start(*goes_on, arguments(stage, killed, FAR))
        kill_when_under_way(process, run, sig)
        told.append(finish(process, 130 if sig == signal.SIGTERM else -sig))
        steps[stage] = saved_step(run)
        goes_on = [arguments(stage, killed, steps[stage] + MORE)]
    every = [arguments(stage, alone, steps[stage] + MORE) for stage in STAGES]
    told.append(finish(start(*goes_on, *every), 0))
    assert all(f"resumed at step {steps[stage]}" in text for stage, text in zip(STAGES, told[1:], strict=True))
    return killed / "runs", alone / "runs", steps


@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed_equals_undisturbed(runs, stage):
    killed, alone, steps = runs
    assert 3 <= steps[stage] < FAR
    for name in ("state.safetensors", "weights.safetensors"):
        found, expected = load_file(killed / stage / name), load_file(alone / stage / name)
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


def test_the_log_has_every_validation_once(runs):
    killed, alone, _ = runs
    logs = []
    for folder in (killed, alone):
        events = EventAccumulator(str(folder / "estimator" / "tensorboard"))
        events.Reload()
        logs.append([(event.step, event.value) for event in events.Scalars("val/severe_psnr_db")])
    assert logs[0] == logs[1]


def test_nothing_is_left_half_written(runs):
    killed, _, _ = runs
    assert list(killed.rglob("*.partial")) == []
