"""The bundled networks in onnxruntime, called with allowed batch sizes only."""

from pathlib import Path

import numpy as np
import pytest

from service.backends.ort_session import OrtBackend
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.types import FaceJob
from service.sampling.sampler import Sampler
from tests.pictures import pixels

REPOSITORY = Path(__file__).resolve().parents[3] / "model_repository"
#: Faces in padded company against the same faces alone, on [0, 1]: a tenth of a level of 8 bits. onnxruntime may add in
#: another order for another batch, and a flow of several steps carries that on.
COMPANY_TOLERANCE = 0.1 / 255


class CountingBackend(OrtBackend):
    """Keeps the rows of every call."""

    def __init__(self, manifest):
        super().__init__(manifest, REPOSITORY, 0, metrics=Metrics(), only=manifest.networks)
        self.rows = []

    async def infer(self, network, inputs):
        self.rows.append(len(next(iter(inputs.values()))))
        return await super().infer(network, inputs)


def with_sizes(manifest, sizes):
    changed = {"batch_sizes": sizes, "max_batch_size": sizes[-1]}
    networks = {name: spec.model_copy(update=changed) for name, spec in manifest.networks.items()}
    return manifest.model_copy(update={"networks": networks})


@pytest.mark.timeout(300)
async def test_company_and_padding_do_not_change_a_face_of_the_bundled_networks():
    manifest = load_manifest(REPOSITORY)
    backend = CountingBackend(manifest)
    size_px = manifest.image_size_px
    jobs = [FaceJob(str(index), 0, pixels(size_px, size_px, seed=index), 1 + index, seed=index) for index in range(3)]

    async def restore(sampler, jobs):
        ended = {}
        for job in jobs:
            sampler.admit(job)
        while sampler.jobs:
            ended.update({outcome.job.key: outcome.result for outcome in await sampler.step()})
        return [ended[job.key] for job in jobs]

    together = await restore(Sampler(backend, with_sizes(manifest, (2, 4)), 4, metrics=Metrics()), jobs)
    assert set(backend.rows) == {2, 4}
    sampler = Sampler(backend, manifest, 1, metrics=Metrics())
    alone = [(await restore(sampler, [job]))[0] for job in jobs]
    for face, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(face.posterior_mean, other.posterior_mean, rtol=0, atol=COMPANY_TOLERANCE)
        np.testing.assert_allclose(face.sample, other.sample, rtol=0, atol=COMPANY_TOLERANCE)
    await backend.close()
