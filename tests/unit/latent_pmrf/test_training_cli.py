import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from latent_pmrf.cli import main
from tests.training_files import write_faces, write_recipe

ROOT = Path(__file__).resolve().parents[3]

IMPORTED = """
import sys
from latent_pmrf.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print(sorted({{"torch", "dlib", "onnxruntime", "matplotlib", "skimage"}} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"))


def train(stage, recipe, faces, runs, *more):
    return main(["train", stage, "--config", str(recipe), "--data", str(faces), "--runs", str(runs), *more])


def saved_step(runs, stage):
    with safe_open(runs / stage / "state.safetensors", framework="pt") as file:
        return json.loads(file.metadata()["latent_pmrf"])["info"]["step"]


def test_a_run_goes_on_or_starts_again(tmp_path, faces):
    recipe = write_recipe(tmp_path, "vae", steps=3)
    steps = []
    for more in ((), ("--steps", "5"), (), ("--restart", "--steps", "2")):
        assert train("vae", recipe, faces, tmp_path / "runs", *more) == 0
        steps.append(saved_step(tmp_path / "runs", "vae"))
    assert steps == [3, 5, 5, 2]


def test_restarting_the_flow_forgets_latents_of_older_networks(tmp_path, faces, capsys):
    runs = tmp_path / "runs"
    for stage in ("estimator", "vae", "flow"):
        assert train(stage, write_recipe(tmp_path, stage, steps=1), faces, runs) == 0
    assert train("vae", tmp_path / "vae.yaml", faces, runs, "--steps", "3") == 0
    assert train("flow", tmp_path / "flow.yaml", faces, runs, "--steps", "2") == 2
    assert "holds latents of another vae: restart the stage" in capsys.readouterr().err
    assert train("flow", tmp_path / "flow.yaml", faces, runs, "--steps", "2", "--restart") == 0
    assert saved_step(runs, "flow") == 2


@pytest.mark.parametrize(
    ("change", "stage", "message"),
    [
        (lambda recipe: recipe.unlink(), "vae", "No such file or directory: .*vae.yaml"),
        (lambda recipe: None, "estimator", "vae.yaml is a recipe for stage vae, not estimator"),
        (
            lambda recipe: recipe.write_text(recipe.read_text() + "colour: 3\n"),
            "vae",
            r"Recipe has no field \['colour'\]",
        ),
        (lambda recipe: recipe.write_text(recipe.read_text() + "shards: x*\n"), "vae", r"no pictures match .*x\*"),
    ],
)
def test_what_cannot_be_trained_is_told_in_a_line(tmp_path, faces, capsys, change, stage, message):
    recipe = write_recipe(tmp_path, "vae")
    change(recipe)
    assert train(stage, recipe, faces, tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_a_picture_that_cannot_be_read_on_the_way_is_told_in_a_line_and_the_run_goes_on_once_it_is_mended(
    tmp_path, capsys
):
    data = write_faces(tmp_path)
    recipe = write_recipe(tmp_path, "estimator", steps=2)
    recipe.write_text(recipe.read_text() + "in_memory: false\n")
    assert train("estimator", recipe, data, tmp_path / "runs") == 0
    shard = data / "train256-000.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        places = [(member.offset_data, member.size) for member in archive]
    broken = bytearray(whole)
    for offset, size in places:
        broken[offset : offset + size] = bytes(size)
    shard.write_bytes(broken)
    assert train("estimator", recipe, data, tmp_path / "runs", "--steps", "4") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"error: {shard}:\d\.png cannot be read: .*; mend or remove it: the run then goes on", error)
    shard.write_bytes(whole)
    assert train("estimator", recipe, data, tmp_path / "runs", "--steps", "4") == 0
    assert saved_step(tmp_path / "runs", "estimator") == 4


def test_a_run_that_diverges_fails_with_what_to_do(tmp_path, faces, capsys):
    recipe = write_recipe(tmp_path, "vae", lr=1e30, grad_clip=None, steps=60, validate_every=100)
    assert train("vae", recipe, faces, tmp_path / "runs") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match("error: vae: .* not finite.*: lower lr or grad_clip and go on from it", error)
    assert not (tmp_path / "runs" / "vae" / "weights.safetensors").exists()


def test_what_cannot_be_written_is_told_in_a_line(tmp_path, faces, capsys):
    (tmp_path / "file").touch()
    recipe = write_recipe(tmp_path, "estimator", steps=1)
    assert train("estimator", recipe, faces, tmp_path / "runs") == 0
    weights = tmp_path / "runs" / "estimator" / "weights.safetensors"
    capsys.readouterr()
    assert train("estimator", recipe, faces, tmp_path / "file") == 2
    assert main(["enlarge", str(weights), str(tmp_path / "file" / "large.safetensors")]) == 2
    assert re.fullmatch(r"(error: .*file.*\n){2}", capsys.readouterr().err)


def test_a_disk_that_is_full_costs_no_checkpoint(tmp_path, faces, capsys, monkeypatch):
    recipe = write_recipe(tmp_path, "vae", steps=1)
    assert train("vae", recipe, faces, tmp_path / "runs") == 0

    def full(*_args, **_options):
        raise SafetensorError("No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("latent_pmrf.training.checkpoint.save_file", full)
        assert train("vae", recipe, faces, tmp_path / "runs", "--steps", "2") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: .*state\.safetensors cannot be written: No space left .*: the run then goes on", error)
    assert not (tmp_path / "runs" / "vae" / "state.safetensors.partial").exists()
    assert train("vae", recipe, faces, tmp_path / "runs", "--steps", "2") == 0
    assert saved_step(tmp_path / "runs", "vae") == 2


@pytest.mark.parametrize("device", ["quantum", "cuda:97"])
def test_a_device_that_is_not_here_is_named(tmp_path, faces, capsys, device):
    assert train("vae", write_recipe(tmp_path, "vae"), faces, tmp_path / "runs", "--device", device) == 2
    assert f"error: device '{device}' cannot be used: " in capsys.readouterr().err
    assert main(["evaluate", "--data", str(faces), "--no-floors", "--device", device]) == 2
    assert f"error: device '{device}' cannot be used: " in capsys.readouterr().err


def test_a_checkpoint_of_another_network_is_not_taken_up(tmp_path, faces, capsys):
    recipe = write_recipe(tmp_path, "vae", steps=1)
    assert train("vae", recipe, faces, tmp_path / "runs") == 0
    recipe.write_text(recipe.read_text().replace("latent_channels: 8", "latent_channels: 4"))
    assert train("vae", recipe, faces, tmp_path / "runs") == 2
    assert "state.safetensors is of another network" in capsys.readouterr().err
    assert train("vae", recipe, faces, tmp_path / "runs", "--restart") == 0


@pytest.mark.parametrize(
    "arguments",
    [["evaluate", "--help"], ["train", "--help"], ["import", "--help"], ["evaluate", "--bundle", "nowhere"]],
)
def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED.format(arguments=arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = done.stdout.splitlines()[-1]
    assert imported == "[]"


@pytest.mark.parametrize("arguments", [[], ["distil"], ["train", "decoder", "--config", "x"], ["train", "vae"]])
def test_unknown_commands_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
