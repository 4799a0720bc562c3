import dataclasses
import json

import pytest
import torch

from latent_pmrf.config import (
    ESTIMATOR_PRESETS,
    VAE_PRESETS,
    VELOCITY_PRESETS,
    HDiTConfig,
    SimVAEConfig,
    SwinIRConfig,
    UNetConfig,
    from_dict,
    to_dict,
)
from latent_pmrf.nets.build import build

TABLES = {"estimator": ESTIMATOR_PRESETS, "vae": VAE_PRESETS, "velocity": VELOCITY_PRESETS}
PRESETS = [pytest.param(c, id=f"{table}-{name}") for table in TABLES for name, c in TABLES[table].items()]


def parameters(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


@pytest.mark.parametrize("config", PRESETS)
def test_every_preset_builds(config):
    assert parameters(config) > 1e6


@pytest.mark.parametrize("config", PRESETS)
def test_specifications_survive_json(config):
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("config", "count", "of_the_paper"),
    [
        (ESTIMATOR_PRESETS["published"], 15_792_587, 15.5e6),
        (VAE_PRESETS["published"], 91_030_595, 91.0e6),
        (VELOCITY_PRESETS["published"], 153_976_610, 151.2e6),  # its widths are a best guess, see the parity notes
        (VELOCITY_PRESETS["pmrf-published"], 160_460_210, 159.8e6),
    ],
)
def test_published_networks_have_the_published_size(config, count, of_the_paper):
    assert parameters(config) == count
    assert count == pytest.approx(of_the_paper, rel=0.02)


def test_the_bundled_networks_fit_together():
    assert VELOCITY_PRESETS["xs"].in_channels == VAE_PRESETS["xs"].latent_channels
    assert VAE_PRESETS["xs"].downscale == VAE_PRESETS["published"].downscale == 8


@pytest.mark.parametrize("config", [SwinIRConfig(), UNetConfig(), SimVAEConfig(), HDiTConfig()])
def test_specifications_are_frozen_and_hashable(config):
    assert hash(config) == hash(dataclasses.replace(config))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, 1)


@pytest.mark.parametrize(
    ("cls", "changes", "named"),
    [
        (SwinIRConfig, {"depths": (2, 2)}, "depths and num_heads"),
        (SwinIRConfig, {"embed_dim": 100}, "embed_dim 100"),
        (SwinIRConfig, {"upsampler": "nearest"}, "upsampler must be one of .* not 'nearest'"),
        (SwinIRConfig, {"unshuffle": 6}, "unshuffle 6"),
        (UNetConfig, {"image_size_px": 250}, "image_size_px 250 must be a multiple of 16"),
        (UNetConfig, {"heads": 5}, "heads 5"),
        (UNetConfig, {"shrinkage": True, "image_channels": 8}, "of 3 channels .* not of 8 channels and 256 px"),
        (UNetConfig, {"shrinkage": True, "image_size_px": 250}, "not of 3 channels and 250 px"),
        (HDiTConfig, {"depths": (1, 1)}, "widths, depths, attention and head_dim"),
        (HDiTConfig, {"widths": (256, 500, 1024)}, "width 500"),
        (HDiTConfig, {"widths": (48, 48, 48), "head_dim": (12, 12, 12)}, "head_dim 12"),
        (HDiTConfig, {"kernel_size": 6}, "kernel_size 6"),
        (HDiTConfig, {"mapping_width": 10}, "mapping_width times ff_mult"),
        (HDiTConfig, {"attention": ("neighborhood", "window", "global")}, "attention must be .* not 'window'"),
        (HDiTConfig, {"flavour": "natten"}, "flavour"),
        (HDiTConfig, {"time_convention": "reverse"}, "time_convention"),
        (SwinIRConfig, {"num_heads": (0,) * 8}, "num_heads must be above 0"),
        (SwinIRConfig, {"mlp_ratio": -1.0}, "mlp_ratio must be above 0, not -1"),
        (UNetConfig, {"unshuffle": 0}, "unshuffle must be above 0, not 0"),
        (UNetConfig, {"widths": ()}, r"widths must be above 0, not \[\]"),
        (UNetConfig, {"heads": 0}, "heads must be above 0, not 0"),
        (UNetConfig, {"depth": -1}, "depth must be 0 or more, not -1"),
        (SimVAEConfig, {"block_out_channels": (-1, 8)}, r"block_out_channels must be above 0, not \[-1, 8\]"),
        (SimVAEConfig, {"layers_mid_block": -1}, "layers_mid_block must be 0 or more"),
        (HDiTConfig, {"head_dim": (0, 64, 64)}, "head_dim must be above 0"),
    ],
)
def test_inconsistent_sizes_are_refused_by_name(cls, changes, named):
    with pytest.raises(ValueError, match=named):
        cls(**changes)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"kind": "VQGAN"}, "VQGAN"),
        ({}, "None"),
        ({"kind": "SimVAEConfig", "latent_channels": "4"}, r"SimVAEConfig\.latent_channels cannot be '4'"),
        ({"kind": "SimVAEConfig", "latent_chanels": 4, "widths": 3}, r"SimVAEConfig has no field \['latent_chanels'"),
    ],
)
def test_what_is_no_specification_is_refused_by_name(values, named):
    with pytest.raises(ValueError, match=named):
        from_dict(values)
