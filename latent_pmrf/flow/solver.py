"""Euler integration of the flow on a uniform time grid (paper, section 2.1, eq. 1), for arrays and tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Array = TypeVar("Array")


def time_grid(num_steps: int) -> list[float]:
    """The K times `k / K`, k = 0 .. K-1, at which the velocity is evaluated.

    Raises:
        ValueError: `num_steps` is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    return [k / num_steps for k in range(num_steps)]


def euler(velocity: Callable[[Array, float], Array], x_0: Array, num_steps: int) -> Array:
    """Integrate `dx/dt = velocity(x, t)` from t = 0 to 1 with `num_steps` equal Euler steps.

    Args:
        velocity: Maps (x_t, t) to v_t of the same shape.
        x_0: State at t = 0; not modified.
        num_steps: K, at least 1.
    """
    x_t = x_0
    for t in time_grid(num_steps):
        x_t = x_t + velocity(x_t, t) / num_steps  # type: ignore[operator, assignment]
    return x_t
