"""Calls that ask for much and send nothing, from people with and without a key, at a real server."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from service.rpc import restoration_pb2 as pb
from service.rpc.server import SERVICE
from tests.api_keys import add_key
from tests.rpc_serving import ending, next_response, rpc_service, until

MANY = 600
WATCHERS = 64
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full")
QUESTION = health_pb2.HealthCheckRequest(service=SERVICE)


async def never():
    await asyncio.sleep(10_000)
    yield b""


async def nothing():
    return
    yield


def begun(parts, method, requests=never, **options):
    """A call of one message that never comes, whatever is written in the interface."""
    return parts.channel.stream_stream(f"/{SERVICE}/{method}")(requests(), **options)


async def arrived(parts):
    """Wait for a call that was begun before on the same connection: the server has it, for it has the next one."""
    assert (await parts.stub.GetLimits(pb.GetLimitsRequest())).max_faces > 0


async def check(parts):
    return (await health_pb2_grpc.HealthStub(parts.channel).Check(QUESTION, timeout=10)).status


async def test_who_shows_no_key_is_refused_before_he_sends_anything(tmp_path):
    keys = tmp_path / "keys.json"
    key = add_key(keys)
    async with rpc_service(api_keys_file=keys) as parts:
        calls = [begun(parts, method) for method in ("Restore", "Get", "Watch", "GetResult") * (MANY // 4)]
        ends = await asyncio.wait_for(asyncio.gather(*map(ending, calls)), 30)
        assert set(ends) == {(grpc.StatusCode.UNAUTHENTICATED, "unauthenticated")}
        limits = await parts.stub.GetLimits(pb.GetLimitsRequest(), metadata=(("x-api-key", key),))
        assert limits.max_faces > 0


async def test_there_are_as_many_calls_as_may_be_and_health_is_told_all_the_same():
    async with rpc_service() as parts:
        calls = [begun(parts, "Get") for _ in range(MANY)]
        await until(lambda: sum(call.done() for call in calls) == MANY - 512)
        refused = [call for call in calls if call.done()]
        assert {await ending(call) for call in refused} == {FULL}
        assert await check(parts) == health_pb2.HealthCheckResponse.SERVING
        await asyncio.wait_for(parts.server.finish(), 5)
        for call in calls:
            call.cancel()

        async def answered():
            return (await parts.stub.GetLimits(pb.GetLimitsRequest())).max_faces

        async with asyncio.timeout(30):
            while True:
                try:
                    assert await answered() > 0
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)


async def test_who_watches_health_or_reflects_has_no_call_of_ours():
    async with rpc_service() as parts:
        health = health_pb2_grpc.HealthStub(parts.channel)
        watching = [health.Watch(QUESTION) for _ in range(WATCHERS)]
        for call in watching:
            assert await next_response(call)
        further = health.Watch(QUESTION)
        assert await next_response(further) is None
        assert await ending(further) == FULL
        reflection = reflection_pb2_grpc.ServerReflectionStub(parts.channel)
        reflecting = [reflection.ServerReflectionInfo(never()) for _ in range(WATCHERS + 1)]
        await until(lambda: any(call.done() for call in reflecting))
        assert (await parts.stub.GetLimits(pb.GetLimitsRequest())).max_faces > 0
        assert await check(parts) == health_pb2.HealthCheckResponse.SERVING
        for call in (*watching, *reflecting):
            call.cancel()


@pytest.mark.parametrize("method", ["Get", "Watch"])
async def test_a_call_without_its_message_is_the_caller_s_fault(method):
    async with rpc_service() as parts:
        call = begun(parts, method, nothing)
        assert await asyncio.wait_for(ending(call), 30) == (grpc.StatusCode.INVALID_ARGUMENT, "malformed_request")


async def test_a_photo_that_is_not_complete_is_sent_on_by_a_server_that_shuts_down():
    async def half():
        yield pb.SubmitRequest(image=b"half")
        await never().__anext__()

    async with rpc_service() as parts:
        await parts.channel.channel_ready()
        call = parts.stub.Submit(half())
        sent_on = f'restore_requests_total{{code="UNAVAILABLE",route="/{SERVICE}/Submit"}}'
        await arrived(parts)
        await asyncio.wait_for(parts.server.finish(), 5)
        assert await ending(call) == (grpc.StatusCode.UNAVAILABLE, "draining")
        assert parts.counted(sent_on) == 1


async def test_who_goes_before_his_message_has_cancelled():
    async with rpc_service() as parts:
        await parts.channel.channel_ready()
        call = begun(parts, "Get")
        await arrived(parts)
        call.cancel()
        counted = f'restore_requests_total{{code="CANCELLED",route="/{SERVICE}/Get"}}'
        await until(lambda: parts.counted(counted) == 1)


async def test_messages_to_health_that_do_not_come_make_room_for_others():
    async with rpc_service() as parts:
        check_of_anybody = parts.channel.stream_stream("/grpc.health.v1.Health/Check")
        calls = [check_of_anybody(never()) for _ in range(MANY)]
        await until(lambda: sum(call.done() for call in calls) == MANY - WATCHERS)
        codes = {await call.code() for call in calls if call.done()}
        assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert await check(parts) == health_pb2.HealthCheckResponse.SERVING
        for call in calls:
            call.cancel()
