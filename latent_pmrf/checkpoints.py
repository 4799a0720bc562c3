"""Public checkpoints to state dicts of our networks.

A public file flows through `read_public` (format, wrapper) and `convert` (names, shapes, values) into a state
dict that `load_state_dict` takes strictly. Module names here follow the public code of SwinIR (DifFace@5c9ab80),
Sim-VAE and LooUFormer (Latent-PMRF@846b904); PMRF's transformer (PMRF@b6f16a4) has the renaming table below.

Tensors that are functions of the sizes (relative positions, shift masks, rotary frequencies) may be present or absent
in a public file; where present they must equal what our networks compute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - what torch raises when a file would run code
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from latent_pmrf.config import HDiTConfig, NetworkConfig, SwinIRConfig
from latent_pmrf.nets.attention import rotary_frequencies
from latent_pmrf.nets.build import build
from latent_pmrf.nets.swinir import relative_position_index, shift_mask

WRAPPERS = ("params_ema", "ema", "params", "state_dict")
"""Keys under which public files put their state dict, in the order in which they are tried."""

TO_PMRF = (
    (r"\bnorm1\.", "self_attn.norm."),
    (r"\bnorm2\.", "ff.norm."),
    (r"\battn\.", "self_attn."),
    (r"\bqkv_proj\.conv\.", "qkv_proj."),
    (r"\bproject_in\.conv\.", "up_proj."),
    (r"^(down|up)_blocks\.", r"\1_levels."),
    (r"^mid_block\.", "mid_level."),
    (r"^downs\.(\d+)\.conv\.", r"merges.\1.proj."),
    (r"^ups\.(\d+)\.conv\.", r"splits.\1.proj."),
    (r"^ups\.", "splits."),
    (r"^proj_in\.", "patch_in."),
    (r"^proj_out\.", "patch_out."),
    (r"^time_proj\.", "time_emb."),
    (r"^timestep_embedder\.", "time_in_proj."),
    (r"^out_norm\.weight$", "out_norm.scale"),
)
"""Our names to PMRF's, applied in order."""

PYTORCH_SUFFIXES = (".pth", ".ckpt")
"""Of files that torch unpickles: tensors and plain values only, nothing that would run code."""

COMPUTED_TOLERANCE = 1e-2
"""Relative; wide enough for a file that was stored in half precision."""


@dataclass(eq=False)
class CheckpointMismatchError(ValueError):
    """The tensors of a file are not those of the network.

    Attributes:
        unknown: Names in the file that the network does not have.
        missing: Names that the file lacks.
        misshaped: Name, found shape and expected shape in words.
        different: Names of computed tensors whose values are not those our network uses.
    """

    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    shown: int = field(default=8, repr=False)

    def __str__(self) -> str:
        parts = []
        for kind in ("unknown", "missing", "misshaped", "different"):
            names = getattr(self, kind)
            if names:
                more = f" and {len(names) - self.shown} more" if len(names) > self.shown else ""
                parts.append(f"{kind}: {', '.join(names[: self.shown])}{more}")
        return "the checkpoint does not fit the network; " + "; ".join(parts)


@dataclass(frozen=True, slots=True)
class PublicTensor:
    """Name and shape of a tensor in a public file, and its shape in our network."""

    name: str
    shape: tuple[int, ...]
    own_shape: tuple[int, ...]


def read_public(path: Path) -> dict[str, Tensor]:
    """Tensors of a public file, unwrapped.

    Args:
        path: A `.safetensors` file, or a `.pth` or `.ckpt` file of PyTorch, of which nothing is run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another kind, is damaged, or holds no tensors, or more than tensors and plain values.
    """
    content = _load(path)
    try:
        tensors = unwrap(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not tensors:
        raise ValueError(f"{path} holds no tensors")
    return tensors


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds something else than finite numbers, or None."""
    floating = (name for name, value in tensors.items() if value.is_floating_point())
    return next((name for name in floating if not bool(torch.isfinite(tensors[name]).all())), None)


def _load(path: Path) -> Mapping[str, Any]:
    if path.suffix not in (".safetensors", *PYTORCH_SUFFIXES):
        raise ValueError(f"{path}: only .safetensors, {' and '.join(PYTORCH_SUFFIXES)} files are read")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - the one place for it
    except FileNotFoundError:
        raise
    except UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors and plain values, which is not loaded because it can run "
            "code: if you trust the file, save its state dict as .safetensors elsewhere"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not names and tensors")
    return content


def unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """State dict inside a loaded file, averaged weights where there are any, without what PyTorch's wrappers add.

    Raises:
        ValueError: The averaged weights cannot be named, or are no tensors.
    """
    average = content.get("ema")
    if isinstance(average, Mapping) and "shadow_params" in average:
        if not isinstance(content.get("state_dict"), Mapping):
            raise ValueError("it holds averaged weights under 'ema', and no 'state_dict' that names them")
        shadow = average["shadow_params"]
        if not (isinstance(shadow, list) and all(isinstance(value, Tensor) for value in shadow)):
            raise ValueError("its averaged weights under 'ema' are no list of tensors")
        return _with_average(_tensors(content["state_dict"]), shadow)
    return _tensors(next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), content))


def _tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The named tensors, without the prefix of DistributedDataParallel and the infix of a compiled module."""
    named = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return {name.replace("_orig_mod.", "").removeprefix("module."): value for name, value in named.items()}


def _with_average(state: Mapping[str, Tensor], shadow: Sequence[Tensor]) -> dict[str, Tensor]:
    """Replace the transformer's parameters in a PMRF training checkpoint by their average.

    The average is a bare list in the order of the parameters, which is that of the state dict less its buffers.
    """
    names = [name for name in state if name.startswith("model.") and not _is_pmrf_buffer(name)]
    if len(names) != len(shadow):
        raise ValueError(f"the average has {len(shadow)} tensors for {len(names)} parameters")
    wrong = [name for name, value in zip(names, shadow, strict=True) if state[name].shape != value.shape]
    if wrong:
        raise CheckpointMismatchError(misshaped=tuple(f"average of {name}" for name in wrong))
    return {**state, **dict(zip(names, shadow, strict=True))}


def _is_pmrf_buffer(name: str) -> bool:
    return name.endswith(".freqs") or name in {"model.time_emb.weight", "model.aug_emb.weight"}


def public_layout(config: NetworkConfig) -> dict[str, PublicTensor]:
    """Name and shape in a public file of every tensor of our state dict."""
    with torch.device("meta"):
        own = {name: tuple(value.shape) for name, value in build(config).state_dict().items()}
    return {name: _public_tensor(config, name, shape) for name, shape in own.items()}


def _public_tensor(config: NetworkConfig, name: str, shape: tuple[int, ...]) -> PublicTensor:
    if not isinstance(config, HDiTConfig):
        return PublicTensor(name, shape, shape)
    if config.flavour == "latent_pmrf":
        return PublicTensor(name, shape[:1] if name == "time_proj.weight" else shape, shape)
    for pattern, replacement in TO_PMRF:
        name = re.sub(pattern, replacement, name)
    return PublicTensor(name, shape[:2] if len(shape) == 4 else shape, shape)


def computed_tensors(config: NetworkConfig) -> dict[str, Tensor]:
    """Tensors of a public file that our networks compute, by public name."""
    if isinstance(config, SwinIRConfig):
        return dict(_swinir_computed(config))
    return dict(_hdit_computed(config)) if isinstance(config, HDiTConfig) else {}


def _swinir_computed(config: SwinIRConfig) -> Iterator[tuple[str, Tensor]]:
    side, window = config.mask_size, config.window_size
    for i, depth in enumerate(config.depths):
        for j in range(depth):
            block = f"layers.{i}.residual_group.blocks.{j}"
            yield f"{block}.attn.relative_position_index", relative_position_index(window)
            if j % 2 and side is not None:
                yield f"{block}.attn_mask", shift_mask(side, side, window, window // 2)


def _hdit_computed(config: HDiTConfig) -> Iterator[tuple[str, Tensor]]:
    last = len(config.widths) - 1
    down, up, mid, attention = (
        ("down_levels", "up_levels", "mid_level", "self_attn")
        if config.flavour == "pmrf"
        else ("down_blocks", "up_blocks", "mid_block", "attn")
    )
    for level, (width, depth, head_dim) in enumerate(zip(config.widths, config.depths, config.head_dim, strict=True)):
        freqs = torch.from_numpy(rotary_frequencies(width // head_dim, head_dim)).float()
        for group in (mid,) if level == last else (f"{down}.{level}", f"{up}.{level}"):
            for j in range(depth):
                yield f"{group}.{j}.{attention}.pos_emb.freqs", freqs


def convert(tensors: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """State dict of our network from the tensors of a public one.

    Args:
        tensors: Public names to tensors, without prefix.
        config: Specification of the network.

    Returns:
        Float32 state dict with every key of `build(config)`.

    Raises:
        CheckpointMismatchError: Names unknown or missing, shapes or computed values that differ; it names them all.
        ValueError: The specification asks for a time convention that no public file has.
    """
    if isinstance(config, HDiTConfig) and (config.time_convention == "sigma") != (config.flavour == "latent_pmrf"):
        raise ValueError("public files of flavour 'latent_pmrf' need time_convention='sigma', those of 'pmrf' need 't'")
    layout, computed = public_layout(config), computed_tensors(config)
    expected = {tensor.name: tensor.shape for tensor in layout.values()}
    shapes = expected | {name: tuple(value.shape) for name, value in computed.items()}
    unknown = tuple(name for name in tensors if name not in shapes)
    missing = tuple(name for name in expected if name not in tensors)
    misshaped = tuple(
        f"{name} {tuple(value.shape)} instead of {shapes[name]}"
        for name, value in tensors.items()
        if name in shapes and tuple(value.shape) != shapes[name]
    )
    different = tuple(
        name
        for name, value in computed.items()
        if name in tensors and tensors[name].shape == value.shape and not _close(tensors[name], value)
    )
    if unknown or missing or misshaped or different:
        raise CheckpointMismatchError(unknown, missing, misshaped, different)
    return {own: tensors[public.name].float().reshape(public.own_shape) for own, public in layout.items()}


def _close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found.double(), expected.double(), rtol=COMPUTED_TOLERANCE, atol=COMPUTED_TOLERANCE)
