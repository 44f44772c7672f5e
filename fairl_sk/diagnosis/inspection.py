"""Which pairs does a reward find hardest, and why? For users who want to look at their data after a fit."""

import warnings
from numbers import Integral
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ..failures import find_failures, make_detector
from ..learning.estimators import FailureAwareIRL
from ..learning.judgements import read_judgements
from ..learning.objectives import MultiObjectiveIRL
from ..learning.rows import difference_scale, labels_of_pairs, number_outputs, signed_differences
from ..pairs import check_pairs, preference_sign, read_texts
from .fitted import check_number, split_pipeline

CONFIDENCE = 0.75  # a probability above it says that a preference was flipped, or is right
_N_FOLDS = 5
_ALPHA = 1e-3  # L2 strength of the held-out rewards, for differences of root mean squared length 1


def inspect_failures(
    estimator,
    X,
    y=None,
    *,
    texts=None,
    k=20,
    trajectory=True,
    sample_weight=None,
    output_labels=None,
    implicit_rewards=None,
    groups=None,
):
    r"""List the k pairs with the smallest margins, and say of each failure whether it looks like noise.

    A pair fails if the reward's margin is 0 or less. Linear Bradley-Terry rewards, each fitted to other pairs by
    cross-validation, then tell why.

    Parameters
    ----------
    estimator : fitted estimator or Pipeline
        Anything with ``decision_function`` of pairs. The steps of a Pipeline transform ``X``.
    X : array-like of shape (n_pairs, 2, n_features), or texts for a Pipeline that reads them
        Pairs, as a rule those of the fit.
    y : array-like of shape (n_pairs,) or (n_pairs, n_objectives), default=None
        Two classes, the larger meaning "the first is preferred"; None: the first everywhere. For a
        `MultiObjectiveIRL` the judgements of all objectives, as in its fit.
    texts : array-like of shape (n_pairs, 2) or table, default=None
        Texts to show, in the order of ``X``. None: those of ``X``, if it holds texts.
    k : int >= 1, default=20
        Number of pairs to list; at most all are.
    trajectory : bool, default=True
        Whether to list the margins in each round of a `FailureAwareIRL`. This fits a clone of it to ``X`` and ``y``.
    sample_weight, output_labels
        As in the fit; only the trajectory reads the labels.
    implicit_rewards : array-like of shape (n_pairs, 2), default=None
        Rewards of the outputs by `fairl_sk.rewards.ImplicitReward`, in the order of ``X``.
    groups : array-like of shape (n_pairs,), default=None
        Groups, such as prompts, that stay in one fold. None: pairs that share an output stay in one fold.

    Returns
    -------
    table : pandas.DataFrame of shape (k, n_columns)
        One pair per row, the smallest margin first:

        - ``pair``: its row in ``X``;
        - ``preferred``, ``other``: its texts, if there are any;
        - ``margin``: R(preferred) - R(other);
        - ``implicit_margin``: the same of the implicit rewards, if given. Where it is negative, too, the two models
          contradict the preference;
        - ``noise_probability``: probability that the preference was flipped;
        - ``reason``: "suspected noise" if the preference was flipped with a probability above 0.75, "error" if the
          held-out rewards support it with a probability above 0.75, else "ambiguity"; "none" if the pair does not fail;
        - ``trajectory``: margins before each round's step, shape (n_rounds,); None without rounds.

        For a `MultiObjectiveIRL`, one row is a pair and an objective that judged it. ``objective`` is its name, and
        ``margin`` is in standard deviations. ``conflict`` has the names of the objectives that decide the pair the
        other way, by their judgement or else their reward. Failures come first, then *conflicts*: pairs with this
        ``reason`` do not fail, but objectives decide against each other. There is no trajectory.

    Raises
    ------
    ValueError
        For rows that are not pairs, bad ``k``, ``groups`` or ``texts``, or one group only.

    Notes
    -----
    With the held-out margin :math:`m_i` of a pair, the preferred output is better with probability
    :math:`s_i = \sigma(k m_i)`. Preferences are flipped at a rate :math:`\epsilon`, so that this one is seen with
    probability :math:`p_i = \epsilon (1 - s_i) + (1 - \epsilon) s_i`. The k and :math:`\epsilon` of greatest likelihood
    [1]_ give the ``noise_probability`` :math:`\epsilon (1 - s_i) / p_i`.

    References
    ----------
    .. [1] J. B. Copas. Binary regression models for contaminated data. JRSS B, 1988.

    Examples
    --------
    >>> from fairl_sk import FailureAwareIRL, inspect_failures
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, noise=0.1, random_state=0)
    >>> reward = FailureAwareIRL(random_state=0).fit(data.data, data.target)
    >>> table = inspect_failures(reward, data.data, data.target, k=20)
    >>> set(table["reason"])
    {'suspected noise'}
    >>> float(data.flipped[table["pair"]].mean())
    1.0
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("inspect_failures returns a pandas.DataFrame: pip install pandas") from error
    texts = X if texts is None else texts
    estimator, X = split_pipeline(estimator, X)
    check_is_fitted(estimator)
    X = check_pairs(X)
    if X.ndim != 3:
        raise ValueError(
            f"Found X of shape {X.shape}. Expected pairs, (n_pairs, 2, n_features): failures are of pairs."
        )
    texts = None if getattr(texts, "ndim", 2) == 3 else read_texts(texts)
    if texts is not None and texts.shape != (len(X), 2):
        raise ValueError(f"Found texts of shape {texts.shape} for {len(X)} pairs. Expected two a pair, (n_pairs, 2).")
    k = check_number("k", k, kind=Integral)
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    if isinstance(estimator, MultiObjectiveIRL):
        if output_labels is not None or implicit_rewards is not None:
            raise ValueError("Found output_labels or implicit_rewards with several objectives. Expected neither.")
        return pandas.DataFrame(_inspect_objectives(estimator, X, y, texts, weight, groups)).head(k)
    sign = preference_sign(y, len(X), classes=None if y is None else getattr(estimator, "classes_", None))
    margins = sign * np.asarray(estimator.decision_function(X), dtype=np.float64)
    rows = np.argsort(margins, kind="stable")[:k]
    noise, reasons = _find_reasons(margins, X, sign, weight, groups)
    table = {"pair": rows, **_oriented_texts(texts, sign, rows), "margin": margins[rows]}
    if implicit_rewards is not None:
        values = np.asarray(implicit_rewards, dtype=np.float64)
        if values.shape != (len(X), 2):
            raise ValueError(f"Found implicit_rewards of shape {values.shape} for {len(X)} pairs. Expected two a pair.")
        table["implicit_margin"] = (sign * (values[:, 0] - values[:, 1]))[rows]
    table |= {"noise_probability": noise[rows], "reason": reasons[rows]}
    learner = getattr(estimator, "best_estimator_", estimator)
    recorded = [None] * len(rows)
    if trajectory and isinstance(learner, FailureAwareIRL):
        known = labels_of_pairs(None, implicit_rewards) if output_labels is None else output_labels
        recorded = list(_margins_of_rounds(learner, X, y, rows, sample_weight, known))
    return pandas.DataFrame({**table, "trajectory": pandas.Series(recorded, dtype=object)})


def _oriented_texts(texts, sign, rows):
    """Columns of the preferred and the other texts of some rows; none without texts."""
    if texts is None:
        return {}
    preferred, other = np.where(sign > 0, texts.T, texts.T[::-1])
    return {"preferred": preferred[rows], "other": other[rows]}


def _find_reasons(margins, X, sign, weight, groups):
    """Probability that each preference was flipped, and why the pair fails, both (n_pairs,)."""
    fitted = fit_noise(_held_out_margins(X, sign, weight, groups), weight)
    failing = margins <= 0
    kinds = [failing & (fitted.noise > CONFIDENCE), failing & (fitted.support > CONFIDENCE), failing]
    return fitted.noise, np.select(kinds, ["suspected noise", "error", "ambiguity"], "none")


def _inspect_objectives(estimator, X, y, texts, weight, groups):
    """Columns of the table for several objectives: failures first, then conflicts, then the other judged pairs."""
    judged = read_judgements(y, len(X), estimator.objective_names_, classes=estimator.classes_)
    margins, conflicts = estimator.decision_function(X) / estimator.scale_, estimator.conflicts(X, y)
    names, tables = np.array(judged.names, dtype=object), []
    for k, name in enumerate(names):
        rows = np.flatnonzero(~np.isnan(judged.signs[:, k]))
        if not len(rows):
            continue
        sign = judged.signs[rows, k]
        signed = sign * margins[rows, k]
        given = None if groups is None else np.asarray(groups)[rows]
        noise, reasons = _find_reasons(signed, X[rows], sign, weight[rows], given)
        against = [", ".join(names[conflicts[row, k]]) for row in rows]
        shown = {} if texts is None else _oriented_texts(texts[rows], sign, slice(None))
        columns = {"pair": rows, "objective": np.full(len(rows), name, dtype=object), **shown, "margin": signed}
        columns |= {"noise_probability": noise, "conflict": np.array(against, dtype=object), "reason": reasons}
        tables.append(columns)
    if not tables:
        raise ValueError("Found no judgement in y. Expected pairs that at least one objective judged.")
    table = {name: np.concatenate([columns[name] for columns in tables]) for name in tables[0]}
    clash = (table["reason"] == "none") & (table["conflict"] != "")
    table["reason"] = np.where(clash, "conflict", table["reason"])
    order = np.lexsort([table["margin"], (table["reason"] == "none") * 2 + clash])
    return {name: values[order] for name, values in table.items()}


def _held_out_margins(X, sign, weight, groups):
    """Margin of each pair, (n_pairs,), by a linear Bradley-Terry reward of the pairs in the other folds."""
    groups = _linked_pairs(X) if groups is None else np.asarray(groups)
    n_groups = len(np.unique(groups))
    if groups.shape != (len(X),) or n_groups < 2:
        raise ValueError(
            f"Found groups of shape {groups.shape} with {n_groups} distinct values for {len(X)} pairs. Expected one "
            "group per pair, and at least two groups. Without groups, pairs that share an output, directly or through "
            "other pairs, are one group: pass groups=np.arange(n_pairs) if they all are."
        )
    differences = signed_differences(X.astype(np.float64), sign)
    differences /= difference_scale(differences, weight)
    both = np.concatenate([differences, -differences])  # the solver needs two classes
    margins = cross_val_predict(
        LogisticRegression(C=1 / (4 * _ALPHA * len(X)), fit_intercept=False, max_iter=1000),
        both,
        np.repeat([1, 0], len(X)),
        groups=np.tile(groups, 2),
        cv=GroupKFold(min(_N_FOLDS, n_groups)),
        method="decision_function",
        params={"sample_weight": np.tile(weight / weight.mean(), 2)},
    )
    return margins[: len(X)]


class NoiseFit(NamedTuple):
    """What held-out margins tell of flipped preferences.

    Attributes
    ----------
    support, noise : ndarray of shape (n_pairs,)
        Probability that the preferred output is better, and that the preference was flipped.
    rate : float
        Share of flipped preferences that fits best.
    gain : float
        Log-likelihood, in nats, that this rate gains over a rate of 0.
    """

    support: np.ndarray
    noise: np.ndarray
    rate: float
    gain: float


def fit_noise(margins, sample_weight=None):
    """Fit the scale of held-out margins and the rate of flipped preferences (see the notes of `inspect_failures`).

    Parameters
    ----------
    margins : ndarray of shape (n_pairs,)
        R(preferred) - R(other) by a reward that was fitted to other pairs.
    sample_weight : ndarray of shape (n_pairs,), default=None

    Returns
    -------
    NoiseFit
    """
    weight = np.ones(len(margins)) if sample_weight is None else sample_weight

    def loss(point):
        seen = point[1] + (1 - 2 * point[1]) * expit(np.exp(point[0]) * margins)
        return -np.average(np.log(np.maximum(seen, 1e-12)), weights=weight)

    def least(highest, *starts):
        bounds = [(-5.0, 5.0), (0.0, highest)]
        return min((minimize(loss, start, bounds=bounds) for start in starts), key=lambda found: found.fun)

    found, without = least(0.49, (0.5, 0.05), (0.5, 0.4)), least(0.0, (0.5, 0.0))
    scale, rate = found.x
    support = expit(np.exp(scale) * margins)
    flipped = rate * (1 - support)
    noise = flipped / np.maximum(flipped + (1 - rate) * support, 1e-300)
    return NoiseFit(support, noise, float(rate), float((without.fun - found.fun) * len(margins)))


def _linked_pairs(X):
    """Group of each pair, (n_pairs,): pairs that share an output, directly or through other pairs, have the same."""
    outputs = number_outputs(X)
    edges = coo_array((np.ones(len(outputs)), outputs.T), shape=(outputs.max() + 1,) * 2)
    return connected_components(edges, directed=False)[1][outputs[:, 0]]


def _margins_of_rounds(learner, X, y, rows, sample_weight, output_labels):
    """Margins (n_rows, n_rounds) of some pairs in the rounds of a second fit."""
    recorder = _Recorder(clone(make_detector(learner.failures), safe=False), rows)
    again = clone(learner).set_params(failures=recorder, verbose=0)
    with warnings.catch_warnings():  # the first fit has raised them
        warnings.simplefilter("ignore")
        again.fit(X, y, sample_weight, output_labels)
    return np.stack(recorder.margins_, axis=1)


class _Recorder(BaseEstimator):
    """A detector that finds what another one finds, and keeps the margins of some pairs in ``margins_``."""

    requires_labels = property(lambda self: getattr(self.detector, "requires_labels", False))

    def __init__(self, detector, rows):
        self.detector = detector
        self.rows = rows

    def __sklearn_clone__(self):
        return self  # the margins have to be found again

    def fit(self, X, y, sample_weight, **known):
        """Fit the other detector, if it has ``fit``."""
        self.margins_ = []
        if hasattr(self.detector, "fit"):
            self.detector.fit(X, y, sample_weight, **known)
        return self

    def detect(self, state):
        """Failures of the other detector."""
        self.margins_.append(state.margins[self.rows].astype(np.float64))
        return find_failures(self.detector, state)
