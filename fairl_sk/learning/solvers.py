r"""The base path as a convex problem: one function an objective, which returns the weights and a duality gap.

Both minimize :math:`\sum_i w_i \ell(m_i(\theta)) + \alpha \|\theta\|^2` over linear functions m of the weights, by
SciPy's L-BFGS-B. torch forms the products, on the CPU or a GPU, and the gradient.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from .losses import hinge_loss, logistic_loss

__all__ = ["Solution", "solve_max_entropy", "solve_max_margin"]


@dataclass(frozen=True)
class Solution:
    """Weights of a base path."""

    theta: np.ndarray  # (n_weights,), float64
    # Duality gap as a share of the loss of a constant reward: the objective is at most so far from its minimum. With
    # alpha=0, which has no gap: the norm of the gradient as a share of its norm at 0 (and of the rounded corner).
    gap: float
    n_iter: int


def solve_max_entropy(parts, n_weights, temperature, alpha, tol, max_iter):
    r"""Minimize the logistic loss (theory, eq. 3) from weights of zero until the gap is at most tol.

    Each of the ``parts`` of the rows is a linear function from weights (n_weights,) to margins (n_rows,), with the
    weight (n_rows,) of each row's loss.
    """
    problem = _Problem(parts, partial(logistic_loss, temperature=temperature), alpha)
    theta, n_iter = problem.minimize(np.zeros(n_weights), tol, max_iter)
    # at the slopes of a smooth loss the gap is the squared gradient over 4 alpha (theory, eq. 8)
    return Solution(theta, problem.gradient_gap(theta), n_iter)


def solve_max_margin(parts, n_weights, margin, alpha, tol, max_iter):
    r"""Minimize the hinge loss (theory, eq. 2): its corner is rounded, then sharpened until the gap is small.

    Parameters are those of `solve_max_entropy`. The solution is the best of all corners by the gap of the plain hinge.
    """
    theta, n_iter, best = np.zeros(n_weights), 0, Solution(np.zeros(n_weights), np.inf, 0)
    for corner in margin * 4.0 ** -np.arange(8):
        problem = _Problem(parts, partial(hinge_loss, required=margin, corner=corner), alpha)
        # the corner itself leaves a gap, so that the first problems need not be solved any better
        theta, n_steps = problem.minimize(theta, max(tol / 2, min(corner / margin, best.gap) / 100), max_iter - n_iter)
        n_iter += n_steps
        # without a penalty: the gradient of the rounded hinge, which is at most half a corner below the hinge
        rounding = corner / (2 * margin)
        gap = problem.gradient_gap(theta) + rounding if alpha == 0 else problem.hinge_gap(theta, margin)
        if gap >= best.gap:  # rounding of the products hides a sharper corner
            break
        best = Solution(theta, gap, n_iter)
        if gap <= tol or n_iter >= max_iter:
            break
    return Solution(best.theta, best.gap, n_iter)


class _Problem:
    """Value and gradient of sum_i w_i loss(m_i(theta)) + alpha |theta|^2, in float64 but for the products."""

    def __init__(self, parts, loss, alpha):
        self.parts, self.loss, self.alpha = parts, loss, alpha
        self.total_weight = float(sum(weight.sum() for _, weight in parts))
        self.loss_at_zero = self.total_weight * float(loss(torch.zeros(1, dtype=torch.float64))[0])

    def __call__(self, theta):
        """Value and gradient (n_weights,) at weights (n_weights,)."""
        value, gradient, _ = self._evaluate(theta)
        return value, gradient

    def minimize(self, start, tol, max_iter):
        """Weights, and the number of iterations, at which the part of the gap that the gradient makes is below tol."""
        scale = np.sqrt(4 * self.alpha * tol * self.loss_at_zero) if self.alpha else tol * self._norm_at(0 * start)
        options = {"maxiter": max(max_iter, 1), "maxfun": 2 * max_iter + 20, "ftol": 0.0, "maxcor": 20}
        options["gtol"] = scale / np.sqrt(len(start))
        with threadpool_limits(1, user_api="blas"):  # SciPy's threads, which wait for work, would hold up torch's
            result = minimize(self, start, jac=True, method="L-BFGS-B", options=options)
        return result.x, result.nit

    def gradient_gap(self, theta):
        """The gap of a smooth loss, as a share of the loss at 0."""
        size = self._norm_at(theta)
        if self.alpha == 0:
            return float(size / (self._norm_at(0 * theta) or 1.0))
        return float(size**2 / (4 * self.alpha) / self.loss_at_zero)

    def hinge_gap(self, theta, margin):
        """Primal value of the plain hinge less the dual value that the rounded hinge's slopes give (theory, eq. 8)."""
        _, gradient, margins_and_slopes = self._evaluate(theta)
        hinge, slopes = 0.0, 0.0
        for (_, weight), (margins, slope) in zip(self.parts, margins_and_slopes, strict=True):
            hinge += float((weight * hinge_loss(margins, margin)).sum())
            slopes += float(slope.sum())
        pull = gradient - 2 * self.alpha * theta
        dual = -margin * slopes - pull @ pull / (4 * self.alpha)
        return float(max(0.0, hinge + self.alpha * theta @ theta - dual) / (margin * self.total_weight))

    def _norm_at(self, theta):
        return np.linalg.norm(self(theta)[1])

    def _evaluate(self, theta):
        """Value, gradient, and of each part the margins with the weighted slopes of their losses."""
        device = self.parts[0][1].device
        weights = torch.tensor(theta, dtype=torch.float64, device=device, requires_grad=True)
        penalty = self.alpha * weights @ weights
        penalty.backward()
        value, margins_and_slopes = penalty.item(), []
        for margins_of, weight in self.parts:
            margins = margins_of(weights)
            margins.retain_grad()
            loss = (weight * self.loss(margins)).sum()
            loss.backward()  # the sum over the parts is the gradient
            value += loss.item()
            margins_and_slopes.append((margins.detach(), margins.grad))
        return value, weights.grad.cpu().numpy(), margins_and_slopes
