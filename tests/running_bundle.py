"""A bundle of a few bytes that onnxruntime runs: real files, a real manifest, and arithmetic for networks.

The estimator takes a little contrast away, the autoencoder averages 8 x 8 pixels and spreads them again, and the
velocity is constant. Every part acts on each pixel's neighbourhood alone, so what comes out shows which face went in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
DETECTOR = ROOT / "model_repository" / "detector" / "1" / "model.onnx"
SIZE_PX = 64
DOWNSCALE = 8


def write_bundle(repository: Path, *, default_fidelity: float = 0.0) -> Path:
    """Write a bundle to a folder, with a link to the fetched detector; returns the folder."""
    image, latent = ["batch", 3, SIZE_PX, SIZE_PX], ["batch", 3, SIZE_PX // DOWNSCALE, SIZE_PX // DOWNSCALE]
    networks = {
        "estimator": _network(
            repository / "estimator",
            [("image", image)],
            ("posterior_mean", image),
            [("Mul", ["image", "slope"], "scaled", {}), ("Add", ["scaled", "base"], "posterior_mean", {})],
            {"slope": 0.9, "base": 0.05},
        ),
        "vae_encoder": _network(
            repository / "vae_encoder",
            [("image", image)],
            ("latent", latent),
            [("AveragePool", ["image"], "latent", {"kernel_shape": [DOWNSCALE] * 2, "strides": [DOWNSCALE] * 2})],
            {},
        ),
        "velocity": _network(
            repository / "velocity",
            [("x_t", latent), ("t", ["batch"])],
            ("velocity", latent),
            [
                ("Reshape", ["t", "shape"], "time", {}),
                ("Mul", ["x_t", "zero"], "still", {}),
                ("Mul", ["time", "zero"], "never", {}),
                ("Add", ["still", "never"], "nothing", {}),
                ("Add", ["nothing", "drift"], "velocity", {}),
            ],
            {"zero": 0.0, "drift": 0.1, "shape": [-1, 1, 1, 1]},
        ),
        "vae_decoder": _network(
            repository / "vae_decoder",
            [("latent", latent)],
            ("image", image),
            [("Resize", ["latent", "", "scales"], "image", {"mode": "linear"})],
            {"scales": [1.0, 1.0, float(DOWNSCALE), float(DOWNSCALE)]},
        ),
    }
    manifest = {
        "schema_version": 1,
        "name": "arithmetic",
        "version": "1",
        "space": "latent",
        "image_size_px": SIZE_PX,
        "latent": {"channels": 3, "downscale": DOWNSCALE, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "sigma_s": [0.02],
        "default_num_steps": 2,
        "max_num_steps": 8,
        "default_fidelity": default_fidelity,
        "networks": networks,
        "provenance": {},
        "quality": {},
    }
    (repository / "manifest.json").write_text(json.dumps(manifest))
    if DETECTOR.is_file():
        (repository / "detector" / "1").mkdir(parents=True)
        (repository / "detector" / "1" / "model.onnx").symlink_to(DETECTOR)
    return repository


def _network(
    folder: Path,
    inputs: Sequence[tuple[str, list[str | int]]],
    output: tuple[str, list[str | int]],
    nodes: Sequence[tuple[str, list[str], str, dict[str, object]]],
    constants: dict[str, float | list[int] | list[float]],
) -> dict[str, object]:
    """Write a graph; returns its entry in the manifest."""
    graph = helper.make_graph(
        [helper.make_node(kind, names, [result], **attributes) for kind, names, result, attributes in nodes],
        folder.name,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
        [numpy_helper.from_array(_constant(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model, full_check=True)
    file = folder / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(model.SerializeToString())
    return {
        "file": f"{folder.name}/1/model.onnx",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "inputs": [{"name": name, "dtype": "float32", "shape": shape} for name, shape in inputs],
        "outputs": [{"name": output[0], "dtype": "float32", "shape": output[1]}],
        "max_batch_size": 4,
    }


def _constant(value: float | list[int] | list[float]) -> np.ndarray:
    return np.array(value, np.int64 if isinstance(value, list) and isinstance(value[0], int) else np.float32)
