"""How long a network call takes in onnxruntime and in PyTorch's eager mode, on the same CPU in one run.

The two take turns. Before each measured call there is a pause, for the threads of the other to come to rest (both keep
theirs spinning for a while), and one call that is not measured.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from export.networks import graph_specs
from export.parity import draw_all, feeds_of, open_session
from export.to_onnx import to_onnx
from export.trained import Trained

BATCH_SIZES = (1, 4)
PAUSE_S = 0.12
"""PyTorch's threads spin for about a tenth of a second."""
SEED = 7
"""Of the inputs that are drawn."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per call of one network at one batch size, in the order of measurement.

    Attributes:
        network: Name.
        rows: Batch size.
        torch_ms: PyTorch, eager.
        onnx_ms: onnxruntime.
    """

    network: str
    rows: int
    torch_ms: Sequence[float]
    onnx_ms: Sequence[float]

    @property
    def ratio(self) -> float:
        """Median of onnxruntime over median of PyTorch."""
        return statistics.median(self.onnx_ms) / statistics.median(self.torch_ms)


def measure(trained: Trained, image_size_px: int, *, repeats: int, num_threads: int) -> Iterator[Timing]:
    """Export every network to memory and time it.

    Args:
        trained: The networks.
        image_size_px: Side of the face crops.
        repeats: Measured calls of each.
        num_threads: Threads of each; PyTorch's setting stays afterwards.

    Raises:
        ValueError: There are less than two calls: they have no quartiles.
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, for quartiles, not {repeats}")
    torch.set_num_threads(num_threads)
    for spec in graph_specs(trained, image_size_px):
        session = open_session(to_onnx(spec), num_threads)
        for rows in BATCH_SIZES:
            tensors = draw_all(spec, rows, trained.statistics, SEED)
            feeds = feeds_of(spec, tensors)
            torch_ms, onnx_ms = [], []
            with torch.inference_mode():
                for _ in range(repeats):
                    torch_ms.append(call_ms(functools.partial(spec.module, *tensors)))
                    onnx_ms.append(call_ms(functools.partial(session.run, None, feeds)))
            yield Timing(spec.name, rows, torch_ms, onnx_ms)


def table_row(timing: Timing) -> str:
    """One line of the table of `HEADER`."""
    return (
        f"| {timing.network} | {timing.rows} | {_spread(timing.torch_ms)} | {_spread(timing.onnx_ms)} "
        f"| {timing.ratio:.2f} |"
    )


HEADER = "| network | batch | PyTorch eager, ms | onnxruntime, ms | ratio |\n|---|---|---|---|---|"


def call_ms(call: Callable[[], object], pause_s: float = PAUSE_S) -> float:
    """Milliseconds of a call, after a pause and a call that is not measured."""
    time.sleep(pause_s)
    call()
    begin_s = time.perf_counter()
    call()
    return (time.perf_counter() - begin_s) * 1e3


def _spread(values: Sequence[float]) -> str:
    """Median and the quartiles around it."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"
