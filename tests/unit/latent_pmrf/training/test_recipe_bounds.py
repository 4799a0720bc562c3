import logging
import os

import pytest
import yaml

from latent_pmrf.cli import main
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.training.optim import OptimConfig
from latent_pmrf.training.recipe import load_recipe
from latent_pmrf.training.setup import Places, build_trainer
from tests.training_files import recipe_values, write_faces, write_recipe


def written(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"micro_batches": 0}, "micro_batches must be at least 1"),
        ({"validate_every": 0}, "validate_every must be at least 1"),
        ({"keep_every": -1}, "keep_every must be 0 or more"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more"),
        ({"workers": -1}, "workers must be 0 or more"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": float("nan")}, r"OptimConfig\.lr cannot be nan"),
        ({"betas": [0.9, 1.0]}, "betas must be from 0 to below 1"),
        ({"ema_decay": 1.0}, "ema_decay must be from 0 to below 1"),
        ({"final_lr_ratio": 2.0}, "final_lr_ratio must be from 0 to 1"),
        ({"grad_clip": 0}, "grad_clip must be above 0, or null for none, not 0"),
        ({"checkpoint_minutes": -1}, "checkpoint_minutes must be 0 or more"),
        ({"seed": -1}, "seed must be from 0"),
        ({"warmup_steps": 2, "decay_steps": 3}, "warmup_steps 2 and decay_steps 3 are 5 together, more than steps 4"),
    ],
)
def test_what_would_train_nothing_is_refused_by_name(tmp_path, changes, named):
    with pytest.raises(ValueError, match=rf"vae\.yaml: .*{named}"):
        load_recipe(write_recipe(tmp_path, "vae", **changes))


@pytest.mark.parametrize(
    ("stage", "options", "named"),
    [
        ("vae", "{crop_px: 32, kl_weight: 1e-6}", "options.kl_weight cannot be '1e-6'; .*write 1.0e-6"),
        ("vae", "{crop_px: 32, kl_weight: -1.0}", "options.kl_weight must not be negative"),
        ("vae", "{crop_px: 32, band_weight: .inf}", "options.band_weight cannot be inf"),
        ("vae", "{crop_px: 32, decoder_only: 1}", "options.decoder_only cannot be 1"),
        ("vae", "{crop_px: 65}", "options.crop_px must be from 1 to size_px 64, not 65"),
        ("vae", "{crop_px: 0}", "options.crop_px must be from 1"),
        ("flow", "{sigma_s: 1e-1}", "options.sigma_s cannot be '1e-1'; .*write 1.0e-6"),
        ("flow", "{sigma_s: 0.1, copies: 1.5}", "options.copies cannot be 1.5"),
        ("flow", "{sigma_s: 0.1, normalise: 0}", "options.normalise cannot be 0"),
        ("flow", "{noise_factor: -0.1}", "options.noise_factor must not be negative"),
        ("flow", "{sigma_s: 0.1, adversarial: 0.1}", "options.adversarial cannot be 0.1"),
        ("estimator", "{identity_weight: '0.1'}", "options.identity_weight cannot be '0.1'"),
    ],
)
def test_options_of_another_type_or_out_of_bounds_are_refused_by_name(tmp_path, stage, options, named):
    values = recipe_values(stage)
    values.pop("options", None)
    path = written(tmp_path, yaml.safe_dump(values) + f"options: {options}\n")
    with pytest.raises(ValueError, match=rf"recipe\.yaml: .*{named}"):
        load_recipe(path)


def test_sizes_that_do_not_go_together_are_told_before_the_first_step(tmp_path):
    faces = write_faces(tmp_path)
    for stage, changes, named in (
        ("vae", {"options": {"crop_px": 30}}, "crop_px 30 must be a multiple of the autoencoder's 4"),
        ("vae", {"size_px": 66}, "size_px 66 does not suit the SimVAE: sides .* multiples of 4 pixels"),
        ("estimator", {"size_px": 32}, r"size_px 32 does not suit the UNet: this network takes 64x64 images"),
        ("estimator", {"size_px": 60, "preset": "xs", "network": {}}, "size_px 60 does not suit the SwinIR: .* of 64"),
        (
            "flow",
            {"size_px": 6, "options": {"space": "pixel", "sigma_s": 0.1}},
            "size_px 6 does not suit the HDiT: a token map of 6x6 is smaller",
        ),
    ):
        path = written(tmp_path, yaml.safe_dump(recipe_values(stage) | changes))
        with pytest.raises(ValueError, match=named):
            build_trainer(load_recipe(path), Places(faces, tmp_path / "runs"))


def test_degradations_of_an_autoencoder_are_refused(tmp_path):
    text = yaml.safe_dump(recipe_values("vae"))
    with pytest.raises(ValueError, match=r"recipe\.yaml: degradation has no effect on an autoencoder"):
        load_recipe(written(tmp_path, text + "degradation: {blur_sigma: [1.0, 2.0]}\n"))
    assert load_recipe(written(tmp_path, text + "degradation: null\n")).degradation == DegradationRange()


def test_null_clips_no_gradient_whatever_the_base_says(tmp_path):
    base = written(tmp_path, yaml.safe_dump(recipe_values("vae", grad_clip=None)))
    assert load_recipe(base).optim.grad_clip is None
    write_recipe(tmp_path, "vae", grad_clip=0.5)
    (tmp_path / "loose.yaml").write_text("base: vae.yaml\noptim: {grad_clip: null, lr: null}\n")
    with pytest.raises(ValueError, match="'lr'"):
        load_recipe(tmp_path / "loose.yaml")
    (tmp_path / "loose.yaml").write_text("base: vae.yaml\noptim: {grad_clip: null}\n")
    assert load_recipe(tmp_path / "loose.yaml").optim.grad_clip is None


def test_degradations_are_checked_and_grey_targets_can_be_turned_off(tmp_path):
    text = yaml.safe_dump(recipe_values("estimator"))
    with pytest.raises(ValueError, match=r"recipe\.yaml: kernel_size 40 must be odd"):
        load_recipe(written(tmp_path, text + "degradation: {kernel_size: 40}\n"))
    found = load_recipe(written(tmp_path, text + "degradation: {gray_target: false}\n")).degradation
    assert found == DegradationRange(gray_target=False) != DegradationRange()


@pytest.mark.parametrize(
    ("steps", "warmup", "decay"), [(4000, 100, 2000), (8000, 100, 2000), (2100, 100, 2000), (2000, 50, 1000), (1, 0, 0)]
)
def test_a_shorter_run_warms_up_and_decays_in_proportion_and_says_so(tmp_path, caplog, steps, warmup, decay):
    path = write_recipe(tmp_path, "vae", steps=4000, warmup_steps=100, decay_steps=2000)
    with caplog.at_level(logging.WARNING):
        optim = load_recipe(path, steps).optim
    assert (optim.steps, optim.warmup_steps, optim.decay_steps) == (steps, warmup, decay)
    told = f"{steps} steps instead of 4000: warm-up and decay take {warmup} and {decay}, in proportion"
    assert (told in caplog.text) == (decay != 2000)
    rates = [optim.lr_at(step) for step in range(steps)]
    assert max(rates) == optim.lr
    assert sum(rates) > 0.5 * steps * optim.lr


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_no_steps_are_refused(tmp_path, capsys, steps):
    recipe = str(write_recipe(tmp_path, "vae"))
    assert main(["train", "vae", "--config", recipe, "--data", str(tmp_path), "--steps", steps]) == 2
    assert f"steps must be at least 1, not {steps}" in capsys.readouterr().err


def test_a_folder_or_binary_in_the_place_of_a_recipe_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path} cannot be read: Is a directory"):
        load_recipe(tmp_path)
    (tmp_path / "recipe.yaml").write_bytes(os.urandom(64) + b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"recipe\.yaml"):
        load_recipe(tmp_path / "recipe.yaml")


def test_the_defaults_are_within_bounds():
    assert OptimConfig(steps=1, batch_size=1, lr=0.1).grad_clip == 1.0
