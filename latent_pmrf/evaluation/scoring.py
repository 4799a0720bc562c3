"""Scores of single pictures, on this thread or on a pool of processes.

    ScoreTask (picture, clean, estimate) -> FaceScores
    BlendTask (sample, estimate, clean, fidelities) -> BlendScores per fidelity

Pictures are measured after rounding to 8 bits, as a user receives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latent_pmrf.evaluation import metrics
from latent_pmrf.evaluation.identity import FaceIdentifier, Signature, identity_distance, landmark_distance_px
from latent_pmrf.evaluation.workers import Workers

U8Image = npt.NDArray[np.uint8]

PSNR_CAP_DB = 100.0


@dataclass(frozen=True, slots=True)
class FaceScores:
    """Everything measured on one picture; see `metrics` and `identity` for the definitions.

    Attributes:
        psnr: dB against the clean face, at most 100.
        ssim: Against the clean face.
        ms_ssim: Against the clean face.
        sharpness: Laplacian variance over the clean face's.
        clean_detail: Laplacian variance of the clean face.
        colour_shift: In 8-bit levels.
        blockiness: 1 where no 8-px grid shows.
        flat_grain: In 8-bit levels above the clean face.
        ind_rmse: In [0, 1] against the estimator's output; None where there is none.
        identity: Embedding distance to the clean face, or None where not measured.
        landmark_px: Landmark distance to the clean face in pixels at 512, or None where not measured.
    """

    psnr: float
    ssim: float
    ms_ssim: float
    sharpness: float
    clean_detail: float
    colour_shift: float
    blockiness: float
    flat_grain: float
    ind_rmse: float | None
    identity: float | None
    landmark_px: float | None


@dataclass(frozen=True, slots=True)
class BlendScores:
    """The cheap scores of one fidelity blend; units as in `FaceScores`."""

    psnr: float
    ssim: float
    sharpness: float


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """One (S, S, 3) uint8 picture to measure; `clean_signature` None leaves identity out."""

    image: U8Image
    clean: U8Image
    estimate: U8Image | None = None
    clean_signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class BlendTask:
    """One sample to blend with its estimate at several fidelities; (S, S, 3) uint8."""

    sample: U8Image
    estimate: U8Image
    clean: U8Image
    fidelities: tuple[float, ...]


def blend(sample: U8Image, estimate: U8Image, fidelity: float) -> U8Image:
    """The service's fidelity control: 0 gives the sample, 1 the posterior mean; uint8 of any shape."""
    mixed = (1.0 - fidelity) * sample.astype(np.float32) + fidelity * estimate.astype(np.float32)
    return np.rint(mixed).astype(np.uint8)


def score(task: ScoreTask, identifier: FaceIdentifier | None = None) -> FaceScores:
    """Measure one picture; identity needs an `identifier` and the clean face's signature."""
    image, clean = _unit(task.image), _unit(task.clean)
    identity = landmark = None
    if identifier is not None and task.clean_signature is not None:
        signature = identifier.sign(task.image)
        identity = identity_distance(signature, task.clean_signature)
        landmark = landmark_distance_px(signature, task.clean_signature)
    return FaceScores(
        psnr=min(metrics.psnr(image, clean), PSNR_CAP_DB),
        ssim=metrics.ssim(image, clean),
        ms_ssim=metrics.ms_ssim(image, clean),
        sharpness=metrics.sharpness_ratio(image, clean),
        clean_detail=metrics.laplacian_variance(clean),
        colour_shift=255.0 * metrics.colour_shift(image, clean),
        blockiness=metrics.blockiness(image),
        flat_grain=metrics.flat_grain(image, clean),
        ind_rmse=None if task.estimate is None else metrics.ind_rmse(image, _unit(task.estimate)),
        identity=identity,
        landmark_px=landmark,
    )


def score_blends(task: BlendTask) -> tuple[BlendScores, ...]:
    """Measure the blend of each fidelity."""
    clean = _unit(task.clean)
    results = []
    for fidelity in task.fidelities:
        image = _unit(blend(task.sample, task.estimate, fidelity))
        results.append(
            BlendScores(
                psnr=min(metrics.psnr(image, clean), PSNR_CAP_DB),
                ssim=metrics.ssim(image, clean),
                sharpness=metrics.sharpness_ratio(image, clean),
            )
        )
    return tuple(results)


class Scorer(Workers):
    """Runs scores on `num_workers` processes, or on this thread for one.

    Args:
        num_workers: Processes, at least 1.
        with_identity: Load dlib's models; without them identity and landmarks stay None.
    """

    def __init__(self, num_workers: int = 1, with_identity: bool = True) -> None:
        super().__init__(num_workers, 68 if with_identity else None)

    def sign(self, images: Sequence[U8Image]) -> list[Signature | None]:
        """Signatures of clean faces, or None for each without identity."""
        return list(self.map(_sign, images))

    def score(self, tasks: Iterable[ScoreTask]) -> Iterator[FaceScores]:
        """Measure pictures, results in the order of the tasks."""
        return self.map(score, tasks)

    def score_blends(self, tasks: Iterable[BlendTask]) -> Iterator[tuple[BlendScores, ...]]:
        """Measure blends, results in the order of the tasks."""
        return self.map(_score_blends, tasks)


def _sign(image: U8Image, identifier: FaceIdentifier | None) -> Signature | None:
    return None if identifier is None else identifier.sign(image)


def _score_blends(task: BlendTask, _identifier: FaceIdentifier | None) -> tuple[BlendScores, ...]:
    return score_blends(task)


def _unit(image: U8Image) -> npt.NDArray[np.float32]:
    return image.astype(np.float32) / np.float32(255.0)
