import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from latent_pmrf.config import HDiTConfig, SimVAEConfig, UNetConfig
from latent_pmrf.data.datasets import Augmentation, FacePairs
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.data.validation import ValidationSet
from latent_pmrf.nets.build import build
from latent_pmrf.training.estimator import EstimatorStage, psnr_db
from latent_pmrf.training.flow import FlowStage
from latent_pmrf.training.latents import LatentPairs, latents_of
from latent_pmrf.training.losses import RELATIVE_MSE_FLOOR
from latent_pmrf.training.vae import VAEStage, patch_pca
from tests.training_files import SIDE_PX, crops

UNET = UNetConfig(image_size_px=SIDE_PX, widths=(8, 16), depth=1, heads=2)
VAE = SimVAEConfig(
    block_out_channels=(8, 8),
    layers_per_block=1,
    layers_mid_block=1,
    latent_channels=8,
    stem_unshuffle=2,
    linear_skip=True,
)
HDIT = HDiTConfig(
    in_channels=8,
    widths=(32, 32),
    depths=(1, 1),
    attention=("neighborhood", "global"),
    head_dim=(16, 16),
    mapping_width=32,
)
STILL = Augmentation(flip=False, rotate_deg=0.0, scale=0.0, shift=0.0)


@pytest.fixture(scope="module")
def validation():
    faces = np.stack(crops(9)[6:]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    return [
        ValidationSet(name, faces, np.clip(faces + shift, 0, 1)) for name, shift in (("moderate", 0.1), ("severe", 0.3))
    ]


@pytest.fixture
def pairs():
    return FacePairs(crops(6), SIDE_PX, DegradationRange(), Augmentation())


@pytest.fixture
def estimator_stage(pairs, validation):
    return EstimatorStage(UNET, pairs, 2, seed=1, validation=validation)


def make_vae_stage(validation, **changes):
    facts = {"size_px": SIDE_PX, "crop_px": 32, "batch_size": 2, "seed": 1, "augmentation": STILL}
    return VAEStage(VAE, crops(6), validation=validation, **facts | changes)


def frozen(config, seed):
    torch.manual_seed(seed)
    network = build(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return network


def latent_pairs(pairs, cache_dir, vae_seed=2, **changes):
    estimator, vae = frozen(UNET, 1), frozen(VAE, vae_seed)
    return LatentPairs(pairs, estimator, vae, **{"copies": 3, "seed": 4, "cache_dir": cache_dir} | changes)


def flow_stage(pairs, validation, folder, **changes):
    facts = {"batch_size": 4, "seed": 4, "noise_factor": 0.3, "run_dir": folder, "validation": validation}
    return FlowStage(HDIT, latent_pairs(pairs, folder / "latents"), **facts | changes)


@pytest.fixture(scope="module")
def flow(validation, tmp_path_factory):
    """A flow stage that nobody changes."""
    pairs = FacePairs(crops(6), SIDE_PX, DegradationRange(), Augmentation())
    return flow_stage(pairs, validation, tmp_path_factory.mktemp("flow"))


def noiseless(stage):
    changed = copy.copy(stage)
    changed.statistics = dataclasses.replace(stage.statistics, sigma_s=(0.0,) * 8)
    return changed


@torch.no_grad()
def validated(stage):
    return stage.validate(stage.build())


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_estimator_batches_are_a_function_of_the_step(estimator_stage):
    assert same(estimator_stage.batch(3), estimator_stage.batch(3))
    assert not same(estimator_stage.batch(3), estimator_stage.batch(4))
    y, x = estimator_stage.batch(0)
    assert y.shape == x.shape == (2, 3, SIDE_PX, SIDE_PX)
    assert (y.min() >= 0) & (y.max() <= 1)


def test_estimator_starts_without_gain_and_a_better_one_has_some(estimator_stage):
    y, x = estimator_stage.batch(0)
    start, scalars = estimator_stage.loss(estimator_stage.build(), (y, x), 0)
    mse = (y - x).square().mean((1, 2, 3))
    assert start.item() == pytest.approx((mse / (mse + RELATIVE_MSE_FLOOR)).mean().item(), rel=1e-4)
    assert scalars["gain_db"].item() == pytest.approx(-10 * math.log10(start.item()), rel=1e-4)
    half, _ = estimator_stage.loss(lambda y: (y + x) / 2, (y, x), 0)
    assert half.item() == pytest.approx(start.item() / 4, rel=1e-4)


def test_estimator_validation_compares_with_the_input(estimator_stage):
    scalars = validated(estimator_stage)
    assert set(scalars) == {f"{level}_{name}" for level in ("moderate", "severe") for name in ("psnr_db", "gain_db")}
    assert scalars["severe_gain_db"] == pytest.approx(0, abs=1e-3)
    assert scalars["severe_psnr_db"] < scalars["moderate_psnr_db"]


def test_psnr_is_the_mean_of_the_images():
    reference = np.zeros((2, 3, 4, 4), np.float32)
    image = reference + np.array([0.1, 0.01], np.float32).reshape(2, 1, 1, 1)
    assert psnr_db(image, reference) == pytest.approx(30, abs=1e-3)


def test_patch_pca_finds_the_directions_of_the_patches():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(48, 48, generator=generator)).Q[:, :3]
    scales, offset = torch.tensor([0.3, 0.1, 0.02]), torch.linspace(-0.2, 0.2, 48)
    coefficients = torch.randn(4, 400, 3, generator=generator) * scales
    patches = coefficients @ basis.T + offset  # (4, 400, 48): the images' patches in [-1, 1]
    images = nn.functional.fold(patches.mT, (80, 80), 4, stride=4) / 2 + 0.5
    mean, components, std = patch_pca(images, 4, 3)
    torch.testing.assert_close(mean, patches.mean((0, 1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(components @ components.T, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close((components @ basis).abs(), torch.eye(3), atol=0.1, rtol=0)
    torch.testing.assert_close(std, scales, atol=0, rtol=0.1)
    flat = patches.flatten(0, 1) - mean
    torch.testing.assert_close(flat @ components.T @ components, flat, atol=1e-4, rtol=0)


def test_patch_pca_with_all_components_loses_nothing():
    images = torch.from_numpy(np.stack(crops(6))).permute(0, 3, 1, 2).float() / 255
    mean, components, std = patch_pca(images, 2, 12)
    patches = nn.functional.unfold(images * 2 - 1, 2, stride=2).mT.flatten(0, 1)
    torch.testing.assert_close((patches - mean) @ components.T @ components + mean, patches, atol=1e-4, rtol=0)
    assert std.tolist() == sorted(std.tolist(), reverse=True)


def test_vae_starts_as_pca_and_keeps_it_fixed(validation):
    stage = make_vae_stage(validation)
    vae = stage.build()
    trained = {name for name, parameter in vae.named_parameters() if parameter.requires_grad}
    assert {name for name, _ in vae.named_parameters()} - trained == {
        f"{half}.skip.{kind}" for half in ("encoder", "decoder") for kind in ("weight", "bias")
    }
    image = stage.batch(0)
    with torch.no_grad():
        latent, _ = vae.encode(image)
        assert latent.std().item() == pytest.approx(1, abs=0.3)
        assert (vae.decode(latent) - image).square().mean() < 0.1 * image.var()
    assert torch.equal(vae.encoder.skip.weight, make_vae_stage(validation).build().encoder.skip.weight)


def test_vae_crops_lie_in_the_photographs(validation):
    stage = make_vae_stage(validation)
    assert same([stage.batch(5)], [stage.batch(5)])
    assert not same([stage.batch(5)], [stage.batch(6)])
    crop = ((stage.batch(0)[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    windows = [np.lib.stride_tricks.sliding_window_view(face, (32, 32, 3))[:, :, 0] for face in crops(6)]
    assert any((window == crop).all((2, 3, 4)).any() for window in windows)


def test_vae_loss_is_the_sum_of_its_terms(validation):
    stage = make_vae_stage(validation, kl_weight=0.01, band_weight=3.0)
    vae, image = stage.build(), stage.batch(0)
    loss, terms = stage.loss(vae, image, 0)
    assert loss.item() == pytest.approx((terms["l1"] + 3 * terms["band"] + 0.01 * terms["kl"]).item(), rel=1e-5)
    assert same([loss], [stage.loss(vae, image, 0)[0]])
    assert not same([loss], [stage.loss(vae, image, 1)[0]])  # the latent is sampled anew


def test_vae_noise_is_bounded(validation):
    stage = make_vae_stage(validation)
    vae, image = stage.build(), stage.batch(0)
    with torch.no_grad():
        vae.encoder.conv_out.bias[8:] = 15.0  # an escaped variance
    assert stage.loss(vae, image, 0)[1]["l1"] < 0.5


def test_vae_validation_is_on_clean_faces(validation):
    stage = make_vae_stage(validation)
    scalars = validated(stage)
    assert 20 < scalars["psnr_db"] < 45
    assert 0.05 < scalars["laplacian_ratio"] < 1
    assert stage.info() == {"kl_weight": 1e-6, "band_weight": 1.0}


def test_latents_are_computed_once_and_kept(pairs, tmp_path):
    latents = latent_pairs(pairs, tmp_path)
    indices = np.array([17, 2, 2, 5])
    first = latents.get(indices)
    assert first[0].shape == (4, 8, 16, 16)
    assert torch.equal(first[0][1], first[0][2])
    later = latent_pairs(pairs, tmp_path)
    pairs.images = []  # whoever degrades now, fails
    assert same(later.get(indices), first)


def test_latents_are_those_of_the_networks(pairs, tmp_path):
    latents = latent_pairs(pairs, tmp_path)
    z_0, z_1 = latents.get(np.array([7]))
    lq, hq = pairs.pair(7 % 6, np.random.default_rng((4, 1, 7)))
    y, x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in (lq, hq))
    torch.testing.assert_close(z_1, latents.encode(x), atol=0.02, rtol=0.02)
    torch.testing.assert_close(z_0, latents.encode(latents.posterior_mean(y)), atol=0.02, rtol=0.02)
    assert not torch.allclose(z_0, z_1, atol=0.02)


def test_copies_of_a_photograph_are_degraded_differently(pairs, tmp_path):
    still = FacePairs(pairs.images, SIDE_PX, pairs.ranges)
    z_0, z_1 = latent_pairs(still, tmp_path).get(np.array([1, 7, 13]))
    assert torch.equal(z_1[0], z_1[1])
    assert not torch.equal(z_0[0], z_0[1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vae_seed": 3}, "vae"),
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
    z_0, z_1 = (torch.cat(parts) for parts in zip(*(flow.batch(step) for step in range(9)), strict=True))
    torch.testing.assert_close(z_1.mean((0, 2, 3)), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(z_1.std((0, 2, 3)), torch.ones(8), atol=1e-2, rtol=0)
    distance = (z_1 - z_0).square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(torch.tensor(flow.statistics.sigma_s), 0.3 * distance, atol=1e-3, rtol=1e-2)
    assert flow.info()["sigma_s"] == flow.statistics.sigma_s


def test_flow_keeps_the_statistics_of_its_first_start(pairs, validation, tmp_path):
    first = flow_stage(pairs, validation, tmp_path)
    assert flow_stage(pairs, validation, tmp_path, noise_factor=0.9).statistics == first.statistics


def test_every_epoch_of_the_flow_sees_every_pair_once(flow):
    rows = torch.cat([flow.batch(step)[0] for step in range(9)]).flatten(1)  # 18 pairs, twice, in batches of 4
    epochs = [{tuple(row[:8].tolist()) for row in rows[start : start + 18]} for start in (0, 18)]
    assert len(epochs[0]) == 18
    assert epochs[0] == epochs[1]
    assert not torch.equal(rows[:18], rows[18:])
    assert same(flow.batch(3), flow.batch(3))


def test_flow_loss_is_that_of_the_velocity(flow):
    stage = noiseless(flow)
    z_0, z_1 = stage.batch(0)
    loss, scalars = stage.loss(lambda x_t, t: z_1 - z_0, (z_0, z_1), 0)
    assert loss.item() == pytest.approx(0, abs=1e-10)
    loss, scalars = stage.loss(lambda x_t, t: torch.zeros_like(x_t), (z_0, z_1), 0)
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


def test_flow_validation_of_no_flow_is_the_posterior_mean(flow, pairs, validation, tmp_path):
    stage = noiseless(flow)
    scalars = validated(stage)  # the network's output is zero-initialised
    latents = latent_pairs(pairs, tmp_path / "latents")
    z_0, z_1 = latents_of(validation[1], latents)
    image = latents.decode(z_0).numpy()
    assert scalars["severe_psnr_db"] == pytest.approx(psnr_db(image, validation[1].clean), abs=0.05)
    expected = (stage.statistics.normalise(z_1) - stage.statistics.normalise(z_0)).square().mean().item()
    assert [scalars[f"severe_loss_q{q}"] for q in range(4)] == pytest.approx([expected] * 4, rel=1e-4)
    assert scalars["moderate_sharpness"] > 0
