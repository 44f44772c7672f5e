"""Searches in the convention of ``LassoCV``: an estimator whose parameters may be lists, at the cost of a few fits.

For users who choose ``temperature_fail``, ``failure_weight`` or ``alpha`` by cross-validation. The linear fits of all
candidates and folds go through their rounds together (`fairl_sk.learning.columns`), each as if it were alone, so that the result
is that of ``GridSearchCV`` over the plain estimator. Heads with hidden layers, batches, and base heads that failures
move, are fitted one by one.
"""

import inspect
import time
import warnings
from functools import partial
from numbers import Real

import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import GroupKFold, ParameterGrid, check_cv
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _routing_enabled,  # private: what scikit-learn's own searches ask
    process_routing,
)
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from tqdm.auto import tqdm

from ..metrics.metrics import check_split
from ..pairs import check_pairs
from .columns import Columns
from .estimators import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
from .products import release_freed_memory

__all__ = ["FailureAwareIRLCV", "MaxEntropyIRLCV", "MaxMarginIRLCV"]

# Parameters of a search that the estimator does not have.
_OF_THE_SEARCH = ("cv", "scoring", "refit", "one_standard_error", "error_score")
# Parameters of the estimator that have one value for all candidates.
_FIXED = ("device", "random_state", "verbose")
# Parameters that only the failure path reads: at failure weight 0 they decide on nothing.
_OF_FAILURES = {"failure_weight", "margin_fail", "temperature_fail", "failure_threshold", "failure_rate", "failures"}
_OF_FAILURES |= {"alpha_fail", "failure_hidden_layer_sizes", "failure_gradient"}
# Of these, what a learner without failures is best written with: two linear heads train together with others.
_OF_STANDARD = {"failure_weight": 0, "failure_hidden_layer_sizes": None, "failure_gradient": "failure"}

# Share of the features' bytes that the vectors of all columns may take, and the least that they may.
_MEMORY_SHARE, _LEAST_MEMORY = 0.1, 2**23


class _IRLCV(ClassifierMixin, BaseEstimator):
    """What the searches share: the candidates, the folds, the results, and the methods of the best estimator."""

    # ------------------------------------------------------------------------------------------ prediction

    def decision_function(self, X):
        """Reward of outputs, or margin of pairs, by the best estimator. See `FailureAwareIRL.decision_function`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)

        Returns
        -------
        reward : ndarray of shape (n_samples,) or (n_pairs,)
        """
        return self._best().decision_function(X)

    def predict(self, X):
        """Class of each row, by the best estimator. See `FailureAwareIRL.predict`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_pairs,)
        """
        return self._best().predict(X)

    def predict_proba(self, X):
        """Probability of each class, by the best estimator. See `FailureAwareIRL.predict_proba`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, 2) or (n_pairs, 2)
        """
        return self._best().predict_proba(X)

    def score(self, X, y=None, sample_weight=None):
        """Accuracy of the best estimator, whatever ``scoring`` says. See `FailureAwareIRL.score`.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None

        Returns
        -------
        accuracy : float in [0, 1]
        """
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
        before = dict(vars(self))
        try:
            self._search(X, y, sample_weight, output_labels, groups)
        except BaseException:
            if not vars(self).pop("_interrupted", False):
                vars(self).clear()
                vars(self).update(before)
            raise
        return self

    def _search(self, X, y, sample_weight, output_labels, groups):
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        params, estimators = self._candidates()
        data = _Data(self, estimators[0], X, y, sample_weight, output_labels)
        routed = self._routed(sample_weight, output_labels, groups)
        splits = self._splits(data, groups, routed["splitter"])
        scorer = check_scoring(estimators[0], scoring=self.scoring, raise_exc=self.error_score == "raise")
        results = _Results(self, params, estimators, len(splits))
        progress = _Progress(self, estimators)
        gaps = []
        try:
            for train in _trainers(estimators, splits):
                gaps += train(_Search(self, estimators, data, splits, scorer, routed["scorer"], results, progress))
        except KeyboardInterrupt:
            _warn_of_gaps(gaps)
            self._keep_finished(results)
            raise
        finally:
            progress.close()
        _warn_of_gaps(gaps)
        self._keep(results)
        if not self.refit:
            return
        try:
            self._refit(X, y, sample_weight, output_labels, estimators[self.best_index_])
        except KeyboardInterrupt:
            self._interrupted = True
            warnings.warn(
                "Interrupted in the last fit. The results are kept, but there is no best_estimator_: fit "
                f"{self._estimator_class.__name__}(**search.best_params_) with what else you passed.",
                UserWarning,
                stacklevel=4,
            )
            raise

    def _keep_finished(self, results):
        """After an interrupt: what is finished, and no best estimator."""
        finished = results.finished()
        if not len(finished):
            return
        self._interrupted = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._keep_table(results)
        best = ""
        if results.choice in results.names:
            mean = results.mean(results.choice)[finished]
            best = f"; the best of them is {results.params[finished[np.argmax(np.nan_to_num(mean, nan=-np.inf))]]}"
        warnings.warn(
            f"Interrupted with {len(finished)} of {len(results.params)} candidates finished. They are kept in "
            f"cv_results_, where the others have the score NaN{best}. There is no best_estimator_: fit again, with the "
            "candidates that you still want.",
            UserWarning,
            stacklevel=5,
        )

    def _keep_table(self, results):
        self.cv_results_ = results.table()
        self.n_splits_ = results.n_splits
        self.multimetric_ = results.names != ["score"]
        self.coef_path_ = results.coef_path

    def _keep(self, results):
        results.warn_of_failures()
        self._keep_table(results)
        if results.choice is None:
            return
        mean = results.mean(results.choice)
        if not np.isfinite(mean).any():
            raise ValueError(
                f"None of the {len(mean)} candidates has a finite mean {results.choice} on {results.n_splits} folds. "
                "See the warnings above for the first errors; with error_score='raise' they are raised. A scorer that "
                "needs two classes needs test folds with two."
            )
        self.best_index_ = int(results.best(self.one_standard_error))
        self.best_params_ = results.params[self.best_index_]
        self.best_score_ = float(mean[self.best_index_])

    def _refit(self, X, y, sample_weight, output_labels, estimator):
        start = time.perf_counter()
        release_freed_memory()  # of the search
        best = clone(estimator).set_params(verbose=self.verbose)
        self.best_estimator_ = best._fit(X, y, sample_weight, output_labels, hold_differences=False)
        self.refit_time_ = time.perf_counter() - start
        for name in ("coef_", "intercept_", "n_iter_"):
            if hasattr(self.best_estimator_, name):
                setattr(self, name, getattr(self.best_estimator_, name))

    # ------------------------------------------------------------------------------------------ candidates

    def _candidates(self):
        """Parameters of every candidate, and the estimators, checked."""
        fixed, grid = {}, {}
        for name, value in self.get_params(deep=False).items():
            if name in _OF_THE_SEARCH:
                continue
            values = _grid_values(name, value)
            if values is None:
                fixed[name] = value
            else:
                grid[name] = values
        params = list(ParameterGrid(grid))
        template = self._estimator_class(**fixed, **{name: values[0] for name, values in grid.items()})
        params = self._with_standard(params, grid, template)
        estimators = [clone(template).set_params(verbose=0, **candidate) for candidate in params]
        for estimator, candidate in zip(estimators, params, strict=True):
            _check_candidate(estimator, candidate)
        if not isinstance(self.one_standard_error, (bool, np.bool_)):
            raise ValueError(f"Found one_standard_error={self.one_standard_error!r}. Expected True or False.")
        if not isinstance(self.refit, (bool, np.bool_, str)):
            raise ValueError(
                f"Found refit={self.refit!r}. Expected True, False, or the name of the score that chooses."
            )
        if isinstance(self.scoring, (dict, list, tuple, set)):
            _check_choice(self.refit, list(self.scoring))
        if self.error_score != "raise" and not isinstance(self.error_score, Real):
            raise ValueError(f"Found error_score={self.error_score!r}. Expected a number, NaN for one, or 'raise'.")
        return params, estimators

    def _with_standard(self, params, grid, template):
        """The candidates as they are: standard learners have no failure weight."""
        return params

    # ------------------------------------------------------------------------------------- folds, metadata

    def _splits(self, data, groups, splitter_params):
        cv = self.cv
        if groups is not None:
            groups = np.asarray(groups)
            if groups.shape != data.sign.shape:
                raise ValueError(f"Found groups of shape {groups.shape} for {len(data.X)} rows. Expected one a row.")
            if cv is None or isinstance(cv, (int, np.integer)):
                cv = _group_folds(5 if cv is None else int(cv), groups)
            splitter_params = {"groups": groups, **splitter_params}
        cv = check_cv(cv, data.y, classifier=True)
        with warnings.catch_warnings():  # that groups are parted is said by name below
            warnings.filterwarnings("ignore", message="The groups parameter is ignored")
            splits = [
                (_row_numbers(train, len(data.X)), _row_numbers(test, len(data.X)))
                for train, test in cv.split(data.X, data.y, **splitter_params)
            ]
        if not splits:
            raise ValueError(f"Found no folds in cv={self.cv!r}. Expected at least one; a generator serves one fit.")
        leaks = False
        for number, (train, test) in enumerate(splits):
            data.check_train(number, len(splits), train)
            data.check_test(number, len(splits), test, scored_by_weight=self.scoring is None)
            # one warning, by name, is enough
            leaks = leaks or (groups is not None and check_split(train, test, groups).size > 0)
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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.three_d_array = True
        return tags


# ---------------------------------------------------------------------------------------- steps of a search


def _grid_values(name, value):
    """The values of a parameter that is a grid, or None for a single value."""
    is_grid = isinstance(value, (list, tuple, range)) or (isinstance(value, np.ndarray) and value.ndim == 1)
    if name in ("hidden_layer_sizes", "failure_hidden_layer_sizes"):  # sequences: only a list of them is a grid
        is_grid = isinstance(value, list) and any(np.iterable(item) or item is None for item in value)
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


def _check_candidate(estimator, candidate):
    """Refuse a value that no combination makes valid; a combination that is invalid is a fit that fails."""
    try:
        estimator._check_layers()
        estimator._validate_params()
        estimator._schedules()
    except (ValueError, TypeError) as error:
        error.args = (f"The grid holds a value that no fit takes, in {candidate}: {error}",)
        raise


def _group_folds(n_splits, groups):
    n_groups = len(np.unique(groups))
    if n_splits > n_groups:
        raise ValueError(
            f"Found {n_groups} groups for {n_splits} folds. Expected at least as many groups as folds, as a group "
            f"is never parted: pass cv={n_groups} or fewer, or groups that are smaller."
        )
    return GroupKFold(n_splits)


def _row_numbers(rows, n_rows):
    """Numbers of the rows of a fold, given as numbers, also negative ones, or as a mask."""
    rows = np.asarray(rows)
    numbers = np.arange(n_rows, dtype=np.int32 if n_rows < 2**31 else np.int64)
    return numbers[rows if rows.size else rows.astype(np.intp)]


class _Data:
    """The rows of a search, checked as a fit checks them."""

    def __init__(self, search, reader, X, y, sample_weight, output_labels):
        self.X = np.ascontiguousarray(check_pairs(X, estimator=search))
        reader.n_features_in_ = search.n_features_in_
        self.sign = reader._check_target(self.X, y)
        self.y = None if y is None else np.ravel(np.asarray(y))
        self.classes = search.classes_ = reader.classes_
        self.sample_weight = _check_sample_weight(sample_weight, self.X, dtype=np.float64, ensure_non_negative=True)
        self.weighted = sample_weight is not None
        self.output_labels = output_labels

    def check_train(self, number, n_splits, train):
        """Refuse a fold that leaves nothing to learn."""
        counted = train[self.sample_weight[train] > 0]
        if len(train) < 2 or not len(counted):
            raise ValueError(
                f"Fold {number} of {n_splits} has {len(train)} training rows, {len(counted)} with a sample_weight "
                "above 0. Expected at least 2, and 1 with weight."
            )
        if self.y is not None and len(np.unique(self.sign[counted])) < 2:
            side = self.classes[int(self.sign[counted[0]] > 0)]
            raise ValueError(
                f"Fold {number} of {n_splits} holds one class only among its {len(train)} training rows: {side!r}. "
                "Expected two: take fewer folds, folds that keep the classes' shares (StratifiedKFold, or "
                "StratifiedGroupKFold with groups), or shuffle the sides of the pairs with fairl_sk.make_pairs."
            )

    def check_test(self, number, n_splits, test, *, scored_by_weight):
        """Refuse a fold that leaves nothing to score."""
        if not len(test):
            raise ValueError(f"Fold {number} of {n_splits} has no test row. Expected at least one.")
        if scored_by_weight and not self.sample_weight[test].any():
            raise ValueError(
                f"Fold {number} of {n_splits} has no test row whose sample_weight is above 0. Expected at least one."
            )

    def metadata(self, estimator, rows):
        """Arguments of ``fit`` besides X and y, for some rows."""
        metadata = {"sample_weight": self.sample_weight[rows]}
        if "output_labels" in inspect.signature(estimator.fit).parameters and self.output_labels is not None:
            metadata["output_labels"] = np.asarray(self.output_labels)[rows]
        return metadata


class _Search:
    """What the two ways to train, together and one by one, need and share."""

    def __init__(self, search, estimators, data, splits, scorer, scorer_params, results, progress):
        self.search, self.estimators, self.data, self.splits = search, estimators, data, splits
        self.scorer, self.scorer_params = scorer, scorer_params
        self.results, self.progress = results, progress

    def fail(self, number, fold, error, name=None):
        """A failed fit, or a failed score, of this name or all of them."""
        if self.search.error_score == "raise":
            raise error
        self.results.fail(number, fold, error, self.search.error_score, name)

    def score(self, number, fold, estimator, X=None):
        """Scores of a fitted estimator on the fold's test rows; ``X`` are these rows, if they are at hand."""
        test = self.splits[fold][1]
        X = self.data.X[test] if X is None else X
        y = None if self.data.y is None else self.data.y[test]
        params = {k: None if v is None else _safe_indexing(v, test) for k, v in self.scorer_params.items()}
        if self.search.scoring is None and self.data.weighted:
            params["sample_weight"] = self.data.sample_weight[test]
        start = time.perf_counter()
        try:
            scores = self.scorer(estimator, X, y, **params)
        except Exception as error:
            self.fail(number, fold, error)
            return
        if isinstance(scores, dict):
            for name, message in scores.items():
                if isinstance(message, str):  # of several scores one that failed, as its traceback
                    self.fail(number, fold, RuntimeError(f"{name}: {message.strip().splitlines()[-1]}"), name)
            scores = {name: np.nan if isinstance(value, str) else value for name, value in scores.items()}
        self.results.add_scores(number, fold, scores, time.perf_counter() - start)


def _trainers(estimators, splits):
    """How the candidates are trained: all that can together, then the others one by one.

    Folds that train on a row more than once, as a bootstrap's, ask for fits one by one: columns count a row once.
    """
    repeats = any(len(np.unique(train)) < len(train) for train, _ in splits)
    together = [i for i, e in enumerate(estimators) if _trains_together(e) and not repeats]
    alone = [i for i in range(len(estimators)) if i not in set(together)]
    correlations = {i: estimators[i]._recurrence_correlation() for i in together}
    for correlation in sorted(set(correlations.values())):  # columns that train together share the weights of pairs
        yield partial(_train_together, numbers=[i for i in together if correlations[i] == correlation])
    if alone:
        yield lambda search: _train_alone(search, alone)


def _trains_together(estimator):
    """Whether heads are linear, batches full, failures move one head, and ask for no fit on each fold's pairs."""
    fits_detector = hasattr(getattr(estimator, "failures", None), "fit")
    moves_base = getattr(estimator, "failure_gradient", "failure") == "both"
    return not any(estimator._layers()) and estimator.batch_size == "auto" and not fits_detector and not moves_base


def _train_alone(search, numbers):
    """Fit candidate by candidate and fold by fold."""
    data = search.data
    for number in numbers:
        for fold, (train, _) in enumerate(search.splits):
            estimator = clone(search.estimators[number])
            start = time.perf_counter()
            try:
                y = None if data.y is None else data.y[train]
                estimator.fit(data.X[train], y, **data.metadata(estimator, train))
            except Exception as error:
                search.fail(number, fold, error)
                continue
            search.results.add_fit(number, fold, estimator, time.perf_counter() - start)
            search.score(number, fold, estimator)
        search.progress.finish(1)
    return []  # each fit has warned of its own


def _train_together(search, numbers):
    """Fit the linear candidates of all folds round by round; the duality gap and ``tol`` of every fit."""
    data, estimators = search.data, search.estimators
    seed = int(check_random_state(clone(estimators[0]).random_state).randint(np.iinfo(np.int32).max))
    columns = Columns(
        data.X,
        data.sign,
        data.sample_weight,
        [train for train, _ in search.splits],
        seed=seed,
        device=estimators[0].device,
        recurrence_correlation=estimators[numbers[0]]._recurrence_correlation(),
        memory=max(int(_MEMORY_SHARE * data.X.nbytes), _LEAST_MEMORY),
    )
    candidates, kept = [], []
    for number in numbers:
        try:
            curriculum = estimators[number]._curriculum_settings()
        except ValueError as error:
            for fold in range(len(search.splits)):
                search.fail(number, fold, error)
            continue
        labels = _labels_of(estimators[number], data, curriculum["detector"], search.splits)
        candidates.append(columns.of_candidate(estimators[number], curriculum, labels))
        kept.append(number)
    if not kept:
        return []
    order = sorted(range(len(kept)), key=lambda k: repr(candidates[k][0].base_key))  # base paths beside each other
    candidates, kept = [candidates[k] for k in order], [kept[k] for k in order]
    started = [time.perf_counter()]

    def keep(block):
        seconds = (time.perf_counter() - started[0]) / (len(block) * len(search.splits))
        for fold in range(len(search.splits)):
            _score_fold(search, columns, [(kept[k], candidates[k][fold]) for k in block], fold, seconds)
        search.progress.finish(len(block))
        started[0] = time.perf_counter()

    columns.run(candidates, after_round=search.progress.round, after_block=keep)
    return [(column.gap, column.estimator.tol) for candidate in candidates for column in candidate]


def _labels_of(estimator, data, detector, splits):
    """Labels that the candidate's detector reads, checked as each fold's fit would."""
    labels = estimator._check_labels(data.output_labels, data.X.shape, detector, data.sample_weight)
    if labels is not None:
        for train, _ in splits:
            estimator._check_labels(labels[train], (len(train), *data.X.shape[1:]), detector, data.sample_weight[train])
    return labels


def _score_fold(search, columns, members, fold, seconds):
    """Make estimators of the columns of a fold, and score them."""
    fitted, before = [], [column.estimator for _, column in members]
    for number, column in members:
        if column.error is not None:
            search.fail(number, fold, column.error)
            continue
        estimator = column.estimator = column.fresh_estimator()
        learned = estimator._set_heads(columns.heads(column))
        if not np.isfinite(estimator.coef_).all():
            search.fail(number, fold, ValueError("The rounds diverged: lower learning_rate or failure_weight."))
            continue
        estimator.classes_, estimator.n_features_in_ = search.data.classes, search.data.X.shape[-1]
        estimator.n_iter_, estimator.dual_gap_, estimator.intercept_ = column.n_iter, column.gap, learned
        search.results.add_fit(number, fold, estimator, seconds)
        fitted.append((number, column))
    plain = search.search.scoring is None
    if fitted and (search.data.X.ndim == 2 or not plain):
        for (_, column), offset in zip(fitted, columns.offsets([c for _, c in fitted]), strict=True):
            column.estimator.intercept_ += offset
    if plain:
        _score_accuracy(search, columns, fitted, fold)
    else:
        X = search.data.X[search.splits[fold][1]]
        for number, column in fitted:
            search.score(number, fold, column.estimator, X)
    for (_, column), settled in zip(members, before, strict=True):  # what they learned is held no longer
        column.estimator, column.base, column.failure = settled, None, None


def _score_accuracy(search, columns, fitted, fold):
    """Accuracy of every column of a fold: what `score` gives, from one product."""
    if not fitted:
        return
    start = time.perf_counter()
    test = search.splits[fold][1]
    weights = np.stack([c.estimator.coef_ for _, c in fitted])
    decisions = columns.products.decisions(test, weights, [c.estimator.intercept_ for _, c in fitted])
    correct = (decisions > 0) == (search.data.sign[test] > 0)
    weight = search.data.sample_weight[test] if search.data.weighted else np.ones(len(test))
    seconds = (time.perf_counter() - start) / len(fitted)
    for (number, _), row in zip(fitted, correct, strict=True):
        search.results.add_scores(number, fold, float(np.average(row, weights=weight)), seconds)


def _warn_of_gaps(gaps):
    wide = [gap for gap, tol in gaps if gap > 10 * tol > 0]
    if wide:
        warnings.warn(
            f"{len(wide)} of the {len(gaps)} fits that the search ran together stopped at a duality gap above "
            f"10 * tol (the widest at {max(wide):.1e}). Raise max_iter or alpha, or scale the features.",
            ConvergenceWarning,
            stacklevel=5,
        )


class _Progress:
    """A progress bar over the rounds, with the number of finished candidates."""

    def __init__(self, search, estimators):
        self.n_candidates, self.n_finished = len(estimators), 0
        self.bar = tqdm(desc=type(search).__name__, unit="round", leave=True) if search.verbose else None

    def round(self):
        if self.bar is not None:
            self.bar.update()

    def finish(self, n_candidates):
        self.n_finished += n_candidates
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.n_finished}/{self.n_candidates} candidates")

    def close(self):
        if self.bar is not None:
            self.bar.close()


# ---------------------------------------------------------------------------------------------- results


class _Results:
    """Scores and times of every candidate and fold, and what follows from them."""

    def __init__(self, search, params, estimators, n_splits):
        self.search, self.params, self.estimators, self.n_splits = search, params, estimators, n_splits
        self.shape = (len(params), n_splits)
        self.fit_time, self.score_time = np.zeros(self.shape), np.zeros(self.shape)
        self.done = np.zeros(self.shape, dtype=bool)
        self.scores: dict = {}
        self.errors: list = []
        self.coef_path = None
        self.error_score = np.nan

    def add_fit(self, number, fold, estimator, seconds):
        self.fit_time[number, fold] = seconds
        if hasattr(estimator, "coef_"):
            if self.coef_path is None:
                self.coef_path = np.full((*self.shape, len(estimator.coef_)), np.nan, dtype=estimator.coef_.dtype)
            self.coef_path[number, fold] = estimator.coef_

    def add_scores(self, number, fold, scores, seconds):
        scores = scores if isinstance(scores, dict) else {"score": scores}
        for name, value in scores.items():
            self.scores.setdefault(name, np.full(self.shape, np.nan))[number, fold] = value
        self.score_time[number, fold] = seconds
        self.done[number, fold] = True

    def fail(self, number, fold, error, error_score, name=None):
        self.errors.append((number, fold, error, name))
        self.done[number, fold] = True
        self.error_score = error_score

    def finished(self):
        """Numbers of the candidates with all of their folds."""
        return np.flatnonzero(self.done.all(axis=1))

    @property
    def names(self):
        return list(self.scores) or ["score"]

    @property
    def choice(self):
        """The score that chooses; None if none does."""
        if self.names == ["score"]:
            return "score"
        refit = self.search.refit
        _check_choice(refit, self.names)
        return None if refit is False else refit

    def of(self, name):
        """Scores (n_candidates, n_splits), the error score where a fit failed."""
        scores = self.scores.get(name, np.full(self.shape, np.nan)).copy()
        for number, fold, _, failed in self.errors:
            if failed in (None, name):
                scores[number, fold] = self.error_score
        return scores

    def mean(self, name):
        return self.of(name).mean(axis=1)

    def best(self, one_standard_error):
        """Number of the candidate that is chosen."""
        scores = self.of(self.choice)
        mean = np.where(np.isfinite(scores.mean(axis=1)), scores.mean(axis=1), -np.inf)
        best = int(np.argmax(mean))
        if not one_standard_error or self.n_splits < 2:
            return best
        error = scores[best].std(ddof=1) / np.sqrt(self.n_splits)
        within = np.flatnonzero(mean >= mean[best] - error)
        return min(within, key=lambda i: (*_complexity(self.estimators[i]), -mean[i], i))

    def table(self):
        """``cv_results_``, in the format of GridSearchCV."""
        table: dict = {}
        for name, values in (("fit_time", self.fit_time), ("score_time", self.score_time)):
            table[f"mean_{name}"], table[f"std_{name}"] = values.mean(axis=1), values.std(axis=1)
        for name in sorted({name for candidate in self.params for name in candidate}):
            table[f"param_{name}"] = _masked_column([candidate[name] for candidate in self.params])
        table["params"] = self.params
        for name in self.names:
            scores = self.of(name)
            for fold in range(self.n_splits):
                table[f"split{fold}_test_{name}"] = scores[:, fold]
            mean = scores.mean(axis=1)
            table[f"mean_test_{name}"], table[f"std_test_{name}"] = mean, scores.std(axis=1)
            table[f"rank_test_{name}"] = _ranks(mean)
            if np.isnan(mean).any():
                warnings.warn(
                    f"{np.isnan(mean).sum()} of {len(mean)} candidates have no finite mean {name} and rank last; the "
                    f"first is {self.params[int(np.isnan(mean).argmax())]}.",
                    UserWarning,
                    stacklevel=7,
                )
        return table

    def warn_of_failures(self):
        if self.errors:
            number, fold, error, _ = self.errors[0]
            warnings.warn(
                f"{len(self.errors)} of {self.done.size} fits or scores failed; their score is {self.error_score}. The "
                f"first, fold {fold} of {self.params[number]}: {type(error).__name__}: {error}",
                FitFailedWarning,
                stacklevel=6,
            )


def _check_choice(refit, names):
    """Refuse a search by several scores in which none chooses, unless nothing is to be chosen."""
    if refit is not False and refit not in names:
        raise ValueError(
            f"Found refit={refit!r} with several scores. Expected the name of the one that chooses, of {names}, or "
            "False."
        )


def _masked_column(values):
    """A parameter's values as GridSearchCV keeps them: numbers as numbers, else objects."""
    numeric = all(isinstance(v, Real) and not isinstance(v, bool) for v in values)
    column = np.ma.empty(len(values), dtype=np.result_type(*values) if numeric else object)
    for row, value in enumerate(values):
        column[row] = value
    column.mask = np.zeros(len(values), dtype=bool)
    return column


def _ranks(mean):
    """1 for the best; those without a score last."""
    if np.isnan(mean).all():
        return np.ones(len(mean), dtype=np.int32)
    lowest = np.nanmin(mean) - 1
    return rankdata(-np.nan_to_num(mean, nan=lowest), method="min").astype(np.int32)


# -------------------------------------------------------------------------------------------- the searches

_SEARCH_PARAMETERS = """cv : int, splitter or iterable of (train, test), default=None
        The folds. None or a number: as many folds (5), by `GroupKFold` if `fit` gets ``groups``, else stratified.
    scoring : str, callable, list, dict or None, default=None
        As in ``GridSearchCV``; None: accuracy, which for pairs is the share that is ordered rightly, and which counts
        ``sample_weight``.
    refit : bool or str, default=True
        Whether to fit the best candidate on all rows. With several scores, the name of the one that chooses.
    one_standard_error : bool, default=False
        Take, of the candidates whose mean score is at most one standard error (over the folds) below the best, the
        simplest: the one with the smallest mean of lambda_t p_t (0 for the standard learner), then the largest
        ``alpha_fail`` (None: ``alpha``), then the largest ``alpha``.
    error_score : float or "raise", default=nan
        Score of a fit or a scorer that fails; the others go on.

    Attributes
    ----------
    cv_results_ : dict of ndarray
        As in ``GridSearchCV``. Candidates that were trained together share the time that it took.
    best_estimator_ : estimator
        The best candidate, fitted on all rows (``refit``). All predictions are its own.
    best_params_, best_score_, best_index_
        As in ``GridSearchCV``.
    coef_, intercept_, n_iter_
        Those of the best estimator.
    coef_path_ : ndarray of shape (n_candidates, n_folds, n_features)
        Coefficients of the reward of every candidate on every fold (linear heads; NaN for others and failed fits).
    n_splits_ : int
        Number of folds.
    refit_time_ : float
        Seconds of the last fit.
    multimetric_ : bool
        Whether there are several scores.
    classes_ : ndarray of shape (2,)
        The two classes.
    n_features_in_ : int
        Number of features of an output.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, for tables."""

_SEARCH_NOTES = """A parameter is a grid if it is a list, a tuple, a range or an array of one axis;
    sizes of hidden layers if they are a list of sequences (or None). Candidates are all combinations of the grids. All
    else stays fixed. A combination that no fit takes (``margin_fail`` not above ``margin``) is a failed fit; a value
    that no combination makes valid is an error.

    Linear heads on the full batch train together, in memory for the features and 10 to 20 MB or a fifth more; where single
    outputs count (``pointwise_weight`` above 0, or "auto" and estimated so) for one fold's outputs besides, and in the
    last fit for those of all pairs. The last fit, of the best candidate, forms the differences of many pairs anew in
    every round, too: slower than a fit that holds them.
    ``random_state=None`` is drawn once for all of them. Candidates with hidden layers, a ``batch_size``, a detector
    that is fitted, or failures that move both heads, and all where a fold trains on a row more than once, are fitted
    one by one.

    An interrupt while candidates train leaves ``cv_results_`` with those that are finished, and says so."""


def _document(cls):
    """Put the shared text into a class docstring."""
    if cls.__doc__:
        cls.__doc__ = cls.__doc__.replace("{search}", _SEARCH_PARAMETERS).replace("{notes}", _SEARCH_NOTES)
    return cls


@_document
class MaxMarginIRLCV(_IRLCV):
    """`MaxMarginIRL` that chooses its parameters by cross-validation.

    Parameters
    ----------
    margin, temperature, alpha, hidden_layer_sizes, max_iter, tol, batch_size, learning_rate
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
        max_iter=100,
        tol=1e-4,
        batch_size="auto",
        learning_rate="auto",
        device="cpu",
        random_state=None,
        verbose=0,
        cv=None,
        scoring=None,
        refit=True,
        one_standard_error=False,
        error_score=np.nan,
    ):
        self.margin = margin
        self.temperature = temperature
        self.alpha = alpha
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.one_standard_error = one_standard_error
        self.error_score = error_score

    def fit(self, X, y=None, sample_weight=None, groups=None):
        """Try all candidates on all folds, and fit the best. See `FailureAwareIRLCV.fit`.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None
        groups : array-like of shape (n_pairs,) or (n_samples,), default=None

        Returns
        -------
        self : object
        """
        return self._fit(X, y, sample_weight, None, groups)


@_document
class MaxEntropyIRLCV(_IRLCV):
    """`MaxEntropyIRL` that chooses its parameters by cross-validation.

    Parameters
    ----------
    temperature, alpha, hidden_layer_sizes, max_iter, tol, batch_size, learning_rate
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

    Examples
    --------
    >>> from fairl_sk import MaxEntropyIRLCV
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(300, 5, noise=0.1, random_state=0)
    >>> search = MaxEntropyIRLCV(alpha=[1e-3, 1e-2, 10.0], random_state=0).fit(data.data, data.target)
    >>> search.coef_path_.shape
    (3, 5, 5)
    """

    _estimator_class = MaxEntropyIRL

    def __init__(
        self,
        *,
        temperature=1.0,
        alpha=1e-3,
        hidden_layer_sizes=(),
        max_iter=100,
        tol=1e-4,
        batch_size="auto",
        learning_rate="auto",
        device="cpu",
        random_state=None,
        verbose=0,
        cv=None,
        scoring=None,
        refit=True,
        one_standard_error=False,
        error_score=np.nan,
    ):
        self.temperature = temperature
        self.alpha = alpha
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.one_standard_error = one_standard_error
        self.error_score = error_score

    def fit(self, X, y=None, sample_weight=None, groups=None):
        """Try all candidates on all folds, and fit the best. See `FailureAwareIRLCV.fit`.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None
        groups : array-like of shape (n_pairs,) or (n_samples,), default=None

        Returns
        -------
        self : object
        """
        return self._fit(X, y, sample_weight, None, groups)


@_document
class FailureAwareIRLCV(_IRLCV):
    """`FailureAwareIRL` that chooses its parameters, and whether to be failure-aware at all, by cross-validation.

    For every setting of the base path the learner without failures, ``failure_weight=0``, is among the candidates,
    before the others, so that it is also taken where scores are equal. With ``pointwise_weight=0`` and
    ``recurrence_correlation=0`` it is the standard learner. ``pointwise_weight=["auto", 0]`` lets the folds choose
    whether single outputs count, too. ``alpha`` is best chosen with ``failure_weight=0`` (model selection, "Alpha
    belongs to the base path").

    Parameters
    ----------
    objective, margin, margin_fail, temperature, temperature_fail, failure_threshold, failure_weight, failure_rate, \
failures, alpha_fail, pointwise_weight, recurrence_correlation, failure_hidden_layer_sizes, failure_gradient, alpha, \
hidden_layer_sizes, max_iter, tol, batch_size, learning_rate
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
        margin_fail=2.0,
        temperature=1.0,
        temperature_fail=0.5,
        failure_threshold=None,
        failure_weight=None,
        failure_rate=None,
        failures="near_ties",
        alpha_fail=None,
        pointwise_weight="auto",
        recurrence_correlation=0.03,
        failure_hidden_layer_sizes=None,
        failure_gradient="failure",
        alpha=1e-3,
        hidden_layer_sizes=(),
        max_iter=100,
        tol=1e-4,
        batch_size="auto",
        learning_rate="auto",
        device="cpu",
        random_state=None,
        verbose=0,
        cv=None,
        scoring=None,
        refit=True,
        one_standard_error=False,
        error_score=np.nan,
    ):
        self.objective = objective
        self.margin = margin
        self.margin_fail = margin_fail
        self.temperature = temperature
        self.temperature_fail = temperature_fail
        self.failure_threshold = failure_threshold
        self.failure_weight = failure_weight
        self.failure_rate = failure_rate
        self.failures = failures
        self.alpha_fail = alpha_fail
        self.pointwise_weight = pointwise_weight
        self.recurrence_correlation = recurrence_correlation
        self.failure_hidden_layer_sizes = failure_hidden_layer_sizes
        self.failure_gradient = failure_gradient
        self.alpha = alpha
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.one_standard_error = one_standard_error
        self.error_score = error_score

    def fit(self, X, y=None, sample_weight=None, output_labels=None, groups=None):
        """Try all candidates on all folds, and fit the best.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
            Features of pairs, or of single outputs.
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
            See `FailureAwareIRL.fit`.
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None
            Weights >= 0, of the fits and of the default score.
        output_labels : array-like of shape (n_pairs, 2), default=None
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
            If fits end at a duality gap above ``10 * tol``.
        UserWarning
            If a candidate has no finite score, or folds part groups; and what the last fit warns of.
        """
        return self._fit(X, y, sample_weight, output_labels, groups)

    def _with_standard(self, params, grid, template):
        """All candidates and, for every setting of the base path that has none yet, one of failure weight 0."""
        _warn_of_unread(params, grid, template)
        others = [name for name in grid if name not in _OF_FAILURES]

        def base_of(candidate):
            detector = candidate.get("failures", template.failures)
            reads_labels = detector == "labels" or getattr(detector, "requires_labels", False)
            return [reads_labels, *(candidate[name] for name in others)]

        def is_standard(candidate):
            weight = candidate.get("failure_weight", template.failure_weight)
            return isinstance(weight, Real) and weight == 0

        if "failure_weight" not in grid:
            params = [{**candidate, "failure_weight": template.failure_weight} for candidate in params]
        standard = [candidate for candidate in params if is_standard(candidate)]
        rest = [candidate for candidate in params if not is_standard(candidate)]
        for candidate in rest:
            if base_of(candidate) not in [base_of(known) for known in standard]:
                alike = [other for other in rest if base_of(other) == base_of(candidate)]
                valid = [other for other in alike if _is_strict(template, other)] or alike
                plain = {name: value for name, value in _OF_STANDARD.items() if name in valid[0]}
                standard.append({**valid[0], **plain})
        return standard + rest


def _warn_of_unread(params, grid, template):
    """Say which values make no difference, as no candidate's objective reads them."""
    objectives = {candidate.get("objective", template.objective) for candidate in params}
    for name, objective in {
        "margin": "max_margin",
        "margin_fail": "max_margin",
        "temperature_fail": "max_entropy",
    }.items():
        if len(grid.get(name, ())) > 1 and objective not in objectives:
            warnings.warn(
                f"The {len(grid[name])} values of {name} make no difference: only objective={objective!r} reads it.",
                UserWarning,
                stacklevel=5,
            )


def _is_strict(template, candidate):
    """Whether the constraints of failures are stricter, as a fit asks."""
    try:
        clone(template).set_params(**candidate)._check_strictness()
    except ValueError:
        return False
    return True


def _complexity(estimator):
    """What the one-standard-error rule makes small, in this order."""
    schedules = estimator._schedules()
    pull = float((schedules["weights"] * schedules["rates"]).mean())
    return pull, -estimator._alpha_fail(), -estimator.alpha
