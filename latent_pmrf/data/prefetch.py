"""Batches computed ahead of their use, in order: on a background thread, or in worker processes."""

from __future__ import annotations

import atexit
import ctypes
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

from torch.utils.data import DataLoader, Dataset, Sampler

from latent_pmrf.data.pictures import UnreadablePicture

Batch = TypeVar("Batch")
BatchT_co = TypeVar("BatchT_co", covariant=True)


class BatchSource(Protocol[BatchT_co]):
    """Where the batches of a training come from."""

    def next(self) -> BatchT_co:
        """The next batch; raises what its computation raised."""
        ...

    def close(self) -> None:
        """Drop what is pending."""
        ...


class Prefetcher(Generic[Batch]):
    """Computes `make(index)` for the coming indices on one background thread."""

    def __init__(self, make: Callable[[int], Batch], indices: Iterator[int], depth: int = 2) -> None:
        self._make = make
        self._indices = indices
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._pending: list[Future[Batch]] = []
        for _ in range(depth):
            self._submit()

    def next(self) -> Batch:
        """The next batch; raises what `make` raised."""
        self._submit()
        return self._pending.pop(0).result()

    def close(self) -> None:
        """Stop the thread; pending batches are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self) -> None:
        self._pending.append(self._pool.submit(self._make, next(self._indices)))


class WorkerPrefetcher(Generic[Batch]):
    """The same in processes of PyTorch's `DataLoader`; `make` is a pure function there, and is copied to them."""

    def __init__(self, make: Callable[[int], Batch], indices: Iterator[int], workers: int) -> None:
        self._closed = multiprocessing.RawValue(ctypes.c_bool, False)
        loader: DataLoader[Batch | UnreadablePicture] = DataLoader(
            _Computed(make),
            batch_size=None,
            sampler=_Indices(indices),
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=functools.partial(_start_worker, self._closed),
            prefetch_factor=2,
        )
        self._batches: Iterator[Any] | None = iter(loader)
        atexit.register(self.close)  # before multiprocessing waits for processes that nobody has stopped

    def next(self) -> Batch:
        """The next batch; raises what `make` raised."""
        if self._batches is None:
            raise ValueError("the batches were closed")
        made: Batch | UnreadablePicture = next(self._batches)
        if isinstance(made, UnreadablePicture):
            raise made
        return made

    def close(self) -> None:
        """Stop the processes; pending batches are dropped."""
        self._closed.value = True
        self._batches = None
        atexit.unregister(self.close)


def _start_worker(closed: ctypes.c_bool, _number: int) -> None:
    """Make a worker process deaf to signals until the batches are closed.

    torchrun, Slurm, systemd and a terminal signal all processes of a run. The one that trains then finishes its step
    and saves, for which it needs its workers.
    """

    def end_if_closed(_signal: int, _frame: FrameType | None) -> None:
        if closed.value:
            os._exit(0)

    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, end_if_closed)


def _as_it_is(batch: Batch) -> Batch:
    """Instead of the loader's own conversion, which makes lists of tuples."""
    return batch


class _Computed(Dataset[Batch | UnreadablePicture]):
    """`make` under the name that a `DataLoader` calls.

    A picture that cannot be read is handed over, not raised: the loader would raise it with its process's traceback as
    its message.
    """

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make

    def __getitem__(self, index: int) -> Batch | UnreadablePicture:
        try:
            return self._make(index)
        except UnreadablePicture as error:
            return error


class _Indices(Sampler[int]):
    """An endless iterator as a sampler."""

    def __init__(self, indices: Iterator[int]) -> None:
        self._indices = indices

    def __iter__(self) -> Iterator[int]:
        return self._indices
