import importlib.util

import numpy as np
import pytest
import torch

from latent_pmrf.evaluation.learned import ArcFace, load_learned
from latent_pmrf.evaluation.measures import MEASURES, WEIGHTS
from latent_pmrf.evaluation.network_files import open_network
from latent_pmrf.evaluation.panel import Panel
from latent_pmrf.evaluation.template import ARCFACE_112, FFHQ_512
from tests.metric_networks import (
    Brightness,
    Inception,
    Tokens,
    write_averages,
    write_mean_difference,
    write_torchscript,
)


@pytest.fixture(scope="module")
def panel(face_512):
    outputs = np.stack([face_512.degraded["severe"], face_512.degraded["moderate"], face_512.clean])
    return Panel(outputs, face_512.degraded["moderate"], face_512.clean)


@pytest.mark.parametrize("kind", ["lpips", "dists"])
def test_distances_compare_each_output_with_the_clean_face(tmp_path, panel, kind):
    learned = load_learned({kind: write_mean_difference(tmp_path / "pair.onnx")})
    expected = np.abs(panel.outputs.astype(float) - panel.clean).mean((1, 2, 3)) / 255
    assert learned.panels[kind](panel) == pytest.approx(expected.tolist(), abs=1e-5)
    assert kind not in learned.skipped
    with pytest.raises(ValueError, match="clean face"):
        learned.panels[kind](Panel(panel.outputs, None, None))


def test_quality_needs_no_clean_face(tmp_path, panel):
    learned = load_learned({"musiq": write_torchscript(Brightness(), tmp_path / "musiq.pt")})
    expected = panel.outputs.mean((1, 2, 3)) / 2.55
    assert learned.panels["musiq"](Panel(panel.outputs, None, None)) == pytest.approx(expected.tolist(), rel=1e-4)


def test_inception_gets_levels_and_gives_features(tmp_path, panel):
    learned = load_learned({"fid": write_torchscript(Inception(), tmp_path / "inception.pt")})
    np.testing.assert_allclose(learned.features["fid"](panel.outputs), panel.outputs.mean((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("form", ["features", "tokens"])
def test_dinov2_gets_normalised_small_pictures(tmp_path, panel, form):
    if form == "features":
        path = write_averages(tmp_path / "dinov2.onnx", 224, cell_px=224)
    else:
        path = write_torchscript(Tokens(), tmp_path / "dinov2.pt")
    features = load_learned({"dinov2": path}).features["dinov2"](panel.outputs)
    means = panel.outputs.mean((1, 2)) / 255
    np.testing.assert_allclose(features, (means - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225), atol=5e-3)


@pytest.mark.parametrize("channels", [3, 1])
def test_arcface_angle_grows_with_damage(tmp_path, panel, channels):
    path = write_averages(tmp_path / "arcface.onnx", 112, channels, cell_px=14)
    severe, moderate, none = load_learned({"arcface": path}).panels["identity_deg"](panel)
    assert severe > moderate > none == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("size_px", [256, 512])
def test_arcface_gets_the_points_where_it_was_trained_to_find_them(tmp_path, size_px):
    arcface = ArcFace(open_network(write_averages(tmp_path / "arcface.onnx", 112)))
    for source, target in zip(FFHQ_512 * size_px / 512, ARCFACE_112, strict=True):
        y, x = np.mgrid[:size_px, :size_px]
        spot = np.exp(-((x - source[0]) ** 2 + (y - source[1]) ** 2) / (2 * (0.02 * size_px) ** 2))
        crop = arcface.crop(np.repeat((255 * spot).astype(np.uint8)[..., None], 3, 2))
        assert crop.shape == (3, 112, 112)
        assert crop.min() == -1
        weights = (crop[0] + 1) / (crop[0] + 1).sum()
        centre = (weights * np.arange(112)).sum(), (weights * np.arange(112)[:, None]).sum()
        assert centre == pytest.approx(tuple(target), abs=2.5)  # the templates are not quite similar


def test_what_is_not_given_is_skipped_with_the_option_to_give():
    skipped = load_learned({}).skipped
    assert skipped["fid"] == "no weights given (--weights fid=FILE)"
    assert set(skipped) == {key for kind, keys in WEIGHTS.items() if kind != "arcface" for key in keys}
    assert skipped.keys() <= {measure.key for measure in MEASURES}


@pytest.mark.parametrize(
    ("kind", "library"),
    [("lpips", "torchmetrics"), ("dists", "torchmetrics"), ("musiq", "pyiqa"), ("fid", "torch_fidelity")],
)
def test_public_weights_without_their_library_are_skipped_with_the_reason(tmp_path, kind, library):
    if importlib.util.find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "weights.pth")
    learned = load_learned({kind: tmp_path / "weights.pth"})
    assert not learned.panels
    assert not learned.features
    assert f"`metrics` extra: ModuleNotFoundError: No module named '{library}'" in learned.skipped[kind]


def test_a_kind_nobody_knows_and_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="--weights vgg: expected one of arcface, lpips"):
        load_learned({"vgg": tmp_path})
    with pytest.raises(ValueError, match=r"--weights fid: .*nowhere.pt does not exist"):
        load_learned({"fid": tmp_path / "nowhere.pt"})


def test_a_network_of_another_kind_is_noticed(tmp_path, panel):
    averages = write_averages(tmp_path / "averages.onnx", 512)
    with pytest.raises(ValueError, match="expected 3 numbers"):
        load_learned({"musiq": averages}).panels["musiq"](panel)
    scores = write_torchscript(Brightness(), tmp_path / "scores.pt")
    with pytest.raises(ValueError, match="expected features"):
        load_learned({"fid": scores}).features["fid"](panel.outputs)
