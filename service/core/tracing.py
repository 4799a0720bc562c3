"""What a request leaves behind in traces and logs, by OpenTelemetry's API; without its SDK spans cost next to nothing.

    here() -> Origin, carried by a job -> within(origin): spans, logs and exemplars of the block are the request's

Span names are file names of the code that they time. No span holds an id of a job or a caller, an address, a file name
or a message of an error: an error is told by its code.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.core.errors import Cancelled, InputError, ServiceError
from service.core.origin import Origin, request_id_of

Attributes = Mapping[str, str | bool | int | float]

TOLD = "told_in_log"
"""Attribute of an exception that is in the log already: whoever else is handed it need not write it again."""

OUTCOME = "restore.outcome"
LANE = "restore.lane"
FACES = "restore.faces"
NUM_STEPS = "restore.num_steps"
BATCH_SIZE = "restore.batch_size"

_NS = 1_000_000_000
_LONGEST_TRACESTATE_CHARS = 512
_W3C = TraceContextTextMapPropagator()
_tracer: Tracer = NoOpTracer()
_request_id: ContextVar[str] = ContextVar("request_id", default="")
_stage: ContextVar[str] = ContextVar("stage", default="")


def here() -> Origin:
    """Where work comes from that is handed over now."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return Origin(_request_id.get(), carrier.get("traceparent", ""), carrier.get("tracestate", ""), time.time())


@contextlib.contextmanager
def within(origin: Origin | None) -> Iterator[None]:
    """Let the block belong to where its work came from; None leaves it where it is."""
    if origin is None:
        yield
        return
    known = _request_id.set(origin.request_id)
    attached = contexts.attach(context_of(origin))
    try:
        yield
    finally:
        contexts.detach(attached)
        _request_id.reset(known)


@contextlib.contextmanager
def serving(name: str, headers: Mapping[str, str], attributes: Attributes, *, traced: bool = True) -> Iterator[Span]:
    """A span around the answer to a request from outside, of the request's trace if it brings one.

    What follows in this task, and in tasks that it starts, belongs to the request, also after the block.

    Args:
        name: As far as it is known at the beginning.
        headers: Of the request, or what its transport has for them; names in small letters.
        attributes: What is known at its beginning.
        traced: Whether there is a span at all; the request id is known in any case.
    """
    _request_id.set(request_id_of(headers.get("x-request-id")))
    if not traced:
        yield trace.INVALID_SPAN
        return
    # What the caller sends travels with every face; vendors may rely on so much of `tracestate` and no more.
    brought = {name: value for name in _W3C.fields if len(value := headers.get(name, "")) <= _LONGEST_TRACESTATE_CHARS}
    context = _W3C.extract(brought, context=Context())
    begun = _tracer.start_span(name, context, SpanKind.SERVER, dict(attributes))
    # What ends it is told by the answer (`end_request`), not by what is raised on the way there.
    with trace.use_span(begun, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        yield begun


def end_request(answered: Span, name: str, attributes: Attributes, *, error_type: str | None) -> None:
    """Note how the answer to a request ended that `serving` has begun, and what is known now.

    `error_type` is what went wrong that is the service's fault, or None.
    """
    answered.update_name(name)
    answered.set_attributes(dict(attributes))
    if error_type is not None:
        answered.set_attribute("error.type", error_type)
        answered.set_status(Status(StatusCode.ERROR))


@contextlib.contextmanager
def handing_over(name: str, attributes: Attributes) -> Iterator[Origin]:
    """A span around work that others do, who get to know where it comes from."""
    with span(name, kind=SpanKind.PRODUCER, attributes=attributes):
        yield here()


@contextlib.contextmanager
def consuming(name: str, origin: Origin | None, attributes: Attributes, *, own_trace: bool = False) -> Iterator[Span]:
    """A span around work that a queue has brought, and one for its wait there.

    Args:
        name: File name of the code that does it.
        origin: Where it comes from, or None.
        attributes: What is known at its beginning.
        own_trace: It is one of many pieces of a request: a trace of its own, linked to where it comes from.
    """
    with within(origin):
        context, links = (Context(), _link_to(origin)) if own_trace else (None, ())
        with span(name, kind=SpanKind.CONSUMER, attributes=attributes, context=context, links=links) as begun:
            if origin is not None and not own_trace:
                waited(origin, attributes)
            yield begun


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Let logs of the block tell a stage, and an error that leaves it where it comes from."""
    known = _stage.set(name)
    try:
        yield
    except ServiceError as error:
        error.stage = error.stage or name
        raise
    finally:
        _stage.reset(known)


@contextlib.contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
    context: Context | None = None,
    links: tuple[Link, ...] = (),
) -> Iterator[Span]:
    """A span around the block, inside the one around the caller.

    Args:
        name: File name of the code that it times.
        kind: What it is to others.
        attributes: What is known at its beginning.
        context: Where it belongs instead; an empty one begins a trace.
        links: Spans of other traces that have to do with it.
    """
    begun = _tracer.start_span(name, context, kind, dict(attributes or {}), links)
    with trace.use_span(begun, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield begun
        except BaseException as error:
            blame(begun, error)
            raise


def note(attributes: Attributes) -> None:
    """Add to what is known of the span around the caller."""
    trace.get_current_span().set_attributes(dict(attributes))


def note_failure(error: BaseException) -> None:
    """Note on the span around the caller what its work ended with, where that is not raised through it."""
    blame(trace.get_current_span(), error)


@contextlib.contextmanager
def span_in_trace(name: str, attributes: Attributes | None = None) -> Iterator[None]:
    """A span around the block if there is one around the caller: never the beginning of a trace."""
    if not trace.get_current_span().is_recording():
        yield
        return
    with span(name, attributes=attributes):
        yield


def past_span(name: str, begin_s: float, end_s: float, context: Context, attributes: Attributes) -> None:
    """A span, where `context` says, of something that is over; times are Unix time.

    Where clocks differ, its end may seem to lie before its beginning.
    """
    begun = start_span(name, begin_s, context, attributes)
    begun.end(nanoseconds(max(begin_s, end_s)))


def start_span(name: str, begin_s: float, context: Context, attributes: Attributes | None = None) -> Span:
    """A span for the caller to end."""
    return _tracer.start_span(
        name, context, attributes=dict(attributes or {}), start_time=nanoseconds(begin_s), record_exception=False
    )


def nanoseconds(time_s: float) -> int:
    """Unix time as spans take it."""
    return round(time_s * _NS)


def waited(origin: Origin, attributes: Attributes) -> None:
    """Tell that work has left its queue: a span `queue_wait` from when it was handed over until now."""
    now_s = time.time()
    if origin.sent_s:
        past_span("queue_wait", min(origin.sent_s, now_s), now_s, context_of(origin), attributes)


def blame(failed: Span, error: BaseException) -> None:
    """Note on a span what ended it; what the caller did is no error of ours."""
    if isinstance(error, asyncio.CancelledError):
        failed.set_attribute(OUTCOME, "cancelled")
        return
    code = error.code if isinstance(error, ServiceError) else type(error).__name__
    failed.set_attribute("error.type", code)
    failed.set_attribute(OUTCOME, code)
    if not isinstance(error, InputError | Cancelled):
        failed.set_status(Status(StatusCode.ERROR))


def context_of(origin: Origin) -> Context:
    """The span that work came from, as the parent of others."""
    return _W3C.extract({"traceparent": origin.traceparent, "tracestate": origin.tracestate}, context=Context())


def correlated() -> dict[str, str]:
    """`request_id`, `trace_id` and `span_id` of here, as far as they are known."""
    known = {"request_id": request_id} if (request_id := _request_id.get()) else {}
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        known["trace_id"] = trace.format_trace_id(current.trace_id)
        known["span_id"] = trace.format_span_id(current.span_id)
    return known


def correlation_headers() -> dict[str, str]:
    """What an answer tells of its request: `x-request-id` and, where there is a trace, `traceresponse`."""
    told = {"x-request-id": request_id} if (request_id := _request_id.get()) else {}
    if traceparent := here().traceparent:
        told["traceresponse"] = traceparent
    return told


def told_with_problems() -> dict[str, str]:
    """What a problem tells of its request: `request_id` and, where there is a trace, `trace_id`."""
    return {name: value for name, value in correlated().items() if name != "span_id"}


def current_stage() -> str:
    """The stage of here, or empty."""
    return _stage.get()


def exemplar() -> dict[str, str] | None:
    """The trace of here as an exemplar, if it is one that is kept."""
    current = trace.get_current_span().get_span_context()
    if not (current.is_valid and current.trace_flags.sampled):
        return None
    return {"trace_id": trace.format_trace_id(current.trace_id)}


def _link_to(origin: Origin | None) -> tuple[Link, ...]:
    found = None if origin is None else trace.get_current_span(context_of(origin)).get_span_context()
    return (Link(found),) if found is not None and found.is_valid else ()


@contextlib.contextmanager
def made_by(tracer: Tracer) -> Iterator[None]:
    """Let a tracer make the spans of this process for the duration of the block.

    It is handed over here and not made known to all of the process: frameworks and clients that trace by themselves
    would use it, and tell paths, queries and addresses.
    """
    global _tracer
    before, _tracer = _tracer, tracer
    try:
        yield
    finally:
        _tracer = before
