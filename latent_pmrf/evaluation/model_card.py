"""Writes the model card from a template, the measured results and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from latent_pmrf.evaluation import pictures, tables
from latent_pmrf.evaluation.bundle import BundleRestorer
from latent_pmrf.evaluation.card_faces import astronaut, generated_faces
from latent_pmrf.evaluation.dataset import LEVELS, ValidationFace
from latent_pmrf.evaluation.report import Evaluation, sheet_rows
from latent_pmrf.evaluation.restoration import restoring
from latent_pmrf.evaluation.scoring import blend
from latent_pmrf.evaluation.summary import counted_steps

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_CELL_PX = 192


def write_model_card(
    results: Mapping[str, Any], manifest: Mapping[str, Any], path: Path, *, bundle_bytes: int | None = None
) -> None:
    """Fill the template.

    Args:
        results: What `report.results_of` returns (the content of `results.json`).
        manifest: The bundle's parsed manifest.
        path: Markdown file to write; its pictures are expected in `images` beside it.
        bundle_bytes: Size of the network files together, or None where unknown.
    """
    vae = next(row for row in results["rows"] if row["method"] == "vae")
    severe = next(row for row in results["rows"] if row["method"] == "default" and row["level"] == "severe")
    provenance = dict(manifest["provenance"])
    data_note = str(provenance.pop("data_note", ""))
    values = {
        "name": results["bundle"]["name"],
        "version": results["bundle"]["version"],
        "size": results["bundle"]["image_size_px"],
        "megabytes": "-" if bundle_bytes is None else f"{bundle_bytes / 1e6:.1f}",
        "images": "images",
        "default_steps": counted_steps(results["default"]["num_steps"], "Euler step"),
        "default_fidelity": f"{results['default']['fidelity']:g}",
        "faces": results["faces"],
        "seeds": ", ".join(map(str, results["seeds"])),
        "quality": tables.quality_table(results["rows"]),
        "legend": tables.LEGEND,
        "seed_spread": _seed_spread(results["seed_spread"]),
        "floors": tables.floor_table(results["floors"]),
        "by_source": tables.source_table(results["by_source"]),
        "choice": tables.choice_text(results["choice"]),
        "data_note": data_note,
        "provenance": "\n".join(_bullets(provenance)) or "- not stated",
        "validation_sets": _set_sizes(results["by_source"]),
        "severe_identity": "not measured" if severe["identity"] is None else f"{severe['identity']:.2f}",
        "vae_sharpness": f"{vae['pooled_sharpness']:.0%}",
    }
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("\n\n\n", "\n\n"), encoding="utf-8")


def write_card_pictures(evaluation: Evaluation, results: Mapping[str, Any], images_dir: Path) -> None:
    """Write the card's sheet (generated people and the astronaut only) and its plot."""
    images_dir.mkdir(parents=True, exist_ok=True)
    shown = generated_faces(evaluation.faces, 5)
    rows = sheet_rows(evaluation, "moderate", shown[1::2]) + sheet_rows(evaluation, "severe", shown[::2])
    rows += _astronaut_rows(evaluation)
    pictures.save(pictures.sheet(rows, _CELL_PX), images_dir / "card_sheet.jpg")
    pictures.plot_perception_distortion(results, images_dir / "perception_distortion.png")


def bundle_size_bytes(repository: Path, manifest: Mapping[str, Any]) -> int:
    """Size of the networks that the manifest names."""
    return sum((repository / network["file"]).stat().st_size for network in manifest["networks"].values())


def _astronaut_rows(evaluation: Evaluation) -> list[pictures.SheetRow]:
    bundle: BundleRestorer = evaluation.bundle
    face: ValidationFace = astronaut(bundle.spec.image_size_px)
    (num_steps, fidelity), seed = evaluation.default, evaluation.plan.seeds[0]
    *_, restored = restoring(bundle, [face], [(num_steps, seed)])
    rows = []
    for level in LEVELS:
        estimate, sample = restored.estimates[level][0], restored.samples[level, num_steps, seed][0]
        views = {
            "degraded": face.degraded[level],
            "estimator": estimate,
            f"sample, {counted_steps(num_steps)}": sample,
            f"default, fidelity {fidelity:g}": blend(sample, estimate, fidelity),
            "clean": face.clean,
        }
        rows.append(pictures.SheetRow(label=f"{face.name} ({level})", pictures=views))
    return rows


def _seed_spread(spread: Mapping[str, float | None]) -> str:
    known = {level: value for level, value in spread.items() if value is not None}
    return ", ".join(f"{level} {value:.3f} dB" for level, value in known.items()) or "not measured, with one seed"


def _set_sizes(by_source: Mapping[str, Any]) -> str:
    sizes = {
        source: max(row["count"] for row in rows if row["method"] == "input") for source, rows in by_source.items()
    }
    return ", ".join(f"{source} {count}" for source, count in sizes.items())


def _bullets(values: Mapping[str, Any], depth: int = 0) -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{'  ' * depth}- {name}:", *_bullets(value, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}- {name}: {value}")
    return lines
