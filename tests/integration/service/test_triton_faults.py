"""Triton servers that are killed, restarted, absent, or not what they should be, seen from processes of the service."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import trustme

from loadtest.process import held_port
from service.backends.triton_client import TritonBackend
from service.backends.triton_endpoints import TlsFiles
from service.core.errors import DependencyUnavailable
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from tests.fleet import check_results, submit, until_ready
from tests.processes import ROOT, command, environment, until
from tests.triton_servers import TritonServer, copy_repository, only_models, require_triton

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = "restore_ode_steps_total"
MANY_STEPS = {"num_steps": "8"}


@pytest.fixture(scope="module")
def doomed(arithmetic_bundle, tmp_path_factory):
    """A server that tests may kill; it has the sampler's networks."""
    require_triton()
    folder = tmp_path_factory.mktemp("doomed")
    models = only_models("estimator", "vae_encoder", "velocity", "vae_decoder")
    with TritonServer(copy_repository(arithmetic_bundle, folder / "models"), folder, models) as server:
        server.until_ready()
        yield server


def test_a_server_killed_and_restarted_under_load_loses_no_face(doomed, fleet):
    (gateway,) = fleet.start("gateway")
    (worker,) = fleet.start("worker", triton_urls=doomed.url, triton_timeout_s=120)
    until_ready(gateway, worker)
    with doomed.slow("velocity", 0.1):
        where = submit(gateway, range(10), **MANY_STEPS)
        until(lambda: worker.counted(STEPS) > 0)
        doomed.kill()
    until(lambda: worker.reasons_not_ready() == ["the networks cannot be called"])
    doomed.start()
    doomed.until_ready()
    check_results(gateway, where)
    until_ready(worker)


async def test_a_server_that_falls_silent_is_noticed_and_stood_in_for_by_another(doomed, triton, arithmetic_bundle):
    manifest = load_manifest(arithmetic_bundle)
    backend = TritonBackend(
        manifest, [doomed.url, triton.url], metrics=Metrics(), timeout_s=120, only=manifest.networks
    )
    await backend.start(60)
    with doomed.paused():
        answers = [await backend.infer("estimator", {"image": np.zeros((1, 3, 64, 64), np.float32)}) for _ in range(4)]
    assert len(answers) == 4
    await backend.close()


def test_a_server_killed_under_load_is_stood_in_for_by_another(doomed, triton, fleet):
    (gateway,) = fleet.start("gateway")
    (worker,) = fleet.start("worker", triton_urls=f"{doomed.url}, {triton.url}")
    until_ready(gateway, worker)
    with doomed.slow("velocity", 0.1), triton.slow("velocity", 0.1):
        where = submit(gateway, range(10), **MANY_STEPS)
        until(lambda: worker.counted(STEPS) > 0)
        doomed.kill()
        check_results(gateway, where)
    assert worker.reasons_not_ready() == []


def ended(bundle, **settings):
    """How `latent-pmrf serve` ends that cannot start."""
    variables = environment(bundle, **settings)
    return subprocess.run(
        command("serve", "--port", "0"), cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )


def test_a_bundle_that_the_server_does_not_have_is_a_refusal_to_start(triton, arithmetic_bundle, tmp_path):
    other = shutil.copytree(arithmetic_bundle, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["networks"]["velocity"]["max_batch_size"] = 8
    (other / "manifest.json").write_text(json.dumps(manifest))
    done = ended(other, triton_urls=triton.url)
    assert done.returncode == 3
    assert "networks.velocity.max_batch_size: the server has 4, the manifest 8" in done.stderr


def test_a_server_that_is_not_there_is_told_of_at_the_start(arithmetic_bundle):
    with held_port() as port:
        address = f"grpc://127.0.0.1:{port}"
        done = ended(arithmetic_bundle, triton_urls=address, triton_start_timeout_s=0.5)
    assert done.returncode == 1
    assert f"no Triton server can be called: {address}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Certificates of a server and of a client, and who vouches for both."""
    folder, ca = tmp_path_factory.mktemp("tls"), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("127.0.0.1", "client"):
        certificate = ca.issue_cert(name)
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    return folder


@pytest.fixture(scope="module")
def guarded(arithmetic_bundle, authority, tmp_path_factory):
    """A server with TLS that asks its callers for a certificate."""
    require_triton()
    folder = tmp_path_factory.mktemp("guarded")
    options = [
        *only_models("estimator"),
        "--grpc-use-ssl-mutual=1",
        f"--grpc-server-cert={authority / '127.0.0.1.pem'}",
        f"--grpc-server-key={authority / '127.0.0.1.key'}",
        f"--grpc-root-cert={authority / 'ca.pem'}",
    ]
    with TritonServer(copy_repository(arithmetic_bundle, folder / "models"), folder, options) as server:
        server.until_ready()
        yield server


async def ready(bundle, server, tls, patience_s):
    address = server.url.replace("grpc://", "grpcs://")
    backend = TritonBackend(
        load_manifest(bundle), [address], metrics=Metrics(), timeout_s=30, tls=tls, only=["estimator"]
    )
    try:
        await backend.start(patience_s)
        return await backend.ready()
    finally:
        await backend.close()


async def test_a_server_with_tls_answers_who_can_show_a_certificate(guarded, arithmetic_bundle, authority):
    tls = TlsFiles(authority / "ca.pem", authority / "client.pem", authority / "client.key")
    assert await ready(arithmetic_bundle, guarded, tls, 60)


@pytest.mark.parametrize("knows_the_ca", [False, True])
async def test_a_server_with_tls_answers_nobody_else(guarded, arithmetic_bundle, authority, knows_the_ca):
    tls = TlsFiles(authority / "ca.pem") if knows_the_ca else TlsFiles()
    with pytest.raises(DependencyUnavailable, match="no Triton server can be called"):
        await ready(arithmetic_bundle, guarded, tls, 1)
