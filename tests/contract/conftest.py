"""Every queue, for the tests that all of them have to pass; overlays of Kubernetes with a component more."""

from __future__ import annotations

import shutil

import pytest
import yaml

from tests.face_queues import BROKERS
from tests.job_queues import JOB_QUEUES
from tests.kubernetes import FOLDER, build


@pytest.fixture(params=BROKERS, ids=lambda factory: factory.__name__)
def make_broker(request):
    """A factory of one implementation."""
    return request.param


@pytest.fixture
async def broker(make_broker):
    """A queue of faces with room."""
    async with make_broker(max_queued_faces=64) as made:
        yield made


@pytest.fixture(params=JOB_QUEUES, ids=lambda factory: factory.__name__)
def make_queue(request):
    """A factory of one implementation."""
    return request.param


@pytest.fixture
async def queue(make_queue):
    """A queue with room."""
    async with make_queue() as made:
        yield made


@pytest.fixture
def with_component(tmp_path):
    """Builds an overlay with more components, by their names."""

    def built(name, *components):
        folder = shutil.copytree(FOLDER, tmp_path / "k8s") / "overlays" / name
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        kustomization["components"] += [f"../../components/{component}" for component in components]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return build(folder)

    return built
