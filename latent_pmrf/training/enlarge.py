"""Networks for pictures twice as large that begin with what the small ones have learnt.

Estimator: twice as many pixels are folded into each token, so the tokens, and everything between the first and the last
convolution, stay what they are. The first convolution averages the new pixels of an old one, the last one repeats its
residual over them: the result computes what the small network computes on the shrunk picture, and training goes on from
there.

Velocity network: the small one becomes the inner levels of an hourglass with one level more, at the resolution of the
larger latent. That level, the entrance and the exit are new; `--init` takes the rest. Folding the larger latent into
the old tokens instead does not suffice: four places then share the outer width, and samples show a weave of two places
(docs/EXPERIMENTS.md, F7).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from latent_pmrf.config import HDiTConfig, UNetConfig

FACTOR = 2
OUTER_WIDTH = 64
_SHIFTED = ("down_blocks", "downs", "ups", "up_blocks")
_INNER = ("mapping", "mid_block", "time_proj", "timestep_embedder")


def enlarged(config: UNetConfig) -> UNetConfig:
    """Specification of the estimator for pictures of twice the side.

    Raises:
        ValueError: It shrinks wavelet bands, and would find others in the larger picture.
    """
    if config.shrinkage:
        raise ValueError("an estimator with shrinkage cannot be enlarged: its finest bands would be others")
    return dataclasses.replace(config, image_size_px=FACTOR * config.image_size_px, unshuffle=FACTOR * config.unshuffle)


def enlarge(config: UNetConfig, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `enlarged(config)` from that of `config`."""
    side = config.unshuffle
    return {
        **state_dict,
        "conv_in.weight": _spread(state_dict["conv_in.weight"], side, dim=1) / FACTOR**2,
        "conv_out.weight": _spread(state_dict["conv_out.weight"], side, dim=0),
        "conv_out.bias": _spread(state_dict["conv_out.bias"], side, dim=0),
    }


def enlarged_flow(config: HDiTConfig) -> HDiTConfig:
    """Specification of the velocity network for latents of twice the side."""
    return dataclasses.replace(
        config,
        widths=(OUTER_WIDTH, *config.widths),
        depths=(1, *config.depths),
        attention=("neighborhood", *config.attention),
        head_dim=(config.head_dim[0], *config.head_dim),
    )


def enlarge_flow(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that a network of `enlarged_flow` has in common with a smaller one, under their new names."""
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        part, _, rest = name.partition(".")
        if part in _SHIFTED:
            level, _, inner = rest.partition(".")
            tensors[f"{part}.{int(level) + 1}.{inner}"] = value
        elif part in _INNER:
            tensors[name] = value
    return tensors


def _spread(kernel: Tensor, side: int, dim: int) -> Tensor:
    """Repeat every folded pixel of dimension `dim`, ordered (channel, y, x), over the pixels that replace it."""
    folded = kernel.unflatten(dim, (-1, side, side))
    folded = folded.repeat_interleave(FACTOR, dim + 1).repeat_interleave(FACTOR, dim + 2)
    return folded.flatten(dim, dim + 2)
