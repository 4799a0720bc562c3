"""Files of tiny networks in the place of those that measure pictures: arithmetic that a test can do again."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from onnx import helper
from torch import Tensor, nn

from tests.bundle import make_graph


def write_mean_difference(path: Path) -> Path:
    """ONNX, two pictures to their mean absolute difference (B, 1, 1, 1): in the place of LPIPS or DISTS."""
    shape = ["batch", 3, "height", "width"]
    nodes = [
        helper.make_node("Sub", ["image", "reference"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["size"]),
        helper.make_node("GlobalAveragePool", ["size"], ["channels"]),
        helper.make_node("ReduceMean", ["channels"], ["distance"], keepdims=1),
    ]
    nodes[-1].input.append("axes")
    nodes.insert(0, helper.make_node("Constant", [], ["axes"], value_ints=[1, 2, 3]))
    path.write_bytes(make_graph(nodes, {"image": shape, "reference": shape}, {"distance": ["batch", 1, 1, 1]}))
    return path


def write_averages(path: Path, side_px: int, channels: int = 3, batch: int | str = "batch", cell_px: int = 28) -> Path:
    """ONNX of a fixed size, a picture to averages of its cells (B, D): in the place of DINOv2 or ArcFace."""
    cells = (side_px // cell_px) ** 2 * channels
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[cell_px] * 2, strides=[cell_px] * 2),
        helper.make_node("Flatten", ["cells"], ["features"]),
    ]
    path.write_bytes(make_graph(nodes, {"image": [batch, channels, side_px, side_px]}, {"features": [batch, cells]}))
    return path


class Inception(nn.Module):
    """Called as NVIDIA's file of Inception is: logits, unless features are asked for."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        """Channel means (B, 3) of images in [0, 255]."""
        features = images.mean(dim=(2, 3))
        return features if return_features else features[:, :1]


class Tokens(nn.Module):
    """Called as a vision transformer is."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, 2, 3), the class first, and something else."""
        means = images.mean(dim=(2, 3))
        return torch.stack((means, means * 0), dim=1), means[:, 0]


class Brightness(nn.Module):
    """In the place of MUSIQ."""

    def forward(self, images: Tensor) -> Tensor:
        """100 times the mean (B,)."""
        return 100 * images.mean(dim=(1, 2, 3))


def write_torchscript(module: nn.Module, path: Path) -> Path:
    """A TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch deprecates the format that such files have
        torch.jit.script(module).save(str(path))
    return path
