import dataclasses
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch

from export.bundle import defaults_of, write_bundle
from export.cli import main
from export.cpu_bench import BATCH_SIZES, EAGER, CpuBench
from export.manifest import BundleFacts, build_manifest, set_defaults
from export.networks import graph_specs
from export.parity import Gate, ParityError, check_network, check_pipeline, compared_steps, draw
from export.to_onnx import to_onnx
from export.trained import load_trained, round_weights
from export.triton_config import configurations
from export.variants import load_original
from latent_pmrf.evaluation.bundle import BundleRestorer, source_noise
from latent_pmrf.training.checkpoint import load_weights, save_weights
from latent_pmrf.training.frozen import encoder_digest
from tests.tiny_runs import HDIT, SIDE_PX, STATISTICS, UNET, VAE, rounded, tiny, write_runs

pytestmark = pytest.mark.timeout(300)  # the exporter takes seconds a network, more beside other work

NETWORKS = ("estimator", "vae_encoder", "velocity", "vae_decoder")
FACTS = BundleFacts(name="tiny", version="7", image_size_px=SIDE_PX, default_num_steps=3)


def content_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def bundle_copy(exported, tmp_path):
    return shutil.copytree(exported[1], tmp_path / "copy")


def results_for(repository, **changes):
    manifest = json.loads((repository / "manifest.json").read_text())
    methods = ("input", "estimator", "default")
    rows = [{"level": "severe", "method": method, "psnr": 20.0, "identity": 0.5} for method in methods]
    return {
        "bundle": {"networks": {name: entry["sha256"] for name, entry in manifest["networks"].items()}},
        "default": {"num_steps": 3, "fidelity": 0.25},
        "choice": {"num_steps": 5, "fidelity": 0.7},
        "faces": 48,
        "seeds": [0],
        "rows": rows,
    } | changes


def write_results(folder, **results):
    path = folder / "results.json"
    path.write_text(json.dumps(results))
    return path


def test_bundle_holds_graphs_configurations_and_manifest_and_nothing_else(exported):
    expected = {"manifest.json", *(f"{name}/1/model.onnx" for name in NETWORKS)}
    expected |= {f"{name}/{file}" for name in (*NETWORKS, "detector") for file in ("config.pbtxt", "configs/gpu.pbtxt")}
    assert set(content_of(exported[1])) == expected


def test_manifest_says_what_was_exported(exported):
    manifest = json.loads((exported[1] / "manifest.json").read_text())
    assert (manifest["name"], manifest["version"], manifest["space"]) == ("tiny", "7", "latent")
    assert (manifest["default_num_steps"], manifest["default_fidelity"], manifest["max_num_steps"]) == (3, 0.25, 100)
    assert manifest["latent"]["mean"] == STATISTICS["latent_mean"]
    assert manifest["latent"]["std"] == STATISTICS["latent_std"]
    assert manifest["sigma_s"] == STATISTICS["sigma_s"]
    assert manifest["latent"]["downscale"] == 4
    assert manifest["networks"]["velocity"]["inputs"] == [
        {"name": "x_t", "dtype": "float32", "shape": ["batch", 4, 24, 24], "range": None},
        {"name": "t", "dtype": "float32", "shape": ["batch"], "range": [0.0, 1.0]},
    ]
    assert manifest["networks"]["vae_encoder"]["inputs"][0]["range"] == [-1.0, 1.0]


def test_provenance_holds_recipe_data_licence_and_what_the_gate_measured(exported):
    provenance = json.loads((exported[1] / "manifest.json").read_text())["provenance"]
    assert provenance["licence"] == "Apache-2.0"
    assert {stage: recipe["optim"]["seed"] for stage, recipe in provenance["recipe"].items()} == {
        "estimator": 0,
        "vae": 1,
        "flow": 2,
    }
    assert provenance["recipe"]["flow"]["train_seconds"] == 12.5
    assert "canada" in provenance["data"]
    errors = provenance["export"]["parity_relative_error"]
    assert set(errors) == set(NETWORKS)
    assert all(0 <= error < 1e-4 for error in errors.values())


def test_reference_and_bundle_restore_the_same_faces(exported):
    runs, repository = exported
    trained, bundle, seeds = rounded(runs), BundleRestorer(repository, num_threads=1), [11, 12, 13]
    face = graph_specs(trained, SIDE_PX)[0].inputs[0]
    y = draw(face, len(seeds), trained.statistics, torch.Generator().manual_seed(4))
    noise = torch.from_numpy(np.stack([source_noise((4, 24, 24), seed) for seed in seeds]))
    expected = trained.restorer.restore(y, noise, num_steps=4)
    means = bundle.estimate(y.permute(0, 2, 3, 1).numpy())
    sample = bundle.transport(bundle.source(means, seeds), 4)
    np.testing.assert_allclose(means, expected.posterior_mean.permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(sample, expected.sample.permute(0, 2, 3, 1), atol=1e-4)
    assert np.abs(sample - means).max() > 0.01


def test_export_again_gives_the_same_bytes(exported):
    runs, repository = exported
    spec = graph_specs(rounded(runs), SIDE_PX)[1]
    content = to_onnx(spec, {"bundle": "tiny", "version": "7", "licence": "Apache-2.0"})
    assert content == (repository / "vae_encoder/1/model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("gate", "refusal", "message"),
    [
        (Gate(relative_error=0.0), ParityError, "estimator, batch 1: relative error"),
        (Gate(max_bytes=1000), ValueError, "MB"),
    ],
)
def test_failed_gate_leaves_the_repository_as_it_was(exported, bundle_copy, gate, refusal, message):
    before = content_of(bundle_copy)
    with pytest.raises(refusal, match=message):
        write_bundle(load_trained(exported[0]), bundle_copy, FACTS, gate, lambda line: None)
    assert content_of(bundle_copy) == before


def test_graph_of_other_weights_fails_the_gate(exported):
    trained = rounded(exported[0])
    content = (exported[1] / "vae_decoder/1/model.onnx").read_bytes()
    spec = graph_specs(trained, SIDE_PX)[3]
    assert check_network(spec, content, trained.statistics, tolerance=1e-4) < 1e-4
    with torch.no_grad():
        trained.vae.decoder.conv_out.bias.add_(0.01)
    with pytest.raises(ParityError, match="vae_decoder, batch 1: relative error"):
        check_network(spec, content, trained.statistics, tolerance=1e-4)


def test_network_that_overflows_fails_the_gate(exported):
    trained = rounded(exported[0])
    with torch.no_grad():
        trained.vae.decoder.conv_out.bias.fill_(float("inf"))
    content = (exported[1] / "vae_decoder/1/model.onnx").read_bytes()
    with pytest.raises(ParityError, match="not finite"):
        check_network(graph_specs(trained, SIDE_PX)[3], content, trained.statistics, tolerance=1e-4)


@pytest.mark.parametrize(
    ("default", "most", "compared"), [(1, 100, (1, 5)), (3, 4, (3, 4)), (1, 1, (1,)), (5, 50, (5,)), (25, 50, (25,))]
)
def test_a_few_steps_are_compared_where_the_default_is_fewer(default, most, compared):
    assert compared_steps(default, most) == compared


def test_graph_in_the_wrong_place_fails_the_gate(exported):
    trained = rounded(exported[0])
    content = (exported[1] / "vae_encoder/1/model.onnx").read_bytes()
    with pytest.raises(ParityError, match="inputs and outputs"):
        check_network(graph_specs(trained, SIDE_PX)[3], content, trained.statistics, tolerance=1e-4)


def test_pipeline_of_other_statistics_fails_the_gate(exported):
    trained = rounded(exported[0])
    assert check_pipeline(trained.restorer, exported[1], (3,), 0.25) <= 0.25
    shifted = dataclasses.replace(trained.statistics, sigma_s=(0.5,) * 4)
    with pytest.raises(ParityError, match="pipeline"):
        check_pipeline(dataclasses.replace(trained, statistics=shifted).restorer, exported[1], (3,), 0.25)


def test_the_bundle_has_the_configurations_of_its_manifest(exported):
    found = {str(path.relative_to(exported[1])): path.read_text() for path in exported[1].rglob("*.pbtxt")}
    assert found == configurations(json.loads((exported[1] / "manifest.json").read_text()))


def test_batch_sizes_are_written_when_asked_for(exported):
    trained = load_trained(exported[0])
    specs = graph_specs(trained, SIDE_PX)
    facts = dataclasses.replace(FACTS, max_batch_size=8, batch_sizes=(1, 4, 8))
    manifest = build_manifest(facts, trained, specs, {spec.name: b"" for spec in specs})
    assert [network["batch_sizes"] for network in manifest["networks"].values()] == [[1, 4, 8]] * 4


@pytest.mark.parametrize("sizes", [(), (1, 8), (16, 1), (0, 16)])
def test_batch_sizes_that_the_service_would_refuse_are_refused(sizes):
    with pytest.raises(ValueError, match="batch sizes must ascend from 1 or more to 16"):
        BundleFacts(batch_sizes=sizes)


@pytest.mark.parametrize("name", ["max_coarse_shift", "max_roughness"])
def test_limits_are_those_of_the_bundle_that_is_there(name):
    there = {"default_num_steps": 2, "default_fidelity": 0.25, name: 0.125}
    assert getattr(defaults_of(FACTS, there), name) == 0.125
    for limit in (0.0, 1.01, float("nan")):
        with pytest.raises(ValueError, match=f"{name} must be above 0"):
            BundleFacts(**{name: limit})


def test_recommended_defaults_come_with_the_quality_that_still_holds(bundle_copy, tmp_path):
    results = write_results(tmp_path, **results_for(bundle_copy))
    manifest = set_defaults(bundle_copy, quality=results)
    assert json.loads((bundle_copy / "manifest.json").read_text()) == manifest
    assert (manifest["default_num_steps"], manifest["default_fidelity"]) == (5, 0.7)
    assert [row["method"] for row in manifest["quality"]["rows"]] == ["input", "estimator"]


def test_quality_of_the_default_is_kept_when_it_was_measured(bundle_copy, tmp_path):
    results = write_results(tmp_path, **results_for(bundle_copy, choice={"num_steps": None, "fidelity": None}))
    manifest = set_defaults(bundle_copy, num_steps=3, fidelity=0.25, quality=results)
    assert (manifest["default_num_steps"], manifest["default_fidelity"]) == (3, 0.25)
    assert [row["method"] for row in manifest["quality"]["rows"]] == ["input", "estimator", "default"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-steps", "0"], "num_steps"),
        (["--num-steps", "101"], "num_steps"),
        (["--fidelity", "1.5"], "fidelity"),
        (["--quality", "absent.json"], "absent.json"),
    ],
)
def test_impossible_defaults_are_refused_and_not_written(bundle_copy, capsys, arguments, message):
    before = content_of(bundle_copy)
    assert main(["set-defaults", "--model-repository", str(bundle_copy), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert content_of(bundle_copy) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choice": {"num_steps": None, "fidelity": None}}, "recommends no defaults"),
        ({"rows": [{"level": "severe", "method": "input", "psnr": 20.0, "identity": None}]}, "without identity"),
    ],
)
def test_a_measurement_that_recommends_nothing_sets_no_defaults(bundle_copy, tmp_path, changes, message):
    before = content_of(bundle_copy)
    results = write_results(tmp_path, **results_for(bundle_copy, **changes))
    with pytest.raises(ValueError, match=message):
        set_defaults(bundle_copy, num_steps=5, quality=results)
    assert content_of(bundle_copy) == before


def test_quality_of_other_networks_is_refused(bundle_copy, tmp_path):
    results = write_results(tmp_path, **results_for(bundle_copy, bundle={"networks": {"estimator": "0" * 64}}))
    with pytest.raises(ValueError, match="run make evaluate again"):
        set_defaults(bundle_copy, quality=results)


def test_a_file_in_the_place_of_a_model_repository_is_told_in_a_line(bundle_copy, capsys):
    place = str(bundle_copy / "manifest.json")
    assert main(["set-defaults", "--model-repository", place, "--num-steps", "7"]) == 2
    assert re.fullmatch(rf"error: .*Not a directory: '{place}/manifest.json'\n", capsys.readouterr().err)


def test_defaults_are_told_when_they_are_set(bundle_copy, capsys):
    assert main(["set-defaults", "--model-repository", str(bundle_copy), "--num-steps", "7", "--fidelity", "0.5"]) == 0
    assert "default 7 steps, fidelity 0.5; the quality" in capsys.readouterr().out


def test_stage_that_is_not_trained_yet_is_named(tmp_path, capsys):
    runs = write_runs(tmp_path / "runs")
    (runs / "flow" / "weights.safetensors").unlink()
    assert main(["bundle", "--runs", str(runs), "--model-repository", str(tmp_path / "repository")]) == 2
    assert "flow" in capsys.readouterr().err
    assert not (tmp_path / "repository").exists()


def test_stage_that_is_not_finished_is_noticed(exported):
    assert load_trained(exported[0]).unfinished == {stage: "30 of 40" for stage in ("estimator", "vae", "flow")}


def test_velocity_of_another_latent_is_refused(tmp_path):
    runs = write_runs(tmp_path, velocity=dataclasses.replace(HDIT, in_channels=8))
    with pytest.raises(ValueError, match="channels of the latent differ"):
        _ = load_trained(runs).restorer


@pytest.mark.parametrize("source", ["degraded", "latent_mean"])
def test_flow_from_elsewhere_than_the_posterior_mean_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match=f"this flow starts at {source}"):
        load_trained(write_runs(tmp_path, source=source))


def test_flow_from_the_latents_of_another_encoder_is_refused(tmp_path):
    encoder = encoder_digest(tiny(VAE, 1).state_dict())
    runs = write_runs(tmp_path, encoder_sha256=encoder)
    assert load_trained(runs).recipes["flow"]["encoder_sha256"] == encoder
    weights = load_weights(runs / "vae" / "weights.safetensors")
    finished = {name: value + name.startswith("decoder.") for name, value in weights.state_dict.items()}
    stored = {name: value.half().float() for name, value in finished.items()}
    save_weights(runs / "vae" / "weights.safetensors", VAE, stored, weights.info)
    load_trained(runs)
    save_weights(runs / "vae" / "weights.safetensors", VAE, tiny(VAE, 5).state_dict(), weights.info)
    with pytest.raises(ValueError, match=r"flow was trained in the latents of another encoder than that of .*vae"):
        load_trained(runs)


@pytest.mark.parametrize("image_size_px", [64, 98])
def test_size_of_crop_that_the_networks_do_not_take_is_refused(exported, image_size_px):
    with pytest.raises(ValueError, match=str(image_size_px)):
        graph_specs(load_trained(exported[0]), image_size_px)


def test_only_matrices_are_rounded():
    network = tiny(UNET)
    before = {name: value.clone() for name, value in network.named_parameters()}
    round_weights(network)
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name, value in before.items() if value.ndim > 1}


def test_kinds_of_networks_in_the_wrong_place_are_refused(tmp_path):
    runs = write_runs(tmp_path)
    shutil.copy(runs / "vae" / "weights.safetensors", runs / "estimator" / "weights.safetensors")
    with pytest.raises(ValueError, match="expected an estimator"):
        load_trained(runs)


def test_hashes_are_those_of_the_files(exported):
    manifest = json.loads((exported[1] / "manifest.json").read_text())
    for entry in manifest["networks"].values():
        assert entry["sha256"] == hashlib.sha256((exported[1] / entry["file"]).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def bench(exported):
    return CpuBench(load_original(exported[1], lambda _line: None), num_threads=1, row_s=0, pause_s=0)


def test_faces_of_the_bundle_are_the_same_in_every_runtime_that_is_compared(bench):
    for found, faces in zip(bench.restorations(), BATCH_SIZES, strict=True):
        assert (found.faces, found.num_steps) == (faces, 3)
        assert found.ms.keys() == {EAGER, *bench.runtimes}
        assert {name: db for name, db in found.psnr_db.items() if "bfloat16" not in name and db < 90} == {}


def test_a_network_of_the_bundle_is_measured_by_its_definition(bench):
    row = next(bench.networks())
    assert (row.network, row.rows) == ("estimator", 1)
    assert row.gflop > 0
    assert {len(values) for values in (row.peak, *row.ms.values())} == {3}
