"""Dashboards and alerts on a real Prometheus, beside a gateway and a worker under a little load."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from PIL import Image
from skimage.data import astronaut

from tests.fleet import Fleet, check_results, submit, until_ready
from tests.kubernetes import FOLDER
from tests.monitoring import ALERTS, alert_queries, panel_queries, recorded_triton_metrics
from tests.numbered_photos import numbered
from tests.pictures import saved
from tests.processes import until
from tests.prometheus_server import PrometheusServer
from tests.redis_servers import durable_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PHOTO = saved(Image.fromarray(astronaut()).resize((384, 384)), "PNG")
BY_FAULT = {"LatentPmrfNoWorkers", "LatentPmrfNotReady", "LatentPmrfTargetDown"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ROOM = 4
SCALING = FOLDER / "components" / "scale-by-prometheus" / "scaledobject.yaml"
SETTINGS = {"lease_s": 3, "max_queued_faces": ROOM}


@contextlib.contextmanager
def recorded_triton():
    """A server that says what a real Triton said: before some requests, and from its fifth answer on after them."""
    before, after = recorded_triton_metrics()
    answers = iter([before] * 4)

    class Recorded(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(next(answers, after).encode())

        def log_message(self, *_arguments):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorded) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def load(gateway):
    """A photo with a face, faces of both lanes, a file that is no photo, a caller that asks for what is not there."""
    client = gateway.client
    assert client.post("/restore", files={"image": b"no photo"}).status_code == 415
    assert client.get("/v1/restorations/unknown").status_code == 404
    traceparent = f"00-{TRACE}-00f067aa0ba902b7-01"
    client.post("/restore", files={"image": PHOTO}, headers={"traceparent": traceparent}).raise_for_status()
    with asking(gateway, faces=12, at_once=ROOM) as answers:
        assert {answer.result() for answer in answers} == {200}
    check_results(gateway, submit(gateway, range(6), num_steps="4"))


@contextlib.contextmanager
def asking(gateway, *, faces, at_once):
    """Callers who want a face each; the statuses that they get, as futures."""

    def ask(number):
        return gateway.client.post("/restore", files={"image": numbered(number)}, data={"aligned": "true"}).status_code

    with ThreadPoolExecutor(at_once) as callers:
        yield [callers.submit(ask, number) for number in range(faces)]


@pytest.fixture(scope="module")
def watched(arithmetic_bundle, tmp_path_factory):
    """Prometheus, the deployment it watches, its gateway and its worker, after some load."""
    redis = durable_server(tmp_path_factory.mktemp("r"))
    redis.start()
    try:
        fleet = Fleet(arithmetic_bundle, tmp_path_factory.mktemp("logs"), redis, **SETTINGS)
        with fleet, recorded_triton() as triton:
            gateway, worker = fleet.start("gateway", "worker")
            until_ready(gateway, worker)
            targets = {
                "latent-pmrf-gateway": [f"127.0.0.1:{gateway.port}"],
                "latent-pmrf-worker": [f"127.0.0.1:{worker.port}"],
                "latent-pmrf-triton": [triton],
            }
            with PrometheusServer(tmp_path_factory.mktemp("prometheus"), targets, [ALERTS]) as prometheus:
                until(lambda: prometheus.value("count(up == 1)") == len(targets), patience_s=60)
                load(gateway)
                steps = worker.counted("restore_ode_steps_total")
                until(lambda: prometheus.value("sum(restore_ode_steps_total)") == steps, patience_s=60)
                yield prometheus, fleet, gateway, worker
    finally:
        redis.kill()


@pytest.mark.parametrize(
    "query",
    [*(query for query in panel_queries() if not query.needs_gpu), *alert_queries()],
    ids=lambda query: query.where,
)
def test_a_panel_shows_something_and_an_alert_can_be_decided(watched, query):
    prometheus, *_ = watched
    until(lambda: prometheus.ask(query.expr), patience_s=60)  # a scrape that came too late leaves a hole


@pytest.mark.parametrize(
    "query", [query for query in panel_queries() if query.needs_gpu], ids=lambda query: query.where
)
def test_a_query_of_a_gpu_is_a_query(watched, query):
    prometheus, *_ = watched
    assert prometheus.ask(query.expr) == []  # nothing here has a GPU


@pytest.mark.parametrize(
    "series",
    [
        'restore_request_duration_seconds_bucket{route="/restore"}',
        'restore_stage_duration_seconds_bucket{stage="detect"}',
        'restore_stage_duration_seconds_bucket{stage="sampler", job="latent-pmrf-worker"}',
    ],
)
def test_durations_lead_to_the_trace_of_a_request(watched, series):
    prometheus, *_ = watched
    until(lambda: {"trace_id": TRACE} in prometheus.exemplars(series), patience_s=60)


def test_the_autoscaler_s_query_counts_what_is_to_be_done(watched):
    prometheus, *_ = watched
    (trigger,) = yaml.safe_load(SCALING.read_text())[1]["value"]
    until(lambda: prometheus.value(trigger["metadata"]["query"]) == 0, patience_s=60)  # the load is over


def test_figures_are_the_service_s(watched):
    prometheus, _, gateway, worker = watched
    faces, slots = gateway.counted("restore_faces_total"), worker.counted("restore_batch_slots")
    until(lambda: prometheus.value('sum(restore_faces_total{outcome="restored"})') == faces, patience_s=60)
    until(lambda: prometheus.value("count(restore_batch_slots > 0)") == 1, patience_s=60)
    until(lambda: prometheus.value("sum(restore_batch_slots)") == slots, patience_s=60)


def test_a_worker_s_death_fires_its_alerts_and_its_successor_ends_them(watched):
    prometheus, fleet, gateway, worker = watched
    until(lambda: prometheus.firing() & BY_FAULT == set(), patience_s=60)
    worker.kill()
    until(lambda: prometheus.firing() >= BY_FAULT, patience_s=60)
    with asking(gateway, faces=2 * ROOM, at_once=2 * ROOM) as answers:
        until(lambda: "LatentPmrfRefusing" in prometheus.firing(), patience_s=60)
        (successor,) = fleet.start("worker")
        prometheus.look_at("latent-pmrf-worker", [f"127.0.0.1:{successor.port}"])
        assert sorted(answer.result() for answer in answers) == [200] * ROOM + [429] * ROOM
    until(lambda: prometheus.firing() & BY_FAULT == set(), patience_s=60)
