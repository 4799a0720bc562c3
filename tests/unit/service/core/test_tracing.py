"""Spans, and what joins logs and answers to them."""

import asyncio
import time

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from service.core import tracing
from service.core.errors import Cancelled, CorruptImage, HungUp, InferenceFailed, ServiceError
from service.core.origin import Origin
from tests.kept_spans import kept_spans

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ORIGIN = Origin("req-1", f"00-{TRACE}-{PARENT}-01", "vendor=1", sent_s=1000.0)
UNSAMPLED = Origin("req-2", f"00-{TRACE}-{PARENT}-00")
SERVER = {"traceparent": ORIGIN.traceparent, "x-request-id": "req-1"}


def ids(span):
    context, parent = span.get_span_context(), span.parent
    return f"{context.trace_id:032x}", f"{parent.span_id:016x}" if parent else None


async def alone(function, *arguments):
    """In a task of its own, as a request is."""

    async def run():
        return function(*arguments)

    return await asyncio.create_task(run())


def test_without_an_sdk_nothing_is_made_and_what_came_in_goes_on():
    with tracing.within(ORIGIN), tracing.span("decode") as span:
        assert not span.is_recording()
        assert tracing.here().traceparent == ORIGIN.traceparent
        assert tracing.correlated() == {"request_id": "req-1", "trace_id": TRACE, "span_id": PARENT}


def test_outside_a_request_nothing_is_known():
    assert tracing.correlated() == {}
    assert tracing.correlation_headers() == {}
    assert tracing.exemplar() is None
    assert tracing.here().traceparent == ""


def test_the_block_of_an_origin_belongs_to_its_trace_and_what_follows_does_not():
    with kept_spans() as kept:
        with tracing.within(ORIGIN), tracing.span("decode"):
            origin = tracing.here()
        assert tracing.correlated() == {}
    assert ids(kept.named("decode")) == (TRACE, PARENT)
    assert (origin.request_id, origin.tracestate) == ("req-1", "vendor=1")
    assert origin.traceparent.startswith(f"00-{TRACE}-")
    assert PARENT not in origin.traceparent


def test_no_origin_leaves_the_block_where_it_is():
    with tracing.within(ORIGIN), tracing.within(None):
        assert tracing.correlated()["trace_id"] == TRACE


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (CorruptImage("grandma.jpg is broken"), "corrupt_image", StatusCode.UNSET),
        (HungUp("gone"), "hung_up", StatusCode.UNSET),
        (Cancelled("withdrawn"), "cancelled", StatusCode.UNSET),
        (InferenceFailed("grandma.jpg"), "inference_failed", StatusCode.ERROR),
        (KeyError("grandma.jpg"), "KeyError", StatusCode.ERROR),
    ],
)
def test_an_error_is_told_by_its_code_and_never_by_its_words(error, code, status):
    with kept_spans() as kept, pytest.raises(type(error)), tracing.span("decode"):
        raise error
    span = kept.named("decode")
    assert span.attributes["error.type"] == code
    assert span.status.status_code is status
    assert "grandma" not in span.to_json()


def test_what_is_cancelled_is_no_error():
    with kept_spans() as kept, pytest.raises(asyncio.CancelledError), tracing.span("broker"):
        raise asyncio.CancelledError
    assert dict(kept.named("broker").attributes) == {tracing.OUTCOME: "cancelled"}


async def test_a_request_belongs_to_the_trace_that_it_brings():
    def serve():
        with tracing.serving("GET", SERVER, {"a": 1}) as request:
            headers = tracing.correlation_headers()
            tracing.end_request(request, "GET /a", {"b": 2}, error_type=None)
        return headers

    with kept_spans() as kept:
        headers = await alone(serve)
    span = kept.named("GET /a")
    assert (span.kind, ids(span), dict(span.attributes)) == (SpanKind.SERVER, (TRACE, PARENT), {"a": 1, "b": 2})
    assert headers == {
        "x-request-id": "req-1",
        "traceresponse": f"00-{TRACE}-{span.get_span_context().span_id:016x}-01",
    }


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-0-0-00", f"00-{'0' * 32}-{PARENT}-01", "00-" + "z" * 49])
async def test_a_request_without_a_usable_trace_begins_one(traceparent):
    def serve():
        with tracing.serving("GET", {"traceparent": traceparent}, {}):
            return tracing.correlated()

    with kept_spans() as kept:
        known = await alone(serve)
    assert kept.named("GET").parent is None
    assert known["trace_id"] not in ("", "0" * 32)


async def test_a_caller_cannot_load_work_with_more_than_a_little_of_his_own():
    def serve(tracestate):
        with tracing.serving("GET", {**SERVER, "tracestate": tracestate}, {}):
            return tracing.here().tracestate

    assert await alone(serve, "vendor=1") == "vendor=1"
    assert await alone(serve, ",".join(f"vendor{number}={'x' * 100}" for number in range(9))) == ""


async def test_a_request_that_is_not_traced_still_has_its_id():
    def serve():
        with tracing.serving("GET", SERVER, {}, traced=False):
            return tracing.correlated()

    with kept_spans() as kept:
        assert await alone(serve) == {"request_id": "req-1"}
    assert kept.names == []


async def test_an_answer_that_is_our_fault_is_an_error():
    def serve():
        with tracing.serving("GET", {}, {}) as request:
            tracing.end_request(request, "GET /a", {}, error_type="503")

    with kept_spans() as kept:
        await alone(serve)
    assert kept.named("GET /a").status.status_code is StatusCode.ERROR
    assert kept.named("GET /a").attributes["error.type"] == "503"


def test_work_from_a_queue_tells_how_long_it_waited():
    begin_s = time.time()
    with kept_spans() as kept, tracing.consuming("runner", Origin("", ORIGIN.traceparent, sent_s=begin_s - 2.0), {}):
        pass
    wait, work = kept.named("queue_wait"), kept.named("runner")
    assert ids(wait) == ids(work) == (TRACE, PARENT)
    assert (wait.end_time - wait.start_time) / 1e9 >= 2.0
    assert work.kind is SpanKind.CONSUMER


def test_a_clock_that_is_ahead_makes_no_span_end_before_it_begins():
    with kept_spans() as kept:
        tracing.waited(Origin("", ORIGIN.traceparent, sent_s=time.time() + 60.0), {})
    assert kept.named("queue_wait").end_time >= kept.named("queue_wait").start_time


def test_one_of_many_is_a_trace_of_its_own_with_a_link():
    with kept_spans() as kept, tracing.consuming("stream", ORIGIN, {}, own_trace=True), tracing.span("gateway"):
        pass
    stream, gateway = kept.named("stream"), kept.named("gateway")
    assert stream.parent is None
    assert [f"{link.context.trace_id:032x}" for link in stream.links] == [TRACE]
    assert ids(gateway)[0] == ids(stream)[0] != TRACE
    assert kept.names == ["gateway", "stream"]


def test_a_span_within_a_trace_never_begins_one():
    with kept_spans() as kept:
        with tracing.span_in_trace("detector"):
            pass
        with tracing.span("detect"), tracing.span_in_trace("detector", {tracing.BATCH_SIZE: 4}):
            pass
    assert kept.names == ["detector", "detect"]


def test_exemplars_are_traces_that_are_kept():
    with tracing.within(ORIGIN):
        assert tracing.exemplar() == {"trace_id": TRACE}
    with tracing.within(UNSAMPLED):
        assert tracing.exemplar() is None
    with kept_spans(ALWAYS_OFF), tracing.span("decode"):
        assert tracing.exemplar() is None


def test_a_stage_leaves_its_name_on_the_error_that_comes_from_it():
    with tracing.stage("decode"):
        assert tracing.current_stage() == "decode"
    with pytest.raises(ServiceError) as outer, tracing.stage("gateway"), tracing.stage("decode"):
        raise CorruptImage("broken")
    assert outer.value.stage == "decode"
    assert tracing.current_stage() == ""
