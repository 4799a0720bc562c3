import dataclasses

import pytest
import torch

from latent_pmrf.data.datasets import FacePairs
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.training.checkpoint import Weights
from latent_pmrf.training.flow import SourceNoise
from latent_pmrf.training.frozen import FrozenNetworks
from latent_pmrf.training.latents import CachedPairs
from latent_pmrf.training.loop import Trainer
from latent_pmrf.training.optim import OptimConfig
from latent_pmrf.training.recipe import load_recipe
from latent_pmrf.training.restraint import Restraint, RestraintFlowStage
from latent_pmrf.training.setup import Places, build_trainer
from tests.tiny_stages import HDIT, STILL, UNET, VAE, frozen
from tests.training_files import SIDE_PX, crops, write_faces, write_recipe

CONDITIONED = dataclasses.replace(HDIT, mean_conditioned=True)


def stage_of(folder, validation, config=CONDITIONED, **terms):
    networks = FrozenNetworks(frozen(UNET, 1), frozen(VAE, 2))
    pairs = FacePairs(crops(6), SIDE_PX, DegradationRange(), STILL)
    return RestraintFlowStage(
        config,
        CachedPairs(pairs, networks, copies=2, seed=4, cache_dir=folder / "latents"),
        restraint=Restraint(**{"window": 3, **terms}),
        batch_size=4,
        seed=4,
        noise=SourceNoise(factor=0.3),
        run_dir=folder,
        validation=validation,
    )


def trainer_of(folder, validation, steps=6, **terms):
    optim = OptimConfig(steps=steps, batch_size=4, lr=1e-3, warmup_steps=1, precision="fp32", validate_every=100)
    run = Trainer(stage_of(folder, validation, **terms), optim, folder)
    run.start_from(Weights(CONDITIONED, frozen(CONDITIONED, 3).state_dict(), {}))
    return run


@pytest.mark.parametrize("config", [CONDITIONED, HDIT], ids=["conditioned", "plain"])
def test_where_as_much_is_missing_as_is_drawn_the_network_is_where_it_is_to_be(tmp_path, validation, config):
    stage = stage_of(tmp_path, validation, config, first_step=1.0)
    stage._ratio = lambda missing, drawn: torch.ones_like(missing + drawn)
    loss, _ = stage.loss(frozen(config, 3), stage.batch(0), 0)
    assert loss.item() < 1e-10


def test_the_ratio_is_that_of_strengths_around_a_place_and_never_above_the_most(tmp_path, validation):
    stage = stage_of(tmp_path, validation, most=1.5)
    drawn = torch.ones(1, 2, 9, 9)
    missing = drawn.clone()
    missing[:, 0] *= 0.25
    missing[:, 1, :, 6:] *= 3
    ratio = stage._ratio(missing, -drawn)
    assert ratio[0, 0].flatten().tolist() == pytest.approx([0.25] * 81, abs=1e-4)
    assert ratio[0, 1, :, :5].flatten().tolist() == pytest.approx([1.0] * 45, abs=1e-4)
    assert ratio[0, 1, :, 6:].flatten().tolist() == pytest.approx([1.5] * 27)


def drawn_and_missing(model, stage):
    """Strength of what a network draws from t = 0 on, and of what its sources miss."""
    mean, z_1 = (stage.statistics.normalise(z) for z in stage._pairs.latents(stage.batch(0)))
    source = stage._noisy(mean, torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn = source + stage._velocity(model, mean)(source, torch.zeros(len(source))) - mean
    return (part.square().mean().sqrt().item() for part in (drawn, z_1 - mean))


def test_a_network_that_draws_too_much_learns_to_draw_what_is_missing(tmp_path, validation):
    run = trainer_of(tmp_path, validation, steps=80)
    with torch.no_grad():  # the linear guess alone, and three times as much besides
        run.model.proj_out.proj.weight.mul_(3)
    before, missing = drawn_and_missing(run.model, run.stage)
    assert before > 1.5 * missing
    run.train()
    after, _ = drawn_and_missing(run.model, run.stage)
    assert after - missing < 0.6 * (before - missing)


def test_a_resumed_finish_holds_to_what_the_first_run_began_with(tmp_path, validation):
    alone = trainer_of(tmp_path / "alone", validation)
    alone.train()
    trainer_of(tmp_path / "stopped", validation, steps=3).train()
    resumed = trainer_of(tmp_path / "stopped", validation)
    assert resumed.resume()
    resumed.train()
    assert alone.step == resumed.step == 6
    assert all(torch.equal(a, b) for a, b in zip(alone.model.parameters(), resumed.model.parameters(), strict=True))


def test_another_kind_of_run_is_not_gone_on_with(tmp_path, validation):
    with pytest.raises(ValueError, match="no restraint finish: begin another with --init"):
        stage_of(tmp_path, validation).load_state({})


@pytest.mark.parametrize("terms", [{"most": 0.0}, {"window": 4}, {"window": -1}, {"first_step": 0.0}])
def test_terms_that_train_nothing_are_refused(terms):
    with pytest.raises(ValueError, match="restraint needs most above 0"):
        Restraint(**terms)


def test_a_recipe_asks_for_it(tmp_path):
    places = Places(write_faces(tmp_path), tmp_path / "runs")
    for name in ("estimator", "vae"):
        build_trainer(load_recipe(write_recipe(tmp_path, name)), places).save()
    recipe = load_recipe(write_recipe(tmp_path, "flow"))
    trainer = build_trainer(dataclasses.replace(recipe, options={**recipe.options, "restraint": {"most": 1.2}}), places)
    trainer.train()
    assert trainer.stage.info()["restraint"]["most"] == 1.2
    both = {**recipe.options, "restraint": {}, "likeness": {}}
    with pytest.raises(ValueError, match="likeness and restraint are finishes, one after the other"):
        build_trainer(dataclasses.replace(recipe, options=both), places)
