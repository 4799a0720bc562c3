"""The service as its users start it: a process of its own on a free port, watched from outside."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
_START_TIMEOUT_S = 90
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A service that is ready.

    Attributes:
        child: Its process.
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


def command(*arguments: str) -> list[str]:
    """`latent-pmrf` with these arguments."""
    return [sys.executable, "-m", "service.cli", *arguments]


def environment(bundle: Path, **settings: object) -> dict[str, str]:
    """An environment with these settings and no others of ours."""
    foreign = {name: value for name, value in os.environ.items() if not name.upper().startswith("LATENT_PMRF_")}
    own = {f"LATENT_PMRF_{name.upper()}": str(value) for name, value in settings.items()}
    return {**foreign, **own, "LATENT_PMRF_MODEL_REPOSITORY": str(bundle)}


@contextlib.contextmanager
def service_process(bundle: Path, log: Path, **settings: object) -> Iterator[ServiceProcess]:
    """Start `latent-pmrf serve` and wait until it is ready; it ends with the block."""
    with log.open("wb") as written:
        child = subprocess.Popen(
            command("serve", "--port", "0"), cwd=ROOT, env=environment(bundle, **settings), stderr=written
        )
    try:
        port = _wait_for_port(child, log)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=240) as client:
            client.get("/readyz").raise_for_status()
            yield ServiceProcess(child, client, port, log)
    finally:
        child.terminate()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for_port(child: subprocess.Popen[bytes], log: Path) -> int:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        found = _ADDRESS.search(log.read_text())
        if found:
            return int(found[1])
        if child.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"the service did not start: {log.read_text()}")
