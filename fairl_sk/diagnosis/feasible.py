"""Which rewards do the pairs leave open: feasible sets, the theorem's inclusion, and the ambiguity of each output.

Pairs seldom name one reward. `FeasibleRewards` is the set of all linear rewards that give every pair its required
margin, and the place to read what can be asked of it; `ambiguity` is for noisy pairs and many features, where that set
is empty or too large to be of use.
"""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, null_space
from scipy.optimize import linprog
from scipy.special import expit
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..learning.failures import Round, find_failures
from ..learning.rows import preferred_first
from ..pairs import check_pairs, preference_sign, stack_outputs

__all__ = ["Ambiguity", "Ball", "FeasibleRewards", "Slack", "VolumeRatio", "ambiguity"]

_TOL = 1e-6  # a margin is short if it is so by more, as a share of the largest margin the bound allows; HiGHS has 1e-7
_ALL_AT_ONCE = 2_000  # programs with more pairs are solved on growing parts of them
_MAX_SAMPLED_FEATURES = 10  # beyond, hit-and-run sampling mixes too slowly for its intervals to be trusted
_CHAINS = 64


class Ball(NamedTuple):
    """The largest ball inside a feasible set; see `FeasibleRewards.chebyshev`.

    Attributes
    ----------
    centre : ndarray of shape (n_features,)
        Weights of the reward in its middle.
    radius : float >= 0
        In the unit of the weights, reward a unit of feature.
    """

    centre: np.ndarray
    radius: float


class Slack(NamedTuple):
    """How far a set of pairs is from being feasible; see `FeasibleRewards.slack`.

    Attributes
    ----------
    amount : float >= 0
        Smallest reward by which all required margins have to be lowered; 0 if the set has a reward.
    reward : ndarray of shape (n_features,)
        Weights of a reward whose margins are at most that short.
    conflict : ndarray of int
        Pairs that force it: without the others it would be as large. Empty if `amount` is 0.
    """

    amount: float
    reward: np.ndarray
    conflict: np.ndarray


class VolumeRatio(NamedTuple):
    """A share of volume with its 95 % interval; see `FeasibleRewards.volume_ratio`.

    Attributes
    ----------
    ratio : float in [0, 1]
    low, high : float in [0, 1]
        Ends of the interval. It covers the sampling and nothing else.
    """

    ratio: float
    low: float
    high: float


class Ambiguity(NamedTuple):
    """The range of each output's reward over all rewards that fit nearly as well; see `ambiguity`.

    Rewards are centred on the outputs and in units of the fitted reward's standard deviation over them.

    Attributes
    ----------
    rows : ndarray of shape (n_measured,), int
        Which outputs were measured, as rows of the outputs (of pairs: row 2i is the first, 2i + 1 the second of pair
        i).
    rewards : ndarray of shape (n_measured,)
        Reward by the fitted estimator.
    low, high : ndarray of shape (n_measured,)
        Smallest and largest reward. Both are attained: the full range is at most `gap` wider at either end.
    open : ndarray of shape (n_measured,), in [0, 1]
        Share of the tolerance that the penalty takes up at the end of the range (of both ends the larger). Near 1 the
        pairs say nothing, and the range is only as wide as ``alpha`` makes it.
    gap : float >= 0
        Largest amount by which an end may lie further out, among rewards that differ from the fitted one in the
        searched directions.
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


# ---------------------------------------------------------------------------------------- the feasible set


class FeasibleRewards:
    r"""The linear rewards that give every pair its required margin.

    .. math:: F = \{\theta : \theta \cdot d_i \ge M_i \text{ for all } i,\ |\theta_j| \le B \text{ for all } j\}

    with :math:`d_i = h(o_i^+) - h(o_i^-)` the difference of pair i, :math:`M_i` its required margin (M, or the larger
    M_fail of failures) and B the bound. It is a polytope: each question below is a linear program or a random walk.
    Theorem 1 of the paper (section 4.4) says that raising the required margins of failures gives a strictly smaller
    set; `witness` shows it on data, or shows that it does not hold there.

    Parameters
    ----------
    differences : array-like of shape (n_pairs, n_features)
        Features of the preferred minus the other output.
    required : float or array-like of shape (n_pairs,)
        Required margins M_i, in units of reward. Larger: a smaller set.
    bound : float > 0
        Bound B of every weight, in units of reward a unit of feature. Larger: a larger set. It fixes the unit of the
        reward: only M / B counts.

    Attributes
    ----------
    differences : ndarray of shape (n_pairs, n_features)
    required : ndarray of shape (n_pairs,)
    bound : float

    Notes
    -----
    The bound is on each weight, not on the length of the weights, so that all questions stay linear. The box contains
    the ball of radius B and lies in that of radius :math:`B \sqrt{d}`: ranges are at least those over the ball. As it
    treats features alike, scale them alike first (``StandardScaler``).

    With more than 2,000 pairs a program is solved on a part of them, to which the pairs that fall short are added
    until none does; the result is that of all pairs.

    References
    ----------
    .. [1] Patel et al. Learning from failures: understanding LLM alignment through failure-aware inverse RL.
       arXiv 2510.06092, section 4.4, Theorem 1.

    Examples
    --------
    >>> from fairl_sk.diagnosis.feasible import FeasibleRewards
    >>> standard = FeasibleRewards([[1.0, 0.0], [0.0, 1.0]], required=1.0, bound=3.0)
    >>> standard.chebyshev().radius  # the square from 1 to 3
    1.0
    >>> aware = FeasibleRewards([[1.0, 0.0], [0.0, 1.0]], required=[1.0, 2.0], bound=3.0)
    >>> aware.issubset(standard), standard.issubset(aware)
    (True, False)
    >>> theta = standard.witness(aware)
    >>> standard.contains(theta), aware.contains(theta)
    (True, False)
    """

    def __init__(self, differences, required, bound):
        self.differences = _check_differences(differences)
        self.required = _check_required(required, len(self.differences))
        self.bound = _check_number("bound", bound)
        # Programs are in weights / bound and margins / largest margin, hence independent of all units.
        length = np.linalg.norm(self.differences, axis=1) * self.bound
        self._largest = np.where(length > 0, length, 1.0)
        self._rows = self.differences * (self.bound / self._largest)[:, None]
        self._floors = self.required / self._largest
        self._working = None

    def __repr__(self):
        n_pairs, n_features = self.differences.shape
        return f"FeasibleRewards({n_pairs} pairs, {n_features} features, bound={self.bound:g})"

    @classmethod
    def from_pairs(cls, X, y=None, *, margin=1.0, failures=None, margin_fail=None, bound):
        """The feasible set of preference pairs, with or without stricter margins of failures.

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

        Raises
        ------
        ValueError
            For rows that `check_pairs` refuses, outputs in place of pairs, a ``margin_fail`` that is missing or not
            above ``margin``, a mask of another length, or a bound that is not above 0.
        """
        differences = _oriented_differences(X, y)
        margin = _check_number("margin", margin)
        failures = _check_failures(failures, len(differences))
        required = np.full(len(differences), margin)
        if margin_fail is not None or failures.any():
            required[failures] = _check_margin_fail(margin_fail, margin)
        return cls(differences, required, bound)

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, failures=None, bound=None):
        """The feasible set of a fitted max-margin estimator's own required margins.

        Parameters
        ----------
        estimator : MaxMarginIRL, FailureAwareIRL or Pipeline
            Fitted, with linear heads and a max-margin objective; of a Pipeline its last step is, and the others make
            features from ``X``.
        X, y
            Pairs, as for ``fit``.
        failures : array-like of shape (n_pairs,), bool, default=None
            Which pairs get ``margin_fail``. None: of a `FailureAwareIRL`, those that its detector finds with the fitted
            reward at the end of the curriculum, if it sampled any; of other estimators none. An all-False mask gives
            the standard set.
        bound : float > 0, default=None
            None: twice the largest weight of the fitted reward.

        Returns
        -------
        FeasibleRewards

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            For an estimator without linear heads, without required margins, or whose detector needs labels or a fit of
            its own (pass ``failures`` then); and as `from_pairs`.
        """
        estimator, transform = _split_pipeline(estimator)
        theta = _linear_weights(estimator)
        if _objective(estimator) != "max_margin":
            raise ValueError(
                f"Found {type(estimator).__name__} with a max-entropy objective, which has no required margins. "
                "Expected a max-margin one: fit with objective='max_margin', use from_pairs with a margin of your own, "
                "or ambiguity, which takes both."
            )
        X = transform(X)
        differences = _oriented_differences(X, y, n_features=len(theta))
        failures = _failures_of(estimator, X, y, differences @ theta, failures)
        required = np.where(failures, getattr(estimator, "margin_fail", estimator.margin), estimator.margin)
        return cls(differences, required, _default_bound(theta) if bound is None else bound)

    # ------------------------------------------------------------------------------------------- membership

    def contains(self, theta, *, tol=_TOL):
        """Whether a reward is in the set.

        Parameters
        ----------
        theta : array-like of shape (n_features,) or (n_rewards, n_features)
            Weights.
        tol : float >= 0, default=1e-6
            What a margin may be short by, as a share of the largest margin that weights of length ``bound`` give that
            pair, and a weight may be beyond the bound, as a share of it.

        Returns
        -------
        bool or ndarray of shape (n_rewards,), bool
        """
        theta = self._check_weights(theta)
        inside = self._shortage(theta.reshape(-1, theta.shape[-1])) <= tol
        return inside if theta.ndim == 2 else bool(inside[0])

    def _shortage(self, theta):
        """Largest of what a pair's margin is short by and a weight is beyond the bound, (n_rewards,); scaled."""
        scaled = theta / self.bound
        short = (self._floors - scaled @ self._rows.T).max(axis=1)
        return np.maximum(short, np.abs(scaled).max(axis=1) - 1)

    def _check_weights(self, theta, name="theta"):
        theta = np.asarray(theta, dtype=np.float64)
        n_features = self.differences.shape[1]
        if theta.ndim not in (1, 2) or theta.shape[-1] != n_features or not np.isfinite(theta).all():
            raise ValueError(
                f"Found {name} of shape {theta.shape}{'' if np.isfinite(theta).all() else ' with values not finite'}. "
                f"Expected finite weights, shape ({n_features},) or (n_rewards, {n_features}), e.g. coef_."
            )
        return theta

    # -------------------------------------------------------------------------------------- linear programs

    def chebyshev(self):
        """The largest ball (in the length of weights) inside the set: its centre is a reward far from all limits.

        Returns
        -------
        Ball
            With a radius of 0 where the set has no interior.

        Raises
        ------
        ValueError
            If the set is empty; the message names the smallest slack, pairs in conflict, and what to do.
        """
        cost = np.append(np.zeros(self.differences.shape[1]), -1.0)
        length = np.linalg.norm(self._rows, axis=1)  # 1, or 0 for identical outputs
        theta, radius = self._optimum(cost, last=-length, box=(1.0, 1.0))
        return Ball(theta * self.bound, max(0.0, float(radius) * self.bound))

    def width(self, direction):
        """Width of the set along a direction: how far apart two of its rewards can be.

        Parameters
        ----------
        direction : array-like of shape (n_features,)
            Any length but 0; it counts as of length 1.

        Returns
        -------
        width : float >= 0
            Largest minus smallest component of the weights in that direction. At least twice the Chebyshev radius.

        Raises
        ------
        ValueError
            If the set is empty, or the direction is 0.
        """
        direction = self._check_weights(direction, "direction")
        length = np.linalg.norm(direction)
        if direction.ndim != 1 or length == 0:
            raise ValueError(
                f"Found a direction of shape {direction.shape} and length {length:g}. Expected one direction, shape "
                f"({self.differences.shape[1]},), that is not 0."
            )
        low, high = self.reward_range(direction[None] / length)[0]
        return float(high - low)

    def reward_range(self, X):
        """Smallest and largest reward of outputs, or margin of pairs, over the set.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            Outputs or pairs. Each costs two linear programs.

        Returns
        -------
        ranges : ndarray of shape (n_samples, 2) or (n_pairs, 2)
            Columns: smallest, largest. Rewards are without offset, theta . h(o); of pairs R(first) - R(second).

        Raises
        ------
        ValueError
            If the set is empty, or the rows have another number of features.
        """
        X = check_pairs(X).astype(np.float64)
        rows = X[:, 0] - X[:, 1] if X.ndim == 3 else X
        self._check_weights(rows, "X")
        ranges = np.zeros((len(rows), 2))
        for row, found in zip(rows, ranges, strict=True):
            size = np.linalg.norm(row)
            if size > 0:
                found[0] = row @ self._optimum(row / size)[0] * self.bound
                found[1] = row @ self._optimum(-row / size)[0] * self.bound
        return ranges

    def slack(self):
        """Smallest amount by which all required margins have to be lowered for the set to have a reward.

        Returns
        -------
        Slack
        """
        n_features = self.differences.shape[1]
        unit = max(float(np.abs(self.required).max()), np.finfo(float).tiny)
        cost = np.append(np.zeros(n_features), 1.0)
        theta, amount, duals = self._program(cost, self._floors, last=unit / self._largest)
        amount = float(amount) * unit
        if amount <= _TOL * unit:
            return Slack(0.0, theta * self.bound, np.empty(0, dtype=int))
        return Slack(amount, theta * self.bound, np.flatnonzero(duals > _TOL * duals.max()))

    def relax(self, amount):
        """The set with all required margins lowered, e.g. by a little more than the smallest `slack`.

        Parameters
        ----------
        amount : float >= 0
            In units of reward.

        Returns
        -------
        FeasibleRewards
        """
        amount = _check_number("amount", amount, allow_zero=True)
        return FeasibleRewards(self.differences, self.required - amount, self.bound)

    def smallest_bound(self):
        """Smallest bound with which the set has a reward; below it the set is empty.

        Returns
        -------
        bound : float >= 0
            Infinite if no reward gives all pairs their required margin, however large its weights are: some pairs
            contradict each other.
        """
        unit = (self.required / np.maximum(self._largest, np.finfo(float).tiny)).max()
        if unit <= 0:
            return 0.0
        cost = np.append(np.zeros(self.differences.shape[1]), 1.0)
        solution = self._program(cost, self._floors / unit, last=0.0, box=(-1.0, 0.0))
        return np.inf if solution is None else float(solution[1]) * unit * self.bound

    def at_mean_margin(self, value):
        """The rewards of the set whose mean margin over the pairs is a given one.

        All rewards of the slice have the same scale, so what it leaves open is more than the unit of the reward.

        Parameters
        ----------
        value : float
            In units of reward.

        Returns
        -------
        FeasibleRewards
            Flat, with a Chebyshev radius of 0. Its last two rows stand for the mean margin, from below and above.
        """
        value = _check_number("value", value, low=-np.inf)
        mean = self.differences.mean(axis=0)
        differences = np.vstack([self.differences, mean, -mean])
        return FeasibleRewards(differences, np.append(self.required, [value, -value]), self.bound)

    def _optimum(self, cost, **program):
        """(weights / bound, last variable) of a program on this set; an empty one is refused."""
        solution = self._program(cost, self._floors, **program)
        if solution is None:
            raise ValueError(self._why_empty())
        return solution[:2]

    def _program(self, cost, floors, *, last=None, box=None):
        """Minimise cost . (u, t) over rows . u + last * t >= floors, and ``|u_j| + box[0] * t <= box[1]``.

        Without ``box``: ``|u_j| <= 1``. Returns (u, t, duals), t = 0 without ``last``; None if infeasible.
        """
        n_pairs, n_features = self._rows.shape
        columns = np.zeros((n_pairs, 0)) if last is None else np.broadcast_to(last, n_pairs)[:, None]
        limits = [(-1.0, 1.0) if box is None else (None, None)] * n_features + [(0.0, None)] * columns.shape[1]
        sides, ends = _box_rows(n_features, len(limits), box)
        working = self._first_rows()
        while True:
            rows = np.hstack([self._rows[working], columns[working]])
            method = "highs" if n_pairs <= _ALL_AT_ONCE else "highs-ipm"
            result = linprog(
                cost,
                A_ub=np.vstack([-rows, sides]),
                b_ub=np.append(-floors[working], ends),
                bounds=limits,
                method=method,
            )
            if result.status == 2:
                return None
            if result.status != 0:
                raise RuntimeError(f"HiGHS gave no solution: {result.message} Scale the features, e.g. StandardScaler.")
            short = floors - self._rows @ result.x[:n_features] - columns @ result.x[n_features:]
            short[working] = 0.0
            if len(working) == n_pairs or short.max() <= 1e-7:
                break
            worst = np.argsort(-short)[: 4 * n_features]
            working = np.union1d(working, worst[short[worst] > 1e-7])
        self._working = working
        duals = np.zeros(n_pairs)
        duals[working] = -result.ineqlin.marginals[: len(working)]
        return result.x[:n_features], result.x[n_features:].sum(), duals

    def _first_rows(self):
        """Pairs to begin a program with: all; of many, those that mattered last, or some at even distances."""
        n_pairs, n_features = self._rows.shape
        if n_pairs <= _ALL_AT_ONCE:
            return np.arange(n_pairs)
        if self._working is not None:
            return self._working
        return np.unique(np.linspace(0, n_pairs - 1, 4 * n_features).astype(int))

    def _why_empty(self):
        slack = self.slack()
        smallest = self.smallest_bound()
        what = f"conflict: rows {slack.conflict[:10].tolist()}{', ...' * (len(slack.conflict) > 10)}"
        if np.isfinite(smallest):
            remedy = f"Raise bound to at least {smallest:.4g}, or lower the required margins"
        else:
            remedy = "No bound helps, since pairs contradict each other: drop or correct some of those in conflict"
        return (
            f"No reward with weights of at most {self.bound:g} gives all {len(self.required)} pairs their required "
            f"margins of {_span(self.required)}. The smallest slack is {slack.amount:.4g}; the pairs in {what}. "
            f"{remedy}, or use relax({slack.amount * 1.01:.4g}) for a set with margins that much lower. For noisy "
            "pairs see ambiguity."
        )

    # -------------------------------------------------------------------------------------- the inclusion

    def witness(self, other):
        """A reward of this set that is not in another one: shows that this set is not inside the other.

        With the standard set as ``self`` and the failure-aware one as ``other`` it shows that Theorem 1's inclusion is
        strict on these pairs.

        Parameters
        ----------
        other : FeasibleRewards
            Of as many features.

        Returns
        -------
        theta : ndarray of shape (n_features,), or None
            Weights. None is as good as a proof (up to ``tol`` of `contains`): each limit of the other set was tried.
            An empty set has no witness.
        """
        self._check_other(other)
        if self.slack().amount > 0:
            return None
        centre = self.chebyshev().centre
        if not other.contains(centre):
            return centre
        for limit in self._limits_to_try(other):
            theta = self._optimum(limit)[0] * self.bound
            if not other.contains(theta):
                return theta
        return None

    def issubset(self, other):
        """Whether every reward of this set is in another one, as shown by linear programs.

        Parameters
        ----------
        other : FeasibleRewards
            Of as many features.

        Returns
        -------
        bool
            True for an empty set.
        """
        return self.witness(other) is None

    def _limits_to_try(self, other):
        """Directions whose smallest component could leave the other set, the likeliest first."""
        known = self.differences.shape == other.differences.shape and (self.differences == other.differences).all()
        missing = other.required > self.required if known else np.ones(len(other.required), dtype=bool)
        rows = np.flatnonzero(missing)
        yield from other._rows[rows[np.argsort(-other._floors[rows])]]
        if other.bound < self.bound:
            yield from np.vstack([np.eye(self.differences.shape[1]), -np.eye(self.differences.shape[1])])

    def _check_other(self, other):
        if not isinstance(other, FeasibleRewards) or other.differences.shape[1] != self.differences.shape[1]:
            raise ValueError(
                f"Found {other!r}. Expected FeasibleRewards of {self.differences.shape[1]} features, as this one is: "
                "build both from the same features."
            )

    # ------------------------------------------------------------------------------------------- sampling

    def sample(self, n_samples=1000, *, random_state=None):
        """Draw rewards evenly from the set, by hit-and-run.

        Parameters
        ----------
        n_samples : int, default=1000
            Rewards to draw. They come from 64 walks and neighbours in a walk are correlated.
        random_state : int, RandomState or None, default=None

        Returns
        -------
        theta : ndarray of shape (n_samples, n_features)

        Raises
        ------
        ValueError
            If the set is empty or flat, or there are more than 10 features.
        """
        n_samples = _check_number("n_samples", n_samples, kind=Integral)
        draws = self._draws(n_samples, check_random_state(random_state))
        return draws.reshape(-1, draws.shape[-1])[:n_samples] * self.bound

    def volume_ratio(self, other, *, n_samples=4000, random_state=None):
        """Share of this set's volume that is in another one, by hit-and-run sampling.

        The other set is approached in steps that each keep about half of the volume, so that a share of a millionth
        takes twenty steps and not millions of samples.

        Parameters
        ----------
        other : FeasibleRewards
            Of as many features; e.g. the failure-aware set inside this one.
        n_samples : int, default=4000
            Samples in a step. The interval shrinks with its root.
        random_state : int, RandomState or None, default=None

        Returns
        -------
        VolumeRatio
            0 and 1 are exact where linear programs show that the sets do not share volume, or that this set is inside.

        Raises
        ------
        ValueError
            If this set is empty or flat, or there are more than 10 features.
        """
        n_samples = _check_number("n_samples", n_samples, kind=Integral)
        rng = check_random_state(random_state)
        self._check_volume()
        if self.issubset(other):
            return VolumeRatio(1.0, 1.0, 1.0)
        both = self._intersection(other)
        if both.slack().amount > 0 or both.chebyshev().radius <= _TOL * both.bound:
            return VolumeRatio(0.0, 0.0, 0.0)
        log_ratio, variance = 0.0, 0.0
        draws = self._draws(n_samples, rng)
        while True:
            shortage = other._shortage(draws.reshape(-1, draws.shape[-1]) * self.bound).reshape(draws.shape[:2])
            level = max(0.0, float(np.median(shortage)))
            kept = shortage <= level
            share = kept.mean()
            log_ratio += np.log(share)
            # walks are independent of each other, steps of one are not
            variance += max(kept.mean(axis=1).var(ddof=1) / len(kept), 1 / kept.size**2) / share**2
            if level == 0:
                break
            draws = self._draws(n_samples, rng, also=(other, level), start=draws[kept])
        error = 1.96 * np.sqrt(variance)
        ratio, low, high = np.exp([log_ratio, log_ratio - error, log_ratio + error])
        return VolumeRatio(float(ratio), float(low), min(1.0, float(high)))

    def _intersection(self, other):
        """What this set shares with another one."""
        return FeasibleRewards(
            np.vstack([self.differences, other.differences]),
            np.append(self.required, other.required),
            min(self.bound, other.bound),
        )

    def _check_volume(self):
        n_features = self.differences.shape[1]
        if n_features > _MAX_SAMPLED_FEATURES:
            raise ValueError(
                f"Found {n_features} features. Expected at most {_MAX_SAMPLED_FEATURES} for sampling, which mixes too "
                "slowly beyond: reduce the features first (PCA), or compare chebyshev() or reward_range()."
            )
        if self.chebyshev().radius <= _TOL * self.bound:
            raise ValueError(
                "The set is flat: it has rewards, but no volume (its Chebyshev radius is 0). Lower the required "
                "margins, raise bound, or compare reward_range(), which needs no volume."
            )

    def _draws(self, n_samples, rng, *, also=None, start=None):
        """Samples in units of the bound, (n_walks, n_steps, n_features); ``also`` within a level of another set."""
        n_features = self.differences.shape[1]
        box = np.vstack([np.eye(n_features), -np.eye(n_features)])
        rows, floors = np.vstack([self._rows, box]), np.append(self._floors, -np.ones(len(box)))
        if also is not None:
            other, level = also
            scale = self.bound / other.bound
            rows = np.vstack([rows, other._rows * scale, box * scale])
            floors = np.concatenate([floors, other._floors - level, np.full(len(box), -1 - level)])
        if start is None:
            self._check_volume()
            start = self.chebyshev().centre[None] / self.bound
            spread, burn_in = np.eye(n_features), [4 * n_features**2 + 20] * 4
        else:
            spread, burn_in = _spread(start), [n_features**2 + 10]
        points = start[rng.randint(len(start), size=_CHAINS)]
        for n_steps in burn_in:  # each walk in the shape that the last one found
            path = _walk(rows, floors, points, spread, n_steps, rng)
            points, spread = path[:, -1], _spread(path[:, n_steps // 2 :].reshape(-1, n_features))
        thin = 2 * n_features
        path = _walk(rows, floors, points, spread, -(-n_samples // _CHAINS) * thin, rng)
        return path[:, thin - 1 :: thin]


def _walk(rows, floors, points, spread, n_steps, rng):
    """Hit-and-run: in every step to an even point of the chord in a random direction; (n_walks, n_steps, n_features).

    ``spread`` shapes the directions. Walks start at ``points``, inside.
    """
    path = np.empty((len(points), n_steps, points.shape[1]))
    for step in range(n_steps):
        if step % 50 == 0:  # no drift by rounding
            room = np.maximum(points @ rows.T - floors, 0.0)
        direction = rng.standard_normal(points.shape) @ spread.T
        rate = direction @ rows.T
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = -room / rate
        high = np.where(rate < 0, reach, np.inf).min(axis=1)
        low = np.where(rate > 0, reach, -np.inf).max(axis=1)
        length = low + (high - low) * rng.uniform(size=len(points))
        points = points + length[:, None] * direction
        room = np.maximum(room + length[:, None] * rate, 0.0)
        path[:, step] = points
    return path


def _spread(points):
    """A root of the points' covariance, up to scale, with a little in every direction."""
    covariance = np.atleast_2d(np.cov(points, rowvar=False))
    trace = max(np.trace(covariance), np.finfo(float).tiny)
    return np.linalg.cholesky(covariance / trace + 1e-10 * np.eye(len(covariance)))


def _box_rows(n_features, n_columns, box):
    """Rows and ends of ``|u_j| + box[0] * t <= box[1]``; none without ``box``."""
    if box is None:
        return np.zeros((0, n_columns)), np.zeros(0)
    coefficient, end = box
    unit = np.vstack([np.eye(n_features), -np.eye(n_features)])
    return np.hstack([unit, np.full((len(unit), 1), coefficient)]), np.full(len(unit), end)


# --------------------------------------------------------------------------------------------- ambiguity


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

    The rewards :math:`\theta` are those with

    .. math:: P(\theta) \le P(\hat\theta) + \epsilon P_0 \quad\text{and}\quad
        \theta \cdot \bar d = \hat\theta \cdot \bar d, \qquad
        P(\theta) = \frac{1}{n} \sum_i \ell_i(\theta \cdot d_i) + \alpha \|\theta\|^2,

    where P is the estimator's objective, with the hinge or the logistic as its loss :math:`\ell_i` of a margin (theory,
    eq. 2 and 3; at M_fail or tau_fail for failures), :math:`P_0` the loss of a constant reward, :math:`\hat\theta` the
    fitted weights, :math:`\bar d` the mean difference and :math:`\epsilon` the ``tolerance``. Pairs identify a reward
    up to offset and scale: the offset is removed by centring on the outputs, the scale by the mean margin, which all
    these rewards share. Unlike `FeasibleRewards` the set is never empty, as it holds the fitted reward: a pair may fall
    short where others make up for it.

    Parameters
    ----------
    estimator : MaxMarginIRL, MaxEntropyIRL, FailureAwareIRL or Pipeline
        Fitted, with linear heads; of a Pipeline its last step is, and the others make features of ``X`` and
        ``outputs``.
    X : array-like of shape (n_pairs, 2, n_features)
        The pairs that are to tell rewards apart, as a rule those of ``fit``.
    y : array-like of shape (n_pairs,), default=None
        Two classes, the larger meaning "the first is preferred"; None: the first everywhere.
    outputs : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features), default=None
        Whose reward is asked for. None: all outputs of ``X``.
    failures : array-like of shape (n_pairs,), bool, default=None
        Pairs whose loss is the stricter one. None: as `FeasibleRewards.from_estimator`.
    tolerance : float > 0, default=0.01
        How much worse than the fitted reward a reward may fit, as a share of the loss of a constant reward. Larger:
        wider ranges.
    alpha : float > 0, default=None
        L2 strength in P; None: the estimator's. Where the pairs say nothing, it alone ends the ranges; see
        ``Ambiguity.open``. Smaller: wider ranges there.
    n_components : int >= 1, default=32
        Rewards may differ from the fitted one in so many directions: the principal ones of the outputs' features.
        With as many as features the ranges are the full ones; with fewer they are lower bounds, and take less time.
    max_outputs : int >= 1, default=100
        Outputs to measure; of more, so many are drawn.
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
        For an estimator without linear heads, rows that `check_pairs` refuses, a mask of another length, a parameter
        out of range, an estimator with ``alpha=0`` and no ``alpha``, outputs that all have the same fitted reward, or
        a fitted reward with a mean margin of 0 or less.

    Notes
    -----
    P is of the pairs alone, each by its ``sample_weight``, also where single outputs counted in the fit
    (``pointwise_weight``), whose word narrows no range here, and pairs of outputs that recur counted less
    (``recurrence_correlation``).

    With a max-entropy objective the loss is minus one n-th of the log-likelihood. Near ``tolerance = 1.92 / (n_pairs *
    log(2))`` and a small ``alpha``, a range is the profile-likelihood interval at 95 % of that output's reward.

    The farther end is found by steps within the second-order model of P, the corner of the hinge rounded less and less,
    and certified by Lagrange's dual. Time grows with outputs, pairs and the square of the directions.

    Examples
    --------
    >>> from fairl_sk import MaxMarginIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> from fairl_sk.diagnosis.feasible import ambiguity
    >>> data = make_preferences(200, 4, noise=0.1, random_state=0)
    >>> reward = MaxMarginIRL(random_state=0).fit(data.data, data.target)
    >>> found = ambiguity(reward, data.data, data.target, max_outputs=5, random_state=0)
    >>> bool((found.low <= found.rewards).all() and (found.rewards <= found.high).all())
    True
    """
    tolerance = _check_number("tolerance", tolerance)
    n_components = _check_number("n_components", n_components, kind=Integral)
    max_outputs = _check_number("max_outputs", max_outputs, kind=Integral)
    estimator, transform = _split_pipeline(estimator)
    theta = _linear_weights(estimator)
    alpha = _check_alpha(estimator, alpha)
    X = transform(X)
    differences = _oriented_differences(X, y, n_features=len(theta))
    loss = _losses(estimator, _failures_of(estimator, X, y, differences @ theta, failures))
    features = _flat_outputs(X if outputs is None else transform(outputs), len(theta))
    centred = features - features.mean(axis=0)
    unit = _unit_of(centred @ theta)
    directions, explained = _searched_directions(centred, differences, theta, n_components)
    nearby = _NearbyRewards(theta, differences, loss, tolerance, directions, alpha)
    rows = _some_rows(len(centred), max_outputs, check_random_state(random_state))
    fitted = centred[rows] @ theta
    costs = centred[rows] @ directions
    (up, up_gap, up_open), (down, down_gap, down_open) = nearby.ends(costs).T, nearby.ends(-costs).T
    gap = np.maximum(up_gap, down_gap)
    return Ambiguity(
        rows,
        fitted / unit,
        (fitted - down) / unit,
        (fitted + up) / unit,
        np.clip(np.maximum(up_open, down_open), 0.0, 1.0),
        float(gap.max()) / unit,
        explained,
    )


class _NearbyRewards:
    """The set that `ambiguity` describes: weights theta + directions @ z with an objective within the budget."""

    _ACCURACY = 0.01  # an end is found when it may lie at most so much of its distance further out
    _ROUNDINGS = (1.0, 0.25, 0.06, 0.015, 0.004)  # of the hinge's corner, in shares of the required margin
    _MAX_STEPS = 60

    def __init__(self, theta, differences, loss, tolerance, directions, alpha):
        self.loss, self.alpha = loss, alpha
        self.margins, self.moves = differences @ theta, differences @ directions
        self.length, self.pull = float(theta @ theta), theta @ directions
        self.extra = tolerance * float(loss.values(np.zeros(len(differences))).mean())
        self.budget = self._objective(self.margins, np.zeros(directions.shape[1])) + self.extra

    def ends(self, costs):
        """Largest cost . z of each cost, how much more there may be, and the penalty's share of the budget there."""
        return np.array([self._farthest(cost) for cost in costs]).reshape(-1, 3)

    def _objective(self, margins, z, rounding=0.0):
        return float(self.loss.values(margins, rounding).mean()) + self._penalty(z)

    def _penalty(self, z):
        return self.alpha * (self.length + 2 * float(self.pull @ z) + float(z @ z))

    def _farthest(self, cost):
        z = np.zeros(len(cost))
        size = np.linalg.norm(cost)
        if not size:
            return 0.0, 0.0, 0.0
        best, farthest, penalty = 0.0, np.inf, 0.0
        for rounding in self._ROUNDINGS if self.loss.has_corner else (0.0,):
            z, steepness = self._climb(cost / size, z, rounding)
            end = z * self._reach(z, self.budget)
            farthest = min(farthest, size * self._limit(cost / size, z, steepness, rounding))
            if cost @ end >= best:
                best, penalty = float(cost @ end), (self._penalty(end) - self.alpha * self.length) / self.extra
            if farthest - best <= self._ACCURACY * best:
                break
        return best, max(0.0, farthest - best), penalty

    def _climb(self, cost, z, rounding):
        """Maximise cost . z within the rounded objective's budget: in every step within its second-order model."""
        budget = self._objective(self.margins, 0 * z, rounding) + self.extra
        z = z * min(1.0, self._reach(z, budget, rounding))
        steepness = 0.0
        for _ in range(self._MAX_STEPS):
            margins = self.margins + self.moves @ z
            gradient, hessian = self._derivatives(margins, z, rounding)
            factor = cho_factor(hessian)
            towards, back = cho_solve(factor, cost), cho_solve(factor, gradient)
            room = 2 * (budget - self._objective(margins, z, rounding)) + gradient @ back
            steepness = np.sqrt(max(room, 0.0) / (cost @ towards))
            better = self._advance(cost, z, steepness * towards - back, budget, rounding)
            if better is None:
                break
            z, gain = better, cost @ (better - z)
            if gain <= 1e-6 * (cost @ z):
                break
        return z, steepness

    def _advance(self, cost, z, step, budget, rounding):
        """The best of z + step, z + step / 2, ..., each pulled back into the budget; None if z is better."""
        best, largest = None, cost @ z
        for halvings in range(20):
            candidate = z + step / 2**halvings
            candidate = candidate * min(1.0, self._reach(candidate, budget, rounding))
            if cost @ candidate > largest:
                best, largest = candidate, cost @ candidate
            elif best is not None:
                break
        return best

    def _reach(self, z, budget, rounding=0.0):
        """How many times z may be taken from the fitted reward until the budget is spent."""
        move = self.moves @ z
        if not z.any():
            return 1.0
        reach = 1.0
        while self._objective(self.margins + reach * move, reach * z, rounding) < budget:
            reach *= 2.0
        for _ in range(60):  # Newton's method from beyond: the objective is convex, so it stays beyond
            margins = self.margins + reach * move
            over = self._objective(margins, reach * z, rounding) - budget
            if over <= 1e-9 * self.extra:
                break
            slope = float(self.loss.slopes(margins, rounding) @ move) / len(move)
            reach -= over / (slope + 2 * self.alpha * (float(self.pull @ z) + reach * float(z @ z)))
        return reach

    def _derivatives(self, margins, z, rounding):
        slopes, curvatures = self.loss.slopes(margins, rounding), self.loss.curvatures(margins, rounding)
        gradient = slopes @ self.moves / len(slopes) + 2 * self.alpha * (self.pull + z)
        curved = curvatures > 0
        moves = self.moves[curved]
        hessian = (moves.T * curvatures[curved]) @ moves / len(slopes)
        hessian[np.diag_indices_from(hessian)] += 2 * self.alpha
        return gradient, hessian

    def _limit(self, cost, z, steepness, rounding):
        """No point of the set has a larger cost . z: Lagrange's dual, with straight lines that lie below the losses.

        With multiplier m and losses above a_i + s_i margin_i, cost . z is at most the largest value over all z of
        cost . z + m (budget - mean_i(a_i + s_i margin_i) - penalty), a parabola in z.
        """
        if steepness <= 0:
            return np.inf
        margins = self.margins + self.moves @ z
        slopes = self.loss.slopes(margins, rounding)
        below = self.loss.intercepts(margins, slopes) + slopes * self.margins
        slope = slopes @ self.moves / len(slopes) + 2 * self.alpha * self.pull
        multiplier = 1 / steepness
        residual = cost - multiplier * slope
        spare = self.budget - below.mean() - self.alpha * self.length
        return multiplier * spare + residual @ residual / (4 * multiplier * self.alpha)


def _losses(estimator, failures):
    """The estimator's loss of a margin, with that of failures."""
    if _objective(estimator) == "max_margin":
        strict = getattr(estimator, "margin_fail", estimator.margin)
        return _Hinge(np.where(failures, strict, estimator.margin))
    strict = getattr(estimator, "temperature_fail", estimator.temperature)
    return _Logistic(np.where(failures, strict, estimator.temperature))


class _Hinge:
    """max(0, M - margin), its corner rounded by a parabola over a width of ``rounding`` times M; never below it."""

    has_corner = True

    def __init__(self, required):
        self.required = required

    def values(self, margins, rounding=0.0):
        short = self.required - margins
        if not rounding:
            return np.maximum(short, 0.0)
        width = rounding * self.required
        return np.where(np.abs(short) < width / 2, (short + width / 2) ** 2 / (2 * width), np.maximum(short, 0.0))

    def slopes(self, margins, rounding=0.0):
        short = self.required - margins
        if not rounding:
            return -(short > 0).astype(float)
        return -np.clip(short / (rounding * self.required) + 0.5, 0.0, 1.0)

    def curvatures(self, margins, rounding=0.0):
        width = rounding * self.required
        return np.where(np.abs(self.required - margins) < width / 2, 1 / width, 0.0)

    def intercepts(self, margins, slopes):
        """Of lines below the loss, with these slopes in [-1, 0]."""
        return -slopes * self.required


class _Logistic:
    """log(1 + exp(-margin / temperature))."""

    has_corner = False

    def __init__(self, temperature):
        self.temperature = temperature

    def values(self, margins, rounding=0.0):
        return np.logaddexp(0.0, -margins / self.temperature)

    def slopes(self, margins, rounding=0.0):
        return -expit(-margins / self.temperature) / self.temperature

    def curvatures(self, margins, rounding=0.0):
        scaled = margins / self.temperature
        return expit(scaled) * expit(-scaled) / self.temperature**2

    def intercepts(self, margins, slopes):
        """Of the tangents at the margins."""
        return self.values(margins) - slopes * margins


def _searched_directions(centred, differences, theta, n_components):
    """Orthonormal directions that leave the mean margin alone, and the outputs' share of variance among them."""
    mean = differences.mean(axis=0)
    if mean @ theta <= 0:
        raise ValueError(
            f"The fitted reward has a mean margin of {mean @ theta:.3g} on these pairs. Expected more than 0, which is "
            "what rewards are compared at: check which class of y means that the first output is preferred."
        )
    _, sizes, axes = np.linalg.svd(centred, full_matrices=n_components >= len(theta))
    axes = axes[:n_components]
    explained = float((sizes[: len(axes)] ** 2).sum() / (sizes**2).sum())
    return axes.T @ null_space((axes @ mean)[None]), min(1.0, explained)


def _unit_of(rewards):
    """Standard deviation of the fitted reward over the outputs."""
    unit = rewards.std()
    if unit <= 1e-12 * max(1e-300, np.abs(rewards).max()) or len(rewards) < 2:
        raise ValueError(
            f"The fitted reward is the same for all {len(rewards)} outputs, so there is no unit to give ranges in. "
            "Expected at least two outputs with different rewards: pass more outputs."
        )
    return float(unit)


def _some_rows(n_rows, most, rng):
    return np.arange(n_rows) if n_rows <= most else np.sort(rng.permutation(n_rows)[:most])


# ------------------------------------------------------------------------------- what estimators and pairs say


def _split_pipeline(estimator):
    """(last step, function that makes its features) of a Pipeline; of anything else itself and no change."""
    if isinstance(estimator, Pipeline):
        return estimator[-1], estimator[:-1].transform if len(estimator) > 1 else _as_it_is
    return estimator, _as_it_is


def _as_it_is(X):
    return X


def _linear_weights(estimator):
    check_is_fitted(estimator)
    theta = np.asarray(getattr(estimator, "coef_", np.nan), dtype=np.float64)
    if theta.ndim != 1:
        found = "no coef_" if theta.ndim == 0 else f"a coef_ of shape {theta.shape}"
        raise ValueError(
            f"Found {type(estimator).__name__} with {found}. Expected one of this package's estimators with linear "
            "heads (hidden_layer_sizes=()): the rewards that pairs leave open are known for linear rewards only."
        )
    return theta


def _objective(estimator):
    return getattr(estimator, "objective", "max_margin" if hasattr(estimator, "margin") else "max_entropy")


def _failures_of(estimator, X, y, margins, failures):
    """The mask that was given or, of a failure-aware estimator, what its detector finds at the end of a fit."""
    if failures is not None or not hasattr(estimator, "failures"):
        return _check_failures(failures, len(margins))
    detector = estimator._schedules()["detector"]
    if hasattr(detector, "fit") or getattr(detector, "requires_labels", False):
        raise ValueError(
            f"Found an estimator with failures={estimator.failures!r}, which need labels, or a fit of their own. "
            "Expected the mask: pass failures, shape (n_pairs,), bool (all False for the standard set)."
        )
    X = check_pairs(X)
    if not any(row["n_sampled"] for row in estimator.history_):  # it learned from none
        return np.zeros(len(X), dtype=bool)
    sign = preference_sign(y, len(X))
    last = Round(
        index=len(estimator.history_) - 1,
        progress=1.0,
        threshold=estimator.history_[-1]["failure_threshold"],
        margins=margins,
        rewards=lambda: preferred_first(estimator.decision_function(stack_outputs(X)).reshape(-1, 2), sign),
        output_labels=None,
    )
    return find_failures(detector, last) > 0


def _check_alpha(estimator, alpha):
    if alpha is None:
        alpha = estimator.alpha
        if alpha == 0:
            raise ValueError(
                "Found an estimator with alpha=0: without a penalty nothing limits rewards where the pairs say "
                "nothing. Expected alpha > 0: pass alpha, e.g. 1e-6."
            )
    return _check_number("alpha", alpha)


def _default_bound(theta):
    largest = float(np.abs(theta).max())
    if largest == 0:
        raise ValueError("All fitted weights are 0: lower alpha so that the estimator learns a reward, or pass bound.")
    return 2 * largest


def _oriented_differences(X, y, n_features=None):
    """Features of the preferred minus the other output, (n_pairs, n_features), float64."""
    X = check_pairs(X)
    if X.ndim != 3:
        raise ValueError(
            f"Found outputs, X of shape {X.shape}. Expected pairs, shape (n_pairs, 2, n_features): only pairs limit a "
            "reward."
        )
    if n_features is not None and X.shape[2] != n_features:
        raise ValueError(
            f"Found pairs of {X.shape[2]} features. Expected {n_features}, as the estimator was fitted on."
        )
    sign = preference_sign(y, len(X))
    return (X[:, 0].astype(np.float64) - X[:, 1]) * sign[:, None]


def _flat_outputs(X, n_features):
    X = check_pairs(X).astype(np.float64)
    if X.shape[-1] != n_features:
        raise ValueError(
            f"Found outputs of {X.shape[-1]} features. Expected {n_features}, as the estimator was fitted on."
        )
    return X.reshape(-1, n_features)


# ----------------------------------------------------------------------------------------------- checking


def _check_number(name, value, *, low=0.0, kind=Real, allow_zero=False):
    number = isinstance(value, kind) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or not (value > low or (allow_zero and value == low)):
        what = "a whole number" if kind is Integral else "a finite number"
        limit = "" if low == -np.inf else f" {'of at least' if allow_zero else 'above'} {low:g}"
        raise ValueError(f"Found {name}={value!r}. Expected {what}{limit}.")
    return int(value) if kind is Integral else float(value)


def _check_differences(differences):
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 2 or 0 in differences.shape or not np.isfinite(differences).all():
        finite = "" if np.isfinite(differences).all() else " with values that are not finite"
        raise ValueError(
            f"Found differences of shape {differences.shape}{finite}. Expected finite numbers, shape (n_pairs, "
            "n_features): features of the preferred minus the other output. from_pairs makes them from pairs."
        )
    return differences


def _check_required(required, n_pairs):
    required = np.asarray(required, dtype=np.float64)
    if required.shape not in ((), (n_pairs,)) or not np.isfinite(required).all():
        finite = "" if np.isfinite(required).all() else " with values that are not finite"
        raise ValueError(
            f"Found required margins of shape {required.shape}{finite}. Expected a finite number, or one for each of "
            f"the {n_pairs} pairs."
        )
    return np.broadcast_to(required, (n_pairs,)).copy()


def _check_failures(failures, n_pairs):
    if failures is None:
        return np.zeros(n_pairs, dtype=bool)
    failures = np.asarray(failures)
    if failures.shape != (n_pairs,) or failures.dtype != bool:
        raise ValueError(
            f"Found failures of shape {failures.shape} and type {failures.dtype}. Expected one bool for each of the "
            f"{n_pairs} pairs, e.g. margins <= threshold."
        )
    return failures


def _check_margin_fail(margin_fail, margin):
    if margin_fail is None:
        raise ValueError(
            "Found failures without margin_fail. Expected their required margin, above margin: 2 * margin."
        )
    margin_fail = _check_number("margin_fail", margin_fail)
    if margin_fail <= margin:
        raise ValueError(
            f"Found margin_fail={margin_fail:g} and margin={margin:g}. Expected margin_fail > margin: failures get the "
            "stricter constraint."
        )
    return margin_fail


def _span(values):
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
