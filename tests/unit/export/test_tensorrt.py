import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper
from polygraphy.backend.onnx import fold_constants, infer_shapes
from polygraphy.backend.trt import CreateConfig
from polygraphy.logger import G_LOGGER

from export.cli import main
from export.engine import BuildOptions, Shapes, builder_settings
from export.half import PRECISIONS, to_half
from export.tensorrt_operators import load_table, objections
from export.to_tensorrt import PLAN, plan_profile
from export.variants import load_original, publish, staged
from service.core.manifest import load_manifest
from tests.small_graphs import SIDE, attention, model_of, residual

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[3]
BUNDLE = ROOT / "model_repository"
NETWORKS = ("estimator", "vae_encoder", "velocity", "vae_decoder")
DETECTOR_SIDE_PX = 128

needs_no_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here"
)


def detector():
    """The detector's graph with fixed sides; only the batch is free."""
    path = BUNDLE / "detector" / "1" / "model.onnx"
    if not path.exists():
        pytest.skip("the detector is not fetched: make install")
    model = onnx.load(path)
    for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        side.dim_value = DETECTOR_SIDE_PX
    for output in model.graph.output:
        for side in output.type.tensor_type.shape.dim[2:]:
            side.dim_value = DETECTOR_SIDE_PX // 4
    return model.SerializeToString()


@pytest.fixture(scope="module", params=[*NETWORKS, "detector"])
def network(request):
    name = request.param
    return detector() if name == "detector" else (BUNDLE / name / "1" / "model.onnx").read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_has_every_operator_and_knows_every_shape(network, precision):
    """By the published table, and by NVIDIA's own tools: nothing of the graph is left to run time but the batch."""
    graph = to_half(network, precision)
    assert objections(graph) == []
    with G_LOGGER.verbosity(G_LOGGER.ERROR):
        folded = infer_shapes(fold_constants(onnx.load_from_string(graph), num_passes=1))
    surgeon = gs.import_onnx(folded)
    values = [tensor for tensor in surgeon.tensors().values() if not isinstance(tensor, gs.Constant)]
    assert [value.name for value in values if value.dtype is None or value.shape is None] == []
    free = [value.name for value in values if sum(not isinstance(size, int) for size in value.shape) > 1]
    assert free == []
    assert len(surgeon.nodes) == len(onnx.load_from_string(graph).graph.node)  # nothing was left to be folded


def test_the_float32_graphs_pass_too(network):
    assert objections(network) == []


RESIZE = {"two": np.array([1, 1], np.float32)}
REFUSED = {
    "no such operator": (
        [
            helper.make_node("Reshape", ["x", "square"], ["a"]),
            helper.make_node("Det", ["a"], ["b"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        {"square": np.array([-1, 4, 4])},
        "Det b: no such operator in TensorRT 10.15",
    ),
    "mode": ([helper.make_node("Resize", ["x", "", "two"], ["y"], mode="cubic")], RESIZE, "Resize y: mode cubic"),
    "antialias": (
        [helper.make_node("Resize", ["x", "", "two"], ["y"], mode="linear", antialias=1)],
        RESIZE,
        "Resize y: antialias",
    ),
    "shape": (
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Unsqueeze", ["whole", "zero"], ["side"]),
            helper.make_node("Concat", ["side", "side"], ["sides"], axis=0),
            helper.make_node("Reshape", ["x", "sides"], ["a"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        {"zero": np.array([0])},
        "Reshape a: the shape of a is not known",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_tensorrt_would_refuse_is_named(case):
    nodes, constants, objection = REFUSED[case]
    assert objection in objections(model_of(nodes, constants))


def test_an_opset_that_is_too_new_is_named():
    model = onnx.load_from_string(residual())
    model.opset_import[0].version = 25
    assert "opset 25: TensorRT 10.15 takes 9 to 24" in objections(model.SerializeToString())


def test_a_type_that_an_operator_lacks_is_named():
    nodes = [helper.make_node("Mish", ["x"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    content = model_of(nodes, {"w": np.eye(SIDE, dtype=np.float32)}, opset=22)
    assert objections(content) == []
    model = onnx.load_from_string(content)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    weights = helper.make_tensor("w", TensorProto.BFLOAT16, [SIDE, SIDE], np.eye(SIDE).ravel())
    model.graph.initializer[0].CopyFrom(weights)
    assert objections(model.SerializeToString()) == ["Mish a: not in bfloat16"]


def test_the_table_names_its_source():
    table = load_table()
    assert (table.tensorrt, table.opset) == ("10.15", (9, 24))
    raw = json.loads((ROOT / "export" / "tensorrt_operators.json").read_text())
    assert "onnx-tensorrt" in raw["source"]
    assert table.tensorrt in raw["source"]


def test_small_graphs_pass():
    assert [objections(to_half(graph(), precision)) for graph in (residual, attention) for precision in PRECISIONS] == (
        [[]] * 4
    )


ENTRY = {
    "max_batch_size": 16,
    "inputs": [
        {"name": "x_t", "shape": ["batch", 48, 32, 32]},
        {"name": "t", "shape": ["batch"]},
    ],
}


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [(None, 16, (1, 8, 16)), ([1, 4, 8, 16], 16, (1, 8, 16)), ([2, 4], 4, (1, 4, 4)), (None, 1, (1, 1, 1))],
)
def test_the_profile_goes_from_one_row_to_the_largest_batch(sizes, most, expected):
    profile = plan_profile({**ENTRY, "max_batch_size": most, "batch_sizes": sizes})
    assert [shape[0] for shape in (profile["t"].least, profile["t"].usual, profile["t"].most)] == list(expected)
    assert profile["x_t"].most == (most, 48, 32, 32)
    assert profile["t"].most == (most,)


def test_only_the_batch_may_be_free():
    entry = {"max_batch_size": 2, "inputs": [{"name": "image", "shape": ["batch", 3, "height", "width"]}]}
    with pytest.raises(ValueError, match="image: height, width must be fixed"):
        plan_profile(entry)


def test_builder_settings_are_arguments_that_polygraphy_takes(tmp_path):
    cache = tmp_path / "cache"
    options = BuildOptions(timing_cache=cache, version_compatible=True, level=5)
    profile = {"t": Shapes((1,), (8,), (16,))}
    settings = builder_settings(profile, options)
    assert settings["load_timing_cache"] is None  # there is none yet
    cache.write_bytes(b"")
    settings = builder_settings(profile, options)
    assert settings["load_timing_cache"] == str(cache)
    assert tuple(settings["profiles"][0]["t"]) == ((1,), (8,), (16,))
    config = CreateConfig(**settings)
    assert (config.version_compatible, config.builder_optimization_level) == (True, 5)
    # A strongly typed network refuses precision flags, and TF32 would round the logits.
    assert (config.fp16, config.bf16, config.tf32) == (False, False, False)


@pytest.mark.parametrize(
    ("fields", "message"), [({"workspace_bytes": 0}, "workspace"), ({"level": 6}, "level must be 0 to 5")]
)
def test_impossible_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BuildOptions(**fields)


def test_triton_is_told_of_engines_and_finds_the_detector_as_it_was(exported, tmp_path):
    """What is around the engines; that they are none does not matter to it."""
    original = load_original(exported[1], lambda _line: None)
    record = {"products": "float16", "runtime": "tensorrt 10.15.1"}
    with staged(original, tmp_path, dict.fromkeys(NETWORKS, b"an engine"), PLAN, record) as staging:
        publish(staging, tmp_path, record, original, lambda _line: None)
    manifest = load_manifest(tmp_path)
    assert {entry.file for entry in manifest.networks.values()} == {f"{name}/1/model.plan" for name in NETWORKS}
    for name in NETWORKS:
        text = (tmp_path / name / "config.pbtxt").read_text()
        assert 'backend: "tensorrt"' in text
        assert 'default_model_filename: "model.plan"' in text
    assert 'backend: "onnxruntime"' in (tmp_path / "detector" / "config.pbtxt").read_text()
    assert manifest.provenance["export"]["precision"] == record


@needs_no_tensorrt
def test_without_tensorrt_the_command_says_what_to_do(exported, tmp_path, capsys):
    target = tmp_path / "engines"
    assert main(["tensorrt", "--model-repository", str(exported[1]), "--target", str(target)]) == 2
    told = capsys.readouterr().err
    assert "tensorrt not installed: run docker/export.sh" in told
    assert not target.exists()


def test_a_dry_run_plans_and_checks_without_tensorrt(exported, tmp_path, capsys):
    target = tmp_path / "engines"
    arguments = ["tensorrt", "--model-repository", str(exported[1]), "--target", str(target), "--dry-run"]
    assert main([*arguments, "--precision", "bfloat16"]) == 0
    told = capsys.readouterr().out
    assert "velocity: t (1,) to (16,), tuned for (8,)" in told
    assert "TensorRT 10.15 has every operator of these bfloat16 graphs" in told
    assert not target.exists()
