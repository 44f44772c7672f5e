"""Which outputs' rewards do the pairs leave open? For readers of noisy pairs; `feasible` is for pairs without noise."""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from scipy.linalg import null_space
from scipy.optimize import brentq, minimize
from scipy.special import entr, expit
from sklearn.utils import check_random_state

from ..pairs import check_pairs
from .fitted import (
    check_number,
    failures_of,
    linear_weights,
    objective_of,
    oriented_differences,
    required_of_pairs,
    split_pipeline,
)

__all__ = ["Ambiguity", "ambiguity"]

_ACCURACY = 0.01  # the search for an end stops when it may lie at most this share of its distance further out
_SMOOTHING = (0.3, 0.06, 0.012, 0.003, 0.001)  # temperatures of the smoothed hinge, in required margins


class Ambiguity(NamedTuple):
    """The range of each output's reward over all rewards that fit nearly as well; see `ambiguity`.

    Rewards are centered on the outputs, in standard deviations of the fitted reward over them.

    Attributes
    ----------
    rows : ndarray of shape (n_measured,), int
        The measured outputs, as rows of the outputs (of pairs: row 2i is the first output of pair i).
    rewards : ndarray of shape (n_measured,)
        Reward by the fitted estimator.
    low, high : ndarray of shape (n_measured,)
        Smallest and largest reward. Some reward attains each; the true ends are at most `gap` further out.
    open : ndarray of shape (n_measured,), in [0, 1]
        Share of the tolerance that the penalty uses up at the end of the range (the larger of both ends). Near 1 the
        pairs say nothing about the output, and ``alpha`` alone ends its range.
    gap : float >= 0
        Largest distance by which an end may lie further out, among rewards in the searched directions.
    explained : float in [0, 1]
        Share of the outputs' variance in the searched directions. Below 1, ranges are lower bounds.
    """

    rows: np.ndarray
    rewards: np.ndarray
    low: np.ndarray
    high: np.ndarray
    open: np.ndarray
    gap: float
    explained: float


def ambiguity(
    estimator,
    X,
    y=None,
    *,
    outputs=None,
    failures=None,
    tolerance=0.01,
    alpha=None,
    n_components=32,
    max_outputs=100,
    random_state=None,
):
    r"""Range of each output's reward, over all rewards that fit the pairs nearly as well as the fitted one.

    These are the rewards :math:`\theta` with

    .. math:: P(\theta) \le P(\hat\theta) + \epsilon P_0 \quad\text{and}\quad
        \theta \cdot \bar d = \hat\theta \cdot \bar d, \qquad
        P(\theta) = \frac{1}{n} \sum_i \ell_i(\theta \cdot d_i) + \alpha \|\theta\|^2,

    where P is the estimator's objective with the loss :math:`\ell_i` of a pair's margin (theory, eq. 2 and 3; failures
    have the stricter loss), :math:`P_0` the loss of a constant reward, :math:`\hat\theta` the fitted weights,
    :math:`\bar d` the mean difference and :math:`\epsilon` the ``tolerance``. All these rewards have the same mean
    margin, which fixes their scale. The set is never empty: it holds the fitted reward.

    Parameters
    ----------
    estimator : MaxMarginIRL, MaxEntropyIRL, FailureAwareIRL or Pipeline
        Fitted, with linear heads. The steps of a Pipeline transform ``X`` and ``outputs``.
    X : array-like of shape (n_pairs, 2, n_features)
        The pairs that tell rewards apart, as a rule those of ``fit``.
    y : array-like of shape (n_pairs,), default=None
        Two classes, the larger meaning "the first is preferred"; None: the first everywhere.
    outputs : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features), default=None
        Outputs to measure. None: all outputs of ``X``.
    failures : array-like of shape (n_pairs,), bool, default=None
        Pairs with the stricter loss. None: as in `FeasibleRewards.from_estimator`.
    tolerance : float > 0, default=0.01
        How much worse a reward may fit, as a share of the loss of a constant reward. Larger: wider ranges.
    alpha : float > 0, default=None
        L2 strength in P; None: the estimator's. Smaller: wider ranges where the pairs say nothing.
    n_components : int >= 1, default=32
        Rewards may differ from the fitted one in this many principal directions of the outputs' features. With fewer
        than features, ranges are lower bounds and take less time.
    max_outputs : int >= 1, default=100
        If there are more outputs, this many are drawn.
    random_state : int, RandomState or None, default=None
        Which outputs are drawn.

    Returns
    -------
    Ambiguity

    Raises
    ------
    NotFittedError
        Before ``fit``.
    ValueError
        For bad input, other than linear heads, ``alpha=0``, equal rewards of all outputs, or a mean margin below 0.

    Notes
    -----
    P reads the pairs with equal weights: no ``sample_weight`` and no pointwise loss. With max-entropy, a small
    ``alpha`` and ``tolerance = 1.92 / (n_pairs * log(2))``, a range is about the 95 % profile-likelihood interval.

    Examples
    --------
    >>> from fairl_sk import MaxMarginIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> from fairl_sk.diagnosis import ambiguity
    >>> data = make_preferences(200, 4, noise=0.1, random_state=0)
    >>> reward = MaxMarginIRL(random_state=0).fit(data.data, data.target)
    >>> found = ambiguity(reward, data.data, data.target, max_outputs=5, random_state=0)
    >>> bool((found.low <= found.rewards).all() and (found.rewards <= found.high).all())
    True
    """
    tolerance = check_number("tolerance", tolerance)
    n_components = check_number("n_components", n_components, kind=Integral)
    max_outputs = check_number("max_outputs", max_outputs, kind=Integral)
    estimator, X, outputs = split_pipeline(estimator, X, outputs)
    theta = linear_weights(estimator)
    if alpha is None and estimator.alpha == 0:
        raise ValueError("Found an estimator with alpha=0: nothing limits its reward. Expected alpha > 0: pass alpha.")
    alpha = check_number("alpha", estimator.alpha if alpha is None else alpha)
    differences = oriented_differences(X, y, estimator)
    required = required_of_pairs(estimator, failures_of(estimator, X, y, differences @ theta, failures))
    outputs = check_pairs(X if outputs is None else outputs, estimator=estimator, reset=False).astype(np.float64)
    centered = outputs.reshape(-1, len(theta)) - outputs.reshape(-1, len(theta)).mean(axis=0)
    unit = float((centered @ theta).std())
    if unit <= 1e-12 * np.linalg.norm(theta) * np.abs(outputs).max():
        raise ValueError(f"The reward is the same for all {len(centered)} outputs. Expected outputs that differ.")
    directions, explained = _searched_directions(centered, differences, theta, n_components)
    nearby = _NearbyRewards(theta, differences, directions, required, tolerance, alpha, objective_of(estimator))
    rows = np.arange(len(centered))
    if len(rows) > max_outputs:
        rows = np.sort(check_random_state(random_state).permutation(rows)[:max_outputs])
    ends = np.array([(nearby.farthest(cost), nearby.farthest(-cost)) for cost in centered[rows] @ directions])
    fitted, (up, down) = centered[rows] @ theta, ends[:, :, 0].T
    return Ambiguity(
        rows,
        fitted / unit,
        (fitted - down) / unit,
        (fitted + up) / unit,
        np.clip(ends[:, :, 2].max(axis=1), 0.0, 1.0),
        float(ends[:, :, 1].max()) / unit,
        explained,
    )


# ------------------------------------------------------------------------------------------------ the search


class _NearbyRewards:
    """The set that `ambiguity` describes: weights theta + directions @ z whose objective is within the budget.

    Both losses are a softplus, ``size * log(1 + exp((required - margin) / temperature))``: max-entropy with size 1 and
    required margin 0, the hinge with a size equal to a temperature of nearly 0.
    """

    def __init__(self, theta, differences, directions, required, tolerance, alpha, objective):
        self.margins, self.moves, self.alpha = differences @ theta, differences @ directions, alpha
        self.length, self.pull = float(theta @ theta), theta @ directions
        self.hinge = objective == "max_margin"
        self.required = required if self.hinge else 0.0
        self.exact = 1e-12 * required if self.hinge else required
        self.smooth = [share * required for share in _SMOOTHING] if self.hinge else [required]
        self.start = np.zeros(directions.shape[1])
        self.extra = tolerance * float(self._losses(np.zeros(len(differences)), self.exact).mean())
        self.budget = self._objective(self.start, self.exact) + self.extra
        # Coordinates in which the set is about a ball of radius 1: the solver then needs few iterations.
        widest = self.smooth[0]
        share = expit((self.required - self.margins) / widest)
        curvatures = self._size(widest) * share * (1 - share) / widest**2
        hessian = (self.moves.T * curvatures) @ self.moves / len(self.moves) + 2 * alpha * np.eye(len(self.start))
        self.shape = np.linalg.inv(np.linalg.cholesky(hessian / (2 * self.extra))).T

    def farthest(self, cost):
        """Largest cost . z in the set, how much more there may be, and the penalty's share of the budget there."""
        if not cost.any():
            return 0.0, 0.0, 0.0
        z, best, limit, penalty = self.start, 0.0, np.inf, 0.0
        for temperature in self.smooth:
            z = self._climb(cost, z, temperature)
            end = z * self._reach(z)
            limit = min(limit, self._limit(cost, z, temperature))
            if cost @ end >= best:
                best = float(cost @ end)
                penalty = self.alpha * (2 * float(self.pull @ end) + float(end @ end)) / self.extra
            if limit - best <= _ACCURACY * best:
                break
        return best, max(0.0, limit - best), penalty

    def _size(self, temperature):
        return temperature if self.hinge else 1.0

    def _losses(self, margins, temperature):
        return self._size(temperature) * np.logaddexp(0.0, (self.required - margins) / temperature)

    def _slopes(self, z, temperature):
        short = (self.required - self.margins - self.moves @ z) / temperature
        return -self._size(temperature) / temperature * expit(short)

    def _objective(self, z, temperature):
        penalty = self.alpha * (self.length + 2 * float(self.pull @ z) + float(z @ z))
        return float(self._losses(self.margins + self.moves @ z, temperature).mean()) + penalty

    def _gradient(self, z, temperature):
        slopes = self._slopes(z, temperature)
        return slopes @ self.moves / len(slopes) + 2 * self.alpha * (self.pull + z)

    def _climb(self, cost, z, temperature):
        """The z with the largest cost . z whose smoothed objective is within the budget."""
        budget = self._objective(self.start, temperature) + self.extra
        towards = self.shape.T @ cost / np.linalg.norm(self.shape.T @ cost)
        room = {
            "type": "ineq",
            "fun": lambda v: (budget - self._objective(self.shape @ v, temperature)) / self.extra,
            "jac": lambda v: -self.shape.T @ self._gradient(self.shape @ v, temperature) / self.extra,
        }
        found = minimize(
            lambda v: -towards @ v,
            np.linalg.solve(self.shape, z),
            jac=lambda v: -towards,
            constraints=room,
            method="SLSQP",
            options={"ftol": 1e-8, "maxiter": 200},
        )
        return self.shape @ found.x

    def _reach(self, z):
        """The factor of z at which the budget is spent."""

        def over(factor):
            return self._objective(factor * z, self.exact) - self.budget

        beyond = 1.0
        while over(beyond) < 0 and beyond < 1e6:
            beyond *= 2.0
        return brentq(over, 0.0, beyond, xtol=1e-12, rtol=1e-9) if over(beyond) > 0 else 1.0

    def _limit(self, cost, z, temperature):
        """No point of the set has a larger cost . z: Lagrangian duality, with lines a_i + s_i margin below the losses.

        With multiplier m, cost . z is at most the maximum over all z of
        cost . z + m (budget - mean_i(a_i + s_i margin_i) - penalty), a parabola in z.
        """
        gradient = self._gradient(z, temperature)
        scaled, steep = self.shape.T @ cost, self.shape.T @ gradient
        if scaled @ steep <= 0:
            return np.inf
        multiplier = float(scaled @ steep / (steep @ steep))
        slopes = self._slopes(z, temperature)
        below = slopes * (self.margins - self.required)
        if not self.hinge:  # tangents; the hinge has lines through its corner
            share = -slopes * temperature
            below = below + entr(share) + entr(1 - share)
        residual = cost - multiplier * (gradient - 2 * self.alpha * z)
        spare = self.budget - below.mean() - self.alpha * self.length
        return multiplier * spare + float(residual @ residual) / (4 * multiplier * self.alpha)


def _searched_directions(centered, differences, theta, n_components):
    """Orthonormal directions that keep the mean margin, and the share of the outputs' variance that they explain."""
    mean = differences.mean(axis=0)
    if mean @ theta <= 0:
        raise ValueError(
            f"The fitted reward has a mean margin of {mean @ theta:.3g} on these pairs. Expected more than 0: check "
            "which class of y means that the first output is preferred."
        )
    _, sizes, axes = np.linalg.svd(centered, full_matrices=n_components >= len(theta))
    axes = axes[:n_components]
    explained = float((sizes[: len(axes)] ** 2).sum() / (sizes**2).sum())
    return axes.T @ null_space((axes @ mean)[None]), min(1.0, explained)
