"""Trained networks and what is known about their training, from the weights files of a training run or an import.

runs/{estimator, vae, flow}/weights.safetensors -> Trained; a flow in pixel space needs no vae
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.nets.build import Network, build
from latent_pmrf.nets.hdit import HDiT
from latent_pmrf.nets.sim_vae import SimVAE
from latent_pmrf.nets.swinir import SwinIR
from latent_pmrf.nets.unet import UNet
from latent_pmrf.restorer import Restorer
from latent_pmrf.training.checkpoint import load_weights
from latent_pmrf.training.frozen import encoder_digest

STAGES = ("estimator", "vae", "flow")
LICENCE = "Apache-2.0"
"""Of weights that were trained with this project's data; imported weights bring their own."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Everything that training hands to export.

    Attributes:
        estimator: Posterior-mean network.
        vae: Autoencoder, or None for a flow in pixel space.
        velocity: Velocity network.
        statistics: Latent statistics and source noise.
        recipes: Facts about each stage: of its training (optimiser settings with seed, steps, seconds), or of the file
            it was imported from, with its licence.
    """

    estimator: SwinIR | UNet
    vae: SimVAE | None
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
        networks = zip(STAGES, (self.estimator, self.vae, self.velocity), strict=True)
        return {stage: network for stage, network in networks if network is not None}

    @property
    def space(self) -> Literal["latent", "pixel"]:
        """Where the flow lives."""
        return "pixel" if self.vae is None else "latent"

    @property
    def licence(self) -> str:
        """The terms of the weights, by stage where they differ."""
        terms = {stage: self.recipes.get(stage, {}).get("licence", LICENCE) for stage in self.networks}
        kinds = set(terms.values())
        return kinds.pop() if len(kinds) == 1 else "; ".join(f"{stage}: {terms[stage]}" for stage in terms)

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
    """Read the weights files of a training run or of an import.

    Args:
        runs: Folder with `estimator/`, `flow/` and, for a flow in latent space, `vae/`.

    Raises:
        FileNotFoundError: A stage has no weights yet.
        ValueError: A file holds another kind of network, facts are missing, the flow starts elsewhere than at the
            posterior mean, or it was trained in the latents of another encoder.
    """
    velocity, flow_facts = _load(runs, "flow")
    source = flow_facts.get("source", "posterior_mean")
    if source != "posterior_mean":
        raise ValueError(f"{runs / 'flow'}: this flow starts at {source}, the service starts at the posterior mean")
    in_latents = flow_facts.pop("space", "latent") == "latent"
    estimator, estimator_facts = _load(runs, "estimator")
    vae, vae_facts = _load(runs, "vae") if in_latents else (None, {})
    facts = {"estimator": estimator_facts, "vae": vae_facts, "flow": flow_facts}
    if not isinstance(estimator, SwinIR | UNet) or not isinstance(vae, SimVAE | None) or not isinstance(velocity, HDiT):
        kinds = {stage: type(found).__name__ for stage, found in zip(STAGES, (estimator, vae, velocity), strict=True)}
        raise ValueError(f"{runs}: expected an estimator, a Sim-VAE and an HDiT, found {kinds}")
    encoder = flow_facts.get("encoder_sha256")
    if encoder is not None and isinstance(vae, SimVAE) and encoder != encoder_digest(vae.state_dict()):
        raise ValueError(
            f"{runs / 'flow'} was trained in the latents of another encoder than that of {runs / 'vae'}: train the "
            "flow again, or take the autoencoder that it was trained with"
        )
    try:
        mean, std, sigma_s = (tuple(facts["flow"].pop(name)) for name in ("latent_mean", "latent_std", "sigma_s"))
    except KeyError as error:
        raise ValueError(f"{runs / 'flow'}: the weights file lacks {error.args[0]}") from error
    recipes = {stage: facts[stage] for stage in STAGES if facts[stage]}
    return Trained(estimator, vae, velocity, LatentStatistics(mean, std, sigma_s), recipes)


def _load(runs: Path, stage: str) -> tuple[Network, dict[str, Any]]:
    path = runs / stage / "weights.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; train or import that stage first")
    weights = load_weights(path)
    network = build(weights.config)
    network.load_state_dict(weights.state_dict)
    return network.eval().requires_grad_(False), dict(weights.info)


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """Round every matrix and kernel to the nearest half-precision number, in place; the values stay float32.

    Half precision keeps 11 bits, so the file needs two bytes a weight. Vectors (biases, norms) are small and stay
    exact, and so do buffers. What is rounded here is what ships: PyTorch and onnxruntime are compared on these values.
    """
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.half().float())


@torch.no_grad()
def awaken(network: nn.Module) -> None:
    """Replace weights that are all zero (layers that start as the identity) by small random numbers, in place."""
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(0, 0.02)
