"""The bundle whose networks cost nothing is loaded as any other, and the service restores a photo with it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from loadtest.photos import jpeg, portrait_photo
from loadtest.process import running_service
from service.backends.ort_session import OrtBackend
from service.bench.null_backend import NullBackend
from service.bench.null_bundle import write_null_bundle
from service.core.errors import InferenceFailed
from service.core.interfaces import InferenceBackend
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from tests.bundle import write_bundle

REAL_DETECTOR = Path("model_repository/detector/1/model.onnx")


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture
def repository(tmp_path):
    like = load_manifest(write_bundle(tmp_path / "like", 64))
    return write_null_bundle(tmp_path / "null", like, REAL_DETECTOR)


async def test_networks_give_zeros_of_their_shapes(repository):
    manifest = load_manifest(repository)
    backend = OrtBackend(manifest, repository, 1, metrics=Metrics())
    latent = manifest.networks["vae_decoder"].inputs[0].shape[1:]
    (image,) = (await backend.infer("vae_decoder", {"latent": np.ones((3, *latent), np.float32)})).values()
    await backend.close()
    assert image.shape == (3, 3, 64, 64)
    assert not image.any()


async def test_a_null_backend_gives_what_the_null_bundle_gives(repository):
    manifest = load_manifest(repository)
    backend = NullBackend(manifest)
    assert isinstance(backend, InferenceBackend)
    assert await backend.ready()
    for name, spec in manifest.networks.items():
        rows = {tensor.name: np.ones((3, *tensor.shape[1:]), np.float32) for tensor in spec.inputs}
        ((output, zeros),) = (await backend.infer(name, rows)).items()
        assert (output, zeros.shape) == (spec.outputs[0].name, (3, *spec.outputs[0].shape[1:]))
        assert not zeros.any()
    with pytest.raises(InferenceFailed, match="detector"):
        await backend.infer("detector", {"image": np.ones((1, 3, 64, 64), np.float32)})
    await backend.close()


@pytest.mark.parametrize("networks", [(), ("--networks",)], ids=["null backend", "null networks"])
def test_a_service_with_null_stages_pastes_a_face_where_the_photo_has_one(repository, tmp_path, networks):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(jpeg(portrait_photo()))
    settings = {"LATENT_PMRF_MODEL_REPOSITORY": str(repository), "LATENT_PMRF_GRPC_PORT": "0"}
    with running_service(settings, ("-m", "service.bench.null_stages", str(photo), *networks)) as service:
        answers = [
            service.client.post("/restore", files={"image": photo.read_bytes()}, data={"output_format": "png"})
            for _ in range(2)
        ]
    before, *restored = (decoded(data) for data in (photo.read_bytes(), *(answer.content for answer in answers)))
    assert (restored[0] == restored[1]).all()  # nobody has pasted into the pixels that all are given
    changed = (restored[0] != before).any(axis=2)
    assert 0.01 < changed.mean() < 0.3
