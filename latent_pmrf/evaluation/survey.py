"""Measures a bundle on any folder of aligned faces, degraded alone or with their clean faces.

    folder -> batches -> outputs (estimator, samples by steps, blends by fidelity) -> one panel per face
           -> scores per picture; features per row -> distances to the reference faces

Nothing but scores, features and a few pictures for the sheets is kept, so a folder may hold thousands of faces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from latent_pmrf.evaluation.bundle import BundleRestorer, BundleSpec
from latent_pmrf.evaluation.distributions import frechet_distance, mmd_rbf
from latent_pmrf.evaluation.folders import FaceFolder, read_face, spread
from latent_pmrf.evaluation.learned import LearnedMeasures
from latent_pmrf.evaluation.measures import MEASURES, NEED_CLEAN, PICTURE_MEASURES, SET_MEASURES, WEIGHTS
from latent_pmrf.evaluation.outputs import restore_variants, variants_of
from latent_pmrf.evaluation.panel import MS_SSIM_LEAST_PX, Panel, PanelScorer
from latent_pmrf.evaluation.restoration import Progress, to_u8, to_unit
from latent_pmrf.evaluation.summary import Variant

U8Image = npt.NDArray[np.uint8]
F32Array = npt.NDArray[np.float32]
KeepRows = Callable[[Sequence[dict[str, Any]]], None]

VAE = Variant("clean", "vae")


@dataclass(frozen=True, slots=True)
class SurveyPlan:
    """What is measured.

    Attributes:
        num_steps: Numbers of steps to sample at fidelity 0; the manifest's default is added, what it forbids left out.
        fidelities: Blends at the manifest's steps; its fidelity is added. 0 is the sample, 1 the estimator.
        seed: Of the noise.
        num_threads: Processes of the scores, at least 1.
        batch_size: Faces per network call.
        num_landmarks: dlib's landmarks, 68 or 5; None leaves dlib out.
        sheet_faces: Faces of each level on its contact sheet.
    """

    num_steps: tuple[int, ...] = (1, 2, 5, 10, 25, 50)
    fidelities: tuple[float, ...] = tuple(round(0.1 * step, 1) for step in range(11))
    seed: int = 0
    num_threads: int = 1
    batch_size: int = 8
    num_landmarks: int | None = 68
    sheet_faces: int = 6


@dataclass(frozen=True, slots=True)
class PictureScores:
    """Scores of one face under one variant, by measure key."""

    name: str
    scores: Mapping[str, float]


def picture_row(variant: Variant, picture: PictureScores) -> dict[str, Any]:
    """One plain row; a measure that was not taken is None."""
    scores = {measure.key: picture.scores.get(measure.key) for measure in PICTURE_MEASURES}
    return asdict(variant) | {"name": picture.name} | scores


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One face for the contact sheets: (S, S, 3) uint8 by variant, and the clean face where there is one."""

    name: str
    outputs: Mapping[Variant, U8Image]
    clean: U8Image | None


@dataclass(frozen=True, slots=True)
class Survey:
    """What was measured.

    Attributes:
        spec: The bundle.
        plan: What was asked for.
        pictures: Scores of every picture by variant.
        sets: Measures of all pictures of a variant together, by key.
        skipped: Reason by key for each measure that was not taken.
        steps_left_out: Numbers of steps that the manifest forbids.
        recogniser: Whose embeddings identity is measured by, in words.
        reference: What distributions were compared with, in words.
        exhibits: Faces to show, by level.
        seconds: Duration.
    """

    spec: BundleSpec
    plan: SurveyPlan
    pictures: Mapping[Variant, Sequence[PictureScores]]
    sets: Mapping[Variant, Mapping[str, float]]
    skipped: Mapping[str, str]
    steps_left_out: tuple[int, ...]
    recogniser: str
    reference: str
    exhibits: Mapping[str, Sequence[Exhibit]]
    seconds: float


def reasons_to_skip(plan: SurveyPlan, folder: FaceFolder, learned: LearnedMeasures, size_px: int) -> dict[str, str]:
    """Why measures cannot be taken, by key: known before anything is restored."""
    reasons = dict(learned.skipped)
    if size_px < MS_SSIM_LEAST_PX:
        reasons["ms_ssim"] = f"needs {MS_SSIM_LEAST_PX} px a side, the bundle has {size_px}"
    if plan.num_landmarks is None:
        reasons["landmark_px"] = "dlib is left out, or not installed"
        if "identity_deg" not in learned.panels:
            reasons.setdefault(
                "identity_deg", "dlib is left out, or not installed, and no weights given (--weights arcface=FILE)"
            )
    if not folder.has_clean:
        reasons |= dict.fromkeys(NEED_CLEAN, "needs clean faces")
    for key in {measure.key for measure in SET_MEASURES} - learned.skipped.keys():
        if not folder.has_clean and not folder.reference:
            reasons[key] = "needs clean faces or --reference DIR"
        elif min(len(files) for files in folder.levels.values()) < 2:
            reasons[key] = "needs at least two faces of each level"
    return {measure.key: reasons[measure.key] for measure in MEASURES if measure.key in reasons}


def survey(  # noqa: PLR0913 - what is measured on what, and who is told
    bundle: BundleRestorer,
    folder: FaceFolder,
    learned: LearnedMeasures,
    plan: SurveyPlan,
    progress: Progress | None = None,
    keep: KeepRows | None = None,
) -> Survey:
    """Measure a bundle on a folder.

    Args:
        bundle: The networks.
        folder: The faces.
        learned: The measures that need given weights.
        plan: What to measure.
        progress: Called after each batch.
        keep: Called with the scores of each batch as soon as they are there.

    Raises:
        ImportError: dlib is asked for and not installed.
        ValueError: A picture cannot be used.
    """
    started = time.monotonic()
    spec = bundle.spec
    skipped = reasons_to_skip(plan, folder, learned, spec.image_size_px)
    with PanelScorer(plan.num_threads, plan.num_landmarks if folder.has_clean else None) as scorer:
        surveyor = _Surveyor(bundle, folder, learned, plan, skipped, scorer, progress, keep)
        references = surveyor.read_references()
        for level in folder.levels:
            surveyor.measure_level(level)
        if folder.has_clean and spec.space == "latent":
            surveyor.measure_vae()
    return Survey(
        spec=spec,
        plan=plan,
        pictures=surveyor.pictures,
        sets=surveyor.set_measures(references),
        skipped=skipped,
        steps_left_out=tuple(steps for steps in plan.num_steps if steps > spec.max_num_steps),
        recogniser="the given ArcFace weights" if "identity_deg" in learned.panels else "dlib",
        reference=f"{len(folder.reference)} reference faces" if folder.reference else "the clean faces of the level",
        exhibits=surveyor.exhibits,
        seconds=time.monotonic() - started,
    )


@dataclass(eq=False)
class _Surveyor:
    """Goes through the folder batch by batch and keeps what the tables need.

    Attributes:
        features: By kind and row: a variant, or the name of a level for its clean faces.
    """

    bundle: BundleRestorer
    folder: FaceFolder
    learned: LearnedMeasures
    plan: SurveyPlan
    skipped: Mapping[str, str]
    scorer: PanelScorer
    progress: Progress | None
    keep: KeepRows | None
    pictures: dict[Variant, list[PictureScores]] = field(default_factory=dict)
    exhibits: dict[str, list[Exhibit]] = field(default_factory=dict)
    features: dict[tuple[str, Variant | str], list[F32Array]] = field(default_factory=dict)

    def measure_level(self, level: str) -> None:
        """Every output of every face of a level."""
        files, size_px = self.folder.levels[level], self.bundle.spec.image_size_px
        variants = variants_of(level, self.bundle.spec, self.plan.num_steps, self.plan.fidelities)
        shown = set(spread(len(files), self.plan.sheet_faces))
        for start in range(0, len(files), self.plan.batch_size):
            batch = files[start : start + self.plan.batch_size]
            degraded = [read_face(file.degraded, size_px, enlarge=True) for file in batch]
            clean = [None if file.clean is None else read_face(file.clean, size_px) for file in batch]
            outputs, estimates = restore_variants(self.bundle, degraded, variants, self.plan.seed, start)
            panels = [Panel(*parts) for parts in zip(outputs, estimates, clean, strict=True)]
            self._score([file.name for file in batch], variants, panels)
            for column, variant in enumerate(variants):
                self._keep_features(variant, outputs[:, column])
            if self.folder.has_clean and not self.folder.reference:
                self._keep_features(level, np.stack([face for face in clean if face is not None]))
            for row, (file, panel) in enumerate(zip(batch, panels, strict=True)):
                if start + row in shown:
                    pictures = dict(zip(variants, panel.outputs, strict=True))
                    self.exhibits.setdefault(level, []).append(Exhibit(file.name, pictures, panel.clean))
            self._tell(level, start + len(batch), len(files))

    def measure_vae(self) -> None:
        """What the VAE keeps of the clean faces, each once."""
        faces = [face for level in self.folder.levels.values() for face in level]
        files = sorted({(face.name, face.clean) for face in faces if face.clean is not None})
        for start in range(0, len(files), self.plan.batch_size):
            batch = files[start : start + self.plan.batch_size]
            clean = np.stack([read_face(path, self.bundle.spec.image_size_px) for _, path in batch])
            kept = to_u8(self.bundle.reconstruct(to_unit(list(clean))))
            panels = [Panel(kept[row : row + 1], None, clean[row]) for row in range(len(batch))]
            self._score([name for name, _ in batch], [VAE], panels)
            self._keep_features(VAE, kept)
            if not self.folder.reference:
                self._keep_features(VAE.level, clean)
            self._tell("VAE of the clean faces", start + len(batch), len(files))

    def read_references(self) -> dict[str, F32Array]:
        """Features of the reference faces by kind; empty where the clean faces are the reference."""
        paths, size_px, count = self.folder.reference, self.bundle.spec.image_size_px, self.plan.batch_size
        parts: dict[str, list[F32Array]] = {kind: [] for kind in self._kinds} if paths else {}
        for start in range(0, len(paths) if parts else 0, count):
            images = np.stack([read_face(path, size_px) for path in paths[start : start + count]])
            for kind, found in parts.items():
                found.append(self.learned.features[kind](images))
            self._tell("reference faces", start + len(images), len(paths))
        return {kind: np.concatenate(found) for kind, found in parts.items()}

    def set_measures(self, references: Mapping[str, F32Array]) -> dict[Variant, dict[str, float]]:
        """Distances of every variant to the reference, or to the clean faces of its level."""
        found: dict[Variant, dict[str, float]] = {}
        for (kind, row), parts in self.features.items():
            if isinstance(row, Variant):
                features = np.concatenate(parts)
                other = references[kind] if references else np.concatenate(self.features[kind, row.level])
                for key in WEIGHTS[kind]:
                    distance = mmd_rbf if key.startswith("mmd") else frechet_distance
                    found.setdefault(row, {})[key] = distance(features, other)
        return found

    @property
    def _kinds(self) -> list[str]:
        return [kind for kind in self.learned.features if WEIGHTS[kind][0] not in self.skipped]

    def _score(self, names: Sequence[str], variants: Sequence[Variant], panels: Sequence[Panel]) -> None:
        rows = []
        for name, panel, closed_form in zip(names, panels, self.scorer.measure(panels), strict=True):
            learned = {key: run(panel) for key, run in self.learned.panels.items() if key not in self.skipped}
            scores = {**closed_form, **learned}
            for column, variant in enumerate(variants):
                picture = PictureScores(name, {key: values[column] for key, values in scores.items()})
                self.pictures.setdefault(variant, []).append(picture)
                rows.append(picture_row(variant, picture))
        if self.keep is not None:
            self.keep(rows)

    def _keep_features(self, row: Variant | str, images: U8Image) -> None:
        for kind in self._kinds:
            self.features.setdefault((kind, row), []).append(self.learned.features[kind](images))

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)
