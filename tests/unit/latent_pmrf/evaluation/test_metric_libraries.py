"""The networks of public weights, with random numbers; skipped where the `metrics` extra does not work."""

import importlib

import numpy as np
import pytest
import torch

from latent_pmrf.evaluation import libraries


def working(*names):
    """The modules, or a skip that says what is missing."""
    try:
        return [importlib.import_module(name) for name in names]
    except (ImportError, RuntimeError, AttributeError) as error:
        pytest.skip(f"the `metrics` extra does not work here: {error}")


@pytest.fixture
def images():
    return np.random.default_rng(0).random((2, 3, 96, 96), dtype=np.float32)


def saved(module, path):
    torch.save(module.state_dict(), path)
    return path


@pytest.mark.parametrize("network", ["alexnet", "vgg16"])
def test_lpips_tells_the_backbone_by_its_file(tmp_path, images, network):
    _, models = working("torchmetrics.image.lpip", "torchvision.models")
    path = saved(getattr(models, network)(weights=None), tmp_path / "backbone.pth")
    same, other = libraries.load_lpips(path, "cpu")(images, np.stack([images[0], images[0]]))
    assert same == pytest.approx(0, abs=1e-6)
    assert other > 1e-3


def test_dists_of_equal_pictures_is_zero(tmp_path, images):
    _, models = working("torchmetrics.functional.image.dists", "torchvision.models")
    path = saved(models.vgg16(weights=None), tmp_path / "vgg16.pth")
    same, other = libraries.load_dists(path, "cpu")(images, np.stack([images[0], images[0]]))
    assert same == pytest.approx(0, abs=1e-5)
    assert other > 1e-4


def test_musiq_is_pyiqa_s(tmp_path, images):
    (arch,) = working("pyiqa.archs.musiq_arch")
    network = arch.MUSIQ(pretrained=False, num_class=1).eval()
    scores = libraries.load_musiq(saved(network, tmp_path / "musiq.pth"), "cpu")(images)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).flatten().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_dinov2_is_a_folder_of_transformers(tmp_path):
    (transformers,) = working("transformers")
    config = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224)
    network = transformers.Dinov2Model(config).eval()
    network.save_pretrained(tmp_path / "dinov2")
    pictures = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    features = libraries.load_dinov2(tmp_path / "dinov2", "cpu")(pictures)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pictures)).pooler_output.numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)
    with pytest.raises(ValueError, match="no folder of transformers"):
        libraries.load_dinov2(tmp_path, "cpu")
