"""The networks by OpenVINO: every network of the bundle, rows that do not hang on each other, refusals."""

import asyncio
import functools
import json
import subprocess
import sys

import numpy as np
import pytest

openvino_session = pytest.importorskip(
    "service.backends.openvino_session", reason="the extra openvino is not installed"
)

from service.backends.openvino_session import OpenVinoBackend, precisions  # noqa: E402
from service.backends.ort_session import OrtBackend  # noqa: E402
from service.composition.networks import open_backend  # noqa: E402
from service.core.errors import InferenceFailed, ManifestMismatch  # noqa: E402
from service.core.interfaces import InferenceBackend  # noqa: E402
from service.core.manifest import load_manifest  # noqa: E402
from service.core.metrics import Metrics  # noqa: E402
from service.core.settings import Precision, Settings, UnusableSettings  # noqa: E402
from tests.bundle import write_bundle, write_detector  # noqa: E402
from tests.in_process import SIZE_PX, latents, opened_backend, random  # noqa: E402
from tests.processes import ROOT  # noqa: E402

BUNDLE = ROOT / "model_repository"
LEAST_PSNR_DB = {Precision.FLOAT32: 110.0, Precision.BFLOAT16: 38.0}


def backend_of(repository, *, threads=2, **options):
    make = functools.partial(OpenVinoBackend, precision=Precision.FLOAT32)
    return opened_backend(make, repository, threads, **options)


def inputs_of(spec, rows):
    return {tensor.name: random(rows, *tensor.shape[1:]) for tensor in spec.inputs}


@pytest.mark.parametrize("precision", precisions())
async def test_every_network_of_the_bundle_computes_what_onnxruntime_computes_and_a_row_is_the_same_in_any_batch(
    precision,
):
    manifest, metrics = load_manifest(BUNDLE), Metrics()
    ours = OpenVinoBackend(manifest, BUNDLE, 2, precision=precision, metrics=metrics)
    theirs = OrtBackend(manifest, BUNDLE, 2, metrics=metrics, only=manifest.networks)
    for name, spec in manifest.networks.items():
        inputs = inputs_of(spec, 5)
        found, expected = [next(iter((await each.infer(name, inputs)).values())) for each in (ours, theirs)]
        error = np.square(found.astype(np.float64) - expected).mean()
        assert -10 * np.log10(error / np.ptp(expected) ** 2) > LEAST_PSNR_DB[precision], name
        for start, stop in ((0, 1), (1, 3), (4, 5)):
            part = await ours.infer(name, {key: value[start:stop] for key, value in inputs.items()})
            assert np.array_equal(next(iter(part.values())), found[start:stop]), name
    await asyncio.gather(ours.close(), theirs.close())


@pytest.mark.parametrize("size", [(32, 64), (96, 32)])
async def test_the_detector_takes_every_size(tmp_path, size):
    async with backend_of(tmp_path) as backend:
        assert isinstance(backend, InferenceBackend)
        assert await backend.ready()
        picture = random(2, 3, *size)
        assert ((await backend.infer("detector", {"image": picture}))["map"] == picture).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
async def test_rows_come_back_in_their_order(tmp_path, threads, rows):
    metrics = Metrics()
    async with backend_of(tmp_path, metrics=metrics, threads=threads, max_batch_size=8) as backend:
        t = np.arange(rows, dtype=np.float32)
        velocity = await backend.infer("velocity", {"x_t": latents(rows), "t": t})
        assert velocity["velocity"][:, 0, 0, 0].tolist() == t.tolist()
    lines = metrics.render().decode().splitlines()
    assert 'restore_batch_size_count{network="velocity"} 1.0' in lines
    assert f'restore_batch_size_sum{{network="velocity"}} {rows}.0' in lines


async def test_calls_from_all_sides_do_not_mix(tmp_path):
    async with backend_of(tmp_path, max_batch_size=4) as backend:
        pictures = [np.full((1 + index % 3, 3, SIZE_PX, SIZE_PX), index / 40, np.float32) for index in range(40)]
        found = await asyncio.gather(*(backend.infer("estimator", {"image": picture}) for picture in pictures))
        for picture, outputs in zip(pictures, found, strict=True):
            np.testing.assert_allclose(outputs["posterior_mean"], 0.5 * picture + 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        ("estimator", {"image": random(1, 3, 7, 7)}, r"estimator: .*\[1,3,7,7\]"),
        ("estimator", {"picture": random(1, 3, SIZE_PX, SIZE_PX)}, r"estimator: takes \['image'\]"),
        ("estimator", {}, "estimator"),
        ("velocity", {"x_t": latents(2)}, r"velocity: takes \['t', 'x_t'\]"),
        ("velocity", {"x_t": latents(2), "t": np.zeros(1, np.float32)}, "velocity: "),
        ("velocity", {"t": np.zeros(1, np.float32), "x_t": latents(2)}, "velocity: rows differ"),
    ],
    ids=["wrong shape", "wrong name", "no input", "missing input", "too few rows of the second", "of the first"],
)
async def test_a_call_that_fails_says_why_and_the_next_is_right(tmp_path, network, inputs, message):
    async with backend_of(tmp_path, max_batch_size=4) as backend:
        t = np.full(2, 0.25, np.float32)
        await backend.infer("velocity", {"x_t": latents(2), "t": t})
        with pytest.raises(InferenceFailed, match=message):
            await backend.infer(network, inputs)
        picture = random(1, 3, SIZE_PX, SIZE_PX)
        estimate = await backend.infer("estimator", {"image": picture})
        np.testing.assert_allclose(estimate["posterior_mean"], 0.5 * picture + 0.25, rtol=1e-6)
        assert ((await backend.infer("velocity", {"x_t": latents(2), "t": t}))["velocity"] == 0.25).all()


async def test_values_that_are_not_finite_are_a_failure(tmp_path):
    async with backend_of(tmp_path) as backend:
        picture = random(2, 3, SIZE_PX, SIZE_PX)
        picture[1, 0, 5, 5] = np.nan
        with pytest.raises(InferenceFailed, match="estimator: output posterior_mean is not finite"):
            await backend.infer("estimator", {"image": picture})


def test_a_file_that_is_no_network_is_refused(tmp_path):
    write_bundle(tmp_path, SIZE_PX)
    write_detector(tmp_path)
    manifest = load_manifest(tmp_path)
    (tmp_path / manifest.networks["velocity"].file).write_bytes(b"no graph")
    with pytest.raises(ManifestMismatch, match=r"networks\.velocity\.file") as refusal:
        OpenVinoBackend(manifest, tmp_path, 1, precision=Precision.FLOAT32, metrics=Metrics())
    assert "Exception from" not in refusal.value.detail


def test_a_signature_other_than_the_manifests_is_refused(tmp_path):
    write_bundle(tmp_path, SIZE_PX)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["networks"]["velocity"]["inputs"][0]["shape"][1] += 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(ManifestMismatch) as refusal:
        OpenVinoBackend(
            load_manifest(tmp_path), tmp_path, 1, precision=Precision.FLOAT32, metrics=Metrics(), only=["velocity"]
        )
    assert refusal.value.detail.startswith("networks.velocity.inputs[0].shape: ")


async def opened(bundle, **settings):
    made = Settings(model_repository=bundle, inference_threads=1, inference_runtime="openvino", **settings)
    return await open_backend(made, load_manifest(bundle), Metrics(), only=["estimator"])


async def test_the_settings_choose_runtime_and_precision(tmp_path, monkeypatch):
    write_bundle(tmp_path, SIZE_PX)
    for asked, expected in (("auto", precisions()[0]), ("float32", Precision.FLOAT32)):
        backend = await opened(tmp_path, openvino_precision=asked)
        assert isinstance(backend, OpenVinoBackend)
        assert backend.precision is expected
        await backend.close()
    monkeypatch.setattr(openvino_session, "precisions", lambda: (Precision.FLOAT32,))
    with pytest.raises(UnusableSettings, match="OPENVINO_PRECISION=bfloat16: this processor does not"):
        await opened(tmp_path, openvino_precision="bfloat16")


async def test_networks_are_in_this_process_or_elsewhere_and_not_both(tmp_path):
    write_bundle(tmp_path, SIZE_PX)
    with pytest.raises(UnusableSettings, match="unset one of them"):
        await opened(tmp_path, triton_urls="grpc://127.0.0.1:9")


async def test_who_only_detects_needs_no_openvino(tmp_path, monkeypatch):
    write_bundle(tmp_path, SIZE_PX)
    write_detector(tmp_path)
    settings = Settings(model_repository=tmp_path, inference_threads=1, inference_runtime="openvino")
    monkeypatch.setitem(sys.modules, "service.backends.openvino_session", None)
    backend = await open_backend(settings, load_manifest(tmp_path), Metrics(), only=["detector"])
    assert await backend.ready()
    await backend.close()


@pytest.mark.parametrize("module", ["service.backends.openvino_session", "export.openvino_session"])
def test_openvino_tells_nobody_that_it_was_imported(module):
    script = f"""
import sys
def refuse(event, given):
    if event in ("os.fork", "socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        raise SystemExit(f"{{event}}: {{given}}")
sys.addaudithook(refuse)
import {module} as session
print(getattr(session, "precisions", None) or session.openvino_precisions())
print("openvino" in sys.modules, sorted(name for name in sys.modules if "telemetry" in name and sys.modules[name]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("True ")
    assert "openvino_telemetry" not in done.stdout


def test_without_openvino_it_cannot_be_chosen(tmp_path):
    write_bundle(tmp_path, SIZE_PX)
    script = """
import asyncio, sys
sys.modules["openvino"] = None
from pathlib import Path
from service.composition.networks import open_backend
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.settings import Settings
bundle = Path(sys.argv[1])
settings = Settings(model_repository=bundle, inference_runtime="openvino")
asyncio.run(open_backend(settings, load_manifest(bundle), Metrics(), only=["estimator"]))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert "needs OpenVINO: in its folder, .venv/bin/python -m pip install --editable '.[openvino]'" in done.stderr
