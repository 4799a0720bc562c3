"""A velocity that sees the mean of its source: PyTorch, the evaluation and the service make the same picture."""

import dataclasses

import numpy as np
import pytest
import torch

from export.bundle import write_bundle
from export.manifest import BundleFacts
from export.networks import graph_specs
from export.parity import Gate, ParityError, check_network, check_pipeline
from export.trained import load_trained, round_weights
from latent_pmrf.cli import main
from latent_pmrf.evaluation.bundle import BundleRestorer, source_noise
from latent_pmrf.nets.preconditioning import Preconditioning
from latent_pmrf.training.checkpoint import load_weights
from service.backends.ort_session import OrtBackend
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.types import FaceJob
from service.sampling.sampler import Sampler
from tests.bundle import write_detector
from tests.pictures import pixels
from tests.tiny_runs import HDIT, SIDE_PX, rounded, write_runs

pytestmark = pytest.mark.timeout(300)  # the exporter takes seconds a network, more beside other work


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    runs = write_runs(tmp_path_factory.mktemp("runs"), velocity=dataclasses.replace(HDIT, mean_conditioned=True))
    repository = tmp_path_factory.mktemp("bundle")
    facts = BundleFacts(name="tiny", version="7", image_size_px=SIDE_PX)
    write_bundle(load_trained(runs), repository, facts, Gate(), lambda _: None)
    write_detector(repository)
    return runs, repository


async def served(repository, jobs):
    manifest, metrics = load_manifest(repository), Metrics()
    backend = OrtBackend(manifest, repository, 1, metrics=metrics)
    sampler = Sampler(backend, manifest, len(jobs), metrics=metrics)
    for job in jobs:
        sampler.admit(job)
    faces = {}
    while sampler.jobs:
        faces |= {outcome.job.job_id: outcome.result for outcome in await sampler.step()}
    await backend.close()
    return [faces[job.job_id] for job in jobs]


async def test_all_three_make_the_same_picture(exported):
    runs, repository = exported
    steps = (1, 3)
    jobs = [
        FaceJob(str(seed), 0, pixels(SIDE_PX, SIDE_PX, seed=seed), num_steps, seed)
        for seed, num_steps in enumerate(steps)
    ]
    faces = await served(repository, jobs)
    trained, bundle = rounded(runs), BundleRestorer(repository, num_threads=1)
    for job, face in zip(jobs, faces, strict=True):
        picture = job.crop[None].astype(np.float32) / np.float32(255)
        y = torch.from_numpy(picture.transpose(0, 3, 1, 2))
        noise = torch.from_numpy(source_noise((4, 24, 24), job.seed)[None])
        reference = trained.restorer.restore(y, noise, job.num_steps).sample.permute(0, 2, 3, 1)
        evaluated = bundle.transport(bundle.source(bundle.estimate(picture), [job.seed]), job.num_steps)
        np.testing.assert_allclose(face.sample[None], evaluated, atol=1e-6)
        np.testing.assert_allclose(evaluated, reference, atol=1e-4)
        assert np.abs(face.sample - face.posterior_mean).max() > 0.01


@pytest.fixture
def guess_is_off_later(monkeypatch):
    """The networks in PyTorch guess another velocity than the graphs, but not at t = 0."""
    true = Preconditioning.forward

    def forward(self, t):
        known = true(self, t)
        return dataclasses.replace(known, c_skip=known.c_skip * (1 + 0.2 * t[:, None, None, None]))

    monkeypatch.setattr(Preconditioning, "forward", forward)


@pytest.mark.usefixtures("guess_is_off_later")
def test_a_graph_that_is_wrong_between_the_ends_fails_the_gate(exported):
    runs, repository = exported
    trained = rounded(runs)
    velocity = graph_specs(trained, SIDE_PX)[2]
    with pytest.raises(ParityError, match="velocity, batch 1: relative error"):
        check_network(velocity, (repository / "velocity/1/model.onnx").read_bytes(), trained.statistics, 1e-4)
    assert check_pipeline(trained.restorer, repository, (1,), 0.25) < 0.25
    with pytest.raises(ParityError, match="pipeline: a pixel differs"):
        check_pipeline(trained.restorer, repository, (1, 5), 0.25)


def test_the_manifest_names_the_third_input(exported):
    inputs = load_manifest(exported[1]).networks["velocity"].inputs
    assert [tensor.name for tensor in inputs] == ["x_t", "t", "source_mean"]


def test_its_weights_can_be_read_back(exported, tmp_path):
    assert main(["import", "--bundle", str(exported[1]), "--runs", str(tmp_path)]) == 0
    expected = load_trained(exported[0]).velocity
    round_weights(expected)
    found = load_weights(tmp_path / "flow" / "weights.safetensors")
    assert found.config == expected.config
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict[name], value, atol=1e-6, rtol=0, msg=name)
