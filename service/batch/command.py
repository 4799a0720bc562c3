"""A request for a batch in, what it came to out: server, journal, engine and telling put together.

check folders -> ask the server for its limits -> check options -> open the journal -> run -> report
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Self, cast

import grpc
from rich.console import Console

from service.batch.folder import FolderPair
from service.batch.journal import Journal
from service.batch.run import run_batch, write_report
from service.batch.streaming import StreamingEngine
from service.batch.telling import BatchTelling
from service.client import AsyncGrpcClient, Options, Retry
from service.core.errors import InvalidOption, NotFound
from service.core.options import OptionFields, OptionLimits, parse_options
from service.local import results
from service.local.tree import real

JOURNAL_NAME = ".latent-pmrf-batch.jsonl"
_FIRST_ATTEMPTS = 3  # a wrong address is told soon; a server that was there may take its time to come back


@dataclass(frozen=True, slots=True)
class Server:
    """Where the service is.

    Attributes:
        address: `HOST:PORT` of gRPC.
        tls: Whether the connection is encrypted.
        ca_file: Certificates to trust instead of the system's, or None.
        token_file: Its content is sent as a bearer token, for a proxy that asks for one; or None.
        api_key_file: Its content is the service's API key; None: that of `LATENT_PMRF_API_KEY`, if there is one.
        certificate_file: PEM of the certificate to show, where the service asks for one; or None.
        private_key_file: PEM of its key; or None.
        attempts: Attempts in a row without an answer before the server counts as gone.
    """

    address: str
    tls: bool
    ca_file: Path | None
    token_file: Path | None
    api_key_file: Path | None
    certificate_file: Path | None
    private_key_file: Path | None
    attempts: int

    def client(self, attempts: int | None = None) -> AsyncGrpcClient:
        """A client of it.

        Raises:
            InvalidOption: The address, the key or the token can be none.
            OSError: A file cannot be read.
        """
        host, _, port = self.address.rpartition(":")
        if not host or "/" in host or not port.isdigit():
            raise InvalidOption(f"--server {self.address}: not HOST:PORT", hint="gRPC is on port 50051 by default")
        headers = {}
        if self.token_file is not None:
            headers["authorization"] = f"Bearer {_secret_in(self.token_file)}"
        api_key = None if self.api_key_file is None else _secret_in(self.api_key_file)
        retry = Retry(attempts=attempts or self.attempts)
        try:
            return AsyncGrpcClient(
                self.address, api_key=api_key, retry=retry, headers=headers, credentials=self._credentials()
            )
        except ValueError as error:
            hint = "see --api-key-file, LATENT_PMRF_API_KEY and --token-file"
            raise InvalidOption(str(error), hint=hint) from error

    def _credentials(self) -> grpc.ChannelCredentials | None:
        files = (self.ca_file, self.private_key_file, self.certificate_file)
        if not self.tls and not any(files):
            return None
        if (self.private_key_file is None) != (self.certificate_file is None):
            raise InvalidOption("--certificate and --private-key come together")
        return grpc.ssl_channel_credentials(*(None if file is None else file.read_bytes() for file in files))


def _secret_in(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise InvalidOption(
            f"{file} is no text", hint="it should have the key or the token, and nothing else"
        ) from None


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What the command line asks for.

    Attributes:
        server: Restores.
        folders: Where the photos are and the results go.
        fields: Options as text, by name.
        journal: What was done before; None: in the folder of the results.
        report: Where the report goes, `-` for standard output; None: no report.
        window: Photos that may be unanswered at once.
        moved: The photos were elsewhere before.
        fresh: Forget what was done before.
        retry_failed: Try photos again, too, that cannot succeed.
    """

    server: Server
    folders: FolderPair
    fields: Mapping[str, str]
    journal: Path | None
    report: Path | None
    window: int
    moved: bool
    fresh: bool
    retry_failed: bool

    @property
    def journal_path(self) -> Path:
        """Where the journal is."""
        return self.journal or self.folders.target / JOURNAL_NAME

    @classmethod
    def of(cls, given: argparse.Namespace, fields: Mapping[str, str]) -> Self:
        """Read the command line.

        Args:
            given: What `service.batch.arguments` declares.
            fields: Options as text, by name.

        Raises:
            InvalidOption: An option is wrong; those that depend on the server are checked later.
        """
        if given.server is None:
            raise InvalidOption("--server HOST:PORT is missing", hint="or restore without a service by --engine ray")
        for text in (given.source, given.target):
            if "://" in text:
                raise InvalidOption(f"{text} is no folder", hint="object stores are for --engine ray")
        return cls(
            server=Server(
                address=given.server,
                tls=given.tls,
                ca_file=given.ca,
                token_file=given.token_file,
                api_key_file=given.api_key_file,
                certificate_file=given.certificate,
                private_key_file=given.private_key,
                attempts=given.attempts,
            ),
            folders=FolderPair(Path(given.source), Path(given.target), OptionFields.read(fields).output_format),
            fields=fields,
            journal=given.journal,
            report=given.report,
            window=given.window,
            moved=given.moved,
            fresh=given.fresh,
            retry_failed=given.retry_failed,
        )


async def restore_folder(request: BatchRequest, console: Console) -> bool:
    """Restore what is left of a folder; True if every photo of it is restored now.

    Raises:
        InputError: Folders, options or the address are wrong; nothing was begun.
        UnusableJournal: The journal belongs to another batch; nothing was begun.
        RestorationError: The server cannot be reached, or refuses; what was done is in the journal.
        OSError: Nothing can be written any more; what was done is in the journal.
        CancelledError: A signal came; likewise.
    """
    request.folders.check()
    check_report(request.report, request.journal_path)
    with cancelled_by(signal.SIGTERM):
        async with request.server.client(_FIRST_ATTEMPTS) as first:
            limits = await first.limits()
            options = chosen_options(request.fields, OptionLimits(limits.max_num_steps, limits.max_faces))
        telling = BatchTelling(console)
        journal = Journal(
            request.journal_path,
            options,
            request.folders.target,
            source=str(real(request.folders.source)),
            moved=request.moved,
            fresh=request.fresh,
        )
        with journal:
            async with reported(request.report, journal), request.server.client() as client:
                engine = StreamingEngine(client, cast(Options, options), request.window)
                with telling:
                    await run_batch(request.folders, journal, engine, telling, retry_failed=request.retry_failed)
    if telling.nothing_found:
        raise NotFound(f"{request.folders.source} has no photos")
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


@contextlib.asynccontextmanager
async def reported(report: Path | None, journal: Journal) -> AsyncIterator[None]:
    """The report is written however the block ends; one that is there is kept until the new one is whole."""
    try:
        yield
    finally:
        if report is not None:
            results.write_report(report, partial(write_report, journal))


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
