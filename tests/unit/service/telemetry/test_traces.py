"""When traces are sent, and what happens when they cannot be."""

import subprocess
import sys

import pytest

from service.core import tracing
from service.core.settings import UnusableSettings
from service.telemetry.traces import exporting, wanted
from tests.otlp_collector import Collector
from tests.processes import ROOT

NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SERVICE_NAME": "mine"},
    ],
)
def test_traces_are_off_unless_they_have_somewhere_to_go(variables):
    assert not wanted(variables)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_traces_are_on_where_their_collector_is_named(name):
    assert wanted({name: NOWHERE})


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "OTEL_"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(monkeypatch, name, value, told):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", NOWHERE)
    monkeypatch.setenv(name, value)
    with pytest.raises(UnusableSettings, match=told), exporting("test", "1"):
        pass


def test_without_the_extra_the_refusal_says_what_to_install():
    script = """
import importlib.abc, os, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from service.core.settings import UnusableSettings
from service.telemetry.traces import exporting
with exporting("test", "1"):
    print("fine")
os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
try:
    exporting("test", "1").__enter__()
except UnusableSettings as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "fine"
    assert "pip install --editable '.[tracing]'" in second


@pytest.mark.parametrize(("name", "expected"), [(None, "latent-pmrf-test"), ("mine", "mine")])
def test_spans_that_are_left_at_the_end_are_sent_under_the_service_s_name(monkeypatch, name, expected):
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        if name is not None:
            monkeypatch.setenv("OTEL_SERVICE_NAME", name)
        with exporting("latent-pmrf-test", "1"), tracing.span("decode"):
            pass
    assert [(span.service, span.name) for span in collector.spans] == [(expected, "decode")]


def test_a_sampler_of_the_environment_decides(monkeypatch):
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        with exporting("test", "1"), tracing.span("decode"):
            pass
    assert collector.spans == []


@pytest.mark.parametrize("refuses", [True, False])
def test_a_collector_that_is_away_or_refuses_costs_spans_only(monkeypatch, caplog, refuses):
    with Collector(status=503) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url if refuses else NOWHERE)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        with exporting("test", "1", farewell_s=0.2):
            for _ in range(1000):
                with tracing.span("decode"):
                    pass
    (told,) = [record for record in caplog.records if record.name.startswith("opentelemetry.exporter")]
    assert "not told for 600 s" in told.getMessage()
