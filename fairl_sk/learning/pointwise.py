r"""The weight of the pointwise loss, estimated from the pairs alone (theory, "The pointwise weight").

The pointwise loss asks whether an output is preferred, whatever it was compared with. It helps where preferred and
other outputs differ in style, as rewrites differ from what was rewritten. It adds noise where both outputs of a pair
were drawn alike and then compared. `estimate_weight` decides by the estimated variance of the combined estimator.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression

from .blocks import working_dtype
from .rows import preferred_first

__all__ = ["estimate_weight"]

# The weights that are compared.
_WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
# The pointwise loss is used if the variance without it is more than this above the least.
_WORTH = 0.25
# Its weight is the smallest whose variance is at most this above the least.
_TOLERANCE = 0.02
# Most and fewest pairs that the estimate reads.
_MOST_PAIRS, _LEAST_PAIRS = 2048, 40
# Most principal directions of the differences that it reads, and pairs needed for each.
_MOST_DIRECTIONS, _PAIRS_A_DIRECTION = 128, 4
# L2 strength of the preliminary rewards; and the penalty in the variance, as a share of the mean curvature.
_STRENGTH, _PENALTY = 1e-3, 0.05


def estimate_weight(X, sign, sample_weight, numbers, sides, rows=slice(None)):
    r"""The smallest pointwise weight that makes the combined estimator nearly most precise.

    With :math:`g_i` the gradient of a pair's loss, :math:`h_i` that of the mean loss of its two outputs, and G and H
    the means of their second derivatives, the weights at which :math:`\sum_i g_i + w h_i` vanishes have the covariance
    :math:`J^{-1} V J^{-1} / n`, where :math:`J = G + w H + \rho I` and V is the mean of
    :math:`(g_i + w h_i)(g_i + w h_i)^T`. The variance that counts is that of the pairs' margins, without the part that
    only rescales them. Gradients of one half of the pairs are taken at a reward fitted on the other half.

    ``rows`` are those of X that are read. ``sides`` (n_pairs, 2) are +1 for their outputs that should lie above a
    threshold, -1 for others; ``numbers`` are those of `number_outputs`. The weight is 0 if there are fewer than 40
    distinct pairs.

    References
    ----------
    .. [1] Hansen. Large sample properties of generalized method of moments estimators. Econometrica 50 (1982).
    """
    pairs, weight = _distinct_pairs(preferred_first(numbers, sign), preferred_first(sides, sign), sample_weight)
    if len(pairs) < _LEAST_PAIRS:
        return 0.0
    # alternate the halves, and in each half the side that is preferred, as a classifier needs two classes
    half, flip = np.arange(len(pairs)) % 2, 1 - np.arange(len(pairs)) // 2 % 2 * 2
    first = np.where((sign[pairs] > 0) == (flip > 0), 0, 1)
    sides = np.stack([sides[pairs, first], sides[pairs, 1 - first]], axis=1)
    if any(len(np.unique(sides[half == number])) < 2 for number in (0, 1)):
        return 0.0
    read = np.arange(len(X))[rows][pairs]
    order = np.stack([first, 1 - first], axis=1)
    outputs = X[read][np.arange(len(read))[:, None], order].astype(working_dtype(X), copy=False)
    outputs = _standardized(outputs, weight)
    outputs = _in_few_directions(outputs, weight)  # the others are freed
    pairs = _Pairs(outputs, flip, sides, weight)
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


def _distinct_pairs(numbers, sides, sample_weight):
    """A row of each of the distinct pairs that are read, evenly spread over them, and their weights, of mean 1.

    ``numbers`` and ``sides`` are those of the (preferred, other) outputs. Numbers follow the features, so the order of
    the rows does not matter.
    """
    known = np.flatnonzero(sample_weight > 0)
    preferred, other = numbers[known].T
    preferred_side, other_side = (sides[known] > 0).T
    content = (preferred * (numbers.max() + 1) + other) * 4 + 2 * preferred_side + other_side
    _, first, pair = np.unique(content, return_index=True, return_inverse=True)
    weight = np.bincount(pair, sample_weight[known])
    read = np.unique(np.linspace(0, len(first) - 1, _MOST_PAIRS).round().astype(int))
    return known[first[read]], weight[read] / weight[read].mean()


def _standardized(outputs, weight):
    """Outputs (n_pairs, 2, n_features) around their mean and in units where differences have length 1."""
    shares = (weight / (2 * weight.sum())).astype(outputs.dtype)
    outputs -= shares @ outputs[:, 0] + shares @ outputs[:, 1]
    differences = outputs[:, 0] - outputs[:, 1]
    lengths = np.einsum("ij,ij->i", differences, differences, dtype=np.float64)
    outputs /= outputs.dtype.type(np.sqrt(np.average(lengths, weights=weight)) or 1.0)
    return outputs


def _in_few_directions(outputs, weight):
    """Outputs (n_pairs, 2, n_directions), float64, in the directions in which the differences are largest."""
    n_pairs, _, n_features = outputs.shape
    n_directions = min(_MOST_DIRECTIONS, n_pairs // _PAIRS_A_DIRECTION)
    if n_features <= n_directions:
        return outputs.astype(np.float64)
    differences = outputs[:, 0] - outputs[:, 1]
    differences *= np.sqrt(weight)[:, None].astype(differences.dtype)
    directions = TruncatedSVD(n_directions, n_iter=2, random_state=0).fit(differences).components_
    projected = outputs.reshape(-1, n_features) @ directions.T
    return projected.astype(np.float64).reshape(n_pairs, 2, n_directions)


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
