"""`latent-pmrf`: the composition root. Each command chooses the parts and passes them down; nothing else does.

    serve      HTTP, queue, sampler and networks in one process
    restore    files and folders, in this process, without a server

Exit status: 0 done, 1 something failed, 2 wrong usage or settings, 3 the model bundle is not usable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from rich.console import Console

from service.api.app import create_app
from service.api.context import ApiContext
from service.api.schemas import RestorationSchema
from service.backends.ort_session import OrtBackend
from service.brokers.memory import MemoryBroker
from service.brokers.memory_jobs import JobLimits, MemoryJobQueue
from service.core.admission import Admission
from service.core.errors import InputError, ManifestMismatch
from service.core.interfaces import Broker, InferenceBackend, JobQueue
from service.core.manifest import load_manifest
from service.core.metrics import Metrics
from service.core.options import OptionFields, OptionLimits, option_schemas, parse_options
from service.core.settings import Settings, load_settings
from service.core.types import RestoreOptions
from service.gateway import Gateway
from service.local.files import FileTask, Outcome, plan_files, restore_files
from service.local.progress import FileProgress
from service.runner import PhotoRunner
from service.sampling.sampler import Sampler
from service.stages.detect import FaceDetector
from service.webhooks.courier import Courier
from service.webhooks.sender import NoticeSender
from service.webhooks.targets import WebhookTargets
from service.worker import Worker

OK, FAILED, USAGE, BAD_BUNDLE, INTERRUPTED = 0, 1, 2, 3, 130

_FILES_AT_ONCE = 4
_UPLOADS_PER_PHOTO = 4


@dataclass(frozen=True, slots=True)
class Embedded:
    """Everything in one process: the gateway, and behind it queue, sampler and networks.

    Attributes:
        gateway: Restores photos.
        broker: Queue of faces.
        jobs: Queue of photos, and what became of them.
        backend: The networks.
        webhooks: Where notices may go, or None where none are sent.
        working: The loops, by what they are called.
        stop_photos: Set when no more photos are let in.
    """

    gateway: Gateway
    broker: Broker
    jobs: JobQueue
    backend: InferenceBackend
    webhooks: WebhookTargets | None
    working: Mapping[str, asyncio.Task[None]]
    stop_photos: asyncio.Event

    def drain(self) -> None:
        """Let no more photos in; what is admitted goes on."""
        self.gateway.admission.close()
        self.stop_photos.set()

    async def reasons_not_ready(self) -> list[str]:
        """Why photos cannot be restored now."""
        reasons = ["the service is shutting down"] if self.gateway.admission.closed else []
        reasons += [f"the {name} has stopped" for name, task in self.working.items() if task.done()]
        if not await self.broker.ready():
            reasons.append("the queue cannot be used")
        if not await self.jobs.ready():
            reasons.append("the queue of photos cannot be used")
        if not await self.backend.ready():
            reasons.append("the networks cannot be called")
        return reasons


@asynccontextmanager
async def embedded(settings: Settings) -> AsyncIterator[Embedded]:
    """Start everything a photo needs; on the way out, finish what was admitted, then stop.

    Raises:
        ManifestMismatch: The bundle is not usable.
    """
    manifest = load_manifest(settings.model_repository)
    metrics = Metrics()
    metrics.build_info(version=version(), model=f"{manifest.name}@{manifest.version}")
    backend = OrtBackend(manifest, settings.model_repository, threads=settings.inference_threads, metrics=metrics)
    broker = MemoryBroker(max_queued_faces=settings.max_queued_faces, metrics=metrics)
    jobs = MemoryJobQueue(JobLimits.of(settings), metrics=metrics)
    sampler = Sampler(backend, manifest, settings.slots, metrics=metrics)
    worker = Worker(broker, sampler, metrics=metrics)
    targets = None if settings.webhook_secret is None else WebhookTargets(settings.webhook_networks)
    async with AsyncExitStack() as parts:
        pool = parts.enter_context(ThreadPoolExecutor(settings.cpu_workers, thread_name_prefix="stage"))
        gateway = Gateway(
            broker=broker,
            detector=FaceDetector(backend),
            manifest=manifest,
            settings=settings,
            metrics=metrics,
            pool=pool,
            admission=Admission(settings.max_concurrent_photos, settings.max_concurrent_photos),
        )
        # The queue ends with this process, so what is in it is restored first, as far as a photo's time allows.
        runner = PhotoRunner(
            jobs, gateway, at_once=settings.job_photos, finish_queue=True, grace_s=settings.request_timeout_s
        )
        for part in (backend, broker, jobs):
            parts.push_async_callback(part.close)
        # Loops end in the reverse order: photos first, then who tells about them, then who restores their faces.
        working = {"worker": await parts.enter_async_context(_looping(worker.run, asyncio.Event()))}
        if targets is not None and settings.webhook_secret is not None:
            sender = NoticeSender(settings.webhook_secret.get_secret_value(), targets, version=version())
            parts.push_async_callback(sender.close)
            courier = Courier(jobs, sender, metrics=metrics)
            working["courier"] = await parts.enter_async_context(_looping(courier.run, asyncio.Event()))
        stop_photos = asyncio.Event()
        working["photo runner"] = await parts.enter_async_context(_looping(runner.run, stop_photos))
        parts.callback(gateway.admission.close)
        yield Embedded(gateway, broker, jobs, backend, targets, working, stop_photos)


@asynccontextmanager
async def _looping(
    run: Callable[[asyncio.Event], Coroutine[Any, Any, None]], stop: asyncio.Event
) -> AsyncIterator[asyncio.Task[None]]:
    """A loop for the duration of the block; then it is told to stop, and waited for."""
    task = asyncio.create_task(run(stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


def version() -> str:
    """Version of the installed service."""
    try:
        return metadata.version("latent-pmrf")
    except metadata.PackageNotFoundError:
        return "0+source"


class _Server(uvicorn.Server):
    """Says when it is ready, and stops admission before it waits for what is under way."""

    def __init__(self, config: uvicorn.Config, *, on_ready: Callable[[], None], on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_drain = on_drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def stop(self) -> None:
        """End as a signal would."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_drain()
        await super().shutdown(sockets)


async def serve(settings: Settings, listener: socket.socket, console: Console) -> int:
    """Serve HTTP on a bound socket until a signal comes or the worker fails."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # bodies it cannot read are the caller's affair
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    async with embedded(settings) as parts:
        context = ApiContext(
            gateway=parts.gateway,
            jobs=parts.jobs,
            uploads=Admission(_UPLOADS_PER_PHOTO * settings.max_concurrent_photos, 0),
            webhooks=parts.webhooks,
            reasons_not_ready=parts.reasons_not_ready,
            version=version(),
        )
        config = uvicorn.Config(
            create_app(context),
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(settings.request_timeout_s),
        )
        server = _Server(
            config,
            on_ready=lambda: console.print(f"Restoring photos on http://{shown}:{port}", highlight=False, markup=False),
            on_drain=parts.drain,
        )
        for task in parts.working.values():
            task.add_done_callback(lambda _: server.stop())
        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, _ignore)  # uvicorn raises the signal again once it has drained
        await server.serve(sockets=[listener])
        failed = {name: task.exception() for name, task in parts.working.items() if task.done() and task.exception()}
    for name, failure in failed.items():
        console.print(f"the {name} failed: {failure!r}", highlight=False, markup=False)
    return FAILED if failed else OK


async def restore(
    settings: Settings, tasks: Sequence[FileTask], options: RestoreOptions, console: Console
) -> list[Outcome]:
    """Restore files in this process, telling how it goes."""
    outcomes = []
    async with embedded(settings) as parts:
        with FileProgress(console, len(tasks)) as progress:
            async for outcome in restore_files(parts.gateway, tasks, options, at_once=_FILES_AT_ONCE):
                progress.tell(outcome)
                outcomes.append(outcome)
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        settings = load_settings()
    except ValueError as error:
        return _complain(console, str(error), USAGE)
    try:
        return int(given.run(given, settings, console))
    except ManifestMismatch as error:
        return _complain(console, f"{error.title}: {error.detail}. {error.hint}", BAD_BUNDLE)
    except KeyboardInterrupt:
        return _complain(console, "interrupted", INTERRUPTED)


def tcp_socket(host: str) -> socket.socket:
    """An unbound socket of the host's family.

    The protocol is named although there is no other: asyncio switches Nagle's algorithm off only where it is, and with
    it on every answer on a kept connection waits some 40 ms for the client's acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    created = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    created.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return created


def _run_serve(given: argparse.Namespace, settings: Settings, console: Console) -> int:
    with tcp_socket(given.host) as listener:
        try:
            listener.bind((given.host, given.port))
            listener.listen()  # only now is the port ours: until then two processes may have bound it
        except (OSError, OverflowError) as error:
            return _complain(console, f"cannot listen on {given.host}:{given.port}: {error}", FAILED)
        return asyncio.run(serve(settings, listener, console))


def _run_restore(given: argparse.Namespace, settings: Settings, console: Console) -> int:
    fields = {name: value for name, value in vars(given).items() if name in OptionFields.model_fields and value}
    bundle = load_manifest(settings.model_repository)
    try:
        options = parse_options(fields, OptionLimits(bundle.max_num_steps, settings.max_faces))
        tasks = plan_files(given.source, given.target, options.output_format)
    except InputError as error:
        return _complain(console, ". ".join(filter(None, (error.detail, error.hint))), USAGE)
    if given.json is not None and not given.json.parent.is_dir():  # said before the work, not after it
        return _complain(console, f"{given.json.parent} is no folder for the report", USAGE)
    outcomes = asyncio.run(restore(settings, tasks, options, console))
    if given.json is not None:
        text = json.dumps([_as_json(outcome) for outcome in outcomes], indent=2) + "\n"
        try:
            sys.stdout.write(text) if str(given.json) == "-" else given.json.write_text(text)
        except OSError as error:
            return _complain(console, f"the report cannot be written: {error}", FAILED)
    return FAILED if any(outcome.error for outcome in outcomes) else OK


def _as_json(outcome: Outcome) -> dict[str, object]:
    paths: dict[str, object] = {"source": str(outcome.task.source), "target": str(outcome.task.target)}
    if outcome.report is not None:
        described = RestorationSchema.of(outcome.report, None)
        return {**paths, "report": described.model_dump(mode="json", exclude={"expires_at", "urls"})}
    error = outcome.error
    return {**paths, "error": {"code": error.code, "title": error.title, "detail": error.detail} if error else None}


def _complain(console: Console, message: str, status: int) -> int:
    console.print(f"latent-pmrf: {message}", markup=False, highlight=False, soft_wrap=True)
    return status


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    return


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("latent-pmrf", description="Restores the faces of photographs.")
    parser.add_argument("--version", action="version", version=f"latent-pmrf {version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    server = commands.add_parser("serve", help="serve HTTP: queue, sampler and networks in this process")
    server.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"), help="default: HOST, or 127.0.0.1")
    server.add_argument("--port", default=os.environ.get("PORT", "8000"), type=int, help="default: PORT, or 8000")
    server.set_defaults(run=_run_serve)

    files = commands.add_parser("restore", help="restore a photo or a folder of photos, without a server")
    files.add_argument("source", metavar="IN", type=Path, help="photo or folder")
    files.add_argument("target", metavar="OUT", type=Path, nargs="?", help="default: IN with `_restored` in its name")
    files.add_argument("--json", metavar="FILE", type=Path, help="write a report of every photo; - for standard output")
    for name, schema in option_schemas().items():
        flag = f"--{name.replace('_', '-')}"
        if schema.get("type") == "boolean":
            files.add_argument(flag, action="store_const", const="true", help=schema["description"])
        else:
            shown = "|".join(schema["enum"]) if "enum" in schema else name.upper()
            files.add_argument(flag, metavar=shown, help=schema["description"].replace("%", "%%"))
    files.set_defaults(run=_run_restore)
    return parser


if __name__ == "__main__":
    sys.exit(main())
