"""Serves requests in one of three ways and takes the time: through the queue, by the service's own worker and sampler.

    requests -> MemoryBroker -> (policy) -> networks -> Trial

It runs in the time of the event loop it is in, real or virtual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from service.bench.servers import WholeRequestServer
from service.bench.traffic import Request
from service.brokers.memory import MemoryBroker
from service.core.interfaces import Broker, InferenceBackend
from service.core.jobs import Progress
from service.core.manifest import Manifest
from service.core.metrics import Metrics
from service.core.types import FaceJob, Lane, U8Image
from service.sampling.phases import Phases
from service.sampling.sampler import Sampler
from service.worker import Worker

_BACKLOG = "backlog"


class Policy(StrEnum):
    """How requests share network calls."""

    STEP = "step-level"
    WHOLE = "whole-request"
    ONE = "one at a time"


@dataclass(frozen=True, slots=True)
class Networks:
    """What requests are served with.

    Attributes:
        backend: Runs the networks.
        manifest: Their contract.
        rows: Most rows of a call.
        slots: Faces in flight of step-level batching.
        crop: The picture of every request.
    """

    backend: InferenceBackend
    manifest: Manifest
    rows: int
    slots: int
    crop: U8Image


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it.

    Attributes:
        latencies_s: From arrival to result, one per request.
        seconds: From the beginning to the last result.
        backlog_per_s: Faces of a backlog in the batch lane that were restored beside the requests, in a second.
    """

    latencies_s: npt.NDArray[np.float64]
    seconds: float
    backlog_per_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Requests served in a second."""
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """The latency that `percent` of the requests did not exceed: one that occurred, not a mean of two."""
        return float(np.percentile(self.latencies_s, percent, method="inverted_cdf")) * 1000


class _Server(Protocol):
    async def run(self, stop: asyncio.Event) -> None: ...


async def serve(policy: Policy, networks: Networks, requests: Sequence[Request], backlog: Sequence[int] = ()) -> Trial:
    """Serve requests of the interactive lane until the last is done.

    Args:
        policy: How.
        networks: With what.
        requests: What comes when.
        backlog: Steps of faces that wait in the batch lane from the beginning; what is left at the end is withdrawn.
    """
    loop = asyncio.get_running_loop()
    broker = MemoryBroker(max_queued_faces=len(requests) + len(backlog) + 1, metrics=Metrics(), clock=loop.time)
    stop = asyncio.Event()
    serving = loop.create_task(_server(policy, networks, broker).run(stop))
    begin_s = loop.time()
    backlog_done = 0

    def note(progress: Progress) -> None:
        nonlocal backlog_done
        backlog_done = progress.faces_done

    async def one(number: int, request: Request) -> float:
        await asyncio.sleep(begin_s + request.at_s - loop.time())
        await broker.submit([FaceJob(str(number), 0, networks.crop, request.num_steps, seed=number)])
        await broker.results(str(number), None)
        return loop.time() - begin_s - request.at_s

    if backlog:
        await broker.submit(
            [
                FaceJob(_BACKLOG, index, networks.crop, num_steps, 0, Lane.BATCH)
                for index, num_steps in enumerate(backlog)
            ]
        )
        waiting = loop.create_task(broker.results(_BACKLOG, None, note))
    latencies_s = await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
    seconds = loop.time() - begin_s
    if backlog:
        if waiting.done():
            raise ValueError(f"a backlog of {len(backlog)} faces was done before the requests were")
        await broker.cancel(_BACKLOG)
        await asyncio.gather(waiting, return_exceptions=True)
    stop.set()
    await serving
    return Trial(np.asarray(latencies_s), seconds, backlog_done / seconds)


def _server(policy: Policy, networks: Networks, broker: Broker) -> _Server:
    if policy is Policy.STEP:
        sampler = Sampler(networks.backend, networks.manifest, networks.slots, metrics=Metrics())
        return Worker(broker, sampler, metrics=Metrics())
    phases = Phases(networks.backend, networks.manifest)
    return WholeRequestServer(broker, phases, networks.rows if policy is Policy.WHOLE else 1)
