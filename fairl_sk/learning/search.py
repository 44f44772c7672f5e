"""How a search fits its candidates: what they share on a fold, rows, base paths and products, is computed once.

The failure paths of all candidates that share a base path go through their rounds as columns of one product
(`fairl_sk.learning.fitting.train_failures`, the step of a single fit). Joint training and fitted detectors go one by
one.
"""

import time

from sklearn.base import clone

from .estimators import FailureAwareIRL
from .fitting import prepare, settle_pointwise_weight, solve_base, train_failures

__all__ = ["Candidate", "Fold", "fit_candidates"]

_MOST_COLUMNS = 64  # failure paths that train beside each other; their vectors take memory


class Candidate:
    """An estimator to fit on a fold.

    Parameters
    ----------
    estimator : estimator
        Unfitted; it is not changed.

    Attributes
    ----------
    fitted : estimator or None
        The fitted clone.
    error : Exception or None
        Why it could not be fitted.
    seconds : float
        Its share of the time of the fits.
    """

    def __init__(self, estimator):
        self.estimator, self.fitted, self.error, self.seconds = estimator, None, None, 0.0

    @property
    def trains_alone(self):
        """Whether the candidate shares no step with others."""
        return self.estimator._is_joint() or hasattr(getattr(self.estimator, "failures", None), "fit")


class Fold:
    """The training rows of a fold.

    Parameters
    ----------
    X, sign, sample_weight : ndarray
        Checked rows.
    output_labels : ndarray of shape (n_pairs, 2) or None
    y : ndarray or None
        The target as it was given.
    classes : ndarray of shape (2,)
    """

    def __init__(self, X, sign, sample_weight, output_labels, y, classes):
        self.X, self.sign, self.sample_weight = X, sign, sample_weight
        self.output_labels, self.y, self.classes = output_labels, y, classes
        self._problems, self._pointwise = {}, {}

    def problem(self, estimator, settings):
        """The prepared rows, and the settings with a number as pointwise weight."""
        labels = estimator._check_labels(
            self.output_labels, self.X.shape, settings.schedule.detector, self.sample_weight
        )
        key = settings.recurrence_correlation, labels is not None, estimator.device
        if key not in self._problems:
            self._problems[key] = prepare(
                self.X, self.sign, self.sample_weight, labels, settings.recurrence_correlation, estimator.device
            )
        problem = self._problems[key]
        if settings.pointwise_weight == "auto" and problem.is_paired:
            if key not in self._pointwise:
                self._pointwise[key] = settle_pointwise_weight(problem, settings).pointwise_weight
        return problem, settle_pointwise_weight(problem, settings, self._pointwise.get(key))


def fit_candidates(candidates, fold):
    """Fit all candidates on one fold.

    Parameters
    ----------
    candidates : list of Candidate
        They get ``fitted`` or ``error``.
    fold : Fold

    Yields
    ------
    finished : list of Candidate
        As they are finished, so that a caller can score and drop them.
    """
    groups = {}
    for candidate in candidates:
        if candidate.trains_alone:
            yield [_fit_alone(candidate, fold)]
            continue
        try:
            problem, settings = fold.problem(candidate.estimator, candidate.estimator._settings())
        except (ValueError, TypeError) as error:
            candidate.error = error
            yield [candidate]
            continue
        base = (id(problem), settings.objective, settings.required, settings.alpha, settings.pointwise_weight)
        base += (settings.tol, settings.max_iter)
        groups.setdefault(base, []).append((candidate, problem, settings))
    for members in groups.values():
        yield from _fit_on_one_base(members, fold)


def _fit_on_one_base(members, fold):
    """Fit candidates that share a base path."""
    start = time.perf_counter()
    _, problem, settings = members[0]
    differences = problem.tensor(problem.differences, None)
    base = solve_base(problem, settings, differences)
    base_seconds = (time.perf_counter() - start) / len(members)
    groups = {}
    for member in members:
        path, n_rounds = member[2], member[0].estimator.n_rounds
        groups.setdefault((path.alpha_fail, path.learning_rate, n_rounds), []).append(member)
    for (*_, n_rounds), group in groups.items():
        for begin in range(0, len(group), _MOST_COLUMNS):
            columns, start = group[begin : begin + _MOST_COLUMNS], time.perf_counter()
            paths = [path for _, _, path in columns]
            n_rounds = 1 if all(path.schedule.is_idle for path in paths) else n_rounds
            try:
                heads, _ = train_failures(problem, paths, base, differences, n_rounds, record=False)
            except ValueError:  # a detector's answer; one by one it is known whose
                yield from ([_fit_alone(candidate, fold)] for candidate, _, _ in columns)
                continue
            seconds = base_seconds + (time.perf_counter() - start) / len(columns)
            for (candidate, _, path), head in zip(columns, heads, strict=True):
                _keep(candidate, fold, problem, path, base, head)
                candidate.seconds = seconds
            yield [candidate for candidate, _, _ in columns]


def _keep(candidate, fold, problem, settings, base, head):
    """Make a fitted estimator of a base path and a failure head."""
    fitted = clone(candidate.estimator)
    fitted.classes_, fitted.n_features_in_ = fold.classes, fold.X.shape[-1]
    fitted.dual_gap_, fitted.n_iter_ = base.gap, base.n_iter
    try:
        fitted._keep(problem, settings, (base.head, head))
    except ValueError as error:
        candidate.error = error
    else:
        candidate.fitted = fitted


def _fit_alone(candidate, fold):
    start = time.perf_counter()
    labels = {"output_labels": fold.output_labels} if isinstance(candidate.estimator, FailureAwareIRL) else {}
    try:
        candidate.fitted = clone(candidate.estimator).fit(fold.X, fold.y, fold.sample_weight, **labels)
        candidate.error = None
    except Exception as error:
        candidate.error = error
    candidate.seconds = time.perf_counter() - start
    return candidate
