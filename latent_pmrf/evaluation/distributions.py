"""Distances between two sets of features: how far the restored faces, taken together, are from real ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
F64Array = npt.NDArray[np.float64]

MMD_SIGMA = 10.0
MMD_SCALE = 1000.0
_ROWS_AT_ONCE = 2048


def frechet_distance(one: Features, other: Features) -> float:
    """Fréchet distance of the Gaussians with the sets' means and sample covariances (Heusel et al., 2017).

    |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)). With C = R^T R the last trace is the sum of the singular values
    of R1 R2^T: exact for rank-deficient covariances too, where a matrix square root is not.

    Args:
        one: (N, D) features.
        other: (M, D) features.

    Raises:
        ValueError: A set has fewer than two features, or the dimensions differ.
    """
    one, other = _pair(one, other)
    shift = one.mean(0) - other.mean(0)
    root_one, root_other = _covariance_root(one), _covariance_root(other)
    cross = np.linalg.svd(root_one @ root_other.T, compute_uv=False).sum()
    spread = np.square(root_one).sum() + np.square(root_other).sum()
    return max(0.0, float(shift @ shift + spread - 2.0 * cross))


def mmd_rbf(one: Features, other: Features, sigma: float = MMD_SIGMA, scale: float = MMD_SCALE) -> float:
    """Unbiased squared maximum mean discrepancy of unit-length features under a Gaussian kernel, times `scale`.

    The kernel exp(-|x - y|^2 / (2 sigma^2)) and both constants are those of Jayasumana et al. (2024), whom the paper
    cites; their code takes the biased estimate, which differs by about 1/N of the spread. Small sets of one
    distribution may come out below zero.

    Args:
        one: (N, D) features of any length.
        other: (M, D) features.
        sigma: Width of the kernel.
        scale: Factor of the result.

    Raises:
        ValueError: A set has fewer than two features, the dimensions differ, or a feature is zero.
    """
    one, other = (_unit_length(features) for features in _pair(one, other))
    # Sums of 1 - k: on unit features k is near 1, and the difference of such numbers would lose digits.
    within = [_gap_sum(part, part, sigma) / (len(part) * (len(part) - 1)) for part in (one, other)]
    between = _gap_sum(one, other, sigma) / (len(one) * len(other))
    return scale * (2.0 * between - sum(within))


def _covariance_root(features: F64Array) -> F64Array:
    """R, at most (D, D), with R^T R the sample covariance."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(centred) <= centred.shape[1]:
        return centred
    return np.asarray(np.linalg.qr(centred, mode="r"), dtype=np.float64)


def _gap_sum(one: F64Array, other: F64Array, sigma: float) -> float:
    total = 0.0
    for start in range(0, len(one), _ROWS_AT_ONCE):
        rows = one[start : start + _ROWS_AT_ONCE]
        for begin in range(0, len(other), _ROWS_AT_ONCE):
            squares = np.maximum(2.0 - 2.0 * rows @ other[begin : begin + _ROWS_AT_ONCE].T, 0.0)
            total -= float(np.expm1(-squares / (2.0 * sigma**2)).sum())
    return total


def _unit_length(features: F64Array) -> F64Array:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError("a feature of zeros has no direction")
    return features / lengths


def _pair(one: Features, other: Features) -> tuple[F64Array, F64Array]:
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), not {one.shape} and {other.shape}")
    if min(len(one), len(other)) < 2:
        raise ValueError("a distribution needs at least two faces")
    return one.astype(np.float64), other.astype(np.float64)
