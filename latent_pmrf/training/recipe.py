"""Recipes: one YAML file per stage says everything a run depends on, but where data and results lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from latent_pmrf.config import ESTIMATOR_PRESETS, VAE_PRESETS, VELOCITY_PRESETS, NetworkConfig
from latent_pmrf.data.datasets import Augmentation, FacePairs, load_images
from latent_pmrf.data.degradation import DegradationRange
from latent_pmrf.data.validation import load_validation
from latent_pmrf.nets.build import Network, build
from latent_pmrf.nets.sim_vae import SimVAE
from latent_pmrf.training.checkpoint import load_weights
from latent_pmrf.training.device import check_device
from latent_pmrf.training.estimator import EstimatorStage
from latent_pmrf.training.flow import FlowStage
from latent_pmrf.training.latents import LatentPairs, discard_latents
from latent_pmrf.training.loop import OptimConfig, Stage, Trainer
from latent_pmrf.training.vae import VAEStage

T = TypeVar("T")
ConfigT = TypeVar("ConfigT", bound=NetworkConfig)

STAGE_OPTIONS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "estimator": (frozenset(), frozenset()),
    "vae": (frozenset({"crop_px"}), frozenset({"kl_weight", "band_weight"})),
    "flow": (frozenset({"copies", "noise_factor"}), frozenset()),
}
"""Entries of `options` that a stage needs, and those that it may have."""


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
        network: Fields of the preset to replace, for experiments.
        options: What only one stage knows, see `STAGE_OPTIONS`.
    """

    stage: str
    preset: str
    size_px: int
    optim: OptimConfig
    shards: str = "train*.tar"
    degradation: DegradationRange = dataclasses.field(default_factory=DegradationRange)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
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
        FileNotFoundError: There is no such file.
        ValueError: The file is no recipe: a key is unknown, missing or of another type; the message names it.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    try:
        values = dict(_section(content, "the recipe"))
        values["optim"] = _fill(OptimConfig, {**_section(values.get("optim"), "optim"), **(overrides or {})})
        values["degradation"] = _fill(DegradationRange, _section(values.get("degradation"), "degradation"))
        values["augmentation"] = _fill(Augmentation, _section(values.get("augmentation"), "augmentation"))
        for name in ("network", "options"):
            values[name] = _section(values.get(name), name)
        recipe = _fill(Recipe, values)
        _check_options(recipe)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe


def build_trainer(recipe: Recipe, places: Places, device: str = "cpu", *, restart: bool = False) -> Trainer[Any]:
    """Load data and earlier networks and make the trainer of a recipe.

    Args:
        recipe: What to train.
        places: Where data and runs are.
        device: Where to train.
        restart: Forget what an earlier run has computed.

    Returns:
        A trainer at step 0, or where an earlier run stopped.

    Raises:
        ValueError: The preset or the device is unknown, or what an earlier run left does not fit.
        FileNotFoundError: The data or an earlier stage's weights are missing.
    """
    check_device(device)
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
    else:
        options = dict(recipe.options)
        if restart:
            discard_latents(run_dir / "latents")
            (run_dir / "latent_statistics.json").unlink(missing_ok=True)
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
            device=device,
        )
        stage = FlowStage(_preset(VELOCITY_PRESETS, recipe), latents, run_dir=run_dir, **options, **shared)
    trainer: Trainer[Any] = Trainer(stage, recipe.optim, run_dir, device)
    if not restart:
        trainer.resume()
    return trainer


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


def _preset(table: Mapping[str, ConfigT], recipe: Recipe) -> ConfigT:
    if recipe.preset not in table:
        raise ValueError(f"stage {recipe.stage} has no preset {recipe.preset!r}; it has {sorted(table)}")
    preset = table[recipe.preset]
    return _fill(type(preset), {**dataclasses.asdict(preset), **recipe.network})


def _section(value: object, name: str) -> Mapping[str, Any]:
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


def _fill(cls: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from the values of a file: names and types are checked, lists become tuples."""
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
