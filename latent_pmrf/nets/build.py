"""From a specification to its network: the one place that knows which class belongs to which."""

from __future__ import annotations

from typing import overload

import torch

from latent_pmrf.config import HDiTConfig, NetworkConfig, SimVAEConfig, SwinIRConfig, UNetConfig
from latent_pmrf.nets.hdit import HDiT
from latent_pmrf.nets.sim_vae import SimVAE
from latent_pmrf.nets.swinir import SwinIR
from latent_pmrf.nets.unet import UNet

Network = SwinIR | UNet | SimVAE | HDiT


@overload
def build(config: SwinIRConfig) -> SwinIR: ...
@overload
def build(config: UNetConfig) -> UNet: ...
@overload
def build(config: SimVAEConfig) -> SimVAE: ...
@overload
def build(config: HDiTConfig) -> HDiT: ...
def build(config: NetworkConfig) -> Network:
    """Network of a specification, freshly initialised.

    Raises:
        ValueError: The options exist in no published variant.
    """
    if isinstance(config, SwinIRConfig):
        return SwinIR(config)
    if isinstance(config, UNetConfig):
        return UNet(config)
    if isinstance(config, SimVAEConfig):
        return SimVAE(config)
    return HDiT(config)


@torch.inference_mode()
def check_side(config: NetworkConfig, side: int) -> None:
    """Call a network on PyTorch's meta device, where nothing is computed, for what it says of a side.

    Args:
        config: Its specification.
        side: Of square pictures, or of the flow's states.

    Raises:
        ValueError: The network does not take it.
    """
    with torch.device("meta"):
        network = build(config)
        channels = config.in_channels if isinstance(config, HDiTConfig) else config.image_channels
        state, t = torch.empty(1, channels, side, side), torch.empty(1)
    if isinstance(network, HDiT):
        network(state, t, *([state] if network.config.mean_conditioned else []))
    elif isinstance(network, SimVAE):
        network.encode(state)
    else:
        network(state)
