"""Held-out faces at the model's size: clean, and degraded with fixed parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from latent_pmrf.data.degradation import U8Image
from latent_pmrf.data.pictures import pictures_in, read_rgb


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """One degradation level.

    Attributes:
        name: `moderate` or `severe`.
        clean: (N, 3, S, S) float32 in [0, 1].
        degraded: (N, 3, S, S) float32 in [0, 1].
    """

    name: str
    clean: npt.NDArray[np.float32]
    degraded: npt.NDArray[np.float32]

    def map(self, function: Callable[[torch.Tensor], torch.Tensor], batch_size: int = 8) -> npt.NDArray[np.float32]:
        """Apply `function` to the degraded images batch by batch."""
        batches = [
            function(torch.from_numpy(self.degraded[start : start + batch_size]))
            for start in range(0, len(self.degraded), batch_size)
        ]
        return torch.cat(batches).float().cpu().numpy()


def load_validation(root: Path, size_px: int, limit: int | None = None) -> list[ValidationSet]:
    """Load `root/{clean,moderate,severe}`, shrunk to `size_px` by Lanczos; of many, `limit` spread over the names.

    Raises:
        FileNotFoundError: The folder holds no clean faces, or one lacks a degraded version.
        ValueError: A face cannot be read or is not square, or two have one name.
    """
    names = sorted(_pictures(root / "clean"))
    if not names:
        raise FileNotFoundError(f"no faces in {root / 'clean'}")
    if limit is not None and limit < len(names):
        names = [names[index * len(names) // limit] for index in range(limit)]
    clean = _load(root / "clean", names, size_px)
    return [ValidationSet(level, clean, _load(root / level, names, size_px)) for level in ("moderate", "severe")]


def to_planes(images: U8Image) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) uint8 over the same memory, which is channels-last."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def to_tensor(images: U8Image) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [0, 1], channels-last in memory."""
    return to_planes(images).float().div_(255)


def _load(folder: Path, names: Sequence[str], size_px: int) -> npt.NDArray[np.float32]:
    images, pictures = [], _pictures(folder)
    for name in names:
        if name not in pictures:
            raise FileNotFoundError(f"{folder / name}.* does not exist")
        face = read_rgb(pictures[name], str(pictures[name]))
        if face.width != face.height:
            raise ValueError(f"{pictures[name]} has {face.width} x {face.height} pixels; validation takes square crops")
        resized = face.resize((size_px, size_px), Image.Resampling.LANCZOS)
        images.append(np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / 255)
    return np.stack(images)


def _pictures(folder: Path) -> dict[str, Path]:
    return pictures_in(folder) if folder.is_dir() else {}
