"""How a stage begins: with weights of another run (`--init`), and anew where an earlier run has been (`--restart`)."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latent_pmrf.config import HDiTConfig, NetworkConfig, SimVAEConfig, SwinIRConfig, UNetConfig
from latent_pmrf.flow.statistics import LatentStatistics
from latent_pmrf.training.checkpoint import Weights

STATE_NAME = "state.safetensors"
STATISTICS_NAME = "latent_statistics.json"
LATENTS_NAME = "latents"

DECIDING: Mapping[type[Any], tuple[str, ...]] = {
    SwinIRConfig: ("image_skip",),
    UNetConfig: ("heads",),
    SimVAEConfig: ("norm",),
    HDiTConfig: (
        "attention",
        "head_dim",
        "kernel_size",
        "flavour",
        "time_convention",
        "mean_conditioned",
    ),
}
"""Fields of a specification that decide what weights compute, though (nearly) all tensors fit whatever they say."""

_LEFT = (STATE_NAME, LATENTS_NAME, STATISTICS_NAME, "weights-[0-9]*.safetensors")
_ASIDE = "restart.partial"
_FORGOTTEN = "forgotten.partial"


def check_function(own: NetworkConfig, given: NetworkConfig, whose: str = "the weights to begin with") -> None:
    """Refuse weights that would be taken for those of another function.

    Lists with an entry per level are compared where both have as many levels; others show in the tensors.

    Args:
        own: Specification of the network here.
        given: Of the network that the weights are of.
        whose: What the message calls the weights.

    Raises:
        ValueError: The networks are of two kinds, or differ in fields that the shapes of their tensors do not show; the
            message names them.
    """
    if type(own) is not type(given):
        raise ValueError(f"{whose} are of a {type(given).__name__}, not of a {type(own).__name__}")
    differing = []
    for name in DECIDING[type(own)]:
        ours, theirs = getattr(own, name), getattr(given, name)
        if ours != theirs and not (isinstance(ours, tuple) and len(ours) != len(theirs)):
            differing.append(f"{name} {theirs!r}, here {ours!r}")
    if differing:
        raise ValueError(
            f"{whose} compute another function: {'; '.join(differing)}; "
            "set what they have under `network` of the recipe"
        )


def given_statistics(given: Weights, channels: int) -> LatentStatistics | None:
    """The statistics that a flow's weights were trained with; None where the file has none for so many channels.

    Args:
        given: The content of the flow's weights file.
        channels: Channels of the flow that begins with it.
    """
    names = ("latent_mean", "latent_std", "sigma_s")
    if not all(name in given.info for name in names):
        return None
    mean, std, sigma_s = (tuple(float(entry) for entry in given.info[name]) for name in names)
    return LatentStatistics(mean, std, sigma_s) if len(mean) == len(std) == channels else None


@contextlib.contextmanager
def set_aside(run_dir: Path) -> Iterator[None]:
    """Forget what an earlier run has computed, once the block has succeeded; where it fails, all is as it was."""
    aside, forgotten = run_dir / _ASIDE, run_dir / _FORGOTTEN
    aside.mkdir(parents=True)
    try:
        for pattern in _LEFT:
            for path in sorted(run_dir.glob(pattern)):
                path.rename(aside / path.name)
        yield
        aside.rename(forgotten)  # from here on nothing is put back: a kill while it is removed would leave half of it
    except BaseException:
        put_back(run_dir)
        raise
    shutil.rmtree(forgotten)


def put_back(run_dir: Path) -> None:
    """Undo a `set_aside` that failed, or that was killed, if there was one; finish one that had succeeded.

    What is not aside stays: it had not been moved yet, or the earlier run had none and nothing of it is taken on trust.
    """
    shutil.rmtree(run_dir / _FORGOTTEN, ignore_errors=True)
    aside = run_dir / _ASIDE
    if not aside.exists():
        return
    for path in sorted(aside.iterdir()):
        place = run_dir / path.name
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        path.rename(place)
    aside.rmdir()
