"""A training set of a few astronaut crops and recipes whose networks train in milliseconds."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from skimage.data import astronaut

from latent_pmrf.data.degradation import DegradationRange, draw_degradation

SIDE_PX = 64

RECIPES: dict[str, dict[str, Any]] = {
    "estimator": {
        "preset": "xs-unet",
        "network": {"image_size_px": SIDE_PX, "widths": [8, 16], "depth": 1, "heads": 2},
    },
    "vae": {
        "preset": "xs",
        "network": {"block_out_channels": [8, 8], "decoder_layers_per_block": 1, "latent_channels": 8},
        "options": {"crop_px": 32},
    },
    "flow": {
        "preset": "xs",
        "network": {
            "in_channels": 8,
            "widths": [32, 32],
            "depths": [1, 1],
            "attention": ["neighborhood", "global"],
            "head_dim": [16, 16],
            "mapping_width": 32,
        },
        "options": {"copies": 2, "noise_factor": 0.3},
    },
}


def crops(count: int, side_px: int = SIDE_PX) -> list[np.ndarray]:
    """(side, side, 3) uint8 crops of the astronaut's upper half, the same for every call."""
    corners = np.random.default_rng(0).integers(0, 256, size=(count, 2))
    return [astronaut()[top : top + side_px, left : left + side_px] for top, left in corners]


def write_faces(root: Path) -> Path:
    """A data folder: one shard of six pictures, and three validation faces at two levels."""
    with tarfile.open(root / "train256-000.tar", "w") as archive:
        for index, image in enumerate(crops(6)):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            entry = tarfile.TarInfo(f"{index}.png")
            entry.size = len(buffer.getvalue())
            archive.addfile(entry, io.BytesIO(buffer.getvalue()))
    for index, image in enumerate(crops(9)[6:]):
        degraded = draw_degradation(DegradationRange(), np.random.default_rng(index)).apply(image, SIDE_PX)
        for folder, picture in (("clean", image), ("moderate", degraded), ("severe", degraded)):
            (root / "val" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / "val" / folder / f"astronaut_{index}.png")
    return root


def vgg_kernels(width: int = 4) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Random weights with the structure of VGG19's convolutions, by position, `width` channels each."""
    generator = torch.Generator().manual_seed(0)
    positions = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    fan_in = [3, *[width] * (len(positions) - 1)]
    return {
        position: (torch.randn(width, channels, 3, 3, generator=generator) / 3, torch.zeros(width))
        for position, channels in zip(positions, fan_in, strict=True)
    }


def recipe_values(stage: str, **optim: Any) -> dict[str, Any]:
    """The content of a recipe file; `optim` replaces entries of that section."""
    defaults = {"steps": 4, "batch_size": 2, "lr": 2e-3, "warmup_steps": 1, "validate_every": 3, "seed": 5}
    return {"stage": stage, "size_px": SIDE_PX, "optim": defaults | optim, **RECIPES[stage]}


def write_recipe(folder: Path, stage: str, **optim: Any) -> Path:
    """A recipe file."""
    path = folder / f"{stage}.yaml"
    path.write_text(yaml.safe_dump(recipe_values(stage, **optim)))
    return path
