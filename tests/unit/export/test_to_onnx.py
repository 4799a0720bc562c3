import functools
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export.half import to_half
from export.networks import Decoding, GraphSpec, PosteriorMean, TensorFace
from export.parity import ParityError, check_network
from export.tensorrt_operators import objections
from export.to_onnx import to_onnx
from export.trained import round_weights
from latent_pmrf.config import SimVAEConfig, SwinIRConfig, UNetConfig
from latent_pmrf.evaluation.bundle import onnxruntime_session
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.nets.swinir import relative_position_index, shift_mask
from tests.tiny_runs import HDIT, VAE, tiny

pytestmark = pytest.mark.timeout(300)  # the exporter takes seconds a network, more beside other work

SWINIR = {"embed_dim": 16, "depths": (2,), "num_heads": (2,), "window_size": 4, "unshuffle": 2}
PIXELS = replace(HDIT, in_channels=3, patch_size=2, depthwise_conv=False, flavour="pmrf", time_convention="sigma")
PLAIN_VAE = SimVAEConfig(block_out_channels=(8, 16), layers_per_block=1, layers_mid_block=1, latent_channels=4)
STATISTICS = LatentStatistics((0.1,) * 4, (2.0,) * 4, (0.1,) * 4)


def image_to_image(network, side):
    image = (3, side, side)
    return GraphSpec(
        "estimator", network, (TensorFace("image", image, (0.0, 1.0)),), TensorFace("posterior_mean", image)
    )


def velocity(config, side):
    state = (config.in_channels, side, side)
    faces = (TensorFace("x_t", state), TensorFace("t", (), (0.0, 1.0)))
    return GraphSpec("velocity", tiny(config), faces, TensorFace("velocity", state))


def encoder(config, side):
    cells = side // config.downscale
    image, latent = TensorFace("image", (3, side, side), (-1.0, 1.0)), TensorFace("latent", (4, cells, cells))
    return GraphSpec("vae_encoder", PosteriorMean(tiny(config)), (image,), latent)


def decoder(config, cells):
    side = cells * config.downscale
    latent = TensorFace("latent", (4, cells, cells))
    return GraphSpec("vae_decoder", Decoding(tiny(config)), (latent,), TensorFace("image", (3, side, side)))


FAMILIES = {
    "unet": lambda: image_to_image(tiny(UNetConfig(image_size_px=32, widths=(8, 16), depth=1, heads=2)), 32),
    "unet with shrinkage": lambda: image_to_image(
        tiny(UNetConfig(image_size_px=32, widths=(8, 16), depth=1, heads=2, shrinkage=True)), 32
    ),
    "swinir": lambda: image_to_image(tiny(SwinIRConfig(upsample_width=8, **SWINIR)), 16),
    "swinir direct": lambda: image_to_image(
        tiny(SwinIRConfig(upsampler="pixelshuffledirect", image_skip=True, **SWINIR)), 16
    ),
    "hdit of pixels": lambda: velocity(PIXELS, 32),
    "encoder": lambda: encoder(VAE, 32),
    "decoder": lambda: decoder(PLAIN_VAE, 8),
}


@pytest.fixture(scope="module")
def export():
    """The network of a family and its file, made once; the first exports fill the caches of masks and positions."""
    relative_position_index.cache_clear()
    shift_mask.cache_clear()

    @functools.cache
    def made(family):
        spec = FAMILIES[family]()
        return spec, to_onnx(spec, {"bundle": "tiny"})

    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_is_standard_and_computes_what_the_network_computes(export, family):
    spec, content = export(family)

    assert check_network(spec, content, STATISTICS, tolerance=2e-5) < 2e-5
    model = onnx.load_from_string(content)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert {entry.key: entry.value for entry in model.metadata_props} == {"bundle": "tiny"}
    for value, face in zip((*model.graph.input, *model.graph.output), (*spec.inputs, spec.output), strict=True):
        sizes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert (value.name, sizes) == (face.name, ["batch", *face.shape])


def test_hidden_keys_stay_hidden_however_large_the_logits():
    spec = velocity(HDIT, 24)
    with torch.no_grad():
        for name, weight in spec.module.named_parameters():
            if name.endswith("attn.qkv_proj.conv.weight"):
                weight[: 2 * len(weight) // 3] *= 30  # queries and keys, so that logits grow 900 times

    assert check_network(spec, to_onnx(spec), STATISTICS, tolerance=1e-3) < 1e-3


@pytest.fixture(scope="module")
def velocity_file(exported):
    """The graph of a velocity network whose neighbourhood is cut into tiles."""
    return (exported[1] / "velocity" / "1" / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def decoder_file(export):
    return export("decoder")[1]


def test_graph_takes_any_batch_and_rows_do_not_mix(velocity_file):
    session = onnxruntime_session(velocity_file)
    generator = np.random.default_rng(0)
    x_t, t = generator.standard_normal((7, 4, 24, 24), np.float32), generator.random(7, np.float32)
    together = session.run(None, {"x_t": x_t, "t": t})[0]
    apart = [session.run(None, {"x_t": x_t[i : i + 1], "t": t[i : i + 1]})[0] for i in range(7)]
    np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-5)


def test_networks_work_as_before_after_their_export(export):
    spec, _ = export("swinir")
    image = torch.rand(2, 3, 16, 16)
    exported_first = spec.module(image).numpy()
    relative_position_index.cache_clear()
    shift_mask.cache_clear()
    np.testing.assert_array_equal(exported_first, spec.module(image).numpy())


def test_same_network_gives_the_same_bytes_without_a_path_of_the_machine(decoder_file):
    assert to_onnx(decoder(PLAIN_VAE, 8), {"bundle": "tiny"}) == decoder_file
    assert b"/latent_pmrf/" not in decoder_file


def test_rounded_weights_halve_the_file_and_stay_exact(decoder_file):
    exact, rounded = decoder(PLAIN_VAE, 8), decoder(PLAIN_VAE, 8)
    round_weights(rounded.module)
    content = to_onnx(rounded)
    assert len(content) < 0.7 * len(decoder_file)
    check_network(rounded, content, STATISTICS, tolerance=2e-5)
    with pytest.raises(ParityError, match="vae_decoder, batch 1"):
        check_network(exact, content, STATISTICS, tolerance=2e-5)


def test_signature_that_the_network_does_not_have_is_refused():
    image = (3, 8, 8)
    spec = GraphSpec(
        "estimator", nn.Conv2d(3, 4, 1), (TensorFace("image", image),), TensorFace("posterior_mean", image)
    )
    with pytest.raises(ValueError, match="estimator: expected posterior_mean"):
        to_onnx(spec)


def test_sizes_that_the_networks_cannot_take_are_refused():
    with pytest.raises(ValueError, match="multiples"):
        to_onnx(velocity(HDIT, 23))


def test_attention_that_hides_the_future_is_refused():
    class Causal(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)

    face = TensorFace("x", (2, 4, 8))
    with pytest.raises(Exception, match="ONNX"):
        to_onnx(GraphSpec("causal", Causal(), (face,), TensorFace("y", (2, 4, 8))))


@pytest.mark.parametrize("network", ["estimator", "vae_encoder", "velocity", "vae_decoder"])
def test_exported_networks_have_the_cheap_forms_and_tensorrt_takes_them(exported, network):
    content = (exported[1] / network / "1" / "model.onnx").read_bytes()
    model = onnx.load_from_string(content)
    assert "Resize" not in {node.op_type for node in model.graph.node}
    shapes = onnx.shape_inference.infer_shapes(model).graph.value_info
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in shapes}
    assert [node.name for node in model.graph.node if node.op_type == "ReduceL2" and ranks[node.output[0]] == 4] == []
    assert objections(content) == []
    assert objections(to_half(content, "float16")) == []
