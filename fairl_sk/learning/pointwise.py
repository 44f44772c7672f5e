r"""What single outputs should count beside pairs, estimated from the pairs alone.

Whether an output was preferred tells something about its reward only where preferred and other outputs come from
populations of their own, as rewrites and what was rewritten do. Where two outputs were drawn without regard to the
reward, and only their order tells of it, the pairs say all there is, and single outputs add noise. `estimate_weight`
tells one from the other by the variance of the reward that both together would give (theory, "What single outputs
count").
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression

# The weights that are compared.
_WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
# Whether outputs count: by how much pairs alone have to be less precise than the best of both. What outputs win where
# preferred ones have no population of their own is below it, a prompt that both share and small samples included.
_WORTH = 0.25
# How much they count, if so: what the variance may be above the least, which is all that more weight would win.
_TOLERANCE = 0.02
# Pairs that are read: the estimate needs no more. Fewer than the least say nothing.
_MOST_PAIRS, _LEAST_PAIRS = 2048, 40
# Directions in which differences are largest, and the least number of pairs for each.
_MOST_DIRECTIONS, _PAIRS_A_DIRECTION = 128, 4
# L2 strength of the preliminary rewards, in units where differences have mean squared length 1; and the penalty in the
# variance, as a share of the pairs' mean curvature.
_STRENGTH, _PENALTY = 1e-3, 0.05


def estimate_weight(X, sign, sample_weight, keys, sides):
    r"""The least weight of single outputs that makes the reward of pairs and outputs together nearly most precise.

    With :math:`g_i` the gradient of a pair's loss, :math:`h_i` that of the mean loss of its two outputs, and G and H
    the means of their second derivatives, the weights at which :math:`\sum_i g_i + w h_i` vanishes have the covariance
    :math:`J^{-1} V J^{-1} / n`, where :math:`J = G + w H + \rho I` and V is the mean of
    :math:`(g_i + w h_i)(g_i + w h_i)^T`. What counts is the variance of the margins that it gives the pairs, but for
    what only changes their scale. All is cross-fitted: each half of the pairs is judged by the reward of the other, and
    either loss at the scale that fits it best.

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
    weight : float in [0, 10]
        0 where pairs alone are nearly as precise, their variance at most 25 % above the least of twelve weights, and
        where there are fewer than 40 distinct pairs; else the smallest whose variance is at most 2 % above it.

    References
    ----------
    .. [1] Hansen. Large sample properties of generalized method of moments estimators. Econometrica 50 (1982).
    """
    rows, weight = _distinct_pairs(keys, np.where(sign[:, None] > 0, sides, sides[:, ::-1]), sample_weight)
    if len(rows) < _LEAST_PAIRS:
        return 0.0
    half, flip = np.arange(len(rows)) % 2, 1 - 2 * ((keys[rows] >> np.uint64(32)) % 2).astype(int)
    # the side that is preferred stands first, or second: half of the pairs each way, as a classifier needs
    first = np.where((sign[rows] > 0) == (flip > 0), 0, 1)
    sides = np.stack([sides[rows, first], sides[rows, 1 - first]], axis=1)
    if any(len(np.unique(values[half == number])) < 2 for number in (0, 1) for values in (flip, sides)):
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # features that are too large are the fit's to refuse
        outputs = _standardised(np.stack([X[rows, first], X[rows, 1 - first]], axis=1), weight)
    if not np.isfinite(outputs).all():
        return 0.0
    pairs = _Pairs(_in_few_directions(outputs, weight), flip, sides, weight)
    parts = [pairs.of(half == number) for number in (0, 1)]
    rewards = [_preliminary_reward(part) for part in parts]
    moments = [_moments(part, theta) for part, theta in zip(parts, rewards[::-1], strict=True)]
    variances = _variances([sum(pair) for pair in zip(*moments, strict=True)], _spread(pairs, sum(rewards)))
    if variances[0] <= (1 + _WORTH) * variances.min():
        return 0.0
    return _WEIGHTS[int(np.argmax(variances <= (1 + _TOLERANCE) * variances.min()))]


@dataclass
class _Pairs:
    """Outputs (n, 2, d), +1 or -1 for the side that is preferred, the sides of the outputs (n, 2), weights (n,)."""

    outputs: np.ndarray
    flip: np.ndarray
    sides: np.ndarray
    weight: np.ndarray

    @property
    def differences(self):
        return self.outputs[:, 0] - self.outputs[:, 1]

    def of(self, some):
        return _Pairs(self.outputs[some], self.flip[some], self.sides[some], self.weight[some])


def _distinct_pairs(keys, sides, sample_weight):
    """A row of each of the distinct pairs that are read, in the order of their keys, and their weights, of mean 1.

    ``sides`` (n_pairs, 2) are those of the (preferred, other) outputs.
    """
    known = np.flatnonzero(sample_weight > 0)
    labels = (sides[known] > 0) @ np.array([1, 2], dtype=np.uint64)
    content = (keys[known] + labels) * np.uint64(0x9E3779B97F4A7C15)  # copies with other labels are other pairs
    _, first, pair = np.unique(content, return_index=True, return_inverse=True)
    weight = np.bincount(pair, sample_weight[known])[:_MOST_PAIRS]
    return known[first[:_MOST_PAIRS]], weight / weight.mean()


def _standardised(outputs, weight):
    """Outputs (n_pairs, 2, n_features), float64, around their mean and in units where differences have length 1."""
    outputs = outputs - np.average(outputs.mean(axis=1, dtype=np.float64), axis=0, weights=weight)
    lengths = np.square(outputs[:, 0] - outputs[:, 1]).sum(axis=1)
    outputs /= np.sqrt(np.average(lengths, weights=weight)) or 1.0
    return outputs


def _in_few_directions(outputs, weight):
    """Outputs (n_pairs, 2, n_directions) in the directions in which the differences are largest."""
    n_pairs, _, n_features = outputs.shape
    n_directions = min(_MOST_DIRECTIONS, n_pairs // _PAIRS_A_DIRECTION)
    if n_features <= n_directions:
        return outputs
    differences = (outputs[:, 0] - outputs[:, 1]) * np.sqrt(weight)[:, None]
    directions = TruncatedSVD(n_directions, n_iter=2, random_state=0).fit(differences).components_
    return (outputs.reshape(-1, n_features) @ directions.T).reshape(n_pairs, 2, n_directions)


def _preliminary_reward(pairs):
    """Weights (n_directions,) of a max-entropy reward."""
    model = LogisticRegression(C=1 / (2 * _STRENGTH * pairs.weight.sum()), fit_intercept=False)
    return model.fit(pairs.differences, pairs.flip, sample_weight=pairs.weight).coef_[0]


def _moments(pairs, theta):
    """Sums of G, H, g g', g h' and h h', at a reward of these weights, both losses at the scale that fits them best."""
    weight, differences = pairs.weight, pairs.differences
    rewards = pairs.outputs @ theta
    rewards = rewards / (np.sqrt(np.average(np.square(rewards).mean(axis=1), weights=weight)) or 1.0)
    margins = rewards[:, 0] - rewards[:, 1]
    pair_scale, _ = _logistic_scale(margins, pairs.flip, weight, fit_intercept=False)
    scale, offset = _logistic_scale(rewards.ravel(), pairs.sides.ravel(), np.repeat(weight, 2), fit_intercept=True)
    surprise = expit(-pairs.flip * pair_scale * margins)
    surprises = expit(-pairs.sides * (scale * rewards + offset))
    g = -(pairs.flip * pair_scale * surprise)[:, None] * differences
    h = -((pairs.sides * scale * surprises)[..., None] * pairs.outputs).sum(axis=1) / 2
    curvature = weight * pair_scale**2 * surprise * (1 - surprise)
    curvatures = weight[:, None] * scale**2 * surprises * (1 - surprises) / 2
    outputs = pairs.outputs.reshape(-1, len(theta))
    return (
        (differences * curvature[:, None]).T @ differences,
        (outputs * curvatures.reshape(-1, 1)).T @ outputs,
        (g * weight[:, None]).T @ g,
        (g * weight[:, None]).T @ h,
        (h * weight[:, None]).T @ h,
    )


def _logistic_scale(values, sides, weight, *, fit_intercept):
    """Slope and intercept of the logistic of values of about unit size that fits the sides best."""
    model = LogisticRegression(fit_intercept=fit_intercept).fit(values[:, None], sides, sample_weight=weight)
    return model.coef_[0, 0], model.intercept_[0] if fit_intercept else 0.0


def _spread(pairs, theta):
    """Covariance of the differences, but for what goes with the margin: an error there changes the scale alone."""
    differences = pairs.differences
    spread = (differences * pairs.weight[:, None]).T @ differences
    along = spread @ theta
    return spread - np.outer(along, along) / (theta @ along or 1.0)


def _variances(moments, spread):
    """Variance of the margins for every weight that is compared, (n_weights,), in units of their own."""
    pair_curvature, curvature, pair_square, product, square = moments
    size = np.trace(pair_curvature) / len(spread)
    if not size > 0:
        return np.arange(1.0, 1 + len(_WEIGHTS))
    result = []
    for w in _WEIGHTS:
        factor = cho_factor(pair_curvature + w * curvature + _PENALTY * size * np.eye(len(spread)))
        both = pair_square + w * (product + product.T) + w**2 * square
        result.append(np.sum(cho_solve(factor, spread) * cho_solve(factor, both).T))
    return np.array(result)
