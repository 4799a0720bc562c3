"""What every queue, of faces and of photos, promises about previews: shown to who looks, kept for nobody."""

import asyncio
import contextlib

from service.core.jobs import JobState
from service.core.types import FacePreview
from tests.fakes import face_job
from tests.job_queues import LONG_S, SOON_S, photo, result_of
from tests.rpc_serving import until

TRIAL = 63  # the face of a preview that is shown to see whether anybody looks


def preview_of(job_id, face_index=0, steps_done=1, **fields):
    return FacePreview(job_id, face_index, steps_done, 9, b"\xff\xd8 \x00preview\xff", **fields)


@contextlib.asynccontextmanager
async def looking(queue, job_id):
    """The previews of a job that one who looks has seen so far; he has begun to look where the job is under way."""
    seen, begun = [], asyncio.Event()

    async def look():
        async for preview in queue.previews(job_id):
            if preview.face_index == TRIAL:
                begun.set()
            else:
                seen.append(preview)

    task = asyncio.create_task(look())
    while (await queue.status(job_id)).state is JobState.RUNNING and not begun.is_set():
        await queue.show(preview_of(job_id, TRIAL))
        await asyncio.sleep(0.005)
    if not begun.is_set():
        await asyncio.sleep(5 * SOON_S)  # previews of what waits are shown to nobody, and nothing tells
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_who_waits_for_faces_is_shown_their_previews(broker):
    await broker.submit([face_job("a", index, preview_every=3) for index in range(2)])
    taken = await broker.take(2, LONG_S)
    assert [job.preview_every for job in taken] == [3, 3]
    seen, progress = [], []
    waiting = asyncio.create_task(broker.results("a", LONG_S, progress.append, seen.append))
    await until(lambda: progress)
    sent = [preview_of("a", 0, 3), preview_of("a", 1, 3), preview_of("a", 0, 6)]
    await broker.show(sent[:2])
    await broker.show(sent[2:])
    await until(lambda: len(seen) == 3)
    assert seen == sent
    await broker.cancel("a")
    await asyncio.gather(waiting, return_exceptions=True)


async def test_nobody_is_shown_what_is_not_his_or_is_over(broker):
    await broker.submit([face_job("a", 0), face_job("a", 1)])
    await broker.submit([face_job("b")])
    taken = {job.key for job in await broker.take(2, LONG_S)}
    assert len(taken) == 2
    seen, progress = [], []
    waiting = asyncio.create_task(broker.results("a", LONG_S, progress.append, seen.append))
    await until(lambda: progress)
    await broker.show([preview_of("a", 0), preview_of("b", 0), preview_of("a", 1), preview_of("never there")])
    await until(lambda: seen)
    await asyncio.sleep(SOON_S)
    assert {(preview.job_id, preview.face_index) for preview in seen} == {key for key in taken if key[0] == "a"}
    count = len(seen)
    await broker.cancel("a")
    await asyncio.gather(waiting, return_exceptions=True)
    await broker.show([preview_of("a", 0)])
    await asyncio.sleep(SOON_S)
    assert len(seen) == count


async def test_previews_do_not_hide_progress_and_results(broker):
    await broker.submit([face_job("a", num_steps=4)])
    (job,) = await broker.take(1, LONG_S)
    progress = []
    waiting = asyncio.create_task(broker.results("a", LONG_S, progress.append))
    await until(lambda: progress)
    await broker.show([preview_of("a")])
    await broker.beat({job.key: 2})
    await until(lambda: progress[-1].steps_done == 2)
    await broker.cancel("a")
    await asyncio.gather(waiting, return_exceptions=True)


async def test_who_looks_at_a_running_photo_sees_its_faces(queue):
    await queue.admit(photo("a", previews=True))
    assert (await queue.take(LONG_S)).previews
    sent = preview_of("a", 1, 4, matrix=(2.0, 0.0, 0.0, 2.0, 10.5, -3.0))
    async with looking(queue, "a") as one, looking(queue, "a") as other:
        await queue.show(sent)
        await until(lambda: one and other)
    assert one == other == [sent]
    await queue.show(sent)
    await queue.finish(result_of("a"))
    assert (await queue.status("a")).state.final


async def test_previews_of_one_photo_are_seen_at_that_photo_only(queue):
    for job_id in "ab":
        await queue.admit(photo(job_id, previews=True))
        await queue.take(LONG_S)
    await queue.admit(photo("waits"))
    async with looking(queue, "a") as seen, looking(queue, "waits") as early:
        for preview in (preview_of("b"), preview_of("waits"), preview_of("never there"), preview_of("a")):
            await queue.show(preview)
        await until(lambda: seen)
        await asyncio.sleep(SOON_S)
    assert seen == [preview_of("a")]
    assert early == []


async def test_who_watches_is_told_the_same_with_previews_as_without(queue):
    await queue.admit(photo("a"))
    await queue.take(LONG_S)
    told = []

    async def watch():
        async for status in queue.watch("a"):
            told.append(status.state)

    watching = asyncio.create_task(watch())
    await until(lambda: told)
    for steps in range(5):
        await queue.show(preview_of("a", 0, steps))
    await queue.finish(result_of("a"))
    await watching
    assert [state.value for state in told] == ["running", "succeeded"]
