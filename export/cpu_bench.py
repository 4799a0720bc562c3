"""How close the networks of a bundle come to what this machine's processor can do, by runtime, in one run.

    bundle -> networks in PyTorch, onnxruntime as it serves, OpenVINO if it is installed
           -> calls in turn, a large matrix product among them -> tables of GFLOP/s, and of faces from end to end

All take turns, so that what else runs on the machine slows down all of them, and each counts with its best call: that
is what it can do. Before each measured call there is one that is not measured, and before that a pause: PyTorch's
threads go on spinning for a while.
"""

from __future__ import annotations

import functools
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper

from export.cost import cost_of
from export.networks import GraphSpec, graph_specs
from export.openvino_session import OpenVinoSession, openvino_precisions
from export.parity import draw_all, feeds_of, pipeline_images
from export.precision import psnr_db as unbounded_psnr_db
from export.served_session import ServedSession, plain_session
from export.variants import Original
from latent_pmrf.evaluation.bundle import BundleRestorer, Session, source_noise

Call: TypeAlias = Callable[[], object]

EAGER, SERVED = "PyTorch eager", "onnxruntime"
BATCH_SIZES = (1, 4)
PAUSE_S = 0.12
"""PyTorch's threads spin for about a tenth of a second."""
_SEED = 7
"""Of the inputs that are drawn."""
_PRODUCT_SIDE = 1536
"""Of the matrices: their product takes long enough for threads to start, and short enough to be among the others."""
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 25


@dataclass(frozen=True, slots=True)
class Row:
    """Calls of one network at one batch size, in the order of measurement.

    Attributes:
        network: Name.
        rows: Batch size.
        gflop: Arithmetic of a call as the network is defined, whatever a runtime saves of it.
        peak: GFLOP/s of the matrix product in the same rounds.
        ms: Milliseconds by runtime.
    """

    network: str
    rows: int
    gflop: float
    peak: Sequence[float]
    ms: Mapping[str, Sequence[float]]

    def gflops(self, runtime: str) -> float:
        """GFLOP/s of the best call."""
        return self.gflop / min(self.ms[runtime]) * 1e3

    def share(self, runtime: str) -> float:
        """Of the product's best rate; above 1 where a runtime saves arithmetic."""
        return self.gflops(runtime) / max(self.peak)


@dataclass(frozen=True, slots=True)
class Restoration:
    """Faces from end to end.

    Attributes:
        faces: How many, in one batch.
        num_steps: Euler steps.
        ms: Milliseconds by runtime, in the order of measurement.
        psnr_db: Of the restored pictures beside PyTorch's, by runtime.
    """

    faces: int
    num_steps: int
    ms: Mapping[str, Sequence[float]]
    psnr_db: Mapping[str, float]

    def speedup(self, runtime: str) -> float:
        """How many times as fast as PyTorch's eager mode, by the best calls."""
        return min(self.ms[EAGER]) / min(self.ms[runtime])


@dataclass(frozen=True, slots=True)
class CpuBench:
    """What is measured, and for how long.

    Attributes:
        original: The bundle, and its networks in PyTorch.
        num_threads: Threads of every call; PyTorch's setting stays afterwards.
        row_s: Seconds for each row of the table; three rounds are made at least.
        pause_s: Before each measured call.
        runtimes: How files become sessions, by name of the runtime; filled when made.
    """

    original: Original
    num_threads: int
    row_s: float
    pause_s: float = PAUSE_S
    runtimes: dict[str, Callable[[bytes], Session]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.set_num_threads(self.num_threads)
        self.runtimes[SERVED] = functools.partial(ServedSession, num_threads=self.num_threads)
        for precision in openvino_precisions():
            opened = functools.partial(OpenVinoSession, precision=precision, num_threads=self.num_threads)
            self.runtimes[f"OpenVINO {precision}"] = opened

    def networks(self) -> Iterator[Row]:
        """Measure every network, at each batch size."""
        product = matrix_products(self.num_threads)
        files = self.original.files
        for spec in graph_specs(self.original.trained, int(self.original.manifest["image_size_px"])):
            gflop = cost_of(spec, calls=1).gflop
            sessions = {name: opened(files[spec.name]) for name, opened in self.runtimes.items()}
            for rows in BATCH_SIZES:
                calls = self._calls(spec, rows, sessions)
                ms, peak = in_turn(calls, product, self.row_s, self.pause_s)
                yield Row(spec.name, rows, gflop * rows, peak, ms)

    def restorations(self) -> Iterator[Restoration]:
        """Measure faces from their crops to the restored pictures, with the bundle's own number of steps."""
        return (self._restoration(faces) for faces in BATCH_SIZES)

    def _restoration(self, faces: int) -> Restoration:
        restorer, steps = self.original.trained.restorer, self.original.num_steps
        side = int(self.original.manifest["image_size_px"])
        image = pipeline_images(restorer, side)[:1].expand(faces, -1, -1, -1).contiguous()
        seeds = range(faces)
        noise = torch.from_numpy(np.stack([source_noise(restorer.state_shape(side), seed) for seed in seeds]))
        pixels = image.permute(0, 2, 3, 1).numpy()

        def restored(bundle: BundleRestorer) -> npt.NDArray[np.float32]:
            return bundle.transport(bundle.source(bundle.estimate(pixels), seeds), steps)

        calls: dict[str, Call] = {EAGER: functools.partial(restorer.restore, image, noise, steps)}
        expected = restorer.restore(image, noise, steps).sample.permute(0, 2, 3, 1).numpy()
        psnr = {}
        for name, opened in self.runtimes.items():
            bundle = BundleRestorer(self.original.repository, open_session=opened)
            calls[name] = functools.partial(restored, bundle)
            psnr[name] = psnr_db(restored(bundle), expected)
        ms, _ = in_turn(calls, {}, 2 * self.row_s, self.pause_s)
        return Restoration(faces, steps, ms, psnr)

    def _calls(self, spec: GraphSpec, rows: int, sessions: Mapping[str, Session]) -> dict[str, Call]:
        tensors = draw_all(spec, rows, self.original.trained.statistics, _SEED)
        feeds = feeds_of(spec, tensors)
        calls: dict[str, Call] = {EAGER: functools.partial(_without_gradients, spec.module, tensors)}
        return calls | {name: functools.partial(session.run, None, feeds) for name, session in sessions.items()}


def matrix_products(num_threads: int) -> dict[str, Call]:
    """The product of two large float32 matrices by PyTorch and by onnxruntime: the faster one tells the peak."""
    side = _PRODUCT_SIDE
    a, b = np.random.default_rng(_SEED).random((2, side, side), np.float32)
    faces = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", faces[:2], faces[2:])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = plain_session(model.SerializeToString(), num_threads)
    return {
        EAGER: functools.partial(torch.mm, torch.from_numpy(a), torch.from_numpy(b)),
        SERVED: functools.partial(session.run, None, {"a": a, "b": b}),
    }


def in_turn(
    calls: Mapping[str, Call], products: Mapping[str, Call], seconds: float, pause_s: float
) -> tuple[dict[str, list[float]], list[float]]:
    """Rounds of calls, one of each, for some seconds.

    Returns:
        Milliseconds by name, and the GFLOP/s of each round's faster product.
    """
    ms: dict[str, list[float]] = {name: [] for name in calls}
    peak = []
    begin_s = time.perf_counter()
    while len(rounds := next(iter(ms.values()))) < _MOST_ROUNDS:
        if len(rounds) >= _LEAST_ROUNDS and time.perf_counter() - begin_s > seconds:
            break
        if products:
            peak.append(2 * _PRODUCT_SIDE**3 / min(call_ms(product, pause_s) for product in products.values()) / 1e6)
        for name, call in calls.items():
            ms[name].append(call_ms(call, pause_s))
    return ms, peak


def call_ms(call: Call, pause_s: float) -> float:
    """Milliseconds of a call, after a pause and a call that is not measured."""
    time.sleep(pause_s)
    call()
    begin_s = time.perf_counter()
    call()
    return (time.perf_counter() - begin_s) * 1e3


def processor() -> str:
    """What the machine calls its processor."""
    names = [line.partition(":")[2].strip() for line in _cpu_facts() if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _cpu_facts() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def psnr_db(picture: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Of pictures in [0, 1]; 200 dB stand for what float32 cannot tell apart."""
    return min(200.0, unbounded_psnr_db(expected, picture))


@torch.inference_mode()
def _without_gradients(module: torch.nn.Module, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    result: torch.Tensor = module(*tensors)
    return result


def network_table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a Markdown table; a row says what is missing where OpenVINO is not installed."""
    runtimes = list(rows[0].ms)
    yield f"| network | batch | GFLOP | product, GFLOP/s | {' | '.join(runtimes)} |"
    yield "|---|---|---|---|" + "---|" * len(runtimes)
    for row in rows:
        cells = [f"{min(row.ms[name]):.1f} ms, {row.gflops(name):.0f}, {row.share(name):.0%}" for name in runtimes]
        start = f"| {row.network} | {row.rows} | {row.gflop:.1f} | {max(row.peak):.0f}"
        yield f"{start} | {' | '.join(cells)} |"


def restoration_table(found: Restoration) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield f"| faces at once: {found.faces}, {found.num_steps} steps | ms, best (median) | times as fast | PSNR, dB |"
    yield "|---|---|---|---|"
    for name, values in found.ms.items():
        spread = f"{min(values):.0f} ({statistics.median(values):.0f})"
        psnr = f"{found.psnr_db[name]:.1f}" if name in found.psnr_db else ""
        yield f"| {name} | {spread} | {found.speedup(name):.2f} | {psnr} |"
