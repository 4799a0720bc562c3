"""Who runs the networks is the settings' choice, and what a choice needs is told where it is missing."""

import asyncio
import subprocess
import sys

import pytest

from service.backends.ort_session import OrtBackend
from service.composition.networks import open_backend
from service.core.errors import DependencyUnavailable
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.settings import Settings, UnusableSettings
from tests.processes import ROOT
from tests.running_bundle import write_bundle

NOWHERE = "grpcs://127.0.0.1:9"
WITHOUT_CLIENT = """
import asyncio, sys
sys.modules["tritonclient"] = None
from pathlib import Path
from service.composition.networks import open_backend
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.settings import Settings
bundle = Path(sys.argv[1])
settings = Settings(model_repository=bundle, triton_urls=sys.argv[2])
asyncio.run(open_backend(settings, load_manifest(bundle), Metrics(), only=["estimator"]))
"""


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle")


async def opened(bundle, **settings):
    made = Settings(model_repository=bundle, inference_threads=1, **settings)
    return await open_backend(made, load_manifest(bundle), Metrics(), only=["estimator"])


async def test_without_servers_networks_run_in_this_process(bundle):
    backend = await opened(bundle)
    assert isinstance(backend, OrtBackend)
    await backend.close()


async def test_with_servers_one_must_be_ready_in_time(bundle):
    with pytest.raises(DependencyUnavailable, match="no Triton server can be called"):
        await opened(bundle, triton_urls="grpc://127.0.0.1:9", triton_start_timeout_s=0.1)
    leftover = asyncio.all_tasks() - {asyncio.current_task()}
    assert leftover == set()


async def test_a_certificate_that_cannot_be_read_is_told_of(bundle, tmp_path):
    with pytest.raises(UnusableSettings, match=r"LATENT_PMRF_TRITON_\*_FILE: .*absent\.pem"):
        await opened(bundle, triton_urls=NOWHERE, triton_ca_file=tmp_path / "absent.pem")


async def test_a_certificate_without_its_key_is_told_of(bundle, tmp_path):
    with pytest.raises(UnusableSettings, match=r"LATENT_PMRF_TRITON_\*_FILE: a certificate needs its key"):
        await opened(bundle, triton_urls=NOWHERE, triton_certificate_file=tmp_path / "client.pem")


async def test_tritons_client_is_told_how_many_faces_a_call_may_have(bundle, monkeypatch):
    told = {}

    class Backend:
        def __init__(self, *_arguments, **options):
            told.update(options)

        async def start(self, patience_s):
            """It is there."""

    monkeypatch.setattr("service.backends.triton_client.TritonBackend", Backend)
    await opened(bundle, triton_urls=NOWHERE, triton_shared_memory=True, slots=3)
    assert (told["shared_memory"], told["rows"]) == (True, 3)


def test_without_tritons_client_servers_cannot_be_used_and_the_rest_can(bundle):
    def run(urls):
        script = [sys.executable, "-c", WITHOUT_CLIENT, str(bundle), urls]
        return subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run("").returncode == 0
    assert "needs Triton's client: in its folder" in (told := run("grpc://127.0.0.1:9").stderr)
    assert "pip install --editable '.[triton]'" in told
