"""A real gRPC server in the test's event loop: the real stages, queues, runner and worker, networks in closed form."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from service.brokers.memory import MemoryBroker
from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.composition.access import open_access
from service.composition.ending import Ending
from service.composition.loops import Loops
from service.core.admission import Admission
from service.core.metrics import Metrics
from service.core.sending import SendingRoom
from service.core.settings import Settings
from service.core.threads import Threads
from service.core.windows import StreamRoom
from service.gateway import Gateway
from service.rpc import restoration_pb2 as pb
from service.rpc.context import RpcContext
from service.rpc.restoration_pb2_grpc import RestorationServiceStub
from service.rpc.server import RpcServer
from service.runner import PhotoRunner
from service.sampling.sampler import Sampler
from service.worker import Worker
from tests.bundle import tiny_manifest
from tests.fakes import AnalyticBackend, FakeDetector

ALIGNED = pb.RestoreOptions(aligned=True, num_steps=2, seed=7)
# A reader who reads nothing has room for this much in his sockets, and no more.
SMALL_BUFFERS = (("grpc.http2.lookahead_bytes", 16 * 1024), ("grpc.http2.bdp_probe", 0))
_PATIENCE_S = 30.0
_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class RpcService:
    """A running service.

    Attributes:
        server: The server itself.
        channel: A channel to it.
        stub: Its calls.
        gateway: Behind it.
        jobs: Its queue of photos.
        backend: Its networks.
        sampler: Its slots.
        room: What its streams may hold.
        draining: Set to let the process shut down.
    """

    server: RpcServer
    channel: grpc.aio.Channel
    stub: Any
    gateway: Gateway
    jobs: MemoryJobQueue
    backend: AnalyticBackend
    sampler: Sampler
    room: StreamRoom
    draining: asyncio.Event

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server.port}"

    def counted(self, line: str) -> float:
        """A metric by its name and labels."""
        lines = self.gateway.metrics.render().decode().splitlines()
        return sum(float(found.rsplit(" ", 1)[1]) for found in lines if found.rsplit(" ", 1)[0] == line)


@contextlib.asynccontextmanager
async def rpc_service(
    *,
    backend: AnalyticBackend | None = None,
    slots: int = 4,
    at_once: int = 8,
    max_photos: int = 64,
    places: int = 16,
    uploads: int = 64,
    sending: SendingRoom | None = None,
    channel_options: tuple[tuple[str, int], ...] = (),
    **settings: Any,
) -> AsyncIterator[RpcService]:
    """A service for the duration of the block; nothing of it is left behind."""
    own, metrics = Settings(**settings), Metrics()
    access = open_access(own)
    networks, draining, loops = backend or AnalyticBackend(), asyncio.Event(), Loops(Ending(0.5))
    broker = MemoryBroker(max_queued_faces=own.max_queued_faces, metrics=metrics)
    sampler = Sampler(networks, tiny_manifest(), slots, metrics=metrics)
    jobs = MemoryJobQueue(JobLimits.of(own), metrics=metrics)
    room = StreamRoom(at_once=at_once, max_photos=max_photos, max_bytes=own.stream_bytes)

    async def reasons_not_ready() -> list[str]:
        return ["the service is shutting down"] if draining.is_set() else []

    with Threads(2) as pool:
        gateway = Gateway(
            broker=broker,
            detector=FakeDetector(),
            manifest=tiny_manifest(),
            settings=own,
            metrics=metrics,
            pool=pool,
            admission=Admission(places, places),
        )
        context = RpcContext(
            gateway=gateway,
            jobs=jobs,
            uploads=Admission(uploads, 0),
            room=room,
            sending=sending or SendingRoom(1 << 28),
            access=access,
            webhooks=None,
            reasons_not_ready=reasons_not_ready,
            draining=draining.wait,
        )
        worker = Worker(broker, sampler, metrics=metrics, pause_s=0.01, beat_s=0.02)
        runner = PhotoRunner(jobs, gateway, pause_s=0.05, beat_s=0.02, accounts=access.accounts)
        async with contextlib.AsyncExitStack() as parts:
            for close in (broker.close, access.accounts.meter.close, jobs.close):
                parts.push_async_callback(close)
            await parts.enter_async_context(loops.running("worker", worker.run))
            await parts.enter_async_context(loops.running("runner", runner.run))
            server = RpcServer(context, "127.0.0.1:0")
            await server.start()
            parts.push_async_callback(server.stop)
            channel = await parts.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=channel_options)
            )
            stub = RestorationServiceStub(channel)
            yield RpcService(server, channel, stub, gateway, jobs, networks, sampler, room, draining)
        assert not loops.failures()


def photo(client_id: str, image: bytes, *, has_more: bool = False, options: Any = None) -> pb.RestoreBatchRequest:
    """A photo of a stream."""
    return pb.RestoreBatchRequest(
        photo=pb.BatchPhoto(client_id=client_id, image=image, has_more=has_more, options=options)
    )


def part(client_id: str, data: bytes, *, has_more: bool = False) -> pb.RestoreBatchRequest:
    """A further part of it."""
    return pb.RestoreBatchRequest(part=pb.BatchPart(client_id=client_id, data=data, has_more=has_more))


def setup(**fields: Any) -> pb.RestoreBatchRequest:
    """How a stream is to be served; aligned photos unless other options are given."""
    return pb.RestoreBatchRequest(setup=pb.BatchSetup(**{"options": ALIGNED, **fields}))


async def next_response(call: Any) -> Any:
    """The next message, or None when the stream has ended, however it did."""
    try:
        response = await asyncio.wait_for(call.read(), _PATIENCE_S)
    except grpc.aio.AioRpcError:
        return None
    return None if response is grpc.aio.EOF else response


async def next_answer(call: Any) -> tuple[str, bytes | str]:
    """The next answer of a stream: the photo, and its image or the code of its failure; progress is passed over."""
    while True:
        response = await next_response(call)
        if response is None:
            raise EOFError(f"the stream has ended: {await call.code()}")
        kind = response.WhichOneof("message")
        if kind == "failure":
            return response.failure.client_id, response.failure.error.code
        if kind == "result":
            image, has_more = response.result.image, response.result.has_more
            while has_more:
                following = await next_response(call)
                assert following is not None
                assert following.part.client_id == response.result.client_id
                image, has_more = image + following.part.data, following.part.has_more
            assert len(image) == response.result.size_bytes
            return response.result.client_id, image


async def all_answers(call: Any) -> dict[str, bytes | str]:
    """Every answer to the end of a stream, by photo; none may come twice."""
    answers: dict[str, bytes | str] = {}
    with contextlib.suppress(EOFError):
        while True:
            client_id, answer = await next_answer(call)
            assert client_id not in answers
            answers[client_id] = answer
    return answers


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call failed: status, and our code."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), code_in(rpc_status.from_call(error))
    raise AssertionError("it was answered")


async def ending(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a stream ended: status, and our code, which is empty where there is none."""
    return await call.code(), code_in(await rpc_status.aio.from_call(call))


def code_in(status: Any) -> str:
    """Our code in the details of a status."""
    info = ErrorInfo()
    return info.metadata["code"] if status is not None and status.details[0].Unpack(info) else ""


async def until(condition: Any) -> None:
    """Wait for something that is bound to happen."""
    async with asyncio.timeout(_PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(_PAUSE_S)
