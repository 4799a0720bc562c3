"""Measures a bundle on the validation faces and writes the report.

faces -> restore and score, level by level (VAE; input, estimator, samples) -> fidelity sweep -> choice of defaults
      -> score the manifest's default -> floors -> report.md, rows.csv, faces.csv, results.json, pictures
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latent_pmrf.evaluation import pictures, tables
from latent_pmrf.evaluation.bundle import BundleRestorer
from latent_pmrf.evaluation.dataset import LEVELS, ValidationFace, load_faces
from latent_pmrf.evaluation.defaults import Choice, choose_defaults
from latent_pmrf.evaluation.floors import Floor, check_floors
from latent_pmrf.evaluation.growing import GrowingTable
from latent_pmrf.evaluation.rating import Rater
from latent_pmrf.evaluation.restoration import Progress, Restored, restoring
from latent_pmrf.evaluation.scoring import BlendScores, Scorer, blend
from latent_pmrf.evaluation.summary import (
    Measured,
    MeasuredFace,
    Summary,
    Variant,
    counted_steps,
    summarise,
    summarise_all,
    summarise_by_source,
)

U8Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What is measured.

    Attributes:
        num_steps: Numbers of steps to sample; the manifest's default is added, and what it forbids is left out.
        fidelities: Blends to sweep.
        seeds: The sweep uses the first; the default output is measured with each.
        limit: Faces to use, or None for all.
        num_threads: Threads of the networks and processes of the scores, at least 1.
        batch_size: Faces per network call.
        with_identity: Measure identity and landmarks (dlib).
        sheet_faces: Faces on each contact sheet.
    """

    num_steps: tuple[int, ...] = (1, 2, 5, 10, 25)
    fidelities: tuple[float, ...] = tuple(round(0.1 * step, 1) for step in range(11))
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    num_threads: int = 1
    batch_size: int = 8
    with_identity: bool = True
    sheet_faces: int = 8


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was measured, with the pictures it was measured on.

    Attributes:
        bundle: The networks.
        plan: What was asked for.
        faces: The validation faces.
        restored: Their restorations.
        measured: Scores of every picture by variant.
        sweep: Means of the blends' cheap scores by (number of steps, fidelity) and level.
        choice: The defaults that this measurement recommends.
        seconds: Duration of the measurement.
    """

    bundle: BundleRestorer
    plan: EvaluationPlan
    faces: Sequence[ValidationFace]
    restored: Restored
    measured: Mapping[Variant, Sequence[MeasuredFace]]
    sweep: Mapping[tuple[int, float], Mapping[str, BlendScores]]
    choice: Choice
    seconds: float

    @property
    def default(self) -> tuple[int, float]:
        """Number of steps and fidelity of the manifest."""
        return self.bundle.spec.default_num_steps, self.bundle.spec.default_fidelity

    @property
    def summaries(self) -> dict[Variant, Summary]:
        """Means by variant."""
        return summarise_all(self.measured)

    @property
    def floors(self) -> list[Floor]:
        """The quality floors held against the means."""
        return check_floors(self.summaries, self.default, self.bundle.spec.image_size_px)

    def default_output(self, level: str, index: int) -> U8Images:
        """The picture of face `index` with the manifest's defaults and the first seed, (S, S, 3)."""
        num_steps, fidelity = self.default
        sample = self.restored.samples[level, num_steps, self.plan.seeds[0]][index]
        return blend(sample, self.restored.estimates[level][index], fidelity)


def evaluate(
    repository: Path, val_dir: Path, out_dir: Path, plan: EvaluationPlan, progress: Progress | None = None
) -> Evaluation:
    """Measure the bundle in `repository` on `val_dir` and write the report to `out_dir`.

    Raises:
        ValueError: The bundle or the validation faces are not usable.
    """
    started = time.monotonic()
    progress = progress or _silent
    bundle = BundleRestorer(repository, plan.num_threads)
    if bundle.spec.space == "pixel":
        raise ValueError("space: the report compares with the autoencoder alone, which a pixel bundle does not have")
    faces = load_faces(val_dir, bundle.spec.image_size_px, plan.limit)
    default_steps = bundle.spec.default_num_steps
    allowed = {steps for steps in plan.num_steps if steps <= bundle.spec.max_num_steps} | {default_steps}
    first, *others = plan.seeds
    runs = [(steps, first) for steps in sorted(allowed)] + [(default_steps, seed) for seed in others]
    with GrowingTable(out_dir) as table, Scorer(plan.num_threads, plan.with_identity) as scorer:

        def keep(measured: Measured) -> None:
            table.add(tables.face_rows(measured))

        levels = restoring(bundle, faces, runs, batch_size=plan.batch_size, progress=progress)
        restored = next(levels)
        rater = Rater(faces, restored, scorer, first, progress, keep)
        measured = rater.rate_vae()
        for level, _ in zip(LEVELS, levels, strict=True):  # `restored` has the level's pictures now
            measured |= rater.rate_level(level, sorted(allowed))
        sweep = rater.sweep(sorted(allowed), plan.fidelities)
        inputs = {level: summarise(measured[Variant(level, "input")]) for level in LEVELS}

        def measure(num_steps: int, fidelity: float) -> dict[str, Summary]:
            rated = rater.rate_blend("candidate", num_steps, fidelity, (first,))
            return {
                variant.level: summarise(rows, measured[Variant(variant.level, "input")])
                for variant, rows in rated.items()
            }

        choice = choose_defaults(sweep, inputs, measure)
        measured |= rater.rate_blend("default", default_steps, bundle.spec.default_fidelity, plan.seeds)
        seconds = time.monotonic() - started
        evaluation = Evaluation(bundle, plan, faces, restored, measured, sweep, choice, seconds)
        write_report(evaluation, out_dir)
    return evaluation


def results_of(evaluation: Evaluation) -> dict[str, Any]:
    """The results as plain values: what `results.json` holds and the model card is written from."""
    spec = evaluation.bundle.spec
    num_steps, fidelity = evaluation.default
    return {
        "bundle": {
            "name": spec.name,
            "version": spec.version,
            "image_size_px": spec.image_size_px,
            "networks": {name: network["sha256"] for name, network in evaluation.bundle.manifest["networks"].items()},
        },
        "default": {"num_steps": num_steps, "fidelity": fidelity},
        "faces": len(evaluation.faces),
        "seeds": list(evaluation.plan.seeds),
        "rows": tables.rows(evaluation.summaries),
        "by_source": {
            source: tables.rows(summaries) for source, summaries in summarise_by_source(evaluation.measured).items()
        },
        "seed_spread": _seed_spread(evaluation),
        "sweep": tables.sweep_rows(evaluation.sweep),
        "choice": tables.choice_values(evaluation.choice),
        "floors": tables.floor_rows(evaluation.floors),
        "environment": {
            "machine": platform.machine(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "threads": evaluation.plan.num_threads,
            "seconds": round(evaluation.seconds, 1),
        },
    }


def write_report(evaluation: Evaluation, out_dir: Path) -> None:
    """Write tables, per-face scores, contact sheets and the perception-distortion plot to `out_dir`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    results = results_of(evaluation)
    (out_dir / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (out_dir / "report.md").write_text(tables.report_markdown(results), encoding="utf-8")
    tables.write_csv(out_dir / "rows.csv", results["rows"])
    tables.write_csv(out_dir / "faces.csv", tables.face_rows(evaluation.measured))
    indices = [round(i) for i in np.linspace(0, len(evaluation.faces) - 1, evaluation.plan.sheet_faces)]
    chosen = sorted(set(indices))
    for level in LEVELS:
        pictures.save(pictures.sheet(sheet_rows(evaluation, level, chosen)), out_dir / f"sheet_{level}.png")
    pictures.save(pictures.sheet(_vae_rows(evaluation, chosen)), out_dir / "sheet_vae.png")
    pictures.plot_perception_distortion(results, out_dir / "perception_distortion.png")


def sheet_rows(evaluation: Evaluation, level: str, indices: Sequence[int]) -> list[pictures.SheetRow]:
    """Degraded, estimator, sample, default and clean of some faces."""
    num_steps, fidelity = evaluation.default
    samples = evaluation.restored.samples[level, num_steps, evaluation.plan.seeds[0]]
    return [
        pictures.SheetRow(
            label=f"{evaluation.faces[index].name} ({level})",
            pictures={
                "degraded": evaluation.faces[index].degraded[level],
                "estimator": evaluation.restored.estimates[level][index],
                f"sample, {counted_steps(num_steps)}": samples[index],
                f"default, fidelity {fidelity:g}": evaluation.default_output(level, index),
                "clean": evaluation.faces[index].clean,
            },
        )
        for index in indices
    ]


def _vae_rows(evaluation: Evaluation, indices: Sequence[int]) -> list[pictures.SheetRow]:
    rows = []
    for index in indices:
        clean, kept = evaluation.faces[index].clean, evaluation.restored.reconstructions[index]
        error = np.clip(128 + 4 * (kept.astype(np.int16) - clean), 0, 255).astype(np.uint8)
        views = {"clean": clean, "through the VAE": kept, "difference x 4": error}
        rows.append(pictures.SheetRow(label=evaluation.faces[index].name, pictures=views))
    return rows


def _seed_spread(evaluation: Evaluation) -> dict[str, float | None]:
    """Sample standard deviation over the seeds of the default output's mean PSNR, dB by level; None with one seed."""
    spread: dict[str, float | None] = {}
    for level in LEVELS:
        rows = evaluation.measured[Variant(level, "default", *evaluation.default)]
        means = [np.mean([row.scores.psnr for row in rows if row.seed == seed]) for seed in evaluation.plan.seeds]
        spread[level] = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return spread


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Progress nobody watches."""
