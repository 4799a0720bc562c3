"""Checkpoints as safetensors files: tensors by prefix, everything else as JSON metadata; never pickle.

A training checkpoint holds `model.*`, `ema.*`, `optimizer.{optimiser}.{i}.{name}`, what the stage keeps beside its
network (`stage.*`) and the step. A weights file holds the averaged weights without a prefix, the network's
specification and facts about the run. Both are written to a temporary name and renamed, so that a kill leaves the last
good file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from latent_pmrf.checkpoints import not_finite, with_prefix
from latent_pmrf.config import NetworkConfig, from_dict, to_dict
from latent_pmrf.training.ema import EMA

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Weights:
    """The content of a weights file."""

    config: NetworkConfig
    state_dict: Tensors
    info: dict[str, Any]


def save_training_state(  # noqa: PLR0913 - the parts of a run
    path: Path,
    model: nn.Module,
    ema: EMA,
    optimizers: Sequence[torch.optim.Optimizer],
    info: Mapping[str, Any],
    beside: Mapping[str, torch.Tensor] | None = None,
    config: NetworkConfig | None = None,
) -> None:
    """Write everything a run needs to go on as if it had never stopped; `beside` is what the stage itself keeps."""
    tensors: Tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.shadow.items()}
    tensors |= {f"stage.{name}": value for name, value in (beside or {}).items()}
    for number, optimizer in enumerate(optimizers):
        tensors |= {f"optimizer.{number}.{name}": value for name, value in optimizer_tensors(optimizer).items()}
    kinds = [type(optimizer).__name__ for optimizer in optimizers]
    network = {} if config is None else {"config": to_dict(config)}
    _save(path, tensors, {"info": dict(info), "optimizers": kinds, **network})


def load_training_state(
    path: Path, model: nn.Module, ema: EMA, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Restore what `save_training_state` wrote, in place, and return its info.

    Raises:
        ValueError: The checkpoint is of another network or of other optimisers; nothing is changed then.
    """
    tensors, metadata = _load(path)
    found = {name: value.shape for name, value in with_prefix(tensors, "model.").items()}
    expected = {name: value.shape for name, value in model.state_dict().items()}
    differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if differing:
        raise ValueError(f"{path} is of another network: {len(differing)} tensors differ, the first is {differing[0]}")
    kinds, saved = [type(optimizer).__name__ for optimizer in optimizers], metadata.get("optimizers")
    if kinds != saved:
        raise ValueError(f"{path} was trained with {saved}, this recipe says {kinds}; go on as it began or start anew")
    model.load_state_dict(with_prefix(tensors, "model."))
    for name, value in with_prefix(tensors, "ema.").items():
        ema.shadow[name].copy_(value)
    for number, optimizer in enumerate(optimizers):
        load_optimizer_tensors(optimizer, with_prefix(tensors, f"optimizer.{number}."))
    return dict(metadata["info"])


def load_state_config(path: Path) -> NetworkConfig | None:
    """Specification of the network of a training checkpoint; None where it does not say.

    Raises:
        ValueError: The file is damaged.
    """
    with _opened(path) as file:
        config = _metadata(file).get("config")
    return None if config is None else from_dict(config)


def load_stage_state(path: Path) -> Tensors:
    """What the stage kept beside its network in a training checkpoint; empty if it kept nothing."""
    prefix = "stage."
    with _opened(path) as file:
        return {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118 - as below


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The moments of an optimiser as `{parameter}.{name}`."""
    states = optimizer.state_dict()["state"].items()
    return {f"{index}.{name}": torch.as_tensor(value) for index, values in states for name, value in values.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restore what `optimizer_tensors` gave."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_weights(
    path: Path, config: NetworkConfig, state_dict: Mapping[str, torch.Tensor], info: Mapping[str, Any]
) -> None:
    """Write a network: weights, specification and facts about where they come from."""
    _save(path, dict(state_dict), {"config": to_dict(config), "info": dict(info)})


def load_weights(path: Path) -> Weights:
    """Read what `save_weights` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or not one of ours, or a weight is no finite number.
    """
    tensors, metadata = _load(path)
    if "config" not in metadata:
        raise ValueError(f"{path} holds no network specification; is it a weights file of this project?")
    if (name := not_finite(tensors)) is not None:
        raise ValueError(f"{path}: {name} is not finite")
    return Weights(config=from_dict(metadata["config"]), state_dict=tensors, info=metadata.get("info", {}))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a small file of a run; a kill leaves the whole of it or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=1))
    partial.replace(path)


def _save(path: Path, tensors: Tensors, metadata: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    contiguous = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    partial.unlink(missing_ok=True)
    partial.touch()
    mode = partial.stat().st_mode
    try:
        save_file(contiguous, partial, metadata={"latent_pmrf": json.dumps(metadata)})
    except SafetensorError as error:
        partial.unlink()  # on a full disk it would hold what little there is
        raise OSError(f"{path} cannot be written: {error}") from error
    partial.chmod(mode)  # safetensors makes a file that its owner alone may read
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _load(path: Path) -> tuple[Tensors, dict[str, Any]]:
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        return tensors, _metadata(file)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file, of whose damage reading tells by ValueError."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no .safetensors file: {error}") from error


def _metadata(file: Any) -> dict[str, Any]:  # noqa: ANN401 - safetensors' stubs do not name it
    return dict(json.loads((file.metadata() or {}).get("latent_pmrf", "{}")))
