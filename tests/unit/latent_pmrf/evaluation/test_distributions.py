import numpy as np
import pytest

from latent_pmrf.evaluation.distributions import frechet_distance, mmd_rbf


def with_moments(count, mean, covariance, seed=0):
    """Features whose sample mean and covariance are exactly these."""
    raw = np.random.default_rng(seed).standard_normal((count, len(mean)))
    raw -= raw.mean(0)
    raw = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return raw @ np.linalg.cholesky(np.asarray(covariance, float)).T + mean


def test_frechet_distance_of_commuting_gaussians_is_closed_form():
    one = with_moments(40, (1, 2, 3), np.diag((4.0, 9.0, 1.0)))
    other = with_moments(70, (1, 0, 3), np.diag((1.0, 1.0, 16.0)), seed=1)
    # Squared distances of the means and of the standard deviations.
    assert frechet_distance(one, other) == pytest.approx(4 + (2 - 1) ** 2 + (3 - 1) ** 2 + (1 - 4) ** 2)


def test_frechet_distance_of_any_gaussians_is_that_of_the_matrix_root():
    rng = np.random.default_rng(5)
    factors = rng.standard_normal((2, 4, 4))
    covariances = [factor @ factor.T + 0.1 * np.eye(4) for factor in factors]
    one, other = (with_moments(50, np.full(4, shift), covariances[shift], seed=shift) for shift in (0, 1))
    trace_of_root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
    expected = 4 + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * trace_of_root
    assert frechet_distance(one, other) == pytest.approx(expected)
    assert frechet_distance(other, one) == pytest.approx(expected)


@pytest.mark.parametrize("count", [5, 200])
def test_frechet_distance_with_fewer_or_more_faces_than_dimensions(count):
    features = np.random.default_rng(0).standard_normal((count, 32)).astype(np.float32)
    assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(features, features + 0.5) == pytest.approx(32 * 0.25, rel=1e-4)


def brute_force_mmd(one, other, sigma):
    one, other = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (one, other))

    def kernel(a, b):
        return np.exp(-np.square(a - b).sum() / (2 * sigma**2))

    within = [np.mean([kernel(a, b) for i, a in enumerate(p) for j, b in enumerate(p) if i != j]) for p in (one, other)]
    return sum(within) - 2 * np.mean([kernel(a, b) for a in one for b in other])


@pytest.mark.parametrize("sigma", [0.5, 10.0])
def test_mmd_is_the_unbiased_sum_over_pairs(sigma):
    rng = np.random.default_rng(2)
    one, other = rng.standard_normal((7, 5)), rng.standard_normal((9, 5)) + 1
    assert mmd_rbf(one, other, sigma, 1.0) == pytest.approx(brute_force_mmd(one, other, sigma), rel=1e-6)


def test_mmd_of_two_points_is_known():
    here, there = np.tile([2.0, 0.0], (4, 1)), np.tile([0.0, 3.0], (3, 1))  # unit vectors at squared distance 2
    assert mmd_rbf(here, there) == pytest.approx(1000 * 2 * (1 - np.exp(-2 / 200)))


def test_mmd_is_unbiased_and_spans_its_blocks():
    rng = np.random.default_rng(0)
    values = [mmd_rbf(*rng.standard_normal((2, 20, 6))) for _ in range(200)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))
    features = np.tile(np.eye(3), (900, 1))
    assert mmd_rbf(features, features[:1500]) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("distance", [frechet_distance, mmd_rbf])
def test_what_is_no_distribution_is_refused(distance):
    rows = np.ones((4, 3))
    with pytest.raises(ValueError, match="at least two"):
        distance(rows, rows[:1])
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        distance(rows, rows[:, :2])


def test_mmd_needs_directions():
    with pytest.raises(ValueError, match="zeros"):
        mmd_rbf(np.zeros((3, 2)), np.ones((3, 2)))
