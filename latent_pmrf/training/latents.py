"""The flow's training pairs (z_0, z_1), computed once and kept in a file, or computed afresh for every step.

    photograph -> degradation -> source -> z_0
               -> encoder ---------------> z_1

A pair is a pure function of (seed, number of the draw) and of the frozen networks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from latent_pmrf.data.datasets import FacePairs
from latent_pmrf.data.validation import ValidationSet, to_planes
from latent_pmrf.training.checkpoint import write_json
from latent_pmrf.training.device import to_device
from latent_pmrf.training.frozen import FrozenNetworks

Pair = tuple[torch.Tensor, torch.Tensor]
Indices = npt.NDArray[np.int64]


class PairSource(Protocol):
    """Where the flow's pairs come from.

    Attributes:
        count: Entries of an epoch.
        networks: The frozen networks.
    """

    count: int
    networks: FrozenNetworks

    def draw(self, entries: Indices, draws: Indices) -> Pair:
        """Entries of the epoch's permutation, each with the running number of its draw; on the CPU."""
        ...

    def latents(self, pair: Pair) -> Pair:
        """What `draw` gave to raw (z_0, z_1), each (B, C, h, w) float32."""
        ...


class CachedPairs:
    """Raw latents of `copies` degradations of every photograph, in a memory-mapped file.

    A pair is computed the first time it is needed, so encoding costs once what every epoch would cost. What the file
    was made from stands beside it; a cache of other networks, photographs or degradations is refused, never reused.

    Args:
        pairs: Draws the photographs and their degradations.
        networks: The frozen networks.
        copies: Degradations of every photograph.
        seed: Seed of the degradations.
        cache_dir: Folder of the cache.

    Raises:
        ValueError: The cache was made from something else; the message names what.
    """

    def __init__(self, pairs: FacePairs, networks: FrozenNetworks, *, copies: int, seed: int, cache_dir: Path) -> None:
        self._pairs = pairs
        self.networks = networks
        self._seed = seed
        self.count = copies * len(pairs.images)
        side = pairs.size_px
        shape = networks.encode(torch.zeros(1, 3, side, side)).shape[1:]
        cache_dir.mkdir(parents=True, exist_ok=True)
        _check_origin(cache_dir / "origin.json", {"copies": copies, "seed": seed, **_origin(pairs, networks)})
        self._latents = _memmap(cache_dir / "latents.f16", (self.count, 2, *shape), np.float16)
        self._done = _memmap(cache_dir / "done.u8", (self.count,), np.uint8)

    def draw(self, entries: Indices, draws: Indices) -> Pair:  # noqa: ARG002 - an entry is degraded once and for all
        """Raw latents of these entries."""
        missing = np.unique(entries[self._done[entries] == 0])
        for start in range(0, len(missing), 8):
            self._compute(missing[start : start + 8])
        both = torch.from_numpy(self._latents[entries].astype(np.float32))
        return both[:, 0], both[:, 1]

    def latents(self, pair: Pair) -> Pair:
        """The pair as it is."""
        return pair

    def _compute(self, entries: Indices) -> None:
        drawn = _degraded(self._pairs, entries % len(self._pairs.images), (self._seed, 1), entries)
        y, x = to_device(drawn, self.networks.device)
        pair = [self.networks.source_of(y), self.networks.encode(x)]
        self._latents[entries] = torch.stack(pair, dim=1).cpu().numpy().astype(np.float16)
        self._done[entries] = 1


class FreshPairs:
    """Every draw degrades its photograph anew and goes through the frozen networks: for a GPU, and many photographs.

    Args:
        pairs: Draws the photographs and their degradations.
        networks: The frozen networks.
        seed: Seed of the degradations.
    """

    def __init__(self, pairs: FacePairs, networks: FrozenNetworks, *, seed: int) -> None:
        self._pairs = pairs
        self.networks = networks
        self._seed = seed
        self.count = len(pairs.images)

    def draw(self, entries: Indices, draws: Indices) -> Pair:
        """Degraded and clean photographs, each (B, 3, S, S) uint8."""
        return _degraded(self._pairs, entries, (self._seed, 4), draws)

    def latents(self, pair: Pair) -> Pair:
        """Their raw latents, where the networks are."""
        y, x = to_device(pair, self.networks.device)
        return self.networks.source_of(y), self.networks.encode(x)


def latents_of(level: ValidationSet, networks: FrozenNetworks) -> Pair:
    """Raw (z_0, z_1) of a validation level."""
    degraded, clean = torch.from_numpy(level.degraded), torch.from_numpy(level.clean)
    sources = [networks.source_of(batch) for batch in degraded.split(8)]
    return torch.cat(sources), torch.cat([networks.encode(batch) for batch in clean.split(8)])


def _degraded(pairs: FacePairs, photographs: Indices, seed: tuple[int, ...], draws: Indices) -> Pair:
    drawn = [
        pairs.pair(int(photograph), np.random.default_rng((*seed, int(number))))
        for photograph, number in zip(photographs, draws, strict=True)
    ]
    y, x = (to_planes(np.stack(images)) for images in zip(*drawn, strict=True))
    return y, x


def _origin(pairs: FacePairs, networks: FrozenNetworks) -> dict[str, Any]:
    """Everything but the seed that decides the content of a cache, as JSON reads it back."""
    photographs = hashlib.sha256()
    for image in pairs.images:
        photographs.update(np.ascontiguousarray(image).data)
    facts = {
        "photographs": photographs.hexdigest(),
        "size_px": pairs.size_px,
        "degradation": dataclasses.asdict(pairs.ranges),
        "augmentation": None if pairs.augmentation is None else dataclasses.asdict(pairs.augmentation),
        "source": networks.source,
        **networks.digests(),
    }
    return dict(json.loads(json.dumps(facts)))


def _check_origin(path: Path, origin: dict[str, Any]) -> None:
    if path.exists():
        found = json.loads(path.read_text())
        changed = sorted(name for name in origin if found.get(name) != origin[name])
        if changed:
            raise ValueError(f"{path.parent} holds latents of another {', '.join(changed)}: restart the stage")
    elif (path.parent / "done.u8").exists():
        raise ValueError(f"{path.parent} holds latents of unknown origin: restart the stage")
    else:
        write_json(path, origin)


def _memmap(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    mode: Literal["r+", "w+"] = "r+" if path.exists() else "w+"
    return np.memmap(path, dtype=dtype, mode=mode, shape=shape)
