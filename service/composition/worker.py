"""A process that restores faces: queue of faces -> sampler and networks -> queue of faces, and a port to look at it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from service.backends.watched import WatchedBackend
from service.composition.allocator import keep_arrays
from service.composition.ending import Ending
from service.composition.http import Ended, address_of, serve_until_told
from service.composition.loops import Loops, part_with
from service.composition.networks import open_backend
from service.composition.probes import Probes
from service.composition.queues import FaceQueue, beat_s, open_faces
from service.composition.readiness import keep_ready
from service.composition.release import version
from service.composition.watchdog import watch
from service.core.colour import with_colour_of
from service.core.interfaces import InferenceBackend
from service.core.manifest import Manifest, load_manifest
from service.core.metrics import Metrics
from service.core.settings import Settings
from service.sampling.sampler import Sampler
from service.telemetry.logs import count_dropped
from service.worker import BEAT_S, Worker

OpenNetworks = Callable[[Settings, Manifest, Metrics], Awaitable[InferenceBackend]]

_WORKER = "worker"


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """What is behind a worker's port.

    Attributes:
        faces: Where its work comes from.
        backend: The networks.
        loops: The worker, and its signs of life.
        ending: When to stop.
    """

    faces: FaceQueue
    backend: InferenceBackend
    loops: Loops
    ending: Ending

    async def drain(self) -> None:
        """Take no more faces; those that were taken are finished, or handed back when their time is over."""
        await self.loops.end(_WORKER)

    async def dismiss(self) -> None:
        """Nobody waits for a worker."""

    async def reasons_not_ready(self) -> list[str]:
        """Why faces cannot be restored now."""
        if self.ending.begun:
            return ["the worker is shutting down"]
        reasons = [f"the {name} has stopped" for name in self.loops.fallen()]
        queue, networks = await asyncio.gather(self.faces.broker.ready(), self.backend.ready())
        if not queue:
            reasons.append("the queue of faces cannot be used")
        if not networks:
            reasons.append("the networks cannot be called")
        return reasons


@contextlib.asynccontextmanager
async def working(  # noqa: PLR0913 - the parts that a worker is made of
    settings: Settings, manifest: Manifest, metrics: Metrics, backend: InferenceBackend, faces: FaceQueue, loops: Loops
) -> AsyncIterator[Worker]:
    """A worker in this process for the duration of the block; where others look for it, it says that it is alive."""
    sampler = Sampler(backend, manifest, settings.slots, metrics=metrics, look=with_colour_of)
    worker = Worker(faces.broker, sampler, metrics=metrics, beat_s=beat_s(settings, BEAT_S))
    async with contextlib.AsyncExitStack() as parts:
        if faces.presence is not None:
            announce = partial(faces.presence.announce, can_work=worker.reaches_networks)
            await parts.enter_async_context(loops.running("announcer", announce))
        await parts.enter_async_context(loops.running(_WORKER, worker.run))
        yield worker


async def restore_faces(
    settings: Settings,
    listener: socket.socket,
    say: Callable[[str], None],
    networks: OpenNetworks | None = None,
) -> Ended:
    """Restore faces of the shared queue until a signal comes or the worker fails.

    Args:
        settings: The operator's.
        listener: Bound socket for health and metrics.
        say: Told when the worker is ready, as `Restoring faces; health and metrics on http://...`.
        networks: Opens what runs the networks; None: as the settings say.

    Raises:
        ManifestMismatch: The bundle is not usable.
        DependencyUnavailable: No Triton server was ready in time.
        UnusableSettings: `redis_url` is not the address of a server, or Triton's client is not installed.
    """
    if settings.triton_urls:
        keep_arrays()
    manifest = load_manifest(settings.model_repository)
    metrics = Metrics()
    metrics.build_info(version=version(), model=f"{manifest.name}@{manifest.version}")
    opened = partial(open_backend, only=manifest.networks) if networks is None else networks
    with Ending(settings.grace_s) as ending:
        async with contextlib.AsyncExitStack() as parts:
            faces = open_faces(settings, manifest, metrics)
            parts.push_async_callback(part_with, faces.close)
            backend = WatchedBackend(await opened(settings, manifest, metrics))
            parts.push_async_callback(backend.close)
            loops = Loops(ending)
            await parts.enter_async_context(loops.running("watchdog", partial(watch, backend, settings.call_timeout_s)))
            await parts.enter_async_context(working(settings, manifest, metrics, backend, faces, loops))
            process = WorkerProcess(faces, backend, loops, ending)
            ending.hear_signals()
            count_dropped(metrics.log_line_dropped)
            looking = partial(keep_ready, process.reasons_not_ready, metrics)
            await parts.enter_async_context(loops.running("readiness", looking))
            probes = Probes(process.reasons_not_ready, metrics)
            ready = partial(say, f"Restoring faces; health and metrics on {address_of(listener)}")
            await serve_until_told(probes, listener, process, ready)
        return Ended(loops.failures(), ending.hurried)
