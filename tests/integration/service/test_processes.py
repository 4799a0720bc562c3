"""`latent-pmrf gateway`, `worker` and `serve` on one Redis: what each does, says, and refuses."""

import json
import subprocess

import httpx
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from tests.fleet import check_result, check_results, submit, until_ended, until_ready
from tests.numbered_photos import numbered
from tests.pictures import decoded, saved
from tests.processes import ROOT, command, environment, service_process, until
from tests.running_bundle import write_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PHOTO = saved(Image.fromarray(astronaut()).resize((384, 384)), "PNG")
NO_WORKER = "no worker with bundle arithmetic@"


def run(bundle, *arguments, **settings):
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(bundle, **settings), capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", ["gateway", "worker"])
def test_without_a_shared_queue_they_refuse(arithmetic_bundle, kind):
    done = run(arithmetic_bundle, kind)
    assert done.returncode == 2
    assert f"{kind} needs LATENT_PMRF_REDIS_URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["redis://127.0.0.1:door", "redis://127.0.0.1?db=first", "redis://:door/1@127.0.0.1"])
def test_an_address_that_is_none_is_refused(arithmetic_bundle, url):
    done = run(arithmetic_bundle, "worker", "--metrics-port", "0", redis_url=url)
    assert done.returncode == 2
    assert "LATENT_PMRF_REDIS_URL: " in done.stderr
    assert "door" not in done.stderr  # it may be of a password
    assert "Traceback" not in done.stderr


def test_a_worker_without_its_networks_refuses(arithmetic_bundle, tmp_path):
    done = run(tmp_path, "worker", "--metrics-port", "0", redis_url="redis://127.0.0.1")
    assert done.returncode == 3
    assert "manifest.json" in done.stderr


def test_a_process_whose_detector_does_not_answer_in_time_ends(arithmetic_bundle, tmp_path):
    log, large = tmp_path / "log", saved(Image.fromarray(astronaut()).resize((3000, 3000)), "JPEG")
    with service_process(arithmetic_bundle, log, call_timeout_s=0.01) as service:
        with pytest.raises(httpx.TransportError):
            service.client.post("/restore", files={"image": large})
        assert service.child.wait(60) == 1
    assert "the process is stuck" in log.read_text()


def test_they_restore_as_one_process_does(fleet, arithmetic_bundle, tmp_path):
    gateway, worker = fleet.start("gateway", "worker")
    until_ready(gateway, worker)
    options = {"seed": "3", "num_steps": "4"}

    def restore(service):
        answer = service.client.post("/restore", files={"image": PHOTO}, data=options)
        assert answer.headers["x-faces-restored"] == "1", answer.text
        return decoded(answer.content).astype(int)

    with service_process(arithmetic_bundle, tmp_path / "log", inference_threads=1) as alone:
        assert np.abs(restore(gateway) - restore(alone)).max() <= 1


def test_a_gateway_runs_the_detector_and_a_worker_the_other_networks(fleet):
    gateway, worker = fleet.start("gateway", "worker")
    until_ready(gateway, worker)
    gateway.client.post("/restore", files={"image": PHOTO}).raise_for_status()

    def networks(service):
        lines = [line for line in service.metrics().splitlines() if line.startswith("restore_batch_size_count")]
        return {line.split('"')[1] for line in lines}

    assert networks(gateway) == {"detector"}
    assert networks(worker) == {"estimator", "vae_encoder", "velocity", "vae_decoder"}


def test_a_worker_can_be_looked_at(fleet):
    (worker,) = fleet.start("worker")
    until_ready(worker)
    assert worker.client.get("/livez").json() == {"live": True}
    assert worker.client.get("/readyz").json() == {"ready": True, "reasons": []}
    assert "restore_build_info{" in worker.metrics()
    assert worker.client.get("/metrics").headers["content-type"].startswith("text/plain")
    assert worker.client.head("/livez").content == b""
    assert worker.client.get("/restore").status_code == 404
    assert worker.client.post("/livez").status_code == 405


def test_a_gateway_misses_its_workers(fleet):
    (gateway,) = fleet.start("gateway")
    (reason,) = gateway.reasons_not_ready()
    assert reason.startswith(NO_WORKER)
    first, second = fleet.start("worker", "worker")
    until_ready(gateway)
    first.kill()
    check_results(gateway, submit(gateway, range(3)))
    assert gateway.reasons_not_ready() == []
    second.kill()
    until(gateway.reasons_not_ready)
    assert gateway.reasons_not_ready() == [reason]


def test_what_waits_is_shown_by_every_gateway(fleet):
    gateway, other = fleet.start("gateway", "gateway")

    def shows(waiting):
        return lambda: {service.counted("restore_photo_queue_depth") for service in (gateway, other)} == {waiting}

    where = submit(gateway, range(3))
    until(shows(3.0))
    fleet.start("worker")
    check_results(other, where)
    until(shows(0.0))


def test_bundles_do_not_meet(fleet, tmp_path):
    other_bundle = write_bundle(tmp_path)
    manifest = json.loads((other_bundle / "manifest.json").read_text())
    (other_bundle / "manifest.json").write_text(json.dumps(manifest | {"sigma_s": [0.5]}))  # and the same name
    old_gateway, old_worker = fleet.start("gateway", "worker", request_timeout_s=10)
    (new_gateway,) = fleet.start("gateway", bundle=other_bundle)
    until_ready(old_gateway, old_worker)
    assert new_gateway.reasons_not_ready()[0].startswith(NO_WORKER)
    direct = old_gateway.client.post("/restore", files={"image": numbered(1)}, data={"aligned": "true"})
    check_result(direct, 1)
    (new_worker,) = fleet.start("worker", bundle=other_bundle)
    until_ready(new_gateway, new_worker)
    old_worker.kill()
    until(old_gateway.reasons_not_ready)
    where = submit(old_gateway, range(4))  # photos are common to both; faces of the old bundle, nobody would restore
    for location in where.values():
        assert until_ended(old_gateway, location)["status"] == "succeeded"


def test_serve_shares_the_queue_too(fleet):
    one, gateway = fleet.start("serve", "gateway")
    until_ready(one, gateway)
    where = submit(gateway, range(4))
    one.child.terminate()
    assert one.child.wait(120) == 0
    (next_one,) = fleet.start("serve")
    check_results(next_one, where)
