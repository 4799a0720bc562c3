"""The bundles that real networks are tested with: a few lines of arithmetic, and the repository's own."""

from __future__ import annotations

import pytest

from tests.fleet import Fleet
from tests.processes import ROOT, service_process
from tests.redis_servers import durable_server
from tests.running_bundle import write_bundle
from tests.triton_servers import TritonServer, copy_repository, require_triton


@pytest.fixture(scope="package")
def arithmetic_bundle(tmp_path_factory):
    """Runs everywhere, in milliseconds."""
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="package")
def triton(arithmetic_bundle, tmp_path_factory):
    """A Triton server with that bundle, ready; tests may slow it down, and must not kill it."""
    require_triton()
    if not (arithmetic_bundle / "detector").exists():
        pytest.skip("the detector is not fetched: make install")
    folder = tmp_path_factory.mktemp("triton")
    with TritonServer(copy_repository(arithmetic_bundle, folder / "models"), folder) as server:
        server.until_ready()
        yield server


@pytest.fixture
def fleet(arithmetic_bundle, tmp_path_factory):
    """A deployment without processes yet, on a Redis of its own; silence is noticed soon, and forgiven often."""
    server = durable_server(tmp_path_factory.mktemp("r"))
    server.start()
    try:
        with Fleet(arithmetic_bundle, tmp_path_factory.mktemp("logs"), server, lease_s=3, max_deliveries=10) as fleet:
            yield fleet
    finally:
        server.kill()


@pytest.fixture(scope="module", params=["arithmetic", "own"])
def bundle(request):
    """Either bundle; the repository's own where it has been trained."""
    if request.param == "arithmetic":
        return request.getfixturevalue("arithmetic_bundle")
    own = ROOT / "model_repository"
    if not (own / "manifest.json").is_file():
        pytest.skip("model_repository/ has no manifest.json: the bundle is not trained yet")
    return own


@pytest.fixture(scope="module")
def service(bundle, tmp_path_factory):
    """A service in a process of its own, shared by the tests of a module."""
    with service_process(bundle, tmp_path_factory.mktemp("log") / "service.log") as running:
        yield running
