"""Pairs of outputs that recur count less: `recurrence_correlation`."""

import numpy as np
import pytest
from fairl_sk.learning.sampling import clustered_weights, output_keys
from sklearn.model_selection import GridSearchCV, KFold

from fairl_sk import FailureAwareIRL
from fairl_sk.datasets import make_preferences
from fairl_sk.learning.search import FailureAwareIRLCV
from fairl_sk.metrics import output_f1_scorer


def star(n_pairs=300, seed=0):
    """Pairs of which the first output recurs: a few are preferred again and again."""
    data = make_preferences(n_pairs, 5, noise=0.1, random_state=seed)
    X = data.data.copy()
    rng = np.random.default_rng(seed)
    some = rng.random(n_pairs) < 0.5
    hub = X[rng.integers(3, size=n_pairs), 0]
    X[some, 0] = hub[some]
    return X, data.target


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def weights(X, sample_weight, correlation):
    return clustered_weights(output_keys(X, 0), sample_weight, correlation)


def test_a_pair_counts_by_the_pairs_of_its_outputs():
    a, b, c, d, e = np.eye(5)
    X = np.array([[a, b], [c, a], [a, d], [d, e]])
    found = weights(X, np.array([1.0, 1, 2, 1]), 0.5)
    # a is in three pairs, d in two, the others in one
    np.testing.assert_allclose(found, [1 / 2, 1 / 2, 2 / 2.5, 1 / 1.5])


def test_copies_and_pairs_of_no_weight_are_no_recurrence():
    a, b, c = np.eye(3)
    X = np.array([[a, b], [a, b], [b, a], [a, c]])
    found = weights(X, np.array([1.0, 1, 1, 0]), 0.5)
    np.testing.assert_array_equal(found, [1, 1, 1, 0])


def test_a_contradiction_and_a_pair_of_an_output_with_itself_are_no_recurrence():
    a, b = np.eye(2)
    X = np.array([[a, b], [b, a], [a, a]])
    np.testing.assert_array_equal(weights(X, np.ones(3), 1.0), [1, 1, 1])


def test_no_correlation_or_recurrence_is_the_weights_themselves():
    X, y = star()
    weight = np.random.default_rng(0).uniform(size=len(X))
    assert weights(X, weight, 0.0) is weight
    assert weights(X, weight, 0.03) is not weight
    assert weights(make_preferences(300, 5, random_state=0).data, weight, 1.0) is weight


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
def test_a_fit_is_that_of_the_clustered_weights(objective):
    X, y = star()
    found = FailureAwareIRL(objective, recurrence_correlation=0.5, random_state=0).fit(X, y)
    clustered = weights(X, np.ones(len(X)), 0.5)
    same = FailureAwareIRL(objective, recurrence_correlation=0, random_state=0).fit(X, y, sample_weight=clustered)
    other = FailureAwareIRL(objective, recurrence_correlation=0, random_state=0).fit(X, y)
    np.testing.assert_allclose(found.coef_, same.coef_, rtol=1e-6)
    assert np.abs(found.coef_ - other.coef_).max() > 1e-3


def test_a_row_of_weight_two_is_the_row_twice():
    X, y = star()
    twice = np.random.default_rng(1).random(len(X)) < 0.3
    one = FailureAwareIRL(recurrence_correlation=0.5, random_state=0).fit(X, y, sample_weight=1.0 + twice)
    two = FailureAwareIRL(recurrence_correlation=0.5, random_state=0).fit(
        np.concatenate([X, X[twice]]), np.concatenate([y, y[twice]])
    )
    np.testing.assert_allclose(one.coef_, two.coef_, rtol=1e-4, atol=1e-5)


def test_a_search_is_that_of_grid_search():
    X, y = star(400)
    grid = {"recurrence_correlation": [0.0, 0.5, 1.0], "failure_weight": [0.0, 3.0], "alpha": [1e-2, 1e-3]}
    cv = KFold(3)
    own = FailureAwareIRLCV(**grid, cv=cv, random_state=0).fit(X, y)
    peer = GridSearchCV(FailureAwareIRL(random_state=0), grid, cv=cv).fit(X, y)
    assert own.best_params_ == peer.best_params_
    by_params = {
        str(sorted(p.items())): s
        for p, s in zip(peer.cv_results_["params"], peer.cv_results_["mean_test_score"], strict=True)
    }
    expected = [by_params[str(sorted(p.items()))] for p in own.cv_results_["params"]]
    np.testing.assert_allclose(own.cv_results_["mean_test_score"], expected, atol=1e-5)
    np.testing.assert_allclose(own.best_estimator_.coef_, peer.best_estimator_.coef_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
def test_columns_count_single_outputs_and_rows_of_no_weight_as_fits_do(objective, rng):
    X, y = star()
    weight = rng.integers(0, 3, len(X)).astype(float)
    settings = {"objective": objective, "pointwise_weight": 0.7, "recurrence_correlation": 0.5, "random_state": 0}
    cv = list(KFold(2).split(X))
    search = FailureAwareIRLCV(**settings, refit=False, cv=cv).fit(X, y, sample_weight=weight)
    for number, candidate in enumerate(search.cv_results_["params"]):
        for fold, (train, _) in enumerate(cv):
            alone = FailureAwareIRL(**settings).set_params(**candidate)
            coef = alone.fit(X[train], y[train], sample_weight=weight[train]).coef_
            np.testing.assert_allclose(search.coef_path_[number, fold], coef, rtol=1e-5, atol=1e-8)


def test_rows_and_sides_in_any_order(rng):
    X, y = star()
    order, turned = rng.permutation(len(X)), rng.random(len(X)) < 0.5
    other = np.where(turned[:, None, None], X[:, ::-1], X)[order]
    one = FailureAwareIRL(recurrence_correlation=0.5, random_state=0).fit(X, y)
    two = FailureAwareIRL(recurrence_correlation=0.5, random_state=0).fit(other, np.where(turned, 1 - y, y)[order])
    np.testing.assert_allclose(one.coef_, two.coef_, rtol=1e-4, atol=1e-5)
    apart = FailureAwareIRL(recurrence_correlation=0.0, random_state=0).fit(X, y)
    assert np.abs(one.coef_ - apart.coef_).max() > 1e-3


def test_single_outputs_recur_in_no_pair():
    X, y = star()
    X, y = np.repeat(X[:, 0], 2, axis=0), np.repeat(y, 2)
    search = FailureAwareIRLCV(recurrence_correlation=[0.0, 1.0], failure_weight=0.0, cv=2, random_state=0).fit(X, y)
    assert [params["recurrence_correlation"] for params in search.cv_results_["params"]] == [0.0, 1.0]
    np.testing.assert_array_equal(*search.coef_path_)


def test_differences_that_are_formed_anew_and_offsets_by_a_scorer(monkeypatch):
    X, y = star()
    monkeypatch.setattr("fairl_sk.learning.products._WORTH_FORMING", 1)
    settings = {"pointwise_weight": 0.0, "recurrence_correlation": 0.5, "random_state": 0}
    cv = list(KFold(2).split(X))
    search = FailureAwareIRLCV("max_margin", **settings, scoring=output_f1_scorer, cv=cv).fit(X, y)
    for number, candidate in enumerate(search.cv_results_["params"]):
        for fold, (train, test) in enumerate(cv):
            alone = FailureAwareIRL("max_margin", **settings).set_params(**candidate).fit(X[train], y[train])
            score = output_f1_scorer(alone, X[test], y[test])
            assert search.cv_results_[f"split{fold}_test_score"][number] == pytest.approx(score, abs=1e-6)
            np.testing.assert_allclose(search.coef_path_[number, fold], alone.coef_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("correlation", [-0.1, 1.5, "auto"])
def test_a_correlation_out_of_range_is_refused(correlation):
    X, y = star(50)
    with pytest.raises(ValueError, match="recurrence_correlation"):
        FailureAwareIRL(recurrence_correlation=correlation).fit(X, y)
    with pytest.raises(ValueError, match="recurrence_correlation"):
        FailureAwareIRLCV(recurrence_correlation=[0.0, correlation]).fit(X, y)
