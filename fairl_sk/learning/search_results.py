"""The table of a search: scores of every candidate on every fold, as ``GridSearchCV`` writes them."""

from numbers import Real

import numpy as np
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning

from ..warn import warn_user

__all__ = ["SearchResults"]


class SearchResults:
    """Scores and times of all candidates; ``error_score`` is that of a fit or a scorer that fails, or "raise"."""

    def __init__(self, params, n_folds, error_score):
        self.params, self.n_folds, self.error_score = params, n_folds, error_score
        self.n_finished, self.gaps = 0, []  # the fold that comes next; the duality gaps of the fits
        self.times = {name: np.zeros((len(params), n_folds)) for name in ("fit_time", "score_time")}
        self.scores, self.failures = {}, []

    def add(self, number, scores, fit_time, score_time):
        """Add the scores of a candidate on the present fold, one or a dict of several."""
        place = number, self.n_finished
        self.times["fit_time"][place], self.times["score_time"][place] = fit_time, score_time
        for name, value in scores.items() if isinstance(scores, dict) else [("score", scores)]:
            if isinstance(value, str):  # one of several scorers failed; its traceback
                self.fail(number, RuntimeError(f"{name}: {value.strip().splitlines()[-1]}"), name)
            else:
                self._of(name)[place] = value

    def fail(self, number, error, name=None):
        """Add a failed fit or scorer on the present fold, of one score or of all."""
        if self.error_score == "raise":
            raise error
        if name is not None:
            self._of(name)  # also where it fails everywhere
        self.failures.append((number, self.n_finished, error, name))

    @property
    def names(self):
        """Names of the scorers."""
        return list(self.scores) or ["score"]

    def of(self, name):
        """Scores of shape (n_candidates, n_finished), the error score where a fit failed."""
        scores = self._of(name).copy()
        for number, fold, _, failed in self.failures:
            if failed in (None, name):
                scores[number, fold] = self.error_score
        return scores[:, : self.n_finished]

    def best(self, name):
        """Number of the candidate with the best mean score."""
        mean = self.of(name).mean(axis=1)
        if not np.isfinite(mean).any():
            raise ValueError(
                f"None of the {len(mean)} candidates has a finite mean {name}. {self._first_failure()} A scorer that "
                "needs two classes needs test folds with two."
            )
        return int(np.where(np.isfinite(mean), mean, -np.inf).argmax())

    def table(self):
        """``cv_results_``, in the format of ``GridSearchCV``."""
        table = {}
        for name, seconds in self.times.items():
            seconds = seconds[:, : self.n_finished]
            table[f"mean_{name}"], table[f"std_{name}"] = seconds.mean(axis=1), seconds.std(axis=1)
        for name in sorted({name for candidate in self.params for name in candidate}):
            table[f"param_{name}"] = _masked_column([candidate[name] for candidate in self.params])
        table["params"] = self.params
        for name in self.names:
            scores = self.of(name)
            table |= {f"split{fold}_test_{name}": values for fold, values in enumerate(scores.T)}
            mean = scores.mean(axis=1)
            table[f"mean_test_{name}"], table[f"std_test_{name}"] = mean, scores.std(axis=1)
            ranks = rankdata(-np.nan_to_num(mean, nan=np.nanmin([*mean, 0.0]) - 1), method="min")
            table[f"rank_test_{name}"] = ranks.astype(np.int32)
        return table

    def warn(self, tol):
        """Warn of fits and scorers that failed, of scores that are not finite, and of fits far from the minimum."""
        n_fits = len(self.params) * self.n_folds
        if self.failures:
            warn_user(
                f"{len(self.failures)} of {n_fits} fits or scores failed; their score is {self.error_score}. "
                f"{self._first_failure()}",
                FitFailedWarning,
            )
        unscored = np.any([~np.isfinite(self.of(name)).all(axis=1) for name in self.names], axis=0)
        if unscored.any() and not self.failures:
            warn_user(f"{unscored.sum()} of {len(unscored)} candidates have no finite mean score; they rank last.")
        wide = [gap for gap in self.gaps if gap > max(100 * tol, 1e-3)]
        if wide:
            warn_user(
                f"{len(wide)} of {n_fits} fits stopped at a duality gap far above tol = {tol:g} (the widest at "
                f"{max(wide):.1e}). Raise max_iter or alpha, or scale the features.",
                ConvergenceWarning,
            )

    def _first_failure(self):
        if not self.failures:
            return "Nothing failed."
        number, fold, error, _ = self.failures[0]
        return f"The first error, on fold {fold} with {self.params[number]}: {type(error).__name__}: {error}"

    def _of(self, name):
        return self.scores.setdefault(name, np.full((len(self.params), self.n_folds), np.nan))


def _masked_column(values):
    """A parameter's values as GridSearchCV keeps them: numbers as numbers, else objects."""
    numeric = all(isinstance(v, Real) and not isinstance(v, bool) for v in values)
    column = np.ma.empty(len(values), dtype=np.result_type(*values) if numeric else object)
    for row, value in enumerate(values):
        column[row] = value
    column.mask = np.zeros(len(values), dtype=bool)
    return column
