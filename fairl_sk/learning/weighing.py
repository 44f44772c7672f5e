"""How much each objective counts in what people prefer, by logistic regression on the margins of its scores."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm
from sklearn.utils.validation import _check_sample_weight

from ..warn import warn_user
from .judgements import read_overall

__all__ = ["NO_PENALTY", "ObjectiveWeights", "fit_logistic", "objective_weights", "weigh_margins"]

NO_PENALTY = 1e-6  # keeps weights finite where the scores order every pair as preferred


class ObjectiveWeights(NamedTuple):
    """How much each objective counts in people's overall preferences.

    Attributes
    ----------
    weights : ndarray of shape (n_objectives,)
        Log-odds of being preferred that one standard deviation of the score's margin adds.
    interval : ndarray of shape (n_objectives, 2)
        Ends of the confidence intervals.
    scale : ndarray of shape (n_objectives,)
        Root mean square of the margins of each score: the standard deviation that the weights refer to.
    n_pairs : int
        Number of pairs that were judged and are no ties.
    """

    weights: np.ndarray
    interval: np.ndarray
    scale: np.ndarray
    n_pairs: int


def objective_weights(scores, y, *, groups=None, sample_weight=None, confidence_level=0.95):
    r"""Estimate how much each objective counts in overall preferences, by logistic regression on score margins.

    With the margin :math:`m_{ik}` of the score of objective k in pair i and its root mean square :math:`s_k`, the odds
    that the first output is preferred are :math:`\exp \sum_k w_k m_{ik} / s_k`.

    Parameters
    ----------
    scores : array-like of shape (n_pairs, 2, n_objectives)
        Scores of both outputs by each objective, higher is better: rewards, ratings, minus numbers of errors.
    y : array-like of shape (n_pairs,)
        Overall preferences: 1 = the first output is preferred, 0 = the second. Ties (0.5) and NaN are left out.
    groups : array-like of shape (n_pairs,), default=None
        Group of each pair, such as its prompt or its annotator. None: the pairs are independent.
    sample_weight : array-like of shape (n_pairs,), default=None
        Weights >= 0 of the pairs.
    confidence_level : float in (0, 1), default=0.95
        Probability that an interval covers the weight.

    Returns
    -------
    ObjectiveWeights

    Raises
    ------
    ValueError
        For scores that are not finite or do not differ in any pair, or preferences of one kind only.

    Warns
    -----
    UserWarning
        If the scores order every pair as preferred: the weights then have no finite estimate.

    Notes
    -----
    Intervals are normal, from the sandwich covariance of the estimate, clustered by group. They do not cover errors of
    the scores.

    Examples
    --------
    >>> import numpy as np
    >>> from fairl_sk import objective_weights
    >>> rng = np.random.default_rng(0)
    >>> scores = rng.normal(size=(500, 2, 2))
    >>> margins = scores[:, 0] - scores[:, 1]
    >>> y = margins @ [1.0, 0.2] + rng.logistic(size=500) > 0
    >>> found = objective_weights(scores, y)
    >>> bool(found.weights[0] > found.weights[1])
    True
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 3 or scores.shape[1] != 2 or not scores.size or not np.isfinite(scores).all():
        found = f"{np.count_nonzero(~np.isfinite(scores))} not finite"
        raise ValueError(
            f"Found scores of shape {scores.shape}, {found}. Expected finite scores of both outputs by each objective, "
            "(n_pairs, 2, n_objectives): drop the pairs without."
        )
    weight = _check_sample_weight(sample_weight, scores, dtype=np.float64, ensure_non_negative=True)
    return weigh_margins(scores[:, 0] - scores[:, 1], read_overall(y, len(scores)), weight, groups, confidence_level)


def weigh_margins(margins, sign, weight, groups=None, confidence_level=0.95):
    """`ObjectiveWeights` of margins (n_pairs, n_objectives); the sign of a pair is 1, -1, or NaN if not judged."""
    if not 0 < confidence_level < 1:
        raise ValueError(f"Found confidence_level={confidence_level!r}. Expected a number between 0 and 1.")
    groups = np.arange(len(margins)) if groups is None else np.asarray(groups)
    if groups.shape != sign.shape:
        raise ValueError(f"Found groups of shape {groups.shape} for {len(sign)} pairs. Expected one a pair.")
    rows = np.flatnonzero(~np.isnan(sign) & (weight > 0))
    margins, sign, weight, groups = margins[rows], sign[rows], weight[rows] / weight[rows].mean(), groups[rows]
    scale = np.sqrt(np.average(margins**2, axis=0, weights=weight))
    if not scale.all():
        raise ValueError(
            f"Objective {np.flatnonzero(scale == 0)[0]} has the same score for both outputs in every pair that was "
            "judged. Expected scores that differ: leave it out."
        )
    signed = margins / scale * sign[:, None]
    found = fit_logistic(signed, weight, NO_PENALTY, np.zeros(len(scale)))
    if (signed @ found > 0).all():
        warn_user(
            "The scores order every pair as preferred, so that the weights have no finite estimate; their sizes and "
            "intervals mean nothing. Judge more pairs."
        )
    doubt = expit(-signed @ found)
    hessian = (signed * (weight * doubt * (1 - doubt))[:, None]).T @ signed
    hessian += 2 * NO_PENALTY * len(signed) * np.eye(len(scale))
    codes = np.unique(groups, return_inverse=True)[1]
    slopes = np.zeros((codes.max() + 1, len(scale)))
    np.add.at(slopes, codes, signed * (weight * doubt)[:, None])
    bread = np.linalg.inv(hessian)
    covariance = bread @ (slopes.T @ slopes * len(slopes) / max(1, len(slopes) - 1)) @ bread
    width = norm.ppf((1 + confidence_level) / 2) * np.sqrt(np.diag(covariance))
    return ObjectiveWeights(found, np.stack([found - width, found + width], axis=1), scale, len(signed))


def fit_logistic(signed, weight, penalty, center):
    """Weights (n_columns,) that minimize the mean logistic loss of signed margins + penalty |weights - center|^2."""
    share = weight / weight.sum()

    def loss(theta):
        margins = signed @ theta
        slope = -(share * expit(-margins)) @ signed + 2 * penalty * (theta - center)
        return share @ np.logaddexp(0, -margins) + penalty * np.square(theta - center).sum(), slope

    return minimize(loss, center, jac=True, method="BFGS", options={"gtol": 1e-8}).x
