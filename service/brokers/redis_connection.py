"""The way to a Redis server: scripts and commands go out, replies or `DependencyUnavailable` come back.

Whatever Redis or the network can do to a call is told apart here: what means "not now" becomes DependencyUnavailable,
anything else is a mistake of ours and stays what it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service.core.errors import DependencyUnavailable

Argument = str | bytes | int | float

_PAUSES_S = (0.02, 0.2)  # before a call is tried again whose connection was lost
_CONNECT_TIMEOUT_S = 2.0
_LOOK_TIMEOUT_S = 1.0
_MAX_CONNECTIONS = 32
_LEAST_BYTES_PER_S = 2**20  # what is sent has as much longer
_PART_BYTES = 4 * 2**20  # of a value that is fetched: each part has the time of a call

# Replies of a server that is there but cannot do it now: as errors of their own, or by their code in the text where a
# command inside a script was refused.
_NO_RIGHTS = (
    (exceptions.NoPermissionError, exceptions.AuthenticationError),
    ("The user executing the script", "unauthenticated"),  # the latter where a command is too long for a stranger's
)
_NO_ROOM = (exceptions.OutOfMemoryError,), ("OOM command",)
_NOT_NOW = (
    (exceptions.ReadOnlyError, exceptions.ClusterDownError, exceptions.TryAgainError),
    ("READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "LOADING", "BUSY "),
)

# What scripts begin with, where that is not `lanes` alone: those know no queue, these want room for what is kept.
_BEFORE: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("knock", "spend", "correct", "put"), ()),
    **dict.fromkeys(("admit", "keep"), ("lanes", "room")),
}


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: its text and the digest under which the server keeps it."""

    text: str
    digest: str


@cache
def _script_files() -> Mapping[str, str]:
    """All scripts, read at once: a process keeps those of its own release when another is installed meanwhile."""
    files = (resources.files("service.brokers") / "scripts").iterdir()
    return {file.name: file.read_text(encoding="utf-8") for file in files if file.name.endswith(".lua")}


@cache
def load_script(name: str) -> Script:
    """`scripts/NAME.lua`, behind what several share."""
    text = "\n".join(_script_files()[f"{part}.lua"] for part in (*_BEFORE.get(name, ("lanes",)), name))
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def as_ms(seconds: float) -> int:
    """Whole milliseconds, and at least one: Redis refuses a time to live of none."""
    return max(1, round(seconds * 1000))


class RedisConnection:
    """A pool of connections to one server.

    Args:
        url: `redis://`, `rediss://` or `unix://` address.
        timeout_s: Longest wait for one reply, and for a free connection; longer by a second for each MiB that is sent.

    Raises:
        ValueError: The address is not one.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        _check_address(url)
        self._timeout_s = timeout_s
        self._closed = False
        self._pool: Any = BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=timeout_s,
            protocol=2,
            socket_timeout=None,  # the client's own way to keep it swallows cancellations
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),  # trying again is decided here, by what a call does
        )
        self._client: Any = Redis(connection_pool=self._pool)  # its types tell of str and bytes at once

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument], *, again: bool = True) -> Any:  # noqa: ANN401 - what a script returns
        """Run a script.

        Args:
            name: Which one.
            keys: Names it uses.
            arguments: What it is told.
            again: Whether it may run twice, when the connection was lost before the reply had come.

        Raises:
            DependencyUnavailable: The server does not answer, or cannot do it now.
        """
        script = load_script(name)
        tail = (len(keys), *keys, *arguments)
        try:
            return await self._call(("EVALSHA", script.digest, *tail), again=again)
        except exceptions.NoScriptError:
            return await self._call(("EVAL", script.text, *tail), again=again)

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values of keys, None where there is none or an empty one.

        Raises:
            DependencyUnavailable: The server does not answer.
        """
        return [await self._get(name) for name in names]

    async def exists(self, name: str) -> bool:
        """Whether there is such a key.

        Raises:
            DependencyUnavailable: The server does not answer.
        """
        return bool(await self._call(("EXISTS", name)))

    async def put(self, name: str, value: bytes, *, ttl_ms: int) -> None:
        """Set a key for a while, also where the memory is full.

        Raises:
            DependencyUnavailable: The server does not answer, or cannot do it now.
        """
        await self.run("put", [name], [value, ttl_ms])

    async def can_write(self, name: str, timeout_s: float = _LOOK_TIMEOUT_S) -> bool:
        """Whether the server is there and lets a key that has no time to live be written, within that time."""
        with contextlib.suppress(TimeoutError, DependencyUnavailable, exceptions.ResponseError):
            async with asyncio.timeout(timeout_s):
                await self._call(("PERSIST", name))  # it changes nothing, and a full memory does not refuse it
                return True
        return False

    async def facts(self) -> dict[str, Any]:
        """What the server tells of itself (`INFO`), by Redis' names.

        Raises:
            DependencyUnavailable: The server does not answer.
        """
        return dict(await self._call(("INFO",)))

    def make_connection(self) -> Any:  # noqa: ANN401
        """A connection outside the pool, not open yet."""
        return self._pool.make_connection()

    async def close(self) -> None:
        """Close every connection; what is asked from now on is not answered."""
        self._closed = True
        await self._client.aclose()
        await self._pool.aclose()

    async def _get(self, name: str) -> bytes | None:
        parts: list[bytes] = []
        while not parts or len(parts[-1]) == _PART_BYTES:
            start = len(parts) * _PART_BYTES
            parts.append(await self._call(("GETRANGE", name, start, start + _PART_BYTES - 1)))
        value = b"".join(parts)
        if len(parts) > 1 and not parts[-1] and await self._call(("STRLEN", name)) != len(value):
            return None  # it went meanwhile
        return value or None

    async def _call(self, command: Sequence[Argument], *, again: bool = True) -> Any:  # noqa: ANN401
        pauses_s = [*_PAUSES_S] if again else []
        sent_bytes = sum(len(argument) for argument in command if isinstance(argument, bytes))
        timeout_s = self._timeout_s + sent_bytes / _LEAST_BYTES_PER_S
        while True:
            if self._closed:
                raise DependencyUnavailable("the connection to the queue's server is closed")
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._client.execute_command(*command)
            except (exceptions.RedisError, OSError) as error:
                unavailable = _unavailable(error)
                if unavailable is None:
                    raise
                if not (pauses_s and isinstance(error, exceptions.ConnectionError)):
                    # After a failover the address may lead to another server; connections stay with the old one.
                    await self._pool.disconnect(inuse_connections=False)
                    raise unavailable from error
            await asyncio.sleep(pauses_s.pop(0))


def _check_address(url: str) -> None:
    """Refuse one that cannot be taken apart: whoever does so tells of it with what may be a part of the password.

    Raises:
        ValueError: It cannot.
    """
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise ValueError(
            "its host or port is none; in a user's name and a password / # ? : @ [ and ] are written as %2F and so on"
        ) from None


def _unavailable(error: Exception) -> DependencyUnavailable | None:
    """What to tell the caller where an error means "not now", else None."""
    if _is_one_of(error, *_NO_RIGHTS):
        return DependencyUnavailable("the queue's server refuses this to its user", hint="try again later")
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError):
        return DependencyUnavailable("the queue's server does not answer", hint="try again later")
    if _is_one_of(error, *_NO_ROOM):
        return DependencyUnavailable("the queue's server is out of memory", hint="try again later")
    if _is_one_of(error, *_NOT_NOW):
        return DependencyUnavailable("the queue's server cannot do this now", hint="try again later")
    return None


def _is_one_of(error: Exception, kinds: tuple[type[Exception], ...], codes: tuple[str, ...]) -> bool:
    return isinstance(error, kinds) or any(code in str(error) for code in codes)
