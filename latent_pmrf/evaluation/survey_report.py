"""Writes a survey: `rows.csv`, `faces.csv`, `report.md`, `results.json`, a contact sheet per level, the plot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latent_pmrf.evaluation import pictures, tables
from latent_pmrf.evaluation.bundle import BundleSpec
from latent_pmrf.evaluation.measures import MEASURES, PICTURE_MEASURES, SET_MEASURES, Measure
from latent_pmrf.evaluation.outputs import default_variant
from latent_pmrf.evaluation.summary import Variant, counted_steps
from latent_pmrf.evaluation.survey import VAE, Exhibit, Survey, picture_row

Row = dict[str, Any]

_SET_SIZE_TO_TRUST = 2000
_SHEET_CELL_PX = 256
_PERCEPTION = ("fid_dinov2", "fid", "mmd_dinov2", "lpips", "dists", "musiq", "sharpness", "detail")
"""Vertical axes of the plot, the best first."""


def survey_rows(survey: Survey) -> list[Row]:
    """One plain row per variant, VAE first, then level by level; a measure that was not taken is None."""
    order = sorted(survey.pictures, key=lambda item: (item != VAE, item.level, *_place(item)))
    rows = []
    for variant in order:
        faces = survey.pictures[variant]
        means: dict[str, float | None] = {}
        for measure in PICTURE_MEASURES:
            values = [face.scores[measure.key] for face in faces if measure.key in face.scores]
            means[measure.key] = float(np.mean(values)) if len(values) == len(faces) else None
        sets = survey.sets.get(variant, {})
        default = variant == default_variant(variant.level, survey.spec)
        fields = dataclasses.asdict(variant) | {"default": default, "count": len(faces)}
        rows.append(fields | means | {measure.key: sets.get(measure.key) for measure in SET_MEASURES})
    return rows


def survey_results(survey: Survey) -> Row:
    """Everything but the pictures' own scores, as plain values."""
    return {
        "bundle": {
            "name": survey.spec.name,
            "version": survey.spec.version,
            "space": survey.spec.space,
            "image_size_px": survey.spec.image_size_px,
        },
        "default": {"num_steps": survey.spec.default_num_steps, "fidelity": survey.spec.default_fidelity},
        "seed": survey.plan.seed,
        "rows": survey_rows(survey),
        "skipped": dict(survey.skipped),
        "steps_left_out": list(survey.steps_left_out),
        "max_num_steps": survey.spec.max_num_steps,
        "seconds": round(survey.seconds, 1),
        "recogniser": survey.recogniser,
        "reference": survey.reference,
    }


def survey_markdown(results: Row) -> str:
    """The report: a table per level, what was skipped and why, what the columns mean."""
    bundle, rows = results["bundle"], results["rows"]
    columns = [measure for measure in MEASURES if any(row[measure.key] is not None for row in rows)]
    parts = [
        f"# {bundle['name']} {bundle['version']}: measured",
        f"Faces of {bundle['image_size_px']} px, {bundle['space']} space, seed {results['seed']}; default: "
        f"{counted_steps(results['default']['num_steps'])}, fidelity {results['default']['fidelity']:g}; "
        f"{results['seconds']} s. Bold: the default.",
    ]
    for level in dict.fromkeys(row["level"] for row in rows):
        at = [row for row in rows if row["level"] == level]
        parts.append(f"## {level} ({at[0]['count']} faces)\n\n" + _table(at, columns))
    if results["skipped"]:
        titles = {measure.key: measure.title for measure in MEASURES}
        lines = [f"- {titles[key]}: {reason}" for key, reason in results["skipped"].items()]
        parts.append("## Not measured\n\n" + "\n".join(lines))
    if results["steps_left_out"]:
        steps = ", ".join(map(str, results["steps_left_out"]))
        parts.append(f"Left out: {steps} steps; the bundle allows at most {results['max_num_steps']}.")
    parts.append("## Columns\n\n" + "\n".join(f"- {measure.title}: {measure.meaning}" for measure in columns))
    shown = {measure.key for measure in columns}
    if "identity_deg" in shown:
        parts.append(f"Identity by {results['recogniser']}; angles of two recognisers cannot be compared.")
    if shown & {measure.key for measure in SET_MEASURES}:
        note = f"Distances between distributions are to {results['reference']}."
        if min(row["count"] for row in rows) < _SET_SIZE_TO_TRUST:
            note += (
                f" Fréchet distances of fewer than some {_SET_SIZE_TO_TRUST} faces are too high; compare equal counts."
            )
        parts.append(note)
    return "\n\n".join(parts) + "\n"


def write_survey(survey: Survey, out_dir: Path) -> Row:
    """Write every file; returns the results."""
    out_dir.mkdir(parents=True, exist_ok=True)
    results = survey_results(survey)
    (out_dir / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (out_dir / "report.md").write_text(survey_markdown(results), encoding="utf-8")
    tables.write_csv(out_dir / "rows.csv", results["rows"])
    tables.write_csv(out_dir / "faces.csv", _face_rows(survey))
    for level, exhibits in survey.exhibits.items():
        rows = [sheet_row(exhibit, level, survey.spec) for exhibit in exhibits]
        cell_px = min(_SHEET_CELL_PX, survey.spec.image_size_px)
        pictures.save(pictures.sheet(rows, cell_px), out_dir / f"sheet_{level}.png")
    plot_survey(results, out_dir / "perception_distortion.png")
    return results


def sheet_row(exhibit: Exhibit, level: str, spec: BundleSpec) -> pictures.SheetRow:
    """Input, estimator, the sample of every number of steps, the default blend, and the clean face."""
    default = default_variant(level, spec)
    shown: dict[str, Any] = {}
    for variant, image in exhibit.outputs.items():
        if variant.method != "blend" or variant == default:
            shown[_title(dataclasses.asdict(variant))] = image
    if exhibit.clean is not None:
        shown["clean"] = exhibit.clean
    return pictures.SheetRow(exhibit.name, shown)


def plot_survey(results: Row, path: Path) -> None:
    """Perception against distortion by level: steps at fidelity 0, fidelities at the default steps, the anchors.

    Distortion is PSNR, or IndRMSE where there is no clean face; perception is the best measure there is, and sharpness.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # deferred: an optional dependency of evaluation
    from matplotlib.figure import Figure

    outputs = [row for row in results["rows"] if row["method"] != "vae"]
    levels = list(dict.fromkeys(row["level"] for row in outputs))
    measures = {measure.key: measure for measure in MEASURES}
    across = measures["psnr" if outputs[0]["psnr"] is not None else "ind_rmse"]
    taken = [key for key in _PERCEPTION if all(row[key] is not None for row in outputs)]
    fallback = "sharpness" if "sharpness" in taken else "detail"
    upward = [measures[key] for key in dict.fromkeys((taken[0], fallback))]
    figure = Figure(figsize=(5.6 * len(levels), 4.4 * len(upward)), layout="constrained")
    grid = figure.subplots(len(upward), len(levels), squeeze=False)
    for axes_row, measure in zip(grid, upward, strict=True):
        for axes, level in zip(axes_row, levels, strict=True):
            _draw([row for row in outputs if row["level"] == level], (across.key, measure.key), axes, results)
            axes.set(title=level, xlabel=across.heading, ylabel=measure.heading)
    FigureCanvasAgg(figure).print_figure(path, dpi=120)


def _draw(rows: Sequence[Row], keys: tuple[str, str], axes: Any, results: Row) -> None:  # noqa: ANN401 - matplotlib's
    def points(chosen: Sequence[Row]) -> tuple[list[float], list[float]]:
        return [row[keys[0]] for row in chosen], [row[keys[1]] for row in chosen]

    by_method = {method: [row for row in rows if row["method"] == method] for method in _METHODS}
    steps = results["default"]["num_steps"]
    axes.plot(*points(by_method["sample"]), "o-", color="tab:blue", label="sample by steps")
    for row in by_method["sample"]:
        at = row[keys[0]], row[keys[1]]
        axes.annotate(str(row["num_steps"]), at, textcoords="offset points", xytext=(5, 4), fontsize=8)
    ends = [row for row in by_method["sample"] if row["num_steps"] == steps]
    line = [*ends, *by_method["blend"], *by_method["estimator"]]
    axes.plot(*points(line), ".--", color="tab:orange", label=f"fidelity 0 to 1 at {counted_steps(steps)}")
    for method, marker, colour in (("input", "x", "black"), ("estimator", "s", "tab:green")):
        axes.plot(*points(by_method[method]), marker, color=colour, label=method)
    axes.plot(*points([row for row in rows if row["default"]]), "*", color="tab:red", markersize=13, label="default")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


_METHODS = ("vae", "input", "estimator", "sample", "blend")


def _place(variant: Variant) -> tuple[int, int, float]:
    return _METHODS.index(variant.method), variant.num_steps, variant.fidelity


def _title(fields: Mapping[str, Any]) -> str:
    steps = counted_steps(fields["num_steps"])
    names = {
        "vae": "VAE of the clean face",
        "input": "degraded",
        "estimator": "estimator",
        "sample": f"sample, {steps}",
        "blend": f"{steps}, fidelity {fields['fidelity']:g}",
    }
    return names[fields["method"]]


def _table(rows: Sequence[Row], columns: Sequence[Measure]) -> str:
    lines = [
        "| output | " + " | ".join(measure.heading for measure in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for row in rows:
        title = f"**{_title(row)}**" if row["default"] else _title(row)
        cells = ["-" if row[item.key] is None else format(row[item.key], item.form) for item in columns]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _face_rows(survey: Survey) -> list[Row]:
    return [picture_row(variant, face) for variant, faces in survey.pictures.items() for face in faces]
