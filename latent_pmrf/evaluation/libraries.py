"""Public weights of the metrics, in the networks that well-kept libraries build for them: the `metrics` extra.

    lpips   torchvision's alexnet or vgg16     torchmetrics (which brings the linear layers)
    dists   torchvision's vgg16                torchmetrics (which brings alpha and beta)
    musiq   pyiqa's musiq_*.pth                pyiqa
    fid     torch-fidelity's Inception         torch-fidelity
    dinov2  a folder of transformers           transformers

A file is read as tensors alone, nothing in it is run, and a library sees only a copy written from those tensors.
Nothing is downloaded. An ImportError or RuntimeError says that a library is missing or does not work here (torchvision
does not with the CPU build of torch on some registries).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]
PairNetwork = Callable[[F32Array, F32Array], F32Array]
"""Outputs and references (B, 3, S, S) in [0, 1] to distances (B,)."""
ImageNetwork = Callable[[F32Array], F32Array]

_ROWS_AT_ONCE = 8


def load_lpips(path: Path, device: str) -> PairNetwork:
    """LPIPS on AlexNet or VGG16, whichever `path` holds.

    Raises:
        ImportError, RuntimeError: torchmetrics or torchvision is missing or does not work.
        ValueError: The file holds neither network.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    is_alexnet = _first_kernel_px(path) == 11
    weights = AlexNet_Weights.DEFAULT if is_alexnet else VGG16_Weights.DEFAULT
    with _in_torch_hub(weights.url, path):
        metric = LearnedPerceptualImagePatchSimilarity("alex" if is_alexnet else "vgg", normalize=True)
    return _one_by_one(metric.to(device).eval(), device)


def load_dists(path: Path, device: str) -> PairNetwork:
    """DISTS on VGG16.

    Raises:
        ImportError, RuntimeError: torchmetrics or torchvision is missing or does not work.
        ValueError: The file does not hold the network.
    """
    from torchmetrics.functional.image.dists import DISTSNetwork  # its metric would build the network at every call
    from torchvision.models import VGG16_Weights

    if _first_kernel_px(path) != 3:
        raise ValueError(f"{path} does not hold torchvision's vgg16")
    with _in_torch_hub(VGG16_Weights.DEFAULT.url, path):
        network = DISTSNetwork()
    return _one_by_one(network.to(device).eval(), device)


def load_musiq(path: Path, device: str) -> ImageNetwork:
    """MUSIQ: (B, 3, S, S) in [0, 1] to scores (B,).

    Raises:
        ImportError, RuntimeError: pyiqa or torchvision is missing or does not work.
        ValueError: The file does not hold the network.
    """
    import torch
    from pyiqa import create_metric

    with _tensors_alone(path) as copy:
        metric = create_metric("musiq", device=torch.device(device), pretrained_model_path=str(copy))

    def run(images: F32Array) -> F32Array:
        with torch.inference_mode():
            scores = [metric(torch.from_numpy(image[None]).to(device)).item() for image in images]
        return np.asarray(scores, dtype=np.float32)

    return run


def load_inception(path: Path, device: str) -> ImageNetwork:
    """The Inception of FID: (B, 3, S, S) in [0, 255] to features (B, 2048).

    Raises:
        ImportError, RuntimeError: torch-fidelity or torchvision is missing or does not work.
        ValueError: The file does not hold the network.
    """
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with _tensors_alone(path) as copy:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(copy)).to(device)

    def run(images: F32Array) -> F32Array:
        with torch.inference_mode():
            return _in_parts(lambda rows: network(rows.round().to(torch.uint8))[0], images, device)

    return run


def load_dinov2(folder: Path, device: str) -> ImageNetwork:
    """DINOv2: normalised pictures (B, 3, 224, 224) to class tokens after the last norm (B, D).

    Args:
        folder: What `transformers` saves: config.json and model.safetensors (`facebook/dinov2-large` is the paper's).
        device: Where to run.

    Raises:
        ImportError: transformers is missing.
        ValueError: The folder does not hold the network.
    """
    import torch
    from transformers import AutoModel

    try:
        network = AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True).to(device).eval()
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{folder} is no folder of transformers: {error}") from error
    if not network.config.model_type.startswith("dinov2"):
        raise ValueError(f"{folder} holds {network.config.model_type}, not dinov2")

    def run(images: F32Array) -> F32Array:
        with torch.inference_mode():
            return _in_parts(lambda rows: network(pixel_values=rows).last_hidden_state[:, 0], images, device)

    return run


def _one_by_one(metric: Callable[..., Any], device: str) -> PairNetwork:
    """A metric of torchmetrics averages over a batch: ask for one picture at a time."""
    import torch

    def run(images: F32Array, references: F32Array) -> F32Array:
        with torch.inference_mode():
            pairs = zip(torch.from_numpy(images), torch.from_numpy(references), strict=True)
            scores = [metric(image[None].to(device), other[None].to(device)).item() for image, other in pairs]
        return np.asarray(scores, dtype=np.float32)

    return run


def _in_parts(network: Callable[[Any], Any], images: F32Array, device: str) -> F32Array:
    import torch

    starts = range(0, len(images), _ROWS_AT_ONCE)
    parts = [network(torch.from_numpy(images[start : start + _ROWS_AT_ONCE]).to(device)) for start in starts]
    return np.concatenate([part.float().cpu().numpy() for part in parts])


def _first_kernel_px(path: Path) -> int:
    from latent_pmrf.checkpoints import read_public

    kernel = read_public(path).get("features.0.weight")
    if kernel is None or kernel.ndim != 4 or kernel.shape[-1] not in (3, 11):
        raise ValueError(f"{path} holds neither torchvision's alexnet nor its vgg16")
    return int(kernel.shape[-1])


@contextmanager
def _tensors_alone(path: Path, name: str = "weights.pth") -> Iterator[Path]:
    """A copy of the weights that is safe to unpickle, for libraries that unpickle without restriction."""
    import torch

    from latent_pmrf.checkpoints import read_public

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkpoints" / name
        copy.parent.mkdir()
        torch.save(read_public(path), copy)
        yield copy


@contextmanager
def _in_torch_hub(url: str, path: Path) -> Iterator[None]:
    """Where torchvision looks for the weights of `url` before it would download them."""
    import torch

    before = torch.hub.get_dir()
    with _tensors_alone(path, url.rpartition("/")[2]) as copy:
        torch.hub.set_dir(str(copy.parent.parent))
        try:
            yield
        finally:
            torch.hub.set_dir(before)
