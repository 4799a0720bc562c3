"""Triton's configurations: valid by its own schema, complete, and those that the manifest gives."""

import json
import math
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup, ModelQueuePolicy

from export.detector import SIGNATURE
from export.triton_config import Profile, config_pbtxt, configurations, detector_network, main
from service.core.detector import INPUTS, MAX_ROWS
from tests.running_bundle import write_bundle

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "model_repository"


def parsed(text):
    return text_format.Parse(text, ModelConfig())


def manifest_of(repository):
    return json.loads((repository / "manifest.json").read_text())


@pytest.fixture
def manifest(tmp_path):
    return manifest_of(write_bundle(tmp_path / "bundle"))


def as_engines(manifest):
    engines = {
        name: entry | {"file": f"{name}/1/model.plan", "batch_sizes": [1, 4]}
        for name, entry in manifest["networks"].items()
    }
    return manifest | {"networks": engines}


def test_the_files_in_the_repository_are_what_the_manifest_gives():
    found = {str(path.relative_to(OWN)): path.read_text() for path in OWN.rglob("*.pbtxt")}
    assert found == configurations(manifest_of(OWN)), "run python -m export.triton_config --model-repository ..."


def test_every_file_is_valid_by_the_schema_of_triton(manifest):
    for files in (configurations(manifest), configurations(as_engines(manifest)), configurations(manifest_of(OWN))):
        for path, text in files.items():
            assert parsed(text).name == Path(path).parts[0]


def test_tensors_are_those_of_the_manifest_without_their_batch(manifest):
    config = parsed(config_pbtxt("velocity", manifest["networks"]["velocity"]))
    assert (config.backend, config.default_model_filename, config.max_batch_size) == ("onnxruntime", "model.onnx", 4)
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("x_t", [3, 8, 8]), ("t", [1])]
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [("velocity", [3, 8, 8])]
    assert {tensor.data_type for tensor in (*config.input, *config.output)} == {DataType.TYPE_FP32}


def test_a_row_of_times_reaches_the_network_without_the_dimension_that_triton_wants(manifest):
    config = parsed(config_pbtxt("velocity", manifest["networks"]["velocity"]))
    assert [tensor.HasField("reshape") for tensor in config.input] == [False, True]
    assert list(config.input[1].reshape.shape) == []


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "TYPE_FP16"), ("bfloat16", "TYPE_BF16")])
def test_half_precision_is_told(manifest, dtype, expected):
    entry = manifest["networks"]["estimator"]
    entry = entry | {"inputs": [tensor | {"dtype": dtype} for tensor in entry["inputs"]]}
    config = parsed(config_pbtxt("estimator", entry))
    assert config.input[0].data_type == DataType.Value(expected)
    assert {group.inputs["image"].data_type for group in config.model_warmup} == {DataType.Value(expected)}


def test_calls_of_several_workers_are_joined_to_the_sizes_of_the_manifest(manifest):
    entry = manifest["networks"]["estimator"]
    assert list(parsed(config_pbtxt("estimator", entry)).dynamic_batching.preferred_batch_size) == []
    config = parsed(config_pbtxt("estimator", entry | {"batch_sizes": [1, 2, 4]}))
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 2, 4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500


@pytest.mark.parametrize(
    ("profile", "sizes", "warmed"),
    [
        (Profile.GPU, None, [1, 4]),
        (Profile.GPU, [1, 2, 4], [1, 2, 4]),
        (Profile.TENSORRT, [2, 4], [2, 4]),
        (Profile.CPU, [2, 4], [2]),
    ],
)
def test_every_size_that_is_tuned_for_is_called_before_a_network_is_ready(manifest, profile, sizes, warmed):
    config = parsed(config_pbtxt("estimator", manifest["networks"]["estimator"] | {"batch_sizes": sizes}, profile))
    assert [sample.batch_size for sample in config.model_warmup] == warmed


def test_a_call_whose_time_is_over_is_not_run(manifest):
    config = parsed(config_pbtxt("estimator", manifest["networks"]["estimator"]))
    policy = config.dynamic_batching.default_queue_policy
    assert policy.timeout_action == ModelQueuePolicy.TimeoutAction.REJECT
    assert policy.allow_timeout_override
    assert policy.default_timeout_microseconds > 0, "without it Triton ignores the request's own"
    assert policy.max_queue_size > 0


def test_warm_up_has_every_input_in_full(manifest):
    for name, entry in manifest["networks"].items():
        config = parsed(config_pbtxt(name, entry, Profile.GPU))
        for sample in config.model_warmup:
            assert {key: list(value.dims) for key, value in sample.inputs.items()} == {
                tensor.name: list(tensor.dims) for tensor in config.input
            }
            assert all(value.zero_data for value in sample.inputs.values())


@pytest.mark.parametrize(
    ("profile", "kind", "backend"),
    [
        (Profile.CPU, ModelInstanceGroup.KIND_CPU, "onnxruntime"),
        (Profile.GPU, ModelInstanceGroup.KIND_GPU, "onnxruntime"),
        (Profile.TENSORRT, ModelInstanceGroup.KIND_GPU, "tensorrt"),
    ],
)
def test_a_profile_says_where_and_by_what_a_network_runs(manifest, profile, kind, backend):
    config = parsed(config_pbtxt("estimator", manifest["networks"]["estimator"], profile))
    assert [(group.kind, group.count) for group in config.instance_group] == [(kind, 1)]
    assert config.backend == backend


def test_a_bundle_of_engines_keeps_its_detector_as_it_is_but_on_the_gpu(manifest):
    files = {path: parsed(text) for path, text in configurations(as_engines(manifest)).items()}
    assert set(files) == {f"{name}/config.pbtxt" for name in (*manifest["networks"], "detector")}
    assert files["velocity/config.pbtxt"].default_model_filename == "model.plan"
    detector = files["detector/config.pbtxt"]
    assert (detector.backend, detector.default_model_filename) == ("onnxruntime", "model.onnx")
    assert detector.instance_group[0].kind == ModelInstanceGroup.KIND_GPU


def test_convolutions_are_chosen_by_heuristics_wherever_onnxruntime_runs_them_on_the_gpu(manifest):
    """Rows change from call to call, and with them all plans, for which onnxruntime's default takes longer."""
    for files in (configurations(manifest), configurations(as_engines(manifest))):
        for path, config in ((path, parsed(text)) for path, text in files.items()):
            chosen = config.parameters["cudnn_conv_algo_search"].string_value
            on_gpu = config.instance_group[0].kind == ModelInstanceGroup.KIND_GPU and config.backend == "onnxruntime"
            assert chosen == ("1" if on_gpu else ""), path


def test_what_is_float32_in_a_graph_is_not_rounded_to_tf32_on_the_gpu(manifest):
    """onnxruntime's default would: `use_tf32` of its CUDA provider is 1."""
    for files in (configurations(manifest), configurations(as_engines(manifest))):
        for path, config in ((path, parsed(text)) for path, text in files.items()):
            on_gpu = config.instance_group[0].kind == ModelInstanceGroup.KIND_GPU and config.backend == "onnxruntime"
            given = config.optimization.execution_accelerators.gpu_execution_accelerator
            expected = [("cuda", {"use_tf32": "0"})] if on_gpu else []
            assert [(each.name, dict(each.parameters)) for each in given] == expected, path


def test_a_configuration_says_which_file_it_was_written_for(manifest):
    for name, entry in manifest["networks"].items():
        config = parsed(config_pbtxt(name, entry))
        assert config.parameters["latent_pmrf.sha256"].string_value == entry["sha256"]


def test_only_the_version_that_the_manifest_names_is_served(manifest):
    config = parsed(config_pbtxt("velocity", manifest["networks"]["velocity"] | {"file": "velocity/3/model.onnx"}))
    assert list(config.version_policy.specific.versions) == [3]
    assert list(parsed(config_pbtxt("detector", detector_network())).version_policy.specific.versions) == [1]


def test_the_detector_takes_pictures_of_any_size_and_many_views_at_once():
    config = parsed(config_pbtxt("detector", detector_network()))
    assert list(config.input[0].dims) == [3, -1, -1]
    assert config.input[0].name == INPUTS[0].name
    assert config.max_batch_size == MAX_ROWS
    for sample in config.model_warmup:
        (value,) = sample.inputs.values()
        assert math.prod(value.dims) == 3 * 128 * 128


def test_the_detectors_signature_is_that_of_its_file():
    path = OWN / "detector" / "1" / "model.onnx"
    if not path.is_file():
        pytest.skip("the detector is not fetched: make install")
    graph = onnx.load(path, load_external_data=False).graph

    def shape(value):
        return tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)

    assert [(value.name, shape(value)) for value in graph.input] == [(SIGNATURE.input_name, SIGNATURE.input_shape)]
    assert {value.name: shape(value) for value in graph.output} == SIGNATURE.output_shapes


def test_the_command_writes_the_files_of_a_bundle(tmp_path, capsys):
    repository = write_bundle(tmp_path / "bundle")
    assert main(["--model-repository", str(repository)]) == 0
    expected = configurations(manifest_of(repository))
    assert {str(path.relative_to(repository)): path.read_text() for path in repository.rglob("*.pbtxt")} == expected
    assert len(capsys.readouterr().out.splitlines()) == len(expected)


def test_the_command_says_what_is_wrong_with_a_folder(tmp_path, capsys):
    assert main(["--model-repository", str(tmp_path)]) == 1
    assert "manifest.json" in capsys.readouterr().err
