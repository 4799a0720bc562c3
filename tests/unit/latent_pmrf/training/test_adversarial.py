import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from latent_pmrf.data.datasets import FacePairs
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.training.adversarial import Adversarial, AdversarialFlowStage
from latent_pmrf.training.discriminator import Discriminator, Judged, augmented, discriminator_loss, relativistic
from latent_pmrf.training.flow import SourceNoise, finish_times
from latent_pmrf.training.frozen import FrozenNetworks
from latent_pmrf.training.latents import CachedPairs
from latent_pmrf.training.loop import Trainer
from latent_pmrf.training.optim import OptimConfig
from latent_pmrf.training.recipe import load_recipe
from latent_pmrf.training.setup import Places, build_trainer
from tests.tiny_stages import HDIT, STILL, UNET, VAE, frozen, validated
from tests.training_files import SIDE_PX, crops, write_faces, write_recipe

CONDITIONED = dataclasses.replace(HDIT, mean_conditioned=True)


class Linear(nn.Module):
    """Logits that are a weighted sum of the detail."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, detail, mean):
        return (detail * self.weights).sum((1, 2, 3))


def judged(rows=3, channels=8, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Judged(*(torch.randn(rows, channels, side, side, generator=generator) for _ in range(3)))


def stage_of(folder, validation, config=CONDITIONED, optim=None, **terms):
    optim = optim or OptimConfig(steps=8, batch_size=4, lr=1e-3, warmup_steps=2, precision="fp32", validate_every=100)
    networks = FrozenNetworks(frozen(UNET, 1), frozen(VAE, 2))
    pairs = FacePairs(crops(6), SIDE_PX, DegradationRange(), STILL)
    return AdversarialFlowStage(
        config,
        CachedPairs(pairs, networks, copies=2, seed=4, cache_dir=folder / "latents"),
        adversarial=Adversarial(**terms),
        optim=optim,
        batch_size=optim.batch_size,
        seed=4,
        noise=SourceNoise(factor=0.3),
        run_dir=folder,
        validation=validation,
    )


@pytest.fixture
def stage(tmp_path, validation):
    return stage_of(tmp_path, validation)


def trainer_of(folder, validation, steps=8, **terms):
    optim = OptimConfig(steps=steps, batch_size=4, lr=1e-3, warmup_steps=2, precision="fp32", validate_every=100)
    return Trainer(stage_of(folder / "data", validation, optim=optim, **terms), optim, folder / "run")


def test_who_wins_by_far_loses_nothing():
    even, better, worse = torch.zeros(5), torch.full((5,), 30.0), torch.full((5,), -30.0)
    assert float(relativistic(even, even)) == pytest.approx(0.6931, abs=1e-4)
    assert float(relativistic(better, worse)) == pytest.approx(0, abs=1e-6)
    assert float(relativistic(worse, better)) == pytest.approx(60)


def test_a_discriminator_s_loss_has_half_the_squared_gradients_at_both_details():
    rows, weights = judged(), torch.linspace(0, 0.01, 16)
    network = Linear(weights)
    loss = discriminator_loss(network, rows, 3.0)
    clean, made = (network(detail, rows.mean).detach() for detail in (rows.clean, rows.made))
    squares = float(weights.square().sum()) * 8 * 16
    assert float(loss.detach()) == pytest.approx(
        float(F.softplus(made - clean).mean()) + 3.0 / 2 * 2 * squares, rel=1e-5
    )
    assert float(discriminator_loss(network, rows, 0.0).detach()) == pytest.approx(
        float(F.softplus(made - clean).mean())
    )


def test_a_discriminator_learns_what_differs_and_only_beside_its_mean():
    torch.manual_seed(0)
    network = Discriminator(4, widths=(8, 8), depths=(1, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    assert network(torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)).shape == (3,)
    for step in range(60):
        mean = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(step))
        rows = Judged(clean=mean.clone(), made=-mean, mean=mean)  # alike but for what they stand beside
        optimizer.zero_grad()
        loss = discriminator_loss(network, rows, 0.1 * (step % 4 == 0))
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2


def test_augmented_rows_are_shifted_and_cut_alike():
    height, width = 16, 24
    index = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width) + 1
    rows = index.expand(40, 3, -1, -1)
    seen = augmented(Judged(rows, -rows, 2 * rows), torch.Generator().manual_seed(3))
    assert torch.equal(seen.made, -seen.clean)
    assert torch.equal(seen.mean, 2 * seen.clean)
    assert (seen.clean == 0).float().mean() > 0.15
    shifts = set()
    for row in seen.clean:
        assert torch.equal(row[0], row[1])
        left = row[0] != 0
        moved = (row[0] - index[0, 0])[left].unique()
        assert len(moved) == 1  # every cell that is left has come the same way
        right = (int(moved) + height * width) % width
        right = right if right <= width // 2 else right - width
        shifts.add((round((int(moved) - right) / width), right))
        assert left.float().mean() > 0.35
    assert len(shifts) > 15
    assert max(abs(down) for down, _ in shifts) == height // 8
    assert max(abs(right) for _, right in shifts) == width // 8


def test_gradients_flow_through_augmented_rows():
    rows = judged()
    made = rows.made.requires_grad_()
    augmented(Judged(rows.clean, made, rows.mean), torch.Generator().manual_seed(0)).made.sum().backward()
    assert set(made.grad.unique().tolist()) == {0.0, 1.0}


def test_the_discriminator_sees_augmented_rows_in_both_turns(tmp_path, validation):
    plain, changed = (stage_of(tmp_path / name, validation, augment=name == "changed") for name in ("plain", "changed"))
    model = plain.build()
    scalars = [stage.loss(model, stage.batch(0), 0)[1] for stage in (plain, changed)]
    assert scalars[0]["error"] == scalars[1]["error"]
    assert scalars[0]["opponent"] != scalars[1]["opponent"]
    assert scalars[0]["game"] != scalars[1]["game"]
    rows = judged()
    first, again, other = (changed._seen(rows, 5, turn=turn).clean for turn in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert plain._seen(rows, 5, turn=0) is rows


def test_the_flow_s_loss_reaches_the_flow_and_not_its_opponent(stage):
    model = stage.build()
    before = {name: value.clone() for name, value in stage.state().items() if name.startswith("opponent.")}
    loss, scalars = stage.loss(model, stage.batch(0), 0)
    taught = {name: value.clone() for name, value in stage.state().items() if name.startswith("opponent.")}
    assert any(not torch.equal(before[name], taught[name]) for name in before)  # the opponent's own step
    gradients = [parameter.grad.clone() for parameter in stage._opponent.parameters()]
    loss.backward()
    assert model.proj_out.proj.weight.grad.abs().sum() > 0
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, stage._opponent.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in stage._opponent.parameters())
    assert float(loss.detach()) == pytest.approx(float(scalars["error"] + 0.1 * scalars["game"]), rel=1e-5)


def test_the_discriminator_sees_the_step_before_too(stage, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "latent_pmrf.training.adversarial.discriminator_loss",
        lambda network, rows, penalty: (
            seen.append((len(rows.clean), penalty)) or discriminator_loss(network, rows, 0.0)
        ),
    )
    model = stage.build()
    for index in range(5):
        stage.loss(model, stage.batch(index), index)
    assert seen == [(4, 4.0), (8, 0.0), (8, 0.0), (8, 0.0), (8, 4.0)]


def test_most_rows_start_at_the_source_and_the_others_on_the_flow_s_own_way(stage):
    times = finish_times(8, 0.75, torch.Generator().manual_seed(1))
    assert times[:6].tolist() == [0] * 6
    assert ((times[6:] >= 0.1) & (times[6:] <= 0.9)).all()
    mean, _ = (stage.statistics.normalise(z) for z in stage.batch(0))
    t = torch.tensor([0.0, 0.0, 0.25, 0.75])
    source, model = mean + 1, stage.build()
    states, aims = stage._states(model, mean, source, t)
    whole = source + model(source, torch.zeros(4), mean).detach()
    torch.testing.assert_close(states, torch.lerp(source, whole, t[:, None, None, None]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(aims[2:], whole[2:], atol=1e-5, rtol=1e-5)
    assert torch.equal(stage._states(model, mean, source, torch.zeros(4))[0], source)


class Straight(nn.Module):
    """The same velocity everywhere and at all times."""

    def __init__(self, velocity):
        super().__init__()
        self.velocity = nn.Parameter(torch.tensor(velocity))

    def forward(self, z_t, t, mean):
        return self.velocity.expand_as(z_t)


def test_later_rows_are_to_keep_to_the_first_step_and_not_to_the_clean_face(stage, monkeypatch):
    model, errors = Straight(0.7), {}
    for name, t in (("first", torch.zeros(4)), ("later", torch.full((4,), 0.5))):
        monkeypatch.setattr("latent_pmrf.training.adversarial.finish_times", lambda *_, t=t: t)
        errors[name] = float(stage.loss(model, stage.batch(0), 0)[1]["error"])
    assert errors["first"] > 1e-3
    assert errors["later"] == pytest.approx(0, abs=1e-10)


def test_error_counts_by_what_is_seen_in_the_picture(stage):
    weights = stage._channel_weights
    assert float(weights.sum()) == pytest.approx(1)
    vae, std = frozen(VAE, 2).eval(), torch.tensor(stage.statistics.std)
    entries = torch.arange(8).numpy()
    _, z_1 = stage._pairs.latents(stage._pairs.draw(entries, entries))
    energy = []
    with torch.no_grad():
        for channel in range(8):
            nudge = torch.zeros_like(z_1)
            nudge[:, channel] = 1e-2 * torch.randn(z_1.shape[2:], generator=torch.Generator().manual_seed(channel))
            difference = vae.decode(z_1 + nudge) - vae.decode(z_1)
            energy.append(difference.square().mean() * (std * stage._distance)[channel].square())
    expected = torch.stack(energy) / torch.stack(energy).sum()
    torch.testing.assert_close(weights, expected, atol=0.02, rtol=0.15)


def test_a_picture_s_own_channels_weigh_alike():
    networks = FrozenNetworks(frozen(UNET, 1), None)
    assert networks.pixel_energy(torch.rand(2, 3, 8, 8), torch.Generator()).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("weight", "least", "most"), [(10.0, 0.1, 10.0), (1e-6, 0.0, 0.05)], ids=["game", "error"])
def test_detail_that_cannot_be_known_is_made_up_for_the_game_alone(tmp_path, validation, weight, least, most):
    stage = stage_of(tmp_path, validation, optim=OptimConfig(steps=40, batch_size=4, lr=2e-3), weight=weight)
    model = stage.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.5, 0.99))
    scale = (torch.tensor(stage.statistics.std) * stage._distance)[:, None, None]
    for index in range(20):
        z_0, _ = stage.batch(index)
        unknown = scale * torch.randn(z_0.shape, generator=torch.Generator().manual_seed(1_000_000 + index))
        loss, scalars = stage.loss(model, (z_0, z_0 + unknown), index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if index == 0:
            assert scalars["detail"] < 1e-6  # it begins as the mean
    assert least <= scalars["detail"] < most


def test_validation_is_of_few_steps(tmp_path, validation):
    run = trainer_of(tmp_path, validation)
    assert set(validated(run.stage)) == {
        f"steps{steps}_{level}_{name}"
        for steps in (1, 2, 5)
        for level in ("moderate", "severe")
        for name in ("psnr_db", "sharpness")
    }


def test_a_resumed_finish_goes_on_with_its_opponent(tmp_path, validation):
    alone = trainer_of(tmp_path / "alone", validation)
    alone.train()
    stopped = trainer_of(tmp_path / "stopped", validation, steps=5)
    stopped.train()
    resumed = trainer_of(tmp_path / "stopped", validation)
    assert resumed.resume()
    resumed.train()
    for run in (alone, resumed):
        assert run.step == 8
    assert all(torch.equal(a, b) for a, b in zip(alone.model.parameters(), resumed.model.parameters(), strict=True))
    expected, found = alone.stage.state(), resumed.stage.state()
    assert expected.keys() == found.keys()
    assert {"clean", "made", "mean"} < expected.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_batch_that_is_not_finite_teaches_the_opponent_nothing(stage):
    model = stage.build()
    stage.loss(model, stage.batch(0), 0)
    before = {name: value.clone() for name, value in stage.state().items()}
    mean, clean = stage.batch(1)
    loss, _ = stage.loss(model, (torch.full_like(mean, torch.nan), clean), 1)
    assert not torch.isfinite(loss)
    after = stage.state()
    assert {*before} - {*after} == {"clean", "made", "mean"}  # the next step sees its own rows alone
    for name, value in after.items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    loss, _ = stage.loss(model, stage.batch(2), 2)
    assert torch.isfinite(loss)
    assert "clean" in stage.state()


def test_a_run_without_an_opponent_is_not_gone_on_with(stage):
    with pytest.raises(ValueError, match="no such discriminator: begin another with --init"):
        stage.load_state({})


@pytest.mark.parametrize("terms", [{"weight": 0.0}, {"lr": 0.0}, {"penalty": -1.0}, {"first_step": 0.0}])
def test_terms_that_train_nothing_are_refused(terms):
    with pytest.raises(ValueError, match="adversarial needs weight and lr above 0"):
        Adversarial(**terms)


def test_whole_steps_only(tmp_path, validation):
    optim = OptimConfig(steps=2, batch_size=4, lr=1e-3, micro_batches=2)
    with pytest.raises(ValueError, match="set micro_batches to 1"):
        stage_of(tmp_path, validation, optim=optim)


def test_a_recipe_asks_for_a_finish(tmp_path):
    places = Places(write_faces(tmp_path), tmp_path / "runs")
    for name in ("estimator", "vae"):
        build_trainer(load_recipe(write_recipe(tmp_path, name)), places).save()
    recipe = load_recipe(write_recipe(tmp_path, "flow"))
    changed = dataclasses.replace(recipe, options={**recipe.options, "adversarial": {"weight": 0.2}})
    trainer = build_trainer(changed, places)
    trainer.train()
    assert trainer.stage.info()["adversarial_weight"] == 0.2
    assert isinstance(trainer.stage, AdversarialFlowStage)
    misfits = (
        ({"adversarial": {"strength": 1}}, "no field"),
        ({"adversarial": "yes"}, "adversarial cannot be 'yes'"),
        ({"adversarial": {}, "weighting": "relative"}, "leave weighting out"),
    )
    for wrong, named in misfits:
        with pytest.raises(ValueError, match=named):
            build_trainer(dataclasses.replace(recipe, options={**recipe.options, **wrong}), places)
