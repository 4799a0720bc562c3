"""Triton's dashboard and alerts on a real Triton, which says what was recorded of one."""

import re

import httpx
import pytest

from tests.monitoring import alert_queries, panel_queries, recorded_triton_metrics
from tests.processes import until
from tests.prometheus_server import PrometheusServer
from tests.running_bundle import SIZE_PX

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

QUERIES = [
    query
    for query in (*panel_queries(), *alert_queries())
    if any(name.startswith("nv_") for name in query.metrics) and not query.needs_gpu
]
PICTURE = {"name": "image", "datatype": "FP32", "shape": [1, 3, SIZE_PX, SIZE_PX], "data": [0.5] * 3 * SIZE_PX**2}


def said_of(model, text):
    """Names and labels of everything that is said of one model."""
    return set(re.findall(rf'^(nv_\w+{{[^}}]*model="{model}"[^}}]*}}) ', text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def watched(triton, tmp_path_factory):
    """Prometheus, beside the server after a few calls."""
    targets = {"latent-pmrf-triton": [triton.metrics_target]}
    with PrometheusServer(tmp_path_factory.mktemp("prometheus"), targets, []) as prometheus:
        for _ in range(3):
            answer = httpx.post(f"{triton.address}/v2/models/estimator/infer", json={"inputs": [PICTURE]}, timeout=60)
            assert answer.status_code == 200, answer.text
        until(lambda: prometheus.value('nv_inference_count{model="estimator"}'), patience_s=60)
        yield prometheus


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_it_answers(watched, query):
    until(lambda: watched.ask(query.expr), patience_s=60)


def test_the_recording_is_true(triton):
    text = httpx.get(f"http://{triton.metrics_target}/metrics", timeout=10).text
    for recorded in recorded_triton_metrics():
        assert said_of("estimator", recorded) == said_of("estimator", text)
