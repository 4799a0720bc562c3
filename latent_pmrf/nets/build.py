"""From a specification to its network: the one place that knows which class belongs to which."""

from __future__ import annotations

from typing import overload

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
