"""The graphs of a bundle: which module each one is, and the names, shapes and ranges of its tensors.

A flow in latent space has four; one in pixel space (PMRF) has two, the estimator and the velocity.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from export.trained import Trained
from latent_pmrf.config import UNetConfig
from latent_pmrf.nets.sim_vae import SimVAE

Range = tuple[float, float]
NETWORKS = frozenset({"estimator", "vae_encoder", "velocity", "vae_decoder"})
"""Every graph that a bundle can have."""


@dataclass(frozen=True, slots=True)
class TensorFace:
    """One input or output of a graph.

    Attributes:
        name: Name in the graph.
        shape: Sizes after the batch dimension.
        range: Least and greatest value, or None where the values have no bounds.
        picture: Whether the values are those of a picture, which is what examples of them must look like.
    """

    name: str
    shape: tuple[int, ...]
    range: Range | None = None
    picture: bool = False


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One network as it is exported.

    Attributes:
        name: Folder in the model repository.
        module: Takes the inputs in order, all with a leading batch dimension, and returns the output.
        inputs: The inputs.
        output: The output.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorFace, ...]
    output: TensorFace


class PosteriorMean(nn.Module):
    """The mean of the encoder's posterior alone."""

    def __init__(self, vae: SimVAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, S, S) in [-1, 1] to (B, C, h, w)."""
        return self.vae.encode(image)[0]


class Decoding(nn.Module):
    """The decoder alone."""

    def __init__(self, vae: SimVAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, 3, S, S)."""
        return self.vae.decode(latent)


def native_size_px(trained: Trained) -> int | None:
    """Side of the only face crops that the estimator takes, or None where it takes any."""
    config = trained.estimator.config
    return config.image_size_px if isinstance(config, UNetConfig) else None


def graph_specs(trained: Trained, image_size_px: int) -> tuple[GraphSpec, ...]:
    """Describe the graphs, in the order of the pipeline.

    Args:
        trained: The networks.
        image_size_px: Side of the face crops; fixed in the graphs.

    Raises:
        ValueError: The networks do not work at that size.
    """
    native_px = native_size_px(trained)
    if native_px is not None and native_px != image_size_px:
        raise ValueError(f"the estimator works on {native_px} px, not {image_size_px}")
    image = (3, image_size_px, image_size_px)
    state = trained.restorer.state_shape(image_size_px)
    unit, signed = (0.0, 1.0), (-1.0, 1.0)
    estimator = GraphSpec(
        "estimator",
        trained.estimator,
        (TensorFace("image", image, unit, picture=True),),
        TensorFace("posterior_mean", image),
    )
    states = [TensorFace("x_t", state, picture=trained.vae is None), TensorFace("t", (), unit)]
    if trained.velocity.config.mean_conditioned:
        states.append(TensorFace("source_mean", state, picture=trained.vae is None))
    velocity = GraphSpec(
        "velocity",
        trained.velocity,
        tuple(states),
        TensorFace("velocity", state),
    )
    if trained.vae is None:
        return estimator, velocity
    downscale = trained.vae.config.downscale
    if image_size_px % downscale:
        raise ValueError(f"image_size_px {image_size_px} must be a multiple of the autoencoder's downscale {downscale}")
    encoder = GraphSpec(
        "vae_encoder",
        PosteriorMean(trained.vae),
        (TensorFace("image", image, signed, picture=True),),
        TensorFace("latent", state),
    )
    decoder = GraphSpec(
        "vae_decoder", Decoding(trained.vae), (TensorFace("latent", state),), TensorFace("image", image)
    )
    return estimator, encoder, velocity, decoder
