"""Which pairs should people judge next? `suggest_pairs` chooses them, for whoever pays for judgments."""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..pairs import check_pairs, is_pairs, read_texts, split_pairs
from .fitted import check_number, split_pipeline
from .greedy import choose_by_distance, choose_by_posterior
from .uncertainty import LaplaceReward

STRATEGIES = ("information", "uncertainty", "diversity", "random")
MAX_PAIRS = 500_000  # candidates; 384 features of so many take 0.7 GiB
_BLOCK = 10_000  # pairs whose outputs are compared at once


class Suggestions(NamedTuple):
    """What `suggest_pairs` returns.

    Attributes
    ----------
    pairs : ndarray of shape (n,) or (n, 2)
        Rows of ``candidates`` in the order of the choice; with ``groups``, the rows of the two outputs of each pair.
    scores : ndarray of shape (n,)
        What the strategy maximized, when each pair was chosen; NaN for "random".
    n_judged : int
        Candidates that were left out, because they are judged already.
    n_identical : int
        Candidates that were left out, because both outputs have the same features (or texts).
    """

    pairs: np.ndarray
    scores: np.ndarray
    n_judged: int
    n_identical: int


def suggest_pairs(
    estimator, candidates, n, *, strategy="information", groups=None, judged=None, cost=None, random_state=None
):
    r"""Choose the next pairs to judge.

    The pairs are chosen one after another. After each choice, the variances of all margins are what they will be when
    the chosen pair is judged, and copies of the pair come last.

    Parameters
    ----------
    estimator : fitted LaplaceReward, Pipeline that ends in one, or sequence of fitted estimators
        The reward. A sequence is an ensemble of at least two rewards, such as fits to bootstrap samples. "diversity"
        and "random" need no uncertainty: any Pipeline will do, and None for features.
    candidates : array-like of shape (n_pairs, 2, n_features) or (n_pairs, 2), or table
        Pairs, as features, or as texts for a Pipeline. With ``groups``: outputs, each a row.
    n : int >= 1
        Number of pairs to choose.
    strategy : {"information", "uncertainty", "diversity", "random"}, default="information"
        See Notes.
    groups : array-like of shape (n_outputs,), default=None
        The prompt of each output. The candidates are then all pairs of outputs of a group.
    judged : array-like of shape (n_judged,) or (n_judged, 2), default=None
        Candidates that are judged already, written as ``pairs`` of the result is. They are left out.
    cost : {"length"} or array-like of shape (n_rows,), default=None
        Effort of judging each row; the score is divided by it. "length": characters of both outputs of texts.
    random_state : int, RandomState instance or None, default=None
        For "random", and for what is drawn of more than 10,000 candidates.

    Returns
    -------
    suggestions : Suggestions
        ``pairs``, ``scores``, ``n_judged`` and ``n_identical``.

    Raises
    ------
    ValueError
        For an estimator without uncertainty, fewer than n candidates, more than 500,000 pairs, or bad input.

    Notes
    -----
    With the mean :math:`m_i` and the variance :math:`v_i` of the log-odds of pair i, and the covariance :math:`k_{ij}`:

    - "information": what a judgment of pair i is expected to tell about the preferences in all candidates, by the
      second-order expansion of the expected predictive information gain [1]_,
      :math:`\frac12 \sum_j k_{ij}^2 / ((v_i + s_i) (v_j + s_j))`, a mean over j in nats. The noise of a judgment,
      :math:`s_i = 1 / (p_i (1 - p_i))`, follows from the probability :math:`p_i = \sigma(m_i)`.
    - "uncertainty": the probability that the reward orders the pair wrongly, :math:`\Phi(-|m_i| / \sqrt{v_i})`.
    - "diversity": distance of the pair's difference of features from those of the pairs that are judged or chosen, and
      from 0, in units of features (k-center, farthest first [2]_). The order of the outputs does not matter.
    - "random": all candidates are equal. What chosen pairs are worth is measured against it.

    A judgment of pair i reduces :math:`k_{jl}` by :math:`k_{ij} k_{il} / (v_i + s_i)`. Copies, pairs whose log-odds
    correlate by more than 0.99 with those of a chosen one, come last. Of more than 10,000 candidates (or 20 n), the
    choice looks at so many, half of them those with the greatest first scores, the others drawn. The mean is over at
    most 10,000 pairs, drawn.

    References
    ----------
    .. [1] F. Bickford Smith et al. Prediction-oriented Bayesian active learning. AISTATS 2023.
    .. [2] O. Sener, S. Savarese. Active learning for convolutional neural networks: a core-set approach. ICLR 2018.

    Examples
    --------
    >>> from fairl_sk import LaplaceReward, suggest_pairs
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, temperature=0.5, random_state=0)
    >>> reward = LaplaceReward().fit(data.data[:50], data.target[:50])
    >>> chosen = suggest_pairs(reward, data.data, 10, judged=range(50))
    >>> chosen.pairs.shape, chosen.n_judged
    ((10,), 50)
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"Found strategy={strategy!r}. Expected one of {', '.join(map(repr, STRATEGIES))}.")
    n = check_number("n", n, kind=Integral)
    rng = check_random_state(random_state)
    if strategy in ("information", "uncertainty"):
        _check_uncertainty(estimator, strategy)
    pool = _Pool(estimator, candidates, groups, strategy)
    effort = pool.effort(cost)
    judged = pool.positions(judged)
    free, different = np.ones(len(pool.sides), dtype=bool), pool.different()
    free[judged] = False
    rows = np.flatnonzero(free & different)
    n_identical = int(free.sum()) - len(rows)
    if n > len(rows):
        raise ValueError(
            f"Found n={n}, but {len(rows)} of {len(free)} candidate pairs are left: {len(judged)} are judged already, "
            f"{n_identical} have two equal outputs. Expected n of at most {len(rows)}, or more candidates."
        )
    if strategy == "random":
        chosen, scores = rng.permutation(len(rows))[:n], np.full(n, np.nan)
    elif strategy == "diversity":
        chosen, scores = choose_by_distance(pool.differences(rows), pool.differences(judged), n, effort[rows])
    else:
        mean, factor = pool.log_odds(rows)
        chosen, scores = choose_by_posterior(mean, factor, n, effort[rows], strategy, rng)
    return Suggestions(pool.names(rows[chosen]), scores, len(judged), n_identical)


def _check_uncertainty(estimator, strategy):
    """Refuse a reward without standard deviations."""
    if isinstance(estimator, (list, tuple)):
        if len(estimator) < 2:
            raise ValueError(f"Found an ensemble of {len(estimator)}. Expected at least two fitted estimators.")
        for member in estimator:
            check_is_fitted(member)
        return
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    if not isinstance(last, LaplaceReward):
        raise ValueError(
            f"Found {type(last).__name__}, whose margins have no standard deviations, for strategy={strategy!r}. "
            "Expected a LaplaceReward, a Pipeline that ends in one, or a sequence of fitted estimators (an ensemble). "
            "A fitted linear reward is wrapped by LaplaceReward(FrozenEstimator(reward)).fit(X, y), with its training "
            "pairs; 'diversity' and 'random' need no uncertainty."
        )
    check_is_fitted(last)


class _Pool:
    """Candidate pairs: the rows of their outputs (``sides``), and features or texts of the outputs."""

    def __init__(self, estimator, candidates, groups, strategy):
        texts = None if getattr(candidates, "ndim", 0) == 3 else read_texts(candidates)
        self.estimator, self.lengths, self.grouped = estimator, None, groups is not None
        if texts is not None:
            self.lengths = np.vectorize(len, otypes=[float])(texts).ravel()
        if isinstance(estimator, (list, tuple)) and strategy != "diversity":
            values = self.rewards(estimator, candidates)
        elif texts is not None and strategy == "random":
            values = np.unique(texts, return_inverse=True)[1].reshape(*texts.shape, 1)
        else:
            if texts is not None and not isinstance(estimator, Pipeline):
                raise ValueError(
                    f"Found texts as candidates for {type(estimator).__name__}, which reads features. Expected a "
                    "fitted Pipeline that starts with a step from texts to features."
                )
            self.estimator, values = split_pipeline(estimator, candidates)
            checked = {"estimator": self.estimator, "reset": False} if hasattr(self.estimator, "n_features_in_") else {}
            values = check_pairs(values, **checked)
        paired = values.ndim == 3
        if paired == self.grouped:
            found = f"{'pairs' if paired else 'outputs'} {'with' if self.grouped else 'without'} groups"
            raise ValueError(f"Found {found}. Expected pairs without groups, or outputs with the group of each.")
        self.outputs = values.reshape(-1, values.shape[-1])
        self.sides = _pairs_within(groups, len(values)) if self.grouped else np.arange(2 * len(values)).reshape(-1, 2)

    @staticmethod
    def rewards(members, candidates):
        """Log-odds of the outputs by each member of an ensemble, (n_pairs, 2, n_members) or (n_outputs, n_members)."""
        paired = is_pairs(candidates)
        outputs = split_pairs(candidates) if paired else candidates
        values = np.stack([_log_odds(member, outputs) for member in members], axis=-1)
        return values.reshape(-1, 2, len(members)) if paired else values

    def effort(self, cost):
        """Cost of each pair, (n_pairs,)."""
        if cost is None:
            return np.ones(len(self.sides))
        if isinstance(cost, str) and cost == "length":
            if self.lengths is None:
                raise ValueError(
                    "Found cost='length' for features. Expected texts as candidates, or a cost for each row."
                )
            return np.maximum(self.lengths[self.sides].sum(axis=1), 1)
        n_rows = len(self.outputs) if self.grouped else len(self.sides)
        values = np.asarray(cost, dtype=float) if not isinstance(cost, str) else np.empty(0)
        if values.shape != (n_rows,) or not np.isfinite(values).all() or (values <= 0).any():
            raise ValueError(
                f"Found cost={cost!r:.60}. Expected 'length', or {n_rows} numbers above 0, one for each row."
            )
        return values[self.sides].sum(axis=1) if self.grouped else values

    def positions(self, judged):
        """Positions in ``sides`` of judged pairs, which the user writes as `names` does."""
        judged = np.empty(0, dtype=int) if judged is None else np.asarray(judged)
        if not judged.size:
            return judged.ravel().astype(int)
        n_rows = len(self.outputs) if self.grouped else len(self.sides)
        shape = "(n_judged, 2)" if self.grouped else "(n_judged,)"
        if judged.dtype.kind not in "iu" or judged.shape[1:] != ((2,) if self.grouped else ()):
            raise ValueError(f"Found judged of shape {judged.shape}. Expected rows of candidates, {shape}.")
        if judged.min() < 0 or judged.max() >= n_rows:
            found = judged.min() if judged.min() < 0 else judged.max()
            raise ValueError(f"Found row {found} in judged. Expected rows of candidates, from 0 to {n_rows - 1}.")
        if not self.grouped:
            return np.unique(judged)
        known = {tuple(pair): position for position, pair in enumerate(self.sides.tolist())}
        pairs = {tuple(sorted(pair)) for pair in judged.tolist()}
        if unknown := pairs - known.keys():
            raise ValueError(f"Found {min(unknown)} in judged. Expected the rows of two outputs of one group.")
        return np.array(sorted(known[pair] for pair in pairs))

    def names(self, positions):
        """The pairs at these positions, as the user reads them."""
        return self.sides[positions] if self.grouped else positions

    def different(self):
        """Whether the outputs of each pair differ, (n_pairs,)."""
        blocks = (self.sides[start : start + _BLOCK].T for start in range(0, len(self.sides), _BLOCK))
        unequal = [(self.outputs[first] != self.outputs[second]).any(axis=1) for first, second in blocks]
        return np.concatenate(unequal)

    def differences(self, positions):
        """First minus second output, (n_positions, n_features), float32."""
        first, second = self.sides[positions].T
        outputs = self.outputs.astype(np.float32, copy=False)
        return outputs[first] - outputs[second]

    def log_odds(self, positions):
        """Mean log-odds (n_positions,) and a factor (n_positions, k): its rows' products are the covariances."""
        differences = self.differences(positions)
        if isinstance(self.estimator, (list, tuple)):
            mean = differences.mean(axis=1)
            return mean, (differences - mean[:, None]) / np.sqrt(differences.shape[1] - 1)
        reward = self.estimator
        root = np.linalg.cholesky(reward.covariance_)
        root = np.column_stack([root, reward.deviation_]) / reward.temperature_
        mean = differences @ (reward.coef_ / reward.temperature_).astype(np.float32)
        return mean, differences @ root.astype(np.float32)


def _log_odds(member, outputs):
    """Rewards over the temperature, (n_outputs,)."""
    last = member[-1] if isinstance(member, Pipeline) else member
    last = getattr(last, "best_estimator_", last)
    return member.decision_function(outputs) / getattr(last, "temperature_", getattr(last, "temperature", 1.0))


def _pairs_within(groups, n_outputs):
    """All pairs of outputs of a group, (n_pairs, 2), the smaller row first."""
    groups = np.asarray(groups)
    if groups.shape != (n_outputs,):
        raise ValueError(f"Found groups of shape {groups.shape} for {n_outputs} outputs. Expected one for each.")
    codes = np.unique(groups.astype(str) if groups.dtype.kind == "O" else groups, return_inverse=True)[1]
    sizes = np.bincount(codes)
    n_pairs = int((sizes * (sizes - 1) // 2).sum())
    if not 0 < n_pairs <= MAX_PAIRS:
        found = f"{n_outputs} outputs in {len(sizes)} groups, which make {n_pairs} pairs"
        raise ValueError(
            f"Found {found}. Expected between 1 and {MAX_PAIRS} pairs: give other groups or fewer outputs."
        )
    rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
    return np.concatenate([members[np.stack(np.triu_indices(len(members), 1), axis=1)] for members in rows])
