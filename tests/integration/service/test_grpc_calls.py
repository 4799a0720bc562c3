"""Every call of one photo or job, through a real server."""

import asyncio

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.core.errors import DependencyUnavailable
from service.rpc import restoration_pb2 as pb
from service.rpc.server import SERVICE
from tests.fakes import AnalyticBackend
from tests.pictures import decoded, encoded, pixels
from tests.rpc_serving import ALIGNED, ending, next_response, refusal, rpc_service, until

FACE = encoded(pixels(64, 64))
SMALL_MESSAGES = 64 * 1024
NOISE = encoded(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))  # 200 KB as a PNG


def requests(image=FACE, **fields):
    yield pb.SubmitRequest(image=image, options=ALIGNED, **fields)


async def submitted(parts, *args, **fields):
    return (await parts.stub.Submit(requests(*args, **fields))).job.id


async def ended(parts, job_id):
    return [response.job async for response in parts.stub.Watch(pb.WatchRequest(id=job_id))][-1]


async def result(parts, job_id):
    return [part async for part in parts.stub.GetResult(pb.GetResultRequest(id=job_id))]


async def test_a_photo_comes_back_restored_with_its_report():
    async with rpc_service() as parts:
        answer = await parts.stub.Restore(pb.RestoreRequest(image=FACE, options=ALIGNED))
        again = await parts.stub.Restore(pb.RestoreRequest(image=FACE, options=ALIGNED))
        kept = await result(parts, answer.report.id)
    assert decoded(answer.image).shape == (64, 64, 3)
    assert again.image == answer.image
    assert b"".join(part.data for part in kept) == answer.image
    report = answer.report
    assert (report.model, report.seed, report.num_steps) == ("tiny@7", 7, 2)
    assert (report.width, report.height, report.output_format) == (64, 64, pb.OUTPUT_FORMAT_PNG)
    (face,) = report.faces
    assert face.status == pb.FACE_STATUS_RESTORED
    assert (face.HasField("score"), face.HasField("reason"), face.HasField("ind_rmse")) == (False, False, True)
    assert {"decode", "velocity", "encode", "total"} <= set(report.timings_ms)
    assert report.expires_at.seconds > 0


async def test_options_reach_the_pipeline():
    options = pb.RestoreOptions(
        upscale=2, output_format=pb.OUTPUT_FORMAT_JPEG, quality=80, faces=pb.FACE_SELECTION_LARGEST, fidelity=1
    )
    async with rpc_service() as parts:
        answer = await parts.stub.Restore(pb.RestoreRequest(image=encoded(), options=options))
    assert answer.image.startswith(b"\xff\xd8\xff")
    assert (answer.report.width, answer.report.height, answer.report.fidelity) == (240, 200, 1)
    assert answer.report.faces[0].score == pytest.approx(0.9)
    assert len(answer.report.faces[0].landmarks_5) == 5


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.RestoreRequest(), "empty_upload"),
        (pb.RestoreRequest(image=b"no photo"), "unsupported_format"),
        (pb.RestoreRequest(image=FACE[:200]), "corrupt_image"),
        (pb.RestoreRequest(image=FACE + b"."), "upload_too_large"),
        (pb.RestoreRequest(image=FACE, options=pb.RestoreOptions(quality=101)), "invalid_option"),
        (pb.RestoreRequest(image=FACE, options=pb.RestoreOptions(num_steps=0)), "invalid_option"),
        (pb.RestoreRequest(image=FACE, options=pb.RestoreOptions(num_steps=10_000)), "invalid_option"),
        (pb.RestoreRequest(image=FACE, options=pb.RestoreOptions(seed=2**63)), "invalid_option"),
        (pb.RestoreRequest(image=FACE, options=pb.RestoreOptions(det_threshold=float("nan"))), "invalid_option"),
        (pb.RestoreRequest(image=FACE, options=pb.RestoreOptions(faces=99)), "invalid_option"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_bad_requests_have_their_own_codes_and_the_service_goes_on(request_, code):
    async with rpc_service(max_upload_bytes=len(FACE)) as parts:
        assert await refusal(parts.stub.Restore(request_)) == (grpc.StatusCode.INVALID_ARGUMENT, code)
        assert (await parts.stub.Restore(pb.RestoreRequest(image=FACE, options=ALIGNED))).image
        assert parts.counted(f'restore_requests_total{{code="INVALID_ARGUMENT",route="/{SERVICE}/Restore"}}') == 1
        assert parts.counted(f'restore_rejected_total{{reason="{code}"}}') == 1


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("unary_unary", "Restore"),
        ("unary_stream", "Watch"),
        ("stream_unary", "Submit"),
        ("stream_stream", "RestoreBatch"),
    ],
)
async def test_bytes_that_are_no_message_are_the_caller_s_fault(kind, call):
    garbage = b"\xff\xff"
    malformed = (grpc.StatusCode.INVALID_ARGUMENT, "malformed_request")
    async with rpc_service() as parts:
        begun = getattr(parts.channel, kind)(f"/{SERVICE}/{call}")(iter([garbage]) if "stream_" in kind else garbage)
        if kind == "stream_stream":
            assert await next_response(begun)  # the opening
        assert await asyncio.wait_for(ending(begun), 30) == malformed
        assert parts.counted(f'restore_requests_total{{code="INVALID_ARGUMENT",route="/{SERVICE}/{call}"}}') == 1


async def test_a_message_above_the_limit_is_refused():
    async with rpc_service(grpc_max_message_bytes=SMALL_MESSAGES) as parts:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await parts.stub.Restore(pb.RestoreRequest(image=NOISE))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_result_above_one_message_is_fetched_in_parts():
    options = pb.RestoreOptions(faces=pb.FACE_SELECTION_ANY, det_threshold=1, upscale=4, seed=1)
    async with rpc_service(grpc_max_message_bytes=SMALL_MESSAGES) as parts:
        answer = await parts.stub.Restore(pb.RestoreRequest(image=encoded(pixels(200, 200)), options=options))
        first, *others = await result(parts, answer.report.id)
    assert answer.image == b""
    assert others
    assert first.report == answer.report
    assert not any(part.HasField("report") or part.size_bytes for part in others)
    image = b"".join(part.data for part in (first, *others))
    assert len(image) == first.size_bytes
    assert decoded(image).shape == (800, 800, 3)
    assert max(part.ByteSize() for part in (first, *others)) <= SMALL_MESSAGES


async def test_a_result_above_one_message_that_cannot_be_kept_is_refused():
    options = pb.RestoreOptions(faces=pb.FACE_SELECTION_ANY, det_threshold=1, upscale=4)
    async with rpc_service(grpc_max_message_bytes=SMALL_MESSAGES, result_cache_bytes=1000) as parts:
        call = parts.stub.Restore(pb.RestoreRequest(image=encoded(pixels(200, 200)), options=options))
        assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "image_too_large")


async def test_a_job_from_its_submission_to_its_deletion():
    async with rpc_service() as parts:
        job_id = await submitted(parts)
        job = await ended(parts, job_id)
        assert (job.id, job.status) == (job_id, pb.JOB_STATUS_SUCCEEDED)
        assert job.report.seed == 7
        assert (await parts.stub.Get(pb.GetRequest(id=job_id))).job == job
        (image,) = await result(parts, job_id)
        assert decoded(image.data).shape == (64, 64, 3)
        assert (await parts.stub.Cancel(pb.CancelRequest(id=job_id))).job == job
        await parts.stub.Delete(pb.DeleteRequest(id=job_id))
        gone = grpc.StatusCode.NOT_FOUND, "not_found"
        assert await refusal(parts.stub.Get(pb.GetRequest(id=job_id))) == gone
        assert await refusal(parts.stub.Cancel(pb.CancelRequest(id=job_id))) == gone
        assert await refusal(parts.stub.Delete(pb.DeleteRequest(id=job_id))) == gone
        assert await refusal(parts.stub.Watch(pb.WatchRequest(id=job_id)).read()) == gone
        assert await refusal(parts.stub.GetResult(pb.GetResultRequest(id=job_id)).read()) == gone


async def test_a_job_is_watched_step_by_step_and_withdrawn():
    gate = asyncio.Event()
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate})) as parts:
        job_id = await submitted(parts)
        watching = parts.stub.Watch(pb.WatchRequest(id=job_id))
        while not (job := (await watching.read()).job).HasField("progress"):
            assert job.status in (pb.JOB_STATUS_QUEUED, pb.JOB_STATUS_RUNNING)
        assert (job.progress.num_faces, job.progress.num_steps) == (1, 2)
        unfinished = parts.stub.GetResult(pb.GetResultRequest(id=job_id)).read()
        assert await refusal(unfinished) == (grpc.StatusCode.FAILED_PRECONDITION, "not_finished")
        cancelled = (await parts.stub.Cancel(pb.CancelRequest(id=job_id))).job
        assert cancelled.status == pb.JOB_STATUS_CANCELLED
        while (response := await watching.read()) is not grpc.aio.EOF:
            job = response.job
        assert job == cancelled
        withdrawn = parts.stub.GetResult(pb.GetResultRequest(id=job_id)).read()
        assert await refusal(withdrawn) == (grpc.StatusCode.CANCELLED, "cancelled")
        gate.set()
        await until(lambda: parts.sampler.free_slots == 4)


async def test_a_failed_job_says_why():
    async with rpc_service(backend=AnalyticBackend(guilty=lambda network, row: True)) as parts:
        job = await ended(parts, await submitted(parts))
    assert (job.status, job.error.code) == (pb.JOB_STATUS_FAILED, "inference_failed")
    assert job.error.status == grpc.StatusCode.INTERNAL.value[0]


async def test_a_photo_in_parts_becomes_a_job():
    def in_parts():
        yield pb.SubmitRequest(image=NOISE[:50_000], options=pb.RestoreOptions(faces=pb.FACE_SELECTION_ANY))
        for begin in range(50_000, len(NOISE), 50_000):
            yield pb.SubmitRequest(image=NOISE[begin : begin + 50_000])

    async with rpc_service(grpc_max_message_bytes=SMALL_MESSAGES) as parts:
        job = await ended(parts, (await parts.stub.Submit(in_parts())).job.id)
        image = b"".join([part.data for part in await result(parts, job.id)])
    assert decoded(image).shape == (256, 256, 3)


async def test_a_submission_that_is_none_is_refused():
    def twice():
        yield from requests()
        yield from requests()

    async with rpc_service(max_upload_bytes=100_000) as parts:
        refused, hook = grpc.StatusCode.INVALID_ARGUMENT, "https://example.org"
        assert await refusal(parts.stub.Submit(twice())) == (refused, "malformed_request")
        assert await refusal(parts.stub.Submit(iter(()))) == (refused, "empty_upload")
        assert await refusal(parts.stub.Submit(requests(NOISE))) == (refused, "upload_too_large")
        assert await refusal(parts.stub.Submit(requests(b"no photo"))) == (refused, "unsupported_format")
        assert await refusal(parts.stub.Submit(requests(idempotency_key="clé"))) == (refused, "malformed_request")
        assert await refusal(parts.stub.Submit(requests(webhook_url=hook))) == (
            refused,
            "invalid_option",
        )


async def test_a_repeated_key_means_the_job_that_is_there():
    async with rpc_service() as parts:
        first = await parts.stub.Submit(requests(idempotency_key="a"))
        again = await parts.stub.Submit(requests(idempotency_key="a"))
        assert (first.idempotent_replayed, again.idempotent_replayed) == (False, True)
        assert again.job.id == first.job.id
        other = parts.stub.Submit(requests(encoded(pixels(64, 64, seed=1)), idempotency_key="a"))
        assert await refusal(other) == (grpc.StatusCode.ALREADY_EXISTS, "idempotency_conflict")


async def test_limits_are_the_operator_s_and_the_bundle_s():
    async with rpc_service(max_upload_bytes=12_345) as parts:
        limits = await parts.stub.GetLimits(pb.GetLimitsRequest())
        tiny = parts.gateway.manifest
    assert (limits.model, limits.max_upload_bytes, limits.max_window) == ("tiny@7", 12_345, 64)
    assert limits.max_message_bytes == 4 * 1024 * 1024
    assert (limits.max_num_steps, limits.defaults.num_steps) == (tiny.max_num_steps, tiny.default_num_steps)
    assert MessageToDict(limits.defaults, preserving_proto_field_name=True)["background"] == "BACKGROUND_LANCZOS"
    assert not limits.defaults.HasField("seed")


async def test_the_deadline_is_the_photo_s():
    gate = asyncio.Event()
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate})) as parts:
        call = parts.stub.Restore(pb.RestoreRequest(image=FACE, options=ALIGNED), timeout=3)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: parts.gateway.admission.active == 0)
        gate.set()
        await until(lambda: parts.sampler.free_slots == 4)
        await until(lambda: parts.counted('restore_cancelled_total{phase="running"}') == 1)
        assert parts.backend.rows("vae_decoder") == []


async def test_who_hangs_up_frees_his_slots_at_the_next_step():
    gate = asyncio.Event()
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate})) as parts:
        options = pb.RestoreOptions(aligned=True, num_steps=5)
        call = parts.stub.Restore(pb.RestoreRequest(image=FACE, options=options))
        await asyncio.wait_for(parts.backend.called["velocity"].wait(), 30)
        call.cancel()
        await until(lambda: parts.gateway.admission.active == 0)
        gate.set()
        await until(lambda: parts.sampler.free_slots == 4)
        assert len(parts.backend.rows("velocity")) == 1
        cancelled = f'restore_requests_total{{code="CANCELLED",route="/{SERVICE}/Restore"}}'
        await until(lambda: parts.counted(cancelled) == 1)


async def test_photos_in_memory_are_bounded_and_what_is_refused_for_it_counts():
    gate = asyncio.Event()
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate}), uploads=1) as parts:
        request = pb.RestoreRequest(image=FACE, options=ALIGNED)
        first = asyncio.ensure_future(parts.stub.Restore(request))
        await asyncio.wait_for(parts.backend.called["velocity"].wait(), 30)
        assert await refusal(parts.stub.Restore(request)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full")
        gate.set()
        assert (await first).image
        assert parts.counted('restore_rejected_total{reason="queue_full"}') == 1
        assert parts.counted('restore_photos_total{outcome="queue_full"}') == 0


async def test_a_defect_leaves_no_trace_in_the_answer(caplog):
    backend = AnalyticBackend()

    async with rpc_service(backend=backend) as parts:

        async def broken(*_args, **_kwargs):
            raise RuntimeError("secret")

        object.__setattr__(parts.gateway, "detector", type("Broken", (), {"detect": broken})())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await parts.stub.Restore(pb.RestoreRequest(image=encoded()))
        assert parts.counted('restore_rejected_total{reason="internal"}') == 1
        assert parts.counted('restore_photos_total{outcome="internal"}') == 1
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)
    assert "secret" in caplog.text


async def test_callers_whose_faces_fail_together_are_each_told_why():
    gate, request = asyncio.Event(), pb.RestoreRequest(image=FACE, options=ALIGNED)
    error = DependencyUnavailable("Triton is away")
    away = AnalyticBackend(guilty=lambda *_: True, error=error, gates={"estimator": gate})
    async with rpc_service(backend=away) as parts:
        first = asyncio.create_task(refusal(parts.stub.Restore(request)))
        await away.called["estimator"].wait()
        others = [asyncio.create_task(refusal(parts.stub.Restore(request))) for _ in range(3)]
        await until(lambda: parts.counted('restore_queue_depth{lane="interactive"}') == 3)
        gate.set()
        told = await asyncio.gather(first, *others)
    assert told == [(grpc.StatusCode.UNAVAILABLE, "dependency_unavailable")] * 4
    assert away.rows("estimator") == [1, 3]


async def test_health_follows_readiness():
    async with rpc_service() as parts:
        health = health_pb2_grpc.HealthStub(parts.channel)
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        watching = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watching.read()).status == serving
        for name in ("", SERVICE):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == serving
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        parts.draining.set()
        assert (await watching.read()).status == not_serving
        assert (await health.Check(health_pb2.HealthCheckRequest(service=""))).status == not_serving
