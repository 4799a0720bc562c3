"""The straight path between source and target (paper, section 2.1, eq. 2, and figure 2; Liu et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class PathSample:
    """One point of the path per row.

    Attributes:
        x_t: (B, ...) `(1 - t) x_0 + t x_1`.
        t: (B,) in [0, 1].
        v_t: (B, ...) `x_1 - x_0`, the regression target, the same for every t.
    """

    x_t: torch.Tensor
    t: torch.Tensor
    v_t: torch.Tensor


def sample_path(x_0: torch.Tensor, x_1: torch.Tensor, t: torch.Tensor) -> PathSample:
    """Interpolate linearly between source `x_0` and target `x_1` at times `t`.

    Args:
        x_0: (B, ...) source.
        x_1: (B, ...) target.
        t: (B,) times in [0, 1].

    Raises:
        ValueError: The shapes do not agree.
    """
    if x_0.shape != x_1.shape or t.shape != x_0.shape[:1]:
        raise ValueError(f"x_0 {tuple(x_0.shape)}, x_1 {tuple(x_1.shape)} and t {tuple(t.shape)} do not agree")
    t_rows = t.view(-1, *[1] * (x_0.ndim - 1))
    return PathSample(x_t=torch.lerp(x_0, x_1, t_rows), t=t, v_t=x_1 - x_0)


def stratified_times(batch_size: int, generator: torch.Generator) -> torch.Tensor:
    """(B,) times, one uniform draw in each of `batch_size` equal parts of [0, 1], in random order (PMRF)."""
    strata = torch.randperm(batch_size, generator=generator)
    return (strata + torch.rand(batch_size, generator=generator)) / batch_size
