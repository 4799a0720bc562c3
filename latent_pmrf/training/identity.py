"""Identity loss: how far the embedding of a face moves from that of the clean photograph.

    aligned crop -> 150 px chip -> dlib's face recognition network (ResNet of 29 convolutions) -> 128-d embedding

The usual third term of face restoration (GFPGAN, Wang et al., 2021: "identity preserving loss", there with
ArcFace). dlib's network is the one whose weights are in the public domain and come in a package,
`face_recognition_models`; its file is read as it is, without dlib.

The chip of an aligned crop is nearly the same for everybody, so it is cut by the median placement instead of by
landmarks, and moved a little at random, lest the estimator learns one sampling grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from latent_pmrf.dlib_models import RECOGNITION, dlib_model

CHIP_SIZE_PX = 150
EMBEDDING_SIZE = 128
# Median of dlib's own chips (5 landmarks, padding 0.25) on 371 aligned photographs, relative to the side of the crop;
# between people the side spreads by 8 % and the centre by 1 %.
_CHIP_CENTRE = (0.505, 0.600)  # x, y
_CHIP_SIDE = 0.684
_LEAST_SQUARE = 0.01  # of a distance that a share is of: faces nearer than 0.1 are as good as the same
_SCALE_JITTER = 0.06
_SHIFT_JITTER = 0.015
_MEAN = (122.782, 117.001, 104.298)  # of the levels of red, green and blue, as dlib subtracts it
_STEM_CHANNELS = 32
# (channels, whether the spatial size is halved) of the residual blocks, in the order of the forward pass.
_BLOCKS: Sequence[tuple[int, bool]] = (
    *[(32, False)] * 3,
    *((64, True), (64, False), (64, False), (64, False)),
    *((128, True), (128, False), (128, False)),
    *((256, True), (256, False), (256, False)),
    (256, True),
)


class _Residual(nn.Module):
    """Two convolutions, each with the affine rest of its batch norm, beside the identity or a mean of 2 x 2."""

    def __init__(self, in_channels: int, channels: int, *, halve: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, stride=2 if halve else 1, padding=0 if halve else 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.halve = halve

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.second(F.relu(self.first(x)))
        skip = F.avg_pool2d(x, 2) if self.halve else x
        # dlib adds tensors of different shapes as if the smaller one went on with zeros.
        channels, height, width = (max(branch.shape[i], skip.shape[i]) for i in (1, 2, 3))
        return F.relu(_zero_padded(branch, channels, height, width) + _zero_padded(skip, channels, height, width))


def _zero_padded(x: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2], 0, channels - x.shape[1]))


class FaceEmbedder(nn.Module):
    """dlib's face recognition network, frozen; the affine layers are folded into the convolutions before them."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _STEM_CHANNELS, 7, stride=2)
        widths = (_STEM_CHANNELS, *(channels for channels, _ in _BLOCKS))
        self.blocks = nn.ModuleList(
            _Residual(before, channels, halve=halve)
            for before, (channels, halve) in zip(widths[:-1], _BLOCKS, strict=True)
        )
        self.projection = nn.Linear(widths[-1], EMBEDDING_SIZE, bias=False)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1) / 255)
        self.eval().requires_grad_(False)

    def convolutions(self) -> Iterator[nn.Conv2d]:
        """In the order of the forward pass, which is that of the file."""
        yield self.stem
        for block in self.blocks:
            assert isinstance(block, _Residual)  # noqa: S101 - narrows the type
            yield block.first
            yield block.second

    def forward(self, chip: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, 128) of chips (B, 3, 150, 150) in [0, 1]; below 0.6 apart, usually the same person."""
        x = (chip.float() - self.mean) * (255 / 256)
        x = F.max_pool2d(F.relu(self.stem(x)), 3, stride=2)
        for block in self.blocks:
            x = block(x)
        embedding: torch.Tensor = self.projection(x.mean((2, 3)))
        return embedding


def load_face_embedder(path: Path | None = None) -> FaceEmbedder:
    """The network of dlib's file.

    Args:
        path: dlib's file; without it, the one of the package `face_recognition_models`.

    Raises:
        FileNotFoundError: There is no such file, or the package is not installed.
        ValueError: The file does not hold the tensors of that network.
    """
    path = path or dlib_model(RECOGNITION)
    network = FaceEmbedder()
    tensors = _Tensors(path)
    with torch.no_grad():
        for convolution in network.convolutions():
            shape = tuple(convolution.weight.shape)
            values = tensors.next((int(np.prod(shape)) + shape[0], 1, 1, 1))
            weight, bias = values[: -shape[0]].reshape(shape), values[-shape[0] :]
            gamma, beta = tensors.next((2 * shape[0], 1, 1, 1)).reshape(2, shape[0])
            convolution.weight.copy_(weight * gamma.view(-1, 1, 1, 1))
            assert convolution.bias is not None  # noqa: S101 - narrows the type
            convolution.bias.copy_(bias * gamma + beta)
        shape = (network.projection.in_features, EMBEDDING_SIZE, 1, 1)
        network.projection.weight.copy_(tensors.next(shape).reshape(shape[:2]).T)
    return network


class IdentityLoss(nn.Module):
    """Mean squared distance of the embeddings of two batches of aligned crops.

    Its minimiser is the posterior mean of the embedding, as that of the MSE is the posterior mean of the picture.
    """

    def __init__(self, embedder: FaceEmbedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, prediction: torch.Tensor, target: torch.Tensor, seed: int) -> torch.Tensor:
        """The loss of two (B, 3, S, S) batches in [0, 1], aligned to the FFHQ template; `seed` draws the placements.

        Differentiable in `prediction`.
        """
        return self._squares([prediction], target, seed)[0].mean()

    def over(self, began: torch.Tensor, prediction: torch.Tensor, target: torch.Tensor, seed: int) -> torch.Tensor:
        """The loss of `prediction` as a share of that of `began`, face by face, and then their mean.

        Args:
            began: (B, 3, S, S) in [0, 1], as the other two; no gradients flow into it.
            prediction: Differentiable.
            target: The clean faces.
            seed: As above.
        """
        before, after = self._squares([began.detach(), prediction], target, seed)
        return (after / (before + _LEAST_SQUARE)).mean()

    def _squares(self, images: Sequence[torch.Tensor], target: torch.Tensor, seed: int) -> list[torch.Tensor]:
        """Squared distances (B,) of each of some batches from the target, all cut alike."""
        generator = torch.Generator().manual_seed(seed)
        jitter = torch.rand(len(target), 3, generator=generator) * 2 - 1
        grid = _chip_grid(jitter).to(target.device)
        with torch.no_grad():
            wanted = self.embedder(_chips(target.float(), grid))
        return [(self.embedder(_chips(image.float().clamp(0, 1), grid)) - wanted).square().sum(1) for image in images]

    @torch.no_grad()
    def distances(self, images: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Distances (N,) of the embeddings of two (N, 3, S, S) batches in [0, 1], all chips at the median placement.

        In float32 under any autocast: it is a figure to compare runs by.
        """
        device = self.embedder.mean.device
        grid = _chip_grid(torch.zeros(1, 3)).to(device)

        def embed(image: npt.NDArray[np.float32]) -> torch.Tensor:
            embedding: torch.Tensor = self.embedder(_chips(torch.from_numpy(image[None]).to(device), grid))
            return embedding[0]

        with torch.autocast(device.type, enabled=False):
            pairs = zip(images, others, strict=True)
            return np.array([float((embed(one) - embed(other)).norm()) for one, other in pairs], dtype=np.float32)


def _chip_grid(jitter: torch.Tensor) -> torch.Tensor:
    """Where chips are cut, for `grid_sample`: (B, 150, 150, 2) of moves and scalings (B, 3) in [-1, 1]."""
    count = len(jitter)
    side = _CHIP_SIDE * (1 + _SCALE_JITTER * jitter[:, 2])
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = torch.tensor(_CHIP_CENTRE) * 2 - 1 + 2 * _SHIFT_JITTER * jitter[:, :2]
    with torch.autocast("cpu", enabled=False):  # it is a product, and bfloat16 would round places to half a pixel
        return F.affine_grid(theta, [count, 3, CHIP_SIZE_PX, CHIP_SIZE_PX], align_corners=False)


def _chips(images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    # A chip spans two thirds of the crop: halve larger crops until bilinear sampling leaves out no pixel.
    while images.shape[-1] * _CHIP_SIDE >= 2 * CHIP_SIZE_PX:
        images = F.avg_pool2d(images, 2)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="reflection")


class _Tensors:
    """The tensors of a network that dlib has written, one after the other; what stands between them is passed over.

    A tensor is its version (2) and four dimensions, each as a length byte and that many bytes, and then its float32
    values, the least significant byte first (dlib/serialize.h, dlib/cuda/tensor.h).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = path.read_bytes()
        self._position = 0

    def next(self, shape: tuple[int, int, int, int]) -> torch.Tensor:
        """The next tensor of that shape, flat."""
        header = b"".join(_packed(number) for number in (2, *shape))
        begin = self._data.find(header, self._position) + len(header)
        end = begin + 4 * int(np.prod(shape))
        if begin < len(header) or end > len(self._data):
            raise ValueError(f"{self._path} has no tensor of the shape {shape} where {RECOGNITION} of dlib has one")
        self._position = end
        values: npt.NDArray[np.float32] = np.frombuffer(self._data[begin:end], dtype="<f4").astype(np.float32)
        return torch.from_numpy(values)


def _packed(number: int) -> bytes:
    length = (number.bit_length() + 7) // 8
    return bytes([length]) + number.to_bytes(length, "little")
