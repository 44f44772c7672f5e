"""Detectors, and a sample that depends on what the pairs are and not on where they stand."""

import numpy as np
import pytest
from fairl_sk.learning.sampling import content_keys, pair_keys, sample_failures
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV

from fairl_sk import FailureAwareIRL, MaxMarginIRL
from fairl_sk.datasets import make_preferences
from fairl_sk.learning.failures import (
    ConfirmedFailures,
    CrossFittedFailures,
    DisagreementFailures,
    FewLabelFailures,
    LabelFailures,
    MarginFailures,
    NearTieFailures,
    NoiseAwareFailures,
    OutputSignFailures,
    Round,
    _bradley_terry,
    _DistinctPairs,
    find_failures,
)


def a_round(margins, rewards=None, labels=None, threshold=0.0):
    return Round(0, 0.0, threshold, np.asarray(margins, dtype=float), lambda: np.asarray(rewards), labels)


def test_failures_by_margin_are_at_or_below_the_threshold():
    state = a_round([-1.0, 0.5, 0.5000001, 2.0], threshold=0.5)
    assert MarginFailures().detect(state).tolist() == [True, True, False, False]


def test_near_ties_are_within_the_threshold_either_way_round():
    state = a_round([-2.0, -0.5000001, -0.5, 0.0, 0.5, 0.5000001], threshold=0.5)
    assert NearTieFailures().detect(state).tolist() == [False, False, True, True, True, False]


def test_failures_by_label_have_an_output_on_the_wrong_side():
    rewards = [[1.0, -1.0], [1.0, 1.0], [-1.0, -2.0], [1.0, 2.0]]
    labels = np.array([[1, 0], [1, 0], [1, 0], [1, 1]])
    assert LabelFailures().detect(a_round(np.zeros(4), rewards, labels)).tolist() == [False, True, True, False]


def test_confirmed_failures_are_failures_by_margin_of_which_the_labels_agree_with_the_preference():
    labels = np.array([[1, 0], [1, 0], [1, 1], [0, 0], [0, 1]])
    state = a_round([0.5, 0.6, -1.0, -1.0, -1.0], labels=labels, threshold=0.5)
    assert ConfirmedFailures().detect(state).tolist() == [True, False, False, False, False]


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_keys_follow_the_content(rng, dtype):
    rows = rng.normal(size=(1000, 5)).astype(dtype)
    rows[0, 0], rows[1] = 0.0, rows[0]
    rows[1, 0] = -0.0
    keys = content_keys(rows, 3)
    order = rng.permutation(1000)
    np.testing.assert_array_equal(content_keys(rows[order], 3), keys[order])
    assert len(np.unique(keys)) == 999  # rows 0 and 1 are equal, no others are
    assert not np.isin(content_keys(rows, 4), keys).any()


def test_the_opposite_of_a_pair_is_the_pair_with_the_other_side_preferred(rng):
    X = rng.normal(size=(6, 2, 3))
    sign = np.array([1.0, -1, 1, -1, 1, -1])
    keys, opposite = pair_keys(X, sign, 0)
    turned, back = pair_keys(X[:, ::-1], -sign, 0)
    np.testing.assert_array_equal((turned, back), (keys, opposite))
    np.testing.assert_array_equal(pair_keys(X, -sign, 0), (opposite, keys))
    moved, _ = pair_keys(X + 1.0, sign, 0)  # equal differences, other outputs
    assert not np.isin(moved, keys).any()
    outputs, _ = pair_keys(np.repeat(X[:1, 0], 2, axis=0), np.array([1.0, -1]), 0)
    assert outputs[0] != outputs[1]


@given(st.integers(1, 40), st.integers(0, 5), st.floats(0, 1), st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_a_sample_keeps_to_failures_and_budget(n, index, rate, weights):
    rng = np.random.default_rng(n)
    keys = content_keys(rng.normal(size=(n, 3)), 0)
    weight = np.array(weights[:n], dtype=float)
    failures = (rng.random(n) < 0.5).astype(float)
    sample = sample_failures(failures, keys, index, weight, rate * weight.sum())
    assert weight[sample].sum() <= rate * weight.sum() * (1 + 1e-9)
    assert (failures[sample] > 0).all()
    assert (weight[sample] > 0).all()


def test_copies_stand_and_fall_together():
    rows = np.random.default_rng(0).normal(size=(30, 2))
    keys = content_keys(np.concatenate([rows, rows]), 0)
    weighted = sample_failures(np.ones(30), keys[:30], 2, np.full(30, 2.0), 21.0)
    copied = sample_failures(np.ones(60), keys, 2, np.ones(60), 21.0)
    assert sorted(copied) == sorted([*weighted, *(weighted + 30)])
    assert len(weighted) == 10


def test_each_round_draws_anew_and_all_pairs_alike():
    keys = content_keys(np.random.default_rng(0).normal(size=(200, 2)), 0)
    drawn = np.zeros(200)
    for index in range(400):
        drawn[sample_failures(np.ones(200), keys, index, np.ones(200), 50.0)] += 1
    assert 60 < drawn.min()  # 100 expected, standard deviation 8.7
    assert drawn.max() < 140


# ----------------------------------------------------------------------------- detectors that look at the pairs

FITTED = [CrossFittedFailures(), DisagreementFailures(), NoiseAwareFailures()]
by_name = pytest.mark.parametrize("detector", FITTED, ids=lambda detector: type(detector).__name__)


def noisy(noise=0.3, n_pairs=400, n_features=5, **settings):
    return make_preferences(n_pairs, n_features, noise=noise, random_state=0, **settings)


def learned(detector):
    """Everything that a fit of a detector has learned, by name."""
    return {name: value for name, value in vars(detector).items() if name.endswith("_")}


def test_failures_by_sign_have_an_output_on_the_wrong_side_of_0():
    rewards = [[1.0, -1.0], [1.0, 0.5], [-0.5, -2.0], [0.0, -1.0], [1.0, 0.0]]
    found = OutputSignFailures().detect(a_round(np.zeros(5), rewards))
    assert found.tolist() == [False, True, True, True, False]
    of_outputs = a_round([1.0, -2.0], [[1.0], [2.0]])  # the second is undesirable
    assert OutputSignFailures().detect(of_outputs).tolist() == [False, True]


def test_a_pair_that_a_held_out_reward_gets_right_was_merely_not_memorised():
    data = noisy(0.1)
    detector = CrossFittedFailures().fit(data.data, data.target)
    assert (detector.margins_[data.flipped] < 0).mean() > 0.9
    assert (detector.margins_[~data.flipped] > 0).mean() > 0.9
    found = detector.detect(a_round(np.full(400, -1.0)))
    np.testing.assert_array_equal(found, detector.margins_ <= 0)
    assert not detector.detect(a_round(np.full(400, 1.0))).any()


def test_held_out_margins_have_not_seen_the_pair():
    """Of pairs that are all noise, a fit orders its own as preferred, and a held-out one half of them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2, 100))
    detector = CrossFittedFailures(alpha=1e-4).fit(X)
    weights = _bradley_terry(X[:, 0] - X[:, 1], np.full((400, 1), 1 / 400), 1e-4)
    assert ((X[:, 0] - X[:, 1]) @ weights > 0).mean() > 0.7
    assert 0.4 < (detector.margins_ > 0).mean() < 0.6


def test_the_held_out_reward_is_that_of_logistic_regression(rng):
    D, y = rng.normal(size=(300, 4)), rng.integers(0, 2, 300) * 2 - 1
    D[:, 0] += y
    theirs = LogisticRegression(C=1 / (2 * 0.01 * 300), fit_intercept=False, tol=1e-8).fit(D, y).coef_[0]
    ours = _bradley_terry(D * y[:, None], np.full((300, 1), 1 / 300), 0.01)[:, 0]
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_folds_never_part_what_shares_an_output_or_a_group(rng):
    X = rng.normal(size=(60, 2, 3))
    X[1, 0], X[2, 1] = X[0, 1], X[1, 1]  # pairs 0, 1 and 2 are chained
    X[4] = X[3, ::-1]
    pairs = _DistinctPairs(X, np.ones(60), np.ones(60), CrossFittedFailures()._links(X, None, 0), 0)
    fold = pairs._folds(5)[pairs.inverse]
    assert fold[0] == fold[1] == fold[2] and fold[3] == fold[4]
    assert set(np.bincount(fold)) <= set(range(9, 17))
    groups = np.repeat(np.arange(6), 10)
    pairs = _DistinctPairs(X, np.ones(60), np.ones(60), CrossFittedFailures()._links(X, groups, 0), 0)
    fold = pairs._folds(3)[pairs.inverse]
    assert all(len(set(fold[groups == group])) == 1 for group in range(6))


def test_disagreement_finds_near_ties_and_not_what_is_confidently_contradicted():
    data = noisy(0.1)
    detector = DisagreementFailures().fit(data.data, data.target)
    size = np.abs(np.subtract(*data.reference_reward.T))
    assert size[detector.uncertain_].mean() < size[~detector.uncertain_].mean() / 3
    contradicted = data.flipped & (size > 1.0)
    assert contradicted.sum() > 20 and detector.uncertain_[contradicted].mean() < 0.05
    state = a_round(np.where(np.arange(400) < 200, -1.0, 1.0))
    np.testing.assert_array_equal(np.flatnonzero(detector.detect(state)), np.flatnonzero(detector.uncertain_[:200]))
    fewer = DisagreementFailures(n_std=0.5).fit(data.data, data.target)
    assert fewer.uncertain_.sum() < detector.uncertain_.sum()


@pytest.mark.parametrize("noise, auc", [(0.1, 0.97), (0.2, 0.95), (0.3, 0.92), (0.4, 0.85)])
def test_flipped_preferences_are_found(noise, auc):
    data = make_preferences(2000, 20, noise=noise, random_state=1)
    detector = NoiseAwareFailures().fit(data.data, data.target)
    probability = detector.noise_probability_
    assert roc_auc_score(data.flipped, probability) > auc
    assert detector.noise_rate_ == pytest.approx(noise, abs=0.05)
    assert probability.mean() == pytest.approx(noise, abs=0.05)  # they are probabilities
    sure = probability > 0.8
    assert data.flipped[sure].mean() == pytest.approx(probability[sure].mean(), abs=0.06)


def test_improbable_preferences_are_not_flips():
    """Bradley-Terry preferences contradict the reward where outputs are close: no noise beyond the reward's own."""
    data = make_preferences(2000, 20, temperature=1.0, random_state=0)
    detector = NoiseAwareFailures().fit(data.data, data.target)
    assert detector.noise_rate_ < 0.03
    assert (detector.noise_probability_ > 0.5).mean() < 0.02


def test_the_noise_aware_detector_leaves_noise_out_and_counts_the_undecided_most():
    data = noisy(0.2)
    detector = NoiseAwareFailures(confidence=0.6).fit(data.data, data.target)
    weights = detector.detect(a_round(np.full(400, -1.0)))
    suspected = detector.noise_probability_ > 0.6
    assert suspected.sum() > 40 and not weights[suspected].any()
    assert (weights[~suspected] > 0).all() and weights.max() <= 1
    size = np.abs(np.subtract(*data.reference_reward.T))
    assert weights[~suspected & (size < 0.2)].mean() > 3 * weights[~suspected & (size > 1)].mean()
    assert not detector.detect(a_round(np.full(400, 1.0))).any()
    nothing_is_noise = NoiseAwareFailures(confidence=1.0).fit(data.data, data.target)
    assert (nothing_is_noise.detect(a_round(-np.ones(400))) > 0).all()


def test_weights_less_the_noise_probability_make_a_better_reward():
    data = make_preferences(2000, 20, noise=0.3, random_state=2)
    truth = data.reference_reward[:, 0] > data.reference_reward[:, 1]
    weights = 1 - NoiseAwareFailures().fit(data.data, data.target).noise_probability_
    reward = MaxMarginIRL(alpha=0.01, random_state=0)
    plain = (reward.fit(data.data, data.target).predict(data.data) == truth).mean()
    weighted = (reward.fit(data.data, data.target, sample_weight=weights).predict(data.data) == truth).mean()
    assert weighted > plain


@by_name
def test_neither_the_order_of_the_rows_nor_of_the_sides_matters(detector, rng):
    data = noisy(0.2)
    weight = rng.integers(1, 4, 400).astype(float)
    first = learned(clone(detector).fit(data.data, data.target, weight, seed=3))
    order, swapped = rng.permutation(400), rng.random(400) < 0.5
    X = np.where(swapped[:, None, None], data.data[:, ::-1], data.data)
    y = np.where(swapped, 1 - data.target, data.target)
    moved = learned(clone(detector).fit(X[order], y[order], weight[order], seed=3))
    for name, value in first.items():
        np.testing.assert_array_equal(moved[name], value[order] if np.ndim(value) else value, err_msg=name)


@by_name
def test_a_weight_is_a_number_of_copies_and_none_is_absence(detector):
    data = noisy(0.2, n_pairs=120)
    weight = np.r_[np.full(20, 2.0), np.ones(80), np.zeros(20)]
    rows = np.r_[np.arange(20), np.arange(100)]
    weighted = learned(clone(detector).fit(data.data, data.target, weight))
    copied = learned(clone(detector).fit(data.data[rows], data.target[rows]))
    for name, value in weighted.items():
        if np.ndim(value):
            np.testing.assert_allclose(copied[name][20:], value[:100], rtol=1e-4, atol=1e-4, err_msg=name)


@by_name
def test_a_seed_is_a_result(detector):
    data = noisy(0.2)
    first, again, other = (clone(detector).fit(data.data, data.target, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.margins_, again.margins_)
    assert (first.margins_ != other.margins_).all()


@by_name
@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
def test_estimators_take_detectors_that_are_fitted(detector, objective):
    data = noisy(0.2)
    order = np.random.default_rng(1).permutation(400)
    reward = FailureAwareIRL(objective, failures=detector, alpha=0.01, random_state=0)
    first = clone(reward).fit(data.data, data.target)
    again = clone(reward).fit(data.data[order][:, ::-1], 1 - data.target[order])
    np.testing.assert_allclose(again.coef_, first.coef_, rtol=1e-6, atol=1e-8)
    assert not learned(first.failures)  # it was fitted on a clone
    assert (first.failure_coef_ != 0).any()
    plain = clone(reward).set_params(failures="margin").fit(data.data, data.target)
    early, plainly = (sum(row["n_failures"] for row in fit.history_[:2]) for fit in (first, plain))
    assert early < plainly  # before the two take different ways


def test_hidden_layers_take_detectors_that_are_fitted():
    data = noisy(0.1, n_pairs=100)
    reward = FailureAwareIRL(failures=NoiseAwareFailures(), hidden_layer_sizes=(4,), max_iter=5, random_state=0)
    assert reward.fit(data.data, data.target).n_iter_ == 5


def few_labels(data, n_labelled=50):
    labels = np.where(data.reference_reward > 0, 1.0, 0.0)
    labels[n_labelled:] = np.nan
    return labels


def test_few_labels_tell_which_pairs_inform():
    data = noisy(0.1)
    labels = few_labels(data)
    detector = FewLabelFailures().fit(data.data, data.target, output_labels=labels)
    np.testing.assert_array_equal(detector.desirability_[:50], labels[:50])
    chosen = np.where(data.target[:, None] == 1, data.reference_reward, data.reference_reward[:, ::-1])
    informative = detector.informative_
    assert informative.sum() > 40
    assert ((chosen[:, 0] > 0) & (chosen[:, 1] < 0))[informative].mean() > 0.9
    found = detector.detect(a_round(np.where(np.arange(400) < 200, -1.0, 1.0)))
    np.testing.assert_array_equal(np.flatnonzero(found), np.flatnonzero(informative[:200]))


def test_few_labels_do_not_depend_on_the_order_of_rows_and_sides(rng):
    data = noisy(0.1)
    labels, order = few_labels(data), rng.permutation(400)
    first = FewLabelFailures().fit(data.data, data.target, output_labels=labels)
    moved = FewLabelFailures().fit(data.data[order, ::-1], 1 - data.target[order], output_labels=labels[order, ::-1])
    np.testing.assert_allclose(moved.desirability_, first.desirability_[order, ::-1], atol=1e-6)
    np.testing.assert_array_equal(moved.informative_, first.informative_[order])


def test_an_estimator_passes_few_labels_on_and_others_still_refuse_them():
    data = noisy(0.1)
    labels = few_labels(data)
    reward = FailureAwareIRL(failures=FewLabelFailures(), alpha=0.01, random_state=0)
    reward.fit(data.data, data.target, output_labels=labels)
    plain = FailureAwareIRL(failure_weight=0, alpha=0.01, random_state=0).fit(data.data, data.target)
    assert 0 < reward.history_[0]["n_failures"] < plain.history_[0]["n_failures"]
    with pytest.raises(ValueError, match="Found the label nan in output_labels"):
        reward.set_params(failures=ConfirmedFailures()).fit(data.data, data.target, output_labels=labels)
    with pytest.raises(ValueError, match="NaN = unknown, to fit"):
        reward.set_params(failures=FewLabelFailures()).fit(data.data, data.target)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda labels: None, "Found output_labels of shape"),
        (lambda labels: labels[:10], r"Found output_labels of shape \(10, 2\)"),
        (lambda labels: labels + 1, "Found labels other than 1"),
        (lambda labels: np.where(labels == 1, 1, np.nan), "Found 0 outputs with the label 0 among"),
        (lambda labels: np.where(np.arange(400)[:, None] < 3, labels, np.nan), "Expected at least 5 of 1"),
    ],
)
def test_labels_that_do_not_do_are_refused(change, message):
    data = noisy(0.1)
    with pytest.raises(ValueError, match=message):
        FewLabelFailures().fit(data.data, data.target, output_labels=change(few_labels(data)))


@by_name
def test_pairs_that_cannot_be_cross_fitted_are_refused(detector, rng):
    X = rng.normal(size=(4, 2, 3))
    with pytest.raises(ValueError, match="Found 4 sets of pairs to part into cv=5 folds.*lower cv"):
        clone(detector).fit(X)
    chained = rng.normal(size=(40, 2, 3))
    chained[:, 1] = chained[0, 1]  # one stock answer
    with pytest.raises(ValueError, match="Found 1 sets of pairs.*together='pairs'"):
        clone(detector).fit(chained)
    assert clone(detector).set_params(together="pairs").fit(chained).margins_.shape == (40,)
    with pytest.raises(ValueError, match=r"Found X of shape \(4, 3\), single outputs"):
        clone(detector).fit(X[:, 0], [0, 1, 0, 1])
    with pytest.raises(ValueError, match="'cv' parameter"):
        clone(detector).set_params(cv=1).fit(X)
    with pytest.raises(ValueError, match="Found groups of shape"):
        clone(detector).fit(X, groups=[1, 2])
    with pytest.raises(ValueError, match="at least one non-zero"):
        clone(detector).fit(X, sample_weight=np.zeros(4))
    with pytest.raises(ValueError, match="single outputs"):
        FailureAwareIRL(failures=detector).fit(rng.normal(size=(20, 3)), np.arange(20) % 2)


@by_name
def test_a_round_of_other_pairs_is_refused(detector):
    with pytest.raises(NotFittedError):
        clone(detector).detect(a_round(np.zeros(3)))
    data = noisy(0.1, n_pairs=100)
    with pytest.raises(ValueError, match="fitted on 100 pairs, and the round has 3"):
        clone(detector).fit(data.data, data.target).detect(a_round(np.zeros(3)))


@pytest.mark.parametrize("detector", [*FITTED, FewLabelFailures(), OutputSignFailures()], ids=repr)
def test_detectors_are_estimators_in_their_parameters(detector):
    params = detector.get_params()
    assert clone(detector).get_params() == params
    assert type(detector)(**params).get_params() == params


def test_a_grid_reaches_the_detector_s_parameters():
    data = noisy(0.2, n_pairs=150)
    reward = FailureAwareIRL(failures=NoiseAwareFailures(n_members=2), max_iter=10, alpha=0.1, random_state=0)
    search = GridSearchCV(reward, {"failures__confidence": [0.3, 1.0]}, cv=2).fit(data.data, data.target)
    assert [params["failures__confidence"] for params in search.cv_results_["params"]] == [0.3, 1.0]
