"""Results as plain rows, Markdown and CSV."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latent_pmrf.evaluation.defaults import Choice
from latent_pmrf.evaluation.floors import Floor
from latent_pmrf.evaluation.scoring import BlendScores
from latent_pmrf.evaluation.summary import Measured, Summary, Variant, counted_steps

Row = dict[str, Any]

_LEVEL_ORDER = ("clean", "moderate", "severe")
_METHOD_ORDER = ("vae", "input", "estimator", "sample", "default")
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("psnr", "PSNR dB", ".2f"),
    ("ssim", "SSIM", ".3f"),
    ("ms_ssim", "MS-SSIM", ".3f"),
    ("sharpness", "sharpness", ".2f"),
    ("identity", "identity", ".3f"),
    ("share_nearer", "nearer", ".0%"),
    ("landmark_px", "landmarks px", ".2f"),
    ("ind_rmse", "IndRMSE", ".4f"),
    ("colour_shift", "colour", ".2f"),
    ("blockiness", "blocks", ".3f"),
    ("flat_grain", "grain", "+.2f"),
)
LEGEND = (
    "PSNR, SSIM (11x11 Gaussian, RGB) and MS-SSIM against the clean face; sharpness: Laplacian variance over the "
    "clean face's, mean of the faces (grain inflates it; the VAE's floor takes the ratio of all variances together "
    "where that is less); identity: dlib embedding distance to the clean face; nearer: share of faces nearer to the "
    "clean face than the degraded input; landmarks: mean distance of 68 points, in pixels at 512; IndRMSE: to the "
    "estimator's output; colour: shift of the channel means, 8-bit levels; blocks: steps on the 8-px grid over steps "
    "elsewhere (1 is none); grain: fine structure in flat areas above the clean face, 8-bit levels. Where there are "
    "several seeds, the default is the mean over them, and all else is of the first."
)


def rows(summaries: Mapping[Variant, Summary]) -> list[Row]:
    """One plain row per variant, ordered by level, method and steps."""
    ordered = sorted(
        summaries,
        key=lambda item: (_LEVEL_ORDER.index(item.level), _METHOD_ORDER.index(item.method), item.num_steps),
    )
    return [dataclasses.asdict(variant) | dataclasses.asdict(summaries[variant]) for variant in ordered]


def face_rows(measured: Measured) -> list[Row]:
    """One plain row per picture."""
    return [
        dataclasses.asdict(variant)
        | {"name": face.name, "source_set": face.source_set, "seed": face.seed}
        | dataclasses.asdict(face.scores)
        for variant, faces in measured.items()
        for face in faces
    ]


def sweep_rows(sweep: Mapping[tuple[int, float], Mapping[str, BlendScores]]) -> list[Row]:
    """One plain row per blend and level."""
    return [
        {"level": level, "num_steps": steps, "fidelity": fidelity} | dataclasses.asdict(scores)
        for (steps, fidelity), levels in sorted(sweep.items())
        for level, scores in levels.items()
    ]


def floor_rows(floors: Sequence[Floor]) -> list[Row]:
    """The floors as plain values."""
    return [dataclasses.asdict(floor) | {"passed": floor.passed} for floor in floors]


def choice_values(choice: Choice) -> Row:
    """The choice as plain values."""
    return dataclasses.asdict(choice)


def write_csv(path: Path, table: Sequence[Row]) -> None:
    """Write rows of the same keys."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def method_name(row: Row) -> str:
    """How a row is called in a table."""
    names = {"input": "degraded input", "estimator": "estimator", "vae": "VAE of the clean face"}
    if row["method"] == "sample":
        return f"sample, {counted_steps(row['num_steps'])}"
    if row["method"] == "default":
        return f"**default: {counted_steps(row['num_steps'])}, fidelity {row['fidelity']:g}**"
    return names[row["method"]]


def quality_table(table: Sequence[Row]) -> str:
    """Markdown table of `rows`."""
    lines = [
        "| level | output | " + " | ".join(title for _, title, _ in _COLUMNS) + " |",
        "|---|---|" + "---|" * len(_COLUMNS),
    ]
    for row in table:
        cells = [_cell(row[key], form) for key, _, form in _COLUMNS]
        lines.append(f"| {row['level']} | {method_name(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def source_table(by_source: Mapping[str, Sequence[Row]]) -> str:
    """Markdown table of input, estimator and default by source set."""
    lines = [
        "| level | source set | faces | output | PSNR dB | SSIM | sharpness | identity | nearer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for level in ("moderate", "severe"):
        for source, table in by_source.items():
            faces = next(row["count"] for row in table if row["method"] == "input" and row["level"] == level)
            for row in table:
                if row["level"] == level and row["method"] in {"input", "estimator", "default"}:
                    keys = (("psnr", ".2f"), ("ssim", ".3f"), ("sharpness", ".2f"), ("identity", ".3f"))
                    cells = [_cell(row[key], form) for key, form in (*keys, ("share_nearer", ".0%"))]
                    lines.append(f"| {level} | {source} | {faces} | {method_name(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def floor_table(floors: Sequence[Row]) -> str:
    """Markdown table of the floors."""
    lines = ["| floor | measured | bound | |", "|---|---|---|---|"]
    for row in floors:
        sign = "at most" if row["at_most"] else "at least"
        verdict = "pass" if row["passed"] else "**FAIL**"
        lines.append(f"| {row['name']} | {_cell(row['value'], '.4g')} | {sign} {row['bound']:.4g} | {verdict} |")
    return "\n".join(lines)


def choice_text(choice: Row) -> str:
    """The recommendation and why the other numbers of steps lost, as a Markdown list."""
    lines = [
        f"- {counted_steps(item['num_steps'])}: "
        + ("no fidelity holds" if item["fidelity"] is None else f"fidelity {item['fidelity']:g}")
        + ("" if item["sharpness"] is None else f", sharpness {item['sharpness']:.3f}")
        + f" ({item['reason']})"
        for item in choice["candidates"]
    ]
    if choice["num_steps"] is None:
        return "\n".join(["No blend holds the floors with their margins.", "", *lines])
    chosen = f"Recommended: default_num_steps {choice['num_steps']}, default_fidelity {choice['fidelity']:g}."
    return "\n".join([chosen, "", *lines])


def report_markdown(results: Row) -> str:
    """The whole report."""
    bundle, machine = results["bundle"], results["environment"]
    parts = [
        f"# {bundle['name']} {bundle['version']}: evaluation",
        f"{results['faces']} validation faces at {bundle['image_size_px']} px, seeds {results['seeds']}; "
        f"{machine['seconds']} s with {machine['threads']} threads on {machine['machine']}.",
        "## Floors\n\n" + floor_table(results["floors"]),
        "## Quality\n\n" + quality_table(results["rows"]) + "\n\n" + LEGEND,
        "## By source set\n\n" + source_table(results["by_source"]),
        "## Choice of the defaults\n\n" + choice_text(results["choice"]),
    ]
    return "\n\n".join(parts) + "\n"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
