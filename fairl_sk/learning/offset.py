"""The offset of a reward, which pairs cannot identify: where 0 is (docs, "What predict means")."""

from copy import deepcopy

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..pairs import is_pairs, preference_sign

__all__ = ["calibrate_offset", "output_offset", "separating_threshold"]


def separating_threshold(rewards, positive, weight):
    """Threshold above which the positive outputs lie best: with the largest balanced accuracy.

    It is half-way between two neighboring rewards; of several such places the middle one. A constant reward is its own
    threshold.

    Examples
    --------
    >>> separating_threshold(np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, False, True, True]), np.ones(4))
    1.5
    """
    counted = weight > 0
    rewards, positive, weight = rewards[counted], positive[counted], weight[counted].astype(np.float64)
    share = np.where(positive, weight / weight[positive].sum(), -weight / weight[~positive].sum())
    order = np.argsort(rewards)
    rewards, share = rewards[order], share[order]
    places = np.flatnonzero(rewards[1:] > rewards[:-1])
    if not len(places):
        return float(rewards[0])
    below = np.cumsum(share)[places]  # positives less negatives at or below the place: small is good
    best = np.flatnonzero(below <= below.min() + 1e-12)
    place = places[best[(len(best) - 1) // 2]]
    return float((np.float64(rewards[place]) + rewards[place + 1]) / 2)


def output_offset(problem, rewards):
    """What to add to rewards so that 0 separates the outputs best: chosen from rejected or, if given, by label."""
    if not problem.is_paired:
        return -separating_threshold(rewards, problem.sign > 0, problem.weight)
    positive = problem.target_sides > 0
    return -separating_threshold(rewards.ravel(), positive.ravel(), np.repeat(problem.weight, 2))


def calibrate_offset(estimator, X, labels=None, *, prior=None):
    """Move the 0 of a fitted reward by labels of a few outputs, or by the known share of desirable outputs.

    Margins, and so the order of outputs, stay as they are.

    Parameters
    ----------
    estimator : fitted estimator
        One that has ``decision_function`` and ``intercept_``, or a Pipeline or search that ends in one.
    X : array-like or table
        Single outputs in the form that ``estimator`` reads, such as texts (n_outputs,) or features
        (n_outputs, n_features). Draw them at random from the outputs that will be judged.
    labels : array-like of shape (n_outputs,), default=None
        Two classes, the larger meaning "desirable". 0 is put where a logistic regression on the reward gives both
        classes the probability 1/2.
    prior : float in (0, 1), default=None
        Share of desirable outputs in ``X``, if ``labels`` is None. This share of ``X`` gets a reward above 0.

    Returns
    -------
    calibrated : estimator
        A copy with another ``intercept_``.

    Raises
    ------
    ValueError
        If both or none of ``labels`` and ``prior`` are given, ``X`` holds pairs, the labels are one class only, or the
        reward ranks them no better than upside down.
    TypeError
        If nothing in ``estimator`` has an ``intercept_``.

    Examples
    --------
    >>> from fairl_sk import MaxEntropyIRL, calibrate_offset
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, random_state=0)
    >>> reward = MaxEntropyIRL().fit(data.data, data.target)
    >>> outputs = data.data.reshape(-1, 5)
    >>> calibrate_offset(reward, outputs, prior=0.2).predict(outputs).mean()
    np.float64(0.2)
    """
    if (labels is None) == (prior is None):
        raise ValueError(f"Found labels={labels!r:.60} and prior={prior!r}. Expected one of the two, not both or none.")
    if is_pairs(X):
        raise ValueError(
            "Found pairs in X. Expected single outputs: fairl_sk.pairs.stack_outputs(X) puts both sides of pairs into "
            "rows of their own."
        )
    check_is_fitted(estimator)
    calibrated = deepcopy(estimator)
    holders = list(_find_intercepts(calibrated))
    rewards = np.asarray(estimator.decision_function(X), dtype=np.float64)
    threshold = _share_threshold(rewards, prior) if labels is None else _label_threshold(rewards, labels)
    for holder in holders:
        holder.intercept_ = holder.intercept_ - threshold
    return calibrated


def _find_intercepts(estimator):
    """What holds the ``intercept_`` of a reward: an estimator, and what wraps it and shows the same number."""
    is_pipeline = isinstance(estimator, Pipeline)
    wrapped = "best_estimator_" if hasattr(estimator, "best_estimator_") else "estimator_"
    inner = estimator.steps[-1][1] if is_pipeline else getattr(estimator, wrapped, None)
    if inner is not None:
        yield from _find_intercepts(inner)
    if "intercept_" in vars(estimator):
        yield estimator
    elif inner is None:
        raise TypeError(
            f"Found {type(estimator).__name__} without intercept_. Expected an estimator of this package or a linear "
            "classifier, alone or at the end of a Pipeline or a search."
        )


def _share_threshold(rewards, prior):
    if not 0 < prior < 1:
        raise ValueError(f"Found prior={prior!r}. Expected a share of desirable outputs between 0 and 1.")
    return float(np.quantile(rewards, 1 - prior))


def _label_threshold(rewards, labels):
    desirable = preference_sign(labels, len(rewards)) > 0
    if desirable.all() or not desirable.any():
        raise ValueError("Found one class only in labels. Expected desirable and other outputs: label more of them.")
    center, scale = rewards.mean(), rewards.std()
    slope = 0.0
    if np.ptp(rewards) > 0:
        model = LogisticRegression().fit((rewards[:, None] - center) / scale, desirable)
        slope = float(model.coef_[0, 0])
    if slope <= 0:
        raise ValueError(
            "The reward is not higher where labels say desirable, so no threshold suits. Check that the larger class "
            "of labels means desirable, or label more outputs."
        )
    return float(center - scale * model.intercept_[0] / slope)
