"""How a search fits its candidates on a fold; read by `fairl_sk.learning.search_base`.

Candidates with the same base path share it, and their failure paths go through their rounds as columns of one matrix
product (`fairl_sk.learning.fitting.train_failures`, as in a single fit). Joint training and detectors that are fitted
share nothing: these candidates are fitted one by one.
"""

import time
from dataclasses import dataclass

from sklearn.base import BaseEstimator, clone

from .estimators import FailureAwareIRL
from .fitting import solve_base, train_failures
from .problem import prepare, settle_pointwise_weight
from .rows import take_rows

__all__ = ["Candidate", "Fold", "fit_candidates"]

_MOST_COLUMNS = 64  # failure paths that train beside each other; their vectors take memory
_FEW = 16  # paths whose rewards of all rows are in memory at once


@dataclass
class Candidate:
    """An estimator to fit on a fold, and what became of it."""

    number: int  # its row in the table of results
    estimator: BaseEstimator  # unfitted; it is not changed
    fitted: BaseEstimator | None = None
    error: Exception | None = None  # why it could not be fitted
    seconds: float = 0.0  # its share of the time of the fits

    @property
    def trains_alone(self):
        """Whether the candidate shares no step with others."""
        return self.estimator._is_joint() or hasattr(getattr(self.estimator, "failures", None), "fit")


class Fold:
    """The training rows of a fold: X, sign and weight are checked; y and the labels are as they were given.

    X is that of all folds, which is not copied; the others are those of the rows.
    """

    def __init__(self, X, rows, sign, sample_weight, output_labels, y, classes):
        self.X, self.rows, self.sign, self.sample_weight = X, rows, sign, sample_weight
        self.output_labels, self.y, self.classes = output_labels, y, classes
        self._problems = {}

    def problem(self, estimator):
        """The prepared rows, the same for all estimators that read the same, and the estimator's settings."""
        settings = estimator._settings()
        detector = settings.schedule.detector
        shape = len(self.rows), *self.X.shape[1:]
        labels = estimator._check_labels(self.output_labels, shape, detector, self.sample_weight)
        key = settings.recurrence_correlation, labels is not None
        if key not in self._problems:
            given = self.X, self.sign, self.sample_weight, labels, settings.recurrence_correlation, estimator.device
            self._problems[key] = prepare(*given, self.rows)
        problem = self._problems[key]
        return problem, settle_pointwise_weight(problem, settings)


def fit_candidates(candidates, fold):
    """Fit all candidates on one fold; yields each when it is finished."""
    groups = {}
    for candidate in candidates:
        if candidate.trains_alone:
            yield _fit_alone(candidate, fold)
            continue
        try:
            problem, settings = fold.problem(clone(candidate.estimator))  # a detector may remember what it saw
        except Exception as error:
            candidate.error = error
            yield candidate
            continue
        base = id(problem), settings.objective, settings.required, settings.alpha, settings.pointwise_weight
        base += settings.tol, settings.max_iter
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
    for candidate, _, path in members:
        steps = path.alpha_fail, path.learning_rate, candidate.estimator.n_rounds
        groups.setdefault(steps, []).append((candidate, path))
    for (*_, n_rounds), group in groups.items():
        for begin in range(0, len(group), _MOST_COLUMNS):
            start = time.perf_counter()
            columns, paths = zip(*group[begin : begin + _MOST_COLUMNS], strict=True)
            n_rounds = 1 if all(path.schedule.is_idle for path in paths) else n_rounds
            try:
                heads, _ = train_failures(problem, paths, base, differences, n_rounds, record=False)
            except Exception:  # of a detector: one by one it is known whose
                yield from (_fit_alone(candidate, fold) for candidate in columns)
                continue
            seconds = base_seconds + (time.perf_counter() - start) / len(columns)
            rewards = _rewards_of([(base.head, head) for head in heads], problem)
            for candidate, path, head, values in zip(columns, paths, heads, rewards, strict=True):
                candidate.seconds = seconds
                yield _keep(candidate, fold, problem, path, base, head, values)


def _rewards_of(paths, problem):
    """Yield the rewards of the rows by each path, a few paths in one product."""
    for begin in range(0, len(paths), _FEW):
        yield from problem.rewards(paths[begin : begin + _FEW])


def _keep(candidate, fold, problem, settings, base, head, rewards):
    """Make a fitted estimator of a base path and a failure head."""
    fitted = clone(candidate.estimator)
    fitted.classes_, fitted.n_features_in_ = fold.classes, fold.X.shape[-1]
    fitted.dual_gap_, fitted.n_iter_ = base.gap, base.n_iter
    try:
        fitted._keep(problem, settings, (base.head, head), rewards)
        candidate.fitted = fitted
    except ValueError as error:
        candidate.error = error
    return candidate


def _fit_alone(candidate, fold):
    start = time.perf_counter()
    labels = {"output_labels": fold.output_labels} if isinstance(candidate.estimator, FailureAwareIRL) else {}
    try:
        candidate.fitted = clone(candidate.estimator).fit(
            take_rows(fold.X, fold.rows), fold.y, fold.sample_weight, **labels
        )
    except Exception as error:
        candidate.error = error
    candidate.seconds = time.perf_counter() - start
    return candidate
