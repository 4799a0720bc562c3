"""Small networks, and what the tests of the training stages do with every stage."""

import torch

from latent_pmrf.config import HDiTConfig, SimVAEConfig, UNetConfig
from latent_pmrf.data.datasets import Augmentation
from latent_pmrf.nets.build import build
from tests.training_files import SIDE_PX

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


def frozen(config, seed):
    torch.manual_seed(seed)
    network = build(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def validated(stage):
    with torch.no_grad():
        return stage.validate(stage.build())


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
