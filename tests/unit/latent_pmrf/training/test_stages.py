import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from latent_pmrf.training.device import to_device
from latent_pmrf.training.estimator import EstimatorStage, psnr_db
from latent_pmrf.training.losses import RELATIVE_MSE_FLOOR
from latent_pmrf.training.perceptual import PerceptualLoss
from latent_pmrf.training.vae import VAEStage, patch_pca
from tests.tiny_stages import STILL, UNET, VAE, same, validated
from tests.training_files import SIDE_PX, crops, vgg_kernels


@pytest.fixture
def estimator_stage(pairs, validation):
    return EstimatorStage(UNET, pairs, 2, seed=1, validation=validation)


def make_vae_stage(validation, **changes):
    facts = {"config": VAE, "size_px": SIDE_PX, "crop_px": 32, "batch_size": 2, "seed": 1, "augmentation": STILL}
    return VAEStage(images=crops(6), validation=validation, **facts | changes)


def test_estimator_batches_are_a_function_of_the_step(estimator_stage):
    assert same(estimator_stage.batch(3), estimator_stage.batch(3))
    assert not same(estimator_stage.batch(3), estimator_stage.batch(4))
    y, x = estimator_stage.batch(0)
    assert y.shape == x.shape == (2, 3, SIDE_PX, SIDE_PX)
    assert y.dtype == x.dtype == torch.uint8


def test_estimator_starts_without_gain_and_a_better_one_has_some(estimator_stage):
    y, x = to_device(estimator_stage.batch(0), torch.device("cpu"))
    start, scalars = estimator_stage.loss(estimator_stage.build(), (y, x), 0)
    mse = (y - x).square().mean((1, 2, 3))
    assert start.item() == pytest.approx((mse / (mse + RELATIVE_MSE_FLOOR)).mean().item(), rel=1e-4)
    assert scalars["gain_db"].item() == pytest.approx(0, abs=1e-3)
    half, scalars = estimator_stage.loss(lambda y: (y + x) / 2, (y, x), 0)
    assert half.item() == pytest.approx(start.item() / 4, rel=1e-4)
    assert scalars["gain_db"].item() == pytest.approx(20 * math.log10(2), rel=1e-4)


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


def test_a_finish_of_the_decoder_leaves_the_encoder_as_it_is(validation):
    stage = make_vae_stage(validation, decoder_only=True, amplitude_weight=4.0)
    vae, image = stage.build(), stage.batch(0)
    assert not any(parameter.requires_grad for parameter in vae.encoder.parameters())
    loss, terms = stage.loss(vae, image, 0)
    expected = terms["l1"] + terms["band"] + 4 * terms["amplitude"] + 1e-6 * terms["kl"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert vae.decoder.conv_out.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in vae.encoder.parameters())


def test_vae_noise_is_bounded(validation):
    stage = make_vae_stage(validation)
    vae, image = stage.build(), stage.batch(0)
    with torch.no_grad():
        vae.encoder.conv_out.bias[8:] = 15.0  # an escaped variance
    assert stage.loss(vae, image, 0)[1]["l1"] < 0.5


def test_a_variance_that_is_not_bounded_is_trained(validation):
    stage = make_vae_stage(validation, config=dataclasses.replace(VAE, linear_skip=False), kl_weight=1.0)
    vae = stage.build()  # its log-variance starts at 0
    stage.loss(vae, stage.batch(0), 0)[0].backward()
    assert vae.encoder.conv_out.bias.grad[8:].abs().min() > 0


def test_vae_validation_is_on_clean_faces(validation):
    stage = make_vae_stage(validation)
    scalars = validated(stage)
    assert 20 < scalars["psnr_db"] < 45
    assert 0.05 < scalars["laplacian_ratio"] < 1
    assert stage.info() == {"kl_weight": 1e-6, "band_weight": 1.0, "amplitude_weight": 0.0, "decoder_only": False}


@pytest.mark.parametrize(("loss", "expected"), [("mse", 0.25), ("l1", 0.5)])
def test_estimator_losses_by_name(pairs, validation, loss, expected):
    stage = EstimatorStage(UNET, pairs, 2, seed=1, validation=validation, loss=loss)
    y, x = stage.batch(0)
    value, _ = stage.loss(lambda image: x + 0.5, (y, x), 0)
    assert value.item() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"must be one of \['l1', 'mse', 'relative_mse'\], not 'l3'"):
        EstimatorStage(UNET, pairs, 2, seed=1, validation=validation, loss="l3")


def test_what_an_estimator_does_to_every_face_alike_can_count_more(pairs, validation):
    plain = EstimatorStage(UNET, pairs, 2, seed=1, validation=validation, loss="mse")
    stage = EstimatorStage(UNET, pairs, 2, seed=1, validation=validation, loss="mse", shared_error_weight=3.0)
    y, x = (image / 255 for image in stage.batch(0))
    value, scalars = stage.loss(lambda image: x + 0.5, (y, x), 0)
    assert scalars["shared_error"] > 0
    assert (plain.info(), stage.info()) == ({}, {"shared_error_weight": 3.0})
    expected = plain.loss(lambda image: x + 0.5, (y, x), 0)[0] + 3.0 * scalars["shared_error"]
    assert value.item() == pytest.approx(expected.item())


def test_vae_takes_a_perceptual_loss(validation):
    with pytest.raises(ValueError, match="needs a perceptual loss"):
        make_vae_stage(validation, perceptual_weight=0.5)
    perceptual = PerceptualLoss(vgg_kernels())
    plain, stage = make_vae_stage(validation), make_vae_stage(validation, perceptual_weight=0.5, perceptual=perceptual)
    vae, image = stage.build(), stage.batch(0)
    loss, scalars = stage.loss(vae, image, 0)
    assert scalars["perceptual"].item() > 0
    assert loss.item() == pytest.approx((plain.loss(vae, image, 0)[0] + 0.5 * scalars["perceptual"]).item(), rel=1e-5)
    assert stage.info()["perceptual_weight"] == 0.5
