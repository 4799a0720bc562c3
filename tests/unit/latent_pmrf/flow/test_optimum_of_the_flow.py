"""PMRF's promise on Gaussian data: the exact flow, integrated by our solver, against D* + W2^2 in closed form."""

import numpy as np
import pytest
import torch

from latent_pmrf.flow.solver import euler
from service.core.types import RestoredFace
from service.stages.blend import blend
from tests import gaussian
from tests.gaussian import (
    covariance,
    exact_normals,
    flow_limit,
    flow_map,
    identity,
    mse,
    optimal_map,
    root,
    rotation,
    w2_squared,
)

PROBLEMS = {"blurred": gaussian.blurred(), "uneven": gaussian.uneven(), "halved": gaussian.halved()}
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
# Without directions that the posterior mean leaves constant, so that an optimal map exists.
regular_problem = pytest.mark.parametrize(
    "problem", [PROBLEMS["blurred"], PROBLEMS["uneven"]], ids=["blurred", "uneven"]
)


def relative(first, second):
    return float((first - second).norm() / second.norm())


@every_problem
def test_posterior_mean_is_the_best_linear_estimate(problem):
    x, y = problem.draw(exact_normals(512, problem.normals))
    least = mse(x, problem.estimate(y))
    assert least == pytest.approx(problem.moments.least_mse, rel=1e-12)
    for seed in range(3):
        other = 0.01 * torch.randn(problem.gain.shape, generator=gaussian.seeded(seed), dtype=torch.float64)
        assert mse(x, problem.estimate(y) + (y - y.mean(0)) @ other.T) > least


@every_problem
def test_posterior_mean_has_the_closed_form_moments(problem):
    x, y = problem.draw(exact_normals(512, problem.normals))
    estimate = problem.estimate(y)
    torch.testing.assert_close(covariance(x), problem.moments.data)
    torch.testing.assert_close(covariance(estimate), problem.moments.estimate)
    torch.testing.assert_close((x - estimate).T @ (estimate - problem.mean), torch.zeros(8, 8, dtype=torch.float64))


@regular_problem
def test_optimal_map_reaches_the_data_at_the_price_of_w2(problem):
    moments = problem.moments
    best = optimal_map(moments.estimate, moments.data)
    torch.testing.assert_close(moments.output(best), moments.data)
    assert moments.mse(best) == pytest.approx(moments.optimum, rel=1e-12)


@regular_problem
def test_no_other_map_to_the_data_is_cheaper(problem):
    moments = problem.moments
    away = torch.linalg.inv(root(moments.estimate))
    for seed in range(20):
        other = root(moments.data) @ rotation(8, seed) @ away
        torch.testing.assert_close(moments.output(other), moments.data)
        assert moments.mse(other) > moments.optimum


@every_problem
def test_posterior_sampling_costs_twice_the_least_error(problem):
    normals = exact_normals(512, problem.normals + 8)
    x, y = problem.draw(normals[:, :-8])
    sample = problem.estimate(y) + normals[:, -8:] @ root(problem.moments.error)
    torch.testing.assert_close(covariance(sample), problem.data)
    assert mse(x, sample) == pytest.approx(2 * problem.moments.least_mse, rel=1e-12)
    assert mse(x, sample) > 1.02 * problem.moments.optimum


def test_exact_flow_reaches_the_optimum_where_error_and_data_have_the_same_axes():
    moments = gaussian.blurred().moments
    reached = flow_limit(moments)
    torch.testing.assert_close(reached, optimal_map(moments.estimate, moments.data), atol=1e-5, rtol=0)
    assert moments.mse(reached) == pytest.approx(moments.optimum, rel=1e-5)
    assert relative(moments.output(reached), moments.data) < 1e-5


@pytest.mark.parametrize("sigma_s", [0.0, 0.1])
def test_solver_nears_the_limit_at_first_order(sigma_s):
    moments = gaussian.blurred().moments
    end = flow_limit(moments, sigma_s)
    errors = [relative(flow_map(moments, k, sigma_s), end) for k in (50, 100, 200)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


@every_problem
@pytest.mark.parametrize("sigma_s", [0.1, 0.5])
def test_one_step_gives_the_mean_of_the_data_given_the_source(problem, sigma_s):
    moments = problem.moments
    expected = torch.linalg.solve(moments.source(sigma_s), moments.estimate, left=False)
    torch.testing.assert_close(flow_map(moments, 1, sigma_s), expected)


@every_problem
@pytest.mark.parametrize("sigma_s", [0.03, 0.1])
def test_more_steps_trade_error_for_perception_and_never_beat_the_bound(problem, sigma_s):
    # Freirich et al. (2021): an output at distance P from the data costs at least D* + (W2 - P)^2.
    moments = problem.moments
    w2 = w2_squared(moments.estimate, moments.data) ** 0.5
    reached = [flow_map(moments, k, sigma_s) for k in (1, 2, 5, 10, 25, 100)]
    errors = [moments.mse(matrix, sigma_s) for matrix in reached]
    distances = [w2_squared(moments.output(matrix, sigma_s), moments.data) ** 0.5 for matrix in reached]
    assert errors == sorted(errors)
    assert distances == sorted(distances, reverse=True)
    for error, distance in zip(errors, distances, strict=True):
        assert error >= moments.least_mse + max(w2 - distance, 0) ** 2


@pytest.mark.parametrize("sigma_s", [0.03, 0.1, 0.3])
def test_source_noise_costs_what_the_closed_form_says(sigma_s):
    # On shared axes the flow scales each by sqrt(data / source); the noise widens the source, so less of it is signal.
    moments = gaussian.blurred().moments
    data, vectors = torch.linalg.eigh(moments.data)
    estimate = (vectors.T @ moments.estimate @ vectors).diag()
    expected = float((2 * data - 2 * estimate * (data / (estimate + sigma_s**2)).sqrt()).sum())
    reached = flow_limit(moments, sigma_s)
    assert moments.mse(reached, sigma_s) == pytest.approx(expected, rel=1e-5)
    assert relative(moments.output(reached, sigma_s), moments.data) < 1e-5
    assert expected > moments.optimum


def test_flow_misses_the_optimum_where_axes_differ():
    # Rectified flow arrives at the data, but is the optimal transport only where its map is symmetric (paper: T_lat).
    moments = gaussian.uneven().moments
    reached = flow_limit(moments)
    assert relative(moments.output(reached), moments.data) < 1e-4
    assert relative(reached.T, reached) > 0.1
    assert moments.mse(reached) / moments.optimum == pytest.approx(1.034, abs=0.002)
    assert moments.mse(reached) < 2 * moments.least_mse


def test_reflow_makes_one_step_enough_and_leaves_the_error():
    moments = gaussian.uneven().moments
    first = flow_limit(moments)

    def velocity(x_t, t):
        return (first - identity(8)) @ torch.linalg.solve((1 - t) * identity(8) + t * first, x_t)

    for num_steps in (1, 7):
        torch.testing.assert_close(euler(velocity, identity(8), num_steps), first)


def test_directions_lost_to_the_degradation_come_back_only_with_source_noise():
    moments = gaussian.halved().moments
    bare, noisy = flow_map(moments, 1000), flow_limit(moments, 0.03)
    assert relative(moments.output(bare), moments.data) > 0.2
    assert relative(moments.output(noisy, 0.03), moments.data) < 0.01
    assert moments.mse(noisy, 0.03) == pytest.approx(moments.optimum, rel=0.02)


@pytest.mark.parametrize("fidelity", [0.0, 0.3, 0.7, 1.0])
def test_fidelity_walks_the_optimal_curve(fidelity):
    # D(P) = D* + (W2 - P)^2 with P = fidelity * W2. Scaled into [0, 1], where the blend of the service lives.
    problem, scale = gaussian.blurred(), 0.05
    moments = problem.moments
    x, y = problem.draw(exact_normals(512, problem.normals))
    estimate = problem.estimate(y)
    sample = problem.mean + (estimate - problem.mean) @ optimal_map(moments.estimate, moments.data).T
    as_pixels = [(0.5 + scale * image).numpy().astype(np.float32) for image in (sample, estimate)]
    blended = blend(RestoredFace("theory", 0, *as_pixels), fidelity).pixels
    output = (torch.from_numpy(blended).double() - 0.5) / scale
    squared = w2_squared(moments.estimate, moments.data)
    assert mse(x, output) == pytest.approx(moments.least_mse + (1 - fidelity) ** 2 * squared, rel=1e-5)
    assert w2_squared(covariance(output), moments.data) == pytest.approx(fidelity**2 * squared, abs=1e-5)
