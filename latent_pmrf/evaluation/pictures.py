"""Contact sheets and the perception-distortion plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from latent_pmrf.evaluation.summary import counted_steps

U8Image = npt.NDArray[np.uint8]

_MARGIN_PX = 6
_HEADER_PX = 26
_BACKGROUND = (255, 255, 255)
_INK = (30, 30, 30)


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One row of a contact sheet.

    Attributes:
        label: Written under the first picture.
        pictures: Column titles and (S, S, 3) uint8 RGB pictures of one size, the same titles in every row.
    """

    label: str
    pictures: Mapping[str, U8Image]


def sheet(rows: Sequence[SheetRow], cell_px: int | None = None) -> U8Image:
    """Lay pictures out in a grid with column titles and row labels.

    Args:
        rows: At least one row.
        cell_px: Side of a picture on the sheet; None keeps the pictures' own.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: There is no row.
    """
    if not rows:
        raise ValueError("a sheet needs at least one row")
    titles = list(rows[0].pictures)
    side = cell_px or next(iter(rows[0].pictures.values())).shape[0]
    pitch = side + _MARGIN_PX, side + _HEADER_PX
    canvas = Image.new("RGB", (_MARGIN_PX + pitch[0] * len(titles), _HEADER_PX + pitch[1] * len(rows)), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    for column, title in enumerate(titles):
        draw.text((_MARGIN_PX + column * pitch[0], 5), title, fill=_INK, font=font)
        for line, row in enumerate(rows):
            picture = Image.fromarray(row.pictures[title])
            if picture.width != side:
                picture = picture.resize((side, side), Image.Resampling.LANCZOS)
            canvas.paste(picture, (_MARGIN_PX + column * pitch[0], _HEADER_PX + line * pitch[1]))
    for line, row in enumerate(rows):
        draw.text((_MARGIN_PX, _HEADER_PX + line * pitch[1] + side + 4), row.label, fill=_INK, font=font)
    return np.asarray(canvas, dtype=np.uint8)


def save(image: U8Image, path: Path) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, or as JPEG of quality 90, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=90, optimize=True)


def plot_perception_distortion(results: Mapping[str, Any], path: Path) -> None:
    """Sharpness against PSNR for both levels: steps at fidelity 0, blends at the default steps, and the anchors.

    Args:
        results: What `report.results_of` returns.
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # deferred: an optional dependency of evaluation
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    steps, fidelity = results["default"]["num_steps"], results["default"]["fidelity"]
    vae = next(row for row in results["rows"] if row["method"] == "vae")
    for axes, level in zip(figure.subplots(1, 2), ("moderate", "severe"), strict=True):
        rows = [row for row in results["rows"] if row["level"] == level]
        samples = sorted((row for row in rows if row["method"] == "sample"), key=lambda row: row["num_steps"])
        axes.plot(*_points(samples), "o-", color="tab:blue", label="sample (fidelity 0) by steps")
        for row in samples:
            at = row["psnr"], row["sharpness"]
            axes.annotate(str(row["num_steps"]), at, textcoords="offset points", xytext=(5, 4), fontsize=8)
        blends = [row for row in results["sweep"] if row["level"] == level and row["num_steps"] == steps]
        label = f"fidelity 0 to 1 at {counted_steps(steps)}"
        axes.plot(*_points(blends), ".--", color="tab:orange", label=label)
        for method, marker, colour in (("input", "x", "black"), ("estimator", "s", "tab:green")):
            axes.plot(*_points([row for row in rows if row["method"] == method]), marker, color=colour, label=method)
        default = [row for row in rows if row["method"] == "default"]
        label = f"default ({counted_steps(steps)}, fidelity {fidelity:g})"
        axes.plot(*_points(default), "*", color="tab:red", markersize=13, label=label)
        axes.axhline(vae["sharpness"], color="grey", linestyle=":", label="VAE's ceiling of sharpness")
        axes.set(title=level, xlabel="PSNR (dB), higher is more faithful", ylabel="Laplacian variance / clean face's")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    canvas.print_figure(path, dpi=120)


def _points(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    return [row["psnr"] for row in rows], [row["sharpness"] for row in rows]
