"""The convex solvers: minima in closed form, scikit-learn's solvers, and a duality gap that is an upper bound."""

from functools import partial

import numpy as np
import pytest
import torch

from fairl_sk.learning.solvers import solve_max_entropy, solve_max_margin

SOLVERS = {"max_margin": solve_max_margin, "max_entropy": solve_max_entropy}
both = pytest.mark.parametrize("objective", SOLVERS)


def solve(objective, rows, weight, alpha, *, required=1.0, tol=1e-9, max_iter=1000):
    rows = torch.from_numpy(np.asarray(rows, dtype=float))
    weight = torch.from_numpy(np.asarray(weight, dtype=float))
    return SOLVERS[objective]([(lambda theta: rows @ theta, weight)], rows.shape[1], required, alpha, tol, max_iter)


def value(objective, rows, weight, alpha, theta, required=1.0):
    """The objective by its formula (theory, eq. 2 and 3)."""
    margins = rows @ theta
    loss = np.maximum(0, required - margins) if objective == "max_margin" else np.logaddexp(0, -margins / required)
    return weight @ loss + alpha * theta @ theta


@pytest.fixture
def problem(rng):
    """Rows and weights; a quarter of the rows contradict the others."""
    rows = rng.normal(size=(200, 5)) + np.where(rng.random(200) < 0.25, -0.5, 0.7)[:, None]
    return rows, rng.uniform(0.1, 2.0, size=200) / 200


# ---------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_one_row_under_the_hinge(alpha):
    """min max(0, 1 - t) + alpha t^2 lies at t = 1 / (2 alpha), or at the corner t = 1."""
    found = solve("max_margin", [[1.0]], [1.0], alpha)
    assert found.theta[0] == pytest.approx(min(1.0, 1 / (2 * alpha)), abs=1e-4)
    assert found.gap <= 1e-5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_one_row_under_the_logistic_loss(temperature):
    """Where the slope is zero, alpha = 1 / (2 t tau (1 + exp(t / tau)))."""
    t = 0.7
    alpha = 1 / (2 * t * temperature * (1 + np.exp(t / temperature)))
    found = solve("max_entropy", [[1.0]], [1.0], alpha, required=temperature, tol=1e-12)
    assert found.theta[0] == pytest.approx(t, abs=1e-5)


def test_the_gap_of_the_logistic_loss_is_the_squared_gradient():
    """Of one row after one iteration, by the formula; log 2 is the loss of a constant reward (theory, eq. 8)."""
    found = solve("max_entropy", [[2.0]], [3.0], 0.5, tol=0, max_iter=1)
    theta = found.theta[0]
    slope = -3 * 2 / (1 + np.exp(2 * theta)) + 2 * 0.5 * theta
    assert found.n_iter == 1
    assert found.gap == pytest.approx(slope**2 / (4 * 0.5) / (3 * np.log(2)))


def test_the_gap_of_the_hinge_is_primal_less_dual():
    """Of one row after one iteration, with the corner rounded over all of the margin (theory, eq. 8)."""
    found = solve("max_margin", [[2.0]], [3.0], 8.0, tol=0, max_iter=1)
    missing = max(0.0, 1 - 2 * found.theta[0])
    primal = 3 * missing + 8 * found.theta[0] ** 2
    dual = 3 * missing - (3 * missing * 2) ** 2 / (4 * 8)
    assert found.gap == pytest.approx((primal - dual) / 3)


# ----------------------------------------------------------------------------------------------- the certificate


@both
@pytest.mark.parametrize("alpha", [1e-1, 1e-2, 1e-4])
def test_the_gap_bounds_the_distance_to_the_minimum(problem, objective, alpha):
    """As a share of the loss of a constant reward, however early the solver stops."""
    rows, weight = problem
    of = partial(value, objective, rows, weight, alpha)
    least = of(solve(objective, rows, weight, alpha, tol=1e-9, max_iter=20_000).theta)
    unit = value(objective, rows, weight, 0.0, np.zeros(5))
    gaps = []
    for max_iter in (1, 2, 3, 5, 10, 30):
        early = solve(objective, rows, weight, alpha, tol=1e-9, max_iter=max_iter)
        assert early.n_iter <= max_iter
        assert -1e-9 <= of(early.theta) - least <= early.gap * unit + 1e-9
        gaps.append(early.gap)
    assert gaps[-1] < 0.05 * gaps[0]


@both
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-5])
def test_the_solver_stops_at_the_gap_that_is_asked(problem, objective, tol):
    rows, weight = problem
    found = solve(objective, rows, weight, 1e-2, tol=tol)
    assert found.gap <= tol
    assert found.n_iter < 200
    assert found.n_iter <= solve(objective, rows, weight, 1e-2, tol=tol / 10).n_iter


@both
@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_the_gap_is_a_share_whatever_the_unit_of_the_objective(problem, objective, factor):
    rows, weight = problem
    plain = solve(objective, rows, weight, 1e-2, tol=1e-3)
    scaled = solve(objective, rows, factor * weight, factor * 1e-2, tol=1e-3)
    np.testing.assert_allclose(scaled.theta, plain.theta, atol=2e-2)
    for found in (plain, scaled):
        excess = value(objective, rows, weight, 1e-2, found.theta)
        excess -= value(objective, rows, weight, 1e-2, solve(objective, rows, weight, 1e-2).theta)
        unit = value(objective, rows, weight, 0.0, np.zeros(5))
        assert excess / unit - 1e-9 <= found.gap <= 1e-3


@both
@pytest.mark.parametrize("required", [0.25, 4.0])
def test_the_required_margin_or_temperature_is_the_unit_of_the_reward(problem, objective, required):
    rows, weight = problem
    plain = solve(objective, rows, weight, 1e-2, tol=1e-8, max_iter=5000)
    alpha = 1e-2 / required if objective == "max_margin" else 1e-2 / required**2
    scaled = solve(objective, rows, weight, alpha, required=required, tol=1e-8, max_iter=5000)
    np.testing.assert_allclose(scaled.theta / required, plain.theta, atol=1e-3)


@both
def test_without_a_penalty_the_gap_is_a_share_of_the_gradient(objective):
    rows, weight = np.array([[1.0, 0.0], [-0.5, 0.1], [0.0, 1.0], [0.1, -0.6]]), np.ones(4) / 4
    found = solve(objective, rows, weight, 0.0, tol=1e-6)
    assert found.gap <= 1e-4
    least = value(objective, rows, weight, 0.0, found.theta)
    for move in 0.01 * np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [1, 1], [-1, -1]]):
        assert value(objective, rows, weight, 0.0, found.theta + move) >= least - 1e-4
