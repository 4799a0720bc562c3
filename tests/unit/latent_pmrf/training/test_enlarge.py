import torch
import torch.nn.functional as F

from latent_pmrf.cli import main
from latent_pmrf.config import ESTIMATOR_PRESETS
from latent_pmrf.nets.build import build
from latent_pmrf.training.checkpoint import load_weights, save_weights
from latent_pmrf.training.enlarge import enlarged
from tests.tiny_runs import HDIT, SIDE_PX, UNET, tiny


def test_the_large_network_computes_what_the_small_one_computes_on_the_shrunk_picture(tmp_path):
    small = tiny(UNET)
    save_weights(tmp_path / "small.safetensors", UNET, small.state_dict(), {"stage": "estimator"})
    assert main(["enlarge", str(tmp_path / "small.safetensors"), str(tmp_path / "large.safetensors")]) == 0
    weights = load_weights(tmp_path / "large.safetensors")
    assert weights.config == enlarged(UNET)
    large = build(weights.config).eval()
    large.load_state_dict(weights.state_dict)
    y = torch.rand(2, 3, 2 * SIDE_PX, 2 * SIDE_PX)
    with torch.no_grad():
        residual = large(y) - y
        shrunk = F.avg_pool2d(y, 2)
        expected = F.interpolate(small(shrunk) - shrunk, scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(residual, expected, atol=1e-5, rtol=1e-4)
    assert residual.std() > 0.01


def test_the_bundled_estimator_enlarged_is_preset_s():
    assert enlarged(ESTIMATOR_PRESETS["xs-unet"]) == ESTIMATOR_PRESETS["s-unet"]


def test_other_networks_are_refused(tmp_path, capsys):
    save_weights(tmp_path / "flow.safetensors", HDIT, tiny(HDIT).state_dict(), {"stage": "flow"})
    assert main(["enlarge", str(tmp_path / "flow.safetensors"), str(tmp_path / "large.safetensors")]) == 2
    assert "no U-Net" in capsys.readouterr().err
    assert not (tmp_path / "large.safetensors").exists()
