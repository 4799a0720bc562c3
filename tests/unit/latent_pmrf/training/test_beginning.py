import dataclasses
import logging
import shutil
from pathlib import Path

import pytest
import torch

from latent_pmrf.config import VELOCITY_PRESETS, HDiTConfig, SimVAEConfig, SwinIRConfig, UNetConfig
from latent_pmrf.nets.build import build
from latent_pmrf.training.beginning import DECIDING, check_function, put_back, set_aside
from latent_pmrf.training.checkpoint import load_weights, save_training_state, save_weights
from latent_pmrf.training.enlarge import enlarged_flow
from latent_pmrf.training.recipe import load_recipe
from latent_pmrf.training.setup import Places, build_trainer, network_config
from tests.tiny_stages import frozen
from tests.training_files import write_faces, write_recipe

FLOW = HDiTConfig(widths=(32, 32), depths=(1, 1), attention=("neighborhood", "global"), head_dim=(16, 16))
OTHERS = {
    SwinIRConfig: {"image_skip": True, "upsampler": "pixelshuffledirect", "window_size": 4, "num_heads": (3,) * 8},
    UNetConfig: {"heads": 2, "unshuffle": 2, "image_size_px": 128, "depth": 1},
    SimVAEConfig: {
        "norm": "group",
        "two_norms": True,
        "mid_attention": True,
        "resizing": "in_block",
        "linear_skip": True,
        "stem_unshuffle": 2,
        "decoder_layers_per_block": 2,
    },
    HDiTConfig: {
        "attention": ("global", "global"),
        "head_dim": (8, 8),
        "kernel_size": 5,
        "flavour": "pmrf",
        "time_convention": "sigma",
        "mean_conditioned": True,
        "cosine_attention": True,
        "depthwise_conv": False,
        "ff_mult": 5.0,
        "mapping_depth": 1,
        "patch_size": 2,
    },
}


def shapes(config):
    with torch.device("meta"):
        return {name: value.shape for name, value in build(config).state_dict().items()}


@pytest.mark.parametrize("cls", OTHERS, ids=lambda cls: cls.__name__)
def test_every_field_that_shapes_do_not_show_is_compared(cls):
    own = FLOW if cls is HDiTConfig else cls()
    for name, value in OTHERS[cls].items():
        given = dataclasses.replace(own, **{name: value})
        if name in DECIDING[cls]:
            with pytest.raises(ValueError, match=f"another function: {name} "):
                check_function(own, given)
        else:
            check_function(own, given)
            assert shapes(own) != shapes(given), name


def test_networks_of_two_kinds_and_several_differences_are_told():
    with pytest.raises(ValueError, match="of a UNetConfig, not of a SwinIRConfig"):
        check_function(SwinIRConfig(), UNetConfig())
    with pytest.raises(ValueError, match="kernel_size 5, here 7; time_convention 'sigma', here 't'"):
        check_function(FLOW, dataclasses.replace(FLOW, kernel_size=5, time_convention="sigma"))


def test_an_enlarged_flow_of_xs_begins_that_of_s():
    check_function(VELOCITY_PRESETS["s"], enlarged_flow(VELOCITY_PRESETS["xs"]))


@pytest.fixture
def places(tmp_path):
    """Data and runs with an estimator and an autoencoder."""
    found = Places(write_faces(tmp_path), tmp_path / "runs")
    for stage in ("estimator", "vae"):
        build_trainer(load_recipe(write_recipe(tmp_path, stage)), found).save()
    return found


def flow_recipe(folder, **options):
    recipe = load_recipe(write_recipe(folder, "flow"))
    return dataclasses.replace(recipe, options={**recipe.options, **options})


def write_flow(path, config, **info):
    facts = {"space": "latent", "latent_mean": [0.5] * 8, "latent_std": [2.0] * 8, "sigma_s": [0.25]}
    save_weights(path, config, frozen(config, 7).state_dict(), facts | info)
    return path


def test_a_public_flow_of_reversed_time_is_refused_until_the_recipe_says_so(tmp_path, places):
    recipe = flow_recipe(tmp_path)
    recipe = dataclasses.replace(recipe, network={**recipe.network, "mean_conditioned": False})
    public = dataclasses.replace(network_config(recipe), time_convention="sigma")
    path = write_flow(tmp_path / "public.safetensors", public)
    with pytest.raises(ValueError, match="another function: time_convention 'sigma', here 't'"):
        build_trainer(recipe, places, initial=path)
    recipe = dataclasses.replace(recipe, network={**recipe.network, "time_convention": "sigma"})
    trainer = build_trainer(recipe, places, initial=path)
    z, t = torch.randn(2, 8, 16, 16), torch.tensor([0.2, 0.9])
    given = frozen(public, 7)
    with torch.no_grad():
        torch.testing.assert_close(trainer.model(z, t), given(z, t))


@pytest.mark.parametrize("finish", [{}, {"adversarial": {"weight": 0.1}}])
def test_a_flow_goes_on_in_the_units_of_the_weights_it_begins_with(tmp_path, places, caplog, finish):
    recipe = flow_recipe(tmp_path, **finish)
    path = write_flow(tmp_path / "given.safetensors", network_config(recipe))
    with caplog.at_level(logging.INFO):
        trainer = build_trainer(recipe, places, initial=path)
    statistics = trainer.stage.statistics
    assert (statistics.mean, statistics.std) == ((0.5,) * 8, (2.0,) * 8)
    assert "keeps latent_mean and latent_std of the weights" in caplog.text
    assert "theirs was 0.25" in caplog.text
    distance = trainer.model.preconditioning.distance.flatten()  # in those units, and so is the noise
    torch.testing.assert_close(torch.tensor(statistics.sigma_s), 0.3 * distance, atol=1e-5, rtol=1e-4)
    trainer.train()
    path.unlink()
    resumed = build_trainer(recipe, places, initial=path)  # a run that goes on needs them no more
    assert resumed.step == 4
    assert resumed.stage.statistics == statistics
    assert load_weights(places.weights("flow")).info["latent_mean"] == [0.5] * 8


def test_statistics_of_an_earlier_start_are_not_taken_for_those_of_given_weights(tmp_path, places):
    recipe = flow_recipe(tmp_path)
    build_trainer(recipe, places)
    path = write_flow(tmp_path / "given.safetensors", network_config(recipe))
    with pytest.raises(ValueError, match="is not of the weights that the run begins with: restart the stage"):
        build_trainer(recipe, places, initial=path)
    assert build_trainer(recipe, places, initial=path, restart=True).stage.statistics.std == (2.0,) * 8


def test_spaces_and_units_that_do_not_go_together_are_refused(tmp_path, places):
    recipe = flow_recipe(tmp_path)
    in_pixels = write_flow(tmp_path / "pixels.safetensors", network_config(recipe), space="pixel")
    with pytest.raises(ValueError, match="of a flow in space pixel, this recipe's is in space latent"):
        build_trainer(recipe, places, initial=in_pixels)
    scaled = write_flow(tmp_path / "scaled.safetensors", network_config(recipe))
    with pytest.raises(ValueError, match="set normalise to true"):
        build_trainer(flow_recipe(tmp_path, normalise=False), places, initial=scaled)
    as_they_are = {"latent_mean": [0.0] * 8, "latent_std": [1.0] * 8}
    unscaled = write_flow(tmp_path / "unscaled.safetensors", network_config(recipe), **as_they_are)
    statistics = build_trainer(flow_recipe(tmp_path, normalise=False), places, initial=unscaled).stage.statistics
    assert (statistics.mean, statistics.std) == ((0.0,) * 8, (1.0,) * 8)


def test_weights_without_statistics_begin_a_flow_of_its_own_and_that_is_told(tmp_path, places, caplog):
    recipe = flow_recipe(tmp_path)
    save_weights(tmp_path / "w.safetensors", network_config(recipe), frozen(network_config(recipe), 7).state_dict(), {})
    told = "the weights that it begins with have no latent_mean and latent_std; they are measured here"
    with caplog.at_level(logging.INFO):
        plain = build_trainer(recipe, dataclasses.replace(places)).stage.statistics
        assert told not in caplog.text
        begun = build_trainer(recipe, places, initial=tmp_path / "w.safetensors", restart=True)
    assert begun.stage.statistics == plain
    assert told in caplog.text


@pytest.mark.parametrize(("size_px", "named"), [(68, r"HDiT: sides \(17, 17\)"), (32, "UNet: this network")])
def test_pictures_that_a_network_of_the_flow_cannot_take_are_refused(tmp_path, places, size_px, named):
    recipe = dataclasses.replace(flow_recipe(tmp_path), size_px=size_px)
    with pytest.raises(ValueError, match=f"size_px {size_px} does not suit the {named}"):
        build_trainer(recipe, places)
    assert not (places.runs / "flow").exists()


def test_a_restart_forgets_the_weights_that_were_kept_on_the_way(tmp_path, places):
    vae = places.runs / "vae"
    for name in ("weights-2.safetensors", "weights-of-my-own.safetensors"):
        shutil.copy(places.weights("vae"), vae / name)
    build_trainer(load_recipe(tmp_path / "vae.yaml"), places, restart=True)
    assert {path.name for path in vae.glob("weights*")} == {"weights.safetensors", "weights-of-my-own.safetensors"}


def no_room(*_):
    raise MemoryError


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("cause", ["no weights", "other weights", "no data", "no room"])
def test_a_restart_that_cannot_be_made_leaves_everything_as_it_was(tmp_path, places, monkeypatch, cause):
    recipe = flow_recipe(tmp_path)
    build_trainer(recipe, places).train()
    before = content(places.runs)
    assert {"state.safetensors", "latent_statistics.json", "origin.json"} <= {path.name for path in before}
    initial = tmp_path / "typo.safetensors"
    if cause == "other weights":
        save_weights(initial, network_config(recipe), {"other": torch.zeros(1)}, {})
    elif cause == "no data":
        recipe, initial = dataclasses.replace(recipe, shards="typo*.tar"), None
    elif cause == "no room":
        recipe, initial = dataclasses.replace(recipe, options={**recipe.options, "noise_factor": 0.5}), None
        monkeypatch.setattr("latent_pmrf.training.loop.make_optimizers", no_room)
    with pytest.raises((ValueError, FileNotFoundError, MemoryError)):
        build_trainer(recipe, places, initial=initial, restart=True)
    assert content(places.runs) == before


def test_a_restart_that_was_killed_is_undone(tmp_path, places):
    recipe = flow_recipe(tmp_path)
    build_trainer(recipe, places).train()
    before = content(places.runs)
    killed = set_aside(places.runs / "flow")
    killed.__enter__()
    (places.runs / "flow" / "latents").mkdir()
    assert build_trainer(recipe, places).step == 4
    assert content(places.runs) == before


class Killed(BaseException):
    """Stands for SIGKILL, after which nothing is tidied up."""


@pytest.mark.parametrize("moved", range(5))
def test_a_restart_that_was_killed_while_it_moved_files_loses_none(tmp_path, monkeypatch, moved):
    for name in ("state.safetensors", "latent_statistics.json", "latents/done.u8", "weights-2.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before, rename, renamed = content(tmp_path), Path.rename, []

    def rename_until(path, target):
        if len(renamed) == moved:
            raise Killed
        renamed.append(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_until)
    monkeypatch.setattr("latent_pmrf.training.beginning.put_back", lambda _: None)
    with pytest.raises(Killed), set_aside(tmp_path):
        raise Killed
    monkeypatch.undo()
    put_back(tmp_path)
    assert content(tmp_path) == before
    assert not (tmp_path / "restart.partial").exists()


def test_a_restart_that_was_killed_while_it_removed_what_it_had_set_aside_has_succeeded(tmp_path, monkeypatch):
    (tmp_path / "latents").mkdir()
    (tmp_path / "latents" / "done.u8").write_text("old")
    (tmp_path / "state.safetensors").write_text("old")

    def killed(folder):
        (folder / "latents" / "done.u8").unlink()
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", killed)
    block = set_aside(tmp_path)
    block.__enter__()
    (tmp_path / "latents").mkdir()
    (tmp_path / "latents" / "done.u8").write_text("new")
    with pytest.raises(Killed):
        block.__exit__(None, None, None)
    monkeypatch.undo()
    put_back(tmp_path)
    assert {path.name: data for path, data in content(tmp_path).items()} == {"done.u8": b"new"}


def test_weights_without_a_state_are_not_written_over(tmp_path, places):
    recipe = load_recipe(tmp_path / "vae.yaml")
    (places.runs / "vae" / "state.safetensors").unlink()
    before = content(places.runs)
    with pytest.raises(ValueError, match=r"vae/weights\.safetensors is there already, .*--restart"):
        build_trainer(recipe, places)
    assert content(places.runs) == before
    assert build_trainer(recipe, places, restart=True).step == 0
    assert build_trainer(recipe, places).step == 0  # killed before its first checkpoint, it begins there


@pytest.mark.parametrize("change", [{"kernel_size": 5}, {"attention": ["global", "global"]}, {"head_dim": [8, 8]}])
def test_a_run_does_not_go_on_with_a_network_that_computes_another_function(tmp_path, places, change):
    recipe = flow_recipe(tmp_path)
    build_trainer(recipe, places).train()
    before = content(places.runs)
    changed = dataclasses.replace(recipe, network={**recipe.network, **change})
    with pytest.raises(ValueError, match=f"of the run so far compute another function: {next(iter(change))} "):
        build_trainer(changed, places)
    assert content(places.runs) == before
    assert build_trainer(recipe, places).step == 4


def test_a_state_that_does_not_say_how_its_network_was_specified_is_gone_on_with(tmp_path, places):
    recipe = flow_recipe(tmp_path)
    trainer = build_trainer(recipe, places)
    info = {"step": 3, "train_seconds": 1.0}
    save_training_state(trainer.state_path, trainer.model, trainer.ema, trainer.optimizers, info)
    assert build_trainer(recipe, places).step == 3
