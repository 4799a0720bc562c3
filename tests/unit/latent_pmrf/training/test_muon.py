import copy

import pytest
import torch
from torch import nn

from latent_pmrf.config import ESTIMATOR_PRESETS, VELOCITY_PRESETS
from latent_pmrf.nets.build import build
from latent_pmrf.training.muon import Muon, hidden_kernels, orthogonalise


@pytest.mark.parametrize("shape", [(16, 16), (12, 90), (90, 12)])
def test_singular_values_are_pushed_to_one_and_directions_kept(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) * 7
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result)
    assert result.dtype == torch.float32
    assert values.min() > 0.3
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    polar = u @ v
    assert torch.sum(result * polar) / (result.norm() * polar.norm()) > 0.95


def test_a_step_is_as_large_as_one_of_adamw_whatever_the_gradient():
    for scale in (1e-4, 1.0, 1e4):
        kernel = nn.Parameter(torch.zeros(24, 16, 3, 3))
        torch.manual_seed(0)
        kernel.grad = scale * torch.randn_like(kernel)
        Muon([kernel], lr=0.01).step()
        assert float(kernel.detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.3)


def test_the_memory_layout_changes_nothing():
    kernels = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        kernel = nn.Parameter(torch.randn(8, 6, 3, 3).to(memory_format=layout))
        kernel.grad = torch.randn(8, 6, 3, 3).to(memory_format=layout)
        optimizer = Muon([kernel], lr=0.1, weight_decay=0.5)
        for _ in range(3):
            optimizer.step()
        kernels.append(kernel.detach())
    assert torch.equal(kernels[0], kernels[1])


def test_it_descends_and_keeps_its_state_across_a_restart():
    torch.manual_seed(0)
    inputs, layer = torch.randn(64, 12), nn.Linear(12, 8, bias=False)
    targets = inputs @ torch.randn(12, 8)

    def train(layer, optimizer, steps):
        for _ in range(steps):
            loss = (layer(inputs) - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    start = Muon(layer.parameters(), lr=0.1)
    first = train(layer, start, 10)
    twin = nn.Linear(12, 8, bias=False)
    twin.load_state_dict(layer.state_dict())
    resumed = Muon(twin.parameters(), lr=0.1)
    resumed.load_state_dict(copy.deepcopy(start.state_dict()))
    assert train(layer, start, 30) == train(twin, resumed, 30)
    assert train(layer, start, 200) < 0.05 * first


def test_edges_norms_biases_and_depthwise_kernels_are_left_to_adamw():
    for config in (ESTIMATOR_PRESETS["xs-unet"], VELOCITY_PRESETS["xs"]):
        model = build(config)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        chosen = {names[id(kernel)] for kernel in hidden_kernels(model)}
        assert all(name.endswith("weight") for name in chosen)
        assert not [name for name in chosen if "dwconv" in name or "norm.weight" in name]
        assert not [name for name in chosen if name.split(".")[0] in {"conv_in", "conv_out", "proj_in", "proj_out"}]
        share = sum(kernel.numel() for kernel in hidden_kernels(model)) / sum(p.numel() for p in model.parameters())
        assert share > 0.9
