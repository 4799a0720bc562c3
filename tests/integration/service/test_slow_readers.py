"""Results on their way to readers who take their time: a bounded number of bytes, and no reader keeps them for ever."""

import contextlib
import gc
import logging
import random
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from service.access.ownership import new_job_id
from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.client import AsyncGrpcClient, Photo
from service.core.errors import NotFound
from service.core.metrics import Metrics
from service.core.results import StoredResult
from service.core.sending import PART_BYTES, SendingRoom
from service.core.settings import Settings
from service.core.types import OutputFormat, Report, Restoration
from service.rpc import restoration_pb2 as pb
from service.rpc.server import SERVICE
from tests import processes
from tests.pictures import encoded
from tests.rpc_serving import SMALL_BUFFERS, ending, next_response, refusal, rpc_service, until
from tests.serving import fake_service

JOB = new_job_id()
REPORT = Report(JOB, "tiny@7", 3, 2, 1, 10, 0.5, (), {}, OutputFormat.PNG)
PATH = f"/v1/restorations/{JOB}/result"
SIZE = 32_000_000  # more than the system's buffers hold
DATA = random.Random(0).randbytes(SIZE)
PNG = encoded()
NOISE = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
PATIENT, HASTY_S = 30.0, 0.5
DONE = 'restore_photos_total{outcome="succeeded"}'


class OneResult(MemoryJobQueue):
    """A queue with a result of its own."""

    async def result(self, job_id):
        if job_id != JOB:
            raise NotFound("no such restoration")
        return StoredResult(Restoration(DATA, REPORT), expires_at_s=9e9)


@contextlib.contextmanager
def over_http(room):
    jobs = OneResult(JobLimits.of(Settings()), metrics=Metrics())
    with fake_service(jobs=jobs, sending=room) as (client, _):
        yield client


@contextlib.contextmanager
def standing_still(client, method="GET"):
    """Somebody who asks for the result and reads nothing."""
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((client.base_url.host, client.base_url.port))
        reader.sendall(f"{method} {PATH} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        yield reader


def test_over_http_a_slow_reader_holds_what_he_has_not_read():
    room = SendingRoom(SIZE + 1)
    with over_http(room) as client:
        with standing_still(client) as reader:
            processes.until(lambda: room.held_bytes == SIZE)
            refused = client.get(PATH)
            assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
            assert reader.recv(15) == b"HTTP/1.1 200 OK"
            assert room.held_bytes == SIZE
        processes.until(lambda: room.held_bytes == 0)  # he is gone
        answer = client.get(PATH)
    assert (answer.content == DATA, answer.headers["content-length"]) == (True, str(SIZE))
    assert answer.headers["cache-control"] == "no-store"
    assert room.held_bytes == 0


def test_over_http_a_result_is_given_back_whoever_asks_and_however():
    room = SendingRoom(SIZE + 1)
    with over_http(room) as client:
        head = client.head(PATH)
        assert (head.content, head.headers["content-length"]) == (b"", str(SIZE))
        assert client.get(PATH.replace(JOB, "unknown")).status_code == 404
        for _ in range(2):
            with client.stream("GET", PATH) as answer:
                assert answer.status_code == 200
            processes.until(lambda: room.held_bytes == 0)


def restored(client, photo=PNG, **headers):
    return client.post("/restore", files={"image": photo}, headers=headers)


def test_an_answer_that_is_not_read_holds_what_is_left_of_it():
    with fake_service(sending=(room := SendingRoom(1 << 20))) as (client, _), socket.socket() as reader:
        photo, large = encoded(NOISE), {"upscale": "4", "output_format": "png"}
        request = client.build_request("POST", "/restore", files={"image": photo}, data=large)
        head = f"POST /restore HTTP/1.1\r\nHost: here\r\nContent-Length: {len(request.read())}\r\n"
        head += f"Content-Type: {request.headers['content-type']}\r\n\r\n"
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((client.base_url.host, client.base_url.port))
        reader.sendall(head.encode() + request.read())
        processes.until(lambda: room.held_bytes > 1 << 20)
        refused = restored(client)
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert "location" not in refused.headers
        assert 'restore_photos_total{outcome="succeeded"} 1.0' in client.get("/metrics").text
        assert restored(client, Accept="application/json").status_code == 200  # holds nothing to speak of
        reader.close()
        processes.until(lambda: room.held_bytes == 0)
        assert restored(client).status_code == 200
        processes.until(lambda: room.held_bytes == 0)


def test_a_photo_that_is_restored_waits_for_room_and_is_named_where_there_is_none():
    with over_http(SendingRoom(SIZE + 1, line_s=HASTY_S)) as client, standing_still(client) as reader:
        assert reader.recv(15) == b"HTTP/1.1 200 OK"
        refused = restored(client)
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert "fetch it" in refused.json()["hint"]
        assert client.get(refused.headers["location"]).status_code == 200
    with over_http(SendingRoom(SIZE + 1)) as client, ThreadPoolExecutor(1) as other:
        with standing_still(client) as reader:
            assert reader.recv(15) == b"HTTP/1.1 200 OK"
            waiting = other.submit(restored, client)
            processes.until(lambda: 'restore_photos_total{outcome="succeeded"} 1.0' in client.get("/metrics").text)
            assert not waiting.done()
        assert waiting.result(timeout=20).status_code == 200


@contextlib.asynccontextmanager
async def over_grpc(room):
    async with rpc_service(sending=room) as parts:
        await parts.jobs.keep(Restoration(DATA, REPORT))
        yield parts.stub


def asked(stub):
    return stub.GetResult(pb.GetResultRequest(id=JOB))


async def test_over_grpc_a_slow_reader_holds_what_he_has_not_read():
    room = SendingRoom(SIZE + 1, part_s=PATIENT)
    async with over_grpc(room) as stub:
        slow = asked(stub)
        first = await slow.read()
        assert first.size_bytes == SIZE
        assert room.held_bytes == SIZE
        assert await refusal(asked(stub).read()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full")
        slow.cancel()
        await until(lambda: room.held_bytes == 0)
        parts = [part.data async for part in asked(stub)]
        await until(lambda: room.held_bytes == 0)
    assert b"".join(parts) == DATA
    assert max(map(len, parts)) <= PART_BYTES


async def test_over_grpc_a_reader_who_stands_still_is_not_waited_for():
    gc.collect()  # of the tests before this one
    room, references = SendingRoom(SIZE + 1, part_s=HASTY_S), sys.getrefcount(DATA)
    async with over_grpc(room) as stub:
        stored = sys.getrefcount(DATA)
        assert stored > references
        slow = asked(stub)
        await slow.read()
        assert sys.getrefcount(DATA) > stored
        await until(lambda: room.held_bytes == 0)
        # The call lasts until he hears of its end; nothing of the result is kept for that.
        assert not slow.done()
        assert sys.getrefcount(DATA) == stored
        other = [part.data async for part in asked(stub)]
        assert b"".join(other) == DATA
        while await next_response(slow):
            pass
        assert await ending(slow) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded")


async def test_over_grpc_who_goes_before_he_hears_of_the_end_is_no_failure(caplog):
    room = SendingRoom(SIZE + 1, part_s=HASTY_S)
    async with over_grpc(room) as stub:
        slow = asked(stub)
        await slow.read()
        await until(lambda: room.held_bytes == 0)
        slow.cancel()
        assert len([part async for part in asked(stub)]) > 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


LARGE = pb.RestoreOptions(faces=pb.FACE_SELECTION_ANY, det_threshold=1, upscale=1.9, output_format=pb.OUTPUT_FORMAT_PNG)


@contextlib.contextmanager
def unread(parts):
    """A call of Restore whose answer is not read before somebody asks for it."""

    async def request():
        yield pb.RestoreRequest(image=encoded(NOISE), options=LARGE)

    asked = parts.channel.stream_stream(f"/{SERVICE}/Restore", request_serializer=pb.RestoreRequest.SerializeToString)
    call = asked(request())
    try:
        yield call
    finally:
        call.cancel()


async def test_over_grpc_an_answer_of_restore_that_is_not_read_holds_room():
    room = SendingRoom(4 << 20, line_s=HASTY_S)  # for one
    async with rpc_service(sending=room, channel_options=SMALL_BUFFERS) as parts:
        with unread(parts) as first:
            await until(lambda: room.held_bytes > 2 << 20)
            with unread(parts) as second:
                named = pb.RestoreResponse.FromString(await second.read())
            assert named.image == b""
            assert named.report.HasField("expires_at")
            whole = pb.RestoreResponse.FromString(await first.read())
            assert len(whole.image) > 2 << 20
            await until(lambda: room.held_bytes == 0)
            kept = [part.data async for part in parts.stub.GetResult(pb.GetResultRequest(id=named.report.id))]
            assert len(b"".join(kept)) == len(whole.image)
        await until(lambda: room.held_bytes == 0)


async def test_over_grpc_an_answer_of_restore_whose_caller_is_gone_holds_nothing():
    room = SendingRoom(1 << 20)
    async with rpc_service(sending=room, channel_options=SMALL_BUFFERS) as parts:
        with unread(parts):
            await until(lambda: room.held_bytes > 1 << 20)
            full = parts.stub.Restore(pb.RestoreRequest(image=PNG))
            assert await refusal(full) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full")
            assert parts.counted(DONE) == 1
        await until(lambda: room.held_bytes == 0)
        assert (await parts.stub.Restore(pb.RestoreRequest(image=PNG))).image


async def test_over_grpc_a_stream_s_answers_wait_with_the_client_whose_caller_is_slow():
    count, window = 9, 6
    photos = [Photo(str(number), encoded(NOISE)) for number in range(count)]
    hasty = SendingRoom(1 << 20, part_s=HASTY_S)
    async with rpc_service(sending=hasty) as parts, AsyncGrpcClient(parts.address) as client:
        answers = client.restore_batch(photos, window=window, faces="any", det_threshold=1.0, upscale=3)
        async with contextlib.aclosing(answers):
            told = [(await anext(answers)).client_id]
            (served,) = parts.room.windows
            await until(lambda: parts.counted(DONE) == 1 + window and served.photos == 0)  # all is read
            told += [answer.client_id async for answer in answers]
        assert parts.counted(DONE) == count
    assert sorted(told) == [photo.client_id for photo in photos]
