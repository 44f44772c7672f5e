"""The searches, in the convention of ``LassoCV``: estimators whose parameters may be lists.

They choose what ``GridSearchCV`` chooses, at the cost of a few fits (`fairl_sk.learning.search`).
"""

from numbers import Real

import numpy as np
from sklearn.base import clone

from ..failures import make_detector
from .estimators import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
from .preference import document
from .rows import labels_of_pairs
from .search_base import SearchCV

__all__ = ["FailureAwareIRLCV", "MaxEntropyIRLCV", "MaxMarginIRLCV"]

# Parameters that only the failure path reads.
_OF_FAILURES = {"failure_weight", "margin_fail", "temperature_fail", "failure_threshold", "failure_rate", "failures"}
_OF_FAILURES |= {"alpha_fail", "failure_gradient"}

_SEARCH_PARAMETERS = """
cv : int, splitter or iterable of (train, test), default=None
    The folds. None or a number: as many folds (5), by ``GroupKFold`` if `fit` gets ``groups``, else stratified.
scoring : str, callable, list, dict or None, default=None
    As in ``GridSearchCV``; None: accuracy, which for pairs is the share that is ordered correctly.
refit : bool, str or callable, default=True
    As in ``GridSearchCV``: whether to fit the best candidate on all rows; with several scores, which one chooses.
error_score : float or "raise", default=nan
    Score of a fit or a scorer that fails; the others go on.

Attributes
----------
cv_results_ : dict of ndarray
    As in ``GridSearchCV``. Candidates that were fitted together share the time that it took.
best_estimator_ : estimator
    The best candidate, fitted on all rows (``refit``). All predictions are its own.
best_params_, best_score_, best_index_, n_splits_, refit_time_, multimetric_
    As in ``GridSearchCV``.
coef_, intercept_, n_iter_
    Those of the best estimator.
classes_ : ndarray of shape (2,)
    The two classes.
n_features_in_, feature_names_in_
    Number of features of an output, and their names for tables.
"""

_SEARCH_NOTES = """
A parameter is a grid if it is a list, a tuple, a range or an array of one axis (``hidden_layer_sizes``: a list of
sequences). Candidates are all combinations of the grids. A combination that no fit takes (``margin_fail`` not above
``margin``) is a failed fit; a value that no combination makes valid is an error. After an interrupt ``cv_results_``
has the finished folds.
"""


@document(search=_SEARCH_PARAMETERS, notes=_SEARCH_NOTES)
class MaxMarginIRLCV(SearchCV):
    """`MaxMarginIRL` that chooses its parameters by cross-validation.

    Parameters
    ----------
    margin, temperature, alpha, hidden_layer_sizes, n_rounds, learning_rate, batch_size, max_iter, tol
        Those of `MaxMarginIRL`, or lists of values to try.
    device, random_state, verbose
        Those of `MaxMarginIRL`; ``verbose`` also shows the progress of the search.
    {search}

    See Also
    --------
    FailureAwareIRLCV : The same for the failure-aware learner.

    Notes
    -----
    {notes}

    Examples
    --------
    >>> from fairl_sk import MaxMarginIRLCV
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(300, 5, noise=0.1, random_state=0)
    >>> search = MaxMarginIRLCV(alpha=[1e-3, 1e-2, 10.0], random_state=0).fit(data.data, data.target)
    >>> search.best_params_["alpha"] < 10
    True
    """

    _estimator_class = MaxMarginIRL

    def __init__(
        self,
        *,
        margin=1.0,
        temperature=1.0,
        alpha=1e-3,
        hidden_layer_sizes=(),
        n_rounds=50,
        learning_rate="auto",
        batch_size="auto",
        max_iter=1000,
        tol=1e-5,
        device="cpu",
        random_state=None,
        verbose=0,
        cv=None,
        scoring=None,
        refit=True,
        error_score=np.nan,
    ):
        self._keep_parameters(locals())


@document(search=_SEARCH_PARAMETERS, notes=_SEARCH_NOTES)
class MaxEntropyIRLCV(SearchCV):
    """`MaxEntropyIRL` that chooses its parameters by cross-validation.

    Parameters
    ----------
    temperature, alpha, hidden_layer_sizes, n_rounds, learning_rate, batch_size, max_iter, tol
        Those of `MaxEntropyIRL`, or lists of values to try.
    device, random_state, verbose
        Those of `MaxEntropyIRL`; ``verbose`` also shows the progress of the search.
    {search}

    See Also
    --------
    FailureAwareIRLCV : The same for the failure-aware learner.

    Notes
    -----
    {notes}
    """

    _estimator_class = MaxEntropyIRL

    def __init__(
        self,
        *,
        temperature=1.0,
        alpha=1e-3,
        hidden_layer_sizes=(),
        n_rounds=50,
        learning_rate="auto",
        batch_size="auto",
        max_iter=1000,
        tol=1e-5,
        device="cpu",
        random_state=None,
        verbose=0,
        cv=None,
        scoring=None,
        refit=True,
        error_score=np.nan,
    ):
        self._keep_parameters(locals())


@document(search=_SEARCH_PARAMETERS, notes=_SEARCH_NOTES)
class FailureAwareIRLCV(SearchCV):
    """`FailureAwareIRL` that chooses its parameters, and whether to be failure-aware at all, by cross-validation.

    The learner without failures, ``failure_weight=0``, is always among the candidates, once for every setting of the
    base path. It comes first, so that it is taken where scores are equal. ``pointwise_weight=["auto", 0]`` lets the
    folds choose whether the pointwise loss counts. Choose ``alpha`` with ``failure_weight=0`` (model selection, "Alpha
    belongs to the base path").

    Parameters
    ----------
    objective, margin, margin_fail, temperature, temperature_fail, failure_threshold, failure_weight, failure_rate, \
failures, alpha_fail, pointwise_weight, recurrence_correlation, training, failure_gradient, alpha, \
hidden_layer_sizes, n_rounds, learning_rate, batch_size, max_iter, tol
        Those of `FailureAwareIRL`, or lists of values to try: numbers, schedules, detectors.
    device, random_state, verbose
        Those of `FailureAwareIRL`; ``verbose`` also shows the progress of the search.
    {search}

    See Also
    --------
    MaxMarginIRLCV, MaxEntropyIRLCV : The same for the standard learners.

    Notes
    -----
    {notes}

    Examples
    --------
    >>> from fairl_sk import ExponentialSchedule, FailureAwareIRLCV
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(300, 5, noise=0.1, random_state=0)
    >>> search = FailureAwareIRLCV(
    ...     temperature_fail=[0.3, 0.6], failure_weight=[ExponentialSchedule(3.0), 1.0], random_state=0
    ... )
    >>> search = search.fit(data.data, data.target, groups=data.groups)
    >>> len(search.cv_results_["params"])
    5
    """

    _estimator_class = FailureAwareIRL

    def __init__(
        self,
        objective="max_entropy",
        *,
        margin=1.0,
        margin_fail=None,
        temperature=1.0,
        temperature_fail=None,
        failure_threshold=None,
        failure_weight=None,
        failure_rate=None,
        failures="near_ties",
        alpha_fail=None,
        pointwise_weight="auto",
        recurrence_correlation=0.03,
        training="two_stage",
        failure_gradient="failure",
        alpha=1e-3,
        hidden_layer_sizes=(),
        n_rounds=50,
        learning_rate="auto",
        batch_size="auto",
        max_iter=1000,
        tol=1e-5,
        device="cpu",
        random_state=None,
        verbose=0,
        cv=None,
        scoring=None,
        refit=True,
        error_score=np.nan,
    ):
        self._keep_parameters(locals())

    def fit(self, X, y=None, sample_weight=None, output_labels=None, implicit_rewards=None, groups=None):
        """Try all candidates on all folds, and fit the best.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
            Features of pairs, or of single outputs.
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
            See `FailureAwareIRL.fit`.
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None
            Weights >= 0, of the fits and of the default score.
        output_labels, implicit_rewards : array-like of shape (n_pairs, 2), default=None
            See `FailureAwareIRL.fit`.
        groups : array-like of shape (n_pairs,) or (n_samples,), default=None
            Rows of a group, such as a prompt, are never parted by the default folds.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For what `FailureAwareIRL.fit` refuses, an empty grid, a value that no fit takes, a grid for a parameter
            that has one value in a search, fewer groups than folds, training rows of one class, or if no candidate has
            a score.

        Warns
        -----
        FitFailedWarning
            If fits or scores fail; the others go on (``error_score``).
        ConvergenceWarning
            If fits end at a duality gap far above ``tol``.
        UserWarning
            If a score is not finite, folds part groups, or no candidate's objective reads a parameter that is set.
        """
        return self._fit(X, y, sample_weight, labels_of_pairs(output_labels, implicit_rewards), groups)

    def _with_standard(self, params, grid, template):
        """All candidates, and before them one of failure weight 0 for every setting of the base path."""
        self._warn_of_unread(params, template)
        if "failure_weight" not in grid:
            params = [{**candidate, "failure_weight": template.failure_weight} for candidate in params]
        standard = [candidate for candidate in params if _is_standard(candidate)]
        rest = [candidate for candidate in params if not _is_standard(candidate)]
        defaults = {name: None for name in ("margin_fail", "temperature_fail") if name in grid}  # always valid

        def base_of(candidate):  # labels belong to it: the pointwise loss and the offset read them
            detector = make_detector(candidate.get("failures", template.failures))
            base = [candidate[name] for name in grid if name not in _OF_FAILURES]
            return [getattr(detector, "requires_labels", False), *base]

        known = [base_of(candidate) for candidate in standard]
        for candidate in rest:
            base = base_of(candidate)
            if base not in known:
                known.append(base)
                standard.append({**candidate, **defaults, "failure_weight": 0})
        return standard + rest

    def _warn_of_unread(self, params, template):
        """Warn of a grid over a constraint that no candidate's objective reads."""
        if len({candidate.get("objective", template.objective) for candidate in params}) == 1:
            clone(template).set_params(**params[-1])._warn_of_unread()


def _is_standard(candidate):
    weight = candidate["failure_weight"]
    return isinstance(weight, Real) and weight == 0
