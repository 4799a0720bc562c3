import numpy as np
import pytest
import torch

from latent_pmrf.evaluation.network_files import open_network
from tests.metric_networks import (
    Brightness,
    Inception,
    Tokens,
    write_averages,
    write_mean_difference,
    write_torchscript,
)


def pictures(count, side_px=32, seed=0):
    return np.random.default_rng(seed).random((count, 3, side_px, side_px), dtype=np.float32)


def test_onnx_of_two_inputs_takes_them_in_order(tmp_path):
    network = open_network(write_mean_difference(tmp_path / "pair.onnx"))
    one, other = pictures(40), pictures(40, seed=1)  # more than one call's rows
    np.testing.assert_allclose(network(one, other).ravel(), np.abs(one - other).mean((1, 2, 3)), atol=1e-6)
    assert network.input_shape == (None, 3, None, None)
    with pytest.raises(ValueError, match="takes 2 inputs"):
        network(one)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_filled(tmp_path, batch):
    network = open_network(write_averages(tmp_path / "fixed.onnx", 56, batch=batch))
    assert network.input_shape == (batch, 3, 56, 56)
    images = pictures(6, 56)
    expected = images.reshape(6, 3, 2, 28, 2, 28).mean((3, 5)).reshape(6, -1)
    np.testing.assert_allclose(network(images), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Brightness(), lambda x: 100 * x.mean((1, 2, 3))),
        (Inception(), lambda x: x.mean((2, 3))),
        (Tokens(), lambda x: np.stack((x.mean((2, 3)), 0 * x.mean((2, 3))), 1)),
    ],
    ids=["scores", "features on request", "first of several"],
)
def test_torchscript_gives_its_first_output(tmp_path, module, expected):
    network = open_network(write_torchscript(module, tmp_path / "network.pt"))
    images = pictures(20)
    np.testing.assert_allclose(network(images), expected(images), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.onnx", "no ONNX file"), ("a.pt", "no TorchScript file .* is .pth"), ("a.bin", "expected one of")],
)
def test_other_files_are_refused_by_name(tmp_path, name, message):
    torch.save({"weight": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(ValueError, match=message):
        open_network(tmp_path / name)
