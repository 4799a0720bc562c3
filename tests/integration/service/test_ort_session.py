"""The onnxruntime backend with real sessions of tiny graphs."""

import asyncio
import json
import threading

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from service.backends import in_process
from service.backends.ort_session import OrtBackend, provider_options, providers
from service.core.errors import InferenceFailed, ManifestMismatch
from service.core.interfaces import InferenceBackend
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from tests.bundle import CHANNELS, NETWORKS, image_shape, make_graph, write_bundle, write_detector
from tests.in_process import SIZE_PX, latents, opened_backend, random


def backend_of(repository, *, threads=1, **options):
    return opened_backend(OrtBackend, repository, threads, **options)


async def test_every_network_runs(tmp_path):
    async with backend_of(tmp_path) as backend:
        assert isinstance(backend, InferenceBackend)
        assert await backend.ready()
        picture, latent = random(1, 3, SIZE_PX, SIZE_PX), latents(1)
        estimate = await backend.infer("estimator", {"image": picture})
        np.testing.assert_allclose(estimate["posterior_mean"], 0.5 * picture + 0.25, rtol=1e-6)
        encoded = await backend.infer("vae_encoder", {"image": picture})
        decoded = await backend.infer("vae_decoder", encoded)
        np.testing.assert_allclose(decoded["image"], picture, rtol=1e-6)
        velocity = await backend.infer("velocity", {"x_t": latent, "t": np.array([0.25], np.float32)})
        np.testing.assert_allclose(velocity["velocity"], 0.25)


@pytest.mark.parametrize("size", [(32, 64), (96, 32), (640, 640)])
async def test_the_detector_takes_every_size(tmp_path, size):
    async with backend_of(tmp_path) as backend:
        picture = random(2, 3, *size)
        found = await backend.infer("detector", {"image": picture})
        assert (found["map"] == picture).all()


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
async def test_rows_shared_out_among_threads_come_back_in_their_order(tmp_path, threads, rows):
    metrics = Metrics()
    async with backend_of(tmp_path, metrics=metrics, threads=threads, max_batch_size=8) as backend:
        t = np.arange(rows, dtype=np.float32)
        velocity = await backend.infer("velocity", {"x_t": latents(rows), "t": t})
        assert velocity["velocity"][:, 0, 0, 0].tolist() == t.tolist()
    lines = metrics.render().decode().splitlines()
    assert 'restore_batch_size_count{network="velocity"} 1.0' in lines  # shares are no calls of their own
    assert f'restore_batch_size_sum{{network="velocity"}} {rows}.0' in lines


async def test_shares_run_side_by_side(tmp_path, monkeypatch):
    meeting = threading.Barrier(2, timeout=30)
    run = in_process.Network.run

    def met(network, session, feeds):
        meeting.wait()
        return run(network, session, feeds)

    async with backend_of(tmp_path, threads=2, max_batch_size=8) as backend:
        monkeypatch.setattr(in_process.Network, "run", met)
        picture = random(5, 3, SIZE_PX, SIZE_PX)
        estimate = await backend.infer("estimator", {"image": picture})
        np.testing.assert_allclose(estimate["posterior_mean"], 0.5 * picture + 0.25, rtol=1e-6)


async def test_a_share_that_fails_fails_the_call(tmp_path):
    async with backend_of(tmp_path, threads=2, max_batch_size=8) as backend:
        with pytest.raises(InferenceFailed, match=r"velocity: .*x_t"):
            await backend.infer("velocity", {"x_t": random(4, CHANNELS, 5, 5), "t": np.zeros(4, np.float32)})
        t = np.zeros(4, np.float32)
        assert (await backend.infer("velocity", {"x_t": latents(4), "t": t}))["velocity"].shape == latents(4).shape


async def test_half_precision_networks_are_cast_at_their_borders(tmp_path):
    same, shape = [helper.make_node("Identity", ["image"], ["posterior_mean"])], image_shape(SIZE_PX)
    half = make_graph(same, {"image": shape}, {"posterior_mean": shape}, dtype=TensorProto.FLOAT16)
    async with backend_of(tmp_path, networks={"estimator": half}) as backend:
        picture = random(1, 3, SIZE_PX, SIZE_PX)
        estimate = (await backend.infer("estimator", {"image": picture}))["posterior_mean"]
        assert estimate.dtype == np.float32
        assert (estimate == picture.astype(np.float16)).all()


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        ("nose", {"image": random(1, 3, SIZE_PX, SIZE_PX)}, "nose"),
        ("estimator", {"image": random(1, 3, 7, 7)}, "estimator"),
        ("estimator", {"picture": random(1, 3, SIZE_PX, SIZE_PX)}, "estimator"),
        ("velocity", {"x_t": latents(1)}, "velocity"),
        ("estimator", {}, "estimator"),
    ],
    ids=["unknown network", "wrong shape", "wrong name", "missing input", "no input"],
)
async def test_a_call_that_fails_names_the_network(tmp_path, network, inputs, message):
    async with backend_of(tmp_path) as backend:
        with pytest.raises(InferenceFailed, match=message):
            await backend.infer(network, inputs)
        assert await backend.infer("estimator", {"image": random(1, 3, SIZE_PX, SIZE_PX)})


@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_values_that_are_not_finite_are_a_failure(tmp_path, value):
    async with backend_of(tmp_path) as backend:
        picture = random(2, 3, SIZE_PX, SIZE_PX)
        picture[1, 0, 5, 5] = value
        with pytest.raises(InferenceFailed, match="estimator: output posterior_mean is not finite"):
            await backend.infer("estimator", {"image": picture})


async def test_calls_from_all_sides_do_not_mix(tmp_path):
    async with backend_of(tmp_path) as backend:
        pictures = [np.full((1 + index % 3, 3, SIZE_PX, SIZE_PX), index / 40, np.float32) for index in range(40)]
        found = await asyncio.gather(
            *(
                backend.infer("detector" if index % 2 else "estimator", {"image": picture})
                for index, picture in enumerate(pictures)
            )
        )
        for index, (picture, outputs) in enumerate(zip(pictures, found, strict=True)):
            expected = picture if index % 2 else 0.5 * picture + 0.25
            np.testing.assert_allclose(next(iter(outputs.values())), expected, rtol=1e-6)


async def test_a_closed_backend_refuses(tmp_path):
    async with backend_of(tmp_path) as backend:
        await backend.close()
        assert not await backend.ready()
        with pytest.raises(InferenceFailed, match="closed"):
            await backend.infer("estimator", {"image": random(1, 3, SIZE_PX, SIZE_PX)})


def changed_manifest(repository, network, side, index, field, value):
    """Write a bundle whose manifest says something else about one tensor."""
    write_bundle(repository, SIZE_PX)
    write_detector(repository)
    path = repository / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["networks"][network][side][index][field] = value
    path.write_text(json.dumps(manifest))
    return load_manifest(repository)


@pytest.mark.parametrize(
    ("network", "side", "index", "field", "value"),
    [
        ("velocity", "inputs", 0, "shape", ["batch", CHANNELS + 1, 4, 4]),
        ("velocity", "inputs", 1, "shape", ["batch", 1]),
        ("velocity", "inputs", 0, "shape", [2, CHANNELS, 4, 4]),
        ("velocity", "outputs", 0, "dtype", "float16"),
        ("estimator", "inputs", 0, "name", "picture"),
        ("vae_decoder", "outputs", 0, "shape", ["batch", 3, 2 * SIZE_PX, SIZE_PX]),
    ],
)
def test_a_signature_other_than_the_manifests_is_refused(tmp_path, network, side, index, field, value):
    manifest = changed_manifest(tmp_path, network, side, index, field, value)
    with pytest.raises(ManifestMismatch) as refusal:
        OrtBackend(manifest, tmp_path, 1, metrics=Metrics())
    assert refusal.value.detail.startswith(f"networks.{network}.{side}[{index}].{field}: ")


def test_the_free_dimension_may_have_any_name(tmp_path):
    manifest = changed_manifest(tmp_path, "estimator", "inputs", 0, "shape", ["N", 3, SIZE_PX, SIZE_PX])
    OrtBackend(manifest, tmp_path, 1, metrics=Metrics())


def test_a_tensor_the_manifest_does_not_know_is_refused(tmp_path):
    nodes = [helper.make_node("Add", ["image", "bias"], ["posterior_mean"])]
    shape = image_shape(SIZE_PX)
    content = make_graph(nodes, {"image": shape, "bias": shape}, {"posterior_mean": shape})
    write_bundle(tmp_path, SIZE_PX, networks={"estimator": content})
    write_detector(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["networks"]["estimator"]["inputs"][1]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ManifestMismatch, match=r"networks\.estimator\.inputs: .*bias"):
        OrtBackend(load_manifest(tmp_path), tmp_path, 1, metrics=Metrics())


@pytest.mark.parametrize("network", NETWORKS)
def test_a_file_that_is_no_network_is_refused(tmp_path, network):
    write_bundle(tmp_path, SIZE_PX)
    write_detector(tmp_path)
    manifest = load_manifest(tmp_path)
    (tmp_path / manifest.networks[network].file).write_bytes(b"no graph")
    with pytest.raises(ManifestMismatch, match=rf"networks\.{network}\.file"):
        OrtBackend(manifest, tmp_path, 1, metrics=Metrics())


def test_a_missing_detector_says_how_to_get_it(tmp_path):
    write_bundle(tmp_path, SIZE_PX)
    with pytest.raises(ManifestMismatch, match="detector") as refusal:
        OrtBackend(load_manifest(tmp_path), tmp_path, 1, metrics=Metrics())
    assert "make install" in refusal.value.hint
    assert f"python -m export.detector --model-repository {tmp_path}`" in refusal.value.hint


def test_a_damaged_detector_is_fetched_again_and_the_bundle_not_exported(tmp_path):
    write_bundle(tmp_path, SIZE_PX)
    detector = write_detector(tmp_path)
    detector.write_bytes(detector.read_bytes()[:100])
    with pytest.raises(ManifestMismatch, match=r"detector/1/model\.onnx cannot be loaded") as refusal:
        OrtBackend(load_manifest(tmp_path), tmp_path, 1, metrics=Metrics())
    assert refusal.value.hint.endswith(f"`.venv/bin/python -m export.detector --model-repository {tmp_path}`")
    assert "export the bundle" not in refusal.value.hint


def test_a_gpu_is_asked_for_float32_as_it_is_and_for_no_long_search_at_every_size(monkeypatch):
    """onnxruntime's defaults would; there is no GPU here, and only what it is asked can be looked at."""
    found = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: found)
    asked = dict(zip(providers(), provider_options(), strict=True))
    on_gpu = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert asked == {"CUDAExecutionProvider": on_gpu, "CPUExecutionProvider": {}}
