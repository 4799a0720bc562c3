"""Network calls by Triton servers: gRPC, several servers in turn, each checked against the manifest.

    infer -> next usable server -> (wire | shared memory) -> finite float32 outputs
                   ▲      │ away, full, ending
                   └──────┘ within the call's time, a few times at most

A network call has no effects, so one that was lost on the way may be made again; one that the server has answered with
an error never is, for it may be what breaks a server. Cancelling `infer` withdraws the call from the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

import numpy as np
from tritonclient.utils import InferenceServerException

from service.backends.triton_contract import TritonNetwork, networks_of
from service.backends.triton_endpoints import Endpoint, Endpoints, TlsFiles
from service.backends.triton_shared_memory import ThroughSharedMemory
from service.backends.triton_status import Verdict, verdict_of, words_of
from service.backends.triton_wire import OverTheWire
from service.core.errors import DependencyUnavailable, InferenceFailed
from service.core.interfaces import Arrays, Tensors
from service.core.manifest import Manifest
from service.core.metrics import Metrics

_MOST_ATTEMPTS = 3  # a call that ends its servers must not end them all
_FIRST_PAUSE_S = 0.05
_SMALL_PX = 128  # of the detector's views


class TritonBackend:
    """Implements `service.core.interfaces.InferenceBackend`; `start` before use.

    Args:
        manifest: The bundle's contract.
        addresses: Servers, as `grpc://HOST:PORT` or `grpcs://HOST:PORT`.
        metrics: Told about every call.
        timeout_s: Longest time of one network call, all its attempts together.
        tls: For servers with `grpcs://`.
        shared_memory: Pass pixels through /dev/shm; the servers must be on this host and see the same one.
        rows: Most faces that this process has in a call, so that it knows what that takes; None: all that a call may.
        only: Names of the networks that this process calls, `detector` among them or not; None for all.
    """

    concurrent = True

    def __init__(  # noqa: PLR0913 - what a deployment sets
        self,
        manifest: Manifest,
        addresses: Sequence[str],
        *,
        metrics: Metrics,
        timeout_s: float,
        tls: TlsFiles | None = None,
        shared_memory: bool = False,
        rows: int | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        self._networks = networks_of(manifest, only)
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._transport: OverTheWire | ThroughSharedMemory = OverTheWire()
        if shared_memory:
            largest = [(network, _most_rows(network, manifest, rows)) for network in self._networks.values()]
            self._transport = ThroughSharedMemory(largest)
        self._endpoints = Endpoints(addresses, self._networks.values(), tls or TlsFiles(), self._small_call)

    async def start(self, patience_s: float) -> None:
        """Wait until a server has every network, ready.

        Raises:
            ManifestMismatch: A server has other networks; the message names the field.
            DependencyUnavailable: None was ready within `patience_s`, there is too little shared memory, or one does
                not find it; the message says why.
        """
        await self._endpoints.start(patience_s)
        for endpoint in self._endpoints.usable():
            await self._transport.try_out(endpoint)

    async def infer(self, network: str, inputs: Tensors) -> Arrays:
        """Run one network on a batch.

        Raises:
            InferenceFailed: As of the protocol.
            DependencyUnavailable: No server has answered in time.
        """
        found = self._networks.get(network)
        if found is None:
            raise InferenceFailed(f"{network}: there is no such network, or the backend is closed")
        missing = [spec.name for spec in found.inputs if spec.name not in inputs]
        if missing or len(inputs) != len(found.inputs):
            raise InferenceFailed(f"{network}: the inputs are {sorted(inputs)}")
        begin_s = time.perf_counter()
        outputs = await self._attempts(found, inputs)
        odd = await asyncio.to_thread(_not_finite, outputs)
        if odd:
            raise InferenceFailed(f"{network}: output {odd[0]} is not finite", hint="try again")
        rows = len(next(iter(outputs.values())))
        self._metrics.observe_network(network, rows, time.perf_counter() - begin_s)
        return outputs

    async def ready(self) -> bool:
        """Whether a server can be called."""
        return bool(self._networks) and await self._endpoints.ready()

    async def close(self) -> None:
        """Take no more calls and hang up."""
        self._networks = {}
        await self._transport.close()
        await self._endpoints.close()

    async def _attempts(self, network: TritonNetwork, inputs: Tensors) -> Arrays:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._timeout_s
        last: Endpoint | None = None
        for attempt in range(_MOST_ATTEMPTS):
            endpoint = await self._endpoints.pick(until_s, other_than=last)
            if endpoint is last:
                await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
            left_s = until_s - loop.time()
            if left_s <= 0:
                break
            last, hung_up = endpoint, endpoint.hung_up
            try:
                outputs = await self._transport.call(endpoint, network, inputs, left_s)
            except InferenceServerException as error:
                said = words_of(error)
                if self._blamed(endpoint, network, error) is Verdict.LATE:
                    break
            else:
                if endpoint.hung_up == hung_up:
                    return outputs
                said = "the connection has ended, and the answer may be another server's"
        else:
            raise DependencyUnavailable(f"{network.name}: no answer of Triton in {_MOST_ATTEMPTS} attempts: {said}")
        raise DependencyUnavailable(f"{network.name}: no answer of Triton within {self._timeout_s:g} s")

    def _blamed(self, endpoint: Endpoint, network: TritonNetwork, error: InferenceServerException) -> Verdict:
        """What follows for a call that a server did not do, once the server is treated accordingly.

        Raises:
            InferenceFailed: The call is not to be made again.
        """
        verdict, told = verdict_of(error), f"{network.name}: {words_of(error)}"
        if verdict in (Verdict.LATE, Verdict.BROKE):
            self._endpoints.doubt(endpoint, network, told)
        elif verdict is Verdict.ELSEWHERE:
            self._endpoints.suspect(endpoint, told)
        if verdict in (Verdict.FAILED, Verdict.BROKE):
            raise InferenceFailed(told, hint="try again") from error
        return verdict

    async def _small_call(self, endpoint: Endpoint, network: TritonNetwork) -> None:
        """One row of zeros, with sizes that are free as small as the detector's."""
        shapes = {
            spec.name: [1, *(size if isinstance(size, int) else _SMALL_PX for size in spec.shape[1:])]
            for spec in network.inputs
        }
        zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        await OverTheWire().call(endpoint, network, zeros, self._timeout_s)


def _most_rows(network: TritonNetwork, manifest: Manifest, rows: int | None) -> int:
    """Rows of the largest call for `rows` faces, padding included."""
    limit = network.max_batch_size
    most = limit if rows is None else min(rows, limit)
    spec = manifest.networks.get(network.name)
    return most if spec is None else spec.rows_of_call(most)


def _not_finite(outputs: Arrays) -> list[str]:
    return [name for name, value in outputs.items() if not np.isfinite(value).all()]
