"""The service as its users start it: processes of their own on free ports, watched from outside."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_S = 120.0
_PAUSE_S = 0.02
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)(?=\"|$)", re.MULTILINE)  # at the end of a line, or of a JSON message
_RPC_ADDRESS = re.compile(r"gRPC on (127\.0\.0\.1:\d+)(?=\"|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A process of the service that answers.

    Attributes:
        child: The process.
        client: A client of its address.
        port: Where it listens.
        log: What it writes.
    """

    child: subprocess.Popen[bytes]
    client: httpx.Client
    port: int
    log: Path

    def resident_bytes(self) -> int:
        """Memory it holds."""
        return psutil.Process(self.child.pid).memory_info().rss

    def metrics(self) -> str:
        """Its metrics as text."""
        return self.client.get("/metrics").text

    @property
    def rpc_address(self) -> str:
        """Where it answers gRPC; `grpc_port` -1 among its settings lets it."""
        return _RPC_ADDRESS.findall(self.log.read_text())[0]

    def counted(self, name: str) -> float:
        """Sum of a metric over its labels, by the name before the braces."""
        lines = [line.rsplit(" ", 1) for line in self.metrics().splitlines() if re.match(rf"{name}[ {{]", line)]
        return sum(float(value) for _, value in lines)

    def reasons_not_ready(self) -> list[str]:
        """What it says of its readiness; empty when it is ready."""
        return list(self.client.get("/readyz").json()["reasons"])

    def kill(self) -> None:
        """End it at once, as `kill -9` and a power cut do."""
        self.child.kill()
        self.child.wait()


def command(*arguments: str) -> list[str]:
    """`latent-pmrf` with these arguments."""
    return [sys.executable, "-m", "service.cli", *arguments]


def environment(bundle: Path, **settings: object) -> dict[str, str]:
    """An environment with these settings and no others of ours."""
    foreign = {name: value for name, value in os.environ.items() if not name.upper().startswith("LATENT_PMRF_")}
    given = {
        "grpc_port": 0,
        "latency_objective_s": 3600,
        **settings,
    }  # as for services in this process: tests/conftest.py
    own = {f"LATENT_PMRF_{name.upper()}": str(value) for name, value in given.items()}
    return {**foreign, **own, "LATENT_PMRF_MODEL_REPOSITORY": str(bundle)}


def only_these(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    """Let a command that runs in this process see these settings and no others of ours."""
    for name in os.environ:
        if name.startswith("LATENT_PMRF_"):
            monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(f"LATENT_PMRF_{name.upper()}", str(value))


def spawn(arguments: Sequence[str], variables: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that writes to `log`; whoever calls this ends it."""
    with log.open("wb") as written:
        return subprocess.Popen(arguments, cwd=ROOT, env=variables, stderr=written)


def connect(child: subprocess.Popen[bytes], log: Path) -> ServiceProcess:
    """Wait until a process tells its address.

    Raises:
        RuntimeError: It ended first, or took too long.
    """
    until(lambda: _ADDRESS.search(log.read_text()) or child.poll() is not None)
    found = _ADDRESS.search(log.read_text())
    if found is None:
        raise RuntimeError(f"the process did not start: {log.read_text()}")
    port = int(found[1])
    return ServiceProcess(child, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=240), port, log)


def until(condition: Callable[[], object], patience_s: float = _PATIENCE_S, pause_s: float = _PAUSE_S) -> None:
    """Wait for something that is bound to happen.

    Raises:
        RuntimeError: It has not happened after a time that is generous on any machine.
    """
    deadline_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"not within {patience_s:g} s")
        time.sleep(pause_s)


@contextlib.contextmanager
def service_process(bundle: Path, log: Path, **settings: object) -> Iterator[ServiceProcess]:
    """Start `latent-pmrf serve` and wait until it is ready; it ends with the block."""
    child = spawn(command("serve", "--port", "0"), environment(bundle, **settings), log)
    try:
        running = connect(child, log)
        with running.client:
            until(lambda: not running.reasons_not_ready())
            yield running
    finally:
        child.terminate()
        try:
            child.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
