"""Measuring on several processes, each with dlib's models of its own, or on this thread."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

import cv2

from latent_pmrf.evaluation.identity import FaceIdentifier

Task = TypeVar("Task")
Result = TypeVar("Result")
Measure = Callable[[Task, FaceIdentifier | None], Result]


class Workers:
    """Runs measures on `num_workers` processes, or on this thread for one; use it as a context manager.

    Args:
        num_workers: Processes, at least 1.
        num_landmarks: dlib's landmarks, 68 or 5; None leaves dlib out, and measures get no identifier.

    Raises:
        ImportError: dlib is asked for and not installed.
        ValueError: `num_workers` is below 1.
    """

    def __init__(self, num_workers: int, num_landmarks: int | None) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, not {num_workers}")
        self._num_landmarks = num_landmarks
        self._identifier = None if num_landmarks is None or num_workers > 1 else FaceIdentifier(num_landmarks)
        self._pool: ProcessPoolExecutor | None = None
        if num_workers > 1:
            # Forking a process that runs onnxruntime's threads can deadlock.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(num_workers, context, _start_worker, (num_landmarks,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, measure: Measure[Task, Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """`measure(task, identifier)` of every task, in their order; `measure` is a function of a module."""
        if self._pool is None:
            return (measure(task, self._identifier) for task in tasks)
        return self._pool.map(functools.partial(_measure, measure, self._num_landmarks), tasks)


@functools.cache
def _identifier_of_this_process(num_landmarks: int | None) -> FaceIdentifier | None:
    return None if num_landmarks is None else FaceIdentifier(num_landmarks)


def _start_worker(num_landmarks: int | None) -> None:
    cv2.setNumThreads(1)
    _identifier_of_this_process(num_landmarks)


def _measure(measure: Measure[Task, Result], num_landmarks: int | None, task: Task) -> Result:
    return measure(task, _identifier_of_this_process(num_landmarks))
