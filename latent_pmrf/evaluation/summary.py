"""Means over faces, and which picture a row of the tables is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latent_pmrf.evaluation.scoring import FaceScores


def counted_steps(num_steps: int, noun: str = "step") -> str:
    """A number of Euler steps with its noun."""
    return f"{num_steps} {noun}{'' if num_steps == 1 else 's'}"


@dataclass(frozen=True, slots=True, order=True)
class Variant:
    """What was measured: one method at one level.

    Attributes:
        level: `moderate`, `severe`, or `clean` for the VAE's reconstruction of the clean face.
        method: `input`, `estimator`, `vae`, `sample` (fidelity 0) or `default` (the manifest's steps and fidelity).
        num_steps: Euler steps, 0 where there are none.
        fidelity: Blend, 0 where there is none.
    """

    level: str
    method: str
    num_steps: int = 0
    fidelity: float = 0.0


@dataclass(frozen=True, slots=True)
class MeasuredFace:
    """Scores of one face under one variant; `seed` tells repetitions apart."""

    name: str
    source_set: str
    seed: int
    scores: FaceScores


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over `count` pictures; units as in `FaceScores`.

    Attributes:
        count: Pictures (faces times seeds).
        psnr: Mean of the pictures' dB.
        ssim: Mean.
        ms_ssim: Mean.
        sharpness: Mean of the pictures' ratios.
        pooled_sharpness: Ratio of the summed Laplacian variances, which soft clean photos cannot inflate.
        colour_shift: Mean.
        blockiness: Mean.
        flat_grain: Mean.
        ind_rmse: Mean, or None.
        identity: Mean embedding distance, or None.
        share_nearer: Share of the pictures whose embedding is nearer to the clean face than the input's, or None.
        landmark_px: Mean, or None.
    """

    count: int
    psnr: float
    ssim: float
    ms_ssim: float
    sharpness: float
    pooled_sharpness: float
    colour_shift: float
    blockiness: float
    flat_grain: float
    ind_rmse: float | None
    identity: float | None
    share_nearer: float | None
    landmark_px: float | None


Measured = Mapping[Variant, Sequence[MeasuredFace]]


def summarise(faces: Sequence[MeasuredFace], inputs: Sequence[MeasuredFace] | None = None) -> Summary:
    """Average the scores of one variant.

    Args:
        faces: At least one picture.
        inputs: The degraded inputs of the same level, for `share_nearer`.

    Raises:
        ValueError: There are no faces.
    """
    if not faces:
        raise ValueError("no faces to summarise")
    scores = [face.scores for face in faces]
    detail = sum(score.clean_detail for score in scores)
    return Summary(
        count=len(scores),
        psnr=_mean([score.psnr for score in scores]),
        ssim=_mean([score.ssim for score in scores]),
        ms_ssim=_mean([score.ms_ssim for score in scores]),
        sharpness=_mean([score.sharpness for score in scores]),
        pooled_sharpness=sum(score.sharpness * score.clean_detail for score in scores) / detail,
        colour_shift=_mean([score.colour_shift for score in scores]),
        blockiness=_mean([score.blockiness for score in scores]),
        flat_grain=_mean([score.flat_grain for score in scores]),
        ind_rmse=_mean_known([score.ind_rmse for score in scores]),
        identity=_mean_known([score.identity for score in scores]),
        share_nearer=None if inputs is None else _share_nearer(faces, inputs),
        landmark_px=_mean_known([score.landmark_px for score in scores]),
    )


def summarise_all(measured: Measured) -> dict[Variant, Summary]:
    """Average every variant; `share_nearer` compares with the input of the same level."""
    return {variant: summarise(faces, _inputs(measured, variant)) for variant, faces in measured.items()}


def summarise_by_source(measured: Measured) -> dict[str, dict[Variant, Summary]]:
    """As `summarise_all`, for the faces of each source set alone."""
    sources = sorted({face.source_set for faces in measured.values() for face in faces})
    return {
        source: summarise_all(
            {variant: [face for face in faces if face.source_set == source] for variant, faces in measured.items()}
        )
        for source in sources
    }


def _inputs(measured: Measured, variant: Variant) -> Sequence[MeasuredFace] | None:
    return None if variant.method in {"input", "vae"} else measured.get(Variant(variant.level, "input"))


def _share_nearer(faces: Sequence[MeasuredFace], inputs: Sequence[MeasuredFace]) -> float | None:
    distances = {face.name: face.scores.identity for face in inputs}
    nearer = []
    for face in faces:
        before, after = distances.get(face.name), face.scores.identity
        if before is None or after is None:
            return None
        nearer.append(after < before)
    return sum(nearer) / len(nearer)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None
