"""The configuration files of the public code bases to our specifications.

    SwinIR    constructor arguments (DifFace@5c9ab80)
    PMRF      the hyper-parameters of its module, or its transformer's constructor arguments (PMRF@b6f16a4)
    Sim-VAE   diffusers' config.json of `AutoencoderKLSim` (Latent-PMRF@846b904)
    flow      diffusers' config.json of `LooUFormer` (Latent-PMRF@846b904)

An entry that is absent has the published value; one that our networks do not know how to follow is refused; one that
changes no number (dropout, training options, fields of later library versions) is passed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from latent_pmrf.config import (
    ESTIMATOR_PRESETS,
    VAE_PRESETS,
    VELOCITY_PRESETS,
    HDiTConfig,
    SimVAEConfig,
    SwinIRConfig,
    check_type,
    fill,
)

Public = Mapping[str, Any]
SpecT = TypeVar("SpecT", SwinIRConfig, SimVAEConfig, HDiTConfig)

SWINIR_ARCHS: Mapping[str, Public] = {
    "swinir_L": {},
    "swinir_M": {"embed_dim": 120, "depths": [6] * 5, "num_heads": [6] * 5},
}
"""PMRF's names of estimators, as what differs from the published one."""

HDIT_ARCHS: Mapping[str, Public] = {
    "hdit_ImageNet256Sp4": {},
    "hdit_XL2": {
        "widths": [384, 768],
        "depths": [2, 11],
        "self_attns": [{"type": "neighborhood"}, {"type": "global"}],
    },
}
"""PMRF's names of transformers, likewise."""


def swinir_spec(public: Public) -> SwinIRConfig:
    """Specification of DifFace's and PMRF's estimator.

    Raises:
        ValueError: An option is not one that our network has; all such are named.
    """
    base = ESTIMATOR_PRESETS["published"]
    assert isinstance(base, SwinIRConfig)  # noqa: S101 - the table holds other estimators too
    unshuffle = public.get("unshuffle_scale", base.unshuffle)
    _refuse_others(
        public,
        {
            "patch_size": 1,
            "in_chans": 3,
            "num_out_ch": 3,
            "sf": unshuffle,
            "img_range": 1.0,
            "upsampler": "nearest+conv",
            "resi_connection": "1conv",
            "unshuffle": True,
            "ape": False,
            "patch_norm": True,
            "qkv_bias": True,
            "qk_scale": None,
        },
    )
    same = ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio")
    names = {name: name for name in same} | {"img_size": "mask_size", "unshuffle_scale": "unshuffle"}
    return _filled(base, public, names)


def sim_vae_spec(public: Public) -> SimVAEConfig:
    """Specification of the Sim-VAE.

    Raises:
        ValueError: An option is not one that our network has; all such are named.
    """
    base = VAE_PRESETS["published"]
    widths = tuple(base.block_out_channels)
    if "block_out_channels" in public:
        check_type("block_out_channels", public["block_out_channels"], list)
        widths = tuple(public["block_out_channels"])
    levels = len(widths)
    _refuse_others(
        public,
        {
            "_class_name": "AutoencoderKLSim",
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ["EncoderBlock2D"] * levels,
            "up_block_types": ["DecoderBlock2D"] * levels,
            "mid_block_type": "Block2D",
            "mid_block_out_channel": widths[-1],
            "norm_pos": "pre_norm",
            "norm_type": "layer_norm",
            "upsample_method": "interpolate",
        },
    )
    names = {name: name for name in ("block_out_channels", "layers_per_block", "layers_mid_block", "latent_channels")}
    spec = _filled(base, public, names)
    return dataclasses.replace(spec, decoder_layers_per_block=spec.layers_per_block + 1)


def latent_scaling(public: Public, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel that the public code's `(z - shift_factor) * scaling_factor` amounts to."""
    shift, scale = public.get("shift_factor"), public.get("scaling_factor")
    mean = _per_channel("shift_factor", 0.0 if shift is None else shift, channels)
    factors = _per_channel("scaling_factor", 1.0 if scale is None else scale, channels)
    if min(factors) <= 0:
        raise ValueError(f"scaling_factor must be positive, not {scale}")
    return mean, tuple(1 / factor for factor in factors)


def pmrf_spec(public: Public) -> HDiTConfig:
    """Specification of PMRF's transformer.

    Raises:
        ValueError: An option is not one that our network has; all such are named.
    """
    public = {**_arch(HDIT_ARCHS, "arch", public), **public}
    multiplier, patch_size = public.get("d_ff_multiplier", 3), public.get("patch_size", [4, 4])
    _refuse_others(
        public,
        {
            "stage": "flow",
            "conditional": False,
            "eps": 0.0,
            "in_channels": 3,
            "out_channels": 3,
            "patch_size": [patch_size[0]] * 2,
            "mapping_d_ff_multiplier": multiplier,
        },
    )
    levels = public.get("self_attns")
    values = {**public, "ff_mult": float(multiplier), "patch_size": patch_size[0]}
    if levels is not None:
        values["attention"] = [level["type"] for level in levels]
        values["head_dim"] = [level.get("d_head", 64) for level in levels]
        kernels = [level.get("kernel_size", 7) for level in levels if level["type"] == "neighborhood"]
        values["kernel_size"] = _one_of("kernel_size", kernels)
    same = ("widths", "depths", "attention", "head_dim", "kernel_size", "patch_size", "ff_mult")
    names = {name: name for name in (*same, "mapping_width", "mapping_depth")}
    return _filled(VELOCITY_PRESETS["pmrf-published"], values, names)


def pmrf_estimator_spec(public: Public) -> SwinIRConfig:
    """Specification of the estimator inside PMRF's file, by `mmse_model_arch` of its configuration.

    Raises:
        ValueError: The name is unknown.
    """
    return swinir_spec(_arch(SWINIR_ARCHS, "mmse_model_arch", public))


def pmrf_sigma_s(public: Public) -> float:
    """Standard deviation of PMRF's source noise, on pixels in [0, 1]."""
    return float(public.get("mmse_noise_std", 0.1))


def looformer_spec(public: Public) -> HDiTConfig:
    """Specification of Latent-PMRF's transformer, whose time runs from 1 (source) to 0.

    Raises:
        ValueError: An option is not one that our network has; all such are named.
    """
    _refuse_others(
        public,
        {
            "_class_name": "LooUFormer",
            "out_channels": public.get("in_channels", 32),
            "patch_size": [1, 1],
            "dwconv_type": "dwconv",
            "upsample_method": "interpolate",
            "downsample_method": "conv",
            "upsample_kernel_size": 3,
            "downsample_kernel_size": 3,
            "patch_embed_type": "conv",
            "use_bias": True,
            "time_embed_log_space": False,
            "time_embed_freq_scale": 1.0,
            "mapping_mult": public.get("mult", 3.0),
            "scale": 1,
        },
    )
    values = dict(public)
    if "window_sizes" in public:
        kinds = public.get("block_types", VELOCITY_PRESETS["published"].attention)
        windows = zip(public["window_sizes"], kinds, strict=True)
        values["window_sizes"] = _one_of("window_sizes", [side for side, kind in windows if kind == "neighborhood"])
    names = {
        "in_channels": "in_channels",
        "block_dims": "widths",
        "block_layers": "depths",
        "block_types": "attention",
        "head_dims": "head_dim",
        "window_sizes": "kernel_size",
        "time_embed_dim": "mapping_width",
        "mapping_layers": "mapping_depth",
        "mult": "ff_mult",
    }
    return dataclasses.replace(_filled(VELOCITY_PRESETS["published"], values, names), time_convention="sigma")


def _filled(base: SpecT, public: Public, names: Mapping[str, str]) -> SpecT:
    """`base` with the entries of `public` under our names; lists become tuples.

    Raises:
        ValueError: An entry is of another type, or does not go with the others.
    """
    found = {ours: public[name] for name, ours in names.items() if name in public}
    return fill(type(base), dataclasses.asdict(base) | found)


def _refuse_others(public: Public, known: Public) -> None:
    """Refuse entries that are there and have another value than the only one our networks follow."""
    others = [
        f"{name} {public[name]!r} instead of {value!r}"
        for name, value in known.items()
        if name in public and public[name] != value
    ]
    if others:
        raise ValueError(f"the configuration is of a variant that is not supported: {'; '.join(others)}")


def _arch(archs: Mapping[str, Public], key: str, public: Public) -> Public:
    """Constructor arguments that go with a name; the entry may also hold the arguments themselves."""
    name = public.get(key) or next(iter(archs))
    if isinstance(name, Mapping):
        return name
    if name not in archs:
        raise ValueError(f"{key} {name!r} is not supported; known are {', '.join(archs)}")
    return archs[name]


def _one_of(name: str, values: Sequence[int]) -> int:
    if len(set(values)) > 1:
        raise ValueError(f"{name} must be the same at every neighbourhood level, not {values}")
    return next(iter(values), VELOCITY_PRESETS["published"].kernel_size)


def _per_channel(name: str, value: Any, channels: int) -> tuple[float, ...]:  # noqa: ANN401 - of a JSON file
    values = tuple(float(entry) for entry in value) if isinstance(value, list) else (float(value),) * channels
    if len(values) != channels:
        raise ValueError(f"{name} has {len(values)} entries for {channels} channels")
    return values
