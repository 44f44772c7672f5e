"""The pairs that a reward finds hardest, and why; for users who want to look at their data after a fit."""

import warnings

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..learning.estimators import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
from ..learning.failures import NoiseAwareFailures, find_failures, fit_detector
from ..pairs import check_pairs, preference_sign, read_texts

__all__ = ["inspect_failures"]


def inspect_failures(
    estimator,
    X,
    y=None,
    *,
    texts=None,
    k=20,
    noise="auto",
    trajectory=True,
    threshold=0.0,
    n_std=2.0,
    sample_weight=None,
    output_labels=None,
    groups=None,
    seed=0,
):
    """List the k pairs with the smallest margins, with what speaks for an error, for ambiguity, and for noise.

    The margin is the reward's. Beside it stand the held-out margins of an ensemble of rewards that did not see the pair
    (`fairl_sk.learning.failures.NoiseAwareFailures`). A failing pair, whose margin is at or below ``threshold``, has as reason

    - ``"suspected noise"``: the preference is probably flipped, more so than the detector's ``confidence``;
    - ``"ambiguity"``: else, if the ensemble is divided, its mean within ``n_std`` standard deviations of 0;
    - ``"error"``: else. The reward gets it wrong, and flipped preferences do not explain it.

    Others have the reason ``"none"``.

    Parameters
    ----------
    estimator : fitted estimator or Pipeline
        Anything with ``decision_function`` of pairs. The last step of a pipeline gets what the steps before make of
        ``X``.
    X : array-like of shape (n_pairs, 2, n_features), or texts where ``estimator`` is a Pipeline that reads them
        Pairs, best those of the fit.
    y : array-like of shape (n_pairs,), default=None
        Two classes, the larger meaning that the first is preferred; None: it is everywhere.
    texts : array-like of shape (n_pairs, 2) or table, default=None
        Texts to show, in the order of ``X``. None: those of ``X``, if it holds texts.
    k : int >= 1, default=20
        Number of pairs to list; at most all are.
    noise : "auto", NoiseAwareFailures or None, default="auto"
        What judges the pairs; "auto" has its defaults. It is fitted on ``X``, on a clone, at the cost of a few logistic
        regressions. None: it is left out, its columns are NaN, and no pair is ambiguous or noise.
    trajectory : bool, default=True
        Whether to list each pair's margins over the rounds. They come from a second fit on ``X`` and ``y``, with the
        estimator's parameters, and take as long as the first fit. They are those of the first one if ``X``, ``y`` and
        the weights are, and ``random_state`` is a number.
    threshold : float, default=0.0
        Margin at or below which a pair fails, in units of reward.
    n_std : float > 0, default=2.0
        Standard deviations within which the ensemble's mean margin counts as 0.
    sample_weight : array-like of shape (n_pairs,), default=None
        Weights of the pairs, as in the fit.
    output_labels : array-like of shape (n_pairs, 2), default=None
        Labels of the outputs, as in the fit; read by the second fit only.
    groups : array-like of shape (n_pairs,), default=None
        Rows that the ensemble's folds do not part, such as those of a prompt. None: pairs that share an output.
    seed : int, default=0
        Seed of the ensemble.

    Returns
    -------
    table : pandas.DataFrame of shape (k, n_columns)
        A row a pair, the smallest margin first, with the columns

        - ``pair``: its row in ``X``;
        - ``preferred``, ``other``: its texts, where they are known;
        - ``margin``: R(preferred) - R(other);
        - ``held_out_margin``, ``held_out_std``: mean and standard deviation over the ensemble, in the unit of
          ``margin`` (scaled to the same root mean square over all pairs);
        - ``noise_probability``: probability that the preference is flipped;
        - ``reason``: see above;
        - ``trajectory``: ndarray of shape (n_rounds,), the margin before each round's step, or None.

    Raises
    ------
    ImportError
        If pandas is not installed.
    ValueError
        If the rows are not pairs, ``k`` is not a number above 0, ``noise`` is something else, or the estimator has no
        rounds and ``trajectory=True``.

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
    pandas = _import_pandas()
    texts, X, estimator = _unwrap(estimator, X, texts)
    sign = preference_sign(y, len(X), classes=None if y is None else getattr(estimator, "classes_", None))
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"Found k={k!r}. Expected a whole number of at least 1: how many pairs to list.")
    margins = sign * np.asarray(estimator.decision_function(X), dtype=np.float64)
    rows = np.argsort(margins, kind="stable")[:k]
    table = {"pair": rows}
    if texts is not None:
        table["preferred"] = np.where(sign > 0, texts[:, 0], texts[:, 1])[rows]
        table["other"] = np.where(sign > 0, texts[:, 1], texts[:, 0])[rows]
    judged = _judge(noise, X, sign, sample_weight, groups, seed, margins, threshold, n_std)
    table.update({"margin": margins[rows]}, **{name: values[rows] for name, values in judged.items()})
    recorded = [None] * len(rows)
    if trajectory:
        recorded = list(_record(estimator, X, y, rows, sample_weight, output_labels))
    return pandas.DataFrame({**table, "trajectory": pandas.Series(recorded, dtype=object)})


def _import_pandas():
    try:
        import pandas
    except ImportError as error:
        raise ImportError("inspect_failures gives a pandas.DataFrame: pip install pandas") from error
    return pandas


def _unwrap(estimator, X, texts):
    """Texts (n_pairs, 2) or None, features (n_pairs, 2, n_features), and the estimator that reads these."""
    texts = X if texts is None else texts
    if isinstance(estimator, Pipeline):
        check_is_fitted(estimator)
        X = X if len(estimator) == 1 else estimator[:-1].transform(X)
        estimator = estimator[-1]
    check_is_fitted(estimator)
    X = check_pairs(X)
    if X.ndim != 3:
        raise ValueError(
            f"Found X of shape {X.shape}. Expected pairs, (n_pairs, 2, n_features): failures are of pairs."
        )
    texts = None if getattr(texts, "ndim", 2) == 3 else read_texts(texts)
    if texts is not None and texts.shape != (len(X), 2):
        raise ValueError(f"Found texts of shape {texts.shape} for {len(X)} pairs. Expected two a pair, (n_pairs, 2).")
    return texts, X, estimator


def _judge(noise, X, sign, sample_weight, groups, seed, margins, threshold, n_std):
    """What the ensemble says of every pair, and the reason."""
    if noise is None:
        unknown = np.full(len(X), np.nan)
        reason = np.where(margins <= threshold, "error", "none")
        return {"held_out_margin": unknown, "held_out_std": unknown, "noise_probability": unknown, "reason": reason}
    detector = NoiseAwareFailures() if isinstance(noise, str) and noise == "auto" else noise
    if not isinstance(detector, NoiseAwareFailures):
        raise ValueError(f"Found noise={noise!r}. Expected 'auto', a NoiseAwareFailures object, or None.")
    detector = clone(detector).fit(X, sign, sample_weight, groups=groups, seed=seed)
    size = np.sqrt(np.mean(detector.margins_**2))
    unit = np.sqrt(np.mean(margins**2)) / size if size > 0 else 0.0
    failing = margins <= threshold
    suspected = failing & (detector.noise_probability_ > detector.confidence)
    ambiguous = failing & ~suspected & (np.abs(detector.margins_) <= n_std * detector.std_)
    return {
        "held_out_margin": unit * detector.margins_,
        "held_out_std": unit * detector.std_,
        "noise_probability": detector.noise_probability_,
        "reason": np.select([suspected, ambiguous, failing], ["suspected noise", "ambiguity", "error"], "none"),
    }


# ---------------------------------------------------------------------------------------------- the trajectory


def _record(estimator, X, y, rows, sample_weight, output_labels):
    """Margins (n_rows, n_rounds) of some pairs in the rounds of a second fit."""
    again = _failure_aware(getattr(estimator, "best_estimator_", estimator))
    recorder = _Recorder(again._schedules()["detector"], rows)
    again.set_params(failures=recorder, verbose=0, warm_start=False)
    with warnings.catch_warnings():  # the first fit has said them
        warnings.simplefilter("ignore")
        again.fit(X, y, sample_weight, output_labels)
    return np.stack(recorder.margins_, axis=1)


def _failure_aware(estimator):
    """An unfitted `FailureAwareIRL` that goes through the same rounds."""
    if isinstance(estimator, FailureAwareIRL):
        return clone(estimator)
    if not isinstance(estimator, (MaxMarginIRL, MaxEntropyIRL)):
        raise ValueError(
            f"Found {type(estimator).__name__}, which has no rounds. Expected MaxMarginIRL, MaxEntropyIRL, "
            "FailureAwareIRL or a search over one of them for trajectory=True: pass trajectory=False."
        )
    params = clone(estimator).get_params(deep=False)
    if isinstance(estimator, MaxMarginIRL):
        return FailureAwareIRL.paper(failure_weight=0, margin_fail=2 * estimator.margin, **params)
    half = estimator.temperature / 2
    return FailureAwareIRL.paper(objective="max_entropy", failure_weight=0, temperature_fail=half, **params)


class _Recorder(BaseEstimator):
    """A detector that finds what another one finds, and keeps the margins of some pairs.

    Parameters
    ----------
    detector : object with ``detect``
    rows : ndarray of shape (n_rows,), int

    Attributes
    ----------
    margins_ : list of ndarray of shape (n_rows,)
        One a round.
    """

    partial_labels = property(lambda self: getattr(self.detector, "partial_labels", False))
    requires_labels = property(lambda self: getattr(self.detector, "requires_labels", False))

    def __init__(self, detector, rows):
        self.detector = detector
        self.rows = rows

    def __sklearn_clone__(self):
        return self  # the margins have to be found again

    def fit(self, X, y, sample_weight, *, output_labels, seed):
        """Fit the other detector, if it asks for that."""
        self.detector_ = fit_detector(self.detector, X, y, sample_weight, output_labels, seed)
        self.margins_ = []
        return self

    def detect(self, state):
        """Failures of the other detector."""
        self.margins_.append(state.margins[self.rows].astype(np.float64))
        return find_failures(self.detector_, state)
