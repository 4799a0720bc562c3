"""Shared memory that runs out: calls fail, start is refused, and no process is ended by the kernel.

The narrow memory is real where this user may mount one in a namespace of his own; otherwise the kernel is played.
"""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from service.backends.triton_contract import TritonNetwork
from service.backends.triton_endpoints import Endpoint
from service.backends.triton_shared_memory import ThroughSharedMemory
from service.core import detector
from service.core.errors import DependencyUnavailable
from service.core.manifest import TensorSpec
from service.stages import detect
from tests.processes import ROOT

MB = 1_000_000
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel has it
NARROW = "mount -t tmpfs -o size=4m none /dev/shm && exec "
IN_FOUR_MIB = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_triton_shared_memory as told
asyncio.run(told.calls_in_four_mib())
"""


class Server:
    """Takes regions as long as they exist, and answers calls in them."""

    def __init__(self):
        self.known = set()

    async def register_system_shared_memory(self, name, key, size):
        assert (SHARED_MEMORY / key.removeprefix("/")).stat().st_size == size
        self.known.add(name)

    async def unregister_system_shared_memory(self, name, client_timeout):
        self.known.discard(name)

    async def infer(self, name, inputs, **_options):
        return SimpleNamespace(as_numpy=lambda _name: None)


def copier(name="copier", values=250_000):
    """A network whose rows take a megabyte of input and as much of output."""
    tensor = TensorSpec(name="x", dtype="float32", shape=("batch", values))
    return TritonNetwork(name, name, (tensor,), (tensor,), 16, None)


async def call(transport, endpoint, rows):
    inputs = {"x": np.ones((rows, 250_000), np.float32)}
    return await transport.call(endpoint, copier(), inputs, 5.0)


def regions():
    """Files of the shared memory that this process has open."""
    mapped = {SHARED_MEMORY / name for name in re.findall(r"/(psm_\w+)", Path("/proc/self/maps").read_text())}
    return {path for path in mapped if path.exists()}


async def calls_in_four_mib():
    """Run where /dev/shm has no more."""
    endpoint, transport = Endpoint("grpc://here", Server()), ThroughSharedMemory([(copier(), 2)])
    await transport.try_out(endpoint)  # 4 MB
    with pytest.raises(DependencyUnavailable, match=r"has no room for the 6\.0 MB of a call: No space left"):
        await ThroughSharedMemory([(copier(), 3)]).try_out(endpoint)
    assert endpoint.client.known == set()
    await call(transport, endpoint, 1)
    await call(transport, endpoint, 2)  # with the memory of the first: both have none
    with pytest.raises(DependencyUnavailable, match="has no room"):
        await call(transport, endpoint, 16)
    await call(transport, endpoint, 2)
    assert [region.stat().st_blocks * 512 // MB for region in regions()] == [4]
    await transport.close()
    assert regions() == set()


def in_namespace(unshare, command, *arguments):
    script = [unshare, "-Urm", "sh", "-c", NARROW + command, *arguments]
    return subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)


def test_where_there_is_too_little_memory_calls_fail_and_the_process_lives():
    unshare = shutil.which("unshare")
    if unshare is None or in_namespace(unshare, "true").returncode != 0:
        pytest.skip("this user may mount nothing in a namespace of his own")
    ended = in_namespace(unshare, '"$0" -c "$1"', sys.executable, IN_FOUR_MIB)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def room(monkeypatch):
    """As much as a region may have; the kernel's answer beyond that is `ENOSPC`."""
    left = SimpleNamespace(bytes=3 * MB, asked=[])

    def allocate(_descriptor, offset, length):
        assert offset == 0
        left.asked.append(length)
        if length > left.bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    return left


async def test_a_process_without_room_for_its_largest_call_does_not_start(room):
    before, endpoint = regions(), Endpoint("grpc://here", Server())
    with pytest.raises(DependencyUnavailable, match=r"no room for the 8\.0 MB of a call: No space left") as refused:
        await ThroughSharedMemory([(copier("a"), 1), (copier("b"), 4), (copier("c"), 2)]).try_out(endpoint)
    assert "--ipc=host" in refused.value.hint
    assert regions() == before
    room.bytes = 8 * MB
    await ThroughSharedMemory([(copier("b"), 4)]).try_out(endpoint)
    assert room.asked[-1] == pytest.approx(8 * MB, abs=256)
    assert regions() == before  # it is given back, here and there
    assert endpoint.client.known == set()


async def test_a_call_without_room_fails_by_itself_and_the_next_one_succeeds(room):
    before, endpoint, transport = regions(), Endpoint("grpc://here", Server()), ThroughSharedMemory([(copier(), 1)])
    with pytest.raises(DependencyUnavailable, match="has no room"):
        await call(transport, endpoint, 2)
    assert regions() == before
    assert (await call(transport, endpoint, 1))["x"].shape == (1, 250_000)
    room.bytes = 4 * MB
    assert (await call(transport, endpoint, 2))["x"].shape == (2, 250_000)
    await transport.close()
    assert regions() == before


async def test_a_region_that_cannot_be_made_fails_its_call_alone(monkeypatch):
    def none_left(**_options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("service.backends.triton_shared_memory.SharedMemory", none_left)
    with pytest.raises(DependencyUnavailable, match="Too many open files"):
        await call(ThroughSharedMemory([]), Endpoint("grpc://here", Server()), 1)


async def test_a_region_grows_within_its_size_and_is_not_claimed_twice(room):
    room.bytes = 100 * MB
    transport, endpoint = ThroughSharedMemory([]), Endpoint("grpc://here", Server())
    for rows in (5, 5, 7, 6):  # all of one region of 16 MiB
        await call(transport, endpoint, rows)
    assert [round(length / MB) for length in room.asked] == [10, 14]
    await transport.close()


async def test_room_for_the_detector_is_that_of_its_largest_tile(room):
    free = TensorSpec(name="image", dtype="float32", shape=("batch", 3, "height", "width"))
    maps = TensorSpec(name="heatmap", dtype="float32", shape=("batch", 1, "map_height", "map_width"))
    with pytest.raises(DependencyUnavailable):
        await ThroughSharedMemory([(TritonNetwork("detector", "detector", (free,), (maps,), 16, None), 16)]).try_out(
            Endpoint("grpc://here", Server())
        )
    channels_bytes = 3 * np.dtype(np.float32).itemsize
    assert room.asked[0] >= detect._MAX_TILE_AREA_PX * channels_bytes
    assert room.asked[0] >= detector.MAX_ROWS * detect._VIEW_PX**2 * channels_bytes
