"""The four graphs of a bundle: which module each one is, and the names, shapes and ranges of its tensors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from export.trained import Trained
from latent_pmrf.config import UNetConfig
from latent_pmrf.nets.sim_vae import SimVAE

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class TensorFace:
    """One input or output of a graph.

    Attributes:
        name: Name in the graph.
        shape: Sizes after the batch dimension.
        range: Least and greatest value, or None where the values have no bounds.
    """

    name: str
    shape: tuple[int, ...]
    range: Range | None = None


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


def graph_specs(trained: Trained, image_size_px: int) -> tuple[GraphSpec, ...]:
    """Describe the graphs, in the order of the pipeline.

    Args:
        trained: The networks.
        image_size_px: Side of the face crops; fixed in the graphs.

    Raises:
        ValueError: The networks do not work at that size.
    """
    fixed = trained.estimator.config
    if isinstance(fixed, UNetConfig) and fixed.image_size_px != image_size_px:
        raise ValueError(f"the estimator works on {fixed.image_size_px} px, not {image_size_px}")
    downscale = trained.vae.config.downscale
    if image_size_px % downscale:
        raise ValueError(f"image_size_px {image_size_px} must be a multiple of the autoencoder's downscale {downscale}")
    image = (3, image_size_px, image_size_px)
    latent = (trained.vae.config.latent_channels, image_size_px // downscale, image_size_px // downscale)
    unit, signed = (0.0, 1.0), (-1.0, 1.0)
    return (
        GraphSpec(
            "estimator", trained.estimator, (TensorFace("image", image, unit),), TensorFace("posterior_mean", image)
        ),
        GraphSpec(
            "vae_encoder",
            PosteriorMean(trained.vae),
            (TensorFace("image", image, signed),),
            TensorFace("latent", latent),
        ),
        GraphSpec(
            "velocity",
            trained.velocity,
            (TensorFace("x_t", latent), TensorFace("t", (), unit)),
            TensorFace("velocity", latent),
        ),
        GraphSpec("vae_decoder", Decoding(trained.vae), (TensorFace("latent", latent),), TensorFace("image", image)),
    )
