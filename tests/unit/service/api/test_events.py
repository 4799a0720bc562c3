import asyncio
import json

import pytest
from pydantic import BaseModel

from service.api.events import EventStream, events_of
from service.core.errors import DependencyUnavailable
from service.core.jobs import JobState, JobStatus
from service.core.types import FacePreview

LONG_S = 30.0


class Shown(BaseModel):
    """What a client is told of a status."""

    status: str
    text: str = "two\nlines"


def describe(status):
    return Shown(status=status.state.value)


class Statuses:
    """What a queue tells, when the test lets it."""

    def __init__(self):
        self.coming = asyncio.Queue()
        self.closed = False

    async def watch(self):
        try:
            while True:
                state = await self.coming.get()
                if isinstance(state, Exception):
                    raise state
                yield JobStatus("a", state, created_s=0.0)
                if state.final:
                    return
        finally:
            self.closed = True

    def events(self, *, heartbeat_s=LONG_S, draining=lambda: False, previews=None):
        return events_of(self.watch(), describe, previews=previews, heartbeat_s=heartbeat_s, draining=draining)


async def test_every_status_is_an_event_and_the_last_one_ends_the_stream():
    statuses = Statuses()
    for state in (JobState.QUEUED, JobState.RUNNING, JobState.FAILED):
        statuses.coming.put_nowait(state)
    chunks = [chunk.decode() async for chunk in statuses.events()]
    assert chunks[0] == "retry: 2000\n\n"
    heads = [chunk.rpartition("data: ")[0] for chunk in chunks[1:]]
    assert heads == ["event: status\nid: 1\n", "event: status\nid: 2\n", "event: end\nid: end\n"]
    for chunk in chunks[1:]:
        assert chunk.endswith("\n\n")
        assert chunk.count("\n") == 4, "the data is one line, whatever it holds"
        assert json.loads(chunk.rpartition("data: ")[2])["text"] == "two\nlines"
    assert statuses.closed


async def test_silence_is_broken_by_comments_and_no_status_is_lost_to_them():
    statuses = Statuses()
    events = statuses.events(heartbeat_s=0.01)
    assert (await anext(events)).startswith(b"retry")
    for _ in range(3):
        assert await anext(events) == b": still here\n\n"
    statuses.coming.put_nowait(JobState.CANCELLED)
    rest = [chunk async for chunk in events]
    assert b'"status":"cancelled"' in rest[-1]


async def test_a_stream_that_is_closed_closes_what_it_reads():
    statuses = Statuses()
    events = statuses.events(heartbeat_s=0.01)
    await anext(events)
    await anext(events)
    await events.aclose()
    assert statuses.closed


async def test_a_client_that_goes_away_closes_what_its_stream_reads():
    statuses, sent = Statuses(), []

    async def send(message):
        sent.append(message)
        if len(sent) == 4:
            raise OSError("the client has gone")

    stream = EventStream(statuses.events(heartbeat_s=0.01))
    with pytest.raises(OSError, match="has gone"):
        await stream.stream_response(send)
    assert statuses.closed


async def test_nobody_on_the_way_keeps_events_or_collects_them():
    headers = EventStream(Statuses().events()).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"  # nginx would


async def test_a_draining_process_ends_a_stream_that_does_not_move():
    statuses = Statuses()
    statuses.coming.put_nowait(JobState.QUEUED)
    chunks = [chunk async for chunk in statuses.events(heartbeat_s=0.01, draining=lambda: True)]
    assert len(chunks) == 2
    assert statuses.closed


async def test_a_queue_that_goes_away_ends_the_stream_without_an_end():
    statuses = Statuses()
    statuses.coming.put_nowait(JobState.QUEUED)
    statuses.coming.put_nowait(DependencyUnavailable("no answer"))
    chunks = [chunk async for chunk in statuses.events()]
    assert [b"event: end" in chunk for chunk in chunks] == [False, False]


async def test_previews_come_between_and_end_with_the_statuses():
    statuses, coming, closed = Statuses(), asyncio.Queue(), []

    async def previews():
        try:
            while True:
                yield await coming.get()
        finally:
            closed.append(True)

    events = statuses.events(previews=previews())
    assert (await anext(events)).startswith(b"retry")
    statuses.coming.put_nowait(JobState.RUNNING)
    assert (await anext(events)).startswith(b"event: status\nid: 1\n")
    coming.put_nowait(FacePreview("a", 1, 3, 9, b"\xff\xd8", (2.0, 0.0, 0.0, 2.0, 10.0, 20.0)))
    shown = (await anext(events)).decode()
    assert shown.startswith("event: preview\ndata: ")
    assert json.loads(shown.partition("data: ")[2]) == {
        "face_index": 1,
        "steps_done": 3,
        "num_steps": 9,
        "image": "data:image/jpeg;base64,/9g=",
        "matrix": [2.0, 0.0, 0.0, 2.0, 10.0, 20.0],
    }
    statuses.coming.put_nowait(JobState.FAILED)
    assert (await anext(events)).startswith(b"event: end\nid: end\n")
    assert [chunk async for chunk in events] == []
    assert statuses.closed
    assert closed == [True]


async def test_nothing_comes_after_the_end():
    async def previews():
        yield FacePreview("a", 1, 3, 9, b"\xff\xd8", (2.0, 0.0, 0.0, 2.0, 10.0, 20.0))
        await asyncio.Event().wait()

    statuses = Statuses()
    statuses.coming.put_nowait(JobState.SUCCEEDED)
    chunks = [chunk async for chunk in statuses.events(previews=previews())]
    assert chunks[-1].startswith(b"event: end\n")
    assert statuses.closed


async def test_statuses_go_on_when_there_are_no_more_previews():
    async def previews():
        return
        yield

    statuses = Statuses()
    events = statuses.events(previews=previews(), heartbeat_s=0.02)
    await anext(events)
    assert await anext(events) == b": still here\n\n"
    statuses.coming.put_nowait(JobState.FAILED)
    assert (await anext(events)).startswith(b"event: end")
    await events.aclose()
