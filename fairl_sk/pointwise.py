r"""What single outputs should count beside pairs, estimated from the pairs alone.

Whether an output was preferred tells something about its reward only where preferred and other outputs come from
populations of their own, as rewrites and what was rewritten do. Where two outputs were drawn without regard to the
reward, and only their order tells of it, the pairs say all there is, and single outputs add noise. `estimate_weight`
tells one from the other by the variance of the reward that both together would give (theory, "What single outputs
count").
"""

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

# Pairs that are read: the estimate needs no more. Fewer than the least say nothing.
_MOST_PAIRS, _LEAST_PAIRS = 2048, 40
# L2 strength of the preliminary rewards, in units where differences have mean squared length 1.
_STRENGTH = 1e-3
# What the variance may be above its least: all that more weight would win, and what it could cost is not known.
_TOLERANCE = 0.1


def estimate_weight(X, sign, sample_weight, keys, sides):
    r"""The least weight of single outputs that makes the reward of pairs and outputs together nearly most precise.

    With :math:`g_i` the gradient of a pair's loss, :math:`h_i` that of the mean loss of its two outputs, and G and H
    their mean curvatures, all at one reward, the reward that makes :math:`\sum_i g_i + w h_i` vanish has a variance
    proportional to :math:`\sum_i |g_i + w h_i|^2 / (G + w H)^2`, which has one minimum over w. The reward is
    cross-fitted: each half of the pairs is judged by that of the other, at the scale that fits it best.

    Parameters
    ----------
    X : ndarray of shape (n_pairs, 2, n_features)
    sign : ndarray of shape (n_pairs,)
        +1 where the first side is preferred, else -1.
    sample_weight : ndarray of shape (n_pairs,)
    keys : ndarray of shape (n_pairs,), uint64
        The pairs' content keys: they choose the pairs that are read, and part them into halves.
    sides : ndarray of shape (n_pairs, 2)
        +1 for outputs of the sides of ``X`` that should lie above a threshold, -1 for the others.

    Returns
    -------
    weight : float >= 0
        The smallest whose variance is at most 10 % above the least; 0 where there are fewer than 40 distinct pairs.

    References
    ----------
    .. [1] Hansen. Large sample properties of generalized method of moments estimators. Econometrica 50 (1982).
    """
    rows, weight = _distinct_pairs(keys, sides, sample_weight)
    if len(rows) < _LEAST_PAIRS:
        return 0.0
    half, flip = np.arange(len(rows)) % 2, 1 - 2 * ((keys[rows] >> np.uint64(32)) % 2).astype(int)
    # the side that is preferred stands first, or second: half of the pairs each way, as a classifier needs
    first = np.where((sign[rows] > 0) == (flip > 0), 0, 1)
    outputs = _standardised(np.stack([X[rows, first], X[rows, 1 - first]], axis=1), weight)
    sides = np.stack([sides[rows, first], sides[rows, 1 - first]], axis=1)
    if any(len(np.unique(values[half == number])) < 2 for number in (0, 1) for values in (flip, sides)):
        return 0.0
    moments = np.zeros((len(rows), 5))
    for number in (0, 1):
        train, test = half != number, half == number
        theta = _preliminary_reward(outputs[train], flip[train], weight[train])
        moments[test] = _moments(outputs[test], flip[test], sides[test], weight[test], theta)
    return _least_weight(np.average(moments, axis=0, weights=weight))


def _distinct_pairs(keys, sides, sample_weight):
    """A row of each of the distinct pairs that are read, in the order of the keys, and their weights, of mean 1."""
    known = np.flatnonzero(sample_weight > 0)
    content = np.stack([keys[known], *(sides[known].T > 0)]).astype(np.uint64).T
    _, first, pair = np.unique(content, axis=0, return_index=True, return_inverse=True)
    weight = np.bincount(pair.ravel(), sample_weight[known])[:_MOST_PAIRS]
    return known[first[:_MOST_PAIRS]], weight / weight.mean()


def _standardised(outputs, weight):
    """Outputs (n_pairs, 2, n_features), float64, around their mean and in units where differences have length 1."""
    outputs = outputs - np.average(outputs.mean(axis=1, dtype=np.float64), axis=0, weights=weight)
    lengths = np.square(outputs[:, 0] - outputs[:, 1]).sum(axis=1)
    return outputs / (np.sqrt(np.average(lengths, weights=weight)) or 1.0)


def _preliminary_reward(outputs, flip, weight):
    """Weights (n_features,) of a max-entropy reward of pairs whose first output is preferred where ``flip`` is 1."""
    model = LogisticRegression(C=1 / (2 * _STRENGTH * weight.sum()), fit_intercept=False)
    return model.fit(outputs[:, 0] - outputs[:, 1], flip, sample_weight=weight).coef_[0]


def _moments(outputs, flip, sides, weight, theta):
    """G, H, |g|^2, g.h and |h|^2 of every pair, (n_pairs, 5), but for what they share."""
    rewards = outputs @ theta
    margins = rewards[:, 0] - rewards[:, 1]
    unit = np.sqrt(np.average(np.square(rewards).mean(axis=1), weights=weight)) or 1.0
    pair_scale, _ = _logistic_scale(margins / unit, flip, weight, fit_intercept=False)
    scale, offset = _logistic_scale(rewards.ravel() / unit, sides.ravel(), np.repeat(weight, 2), fit_intercept=True)
    surprise = expit(-flip * pair_scale * margins / unit)
    surprises = expit(-sides * (scale * rewards / unit + offset))
    # lengths of both outputs and of their difference, and the difference's products with either
    inner = np.einsum("isf,itf->ist", outputs, outputs)
    lengths = np.stack([inner[:, 0, 0], inner[:, 1, 1]], axis=1)
    across = np.stack([lengths[:, 0] - inner[:, 0, 1], inner[:, 0, 1] - lengths[:, 1]], axis=1)
    length = across[:, 0] - across[:, 1]
    pull, pulls = flip * pair_scale * surprise, sides * scale * surprises / 2
    return np.stack(
        [
            pair_scale**2 * surprise * (1 - surprise) * length,
            scale**2 * (surprises * (1 - surprises) * lengths).sum(axis=1) / 2,
            pull**2 * length,
            pull * (pulls * across).sum(axis=1),
            (pulls**2 * lengths).sum(axis=1) + 2 * pulls[:, 0] * pulls[:, 1] * inner[:, 0, 1],
        ],
        axis=1,
    )


def _logistic_scale(values, sides, weight, *, fit_intercept):
    """Slope and intercept of the logistic of values of about unit size that fits the sides best."""
    model = LogisticRegression(fit_intercept=fit_intercept).fit(values[:, None], sides, sample_weight=weight)
    return model.coef_[0, 0], model.intercept_[0] if fit_intercept else 0.0


def _least_weight(moments):
    """The smallest w >= 0 at which |g + w h|^2 / (G + w H)^2 is at most a tenth above its least."""
    pair_curvature, curvature, pair_square, product, square = moments
    if not (pair_curvature > 0 and curvature > 0):
        return 0.0
    # in s = w H / (G + w H), the share of the outputs, it is a parabola
    at_pairs, at_outputs = pair_square / pair_curvature**2, square / curvature**2
    across = product / (pair_curvature * curvature)
    bend, slope = at_pairs - 2 * across + at_outputs, across - at_pairs  # at_pairs + 2 slope s + bend s^2
    best = np.clip(-slope / bend, 0, 1) if bend > 0 else float(slope < 0)
    allowed = (1 + _TOLERANCE) * (at_pairs + 2 * slope * best + bend * best**2)
    if at_pairs <= allowed:
        return 0.0
    share = (at_pairs - allowed) / (-slope + np.sqrt(slope**2 - bend * (at_pairs - allowed)))
    return float(share / (1 - share) * pair_curvature / curvature)
