"""Failure detectors: which pairs they name, what they need, and detectors of one's own."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from fairl_sk import ExponentialSchedule, FailureAwareIRL, FailureAwareIRLCV
from fairl_sk.failures import (
    ConfirmedFailures,
    ImplicitFailures,
    LabelFailures,
    MarginFailures,
    NearTieFailures,
    Round,
    find_failures,
    make_detector,
)
from fairl_sk.pairs import stack_outputs

NAMES = {
    "margin": MarginFailures,
    "near_ties": NearTieFailures,
    "labels": LabelFailures,
    "confirmed": ConfirmedFailures,
    "implicit": ImplicitFailures,
}


def a_round(margins, rewards=None, labels=None, threshold=0.0):
    return Round(0, 0.0, threshold, np.asarray(margins, dtype=float), lambda: np.asarray(rewards), labels)


# ------------------------------------------------------------------------------------- which pairs are failures


@pytest.mark.parametrize(
    ("name", "expected"),
    [("margin", [True, True, True, True, False, False]), ("near_ties", [False, True, True, True, False, False])],
)
def test_failures_by_margin_and_near_ties(name, expected):
    state = a_round([-2.0, -0.5, 0.0, 0.5, 0.5000001, 2.0], threshold=0.5)
    assert make_detector(name).detect(state).tolist() == expected


def test_failures_by_label_have_an_output_on_the_wrong_side_of_0():
    rewards = [[1.0, -1.0], [1.0, 1.0], [-1.0, -2.0], [1.0, 2.0], [0.0, -1.0]]
    labels = np.array([[1, 0], [1, 0], [1, 0], [1, 1], [1, 0]])
    found = LabelFailures().detect(a_round(np.zeros(5), rewards, labels))
    assert found.tolist() == [False, True, True, False, True]


def test_confirmed_failures_are_failures_by_margin_whose_labels_agree_with_the_preference():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0], [0, 1]])
    state = a_round([0.5, 0.6, -1.0, -1.0, -1.0], labels=labels, threshold=0.5)
    assert ConfirmedFailures().detect(state).tolist() == [True, False, False, False, False]


def test_implicit_rewards_confirm_failures(preferences):
    """The larger implicit reward of a pair is the label 1: in a fit, a search, and a search over a Pipeline."""
    X, y, values = preferences.data, preferences.target, preferences.reference_reward
    order = (values == values.max(axis=1, keepdims=True)).astype(int)
    settings = {"failure_weight": 1.0, "n_rounds": 10}
    by_labels = FailureAwareIRL(failures="confirmed", **settings).fit(X, y, output_labels=order)
    learner = FailureAwareIRL(failures="implicit", **settings)
    np.testing.assert_array_equal(learner.fit(X, y, implicit_rewards=values).coef_, by_labels.coef_)
    search = FailureAwareIRLCV(failures="implicit", failure_weight=[1.0], n_rounds=10, cv=2)
    search.fit(X, y, implicit_rewards=values)
    pipeline = make_pipeline(FunctionTransformer(), clone(learner))
    grid = GridSearchCV(pipeline, {"failureawareirl__failure_weight": [0.0, 1.0]}, cv=StratifiedKFold(2), refit=False)
    grid.fit(X, y, failureawareirl__implicit_rewards=values)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], grid.cv_results_["mean_test_score"], atol=2e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "failures='implicit' needs to know the outputs"),
        ({"implicit_rewards": np.zeros(500)}, r"implicit_rewards of shape \(500,\), 0 not finite"),
        ({"implicit_rewards": np.full((500, 2), np.nan)}, r"shape \(500, 2\), 1000 not finite"),
        ({"implicit_rewards": np.eye(500, 2), "output_labels": np.eye(500, 2)}, "Expected one of them"),
    ],
)
def test_bad_implicit_rewards(preferences, given, message):
    with pytest.raises(ValueError, match=message):
        FailureAwareIRL(failures="implicit").fit(preferences.data, preferences.target, **given)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_detector_as_constructed(preferences, name):
    detector = make_detector(name)
    assert type(detector) is NAMES[name]
    assert clone(detector).get_params() == {}
    labels = (preferences.reference_reward > 0).astype(int)
    by_name, by_object = (
        FailureAwareIRL(failures=failures, n_rounds=20).fit(preferences.data, preferences.target, output_labels=labels)
        for failures in (name, NAMES[name]())
    )
    np.testing.assert_array_equal(by_name.coef_, by_object.coef_)
    assert np.linalg.norm(by_name.failure_coef_) > 0
    assert any(0 < row["n_failures"] < 500 for row in by_name.history_)


@pytest.mark.parametrize(
    ("failures", "message"), [("worst", "failures='worst'. Expected one of"), (MarginFailures, "add ()")]
)
def test_what_is_no_detector_is_refused(failures, message):
    with pytest.raises(ValueError, match=message):
        make_detector(failures)


@pytest.mark.parametrize(
    "answer",
    [np.ones(3), -np.ones(4), np.full(4, np.nan), None, "yes", ["yes", "no", "no", "no"], [[1], [1, 2], 1, 1]],
    ids=repr,
)
def test_a_detector_that_answers_nonsense_is_named(answer):
    class Broken:
        def detect(self, state):
            return answer

        def __repr__(self):
            return "Broken()"

    with pytest.raises(ValueError, match=r"Broken\(\).detect returned.*for each of the 4 pairs"):
        find_failures(Broken(), a_round(np.zeros(4)))


# ------------------------------------------------------------------------------------------ what a detector sees


class Recorder(BaseEstimator):
    """Names all pairs and keeps what it was shown."""

    requires_labels = False

    def __init__(self, seen):
        self.seen = seen

    def detect(self, state):
        self.seen.append((state, state.rewards()))
        return np.ones(len(state.margins), dtype=bool)


@pytest.mark.parametrize("settings", [{}, {"training": "joint"}, {"hidden_layer_sizes": (4,)}], ids=str)
def test_a_round_shows_margins_rewards_and_progress(preferences, settings):
    X, y, seen = preferences.data, preferences.target, []
    learner = FailureAwareIRL(failures=Recorder(seen), n_rounds=6, random_state=0, **settings).fit(X, y)
    states = [state for state, _ in seen]
    assert [state.index for state in states] == list(range(6))
    np.testing.assert_allclose([state.progress for state in states], np.arange(6) / 5)
    np.testing.assert_allclose([state.threshold for state in states], np.arange(6) / 5)
    for state, rewards in seen:
        np.testing.assert_allclose(rewards[:, 0] - rewards[:, 1], state.margins, atol=1e-6)
        high, low = (rewards > 0).mean(axis=0)
        assert high - low > 0 or state.index == 0  # preferred outputs are the first, and 0 parts them from the others
    for row, state in zip(learner.history_, states, strict=True):
        np.testing.assert_allclose(row["margin_q50"], np.median(state.margins), atol=1e-6)


def test_failures_of_the_first_round_alone_are_learned_from(preferences):
    schedule = ExponentialSchedule(10.0, decay=1e4)  # 0 after the first round
    learner = FailureAwareIRL(failure_weight=schedule, failure_threshold=0.5, n_rounds=3)
    fitted = learner.fit(preferences.data, preferences.target)
    assert [row["n_sampled"] > 0 for row in fitted.history_] == [True, False, False]
    assert np.linalg.norm(fitted.failure_coef_) > 0.01 * np.linalg.norm(fitted.base_coef_)


def test_labels_are_shown_in_the_order_preferred_and_other(preferences):
    class WithLabels(Recorder):
        requires_labels = True

    X, y, seen = preferences.data, preferences.target, []
    labels = np.random.default_rng(0).integers(0, 2, size=(500, 2))
    FailureAwareIRL(failures=WithLabels(seen), n_rounds=1).fit(X, y, output_labels=labels)
    np.testing.assert_array_equal(seen[0][0].output_labels, np.where(y[:, None] == 1, labels, labels[:, ::-1]))
    FailureAwareIRL(failures=Recorder(seen), n_rounds=1).fit(X, y, output_labels=labels)
    assert seen[1][0].output_labels is None  # it did not ask


def test_label_failures_follow_the_reward(detox, text_features):
    """The offset of a round is where the labels part, so most outputs are on their side in the end."""
    X, y, labels = text_features.fit_transform(detox.data), detox.target, detox.output_labels
    learner = FailureAwareIRL(failures="labels").fit(X, y, output_labels=labels)
    rewards = learner.decision_function(stack_outputs(X)).reshape(-1, 2)
    wrong = ((rewards > 0) != (labels == 1)).any(axis=1).sum()
    assert learner.history_[-1]["n_failures"] == pytest.approx(wrong, abs=4)
    best = max((rewards[labels == 1] > t).mean() + (rewards[labels == 0] <= t).mean() for t in np.unique(rewards))
    assert (rewards[labels == 1] > 0).mean() + (rewards[labels == 0] <= 0).mean() == pytest.approx(best)


# ---------------------------------------------------------------------------------------- detectors of one's own


class LowestShare(BaseEstimator):
    """The pairs with the smallest margins."""

    def __init__(self, share=0.25):
        self.share = share

    def detect(self, state):
        return state.margins <= np.quantile(state.margins, self.share)


def test_a_detector_of_ones_own_counts_in_every_round(preferences):
    learner = FailureAwareIRL(failures=LowestShare()).set_params(failures__share=0.1)
    fitted = learner.fit(preferences.data, preferences.target)
    assert {row["n_failures"] for row in fitted.history_} == {50}


def test_grid_search_reaches_the_parameters_of_a_detector(preferences):
    learner = FailureAwareIRL(failures=LowestShare(), n_rounds=10)
    search = GridSearchCV(learner, {"failures__share": [0.1, 0.4]}, cv=2).fit(preferences.data, preferences.target)
    shares = [params["failures__share"] for params in search.cv_results_["params"]]
    assert shares == [0.1, 0.4]
    assert search.best_estimator_.failures.share == search.best_params_["failures__share"]


class Nearest(BaseEstimator):
    """The pairs whose difference has the smallest first feature, by the rows that its ``fit`` has seen."""

    def fit(self, X, y, sample_weight=None, *, output_labels=None, seed=None):
        self.size_ = np.abs((X[:, 0] - X[:, 1]) * y[:, None])[:, 0]
        self.seed_, self.sample_weight_ = seed, sample_weight
        return self

    def detect(self, state):
        return self.size_ <= np.quantile(self.size_, 0.2)


@pytest.mark.parametrize("settings", [{}, {"training": "joint"}, {"hidden_layer_sizes": (4,)}], ids=str)
def test_a_detector_with_fit_is_fitted_on_a_clone_before_the_rounds(preferences, settings):
    detector = Nearest()
    learner = FailureAwareIRL(failures=detector, failure_rate=1.0, n_rounds=3, random_state=0, **settings)
    learner.fit(preferences.data, preferences.target)
    assert {row["n_failures"] for row in learner.history_} == {100}
    assert learner.failures is detector
    assert not vars(detector)
