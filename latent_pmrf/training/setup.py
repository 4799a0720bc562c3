"""From a recipe to its trainer: data, earlier networks, stage.

options of a stage           default
estimator  loss              relative_mse   see `losses.REGRESSION_LOSSES`
           identity_weight   0              of dlib's face embedding, see `identity.IdentityLoss`
           shared_error_weight 0            see `losses.shared_error`
           space             pixel          `latent` trains ELIR's estimator, from E(y) to E(x), without `loss`
vae        crop_px                          side of the training crops
           kl_weight         1e-6           of the mean over the latent's elements
           band_weight       1              Laplacian pyramid
           amplitude_weight  0              of its local amplitudes, see `losses.band_amplitude_l1`
           decoder_only      false          leave the encoder as it is given, for a finish: needs --init
           perceptual_weight 0              VGG19, needs its file
flow       copies            0              degradations of every photograph to keep in a cache; 0 draws afresh
           noise_factor, sigma_s            the source noise, one of the two (see `flow.SourceNoise`)
           weighting         uniform        of the channels' errors, see `flow.FlowStage`
           normalise         true           latents per channel, see `flow.FlowStage`
           source            posterior_mean see `frozen`
           space             latent         `pixel` trains PMRF
           adversarial                      an adversarial finish, see `adversarial.Adversarial`; without `weighting`
           likeness                         a likeness finish, see `likeness.Likeness`; likewise, and not both
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import cv2

from latent_pmrf.config import ESTIMATOR_PRESETS, VAE_PRESETS, VELOCITY_PRESETS, NetworkConfig, fill
from latent_pmrf.data.datasets import FacePairs
from latent_pmrf.data.photographs import Photographs, U8Image
from latent_pmrf.data.validation import ValidationSet, load_validation
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.nets.build import Network, build, check_side
from latent_pmrf.nets.sim_vae import SimVAE
from latent_pmrf.training.adversarial import Adversarial, AdversarialFlowStage
from latent_pmrf.training.beginning import (
    LATENTS_NAME,
    STATE_NAME,
    check_function,
    given_statistics,
    put_back,
    set_aside,
)
from latent_pmrf.training.checkpoint import Weights, load_weights
from latent_pmrf.training.device import check_device
from latent_pmrf.training.estimator import EstimatorStage
from latent_pmrf.training.flow import FlowStage, SourceNoise, Weighting
from latent_pmrf.training.frozen import FrozenNetworks, Source
from latent_pmrf.training.identity import IdentityLoss, load_face_embedder
from latent_pmrf.training.latent_estimator import LatentEstimatorStage
from latent_pmrf.training.latents import CachedPairs, FreshPairs, PairSource
from latent_pmrf.training.likeness import Likeness, LikenessFlowStage
from latent_pmrf.training.loop import Stage, Trainer
from latent_pmrf.training.perceptual import load_perceptual_loss
from latent_pmrf.training.processes import ProcessGroup
from latent_pmrf.training.recipe import Recipe, section
from latent_pmrf.training.vae import VAEStage

ConfigT = TypeVar("ConfigT", bound=NetworkConfig)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run reads and writes.

    Attributes:
        data: Folder of shards or pictures, with `val/` beside them, of which nothing is trained on.
        runs: Folder of runs; a stage writes to `runs/{stage}` and reads the networks of earlier stages there.
        vgg19: Weights of the perceptual loss, see `perceptual.load_perceptual_loss`.
    """

    data: Path
    runs: Path
    vgg19: Path | None = None

    def weights(self, stage: str) -> Path:
        """The averaged weights of a stage."""
        return self.runs / stage / "weights.safetensors"


def build_trainer(  # noqa: PLR0913 - what the command line says of a run
    recipe: Recipe,
    places: Places,
    device: str = "cpu",
    *,
    initial: Path | None = None,
    restart: bool = False,
    group: ProcessGroup | None = None,
) -> Trainer[Any]:
    """Load data and earlier networks and make the trainer of a recipe.

    Args:
        recipe: What to train.
        places: Where data and runs are.
        device: Where to train.
        initial: Weights file that a run begins with which has nothing to resume from.
        restart: Forget what an earlier run has computed, once the new one could be made.
        group: The processes that share the run; the leading one must be here before the others
            (`ProcessGroup.leader_first`).

    Returns:
        A trainer at step 0, or where an earlier run stopped.

    Raises:
        ValueError: The preset, an option or the device is unknown, a network does not take pictures of that size, or
            what an earlier run left does not fit, or is only weights, which a new run would replace.
        FileNotFoundError: The data, an earlier stage's weights or those to begin with are missing.
    """
    check_device(device)
    if recipe.optim.workers:
        cv2.setNumThreads(
            1
        )  # here, for a worker that changed it would wait for threads that a fork does not bring along
    group = group or ProcessGroup()
    run_dir = places.runs / recipe.stage
    if group.leads:
        put_back(run_dir)
    resumes = not restart and (run_dir / STATE_NAME).exists()
    weights = places.weights(recipe.stage)
    if not (resumes or restart) and weights.exists():
        raise ValueError(
            f"{weights} is there already, without a training state to go on from: choose another folder of runs, or "
            "replace it with --restart"
        )
    config = _checked_config(recipe)
    given = None if resumes or initial is None else load_weights(initial)
    if given is not None:
        check_function(config, given.config)
    elif recipe.options.get("decoder_only") and not resumes:
        raise ValueError("decoder_only trains the decoder of an encoder that is given: --init WEIGHTS")
    held_out = places.data / "val"
    photographs: Sequence[U8Image] = Photographs(places.data, recipe.shards, without=held_out)
    photographs = list(photographs) if recipe.in_memory else photographs
    validation = load_validation(held_out, recipe.size_px, limit=24)
    with set_aside(run_dir) if restart and group.leads else contextlib.nullcontext():
        stage: Stage[Any]
        if recipe.stage == "vae":
            stage = _vae_stage(recipe, places, photographs, validation)
        else:
            pairs = FacePairs(photographs, recipe.size_px, recipe.degradation, recipe.augmentation)
            make = _estimator_stage if recipe.stage == "estimator" else _flow_stage
            stage = make(recipe, places, pairs, validation, device, given)
        trainer: Trainer[Any] = Trainer(stage, recipe.optim, run_dir, device, group)
        if resumes:
            trainer.resume()
        elif given is not None:
            trainer.start_from(given)
        if restart:
            trainer.save_state()  # killed before its first checkpoint, the run begins here
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


def _vae_stage(
    recipe: Recipe, places: Places, photographs: Sequence[U8Image], validation: Sequence[ValidationSet]
) -> VAEStage:
    perceptual = None
    if recipe.options.get("perceptual_weight", 0) > 0:
        if places.vgg19 is None:
            raise ValueError(
                "perceptual_weight needs the weights of VGG19: --vgg19 PATH, torchvision's vgg19-dcbb9e9d.pth"
            )
        perceptual = load_perceptual_loss(places.vgg19)
    return VAEStage(
        _preset(VAE_PRESETS, recipe),
        photographs,
        size_px=recipe.size_px,
        augmentation=recipe.augmentation,
        perceptual=perceptual,
        **recipe.options,
        **_shared(recipe, validation),
    )


def _estimator_stage(  # noqa: PLR0913 - the signature of both makers
    recipe: Recipe,
    places: Places,
    pairs: FacePairs,
    validation: Sequence[ValidationSet],
    device: str,
    given: Weights | None,  # noqa: ARG001
) -> Stage[Any]:
    options = dict(recipe.options)
    config = _preset(ESTIMATOR_PRESETS, recipe)
    space = _space(recipe)
    options.pop("space", None)
    if space == "pixel":
        identity = IdentityLoss(load_face_embedder()) if options.get("identity_weight", 0) > 0 else None
        return EstimatorStage(config, pairs, identity=identity, **options, **_shared(recipe, validation))
    if options:
        raise ValueError(f"an estimator of latents is trained by MSE, it has no option {sorted(options)}")
    vae = _vae(places, recipe)
    _check_size(recipe, config, vae.config.downscale)
    networks = FrozenNetworks(None, vae, "degraded", device)
    return LatentEstimatorStage(
        config, FreshPairs(pairs, networks, seed=recipe.optim.seed), **_shared(recipe, validation)
    )


def _flow_stage(  # noqa: PLR0913 - the signature of both makers
    recipe: Recipe,
    places: Places,
    pairs: FacePairs,
    validation: Sequence[ValidationSet],
    device: str,
    given: Weights | None,
) -> FlowStage:
    run_dir = places.runs / recipe.stage
    options = dict(recipe.options)
    source: Source = _choice("source", options.pop("source", "posterior_mean"), get_args(Source))
    space = _space(recipe)
    options.pop("space", None)
    config = _preset(VELOCITY_PRESETS, recipe)
    estimator = None if source == "degraded" else load_network(places.weights("estimator"))
    vae = _vae(places, recipe) if space == "latent" else None
    downscale = 1 if vae is None else vae.config.downscale
    _check_size(recipe, config, downscale)
    if estimator is not None:
        _check_size(recipe, estimator.config, downscale if source == "latent_mean" else 1)
    networks = FrozenNetworks(estimator, vae, source, device)
    copies, seed = options.pop("copies", 0), recipe.optim.seed
    if copies and recipe.optim.workers:
        raise ValueError("workers cannot fill a cache of latents: set workers or copies to 0")
    drawn: PairSource = (
        CachedPairs(pairs, networks, copies=copies, seed=seed, cache_dir=run_dir / LATENTS_NAME)
        if copies
        else FreshPairs(pairs, networks, seed=seed)
    )
    finishes = {name: options.pop(name) for name in ("adversarial", "likeness") if name in options}
    if finishes and "weighting" in options:
        raise ValueError("a finish weighs channels by the picture: leave weighting out, or set it to null")
    if len(finishes) > 1:
        raise ValueError("adversarial and likeness are two finishes, one after the other: set one of them")
    weighting = _choice("weighting", options.pop("weighting", "uniform"), get_args(Weighting))
    noise = SourceNoise(sigma=options.pop("sigma_s", None), factor=options.pop("noise_factor", None))
    facts = {
        "noise": noise,
        "normalise": options.pop("normalise", True),
        "given": _statistics(given, recipe, config.in_channels),
        "run_dir": run_dir,
        **_shared(recipe, validation),
    }
    if "adversarial" in finishes:
        terms = fill(Adversarial, section(finishes["adversarial"], "adversarial"))
        return AdversarialFlowStage(config, drawn, adversarial=terms, optim=recipe.optim, **facts)
    if "likeness" in finishes:
        nearer = fill(Likeness, section(finishes["likeness"], "likeness"))
        identity = IdentityLoss(load_face_embedder())
        return LikenessFlowStage(config, drawn, likeness=nearer, identity=identity, **facts)
    return FlowStage(config, drawn, weighting=weighting, **facts)


def _statistics(given: Weights | None, recipe: Recipe, channels: int) -> LatentStatistics | None:
    """Those of the flow that a run begins with, whose space has to be this one's; says so where it has none."""
    if given is None:
        return None
    space = _space(recipe)
    found = given.info.get("space", space)
    if found != space:
        raise ValueError(f"the weights to begin with are of a flow in space {found}, this recipe's is in space {space}")
    kept = given_statistics(given, channels)
    if kept is None and space == "latent" and recipe.options.get("normalise", True):
        _log.info("flow: the weights that it begins with have no latent_mean and latent_std; they are measured here")
    return kept


def _shared(recipe: Recipe, validation: Sequence[ValidationSet]) -> dict[str, Any]:
    optim = recipe.optim
    return {"batch_size": optim.micro_batch_size, "seed": optim.seed, "validation": validation}


def _space(recipe: Recipe) -> str:
    """Where the network of a recipe lives: `pixel` or `latent`."""
    usual = "latent" if recipe.stage == "flow" else "pixel"
    return str(_choice("space", recipe.options.get("space", usual), ("pixel", "latent")))


def _check_size(recipe: Recipe, config: NetworkConfig, downscale: int = 1) -> None:
    """Refuse pictures that a network, or one that sees them smaller by `downscale`, does not take."""
    try:
        check_side(config, recipe.size_px // downscale)
    except ValueError as error:
        what = type(config).__name__.removesuffix("Config")
        raise ValueError(f"size_px {recipe.size_px} does not suit the {what}: {error}") from error


def _vae(places: Places, recipe: Recipe) -> SimVAE:
    vae = load_network(places.weights("vae"))
    if not isinstance(vae, SimVAE):
        raise ValueError(f"{places.weights('vae')} does not hold a Sim-VAE")
    _check_size(recipe, vae.config)
    return vae


def network_config(recipe: Recipe) -> NetworkConfig:
    """Specification of the network that a recipe trains.

    Raises:
        ValueError: The preset or a field of `network` does not exist.
    """
    tables: Mapping[str, Mapping[str, NetworkConfig]] = {
        "estimator": ESTIMATOR_PRESETS,
        "vae": VAE_PRESETS,
        "flow": VELOCITY_PRESETS,
    }
    return _preset(tables[recipe.stage], recipe)


def _checked_config(recipe: Recipe) -> NetworkConfig:
    """The same; a size of pictures that the network does not take is refused, where it sees pictures."""
    config = network_config(recipe)
    if _space(recipe) == "pixel":
        _check_size(recipe, config)
    return config


def _preset(table: Mapping[str, ConfigT], recipe: Recipe) -> ConfigT:
    if recipe.preset not in table:
        raise ValueError(f"stage {recipe.stage} has no preset {recipe.preset!r}; it has {sorted(table)}")
    preset = table[recipe.preset]
    return fill(type(preset), {**dataclasses.asdict(preset), **recipe.network})


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> Any:  # noqa: ANN401 - a Literal of the caller's
    if value not in choices:
        raise ValueError(f"the option {name} must be one of {choices}, not {value!r}")
    return value
