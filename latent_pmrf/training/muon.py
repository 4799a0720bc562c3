"""Muon: momentum whose matrix-shaped updates are orthogonalised, with AdamW for everything else.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the scale of Liu et al., "Muon is
scalable for LLM training" (2025): an update has the root mean square that AdamW's typically has, so both share one
learning rate. PyTorch's own `torch.optim.Muon` refuses the four-dimensional kernels of convolutions.

Compared with AdamW in docs/EXPERIMENTS.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from latent_pmrf.training.device import has_fast_bf16

# Odd polynomial a x + b x^3 + c x^5 that pushes singular values towards 1; the coefficients of Jordan et al.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_ADAMW_RMS = 0.2
# Layers that meet the image, the latent or the time, not hidden layers: their kernels are left to AdamW.
_EDGES = frozenset(
    {"conv_in", "conv_out", "conv_first", "conv_last", "proj_in", "proj_out", "skip", "timestep_embedder"}
)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for kernels of shape (out, in) or (out, in, kh, kw).

    Args:
        params: Kernels; one with four dimensions is seen as the matrix (out, kh * kw * in).
        lr: Learning rate, on AdamW's scale.
        momentum: Decay of the running gradient.
        weight_decay: Decoupled weight decay.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ANN401, ARG002
        """Update every kernel that has a gradient; `closure` is not supported and ignored."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(kernel)
                momentum = state["momentum_buffer"].lerp_(kernel.grad, 1 - group["momentum"])
                update = kernel.grad.lerp(momentum, group["momentum"])
                rows = update.movedim(1, -1).reshape(len(update), -1)  # (out, kh * kw * in); free if channels-last
                rows = orthogonalise(rows).mul_(_ADAMW_RMS * max(rows.shape) ** 0.5)
                shape = update.movedim(1, -1).shape
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.add_(rows.reshape(shape).movedim(-1, 1), alpha=-group["lr"])


def orthogonalise(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal factor of a matrix's polar decomposition: singular values between about 0.7 and 1.2.

    Args:
        matrix: (M, N) of any floating dtype; computed in bfloat16 where that is fast, else in float32.

    Returns:
        (M, N) float32.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(torch.bfloat16 if has_fast_bf16(matrix.device) else torch.float32)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.T if tall else x).float()


def hidden_kernels(model: nn.Module) -> list[nn.Parameter]:
    """Kernels of the hidden linear and (not grouped) convolutional layers, in the model's order."""
    kernels = []
    for name, module in model.named_modules():
        hidden = not _EDGES.intersection(name.split("."))
        dense = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if hidden and dense:
            kernels.append(module.weight)
    return kernels
