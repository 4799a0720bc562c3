"""Measures whose weights the user gives: `--weights KIND=FILE`. What cannot be measured is named with its reason.

    arcface  (B, 3, 112, 112) RGB (x - 127.5) / 127.5, or one grey channel -> embeddings
    lpips, dists  outputs and clean faces (B, 3, S, S) in [0, 1] -> distances (B,)
    musiq    (B, 3, S, S) in [0, 1] -> scores (B,)
    fid      (B, 3, S, S) in [0, 255] -> features (B, D)
    dinov2   (B, 3, 224, 224) normalised as for ImageNet -> features (B, D), or tokens (B, T, D) with the class first

A file of ONNX or TorchScript takes and gives these; other files are public weights for `libraries`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from latent_pmrf.evaluation import libraries
from latent_pmrf.evaluation.identity import angle_deg
from latent_pmrf.evaluation.measures import WEIGHTS
from latent_pmrf.evaluation.network_files import ONNX_SUFFIXES, TORCHSCRIPT_SUFFIXES, Network, open_network
from latent_pmrf.evaluation.panel import Panel
from latent_pmrf.evaluation.template import ARCFACE_112, FFHQ_512, REFERENCE_SIZE_PX, similarity

U8Image = npt.NDArray[np.uint8]
F32Array = npt.NDArray[np.float32]

FEATURE_KINDS = ("fid", "dinov2")
_DINOV2_PX = 224
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ARCFACE_PX = 112


@dataclass(frozen=True, slots=True)
class LearnedMeasures:
    """What the given weights allow.

    Attributes:
        panels: By measure key, outputs of one face to one number each.
        features: By kind (`fid`, `dinov2`), pictures (B, S, S, 3) uint8 to features (B, D).
        skipped: Reason by measure key.
    """

    panels: Mapping[str, Callable[[Panel], Sequence[float]]]
    features: Mapping[str, Callable[[U8Image], F32Array]]
    skipped: Mapping[str, str]


def load_learned(weights: Mapping[str, Path], device: str = "cpu") -> LearnedMeasures:
    """Load the networks of the given weights.

    Args:
        weights: Files by kind, a key of `measures.WEIGHTS`.
        device: Where torch runs.

    Raises:
        ValueError: A kind is unknown, or a file is missing, damaged or of another network.
    """
    panels: dict[str, Callable[[Panel], Sequence[float]]] = {}
    features: dict[str, Callable[[U8Image], F32Array]] = {}
    skipped: dict[str, str] = {}
    for kind in weights:
        if kind not in WEIGHTS:
            raise ValueError(f"--weights {kind}: expected one of {', '.join(WEIGHTS)}")
    for kind, keys in WEIGHTS.items():
        path = weights.get(kind)
        if path is None:
            if kind != "arcface":  # identity goes without, by dlib
                skipped |= dict.fromkeys(keys, f"no weights given (--weights {kind}=FILE)")
            continue
        if not path.exists():
            raise ValueError(f"--weights {kind}: {path} does not exist")
        try:
            if kind in FEATURE_KINDS:
                features[kind] = _load_features(kind, path, device)
            else:
                panels[keys[0]] = _load_panel_measure(kind, path, device)
        except (ImportError, RuntimeError, AttributeError, OSError) as error:
            # AttributeError: torchvision is left half imported where it does not fit torch. OSError: no download.
            advice = "install the `metrics` extra: " if isinstance(error, ImportError) else "does not load: "
            skipped |= dict.fromkeys(keys, f"{advice}{type(error).__name__}: {_first_line(error)}")
    return LearnedMeasures(panels, features, skipped)


def _load_panel_measure(kind: str, path: Path, device: str) -> Callable[[Panel], Sequence[float]]:
    if kind == "arcface":
        return ArcFace(open_network(path, device))
    network: Callable[..., F32Array]
    if _is_whole(path):
        network = open_network(path, device)
    elif kind == "musiq":
        network = libraries.load_musiq(path, device)
    else:
        network = (libraries.load_lpips if kind == "lpips" else libraries.load_dists)(path, device)
    needs_clean = kind != "musiq"

    def measure(panel: Panel) -> Sequence[float]:
        inputs = [_channels_first(panel.outputs) / np.float32(255)]
        if needs_clean:
            if panel.clean is None:
                raise ValueError(f"{kind} compares with a clean face")
            inputs.append(np.repeat(_channels_first(panel.clean[None]) / np.float32(255), len(panel.outputs), 0))
        return _one_each(network(*inputs), len(panel.outputs), kind)

    return measure


class ArcFace:
    """Identity angle by a network that embeds aligned 112 px faces; a graph of one channel gets the luma."""

    def __init__(self, network: Network) -> None:
        shape = network.input_shape
        self._network = network
        self._channels = (shape[1] if len(shape) == 4 else None) or 3
        self._size_px = (shape[2] if len(shape) == 4 else None) or _ARCFACE_PX

    def __call__(self, panel: Panel) -> Sequence[float]:
        """Degrees between each output and the clean face."""
        if panel.clean is None:
            raise ValueError("identity compares with a clean face")
        crops = np.stack([self.crop(image) for image in (panel.clean, *panel.outputs)])
        reference, *embeddings = self._network(crops).astype(np.float64).reshape(len(crops), -1)
        return [angle_deg(embedding, reference) for embedding in embeddings]

    def crop(self, image: U8Image) -> F32Array:
        """(C, s, s) float32 in [-1, 1] of an (S, S, 3) face on the FFHQ template."""
        source, target = FFHQ_512 * (image.shape[0] / REFERENCE_SIZE_PX), ARCFACE_112 * (self._size_px / _ARCFACE_PX)
        matrix = similarity(source, target)
        side = (self._size_px, self._size_px)
        # Shrinking four times by bilinear samples would alias: blur first, by what the scale asks for.
        sigma = max(0.0, 0.5 * (1.0 / float(np.hypot(matrix[0, 0], matrix[1, 0])) - 1.0))
        smooth = cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0 else image
        face = cv2.warpAffine(smooth, matrix, side, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        pixels = np.asarray(face, dtype=np.float32)
        if self._channels == 1:
            pixels = (pixels @ np.asarray((0.299, 0.587, 0.114), dtype=np.float32))[..., None]
        return np.ascontiguousarray((pixels.transpose(2, 0, 1) - 127.5) / 127.5, dtype=np.float32)


def _load_features(kind: str, path: Path, device: str) -> Callable[[U8Image], F32Array]:
    if _is_whole(path):
        network = open_network(path, device)
        sides = network.input_shape[2:] if len(network.input_shape) == 4 else ()
        size_px = sides[0] if sides else None
        run: Callable[[F32Array], F32Array] = network
    else:
        size_px = None
        run = (libraries.load_inception if kind == "fid" else libraries.load_dinov2)(path, device)

    def features(images: U8Image) -> F32Array:
        if kind == "fid":
            pixels = _channels_first(images if size_px is None else _resized(images, size_px))
        else:
            unit = _channels_first(_resized(images, size_px or _DINOV2_PX)) / np.float32(255)
            column = (1, 3, 1, 1)
            mean, std = (np.asarray(part, np.float32).reshape(column) for part in (_IMAGENET_MEAN, _IMAGENET_STD))
            pixels = (unit - mean) / std
        found = run(pixels)
        if found.ndim == 3:
            found = found[:, 0]
        if len(found) != len(images) or found[0].size < 2:
            raise ValueError(f"--weights {kind}: expected features (B, D), found {found.shape}")
        return np.asarray(found.reshape(len(found), -1), dtype=np.float32)

    return features


def _is_whole(path: Path) -> bool:
    """Whether the file holds graph and weights."""
    return path.is_file() and path.suffix in ONNX_SUFFIXES | TORCHSCRIPT_SUFFIXES


def _one_each(values: F32Array, count: int, kind: str) -> Sequence[float]:
    if values.size != count:
        raise ValueError(f"--weights {kind}: expected {count} numbers, found {values.shape}")
    return [float(value) for value in values.reshape(-1)]


def _channels_first(images: U8Image) -> F32Array:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)


def _resized(images: U8Image, size_px: int) -> U8Image:
    if images.shape[1] == size_px:
        return images
    side = (size_px, size_px)
    return np.stack([np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BICUBIC)) for image in images])


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
