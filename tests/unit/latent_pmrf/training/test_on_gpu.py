import pytest
import torch

from latent_pmrf.cli import main
from latent_pmrf.training.checkpoint import load_weights
from tests.training_files import write_faces, write_recipe


@pytest.mark.gpu
def test_every_stage_trains_and_resumes_on_a_gpu(tmp_path):
    (tmp_path / "faces").mkdir()
    faces = write_faces(tmp_path / "faces")
    places = ["--data", str(faces), "--runs", str(tmp_path / "runs"), "--device", "cuda"]
    for stage in ("estimator", "vae", "flow"):
        recipe = write_recipe(tmp_path, stage, steps=3, workers=0 if stage == "flow" else 1)
        for steps in ("3", "5"):
            assert main(["train", stage, "--config", str(recipe), *places, "--steps", steps]) == 0
        weights = load_weights(tmp_path / "runs" / stage / "weights.safetensors")
        assert weights.info["step"] == 5
        assert all(torch.isfinite(value).all() for value in weights.state_dict.values())
