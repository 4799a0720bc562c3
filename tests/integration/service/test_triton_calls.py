"""Calls of single networks through a real Triton server, beside the same calls in this process."""

import asyncio
import contextlib
import re
from pathlib import Path

import numpy as np
import pytest

from loadtest.process import held_port
from service.backends.ort_session import OrtBackend
from service.backends.triton_client import TritonBackend
from service.core.errors import DependencyUnavailable, InferenceFailed, ManifestMismatch
from service.core.interfaces import InferenceBackend
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from tests.rpc_serving import until
from tests.running_bundle import SIZE_PX

pytestmark = pytest.mark.timeout(300)

PATIENCE_S = 60.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel has it
#: Values of a network through Triton against the same in this process. Measured: no difference at all.
TOLERANCE = 1e-6
WAYS = pytest.mark.parametrize("shared_memory", [False, True], ids=["wire", "shared memory"])


@pytest.fixture
def manifest(arithmetic_bundle):
    return load_manifest(arithmetic_bundle)


@contextlib.asynccontextmanager
async def calling(manifest, *servers, metrics=None, timeout_s=PATIENCE_S, **options):
    backend = TritonBackend(manifest, servers, metrics=metrics or Metrics(), timeout_s=timeout_s, **options)
    try:
        await backend.start(PATIENCE_S)
        yield backend
    finally:
        await backend.close()


@contextlib.asynccontextmanager
async def in_process(manifest, bundle):
    backend = OrtBackend(manifest, bundle, 1, metrics=Metrics())
    yield backend
    await backend.close()


def batch(network, rows, seed=0):
    rng = np.random.default_rng(seed)
    return {tensor.name: rng.random([rows, *tensor.shape[1:]], np.float32) for tensor in network.inputs}


def pictures(rows=1, size_px=SIZE_PX):
    return {"image": np.random.default_rng(rows).random((rows, 3, size_px, size_px), np.float32)}


def regions():
    """Files of the shared memory that this process has open."""
    return {SHARED_MEMORY / name for name in re.findall(r"/(psm_\w+)", Path("/proc/self/maps").read_text())}


@WAYS
async def test_every_network_gives_what_it_gives_in_this_process(triton, manifest, arithmetic_bundle, shared_memory):
    async with (
        calling(manifest, triton.url, shared_memory=shared_memory) as backend,
        in_process(manifest, arithmetic_bundle) as reference,
    ):
        assert isinstance(backend, InferenceBackend)
        assert backend.concurrent
        for name, network in manifest.networks.items():
            for rows in (1, 3, network.max_batch_size):
                inputs = batch(network, rows)
                found, expected = await backend.infer(name, inputs), await reference.infer(name, inputs)
                assert found.keys() == expected.keys()
                for tensor, values in expected.items():
                    assert found[tensor].dtype == np.float32
                    np.testing.assert_allclose(found[tensor], values, atol=TOLERANCE, rtol=0)


@WAYS
@pytest.mark.parametrize(("rows", "height_px", "width_px"), [(1, 352, 64), (2, 128, 128), (16, 128, 128)])
async def test_the_detector_takes_views_of_any_size(
    triton, manifest, arithmetic_bundle, shared_memory, rows, height_px, width_px
):
    image = np.random.default_rng(rows).random((rows, 3, height_px, width_px), np.float32) * 255
    async with (
        calling(manifest, triton.url, shared_memory=shared_memory, only=["detector"]) as backend,
        in_process(manifest, arithmetic_bundle) as reference,
    ):
        found = await backend.infer("detector", {"image": image})
        expected = await reference.infer("detector", {"image": image})
    assert {name: value.shape for name, value in found.items()} == {
        name: (rows, channels, height_px // 4, width_px // 4)
        for name, channels in (("heatmap", 1), ("scale", 2), ("offset", 2), ("landmarks", 10))
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4, rtol=0)


@WAYS
async def test_calls_side_by_side_keep_apart(triton, manifest, shared_memory):
    async with calling(manifest, triton.url, shared_memory=shared_memory) as backend:
        levels = [level / 32 for level in range(32)]
        image = {level: np.full((1, 3, SIZE_PX, SIZE_PX), level, np.float32) for level in levels}
        found = await asyncio.gather(*(backend.infer("estimator", {"image": image[level]}) for level in levels))
    means = [answer["posterior_mean"] for answer in found]
    np.testing.assert_allclose([mean.min() for mean in means], [0.9 * level + 0.05 for level in levels], atol=1e-6)
    np.testing.assert_allclose([mean.max() for mean in means], [0.9 * level + 0.05 for level in levels], atol=1e-6)


async def test_each_call_is_counted(triton, manifest):
    metrics = Metrics()
    async with calling(manifest, triton.url, metrics=metrics) as backend:
        await backend.infer("estimator", pictures(3))
    assert 'restore_batch_size_sum{network="estimator"} 3.0' in metrics.render().decode()


async def test_a_call_that_does_not_fit_fails_once_and_the_server_stays_in_use(triton, manifest):
    async with calling(manifest, triton.url) as backend:
        with pytest.raises(InferenceFailed, match=r"estimator: .*Expected \[-1,3,64,64\], got \[1,3,64,60\]"):
            await backend.infer("estimator", {"image": np.zeros((1, 3, 64, 60), np.float32)})
        assert await backend.ready()
        assert (await backend.infer("estimator", pictures()))["posterior_mean"].shape == (1, 3, SIZE_PX, SIZE_PX)


async def test_a_network_that_fails_over_its_input_is_used_again_after_a_small_call(triton, manifest, caplog):
    async with calling(manifest, triton.url) as backend:
        with pytest.raises(InferenceFailed, match="detector"):  # sides that are no multiples of 32
            await backend.infer("detector", {"image": np.zeros((1, 3, 40, 72), np.float32)})
        found = await backend.infer("detector", {"image": np.zeros((1, 3, 64, 96), np.float32)})
        assert found["heatmap"].shape == (1, 1, 16, 24)
        assert await backend.ready()
    ours = [record.message for record in caplog.records if record.name.startswith("service")]  # not grpc's
    assert len(ours) == 2
    assert "can be called" in ours[1]


@pytest.mark.parametrize("inputs", [{}, {"picture": np.zeros((1, 3, 64, 64), np.float32)}])
async def test_inputs_of_other_names_fail(triton, manifest, inputs):
    async with calling(manifest, triton.url) as backend:
        with pytest.raises(InferenceFailed, match="estimator: the inputs are"):
            await backend.infer("estimator", inputs)


async def test_a_network_that_is_not_ours_fails(triton, manifest):
    async with calling(manifest, triton.url, only=["estimator"]) as backend:
        with pytest.raises(InferenceFailed, match="velocity: there is no such network"):
            await backend.infer("velocity", batch(manifest.networks["velocity"], 1))


async def test_outputs_that_are_not_finite_fail(triton, manifest):
    async with calling(manifest, triton.url) as backend:
        with pytest.raises(InferenceFailed, match="estimator: output posterior_mean is not finite"):
            await backend.infer("estimator", {"image": np.full((1, 3, SIZE_PX, SIZE_PX), np.inf, np.float32)})


@WAYS
async def test_a_call_that_takes_too_long_ends_in_time(triton, manifest, shared_memory):
    async with calling(manifest, triton.url, timeout_s=2, shared_memory=shared_memory) as backend:
        await backend.infer("estimator", pictures())  # the way is known
        in_time = pytest.raises(DependencyUnavailable, match="estimator: no answer of Triton within 2 s")
        with triton.slow("estimator", 4), in_time:
            await backend.infer("estimator", pictures())
    async with calling(manifest, triton.url) as backend:
        assert (await backend.infer("estimator", pictures()))["posterior_mean"].shape == (1, 3, SIZE_PX, SIZE_PX)


async def test_the_server_does_not_begin_a_call_whose_time_is_over(triton, manifest):
    async with calling(manifest, triton.url) as patient, calling(manifest, triton.url, timeout_s=0.5) as hurried:
        await patient.infer("estimator", pictures())
        done = triton.counted("nv_inference_count", "estimator")
        with triton.slow("estimator", 4):
            begun = triton.begun("estimator")
            first = asyncio.create_task(patient.infer("estimator", pictures()))
            await until(lambda: triton.begun("estimator") > begun)  # the next one waits in the server
            with pytest.raises(DependencyUnavailable):
                await hurried.infer("estimator", pictures(2))
            await first
        await patient.infer("estimator", pictures())
    assert triton.counted("nv_inference_count", "estimator") == done + 2


async def test_a_cancelled_call_is_withdrawn_from_the_server(triton, manifest):
    async with calling(manifest, triton.url) as backend:
        await backend.infer("estimator", pictures())
        done = triton.counted("nv_inference_count", "estimator")
        with triton.slow("estimator", 3):
            begun = triton.begun("estimator")
            first = asyncio.create_task(backend.infer("estimator", pictures()))
            await until(lambda: triton.begun("estimator") > begun)
            second = asyncio.create_task(backend.infer("estimator", pictures(2)))
            await asyncio.sleep(0.2)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            await first
        await backend.infer("estimator", pictures())
    assert triton.counted("nv_inference_count", "estimator") == done + 2


async def test_a_cancelled_call_through_shared_memory_disturbs_no_other(triton, manifest):
    async with calling(manifest, triton.url, shared_memory=True) as backend:
        with triton.slow("estimator", 0.5):
            gone = [asyncio.create_task(backend.infer("estimator", pictures(3))) for _ in range(4)]
            await asyncio.sleep(0.2)
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
            image = np.full((1, 3, SIZE_PX, SIZE_PX), 0.5, np.float32)
            found = await asyncio.gather(*(backend.infer("estimator", {"image": image}) for _ in range(4)))
    assert {float(value) for answer in found for value in np.unique(answer["posterior_mean"])} == {0.5}


async def test_shared_memory_is_used_again_and_given_back(triton, manifest):
    before = regions()
    async with calling(manifest, triton.url, shared_memory=True) as backend:
        for _ in range(5):
            await backend.infer("estimator", pictures(2))
        (made,) = regions() - before
        assert made.exists()
    assert not made.exists()


async def test_memory_of_a_call_without_an_answer_is_given_back_when_the_server_has_left_it(triton, manifest):
    before = regions()
    async with calling(manifest, triton.url, timeout_s=2, shared_memory=True) as backend:
        await backend.infer("estimator", pictures())
        with triton.slow("estimator", 4), pytest.raises(DependencyUnavailable):
            await backend.infer("estimator", pictures())
        made = regions() - before
        assert made
    assert [region for region in made if region.exists()] == []
    assert triton.known_regions() == []


async def test_servers_take_turns_and_one_that_is_away_is_passed_over(triton, manifest):
    with held_port() as port:
        async with calling(manifest, f"grpc://127.0.0.1:{port}", triton.url) as backend:
            for _ in range(4):
                await backend.infer("estimator", pictures())
            assert await backend.ready()


async def test_without_a_server_the_start_fails_and_says_why(manifest):
    with held_port() as port:
        address = f"grpc://127.0.0.1:{port}"
        backend = TritonBackend(manifest, [address], metrics=Metrics(), timeout_s=PATIENCE_S)
        with pytest.raises(DependencyUnavailable, match=r"no Triton server can be called: .*refused"):
            await backend.start(0.3)
        assert not await backend.ready()
        await backend.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_batch_size": 8}, r"networks\.estimator\.max_batch_size: the server has 4, the manifest 8"),
        ({"sha256": "f" * 64}, r"networks\.estimator\.sha256"),
        ({"outputs": "image"}, r"networks\.estimator\.outputs: the server has \['posterior_mean'\]"),
        ({"shape": ["batch", 3, 32, 32]}, r"networks\.estimator\.inputs\[0\]\.shape: the server has .* 64, 64\]"),
        ({"dtype": "float16"}, r"networks\.estimator\.inputs\[0\]\.dtype: the server has float32"),
    ],
)
async def test_a_wrong_network_is_a_refusal_to_start_that_names_the_field(triton, manifest, change, message):
    described = manifest.model_dump(mode="json")
    entry = described["networks"]["estimator"]
    if "outputs" in change:
        entry["outputs"][0]["name"] = change["outputs"]
    elif "sha256" in change or "max_batch_size" in change:
        entry |= change
    else:
        entry["inputs"][0] |= change
    with pytest.raises(ManifestMismatch, match=message):
        async with calling(type(manifest).model_validate(described), triton.url):
            pytest.fail("it has started")


async def test_a_network_that_the_server_lacks_is_a_refusal_to_start(triton, manifest):
    networks = manifest.networks | {"second_estimator": manifest.networks["estimator"]}
    with pytest.raises(ManifestMismatch, match=r"networks\.second_estimator: the server has no model second_estimator"):
        async with calling(manifest.model_copy(update={"networks": networks}), triton.url):
            pytest.fail("it has started")
