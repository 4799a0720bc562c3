import dataclasses

import pytest
import torch
from torch import nn

from latent_pmrf.data.datasets import FacePairs
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.training.checkpoint import Weights
from latent_pmrf.training.flow import SourceNoise
from latent_pmrf.training.frozen import FrozenNetworks
from latent_pmrf.training.identity import EMBEDDING_SIZE, FaceEmbedder, IdentityLoss
from latent_pmrf.training.latents import CachedPairs
from latent_pmrf.training.likeness import Likeness, LikenessFlowStage
from latent_pmrf.training.loop import Trainer
from latent_pmrf.training.optim import OptimConfig
from latent_pmrf.training.recipe import load_recipe
from latent_pmrf.training.setup import Places, build_trainer
from tests.tiny_stages import HDIT, STILL, UNET, VAE, frozen, validated
from tests.training_files import SIDE_PX, crops, write_faces, write_recipe

CONDITIONED = dataclasses.replace(HDIT, mean_conditioned=True)


def embedder():
    """Some embedder, of few blocks: dlib's comes with an extra that not every test run has."""
    torch.manual_seed(9)
    network = FaceEmbedder()
    network.blocks = network.blocks[:2]
    network.projection = nn.Linear(32, EMBEDDING_SIZE, bias=False)
    with torch.no_grad():
        for parameter in network.requires_grad_(False).parameters():
            parameter.normal_(0, 0.05)
    return network


def stage_of(folder, validation, config=CONDITIONED, **terms):
    networks = FrozenNetworks(frozen(UNET, 1), frozen(VAE, 2))
    pairs = FacePairs(crops(6), SIDE_PX, DegradationRange(), STILL)
    return LikenessFlowStage(
        config,
        CachedPairs(pairs, networks, copies=2, seed=4, cache_dir=folder / "latents"),
        likeness=Likeness(**terms),
        identity=IdentityLoss(embedder()),
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
def test_it_begins_where_it_is_and_moves_for_identity_and_amplitude_alone(tmp_path, validation, config):
    stage = stage_of(tmp_path, validation, config, first_step=1.0, weight=2.0, amplitude_weight=3.0)
    model = frozen(config, 3)
    loss, scalars = stage.loss(model, stage.batch(0), 0)
    assert scalars["moved"] == 0
    assert scalars["identity"] > 0
    assert scalars["lattice"] == 0
    expected = 2 * scalars["identity"] + 3 * scalars["amplitude"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert model.proj_out.proj.weight.grad.abs().max() > 0


def test_what_it_began_with_is_held_to_while_the_network_moves(tmp_path, validation):
    stage = stage_of(tmp_path, validation, first_step=1.0)
    model = frozen(CONDITIONED, 3)
    before = stage.loss(model, stage.batch(0), 0)[1]
    with torch.no_grad():
        model.proj_out.proj.weight.mul_(1.5)
    after = stage.loss(model, stage.batch(0), 0)[1]
    assert before["moved"] == 0
    assert after["moved"] > 1e-4


def test_a_larger_weight_moves_it_further_towards_the_clean_faces(tmp_path, validation):
    found = {}
    for weight in (1e-6, 100.0):
        run = trainer_of(tmp_path / str(weight), validation, steps=12, weight=weight)
        run.train()
        found[weight] = run.stage.loss(run.model, run.stage.batch(0), 0)[1]
    assert found[100.0]["moved"] > 4 * found[1e-6]["moved"]
    assert found[100.0]["identity"] < found[1e-6]["identity"]


def test_a_weight_on_the_lattice_keeps_the_change_from_repeating(tmp_path, validation):
    repeats = {}
    for weight in (0.0, 1e6):
        run = trainer_of(tmp_path / str(weight), validation, steps=12, weight=100.0, lattice_weight=weight)
        run.train()
        found = run.stage.loss(run.model, run.stage.batch(0), 0)[1]
        repeats[weight] = found["lattice"] / found["moved"]
    assert repeats[1e6] < 0.3 * repeats[0.0]


def test_validation_tells_the_distance_to_the_clean_faces(tmp_path, validation):
    assert set(validated(stage_of(tmp_path, validation))) == {
        f"steps{steps}_{level}_{name}"
        for steps in (1, 2, 5)
        for level in ("moderate", "severe")
        for name in ("psnr_db", "sharpness", "identity")
    }


def test_a_resumed_finish_holds_to_what_the_first_run_began_with(tmp_path, validation):
    alone = trainer_of(tmp_path / "alone", validation)
    alone.train()
    trainer_of(tmp_path / "stopped", validation, steps=3).train()
    resumed = trainer_of(tmp_path / "stopped", validation)
    assert resumed.resume()
    resumed.train()
    assert alone.step == resumed.step == 6
    assert all(torch.equal(a, b) for a, b in zip(alone.model.parameters(), resumed.model.parameters(), strict=True))
    began = frozen(CONDITIONED, 3).state_dict()
    assert torch.equal(resumed.stage.state()["began.proj_out.proj.weight"], began["proj_out.proj.weight"])


def test_another_kind_of_run_is_not_gone_on_with(tmp_path, validation):
    with pytest.raises(ValueError, match="no likeness finish: begin another with --init"):
        stage_of(tmp_path, validation).load_state({})


@pytest.mark.parametrize(
    "terms",
    [{"weight": 0.0}, {"amplitude_weight": -1.0}, {"lattice_weight": -1.0}, {"first_step": 0.0}, {"first_step": 1.5}],
)
def test_terms_that_train_nothing_are_refused(terms):
    with pytest.raises(ValueError, match="likeness needs a weight above 0"):
        Likeness(**terms)


def test_a_recipe_asks_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr("latent_pmrf.training.setup.load_face_embedder", embedder)
    places = Places(write_faces(tmp_path), tmp_path / "runs")
    for name in ("estimator", "vae"):
        build_trainer(load_recipe(write_recipe(tmp_path, name)), places).save()
    recipe = load_recipe(write_recipe(tmp_path, "flow"))
    changed = dataclasses.replace(recipe, options={**recipe.options, "likeness": {"weight": 0.3}})
    trainer = build_trainer(changed, places)
    trainer.train()
    assert trainer.stage.info()["likeness"]["weight"] == 0.3
    for wrong, named in (
        ({"likeness": {}, "weighting": "relative"}, "leave weighting out"),
        ({"likeness": {}, "adversarial": {}}, "one after the other"),
    ):
        with pytest.raises(ValueError, match=named):
            build_trainer(dataclasses.replace(recipe, options={**recipe.options, **wrong}), places)


def test_a_finish_that_was_killed_before_its_first_step_is_gone_on_with(tmp_path, validation):
    trainer_of(tmp_path, validation).save_state()
    resumed = trainer_of(tmp_path, validation)
    assert resumed.resume()
    began = frozen(CONDITIONED, 3).state_dict()
    assert torch.equal(resumed.stage.state()["began.proj_out.proj.weight"], began["proj_out.proj.weight"])
