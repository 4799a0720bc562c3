import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import onnx
import torch

from export.manifest import BundleFacts, build_manifest, network_file, provenance, write_manifest
from export.networks import graph_specs
from export.parity import Parity
from export.to_onnx import to_onnx
from export.trained import load_trained, round_weights
from latent_pmrf.bundle_weights import _fit
from latent_pmrf.cli import main
from latent_pmrf.training.checkpoint import load_weights
from tests.tiny_runs import HDIT, SIDE_PX, STATISTICS, write_runs

BUNDLE = Path(__file__).resolve().parents[3] / "model_repository"
STAGES = ("estimator", "vae", "flow")


def run_import(bundle, runs, *more):
    return main(["import", "--bundle", str(bundle), "--runs", str(runs), *more])


def test_a_bundle_gives_back_the_weights_it_was_exported_from(exported, tmp_path):
    trained, repository = load_trained(exported[0]), exported[1]
    assert run_import(repository, tmp_path) == 0
    for stage, network in trained.networks.items():
        round_weights(network)
        found = load_weights(tmp_path / stage / "weights.safetensors")
        assert found.config == network.config
        expected = network.state_dict()
        assert found.state_dict.keys() == expected.keys()
        for name, value in found.state_dict.items():
            torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0, msg=name)
    facts = load_weights(tmp_path / "flow" / "weights.safetensors").info
    assert {name: facts[name] for name in STATISTICS} == STATISTICS
    assert facts["imported"] == {"bundle": "tiny@7"}
    assert load_trained(tmp_path).velocity.config == HDIT


def test_the_scales_of_cosine_attention_come_back(exported, tmp_path):
    velocity = dataclasses.replace(HDIT, cosine_attention=True, mean_conditioned=True)
    as_they_are = {"latent_mean": [0.0] * 4, "latent_std": [1.0] * 4}
    trained = load_trained(write_runs(tmp_path / "runs", velocity=velocity, **as_they_are))
    repository = shutil.copytree(exported[1], tmp_path / "bundle")
    specs = graph_specs(trained, SIDE_PX)
    files = {spec.name: (repository / network_file(spec.name)).read_bytes() for spec in specs}
    for network in trained.networks.values():
        round_weights(network)
    files["velocity"] = to_onnx(next(spec for spec in specs if spec.name == "velocity"))
    (repository / network_file("velocity")).write_bytes(files["velocity"])
    facts = BundleFacts(name="tiny", version="7", image_size_px=SIDE_PX)
    manifest = build_manifest(facts, trained, specs, files)
    manifest["provenance"] = provenance(facts, trained, Parity({}, 0.0, (1,), 0.0))
    write_manifest(repository / "manifest.json", manifest)
    assert run_import(repository, tmp_path / "back") == 0
    weights = load_weights(tmp_path / "back" / "flow" / "weights.safetensors")
    assert {name: weights.info[name] for name in as_they_are} == as_they_are
    found = weights.state_dict
    expected = trained.velocity.state_dict()
    scales = [name for name in expected if name.endswith("attn.scale")]
    assert len(scales) == 3
    assert all(torch.equal(found[name], expected[name]) for name in scales)


def test_the_bundle_of_the_repository_is_read(tmp_path):
    assert run_import(BUNDLE, tmp_path) == 0
    assert {path.parent.name for path in tmp_path.glob("*/weights.safetensors")} == set(STAGES)


def test_weights_that_are_there_are_never_replaced(exported, tmp_path, capsys):
    assert run_import(exported[1], tmp_path) == 0
    assert run_import(exported[1], tmp_path) == 2
    assert "there already" in capsys.readouterr().err


def change_network(repository, name, change):
    """A bundle whose file was changed after the export, with the hash of the changed file."""
    manifest = json.loads((repository / "manifest.json").read_text())
    path = repository / manifest["networks"][name]["file"]
    model = onnx.load(path)
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    manifest["networks"][name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (repository / "manifest.json").write_text(json.dumps(manifest))


def forget_the_names(graph):
    """Give tensors of one size, so that they cannot be told apart, names of another maker's."""
    for entry in [entry for entry in graph.initializer if "norm" in entry.name or "attn" in entry.name]:
        old, entry.name = entry.name, f"another_{entry.name}"
        for node in graph.node:
            node.input[:] = [entry.name if name == old else name for name in node.input]


def test_a_bundle_of_other_making_is_refused(exported, tmp_path, capsys):
    repository = shutil.copytree(exported[1], tmp_path / "copy")
    change_network(repository, "velocity", forget_the_names)
    assert run_import(repository, tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert "has no tensor" in error
    assert not (tmp_path / "runs").exists()


def test_tensors_that_do_not_compute_what_the_graph_computes_are_refused(exported, tmp_path, capsys):
    def double(graph):
        node = next(node for node in graph.node if node.output[0] == "velocity")
        node.output[0] = "half"
        graph.node.append(onnx.helper.make_node("Add", ["half", "half"], ["velocity"]))

    repository = shutil.copytree(exported[1], tmp_path / "copy")
    change_network(repository, "velocity", double)
    assert run_import(repository, tmp_path / "runs") == 2
    assert "does not compute" in capsys.readouterr().err


def test_a_bundle_comes_alone(exported, tmp_path, capsys):
    assert run_import(exported[1], tmp_path, "--sigma-s", "0.1") == 2
    assert "as it is" in capsys.readouterr().err


def test_a_run_can_begin_with_a_bundle_s_weights(exported, tmp_path):
    assert run_import(exported[1], tmp_path) == 0
    config = dataclasses.asdict(load_weights(tmp_path / "flow" / "weights.safetensors").config)
    assert config["mean_conditioned"] is False
    assert sorted(path.parent.name for path in tmp_path.glob("*/weights.safetensors")) == sorted(STAGES)


def test_a_tensor_without_a_name_is_not_mistaken_for_one_of_as_many_numbers():
    found = {"val_1": torch.ones(32, 1, 1), "attn.half0": torch.zeros(2, 8, 1, 2)}
    state = _fit({"out_norm.weight": torch.zeros(32)}, found, "flow")
    assert torch.equal(state["out_norm.weight"], torch.ones(32))
