"""The estimators: equalities that must hold, what the reward recovers, and what users get told."""

import pickle
import warnings

import numpy as np
import pytest
import skops.io
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from fairl_sk import ExponentialSchedule, FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL, PairTransformer
from fairl_sk.datasets import make_detox_preferences, make_preferences
from fairl_sk.learning.failures import MarginFailures
from fairl_sk.learning.fitting import separating_threshold
from fairl_sk.metrics import starc_distance
from fairl_sk.pairs import stack_outputs

# Learners that solve the base path; nothing in their fits is random.
SOLVED = {
    "margin": MaxMarginIRL(),
    "entropy": MaxEntropyIRL(),
    "failure-aware": FailureAwareIRL(),
    "failure-aware margin": FailureAwareIRL("max_margin"),
    "by margin": FailureAwareIRL(failures="margin"),
    "pointwise": FailureAwareIRL(pointwise_weight=0.7),
    "pointwise margin": FailureAwareIRL("max_margin", pointwise_weight=0.7),
}
# Learners that Adam trains, at a rate that these few steps need.
FEW = {"n_rounds": 10, "learning_rate": 0.03, "random_state": 0}
TRAINED = {
    "paper": FailureAwareIRL.paper(**FEW),
    "joint": FailureAwareIRL(training="joint", pointwise_weight=0.7, **FEW),
    "both": FailureAwareIRL.paper(failure_gradient="both", **FEW),
    "hidden": FailureAwareIRL(hidden_layer_sizes=(8,), **FEW),
    "hidden margin": FailureAwareIRL("max_margin", hidden_layer_sizes=(8, 4), **FEW),
    "hidden standard": MaxMarginIRL(hidden_layer_sizes=(8,), **FEW),
}
STANDARD = {"max_margin": MaxMarginIRL, "max_entropy": MaxEntropyIRL}


def each(learners):
    return pytest.mark.parametrize("learner", learners.values(), ids=list(learners))


def differences(X):
    return X[:, 0] - X[:, 1]


def outputs_of(preferences):
    """Single outputs with labels, about balanced, with an offset that has to be learned."""
    return stack_outputs(preferences.data) + 0.5, (preferences.reference_reward.ravel() > 0.3).astype(int)


# ------------------------------------------------------------------------------------------------- equalities


@pytest.mark.parametrize("alpha", [1e-2, 1e-4])
def test_max_entropy_is_logistic_regression_on_the_differences(preferences, alpha):
    X, y = preferences.data, preferences.target
    ours = MaxEntropyIRL(alpha=alpha, tol=1e-10).fit(X, y)
    theirs = LogisticRegression(C=1 / (2 * alpha * len(X)), fit_intercept=False, tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(ours.coef_, theirs.fit(differences(X), y).coef_[0], rtol=1e-3)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(differences(X)), atol=1e-4)


@pytest.mark.parametrize("alpha", [1e-2, 1e-3])
def test_max_margin_is_linear_svc_on_the_differences(preferences, alpha):
    X, y = preferences.data, preferences.target
    ours = MaxMarginIRL(alpha=alpha, tol=1e-7, max_iter=5000).fit(X, y)
    theirs = LinearSVC(loss="hinge", C=1 / (2 * alpha * len(X)), fit_intercept=False, tol=1e-7, max_iter=10**6)
    np.testing.assert_allclose(ours.coef_, theirs.fit(differences(X), y).coef_[0], atol=5e-3)


def test_outputs_are_learned_as_by_liblinear_with_its_penalized_intercept(preferences):
    X, y = outputs_of(preferences)
    options = {"C": 1 / (2 * 1e-2 * len(X)), "tol": 1e-8, "max_iter": 10**6}
    theirs = LogisticRegression(solver="liblinear", **options).fit(X, y).coef_[0]
    np.testing.assert_allclose(MaxEntropyIRL(alpha=1e-2, tol=1e-10).fit(X, y).coef_, theirs, atol=1e-3)
    theirs = LinearSVC(loss="hinge", **options).fit(X, y).coef_[0]
    np.testing.assert_allclose(MaxMarginIRL(alpha=1e-2, tol=1e-7, max_iter=5000).fit(X, y).coef_, theirs, atol=5e-3)


@pytest.mark.parametrize("objective", STANDARD)
@pytest.mark.parametrize("heads", [{}, {"hidden_layer_sizes": (8,), "n_rounds": 5}], ids=["linear", "hidden"])
@pytest.mark.parametrize("rows", ["pairs", "outputs"])
def test_without_failures_it_is_the_standard_estimator(preferences, objective, heads, rows):
    X, y = (preferences.data, preferences.target) if rows == "pairs" else outputs_of(preferences)
    standard = STANDARD[objective](random_state=0, **heads).fit(X, y)
    options = {"failure_weight": 0, "pointwise_weight": 0, "recurrence_correlation": 0, "random_state": 0}
    ours = FailureAwareIRL(objective, **options, **heads).fit(X, y)
    np.testing.assert_allclose(ours.decision_function(X), standard.decision_function(X), atol=1e-10)
    assert ours.n_iter_ == standard.n_iter_
    np.testing.assert_equal(ours.dual_gap_, standard.dual_gap_)
    if not heads:  # the base path is the same with failures
        ours.set_params(failure_weight=3.0).fit(X, y)
        np.testing.assert_allclose(ours.base_coef_, standard.coef_, atol=1e-10)
        np.testing.assert_allclose(ours.coef_, ours.base_coef_ + ours.failure_coef_)
        assert np.linalg.norm(ours.failure_coef_) > 0.01 * np.linalg.norm(ours.base_coef_)


@each(SOLVED | TRAINED)
def test_sides_swapped_is_margins_negated(preferences, learner):
    X, y = preferences.data, preferences.target
    fitted = clone(learner).fit(X, y)
    np.testing.assert_array_equal(fitted.decision_function(X[:, ::-1]), -fitted.decision_function(X))
    swapped = clone(learner).fit(X[:, ::-1], 1 - y)
    np.testing.assert_allclose(swapped.decision_function(X), fitted.decision_function(X), atol=1e-5)
    assert swapped.intercept_ == pytest.approx(fitted.intercept_, abs=1e-5)
    if learner.random_state is None:
        first = np.where((y == 1)[:, None, None], X, X[:, ::-1])  # y=None: the first is preferred
        np.testing.assert_allclose(
            clone(learner).fit(first).decision_function(X), fitted.decision_function(X), atol=1e-5
        )


@each(SOLVED)
@pytest.mark.parametrize("rows", ["pairs", "outputs"])
def test_a_row_twice_is_weight_2_and_the_order_of_rows_is_nothing(preferences, learner, rows, rng):
    X, y = (preferences.data, preferences.target) if rows == "pairs" else outputs_of(preferences)
    weight = np.where(np.arange(len(X)) < 200, 2, np.where(np.arange(len(X)) < 250, 0, 1))
    weighted = clone(learner).fit(X, y, sample_weight=weight)
    times = rng.permutation(np.repeat(np.arange(len(X)), weight))
    repeated = clone(learner).fit(X[times], y[times])
    np.testing.assert_allclose(weighted.decision_function(X), repeated.decision_function(X), atol=1e-4)
    assert weighted.intercept_ == pytest.approx(repeated.intercept_, abs=1e-4)
    assert weighted.score(X, y, sample_weight=weight) == pytest.approx(repeated.score(X[times], y[times]))


@each(SOLVED)
def test_nothing_is_random_in_two_stages(preferences, learner):
    X, y = preferences.data, preferences.target
    coefs = [clone(learner).set_params(random_state=seed).fit(X, y).coef_ for seed in (0, 1, None)]
    np.testing.assert_array_equal(coefs[0], coefs[1])
    np.testing.assert_array_equal(coefs[0], coefs[2])


@each(TRAINED)
def test_the_same_seed_gives_the_same_reward_and_leaves_the_global_ones(preferences, learner):
    X, y = preferences.data, preferences.target
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = (clone(learner).set_params(random_state=seed).fit(X, y) for seed in (0, 0, 1))
    assert (torch.get_rng_state() == before[0]).all()
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    np.testing.assert_array_equal(first.decision_function(X), second.decision_function(X))
    assert not np.allclose(first.decision_function(X), other.decision_function(X), rtol=1e-3)


@each(SOLVED)
def test_the_unit_of_the_features_does_not_matter(preferences, learner):
    X, y = preferences.data, preferences.target
    expected = clone(learner).fit(X, y).decision_function(X)
    scaled = clone(learner).set_params(alpha=100 * learner.alpha)
    np.testing.assert_allclose(scaled.fit(10 * X, y).decision_function(10 * X), expected, atol=1e-6)


@each(SOLVED)
def test_a_feature_in_which_no_pair_differs_gets_no_weight(preferences, learner):
    constant = np.concatenate([preferences.data, np.ones((500, 2, 1))], axis=2)
    assert abs(clone(learner).fit(constant, preferences.target).coef_[-1]) < 1e-12


def test_temperature_and_margin_are_the_unit_of_the_reward(preferences):
    X, y = preferences.data, preferences.target
    for factor in (0.5, 3.0):
        options = {"tol": 1e-8, "max_iter": 5000}
        warm = MaxEntropyIRL(temperature=factor, alpha=1e-3 / factor**2, **options).fit(X, y)
        cold = MaxEntropyIRL(alpha=1e-3, **options).fit(X, y)
        np.testing.assert_allclose(warm.coef_, factor * cold.coef_, rtol=1e-2)
        np.testing.assert_allclose(warm.predict_proba(X), cold.predict_proba(X), atol=1e-3)
        wide = MaxMarginIRL(margin=factor, alpha=1e-3 / factor, **options).fit(X, y)
        narrow = MaxMarginIRL(alpha=1e-3, **options).fit(X, y)
        np.testing.assert_allclose(wide.coef_, factor * narrow.coef_, atol=3e-2)


@each(SOLVED)
def test_single_precision_agrees_with_double(preferences, learner):
    X, y = preferences.data, preferences.target
    double = clone(learner).fit(X.astype(np.float64), y).decision_function(X)
    single = clone(learner).fit(X.astype(np.float32), y).decision_function(X.astype(np.float32))
    assert single.dtype == np.float32
    assert np.corrcoef(single, double)[0, 1] > 0.9999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each(SOLVED)
def test_cpu_is_gpu(preferences, learner):
    X, y = preferences.data, preferences.target
    on_gpu = clone(learner).set_params(device="cuda").fit(X, y)
    np.testing.assert_allclose(on_gpu.coef_, clone(learner).fit(X, y).coef_, atol=1e-4)


@pytest.mark.parametrize("n_pairs", [300, 1500, 5000])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_features_moved_by_rounding_move_the_reward_by_rounding(n_pairs, dtype):
    """Pair accuracy on held-out pairs by at most 0.002, coefficients by at most 1e-3 of their length."""
    data = make_detox_preferences(n_pairs, random_state=0)
    features = PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(20, random_state=0)))
    X, train = features.fit_transform(data.data), np.arange(n_pairs) < 0.75 * n_pairs
    rng, accuracies, coefs = np.random.default_rng(0), [], []
    for number in range(21):
        moved = X * (1 + 1e-7 * rng.normal(size=X.shape) * (number > 0))
        fitted = FailureAwareIRL().fit(moved[train].astype(dtype), data.target[train])
        accuracies.append(fitted.score(X[~train].astype(dtype), data.target[~train]))
        coefs.append(fitted.coef_)
    assert np.ptp(accuracies) <= 0.002
    assert np.linalg.norm(coefs - coefs[0], axis=1).max() <= 1e-3 * np.linalg.norm(coefs[0])


# ------------------------------------------------------------------------------------- what the reward recovers


@each(SOLVED)
def test_recovers_a_known_reward(learner):
    data = make_preferences(3000, 10, noise=0.05, random_state=1)
    fitted = clone(learner).fit(data.data, data.target)
    rewards = fitted.decision_function(stack_outputs(data.data))
    assert np.corrcoef(rewards, data.reference_reward.ravel())[0, 1] > 0.98  # the sign too


@pytest.mark.parametrize("learner", [MaxEntropyIRL, FailureAwareIRL])
def test_hidden_layers_learn_what_linear_heads_cannot(rng, learner):
    X = rng.normal(size=(3000, 2, 3))
    reward = np.abs(X[..., 0]) - np.abs(X[..., 1])
    y = (reward[:, 0] > reward[:, 1]).astype(int)
    linear = learner().fit(X[:2000], y[:2000]).score(X[2000:], y[2000:])
    hidden = learner(hidden_layer_sizes=(16,), learning_rate=0.01, random_state=0, n_rounds=40).fit(X[:2000], y[:2000])
    assert linear < 0.6
    assert hidden.score(X[2000:], y[2000:]) > 0.9
    assert not hasattr(hidden, "coef_")
    assert [weight.shape for weight in hidden.base_weights_] == [(16, 3), (16,), (1, 16), (1,)]


def test_with_label_noise_near_ties_find_a_better_reward():
    """Most of what a good reward contradicts is noise then; of near-ties only half."""
    distances = []
    for seed in range(4):
        noisy = make_preferences(2000, 20, noise=0.3, random_state=seed)
        outputs, truth = stack_outputs(noisy.data), noisy.reference_reward.ravel()
        learners = [MaxEntropyIRL(), FailureAwareIRL(failures="margin"), FailureAwareIRL()]
        rewards = [learner.fit(noisy.data, noisy.target).decision_function(outputs) for learner in learners]
        assert min(np.corrcoef(own, truth)[0, 1] for own in rewards) > 0.8
        distances.append([starc_distance(own, truth) for own in rewards])
    standard, by_margin, near_ties = np.mean(distances, axis=0)
    assert near_ties < 0.95 * min(standard, by_margin)


def test_more_failure_weight_moves_the_failure_path_further(preferences):
    learners = [FailureAwareIRL(failure_weight=weight) for weight in (0, 1, 5)]
    norms = [np.linalg.norm(own.fit(preferences.data, preferences.target).failure_coef_) for own in learners]
    assert norms[0] == 0
    assert (np.diff(norms) > 0).all()


def test_alpha_fail_is_alpha_unless_named(preferences):
    X, y = preferences.data, preferences.target
    for settings in ({}, {"hidden_layer_sizes": (4,), "n_rounds": 5}):
        default, same, other = (
            FailureAwareIRL(alpha=0.3, alpha_fail=own, random_state=0, **settings).fit(X, y).decision_function(X)
            for own in (None, 0.3, 1e-3)
        )
        np.testing.assert_array_equal(default, same)
        assert np.abs(default - other).max() > 1e-4


# ----------------------------------------------------------------------------------- prediction and its classes


def test_predictions_agree_with_each_other(preferences):
    X, y = preferences.data, np.where(preferences.target == 1, "the first", "a second")  # "the first" is the larger
    fitted = FailureAwareIRL(temperature=2.0).fit(X, y)
    assert fitted.classes_.tolist() == ["a second", "the first"]
    margins = fitted.decision_function(X)
    np.testing.assert_array_equal(fitted.predict(X), np.where(margins > 0, "the first", "a second"))
    np.testing.assert_allclose(fitted.predict_proba(X)[:, 1], 1 / (1 + np.exp(-margins / 2)))
    rewards = fitted.decision_function(stack_outputs(X)).reshape(-1, 2)
    np.testing.assert_allclose(rewards[:, 0] - rewards[:, 1], margins, atol=1e-10)
    assert fitted.score(X, y) == (fitted.predict(X) == y).mean()
    assert fitted.score(np.where((y == "the first")[:, None, None], X, X[:, ::-1])) == fitted.score(X, y)


@each(SOLVED | TRAINED)
@pytest.mark.parametrize("rows", ["pairs", "outputs"])
def test_0_separates_chosen_from_rejected_best(preferences, learner, rows):
    if rows == "pairs":
        X, y = preferences.data + 100, preferences.target
        good = np.stack([y == 1, y == 0], axis=1).ravel()
    else:
        X, y = outputs_of(preferences)
        good = y == 1
    rewards = clone(learner).fit(X, y).decision_function(stack_outputs(X) if rows == "pairs" else X)
    best = max((rewards[good] > t).mean() + (rewards[~good] <= t).mean() for t in np.unique(rewards))
    assert (rewards[good] > 0).mean() + (rewards[~good] <= 0).mean() == pytest.approx(best)


@pytest.mark.parametrize(
    ("rewards", "positive", "threshold"),
    [
        ([1.0, 3.0], [0, 1], 2.0),
        ([5.0, 5.0], [0, 1], 5.0),
        ([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 0], 0.5),  # the single positive counts as much as all negatives
        (np.arange(6.0), [0, 1, 0, 1, 0, 1], 2.5),  # of several best places the middle one
    ],
)
def test_separating_threshold(rewards, positive, threshold):
    positive = np.array(positive) == 1
    assert separating_threshold(np.array(rewards), positive, np.ones(len(rewards))) == threshold
    ignored = np.append(np.ones(len(rewards)), 0.0)
    assert separating_threshold(np.append(rewards, 9.0), np.append(positive, False), ignored) == threshold


@each(SOLVED)
def test_where_a_label_is_rare(rng, learner):
    """A rare label still lies above 0, as both count one half; calibration makes frequencies of the probabilities."""
    X = rng.normal(size=(4000, 5))
    y = (X[:, 0] + 0.5 * rng.normal(size=4000) > 1.8).astype(int)  # about 5 %
    fitted = clone(learner).fit(X[:2000], y[:2000])
    predicted, test = fitted.predict(X[2000:]), y[2000:]
    assert min(predicted[test == 1].mean(), 1 - predicted[test == 0].mean()) > 0.85
    plain = fitted.predict_proba(X[2000:])[:, 1]
    calibrated = CalibratedClassifierCV(clone(learner)).fit(X[:2000], y[:2000]).predict_proba(X[2000:])[:, 1]
    assert plain.mean() > 3 * y.mean()
    assert calibrated.mean() == pytest.approx(test.mean(), abs=0.01)
    assert brier_score_loss(test, calibrated) < 0.5 * brier_score_loss(test, plain)


def test_failures_of_outputs_with_a_rare_label_do_no_harm(rng):
    X = rng.normal(size=(6000, 30)) * 0.1 + np.eye(30)[0] * 0.4
    reward = X @ rng.normal(size=30)
    y = (reward + 0.15 * rng.normal(size=6000) > np.quantile(reward, 0.85)).astype(int)
    aucs = [
        roc_auc_score(y[3000:], learner.fit(X[:3000], y[:3000]).decision_function(X[3000:]))
        for learner in (MaxEntropyIRL(alpha=1e-4), FailureAwareIRL(alpha=1e-4))
    ]
    assert aucs[1] > aucs[0] - 0.005


# --------------------------------------------------------------------------------------------------- the history


@each(SOLVED | TRAINED)
def test_the_history_has_a_row_a_round(preferences, learner):
    fitted = clone(learner).fit(preferences.data, preferences.target)
    idle = isinstance(learner, MaxMarginIRL | MaxEntropyIRL) and not learner.hidden_layer_sizes
    assert [row["round"] for row in fitted.history_] == list(range(1 if idle else learner.n_rounds))
    table = {name: np.array([row[name] for row in fitted.history_]) for name in fitted.history_[0]}
    assert all(np.isfinite(column).all() for column in table.values())
    assert (table["margin_q05"] <= table["margin_q50"]).all()
    assert (table["margin_q50"] <= table["margin_q95"]).all()
    assert (table["n_sampled"] <= table["n_failures"]).all()
    if learner.random_state is not None:
        assert table["loss_base"][-1] < table["loss_base"][0]
        assert np.isnan(fitted.dual_gap_)
    else:
        assert fitted.dual_gap_ <= 1e-4


def test_margins_of_the_history_are_those_of_the_reward(preferences):
    """Of the last round, whose step moves little."""
    X, y = preferences.data, preferences.target
    fitted = FailureAwareIRL(failure_threshold=0.3, failures="margin").fit(X, y)
    margins, last = fitted.decision_function(X) * np.where(y == 1, 1, -1), fitted.history_[-1]
    assert last["n_failures"] == pytest.approx((margins <= 0.3).sum(), abs=3)
    assert last["margin_q50"] == pytest.approx(np.median(margins), abs=0.02)
    assert last["failure_threshold"] == 0.3


# -------------------------------------------------------------------------------------------------- saving


@each(SOLVED | TRAINED)
def test_a_fitted_estimator_is_plain_arrays(preferences, learner):
    """No tensor, hence no device, in what is saved; and it is small."""
    X = preferences.data
    fitted = clone(learner).fit(X, preferences.target)
    blob, stored = pickle.dumps(fitted), skops.io.dumps(fitted)
    assert b"torch" not in blob
    assert len(blob) < 60_000
    for loaded in (pickle.loads(blob), skops.io.loads(stored, skops.io.get_untrusted_types(data=stored))):
        np.testing.assert_array_equal(loaded.decision_function(X), fitted.decision_function(X))


# ------------------------------------------------------------------------------------ warnings and the progress


@pytest.mark.parametrize(
    ("objective", "name", "reader"),
    [("max_entropy", "margin_fail", "max_margin"), ("max_margin", "temperature_fail", "max_entropy")],
)
def test_a_constraint_that_the_objective_does_not_read_is_warned_of(preferences, objective, name, reader):
    learner = FailureAwareIRL(objective, n_rounds=2, **{name: 0.5 if name == "temperature_fail" else 3.0})
    with pytest.warns(UserWarning, match=f"{name}=.*only objective='{reader}' reads it.*'{objective}'") as caught:
        learner.fit(preferences.data, preferences.target)
    assert [entry.filename for entry in caught] == [__file__]
    learner.set_params(objective=reader).fit(preferences.data, preferences.target)


@pytest.mark.parametrize("learner", STANDARD.values())
def test_a_base_path_that_has_not_converged_says_so(preferences, learner):
    with pytest.warns(ConvergenceWarning, match="after 2 iterations at a duality gap.*Raise max_iter") as caught:
        learner(max_iter=2).fit(preferences.data, preferences.target)
    assert [entry.filename for entry in caught] == [__file__]


def test_a_reward_that_turned_its_sign_is_named():
    """Failures that are all noise, weighted up without measure, turn the reward against its own preferences."""
    noisy = make_preferences(500, 8, noise=0.3, random_state=0)

    class FlippedPairs(MarginFailures):
        def detect(self, state):
            return noisy.flipped

    extreme = FailureAwareIRL(failures=FlippedPairs(), failure_weight=1000, failure_rate=1.0)
    with pytest.warns(UserWarning, match="of its own training pairs.*Lower failure_weight"):
        extreme.fit(noisy.data, noisy.target)


@pytest.mark.parametrize("learner", [FailureAwareIRL(n_rounds=20), TRAINED["hidden"], TRAINED["paper"]])
def test_a_progress_bar_over_the_rounds(preferences, capsys, learner):
    clone(learner).set_params(verbose=1).fit(preferences.data, preferences.target)
    shown = capsys.readouterr().err
    assert "FailureAwareIRL: 100%" in shown
    assert f"{learner.n_rounds}/{learner.n_rounds}" in shown
    clone(learner).fit(preferences.data, preferences.target)
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------ interrupts and bad input


class Interrupt(MarginFailures):
    """A user who presses Ctrl-C in the third round."""

    def detect(self, state):
        if state.index == 2:
            raise KeyboardInterrupt
        return super().detect(state)


@pytest.mark.parametrize("verbose", [0, 1])
@each({"two stages": FailureAwareIRL(), **{name: TRAINED[name] for name in ("paper", "both", "hidden")}})
def test_an_interrupted_fit_leaves_the_estimator_as_it_was(preferences, learner, verbose):
    X, y, threads = preferences.data, preferences.target, torch.get_num_threads()
    fitted = clone(learner).fit(X, y).set_params(failures=Interrupt(), verbose=verbose)
    fresh, expected = clone(fitted), fitted.decision_function(X)
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            fresh.fit(X, y)
        with pytest.raises(NotFittedError):
            fresh.predict(X)
        with pytest.raises(KeyboardInterrupt):
            fitted.fit(X[:, :, :3], y)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(fitted.decision_function(X), expected)


def same(X, y):
    return X, y


ALTERNATING = np.array(["a", "b", None] * 166 + ["a", "b"], dtype=object)
BAD_FITS = {
    "one pair": (lambda X, y: (X[:1], y[:1]), {}, "Found 1 of the pairs.*minimum of 2"),
    "one class": (lambda X, y: (X, np.ones(len(X))), {}, r"one class only in y: 1\.0\. .*make_pairs"),
    "one class with weight": (lambda X, y: (X, y, 1.0 * y), {}, "one class only among the rows whose sample_weight"),
    "three classes": (
        lambda X, y: (X, np.arange(len(X)) % 3 - 1.0),
        {},
        r"Only binary classification.*3 classes, \[-1\.0, 0\.0, 1\.0\].*a tie: .*give each of them twice",
    ),
    "ties": (lambda X, y: (X, np.where(X[:, 0, 0] > 1, 0.5, y)), {}, "found 0.5 in y.*twice.*sample_weight 0.5 each"),
    "soft labels": (lambda X, y: (X, 0.1 + 0.8 * y), {}, "Unknown label type: found 0.1 in y"),
    "None among words": (lambda X, y: (X, ALTERNATING), {}, "None in y, first at row 2.*drop the rows"),
    "None for X": (lambda X, y: (None, y), {}, r"Found X=None. Expected .*\(n_pairs, 2, n_features\)"),
    "four axes": (lambda X, y: (X[..., None], y), {}, r"shape \(500, 2, 8, 1\), with 4 axes.*flatten"),
    "no features": (lambda X, y: (X[:, :, :0], y), {}, r"shape \(500, 2, 0\).*at least one feature"),
    "lengths": (lambda X, y: (X, y[:-1]), {}, "500 pairs in X and 499 labels"),
    "no y for outputs": (lambda X, y: (X[:, 0], None), {}, "requires y to be passed"),
    "identical": (lambda X, y: (np.repeat(X[:, :1], 2, axis=1), y), {}, "identical on both sides"),
    "text": (lambda X, y: (np.full((4, 2), "a"), [0, 1, 0, 1]), {}, "X holds text.*PairTransformer"),
    "nan": (lambda X, y: (np.where(X > 1, np.nan, X), y), {}, "NaN"),
    "too large": (lambda X, y: (X * 1e200, y), {}, "too large"),
    "too small": (lambda X, y: (X * 1e-170, y), {}, "too small .their squares underflow.: scale them"),
    "negative weights": (lambda X, y: (X, y, -np.ones(len(X))), {}, "[Nn]egative"),
    "no weight": (lambda X, y: (X, None, np.zeros(len(X))), {}, "at least one non-zero"),
    "margin_fail": (
        same,
        {"objective": "max_margin", "margin": 2.0, "margin_fail": 2.0},
        "margin_fail=2.0 and margin=2.0.*margin_fail > margin",
    ),
    "temperature_fail": (same, {"temperature_fail": 3.0}, "temperature_fail=3.0 and temperature=1.0"),
    "margin": (same, {"margin": -1.0}, "'margin' parameter.*-1.0"),
    "alpha_fail": (same, {"alpha_fail": -1.0}, "'alpha_fail' parameter"),
    "objective": (same, {"objective": "hinge"}, "'objective' parameter.*'hinge'"),
    "training": (same, {"training": "three_stage"}, "'training' parameter.*'three_stage'"),
    "failures": (same, {"failures": "worst"}, "failures='worst'. Expected one of"),
    "detector class": (same, {"failures": MarginFailures}, "class MarginFailures.*Expected an object"),
    "a number of layers": (same, {"hidden_layer_sizes": 8}, r"hidden_layer_sizes.*8"),
    "empty layer": (same, {"hidden_layer_sizes": (8, 0)}, r"hidden_layer_sizes=\(8, 0\).*at least 1"),
    "half a unit": (same, {"hidden_layer_sizes": (2.5,)}, r"hidden_layer_sizes=\(2.5,\)"),
    "failure gradient": (same, {"failure_gradient": "base"}, "'failure_gradient' parameter.*'base'"),
    "both heads in two stages": (same, {"failure_gradient": "both"}, "moves both heads.*training=.joint"),
    "schedule with nan": (same, {"failure_weight": lambda t: np.nan}, "failure_weight=.*gives nan"),
    "rate above 1": (same, {"failure_rate": 1.5}, "failure_rate=.*1.5"),
    "negative weight of failures": (same, {"failure_weight": -1.0}, "failure_weight"),
    "no labels": (same, {"failures": "labels"}, "needs the labels of the outputs.*output_labels"),
    "shape of labels": (
        lambda X, y: (X, y, None, np.ones(len(X))),
        {"failures": "labels"},
        r"output_labels of shape \(500,\)",
    ),
    "values of labels": (
        lambda X, y: (X, y, None, np.full((len(X), 2), 2)),
        {"failures": "labels"},
        r"Found the labels \[2\] in output_labels.*Expected both 1 .desirable. and 0",
    ),
    "labels of one kind with weight": (
        lambda X, y: (X, y, 1.0 * (np.arange(500) > 0), np.arange(500)[:, None].repeat(2, axis=1) > 0),
        {"failures": "labels"},
        r"Found the labels \[True\] in output_labels .where sample_weight is above 0",
    ),
    "missing labels": (
        lambda X, y: (X, y, None, np.where(X[..., 0] > 1, None, X[..., 1] > 0)),
        {"failures": "labels"},
        "Found the labels .*None.* in output_labels",
    ),
    "diverging": (same, {"learning_rate": 1e200, "training": "joint", "n_rounds": 5}, "The rounds diverged.*Lower"),
    "device": (same, {"device": "gpu"}, "device='gpu'.*'cpu', 'cuda'"),
}


@pytest.mark.parametrize("case", BAD_FITS)
def test_bad_input_is_named_and_changes_nothing(preferences, case):
    arguments, parameters, message = BAD_FITS[case]
    learner = FailureAwareIRL().set_params(**parameters)
    with np.errstate(all="ignore"), pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        learner.fit(*arguments(preferences.data, preferences.target))
    assert not [name for name in vars(learner) if name.endswith("_")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_gpu_that_is_not_there(preferences):
    X, y = preferences.data, preferences.target
    with pytest.raises(ValueError, match="no CUDA device here. Use device='cpu' or 'auto'"):
        MaxMarginIRL(device="cuda").fit(X, y)
    np.testing.assert_array_equal(MaxMarginIRL(device="auto").fit(X, y).coef_, MaxMarginIRL().fit(X, y).coef_)


def test_bad_input_at_prediction(preferences):
    fitted = MaxMarginIRL().fit(preferences.data, preferences.target)
    with pytest.raises(ValueError, match="9 features.*expecting 8"):
        fitted.predict(np.zeros((3, 2, 9)))
    with pytest.raises(ValueError, match="X holds text"):
        fitted.predict([["a", "b"]])
    with pytest.raises(ValueError, match="requires y for outputs"):
        fitted.score(np.zeros((3, 8)))
    with pytest.raises(NotFittedError):
        MaxMarginIRL().decision_function(preferences.data)


def test_small_features_are_not_called_identical(preferences):
    small = MaxEntropyIRL(alpha=0).fit(preferences.data * 1e-130, preferences.target)
    usual = MaxEntropyIRL(alpha=0).fit(preferences.data, preferences.target)
    np.testing.assert_allclose(small.coef_ * 1e-130, usual.coef_, rtol=1e-6)


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("failure_weight__decay", r"failure_weight=None.*pass failure_weight=ExponentialSchedule\(\) first"),
        ("failure_threshold__stop", r"failure_threshold=None.*pass failure_threshold=LinearSchedule\("),
        ("failure_rate__start", r"failure_rate=None.*pass failure_rate=LinearSchedule\("),
        ("failures__share", "failures='near_ties'.*your detector's class"),
    ],
)
def test_parameters_of_what_is_not_there(address, remedy):
    with pytest.raises(ValueError, match=remedy):
        FailureAwareIRL().set_params(**{address: 1.0})
    with pytest.raises(ValueError, match="Invalid parameter 'shape'"):
        FailureAwareIRL().set_params(shape__x=1.0)
    together = FailureAwareIRL().set_params(failure_weight__decay=2.0, failure_weight=ExponentialSchedule())
    assert together.failure_weight.decay == 2.0


def test_fits_do_not_change_schedules(preferences):
    schedule = ExponentialSchedule(3.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner = FailureAwareIRL(failure_weight=schedule).fit(preferences.data, preferences.target)
    assert learner.failure_weight is schedule
    assert schedule.get_params() == {"start": 3.0, "decay": 1.0}
