"""Streams of photos through a real server: order, failures, cancellation, deadlines, and how much the server holds."""

import asyncio

import grpc
import numpy as np
import pytest

from service.core.sending import SendingRoom
from service.rpc import restoration_pb2 as pb
from service.rpc.restoration_pb2_grpc import RestorationServiceStub
from service.rpc.server import SERVICE
from tests.fakes import AnalyticBackend
from tests.pictures import decoded, encoded, pixels
from tests.rpc_serving import (
    ALIGNED,
    SMALL_BUFFERS,
    all_answers,
    ending,
    next_answer,
    next_response,
    part,
    photo,
    rpc_service,
    setup,
    until,
)

FACES = [encoded(pixels(64, 64, seed=seed)) for seed in range(4)]
NOISE = encoded(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))  # 200 KB as a PNG
SMALL_MESSAGES = 64 * 1024
DONE = 'restore_photos_total{outcome="succeeded"}'


async def write(call, *requests):
    for request in requests:
        await asyncio.wait_for(call.write(request), 30)


async def opened(parts, *requests):
    """A stream on which these have been sent; the opening has been read."""
    call = parts.stub.RestoreBatch()
    assert (await call.read()).WhichOneof("message") == "opening"
    await write(call, *requests)
    return call


async def alone(parts, image, options=ALIGNED):
    return (await parts.stub.Restore(pb.RestoreRequest(image=image, options=options))).image


async def test_every_photo_is_answered_with_its_own_and_failures_end_nothing():
    async with rpc_service() as parts:
        call = await opened(parts, setup())
        await write(call, photo("bad", b"no photo"), photo("empty", b""))
        await write(call, *(photo(str(index), FACES[index % 4]) for index in range(20)))
        await write(call, photo("option", FACES[0], options=pb.RestoreOptions(quality=0)))
        await write(call, photo("cut", FACES[0][:300]))
        await call.done_writing()
        answers = await all_answers(call)
        assert await ending(call) == (grpc.StatusCode.OK, "")
        expected = [await alone(parts, face) for face in FACES]
    assert [answers.pop(name) for name in ("bad", "empty", "option", "cut")] == [
        "unsupported_format",
        "empty_upload",
        "invalid_option",
        "corrupt_image",
    ]
    assert answers == {str(index): expected[index % 4] for index in range(20)}


async def test_photos_without_options_have_the_setup_s_and_others_their_own():
    async with rpc_service() as parts:
        call = await opened(parts, setup(options=pb.RestoreOptions(aligned=True, output_format=pb.OUTPUT_FORMAT_JPEG)))
        await write(call, photo("a", FACES[0]), photo("b", FACES[0], options=pb.RestoreOptions(aligned=True)))
        await call.done_writing()
        answers = await all_answers(call)
    assert answers["a"].startswith(b"\xff\xd8\xff")
    assert answers["b"].startswith(b"\x89PNG")


async def test_a_stream_without_photos_ends_well():
    async with rpc_service() as parts:
        for requests in ((), (setup(),)):
            call = await opened(parts, *requests)
            await call.done_writing()
            assert await all_answers(call) == {}
            assert await ending(call) == (grpc.StatusCode.OK, "")


async def test_who_is_ready_first_is_answered_first():
    gate = asyncio.Event()
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate})) as parts:
        call = await opened(parts, setup(), photo("slow", FACES[0]), photo("fast", b"no photo"))
        assert await next_answer(call) == ("fast", "unsupported_format")
        gate.set()
        assert (await next_answer(call))[0] == "slow"
        call.cancel()


async def test_progress_is_told_to_who_asked():
    async with rpc_service() as parts:
        call = await opened(parts, setup(progress=True), photo("a", FACES[0]))
        await call.done_writing()
        kinds, last = [], None
        while (response := await call.read()) is not grpc.aio.EOF:
            kinds.append(response.WhichOneof("message"))
            last = response.progress.progress if kinds[-1] == "progress" else last
    assert kinds[-1] == "result"
    assert set(kinds[:-1]) == {"progress"}
    assert (last.num_faces, last.num_steps) == (1, 2)


async def test_images_above_one_message_travel_in_parts():
    options = pb.RestoreOptions(faces=pb.FACE_SELECTION_ANY, det_threshold=1, upscale=2)
    async with rpc_service(grpc_max_message_bytes=SMALL_MESSAGES) as parts:
        call = await opened(parts, setup(options=options), photo("large", NOISE[:50_000], has_more=True))
        for begin in range(50_000, len(NOISE), 50_000):
            await write(call, part("large", NOISE[begin : begin + 50_000], has_more=True))
        await write(call, part("large", b""), photo("small", FACES[0]))
        await call.done_writing()
        answers = await all_answers(call)
    assert decoded(answers["large"]).shape == (512, 512, 3)
    assert len(answers["large"]) > SMALL_MESSAGES
    assert decoded(answers["small"]).shape == (128, 128, 3)


async def test_a_photo_that_is_too_large_fails_alone():
    async with rpc_service(max_upload_bytes=60_000) as parts:
        call = await opened(parts, setup(), photo("large", NOISE[:50_000], has_more=True))
        await write(call, part("large", NOISE[50_000:100_000], has_more=True), part("large", NOISE[100_000:]))
        await write(call, photo("small", FACES[0]))
        await call.done_writing()
        answers = await all_answers(call)
    assert answers["large"] == "upload_too_large"
    assert decoded(answers["small"]).shape == (64, 64, 3)


@pytest.mark.parametrize(
    "requests",
    [
        [photo("", FACES[0])],
        [photo("x" * 256, FACES[0])],
        [pb.RestoreBatchRequest()],
        [setup(), setup()],
        [part("a", FACES[0])],
        [photo("a", b"", has_more=True), photo("b", FACES[0])],
        [photo("a", b"", has_more=True), part("b", FACES[0])],
    ],
    ids=["no_name", "long_name", "nothing", "second_setup", "part_of_none", "photo_between", "part_of_another"],
)
async def test_a_broken_order_ends_the_stream(requests):
    async with rpc_service() as parts:
        call = await opened(parts, *requests)
        assert await all_answers(call) == {}
        assert await ending(call) == (grpc.StatusCode.INVALID_ARGUMENT, "malformed_request")


async def test_a_name_is_used_for_one_photo_at_a_time():
    gate = asyncio.Event()
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate})) as parts:
        call = await opened(parts, setup(), photo("a", b"no photo"))
        assert await next_answer(call) == ("a", "unsupported_format")
        await write(call, photo("a", FACES[0]), photo("a", FACES[0]))
        assert await all_answers(call) == {}
        assert await ending(call) == (grpc.StatusCode.INVALID_ARGUMENT, "malformed_request")
        gate.set()
        await until(lambda: parts.sampler.free_slots == 4)


async def test_an_incomplete_photo_at_the_end_is_an_error():
    async with rpc_service() as parts:
        call = await opened(parts, photo("a", FACES[0], has_more=True))
        await call.done_writing()
        assert await ending(call) == (grpc.StatusCode.INVALID_ARGUMENT, "malformed_request")


async def test_a_photo_whose_parts_stay_away_fails_alone_and_leaves_nothing():
    async with rpc_service(request_timeout_s=3) as parts:
        call = await opened(parts, setup(), photo("late", NOISE[:50_000], has_more=True))
        assert await next_answer(call) == ("late", "deadline_exceeded")
        (window,) = parts.room.windows
        assert window.held_bytes == 0
        await write(call, part("late", NOISE[50_000:]), photo("next", FACES[0]))
        client_id, image = await next_answer(call)
        assert (client_id, decoded(image).shape) == ("next", (64, 64, 3))
        await call.done_writing()
        assert await ending(call) == (grpc.StatusCode.OK, "")


async def test_parts_that_are_empty_or_small_make_the_same_photo():
    async with rpc_service() as parts:
        call = await opened(parts, setup(), photo("a", b"", has_more=True))
        await write(call, part("a", b"", has_more=True))
        for at in range(0, len(FACES[0]), 97):
            await write(call, part("a", FACES[0][at : at + 97], has_more=True))
        await write(call, part("a", b""), photo("b", b"", has_more=True), part("b", FACES[0]), photo("c", FACES[0]))
        await call.done_writing()
        answers = await all_answers(call)
    assert isinstance(answers["a"], bytes)
    assert answers["a"] == answers["b"] == answers["c"]


async def test_a_stream_for_which_there_is_no_room_is_refused():
    async with rpc_service(max_photos=1) as parts:
        first = await opened(parts, setup())
        second = parts.stub.RestoreBatch()
        assert await next_response(second) is None
        assert await ending(second) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue_full")
        assert parts.counted('restore_rejected_total{reason="queue_full"}') == 1
        first.cancel()
        await until(lambda: not parts.room.windows)
        third = await opened(parts, setup(), photo("a", FACES[0]))
        assert (await next_answer(third))[0] == "a"


async def test_a_photo_is_withdrawn_from_a_stream_that_goes_on():
    gate = asyncio.Event()
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate})) as parts:
        call = await opened(parts, setup(), photo("a", FACES[0]))
        await asyncio.wait_for(parts.backend.called["velocity"].wait(), 30)
        withdraw = [pb.RestoreBatchRequest(cancel=pb.BatchCancel(client_id=name)) for name in ("a", "nobody", "b")]
        await write(call, photo("b", FACES[1], has_more=True), *withdraw, part("b", b""), photo("c", FACES[2]))
        answers = dict([await next_answer(call), await next_answer(call)])
        assert answers == {"a": "cancelled", "b": "cancelled"}
        gate.set()
        name, image = await next_answer(call)
        assert (name, image) == ("c", await alone(parts, FACES[2]))
        call.cancel()
        assert parts.counted('restore_photos_total{outcome="cancelled"}') == 1


async def test_who_cancels_a_stream_frees_its_slots_at_the_next_step():
    gate = asyncio.Event()
    options = pb.RestoreOptions(aligned=True, num_steps=5)
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate})) as parts:
        call = await opened(parts, setup(options=options), *(photo(str(index), FACES[0]) for index in range(12)))
        await asyncio.wait_for(parts.backend.called["velocity"].wait(), 30)
        call.cancel()
        await until(lambda: parts.gateway.admission.active == 0)
        gate.set()
        await until(lambda: parts.sampler.free_slots == 4)
        assert len(parts.backend.rows("velocity")) == 1
        assert await parts.gateway.broker.depth() == 0
        cancelled = f'restore_requests_total{{code="CANCELLED",route="/{SERVICE}/RestoreBatch"}}'
        await until(lambda: parts.counted(cancelled) == 1)
        assert decoded(await alone(parts, FACES[0])).shape == (64, 64, 3)


async def test_a_stream_s_deadline_is_its_photos():
    gate = asyncio.Event()
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate})) as parts:
        call = parts.stub.RestoreBatch(timeout=3)
        await write(call, setup(), photo("a", FACES[0]))
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: parts.gateway.admission.active == 0)
        gate.set()
        await until(lambda: parts.sampler.free_slots == 4)
        assert parts.backend.rows("vae_decoder") == []


async def test_the_window_holds_back_who_sends():
    gate = asyncio.Event()
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate}), max_photos=6) as parts:
        call = parts.stub.RestoreBatch()
        assert (await call.read()).opening.window == 6
        await write(call, setup(window=3))
        sending = asyncio.create_task(write(call, *(photo(str(index), NOISE) for index in range(20))))
        (window,) = parts.room.windows
        await until(lambda: window.photos == 3)
        await asyncio.sleep(0.2)
        assert window.photos == 3
        gate.set()
        for _ in range(20):
            await next_answer(call)
        await sending
        call.cancel()


async def test_a_slow_reader_does_not_grow_the_server():
    """Results that nobody reads are held up to a share of the memory; then no further photo is begun, or read."""
    photos, at_once, budget_bytes = 40, 2, 2_000_000
    options = pb.RestoreOptions(faces=pb.FACE_SELECTION_ANY, det_threshold=1, upscale=2)  # 700 KB each, as a PNG
    settings = {"stream_bytes": budget_bytes, "channel_options": SMALL_BUFFERS}
    async with rpc_service(at_once=at_once, **settings) as parts:
        call = await opened(parts, setup(options=options))
        (window,) = parts.room.windows
        sending = asyncio.create_task(write(call, *(photo(str(index), NOISE) for index in range(photos))))
        await until(lambda: window.result_bytes >= budget_bytes)
        done = []
        while not done or done[-1] != parts.counted(DONE):  # until what sockets hold is full, too
            done.append(parts.counted(DONE))
            for _ in range(50):
                await asyncio.sleep(0.01)
                assert window.result_bytes < budget_bytes + at_once * 900_000
                assert window.upload_bytes < budget_bytes + len(NOISE)
        assert done[-1] < photos / 2
        assert decoded(await alone(parts, FACES[0])).shape == (64, 64, 3)  # nobody else is held up
        for _ in range(photos):
            _, image = await next_answer(call)
            assert 500_000 < len(image) < 900_000
        await sending
        await call.done_writing()
        assert await all_answers(call) == {}


async def test_streams_with_photos_share_the_room():
    gate = asyncio.Event()
    backend = AnalyticBackend(gates={"velocity": gate})
    async with (
        rpc_service(backend=backend, max_photos=10) as parts,
        grpc.aio.insecure_channel(parts.address) as channel,
    ):
        first = parts.stub.RestoreBatch()
        assert (await first.read()).opening.window == 10
        (window,) = parts.room.windows
        second = RestorationServiceStub(channel).RestoreBatch()
        assert (await second.read()).opening.window == 10
        await write(first, photo("a", FACES[0]))
        await until(lambda: window.photos == 1)
        third = RestorationServiceStub(channel).RestoreBatch()
        assert (await third.read()).opening.window == 5
        await write(second, photo("b", FACES[0]))
        await until(lambda: window.size == 5)
        second.cancel()
        await until(lambda: window.size == 10)
        for call in (first, third):
            call.cancel()
        await until(lambda: not parts.room.windows)
        gate.set()


async def test_a_stream_without_a_photo_ends():
    async with rpc_service(request_timeout_s=1) as parts:
        call = await opened(parts, photo("a", FACES[0]))
        assert (await next_answer(call))[0] == "a"
        assert await next_response(call) is None
        assert await ending(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded")
        assert not parts.room.windows


async def test_a_stream_whose_reader_stands_still_ends_and_lets_go():
    """Whatever the size of a result; the call goes on being counted, but nobody waits for it."""
    options = pb.RestoreOptions(faces=pb.FACE_SELECTION_ANY, det_threshold=1, upscale=2)
    hasty = SendingRoom(1 << 20, part_s=1)
    async with rpc_service(sending=hasty, channel_options=SMALL_BUFFERS) as parts:
        call = await opened(parts, setup(options=options), photo("a", NOISE))
        (window,) = parts.room.windows
        await until(lambda: window.result_bytes > 500_000)
        await until(lambda: not parts.room.windows)
        await asyncio.wait_for(parts.server.finish(), 5)
        assert not call.done()
        while await next_response(call):
            pass
        assert await ending(call) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded")


async def test_a_server_that_shuts_down_answers_what_it_has_read():
    gate = asyncio.Event()
    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate})) as parts:
        call = await opened(parts, setup(), *(photo(str(index), FACES[index]) for index in range(3)))
        await until(lambda: parts.gateway.admission.active == 3)
        finishing = asyncio.create_task(parts.server.finish())
        parts.draining.set()
        gate.set()
        assert set(await all_answers(call)) == {"0", "1", "2"}
        assert await ending(call) == (grpc.StatusCode.UNAVAILABLE, "draining")
        await asyncio.wait_for(finishing, 30)


async def test_who_watches_is_sent_on_by_a_server_that_shuts_down():
    gate = asyncio.Event()

    def requests():
        yield pb.SubmitRequest(image=FACES[0], options=ALIGNED)

    async with rpc_service(backend=AnalyticBackend(gates={"velocity": gate})) as parts:
        job_id = (await parts.stub.Submit(requests())).job.id
        watching = parts.stub.Watch(pb.WatchRequest(id=job_id))
        await watching.read()
        await asyncio.wait_for(parts.server.finish(), 30)
        while await next_response(watching):
            pass
        assert await ending(watching) == (grpc.StatusCode.UNAVAILABLE, "draining")
        gate.set()
