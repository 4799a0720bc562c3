"""Spans out to a collector by OTLP, where OpenTelemetry's own variables ask for it; without them nothing is loaded.

    spans -> a queue of OTEL_BSP_MAX_QUEUE_SIZE, beyond which they are dropped -> a thread -> POST /v1/traces

A collector that is slow or away costs spans, never photos.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from service.core.settings import UnusableSettings
from service.core.tracing import made_by
from service.telemetry.sparing import Sparing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_UNNAMED = "unknown_service"  # as the SDK calls what has no name
_FAREWELL_S = 5.0  # for the last spans, once everybody has been answered
_EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_REPEATED_S = 600.0  # what the exporter says of a collector that is away, at each attempt

logger = logging.getLogger(__name__)


def wanted(variables: Mapping[str, str]) -> bool:
    """Whether the environment asks for traces: it names where they go to, and does not switch them off."""
    if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if variables.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return False
    return any(variables.get(name, "").strip() for name in _ENDPOINTS)


@contextlib.contextmanager
def exporting(service_name: str, version: str, *, farewell_s: float = _FAREWELL_S) -> Iterator[None]:
    """Send spans for the duration of the block, and those that are left at its end, if the environment asks for it.

    Args:
        service_name: Unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say another one.
        version: Of the service.
        farewell_s: Longest time for the spans that are left at the end.

    Raises:
        UnusableSettings: It asks for what is not installed or not there, or a variable's value is none.
    """
    if not wanted(os.environ):
        yield
        return
    exporter = _exporter()
    # Of the extra `tracing`, known to be there now.
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.version": version})
    if str(resource.attributes["service.name"]).startswith(_UNNAMED):
        resource = resource.merge(Resource({"service.name": service_name}))
    try:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except ValueError as error:
        raise UnusableSettings(f"a variable OTEL_* cannot be used: {error}") from error
    sparing, exporters_log = Sparing(_REPEATED_S), logging.getLogger(_EXPORTER)
    exporters_log.addFilter(sparing)
    try:
        with made_by(provider.get_tracer("latent-pmrf", version)):
            yield
    finally:
        # The SDK would wait half a minute for a collector that does not answer; a process that ends has less time.
        parting = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        parting.start()
        parting.join(farewell_s)
        if parting.is_alive():
            logger.warning("the last spans could not be sent within %g s", farewell_s)
            exporter.shutdown()  # ends the attempts
            parting.join(farewell_s)
        exporters_log.removeFilter(sparing)


def _exporter() -> SpanExporter:
    protocol = next((value for name in _PROTOCOLS if (value := os.environ.get(name, "").strip())), _PROTOCOL)
    if protocol != _PROTOCOL:
        raise UnusableSettings(f"{_PROTOCOLS[1]}: traces are sent by {_PROTOCOL}, not by {protocol}")
    kind = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if kind != "otlp":
        raise UnusableSettings(f"OTEL_TRACES_EXPORTER: otlp or none, not {kind}")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise UnusableSettings.without_extra(f"{_ENDPOINTS[1]} needs OpenTelemetry's SDK", "tracing", error) from error
    try:
        return OTLPSpanExporter()
    except (OSError, ValueError) as error:
        raise UnusableSettings(f"a variable OTEL_EXPORTER_OTLP_* cannot be used: {error}") from error
