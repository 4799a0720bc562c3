"""Whole photos whose networks, the detector among them, run in a real Triton server: the same pictures as without."""

import asyncio
import contextlib

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from service.backends.triton_client import TritonBackend
from service.brokers.memory import MemoryBroker
from service.composition.ending import Ending
from service.composition.gateway import restoring
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.core.types import FaceJob, RestoreOptions, Upload
from service.sampling.sampler import Sampler
from service.worker import Worker
from tests.fleet import check_results, submit, until_ready
from tests.pictures import decoded, pixels, saved
from tests.processes import ROOT
from tests.running_bundle import SIZE_PX
from tests.triton_servers import TritonServer, copy_repository, require_triton

pytestmark = pytest.mark.timeout(600)

#: Levels of 8 bits between a result through Triton and the same made in this process. Measured: none.
TOLERANCE_LEVELS = 1
#: Faces that shared Triton's executions with others against the same alone, on [0, 1]. Measured: none.
COMPANY_TOLERANCE = 1e-6
LONG_S = 120.0


def group():
    """Three faces: two of different sizes and one that is tilted."""
    head = Image.fromarray(astronaut()).crop((100, 0, 350, 230))
    photo = Image.new("RGB", (640, 320), (90, 110, 130))
    photo.paste(head, (10, 40))
    photo.paste(head.resize((130, 120)), (270, 20))
    photo.paste(head.resize((200, 184)).rotate(25, fillcolor=(90, 110, 130)), (420, 100))
    return saved(photo, "PNG")


async def restored(bundle, data, **settings):
    made = Settings(model_repository=bundle, inference_threads=1, **settings)
    options = RestoreOptions(seed=5, num_steps=3, fidelity=0.25)
    async with restoring(made, Ending(made.grace_s), with_worker=True) as service:
        assert await service.reasons_not_ready() == []
        return await service.gateway.restore(Upload(data), options)


async def compare(bundle, server, **settings):
    data = group()
    found = await restored(bundle, data, triton_urls=server.url, **settings)
    expected = await restored(bundle, data)
    assert len(found.report.faces) == 3
    for ours, theirs in zip(found.report.faces, expected.report.faces, strict=True):
        assert ours.status is theirs.status
        np.testing.assert_allclose(ours.box, theirs.box, atol=1e-3)
        np.testing.assert_allclose(ours.landmarks_5, theirs.landmarks_5, atol=1e-3)
    difference = decoded(found.data).astype(int) - decoded(expected.data)
    assert np.abs(difference).max() <= TOLERANCE_LEVELS
    assert (decoded(found.data) != decoded(data)).any()


@pytest.mark.parametrize("shared_memory", [False, True], ids=["wire", "shared memory"])
async def test_a_photo_is_restored_as_in_this_process(triton, arithmetic_bundle, shared_memory):
    await compare(arithmetic_bundle, triton, triton_shared_memory=shared_memory)


@pytest.mark.slow
async def test_the_repositorys_own_bundle_and_configurations_give_the_same_pictures(tmp_path):
    require_triton()
    own = ROOT / "model_repository"
    if not (own / "detector" / "1" / "model.onnx").is_file():
        pytest.skip("the detector is not fetched: make install")
    with TritonServer(copy_repository(own, tmp_path / "models"), tmp_path) as server:
        server.until_ready()
        await compare(own, server)


@contextlib.asynccontextmanager
async def one_slot_workers(bundle, server, broker, count):
    """Workers that can bring one row to a call: whatever is joined, Triton joins."""
    manifest, stop = load_manifest(bundle), asyncio.Event()
    backends = [
        TritonBackend(manifest, [server.url], metrics=Metrics(), timeout_s=LONG_S, only=manifest.networks)
        for _ in range(count)
    ]
    await asyncio.gather(*(backend.start(LONG_S) for backend in backends))
    workers = [
        Worker(broker, Sampler(backend, manifest, 1, metrics=Metrics()), metrics=Metrics()) for backend in backends
    ]
    tasks = [asyncio.create_task(worker.run(stop)) for worker in workers]
    yield
    stop.set()
    await asyncio.gather(*tasks)
    await asyncio.gather(*(backend.close() for backend in backends))


async def test_calls_of_several_workers_become_one_execution_and_no_face_changes(triton, arithmetic_bundle):
    faces = [FaceJob(f"photo {seed}", 0, pixels(SIZE_PX, SIZE_PX, seed=seed), 6, seed=seed) for seed in range(12)]
    broker = MemoryBroker(max_queued_faces=64, metrics=Metrics())
    async with one_slot_workers(arithmetic_bundle, triton, broker, 1):
        alone = []
        for face in faces:
            await broker.submit([face])
            alone += await broker.results(face.job_id, LONG_S)
    rows, executions = (triton.counted(f"nv_inference_{kind}count", "velocity") for kind in ("", "exec_"))
    async with one_slot_workers(arithmetic_bundle, triton, broker, 4):
        with triton.slow("velocity", 0.02):
            for face in faces:
                await broker.submit([face])
            together = [(await broker.results(face.job_id, LONG_S))[0] for face in faces]
    rows = triton.counted("nv_inference_count", "velocity") - rows
    executions = triton.counted("nv_inference_exec_count", "velocity") - executions
    await broker.close()
    assert rows == 12 * 6
    assert executions < rows
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.sample, other.sample, atol=COMPANY_TOLERANCE)


@pytest.mark.slow
def test_calls_of_several_processes_become_one_execution(triton, fleet):
    """Three workers with a slot each: while one call is executed the other two wait, and are executed together."""
    (gateway,) = fleet.start("gateway")
    workers = fleet.start("worker", "worker", "worker", triton_urls=triton.url, slots=1)
    until_ready(gateway, *workers)
    rows, executions = (triton.counted(f"nv_inference_{kind}count", "velocity") for kind in ("", "exec_"))
    with triton.slow("velocity", 0.1):
        where = submit(gateway, range(6), num_steps="6")
        check_results(gateway, where)
    rows = triton.counted("nv_inference_count", "velocity") - rows
    executions = triton.counted("nv_inference_exec_count", "velocity") - executions
    assert all(worker.counted("restore_ode_steps_total") > 0 for worker in workers)
    assert rows == 6 * 6
    assert executions < rows
