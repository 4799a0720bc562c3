"""Files as PMRF, DifFace and Latent-PMRF publish them: every name of the full networks, at a fraction of the width.

Those of `shallow_` networks have fewer blocks of each kind, for exports: a second for every one or two.

A contract test holds names and shapes of the published files against the same layout that these are made from. For a
trial at full size, `python -m tests.public_files pixel|latent FOLDER` writes random weights of the published widths.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from export.trained import awaken
from latent_pmrf.checkpoints import computed_tensors, public_layout
from latent_pmrf.nets.build import build
from latent_pmrf.public_specs import looformer_spec, pmrf_spec, sim_vae_spec, swinir_spec

SWINIR = {"img_size": 16, "embed_dim": 12, "unshuffle": True, "upsampler": "nearest+conv", "sf": 8}
SHALLOW_SWINIR = SWINIR | {"depths": [2], "num_heads": [6]}
PMRF = {
    "arch": "hdit_ImageNet256Sp4",
    "stage": "flow",
    "mmse_model_arch": SWINIR,
    "mmse_noise_std": 0.2,
    "widths": [16, 32, 48],
    "self_attns": [{"type": "neighborhood", "d_head": 8}] * 2 + [{"type": "global", "d_head": 16}],
    "mapping_width": 32,
}
SIM_VAE = {
    "_class_name": "AutoencoderKLSim",
    "block_out_channels": [8, 8, 12, 12],
    "mid_block_out_channel": 12,
    "latent_channels": 4,
    "scaling_factor": 0.5,
    "shift_factor": 0.25,
    "decay": 0.999,  # of the averaging in training: of no account here
}
LOOFORMER = {
    "_class_name": "LooUFormer",
    "in_channels": 4,
    "out_channels": 4,
    "block_dims": [16, 32, 64],
    "head_dims": [8, 8, 16],
    "time_embed_dim": 32,
}
SPECS = {
    "swinir": (swinir_spec, SWINIR),
    "pmrf": (pmrf_spec, PMRF),
    "sim_vae": (sim_vae_spec, SIM_VAE),
    "looformer": (looformer_spec, LOOFORMER),
    "shallow_swinir": (swinir_spec, SHALLOW_SWINIR),
    "shallow_pmrf": (pmrf_spec, PMRF | {"depths": [2, 1, 1], "mmse_model_arch": SHALLOW_SWINIR}),
    "shallow_sim_vae": (sim_vae_spec, SIM_VAE | {"layers_per_block": 1, "layers_mid_block": 2}),
    "shallow_looformer": (looformer_spec, LOOFORMER | {"block_layers": [2, 1, 1]}),
    "published_swinir": (swinir_spec, {}),
    "published_pmrf": (pmrf_spec, {}),
    "published_sim_vae": (sim_vae_spec, {"_class_name": "AutoencoderKLSim"}),
    "published_looformer": (looformer_spec, {}),
}


@functools.cache
def public_tensors(name, seed=0):
    """A complete public state dict of random weights, and our network with the same ones; to be left as they are."""
    make, public = SPECS[name]
    config = make(public)
    torch.manual_seed(seed)
    network = build(config).eval().requires_grad_(False)
    awaken(network)
    state, layout = network.state_dict(), public_layout(config)
    return {layout[own].name: value.reshape(layout[own].shape) for own, value in state.items()} | computed_tensors(
        config
    ), network


def write_tensors(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}, path)
    return path


def write_json(path: Path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path


def pmrf_tensors(flow="pmrf", estimator="swinir"):
    """PMRF's file: both networks under their prefixes, and a metric of its training."""
    flow, estimator = public_tensors(flow, seed=1)[0], public_tensors(estimator, seed=2)[0]
    prefixed = {f"model.{key}": value for key, value in flow.items()}
    return prefixed | {f"mmse_model.{key}": value for key, value in estimator.items()} | {"fid.sum": torch.zeros(1)}


def write_pmrf(folder, flow="pmrf", estimator="swinir"):
    """A folder as on Hugging Face."""
    write_tensors(folder / "model.safetensors", pmrf_tensors(flow, estimator))
    write_json(folder / "config.json", SPECS[flow][1])
    return folder / "model.safetensors"


def write_published(space, folder):
    """Random weights of the published widths, under the published names of the files."""
    if space == "pixel":
        write_tensors(folder / "model.safetensors", pmrf_tensors("published_pmrf", "published_swinir"))
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"params_ema": public_tensors("published_swinir")[0]}, folder / "swinir_restoration512_L1.pth")
    for name in ("sim_vae", "looformer"):
        weights, _ = public_tensors(f"published_{name}")
        write_tensors(folder / name / "diffusion_pytorch_model.safetensors", weights)
        write_json(folder / name / "config.json", SPECS[f"published_{name}"][1])


if __name__ == "__main__":
    write_published(sys.argv[1], Path(sys.argv[2]))
