"""Calls of Triton networks through memory that both processes see: one host, one /dev/shm.

    inputs -> region -> name of the region in the request -> server reads and writes there -> copy out of the region

A region serves one call at a time. What a server may still write to is never used again, so that no face can end up in
another's place: a region whose call ended without a clear answer is given up, and freed when the server has left it. A
call is finished even when nobody waits for it any more, for the same reason. Memory is claimed before it is written to:
where there is none left, a call fails, and not the process that writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from service.backends.triton_contract import TritonNetwork, wire_dims
from service.backends.triton_endpoints import Endpoint
from service.backends.triton_status import Verdict, status_of, verdict_of, words_of
from service.backends.triton_wire import DTYPES, ask, from_wire, to_wire
from service.core.errors import DependencyUnavailable
from service.core.interfaces import Arrays, Tensors
from service.core.manifest import TensorSpec

_FOLDER = Path("/dev/shm")  # noqa: S108 - where the kernel has it
_NO_ROOM = "give the process more of /dev/shm: in a container by --ipc=host or a larger --shm-size"
_ALIGNMENT_BYTES = 64
_LEAST_REGION_BYTES = 1 << 20
_FREE_SIZES_BYTES = 3 * 4 * 640_000  # of the detector's largest tile, which no manifest tells; its outputs are not here
_ANSWER_S = 1.0
_FAREWELL_S = 5.0
_PAUSE_S = 0.2

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Region:
    """A piece of memory.

    Attributes:
        memory: The piece.
        claimed_bytes: How much of its beginning the system has set aside for us.
        known_to: Servers that were told of it, and the `checks` at which they were.
    """

    memory: SharedMemory
    claimed_bytes: int = 0
    known_to: dict[Endpoint, int] = field(default_factory=dict)

    def claim(self, size_bytes: int) -> None:
        """Have the system set memory aside; who writes where there is none is ended by SIGBUS.

        Raises:
            OSError: There is not so much.
        """
        if size_bytes <= self.claimed_bytes:
            return
        descriptor = os.open(_FOLDER / self.memory.name, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        finally:
            os.close(descriptor)
        self.claimed_bytes = size_bytes

    def free(self) -> None:
        """Give the memory back to the system, as soon as no process has it open."""
        self.memory.close()
        self.memory.unlink()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies in a region."""

    spec: TensorSpec
    shape: tuple[int, ...]
    offset: int

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(DTYPES[self.spec.dtype][1]).itemsize

    def view(self, region: _Region) -> npt.NDArray[np.generic]:
        return np.ndarray(self.shape, DTYPES[self.spec.dtype][1], region.memory.buf, self.offset)


class ThroughSharedMemory:
    """A way for arrays to a server and back, as `OverTheWire`; outputs of sizes that are free travel in the answer.

    Args:
        largest_calls: The networks that this process calls, and the most rows of a call.
    """

    def __init__(self, largest_calls: Iterable[tuple[TritonNetwork, int]]) -> None:
        self._largest_bytes = max((_size_bytes(network, rows) for network, rows in largest_calls), default=0)
        self._free: list[_Region] = []
        self._given_up: list[_Region] = []
        self._calls: set[asyncio.Task[Arrays]] = set()

    async def try_out(self, endpoint: Endpoint) -> None:
        """See whether there is memory for the largest call, and whether a server finds it.

        Raises:
            DependencyUnavailable: There is not, or it does not.
        """
        region = await self._take(self._largest_bytes)
        self._given_up.append(region)
        try:
            await _introduce(region, endpoint)
        except InferenceServerException as error:
            raise DependencyUnavailable(
                f"Triton at {endpoint.address} cannot use our shared memory: {words_of(error)}"
            ) from error
        await self._reclaim()

    async def call(self, endpoint: Endpoint, network: TritonNetwork, inputs: Tensors, left_s: float) -> Arrays:
        """As `OverTheWire.call`, but cancelled, the call goes on, and what it gives is dropped.

        Raises:
            DependencyUnavailable: There is not enough memory.
            InferenceServerException: The call failed.
        """
        task = asyncio.create_task(self._call(endpoint, network, inputs, left_s), name="call through shared memory")
        self._calls.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for calls under way, have the servers leave the regions, and free them."""
        await asyncio.gather(*self._calls, return_exceptions=True)
        self._given_up += self._free
        self._free = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                while self._given_up:
                    await self._reclaim()
                    await asyncio.sleep(_PAUSE_S if self._given_up else 0)
        if self._given_up:
            logger.warning(
                "Triton still uses %d regions of shared memory; it has them until it ends", len(self._given_up)
            )
        for region in self._given_up:
            region.free()
        self._given_up = []

    async def _call(self, endpoint: Endpoint, network: TritonNetwork, inputs: Tensors, left_s: float) -> Arrays:
        arrays = [to_wire(spec, inputs[spec.name]) for spec in network.inputs]
        places, size_bytes = _layout(network, [array.shape for array in arrays])
        region = await self._take(size_bytes)
        may_be_used_again = False
        try:
            await _introduce(region, endpoint)
            sent, awaited = places[: len(arrays)], places[len(arrays) :]
            await asyncio.to_thread(_fill, region, sent, arrays)
            answer = await ask(
                endpoint,
                network,
                [_input(place, region) for place in sent],
                left_s,
                outputs=_outputs(network, awaited, region),
            )
            found = await asyncio.to_thread(_read, region, awaited)
            may_be_used_again = True
            loose = [spec.name for spec in network.outputs if spec.name not in found]
            return found | {name: from_wire(answer.as_numpy(name)) for name in loose}
        except InferenceServerException as error:
            may_be_used_again = verdict_of(error) in (Verdict.FAILED, Verdict.BROKE)  # it has ended the call
            raise
        finally:
            (self._free if may_be_used_again else self._given_up).append(region)

    async def _take(self, size_bytes: int) -> _Region:
        """A region for a call, with memory for all of it.

        Raises:
            DependencyUnavailable: There is not enough memory.
        """
        try:
            return await self._claimed(size_bytes)
        except OSError:  # what is kept for other calls may suffice
            self._given_up += self._free
            self._free = []
            await self._reclaim()
        try:
            return await self._claimed(size_bytes)
        except OSError as error:
            lacking = f"{_FOLDER} has no room for the {size_bytes / 1e6:.1f} MB of a call: {error.strerror}"
            raise DependencyUnavailable(lacking, hint=_NO_ROOM) from error

    async def _claimed(self, size_bytes: int) -> _Region:
        """The smallest free region that suffices, or a new one.

        Raises:
            OSError: There is not enough memory; the region is given back.
        """
        fitting = [region for region in self._free if region.memory.size >= size_bytes]
        if fitting:
            region = min(fitting, key=lambda each: each.memory.size)
            self._free.remove(region)
        else:
            await self._reclaim()
            rounded = 1 << (max(size_bytes, _LEAST_REGION_BYTES) - 1).bit_length()
            region = _Region(SharedMemory(create=True, size=rounded))
        try:
            await asyncio.to_thread(region.claim, size_bytes)
        except BaseException as error:
            self._given_up.append(region)
            if isinstance(error, OSError):
                await self._reclaim()
            raise
        return region

    async def _reclaim(self) -> None:
        """Free what was given up and is not used by any server any more."""
        waiting, self._given_up = self._given_up, []
        while waiting:
            region = waiting.pop()
            try:
                left = [await _leave(region, endpoint) for endpoint in region.known_to]
            except BaseException:
                self._given_up += [region, *waiting]
                raise
            if all(left):
                region.free()
            else:
                self._given_up.append(region)

    def _ended(self, task: asyncio.Task[Arrays]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever waits; nobody may


async def _introduce(region: _Region, endpoint: Endpoint) -> None:
    """Tell a server of a region, unless it knows it since it was last found usable.

    Raises:
        InferenceServerException: The server does not take it.
    """
    if region.known_to.get(endpoint) == endpoint.checks:
        return
    name = region.memory.name
    try:
        await endpoint.client.register_system_shared_memory(name, f"/{name}", region.memory.size)
    except InferenceServerException as error:
        if status_of(error).name != "ALREADY_EXISTS":
            raise
    region.known_to[endpoint] = endpoint.checks


async def _leave(region: _Region, endpoint: Endpoint) -> bool:
    """Have a server forget a region; False while it uses it."""
    try:
        await endpoint.client.unregister_system_shared_memory(region.memory.name, client_timeout=_ANSWER_S)
    except InferenceServerException as error:
        return verdict_of(error) is Verdict.ELSEWHERE  # a server that has ended uses nothing
    return True


def _size_bytes(network: TritonNetwork, rows: int) -> int:
    """How much a call of so many rows takes at most."""
    inputs = [(rows, *wire_dims(spec)) for spec in network.inputs]
    return _FREE_SIZES_BYTES if any(-1 in shape for shape in inputs) else _layout(network, inputs)[1]


def _layout(network: TritonNetwork, inputs: Sequence[tuple[int, ...]]) -> tuple[list[_Place], int]:
    """Places of inputs of these shapes, then of the outputs whose sizes are known, and how much they take together."""
    shapes = list(zip(network.inputs, inputs, strict=True))
    rows = inputs[0][0]
    shapes += [(spec, (rows, *wire_dims(spec))) for spec in network.outputs if -1 not in wire_dims(spec)]
    places, end = [], 0
    for spec, shape in shapes:
        place = _Place(spec, shape, end)
        places.append(place)
        end += -(-place.size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return places, end


def _input(place: _Place, region: _Region) -> InferInput:
    entry = InferInput(place.spec.name, list(place.shape), DTYPES[place.spec.dtype][0])
    return entry.set_shared_memory(region.memory.name, place.size_bytes, place.offset)


def _outputs(network: TritonNetwork, awaited: Sequence[_Place], region: _Region) -> list[InferRequestedOutput]:
    requested = {spec.name: InferRequestedOutput(spec.name) for spec in network.outputs}
    for place in awaited:
        requested[place.spec.name].set_shared_memory(region.memory.name, place.size_bytes, place.offset)
    return list(requested.values())


def _fill(region: _Region, places: Sequence[_Place], arrays: Sequence[npt.NDArray[np.generic]]) -> None:
    for place, array in zip(places, arrays, strict=True):
        place.view(region)[...] = array


def _read(region: _Region, places: Sequence[_Place]) -> Arrays:
    return {place.spec.name: from_wire(place.view(region)) for place in places}
