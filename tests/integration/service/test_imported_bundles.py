"""From the public files of PMRF and of Latent-PMRF to a photo: import, export, service, in this process."""

import json

import numpy as np
import pytest
import torch

from export.cli import main as export_main
from export.trained import load_trained
from latent_pmrf.importing import PublicFile, PublicFiles, import_public
from service.composition.ending import Ending
from service.composition.gateway import restoring
from service.core.colour import with_colour_of
from service.core.settings import Settings
from service.core.types import RestoreOptions, Upload
from service.sampling.noise import source_noise
from tests.bundle import write_detector
from tests.pictures import decoded, encoded, pixels
from tests.public_files import SPECS, public_tensors, write_json, write_pmrf, write_tensors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the exporter takes seconds a network

NUM_STEPS, SEED = 3, 11
SIDES_PX = {"pixel": 64, "latent": 128}
NETWORKS = {"pixel": {"estimator", "velocity"}, "latent": {"estimator", "vae_encoder", "velocity", "vae_decoder"}}


def public_file(folder, name):
    weights = write_tensors(folder / f"{name}.safetensors", public_tensors(name)[0])
    return PublicFile(weights, write_json(folder / f"{name}.json", SPECS[name][1]))


def public_files(space, folder):
    """Every kind of block of every network; that all of them are imported is proven by test_importing.py."""
    if space == "pixel":
        return PublicFiles(pmrf=PublicFile(write_pmrf(folder, "shallow_pmrf", "shallow_swinir")))
    names = {"estimator": "shallow_swinir", "vae": "shallow_sim_vae", "flow": "shallow_looformer"}
    return PublicFiles(**{kind: public_file(folder, name) for kind, name in names.items()})


@pytest.fixture(scope="module", params=list(SIDES_PX))
def bundle(request, tmp_path_factory):
    """Space, imported runs and the model repository made of them."""
    folder = tmp_path_factory.mktemp(request.param)
    runs, repository = folder / "runs", folder / "model_repository"
    import_public(runs, public_files(request.param, folder / "public"), lambda line: None)
    stale = repository / "vae_encoder" / "1" / "model.onnx"  # of an earlier bundle in the same place
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"stale")
    arguments = ["bundle", "--runs", str(runs), "--model-repository", str(repository), "--name", "imported"]
    arguments += ["--image-size-px", str(SIDES_PX[request.param]), "--num-steps", str(NUM_STEPS), "--fidelity", "0"]
    assert export_main([*arguments, "--storage", "float32"]) == 0
    write_detector(repository)
    return request.param, runs, repository


async def serve(repository, photo, **options):
    settings = Settings(model_repository=repository, inference_threads=1)
    async with restoring(settings, Ending(settings.grace_s), with_worker=True) as service:
        return await service.gateway.restore(Upload(photo), RestoreOptions(aligned=True, seed=SEED, **options))


def reference(runs, photo, num_steps):
    """What PyTorch makes of the photo with the import's weights and the service's noise, in the photo's colours."""
    restorer, side_px = load_trained(runs).restorer, photo.shape[0]
    noise = source_noise(restorer.state_shape(side_px), SEED, 0)
    y = torch.from_numpy(photo.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    restored = restorer.restore(y, torch.from_numpy(noise)[None], num_steps)
    faces = {0.0: restored.sample, 1.0: restored.posterior_mean}
    coloured = {fidelity: with_colour_of(as_crop(face), photo) for fidelity, face in faces.items()}
    return {fidelity: face.clip(0, 1) * 255 for fidelity, face in coloured.items()}


def as_crop(batch):
    return np.ascontiguousarray(batch[0].permute(1, 2, 0).numpy())


def test_the_bundle_is_what_its_space_needs_and_nothing_else(bundle):
    space, _, repository = bundle
    manifest = json.loads((repository / "manifest.json").read_text())
    assert manifest["space"] == space
    assert set(manifest["networks"]) == NETWORKS[space]
    assert {path.parent.name for path in repository.glob("*/config.pbtxt")} == NETWORKS[space] | {"detector"}
    assert {path.parents[1].name for path in repository.glob("*/1/model.onnx")} == NETWORKS[space] | {"detector"}
    side_px = SIDES_PX[space]
    latent, sigma_s = manifest["latent"], manifest["sigma_s"]
    if space == "pixel":
        assert latent == {"channels": 3, "downscale": 1, "mean": [0, 0, 0], "std": [1, 1, 1]}
        assert sigma_s == [0.2]
        state = ["batch", 3, side_px, side_px]
    else:
        assert latent == {"channels": 4, "downscale": 8, "mean": [0.25] * 4, "std": [2] * 4}
        assert sigma_s == [0.1]
        state = ["batch", 4, side_px // 8, side_px // 8]
    assert manifest["networks"]["velocity"]["inputs"][0]["shape"] == state
    assert f"dims: [{', '.join(map(str, state[1:]))}]" in (repository / "velocity" / "config.pbtxt").read_text()


def test_the_manifest_says_whose_weights_they_are(bundle):
    space, _, repository = bundle
    provenance = json.loads((repository / "manifest.json").read_text())["provenance"]
    assert "estimator: S-Lab License 1.0, non-commercial use only" in provenance["licence"]
    assert ("flow: MIT" in provenance["licence"]) == (space == "pixel")
    assert provenance["data"] == {}
    assert all(len(recipe["imported"]["sha256"]) == 64 for recipe in provenance["recipe"].values())


@pytest.mark.parametrize("num_steps", [1, NUM_STEPS])
@pytest.mark.parametrize("fidelity", [0.0, 1.0])
async def test_the_service_restores_as_the_imported_networks_do(bundle, num_steps, fidelity):
    space, runs, repository = bundle
    dull = pixels(SIDES_PX[space], SIDES_PX[space], seed=5).astype(int)
    photo = np.clip(3 * (dull - 128) + 128, 0, 255).astype(np.uint8)  # a face of little range would be stretched first
    restored = await serve(repository, encoded(photo), num_steps=num_steps, fidelity=fidelity)
    expected = reference(runs, photo, num_steps)
    assert restored.report.model.startswith("imported@")
    assert ("vae_decoder" in restored.report.timings_ms) == (space == "latent")
    np.testing.assert_allclose(decoded(restored.data), expected[fidelity], atol=0.51)
    assert np.abs(expected[0.0] - expected[1.0]).mean() > 2
