"""Two processes under torchrun train as one process that accumulates the gradients of the same micro-batches."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training_files import write_faces, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[3]
TOGETHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "latent_pmrf.cli"]


def training(recipe, faces, runs):
    return ["train", recipe.stem, "--config", str(recipe), "--data", str(faces), "--runs", str(runs)]


def start(*command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process):
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def losses(run):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("loss")}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, faces):
    """Runs folder of one process and of two; the flow degrades afresh, in a worker process."""
    folder = tmp_path_factory.mktemp("distributed")
    facts = {"batch_size": 4, "micro_batches": 2, "precision": "fp32", "steps": 20, "validate_every": 20}
    for stage in ("estimator", "vae"):
        write_recipe(folder, stage, **facts)
    write_recipe(folder, "flow", **facts, workers=1)
    text = (folder / "flow.yaml").read_text()
    (folder / "flow.yaml").write_text(text.replace("copies: 2", "copies: 0"))
    stages = [training(folder / f"{stage}.yaml", faces, folder / "alone") for stage in ("vae", "estimator", "flow")]
    finish(start("-m", "tests.training_stages", json.dumps(stages)))
    (folder / "together").mkdir()
    (folder / "together" / "vae").symlink_to(folder / "alone" / "vae")
    finish(start(*TOGETHER, *training(folder / "estimator.yaml", faces, folder / "together")))
    (folder / "frozen" / "flow").mkdir(parents=True)
    for stage in ("estimator", "vae"):
        (folder / "frozen" / stage).symlink_to(folder / "alone" / stage)
    finish(start(*TOGETHER, *training(folder / "flow.yaml", faces, folder / "frozen")))
    (folder / "together" / "flow").symlink_to(folder / "frozen" / "flow")
    return folder / "alone", folder / "together"


@pytest.mark.parametrize("stage", ["estimator", "flow"])
def test_two_processes_have_the_loss_curve_of_one(runs, stage):
    alone, together = (losses(folder / stage) for folder in runs)
    assert list(alone) == list(together) == [10, 20]
    assert list(together.values()) == pytest.approx(list(alone.values()), rel=1e-4)


@pytest.mark.parametrize("stage", ["estimator", "flow"])
def test_and_the_weights_of_one(runs, stage):
    alone, together = (load_file(folder / stage / "weights.safetensors") for folder in runs)
    assert alone.keys() == together.keys()
    for name, expected in alone.items():
        torch.testing.assert_close(
            together[name], expected, atol=2e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}"
        )


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the run ended without {text!r}")


def test_processes_stop_together_and_go_on(tmp_path, faces):
    facts = {"batch_size": 2, "micro_batches": 2, "validate_every": 1, "checkpoint_minutes": 1000.0, "workers": 1}
    recipe = write_recipe(tmp_path, "estimator", **facts)
    process = start(*TOGETHER, *training(recipe, faces, tmp_path / "runs"), "--steps", "100000")
    wait_for(process, "validation")  # the leading process validates most of the time, the other waits for it
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=200)
    assert "SIGKILL" not in output
    assert "DataLoader worker" not in output
    assert (tmp_path / "runs" / "estimator" / "state.safetensors").exists()
    resumed = start(*TOGETHER, *training(recipe, faces, tmp_path / "runs"), "--steps", "100000")
    wait_for(resumed, "resumed at step")
    resumed.send_signal(signal.SIGTERM)
    resumed.communicate(timeout=200)


def test_processes_must_divide_the_micro_batches(tmp_path, faces):
    recipe = write_recipe(tmp_path, "estimator", micro_batches=1)
    process = start(*TOGETHER, *training(recipe, faces, tmp_path / "runs"))
    output, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "2 processes cannot share micro_batches 1 equally" in output
