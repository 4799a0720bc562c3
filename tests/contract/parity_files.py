"""Reference numbers of the public code, in the shared folder beside a checkout; a bare clone has none."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latent_pmrf.checkpoints import convert
from latent_pmrf.config import HDiTConfig, SimVAEConfig, SwinIRConfig
from latent_pmrf.nets.build import build

SHARED = Path(os.environ.get("SHARED_DIR", Path(__file__).resolve().parents[3] / "shared"))

TINY = {
    "swinir": SwinIRConfig(embed_dim=36, depths=(2, 2), num_heads=(3, 3), mask_size=16),
    "sim_vae": SimVAEConfig(block_out_channels=(16, 24, 32, 32), layers_mid_block=1, latent_channels=8),
    "hdit": HDiTConfig(
        in_channels=3,
        patch_size=4,
        widths=(32, 64, 96),
        depths=(1, 1, 2),
        head_dim=(16, 16, 16),
        mapping_width=48,
        depthwise_conv=False,
        flavour="pmrf",
    ),
    "looformer": HDiTConfig(
        in_channels=8,
        widths=(32, 64, 96),
        depths=(1, 1, 1),
        head_dim=(16, 16, 32),
        mapping_width=64,
        time_convention="sigma",
    ),
}
"""Our specifications of the files `config_tiny.json`."""


def parity_folder(name):
    folder = SHARED / "parity" / name
    if not folder.is_dir():
        pytest.skip(f"reference numbers not found: {folder} (set SHARED_DIR)")
    return folder


def tiny_weights(folder):
    return load_file(folder / "tiny.safetensors")


def tiny_network(name):
    network = build(TINY[name])
    network.load_state_dict(convert(tiny_weights(parity_folder(name)), TINY[name]))
    return network.eval().requires_grad_(False)


def arrays(folder, name="io"):
    with np.load(folder / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def public_shapes(folder, name="keys_full"):
    return {key: tuple(shape) for key, shape in json.loads((folder / f"{name}.json").read_text()).items()}


def config_file(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def record(network, call, *, outputs=(), inputs=()):
    """What flows out of (or, for `inputs`, into) the named modules during `call()`."""
    seen = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
        for name in outputs
    ]
    hooks += [
        network.get_submodule(name).register_forward_pre_hook(lambda _m, args, name=name: seen.update({name: args[0]}))
        for name in inputs
    ]
    call()
    for hook in hooks:
        hook.remove()
    return seen


def assert_close(found, expected, atol=1e-4):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
