"""Keys over gRPC: the same door as HTTP's, for every call but health's."""

import contextlib
import itertools

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from service.rpc import restoration_pb2 as pb
from service.rpc.server import SERVICE
from tests.api_keys import add_key, drop_key
from tests.pictures import encoded, pixels
from tests.rpc_serving import (
    ALIGNED,
    all_answers,
    ending,
    next_answer,
    next_response,
    photo,
    refusal,
    rpc_service,
    setup,
    until,
)

FACE = encoded(pixels(64, 64))
FACE_PX = 64 * 64
UNAUTHENTICATED = (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")
NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "not_found")


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "keys.json"


def shown(key):
    return (("authorization", f"Bearer {key}"),)


def calls(stub, job_id="none"):
    """Every call of the service, as functions of its metadata."""
    return {
        "Restore": lambda **call: stub.Restore(pb.RestoreRequest(image=FACE, options=ALIGNED), **call),
        "RestoreBatch": lambda **call: stub.RestoreBatch(iter([setup(), photo("a", FACE)]), **call),
        "Submit": lambda **call: stub.Submit(iter([pb.SubmitRequest(image=FACE, options=ALIGNED)]), **call),
        "Get": lambda **call: stub.Get(pb.GetRequest(id=job_id), **call),
        "Watch": lambda **call: stub.Watch(pb.WatchRequest(id=job_id), **call),
        "GetResult": lambda **call: stub.GetResult(pb.GetResultRequest(id=job_id), **call),
        "Cancel": lambda **call: stub.Cancel(pb.CancelRequest(id=job_id), **call),
        "Delete": lambda **call: stub.Delete(pb.DeleteRequest(id=job_id), **call),
        "GetLimits": lambda **call: stub.GetLimits(pb.GetLimitsRequest(), **call),
    }


def silent_calls(stub):
    """The same, without a message where a stream of them is sent.

    Who writes to a call that has just been refused may be told INTERNAL by his own library (grpc issue 36066).
    """
    return {**calls(stub), "RestoreBatch": stub.RestoreBatch, "Submit": stub.Submit}


async def outcome(call):
    """Status and code of a refusal of any kind of call."""
    if hasattr(call, "__aiter__"):
        while await next_response(call) is not None:
            pass
        return await ending(call)
    return await refusal(call)


def retry_delay_s(error):
    for detail in rpc_status.from_call(error).details:
        info = RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToMilliseconds() / 1000
    raise AssertionError("there is no RetryInfo")


async def test_every_call_asks_for_a_key(keys):
    key = add_key(keys)
    wrong = [
        (),
        shown(key[:-1]),
        (("authorization", key),),
        (("x-api-key", f"Bearer {key}"),),
        (*shown(key), *shown(key)),
    ]
    async with rpc_service(api_keys_file=keys) as parts:
        every = silent_calls(parts.stub)
        assert set(every) == set(pb.DESCRIPTOR.services_by_name["RestorationService"].methods_by_name)
        for name, call in every.items():
            for metadata in wrong:
                assert await outcome(call(metadata=metadata)) == UNAUTHENTICATED, name
        assert parts.counted('restore_rejected_total{reason="unauthenticated"}') == len(every) * len(wrong)
        assert not parts.backend.calls


async def test_a_key_may_come_in_either_entry(keys):
    key = add_key(keys)
    async with rpc_service(api_keys_file=keys) as parts:
        for metadata in (
            shown(key),
            (("x-api-key", key),),
            (("x-api-key", key), ("authorization", "Bearer of-a-proxy")),
        ):
            assert (await parts.stub.GetLimits(pb.GetLimitsRequest(), metadata=metadata)).max_faces > 0


async def test_health_is_for_everybody_and_reflection_is_not(keys):
    key = add_key(keys)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    async with rpc_service(api_keys_file=keys) as parts:
        health = health_pb2_grpc.HealthStub(parts.channel)
        told = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert told.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(parts.channel)
        assert (await outcome(reflection.ServerReflectionInfo(iter(asked))))[0] is grpc.StatusCode.UNAUTHENTICATED
        answers = reflection.ServerReflectionInfo(iter(asked), metadata=shown(key))
        assert SERVICE in {service.name for service in (await answers.read()).list_services_response.service}
        answers.cancel()


async def test_a_job_is_its_owner_s_alone(keys):
    mine, theirs = add_key(keys, "shop"), add_key(keys, "rival")
    async with rpc_service(api_keys_file=keys) as parts:
        stub = parts.stub
        submission = iter([pb.SubmitRequest(image=FACE, options=ALIGNED)])
        job_id = (await stub.Submit(submission, metadata=shown(mine))).job.id
        for name in ("Get", "Watch", "GetResult", "Cancel", "Delete"):
            told = []
            for id_ in (job_id, job_id[:-4] + "AAAA", "none"):
                call = calls(stub, id_)[name](metadata=shown(theirs))
                told.append((await outcome(call), await call.details()))
            assert told[0] == told[1] == told[2]
            assert told[0][0] == NOT_FOUND, name
        states = [state.job async for state in stub.Watch(pb.WatchRequest(id=job_id), metadata=shown(mine))]
        assert states[-1].status == pb.JOB_STATUS_SUCCEEDED
        assert (await stub.Get(pb.GetRequest(id=job_id), metadata=shown(mine))).job.id == job_id
        parts_ = [part async for part in stub.GetResult(pb.GetResultRequest(id=job_id), metadata=shown(mine))]
        assert parts_[0].size_bytes > 0
        await stub.Delete(pb.DeleteRequest(id=job_id), metadata=shown(mine))


async def test_idempotency_keys_of_two_owners_are_two_keys(keys):
    mine, theirs = add_key(keys, "shop"), add_key(keys, "rival")
    async with rpc_service(api_keys_file=keys) as parts:

        async def submitted(key):
            submission = iter([pb.SubmitRequest(image=FACE, options=ALIGNED, idempotency_key="order-7")])
            return await parts.stub.Submit(submission, metadata=shown(key))

        first, others, again = await submitted(mine), await submitted(theirs), await submitted(mine)
        assert (first.idempotent_replayed, others.idempotent_replayed, again.idempotent_replayed) == (
            False,
            False,
            True,
        )
        assert first.job.id == again.job.id != others.job.id


async def test_too_many_calls_are_refused_with_the_time_to_wait(keys):
    key, other = add_key(keys, "shop", requests_per_s=1 / 1800, burst=2), add_key(keys, "rival")
    async with rpc_service(api_keys_file=keys) as parts:
        for _ in range(2):
            await parts.stub.GetLimits(pb.GetLimitsRequest(), metadata=shown(key))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await parts.stub.GetLimits(pb.GetLimitsRequest(), metadata=shown(key))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 1700 < retry_delay_s(refused.value) <= 1800
        for name, call in silent_calls(parts.stub).items():
            assert await outcome(call(metadata=shown(key))) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate_limited"), (
                name
            )
        assert (await parts.stub.GetLimits(pb.GetLimitsRequest(), metadata=shown(other))).max_faces > 0


async def test_a_stream_is_slowed_down_to_its_rate_and_loses_nothing(keys):
    key = add_key(keys, requests_per_s=20, burst=1)
    async with rpc_service(api_keys_file=keys) as parts:
        stream = parts.stub.RestoreBatch(iter([setup(), *(photo(str(n), FACE) for n in range(6))]), metadata=shown(key))
        assert set(await all_answers(stream)) == {str(number) for number in range(6)}
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_stream_s_photos_are_refused_once_the_quota_is_spent(keys):
    key = add_key(keys, quota_face_px=3 * FACE_PX)
    async with rpc_service(api_keys_file=keys, at_once=1) as parts:
        call = parts.stub.RestoreBatch(metadata=shown(key))
        await call.write(setup())
        answers = []
        for number in range(5):
            await call.write(photo(str(number), FACE))
            answers.append((await next_answer(call))[1])
        await call.done_writing()
        assert [answer if isinstance(answer, str) else "restored" for answer in answers] == [
            *["restored"] * 3,
            *["quota_exceeded"] * 2,
        ]
        assert await ending(call) == (grpc.StatusCode.OK, "")
        spent = (grpc.StatusCode.RESOURCE_EXHAUSTED, "quota_exceeded")
        for name in ("Restore", "Submit"):
            assert await outcome(calls(parts.stub)[name](metadata=shown(key))) == spent
        assert (await parts.stub.GetLimits(pb.GetLimitsRequest(), metadata=shown(key))).max_faces > 0


async def test_a_stream_ends_at_the_next_photo_when_its_key_is_revoked(keys):
    key = add_key(keys)
    async with rpc_service(api_keys_file=keys) as parts:
        call = parts.stub.RestoreBatch(metadata=shown(key))
        await call.write(setup())
        await call.write(photo("a", FACE))
        assert isinstance((await next_answer(call))[1], bytes)
        drop_key(keys, key)
        with contextlib.suppress(grpc.aio.AioRpcError, EOFError):
            for number in itertools.count():
                await call.write(photo(str(number), FACE))
                await next_answer(call)
        assert await ending(call) == UNAUTHENTICATED


async def test_a_stranger_holds_no_slot(keys):
    add_key(keys)
    async with rpc_service(api_keys_file=keys) as parts:
        streams = [parts.stub.RestoreBatch() for _ in range(20)]
        for stream in streams:
            assert await outcome(stream) == UNAUTHENTICATED
        await until(lambda: not parts.room.windows)
