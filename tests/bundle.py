"""A bundle small enough to be made by every test that needs one: the contract alone, or with networks that run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from service.core.manifest import LatentSpec, Manifest, NetworkSpec, TensorSpec

PATCH = 8
CHANNELS = 3 * PATCH * PATCH
SIGNATURES = {
    "estimator": (("image",), "posterior_mean"),
    "vae_encoder": (("image",), "latent"),
    "velocity": (("x_t", "t"), "velocity"),
    "vae_decoder": (("latent",), "image"),
}
NETWORKS = tuple(SIGNATURES)


def tiny_manifest(image_size_px: int = 64, **changes: Any) -> Manifest:
    """A manifest whose networks have no files: for tests with a fake queue or backend."""
    shapes: dict[str, tuple[int | str, ...]] = {
        "image": ("batch", 3, image_size_px, image_size_px),
        "latent": ("batch", 1, image_size_px // PATCH, image_size_px // PATCH),
        "t": ("batch",),
    }
    shapes |= {"posterior_mean": shapes["image"], "x_t": shapes["latent"], "velocity": shapes["latent"]}

    def tensors(*names: str) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=name, dtype="float32", shape=shapes[name]) for name in names)

    networks = {
        name: NetworkSpec(
            file="absent.onnx", sha256="0" * 64, inputs=tensors(*inputs), outputs=tensors(output), max_batch_size=4
        )
        for name, (inputs, output) in SIGNATURES.items()
    }
    fields = {
        "schema_version": 1,
        "name": "tiny",
        "version": "7",
        "space": "latent",
        "image_size_px": image_size_px,
        "latent": LatentSpec(channels=1, downscale=PATCH, mean=(0.0,), std=(1.0,)),
        "sigma_s": (0.1,),
        "default_num_steps": 4,
        "max_num_steps": 20,
        "default_fidelity": 1.0,
        "networks": networks,
        "provenance": {},
        "quality": {},
    }
    return Manifest(**(fields | changes))


def make_graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, Any] | None = None,
    *,
    dtype: int = TensorProto.FLOAT,
) -> bytes:
    """A checked ONNX file; inputs and outputs are of `dtype`, constants float32."""
    values = [
        helper.make_tensor(name, TensorProto.FLOAT, np.shape(value), np.ravel(np.asarray(value, np.float32)))
        for name, value in (constants or {}).items()
    ]
    signature = [
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "tiny", *signature, initializer=values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def analytic_networks(size_px: int) -> dict[str, bytes]:
    """Estimator 0.5 x + 0.25; lossless VAE (space to depth, doubled); velocity equal to t."""
    image, latent = image_shape(size_px), latent_shape(size_px)
    node = helper.make_node
    return {
        "estimator": make_graph(
            [node("Mul", ["image", "half"], ["scaled"]), node("Add", ["scaled", "quarter"], ["posterior_mean"])],
            {"image": image},
            {"posterior_mean": image},
            {"half": 0.5, "quarter": 0.25},
        ),
        "vae_encoder": make_graph(
            [node("SpaceToDepth", ["image"], ["cells"], blocksize=PATCH), node("Mul", ["cells", "two"], ["latent"])],
            {"image": image},
            {"latent": latent},
            {"two": 2.0},
        ),
        "velocity": make_graph(
            [node("Mul", ["x_t", "zero"], ["nothing"]), *_column(), node("Add", ["nothing", "column"], ["velocity"])],
            {"x_t": latent, "t": ["batch"]},
            {"velocity": latent},
            {"zero": 0.0},
        ),
        "vae_decoder": make_graph(
            [
                node("Mul", ["latent", "half"], ["cells"]),
                node("DepthToSpace", ["cells"], ["image"], blocksize=PATCH, mode="DCR"),
            ],
            {"latent": latent},
            {"image": image},
            {"half": 0.5},
        ),
    }


def mixing_velocity(size_px: int) -> bytes:
    """A velocity of every value near it: tanh of a random convolution, plus t."""
    latent = latent_shape(size_px)
    weights = np.random.default_rng(0).standard_normal((CHANNELS, CHANNELS, 3, 3)) / np.sqrt(9 * CHANNELS)
    convolve = helper.make_node("Conv", ["x_t", "weights"], ["mixed"], pads=[1, 1, 1, 1])
    nodes = [
        convolve,
        helper.make_node("Tanh", ["mixed"], ["bounded"]),
        *_column(),
        helper.make_node("Add", ["bounded", "column"], ["velocity"]),
    ]
    return make_graph(nodes, {"x_t": latent, "t": ["batch"]}, {"velocity": latent}, {"weights": weights})


def image_shape(size_px: int) -> list[int | str]:
    """Of pictures, with the batch symbol."""
    return ["batch", 3, size_px, size_px]


def latent_shape(size_px: int) -> list[int | str]:
    """Of latents, with the batch symbol."""
    return ["batch", CHANNELS, size_px // PATCH, size_px // PATCH]


def write_bundle(
    repository: Path,
    size_px: int = 192,
    *,
    sigma_s: Sequence[float] = (0.0,),
    networks: Mapping[str, bytes] | None = None,
    max_batch_size: int = 2,
    **changes: Any,
) -> Path:
    """Write the analytic networks, some of them replaced by `networks`, and their manifest with `changes`."""
    entries = {}
    for name, content in (analytic_networks(size_px) | dict(networks or {})).items():
        path = repository / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        graph = onnx.load_from_string(content).graph
        entries[name] = {
            "file": str(path.relative_to(repository)),
            "sha256": hashlib.sha256(content).hexdigest(),
            "inputs": [_tensor(value) for value in graph.input],
            "outputs": [_tensor(value) for value in graph.output],
            "max_batch_size": max_batch_size,
        }
    manifest = {
        "schema_version": 1,
        "name": "tiny",
        "version": "0.0.1",
        "space": "latent",
        "image_size_px": size_px,
        "latent": {"channels": CHANNELS, "downscale": PATCH, "mean": [0.1] * CHANNELS, "std": [0.5] * CHANNELS},
        "sigma_s": list(sigma_s),
        "default_num_steps": 2,
        "max_num_steps": 4,
        "default_fidelity": 0.5,
        "networks": entries,
        "provenance": {"recipe": {"steps": 3}, "data_note": "Nothing was trained."},
        "quality": {},
    } | changes
    (repository / "manifest.json").write_text(json.dumps(manifest))
    return repository


def write_detector(repository: Path) -> Path:
    """A detector that takes pictures of any size and gives them back, where the service looks for it."""
    path = repository / "detector" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    shape = ["batch", 3, "height", "width"]
    path.write_bytes(make_graph([helper.make_node("Identity", ["image"], ["map"])], {"image": shape}, {"map": shape}))
    return path


def _column() -> list[onnx.NodeProto]:
    """Nodes that bring `t` (B,) to `column` (B, 1, 1, 1)."""
    return [
        helper.make_node("Constant", [], ["axes"], value_ints=[1, 2, 3]),
        helper.make_node("Unsqueeze", ["t", "axes"], ["column"]),
    ]


def _tensor(value: onnx.ValueInfoProto) -> dict[str, object]:
    sizes = value.type.tensor_type.shape.dim
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    return {"name": value.name, "dtype": dtype, "shape": [size.dim_param or size.dim_value for size in sizes]}
