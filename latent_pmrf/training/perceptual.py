"""Perceptual loss on features of VGG19 (Johnson et al., 2016), as the paper trains Sim-VAE with it (appendix B.2).

The weights are torchvision's file `vgg19-dcbb9e9d.pth` (or a file with its keys, of any widths); they come with no
package, so the user gives the path.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from latent_pmrf.checkpoints import read_public

# Position in torchvision's `features` of the convolutions of each block; a pooling follows each block but the last.
_BLOCKS = ((0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28, 30, 32, 34))
# Weight of the features before the ReLU, by convolution (conv1_2, conv2_2, conv3_4, conv4_4, conv5_4).
LAYER_WEIGHTS: Mapping[int, float] = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """Weighted L1 distance of VGG19's features, frozen.

    Args:
        kernels: Weight and bias of each convolution, by its position.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, kernels: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict()
        for position, (weight, bias) in kernels.items():
            convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            convolution.load_state_dict({"weight": weight, "bias": bias})
            self.convolutions[str(position)] = convolution
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of two (B, 3, H, W) batches in [-1, 1], H and W at least 16."""
        with torch.no_grad():
            wanted = self._features(target)
        found = self._features(prediction)
        terms = [LAYER_WEIGHTS[position] * F.l1_loss(found[position], wanted[position]) for position in LAYER_WEIGHTS]
        return torch.stack(terms).sum()

    def _features(self, image: torch.Tensor) -> dict[int, torch.Tensor]:
        x = (image * 0.5 + 0.5 - self.mean) / self.std
        features: dict[int, torch.Tensor] = {}
        for block in _BLOCKS:
            if block is not _BLOCKS[0]:
                x = F.max_pool2d(x, 2)
            for position in block:
                x = self.convolutions[str(position)](x)
                if position in LAYER_WEIGHTS:
                    features[position] = x.float()
                x = F.relu(x)
        return features


def load_perceptual_loss(path: Path) -> PerceptualLoss:
    """The loss of a file with torchvision's VGG19 keys (`features.{i}.weight`, `features.{i}.bias`).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, or a convolution is missing or has another shape; the message names it.
    """
    tensors = read_public(path)
    kernels: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    channels = 3
    for position in (position for block in _BLOCKS for position in block):
        weight, bias = (tensors.get(f"features.{position}.{name}") for name in ("weight", "bias"))
        if weight is None or bias is None:
            raise ValueError(f"{path} has no features.{position}.weight and bias; is it a VGG19 of torchvision?")
        if tuple(weight.shape[1:]) != (channels, 3, 3):
            raise ValueError(f"{path}: features.{position}.weight has the shape {tuple(weight.shape)}")
        kernels[position] = (weight.float(), bias.float())
        channels = int(weight.shape[0])
    return PerceptualLoss(kernels)
