"""Measures of one face's outputs that need no given weights, on this thread or on a pool of processes.

    Panel (outputs, estimate, clean) -> key -> one number per output

Outputs are measured after rounding to 8 bits, as a user receives them.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from latent_pmrf.evaluation import metrics
from latent_pmrf.evaluation.identity import FaceIdentifier, angle_deg, landmark_distance_px
from latent_pmrf.evaluation.restoration import to_unit
from latent_pmrf.evaluation.scoring import PSNR_CAP_DB

U8Image = npt.NDArray[np.uint8]
PanelScores = Mapping[str, Sequence[float]]

MS_SSIM_LEAST_PX = 176


@dataclass(frozen=True, slots=True)
class Panel:
    """All outputs of one face.

    Attributes:
        outputs: (V, S, S, 3) uint8 RGB.
        estimate: (S, S, 3) posterior mean, or None where the outputs have none (the VAE's reconstruction).
        clean: (S, S, 3), or None without a reference.
    """

    outputs: U8Image
    estimate: U8Image | None
    clean: U8Image | None


def measure_panel(panel: Panel, identifier: FaceIdentifier | None = None) -> PanelScores:
    """Every measure that the panel allows.

    Args:
        panel: The pictures.
        identifier: For identity and landmarks; None leaves them out.

    Raises:
        ValueError: The clean face is flat.
    """
    images = to_unit(list(panel.outputs))
    scores: dict[str, Sequence[float]] = {"detail": [1000.0 * metrics.laplacian_variance(image) for image in images]}
    if panel.estimate is not None:
        estimate = to_unit([panel.estimate])[0]
        scores["ind_rmse"] = [metrics.ind_rmse(image, estimate) for image in images]
    if panel.clean is None:
        return scores
    clean = to_unit([panel.clean])[0]
    scores["psnr"] = [min(metrics.psnr(image, clean), PSNR_CAP_DB) for image in images]
    scores["ssim"] = [metrics.ssim(image, clean) for image in images]
    scores["sharpness"] = [metrics.sharpness_ratio(image, clean) for image in images]
    if clean.shape[0] >= MS_SSIM_LEAST_PX:
        scores["ms_ssim"] = [metrics.ms_ssim(image, clean) for image in images]
    if identifier is not None:
        reference = identifier.sign(panel.clean)
        signatures = [identifier.sign(output) for output in panel.outputs]
        scores["identity_deg"] = [angle_deg(item.embedding, reference.embedding) for item in signatures]
        scores["landmark_px"] = [landmark_distance_px(item, reference) for item in signatures]
    return scores


class PanelScorer:
    """Measures panels on `num_workers` processes, or on this thread for one; use it as a context manager.

    Args:
        num_workers: Processes, at least 1.
        num_landmarks: dlib's landmarks, 68 or 5; None leaves dlib out.

    Raises:
        ImportError: dlib is asked for and not installed.
    """

    def __init__(self, num_workers: int, num_landmarks: int | None) -> None:
        self._num_landmarks = num_landmarks
        self._identifier = None if num_landmarks is None or num_workers > 1 else FaceIdentifier(num_landmarks)
        self._pool: ProcessPoolExecutor | None = None
        if num_workers > 1:
            # Forking a process that runs onnxruntime's threads can deadlock.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(num_workers, context, _start_worker, (num_landmarks,))

    def __enter__(self) -> PanelScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def measure(self, panels: Sequence[Panel]) -> list[PanelScores]:
        """Scores of panels, in their order."""
        if self._pool is None:
            return [measure_panel(panel, self._identifier) for panel in panels]
        work = functools.partial(_measure_in_worker, num_landmarks=self._num_landmarks)
        return list(self._pool.map(work, panels))


@functools.cache
def _worker_identifier(num_landmarks: int) -> FaceIdentifier:
    return FaceIdentifier(num_landmarks)


def _start_worker(num_landmarks: int | None) -> None:
    cv2.setNumThreads(1)
    if num_landmarks is not None:
        _worker_identifier(num_landmarks)


def _measure_in_worker(panel: Panel, num_landmarks: int | None) -> PanelScores:
    return measure_panel(panel, None if num_landmarks is None else _worker_identifier(num_landmarks))
