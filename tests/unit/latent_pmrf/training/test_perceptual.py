import pytest
import torch
import torch.nn.functional as F

from latent_pmrf.training.perceptual import PerceptualLoss, load_perceptual_loss
from tests.training_files import vgg_kernels


def write_vgg(path, kernels):
    tensors = {}
    for position, (weight, bias) in kernels.items():
        tensors |= {f"features.{position}.weight": weight, f"features.{position}.bias": bias}
    tensors["classifier.0.weight"] = torch.zeros(2, 2)
    torch.save(tensors, path)
    return path


def images(seed=0):
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_features_are_taken_before_the_relu_at_the_last_convolution_of_each_block():
    kernels = vgg_kernels()
    loss = PerceptualLoss(kernels)
    # The same network from PyTorch's own layers, as torchvision lays them out in `features`.
    x = [(image * 0.5 + 0.5 - loss.mean) / loss.std for image in (images(0), images(1))]
    expected = 0.0
    for position in range(35):
        if position in kernels:
            x = [F.conv2d(part, *kernels[position], padding=1) for part in x]
            weight = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 1.0}.get(position, 0.0)
            expected += weight * F.l1_loss(x[0], x[1]).item()
        elif position - 1 in kernels:
            x = [F.relu(part) for part in x]
        else:
            x = [F.max_pool2d(part, 2) for part in x]
    assert loss(images(0), images(1)).item() == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_the_prediction_and_not_the_network():
    loss, prediction = PerceptualLoss(vgg_kernels()), images(0).requires_grad_()
    loss(prediction, images(1)).backward()
    assert prediction.grad.abs().sum() > 0
    assert not [parameter for parameter in loss.parameters() if parameter.requires_grad]
    assert loss(images(0), images(0)).item() == 0


def test_the_file_of_torchvision_is_read_without_running_code(tmp_path):
    path = write_vgg(tmp_path / "vgg19.pth", vgg_kernels())
    loss = load_perceptual_loss(path)
    assert torch.equal(loss(images(0), images(1)), PerceptualLoss(vgg_kernels())(images(0), images(1)))


def test_what_is_wrong_with_a_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_perceptual_loss(tmp_path / "absent.pth")
    kernels = vgg_kernels()
    missing = {position: kernel for position, kernel in kernels.items() if position != 14}
    with pytest.raises(ValueError, match=r"has no features\.14\.weight"):
        load_perceptual_loss(write_vgg(tmp_path / "missing.pth", missing))
    kernels[16] = (torch.zeros(4, 5, 3, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"features\.16\.weight has the shape \(4, 5, 3, 3\)"):
        load_perceptual_loss(write_vgg(tmp_path / "shape.pth", kernels))
