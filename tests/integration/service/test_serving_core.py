"""Queue, worker, sampler and onnxruntime together, and beside the evaluation's own path through the same bundle."""

import asyncio
import contextlib

import numpy as np
import pytest
from onnx import helper

from latent_pmrf.evaluation.bundle import BundleRestorer
from service.backends.ort_session import OrtBackend
from service.brokers.memory import MemoryBroker
from service.core.errors import InferenceFailed
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.types import FaceJob
from service.sampling.sampler import Sampler
from service.worker import Worker
from tests.bundle import image_shape, make_graph, mixing_velocity, write_bundle, write_detector
from tests.pictures import pixels

SIZE_PX = 32
LONG_S = 60.0
#: Faces in company against the same faces alone, on [0, 1]; onnxruntime may add in another order for another batch.
COMPANY_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A bundle whose velocity mixes every latent value with its neighbours."""
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, SIZE_PX, sigma_s=(0.3,), networks={"velocity": mixing_velocity(SIZE_PX)}, max_batch_size=4)
    write_detector(folder)
    return folder


@contextlib.asynccontextmanager
async def serving_core(repository, slots):
    manifest, metrics = load_manifest(repository), Metrics()
    backend = OrtBackend(manifest, repository, 2, metrics=metrics)
    broker = MemoryBroker(max_queued_faces=64, metrics=metrics)
    worker = Worker(broker, Sampler(backend, manifest, slots, metrics=metrics), metrics=metrics)
    stop = asyncio.Event()
    working = asyncio.create_task(worker.run(stop))
    yield broker
    stop.set()
    await asyncio.wait_for(working, LONG_S)
    await broker.close()
    await backend.close()


async def restore(broker, *jobs):
    await broker.submit(jobs)
    return await broker.results(jobs[0].job_id, LONG_S)


def photo(index, num_faces=1, num_steps=3):
    return [
        FaceJob(f"photo {index}", face, pixels(SIZE_PX, SIZE_PX, seed=10 * index + face), num_steps, seed=index)
        for face in range(num_faces)
    ]


@pytest.mark.parametrize("num_steps", [1, 2, 4])
async def test_the_service_and_the_evaluation_make_the_same_picture(repository, num_steps):
    restorer = BundleRestorer(repository, num_threads=1)
    async with serving_core(repository, slots=4) as broker:
        for index in range(3):
            (job,) = photo(index, num_steps=num_steps)
            (face,) = await restore(broker, job)
            mean = restorer.estimate(job.crop[None].astype(np.float32) / np.float32(255))
            sample = restorer.transport(restorer.source(mean, [job.seed]), num_steps)
            np.testing.assert_allclose(face.posterior_mean, mean[0], atol=1e-7)
            np.testing.assert_allclose(face.sample, sample[0], atol=1e-6)


async def test_company_does_not_change_a_face(repository):
    photos = [photo(index, num_faces=1 + index % 3, num_steps=1 + index % 4) for index in range(10)]
    async with serving_core(repository, slots=6) as broker:
        together = await asyncio.gather(*(restore(broker, *jobs) for jobs in photos))
    async with serving_core(repository, slots=1) as broker:
        for jobs, faces in zip(photos, together, strict=True):
            alone = await restore(broker, *jobs)
            for face, single in zip(faces, alone, strict=True):
                assert (face.job_id, face.face_index) == (single.job_id, single.face_index)
                np.testing.assert_allclose(face.sample, single.sample, atol=COMPANY_TOLERANCE)
                np.testing.assert_allclose(face.posterior_mean, single.posterior_mean, atol=COMPANY_TOLERANCE)


async def test_a_face_that_makes_a_network_overflow_fails_alone(tmp_path):
    nodes = [helper.make_node("Log", ["image"], ["posterior_mean"])]  # minus infinity where a picture is black
    shape = image_shape(SIZE_PX)
    write_bundle(
        tmp_path, SIZE_PX, networks={"estimator": make_graph(nodes, {"image": shape}, {"posterior_mean": shape})}
    )
    write_detector(tmp_path)
    black = FaceJob("black", 0, np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8), 1, 0)
    async with serving_core(tmp_path, slots=4) as broker:
        first, failed, last = await asyncio.gather(
            restore(broker, *photo(1)), restore(broker, black), restore(broker, *photo(2)), return_exceptions=True
        )
    assert isinstance(failed, InferenceFailed)
    assert "estimator" in failed.detail
    assert [len(first), len(last)] == [1, 1]
