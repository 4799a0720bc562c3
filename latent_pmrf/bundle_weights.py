"""An exported bundle back to the weights files of a training run, so that training can go on from what is served.

    manifest.json, */1/model.onnx -> tensors by name -> state dicts -> compared with onnxruntime -> runs/*/weights

The export keeps the names of the networks' tensors, up to the storage suffix. A few small ones it folds into constants
of its own names: such a tensor is looked for by its size, and the comparison proves that the right one was found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from latent_pmrf.config import NetworkConfig, from_dict
from latent_pmrf.evaluation.bundle import BundleRestorer, read_manifest
from latent_pmrf.importing import Say
from latent_pmrf.nets.build import build
from latent_pmrf.nets.sim_vae import SimVAE
from latent_pmrf.training.checkpoint import save_weights
from latent_pmrf.training.frozen import encoder_digest

TOLERANCE = 1e-3
"""Largest difference of an output from onnxruntime's, over its root mean square."""

_STORAGE = re.compile(r"\.(float16|int8)$")
_GRAPHS = {"estimator": ("estimator",), "vae": ("vae_encoder", "vae_decoder"), "flow": ("velocity",)}


def import_bundle(repository: Path, runs: Path, say: Say) -> list[Path]:
    """Write the networks of a bundle to a folder of runs.

    The weights are those that are served, in half precision if the bundle stores them so; the state of the optimisers
    is not in a bundle.

    Args:
        repository: Folder with `manifest.json`.
        runs: Folder to write `estimator/`, `vae/` and `flow/` to; what is there already is never replaced.
        say: Receives a line per network.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: There is no bundle.
        ValueError: The bundle is damaged or was not made by this project's export, or a stage has weights already;
            nothing is written.
    """
    manifest = read_manifest(repository)
    stages = [stage for stage, graphs in _GRAPHS.items() if set(graphs) <= set(manifest["networks"])]
    targets = {stage: runs / stage / "weights.safetensors" for stage in stages}
    present = [str(path) for path in targets.values() if path.exists()]
    if present:
        raise ValueError(f"{', '.join(present)}: there already; choose another folder of runs")
    bundle = BundleRestorer(repository)  # checks the files' hashes
    networks = {stage: _network(repository, manifest, stage) for stage in stages}
    for stage, network in networks.items():
        for graph in _GRAPHS[stage]:
            _compare(bundle, graph, network, manifest["networks"][graph])
    for stage, network in networks.items():
        facts = _facts(manifest, stage)
        if stage == "flow" and "vae" in networks:
            facts["encoder_sha256"] = encoder_digest(networks["vae"].state_dict())
        save_weights(targets[stage], network.config, network.state_dict(), facts)
        say(f"{targets[stage]}: {sum(value.numel() for value in network.state_dict().values()) / 1e6:.1f} M numbers")
    return list(targets.values())


def _network(repository: Path, manifest: Mapping[str, Any], stage: str) -> Any:  # noqa: ANN401 - one of the networks
    try:
        fields = dict(manifest["provenance"]["networks"][stage])
    except KeyError as error:
        raise ValueError(f"{repository}: the manifest does not say how the {stage} is built") from error
    fields.pop("parameters", None)
    config: NetworkConfig = from_dict(fields)
    network = build(config).eval().requires_grad_(False)
    found: dict[str, Tensor] = {}
    for graph in _GRAPHS[stage]:
        found |= _tensors(repository / manifest["networks"][graph]["file"])
    network.load_state_dict(_fit(network.state_dict(), found, stage))
    return network


def _tensors(path: Path) -> dict[str, Tensor]:
    """Floating tensors of a graph by name, in float32; those of an autoencoder's half without the wrapper's prefix."""
    tensors = {}
    for entry in onnx.load(path).graph.initializer:
        values = numpy_helper.to_array(entry)
        if np.issubdtype(values.dtype, np.floating):
            name = _STORAGE.sub("", entry.name).removeprefix("vae.")
            tensors[name] = torch.from_numpy(values.astype(np.float32))
    return tensors


def _fit(own: Mapping[str, Tensor], found: Mapping[str, Tensor], stage: str) -> dict[str, Tensor]:
    """The state dict of a network from what its graphs hold.

    Raises:
        ValueError: A tensor is missing, of another size, or more than one could be it.
    """
    nameless = [value for name, value in found.items() if name not in own]
    state = {}
    for name, value in own.items():
        candidates = [found[name]] if name in found else [other for other in nameless if _sides(other) == _sides(value)]
        if len(candidates) != 1 or candidates[0].numel() != value.numel():
            raise ValueError(f"the {stage} of the bundle has no tensor {name} of shape {tuple(value.shape)}")
        state[name] = candidates[0].reshape(value.shape)
    return state


def _sides(tensor: Tensor) -> list[int]:
    return [side for side in tensor.shape if side > 1]


def _compare(bundle: BundleRestorer, graph: str, network: nn.Module, entry: Mapping[str, Any]) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = {face["name"]: torch.rand([1, *face["shape"][1:]], generator=generator) for face in entry["inputs"]}
    with torch.inference_mode():
        values = tuple(inputs.values())
        if isinstance(network, SimVAE):
            reference = network.encode(*values)[0] if graph == "vae_encoder" else network.decode(*values)
        else:
            reference = network(*values)
    served = bundle.run(graph, **{name: value.numpy() for name, value in inputs.items()})
    difference = float(np.abs(served - reference.numpy()).max())
    if not difference <= TOLERANCE * float(reference.square().mean().sqrt()):
        raise ValueError(f"the {graph} of the bundle does not compute what its tensors compute in PyTorch")


def _facts(manifest: Mapping[str, Any], stage: str) -> dict[str, Any]:
    origin = f"{manifest['name']}@{manifest['version']}"
    facts: dict[str, Any] = {
        "stage": stage,
        "imported": {"bundle": origin},
        "licence": manifest["provenance"]["licence"],
    }
    if stage == "flow":
        facts |= {
            "space": manifest["space"],
            "source": "posterior_mean",
            "latent_mean": manifest["latent"]["mean"],
            "latent_std": manifest["latent"]["std"],
            "sigma_s": manifest["sigma_s"],
        }
    return facts
