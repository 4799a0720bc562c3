"""What traces and the log are told of faces that share network calls."""

import logging
from dataclasses import replace

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from service.core.metrics import Metrics
from service.core.origin import Origin
from service.sampling.sampler import Sampler
from tests.bundle import tiny_manifest
from tests.fakes import AnalyticBackend, face_job
from tests.kept_spans import kept_spans

PARENT = "00f067aa0ba902b7"
TRACES = ("4bf92f3577b34da6a3ce929d0e0e4736", "5bf92f3577b34da6a3ce929d0e0e4736")
NETWORKS = {"estimator", "vae_encoder", "velocity", "vae_decoder"}


def job_of(number, *, sampled=True, **changes):
    origin = Origin(f"req-{number}", f"00-{TRACES[number]}-{PARENT}-{int(sampled):02}", sent_s=1000.0)
    return replace(face_job(f"job-{number}", **changes), origin=origin)


def make_sampler(backend=None, metrics=None):
    return Sampler(backend or AnalyticBackend(), tiny_manifest(), 4, metrics=metrics or Metrics())


async def restore(sampler, *jobs):
    for job in jobs:
        sampler.admit(job)
    while sampler.jobs:
        await sampler.step()


def of_trace(kept, trace):
    return {span.name: span for span in kept.all if f"{span.get_span_context().trace_id:032x}" == trace}


async def test_faces_of_two_requests_share_calls_and_each_has_its_own_spans():
    with kept_spans() as kept:
        await restore(make_sampler(), job_of(0, num_steps=3), job_of(1, num_steps=5))
    for trace, num_steps in zip(TRACES, (3, 5), strict=True):
        spans = of_trace(kept, trace)
        assert set(spans) == {"queue_wait", "sampler", *NETWORKS}
        assert len(spans["velocity"].events) == num_steps
        assert spans["estimator"].attributes["restore.batch_size"] == 2
        sampler = spans["sampler"].get_span_context().span_id
        assert {spans[network].parent.span_id for network in NETWORKS} == {sampler}
        assert f"{spans['sampler'].parent.span_id:016x}" == PARENT
    sizes = [event.attributes["restore.batch_size"] for event in of_trace(kept, TRACES[1])["velocity"].events]
    assert sizes == [2, 2, 2, 1, 1]


async def test_a_face_that_fails_tells_so_and_its_company_does_not():
    def white(network, row):
        return network == "velocity" and row.mean() > 0.9

    with kept_spans() as kept:
        await restore(make_sampler(AnalyticBackend(guilty=white)), job_of(0, grey=255), job_of(1, grey=60))
    guilty, other = (of_trace(kept, trace)["sampler"] for trace in TRACES)
    assert (guilty.attributes["error.type"], guilty.status.status_code) == ("inference_failed", StatusCode.ERROR)
    assert (other.attributes["restore.outcome"], other.status.status_code) == ("restored", StatusCode.UNSET)


async def test_what_is_taken_out_of_its_slot_ends_its_spans():
    sampler = make_sampler()
    with kept_spans() as kept:
        sampler.admit(job_of(0))
        await sampler.step()
        await sampler.abandon()
        sampler.admit(job_of(1))
        sampler.withdraw({("job-1", 0)})
        await sampler.step()
    assert of_trace(kept, TRACES[0])["sampler"].attributes["restore.outcome"] == "abandoned"
    assert of_trace(kept, TRACES[1])["sampler"].attributes["restore.outcome"] == "cancelled"


async def test_traces_that_are_not_kept_and_faces_without_origin_leave_no_spans():
    with kept_spans() as kept:
        await restore(make_sampler(), job_of(0, sampled=False), face_job("nobody-s"))
    with kept_spans(ALWAYS_OFF) as none_kept:
        await restore(make_sampler(), replace(job_of(0), origin=Origin("req-0", sent_s=1000.0)))
    assert kept.names == none_kept.names == []


async def test_each_face_is_a_line_of_its_own_request(caplog):
    caplog.set_level(logging.INFO, "service")
    white = AnalyticBackend(guilty=lambda network, row: network == "estimator" and row.mean() > 0.9)
    await restore(make_sampler(white), job_of(0), job_of(1, grey=255))
    told = {record.fields.get("code"): record for record in caplog.records}
    assert told[None].fields["num_steps"] > 0
    assert (told["inference_failed"].levelno, told["inference_failed"].fields["stage"]) == (
        logging.WARNING,
        "estimator",
    )


async def test_the_time_in_the_sampler_leads_to_the_face_s_trace():
    metrics = Metrics()
    with kept_spans():
        await restore(make_sampler(metrics=metrics), job_of(0))
    told, content_type = metrics.answer("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    (line,) = [line for line in told.decode().splitlines() if 'stage="sampler"' in line and TRACES[0] in line]
    assert line.startswith("restore_stage_duration_seconds_bucket")
