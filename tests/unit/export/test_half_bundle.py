import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from export.cli import main
from export.half import emulate, to_half
from export.parity import ParityError, compared_steps
from export.precision import FiniteRestorer, PrecisionGate, check_precision
from export.variants import load_original, publish, staged, write_half
from latent_pmrf.evaluation.bundle import onnxruntime_session
from service.core.manifest import load_manifest

pytestmark = pytest.mark.timeout(300)

BUNDLE = Path(__file__).resolve().parents[3] / "model_repository"
NETWORKS = ("estimator", "vae_encoder", "velocity", "vae_decoder")


@pytest.fixture(scope="module")
def original(exported):
    return load_original(exported[1], lambda _line: None)


@pytest.fixture(scope="module", params=["float16", "bfloat16"])
def written(request, original, tmp_path_factory):
    target, said = tmp_path_factory.mktemp("half") / "repository", []
    manifest = write_half(original, target, request.param, PrecisionGate(), said.append)
    return request.param, target, manifest, said


def changed(repository, network, change):
    """Apply `change` to the weights of a network by name, and tell the manifest."""
    manifest = json.loads((repository / "manifest.json").read_text())
    path = repository / manifest["networks"][network]["file"]
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = change(tensor.name, numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    path.write_bytes(model.SerializeToString())
    manifest["networks"][network]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (repository / "manifest.json").write_text(json.dumps(manifest))


def test_the_service_accepts_the_bundle(written):
    precision, target, _, _ = written
    manifest = load_manifest(target)
    assert manifest.version == f"7+{precision}"
    tensors = [tensor for entry in manifest.networks.values() for tensor in (*entry.inputs, *entry.outputs)]
    assert {tensor.dtype for tensor in tensors} == {"float32"}


def test_the_manifest_says_what_was_run_and_what_was_not(written):
    precision, _, manifest, said = written
    record = manifest["provenance"]["export"]["precision"]
    assert (record["products"], record["ran_on_gpu"]) == (precision, False)
    assert record["num_steps"] == list(compared_steps(manifest["default_num_steps"], manifest["max_num_steps"]))
    measured = record["least_psnr_db"]
    assert measured["emulated"] >= 45
    if precision == "float16":
        assert measured["onnxruntime_cpu"] >= 45
    else:
        assert measured["onnxruntime_cpu"] is None
        assert any("not run: onnxruntime's CPU provider has no kernels" in line for line in said)


def test_it_holds_graphs_configurations_and_manifest_and_no_leftovers(written):
    _, target, _, _ = written
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {"manifest.json", *(f"{name}/{file}" for name in NETWORKS for file in ("1/model.onnx", "config.pbtxt"))} <= (
        files
    )
    assert not [name for name in files if name.startswith(".")]


def test_what_an_earlier_bundle_left_is_gone_and_what_is_not_ours_stays(original, tmp_path):
    leftovers = [tmp_path / "velocity" / "1" / "model.plan", tmp_path / "velocity" / "configs" / "old.pbtxt"]
    other = tmp_path / "notes" / "of_the_operator.txt"
    for path in (*leftovers, other):
        path.parent.mkdir(parents=True)
        path.write_text("old")
    with staged(original, tmp_path, original.files, "model.onnx", {"products": "float32"}) as staging:
        publish(staging, tmp_path, {"products": "float32"}, original, lambda _line: None)
    assert not any(path.exists() for path in leftovers)
    assert other.exists()
    load_manifest(tmp_path)


def test_quality_of_other_files_is_not_taken_over(written):
    assert written[2]["quality"] == {}


def test_the_original_keeps_its_place_and_its_manifest(original, written):
    assert json.loads((original.repository / "manifest.json").read_text()) == original.manifest
    assert original.manifest["version"] == "7"


def test_a_bundle_in_half_precision_is_no_reference(written):
    with pytest.raises(ValueError, match="in another precision already"):
        load_original(written[1], lambda _line: None)


def test_the_original_s_folder_is_refused(original):
    before = (original.repository / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="name another folder"):
        write_half(original, original.repository, "float16", PrecisionGate(), lambda _line: None)
    assert (original.repository / "manifest.json").read_bytes() == before


def test_a_failed_gate_writes_nothing_and_ends_the_command(exported, tmp_path, capsys):
    target = tmp_path / "target"
    arguments = ["half", "--model-repository", str(exported[1]), "--target", str(target), "--min-psnr-db", "150"]
    assert main(arguments) == 1
    assert re.search(r"a picture has \d+\.\d dB beside PyTorch's, less than 150; nothing", capsys.readouterr().err)
    assert not target.exists()


def test_a_network_that_overflows_in_float16_is_refused_and_has_room_in_bfloat16(exported, tmp_path):
    """Activations of the decoder beyond 65504, made small again by what follows: nothing that float32 notices."""
    repository = shutil.copytree(exported[1], tmp_path / "repository")

    def louder(name, values):
        return (values.astype(np.float32) * 3e4).astype(values.dtype) if "decoder.conv_in.weight" in name else values

    changed(repository, "vae_decoder", louder)
    loud = load_original(repository, lambda _line: None)
    with pytest.raises(ParityError, match="vae_decoder: not finite"):
        write_half(loud, tmp_path / "float16", "float16", PrecisionGate(10), lambda _line: None)
    latent = np.random.default_rng(5).standard_normal((1, 4, 24, 24), dtype=np.float32)
    exact = onnxruntime_session(loud.files["vae_decoder"]).run(None, {"latent": latent})[0]
    rounded = onnxruntime_session(emulate(to_half(loud.files["vae_decoder"], "bfloat16"))).run(
        None, {"latent": latent}
    )[0]
    assert np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_pictures_of_other_weights_fail_the_gate(original):
    restorer, bundle = original.trained.restorer, FiniteRestorer(original.repository, 1)
    assert check_precision(restorer, bundle, (1,), PrecisionGate()) > 80
    bias = original.trained.estimator.get_parameter("conv_in.weight")
    kept = bias.clone()
    try:
        with torch.no_grad():
            bias.add_(0.05)
        with pytest.raises(ParityError, match="a picture has"):
            check_precision(restorer, bundle, (1,), PrecisionGate())
    finally:
        with torch.no_grad():
            bias.copy_(kept)


def test_the_bundled_velocity_keeps_its_values_in_float16():
    """Relative to its typical output; bfloat16 and the whole pipeline are in docs/PERFORMANCE.md."""
    content = (BUNDLE / "velocity" / "1" / "model.onnx").read_bytes()
    session = onnxruntime_session(content)
    shape = (1, *session.get_outputs()[0].shape[1:])
    generator = np.random.default_rng(3)
    feeds = {
        "x_t": generator.standard_normal(shape, dtype=np.float32),
        "t": np.array([0.4], np.float32),
        "source_mean": generator.standard_normal(shape, dtype=np.float32),
    }
    exact = session.run(None, feeds)[0]
    rounded = onnxruntime_session(emulate(to_half(content, "float16"))).run(None, feeds)[0]
    assert np.sqrt(np.mean(np.square(rounded - exact)) / np.mean(np.square(exact))) < 0.003
