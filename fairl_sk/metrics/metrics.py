"""How good a reward is, and how sure one can be: distances, scores, scorers, intervals and nulls.

For whoever evaluates a reward. Everything here works on arrays of rewards (``(n_pairs, 2)`` for pairs,
``(n_outputs,)`` for single outputs); only the scorers at the end know about estimators. Rewards are in any
unit, higher is better, and a margin is R(first) - R(second) of one pair.

Each metric exists once, as a function of the row weights (a ``_prepare_...``): the public function evaluates
it at the sample weights, and the bootstrap at the sample weights times how often each group was drawn.
"""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.model_selection import GroupKFold, KFold
from sklearn.utils import _safe_indexing, check_random_state  # private: rows of an array, a list or a table
from sklearn.utils.metadata_routing import UNUSED, _MetadataRequester  # private: gives set_score_request

from ..pairs import is_pairs, preference_sign, read_texts, stack_outputs

__all__ = [
    "BootstrapInterval",
    "bootstrap_difference",
    "bootstrap_interval",
    "check_split",
    "longer_null",
    "make_starc_scorer",
    "output_auc_score",
    "output_auc_scorer",
    "output_f1_score",
    "output_f1_scorer",
    "pair_accuracy",
    "pair_accuracy_scorer",
    "pair_log_loss",
    "pair_log_loss_scorer",
    "prompt_only_null",
    "shorter_null",
    "shuffled_labels_null",
    "starc_distance",
    "tabular_dard",
    "tabular_epic",
    "tabular_starc",
]

# A deviation from the group's mean below this many units in the last place of the reward itself is rounding.
_ROUNDING_ULPS = 16

# The same for the canonical rewards of a finite MDP, which are sums of many terms of the reward's size.
_CANONICAL_ULPS = 1000

# A draw of the bootstrap that has no score is dropped; above this share the interval deserves a warning.
_MAX_DEGENERATE = 0.05


# -- What goes in ------------------------------------------------------------------------------------------


def _check_rewards(rewards, name, *, pairs_allowed=True):
    """Finite rewards of shape (n_outputs,) or (n_pairs, 2), in their own floating type (else float64)."""
    rewards = np.asarray(rewards)
    if rewards.dtype.kind not in "biuf":
        try:
            rewards = rewards.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} holds {rewards.dtype} values, but expected real numbers.") from error
    if rewards.dtype.kind != "f":
        rewards = rewards.astype(np.float64)
    if rewards.ndim != 1 and not (pairs_allowed and rewards.ndim == 2 and rewards.shape[1] == 2):
        expected = "(n_outputs,) or (n_pairs, 2)" if pairs_allowed else "(n_pairs,)"
        raise ValueError(
            f"Got {name} of shape {rewards.shape}, but expected {expected}. Reshape it, one row a pair or an output."
        )
    if len(rewards) == 0:
        raise ValueError(f"Got {name} without rows, but expected at least one. Check how the rows were selected.")
    bad = ~np.isfinite(rewards)
    if bad.any():
        raise ValueError(
            f"{name} holds {bad.sum()} values that are not finite (the first in row "
            f"{np.argwhere(bad)[0][0]}), but expected finite numbers. Drop those rows or repair the reward."
        )
    return rewards


def _check_weights(weights, shape, name):
    """Weights >= 0 with a positive sum, of shape (n_rows,), or of the rewards' shape; ones where None."""
    if weights is None:
        return np.ones(shape[0])
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape not in (shape, shape[:1]):
        raise ValueError(
            f"Got {name} of shape {weights.shape}, but expected {shape[:1]}: one weight a row of the rewards."
        )
    if not np.isfinite(weights).all() or (weights < 0).any() or not (weights > 0).any():
        raise ValueError(
            f"{name} ranges from {weights.min()} to {weights.max()}, but expected finite weights >= 0 that "
            f"are not all 0. Leave {name} out to weigh all rows alike."
        )
    return weights / weights.max()  # no metric depends on the scale, and huge weights must not overflow


def _check_groups(groups, n_rows, name="groups"):
    """The distinct groups and, for each row, the number of its group."""
    groups = np.asarray(groups)
    if groups.shape != (n_rows,):
        raise ValueError(
            f"Got {name} of shape {groups.shape}, but expected ({n_rows},): the prompt (or any name of the "
            "group) of each row."
        )
    try:
        return np.unique(groups, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"Got {name} that cannot be sorted ({error}), but expected names of one type. Fill missing ones."
        ) from error


def _per_output(values, n_outputs):
    """Values of the rows as values of the outputs: the two outputs of a pair share their row's."""
    return values.ravel() if values.size == n_outputs else np.repeat(values, 2)


def _output_labels(y_true, rewards, output_labels):
    """1.0 for the desirable outputs and 0.0 for the others, shape (n_outputs,)."""
    if output_labels is not None:
        return _check_output_labels(output_labels, rewards.shape)
    if rewards.ndim == 2:
        return _chosen(preference_sign(y_true, len(rewards)))
    if y_true is None:
        raise ValueError(
            "Got y_true=None with the rewards of single outputs, but expected one label an output. "
            "Pass y_true or output_labels, or rewards of shape (n_pairs, 2) to compare chosen with rejected."
        )
    return (preference_sign(y_true, len(rewards)) > 0).astype(np.float64)


def _check_output_labels(output_labels, shape):
    labels = np.asarray(output_labels)
    if labels.shape != shape or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"Got output_labels of shape {labels.shape} with the values {np.unique(labels)[:5].tolist()}, "
            f"but expected shape {shape} and 1 for desirable outputs, 0 for others. Threshold scores first."
        )
    return labels.astype(np.float64).ravel()


def _chosen(signs):
    """Labels of the outputs of pairs, first then second: 1.0 for the preferred one."""
    first = (signs > 0).astype(np.float64)
    return np.column_stack([first, 1.0 - first]).ravel()


# -- The metrics, each as a function of the row weights ----------------------------------------------------


class _Prepared(NamedTuple):
    """A metric on checked data: `evaluate` maps weights, shape `shape` or `shape[:1]`, to a number or nan."""

    shape: tuple
    evaluate: Callable

    def __call__(self, weights, name):
        return float(self.evaluate(_check_weights(weights, self.shape, name)))


def _prepare_pair_accuracy(y_true, margins):
    margins = _check_rewards(margins, "margins", pairs_allowed=False)
    oriented = margins * preference_sign(y_true, len(margins))
    credit = (oriented > 0) + 0.5 * (oriented == 0)
    return _Prepared(margins.shape, lambda weights: weights @ credit / weights.sum())


def _prepare_pair_log_loss(y_true, margins):
    margins = _check_rewards(margins, "margins", pairs_allowed=False)
    oriented = margins * preference_sign(y_true, len(margins))

    def evaluate(weights):
        counted = weights > 0
        weights, own = weights[counted] / weights[counted].sum(), oriented[counted]
        sizes = np.abs(own[own != 0])
        if not len(sizes):
            return np.log(2)
        own = own / sizes.max()
        # from where all margins are as good as none to where the least of them is large
        bounds = (-10, min(700, 10 + np.log(sizes.max()) - np.log(sizes.min())))

        def loss(log_scale):
            return weights @ np.logaddexp(0, -np.exp(log_scale) * own)

        return min(np.log(2), minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).fun)

    return _Prepared(margins.shape, evaluate)


def _prepare_output_f1(y_true, rewards, *, output_labels=None):
    rewards = _check_rewards(rewards, "rewards")
    labels = _output_labels(y_true, rewards, output_labels)
    predicted = (rewards.ravel() > 0).astype(np.float64)
    return _Prepared(rewards.shape, partial(_f1, labels, predicted, labels * predicted))


def _f1(labels, predicted, both, weights):
    weights = _per_output(weights, len(labels))
    positive, total = weights @ labels, weights.sum()
    if not 0 < positive < total:
        return np.nan
    return 2 * (weights @ both) / (positive + weights @ predicted)  # 2 TP / (2 TP + FN + FP)


def _prepare_output_auc(y_true, rewards, *, output_labels=None):
    rewards = _check_rewards(rewards, "rewards")
    labels = _output_labels(y_true, rewards, output_labels)
    order = np.argsort(rewards, axis=None, kind="stable")
    ordered = rewards.ravel()[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # of each run of tied rewards
    return _Prepared(rewards.shape, partial(_auc, labels[order], order, starts))


def _auc(labels, order, starts, weights):
    weights = _per_output(weights, len(labels))[order]
    positive = np.add.reduceat(weights * labels, starts)
    negative = np.add.reduceat(weights * (1.0 - labels), starts)
    if not (positive.any() and negative.any()):
        return np.nan
    below = np.cumsum(negative) - negative / 2  # ties count one half
    return positive @ below / (positive.sum() * negative.sum())


def _prepare_starc(reward_a, reward_b, *, groups=None, norm=2):
    reward_a, reward_b = _check_rewards(reward_a, "reward_a"), _check_rewards(reward_b, "reward_b")
    if reward_a.shape != reward_b.shape:
        raise ValueError(
            f"Got reward_a of shape {reward_a.shape} and reward_b of shape {reward_b.shape}, but expected "
            "the same shape. Evaluate both rewards on the same outputs."
        )
    _check_norm(norm)
    codes = _prompt_codes(groups, reward_a.shape)
    _, origin = np.unique(codes, return_index=True)
    sides = [_from_origin(reward, origin[codes]) for reward in (reward_a, reward_b)]
    return _Prepared(reward_a.shape, partial(_starc, sides, codes, norm))


def _check_norm(norm):
    if norm not in (1, 2, np.inf):
        raise ValueError(f"Got norm={norm!r}, but expected 1, 2 or numpy.inf.")


def _prompt_codes(groups, shape):
    """For each output the number of its prompt, shape (n_outputs,)."""
    n_outputs = int(np.prod(shape))
    if groups is None:
        return np.zeros(n_outputs, dtype=np.intp)
    if isinstance(groups, str):
        if groups != "pairs" or len(shape) == 1:
            raise ValueError(
                f"Got groups={groups!r} for rewards of shape {shape}, but expected None, an array, or "
                "'pairs' with rewards of shape (n_pairs, 2)."
            )
        return np.repeat(np.arange(shape[0]), 2)
    return _per_output(_check_groups(groups, shape[0])[1], n_outputs)


def _from_origin(reward, origin):
    """Reward counted from its group's first output, and the size below which a deviation is rounding.

    Counting from an output of the group makes a constant exactly 0, so no mean of large equal numbers is ever
    taken; dividing by the largest value first keeps differences of huge rewards finite.
    """
    precision = max(np.finfo(reward.dtype).eps, np.finfo(np.float64).eps)
    reward = reward.ravel().astype(np.float64)
    reward = reward / (np.abs(reward).max() or 1.0)
    rounding = _ROUNDING_ULPS * precision * np.maximum(np.abs(reward), np.abs(reward[origin]))
    return reward - reward[origin], rounding


def _starc(sides, codes, norm, weights):
    weights = _per_output(weights, len(codes))
    keep = weights > 0
    weights, codes = weights[keep], codes[keep]
    first, second = (
        _standardised(_centred(reward[keep], rounding[keep], codes, weights), weights, norm)
        for reward, rounding in sides
    )
    return min(1.0, _norm(first - second, weights, norm) / 2)


def _centred(reward, rounding, codes, weights):
    """c(R): the reward minus the weighted mean of its group; what is no more than rounding becomes 0."""
    total = np.bincount(codes, weights)
    mean = np.bincount(codes, weights * reward) / np.where(total > 0, total, 1.0)
    centred = reward - mean[codes]
    centred[np.abs(centred) <= rounding] = 0.0
    return centred


def _standardised(centred, weights, norm):
    """s(R) = c(R) / |c(R)|, or 0 where c(R) is 0."""
    largest = np.abs(centred).max()
    if largest == 0:
        return centred
    centred = centred / largest  # so that no square underflows
    return centred / _norm(centred, weights, norm)


def _norm(values, weights, norm):
    """Weighted norm: (sum w |v|^p)^(1/p), or the largest |v|."""
    if norm == np.inf:
        return np.abs(values).max()
    return weights @ np.abs(values) if norm == 1 else np.sqrt(weights @ values**2)


# -- The metrics, for users --------------------------------------------------------------------------------


def starc_distance(reward_a, reward_b, *, groups=None, weights=None, norm=2):
    r"""STARC distance between two rewards on a sample of outputs.

    A language model that answers a prompt is a contextual bandit, where the only potential shaping is an
    offset of each prompt. The distance removes offset and scale and compares what is left:

    .. math:: d(R_a, R_b) = \tfrac12 \lVert s(R_a) - s(R_b) \rVert, \quad s(R) = c(R) / \lVert c(R) \rVert,

    where :math:`c(R)` is R minus its mean over the outputs of the same prompt (theory, eq. 9 and 10).

    Parameters
    ----------
    reward_a, reward_b : array-like of shape (n_outputs,) or (n_pairs, 2)
        The two rewards of the same outputs, each in its own unit.
    groups : array-like of shape (n_outputs,) or (n_pairs,), "pairs" or None, default=None
        The prompt of each row; rows with equal values share a mean. ``"pairs"``: each pair is a prompt of its
        own (rewards of shape (n_pairs, 2) only). None: **the global mean** over all outputs, in both layouts.
    weights : array-like of shape (n_outputs,), (n_pairs,) or (n_pairs, 2), default=None
        Weight of each row (or of each output) in means and norms, >= 0; an integer weight is a repetition.
    norm : {1, 2, numpy.inf}, default=2
        The norm; 1 forgives, and ``inf`` punishes, few large disagreements. Weights enter ``inf`` only by
        being 0 or not (and through the means).

    Returns
    -------
    float
        Distance in [0, 1]: 0 for rewards that differ by a positive scale and by offsets of the prompts, and,
        in every norm, 1 for opposite ones. A reward that is constant within every prompt has norm 0: it is at
        distance 0 from another such reward and at 1/2 from every other. Never NaN. A deviation of at most 16
        units in the last place of the reward (in its own floating type) counts as constant.

    Raises
    ------
    ValueError
        If shapes differ, a reward is not finite, weights are negative or all 0, or `norm` is unknown.

    Notes
    -----
    With the global mean and norm 2 it is :math:`\sqrt{(1-\rho)/2}` with Pearson's :math:`\rho`, the form of
    EPIC [2]_; with one pair a prompt it depends only on the cosine of the two margin vectors. It is a
    pseudometric [1]_. Which outputs are in the sample matters: compare distances on the same outputs only.

    References
    ----------
    .. [1] Skalse et al., "STARC: A General Framework For Quantifying Differences Between Reward Functions",
           ICLR 2024. Definitions of c, s and d.
    .. [2] Gleave et al., "Quantifying Differences in Reward Functions", ICLR 2021.

    Examples
    --------
    >>> from fairl_sk.metrics import starc_distance
    >>> truth = [[2.0, 0.0], [1.0, 0.0]]
    >>> starc_distance(truth, [[7.0, 3.0], [1.0, -1.0]], groups="pairs")  # twice the margins
    0.0
    >>> round(starc_distance(truth, [[0.0, 2.0], [0.0, 1.0]], groups="pairs"), 3)  # the sides swapped
    1.0
    >>> starc_distance(truth, [[5.0, 5.0], [5.0, 5.0]])  # a constant
    0.5
    """
    return _prepare_starc(reward_a, reward_b, groups=groups, norm=norm)(weights, "weights")


def pair_accuracy(y_true, margins, *, sample_weight=None):
    """Share of pairs whose preferred output has the higher reward; ties count one half.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,) or None
        Two classes, the larger meaning that the first output is preferred; None: it always is.
    margins : array-like of shape (n_pairs,)
        R(first) - R(second), as ``decision_function`` gives it for pairs.
    sample_weight : array-like of shape (n_pairs,), default=None
        Weight of each pair, >= 0.

    Returns
    -------
    float
        In [0, 1]; a constant reward has 1/2.

    Raises
    ------
    ValueError
        If shapes disagree, a margin is not finite, or weights are negative or all 0.

    Examples
    --------
    >>> from fairl_sk.metrics import pair_accuracy
    >>> pair_accuracy(None, [1.5, 0.0, -2.0, 0.3])
    0.625
    >>> pair_accuracy([1, 0], [1.5, -2.0])
    1.0
    """
    return _prepare_pair_accuracy(y_true, margins)(sample_weight, "sample_weight")


def pair_log_loss(y_true, margins, *, sample_weight=None):
    """Log-loss of the order of pairs, at the scale of the reward that has the least.

    A reward's scale is no part of what is learned from preferences: max-margin sets it by its required margin, the
    penalty shrinks it. Less is better. Two rewards that order as many pairs rightly differ in it if one of them errs by
    less, so that a cross-validation on some hundred pairs tells them apart.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,) or None
        Two classes, the larger meaning that the first output is preferred; None: it always is.
    margins : array-like of shape (n_pairs,)
        R(first) - R(second), as ``decision_function`` gives it for pairs.
    sample_weight : array-like of shape (n_pairs,), default=None
        Weight of each pair, >= 0.

    Returns
    -------
    float
        The mean of log(1 + exp(-s * margin)), in nats, in favour of the preferred sides and at the best s > 0; at most
        log 2, which a constant or a turned reward has.

    Raises
    ------
    ValueError
        If shapes disagree, a margin is not finite, or weights are negative or all 0.

    Examples
    --------
    >>> from fairl_sk.metrics import pair_log_loss
    >>> margins = [2.0, 1.0, -0.1, 3.0]
    >>> round(pair_log_loss(None, margins), 3), round(pair_log_loss(None, [10 * m for m in margins]), 3)
    (0.226, 0.226)
    >>> round(pair_log_loss(None, [2.0, 1.0, -0.9, 3.0]), 3)
    0.432
    """
    return _prepare_pair_log_loss(y_true, margins)(sample_weight, "sample_weight")


def output_f1_score(y_true, rewards, *, output_labels=None, sample_weight=None):
    """F1 of "the reward is above 0" as a prediction of the desirable outputs.

    The positive class is the desirable one: the chosen output of a pair, or the label 1. It depends on the
    offset of the reward, which pairs do not identify; estimators of this package set it from their training
    outputs.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,) or (n_outputs,), or None
        For pairs: two classes, the larger meaning that the first output is preferred; None: it always is. For
        single outputs: two classes, the larger the desirable one. Ignored where `output_labels` are given.
    rewards : array-like of shape (n_pairs, 2) or (n_outputs,)
        Reward of each output; an output is predicted desirable where it is > 0.
    output_labels : array-like of the shape of `rewards`, default=None
        1 for the desirable outputs (non-toxic, say) and 0 for others, instead of chosen against rejected.
    sample_weight : array-like of shape (n_pairs,) or (n_outputs,), default=None
        Weight of each row, >= 0; both outputs of a pair get it.

    Returns
    -------
    float
        In [0, 1]; nan, with an `UndefinedMetricWarning`, where all outputs have the same label.

    Raises
    ------
    ValueError
        If shapes disagree, a reward is not finite, a label is not 0 or 1, or weights are negative or all 0.

    See Also
    --------
    sklearn.metrics.f1_score : The same number, from flat labels and predictions.

    Examples
    --------
    >>> from fairl_sk.metrics import output_f1_score
    >>> rewards = [[1.0, -1.0], [2.0, 0.5]]
    >>> output_f1_score(None, rewards)
    0.8
    >>> output_f1_score(None, rewards, output_labels=[[1, 0], [1, 1]])
    1.0
    """
    prepared = _prepare_output_f1(y_true, rewards, output_labels=output_labels)
    return _warn_one_class("output_f1_score", prepared(sample_weight, "sample_weight"))


def output_auc_score(y_true, rewards, *, output_labels=None, sample_weight=None):
    """Area under the ROC curve of the reward: how well it ranks desirable outputs above others.

    Parameters
    ----------
    y_true, output_labels, sample_weight
        See `output_f1_score`.
    rewards : array-like of shape (n_pairs, 2) or (n_outputs,)
        Reward of each output; only its order matters.

    Returns
    -------
    float
        In [0, 1], the chance that a desirable output has a higher reward than another one, ties counting one
        half; nan, with an `UndefinedMetricWarning`, where all outputs have the same label.

    Raises
    ------
    ValueError
        See `output_f1_score`.

    See Also
    --------
    sklearn.metrics.roc_auc_score : The same number, from flat labels and scores.

    Examples
    --------
    >>> from fairl_sk.metrics import output_auc_score
    >>> output_auc_score(None, [[1.0, -1.0], [2.0, 1.5]])
    0.75
    """
    prepared = _prepare_output_auc(y_true, rewards, output_labels=output_labels)
    return _warn_one_class("output_auc_score", prepared(sample_weight, "sample_weight"))


def _warn_one_class(name, score):
    if np.isnan(score):
        warnings.warn(
            f"{name} is nan: all outputs (of positive weight) have the same label, but it needs desirable "
            "and other ones. Score more outputs, or outputs of both labels.",
            UndefinedMetricWarning,
            stacklevel=3,
        )
    return score


# -- Intervals ---------------------------------------------------------------------------------------------


# Each metric that the bootstrap knows, with its form as a function of the weights and their parameter's name.
_METRICS = (
    (pair_accuracy, _prepare_pair_accuracy, "sample_weight"),
    (pair_log_loss, _prepare_pair_log_loss, "sample_weight"),
    (output_f1_score, _prepare_output_f1, "sample_weight"),
    (output_auc_score, _prepare_output_auc, "sample_weight"),
    (starc_distance, _prepare_starc, "weights"),
)


class BootstrapInterval(NamedTuple):
    """A score with its confidence interval; see `bootstrap_interval`.

    Attributes
    ----------
    estimate : float
        The score on all rows.
    low, high : float
        Ends of the interval.
    std : float
        Standard deviation of the draws, the standard error of the estimate.
    n_groups : int
        Number of groups that were resampled.
    n_valid : int
        Number of draws that have a score; the others were dropped.

    Examples
    --------
    >>> from fairl_sk.metrics import BootstrapInterval
    >>> BootstrapInterval(0.8, 0.7, 0.9, 0.05, n_groups=40, n_valid=1000).high
    0.9
    """

    estimate: float
    low: float
    high: float
    std: float
    n_groups: int
    n_valid: int


def bootstrap_interval(
    statistic, *arrays, groups, n_resamples=1000, confidence_level=0.95, random_state=None, metric_params=None
):
    """Score with a percentile interval from a bootstrap over groups.

    Whole groups (prompts) are drawn with replacement, since the pairs of one prompt are not independent. A
    draw is evaluated as sample weights, so no row is copied (theory, eq. 11).

    Parameters
    ----------
    statistic : str or callable
        "pair_accuracy", "output_f1_score", "output_auc_score", "starc_distance", one of these functions, or
        any ``statistic(*arrays, sample_weight=..., **metric_params)`` that returns a number. The named ones
        take less than a millisecond a draw on 20,000 rows.
    *arrays : array-like of shape (n_rows, ...)
        What the statistic takes, for instance ``y, margins`` or ``reward_a, reward_b``.
    groups : array-like of shape (n_rows,) or None
        Group of each row: its prompt. None says that the rows are independent. Groups are to hold whole
        prompts.
    n_resamples : int, default=1000
        Number of draws; more makes the ends of the interval less random.
    confidence_level : float in (0, 1), default=0.95
        Chance that the interval covers the score, over repeated samples of many groups.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    metric_params : dict, default=None
        Further keyword arguments of the statistic, its weights among them (``sample_weight``; for
        `starc_distance` ``weights``, and ``groups`` for the prompts it centres on).

    Returns
    -------
    BootstrapInterval
        Named tuple (estimate, low, high, std, n_groups, n_valid). Draws without a score (all outputs of one
        label, say) are dropped and counted; all ends are nan where none is left.

    Warns
    -----
    UserWarning
        If more than 5 % of the draws have no score.

    Raises
    ------
    ValueError
        If there are fewer than two groups, or a parameter or an array is not valid.
    TypeError
        If a callable takes no `sample_weight`.

    Examples
    --------
    >>> from fairl_sk.metrics import bootstrap_interval
    >>> margins = [1.0, 2.0, -1.0, 0.5, 1.5, -0.5, 1.0, 3.0]
    >>> prompts = ["a", "a", "b", "b", "c", "c", "d", "d"]
    >>> interval = bootstrap_interval("pair_accuracy", None, margins, groups=prompts, random_state=0)
    >>> interval.estimate, interval.low, interval.high
    (0.75, 0.5, 1.0)
    """
    prepared, base = _prepare(statistic, arrays, metric_params)
    return _bootstrap(prepared.evaluate, base, groups, n_resamples, confidence_level, random_state)


def bootstrap_difference(
    statistic, arrays_a, arrays_b, *, groups, n_resamples=1000, confidence_level=0.95, random_state=None,
    metric_params=None,
):  # fmt: skip
    """Difference of a score between two rewards on the same rows, with a paired bootstrap interval.

    Both rewards are scored on the same draws, so that what they share cancels: the interval of the difference
    is usually much narrower than the two intervals suggest.

    Parameters
    ----------
    statistic : str or callable
        See `bootstrap_interval`.
    arrays_a, arrays_b : tuple of array-like
        What the statistic takes, for each of the two, for instance ``(y, margins_a)`` and ``(y, margins_b)``.
    groups, n_resamples, confidence_level, random_state, metric_params
        See `bootstrap_interval`.

    Returns
    -------
    BootstrapInterval
        Of ``statistic(*arrays_a) - statistic(*arrays_b)``.

    Warns
    -----
    UserWarning
        See `bootstrap_interval`.

    Raises
    ------
    ValueError
        If the two have different numbers of rows; else see `bootstrap_interval`.

    Examples
    --------
    >>> from fairl_sk.metrics import bootstrap_difference
    >>> good, bad = [1.0, 2.0, 1.0, 0.5], [1.0, -2.0, 1.0, -0.5]
    >>> arrays = (None, good), (None, bad)
    >>> gain = bootstrap_difference("pair_accuracy", *arrays, groups=[0, 1, 2, 3], random_state=0)
    >>> gain.estimate
    0.5
    """
    first, base = _prepare(statistic, arrays_a, metric_params)
    second, _ = _prepare(statistic, arrays_b, metric_params)
    if first.shape[0] != second.shape[0]:
        raise ValueError(
            f"Got {first.shape[0]} rows in arrays_a and {second.shape[0]} in arrays_b, but expected the same rows."
        )

    def difference(weights):
        return first.evaluate(weights) - second.evaluate(weights)

    return _bootstrap(difference, base, groups, n_resamples, confidence_level, random_state)


def _prepare(statistic, arrays, metric_params):
    """The statistic as a function of row weights, and the weights that rows have before resampling."""
    params = dict(metric_params or {})
    for metric, prepare, weight_name in _METRICS:
        if statistic is metric or statistic == metric.__name__:
            base = params.pop(weight_name, None)
            prepared = prepare(*arrays, **params)
            return prepared, _check_weights(base, prepared.shape, weight_name)
    if not callable(statistic):
        names = [metric.__name__ for metric, *_ in _METRICS]
        raise ValueError(f"Got statistic={statistic!r}, but expected a callable or one of {names}.")
    base = params.pop("sample_weight", None)
    prepared = _prepare_callable(statistic, arrays, params)
    return prepared, _check_weights(base, prepared.shape, "sample_weight")


def _prepare_callable(statistic, arrays, params):
    parameters = inspect.signature(statistic).parameters
    if "sample_weight" not in parameters and not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        raise TypeError(
            f"Got the statistic {statistic!r} without a parameter sample_weight, but a draw is a vector of "
            "sample weights. Wrap it in a function that takes sample_weight."
        )
    n_rows = next((len(array) for array in arrays if array is not None), None)
    if n_rows is None:
        raise ValueError("Got no array besides None, but expected at least one. Pass what the statistic takes.")

    def evaluate(weights):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)  # degenerate draws are counted instead
            return statistic(*arrays, sample_weight=weights, **params)

    return _Prepared((n_rows,), evaluate)


def _bootstrap(evaluate, base, groups, n_resamples, confidence_level, random_state):
    if not isinstance(n_resamples, Integral) or n_resamples < 1:
        raise ValueError(f"Got n_resamples={n_resamples!r}, but expected an integer >= 1.")
    if not 0 < confidence_level < 1:
        raise ValueError(f"Got confidence_level={confidence_level!r}, but expected a number between 0 and 1.")
    names, codes = _check_groups(np.arange(len(base)) if groups is None else groups, len(base))
    _require_two_groups(names, "a bootstrap over groups")
    rng = check_random_state(random_state)
    draws = np.array([evaluate(_drawn(base, codes, len(names), rng)) for _ in range(n_resamples)], dtype=float)
    valid = draws[~np.isnan(draws)]
    if len(valid) < (1 - _MAX_DEGENERATE) * n_resamples:
        warnings.warn(
            f"{n_resamples - len(valid)} of {n_resamples} bootstrap draws have no score (too few rows, or "
            "rows of one label, in most groups) and were dropped; the interval is unreliable. Use more "
            "groups.",
            UserWarning,
            stacklevel=3,
        )
    estimate = float(evaluate(base))
    if len(valid) == 0:
        return BootstrapInterval(estimate, np.nan, np.nan, np.nan, len(names), 0)
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(valid, [tail, 1 - tail])
    return BootstrapInterval(estimate, float(low), float(high), float(valid.std()), len(names), len(valid))


def _drawn(base, codes, n_groups, rng):
    """Row weights of one draw: how often each row's group was drawn, times the weight it has anyway."""
    times = np.bincount(rng.randint(n_groups, size=n_groups), minlength=n_groups)[codes]
    return base * (times if base.ndim == 1 else times[:, None])


def _require_two_groups(names, what):
    if len(names) < 2:
        raise ValueError(
            f"Got {len(names)} group ({', '.join(repr(str(name)) for name in names)}), but {what} needs at "
            "least 2. Pass the prompt of each row as groups, or a number a row where the rows are "
            "independent."
        )


# -- Nulls: rewards that know nothing of the preferences ---------------------------------------------------


def longer_null(X, unit="characters"):
    """Reward of the null "the longer output is better": lengths, minus their median.

    Put it through the same metrics as the real reward: what it scores needs no understanding.

    Parameters
    ----------
    X : array-like of str of shape (n_pairs, 2) or (n_outputs,), or DataFrame
        Pairs of texts or texts; a DataFrame has columns chosen and rejected, or completion. Where it has prompts, they
        count into the length of their outputs.
    unit : {"characters", "words"}, default="characters"
        What is counted; words are separated by white space.

    Returns
    -------
    ndarray of shape (n_pairs, 2) or (n_outputs,)
        The length minus the median length of all outputs in `X`, so that the threshold 0 of `output_f1_score`
        calls about half of them desirable. The median uses no label.

    Raises
    ------
    ValueError
        If `X` holds no texts or `unit` is unknown.

    See Also
    --------
    shorter_null : The opposite.

    Examples
    --------
    >>> from fairl_sk.metrics import longer_null, pair_accuracy
    >>> texts = [["you are kind", "no"], ["yes", "thanks a lot"]]
    >>> rewards = longer_null(texts)
    >>> pair_accuracy(None, rewards[:, 0] - rewards[:, 1])
    0.5
    """
    texts = read_texts(X)
    if texts is None:
        raise ValueError(
            f"Got X of type {type(X).__name__} that holds values other than texts, but the length null needs "
            "the texts. Pass what stands before the vectoriser, of shape (n_pairs, 2) or (n_outputs,)."
        )
    if unit not in ("characters", "words"):
        raise ValueError(f"Got unit={unit!r}, but expected 'characters' or 'words'.")
    lengths = [len(text) if unit == "characters" else len(text.split()) for text in texts.flat]
    return (np.array(lengths, dtype=float) - np.median(lengths)).reshape(texts.shape)


def shorter_null(X, unit="characters"):
    """Reward of the null "the shorter output is better": the negative of `longer_null`.

    Parameters
    ----------
    X, unit
        See `longer_null`.

    Returns
    -------
    ndarray of shape (n_pairs, 2) or (n_outputs,)
        The median length minus the length.

    Raises
    ------
    ValueError
        See `longer_null`.

    Examples
    --------
    >>> from fairl_sk.metrics import shorter_null
    >>> shorter_null(["no", "never"], unit="characters").tolist()
    [1.5, -1.5]
    """
    return -longer_null(X, unit)


def shuffled_labels_null(estimator, X, y=None, *, groups=None, X_test=None, n_splits=5, random_state=None):
    """Reward of the null "no label means anything": a clone fitted on shuffled labels.

    What it scores shows what leaks from the procedure itself. For pairs, shuffling means that in a random
    half of them the first output is called preferred (permuting `y` would keep a position bias, and do
    nothing where the first is always preferred); for single outputs, `y` is permuted.

    Parameters
    ----------
    estimator : estimator with ``fit(X, y)`` and ``decision_function``
        Cloned; a Pipeline that starts from text will do.
    X : pairs or outputs with n_rows rows
        What the estimator is fitted on.
    y : array-like of shape (n_rows,) or None, default=None
        Its labels. For pairs only its two classes are used; 0 and 1 where it is None or has one.
    groups : array-like of shape (n_rows,) or None, default=None
        Prompt of each row, kept whole by the folds; unused where `X_test` is given.
    X_test : pairs or outputs, default=None
        What to give rewards to after a fit on all of `X`. None: the rows of `X` themselves, each by a clone
        fitted on the other folds.
    n_splits : int, default=5
        Number of folds (fewer where there are fewer groups).
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffling (and of the folds where there are no groups).

    Returns
    -------
    ndarray of shape (n_pairs, 2) or (n_outputs,)
        Rewards of the outputs of `X_test`, or of `X`.

    Raises
    ------
    ValueError
        If there is only one group, or if outputs come without `y`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from fairl_sk.metrics import shuffled_labels_null
    >>> X = np.arange(20.0)[:, None]
    >>> y = (X[:, 0] > 9).astype(int)
    >>> shuffled_labels_null(LogisticRegression(), X, y, random_state=0).shape
    (20,)
    """
    rng = check_random_state(random_state)
    n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
    shuffled = _shuffled_labels(X, y, n_rows, rng)
    if X_test is not None:
        return _output_rewards(clone(estimator).fit(X, shuffled), X_test)
    rewards = np.empty((n_rows, 2) if is_pairs(X) else n_rows)
    for train, test in _folds(n_rows, groups, n_splits, rng):
        fitted = clone(estimator).fit(_safe_indexing(X, train), shuffled[train])
        rewards[test] = _output_rewards(fitted, _safe_indexing(X, test))
    return rewards


def _shuffled_labels(X, y, n_rows, rng):
    if not is_pairs(X):
        if y is None:
            raise ValueError("Got outputs with y=None, but there are no labels to shuffle. Pass y, or pairs.")
        return rng.permutation(np.asarray(y))
    preference_sign(y, n_rows)  # raises where y does not fit
    classes = np.array([0, 1]) if y is None or len(np.unique(y)) == 1 else np.unique(y)
    return rng.permutation(classes[np.arange(n_rows) % 2])


def _folds(n_rows, groups, n_splits, rng):
    if groups is None:
        return KFold(min(n_splits, n_rows), shuffle=True, random_state=rng).split(np.empty(n_rows))
    names, codes = _check_groups(groups, n_rows)
    _require_two_groups(names, "an out-of-fold fit")
    return GroupKFold(min(n_splits, len(names))).split(np.empty(n_rows), groups=codes)


def prompt_only_null(prompts, output_labels=None):
    """Reward of the null "only the prompt matters": what the prompt's other pairs tell about its outputs.

    Both outputs of a pair get the same reward, so its pair accuracy is 1/2 by ties. Where outputs have labels
    of their own, it shows how much of the F1 and AUC a look at the prompt alone would reach.

    Parameters
    ----------
    prompts : array-like of shape (n_pairs,)
        Prompt (or group) of each pair.
    output_labels : array-like of shape (n_pairs, 2), default=None
        1 for the desirable outputs and 0 for others. None (chosen against rejected): all rewards are 0, since
        every prompt has as many chosen as rejected outputs.

    Returns
    -------
    ndarray of shape (n_pairs, 2)
        The leave-one-out mean: the share of desirable outputs among the *other* pairs of the prompt, minus
        1/2, so that 0 separates "mostly desirable" from the rest. A pair that is its prompt's only one gets
        the share among all outputs, the same for all such pairs. With few prompts that hardly differ, a
        leave-one-out mean ranks slightly worse than chance (AUC below 1/2), since a label is missing from its
        own mean.

    Raises
    ------
    ValueError
        If shapes disagree or a label is not 0 or 1.

    Examples
    --------
    >>> from fairl_sk.metrics import prompt_only_null
    >>> prompt_only_null(["a", "a", "b"], [[1, 1], [1, 0], [0, 0]])[:, 0].tolist()
    [0.0, 0.5, 0.0]
    """
    prompts = np.asarray(prompts)
    names, codes = _check_groups(prompts, len(prompts), "prompts")
    if output_labels is None:
        return np.zeros((len(prompts), 2))
    labels = _check_output_labels(output_labels, (len(prompts), 2)).reshape(-1, 2).sum(axis=1)
    others = np.bincount(codes)[codes] - 1
    desirable = np.bincount(codes, labels, minlength=len(names))[codes] - labels
    share = np.where(others > 0, desirable / (2 * np.maximum(others, 1)), labels.mean() / 2)
    return np.repeat(share[:, None] - 0.5, 2, axis=1)


# -- Splits ------------------------------------------------------------------------------------------------


def check_split(train, test, groups):
    """Warn, by name, about groups that have rows on both sides of a split.

    A prompt in both train and test lets a model be tested on what it has seen. Splitters that cannot leak are
    `sklearn.model_selection.GroupKFold` and `GroupShuffleSplit`, with the prompts as groups.

    Parameters
    ----------
    train, test : array-like of int, or of bool of shape (n_rows,)
        Rows of each side: indices or a mask.
    groups : array-like of shape (n_rows,)
        Group of each row: its prompt, or the comment the pair was made from.

    Returns
    -------
    ndarray of shape (n_leaked,)
        The groups on both sides, in order; empty for a clean split.

    Warns
    -----
    UserWarning
        If a group is on both sides: how many are, the share of test rows concerned, and the first names.

    Raises
    ------
    ValueError
        If there is only one group, which no split can keep whole, or if shapes or indices do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GroupKFold
    >>> from fairl_sk.metrics import check_split
    >>> prompts = np.array(["a", "a", "b", "b", "c", "c"])
    >>> for train, test in GroupKFold(3).split(prompts, groups=prompts):
    ...     leaked = check_split(train, test, prompts)
    >>> leaked.size
    0
    """
    groups = np.asarray(groups)
    names, codes = _check_groups(groups, len(groups))
    _require_two_groups(names, "a split by groups")
    train_codes = codes[_row_numbers(train, len(groups), "train")]
    test_codes = codes[_row_numbers(test, len(groups), "test")]
    leaked = np.intersect1d(train_codes, test_codes)
    if leaked.size:
        share = np.isin(test_codes, leaked).mean()
        first = ", ".join(repr(str(name)[:40]) for name in names[leaked][:3])
        warnings.warn(
            f"The split leaks {leaked.size} of {len(names)} groups between train and test ({share:.0%} of "
            f"the test rows): {first}{', ...' if leaked.size > 3 else ''}. Split with GroupKFold or "
            "GroupShuffleSplit, groups=prompts.",
            UserWarning,
            stacklevel=2,
        )
    return names[leaked]


def _row_numbers(rows, n_rows, name):
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (n_rows,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and (rows.dtype.kind not in "iu" or rows.min() < -n_rows or rows.max() >= n_rows)):
        raise ValueError(
            f"Got {name} of shape {rows.shape} and type {rows.dtype}, but expected row numbers below "
            f"{n_rows}, or a mask of shape ({n_rows},)."
        )
    return rows.astype(np.intp)


# -- Scorers -----------------------------------------------------------------------------------------------


def _output_rewards(estimator, X):
    """R of each output: shape (n_pairs, 2) for pairs, (n_outputs,) for outputs."""
    decide = _decision_function(estimator)
    return np.asarray(decide(stack_outputs(X))).reshape(-1, 2) if is_pairs(X) else np.asarray(decide(X))


def _decision_function(estimator):
    try:
        return estimator.decision_function
    except AttributeError as error:
        raise TypeError(
            f"Got {type(estimator).__name__} without a decision_function, but the scorer needs rewards. "
            "End the pipeline in one of this package's estimators."
        ) from error


def _known_signs(estimator, y):
    """y as -1 and 1 by the estimator's classes, so that a fold with one class only is still read rightly."""
    classes = getattr(estimator, "classes_", None)
    if y is None or classes is None or len(classes) != 2 or not np.isin(y, classes).all():
        return y
    return preference_sign(y, len(y), classes=classes)


class _Scorer(_MetadataRequester):
    """Callable ``scorer(estimator, X, y)``: what the scorers below share.

    The parameters that ``set_score_request`` offers are read by scikit-learn from the signature of `score`.
    """

    __metadata_request__score = {"estimator": UNUSED}

    def __call__(self, estimator, X, y=None, **params):
        """Score of a fitted estimator on pairs or outputs; higher is better."""
        return self.score(estimator, X, y, **params)

    def _accept_sample_weight(self):  # scikit-learn asks this of each of several scorers when routing is off
        return True

    def _routing_repr(self):  # the name in scikit-learn's messages about routing
        return repr(self)


class _PairScorer(_Scorer):
    def __init__(self, metric, sign):
        self.metric, self.sign = metric, sign

    def score(self, estimator, X, y=None, *, sample_weight=None):
        if not is_pairs(X):
            raise ValueError(
                f"Got X of type {type(X).__name__} with single outputs, but {self.metric.__name__.replace('_', ' ')} "
                "is defined for pairs only. Score pairs, or use output_f1_scorer or output_auc_scorer."
            )
        margins = np.asarray(_decision_function(estimator)(X))
        return self.sign * self.metric(_known_signs(estimator, y), margins, sample_weight=sample_weight)

    def __repr__(self):
        return f"{self.metric.__name__}_scorer"


class _OutputScorer(_Scorer):
    def __init__(self, metric):
        self.metric = metric

    def score(self, estimator, X, y=None, *, sample_weight=None, output_labels=None):
        rewards = _output_rewards(estimator, X)
        signs = _known_signs(estimator, y)
        return self.metric(signs, rewards, output_labels=output_labels, sample_weight=sample_weight)

    def __repr__(self):
        return f"{self.metric.__name__}r"


class _StarcScorer(_Scorer):
    def __init__(self, reference, groups, norm):
        self.reference = reference
        self.groups = groups
        self.norm = norm

    def score(self, estimator, X, y=None, *, sample_weight=None, reference_reward=None, groups=None):
        distance = starc_distance(
            _output_rewards(estimator, X),
            self._reference_rewards(X, reference_reward),
            groups=self.groups if groups is None else groups,
            weights=sample_weight,
            norm=self.norm,
        )
        return -distance

    def _reference_rewards(self, X, reference_reward):
        if (self.reference is None) == (reference_reward is None):
            found = "neither a reference nor" if reference_reward is None else "both a reference and"
            raise ValueError(
                f"The STARC scorer got {found} the metadata reference_reward, but expected one of the two. "
                "Give make_starc_scorer a callable, or call "
                "sklearn.set_config(enable_metadata_routing=True), set_score_request(reference_reward=True) "
                "and pass it in params."
            )
        if reference_reward is not None:
            return reference_reward
        if is_pairs(X):
            return np.asarray(self.reference(stack_outputs(X))).reshape(-1, 2)
        texts = read_texts(X)
        return np.asarray(self.reference(X if texts is None else texts))

    def __repr__(self):
        return f"make_starc_scorer({self.reference!r}, groups={self.groups!r}, norm={self.norm!r})"


pair_accuracy_scorer = _PairScorer(pair_accuracy, 1)
"""Scorer of `pair_accuracy` for ``scoring=``; pairs only. Takes `sample_weight` as metadata."""

pair_log_loss_scorer = _PairScorer(pair_log_loss, -1)
"""Scorer of minus `pair_log_loss` for ``scoring=``; pairs only. Takes `sample_weight` as metadata."""

output_f1_scorer = _OutputScorer(output_f1_score)
"""Scorer of `output_f1_score` for ``scoring=``. Takes `sample_weight` and `output_labels` as metadata."""

output_auc_scorer = _OutputScorer(output_auc_score)
"""Scorer of `output_auc_score` for ``scoring=``. Takes `sample_weight` and `output_labels` as metadata."""


def make_starc_scorer(reference=None, *, groups=None, norm=2):
    """Scorer that compares an estimator's reward with a reference: **minus** the STARC distance.

    The sign makes greater better, as scikit-learn asks: 0 is perfect and -1 the opposite reward.

    Parameters
    ----------
    reference : callable or None, default=None
        The ground-truth reward: a function of outputs (the texts, or the features, that the estimator under
        test gets; two a pair, pair after pair) that returns one number an output. It must pickle for
        ``n_jobs``. None: routed metadata `reference_reward`, of shape (n_pairs, 2) or (n_outputs,).
    groups : {"pairs", None}, default=None
        What the rewards are centred on, as in `starc_distance`: each pair, or (None) the global mean of the
        scored rows. Routed metadata `groups`, of shape (n_rows,), goes before it.
    norm : {1, 2, numpy.inf}, default=2
        See `starc_distance`.

    Returns
    -------
    callable
        ``scorer(estimator, X, y=None)`` for ``scoring=``. Its ``set_score_request`` takes `sample_weight`,
        `reference_reward` and `groups`.

    Raises
    ------
    ValueError
        If `groups` or `norm` is unknown; when called, if there is not exactly one reference.
    TypeError
        If `reference` is neither callable nor None.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from fairl_sk.metrics import make_starc_scorer
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> scorer = make_starc_scorer(lambda outputs: 5 * outputs[:, 0] + 1)
    >>> fitted = LogisticRegression().fit(X, [0, 0, 1, 1])
    >>> round(abs(scorer(fitted, X)), 6)
    0.0
    """
    _check_norm(norm)
    if groups is not None and not (isinstance(groups, str) and groups == "pairs"):
        raise ValueError(
            f"Got groups={groups!r}, but expected None or 'pairs'. Pass the prompts of the rows as routed "
            "metadata: set_score_request(groups=True)."
        )
    if reference is not None and not callable(reference):
        raise TypeError(
            f"Got a reference of type {type(reference).__name__}, but expected a callable or None. Pass an "
            "array of rewards as routed metadata reference_reward."
        )
    return _StarcScorer(reference, groups, norm)


# -- Finite MDPs -------------------------------------------------------------------------------------------


def tabular_starc(reward_a, reward_b, transitions, discount, *, policy=None, norm=2):
    r"""STARC distance between two rewards of a finite MDP, with value-adjusted levelling.

    .. math:: c(R)(s, a, s') = E_{S' \sim \tau(s, a)}[R(s, a, S') - V^\pi(s) + \gamma V^\pi(S')]

    for a fixed policy :math:`\pi`: the advantage of a in s. It is 0 exactly for rewards that are trivial, and
    removes potential shaping and S'-redistribution [1]_. Then as in `starc_distance`.

    Parameters
    ----------
    reward_a, reward_b : array-like of shape (n_states, n_actions, n_states)
        R(s, a, s').
    transitions : array-like of shape (n_states, n_actions, n_states)
        Chance of s' after a in s; the last axis sums to 1.
    discount : float in [0, 1)
        Discount :math:`\gamma` of a step.
    policy : array-like of shape (n_states, n_actions), default=None
        Chance of a in s; None: uniform.
    norm : {1, 2, numpy.inf}, default=2
        Over all (s, a), alike.

    Returns
    -------
    float
        In [0, 1]: 0 if and only if the two rewards order all policies alike (where policies reach every
        state), 1/2 if just one of them is trivial.

    Raises
    ------
    ValueError
        If shapes disagree, chances do not sum to 1, or a parameter is out of range.

    References
    ----------
    .. [1] Skalse et al., "STARC: A General Framework For Quantifying Differences Between Reward Functions",
           ICLR 2024: value-adjusted levelling (VAL).

    Examples
    --------
    >>> import numpy as np
    >>> from fairl_sk.metrics import tabular_starc
    >>> rng = np.random.default_rng(0)
    >>> transitions = rng.dirichlet(np.ones(3), size=(3, 2))
    >>> reward, potential = rng.normal(size=(3, 2, 3)), rng.normal(size=3)
    >>> shaped = 2 * reward + 0.9 * potential - potential[:, None, None]
    >>> round(tabular_starc(reward, shaped, transitions, 0.9), 6)
    0.0
    """
    rewards, transitions, policy = _check_mdp(reward_a, reward_b, transitions, discount, policy)
    _check_norm(norm)
    return _tabular_distance([_levelled(reward, transitions, discount, policy) for reward in rewards], norm)


def tabular_epic(reward_a, reward_b, discount, *, state_distribution=None, policy=None):
    r"""EPIC distance between two rewards of a finite MDP: :math:`\sqrt{(1-\rho)/2}` of their canonical forms.

    .. math:: c(R)(s, a, s') = R(s, a, s') + E[\gamma R(s', A, S') - R(s, A, S') - \gamma R(S, A, S')]

    with S and S' from the state distribution and A from the action distribution, independently (definition
    4.1 of [1]_). The dynamics do not enter; Pearson's :math:`\rho` is over S, A and S' from the same
    distributions.

    Parameters
    ----------
    reward_a, reward_b : array-like of shape (n_states, n_actions, n_states)
        R(s, a, s').
    discount : float in [0, 1)
        Discount :math:`\gamma` of a step.
    state_distribution : array-like of shape (n_states,), default=None
        Chances of S and S'; None: uniform.
    policy : array-like of shape (n_actions,), default=None
        Chances of A; None: uniform.

    Returns
    -------
    float
        In [0, 1]; 1/2 where just one of the canonical forms is constant.

    Raises
    ------
    ValueError
        See `tabular_starc`.

    References
    ----------
    .. [1] Gleave et al., "Quantifying Differences in Reward Functions", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from fairl_sk.metrics import tabular_epic
    >>> rng = np.random.default_rng(0)
    >>> reward, potential = rng.normal(size=(3, 2, 3)), rng.normal(size=3)
    >>> shaped = 2 * reward + 0.9 * potential - potential[:, None, None]
    >>> round(tabular_epic(reward, shaped, 0.9), 6)
    0.0
    """
    rewards = _check_tabular_rewards(reward_a, reward_b, discount)
    states = _check_chances(state_distribution, rewards[0].shape[:1], "state_distribution")
    actions = _check_chances(policy, rewards[0].shape[1:2], "policy")
    weights = states[:, None, None] * actions[:, None] * states
    canonical = []
    for reward in rewards:
        mean = np.einsum("a,t,sat->s", actions, states, reward)  # E R(s, A, S')
        shaped = reward + discount * mean - mean[:, None, None] - discount * (states @ mean)
        canonical.append(_without_rounding(shaped, np.abs(reward).max()))
    return starc_distance(canonical[0].ravel(), canonical[1].ravel(), weights=weights.ravel())


def tabular_dard(reward_a, reward_b, transitions, discount, *, policy=None):
    r"""Dynamics-aware reward distance (DARD) between two rewards of a finite MDP.

    .. math:: c(R)(s, a, s') = R(s, a, s') + E[\gamma R(s', A, S'') - R(s, A, S') - \gamma R(S', A, S'')]

    with A from the action distribution, S' from :math:`\tau(s, A)` and S'' from :math:`\tau(s', A)` [1]_:
    EPIC's form on transitions that the dynamics allow. Then Pearson's distance as in `tabular_epic`, over s
    uniform, a from the action distribution and s' from :math:`\tau(s, a)`.

    Parameters
    ----------
    reward_a, reward_b, transitions, discount
        See `tabular_starc`.
    policy : array-like of shape (n_actions,), default=None
        Chances of A; None: uniform.

    Returns
    -------
    float
        In [0, 1]; 1/2 where just one of the canonical forms is constant.

    Raises
    ------
    ValueError
        See `tabular_starc`.

    References
    ----------
    .. [1] Wulfe et al., "Dynamics-Aware Comparison of Learned Reward Functions", ICLR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from fairl_sk.metrics import tabular_dard
    >>> rng = np.random.default_rng(0)
    >>> transitions = rng.dirichlet(np.ones(3), size=(3, 2))
    >>> reward, potential = rng.normal(size=(3, 2, 3)), rng.normal(size=3)
    >>> shaped = 2 * reward + 0.9 * potential - potential[:, None, None]
    >>> round(tabular_dard(reward, shaped, transitions, 0.9), 6)
    0.0
    """
    rewards = _check_tabular_rewards(reward_a, reward_b, discount)
    transitions = _check_chances(transitions, rewards[0].shape, "transitions")
    actions = _check_chances(policy, rewards[0].shape[1:2], "policy")
    weights = actions[:, None] * transitions
    canonical = []
    for reward in rewards:
        mean = np.einsum("a,sat,sat->s", actions, transitions, reward)  # E R(s, A, S'), S' ~ tau(s, A)
        # E R(S', A, S'') with S' ~ tau(s, A) and S'' ~ tau(s', A), for each s and s'
        skipped = np.einsum("a,sau,tav,uav->st", actions, transitions, transitions, reward, optimize=True)
        shaped = reward + discount * mean - mean[:, None, None] - discount * skipped[:, None, :]
        canonical.append(_without_rounding(shaped, np.abs(reward).max()))
    return starc_distance(canonical[0].ravel(), canonical[1].ravel(), weights=weights.ravel())


def _check_mdp(reward_a, reward_b, transitions, discount, policy):
    rewards = _check_tabular_rewards(reward_a, reward_b, discount)
    transitions = _check_chances(transitions, rewards[0].shape, "transitions")
    return rewards, transitions, _check_chances(policy, rewards[0].shape[:2], "policy")


def _check_tabular_rewards(reward_a, reward_b, discount):
    rewards = [np.asarray(reward, dtype=np.float64) for reward in (reward_a, reward_b)]
    shape = rewards[0].shape
    if len(shape) != 3 or shape[0] != shape[2] or rewards[1].shape != shape:
        raise ValueError(
            f"Got rewards of shapes {shape} and {rewards[1].shape}, but expected (n_states, n_actions, "
            "n_states) twice. Broadcast a reward of states or of states and actions first."
        )
    if not all(np.isfinite(reward).all() for reward in rewards):
        raise ValueError("Got rewards that are not finite, but expected finite numbers for all (s, a, s').")
    if not 0 <= discount < 1:
        raise ValueError(f"Got discount={discount!r}, but expected a number in [0, 1).")
    return rewards


def _check_chances(chances, shape, name):
    """Chances of the given shape whose last axis sums to 1; uniform where None."""
    if chances is None:
        return np.full(shape, 1 / shape[-1])
    chances = np.asarray(chances, dtype=np.float64)
    if chances.shape != shape or (chances < 0).any() or not np.allclose(chances.sum(axis=-1), 1):
        raise ValueError(
            f"Got {name} of shape {chances.shape}, but expected chances of shape {shape} that sum to 1 over "
            "the last axis. Divide them by their sum."
        )
    return chances


def _levelled(reward, transitions, discount, policy):
    """Advantage of each (s, a) under the policy."""
    expected = np.einsum("sat,sat->sa", transitions, reward)
    moves = np.einsum("sa,sat->st", policy, transitions)
    value = np.linalg.solve(np.eye(len(moves)) - discount * moves, (policy * expected).sum(axis=1))
    advantage = expected - value[:, None] + discount * transitions @ value
    return _without_rounding(advantage, max(np.abs(reward).max(), np.abs(value).max()))


def _without_rounding(canonical, size):
    """The canonical form with 0 where it is no more than the rounding of terms of this size."""
    return np.where(np.abs(canonical) <= _CANONICAL_ULPS * np.finfo(np.float64).eps * size, 0.0, canonical)


def _tabular_distance(canonical, norm):
    weights = np.ones(canonical[0].size)
    first, second = (_standardised(table.ravel(), weights, norm) for table in canonical)
    return float(min(1.0, _norm(first - second, weights, norm) / 2))
