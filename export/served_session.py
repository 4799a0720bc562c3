"""A network in onnxruntime as the service runs it, for measurements: rows are shared out among threads.

    batch -> one row: operators on all threads | shares of rows side by side, on a thread each where they suffice

Written again, because this package may not import the service; `service.backends.in_process` says why it is so, and
contract tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from export.parity import served_options
from latent_pmrf.evaluation.bundle import Named, Session

F32Array = npt.NDArray[np.float32]


def plain_session(content: bytes, num_threads: int, *, spinning: bool = False) -> Session:
    """An onnxruntime session with the service's options, on the CPU; rows are not shared out."""
    import onnxruntime

    session: Session = onnxruntime.InferenceSession(
        content, served_options(num_threads, spinning=spinning), providers=["CPUExecutionProvider"]
    )
    return session


class ServedSession:
    """Implements `latent_pmrf.evaluation.bundle.Session`.

    Args:
        content: An ONNX file, whose inputs have rows as their first axis.
        num_threads: Threads of a call.
    """

    def __init__(self, content: bytes, num_threads: int) -> None:
        self._num_threads = num_threads
        self._narrow = self._wide = plain_session(content, 1)
        if num_threads > 1:
            stepped = any(value.name == "t" for value in self._narrow.get_inputs())
            self._wide = plain_session(content, num_threads, spinning=stepped)
        self._shares = ThreadPoolExecutor(num_threads, thread_name_prefix="share")

    def get_inputs(self) -> Sequence[Named]:
        """The inputs."""
        return self._wide.get_inputs()

    def get_outputs(self) -> Sequence[Named]:
        """The outputs."""
        return self._wide.get_outputs()

    def run(self, output_names: None, feeds: Mapping[str, F32Array]) -> Sequence[F32Array]:
        """Every output for inputs by name."""
        rows = len(next(iter(feeds.values())))
        count = min(rows, self._num_threads)
        if count == 1:
            return self._wide.run(output_names, feeds)
        session = self._narrow if count == self._num_threads else self._wide
        bounds = pairwise(rows * index // count for index in range(count + 1))
        shares = [{name: value[start:stop] for name, value in feeds.items()} for start, stop in bounds]
        parts = self._shares.map(lambda share: session.run(output_names, share), shares)
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
