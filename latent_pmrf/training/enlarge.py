"""An estimator for pictures twice as large that begins with what the small one has learnt.

Twice as many pixels are folded into each token, so the tokens, and everything between the first and the last
convolution, stay what they are. The first convolution averages the new pixels of an old one, the last one repeats its
residual over them: the result computes what the small network computes on the shrunk picture, and training goes on from
there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from latent_pmrf.config import UNetConfig

FACTOR = 2


def enlarged(config: UNetConfig) -> UNetConfig:
    """Specification of the estimator for pictures of twice the side."""
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


def _spread(kernel: Tensor, side: int, dim: int) -> Tensor:
    """Repeat every folded pixel of dimension `dim`, ordered (channel, y, x), over the pixels that replace it."""
    folded = kernel.unflatten(dim, (-1, side, side))
    folded = folded.repeat_interleave(FACTOR, dim + 1).repeat_interleave(FACTOR, dim + 2)
    return folded.flatten(dim, dim + 2)
