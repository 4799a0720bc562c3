"""What every network promises beside its numbers: shapes, starts, refusals, precision."""

import math
from dataclasses import replace

import pytest
import torch

from latent_pmrf.config import VAE_PRESETS, HDiTConfig, SimVAEConfig, SwinIRConfig, UNetConfig
from latent_pmrf.nets.attention import DENSE_TOKENS, neighborhood_mask, rotary_table
from latent_pmrf.nets.attention import MASKED as DEEP
from latent_pmrf.nets.build import build
from latent_pmrf.nets.hdit import Attention, hidden_width, patchify, unpatchify
from latent_pmrf.nets.layers import ChannelLayerNorm, FourierFeatures, channels_last, rms_normalize
from latent_pmrf.nets.swinir import MASKED, relative_position_index, shift_mask

SWINIR = SwinIRConfig(embed_dim=24, depths=(2, 2), num_heads=(2, 2), upsample_width=16)
UNET = UNetConfig(image_size_px=64, widths=(8, 16, 16), depth=1, heads=2)
VAE = SimVAEConfig(block_out_channels=(8, 12, 16), layers_mid_block=1, latent_channels=4)
HDIT = HDiTConfig(
    in_channels=4, widths=(16, 32, 32), depths=(1, 1, 1), head_dim=(16, 16, 16), mapping_width=32, mapping_depth=1
)
PIXEL_HDIT = HDiTConfig(
    in_channels=3,
    patch_size=2,
    widths=(16, 32),
    depths=(1, 1),
    attention=("neighborhood", "global"),
    head_dim=(16, 16),
    mapping_width=32,
    depthwise_conv=False,
    flavour="pmrf",
)


def seeded(config, spread=0.0):
    """A network from a fixed seed; `spread` moves the weights off their zero starts."""
    torch.manual_seed(0)
    network = build(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (SWINIR, (2, 3, 64, 128)),
        (replace(SWINIR, upsampler="pixelshuffledirect", image_skip=True), (1, 3, 128, 64)),
        (replace(SWINIR, unshuffle=4), (1, 3, 64, 32)),
        (replace(SWINIR, image_channels=1), (1, 1, 64, 64)),
        (UNET, (2, 3, 64, 64)),
    ],
)
def test_estimators_keep_the_size(config, shape):
    image = torch.rand(shape)
    output = seeded(config, 0.02)(image)
    assert output.shape == shape
    assert output.isfinite().all()


def test_an_estimator_estimates_from_what_shrinkage_leaves():
    image = torch.rand(2, 3, 64, 64)
    config = replace(UNET, shrinkage=True, mirror_average=True)
    shrinking = seeded(config, 0.02).eval()
    plain = seeded(replace(config, shrinkage=False)).eval()
    plain.load_state_dict(shrinking.state_dict(), strict=False)
    torch.testing.assert_close(shrinking(image), plain(shrinking.shrinkage(image)), atol=1e-6, rtol=0)
    assert not torch.allclose(shrinking(image), plain(image), atol=1e-3)


def test_an_estimator_may_average_over_the_mirror_image_outside_training():
    image = torch.rand(3, 3, 64, 64)
    plain, averaging = seeded(UNET, 0.02), seeded(replace(UNET, mirror_average=True), 0.02)
    expected = (plain(image) + plain(image.flip(3)).flip(3)) / 2
    torch.testing.assert_close(averaging(image), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(averaging(image.flip(3)).flip(3), averaging(image), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(averaging.train()(image), plain(image), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, plain(image), atol=1e-3)


@pytest.mark.parametrize(
    "config", [UNET, replace(SWINIR, image_skip=True), replace(SWINIR, upsampler="pixelshuffledirect", image_skip=True)]
)
def test_estimators_with_a_skip_start_as_the_identity(config):
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(seeded(config)(image), image, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("config", "shape", "named"),
    [
        (SWINIR, (1, 3, 64, 72), r"\(64, 72\) must be multiples of 64"),
        (UNET, (1, 3, 64, 32), r"takes 64x64 images, not \(64, 32\)"),
    ],
)
def test_estimators_refuse_other_sizes(config, shape, named):
    with pytest.raises(ValueError, match=named):
        seeded(config)(torch.rand(shape))


@pytest.mark.parametrize("config", [VAE, replace(VAE, stem_unshuffle=2, linear_skip=True)])
def test_vae_shapes(config):
    vae, side = seeded(config, 0.02), config.downscale
    mean, logvar = vae.encode(torch.rand(2, 3, 4 * side, 6 * side) * 2 - 1)
    assert mean.shape == logvar.shape == (2, 4, 4, 6)
    assert vae.decode(mean).shape == (2, 3, 4 * side, 6 * side)


@pytest.mark.parametrize(
    "variant",
    [
        {"norm": "group"},
        {"mid_attention": True, "layers_mid_block": 3},
        {"resizing": "in_block"},
        {"norm": "group", "two_norms": True, "mid_attention": True, "resizing": "in_block", "layers_mid_block": 3},
    ],
    ids=lambda variant: "+".join(variant),
)
def test_variants_of_the_vae_keep_its_shapes_and_change_its_function(variant):
    image = torch.rand(1, 3, 16, 24) * 2 - 1
    plain, vae = seeded(VAE, 0.02), seeded(replace(VAE, **variant), 0.02)
    mean, _ = vae.encode(image)
    assert mean.shape == plain.encode(image)[0].shape
    assert vae.decode(mean).shape == image.shape
    assert vae.state_dict().keys() != plain.state_dict().keys() or not torch.allclose(mean, plain.encode(image)[0])


def test_sd_vae_has_the_size_of_stable_diffusion_s():
    with torch.device("meta"):
        vae = build(replace(VAE_PRESETS["sd-vae"], latent_channels=4))
    # Theirs has 83,653,863; a 1x1 convolution on the latent either side (92 parameters) is left out here.
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863 - 92


def test_a_wrong_choice_is_named():
    with pytest.raises(ValueError, match="norm must be one of"):
        replace(VAE, norm="batch")
    with pytest.raises(ValueError, match="resizing must be one of"):
        replace(VAE, resizing="never")


def test_a_compiled_vae_is_what_encode_and_decode_run():
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    vae, image = seeded(VAE, 0.02), torch.rand(1, 3, 16, 16) * 2 - 1
    expected = vae.decode(vae.encode(image)[0])
    vae.compile(backend=backend)
    torch.testing.assert_close(vae.decode(vae.encode(image)[0]), expected)
    assert len(graphs) == 2


def test_vae_clamps_the_log_variance():
    vae = seeded(VAE)
    with torch.no_grad():
        vae.encoder.conv_out.weight.zero_()
        vae.encoder.conv_out.bias[4:] = torch.tensor([-99.0, 99.0, 0.0, 1.0])
    assert vae.encode(torch.zeros(1, 3, 8, 8))[1][0, :, 0, 0].tolist() == [-30, 20, 0, 1]


def test_vae_refuses_sides_that_are_no_multiple():
    with pytest.raises(ValueError, match="multiples of 4 pixels"):
        seeded(VAE).encode(torch.zeros(1, 3, 10, 8))


def test_linear_skip_starts_as_principal_components():
    vae = seeded(replace(VAE, linear_skip=True, latent_channels=6), 0.1)
    generator = torch.Generator().manual_seed(1)
    components = torch.linalg.qr(torch.randn(48, 6, generator=generator)).Q.T
    mean, std = torch.randn(48, generator=generator) / 9, torch.rand(6, generator=generator) + 0.5
    vae.init_linear_skip_(mean, components, std)
    image = torch.rand(1, 3, 8, 12, generator=generator) * 2 - 1
    patches = torch.nn.functional.unfold(image, 4, stride=4)  # (1, 48, 6), channels (c, dy, dx)
    coefficients = components @ (patches - mean[:, None])
    latent, logvar = vae.encode(image)
    torch.testing.assert_close(latent.flatten(2), coefficients / std[:, None], atol=1e-5, rtol=0)
    assert logvar.unique().tolist() == [-9]
    back = torch.nn.functional.unfold(vae.decode(latent), 4, stride=4)
    torch.testing.assert_close(back, components.T @ coefficients + mean[:, None], atol=1e-5, rtol=0)


def test_linear_skip_needs_the_option_and_fitting_shapes():
    mean, components, std = torch.zeros(48), torch.zeros(4, 48), torch.ones(4)
    with pytest.raises(ValueError, match="no linear skip"):
        seeded(VAE).init_linear_skip_(mean, components, std)
    with pytest.raises(ValueError, match=r"expected mean \(48,\), components \(4, 48\)"):
        seeded(replace(VAE, linear_skip=True)).init_linear_skip_(mean, components[:3], std)


@pytest.mark.parametrize(
    ("config", "shape"),
    [(HDIT, (2, 4, 28, 32)), (HDIT, (1, 4, 32, 28)), (PIXEL_HDIT, (2, 3, 16, 20))],
)
def test_velocity_has_the_shape_of_its_state(config, shape):
    network, x_t = seeded(config, 0.05), torch.randn(shape)
    velocity = network(x_t, torch.rand(shape[0]))
    assert velocity.shape == shape
    assert velocity.abs().max() > 1e-3
    assert not torch.equal(velocity, network(x_t, torch.rand(shape[0])))


def test_velocity_starts_at_zero():
    assert not seeded(HDIT)(torch.randn(1, 4, 28, 28), torch.rand(1)).any()


@pytest.mark.parametrize(
    ("config", "shape", "named"),
    [
        (HDIT, (1, 4, 30, 32), r"\(30, 32\) must be multiples of 4"),
        (replace(HDIT, attention=("global", "global", "neighborhood")), (1, 4, 24, 32), "6x8 is smaller than the 7x7"),
    ],
)
def test_velocity_refuses_sizes(config, shape, named):
    with pytest.raises(ValueError, match=named):
        seeded(config)(torch.randn(shape), torch.rand(1))


def test_pixel_flavour_has_no_depthwise_convolutions():
    with pytest.raises(ValueError, match="depthwise_conv=False"):
        build(replace(PIXEL_HDIT, depthwise_conv=True))


def test_time_conventions_are_each_other_s_mirror():
    with_t, x_t, t = seeded(HDIT, 0.05), torch.randn(2, 4, 28, 28), torch.tensor([0.25, 0.75])
    with_sigma = build(replace(HDIT, time_convention="sigma"))
    with_sigma.load_state_dict(with_t.state_dict())
    torch.testing.assert_close(with_sigma(x_t, t), -with_t(x_t, 1 - t))


@pytest.mark.parametrize(
    ("config", "shape"), [(HDIT, (3, 4, 28, 28)), (SWINIR, (3, 3, 64, 64)), (UNET, (3, 3, 64, 64))]
)
def test_company_in_a_batch_changes_nothing(config, shape):
    network, x, t = seeded(config, 0.05), torch.rand(shape), torch.tensor([0.1, 0.5, 0.9])
    call = (lambda x, t: network(x, t)) if config is HDIT else (lambda x, t: network(x))
    alone = torch.cat([call(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(call(x, t), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "shape"), [(HDIT, (1, 4, 28, 28)), (SWINIR, (1, 3, 64, 64)), (UNET, (1, 3, 64, 64))]
)
def test_memory_order_and_autocast_hardly_matter(config, shape):
    network, args = seeded(config, 0.02), (torch.rand(shape), torch.rand(1))[: 2 if config is HDIT else 1]
    plain = network(*args)
    channels_last(network)
    torch.testing.assert_close(network(*args), plain, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(network(*args).float(), plain, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("config", "shape"), [(SWINIR, (1, 3, 64, 64)), (PIXEL_HDIT, (1, 3, 96, 96)), (HDIT, (1, 4, 48, 48))]
)
def test_a_network_can_be_trained_where_another_has_been_run_for_inference(config, shape):
    for cached in (neighborhood_mask, rotary_table, relative_position_index, shift_mask):
        cached.cache_clear()
    times = () if isinstance(config, SwinIRConfig) else (torch.rand(1),)
    with torch.inference_mode():
        seeded(config)(torch.rand(shape), *times)
    trained = build(config)
    trained(torch.rand(shape), *times).square().mean().backward()
    assert any(parameter.grad is not None for parameter in trained.parameters())


@pytest.mark.parametrize(
    ("flavour", "width", "hidden"),
    [("latent_pmrf", 96, 256), ("latent_pmrf", 256, 768), ("latent_pmrf", 1024, 3072), ("pmrf", 96, 288)],
)
def test_hidden_width_is_rounded_as_published(flavour, width, hidden):
    assert hidden_width(replace(HDIT, flavour=flavour), width) == hidden


def test_patches_are_packed_row_then_column_then_channel():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    packed = patchify(x, 2)
    assert packed[1, :, 1, 2].tolist() == [x[1, c, 2 + dy, 4 + dx] for dy in (0, 1) for dx in (0, 1) for c in range(3)]
    assert torch.equal(unpatchify(packed, 2), x)


def test_layer_norm_works_per_pixel():
    norm = ChannelLayerNorm(5, eps=1e-6)
    y = norm(torch.randn(2, 5, 3, 4) * 7 + 2)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(2, 3, 4), atol=1e-4, rtol=0)


def test_rms_norm_accumulates_in_float32():
    x = torch.full((1, 4096), 8.0, dtype=torch.float16)
    torch.testing.assert_close(rms_normalize(x, 1, 1e-6), torch.ones_like(x))


def test_fourier_features_are_cosines_then_sines():
    features = FourierFeatures(1, 4)
    features.weight.copy_(torch.tensor([[0.25], [1.0]]))
    expected = torch.tensor([[0.0, 1.0, 1.0, 0.0]])  # a quarter turn and a whole one
    torch.testing.assert_close(features(torch.ones(1, 1)), expected, atol=1e-6, rtol=0)


def test_relative_positions_are_query_minus_key():
    index = relative_position_index(8)
    assert index.shape == (64, 64)
    assert index[0, 0] == 7 * 15 + 7
    assert index[8 * 2 + 3, 8 * 5 + 1] == (2 - 5 + 7) * 15 + (3 - 1 + 7)
    assert (index.min(), index.max()) == (0, 224)


def test_shift_mask_separates_what_the_roll_brought_together():
    mask = shift_mask(16, 24, window=8, shift=4).view(2, 3, 64, 64)
    assert not mask[0, 0].any()
    assert set(mask.unique().tolist()) == {0.0, MASKED}
    last = mask[1, 2].view(8, 8, 8, 8)  # the corner window: four regions of 4x4
    assert (last[0, 0] == 0).sum() == 16
    assert last[0, 0, 3, 3] == 0
    assert last[0, 0, 3, 4] == last[0, 0, 4, 3] == last[7, 7, 0, 0] == MASKED


def test_fitted_masks_change_nothing_and_leave_no_subnormal_weight():
    network = seeded(replace(HDIT, cosine_attention=True, attention=("neighborhood",) * 3), spread=0.1)
    given = torch.randn(1, 4, 64, 64), torch.tensor([0.3])
    before = network(*given)
    network.fit_masks_()
    torch.testing.assert_close(network(*given), before, rtol=0, atol=1e-6)
    for module in network.modules():
        if isinstance(module, Attention):
            scale = float(module.scale.max())
            least = math.exp(module.mask_depth - 2 * scale) / DENSE_TOKENS
            assert math.exp(module.mask_depth + 2 * scale) < 1e-12
            assert least > torch.finfo(torch.float32).smallest_normal


def test_masks_of_unbounded_logits_stay_deep():
    network = seeded(HDIT)
    network.fit_masks_()
    assert {module.mask_depth for module in network.modules() if isinstance(module, Attention)} == {DEEP}
