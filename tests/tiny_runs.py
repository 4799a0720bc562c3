"""Weights files of a training run, of networks so small that an export takes seconds."""

import torch

from export.trained import awaken, load_trained, round_weights
from latent_pmrf.config import HDiTConfig, SimVAEConfig, UNetConfig
from latent_pmrf.nets.build import build
from latent_pmrf.training.checkpoint import save_weights

SIDE_PX = 96
UNET = UNetConfig(image_size_px=SIDE_PX, widths=(8, 16), depth=1, heads=2, mirror_average=True, shrinkage=True)
VAE = SimVAEConfig(
    block_out_channels=(8, 16),
    layers_per_block=1,
    decoder_layers_per_block=1,
    layers_mid_block=1,
    latent_channels=4,
    stem_unshuffle=2,
    linear_skip=True,
)
# 24 x 24 tokens: more than one dense attention takes, so that the neighbourhood is cut into tiles.
HDIT = HDiTConfig(
    in_channels=4,
    widths=(16, 32),
    depths=(1, 1),
    attention=("neighborhood", "global"),
    head_dim=(8, 16),
    mapping_width=32,
    mapping_depth=1,
)
STATISTICS = {
    "latent_mean": [0.5, -0.25, 0.0, 0.125],
    "latent_std": [1.0, 0.5, 2.0, 0.75],
    "sigma_s": [0.3, 0.2, 0.1, 0.05],
}


def tiny(config, seed=0):
    """A network of random weights, ready to compute."""
    torch.manual_seed(seed)
    network = build(config).eval().requires_grad_(False)
    awaken(network)
    with torch.no_grad():
        for parameter in network.parameters():  # norms at exactly one, as they begin, would become one shared constant
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return network


def write_runs(folder, *, velocity=HDIT, steps_done=40, **facts):
    for seed, (stage, config) in enumerate({"estimator": UNET, "vae": VAE, "flow": velocity}.items()):
        info = {
            "stage": stage,
            "optim": {"steps": 40, "batch_size": 2, "lr": 1e-3, "seed": seed},
            "step": steps_done,
            "train_seconds": 12.5,
        }
        if stage == "flow":
            info |= STATISTICS | facts
        save_weights(folder / stage / "weights.safetensors", config, tiny(config, seed).state_dict(), info)
    return folder


def rounded(runs):
    """The networks of a run with the weights that an export ships."""
    trained = load_trained(runs)
    for network in trained.networks.values():
        round_weights(network)
    return trained
