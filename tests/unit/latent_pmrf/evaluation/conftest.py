"""A bundle of analytic ONNX graphs: every number it produces is known in closed form."""

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from skimage.data import astronaut

from latent_pmrf.evaluation.card_faces import astronaut as aligned_astronaut

PATCH = 8
CHANNELS = 3 * PATCH * PATCH


def _graph(nodes, inputs, outputs, constants=()):
    values = [
        helper.make_tensor(name, TensorProto.FLOAT, np.shape(value), np.ravel(value)) for name, value in constants
    ]
    signature = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "tiny", *signature, initializer=values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def analytic_networks(size_px):
    """Estimator 0.5 x + 0.25; lossless VAE (space to depth, doubled); velocity equal to t."""
    image, latent = ["batch", 3, size_px, size_px], ["batch", CHANNELS, size_px // PATCH, size_px // PATCH]
    half, quarter, two, zero = (np.asarray(value, dtype=np.float32) for value in (0.5, 0.25, 2.0, 0.0))
    node = helper.make_node
    return {
        "estimator": _graph(
            [node("Mul", ["image", "half"], ["scaled"]), node("Add", ["scaled", "quarter"], ["posterior_mean"])],
            [("image", image)],
            [("posterior_mean", image)],
            [("half", half), ("quarter", quarter)],
        ),
        "vae_encoder": _graph(
            [node("SpaceToDepth", ["image"], ["cells"], blocksize=PATCH), node("Mul", ["cells", "two"], ["latent"])],
            [("image", image)],
            [("latent", latent)],
            [("two", two)],
        ),
        "velocity": _graph(
            [
                node("Mul", ["x_t", "zero"], ["nothing"]),
                node("Constant", [], ["axes"], value_ints=[1, 2, 3]),
                node("Unsqueeze", ["t", "axes"], ["column"]),
                node("Add", ["nothing", "column"], ["velocity"]),
            ],
            [("x_t", latent), ("t", ["batch"])],
            [("velocity", latent)],
            [("zero", zero)],
        ),
        "vae_decoder": _graph(
            [
                node("Mul", ["latent", "half"], ["cells"]),
                node("DepthToSpace", ["cells"], ["image"], blocksize=PATCH, mode="DCR"),
            ],
            [("latent", latent)],
            [("image", image)],
            [("half", half)],
        ),
    }


def write_bundle(repository, size_px=192, *, sigma_s=(0.0,), **changes):
    networks = {}
    for name, content in analytic_networks(size_px).items():
        path = repository / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        networks[name] = {
            "file": str(path.relative_to(repository)),
            "sha256": hashlib.sha256(content).hexdigest(),
            "inputs": [],
            "outputs": [],
            "max_batch_size": 2,
        }
    manifest = {
        "schema_version": 1,
        "name": "tiny",
        "version": "0.0.1",
        "space": "latent",
        "image_size_px": size_px,
        "latent": {
            "channels": CHANNELS,
            "downscale": PATCH,
            "mean": [0.1] * CHANNELS,
            "std": [0.5] * CHANNELS,
        },
        "sigma_s": list(sigma_s),
        "default_num_steps": 2,
        "max_num_steps": 4,
        "default_fidelity": 0.5,
        "networks": networks,
        "provenance": {"recipe": {"steps": 3}, "data_note": "Nothing was trained."},
        "quality": {},
    } | changes
    (repository / "manifest.json").write_text(json.dumps(manifest))
    return repository


@pytest.fixture
def make_bundle(tmp_path):
    def make(**options):
        repository = tmp_path / "bundle"
        repository.mkdir()
        return write_bundle(repository, **options)

    return make


@pytest.fixture(scope="session")
def face_512():
    """The astronaut, aligned, 512 px."""
    return aligned_astronaut(512)


@pytest.fixture(scope="session")
def val_dir(tmp_path_factory, face_512):
    """Four validation faces of two source sets at 512 px: the astronaut and brighter or mirrored versions."""
    root = tmp_path_factory.mktemp("val")
    changes = {
        "faker_000": lambda image: image,
        "faker_001": lambda image: image[:, ::-1],
        "house_002": lambda image: (image * 0.8).astype(np.uint8),
        "house_003": lambda image: (image * 0.8).astype(np.uint8)[:, ::-1],
    }
    for name, change in changes.items():
        pictures = {"clean": face_512.clean, **face_512.degraded}
        for folder, picture in pictures.items():
            (root / folder).mkdir(exist_ok=True)
            suffix = "jpg" if folder == "clean" else "png"
            Image.fromarray(change(picture)).save(root / folder / f"{name}.{suffix}", quality=95)
    return root


@pytest.fixture(scope="session")
def photo():
    """(256, 256, 3) float64 in [0, 1]."""
    return astronaut()[:256, 100:356] / 255.0
