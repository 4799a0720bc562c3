import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

import latent_pmrf.training
from latent_pmrf.config import ESTIMATOR_PRESETS
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.nets.build import build
from latent_pmrf.training.checkpoint import load_weights
from latent_pmrf.training.device import to_device
from latent_pmrf.training.optim import OptimConfig
from latent_pmrf.training.processes import ProcessGroup
from latent_pmrf.training.recipe import load_recipe
from latent_pmrf.training.setup import Places, build_trainer, load_network, network_config
from tests.training_files import recipe_values, write_faces, write_recipe

PRESETS = Path(latent_pmrf.training.__file__).parent / "presets"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"))


def written(tmp_path, values):
    path = tmp_path / "recipe.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_of_the_tree_names_a_network_that_exists(path):
    recipe = load_recipe(path)
    with torch.device("meta"):
        assert build(network_config(recipe)) is not None


@pytest.mark.parametrize("folder", ["s", "xs", "published"])
def test_three_recipes_of_distinct_seeds_make_a_bundle(folder):
    every = {path.stem: load_recipe(path) for path in (PRESETS / folder).glob("*.yaml")}
    recipes = {stage: every[stage] for stage in ("estimator", "vae", "flow")}
    assert all(recipe.stage == name.split("_")[0] for name, recipe in every.items())
    assert len({recipe.optim.seed for recipe in every.values()}) == len(every)
    assert recipes["estimator"].degradation == recipes["flow"].degradation


def test_overrides_replace_the_optimiser_s_entries(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path, "vae", steps=4), 9)
    assert (recipe.optim.steps, recipe.optim.batch_size) == (9, 2)


def test_lists_become_tuples(tmp_path):
    recipe = load_recipe(written(tmp_path, recipe_values("flow", betas=[0.8, 0.9])))
    assert recipe.optim.betas == (0.8, 0.9)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shard": "*"}, r"Recipe has no field \['shard'\]"),
        (
            {"optim": {"steps": 1, "batch_size": 1, "lr": 1e-3, "learning_rate": 1}},
            r"OptimConfig .* \['learning_rate'\]",
        ),
        ({"optim": {"steps": 1}}, "OptimConfig: .*'batch_size' and 'lr'"),
        ({"optim": None}, "OptimConfig: .*'steps'"),
        ({"optim": [1, 2]}, r"optim must hold keys and values, not \[1, 2\]"),
        ({"degradation": {"blur": 3}}, r"DegradationRange has no field \['blur'\]"),
        ({"degradation": {"blur_sigma": [0.8]}}, r"DegradationRange\.blur_sigma cannot be \[0\.8\]"),
        ({"degradation": {"blur_sigma": 0.8}}, r"DegradationRange\.blur_sigma cannot be 0\.8"),
        ({"augmentation": {"flips": True}}, r"Augmentation has no field \['flips'\]"),
        ({"augmentation": {"flip": 1}}, r"Augmentation\.flip cannot be 1"),
        ({"options": {"crop": 32, "crop_px": 32}}, r"stage vae has no option \['crop'\]"),
        ({"options": {}}, r"stage vae needs the option \['crop_px'\]"),
        ({"stage": "decoder"}, "unknown stage 'decoder'"),
        ({"size_px": "big"}, r"Recipe\.size_px cannot be 'big'"),
        ({"preset": None}, r"Recipe\.preset cannot be None"),
    ],
)
def test_misfits_are_named_with_their_file(tmp_path, changes, named):
    path = written(tmp_path, recipe_values("vae") | changes)
    with pytest.raises(ValueError, match=rf"recipe\.yaml: .*{named}"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("entry", "named"), [("lr: 8e-4", "lr cannot be '8e-4'"), ("precision: fp8", "precision cannot be 'fp8'")]
)
def test_text_is_no_number_and_no_choice(tmp_path, entry, named):
    name, _, value = entry.partition(": ")
    text = yaml.safe_dump(recipe_values("vae")).replace("  steps:", f"  {name}: {value}\n  steps:")
    text = text.replace("  lr: 0.002\n", "") if name == "lr" else text
    with pytest.raises(ValueError, match=named):
        load_recipe(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "named"), [("a: [", "is not YAML"), ("just text", "must hold keys"), ("", "OptimConfig")]
)
def test_what_is_no_recipe_is_refused(tmp_path, text, named):
    with pytest.raises(ValueError, match=named):
        load_recipe(written(tmp_path, text))


@pytest.mark.parametrize("stage", ["estimator", "vae"])
def test_a_recipe_makes_a_trainer(tmp_path, faces, stage):
    trainer = build_trainer(load_recipe(write_recipe(tmp_path, stage)), Places(faces, tmp_path / "runs"))
    assert (trainer.step, trainer.optim.steps, trainer.run_dir) == (0, 4, tmp_path / "runs" / stage)


def test_network_fields_replace_the_preset_s(tmp_path, faces):
    trainer = build_trainer(load_recipe(write_recipe(tmp_path, "estimator")), Places(faces, tmp_path))
    preset = ESTIMATOR_PRESETS["xs-unet"]
    assert trainer.stage.config == dataclasses.replace(preset, image_size_px=64, widths=(8, 16), depth=1, heads=2)
    assert preset.image_size_px == 256


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"preset": "xxl"}, ValueError, r"stage vae has no preset 'xxl'; it has \['published', 'sd-vae', 'xs'\]"),
        ({"network": {"latent": 3}}, ValueError, r"SimVAEConfig has no field \['latent'\]"),
        ({"shards": "none*.tar"}, FileNotFoundError, r"no pictures match .*none\*\.tar"),
    ],
)
def test_a_trainer_that_cannot_be_made_says_why(tmp_path, faces, changes, error, named):
    recipe = load_recipe(written(tmp_path, recipe_values("vae") | changes))
    with pytest.raises(error, match=named):
        build_trainer(recipe, Places(faces, tmp_path))


def test_the_flow_needs_the_earlier_stages(tmp_path, faces):
    with pytest.raises(
        FileNotFoundError, match=r"estimator/weights\.safetensors does not exist; train that stage first"
    ):
        build_trainer(load_recipe(write_recipe(tmp_path, "flow")), Places(faces, tmp_path))


def test_a_finish_of_the_decoder_needs_the_weights_it_finishes(tmp_path, faces):
    given, places = Places(faces, tmp_path / "given"), Places(faces, tmp_path / "finished")
    first = build_trainer(load_recipe(write_recipe(tmp_path, "vae")), given)
    first.save()
    recipe = load_recipe(write_recipe(tmp_path, "vae"))
    recipe = dataclasses.replace(recipe, options={**recipe.options, "decoder_only": True})
    with pytest.raises(ValueError, match="--init WEIGHTS"):
        build_trainer(recipe, places)
    finish = build_trainer(recipe, places, initial=given.weights("vae"))
    finish.train()
    found, before = finish.model.state_dict(), first.model.state_dict()
    assert all(torch.equal(found[name], before[name]) for name in before if name.startswith("encoder."))
    assert not torch.equal(found["decoder.conv_out.weight"], before["decoder.conv_out.weight"])
    assert build_trainer(recipe, places).step == recipe.optim.steps  # a run that goes on has them


def test_a_trainer_takes_up_an_earlier_run_unless_told_otherwise(tmp_path, faces):
    recipe = load_recipe(write_recipe(tmp_path, "vae"))
    places = Places(faces, tmp_path)
    first = build_trainer(recipe, places)
    first.step = 3
    first.save()
    assert build_trainer(recipe, places).step == 3
    assert build_trainer(recipe, places, restart=True).step == 0


def test_a_restart_forgets_the_earlier_run_once(tmp_path, faces):
    recipe = load_recipe(write_recipe(tmp_path, "vae", micro_batches=2))
    places = Places(faces, tmp_path)
    first = build_trainer(recipe, places)
    first.step = 3
    first.save()
    follower = build_trainer(recipe, places, restart=True, group=ProcessGroup(rank=1, size=2))
    assert (follower.step, follower.state_path.exists()) == (0, True)  # the leading process came first
    assert build_trainer(recipe, places, restart=True).step == 0
    assert build_trainer(recipe, places).step == 0  # what is there now is the new run's


def test_weights_come_back_as_a_network(tmp_path, faces):
    places = Places(faces, tmp_path)
    trainer = build_trainer(load_recipe(write_recipe(tmp_path, "estimator")), places)
    trainer.save()
    network = load_network(places.weights("estimator"))
    assert not network.training
    assert network.config == trainer.stage.config


def test_learning_rate_warms_up_stays_and_falls():
    optim = OptimConfig(steps=100, batch_size=1, lr=1.0, warmup_steps=10, decay_steps=40, final_lr_ratio=0.1)
    rates = [optim.lr_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(rates[10:61]) == {1.0}
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert rates[80] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1, abs=0.01)


def test_learning_rate_without_decay_is_constant():
    optim = OptimConfig(steps=5, batch_size=1, lr=0.3, warmup_steps=0)
    assert {optim.lr_at(step) for step in range(5)} == {0.3}


def test_a_longer_run_has_the_same_rates_until_its_decay():
    short, long = (OptimConfig(steps=steps, batch_size=1, lr=1.0, decay_steps=10) for steps in (50, 80))
    assert [short.lr_at(step) for step in range(41)] == [long.lr_at(step) for step in range(41)]


def test_a_recipe_says_only_what_differs_from_its_base(tmp_path):
    write_recipe(tmp_path, "flow", lr=0.25)
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "other.yaml"
    path.write_text("base: ../flow.yaml\noptim: {steps: 77}\noptions: {noise_factor: null, sigma_s: 0.1}\n")
    base, recipe = load_recipe(tmp_path / "flow.yaml"), load_recipe(path)
    assert recipe.optim == dataclasses.replace(base.optim, steps=77)
    assert recipe.options == {"copies": 2, "sigma_s": 0.1}
    assert recipe.network == base.network


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("base: 3", ValueError, "base must be the path of a recipe, not 3"),
        ("base: absent.yaml", FileNotFoundError, "absent.yaml"),
        ("base: recipe.yaml", ValueError, "recipe.yaml has itself as a base"),
    ],
)
def test_a_wrong_base_is_named(tmp_path, text, error, named):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(error, match=named):
        load_recipe(tmp_path / "recipe.yaml")


def test_published_flow_is_the_papers():
    recipe = load_recipe(PRESETS / "published" / "flow.yaml")
    optim = recipe.optim
    assert (optim.steps, optim.batch_size, optim.lr, optim.betas) == (400_000, 64, 5e-4, (0.9, 0.95))
    assert recipe.options["sigma_s"] == 0.1
    assert recipe.options["normalise"] is False
    assert recipe.degradation == DegradationRange()


def test_pmrf_s_flow_is_optimised_as_its_public_training_is():
    optim = load_recipe(PRESETS / "pmrf" / "flow.yaml").optim
    assert (optim.lr, optim.betas, optim.weight_decay, optim.grad_clip) == (5e-4, (0.9, 0.95), 0.01, None)
    assert (optim.decay_steps, optim.ema_decay) == (0, 0.9999)


@pytest.mark.parametrize(
    "path", [PRESETS / "published" / "vae.yaml", *PRESETS.glob("ablations/*vae*.yaml")], ids=lambda path: path.stem
)
def test_published_autoencoders_weigh_the_summed_kl_with_a_millionth(path):
    recipe = load_recipe(path)
    config = network_config(recipe)
    elements = config.latent_channels * (recipe.options["crop_px"] // config.downscale) ** 2
    assert recipe.options["kl_weight"] == pytest.approx(1e-6 * elements)


@pytest.mark.parametrize(
    ("stage", "options", "named"),
    [
        ("flow", {"source": "noise"}, "option source must be one of"),
        ("flow", {"space": "wavelets"}, "option space must be one of"),
        ("estimator", {"space": "wavelets"}, "option space must be one of"),
        ("estimator", {"space": "latent", "loss": "l1"}, r"trained by MSE, it has no option \['loss'\]"),
        ("vae", {"perceptual_weight": 1.0}, "needs the weights of VGG19: --vgg19"),
    ],
)
def test_options_that_do_not_exist_are_named(tmp_path, faces, stage, options, named):
    recipe = load_recipe(write_recipe(tmp_path, stage))
    changed = dataclasses.replace(recipe, options={**recipe.options, **options})
    with pytest.raises(ValueError, match=named):
        build_trainer(changed, Places(faces, tmp_path / "runs"))


def test_an_identity_weight_brings_the_identity_loss(tmp_path, faces):
    recipe = load_recipe(write_recipe(tmp_path, "estimator"))
    changed = dataclasses.replace(recipe, options={"identity_weight": 0.1})
    trainer = build_trainer(changed, Places(faces, tmp_path / "runs"))
    batch = to_device(trainer.stage.batch(0), torch.device("cpu"))
    loss, scalars = trainer.stage.loss(trainer.model, batch, 0)
    assert scalars["identity"] > 0
    loss.backward()
    trainer.save()
    assert load_weights(tmp_path / "runs" / "estimator" / "weights.safetensors").info["identity_weight"] == 0.1


def test_workers_do_not_fill_a_cache(tmp_path, faces):
    places = Places(faces, tmp_path / "runs")
    for stage in ("estimator", "vae"):
        build_trainer(load_recipe(write_recipe(tmp_path, stage)), places).save()
    with pytest.raises(ValueError, match="workers cannot fill a cache"):
        build_trainer(load_recipe(write_recipe(tmp_path, "flow", workers=1)), places)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    with pytest.raises(ValueError, match="micro_batches 3 must divide batch_size 4"):
        load_recipe(write_recipe(tmp_path, "estimator", batch_size=4, micro_batches=3))


def test_validation_faces_are_never_trained_on(tmp_path):
    places = Places(write_faces(tmp_path), tmp_path / "runs")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "1.png").symlink_to(tmp_path / "val" / "clean" / "astronaut_0.png")
    (tmp_path / "linked").symlink_to(tmp_path / "val")
    recipe = dataclasses.replace(load_recipe(write_recipe(tmp_path, "estimator")), shards="**/*")
    trainer = build_trainer(recipe, places)
    assert len(trainer.stage._pairs.images) == 6
