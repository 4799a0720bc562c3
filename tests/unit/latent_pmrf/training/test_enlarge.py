from dataclasses import replace

import torch
import torch.nn.functional as F

from latent_pmrf.cli import main
from latent_pmrf.config import VELOCITY_PRESETS
from latent_pmrf.nets.build import build
from latent_pmrf.training.checkpoint import load_weights, save_weights
from latent_pmrf.training.enlarge import enlarge_flow, enlarged, enlarged_flow
from tests.tiny_runs import HDIT, SIDE_PX, UNET, VAE, tiny

PLAIN = replace(UNET, shrinkage=False)


def test_the_large_network_computes_what_the_small_one_computes_on_the_shrunk_picture(tmp_path):
    small = tiny(PLAIN)
    save_weights(tmp_path / "small.safetensors", PLAIN, small.state_dict(), {"stage": "estimator"})
    assert main(["enlarge", str(tmp_path / "small.safetensors"), str(tmp_path / "large.safetensors")]) == 0
    weights = load_weights(tmp_path / "large.safetensors")
    assert weights.config == enlarged(PLAIN)
    large = build(weights.config).eval()
    large.load_state_dict(weights.state_dict)
    y = torch.rand(2, 3, 2 * SIDE_PX, 2 * SIDE_PX)
    with torch.no_grad():
        residual = large(y) - y
        shrunk = F.avg_pool2d(y, 2)
        expected = F.interpolate(small(shrunk) - shrunk, scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(residual, expected, atol=1e-5, rtol=1e-4)
    assert residual.std() > 0.01


def test_an_estimator_with_shrinkage_is_not_enlarged(tmp_path, capsys):
    save_weights(tmp_path / "small.safetensors", UNET, tiny(UNET).state_dict(), {"stage": "estimator"})
    assert main(["enlarge", str(tmp_path / "small.safetensors"), str(tmp_path / "large.safetensors")]) != 0
    assert "with shrinkage cannot be enlarged" in capsys.readouterr().err
    assert not (tmp_path / "large.safetensors").exists()


def test_a_large_flow_has_the_small_one_inside(tmp_path):
    small = tiny(HDIT)
    save_weights(tmp_path / "small.safetensors", HDIT, small.state_dict(), {"stage": "flow"})
    assert main(["enlarge", str(tmp_path / "small.safetensors"), str(tmp_path / "large.safetensors")]) == 0
    weights = load_weights(tmp_path / "large.safetensors")
    large = build(enlarged_flow(HDIT))
    own = large.state_dict()
    assert all(value.shape == own[name].shape for name, value in weights.state_dict.items())
    new = {name.split(".")[0] + "." + name.split(".")[1] for name in own.keys() - weights.state_dict.keys()}
    assert {part for part in new if not part.startswith(("proj", "out_norm", "preconditioning"))} == {
        "down_blocks.0",
        "downs.0",
        "ups.0",
        "up_blocks.0",
    }
    large.load_state_dict(weights.state_dict, strict=False)
    x, cond = torch.rand(2, HDIT.widths[0], 8, 8), torch.rand(2, HDIT.mapping_width)
    for ours, theirs in (
        (large.down_blocks[1][0], small.down_blocks[0][0]),
        (large.up_blocks[1][0], small.up_blocks[0][0]),
    ):
        assert torch.equal(ours(x, cond), theirs(x, cond))


def test_preset_s_takes_every_tensor_of_xs_that_enlarge_gives():
    with torch.device("meta"):
        given = enlarge_flow(build(VELOCITY_PRESETS["xs"]).state_dict())
        own = build(VELOCITY_PRESETS["s"]).state_dict()
    assert {name for name, value in given.items() if name not in own or own[name].shape != value.shape} == set()
    assert len(given) > 100


def test_other_networks_are_refused(tmp_path, capsys):
    save_weights(tmp_path / "vae.safetensors", VAE, tiny(VAE).state_dict(), {"stage": "vae"})
    assert main(["enlarge", str(tmp_path / "vae.safetensors"), str(tmp_path / "large.safetensors")]) == 2
    assert "neither a U-Net estimator nor a velocity network" in capsys.readouterr().err
    assert not (tmp_path / "large.safetensors").exists()
