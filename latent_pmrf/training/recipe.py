"""Recipes: one YAML file per stage says everything a run depends on, but where data and results lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from latent_pmrf.config import ESTIMATOR_PRESETS, VAE_PRESETS, VELOCITY_PRESETS
from latent_pmrf.data.datasets import Augmentation, FacePairs, load_images
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.data.validation import load_validation
from latent_pmrf.nets.build import Network, build
from latent_pmrf.nets.sim_vae import SimVAE
from latent_pmrf.training.checkpoint import load_weights
from latent_pmrf.training.estimator import EstimatorStage
from latent_pmrf.training.flow import FlowStage, LatentPairs
from latent_pmrf.training.loop import OptimConfig, Stage, Trainer
from latent_pmrf.training.vae import VAEStage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A stage's YAML file.

    Attributes:
        stage: `estimator`, `vae` or `flow`.
        preset: Name in the stage's table of `latent_pmrf.config`.
        size_px: Side of the face crops.
        shards: Glob on the names in the data folder.
        optim: See `OptimConfig`.
        degradation: See `DegradationRange`.
        augmentation: See `Augmentation`.
        options: What only one stage knows (`crop_px`, `kl_weight`, `band_weight`; `copies`, `noise_factor`).
    """

    stage: str
    preset: str
    size_px: int
    optim: OptimConfig
    shards: str = "train*.tar"
    degradation: DegradationRange = dataclasses.field(default_factory=DegradationRange)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run reads and writes.

    Attributes:
        data: Folder of shards, with `val/` beside them.
        runs: Folder of runs; a stage writes to `runs/{stage}` and reads the networks of earlier stages there.
    """

    data: Path
    runs: Path

    def weights(self, stage: str) -> Path:
        """The averaged weights of a stage."""
        return self.runs / stage / "weights.safetensors"


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe; `overrides` replaces entries of its `optim` section.

    Raises:
        ValueError: A key is unknown or a needed one is missing; the message names it.
    """
    values = dict(yaml.safe_load(path.read_text()))
    values["optim"] = _fill(OptimConfig, {**values.get("optim", {}), **(overrides or {})})
    values["degradation"] = _fill(DegradationRange, values.get("degradation", {}))
    values["augmentation"] = _fill(Augmentation, values.get("augmentation", {}))
    return _fill(Recipe, values)


def build_trainer(recipe: Recipe, places: Places, device: str = "cpu") -> Trainer[Any]:
    """Load data and earlier networks and make the trainer of a recipe.

    Raises:
        ValueError: The stage or the preset is unknown.
        FileNotFoundError: The data or an earlier stage's weights are missing.
    """
    run_dir = places.runs / recipe.stage
    images = load_images(places.data, recipe.shards)
    validation = load_validation(places.data / "val", recipe.size_px, limit=24)
    pairs = FacePairs(images, recipe.size_px, recipe.degradation, recipe.augmentation)
    shared: dict[str, Any] = {
        "batch_size": recipe.optim.batch_size,
        "seed": recipe.optim.seed,
        "validation": validation,
    }
    stage: Stage[Any]
    if recipe.stage == "estimator":
        stage = EstimatorStage(_preset(ESTIMATOR_PRESETS, recipe), pairs, **shared)
    elif recipe.stage == "vae":
        stage = VAEStage(
            _preset(VAE_PRESETS, recipe),
            images,
            size_px=recipe.size_px,
            augmentation=recipe.augmentation,
            **recipe.options,
            **shared,
        )
    elif recipe.stage == "flow":
        options = dict(recipe.options)
        vae = load_network(places.weights("vae"))
        if not isinstance(vae, SimVAE):
            raise ValueError(f"{places.weights('vae')} does not hold a Sim-VAE")
        latents = LatentPairs(
            pairs,
            load_network(places.weights("estimator")),
            vae,
            copies=options.pop("copies"),
            seed=recipe.optim.seed,
            cache_dir=run_dir / "latents",
        )
        stage = FlowStage(_preset(VELOCITY_PRESETS, recipe), latents, run_dir=run_dir, **options, **shared)
    else:
        raise ValueError(f"unknown stage {recipe.stage!r}; expected estimator, vae or flow")
    return Trainer(stage, recipe.optim, run_dir, device)


def load_network(path: Path) -> Network:
    """The network of a weights file, in evaluation mode.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; train that stage first")
    weights = load_weights(path)
    network = build(weights.config)
    network.load_state_dict(weights.state_dict)
    return network.eval()


def _preset(table: Mapping[str, T], recipe: Recipe) -> T:
    if recipe.preset not in table:
        raise ValueError(f"stage {recipe.stage} has no preset {recipe.preset!r}; it has {sorted(table)}")
    return table[recipe.preset]


def _fill(cls: type[T], values: Mapping[str, Any]) -> T:
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {unknown}")
    try:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from error
