"""`manifest.json` is written by export and read twice, by the service and by the evaluation; none imports another."""

import json

import pytest

from latent_pmrf.evaluation.bundle import _SIGNATURES, parse_spec, read_manifest
from service.core.errors import ManifestMismatch
from service.core.manifest import Manifest, load_manifest

pytestmark = pytest.mark.timeout(300)  # the exporter takes seconds a network, more beside other work


def test_service_and_evaluation_read_what_export_wrote(exported):
    manifest = load_manifest(exported[1])
    spec = parse_spec(read_manifest(exported[1]))
    assert manifest.model_dump(mode="json") == json.loads((exported[1] / "manifest.json").read_text())
    for field in ("name", "version", "image_size_px", "sigma_s", "default_num_steps", "max_num_steps"):
        assert getattr(spec, field) == getattr(manifest, field)
    assert (spec.latent_mean, spec.latent_std) == (manifest.latent.mean, manifest.latent.std)
    assert spec.default_fidelity == manifest.default_fidelity


def test_networks_have_the_signatures_that_evaluation_expects(exported):
    found = {
        name: ({tensor.name for tensor in network.inputs}, network.outputs[0].name)
        for name, network in load_manifest(exported[1]).networks.items()
    }
    assert found == _SIGNATURES


def test_export_writes_every_field_of_the_schema(exported):
    assert set(read_manifest(exported[1])) == set(Manifest.model_fields)


def test_service_refuses_a_network_that_is_not_the_exported_one(exported, tmp_path):
    manifest = read_manifest(exported[1])
    manifest["networks"] = {name: entry | {"sha256": "0" * 64} for name, entry in manifest["networks"].items()}
    for name in manifest["networks"]:
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_bytes(b"other")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestMismatch, match=r"networks\.estimator\.sha256"):
        load_manifest(tmp_path)
