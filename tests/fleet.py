"""Gateways and workers on one Redis server, each a process of its own; none outlives the block it is made in."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.job_client import ASYNC, ask
from tests.numbered_photos import is_restored, number_of, numbered
from tests.processes import ServiceProcess, command, connect, environment, spawn, until
from tests.redis_servers import RedisServer


class Fleet:
    """Starts and ends processes of one deployment.

    Args:
        bundle: What they serve.
        folder: For what they write.
        server: The queue's.
        settings: Of all of them.
    """

    def __init__(self, bundle: Path, folder: Path, server: RedisServer, **settings: object) -> None:
        self.server = server
        self._bundle = bundle
        self._folder = folder
        self._settings = {"redis_url": server.url, "inference_threads": 1, **settings}
        self._children: list[subprocess.Popen[bytes]] = []
        self._services: list[ServiceProcess] = []
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        for child in self._children:
            child.wait()
        for service in self._services:
            service.client.close()

    def start(self, *kinds: str, bundle: Path | None = None, **settings: object) -> list[ServiceProcess]:
        """Start `gateway`s, `worker`s and `serve`s side by side; those that answer, in the same order."""
        begun = [self._spawn(self._command(kind), bundle, settings) for kind in kinds]
        return [self._connect(*each) for each in begun]

    def start_odd_worker(self, *arguments: str, **settings: object) -> ServiceProcess:
        """Start a worker of `tests.odd_worker`."""
        return self._connect(*self._spawn([sys.executable, "-m", "tests.odd_worker", *arguments], None, settings))

    def logs(self) -> str:
        """What all of them have written."""
        return "".join(path.read_text() for path in sorted(self._folder.glob("*.log")))

    def _connect(self, child: subprocess.Popen[bytes], log: Path) -> ServiceProcess:
        service = connect(child, log)
        self._services.append(service)
        return service

    def _command(self, kind: str) -> list[str]:
        return command(kind, "--metrics-port" if kind == "worker" else "--port", "0")

    def _spawn(
        self, arguments: list[str], bundle: Path | None, settings: dict[str, object]
    ) -> tuple[subprocess.Popen[bytes], Path]:
        log = self._folder / f"{next(self._numbers)}.log"
        variables = environment(bundle or self._bundle, **{**self._settings, **settings})
        child = spawn(arguments, variables, log)
        self._children.append(child)
        return child, log


def until_ready(*services: ServiceProcess) -> None:
    """Wait until all of them say that they are."""
    for service in services:
        until(lambda service=service: not service.reasons_not_ready())


def submit(gateway: ServiceProcess, numbers: Sequence[int], **options: object) -> dict[int, str]:
    """Ask for the restoration of numbered photos as jobs; where they are, by number."""
    where = {}
    for number in numbers:
        answer = ask(gateway.client, numbered(number), {"aligned": "true", **options}, **ASYNC)
        assert answer.status_code == 202, answer.text
        where[number] = answer.headers["location"]
    return where


def state(gateway: ServiceProcess, where: str) -> dict[str, object]:
    """A job as a gateway sees it."""
    return gateway.client.get(where).raise_for_status().json()


def until_ended(gateway: ServiceProcess, where: str) -> dict[str, object]:
    """A job when it has ended; a server that is away is waited for."""

    def ended() -> bool:
        found = gateway.client.get(where)
        return found.status_code == httpx.codes.OK and found.json()["status"] not in ("queued", "running")

    until(ended, pause_s=0.1)
    return state(gateway, where)


def check_results(gateway: ServiceProcess, where: dict[int, str]) -> None:
    """Wait for jobs, and see that each gave its own photo, restored."""
    for number, location in where.items():
        ended = until_ended(gateway, location)
        assert ended["status"] == "succeeded", ended
        check_result(gateway.client.get(f"{location}/result"), number)


def check_result(answer: httpx.Response, number: int) -> None:
    """See that an answer is a numbered photo, restored."""
    assert answer.status_code == httpx.codes.OK, answer.text
    assert number_of(answer.content) == number
    assert is_restored(answer.content)
