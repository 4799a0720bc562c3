"""The contract: a good bundle loads, and each defect is a refusal that names the field."""

import copy
import hashlib
import json
import re
from pathlib import Path

import pytest

from service.core.errors import ManifestMismatch
from service.core.manifest import Manifest, load_manifest

NAMES = ("estimator", "vae_encoder", "velocity", "vae_decoder")
TENSOR = {"name": "x", "dtype": "float32", "shape": ["batch", 3, 64, 64], "range": [0, 1]}


def network(name):
    return {
        "file": f"{name}/1/model.onnx",
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
        "inputs": [TENSOR],
        "outputs": [{**TENSOR, "range": None}],
        "max_batch_size": 4,
    }


GOOD = {
    "schema_version": 1,
    "name": "tiny",
    "version": "7",
    "space": "latent",
    "image_size_px": 64,
    "latent": {"channels": 2, "downscale": 8, "mean": [0, 0.5], "std": [1, 2]},
    "sigma_s": [0.1],
    "default_num_steps": 4,
    "max_num_steps": 20,
    "default_fidelity": 0.5,
    "networks": {name: network(name) for name in NAMES},
    "provenance": {"licence": "Apache-2.0"},
    "quality": {"psnr_db": 27.0},
}


@pytest.fixture
def load(tmp_path):
    """Write a bundle and load it."""
    for name in NAMES:
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_text(name)

    def load(manifest):
        (tmp_path / "manifest.json").write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
        return load_manifest(tmp_path)

    return load


def changed(path, value):
    """GOOD with one value replaced, or removed where `value` is None."""
    manifest = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    where = manifest
    for parent in parents:
        where = where[int(parent) if parent.isdigit() else parent]
    if value is None:
        del where[last]
    else:
        where[last] = value
    return manifest


def pixel(channels, downscale):
    """GOOD without its autoencoder."""
    manifest = changed("space", "pixel")
    for name in ("vae_encoder", "vae_decoder"):
        del manifest["networks"][name]
    statistics = {"mean": [0] * channels, "std": [1] * channels}
    return manifest | {"latent": {"channels": channels, "downscale": downscale, **statistics}}


def test_a_good_bundle(load):
    manifest = load(GOOD)
    assert (manifest.name, manifest.version, manifest.image_size_px) == ("tiny", "7", 64)
    assert manifest.latent.std == (1, 2)
    assert manifest.networks["velocity"].inputs[0].shape == ("batch", 3, 64, 64)


@pytest.mark.parametrize("path", ["provenance.licence", "quality.psnr_db", "default_num_steps", "default_fidelity"])
def test_the_tag_is_that_of_workers_that_can_stand_in_for_each_other(load, path):
    assert load(GOOD).tag == load(changed(path, 1)).tag
    assert load(GOOD).tag.startswith("tiny@7-")


@pytest.mark.parametrize(
    ("path", "value"),
    [("name", "b"), ("version", "8"), ("sigma_s", [0.2]), ("latent.mean", [0, 1]), ("max_num_steps", 9)],
)
def test_the_tag_is_another_where_results_may_be(load, path, value):
    assert load(GOOD).tag != load(changed(path, value)).tag


def test_a_bundle_has_the_same_tag_in_a_release_that_knows_more(load):
    class Later(Manifest):
        max_of_later: float | None = None

    assert Later.model_validate_json(json.dumps(GOOD)).tag == load(GOOD).tag
    assert load({**GOOD, "max_coarse_shift": 0.2}).tag != load(GOOD).tag


def test_the_tag_is_another_for_other_weights_under_the_same_name(load, tmp_path):
    before = load(GOOD).tag
    (tmp_path / "velocity" / "1" / "model.onnx").write_text("retrained")
    digest = hashlib.sha256(b"retrained").hexdigest()
    assert load(changed("networks.velocity.sha256", digest)).tag != before


@pytest.mark.parametrize(
    ("sizes", "rows", "expected"), [(None, 3, 3), ([1, 2, 4], 2, 2), ([1, 2, 4], 3, 4), ([4], 1, 4), ([2, 4], 4, 4)]
)
def test_a_call_has_the_next_size_that_is_allowed(load, sizes, rows, expected):
    networks = {name: network(name) | {"batch_sizes": sizes} for name in NAMES}
    assert load(GOOD | {"networks": networks}).networks["velocity"].rows_of_call(rows) == expected


def test_more_rows_than_fit_one_call_are_refused(load):
    with pytest.raises(ValueError, match="5 rows, a call takes 4"):
        load(GOOD).networks["velocity"].rows_of_call(5)


@pytest.mark.parametrize("sizes", [[], [1, 2], [4, 1], [1, 1, 4], [0, 4], [1, 8]])
def test_allowed_batch_sizes_ascend_to_the_largest(load, sizes):
    networks = {name: network(name) for name in NAMES}
    networks["velocity"]["batch_sizes"] = sizes
    with pytest.raises(ManifestMismatch, match=r"networks\.velocity.*batch_sizes"):
        load(GOOD | {"networks": networks})


def test_a_pixel_bundle_needs_no_autoencoder(load):
    manifest = pixel(channels=3, downscale=1)
    assert load(manifest).space == "pixel"


@pytest.mark.parametrize("latent", [{"channels": 4, "downscale": 1}, {"channels": 3, "downscale": 8}])
def test_in_pixel_space_the_flow_works_on_pictures(load, latent):
    with pytest.raises(ManifestMismatch, match="latent must have 3 channels and downscale 1"):
        load(pixel(**latent))


@pytest.mark.parametrize(
    "path",
    [*GOOD, "latent.mean", "networks.velocity.sha256", "networks.velocity.inputs", "networks.velocity.max_batch_size"],
)
def test_a_missing_field(load, path):
    with pytest.raises(ManifestMismatch, match=path):
        load(changed(path, None))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("schema_version", 2, "schema_version"),
        ("space", "frequency", "space"),
        ("image_size_px", 0, "image_size_px"),
        ("image_size_px", "64px", "image_size_px"),
        ("latent.channels", 3, "latent.*mean and std"),
        ("latent.std", [1, 0], "latent.*std must be positive"),
        ("latent.std", [1], "latent.*mean and std"),
        ("latent.downscale", -8, "latent.downscale"),
        ("sigma_s", [], "sigma_s"),
        ("sigma_s", [0.1, 0.2, 0.3], "sigma_s"),
        ("sigma_s", 0.1, "sigma_s"),
        ("sigma_s", [-0.1], "sigma_s"),
        ("sigma_s", [float("nan")], "sigma_s"),
        ("latent.std", [1, float("inf")], "latent.std"),
        ("default_num_steps", 21, "default_num_steps"),
        ("max_num_steps", 0, "max_num_steps"),
        ("default_fidelity", 1.5, "default_fidelity"),
        ("networks.vae_decoder", None, "vae_decoder"),
        ("networks.velocity.sha256", "x", "networks.velocity.sha256"),
        ("networks.velocity.max_batch_size", 0, "networks.velocity.max_batch_size"),
        ("networks.velocity.inputs.0", {**TENSOR, "dtype": "int8"}, "networks.velocity.inputs.0.dtype"),
        ("networks.velocity.file", "velocity/2/model.onnx", r"networks\.velocity\.file.*does not exist"),
        ("networks.velocity.sha256", "0" * 64, r"networks\.velocity\.sha256"),
        ("sigma", 1, "sigma"),
        ("latent.scale", 1, "latent.scale"),
    ],
)
def test_a_wrong_field(load, path, value, named):
    if path == "networks.velocity.inputs.0":
        manifest = changed("networks.velocity.inputs", [value])
    else:
        manifest = changed(path, value)
    with pytest.raises(ManifestMismatch, match=named):
        load(manifest)


def test_an_altered_network(load, tmp_path):
    (tmp_path / "velocity" / "1" / "model.onnx").write_text("other")
    with pytest.raises(ManifestMismatch, match=r"networks\.velocity\.sha256") as caught:
        load(GOOD)
    assert "export" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"manifest"'])
def test_a_file_that_is_no_manifest(load, text):
    with pytest.raises(ManifestMismatch, match=r"manifest\.json"):
        load(text)


def test_no_file_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = f"{tmp_path}/nowhere/manifest.json does not exist"
    with pytest.raises(ManifestMismatch, match=re.escape(missing)) as caught:
        load_manifest(Path("nowhere"))
    assert "run it in the checkout's folder, or set LATENT_PMRF_MODEL_REPOSITORY" in caught.value.hint


@pytest.mark.parametrize(
    ("manifest", "hint"),
    [({**GOOD, "max_of_later": 1}, "later release"), (changed("version", None), "export the bundle again")],
)
def test_the_hint_tells_a_bundle_of_a_later_release_from_a_damaged_one(load, manifest, hint):
    with pytest.raises(ManifestMismatch) as refused:
        load(manifest)
    assert hint in refused.value.hint
