"""Reference numbers of the public code, in the shared folder beside a checkout; a bare clone has none."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

SHARED = Path(os.environ.get("LATENT_PMRF_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def parity_folder(name):
    folder = SHARED / "parity" / name
    if not folder.is_dir():
        pytest.skip(f"reference numbers not found: {folder} (set LATENT_PMRF_SHARED)")
    return folder


def tiny_weights(folder):
    return load_file(folder / "tiny.safetensors")


def arrays(folder, name="io"):
    with np.load(folder / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def public_shapes(folder, name="keys_full"):
    return {key: tuple(shape) for key, shape in json.loads((folder / f"{name}.json").read_text()).items()}
