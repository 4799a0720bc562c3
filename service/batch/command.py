"""A request for a batch in, what it came to out: server, journal, engine and telling put together.

check folders -> ask the server for its limits -> check options -> open the journal -> run -> report
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import cast

import grpc
from rich.console import Console

from service.batch.folder import FolderPair
from service.batch.items import Engine
from service.batch.journal import Journal
from service.batch.run import Photos, run_batch, write_report
from service.batch.streaming import StreamingEngine
from service.batch.telling import BatchTelling
from service.client import AsyncGrpcClient, Options, Retry
from service.core.errors import InvalidOption, NotFound
from service.core.options import OptionFields, OptionLimits, parse_options
from service.local import results
from service.local.tree import real

JOURNAL_NAME = ".latent-pmrf-batch.jsonl"
_FIRST_ATTEMPTS = 3  # a wrong address is told soon; a server that was there may take its time to come back


async def restore_folder(given: argparse.Namespace, fields: Mapping[str, str], console: Console) -> bool:
    """Restore what is left of a folder; True if every photo of it is restored now.

    Args:
        given: What `service.batch.arguments` declares.
        fields: Options as text, by name.
        console: Told how it goes.

    Raises:
        InputError: Folders, options or the address are wrong; nothing was begun.
        UnusableJournal: The journal belongs to another batch; nothing was begun.
        RestorationError: The server cannot be reached, or refuses; what was done is in the journal.
        OSError: Nothing can be written any more; what was done is in the journal.
        CancelledError: A signal came; likewise.
    """
    if given.server is None:
        raise InvalidOption("--server HOST:PORT is missing", hint="or restore without a service by --engine ray")
    for text in (given.source, given.target):
        if "://" in text:
            raise InvalidOption(f"{text} is no folder", hint="object stores are for --engine ray")
    folders = FolderPair(Path(given.source), Path(given.target), OptionFields.read(fields).output_format)
    folders.check()
    path = given.journal or folders.target / JOURNAL_NAME
    check_report(given.report, path)
    with cancelled_by(signal.SIGTERM):
        async with _client(given, _FIRST_ATTEMPTS) as first:
            limits = await first.limits()
            options = chosen_options(fields, OptionLimits(limits.max_num_steps, limits.max_faces))
        source = str(real(folders.source))
        with Journal(path, options, folders.target, source=source, moved=given.moved, fresh=given.fresh) as journal:
            async with _client(given, given.attempts) as client:
                engine = StreamingEngine(client, cast(Options, options), given.window)
                return await do_the_rest(given, folders, journal, engine, console)


async def do_the_rest(
    given: argparse.Namespace, photos: Photos, journal: Journal, engine: Engine, console: Console
) -> bool:
    """Run a batch, and write its report however that ends; True if every photo of it is restored now.

    Raises:
        NotFound: There are no photos.
        Exception: As of `run_batch`; or an OSError where the report cannot be written.
    """
    telling = BatchTelling(console)
    try:
        with telling:
            await run_batch(photos, journal, engine, telling, retry_failed=given.retry_failed)
    finally:
        if given.report is not None:
            results.write_report(given.report, partial(write_report, journal))
    if telling.nothing_found:
        raise NotFound(f"{given.source} has no photos")
    return telling.all_restored


def check_report(report: Path | None, journal: Path) -> None:
    """Refuse a place for the report that cannot be meant.

    Raises:
        NotFound: Its folder is not there.
        InvalidOption: It is the journal, or nothing can be written there.
    """
    results.check_report(report)
    if report is not None and report.resolve() == journal.resolve():
        raise InvalidOption(f"{report} is the journal", hint="choose another file for the report")


@contextlib.contextmanager
def cancelled_by(number: signal.Signals) -> Iterator[None]:
    """The signal cancels the block, as Ctrl-C does."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is None:
        raise RuntimeError("not in a task")
    loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)


def chosen_options(fields: Mapping[str, str], limits: OptionLimits) -> dict[str, object]:
    """The options that were chosen, as values.

    Raises:
        InvalidOption: A value is wrong, or above the limits.
    """
    parsed = parse_options(fields, limits)
    chosen = {name: getattr(parsed, name) for name in fields}
    return {name: value.value if isinstance(value, Enum) else value for name, value in chosen.items()}


def _client(given: argparse.Namespace, attempts: int) -> AsyncGrpcClient:
    """A client of the server that is named.

    Raises:
        InvalidOption: The address, the key or the token can be none.
        OSError: A file cannot be read.
    """
    host, _, port = given.server.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise InvalidOption(f"--server {given.server}: not HOST:PORT", hint="gRPC is on port 50051 by default")
    headers = {}
    if given.token_file is not None:
        headers["authorization"] = f"Bearer {_secret_in(given.token_file)}"
    api_key = None if given.api_key_file is None else _secret_in(given.api_key_file)
    retry, credentials = Retry(attempts=attempts), _credentials(given)
    try:
        return AsyncGrpcClient(given.server, api_key=api_key, retry=retry, headers=headers, credentials=credentials)
    except ValueError as error:
        hint = "see --api-key-file, LATENT_PMRF_API_KEY and --token-file"
        raise InvalidOption(str(error), hint=hint) from error


def _credentials(given: argparse.Namespace) -> grpc.ChannelCredentials | None:
    files = (given.ca, given.private_key, given.certificate)
    if not given.tls and not any(files):
        return None
    if (given.private_key is None) != (given.certificate is None):
        raise InvalidOption("--certificate and --private-key come together")
    return grpc.ssl_channel_credentials(*(None if file is None else file.read_bytes() for file in files))


def _secret_in(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise InvalidOption(
            f"{file} is no text", hint="it should have the key or the token, and nothing else"
        ) from None
