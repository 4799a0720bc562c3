import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from latent_pmrf.config import UNetConfig
from latent_pmrf.data.datasets import Augmentation, FacePairs
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.nets.hdit import HDiT
from latent_pmrf.training.checkpoint import Weights
from latent_pmrf.training.estimator import psnr_db
from latent_pmrf.training.flow import FlowStage, SourceNoise
from latent_pmrf.training.frozen import FrozenNetworks
from latent_pmrf.training.latent_estimator import LatentEstimatorStage
from latent_pmrf.training.latents import CachedPairs, FreshPairs, latents_of
from latent_pmrf.training.loop import Trainer
from latent_pmrf.training.optim import OptimConfig
from tests.tiny_stages import HDIT, STILL, UNET, VAE, frozen, same, validated
from tests.training_files import SIDE_PX, crops


def frozen_networks(source="posterior_mean", vae_seed=2):
    return FrozenNetworks(frozen(UNET, 1), frozen(VAE, vae_seed), source)


def latent_pairs(pairs, cache_dir, networks=None, **changes):
    facts = {"copies": 3, "seed": 4, "cache_dir": cache_dir}
    return CachedPairs(pairs, networks or frozen_networks(), **facts | changes)


def entries(*numbers):
    return np.array(numbers), np.array(numbers)


def flow_stage(pairs, validation, folder, **changes):
    facts = {"batch_size": 4, "seed": 4, "noise": SourceNoise(factor=0.3), "run_dir": folder, "validation": validation}
    drawn = changes.pop("drawn", None) or latent_pairs(pairs, folder / "latents")
    return FlowStage(changes.pop("config", HDIT), drawn, **facts | changes)


def normalised(stage, index):
    return [stage.statistics.normalise(z) for z in stage.batch(index)]


@pytest.fixture(scope="module")
def flow(validation, tmp_path_factory):
    """A flow stage that nobody changes."""
    pairs = FacePairs(crops(6), SIDE_PX, DegradationRange(), Augmentation())
    return flow_stage(pairs, validation, tmp_path_factory.mktemp("flow"))


def noiseless(stage):
    changed = copy.copy(stage)
    changed.statistics = dataclasses.replace(stage.statistics, sigma_s=(0.0,) * 8)
    return changed


def test_latents_are_computed_once_and_kept(pairs, tmp_path):
    latents = latent_pairs(pairs, tmp_path)
    indices = entries(17, 2, 2, 5)
    first = latents.draw(*indices)
    assert first[0].shape == (4, 8, 16, 16)
    assert torch.equal(first[0][1], first[0][2])
    later = latent_pairs(pairs, tmp_path)
    pairs.images = []  # whoever degrades now, fails
    assert same(later.draw(*indices), first)


def test_latents_are_those_of_the_networks(pairs, tmp_path):
    latents = latent_pairs(pairs, tmp_path)
    z_0, z_1 = latents.draw(*entries(7))
    lq, hq = pairs.pair(7 % 6, np.random.default_rng((4, 1, 7)))
    y, x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in (lq, hq))
    networks = frozen_networks()
    estimate = frozen(UNET, 1).eval()(y).clamp(0, 1)
    torch.testing.assert_close(z_1, networks.encode(x), atol=0.02, rtol=0.02)
    torch.testing.assert_close(z_0, networks.encode(estimate), atol=0.05, rtol=0.05)
    assert not torch.allclose(z_0, z_1, atol=0.02)


def test_copies_of_a_photograph_are_degraded_differently(pairs, tmp_path):
    still = FacePairs(pairs.images, SIDE_PX, pairs.ranges)
    z_0, z_1 = latent_pairs(still, tmp_path).draw(*entries(1, 7, 13))
    assert torch.equal(z_1[0], z_1[1])
    assert not torch.equal(z_0[0], z_0[1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"networks": frozen_networks(vae_seed=3)}, "vae"),
        ({"networks": frozen_networks("degraded")}, "source"),
        ({"copies": 4}, "copies"),
        ({"seed": 5}, "seed"),
        ({"pairs": {"images": crops(5)}}, "photographs"),
        ({"pairs": {"ranges": DegradationRange(noise_sigma=(0.0, 5.0))}}, "degradation"),
        ({"pairs": {"augmentation": STILL}}, "augmentation"),
    ],
)
def test_latents_of_something_else_are_refused_by_name(pairs, tmp_path, change, named):
    latent_pairs(pairs, tmp_path)
    for name, value in change.pop("pairs", {}).items():
        setattr(pairs, name, value)
    with pytest.raises(ValueError, match=rf"latents of another {named}: restart"):
        latent_pairs(pairs, tmp_path, **change)


def test_latents_of_unknown_origin_are_refused(pairs, tmp_path):
    latent_pairs(pairs, tmp_path)
    (tmp_path / "origin.json").unlink()
    with pytest.raises(ValueError, match="unknown origin"):
        latent_pairs(pairs, tmp_path)


def test_flow_starts_from_normalised_latents_and_noise_in_proportion(flow):
    z_0, z_1 = (torch.cat(parts) for parts in zip(*(normalised(flow, step) for step in range(9)), strict=True))
    torch.testing.assert_close(z_1.mean((0, 2, 3)), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(z_1.std((0, 2, 3)), torch.ones(8), atol=1e-2, rtol=0)
    distance = (z_1 - z_0).square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(torch.tensor(flow.statistics.sigma_s), 0.3 * distance, atol=1e-3, rtol=1e-2)
    assert flow.info()["sigma_s"] == flow.statistics.sigma_s


def test_flow_keeps_the_statistics_of_its_first_start(pairs, validation, tmp_path):
    first = flow_stage(pairs, validation, tmp_path)
    assert flow_stage(pairs, validation, tmp_path, seed=6).statistics == first.statistics


@pytest.mark.parametrize("noise", [SourceNoise(factor=0.9), SourceNoise(sigma=0.3)])
def test_statistics_of_another_noise_are_refused(pairs, validation, tmp_path, noise):
    flow_stage(pairs, validation, tmp_path)
    with pytest.raises(ValueError, match=r"latent_statistics\.json is of another noise: restart the stage"):
        flow_stage(pairs, validation, tmp_path, noise=noise)


def test_statistics_of_other_networks_are_refused(pairs, validation, tmp_path):
    def stage(networks):
        return flow_stage(pairs, validation, tmp_path, drawn=FreshPairs(pairs, networks, seed=4))

    first = stage(frozen_networks())
    assert stage(frozen_networks()).statistics == first.statistics
    with pytest.raises(ValueError, match=r"latent_statistics\.json is of another vae: restart the stage"):
        stage(frozen_networks(vae_seed=3))
    assert [path.name for path in tmp_path.iterdir()] == ["latent_statistics.json"]


def test_a_flow_of_another_number_of_channels_is_refused(pairs, validation, tmp_path):
    with pytest.raises(ValueError, match="flow of 8 channels needs in_channels: 8, not 4"):
        flow_stage(pairs, validation, tmp_path, config=dataclasses.replace(HDIT, in_channels=4))


def test_every_epoch_of_the_flow_sees_every_pair_once(flow):
    rows = torch.cat([flow.batch(step)[0] for step in range(9)]).flatten(1)  # 18 pairs, twice, in batches of 4
    epochs = [{tuple(row[:8].tolist()) for row in rows[start : start + 18]} for start in (0, 18)]
    assert len(epochs[0]) == 18
    assert epochs[0] == epochs[1]
    assert not torch.equal(rows[:18], rows[18:])
    assert same(flow.batch(3), flow.batch(3))


def test_flow_loss_is_that_of_the_velocity(flow):
    stage = noiseless(flow)
    batch, (z_0, z_1) = stage.batch(0), normalised(stage, 0)
    loss, scalars = stage.loss(lambda x_t, t: z_1 - z_0, batch, 0)
    assert loss.item() == pytest.approx(0, abs=1e-10)
    loss, scalars = stage.loss(lambda x_t, t: torch.zeros_like(x_t), batch, 0)
    assert loss.item() == pytest.approx((z_1 - z_0).square().mean().item(), rel=1e-5)
    assert set(scalars) == {f"loss_q{quarter}" for quarter in range(4)}  # 4 rows, one per stratum
    assert sum(scalars.values()).item() / 4 == pytest.approx(loss.item(), rel=1e-5)


def test_flow_draws_time_and_noise_by_the_step(flow):
    seen = []

    def watch(x_t, t):
        seen.append((x_t, t))
        return torch.zeros_like(x_t)

    for step in (0, 0, 1):
        flow.loss(watch, flow.batch(0), step)
    assert same(seen[0], seen[1])
    assert not torch.equal(seen[0][1], seen[2][1])


def test_flow_validation_of_no_flow_is_the_posterior_mean(flow, validation):
    stage = noiseless(flow)
    scalars = validated(stage)  # the network's output is zero-initialised
    networks = frozen_networks()
    z_0, z_1 = latents_of(validation[1], networks)
    image = networks.decode(z_0).numpy()
    assert scalars["severe_psnr_db"] == pytest.approx(psnr_db(image, validation[1].clean), abs=0.05)
    expected = (stage.statistics.normalise(z_1) - stage.statistics.normalise(z_0)).square().mean().item()
    assert [scalars[f"severe_loss_q{q}"] for q in range(4)] == pytest.approx([expected] * 4, rel=1e-4)
    assert scalars["moderate_sharpness"] > 0


def test_fresh_pairs_degrade_a_photograph_anew_at_every_draw(pairs):
    still = FacePairs(pairs.images, SIDE_PX, pairs.ranges)
    fresh = FreshPairs(still, frozen_networks(), seed=4)
    y, x = fresh.draw(np.array([1, 1, 1]), np.array([0, 9, 0]))
    assert torch.equal(x[0], x[1])
    assert not torch.equal(y[0], y[1])
    assert torch.equal(y[0], y[2])
    z_0, z_1 = fresh.latents((y, x))
    assert z_0.shape == z_1.shape == (3, 8, 16, 16)


def test_each_source_starts_where_it_says(pairs):
    image = torch.rand(1, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0))
    estimator, vae = frozen(UNET, 1).eval(), frozen(VAE, 2).eval()
    close = {"atol": 0.05, "rtol": 0.05}  # bf16

    def encoded(picture):
        return vae.encode(picture * 2 - 1)[0]

    with torch.no_grad():
        expected = {"posterior_mean": encoded(estimator(image).clamp(0, 1)), "degraded": encoded(image)}
        for source, latent in expected.items():
            torch.testing.assert_close(frozen_networks(source).source_of(image), latent, **close)
        in_pixels = FrozenNetworks(frozen(UNET, 1), None)
        torch.testing.assert_close(in_pixels.source_of(image), estimator(image).clamp(0, 1), **close)
    assert in_pixels.in_pixels
    assert torch.equal(in_pixels.decode(in_pixels.encode(image)), image)


def test_sources_without_their_networks_are_refused():
    with pytest.raises(ValueError, match="posterior_mean needs an estimator"):
        FrozenNetworks(None, frozen(VAE, 2))
    with pytest.raises(ValueError, match="latent_mean needs an autoencoder"):
        FrozenNetworks(frozen(UNET, 1), None, "latent_mean")


def test_a_flow_in_pixels_is_not_normalised(pairs, validation, tmp_path):
    config = dataclasses.replace(HDIT, in_channels=3, patch_size=4)
    drawn = FreshPairs(pairs, FrozenNetworks(frozen(UNET, 1), None), seed=4)
    facts = {"batch_size": 2, "seed": 4, "noise": SourceNoise(sigma=0.1), "run_dir": tmp_path}
    stage = FlowStage(config, drawn, validation=validation, **facts)
    assert dataclasses.asdict(stage.statistics) == {
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "sigma_s": pytest.approx((0.1, 0.1, 0.1)),
    }
    loss, _ = stage.loss(stage.build(), stage.batch(0), 0)
    assert 0 < loss.item() < 1


def test_latents_stay_as_they_are_where_nothing_is_normalised(pairs, validation, tmp_path):
    stage = flow_stage(pairs, validation, tmp_path, noise=SourceNoise(sigma=0.1), normalise=False)
    facts = {name: stage.info()[name] for name in ("latent_mean", "latent_std", "sigma_s")}
    assert facts == {"latent_mean": (0.0,) * 8, "latent_std": (1.0,) * 8, "sigma_s": pytest.approx((0.1,) * 8)}
    z_0, z_1 = stage.batch(0)
    still = noiseless(stage)
    loss, _ = still.loss(lambda x_t, t: torch.zeros_like(x_t), (z_0, z_1), 0)
    assert loss.item() == pytest.approx((z_1 - z_0).square().mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match=r"latent_statistics\.json is of another normalise: restart the stage"):
        flow_stage(pairs, validation, tmp_path, noise=SourceNoise(sigma=0.1))


@pytest.mark.parametrize("in_pixels", [False, True])
def test_statistics_from_before_the_option_stay_valid(pairs, validation, tmp_path, in_pixels):
    networks = FrozenNetworks(frozen(UNET, 1), None) if in_pixels else frozen_networks()
    config = dataclasses.replace(HDIT, in_channels=3, patch_size=4) if in_pixels else HDIT
    facts = {"drawn": FreshPairs(pairs, networks, seed=4), "config": config}
    first = flow_stage(pairs, validation, tmp_path, **facts)
    path = tmp_path / "latent_statistics.json"
    found = json.loads(path.read_text())
    del found["normalise"]
    path.write_text(json.dumps(found))
    assert flow_stage(pairs, validation, tmp_path, **facts, normalise=not in_pixels).statistics == first.statistics


@pytest.mark.parametrize("both", [{}, {"sigma": 0.1, "factor": 0.3}])
def test_source_noise_is_said_in_one_way(both):
    with pytest.raises(ValueError, match="either one sigma_s or a noise_factor"):
        SourceNoise(**both)


def test_elir_learns_the_mean_of_latents(pairs, validation):
    config = UNetConfig(image_channels=8, image_size_px=16, unshuffle=1, widths=(16, 32), depth=1, heads=2)
    drawn = FreshPairs(pairs, FrozenNetworks(None, frozen(VAE, 2), "degraded"), seed=4)
    stage = LatentEstimatorStage(config, drawn, 4, seed=1, validation=validation)
    torch.manual_seed(0)
    model, batch = stage.build(), stage.batch(0)
    source, target = drawn.latents(batch)
    first, _ = stage.loss(model, batch, 0)  # the network starts as the identity
    assert first.item() == pytest.approx((source - target).square().mean().item(), rel=1e-4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = stage.loss(model, batch, 0)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * first.item()
    assert validated(stage).keys() == {
        f"{level}_{name}" for level in ("moderate", "severe") for name in ("latent_mse", "psnr_db")
    }
    with pytest.raises(ValueError, match="8 channels needs image_channels: 8"):
        LatentEstimatorStage(dataclasses.replace(config, image_channels=4), drawn, 4, seed=1, validation=validation)


def test_a_conditioned_flow_is_scaled_by_the_statistics_and_starts_as_the_linear_guess(pairs, validation, tmp_path):
    stage = flow_stage(pairs, validation, tmp_path, config=dataclasses.replace(HDIT, mean_conditioned=True))
    network = stage.build()
    torch.testing.assert_close(network.preconditioning.sigma_s.flatten(), torch.tensor(stage.statistics.sigma_s))
    torch.testing.assert_close(
        network.preconditioning.distance, network.preconditioning.sigma_s / 0.3, atol=1e-4, rtol=1e-3
    )
    plain, _ = flow_stage(pairs, validation, tmp_path).loss(HDiT(HDIT), stage.batch(0), 0)
    guessed, _ = stage.loss(network, stage.batch(0), 0)
    assert guessed < 0.8 * plain
    assert np.isfinite(validated(stage)["moderate_psnr_db"])


def test_a_flow_that_begins_with_given_weights_computes_what_they_compute(pairs, validation, tmp_path):
    optim = OptimConfig(steps=1, batch_size=4, lr=1e-3)
    config = dataclasses.replace(HDIT, mean_conditioned=True)
    stage = flow_stage(pairs, validation, tmp_path, config=config)
    given = frozen(config, 9)  # its random features of the time are of another seed
    facts = {name: value.clone() for name, value in stage.build().preconditioning.named_buffers()}
    run = Trainer(stage, optim, tmp_path / "run")
    run.start_from(Weights(config, given.state_dict(), {}))
    assert all(torch.equal(value, facts[name]) for name, value in run.model.preconditioning.named_buffers())
    given.preconditioning.load_state_dict(facts)
    z = torch.randn(2, 8, 16, 16)
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        torch.testing.assert_close(run.model(z, t, 0.5 * z), given(z, t, 0.5 * z))


def test_relative_weighting_divides_each_channel_by_its_distance(pairs, validation, tmp_path):
    stages = [flow_stage(pairs, validation, tmp_path, weighting=name) for name in ("uniform", "relative")]
    (_, uniform), (relative, scalars) = (stage.loss(HDiT(HDIT), stage.batch(0), 0) for stage in stages)
    assert uniform == scalars  # what is logged stays comparable
    mean, z_1 = normalised(stages[0], 0)
    distance = torch.tensor(stages[0].statistics.sigma_s)[:, None, None] / 0.3
    assert relative > ((z_1 - mean) / distance).square().mean()  # a network at zero: the noise comes on top
