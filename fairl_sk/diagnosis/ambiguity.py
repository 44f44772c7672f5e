"""Which outputs' rewards do the pairs leave open? For readers of noisy pairs; `feasible` is for pairs without noise."""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from scipy.linalg import null_space
from scipy.optimize import brentq, minimize
from scipy.special import expit

from ..pairs import check_pairs
from .fitted import check_number, linear_weights, objective_of, oriented_differences, split_pipeline

__all__ = ["Ambiguity", "ambiguity"]

_SMOOTHING = (0.3, 0.06, 0.012, 0.003, 0.001)  # temperatures of the smoothed hinge, in required margins


class Ambiguity(NamedTuple):
    """The range of each output's reward over all rewards that fit nearly as well; see `ambiguity`.

    Rewards are centered on the outputs, in standard deviations of the fitted reward over them.

    Attributes
    ----------
    rewards : ndarray of shape (n_outputs,)
        Reward by the fitted estimator.
    low, high : ndarray of shape (n_outputs,)
        Smallest and largest reward.
    open : ndarray of shape (n_outputs,), in [0, 1]
        Share of the tolerance that the penalty uses up at the end of the range (the larger of both ends). Near 1 the
        pairs say nothing about the output, and ``alpha`` alone ends its range.
    explained : float in [0, 1]
        Share of the outputs' variance in the searched directions.
    """

    rewards: np.ndarray
    low: np.ndarray
    high: np.ndarray
    open: np.ndarray
    explained: float


def ambiguity(estimator, X, y=None, *, outputs, tolerance=0.01, n_components=32):
    r"""Range of each output's reward, over all rewards that fit the pairs nearly as well as the fitted one.

    These are the rewards :math:`\theta` with

    .. math:: P(\theta) \le P(\hat\theta) + \epsilon P_0 \quad\text{and}\quad
        \theta \cdot \bar d = \hat\theta \cdot \bar d, \qquad
        P(\theta) = \frac{1}{n} \sum_i \ell(\theta \cdot d_i) + \alpha \|\theta\|^2,

    where P is the estimator's objective for pairs that are no failures (theory, eq. 2 and 3), :math:`P_0` the loss of a
    constant reward, :math:`\hat\theta` the fitted weights, :math:`\bar d` the mean difference and :math:`\epsilon` the
    ``tolerance``. All these rewards have the same mean margin, which fixes their scale.

    Parameters
    ----------
    estimator : MaxMarginIRL, MaxEntropyIRL, FailureAwareIRL or Pipeline
        Fitted, with linear heads and ``alpha`` above 0. The steps of a Pipeline transform ``X`` and ``outputs``.
    X : array-like of shape (n_pairs, 2, n_features)
        The pairs that tell rewards apart, as a rule those of ``fit``.
    y : array-like of shape (n_pairs,), default=None
        Two classes, the larger meaning "the first is preferred"; None: the first everywhere.
    outputs : array-like of shape (n_outputs, n_features)
        Outputs to measure. Each takes two optimizations.
    tolerance : float > 0, default=0.01
        How much worse a reward may fit, as a share of the loss of a constant reward. Larger: wider ranges.
    n_components : int >= 1, default=32
        Rewards may differ from the fitted one in this many principal directions of the outputs' features. With fewer
        than features, ranges are lower bounds and take less time.

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
    P has equal weights for all pairs: no ``sample_weight``, failures or pointwise loss. With max-entropy, a small
    ``alpha`` and ``tolerance = 1.92 / (n_pairs * log(2))``, a range is about the 95 % profile-likelihood interval.

    Examples
    --------
    >>> from fairl_sk import MaxMarginIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> from fairl_sk.diagnosis import ambiguity
    >>> data = make_preferences(200, 4, noise=0.1, random_state=0)
    >>> reward = MaxMarginIRL(random_state=0).fit(data.data, data.target)
    >>> found = ambiguity(reward, data.data, data.target, outputs=data.data[:5, 0])
    >>> bool((found.low <= found.rewards).all() and (found.rewards <= found.high).all())
    True
    """
    tolerance = check_number("tolerance", tolerance)
    n_components = check_number("n_components", n_components, kind=Integral)
    estimator, X, outputs = split_pipeline(estimator, X, outputs)
    theta = linear_weights(estimator)
    if estimator.alpha == 0:
        raise ValueError("Found an estimator with alpha=0: nothing limits its reward. Expected alpha > 0.")
    differences = oriented_differences(X, y, estimator)
    outputs = check_pairs(outputs, estimator=estimator, reset=False).astype(np.float64).reshape(-1, len(theta))
    centered = outputs - outputs.mean(axis=0)
    unit = float((centered @ theta).std())
    if unit <= 1e-12 * np.linalg.norm(theta) * np.abs(outputs).max():
        raise ValueError(f"The reward is the same for all {len(centered)} outputs. Expected outputs that differ.")
    directions, explained = _searched_directions(centered, differences, theta, n_components)
    nearby = _NearbyRewards(estimator, theta, differences, directions, tolerance)
    ends = np.array([(nearby.farthest(cost), nearby.farthest(-cost)) for cost in centered @ directions])
    fitted, (up, down) = centered @ theta, ends[:, :, 0].T
    return Ambiguity(
        fitted / unit,
        (fitted - down) / unit,
        (fitted + up) / unit,
        np.clip(ends[:, :, 1].max(axis=1), 0.0, 1.0),
        explained,
    )


class _NearbyRewards:
    """The set that `ambiguity` describes: weights theta + directions @ z whose objective is within the budget.

    Both losses are a softplus, ``size * log(1 + exp((required - margin) / temperature))``: max-entropy with size 1 and
    required margin 0, the hinge with a size equal to a temperature of nearly 0.
    """

    def __init__(self, estimator, theta, differences, directions, tolerance):
        self.margins, self.moves, self.alpha = differences @ theta, differences @ directions, float(estimator.alpha)
        self.length, self.pull = float(theta @ theta), theta @ directions
        self.hinge = objective_of(estimator) == "max_margin"
        self.required = estimator.margin if self.hinge else 0.0
        self.exact = 1e-12 * estimator.margin if self.hinge else estimator.temperature
        self.smooth = [share * estimator.margin for share in _SMOOTHING] if self.hinge else [self.exact]
        self.start = np.zeros(directions.shape[1])
        self.extra = tolerance * float(self._losses(np.zeros(len(differences)), self.exact).mean())
        self.budget = self._objective(self.start, self.exact) + self.extra
        # Coordinates in which the set is about a ball of radius 1: the solver then needs few iterations.
        widest = self.smooth[0]
        share = expit((self.required - self.margins) / widest)
        curvatures = self._size(widest) * share * (1 - share) / widest**2
        hessian = (self.moves.T * curvatures) @ self.moves / len(self.moves)
        hessian += 2 * self.alpha * np.eye(len(self.start))
        self.shape = np.linalg.inv(np.linalg.cholesky(hessian / (2 * self.extra))).T

    def farthest(self, cost):
        """Largest cost . z in the set, and the penalty's share of the budget there."""
        if not cost.any():
            return 0.0, 0.0
        z, ends = self.start, [self.start]
        for temperature in self.smooth:
            z = self._climb(cost, z, temperature)
            ends.append(z * self._reach(z))
        end = max(ends, key=lambda end: cost @ end)
        return float(cost @ end), self.alpha * (2 * float(self.pull @ end) + float(end @ end)) / self.extra

    def _size(self, temperature):
        return temperature if self.hinge else 1.0

    def _losses(self, margins, temperature):
        return self._size(temperature) * np.logaddexp(0.0, (self.required - margins) / temperature)

    def _objective(self, z, temperature):
        penalty = self.alpha * (self.length + 2 * float(self.pull @ z) + float(z @ z))
        return float(self._losses(self.margins + self.moves @ z, temperature).mean()) + penalty

    def _gradient(self, z, temperature):
        short = (self.required - self.margins - self.moves @ z) / temperature
        slopes = -self._size(temperature) / temperature * expit(short)
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
