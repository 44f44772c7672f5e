"""What the three searches share: candidates, folds, metadata, results, and the methods of the best estimator."""

import time
import warnings
from numbers import Real

import numpy as np
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import GroupKFold, ParameterGrid, check_cv
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _routing_enabled,  # private, as _check_method_params: what scikit-learn's own searches use
    process_routing,
)
from sklearn.utils.validation import _check_method_params, _check_sample_weight, check_is_fitted
from tqdm.auto import tqdm

from ..cluster import is_dask
from ..device import few_threads
from ..metrics import check_split
from ..pairs import check_pairs
from ..warn import warn_user
from .blocks import is_mapped
from .preference import PairClassifier
from .rows import take_rows
from .search import Candidate, Fold, fit_candidates
from .search_results import SearchResults

__all__ = ["SearchCV"]


# Parameters of a search that the estimator does not have, and those of the estimator that have one value only.
_OF_THE_SEARCH = ("cv", "scoring", "refit", "error_score")
_FIXED = ("device", "random_state", "verbose")


class SearchCV(PairClassifier):
    """Base class of the searches: the best estimator predicts. A subclass names its ``_estimator_class``."""

    def fit(self, X, y=None, sample_weight=None, groups=None):
        """Try all candidates on all folds, and fit the best. See `fairl_sk.FailureAwareIRLCV.fit`."""
        return self._fit(X, y, sample_weight, None, groups)

    def decision_function(self, X):
        """Reward of outputs, or margin of pairs. See `fairl_sk.FailureAwareIRL.decision_function`."""
        return self._best().decision_function(X)

    def predict(self, X):
        """Class of each row. See `fairl_sk.FailureAwareIRL.predict`."""
        return self._best().predict(X)

    def predict_proba(self, X):
        """Probability of each class. See `fairl_sk.FailureAwareIRL.predict_proba`."""
        return self._best().predict_proba(X)

    def score(self, X, y=None, sample_weight=None):
        """Accuracy, whatever ``scoring`` says. See `fairl_sk.FailureAwareIRL.score`."""
        return self._best().score(X, y, sample_weight)

    def _best(self):
        check_is_fitted(self, "cv_results_")
        if not hasattr(self, "best_estimator_"):
            raise AttributeError(
                f"Found no best_estimator_: refit={self.refit!r}, or the search was interrupted. Fit with refit=True, "
                f"or fit {self._estimator_class.__name__}(**search.cv_results_['params'][i]) yourself."
            )
        return self.best_estimator_

    # --------------------------------------------------------------------------------------------- fitting

    def _fit(self, X, y, sample_weight, output_labels, groups):
        """Search. An error leaves everything as it was; an interrupt keeps the finished folds."""
        before = dict(vars(self))
        for name in [name for name in before if name.endswith("_")]:
            delattr(self, name)
        try:
            self._search(X, y, sample_weight, output_labels, groups)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt) or not hasattr(self, "cv_results_"):
                vars(self).clear()
                vars(self).update(before)
            raise
        return self

    def _search(self, X, y, sample_weight, output_labels, groups):
        params, estimators = self._candidates()
        original = X
        X, sign = self._check_rows(X, y, estimators[0])
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        y, labels = (None if values is None else np.asarray(values) for values in (y, output_labels))
        routed = self._routed(sample_weight, output_labels, groups)
        splits = self._splits(X, y, sign, weight, groups, routed["splitter"])
        scorer = check_scoring(estimators[0], scoring=self.scoring, raise_exc=self.error_score == "raise")
        score_params = routed["scorer"]
        if self.scoring is None and sample_weight is not None:
            score_params = {"sample_weight": weight}
        results = SearchResults(params, len(splits), self.error_score)
        total = len(params) * len(splits)
        try:
            with (
                few_threads(X.size),
                tqdm(total=total, desc=type(self).__name__, unit="fit", disable=not self.verbose) as bar,
            ):
                for train, test in splits:
                    given = (None if values is None else values[train] for values in (sign, weight, labels, y))
                    candidates = [Candidate(number, estimator) for number, estimator in enumerate(estimators)]
                    for _ in fit_candidates(candidates, Fold(X, train, *given, self.classes_)):
                        bar.update()
                    # the fold is freed before the test rows are copied
                    _score_fold(candidates, _on_fold(scorer, X, y, score_params, test), results)
        except KeyboardInterrupt:
            self._keep_finished_folds(results)
            raise
        results.warn(max(estimator.tol for estimator in estimators))
        self._keep_table(results)
        self._refit(results, estimators, original, y, weight, labels)

    def _keep_finished_folds(self, results):
        """After an interrupt: the results of the finished folds, and no best estimator."""
        if results.n_finished:
            self._keep_table(results)
            warn_user(
                f"Interrupted with {results.n_finished} of {results.n_folds} folds finished. Their scores are kept in "
                "cv_results_. There is no best_estimator_: fit again."
            )

    def _keep_table(self, results):
        self.cv_results_, self.n_splits_ = results.table(), results.n_finished
        self.multimetric_ = results.names != ["score"]

    def _refit(self, results, estimators, X, y, weight, labels):
        """Choose, and fit the best candidate on all rows."""
        if callable(self.refit):
            self.best_index_ = _check_index(self.refit(self.cv_results_), len(results.params))
        else:
            _check_choice(self.refit, results.names)
            name = self.refit if self.multimetric_ else "score"
            if not name:
                return
            self.best_index_ = results.best(name)
            self.best_score_ = float(results.of(name)[self.best_index_].mean())
        self.best_params_ = results.params[self.best_index_]
        if not self.refit:
            return
        start = time.perf_counter()
        best = clone(estimators[self.best_index_]).set_params(verbose=self.verbose)
        self.best_estimator_ = best._fit(X, y, weight, labels)
        self.refit_time_ = time.perf_counter() - start
        for name in ("coef_", "intercept_", "n_iter_"):
            if hasattr(best, name):
                setattr(self, name, getattr(best, name))

    # ------------------------------------------------------------------------------------------ candidates

    def _candidates(self):
        """Parameters of every candidate, and the estimators, checked."""
        fixed, grid = {}, {}
        for name, value in self.get_params(deep=False).items():
            if name not in _OF_THE_SEARCH:
                values = _grid_values(name, value)
                fixed |= {name: value} if values is None else {}
                grid |= {} if values is None else {name: values}
        params = list(ParameterGrid(grid))
        template = self._estimator_class(**fixed, **{name: values[0] for name, values in grid.items()})
        params = self._with_standard(params, grid, template)
        estimators = [clone(template).set_params(**{**candidate, "verbose": 0}) for candidate in params]
        for estimator, candidate in zip(estimators, params, strict=True):
            try:
                estimator._check_params()
            except (ValueError, TypeError) as error:
                error.args = (f"The grid holds a value that no fit takes, in {candidate}: {error}",)
                raise
        if not isinstance(self.refit, (bool, np.bool_, str)) and not callable(self.refit):
            raise ValueError(f"Found refit={self.refit!r}. Expected True, False, the name of a score, or a callable.")
        if isinstance(self.scoring, (dict, list, tuple, set)):
            _check_choice(self.refit, list(self.scoring))
        if self.error_score != "raise" and not isinstance(self.error_score, Real):
            raise ValueError(f"Found error_score={self.error_score!r}. Expected a number, NaN for one, or 'raise'.")
        return params, estimators

    def _with_standard(self, params, grid, template):
        """The candidates as they are: standard learners have no failure weight."""
        return params

    # ------------------------------------------------------------------------------------- folds, metadata

    def _check_rows(self, X, y, reader):
        if is_dask(X):
            raise ValueError(
                "Found an array of Dask, which a search does not read. Write its blocks into a file of NumPy, and pass "
                "numpy.load(file, mmap_mode='r'); or fit each candidate by itself."
            )
        X = check_pairs(X, estimator=self, mapped=True)
        X = X if is_mapped(X) else np.ascontiguousarray(X)
        sign = reader._check_target(X, y)
        self.classes_ = reader.classes_
        return X, sign

    def _splits(self, X, y, sign, weight, groups, splitter_params):
        cv = self.cv
        if groups is not None:
            groups = np.asarray(groups)
            if groups.shape != sign.shape:
                raise ValueError(f"Found groups of shape {groups.shape} for {len(X)} rows. Expected one a row.")
            if cv is None or isinstance(cv, (int, np.integer)):
                cv = GroupKFold(5 if cv is None else cv)
            splitter_params = {"groups": groups, **splitter_params}
        cv = check_cv(cv, y, classifier=True)
        with warnings.catch_warnings():  # leaked groups are named below
            warnings.filterwarnings("ignore", message="The groups parameter is ignored")
            rows = np.arange(len(X))
            splits = [(rows[train], rows[test]) for train, test in cv.split(X, y, **splitter_params)]
        if not splits:
            raise ValueError(f"Found no folds in cv={self.cv!r}. Expected at least one; a generator serves one fit.")
        for number, (train, test) in enumerate(splits):
            _check_fold(f"Fold {number} of {len(splits)}", sign, weight, train, test, y is not None)
            if groups is not None and check_split(train, test, groups).size:
                groups = None  # one warning is enough
        return splits

    def _routed(self, sample_weight, output_labels, groups):
        """What goes to the splitter and to the scorer, by metadata routing if it is on."""
        if not _routing_enabled():
            return {"splitter": {}, "scorer": {}}
        given = {"sample_weight": sample_weight, "output_labels": output_labels, "groups": groups}
        routed = process_routing(self, "fit", **{k: v for k, v in given.items() if v is not None})
        return {"splitter": routed.splitter.split, "scorer": routed.scorer.score if self.scoring is not None else {}}

    def get_metadata_routing(self):
        """Who takes which metadata: the splitter ``groups``, the scorer what it asks for.

        Returns
        -------
        router : sklearn.utils.metadata_routing.MetadataRouter
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        # an iterable is not read here: a generator would be used up
        splitter = GroupKFold() if self.cv is None or isinstance(self.cv, (int, np.integer)) else self.cv
        router.add(splitter=splitter, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        if self.scoring is None:  # accuracy, which counts sample weights without being asked
            return router
        scorer = check_scoring(self._estimator_class(), scoring=self.scoring)
        return router.add(scorer=scorer, method_mapping=MethodMapping().add(caller="fit", callee="score"))


def _on_fold(scorer, X, y, params, test):
    """A scorer of the test rows of a fold, which takes the estimator alone."""
    params = _check_method_params(X, params, test)
    y = None if y is None else y[test]
    X = take_rows(X, test)
    return lambda estimator: scorer(estimator, X, y, **params)


def _score_fold(candidates, score, results):
    """Score all candidates of a fold."""
    for candidate in candidates:
        start = time.perf_counter()
        try:
            if candidate.error is not None:
                raise candidate.error
            scores = score(candidate.fitted)
        except Exception as error:
            results.fail(candidate.number, error)
        else:
            results.add(candidate.number, scores, candidate.seconds, time.perf_counter() - start)
            results.gaps.append(candidate.fitted.dual_gap_)
    results.n_finished += 1


def _grid_values(name, value):
    """The values of a parameter that is a grid, or None for a single value."""
    is_grid = isinstance(value, (list, tuple, range)) or (isinstance(value, np.ndarray) and value.ndim == 1)
    if name == "hidden_layer_sizes":  # a sequence: only a list of them is a grid
        is_grid = isinstance(value, list) and any(np.iterable(item) for item in value)
    if not is_grid:
        return None
    if name in _FIXED:
        raise ValueError(
            f"Found {name}={value!r}. Expected one value: a search compares candidates under the same {name}."
        )
    values = [item.item() if isinstance(item, np.generic) else item for item in value]
    if not values:
        raise ValueError(
            f"Found an empty grid, {name}={value!r}. Expected at least one value to try, or a single value, which "
            "stays fixed."
        )
    return values


def _check_fold(name, sign, weight, train, test, has_target):
    """Refuse a fold that leaves nothing to learn or to score."""
    counted = train[weight[train] > 0]
    if len(train) < 2 or not len(counted):
        raise ValueError(
            f"{name} has {len(train)} training rows, {len(counted)} with a sample_weight above 0. Expected at least 2, "
            "and 1 with weight."
        )
    if has_target and len(np.unique(sign[counted])) < 2:
        raise ValueError(
            f"{name} holds one class only among its {len(train)} training rows. Expected two: take fewer folds, folds "
            "that keep the classes' shares (StratifiedKFold, or StratifiedGroupKFold with groups), or shuffle the "
            "sides of the pairs with fairl_sk.make_pairs."
        )
    if not len(test) or not weight[test].any():
        raise ValueError(f"{name} has no test row (whose sample_weight is above 0). Expected at least one.")


def _check_choice(refit, names):
    """Refuse a search by several scores in which none chooses, unless nothing is to be chosen."""
    if refit and not callable(refit) and names != ["score"] and refit not in names:
        raise ValueError(
            f"Found refit={refit!r} with several scores. Expected the name of the one that chooses, of {names}, or "
            "False."
        )


def _check_index(index, n_candidates):
    """The number of a candidate that a refit callable chose."""
    if not isinstance(index, (int, np.integer)) or not 0 <= index < n_candidates:
        raise ValueError(f"refit returned {index!r}. Expected the number of a candidate, 0 to {n_candidates - 1}.")
    return int(index)
