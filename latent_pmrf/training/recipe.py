"""Recipes: one YAML file per stage says everything a run depends on, but where data and results lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from latent_pmrf.data.datasets import Augmentation
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.training.optim import OptimConfig

T = TypeVar("T")

STAGE_OPTIONS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "estimator": (frozenset(), frozenset({"identity_weight", "loss", "shared_error_weight", "space"})),
    "vae": (
        frozenset({"crop_px"}),
        frozenset({"amplitude_weight", "band_weight", "decoder_only", "kl_weight", "perceptual_weight"}),
    ),
    "flow": (
        frozenset(),
        frozenset({"adversarial", "copies", "likeness", "noise_factor", "sigma_s", "source", "space", "weighting"}),
    ),
}
"""Entries of `options` that a stage needs, and those that it may have (see `latent_pmrf.training.setup`)."""


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
        degradation: See `DegradationRange`.
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


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe; `overrides` replaces entries of its `optim` section.

    A file may name a `base`, another recipe by its path from this one, and then holds only what differs from it:
    entries of a section replace those of the base's section, and null takes one away.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no recipe: a key is unknown, missing or of another type; the message names it.
    """
    content = _read(path)
    try:
        values = dict(content)
        values["optim"] = fill(OptimConfig, {**section(values.get("optim"), "optim"), **(overrides or {})})
        values["degradation"] = fill(DegradationRange, section(values.get("degradation"), "degradation"))
        values["augmentation"] = fill(Augmentation, section(values.get("augmentation"), "augmentation"))
        for name in ("network", "options"):
            values[name] = section(values.get(name), name)
        recipe = fill(Recipe, values)
        _check_options(recipe)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe


def _read(path: Path) -> dict[str, Any]:
    """The content of a recipe's file, merged into that of its base."""
    try:
        content = dict(section(yaml.safe_load(path.read_text()), "the recipe"))
        base = content.pop("base", None)
        if base is None:
            return content
        if not isinstance(base, str):
            raise ValueError(f"base must be the path of a recipe, not {base!r}")
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    merged = _read(path.parent / base)
    for key, value in content.items():
        entries = {**merged.get(key, {}), **value} if isinstance(value, Mapping) else value
        merged[key] = {k: v for k, v in entries.items() if v is not None} if isinstance(value, Mapping) else entries
    return merged


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


def _check_options(recipe: Recipe) -> None:
    if recipe.stage not in STAGE_OPTIONS:
        raise ValueError(f"unknown stage {recipe.stage!r}; expected one of {sorted(STAGE_OPTIONS)}")
    needed, allowed = STAGE_OPTIONS[recipe.stage]
    unknown, missing = set(recipe.options) - needed - allowed, needed - set(recipe.options)
    if unknown or missing:
        problem = f"has no option {sorted(unknown)}" if unknown else f"needs the option {sorted(missing)}"
        raise ValueError(f"stage {recipe.stage} {problem}")


def fill(cls: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from the values of a file: names and types are checked, lists become tuples.

    Raises:
        ValueError: A name or a type is wrong, or the dataclass refuses the values.
    """
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {unknown}")
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in plain.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{cls.__name__}.{name} cannot be {values[name]!r}")
    try:
        return cls(**plain)
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from error


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401 - an annotation
    """Whether a value is of the annotated type; YAML reads `8e-4` as text, for example."""
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return value in arguments
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        entries = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        return len(entries) == len(value) and all(map(_fits, value, entries))
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else not isinstance(value, tuple)
