"""Engines built and run: on machines with an NVIDIA GPU and TensorRT, where docker/export.sh takes them."""

import importlib.util

import numpy as np
import pytest

from export.cli import main
from export.engine import BuildOptions, EngineSession, build_engine
from export.half import PRECISIONS, to_half
from export.to_tensorrt import plan_profile
from latent_pmrf.evaluation.bundle import onnxruntime_session
from service.core.manifest import load_manifest
from tests.small_graphs import SIDE, residual

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt") is None, reason="needs TensorRT: docker/export.sh"),
    pytest.mark.timeout(1800),  # tuning takes minutes a network
]

PROFILE = plan_profile({"max_batch_size": 4, "inputs": [{"name": "x", "shape": ["batch", SIDE]}]})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_computes_what_its_graph_computes(precision, tmp_path):
    cache = tmp_path / "cache"
    plan = build_engine(to_half(residual(), precision), PROFILE, BuildOptions(precision, timing_cache=cache))
    assert cache.stat().st_size > 0
    with EngineSession(plan) as session:
        assert [tensor.name for tensor in session.get_inputs()] == ["x"]
        assert [tensor.name for tensor in session.get_outputs()] == ["y"]
        for rows in (1, 3, 4):
            x = np.random.default_rng(rows).standard_normal((rows, SIDE)).astype(np.float32)
            expected = onnxruntime_session(residual()).run(None, {"x": x})[0]
            np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=0.05)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_command_writes_engines_that_passed_the_gate(precision, exported, tmp_path, capsys):
    target = tmp_path / "engines"
    arguments = ["--model-repository", str(exported[1]), "--target", str(target), "--precision", precision]
    assert main(["tensorrt", *arguments, "--level", "0"]) == 0
    assert "finite at extreme inputs" in capsys.readouterr().out
    manifest = load_manifest(target)
    assert {entry.file.rpartition("/")[2] for entry in manifest.networks.values()} == {"model.plan"}
    assert 'backend: "tensorrt"' in (target / "velocity" / "config.pbtxt").read_text()
    assert manifest.provenance["export"]["precision"]["least_psnr_db"]["tensorrt"] >= 45
