"""Trained networks and what is known about their training, from the weights files of a training run.

runs/{estimator, vae, flow}/weights.safetensors -> Trained
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latent_pmrf.config import ESTIMATOR_PRESETS, VAE_PRESETS, VELOCITY_PRESETS
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.nets.build import Network, build
from latent_pmrf.nets.hdit import HDiT
from latent_pmrf.nets.sim_vae import SimVAE
from latent_pmrf.nets.swinir import SwinIR
from latent_pmrf.nets.unet import UNet
from latent_pmrf.restorer import Restorer
from latent_pmrf.training.checkpoint import load_weights

STAGES = ("estimator", "vae", "flow")


@dataclass(frozen=True, slots=True)
class Trained:
    """Everything that training hands to export.

    Attributes:
        estimator: Posterior-mean network.
        vae: Autoencoder.
        velocity: Velocity network.
        statistics: Latent statistics and source noise.
        recipes: Facts about the training of each stage: optimiser settings with seed, steps, seconds.
    """

    estimator: SwinIR | UNet
    vae: SimVAE
    velocity: HDiT
    statistics: LatentStatistics
    recipes: Mapping[str, Mapping[str, Any]]

    @property
    def restorer(self) -> Restorer:
        """The reference pipeline of these networks."""
        return Restorer(self.estimator, self.vae, self.velocity, self.statistics)

    @property
    def networks(self) -> dict[str, Network]:
        """The networks by stage."""
        return dict(zip(STAGES, (self.estimator, self.vae, self.velocity), strict=True))

    @property
    def unfinished(self) -> dict[str, str]:
        """Stages whose weights were taken before the end of the recipe, as `step of steps`."""
        found = {}
        for stage, recipe in self.recipes.items():
            step, steps = recipe.get("step"), recipe.get("optim", {}).get("steps")
            if step is not None and steps is not None and step < steps:
                found[stage] = f"{step} of {steps}"
        return found


def load_trained(runs: Path) -> Trained:
    """Read the three weights files of a training run.

    Args:
        runs: Folder with `estimator/`, `vae/` and `flow/`.

    Raises:
        FileNotFoundError: A stage has no weights yet.
        ValueError: A file holds another kind of network, or facts are missing.
    """
    networks: dict[str, Network] = {}
    facts: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        path = runs / stage / "weights.safetensors"
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; train that stage first")
        weights = load_weights(path)
        networks[stage], facts[stage] = build(weights.config), dict(weights.info)
        networks[stage].load_state_dict(weights.state_dict)
        networks[stage].eval().requires_grad_(False)
    estimator, vae, velocity = (networks[stage] for stage in STAGES)
    if not isinstance(estimator, SwinIR | UNet) or not isinstance(vae, SimVAE) or not isinstance(velocity, HDiT):
        kinds = {stage: type(network).__name__ for stage, network in networks.items()}
        raise ValueError(f"{runs}: expected an estimator, a Sim-VAE and an HDiT, found {kinds}")
    try:
        mean, std, sigma_s = (tuple(facts["flow"].pop(name)) for name in ("latent_mean", "latent_std", "sigma_s"))
    except KeyError as error:
        raise ValueError(f"{runs / 'flow'}: the weights file lacks {error.args[0]}") from error
    return Trained(estimator, vae, velocity, LatentStatistics(mean, std, sigma_s), facts)


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """Round every matrix and kernel to the nearest half-precision number, in place; the values stay float32.

    Half precision keeps 11 bits, so the file needs two bytes a weight. Vectors (biases, norms) are small and stay
    exact, and so do buffers. What is rounded here is what ships: PyTorch and onnxruntime are compared on these values.
    """
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.half().float())


def random_networks(estimator: str, vae: str, velocity: str, seed: int = 0) -> Trained:
    """Networks of presets with random weights, none of them zero: for measurements that need no training.

    Args:
        estimator: Name in `ESTIMATOR_PRESETS`.
        vae: Name in `VAE_PRESETS`.
        velocity: Name in `VELOCITY_PRESETS`.
        seed: Seed of the weights.
    """
    torch.manual_seed(seed)
    built = (build(ESTIMATOR_PRESETS[estimator]), build(VAE_PRESETS[vae]), build(VELOCITY_PRESETS[velocity]))
    for network in built:
        awaken(network.eval().requires_grad_(False))
    channels = built[1].config.latent_channels
    return Trained(*built, LatentStatistics((0.0,) * channels, (1.0,) * channels, (0.1,) * channels), {})


@torch.no_grad()
def awaken(network: nn.Module) -> None:
    """Replace weights that are all zero (layers that start as the identity) by small random numbers, in place."""
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(0, 0.02)
