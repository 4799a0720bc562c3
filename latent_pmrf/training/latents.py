"""The flow's training pairs: latents of posterior means and of clean faces, computed once and kept in a file.

    photograph -> degradation -> estimator -> encoder -> z_0
               ------------------------------> encoder -> z_1

A pair is a pure function of (seed, index) and of the frozen networks. Pairs are kept in a memory-mapped file the first
time they are needed, so `copies` degradations of every photograph cost their encoding once. What they were made from
stands beside them; a cache of other networks, photographs or degradations is refused, never reused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from latent_pmrf.data.datasets import FacePairs
from latent_pmrf.data.validation import ValidationSet, to_tensor
from latent_pmrf.nets.layers import channels_last
from latent_pmrf.nets.sim_vae import SimVAE

Pair = tuple[torch.Tensor, torch.Tensor]


class LatentPairs:
    """Cached raw latents (z_0, z_1) of `copies` degradations of every photograph.

    Args:
        pairs: Draws the photographs and their degradations.
        estimator: Frozen from here on.
        vae: Frozen from here on.
        copies: Degradations of every photograph.
        seed: Seed of the degradations.
        cache_dir: Folder of the cache.
        device: Where the networks run.

    Raises:
        ValueError: The cache was made from something else; the message names what.
    """

    def __init__(  # noqa: PLR0913 - the facts of a cache
        self,
        pairs: FacePairs,
        estimator: nn.Module,
        vae: SimVAE,
        *,
        copies: int,
        seed: int,
        cache_dir: Path,
        device: str = "cpu",
    ) -> None:
        self._pairs = pairs
        self._device = torch.device(device)
        self._estimator = channels_last(estimator.eval().requires_grad_(False).to(self._device))
        self._vae = channels_last(vae.eval().requires_grad_(False).to(self._device))
        self._seed = seed
        self.count = copies * len(pairs.images)
        cells = pairs.size_px // vae.config.downscale
        self.shape = (vae.config.latent_channels, cells, cells)
        cache_dir.mkdir(parents=True, exist_ok=True)
        _check_origin(cache_dir / "origin.json", {"copies": copies, "seed": seed, **_origin(pairs, estimator, vae)})
        self._latents = _memmap(cache_dir / "latents.f16", (self.count, 2, *self.shape), np.float16)
        self._done = _memmap(cache_dir / "done.u8", (self.count,), np.uint8)

    def get(self, indices: npt.NDArray[np.int64]) -> Pair:
        """Raw latents of the posterior mean and of the clean face, each (B, C, h, w) float32, on the CPU."""
        missing = np.unique(indices[self._done[indices] == 0])
        for start in range(0, len(missing), 8):
            self._compute(missing[start : start + 8])
        both = torch.from_numpy(self._latents[indices].astype(np.float32))
        return both[:, 0], both[:, 1]

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) in [0, 1] to the mean of the encoder's posterior, float32."""
        with torch.no_grad(), torch.autocast(self._device.type, dtype=torch.bfloat16):
            return self._vae.encode(image.to(self._device) * 2 - 1)[0].float()

    def posterior_mean(self, y: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) in [0, 1] to the estimate in [0, 1], float32."""
        with torch.no_grad(), torch.autocast(self._device.type, dtype=torch.bfloat16):
            return self._estimator(y.to(self._device)).float().clamp(0, 1)

    def decode(self, raw: torch.Tensor) -> torch.Tensor:
        """Raw latent to the image in [0, 1], float32."""
        with torch.no_grad(), torch.autocast(self._device.type, dtype=torch.bfloat16):
            return (self._vae.decode(raw.to(self._device)).float() * 0.5 + 0.5).clamp(0, 1)

    def _compute(self, indices: npt.NDArray[np.int64]) -> None:
        photographs = len(self._pairs.images)
        drawn = [
            self._pairs.pair(int(index) % photographs, np.random.default_rng((self._seed, 1, int(index))))
            for index in indices
        ]
        y, x = (to_tensor(np.stack(images)) for images in zip(*drawn, strict=True))
        z_0, z_1 = self.encode(self.posterior_mean(y)), self.encode(x)
        self._latents[indices] = torch.stack([z_0, z_1], dim=1).cpu().numpy().astype(np.float16)
        self._done[indices] = 1


def latents_of(level: ValidationSet, latents: LatentPairs) -> Pair:
    """Raw latents of the posterior mean and of the clean faces of a validation level."""
    degraded, clean = torch.from_numpy(level.degraded), torch.from_numpy(level.clean)
    sources = [latents.encode(latents.posterior_mean(batch)) for batch in degraded.split(8)]
    return torch.cat(sources), torch.cat([latents.encode(batch) for batch in clean.split(8)])


def discard_latents(cache_dir: Path) -> None:
    """Remove a cache, if there is one."""
    shutil.rmtree(cache_dir, ignore_errors=True)


def _origin(pairs: FacePairs, estimator: nn.Module, vae: SimVAE) -> dict[str, Any]:
    """Everything but the seed that decides the content of a cache, as JSON reads it back."""
    photographs = hashlib.sha256()
    for image in pairs.images:
        photographs.update(np.ascontiguousarray(image).data)
    facts = {
        "photographs": photographs.hexdigest(),
        "size_px": pairs.size_px,
        "degradation": dataclasses.asdict(pairs.ranges),
        "augmentation": None if pairs.augmentation is None else dataclasses.asdict(pairs.augmentation),
        "estimator": _digest(estimator),
        "vae": _digest(vae),
    }
    return dict(json.loads(json.dumps(facts)))


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _check_origin(path: Path, origin: dict[str, Any]) -> None:
    if path.exists():
        found = json.loads(path.read_text())
        changed = sorted(name for name in origin if found.get(name) != origin[name])
        if changed:
            raise ValueError(f"{path.parent} holds latents of another {', '.join(changed)}: restart the stage")
    elif (path.parent / "done.u8").exists():
        raise ValueError(f"{path.parent} holds latents of unknown origin: restart the stage")
    path.write_text(json.dumps(origin, indent=1))


def _memmap(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    mode: Literal["r+", "w+"] = "r+" if path.exists() else "w+"
    return np.memmap(path, dtype=dtype, mode=mode, shape=shape)
