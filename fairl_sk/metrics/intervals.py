"""Confidence intervals from a bootstrap over groups, and the check that a split keeps groups whole.

For whoever reports a score: pairs of one prompt are not independent, so whole prompts are resampled.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_random_state

from .distances import starc_distance, weighted_starc
from .outputs import output_auc_score, output_f1_score, weighted_output_auc, weighted_output_f1
from .pairs import pair_accuracy, pair_log_loss, weighted_pair_accuracy, weighted_pair_log_loss
from .weighted import WeightedMetric, check_groups, check_weights

_WEIGHTED = {
    pair_accuracy: weighted_pair_accuracy,
    pair_log_loss: weighted_pair_log_loss,
    output_f1_score: weighted_output_f1,
    output_auc_score: weighted_output_auc,
    starc_distance: weighted_starc,
}
_METRICS = {metric.__name__: metric for metric in _WEIGHTED}


class BootstrapInterval(NamedTuple):
    """A score with its confidence interval.

    Attributes
    ----------
    estimate, low, high, std : float
        The score on all rows, the ends of its interval, and its standard error (the standard deviation of the draws).
    n_groups, n_valid : int
        Number of groups, and number of draws with a score. The other draws were dropped.
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

    Whole groups are drawn with replacement. A draw changes the sample weights of the rows (theory, eq. 11).

    Parameters
    ----------
    statistic : str or callable
        "pair_accuracy", "pair_log_loss", "output_f1_score", "output_auc_score", "starc_distance", or any
        ``statistic(*arrays, sample_weight=..., **metric_params)``.
    *arrays : array-like of shape (n_rows, ...)
        What the statistic takes, for instance ``y, margins`` or ``reward_a, reward_b``.
    groups : array-like of shape (n_rows,) or None
        Prompt of each row. None: the rows are independent.
    n_resamples : int, default=1000
        Number of draws.
    confidence_level : float in (0, 1), default=0.95
        Probability that the interval covers the score.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws.
    metric_params : dict, default=None
        Further arguments of the statistic, for instance ``sample_weight`` or the ``groups`` of `starc_distance`.

    Returns
    -------
    BootstrapInterval
        Draws without a score (all outputs of one label) are dropped, with a UserWarning if they are more than 5 %.

    Raises
    ------
    ValueError
        If there are fewer than two groups, or a parameter or an array is not valid.

    Examples
    --------
    >>> from fairl_sk.metrics import bootstrap_interval
    >>> margins, prompts = [1.0, 2.0, -1.0, 0.5, 1.5, -0.5, 1.0, 3.0], ["a", "a", "b", "b", "c", "c", "d", "d"]
    >>> interval = bootstrap_interval("pair_accuracy", None, margins, groups=prompts, random_state=0)
    >>> interval.estimate, interval.low, interval.high
    (0.75, 0.5, 1.0)
    """
    metric, weights = _weighted(statistic, arrays, metric_params)
    return _interval(metric.evaluate, weights, groups, n_resamples, confidence_level, random_state)


def bootstrap_difference(
    statistic, arrays_a, arrays_b, *, groups, n_resamples=1000, confidence_level=0.95, random_state=None,
    metric_params=None,
):  # fmt: skip
    """Difference of a score between two rewards of the same rows, scored on the same bootstrap draws.

    Parameters
    ----------
    statistic, groups, n_resamples, confidence_level, random_state, metric_params
        See `bootstrap_interval`, also for warnings and errors.
    arrays_a, arrays_b : tuple of array-like
        What the statistic takes, for each of the two, for instance ``(y, margins_a)`` and ``(y, margins_b)``.

    Returns
    -------
    BootstrapInterval
        Of ``statistic(*arrays_a) - statistic(*arrays_b)``.
    """
    first, weights = _weighted(statistic, arrays_a, metric_params)
    second, _ = _weighted(statistic, arrays_b, metric_params)
    if first.n_rows != second.n_rows:
        raise ValueError(f"Got {first.n_rows} and {second.n_rows} rows, but expected the same rows for both rewards.")

    def difference(weights):
        return first.evaluate(weights) - second.evaluate(weights)

    return _interval(difference, weights, groups, n_resamples, confidence_level, random_state)


def _weighted(statistic, arrays, metric_params):
    """The statistic as a function of the row weights, and the weights before resampling."""
    params = dict(metric_params or {})
    sample_weight = params.pop("sample_weight", None)
    if isinstance(statistic, str):
        statistic = _METRICS.get(statistic, statistic)
    if not callable(statistic):
        raise ValueError(f"Got statistic={statistic!r}, but expected a callable or one of {list(_METRICS)}.")

    def evaluate(weights):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)  # draws without a score are counted instead
            return statistic(*arrays, sample_weight=weights, **params)

    if statistic in _WEIGHTED:
        metric = _WEIGHTED[statistic](*arrays, **params)
    else:
        metric = WeightedMetric(len(arrays[-1]), evaluate)
    return metric, check_weights(sample_weight, metric.n_rows)


def _interval(evaluate, weights, groups, n_resamples, confidence_level, random_state):
    if n_resamples < 1 or not 0 < confidence_level < 1:
        raise ValueError(
            f"Got n_resamples={n_resamples!r} and confidence_level={confidence_level!r}, but expected an integer >= 1 "
            "and a number between 0 and 1."
        )
    groups = np.arange(len(weights)) if groups is None else groups
    names, codes = check_groups(groups, len(weights), purpose="a bootstrap over groups")

    def score(drawn):
        return evaluate(weights * np.bincount(drawn, minlength=len(names))[codes])

    options = {"n_resamples": n_resamples, "batch": 100, "vectorized": False, "method": "percentile"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # draws without a score are dropped below
        found = bootstrap((np.arange(len(names)),), score, random_state=check_random_state(random_state), **options)
    valid = found.bootstrap_distribution[~np.isnan(found.bootstrap_distribution)]
    n_valid = len(valid)
    if n_valid < 0.95 * n_resamples:
        warnings.warn(
            f"{n_resamples - n_valid} of {n_resamples} bootstrap draws have no score (too few rows, or rows of one "
            "label, in most groups) and were dropped; the interval is unreliable. Use more groups.",
            UserWarning,
            stacklevel=3,
        )
    valid = valid if len(valid) else np.array([np.nan])
    ends = np.quantile(valid, [(1 - confidence_level) / 2, (1 + confidence_level) / 2])
    return BootstrapInterval(float(evaluate(weights)), *ends.tolist(), float(valid.std()), len(names), n_valid)


def check_split(train, test, groups):
    """Warn, by name, about groups that have rows on both sides of a split.

    Parameters
    ----------
    train, test : array-like of int, or of bool of shape (n_rows,)
        Rows of each side: indices or a mask.
    groups : array-like of shape (n_rows,)
        Group of each row: its prompt, or the comment that the pair was made from.

    Returns
    -------
    ndarray of shape (n_leaked,)
        The groups on both sides, sorted; empty for a clean split.

    Raises
    ------
    ValueError
        If there is only one group, which no split can keep whole, or if shapes or indices do not fit.
    """
    names, codes = check_groups(groups, len(groups), purpose="a split by groups")
    try:
        train_codes, test_codes = codes[list(train)], codes[list(test)]
    except IndexError as error:
        expected = f"Pass row numbers below {len(codes)}, or masks of shape ({len(codes)},), as train and test."
        raise ValueError(f"Got rows that do not fit ({error}). {expected}") from error
    leaked = np.intersect1d(train_codes, test_codes)
    if leaked.size:
        share = np.isin(test_codes, leaked).mean()
        first = ", ".join(repr(str(name)[:40]) for name in names[leaked][:3])
        warnings.warn(
            f"The split leaks {leaked.size} of {len(names)} groups between train and test ({share:.0%} of the test "
            f"rows): {first}{', ...' if leaked.size > 3 else ''}. Split with GroupKFold or GroupShuffleSplit, "
            "groups=prompts.",
            UserWarning,
            stacklevel=2,
        )
    return names[leaked]
