"""Recipes: one YAML file per stage says everything a run depends on, but where data and results lie."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from latent_pmrf.config import check_type, fill
from latent_pmrf.data.datasets import Augmentation
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.training.optim import OptimConfig, of_length

_log = logging.getLogger(__name__)

STAGE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "estimator": {"identity_weight": float, "loss": str, "shared_error_weight": float, "space": str},
    "vae": {
        "amplitude_weight": float,
        "band_weight": float,
        "crop_px": int,
        "decoder_only": bool,
        "kl_weight": float,
        "perceptual_weight": float,
    },
    "flow": {
        "adversarial": Mapping,
        "copies": int,
        "likeness": Mapping,
        "noise_factor": float,
        "normalise": bool,
        "sigma_s": float,
        "source": str,
        "space": str,
        "weighting": str,
    },
}
"""Entries that `options` of a stage may have (see `setup`), and their types; no number is negative."""

_NEEDED = {"vae": ("crop_px",)}
_NULL_IS_NONE = {"optim": ("grad_clip",)}
"""Entries of which null is a value, and does not take away what a base says."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A stage's YAML file.

    Attributes:
        stage: `estimator`, `vae` or `flow`.
        preset: Name in the stage's table of `latent_pmrf.config`.
        size_px: Side of the face crops.
        shards: Glob on the paths of tar shards and pictures in the data folder.
        in_memory: Decode all photographs at the start; else each when it is drawn.
        optim: See `OptimConfig`.
        degradation: See `DegradationRange`; a `vae` sees clean photographs and has none.
        augmentation: See `Augmentation`.
        network: Fields of the preset to replace, for experiments.
        options: What only one stage knows, see `STAGE_OPTIONS`.
    """

    stage: str
    preset: str
    size_px: int
    optim: OptimConfig
    shards: str = "train*.tar"
    in_memory: bool = True
    degradation: DegradationRange = dataclasses.field(default_factory=DegradationRange)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse pictures without pixels, and what the stage does not have or what trains nothing."""
        if self.size_px < 1:
            raise ValueError(f"size_px must be at least 1, not {self.size_px}")
        _check_options(self.stage, self.options)
        if self.stage == "vae" and self.degradation != DegradationRange():
            raise ValueError("degradation has no effect on an autoencoder, which sees clean photographs: leave it out")
        crop_px = self.options.get("crop_px", self.size_px)
        if not 1 <= crop_px <= self.size_px:
            raise ValueError(f"options.crop_px must be from 1 to size_px {self.size_px}, not {crop_px}")


def load_recipe(path: Path, steps: int | None = None) -> Recipe:
    """Read a recipe.

    A file may name a `base`, another recipe by its path from this one, and then holds only what differs from it:
    entries of a section replace those of the base's section, and null takes one away (but for `grad_clip`, where it
    says that nothing is clipped).

    Args:
        path: The YAML file.
        steps: Optimiser steps instead of the recipe's; where its warm-up and decay take longer than that, they become
            shorter in proportion.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no recipe: a key is unknown, missing, of another type or out of bounds, or warm-up and
            decay take more steps than there are; the message names it.
    """
    content = _read(path)
    try:
        values = dict(content)
        values["optim"] = _optim(section(values.get("optim"), "optim"), steps)
        values["degradation"] = fill(DegradationRange, section(values.get("degradation"), "degradation"))
        values["augmentation"] = fill(Augmentation, section(values.get("augmentation"), "augmentation"))
        for name in ("network", "options"):
            values[name] = section(values.get(name), name)
        return fill(Recipe, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _optim(values: Mapping[str, Any], steps: int | None) -> OptimConfig:
    optim = fill(OptimConfig, values)
    moved = optim.warmup_steps + optim.decay_steps
    if moved > optim.steps:
        raise ValueError(
            f"OptimConfig: warmup_steps {optim.warmup_steps} and decay_steps {optim.decay_steps} are {moved} together, "
            f"more than steps {optim.steps}: most of the run would have a fraction of the learning rate"
        )
    if steps is None:
        return optim
    taken = of_length(optim, steps)
    if (taken.warmup_steps, taken.decay_steps) != (optim.warmup_steps, optim.decay_steps):
        _log.warning(
            "%d steps instead of %d: warm-up and decay take %d and %d, in proportion",
            *(steps, optim.steps, taken.warmup_steps, taken.decay_steps),
        )
    return taken


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The content of a recipe's file, merged into that of its base; `above` are the recipes whose base it is."""
    if path.resolve() in above:
        raise ValueError(f"{path} has itself as a base")
    try:
        content = dict(section(yaml.safe_load(path.read_text(encoding="utf-8")), "the recipe"))
        base = content.pop("base", None)
        if base is None:
            return content
        if not isinstance(base, str):
            raise ValueError(f"base must be the path of a recipe, not {base!r}")
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    merged = _read(path.parent / base, (*above, path.resolve()))
    for key, value in content.items():
        merged[key] = _merged(key, merged.get(key), value) if isinstance(value, Mapping) else value
    return merged


def _merged(name: str, base: object, own: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a section: those of the base's, and a recipe's own over them."""
    entries = {**section(base, name), **own}
    kept = _NULL_IS_NONE.get(name, ())
    return {key: value for key, value in entries.items() if value is not None or key in kept}


def section(value: object, name: str) -> Mapping[str, Any]:
    """The entries of a section of a recipe, none if it is missing.

    Raises:
        ValueError: It holds something else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must hold keys and values, not {value!r}")
    return value


def _check_options(stage: str, options: Mapping[str, Any]) -> None:
    if stage not in STAGE_OPTIONS:
        raise ValueError(f"unknown stage {stage!r}; expected one of {sorted(STAGE_OPTIONS)}")
    types = STAGE_OPTIONS[stage]
    unknown, missing = sorted(set(options) - set(types)), sorted(set(_NEEDED.get(stage, ())) - set(options))
    if unknown or missing:
        problem = f"has no option {unknown}" if unknown else f"needs the option {missing}"
        raise ValueError(f"stage {stage} {problem}")
    for name, value in options.items():
        check_type(f"options.{name}", value, types[name])
        if types[name] in (int, float) and value < 0:
            raise ValueError(f"options.{name} must not be negative, not {value}")
