"""`latent-pmrf`: arguments in, exit status out. What a command is made of is put together in `service.composition`.

    serve      HTTP, gRPC, queue, sampler and networks in one process
    gateway    HTTP, gRPC and all that surrounds the networks; any number of them share a queue in Redis
    worker     sampler and networks, any number of them on the same queue
    restore    files and folders, in this process, without a server
    keys       who may use a service: makes, lists and revokes API keys
    batch      folders of any size, by a server or by Ray; run again, it does what is left
    doctor     what is installed and configured here, whether it works, and what to do

Exit status: 0 done, 1 something failed, 2 wrong usage or settings, 3 nothing to restore with: the model bundle is not
usable, or the server of `batch` cannot be reached; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from service.access.command import add_arguments as key_arguments
from service.batch.arguments import add_arguments
from service.composition.release import version
from service.core.errors import DependencyUnavailable, InputError, ManifestMismatch, ServiceError
from service.core.manifest import load_manifest
from service.core.options import OptionFields, OptionLimits, in_flags, option_schemas, parse_options
from service.core.settings import ENV_PREFIX, LogFormat, Settings, UnusableSettings, load_settings
from service.core.types import RestoreOptions

if TYPE_CHECKING:
    from service.composition.http import Ended
    from service.local.files import FileTask, Outcome

OK, FAILED, USAGE, BAD_BUNDLE, INTERRUPTED = 0, 1, 2, 3, 130
UNREACHABLE = BAD_BUNDLE

_FILES_AT_ONCE = 4

# Each command imports its parts when it runs: a worker has no use for a web framework, nor `--help` for networks.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = _parser().parse_args(arguments)
    console: Console = Console(stderr=True)
    if given.serves and os.environ.get(f"{ENV_PREFIX}LOG_FORMAT") == LogFormat.JSON:
        from service.telemetry.logs import write_logs

        write_logs(LogFormat.JSON)  # what is wrong with the settings is told so, too
        console = _LoggedConsole()
    try:
        return int(given.run(given, load_settings(), console))
    except UnusableSettings as error:
        return _complain(console, str(error), USAGE)
    except ManifestMismatch as error:
        return _complain(console, f"the model bundle is not usable: {_in_words(error)}", BAD_BUNDLE)
    except DependencyUnavailable as error:
        return _complain(console, f"{error.title}: {error.detail}", FAILED)
    except KeyboardInterrupt:
        return _complain(console, "interrupted", INTERRUPTED)


async def restore(
    settings: Settings, tasks: Sequence[FileTask], options: RestoreOptions, console: Console
) -> list[Outcome]:
    """Restore files in this process, telling how it goes; a shared queue is left alone."""
    from service.composition.ending import Ending
    from service.composition.gateway import restoring
    from service.local.files import restore_files
    from service.local.progress import FileProgress

    outcomes = []
    with Ending(settings.grace_s) as ending:
        async with restoring(settings.alone(), ending, with_worker=True) as parts:
            with FileProgress(console, len(tasks)) as progress:
                async for outcome in restore_files(parts.gateway, tasks, options, at_once=_FILES_AT_ONCE):
                    progress.tell(outcome)
                    outcomes.append(outcome)
    return outcomes


class _LoggedConsole(Console):
    """Stands for a person's console where machines read what a process writes: complaints are records of the log."""

    def print(self, *objects: Any, **_styles: Any) -> None:
        """Log what would have been shown."""
        logging.getLogger("service.cli").error(" ".join(map(str, objects)))


Serve = Callable[[socket.socket, Callable[[str], None]], Coroutine[Any, Any, "Ended"]]
"""Serves on a bound socket until a signal comes; tells when it is ready."""


def _run_serve(given: argparse.Namespace, settings: Settings, console: Console) -> int:
    from service.composition.gateway import restore_photos

    return _listen(given, settings, console, lambda *where: restore_photos(settings, *where, with_worker=True))


def _run_gateway(given: argparse.Namespace, settings: Settings, console: Console) -> int:
    _require_shared_queue("gateway", settings)
    from service.composition.gateway import restore_photos

    return _listen(given, settings, console, lambda *where: restore_photos(settings, *where, with_worker=False))


def _run_worker(given: argparse.Namespace, settings: Settings, console: Console) -> int:
    _require_shared_queue("worker", settings)
    from service.composition.worker import restore_faces

    return _listen(given, settings, console, lambda *where: restore_faces(settings, *where))


def _require_shared_queue(command: str, settings: Settings) -> None:
    if settings.redis_url is None:
        raise UnusableSettings(
            f"{command} needs {ENV_PREFIX}REDIS_URL, the address of the queue it shares with others; serve does without"
        )


def _listen(given: argparse.Namespace, settings: Settings, console: Console, serve: Serve) -> int:
    from service.composition.http import tcp_socket
    from service.composition.telemetry import telling

    with (
        telling(given.serves, settings, lambda text: console.print(text, highlight=False, markup=False)) as say,
        tcp_socket(given.host) as listener,
    ):
        try:
            listener.bind((given.host, given.port))
            listener.listen()  # only now is the port ours: until then two processes may have bound it
        except (OSError, OverflowError) as error:
            told = f"cannot listen on {given.host}:{given.port}: {error}{_way_out(error, given.serves)}"
            return _complain(console, told, FAILED)
        ended = asyncio.run(serve(listener, say))
    for name, failure in ended.failures.items():
        _complain(console, f"the {name} failed: {failure!r}", FAILED)
    if ended.failures:
        return FAILED
    return INTERRUPTED if ended.was_hurried else OK


def _way_out(error: Exception, command: str) -> str:
    """What can be done about a port that cannot be had."""
    flag = {"serve": "--port, or `make serve PORT=`,", "gateway": "--port", "worker": "--metrics-port"}[command]
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return f". Is it running already? {flag} chooses another"
        case errno.EACCES:
            return f". Ports below 1024 need root; {flag} chooses another"
    return ""


def _run_restore(given: argparse.Namespace, settings: Settings, console: Console) -> int:
    from service.local.files import plan_files
    from service.local.results import check_report, write_report

    fields = _option_fields(given)
    bundle = load_manifest(settings.model_repository)
    try:
        options = parse_options(fields, OptionLimits(bundle.max_num_steps, settings.max_faces))
        tasks = plan_files(given.source, given.target, options.output_format, overwrite=given.overwrite)
        check_report(given.json)
    except InputError as error:
        return _complain(console, _in_words(error), USAGE)
    outcomes = asyncio.run(restore(settings, tasks, options, console))
    if given.json is not None:
        text = json.dumps([_as_json(outcome) for outcome in outcomes], indent=2) + "\n"
        try:
            write_report(given.json, lambda out: out.write(text))
        except OSError as error:
            return _complain(console, f"the report cannot be written: {error}", FAILED)
    return FAILED if any(outcome.error for outcome in outcomes) else OK


def _run_batch(given: argparse.Namespace, settings: Settings, console: Console) -> int:
    from service.batch.journal import UnusableJournal
    from service.client import RestorationError

    try:
        return OK if asyncio.run(_batch(given, settings, console)) else FAILED
    except InputError as error:
        return _complain(console, _in_words(error), USAGE)
    except UnusableJournal as error:
        return _complain(console, str(error), USAGE)
    except RestorationError as error:
        return _complain(console, str(error), UNREACHABLE if error.retryable else FAILED)
    except OSError as error:
        return _complain(console, str(error), FAILED)
    except asyncio.CancelledError:
        return _complain(console, "interrupted", INTERRUPTED)


def _batch(given: argparse.Namespace, settings: Settings, console: Console) -> Coroutine[Any, Any, bool]:
    """The engine's way to restore a batch.

    Raises:
        InvalidOption: An option is wrong.
        UnusableSettings: Ray is not installed.
    """
    fields = _option_fields(given)
    if given.engine == "ray":
        try:
            from service.archive.command import restore_archive
        except ImportError as error:
            raise UnusableSettings.without_extra("--engine ray needs Ray", "ray", error) from error
        return restore_archive(given, fields, settings, console)
    from service.batch.command import restore_folder

    return restore_folder(given, fields, console)


def _run_keys(given: argparse.Namespace, settings: Settings, console: Console) -> int:
    from service.access.command import run
    from service.access.key_file import UnusableKeys

    path = given.file or settings.api_keys_file
    if path is None:
        raise UnusableSettings(f"keys needs --file FILE, or {ENV_PREFIX}API_KEYS_FILE")
    try:
        run(given, path, console)
    except UnusableKeys as error:
        return _complain(console, str(error), USAGE)
    return OK


def _run_doctor(given: argparse.Namespace, settings: Settings, _console: Console) -> int:
    from service.doctor.command import run

    return OK if asyncio.run(run(settings, Console(), as_json=given.json)) else FAILED


def _as_json(outcome: Outcome) -> dict[str, object]:
    paths: dict[str, object] = {"source": str(outcome.task.source), "target": str(outcome.task.target)}
    if outcome.report is not None:
        from service.api.schemas import RestorationSchema

        described = RestorationSchema.of(outcome.report, None)
        return {**paths, "report": described.model_dump(mode="json", exclude={"expires_at", "urls"})}
    error = outcome.error
    return {**paths, "error": {"code": error.code, "title": error.title, "detail": error.detail} if error else None}


def _option_fields(given: argparse.Namespace) -> dict[str, str]:
    return {name: value for name, value in vars(given).items() if name in OptionFields.model_fields and value}


def _in_words(error: ServiceError) -> str:
    return ". ".join(filter(None, (error.detail, in_flags(error.hint))))


def _complain(console: Console, message: str, status: int) -> int:
    console.print(f"latent-pmrf: {message}", markup=False, highlight=False, soft_wrap=True)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("latent-pmrf", description="Restores the faces of photographs.")
    parser.set_defaults(serves="")  # the name of a command that goes on until a signal comes
    parser.add_argument("--version", action="version", version=f"latent-pmrf {version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    for name, run, purpose in (
        ("serve", _run_serve, "serve HTTP and gRPC: queue, sampler and networks in this process"),
        ("gateway", _run_gateway, f"serve HTTP and gRPC; workers on the queue of {ENV_PREFIX}REDIS_URL restore faces"),
    ):
        server = commands.add_parser(name, help=purpose, description=purpose)
        _add_address(server, "--port", "PORT", "8000")
        server.set_defaults(run=run, serves=name)

    purpose = f"restore faces of the queue of {ENV_PREFIX}REDIS_URL"
    worker = commands.add_parser("worker", help=purpose, description=purpose)
    _add_address(worker, "--metrics-port", "METRICS_PORT", "8001", of="health and metrics; ")
    worker.set_defaults(run=_run_worker, serves="worker")

    files = commands.add_parser("restore", help="restore a photo or a folder of photos, without a server")
    files.add_argument("source", metavar="IN", type=Path, help="photo or folder")
    files.add_argument("target", metavar="OUT", type=Path, nargs="?", help="default: IN with `_restored` in its name")
    files.add_argument("--json", metavar="FILE", type=Path, help="write a report of every photo; - for standard output")
    files.add_argument("--overwrite", action="store_true", help="replace OUT where it is a file that exists")
    _add_options(files)
    files.set_defaults(run=_run_restore)

    batch = commands.add_parser(
        "batch", help="restore a folder of any size by a server or by Ray; run again, it does what is left"
    )
    add_arguments(batch)
    _add_options(batch)
    batch.set_defaults(run=_run_batch)

    keys = commands.add_parser("keys", help="make, list and revoke the API keys of a service")
    key_arguments(keys)
    keys.set_defaults(run=_run_keys)

    purpose = "look whether what is installed and configured here works, and say what to do where it does not"
    doctor = commands.add_parser("doctor", help=purpose, description=purpose)
    doctor.add_argument("--json", action="store_true", help="write the findings to standard output as JSON")
    doctor.set_defaults(run=_run_doctor)
    return parser


def _add_options(command: argparse.ArgumentParser) -> None:
    for name, schema in option_schemas().items():
        flag = f"--{name.replace('_', '-')}"
        if schema.get("type") == "boolean":
            command.add_argument(flag, action="store_const", const="true", help=schema["description"])
        else:
            shown = "|".join(schema["enum"]) if "enum" in schema else name.upper()
            command.add_argument(flag, metavar=shown, help=schema["description"].replace("%", "%%"))


def _add_address(command: argparse.ArgumentParser, flag: str, variable: str, port: str, *, of: str = "") -> None:
    command.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"), help="default: HOST, or 127.0.0.1")
    told = f"{of}0 is any that is free; default: {variable}, or {port}"
    default = os.environ.get(variable, port)
    command.add_argument(flag, dest="port", metavar="PORT", default=default, type=int, help=told)


if __name__ == "__main__":
    sys.exit(main())
