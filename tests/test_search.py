"""Searches: they choose what GridSearchCV chooses, and tell users what went wrong."""

import pickle
import warnings
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning, NotFittedError
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, ShuffleSplit, StratifiedKFold
from sklearn.pipeline import make_pipeline

from fairl_sk import ExponentialSchedule, FailureAwareIRL, FailureAwareIRLCV, MaxEntropyIRLCV, MaxMarginIRLCV
from fairl_sk.failures import MarginFailures
from fairl_sk.learning import search as search_module
from fairl_sk.metrics import output_auc_scorer, output_f1_scorer, pair_accuracy_scorer
from fairl_sk.pairs import stack_outputs

FAST = {"n_rounds": 5, "random_state": 0}


def peer_of(search, **options):
    """GridSearchCV over the candidates of a search."""
    names = search.get_params(deep=False).keys() - {"cv", "scoring", "refit", "error_score"}
    fixed = {name: getattr(search, name) for name in names if name not in search.cv_results_["params"][0]}
    grid = [{name: [value] for name, value in candidate.items()} for candidate in search.cv_results_["params"]]
    options = {"cv": search.cv, "scoring": search.scoring, "refit": search.refit, **options}
    return GridSearchCV(type(search.best_estimator_)(**fixed), grid, **options)


def assert_equal(search, peer, X):
    """The same table of results, up to 2e-3 in mean scores; the same choice and the same best reward."""
    assert set(search.cv_results_) == set(peer.cv_results_)
    assert (search.best_params_, search.best_index_) == (peer.best_params_, peer.best_index_)
    for name, values in peer.cv_results_.items():
        if name.startswith("mean_test"):
            np.testing.assert_allclose(search.cv_results_[name], values, atol=2e-3, err_msg=name)
        if name.startswith("param_"):
            assert search.cv_results_[name].tolist() == values.tolist()
            assert search.cv_results_[name].dtype == values.dtype
    np.testing.assert_allclose(search.decision_function(X), peer.decision_function(X), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------- equal to GridSearchCV


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
@pytest.mark.parametrize("rows", ["pairs", "outputs"])
def test_equal_to_grid_search(preferences, detox, text_features, rows, objective):
    X, y, groups = text_features.fit_transform(detox.data), detox.target, detox.groups
    if rows == "outputs":
        X, y = stack_outputs(preferences.data).astype(np.float32), preferences.reference_reward.ravel() > 0.5
        groups = np.repeat(preferences.groups, 2)
    grid = {"failure_weight": [ExponentialSchedule(5.0, 2.0), 1.0], "alpha": [1e-2, 1e-1]}
    search = FailureAwareIRLCV(objective, **grid, cv=3, n_rounds=20).fit(X, y, groups=groups)
    assert len(search.cv_results_["params"]) == 6  # without failures, too, for each alpha
    assert_equal(search, peer_of(search, cv=GroupKFold(3)).fit(X, y, groups=groups), X)


@pytest.mark.parametrize(
    "search",
    [
        MaxMarginIRLCV(alpha=[1e-3, 1e-1], margin=(1.0, 2.0), cv=2),
        MaxEntropyIRLCV(alpha=np.logspace(-3, 0, 2), temperature=range(1, 3), cv=ShuffleSplit(2, random_state=0)),
        MaxEntropyIRLCV(hidden_layer_sizes=[(), (4,)], alpha=[1e-3], cv=KFold(2), **FAST),
        FailureAwareIRLCV(objective=["max_margin", "max_entropy"], training="joint", cv=2, **FAST),
        FailureAwareIRLCV(failures=["margin", "near_ties"], failure_threshold=[0.5, None], cv=2),
        FailureAwareIRLCV(recurrence_correlation=[0.0, 0.5], pointwise_weight=["auto", 0.0], cv=2, **FAST),
        FailureAwareIRLCV(n_rounds=[5, 10], learning_rate=["auto", 0.1], tol=[1e-5, 0.9], cv=2),
    ],
    ids=["margin", "splitter", "layers", "joint", "detectors", "weights", "steps"],
)
def test_equal_over_any_parameter(preferences, search):
    X, y = preferences.data[:200], preferences.target[:200]
    search = clone(search).set_params(random_state=0).fit(X, y)
    assert_equal(search, peer_of(search).fit(X, y), X)


def test_several_scores(preferences):
    X, y = preferences.data, preferences.target
    scoring = {"accuracy": pair_accuracy_scorer, "auc": output_auc_scorer, "f1": output_f1_scorer}
    search = FailureAwareIRLCV(alpha_fail=[1e-3, 1.0], scoring=scoring, refit="auc", cv=KFold(3), **FAST).fit(X, y)
    assert_equal(search, peer_of(search).fit(X, y), X)
    assert not hasattr(clone(search).set_params(refit=False).fit(X, y), "best_index_")
    callables = clone(search).set_params(refit=lambda results: results["mean_test_f1"].argmin()).fit(X, y)
    assert_equal(callables, peer_of(callables).fit(X, y), X)
    assert not hasattr(callables, "best_score_")
    one = clone(search).set_params(scoring=None, refit=False).fit(X, y)
    assert one.best_params_ in one.cv_results_["params"]
    with pytest.raises(AttributeError, match=r"refit=False.*Fit with refit=True"):
        one.predict(X)
    with pytest.raises(NotFittedError):
        clone(one).predict(X)


# ------------------------------------------------------------------------------------------------- candidates


def test_the_learner_without_failures_is_always_there_and_first(preferences):
    X, y = preferences.data[:100], preferences.target[:100]
    grid = {"failure_weight": [1.0, 3.0], "margin_fail": [2.0, 3.0], "alpha": [0.1, 1.0], "failures": ["margin"]}
    constant = make_scorer(lambda y_true, y_pred: 1.0)
    search = FailureAwareIRLCV("max_margin", **grid, scoring=constant, cv=2, **FAST).fit(X, y)
    params = search.cv_results_["params"]
    assert [(p["failure_weight"], p["alpha"]) for p in params[:2]] == [(0, 0.1), (0, 1.0)]
    assert len(params) == 2 + 8 and all(p["failure_weight"] > 0 for p in params[2:])
    assert search.best_index_ == 0 and set(search.cv_results_["rank_test_score"]) == {1}  # of equal scores
    already = search.set_params(failure_weight=[1.0, 0.0], margin_fail=None, alpha=0.1).fit(X, y)
    assert [p["failure_weight"] for p in already.cv_results_["params"]] == [0, 1.0]


def test_base_paths_are_shared_and_failure_paths_train_together(preferences, monkeypatch):
    calls = []

    def counted(function):
        return lambda *args, **kwargs: calls.append(function.__name__) or function(*args, **kwargs)

    for function in (search_module.solve_base, search_module.train_failures):
        monkeypatch.setattr(search_module, function.__name__, counted(function))
    grid = {"alpha": [1e-3, 1e-2], "alpha_fail": 1.0, "failure_weight": np.linspace(0, 5, 70)}
    search = FailureAwareIRLCV(**grid, cv=2, refit=False, **FAST).fit(preferences.data, preferences.target)
    assert calls.count("solve_base") == 2 * 2
    assert calls.count("train_failures") == 2 * 2 * 2  # 70 paths: 64 and 6 beside each other
    assert len(search.cv_results_["params"]) == 2 * 70


def test_labels_get_a_learner_without_failures_of_their_own(detox, text_features):
    """Detectors that read labels let the pointwise loss read them too, so the base path differs."""
    X, y, labels = text_features.fit_transform(detox.data), detox.target, detox.output_labels
    search = FailureAwareIRLCV(failures=["near_ties", "labels", "margin"], pointwise_weight=0.7, cv=2, **FAST)
    search.fit(X, y, output_labels=labels, groups=detox.groups)
    params = search.cv_results_["params"]
    assert [(p["failures"], p["failure_weight"]) for p in params[:2]] == [("near_ties", 0), ("labels", 0)]
    assert len(params) == 5
    assert_equal(search, peer_of(search, cv=GroupKFold(2)).fit(X, y, output_labels=labels, groups=detox.groups), X)


class LowestShare(BaseEstimator):
    """A detector with `fit`: the pairs below a quantile."""

    def __init__(self, share):
        self.share = share

    def fit(self, X, y, sample_weight, *, output_labels, seed):
        self.n_pairs_ = len(X)
        return self

    def detect(self, state):
        assert len(state.margins) == self.n_pairs_
        return state.margins <= np.quantile(state.margins, self.share)


class Remembers(MarginFailures):
    """A detector that gives up after as many rounds as a fit has."""

    def detect(self, state):
        self.n_calls = getattr(self, "n_calls", 0) + 1
        return super().detect(state) & (self.n_calls <= FAST["n_rounds"])


def test_detectors_are_each_fits_own(preferences):
    X, y = preferences.data, preferences.target
    failures = [LowestShare(0.1), LowestShare(0.3), Remembers()]
    search = FailureAwareIRLCV(failures=failures, failure_weight=[3.0], cv=2, **FAST).fit(X, y)
    assert_equal(search, peer_of(search).fit(X, y), X)
    assert vars(failures[0]) == {"share": 0.1} and not vars(failures[2])


# --------------------------------------------------------------------------------- groups, weights, metadata


def test_groups_are_kept_whole_or_named(preferences):
    X, y, groups = preferences.data, preferences.target, np.arange(500) // 5
    search = MaxEntropyIRLCV(alpha=[1e-3, 1e-1], cv=4)
    grouped = clone(search).fit(X, y, groups=groups)
    assert_equal(grouped, peer_of(grouped, cv=GroupKFold(4)).fit(X, y, groups=groups), X)
    stratified = clone(search).fit(X, y)
    assert_equal(stratified, peer_of(stratified, cv=StratifiedKFold(4)).fit(X, y), X)
    with pytest.warns(UserWarning, match="The split leaks .* of 100 groups") as caught:
        search.set_params(cv=KFold(2, shuffle=True, random_state=0)).fit(X, y, groups=groups)
    assert len(caught) == 1


def test_weights_count_in_fits_and_in_the_default_score(preferences):
    X, y, groups = preferences.data, preferences.target, np.arange(500) % 5
    weight = np.where(np.arange(500) < 200, 2.0, np.where(np.arange(500) < 250, 0.0, 1.0))
    times = np.repeat(np.arange(500), weight.astype(int))
    search = FailureAwareIRLCV(failure_weight=[1.0, 5.0], recurrence_correlation=0.0, **FAST)
    weighted = clone(search).fit(X, y, sample_weight=weight, groups=groups)
    repeated = clone(search).fit(X[times], y[times], groups=groups[times])
    np.testing.assert_allclose(*(s.cv_results_["mean_test_score"] for s in (weighted, repeated)), atol=2e-3)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-3, atol=1e-4)


def test_metadata_routing(preferences):
    X, y, labels = preferences.data, preferences.target, (preferences.reference_reward > 0).astype(int)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = deepcopy(output_f1_scorer).set_score_request(output_labels=True, sample_weight=False)
        search = FailureAwareIRLCV(failures="labels", failure_weight=[1.0], scoring=scorer, cv=3, **FAST)
        search.set_fit_request(output_labels=True).fit(X, y, output_labels=labels, groups=preferences.groups)
        learner = FailureAwareIRL(failures="labels", **FAST).set_fit_request(output_labels=True)
        peer = GridSearchCV(learner, {"failure_weight": [0, 1.0]}, scoring=scorer, cv=GroupKFold(3))
        peer.fit(X, y, output_labels=labels, groups=preferences.groups)
    assert_equal(search, peer, X)


def test_in_a_pipeline_cloned_pickled_and_shown(preferences, capsys):
    X, y, groups = preferences.data, preferences.target, preferences.groups
    search = FailureAwareIRLCV(failure_weight=[1.0], cv=2, verbose=1, **FAST)
    pipeline = make_pipeline("passthrough", clone(search)).fit(X, y, failureawareirlcv__groups=groups)
    shown = capsys.readouterr().err
    assert "FailureAwareIRLCV" in shown and "4/4" in shown and "FailureAwareIRL:" in shown  # the last fit's own bar
    search.fit(X, y, groups=groups)
    for other in (pipeline, pickle.loads(pickle.dumps(search))):
        np.testing.assert_array_equal(other.predict_proba(X), search.predict_proba(X))
    assert search.score(X, y) == search.best_estimator_.score(X, y) == np.mean(search.predict(X) == y)


def test_tables_keep_the_names_of_features(preferences):
    X = pd.DataFrame(stack_outputs(preferences.data)).add_prefix("feature")
    search = MaxEntropyIRLCV(alpha=[1.0], cv=2).fit(X, preferences.reference_reward.ravel() > 0)
    assert search.best_estimator_.feature_names_in_.tolist() == search.feature_names_in_.tolist() == X.columns.tolist()
    assert search.predict(X).dtype == bool
    with pytest.raises(ValueError, match="feature names should match"):
        search.predict(X.add_suffix("other"))


def test_pairs_without_a_target_and_folds_of_any_form(preferences):
    X = preferences.data.copy()
    X[preferences.target == 0] = X[preferences.target == 0][:, ::-1]
    mask = np.arange(500) < 300
    folds = [(mask, ~mask), (np.arange(-300, 0), np.arange(200))]
    search = MaxEntropyIRLCV(alpha=[1e-3, 1.0], cv=(fold for fold in folds)).fit(X)
    assert search.n_splits_ == 2 and search.best_score_ > 0.8
    with pytest.raises(ValueError, match="Found no folds .* a generator serves one fit"):
        search.fit(X)


# -------------------------------------------------------------------------------------------- failures of fits


def test_a_combination_that_no_fit_takes_is_a_failed_fit(preferences):
    X, y = preferences.data, preferences.target
    search = FailureAwareIRLCV("max_margin", margin_fail=[0.5, 2.0], failure_weight=[1.0], cv=2, **FAST)
    with pytest.warns(FitFailedWarning, match="2 of 6 fits or scores failed.*margin_fail > margin") as caught:
        nan = clone(search).fit(X, y)
    assert [entry.filename for entry in caught] == [__file__]
    assert nan.cv_results_["rank_test_score"].tolist()[1] == 3
    assert nan.cv_results_["params"][0] == {"margin_fail": None, "failure_weight": 0}
    with pytest.raises(ValueError, match="margin_fail > margin"):
        clone(search).set_params(error_score="raise").fit(X, y)
    with pytest.warns(FitFailedWarning, match="their score is 0"):
        assert clone(search).set_params(error_score=0).fit(X, y).cv_results_["mean_test_score"][1] == 0


class Raises(MarginFailures):
    """A detector that raises an error in fits of so many rows."""

    def __init__(self, error, n_rows):
        self.error, self.n_rows = error, n_rows

    def detect(self, state):
        if len(state.margins) == self.n_rows:
            raise self.error("no detector")
        return super().detect(state)


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_a_detector_that_raises_fails_its_candidate_only(preferences, error):
    search = FailureAwareIRLCV(failures=["margin", Raises(error, 250)], failure_weight=[1.0], cv=2, **FAST)
    with pytest.warns(FitFailedWarning, match=f"2 of 6 fits.*{error.__name__}: no detector"):
        search.fit(preferences.data, preferences.target)
    assert np.isfinite(search.cv_results_["mean_test_score"]).tolist() == [True, True, False]


def test_scorers_that_fail_or_give_nan(preferences):
    X, y = preferences.data, preferences.target

    def broken(estimator, X, y):
        if estimator.alpha == 1:
            raise RuntimeError("no score")
        return estimator.score(X, y)

    def nan(estimator, X, y):
        return np.nan if estimator.alpha == 1 else estimator.score(X, y)

    search = MaxEntropyIRLCV(alpha=[1.0, 1e-2], scoring=nan, cv=2)
    with pytest.warns(UserWarning, match="1 of 2 candidates have no finite mean score"):
        search.fit(X, y)
    assert search.cv_results_["rank_test_score"].tolist() == [2, 1]
    assert search.best_params_ == {"alpha": 1e-2}
    with pytest.warns(FitFailedWarning, match="2 of 4 .*RuntimeError: no score"):
        clone(search).set_params(scoring=broken).fit(X, y)
    with pytest.raises(RuntimeError, match="no score"):
        clone(search).set_params(scoring=broken, error_score="raise").fit(X, y)
    search.set_params(alpha=[1.0])
    with pytest.warns(UserWarning, match="no finite"), pytest.raises(ValueError, match="None of the 1 candidates"):
        clone(search).fit(X, y)
    search.set_params(scoring={"accuracy": pair_accuracy_scorer, "broken": broken}, refit="accuracy")
    with pytest.warns(FitFailedWarning, match="2 of 2 .*broken: RuntimeError: no score"):
        several = search.fit(X, y)
    assert np.isnan(several.cv_results_["mean_test_broken"]).all() and several.best_score_ > 0.8


def test_fits_that_have_not_converged_are_counted(preferences):
    search = MaxEntropyIRLCV(alpha=[1e-3, 1e-2], max_iter=2, cv=2, refit=False)
    with pytest.warns(ConvergenceWarning, match="4 of 4 fits stopped at a duality gap") as caught:
        search.fit(preferences.data, preferences.target)
    assert [entry.filename for entry in caught] == [__file__]


# --------------------------------------------------------------------------------------- bad input, interrupts

BAD = {
    "empty grid": ({"alpha": []}, {}, r"empty grid, alpha=\[\].*at least one value"),
    "grid of devices": ({"device": ["cpu", "cuda"]}, {}, "Expected one value: a search compares .* the same device"),
    "fewer groups than folds": ({}, {"groups": np.arange(500) % 3}, "n_splits=5 greater than the number of groups: 3"),
    "groups of another length": ({}, {"groups": np.arange(9)}, r"groups of shape \(9,\) for 500 rows"),
    "one class": ({"cv": KFold(2)}, {"y": np.arange(500) // 250}, "Fold 0 of 2 holds one class only.*StratifiedKFold"),
    "no schedule": ({"failure_weight": [1.0, "fast"]}, {}, "The grid holds .*'failure_weight': 'fast'"),
    "negative": ({"alpha": [1.0, -1.0]}, {}, r"The grid holds .*'alpha': -1.0.*The 'alpha' parameter"),
    "layers": ({"hidden_layer_sizes": [(0,), ()]}, {}, r"The grid holds .*\(0,\).*whole numbers"),
    "labels missing": ({"failures": "labels"}, {}, "needs to know the outputs.*output_labels"),
    "no training rows": ({"cv": [([], np.arange(500))]}, {}, "Fold 0 of 1 has 0 training rows"),
    "no test rows": ({"cv": [(np.arange(500), [])]}, {}, "Fold 0 of 1 has no test row"),
    "no weight": ({"cv": KFold(2)}, {"sample_weight": np.arange(500) // 250}, "Fold 0 of 2 has no test row"),
    "several scores": ({"scoring": ["accuracy", "roc_auc"]}, {}, "refit=True with several scores.*'accuracy', 'roc_"),
    "refit": ({"refit": 3}, {}, "Found refit=3. Expected True, False, the name of a score, or a callable"),
    "choice": ({"refit": lambda results: 2, "n_rounds": 1}, {}, "refit returned 2. Expected the number of a candidate"),
    "error score": ({"error_score": "skip"}, {}, "error_score='skip'. Expected a number, NaN for one, or 'raise'"),
    "NaN": ({}, {"X": np.full((500, 2, 8), np.nan)}, "NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_changes_nothing(preferences, case):
    parameters, arguments, message = BAD[case]
    search = FailureAwareIRLCV(**parameters)
    search.best_params_ = "of the last fit"
    with warnings.catch_warnings(), pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        warnings.simplefilter("ignore", FitFailedWarning)
        search.fit(**{"X": preferences.data, "y": preferences.target, **arguments})
    assert [name for name in vars(search) if name.endswith("_")] == ["best_params_"]


def test_a_constraint_that_no_objective_reads_is_named(preferences):
    X, y = preferences.data[:100], preferences.target[:100]
    for objective, name in (("max_entropy", "margin_fail"), ("max_margin", "temperature_fail")):
        search = FailureAwareIRLCV(objective, **{name: [0.3, 0.4]}, cv=2, refit=False, **FAST)
        with pytest.warns(UserWarning, match=f"{name}=0.4 makes no difference: only objective="):
            search.fit(X, y)
    both = FailureAwareIRLCV(["max_margin", "max_entropy"], margin_fail=[2.0, 3.0], cv=2, refit=False, **FAST)
    assert len(both.fit(X, y).cv_results_["params"]) == 6


def test_an_interrupt_keeps_the_finished_folds_and_says_so(preferences):
    X, y, rows = preferences.data, preferences.target, np.arange(500)
    folds = [(rows[: 300 + number], rows[400:]) for number in range(4)]  # fold 2 has 302 training rows
    stops = Raises(KeyboardInterrupt, n_rows=-1)
    search = FailureAwareIRLCV(failures=stops, failure_weight=[1.0, 3.0], cv=folds, **FAST).fit(X, y)
    whole = search.cv_results_
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="Interrupted with 2 of 4 folds") as caught:
        search.set_params(failures__n_rows=302).fit(X, y)
    assert [entry.filename for entry in caught] == [__file__]
    assert search.n_splits_ == 2 and "split2_test_score" not in search.cv_results_
    means = np.mean([whole[f"split{fold}_test_score"] for fold in range(2)], axis=0)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], means)
    with pytest.raises(AttributeError, match="the search was interrupted"):
        search.predict(X)
    with pytest.raises(KeyboardInterrupt):  # before a fold is finished: everything stays
        search.set_params(failures__n_rows=300).fit(X, y)
    with pytest.raises(KeyboardInterrupt):  # in the last fit: the choice stays
        search.set_params(failures__n_rows=500, scoring=output_auc_scorer).fit(X, y)
    assert search.n_splits_ == 4 and not hasattr(search, "best_estimator_")
