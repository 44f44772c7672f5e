"""The estimators: equalities that must hold, what the reward recovers, and what users get told."""

import pickle

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
from sklearn.metrics import brier_score_loss
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from fairl_sk import ExponentialSchedule, FailureAwareIRL, LinearSchedule, MaxEntropyIRL, MaxMarginIRL, PairTransformer
from fairl_sk.datasets import make_detox_preferences, make_preferences
from fairl_sk.failures import MarginFailures
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


@each(SOLVED | TRAINED)
def test_the_seed_decides_what_is_random_and_leaves_the_global_ones(preferences, learner):
    X, y = preferences.data, preferences.target
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = (
        clone(learner).set_params(random_state=seed).fit(X, y).decision_function(X) for seed in (0, 0, 1)
    )
    assert (torch.get_rng_state() == before[0]).all()
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    np.testing.assert_array_equal(first, second)
    is_random = learner.random_state is not None  # nothing is in two stages
    assert np.allclose(first, other, rtol=1e-3 * is_random, atol=1e-8 * is_random) != is_random


@each(SOLVED)
def test_the_unit_of_the_features_does_not_matter(preferences, learner):
    X, y = preferences.data, preferences.target
    expected = clone(learner).fit(X, y).decision_function(X)
    scaled = clone(learner).set_params(alpha=100 * learner.alpha)
    np.testing.assert_allclose(scaled.fit(10 * X, y).decision_function(10 * X), expected, atol=1e-6)


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


@each(SOLVED)
def test_a_base_path_that_has_not_converged_says_so(preferences, learner):
    with pytest.warns(ConvergenceWarning, match="after 2 iterations at a duality gap.*Raise max_iter") as caught:
        clone(learner).set_params(max_iter=2).fit(preferences.data, preferences.target)
    assert [entry.filename for entry in caught] == [__file__]


def test_a_reward_that_turned_its_sign_is_named():
    """Failures that are all noise, weighted up without measure, turn the reward against its own preferences."""
    noisy = make_preferences(500, 8, noise=0.3, random_state=0)

    class FlippedPairs(MarginFailures):
        def detect(self, state):
            return noisy.flipped

    extreme = FailureAwareIRL(failures=FlippedPairs(), failure_weight=1000, failure_rate=1.0)
    with pytest.warns(UserWarning, match="of its own training pairs.*Lower failure_weight") as caught:
        extreme.fit(noisy.data, noisy.target)
    assert [entry.filename for entry in caught] == [__file__]


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


ALTERNATING = np.array(["a", "b", None] * 166 + ["a", "b"], dtype=object)
BAD_FITS = {
    "one pair": (lambda X, y: (X[:1], y[:1]), {}, "Found 1 of the pairs.*minimum of 2"),
    "one class": (lambda X, y: (X, np.ones(len(X))), {}, r"one class only in y: 1\.0\. .*make_pairs"),
    "three classes": (
        lambda X, y: (X, np.arange(len(X)) % 3 - 1.0),
        {},
        r"Only binary classification.*3 classes, \[-1\.0, 0\.0, 1\.0\].*a tie: .*give each of them twice",
    ),
    "ties": (lambda X, y: (X, np.where(X[:, 0, 0] > 1, 0.5, y)), {}, "found 0.5 in y.*twice.*sample_weight 0.5 each"),
    "soft labels": (lambda X, y: (X, 0.1 + 0.8 * y), {}, "Unknown label type: found 0.1 in y"),
    "None among words": (lambda X, y: (X, ALTERNATING), {}, "None in y, first at row 2.*drop the rows"),
    "lengths": (lambda X, y: (X, y[:-1]), {}, "500 pairs in X and 499 labels"),
    "no y for outputs": (lambda X, y: (X[:, 0], None), {}, "requires y to be passed"),
    "identical": (lambda X, y: (np.repeat(X[:, :1], 2, axis=1), y), {}, "identical on both sides"),
    "nan": (lambda X, y: (np.where(X > 1, np.nan, X), y), {}, "NaN"),
    "too large": (lambda X, y: (X * 1e200, y), {}, "too large"),
    "too small": (lambda X, y: (X * 1e-170, y), {}, "too small .their squares underflow.: scale them"),
    "negative weights": (lambda X, y: (X, y, -np.ones(len(X))), {}, "[Nn]egative"),
    "no weight": (lambda X, y: (X, None, np.zeros(len(X))), {}, "at least one non-zero"),
    "margin_fail": (
        None,
        {"objective": "max_margin", "margin": 2.0, "margin_fail": 2.0},
        "margin_fail=2.0 and margin=2.0.*margin_fail > margin",
    ),
    "temperature_fail": (None, {"temperature_fail": 3.0}, "temperature_fail=3.0 and temperature=1.0"),
    "objective": (None, {"objective": "hinge"}, "'objective' parameter.*'hinge'"),
    "a number of layers": (None, {"hidden_layer_sizes": 8}, r"hidden_layer_sizes.*8"),
    "empty layer": (None, {"hidden_layer_sizes": (8, 0)}, r"hidden_layer_sizes=\(8, 0\).*at least 1"),
    "both heads in two stages": (None, {"failure_gradient": "both"}, "moves both heads.*training=.joint"),
    "rate above 1": (None, {"failure_rate": 1.5}, "failure_rate=.*1.5"),
    "no labels": (None, {"failures": "labels"}, "needs to know the outputs.*output_labels"),
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
    "diverging": (None, {"learning_rate": 1e200, "training": "joint", "n_rounds": 5}, "The rounds diverged.*Lower"),
    "device": (None, {"device": "gpu"}, "device='gpu'.*'cpu', 'cuda'"),
}


@pytest.mark.parametrize("case", BAD_FITS)
def test_bad_input_is_named_and_changes_nothing(preferences, case):
    arguments, parameters, message = BAD_FITS[case]
    learner = FailureAwareIRL().set_params(**parameters)
    with np.errstate(all="ignore"), pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        learner.fit(*(arguments or (lambda X, y: (X, y)))(preferences.data, preferences.target))
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


# ---------------------------------------------------------------------------------------------------- the paper


@pytest.mark.parametrize("objective", STANDARD)
def test_the_failure_path_takes_gradient_steps_on_its_objective(preferences, objective):
    """Theory, eq. 4 and 5, in NumPy: the base path is solved, then every round is one step on the failures' loss."""
    X, y = preferences.data, preferences.target
    schedule = {"failure_threshold": LinearSchedule(0.2, 0.8), "failure_weight": LinearSchedule(3.0, 1.6)}
    schedule["failure_rate"] = LinearSchedule(0.2, 0.0)
    options = {"alpha_fail": 0.01, "learning_rate": 0.05, "n_rounds": 8, "pointwise_weight": 0}
    fitted = FailureAwareIRL(objective, failures="margin", **schedule, **options).fit(X, y)
    oriented = np.where(y == 1, 1, -1)[:, None] * differences(X)
    scale = np.sqrt((oriented**2).sum(axis=1).mean())
    rows, base, correction = oriented / scale, fitted.base_coef_ * scale, np.zeros(8)
    decay = 2 * 0.01 / scale**2
    for t in range(8):
        margins = rows @ (base + correction)
        failing = margins <= 0.2 + 0.6 * t / 7
        slopes = -1.0 * (margins < 2.0) if objective == "max_margin" else -2 / (1 + np.exp(margins / 0.5))
        weight = 3.0 - 1.4 * t / 7 if t < 7 else 0.0  # in the last round the rate is 0
        gradient = weight * (slopes[failing] @ rows[failing]) / failing.sum() + decay * correction
        assert fitted.history_[t]["n_failures"] == failing.sum()
        correction = correction - 0.05 / (1 + 0.05 * decay) * gradient
    np.testing.assert_allclose(fitted.failure_coef_, correction / scale, rtol=1e-5)


def test_the_settings_of_the_paper(preferences):
    """Algorithm 1: 100 rounds, both heads from a Kaiming-uniform start, failures by margin, sampled at a rate."""
    paper = FailureAwareIRL.paper(random_state=0).fit(preferences.data, preferences.target)
    t = np.arange(100) / 99
    names = ("failure_threshold", "failure_weight", "failure_rate", "n_sampled", "n_failures")
    threshold, weight, rate, sampled, failures = ([row[name] for row in paper.history_] for name in names)
    np.testing.assert_allclose([threshold, weight, rate], [t, 10 * np.exp(-5 * t), 0.2 * (1 - t)], atol=1e-12)
    np.testing.assert_array_equal(sampled, np.minimum(failures, np.floor(500 * np.array(rate) + 1e-6)))
    assert paper.history_[0]["margin_q05"] < 0 < paper.history_[0]["margin_q95"]  # the start is not zero
    assert FailureAwareIRL.paper(margin_fail=3.0).margin_fail == 3.0


def test_failures_move_the_base_head_if_they_are_told_to(preferences):
    """In joint training; else the base head learns what it learns without failures."""
    options = {"failure_rate": 1.0, "n_rounds": 20, "random_state": 0}
    without, apart, both = (
        FailureAwareIRL.paper(failure_weight=weight, failure_gradient=gradient, **options)
        .fit(preferences.data, preferences.target)
        .base_coef_
        for weight, gradient in ((0.0, "failure"), (3.0, "failure"), (3.0, "both"))
    )
    np.testing.assert_allclose(apart, without, rtol=1e-6)
    assert np.linalg.norm(both - without) > 0.05 * np.linalg.norm(without)
