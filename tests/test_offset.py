"""Where the 0 of a reward is: by labels of a few outputs, or by the share of desirable ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairl_sk import (
    FailureAwareIRL,
    LaplaceReward,
    MaxEntropyIRL,
    MaxEntropyIRLCV,
    PairTransformer,
    calibrate_offset,
)
from fairl_sk.pairs import stack_outputs

SEED = {"alpha": 0.01, "random_state": 0}
REWARDS = {
    "plain": MaxEntropyIRL(**SEED),
    "failures": FailureAwareIRL(**SEED),
    "hidden layer": MaxEntropyIRL(hidden_layer_sizes=(4,), n_rounds=30, random_state=0),
    "pipeline": make_pipeline(PairTransformer(StandardScaler()), MaxEntropyIRL(**SEED)),
    "grid": GridSearchCV(make_pipeline(PairTransformer(), MaxEntropyIRL(random_state=0)), {}, cv=2),
    "search": MaxEntropyIRLCV(alpha=[0.1, 0.01], cv=2, random_state=0),
    "laplace": LaplaceReward(MaxEntropyIRL(**SEED)),
}


@pytest.fixture(scope="module", params=REWARDS, name="fitted")
def fit_one(request, preferences):
    return REWARDS[request.param].fit(preferences.data, preferences.target)


def test_only_the_offset_moves(fitted, preferences):
    outputs, labels = stack_outputs(preferences.data), (preferences.reference_reward.ravel() > 0).astype(int)
    before, margins = fitted.decision_function(outputs), fitted.decision_function(preferences.data)
    for told in ({"labels": labels}, {"prior": 0.3}):
        moved = calibrate_offset(fitted, outputs, **told)
        steps = moved.decision_function(outputs) - before
        assert np.ptp(steps) < 1e-9 and abs(steps[0]) > 1e-6
        np.testing.assert_array_equal(moved.decision_function(preferences.data), margins)
        np.testing.assert_array_equal(fitted.decision_function(outputs), before)
    assert (moved.predict(outputs) == moved.classes_[1]).mean() == pytest.approx(0.3)


@given(st.floats(0.02, 0.98))
@settings(max_examples=20, deadline=None)
def test_the_share_above_0_is_the_prior(preferences, prior):
    outputs = stack_outputs(preferences.data)
    model = calibrate_offset(MaxEntropyIRL(**SEED).fit(preferences.data, preferences.target), outputs, prior=prior)
    assert model.predict(outputs).mean() == pytest.approx(prior, abs=1 / len(outputs))


@given(st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_labels_find_the_threshold_that_made_them(threshold, scale):
    rewards = np.random.default_rng(0).normal(size=(4000, 1))
    labels = (rewards[:, 0] + 0.3 * np.random.default_rng(1).logistic(size=4000) > 0).astype(int)
    model = LogisticRegression().fit(rewards, labels)  # of scikit-learn: any linear reward
    model.coef_, model.intercept_ = np.array([[scale]]), np.array([-scale * threshold])
    moved = calibrate_offset(model, rewards, labels)
    assert moved.intercept_[0] / scale == pytest.approx(0, abs=0.05)


def test_labels_of_any_type(preferences):
    outputs, labels = stack_outputs(preferences.data), (preferences.reference_reward.ravel() > 0).astype(int)
    model = MaxEntropyIRL(**SEED).fit(preferences.data, preferences.target)
    named = calibrate_offset(model, outputs, np.array(["bad", "good"])[labels])
    assert named.intercept_ == calibrate_offset(model, outputs, labels).intercept_


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "labels=None and prior=None. Expected one"),
        ({"labels": "labels", "prior": 0.5}, "prior=0.5. Expected one"),
        ({"prior": 1.0}, "prior=1.0. Expected a share"),
        ({"prior": 0}, "prior=0. Expected a share"),
        ({"labels": "none"}, "one class only"),
        ({"labels": "upside down"}, "not higher where labels say desirable"),
        ({"labels": "short"}, "3 labels for 1000 rows"),
        ({"X": "pairs", "prior": 0.5}, "Found pairs.*stack_outputs"),
        ({"X": "constant", "labels": "labels"}, "not higher where"),
    ],
)
def test_bad_input(preferences, change, message):
    labels = (preferences.reference_reward.ravel() > 0).astype(int)
    outputs = stack_outputs(preferences.data)
    known = {"labels": labels, "none": np.zeros(1000, int), "upside down": 1 - labels, "short": labels[:3]}
    rows = {"pairs": preferences.data, "constant": np.zeros_like(outputs)}
    change = dict(change)
    X = rows.get(change.pop("X", None), outputs)
    told = change | ({"labels": known[change["labels"]]} if "labels" in change else {})
    with pytest.raises(ValueError, match=message):
        calibrate_offset(MaxEntropyIRL(**SEED).fit(preferences.data, preferences.target), X, **told)


def test_what_has_no_offset_is_refused(preferences):
    outputs = stack_outputs(preferences.data)
    with pytest.raises(TypeError, match="StandardScaler without intercept_"):
        calibrate_offset(StandardScaler().fit(outputs), outputs, prior=0.5)
