"""Public weights to the weights files of a training run, which export and training read as if they were ours.

    file -> read -> (PMRF's: flow and estimator apart) -> convert -> runs/{estimator, vae, flow}/weights.safetensors

Every file is read and checked before the first is written. The conventions of the public code become ours on the way:
times and signs inside the network (`HDiTConfig.time_convention`), a VAE's scale and shift as the latent's statistics,
PMRF's pixels in [0, 1] as a latent with mean 0 and deviation 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from latent_pmrf import public_specs as specs
from latent_pmrf.checkpoints import convert, not_finite, read_public, with_prefix
from latent_pmrf.config import NetworkConfig
from latent_pmrf.training.checkpoint import save_weights
from latent_pmrf.training.frozen import encoder_digest

Say = Callable[[str], None]

PUBLISHED_SIGMA_S = 0.1
CONFIG_NAME = "config.json"

_FLOW_PREFIX, _ESTIMATOR_PREFIX = "model.", "mmse_model."


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a kind of public file comes from, and under which terms, as far as its publishers say."""

    what: str
    licence: str


PMRF = Origin("PMRF of Ohayon, Michaeli and Elad (ohayonguy/PMRF_blind_face_image_restoration)", "MIT")
ESTIMATOR = Origin(
    "SwinIR of Yue and Loy's DifFace (swinir_restoration512_L1.pth)", "S-Lab License 1.0, non-commercial use only"
)
SIM_VAE = Origin("Sim-VAE of Latent-PMRF (sienna223/Sim-VAE-c32)", "not stated by its publishers")
LATENT_FLOW = Origin("a flow trained with the code of Latent-PMRF", "not stated by its publishers")


@dataclass(frozen=True, slots=True)
class PublicFile:
    """A file to import.

    Attributes:
        weights: `.safetensors`, `.pth` or `.ckpt`.
        config: The public code's configuration, JSON; None takes the `config.json` beside the weights if there is one
            (not for the estimator, which has none), else the published values.
    """

    weights: Path
    config: Path | None = None


@dataclass(frozen=True, slots=True)
class PublicFiles:
    """What to import; at least one.

    Attributes:
        pmrf: PMRF's flow in pixel space, as a rule with its estimator.
        estimator: DifFace's SwinIR; it wins over the one in `pmrf`.
        vae: Sim-VAE.
        flow: A flow of the Latent-PMRF code on the latents of `vae`.
    """

    pmrf: PublicFile | None = None
    estimator: PublicFile | None = None
    vae: PublicFile | None = None
    flow: PublicFile | None = None

    def __post_init__(self) -> None:
        """Refuse what does not belong together."""
        if not (self.pmrf or self.estimator or self.vae or self.flow):
            raise ValueError("nothing to import: name at least one file")
        if self.pmrf and (self.vae or self.flow):
            raise ValueError("PMRF's flow works on pixels: it goes with no autoencoder and is the only flow")
        if self.flow and not self.vae:
            raise ValueError("a flow of Latent-PMRF needs the autoencoder whose latents it was trained on")


@dataclass(frozen=True, slots=True)
class Imported:
    """One network on its way to its weights file."""

    config: NetworkConfig
    state_dict: dict[str, Tensor]
    info: dict[str, Any]


def import_public(runs: Path, files: PublicFiles, say: Say, sigma_s: float | None = None) -> list[Path]:
    """Convert public files and write them to a folder of runs.

    Args:
        runs: Folder to write `estimator/`, `vae/` and `flow/` to; what is there already is never replaced.
        files: What to import.
        say: Receives a line per network.
        sigma_s: Standard deviation of the source noise; None takes that of PMRF's configuration, or the published one.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file cannot be read, does not fit its network or holds weights that are not finite, or a stage
            has weights already; nothing is written.
    """
    if sigma_s is not None and not sigma_s >= 0:
        raise ValueError(f"sigma_s must be at least 0, not {sigma_s}")
    found: dict[str, Imported] = {}
    if files.pmrf:
        found |= _pmrf(files.pmrf, files.estimator is None, sigma_s, say)
    if files.estimator:
        found |= _estimator(files.estimator)
    if files.vae:
        found |= _latent(files.vae, files.flow, sigma_s)
    targets = {stage: runs / stage / "weights.safetensors" for stage in found}
    present = [str(path) for path in targets.values() if path.exists()]
    if present:
        raise ValueError(f"{', '.join(present)}: there already; choose another folder of runs")
    for stage, network in found.items():
        save_weights(targets[stage], network.config, network.state_dict, {"stage": stage, **network.info})
        count = sum(value.numel() for value in network.state_dict.values())
        say(f"{targets[stage]}: {count / 1e6:.1f} M numbers")
    return list(targets.values())


def _pmrf(file: PublicFile, with_estimator: bool, sigma_s: float | None, say: Say) -> dict[str, Imported]:
    public = _configuration(file)
    with _naming(file):
        flow_spec, estimator_spec = specs.pmrf_spec(public), specs.pmrf_estimator_spec(public)
        noise = specs.pmrf_sigma_s(public) if sigma_s is None else sigma_s
    tensors = read_public(file.weights)
    flow, estimator = (with_prefix(tensors, prefix) for prefix in (_FLOW_PREFIX, _ESTIMATOR_PREFIX))
    others = sorted({name.partition(".")[0] for name in tensors} - {_FLOW_PREFIX[:-1], _ESTIMATOR_PREFIX[:-1]})
    if others:
        say(f"{file.weights}: passed over what is under {', '.join(others)}")
    facts = _flow_facts("pixel", (0.0,) * flow_spec.in_channels, (1.0,) * flow_spec.in_channels, noise)
    found = {"flow": _network(file, flow, flow_spec, PMRF, facts)}
    if with_estimator and estimator:
        found["estimator"] = _network(file, estimator, estimator_spec, ESTIMATOR)
    return found


def _estimator(file: PublicFile) -> dict[str, Imported]:
    with _naming(file):
        spec = specs.swinir_spec(_configuration(file, beside=False))
    return {"estimator": _network(file, read_public(file.weights), spec, ESTIMATOR)}


def _latent(vae: PublicFile, flow: PublicFile | None, sigma_s: float | None) -> dict[str, Imported]:
    public = _configuration(vae)
    if not public:
        raise ValueError(f"{vae.weights}: its config.json is needed, which says how its latents are scaled")
    with _naming(vae):
        spec = specs.sim_vae_spec(public)
        mean, std = specs.latent_scaling(public, spec.latent_channels)
    found = {"vae": _network(vae, read_public(vae.weights), spec, SIM_VAE)}
    if flow is not None:
        with _naming(flow):
            flow_spec = specs.looformer_spec(_configuration(flow))
            if flow_spec.in_channels != spec.latent_channels:
                raise ValueError(f"{flow_spec.in_channels} channels, but the latent has {spec.latent_channels}")
        facts = _flow_facts("latent", mean, std, PUBLISHED_SIGMA_S if sigma_s is None else sigma_s)
        facts["encoder_sha256"] = encoder_digest(found["vae"].state_dict)
        found["flow"] = _network(flow, read_public(flow.weights), flow_spec, LATENT_FLOW, facts)
    return found


def _flow_facts(space: str, mean: tuple[float, ...], std: tuple[float, ...], sigma_s: float) -> dict[str, Any]:
    """What export needs beside the weights of a flow."""
    return {
        "space": space,
        "source": "posterior_mean",
        "latent_mean": mean,
        "latent_std": std,
        "sigma_s": (sigma_s,),
    }


def _network(
    file: PublicFile,
    tensors: Mapping[str, Tensor],
    config: NetworkConfig,
    origin: Origin,
    facts: Mapping[str, Any] | None = None,
) -> Imported:
    """Convert the tensors and note where they come from."""
    with _naming(file):
        state_dict = convert(tensors, config)
        if (name := not_finite(state_dict)) is not None:
            raise ValueError(f"{name} is not finite")
    source = {"file": file.weights.name, "sha256": _sha256(file.weights), "from": origin.what}
    return Imported(config, state_dict, {"imported": source, "licence": origin.licence, **(facts or {})})


@contextmanager
def _naming(file: PublicFile) -> Iterator[None]:
    """Begin what is wrong with a file by its name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file.weights}: {error}") from error


def _configuration(file: PublicFile, *, beside: bool = True) -> Mapping[str, Any]:
    """The public configuration of a file; empty where there is none."""
    path = file.config
    if path is None:
        path = file.weights.with_name(CONFIG_NAME)
        if not (beside and path.exists()):
            return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no object")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
