"""Which linear rewards give every pair its required margin? For readers of Theorem 1 and of pairs without noise."""

from itertools import chain
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_array

from ..pairs import check_pairs
from .fitted import check_number, oriented_differences
from .polytope import Polytope

__all__ = ["Ball", "FeasibleRewards", "Slack"]

_TOL = 1e-6  # what a margin may be short by, as a share of the largest that the bound allows; HiGHS has 1e-7
_MAX_VOLUME_FEATURES = 6  # beyond, Qhull takes long and loses digits


class Ball(NamedTuple):
    """The largest ball inside a feasible set; see `FeasibleRewards.chebyshev`.

    Attributes
    ----------
    center : ndarray of shape (n_features,)
        Weights of the reward at its center.
    radius : float >= 0
        In reward per unit of feature.
    """

    center: np.ndarray
    radius: float


class Slack(NamedTuple):
    """How far a set of pairs is from being feasible; see `FeasibleRewards.slack`.

    Attributes
    ----------
    amount : float >= 0
        Smallest reward by which all required margins must be lowered; 0 if the set has a reward.
    conflict : ndarray of int
        Pairs that force the amount: these alone have the same slack. Empty if `amount` is 0.
    """

    amount: float
    conflict: np.ndarray


class FeasibleRewards:
    r"""The linear rewards that give every pair its required margin.

    .. math:: F = \{\theta : \theta \cdot d_i \ge M_i \text{ for all } i,\ |\theta_j| \le B \text{ for all } j\}

    with the difference :math:`d_i = h(o_i^+) - h(o_i^-)` of pair i, its required margin :math:`M_i` (M, or the larger
    M_fail of failures) and the bound B. Theorem 1 of the paper [1]_ (section 4.4) says that raising the required
    margins of failures gives a strictly smaller set; `witness` shows on data whether it does.

    Parameters
    ----------
    differences : array-like of shape (n_pairs, n_features)
        Features of the preferred minus the other output.
    required : float or array-like of shape (n_pairs,)
        Required margins M_i, in units of reward. Larger: a smaller set.
    bound : float > 0
        Bound B of every weight, in reward per unit of feature. Larger: a larger set. Only M / B counts, as a reward
        has no unit of its own.

    Notes
    -----
    Every question is a linear program (solved by HiGHS). The bound treats features alike: scale them first
    (``StandardScaler``). Questions to an empty set raise a ValueError that names the slack, the pairs in conflict and
    the remedies.

    References
    ----------
    .. [1] Patel et al. Learning from failures: understanding LLM alignment through failure-aware inverse RL.
       arXiv 2510.06092.

    Examples
    --------
    >>> from fairl_sk.diagnosis import FeasibleRewards
    >>> standard = FeasibleRewards([[1.0, 0.0], [0.0, 1.0]], required=1.0, bound=3.0)
    >>> standard.chebyshev().radius  # the square from 1 to 3
    1.0
    >>> aware = FeasibleRewards([[1.0, 0.0], [0.0, 1.0]], required=[1.0, 2.0], bound=3.0)
    >>> aware.issubset(standard), standard.issubset(aware)
    (True, False)
    """

    def __init__(self, differences, required, bound):
        self.differences = check_array(differences, dtype=np.float64, input_name="differences")
        self.required = _check_required(required, len(self.differences))
        self.bound = check_number("bound", bound)
        # The polytope is in weights / bound and in shares of the largest margin that the bound allows a pair.
        length = np.linalg.norm(self.differences, axis=1) * self.bound
        self._largest = np.where(length > 0, length, 1.0)
        rows = self.differences * (self.bound / self._largest)[:, None]
        self._polytope = Polytope(rows, self.required / self._largest)

    def __repr__(self):
        n_pairs, n_features = self.differences.shape
        return f"FeasibleRewards({n_pairs} pairs, {n_features} features, bound={self.bound:g})"

    @classmethod
    def from_pairs(cls, X, y=None, *, margin=1.0, failures=None, margin_fail=None, bound):
        """The feasible set of preference pairs, with or without stricter margins for failures.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features)
            Features of pairs.
        y : array-like of shape (n_pairs,), default=None
            Two classes, the larger meaning "the first is preferred"; None: the first everywhere.
        margin : float > 0, default=1.0
            Required margin M, in units of reward.
        failures : array-like of shape (n_pairs,), bool, default=None
            Which pairs are failures. None: no pair is.
        margin_fail : float > margin, default=None
            Required margin M_fail of failures.
        bound : float > 0
            See `FeasibleRewards`.

        Returns
        -------
        FeasibleRewards
        """
        differences = oriented_differences(X, y)
        margin = check_number("margin", margin)
        failures = np.zeros(len(differences), dtype=bool) if failures is None else np.asarray(failures)
        if failures.shape != (len(differences),) or failures.dtype != bool:
            raise ValueError(
                f"Found failures of shape {failures.shape} and type {failures.dtype}. Expected one bool for each of "
                f"the {len(differences)} pairs, e.g. margins <= threshold."
            )
        if margin_fail is None and not failures.any():
            return cls(differences, margin, bound)
        if margin_fail is None or check_number("margin_fail", margin_fail) <= margin:
            raise ValueError(
                f"Found margin_fail={margin_fail} and margin={margin:g}. Expected margin_fail > margin, e.g. "
                f"{2 * margin:g}: failures get the stricter constraint."
            )
        return cls(differences, np.where(failures, margin_fail, margin), bound)

    def contains(self, theta):
        """Whether a reward is in the set, up to a share of 1e-6 of each limit.

        Parameters
        ----------
        theta : array-like of shape (n_features,)
            Weights.

        Returns
        -------
        bool
        """
        weights = _check_weights([theta], "theta", self.differences.shape[1])
        return bool(self._polytope.shortage(weights[0] / self.bound) <= _TOL)

    def chebyshev(self):
        """The largest ball inside the set, far from all limits (radius 0 if flat). See `fairl_sk.diagnosis.Ball`."""
        center, radius = self._solved(self._polytope.largest_ball())
        return Ball(center * self.bound, radius * self.bound)

    def reward_range(self, X):
        """Smallest and largest reward of outputs, or margin of pairs, over the set.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            Outputs or pairs. Each costs two linear programs.

        Returns
        -------
        ranges : ndarray of shape (n_samples, 2) or (n_pairs, 2)
            Columns: smallest, largest. Rewards are without offset; of pairs R(first) - R(second).
        """
        X = check_pairs(X).astype(np.float64)
        rows = _check_weights(X[:, 0] - X[:, 1] if X.ndim == 3 else X, "X", self.differences.shape[1])
        ends = [[row @ self._lowest(sign * row) for sign in (1, -1)] if row.any() else [0.0, 0.0] for row in rows]
        return np.array(ends)

    def slack(self):
        """How much all margins must be lowered for the set to have a reward. See `fairl_sk.diagnosis.Slack`."""
        unit = max(float(np.abs(self.required).max()), np.finfo(float).tiny)
        amount, duals = self._polytope.relaxed(unit / self._largest)
        if amount <= _TOL:
            return Slack(0.0, np.empty(0, dtype=int))
        return Slack(amount * unit, np.flatnonzero(duals > _TOL * duals.max()))

    def relax(self, amount):
        """The set with all required margins lowered, e.g. by a little more than the `slack`.

        Parameters
        ----------
        amount : float
            In units of reward.

        Returns
        -------
        FeasibleRewards
        """
        amount = check_number("amount", amount, low=-np.inf)
        return FeasibleRewards(self.differences, self.required - amount, self.bound)

    def smallest_bound(self):
        """Smallest bound with which the set has a reward; infinite if pairs contradict each other.

        Returns
        -------
        bound : float >= 0
        """
        return self._polytope.smallest_box() * self.bound

    def at_mean_margin(self, value):
        """The rewards of the set with a given mean margin over the pairs: they all have the same scale.

        Parameters
        ----------
        value : float
            In units of reward.

        Returns
        -------
        FeasibleRewards
            Flat, with a Chebyshev radius of 0. Its last two rows hold the mean margin, from below and above.
        """
        value = check_number("value", value, low=-np.inf)
        mean = self.differences.mean(axis=0)
        differences = np.vstack([self.differences, mean, -mean])
        return FeasibleRewards(differences, np.append(self.required, [value, -value]), self.bound)

    def witness(self, other):
        """A reward of this set that is not in another one.

        For the standard set and the failure-aware ``other``, it shows that the inclusion of Theorem 1 is strict.

        Parameters
        ----------
        other : FeasibleRewards
            Of as many features.

        Returns
        -------
        theta : ndarray of shape (n_features,), or None
            Weights. None if there is none, up to the accuracy of `contains`.
        """
        _check_other(self, other)
        if self.slack().amount > 0:
            return None
        limits = _limits_to_try(self, other)
        candidates = chain([self.chebyshev().center], (self._lowest(limit) for limit in limits))
        return next((theta for theta in candidates if not other.contains(theta)), None)

    def issubset(self, other):
        """Whether every reward of this set is in another one, so that there is no `witness`. See `witness`.

        Returns
        -------
        bool
            True for an empty set.
        """
        return self.witness(other) is None

    def volume_ratio(self, other):
        """Share of this set's volume that is in another one, for up to 6 features. See `witness`.

        Returns
        -------
        ratio : float in [0, 1]
        """
        _check_other(self, other)
        n_features = self.differences.shape[1]
        if n_features > _MAX_VOLUME_FEATURES or self.chebyshev().radius <= _TOL * self.bound:
            raise ValueError(
                f"Found a set of {n_features} features that is flat or has too many. Expected an interior (Chebyshev "
                f"radius above 0) and at most {_MAX_VOLUME_FEATURES} features: compare reward_range() instead."
            )
        return self._polytope.share(other._polytope, self.bound / other.bound)

    def _lowest(self, direction):
        """Weights with the smallest component in a direction."""
        return self._solved(self._polytope.lowest(direction / np.linalg.norm(direction))) * self.bound

    def _solved(self, solution):
        if solution is None:
            raise ValueError(_why_empty(self))
        return solution


def _check_weights(theta, name, n_features):
    theta = check_array(theta, dtype=np.float64, input_name=name)
    if theta.shape[1] != n_features:
        raise ValueError(f"Found {name} of {theta.shape[1]} features. Expected {n_features}.")
    return theta


def _check_other(one, other):
    n_features = one.differences.shape[1]
    if not isinstance(other, FeasibleRewards) or other.differences.shape[1] != n_features:
        raise ValueError(f"Found {other!r}. Expected FeasibleRewards of {n_features} features.")


def _limits_to_try(one, other):
    """Directions whose smallest component over one set could leave another."""
    same = one.differences.shape == other.differences.shape and (one.differences == other.differences).all()
    stricter = other.required > one.required if same else np.ones(len(other.required), dtype=bool)
    yield from other._polytope.rows[stricter]
    if other.bound < one.bound:
        yield from np.vstack([np.eye(one.differences.shape[1]), -np.eye(one.differences.shape[1])])


def _why_empty(rewards):
    slack, smallest = rewards.slack(), rewards.smallest_bound()
    what = f"conflict: rows {slack.conflict[:10].tolist()}{', ...' * (len(slack.conflict) > 10)}"
    if np.isfinite(smallest):
        remedy = f"Raise bound to at least {smallest:.4g}, or lower the required margins"
    else:
        remedy = "No bound helps, since pairs contradict each other: drop or correct some of those in conflict"
    low, high = rewards.required.min(), rewards.required.max()
    return (
        f"No reward with weights of at most {rewards.bound:g} gives all {len(rewards.required)} pairs their required "
        f"margins of {low:g}{f' to {high:g}' if high > low else ''}. The smallest slack is {slack.amount:.4g}; the "
        f"pairs in {what}. {remedy}, or use relax({slack.amount * 1.01:.4g}) for a set with margins that much lower. "
        "For noisy pairs see ambiguity."
    )


def _check_required(required, n_pairs):
    required = np.asarray(required, dtype=np.float64)
    if required.shape not in ((), (n_pairs,)) or not np.isfinite(required).all():
        raise ValueError(
            f"Found required margins {required}. Expected a finite number, or one for each of the {n_pairs} pairs."
        )
    return np.broadcast_to(required, (n_pairs,)).copy()
