"""Scores of margins: how well a reward orders pairs. For whoever has R(first) - R(second) of each pair."""

import numpy as np
from scipy.optimize import minimize_scalar

from ..pairs import preference_sign
from .weighted import WeightedMetric, check_rewards


def pair_accuracy(y_true, margins, *, sample_weight=None):
    """Share of pairs whose preferred output has the higher reward; ties count one half.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,) or None
        Two classes; the larger means that the first output is preferred. None: the first is always preferred.
    margins : array-like of shape (n_pairs,)
        R(first) - R(second), as ``decision_function`` returns it for pairs.
    sample_weight : array-like of shape (n_pairs,), default=None
        Weight of each pair, >= 0.

    Returns
    -------
    float
        In [0, 1]. A constant reward has 1/2.

    Raises
    ------
    ValueError
        If shapes disagree, a margin is not finite, or weights are negative or all 0.

    Examples
    --------
    >>> from fairl_sk.metrics import pair_accuracy
    >>> pair_accuracy(None, [1.5, 0.0, -2.0, 0.3])
    0.625
    """
    return weighted_pair_accuracy(y_true, margins)(sample_weight)


def weighted_pair_accuracy(y_true, margins):
    """`pair_accuracy` as a function of the weights."""
    oriented = _oriented(y_true, margins)
    credit = (oriented > 0) + 0.5 * (oriented == 0)
    return WeightedMetric(len(credit), lambda weights: weights @ credit / weights.sum())


def pair_log_loss(y_true, margins, *, sample_weight=None):
    """Log loss of the order of pairs, at the best scale of the reward. See `pair_accuracy` for parameters and errors.

    The margins are multiplied by the s > 0 that minimizes the loss. Unlike accuracy, it counts how wrong a pair is.

    Returns
    -------
    float
        Mean of log(1 + exp(-s * margin)) in nats, with margins in favor of the preferred output. Lower is better. At
        most log 2, which a constant or an opposite reward has.

    Examples
    --------
    >>> from fairl_sk.metrics import pair_log_loss
    >>> round(pair_log_loss(None, [2.0, 1.0, -0.1, 3.0]), 3), round(pair_log_loss(None, [20.0, 10.0, -9.0, 30.0]), 3)
    (0.226, 0.432)
    """
    return weighted_pair_log_loss(y_true, margins)(sample_weight)


def weighted_pair_log_loss(y_true, margins):
    """`pair_log_loss` as a function of the weights."""
    oriented = _oriented(y_true, margins)

    def evaluate(weights):
        own, share = oriented[weights > 0], weights[weights > 0] / weights.sum()
        sizes = np.abs(own[own != 0])
        if not len(sizes):
            return np.log(2)
        own = own / sizes.max()
        # From where all margins are nearly 0 to where even the smallest is large.
        bounds = (-10, min(700, 10 + np.log(sizes.max()) - np.log(sizes.min())))

        def loss(log_scale):
            return share @ np.logaddexp(0, -np.exp(log_scale) * own)

        return min(np.log(2), minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).fun)

    return WeightedMetric(len(oriented), evaluate)


def _oriented(y_true, margins):
    """R(preferred) - R(other) of each pair."""
    margins = check_rewards(margins, "margins", margins=True)
    return margins * preference_sign(y_true, len(margins), paired=True)
