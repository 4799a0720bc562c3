"""A process that takes photos: HTTP, gRPC -> gateway -> queue of faces -> a worker elsewhere, or in this process, too.

`restoring` is all that without HTTP; with a queue in this process it is the whole service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial

from service.access.guard import Access
from service.api.app import create_app
from service.api.context import ApiContext
from service.backends.watched import WatchedBackend
from service.composition.access import open_access
from service.composition.allocator import keep_arrays
from service.composition.decoders import Decode, decoding
from service.composition.ending import Ending
from service.composition.http import Ended, address_of, serve_until_told
from service.composition.loops import Loops, part_with
from service.composition.networks import open_backend
from service.composition.priorities import stand_back
from service.composition.queues import FaceQueue, beat_s, keep_gauges, open_faces, open_photos
from service.composition.readiness import keep_ready
from service.composition.release import version
from service.composition.rpc import rpc_beside, stream_room
from service.composition.tls import load_tls
from service.composition.watchdog import watch
from service.composition.worker import working
from service.core.admission import Admission
from service.core.detector import DETECTOR
from service.core.interfaces import Detector, InferenceBackend, JobQueue
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.sending import SendingRoom
from service.core.settings import Settings
from service.core.tasks import beside
from service.core.threads import Threads
from service.gateway import Gateway
from service.rpc.context import RpcContext
from service.rpc.server import RpcServer
from service.runner import BEAT_S, PhotoRunner
from service.stages.detect import FaceDetector
from service.telemetry.logs import count_dropped
from service.webhooks.courier import Courier
from service.webhooks.sender import NoticeSender
from service.webhooks.targets import WebhookTargets

_PHOTOS = "photo runner"
UPLOADS_PER_PHOTO = 4  # bodies on their way, for each of `max_concurrent_photos`
_LEAST_SENDING_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StandIns:
    """What benches put in place of the stages that make pixels of a file and find the faces in them, and of networks.

    Attributes:
        decode: Called on a thread.
        detector: Called on the event loop.
        backend: Of the networks; None for the settings'.
    """

    decode: Decode
    detector: Detector
    backend: InferenceBackend | None = None


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A gateway and what is behind it.

    Attributes:
        gateway: Restores photos.
        faces: Its way to the workers.
        jobs: Queue of photos, and what became of them.
        access: Who may come in, and what he may use.
        backend: The detector; with a worker in this process, all networks.
        webhooks: Where notices may go, or None where none are sent.
        loops: Who takes work.
        ending: When to stop.
        rpc: Answers gRPC, or None.
    """

    gateway: Gateway
    faces: FaceQueue
    jobs: JobQueue
    access: Access
    backend: InferenceBackend
    webhooks: WebhookTargets | None
    loops: Loops
    ending: Ending
    rpc: RpcServer | None = None

    async def drain(self) -> None:
        """Let no more photos in; finish those that are, and calls about them, as far as the time allows."""
        self.gateway.admission.close()
        await self.loops.end(_PHOTOS)
        for finish in (self.gateway.admission.emptied, *([] if self.rpc is None else [self.rpc.finish])):
            async with beside(finish(), "finish") as finishing:
                await self.ending.allow(finishing)

    async def dismiss(self) -> None:
        """Tell everybody who waits for a photo to ask elsewhere."""
        await part_with(self.faces.close)
        await part_with(self.jobs.close)

    async def reasons_not_ready(self) -> list[str]:
        """Why photos cannot be restored now."""
        if self.ending.begun:
            return ["the service is shutting down"]
        reasons = [f"the {name} has stopped" for name in self.loops.fallen()]
        faces, photos, networks, workers = await asyncio.gather(
            self.faces.broker.ready(), self.jobs.ready(), self.backend.ready(), self.faces.has_workers()
        )
        if not faces:
            reasons.append("the queue of faces cannot be used")
        if not photos:
            reasons.append("the queue of photos cannot be used")
        if not networks:
            reasons.append("the networks cannot be called")
        if faces and not workers:  # else they may be there, and cannot say so
            reasons.append(f"no worker with bundle {self.gateway.manifest.tag} has been alive lately")
        return reasons


@contextlib.asynccontextmanager
async def restoring(
    settings: Settings, ending: Ending, *, with_worker: bool, stand_ins: StandIns | None = None
) -> AsyncIterator[GatewayProcess]:
    """Start what a photo needs; on the way out, finish what was admitted, as far as `ending` allows, then stop.

    Args:
        settings: The operator's.
        ending: When to stop.
        with_worker: Restore faces in this process, too. A queue in this process has no other workers.
        stand_ins: Stages in place of the real ones, or None.

    Raises:
        ManifestMismatch: The bundle is not usable.
        DependencyUnavailable: No Triton server was ready in time, or no process that decodes can be started.
        UnusableSettings: The keys file cannot be used, `redis_url` is not the address of a server, or Triton's client
            is not installed.
    """
    access = open_access(settings)
    manifest = load_manifest(settings.model_repository)
    metrics = Metrics()
    metrics.build_info(version=version(), model=f"{manifest.name}@{manifest.version}")
    loops = Loops(ending)
    async with contextlib.AsyncExitStack() as parts:
        parts.push_async_callback(part_with, access.accounts.meter.close)
        pool = parts.enter_context(Threads(settings.cpu_workers, initializer=stand_back))
        # Begins while the networks are opened, and ends before the threads, which may still wait for what nobody wants.
        decode, rehearse = parts.enter_context(
            decoding(settings, metrics, None if stand_ins is None else stand_ins.decode)
        )
        only = None if with_worker else (DETECTOR,)
        given = None if stand_ins is None else stand_ins.backend
        backend = WatchedBackend(given or await open_backend(settings, manifest, metrics, only=only))
        parts.push_async_callback(backend.close)
        await parts.enter_async_context(loops.running("watchdog", partial(watch, backend, settings.call_timeout_s)))
        faces = open_faces(settings, manifest, metrics)
        parts.push_async_callback(part_with, faces.close)
        jobs = open_photos(settings, metrics)
        parts.push_async_callback(part_with, jobs.close)
        gateway = Gateway(
            broker=faces.broker,
            detector=FaceDetector(backend) if stand_ins is None else stand_ins.detector,
            manifest=manifest,
            settings=settings,
            metrics=metrics,
            pool=pool,
            admission=Admission(
                settings.max_concurrent_photos, settings.max_concurrent_photos, objective_s=settings.latency_objective_s
            ),
            decode=decode,
        )
        await pool.run(rehearse)
        # Loops end in the reverse order: photos first, then who tells about them, then who restores their faces.
        if settings.redis_url is not None:
            await parts.enter_async_context(loops.running("gauges", partial(keep_gauges, faces, jobs)))
        has_workers = faces.has_workers
        if with_worker:
            worker = await parts.enter_async_context(working(settings, manifest, metrics, backend, faces, loops))
            if faces.presence is None:
                has_workers = worker.reaches_networks
        targets = await parts.enter_async_context(_courier(settings, jobs, metrics, loops))
        runner = PhotoRunner(
            jobs,
            gateway,
            at_once=settings.job_photos,
            finish_queue=settings.redis_url is None,  # such a queue ends with this process
            has_workers=has_workers,
            beat_s=beat_s(settings, BEAT_S),
            accounts=access.accounts,
        )
        await parts.enter_async_context(loops.running(_PHOTOS, runner.run))
        parts.callback(gateway.admission.close)
        yield GatewayProcess(gateway, faces, jobs, access, backend, targets, loops, ending)


async def restore_photos(
    settings: Settings,
    listener: socket.socket,
    say: Callable[[str], None],
    *,
    with_worker: bool,
    stand_ins: StandIns | None = None,
) -> Ended:
    """Serve HTTP and gRPC until a signal comes or one of the loops fails.

    Args:
        settings: The operator's.
        listener: Bound socket.
        say: Told when photos are taken, as `Restoring photos on http://...`.
        with_worker: Restore faces in this process, too.
        stand_ins: Stages in place of the real ones, or None.

    Raises:
        ManifestMismatch: The bundle is not usable.
        DependencyUnavailable: No Triton server was ready in time, or no process that decodes can be started.
        UnusableSettings: A file of keys or of TLS cannot be used, `redis_url` is not the address of a server, or
            `grpc_port` is taken.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # bodies it cannot read are the caller's affair
    tls = load_tls(settings)
    computes = with_worker and not settings.triton_urls and (stand_ins is None or stand_ins.backend is None)
    if not computes:  # beside networks in this process nobody would see the time, and everybody the memory
        keep_arrays()
    with Ending(settings.grace_s) as ending:
        async with restoring(settings, ending, with_worker=with_worker, stand_ins=stand_ins) as process:
            ending.hear_signals()
            count_dropped(process.gateway.metrics.log_line_dropped)
            uploads = Admission(UPLOADS_PER_PHOTO * settings.max_concurrent_photos, 0)
            sending = sending_room(settings)
            context = ApiContext(
                gateway=process.gateway,
                jobs=process.jobs,
                uploads=uploads,
                sending=sending,
                access=process.access,
                webhooks=process.webhooks,
                reasons_not_ready=process.reasons_not_ready,
                version=version(),
            )
            rpc_context = RpcContext(
                gateway=process.gateway,
                jobs=process.jobs,
                uploads=uploads,
                room=stream_room(settings),
                sending=sending,
                access=process.access,
                webhooks=process.webhooks,
                reasons_not_ready=process.reasons_not_ready,
                draining=ending.wait,
            )
            address = address_of(listener, tls)
            looking = partial(keep_ready, process.reasons_not_ready, process.gateway.metrics)
            async with (
                process.loops.running("readiness", looking),
                rpc_beside(rpc_context, listener.getsockname()[0], say, tls) as rpc,
            ):
                whole, ready = replace(process, rpc=rpc), partial(say, f"Restoring photos on {address}")
                await serve_until_told(create_app(context), listener, whole, ready, tls)
        return Ended(process.loops.failures(), ending.hurried)


def sending_room(settings: Settings) -> SendingRoom:
    """What results may hold on their way to their readers: as much as those that wait to be fetched."""
    return SendingRoom(max(settings.result_cache_bytes, _LEAST_SENDING_BYTES))


@contextlib.asynccontextmanager
async def _courier(
    settings: Settings, jobs: JobQueue, metrics: Metrics, loops: Loops
) -> AsyncIterator[WebhookTargets | None]:
    """Notices are sent for the duration of the block, where there is a secret to sign them with."""
    if settings.webhook_secret is None:
        yield None
        return
    targets = WebhookTargets(settings.webhook_networks)
    sender = NoticeSender(settings.webhook_secret.get_secret_value(), targets, version=version())
    try:
        async with loops.running("courier", Courier(jobs, sender, metrics=metrics).run):
            yield targets
    finally:
        await sender.close()
