"""Starts the service as its users do, in a process of its own, and looks at that process from outside."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import httpx
import psutil

SERVE = ("-m", "service.cli", "serve")

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 60.0
_TOLD_CHARS = 4000


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service under measurement.

    Attributes:
        client: HTTP client of its address.
        process: Its operating-system process.
        start_s: Seconds from the start of the process to readiness.
    """

    client: httpx.Client
    process: psutil.Process
    start_s: float

    def resident_bytes(self) -> int:
        """As of the process."""
        return resident_bytes(self.process.pid)

    def processor_s(self) -> float:
        """Processor time that the process has taken, its children's and that of children that have ended included."""
        spent = 0.0
        for member in (self.process, *self.process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                spent += times.user + times.system + times.children_user + times.children_system
        return float(spent)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children, what they share counted for each; 0 once it has ended."""
    members: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        own = psutil.Process(pid)
        members = [own, *own.children(recursive=True)]
    resident = 0
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that decodes, and was done with
            resident += int(member.memory_info().rss)
    return resident


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A loopback port that nobody listens on: for the duration of the block nobody is given it who asks for any.

    Who asks for this one has it, as often as he likes: who binds without listening is no hindrance to a server, which
    allows for that (`SO_REUSEADDR`).
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port


@contextlib.contextmanager
def running_service(
    settings: Mapping[str, str] | None = None, command: Sequence[str] = SERVE
) -> Iterator[RunningService]:
    """Start a server on a free loopback port; it ends with the block.

    Args:
        settings: Environment variables for it (`LATENT_PMRF_...`).
        command: What this interpreter runs, with `--host` and `--port` behind it.

    Raises:
        RuntimeError: It ended early or did not become ready.
    """
    begin_s = time.perf_counter()
    with (
        held_port() as port,
        tempfile.TemporaryFile() as log,
        subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **(settings or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as child,
    ):
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300.0) as client:
                _wait_until_ready(client, child, log)
                yield RunningService(client, psutil.Process(child.pid), time.perf_counter() - begin_s)
        finally:
            child.terminate()
            try:
                child.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()


def _wait_until_ready(client: httpx.Client, child: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if child.poll() is not None:
            log.seek(0)
            told = log.read().decode(errors="replace")[-_TOLD_CHARS:]
            raise RuntimeError(f"the service ended with status {child.returncode} before it was ready:\n{told}")
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").status_code == httpx.codes.OK:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the service was not ready after {_START_TIMEOUT_S:g} s")
