"""What networks keep of the memory that their calls take, in a process of its own, which has nothing else to keep."""

import subprocess
import sys

from onnx import helper

from tests.bundle import make_graph, write_bundle, write_detector
from tests.running_bundle import ROOT

SIZE_PX = 32
NETWORKS = 6
COPIES, SIDE_PX = 256, 256  # activations of 192 MiB

SCRIPT = '''
import asyncio, sys
from pathlib import Path

import numpy as np

from service.backends.ort_session import OrtBackend
from service.core.manifest import load_manifest
from service.core.metrics import Metrics

repository, side_px, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
picture = np.ones((1, 3, side_px, side_px), np.float32)


def largest_kib():
    """Of this program; the process's own records count who started it as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("VmHWM"))


async def main():
    manifest = load_manifest(repository)
    backends = [OrtBackend(manifest, repository, 1, metrics=Metrics(), only=("detector",)) for _ in range(count)]
    print(largest_kib())
    for backend in backends:
        await backend.infer("detector", {"image": picture})
    print(largest_kib())


asyncio.run(main())
'''


def test_networks_that_take_turns_share_the_memory_of_their_activations(tmp_path):
    write_bundle(tmp_path, SIZE_PX)
    nodes = [
        helper.make_node("Concat", ["image"] * COPIES, ["wide"], axis=1),
        helper.make_node("ReduceMax", ["wide"], ["map"]),
    ]
    shape = ["batch", 3, "height", "width"]
    write_detector(tmp_path).write_bytes(make_graph(nodes, {"image": shape}, {"map": [1, 1, 1, 1]}))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path, str(SIDE_PX), str(NETWORKS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    before_kib, after_kib = map(int, done.stdout.split())
    grown = (after_kib - before_kib) * 1024 / (4 * 3 * COPIES * SIDE_PX**2)
    assert 0.9 < grown < 2.5  # with an arena each it is as often as there are networks
