"""The bundle whose networks cost nothing: it is loaded as any other, and finds and restores one face in any photo."""

import numpy as np
import pytest

from service.backends.ort_session import OrtBackend
from service.bench.null_bundle import write_null_bundle
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.stages.detect import FaceDetector
from tests.bundle import write_bundle


@pytest.fixture
def manifest(tmp_path):
    like = load_manifest(write_bundle(tmp_path / "like", 64))
    return load_manifest(write_null_bundle(tmp_path / "null", like))


@pytest.fixture
async def backend(manifest, tmp_path):
    made = OrtBackend(manifest, tmp_path / "null", 1, metrics=Metrics())
    yield made
    await made.close()


@pytest.mark.parametrize("size", [(64, 64), (866, 1155), (2000, 900), (3000, 4000)])
async def test_one_face_is_in_any_photo(backend, size):
    photo = np.zeros((*size, 3), np.uint8)
    (face,) = await FaceDetector(backend).detect(photo, det_threshold=0.5, min_face_px=24)
    left, top, right, bottom = face.box
    assert abs((left + right) / 2 - size[1] / 2) < size[1] / 10
    assert abs((top + bottom) / 2 - size[0] / 2) < size[0] / 10


async def test_networks_give_zeros_of_their_shapes(manifest, backend):
    latent = manifest.networks["vae_decoder"].inputs[0].shape[1:]
    (image,) = (await backend.infer("vae_decoder", {"latent": np.ones((3, *latent), np.float32)})).values()
    assert image.shape == (3, 3, 64, 64)
    assert not image.any()
