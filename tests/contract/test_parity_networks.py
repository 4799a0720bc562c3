"""The networks give the numbers of the public code, in between and at the end."""

import pytest
import torch

from latent_pmrf.flow.solver import euler
from latent_pmrf.flow.source import add_source_noise
from latent_pmrf.nets.attention import neighborhood_attention, rotary_frequencies, rotary_table, rotate
from tests.contract.parity_files import arrays, assert_close, parity_folder, record, tiny_network

HDIT_ATOL = 3e-4


@pytest.mark.parametrize("case", range(4))
def test_swinir_output(case):
    io, network = arrays(parity_folder("swinir")), tiny_network("swinir")
    assert_close(network(io[f"x{case}"]), io[f"y{case}"])


def test_swinir_on_the_way():
    io, network = arrays(parity_folder("swinir")), tiny_network("swinir")
    seen = record(network, lambda: network(io["x0"]), outputs=("conv_first", "layers.0", "conv_after_body"))
    assert_close(seen["conv_first"], io["mid0_conv_first"])
    assert_close(seen["layers.0"].flatten(1, 2), io["mid0_layer0"])
    assert_close(seen["conv_after_body"], io["mid0_conv_after_body"])


@pytest.mark.parametrize("case", range(3))
def test_sim_vae_output(case):
    io, network = arrays(parity_folder("sim_vae")), tiny_network("sim_vae")
    moments = network.encoder(io[f"image{case}"])
    mean, logvar = network.encode(io[f"image{case}"])
    assert_close(moments, io[f"moments{case}"])
    assert_close(mean, io[f"mode{case}"])
    assert_close((logvar / 2).exp(), io[f"std{case}"])
    assert_close(network.decode(io[f"z{case}"]), io[f"decoded{case}"])
    assert_close(network.decode(mean), io[f"roundtrip{case}"])


def test_sim_vae_on_the_way():
    io, network = arrays(parity_folder("sim_vae")), tiny_network("sim_vae")
    names = ("encoder.down_blocks.0", "encoder.mid_block", "decoder.mid_block", "decoder.up_blocks.0")
    seen = record(network, lambda: (network.encode(io["image0"]), network.decode(io["z0"])), outputs=names)
    for name, key in zip(names, ("enc_down0", "enc_mid", "dec_mid", "dec_up0"), strict=True):
        assert_close(seen[name], io[f"mid0_{key}"])


@pytest.mark.parametrize("case", range(4))
def test_hdit_output(case):
    io, network = arrays(parity_folder("hdit")), tiny_network("hdit")
    assert_close(network(io[f"x{case}"], io[f"t{case}"]), io[f"v{case}"], HDIT_ATOL)


def test_hdit_on_the_way():
    io, network = arrays(parity_folder("hdit")), tiny_network("hdit")
    outputs = {
        "time_proj": "time_emb",
        "proj_in": "patch_in",
        "mapping": "cond",
        "down_blocks.0.0": "down0",
        "mid_block.1": "mid",
        "up_blocks.0.0": "up0",
    }
    inputs = {"down_blocks.0.0.norm2": "down0_attn", "mid_block.0.norm2": "mid_attn"}  # attention and its skip
    seen = record(network, lambda: network(io["x0"], io["t0"]), outputs=outputs, inputs=inputs)
    for name, key in (outputs | inputs).items():
        found = seen[name] if seen[name].ndim == 2 else seen[name].permute(0, 2, 3, 1)
        assert_close(found, io[f"mid0_{key}"], HDIT_ATOL)


def test_rotary_and_neighbourhood_alone():
    part = arrays(parity_folder("hdit"), "parts")
    _, height, width, heads, head_dim = part["q"].shape
    assert_close(torch.from_numpy(rotary_frequencies(heads, head_dim)).float(), part["freqs"], 1e-5)
    cos, sin = rotary_table(height, width, heads, head_dim)
    assert_close(cos, part["theta"].permute(2, 0, 1, 3).cos(), 1e-5)
    assert_close(sin, part["theta"].permute(2, 0, 1, 3).sin(), 1e-5)
    q, k, v = (part[name].permute(0, 3, 1, 2, 4) for name in ("q_scaled", "k_scaled", "v"))
    assert_close(rotate(q), part["q_rot"].permute(0, 3, 1, 2, 4), 1e-5)
    mixed = neighborhood_attention(rotate(q), rotate(k), v, int(part["kernel"]), scale=1.0)
    assert_close(mixed, part["na_out"].permute(0, 3, 1, 2, 4), 1e-5)


@pytest.mark.parametrize("case", range(4))
def test_looformer_output(case):
    io, network = arrays(parity_folder("looformer")), tiny_network("looformer")
    # The public network takes sigma = 1 - t and gives source - data.
    assert_close(network(io[f"x{case}"], 1 - io[f"sigma{case}"]), -io[f"v{case}"])


def test_looformer_on_the_way():
    io, network = arrays(parity_folder("looformer")), tiny_network("looformer")
    names = {
        "time_proj": "time_proj",
        "mapping": "cond",
        "proj_in": "proj_in",
        "down_blocks.0.0.attn": "down0_attn",
        "down_blocks.0.0": "down0",
        "mid_block.0.attn": "mid_attn",
        "mid_block.0": "mid",
        "up_blocks.0.0": "up0",
    }
    seen = record(network, lambda: network(io["x0"], 1 - io["sigma0"]), outputs=names)
    for name, key in names.items():
        assert_close(seen[name], io[f"mid0_{key}"])


def velocity_of(network):
    return lambda x_t, t: network(x_t, torch.full((len(x_t),), t))


@pytest.mark.parametrize("num_steps", [1, 5, 25])
def test_hdit_euler_loop(num_steps):
    reference, network = arrays(parity_folder("hdit"), "sampling"), tiny_network("hdit")
    x_0 = add_source_noise(reference["posterior_mean"], reference["sigma_s"].tolist(), reference["noise"])
    assert_close(x_0, reference["x_source"], 1e-6)
    x_1 = euler(velocity_of(network), x_0, num_steps)
    assert_close(x_1, reference[f"unclipped_K{num_steps}"], HDIT_ATOL)
    assert_close(x_1.clamp(0, 1), reference[f"result_K{num_steps}"], HDIT_ATOL)


@pytest.mark.parametrize("num_steps", [1, 5, 25])
def test_looformer_euler_loop(num_steps):
    reference, network = arrays(parity_folder("looformer"), "sampling"), tiny_network("looformer")
    x_1 = euler(velocity_of(network), reference["x_source"], num_steps)
    assert_close(x_1, reference[f"result_K{num_steps}"])


@pytest.mark.parametrize(("name", "atol"), [("hdit", HDIT_ATOL), ("looformer", 1e-4)])
def test_every_state_of_the_loop(name, atol):
    reference = arrays(parity_folder(name), "sampling")
    states = []
    velocity = velocity_of(tiny_network(name))

    def watched(x_t, t):
        states.append(x_t)
        return velocity(x_t, t)

    states.append(euler(watched, reference["x_source"], 5))
    assert_close(torch.stack(states), reference["seq_K5"], atol)
