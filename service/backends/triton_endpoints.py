"""Triton servers that have the same networks: which of them can be called now, in turn.

    addresses -> checked (ready, the right networks) -> usable -> call ... error, hung up -> suspect -> checked again

A server is called only after its networks have been compared with the manifest, and again after every time it was
suspect: what comes back under an old address may be something else. gRPC connects anew without a word, so that what was
compared holds for one connection: whoever calls looks at `Endpoint.hung_up` before and after. A server with a GPU that
hangs or fails says that it is ready all the same: a network that was late or broke must answer a small call first.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from service.backends.triton_contract import TritonNetwork, check_config, missing
from service.backends.triton_status import status_of, words_of
from service.core.errors import DependencyUnavailable, ManifestMismatch
from service.core.tasks import end_tasks

_SECURE = "grpcs://"
_PLAIN = "grpc://"
_LONGEST_MESSAGE_BYTES = 2**31 - 1
# A server that vanished without a word is noticed after the sum of both, in the middle of a call only. gRPC asks twice
# at this pace and then once a minute, which Triton bears: a call of 110 s was answered.
_KEEPALIVE_S = 10.0
_KEEPALIVE_TIMEOUT_S = 10.0
_LONGEST_RECONNECT_S = 1.0
_CHECK_S = 5.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for servers with `grpcs://`; None takes gRPC's default.

    Attributes:
        ca: Who vouches for the servers.
        certificate: Ours, where servers ask for one.
        key: Its key.

    Raises:
        ValueError: There is a certificate without a key, or a key without a certificate.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        """Refuse half of a pair."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate needs its key, and a key its certificate")


@dataclass(eq=False, slots=True)
class Endpoint:
    """One server.

    Attributes:
        address: As the operator wrote it.
        client: The way there.
        usable: It may be called.
        trouble: Why it may not.
        mismatch: That it has other networks, if that is why.
        doubted: Names of networks that were late or broke, and have not answered a small call since.
        checks: How often it was found usable; whoever keeps things on a server must bring them again when this grows.
        hung_up: How often a connection to it has ended; an answer during which this grows may be another server's.
    """

    address: str
    client: Any
    usable: bool = False
    trouble: str = "not asked yet"
    mismatch: ManifestMismatch | None = None
    doubted: set[str] = field(default_factory=set)
    checks: int = 0
    hung_up: int = 0


SmallCall = Callable[[Endpoint, TritonNetwork], Awaitable[object]]
"""Has a server compute a network once; raises InferenceServerException where it does not."""


class Endpoints:
    """The servers of one process.

    Args:
        addresses: `grpc://HOST:PORT`, or `grpcs://` where the server has TLS.
        networks: What each of them must have.
        tls: For those with TLS.
        small_call: Tells whether a network that was late or broke computes again.
    """

    def __init__(
        self, addresses: Sequence[str], networks: Collection[TritonNetwork], tls: TlsFiles, small_call: SmallCall
    ) -> None:
        self._networks = tuple(networks)
        self._small_call = small_call
        self._endpoints = [Endpoint(address, _client(address, tls)) for address in addresses]
        self._turns = itertools.count()
        self._recoveries: dict[Endpoint, asyncio.Task[None]] = {}
        self._watches: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._closed = False

    async def start(self, patience_s: float) -> None:
        """Wait until a server can be called.

        Raises:
            ManifestMismatch: A server that answers has other networks.
            DependencyUnavailable: None was ready within `patience_s`.
        """
        until_s = _now() + patience_s
        self._watches = self._watches or [
            asyncio.create_task(self._connections(endpoint), name=f"connections to {endpoint.address}")
            for endpoint in self._endpoints
        ]
        await asyncio.gather(*map(self._check, self._endpoints))
        for endpoint in self._endpoints:
            if not endpoint.usable:
                self._recover(endpoint)
        while True:
            for endpoint in self._endpoints:
                if endpoint.mismatch is not None:
                    raise endpoint.mismatch
            if self.usable():
                return
            await self._change(until_s)

    async def pick(self, until_s: float, other_than: Endpoint | None = None) -> Endpoint:
        """The next server in turn that can be called, by the event loop's time; if there is another, not `other_than`.

        Raises:
            DependencyUnavailable: There was none in time; the message says why.
        """
        while True:
            usable = self.usable()
            choice = [endpoint for endpoint in usable if endpoint is not other_than] or usable
            if choice:
                return choice[next(self._turns) % len(choice)]
            await self._change(until_s)

    def doubt(self, endpoint: Endpoint, network: TritonNetwork, trouble: str) -> None:
        """Do not call a server until it has been checked again, and a network of it has answered a small call."""
        endpoint.doubted.add(network.name)
        self.suspect(endpoint, trouble)

    def suspect(self, endpoint: Endpoint, trouble: str) -> None:
        """Do not call a server until it has been checked again."""
        if endpoint.usable:
            logger.warning("Triton at %s: %s", endpoint.address, trouble)
            endpoint.usable, endpoint.trouble = False, trouble
            self._recover(endpoint)

    async def ready(self) -> bool:
        """Whether a server can be called; those that seem so are asked."""
        seemed = self.usable()
        answers = await asyncio.gather(*map(_is_ready, seemed))
        for endpoint, answer in zip(seemed, answers, strict=True):
            if not answer:
                self.suspect(endpoint, "is not ready")
        return any(answers)

    def usable(self) -> list[Endpoint]:
        """The servers that can be called."""
        return [endpoint for endpoint in self._endpoints if endpoint.usable]

    async def close(self) -> None:
        """Check nobody any more, hang up, and send away who waits for a server."""
        self._closed = True
        self._news.set()
        await end_tasks(*self._recoveries.values(), *self._watches)
        for endpoint in self._endpoints:
            endpoint.usable, endpoint.trouble = False, "closed"
            await endpoint.client.close()

    async def _change(self, until_s: float) -> None:
        """Wait until a server's state is another.

        Raises:
            DependencyUnavailable: None is by then, or nobody will be called any more.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await self._news.wait()
                if not self._closed:
                    return
        told = "; ".join(f"{endpoint.address}: {endpoint.trouble}" for endpoint in self._endpoints)
        raise DependencyUnavailable(f"no Triton server can be called: {told}")

    async def _connections(self, endpoint: Endpoint) -> None:
        """Suspect a server whenever a connection to it has ended: the next may lead to another one."""
        channel = endpoint.client._channel  # the client tells nobody
        state = channel.get_state()
        while True:
            await channel.wait_for_state_change(state)
            before, state = state, channel.get_state()
            if before is grpc.ChannelConnectivity.READY:
                endpoint.hung_up += 1
                self.suspect(endpoint, "the connection has ended")

    def _recover(self, endpoint: Endpoint) -> None:
        running = self._recoveries.get(endpoint)
        if running is not None and not running.done():
            return
        task = asyncio.create_task(self._recovery(endpoint), name=f"check of {endpoint.address}")
        self._recoveries[endpoint] = task

    async def _recovery(self, endpoint: Endpoint) -> None:
        pause_s = _FIRST_PAUSE_S
        while not await self._check(endpoint):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        logger.warning("Triton at %s can be called", endpoint.address)

    async def _check(self, endpoint: Endpoint) -> bool:
        """Compare a server with what it must have; its state says what was found."""
        mismatch = None
        try:
            hung_up = endpoint.hung_up
            async with asyncio.timeout(_CHECK_S):
                await self._compare(endpoint)
            await self._try_out(endpoint)
            if endpoint.hung_up != hung_up:
                raise DependencyUnavailable("the connection has ended while it was checked")
        except ManifestMismatch as error:
            mismatch, trouble = error, error.detail
        except DependencyUnavailable as error:
            trouble = error.detail
        except InferenceServerException as error:
            trouble = words_of(error)
        except TimeoutError:
            trouble = f"does not answer within {_CHECK_S:g} s"
        except Exception as error:  # such as a type of data that the client does not know; it may be mended
            trouble = f"cannot be checked: {error}"
            if trouble != endpoint.trouble:
                logger.exception("unexpected error while Triton at %s was checked", endpoint.address)
        else:
            trouble = ""
        if mismatch is not None and endpoint.mismatch is None:
            logger.error("Triton at %s: %s", endpoint.address, trouble)
        endpoint.usable, endpoint.trouble, endpoint.mismatch = not trouble, trouble, mismatch
        endpoint.checks += endpoint.usable
        self._news.set()
        self._news = asyncio.Event()
        return endpoint.usable

    async def _compare(self, endpoint: Endpoint) -> None:
        client = endpoint.client
        for network in self._networks:
            try:
                answer = await client.get_model_config(network.name)
            except InferenceServerException as error:
                if status_of(error).name == "NOT_FOUND":
                    raise missing(network) from error
                raise
            check_config(network, answer.config)
            if not await client.is_model_ready(network.name):
                raise DependencyUnavailable(f"its model {network.name} is not ready")

    async def _try_out(self, endpoint: Endpoint) -> None:
        for network in [network for network in self._networks if network.name in endpoint.doubted]:
            await self._small_call(endpoint, network)
            endpoint.doubted.discard(network.name)


async def _is_ready(endpoint: Endpoint) -> bool:
    try:
        return bool(await endpoint.client.is_server_ready(client_timeout=_CHECK_S))
    except InferenceServerException:
        return False


def _client(address: str, tls: TlsFiles) -> Any:  # noqa: ANN401 - the library has no types
    return InferenceServerClient(
        address.removeprefix(_SECURE).removeprefix(_PLAIN),
        ssl=address.startswith(_SECURE),
        root_certificates=_text(tls.ca),
        private_key=_text(tls.key),
        certificate_chain=_text(tls.certificate),
        channel_args=[
            ("grpc.max_send_message_length", _LONGEST_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _LONGEST_MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", round(1000 * _KEEPALIVE_S)),
            ("grpc.keepalive_timeout_ms", round(1000 * _KEEPALIVE_TIMEOUT_S)),
            ("grpc.http2.ping_timeout_ms", round(1000 * _KEEPALIVE_TIMEOUT_S)),  # else a minute, whatever the other
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.http2.max_pings_without_data", 2),
            # gRPC's own pause grows to two minutes, and whoever calls meanwhile is told of the failure before it.
            ("grpc.initial_reconnect_backoff_ms", round(1000 * _FIRST_PAUSE_S)),
            ("grpc.min_reconnect_backoff_ms", round(1000 * _LONGEST_RECONNECT_S)),
            ("grpc.max_reconnect_backoff_ms", round(1000 * _LONGEST_RECONNECT_S)),
            ("grpc.enable_retries", 0),  # whether a call is made again is decided here
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _now() -> float:
    return asyncio.get_running_loop().time()
