"""Euler's method on a uniform time grid, where each row of a batch has its own time and number of steps.

`latent_pmrf.flow.solver` is the same method for one number of steps; a contract test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.core.types import F32Array


def times(steps_done: Sequence[int], num_steps: Sequence[int]) -> F32Array:
    """(B,) times `k / K` at which each row's velocity is evaluated, from 0 up to, but without, 1."""
    return (np.asarray(steps_done, np.float64) / np.asarray(num_steps, np.float64)).astype(np.float32)


def euler_step(x_t: F32Array, v_t: F32Array, num_steps: Sequence[int]) -> F32Array:
    """State after one step of length `1 / K` per row.

    Args:
        x_t: (B, ...) states; not modified.
        v_t: (B, ...) velocities there.
        num_steps: K of each row.
    """
    per_row = np.asarray(num_steps, np.float32).reshape(-1, *[1] * (x_t.ndim - 1))
    stepped: F32Array = v_t / per_row
    stepped += x_t
    return stepped
