"""Spans of this process, by the real SDK, kept instead of sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler

from service.core import tracing


class KeptSpans:
    """What has ended so far."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        """In the order of their ends."""
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> ReadableSpan:
        """The only one of this name."""
        (found,) = [span for span in self.all if span.name == name]
        return found

    @property
    def names(self) -> list[str]:
        """Their names, in the order of their ends."""
        return [span.name for span in self.all]


@contextlib.contextmanager
def kept_spans(root: Sampler = ALWAYS_ON) -> Iterator[KeptSpans]:
    """Keep the spans of the block; `root` decides about traces that begin in it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(root), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with tracing.made_by(provider.get_tracer("tests")):
        yield KeptSpans(exporter)
    provider.shutdown()
