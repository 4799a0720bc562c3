"""Network calls in this process, whatever runs a network: lanes of threads, shares of a batch, checks.

    infer -> (lane of threads) -> session -> finite float32 outputs
                                   |- a row: one call, every operator spread over `threads` cores
                                   |- rows: shares of them side by side, where they suffice on one core each

The networks of the sampler take turns in one lane, so that their calls never fight for cores; the detector has the
other, so that a photo need not wait behind the batches of others. Shares need not wait for each other at every
operator, as the threads of one operator do. A row's result is the same to the bit either way.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from service.core.errors import InferenceFailed, ManifestMismatch
from service.core.interfaces import Arrays, Tensors
from service.core.manifest import NetworkSpec, TensorSpec
from service.core.metrics import Metrics

EXPORT_AGAIN = "export the bundle again"


class Session(Protocol):
    """A network that was loaded; it may be called from several threads."""

    def run(self, output_names: Sequence[str], feeds: Arrays) -> Sequence[npt.NDArray[np.generic]]:
        """The named outputs for inputs by name."""
        ...


class Lane:
    """Threads of calls that take turns, and of their shares: each call, or all of its shares, has so many cores."""

    def __init__(self, name: str, threads: int) -> None:
        self.threads = threads
        self.calls = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.shares = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-share")

    def shutdown(self) -> None:
        """Wait for calls under way, then end the threads."""
        self.calls.shutdown()
        self.shares.shutdown()


@dataclass(frozen=True, slots=True)
class Network:
    """A session and how it is called.

    Attributes:
        name: As in the manifest.
        session: Spreads its operators over all cores, for single rows above all.
        narrow: The same on one core a call, for shares of a batch; None where nothing is shared out.
        input_dtypes: What the inputs are cast to, by name.
        outputs: Names, in the session's order.
        lane: Where it is called.
    """

    name: str
    session: Session
    narrow: Session | None
    input_dtypes: dict[str, str]
    outputs: tuple[str, ...]
    lane: Lane

    def run(self, session: Session, feeds: Arrays) -> Arrays:
        """Every output by name, float32."""
        values = session.run(self.outputs, feeds)
        return dict(zip(self.outputs, (np.asarray(value, np.float32) for value in values), strict=True))


@dataclass(frozen=True, slots=True)
class Signature:
    """A tensor as the file of a network has it; an axis without a size of its own is None or has a name."""

    name: str
    dtype: str
    shape: Sequence[int | str | None]


class InProcessBackend:
    """Implements `service.core.interfaces.InferenceBackend`; each network has one of the lanes."""

    concurrent = False

    def __init__(self, networks: Mapping[str, Network], lanes: Sequence[Lane], metrics: Metrics) -> None:
        self._networks, self._lanes, self._metrics = dict(networks), tuple(lanes), metrics

    async def infer(self, network: str, inputs: Tensors) -> Arrays:
        """Run one network on a batch.

        Raises:
            InferenceFailed: As of the protocol.
        """
        found = self._networks.get(network)
        if found is None:
            raise InferenceFailed(f"{network}: there is no such network, or the backend is closed")
        return await asyncio.get_running_loop().run_in_executor(found.lane.calls, self._call, found, inputs)

    async def ready(self) -> bool:
        """Whether every network can be called."""
        return bool(self._networks)

    async def close(self) -> None:
        """Wait for calls under way, then release threads and sessions."""
        self._networks = {}
        for lane in self._lanes:
            await asyncio.to_thread(lane.shutdown)

    def _call(self, network: Network, inputs: Tensors) -> Arrays:
        begin_s = time.perf_counter()
        try:
            feeds = {
                name: np.ascontiguousarray(value, network.input_dtypes.get(name)) for name, value in inputs.items()
            }
            rows = len(next(iter(feeds.values())))
            outputs = self._spread(network, feeds, rows)
        except Exception as error:  # the errors of runtimes have no root of their own
            raise InferenceFailed(f"{network.name}: {first_line(error)}", hint="try again") from error
        seconds = time.perf_counter() - begin_s
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                raise InferenceFailed(f"{network.name}: output {name} is not finite", hint="try again")
        self._metrics.observe_network(network.name, rows, seconds)
        return outputs

    def _spread(self, network: Network, feeds: Arrays, rows: int) -> Arrays:
        """Run a batch on all cores: in shares of whole rows side by side, or operator by operator."""
        count = min(rows, network.lane.threads)
        if network.narrow is None or count == 1:
            return network.run(network.session, feeds)
        # With fewer rows than cores the shares have the operators' threads in common.
        session = network.narrow if count == network.lane.threads else network.session
        bounds = [rows * index // count for index in range(count + 1)]
        shares = [
            network.lane.shares.submit(network.run, session, {name: value[rows] for name, value in feeds.items()})
            for rows in itertools.starmap(slice, itertools.pairwise(bounds))
        ]
        wait(shares)
        parts = [share.result() for share in shares]
        return {name: np.concatenate([part[name] for part in parts]) for name in network.outputs}


def check_signature(name: str, spec: NetworkSpec, inputs: Sequence[Signature], outputs: Sequence[Signature]) -> None:
    """Compare a file's tensors with the manifest's; free dimensions may have any name.

    Raises:
        ManifestMismatch: They differ; the message names the first field that does.
    """
    _check(f"networks.{name}.inputs", inputs, spec.inputs)
    _check(f"networks.{name}.outputs", outputs, spec.outputs)


def unloadable(
    name: str, spec: NetworkSpec | None, file: object, error: Exception, *, hint: str = EXPORT_AGAIN
) -> ManifestMismatch:
    """The refusal of a file that a runtime cannot load."""
    field = f"networks.{name}.file" if spec is not None else name
    return ManifestMismatch(f"{field}: {file} cannot be loaded: {first_line(error)}", hint=hint)


def first_line(error: Exception) -> str:
    """What a runtime says; the lines after the first are for its authors."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _check(field: str, found: Sequence[Signature], expected: Sequence[TensorSpec]) -> None:
    if len(found) != len(expected):
        raise _mismatch(field, [value.name for value in found], [spec.name for spec in expected])
    for index, (value, spec) in enumerate(zip(found, expected, strict=True)):
        if value.name != spec.name:
            raise _mismatch(f"{field}[{index}].name", value.name, spec.name)
        if value.dtype != spec.dtype:
            raise _mismatch(f"{field}[{index}].dtype", value.dtype, spec.dtype)
        if _sizes(value.shape) != _sizes(spec.shape):
            raise _mismatch(f"{field}[{index}].shape", list(value.shape), list(spec.shape))


def _sizes(shape: Sequence[int | str | None]) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in shape]


def _mismatch(field: str, found: object, expected: object) -> ManifestMismatch:
    return ManifestMismatch(f"{field}: the file has {found}, the manifest {expected}", hint=EXPORT_AGAIN)
