"""Scores the restored pictures of one run, variant by variant."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from latent_pmrf.evaluation.dataset import LEVELS, ValidationFace
from latent_pmrf.evaluation.identity import Signature
from latent_pmrf.evaluation.restoration import Progress, Restored
from latent_pmrf.evaluation.scoring import BlendScores, BlendTask, Scorer, ScoreTask, blend
from latent_pmrf.evaluation.summary import Measured, MeasuredFace, Variant

U8Images = npt.NDArray[np.uint8]


class Rater:
    """Scores the restored pictures of one run.

    Args:
        faces: The validation faces.
        restored: Their restorations, those of a level at least by the time that it is rated.
        scorer: Where the scores are computed.
        seed: The seed of the sweep.
        progress: Called after each picture.
        keep: Called with the scores of each output as soon as they are there.
    """

    def __init__(  # noqa: PLR0913 - what is rated, where, and who is told
        self,
        faces: Sequence[ValidationFace],
        restored: Restored,
        scorer: Scorer,
        seed: int,
        progress: Progress,
        keep: Callable[[Measured], None],
    ) -> None:
        self._faces = faces
        self._restored = restored
        self._scorer = scorer
        self._seed = seed
        self._progress = progress
        self._keep = keep
        self._signatures: list[Signature | None] = scorer.sign([face.clean for face in faces])

    def rate_vae(self) -> dict[Variant, list[MeasuredFace]]:
        """The VAE's reconstruction of the clean faces."""
        return self._kept(Variant("clean", "vae"), self._rate("vae", self._restored.reconstructions, None, self._seed))

    def rate_level(self, level: str, num_steps: Sequence[int]) -> dict[Variant, list[MeasuredFace]]:
        """Input, estimator and samples of a level."""
        degraded = np.stack([face.degraded[level] for face in self._faces])
        estimates = self._restored.estimates[level]
        outputs = {Variant(level, "input"): degraded, Variant(level, "estimator"): estimates}
        for steps in num_steps:
            outputs[Variant(level, "sample", steps)] = self._restored.samples[level, steps, self._seed]
        measured: dict[Variant, list[MeasuredFace]] = {}
        for variant, images in outputs.items():
            label = f"{level} {variant.method}" + (f", {variant.num_steps} steps" if variant.num_steps else "")
            measured |= self._kept(variant, self._rate(label, images, estimates, self._seed))
        return measured

    def rate_blend(
        self, method: str, num_steps: int, fidelity: float, seeds: Sequence[int]
    ) -> dict[Variant, list[MeasuredFace]]:
        """One blend at every level."""
        measured: dict[Variant, list[MeasuredFace]] = {}
        for level in LEVELS:
            estimates = self._restored.estimates[level]
            rows: list[MeasuredFace] = []
            for seed in seeds:
                images = blend(self._restored.samples[level, num_steps, seed], estimates, fidelity)
                label = f"{level} {method}, {num_steps} steps, fidelity {fidelity:g}"
                rows += self._rate(label, images, estimates, seed)
            measured |= self._kept(Variant(level, method, num_steps, fidelity), rows)
        return measured

    def sweep(
        self, num_steps: Sequence[int], fidelities: tuple[float, ...]
    ) -> dict[tuple[int, float], dict[str, BlendScores]]:
        """Mean cheap scores of all blends."""
        means: dict[tuple[int, float], dict[str, BlendScores]] = {}
        for level in LEVELS:
            for steps in num_steps:
                samples, estimates = self._restored.samples[level, steps, self._seed], self._restored.estimates[level]
                tasks = [
                    BlendTask(sample, estimate, face.clean, fidelities)
                    for sample, estimate, face in zip(samples, estimates, self._faces, strict=True)
                ]
                scores = list(self._scorer.score_blends(tasks))
                for column, fidelity in enumerate(fidelities):
                    at = [row[column] for row in scores]
                    means.setdefault((steps, fidelity), {})[level] = BlendScores(
                        psnr=float(np.mean([item.psnr for item in at])),
                        ssim=float(np.mean([item.ssim for item in at])),
                        sharpness=float(np.mean([item.sharpness for item in at])),
                    )
                self._progress(f"{level} blends, {steps} steps", len(scores), len(scores))
        return means

    def _kept(self, variant: Variant, rows: list[MeasuredFace]) -> dict[Variant, list[MeasuredFace]]:
        measured = {variant: rows}
        self._keep(measured)
        return measured

    def _rate(self, label: str, images: U8Images, estimates: U8Images | None, seed: int) -> list[MeasuredFace]:
        tasks = [
            ScoreTask(image, face.clean, None if estimates is None else estimates[index], self._signatures[index])
            for index, (image, face) in enumerate(zip(images, self._faces, strict=True))
        ]
        rows: list[MeasuredFace] = []
        for face, scores in zip(self._faces, self._scorer.score(tasks), strict=True):
            rows.append(MeasuredFace(face.name, face.source_set, seed, scores))
            self._progress(label, len(rows), len(tasks))
        return rows
