"""The estimators: equalities that must hold, recovery of known rewards, and what users get told."""

import pickle
import warnings

import numpy as np
import pytest
import skops.io
import torch
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.svm import LinearSVC

from fairl_sk import ExponentialSchedule, FailureAwareIRL, LinearSchedule, MaxEntropyIRL, MaxMarginIRL
from fairl_sk.datasets import make_preferences
from fairl_sk.learning.estimators import separating_threshold
from fairl_sk.learning.failures import MarginFailures, NearTieFailures
from fairl_sk.learning.net import Curriculum
from fairl_sk.metrics import starc_distance
from fairl_sk.pairs import stack_outputs

ALL = [
    MaxMarginIRL(random_state=0),
    MaxEntropyIRL(random_state=0),
    FailureAwareIRL(random_state=0),
    FailureAwareIRL("max_entropy", random_state=0),
    FailureAwareIRL(pointwise_weight=0.7, random_state=0),
    FailureAwareIRL("max_entropy", pointwise_weight=0.7, random_state=0),
    FailureAwareIRL("max_margin", failure_gradient="both", pointwise_weight=1.0, random_state=0),
    FailureAwareIRL("max_entropy", failure_gradient="both", pointwise_weight=0, random_state=0),
]
NAMES = ["margin", "entropy", "fa-margin", "fa-entropy", "pointwise-margin", "pointwise-entropy"]
NAMES += ["both-margin", "both-entropy"]
every_learner = pytest.mark.parametrize("learner", ALL, ids=NAMES)
HIDDEN = {"hidden_layer_sizes": (8,), "max_iter": 5}
# What is neither two linear heads nor two alike that failures move one of.
FORMS = {
    "hidden failure head": {"failure_hidden_layer_sizes": (8, 4)},
    "hidden failure head, both": {"failure_hidden_layer_sizes": (8,), "failure_gradient": "both"},
    "linear failure head": {"hidden_layer_sizes": (8,), "failure_hidden_layer_sizes": (), "max_iter": 5},
    "two sizes": {"hidden_layer_sizes": (8,), "failure_hidden_layer_sizes": (4,), "max_iter": 5},
    "hidden, both": {"hidden_layer_sizes": (8,), "failure_gradient": "both", "max_iter": 5},
    "linear, both": {"failure_gradient": "both"},
    "batches, both": {"batch_size": 50, "failure_gradient": "both", "max_iter": 5},
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def differences(X):
    return X[:, 0] - X[:, 1]


# ------------------------------------------------------------------------------------------------- equalities


@pytest.mark.parametrize("alpha", [1e-2, 1e-3, 1e-4])
def test_max_entropy_is_logistic_regression_on_the_differences(preferences, alpha):
    X, y = preferences.data, preferences.target
    ours = MaxEntropyIRL(alpha=alpha, tol=1e-9, random_state=0).fit(X, y)
    theirs = LogisticRegression(C=1 / (2 * alpha * len(X)), fit_intercept=False, tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(ours.coef_, theirs.fit(differences(X), y).coef_[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(differences(X)), atol=1e-5)


@pytest.mark.parametrize("alpha", [1e-2, 1e-3])
def test_max_margin_is_linear_svc_on_the_differences(preferences, alpha):
    X, y = preferences.data, preferences.target
    ours = MaxMarginIRL(alpha=alpha, tol=1e-7, max_iter=1000, random_state=0).fit(X, y)
    theirs = LinearSVC(loss="hinge", C=1 / (2 * alpha * len(X)), fit_intercept=False, tol=1e-7, max_iter=10**6)
    np.testing.assert_allclose(ours.coef_, theirs.fit(differences(X), y).coef_[0], atol=2e-3)

    def objective(coef):
        return np.maximum(0, 1 - np.where(y == 1, 1, -1) * (differences(X) @ coef)).mean() + alpha * coef @ coef

    assert objective(ours.coef_) <= objective(theirs.coef_[0]) * (1 + 1e-5)


def test_temperature_and_margin_set_the_unit(preferences):
    X, y = preferences.data, preferences.target
    options = {"tol": 1e-9, "random_state": 0, "max_iter": 500}
    warm = MaxEntropyIRL(temperature=3.0, alpha=1e-3 / 9, **options).fit(X, y)
    cold = MaxEntropyIRL(temperature=1.0, alpha=1e-3, **options).fit(X, y)
    np.testing.assert_allclose(warm.coef_, 3 * cold.coef_, rtol=1e-3)
    np.testing.assert_allclose(warm.predict_proba(X), cold.predict_proba(X), atol=1e-4)
    options["tol"] = 1e-6
    wide = MaxMarginIRL(margin=3.0, alpha=1e-3 / 3, **options).fit(X, y)
    narrow = MaxMarginIRL(margin=1.0, alpha=1e-3, **options).fit(X, y)
    np.testing.assert_allclose(wide.coef_, 3 * narrow.coef_, atol=3e-2)


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
@pytest.mark.parametrize("heads", [{}, HIDDEN], ids=["linear", "hidden"])
def test_failure_weight_0_of_pairs_alone_is_the_standard_estimator(preferences, objective, heads):
    X, y = preferences.data, preferences.target
    standard = {"max_margin": MaxMarginIRL, "max_entropy": MaxEntropyIRL}[objective](random_state=0, **heads)
    ours = FailureAwareIRL(objective, failure_weight=0, pointwise_weight=0, random_state=0, **heads)
    np.testing.assert_array_equal(ours.fit(X, y).decision_function(X), standard.fit(X, y).decision_function(X))
    assert ours.n_iter_ == standard.n_iter_
    assert ours.intercept_ == standard.intercept_


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
def test_the_base_path_of_the_failure_aware_learner_is_the_standard_learner(preferences, objective):
    X, y = preferences.data, preferences.target
    standard = {"max_margin": MaxMarginIRL, "max_entropy": MaxEntropyIRL}[objective](random_state=0).fit(X, y)
    ours = FailureAwareIRL(objective, pointwise_weight=0, random_state=0).fit(X, y)
    np.testing.assert_allclose(ours.base_coef_, standard.coef_, atol=1e-12)
    np.testing.assert_allclose(ours.coef_, ours.base_coef_ + ours.failure_coef_)
    assert np.linalg.norm(ours.failure_coef_) > 0.01 * np.linalg.norm(ours.base_coef_)


@every_learner
@pytest.mark.parametrize("heads", [{}, HIDDEN], ids=["linear", "hidden"])
def test_sides_swapped_is_margins_negated(preferences, learner, heads):
    X, y = preferences.data, preferences.target
    fitted = clone(learner).set_params(**heads).fit(X, y)
    np.testing.assert_array_equal(fitted.decision_function(X[:, ::-1]), -fitted.decision_function(X))
    swapped = clone(fitted).fit(X[:, ::-1], 1 - y)
    np.testing.assert_allclose(swapped.decision_function(X), fitted.decision_function(X), atol=1e-10)
    assert swapped.intercept_ == pytest.approx(fitted.intercept_, abs=1e-10)


@every_learner
@pytest.mark.parametrize("rows", ["pairs", "outputs"])
def test_a_row_twice_is_weight_2(preferences, learner, rows):
    X, y = (preferences.data, preferences.target) if rows == "pairs" else outputs_of(preferences)
    weight = np.where(np.arange(len(X)) < 200, 2.0, np.where(np.arange(len(X)) < 250, 0.0, 1.0))
    weighted = clone(learner).fit(X, y, sample_weight=weight)
    times = np.repeat(np.arange(len(X)), weight.astype(int))
    repeated = clone(learner).fit(X[times], y[times])
    np.testing.assert_allclose(weighted.decision_function(X), repeated.decision_function(X), atol=1e-8)
    assert weighted.intercept_ == pytest.approx(repeated.intercept_, abs=1e-8)
    assert weighted.score(X, y, sample_weight=weight) == pytest.approx(repeated.score(X[times], y[times]))
    assert weighted.score(X, y, sample_weight=weight) != weighted.score(X, y)


@every_learner
def test_order_of_the_rows_does_not_matter(preferences, learner, rng):
    X, y = preferences.data, preferences.target
    order = rng.permutation(len(X))
    expected = clone(learner).fit(X, y)
    permuted = clone(learner).fit(X[order], y[order])
    np.testing.assert_allclose(permuted.coef_, expected.coef_, atol=1e-8)


@every_learner
@pytest.mark.parametrize("heads", [{}, HIDDEN], ids=["linear", "hidden"])
def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_ones(preferences, learner, heads):
    X, y = preferences.data, preferences.target
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state().numpy().copy(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = clone(learner).set_params(**heads).fit(X, y)
    assert (torch.get_rng_state().numpy() == before[0]).all()
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    torch.manual_seed(2)
    second = clone(first).fit(X, y)
    np.testing.assert_array_equal(first.decision_function(X), second.decision_function(X))
    if heads or isinstance(learner, FailureAwareIRL):
        other = clone(first).set_params(random_state=1).fit(X, y)
        assert not np.array_equal(first.decision_function(X), other.decision_function(X))


@every_learner
def test_a_feature_in_which_no_pair_differs_gets_no_weight(preferences, learner):
    X = np.concatenate([preferences.data, np.ones((500, 2, 1))], axis=2)
    fitted = clone(learner).fit(X, preferences.target)
    assert fitted.coef_[-1] == 0
    np.testing.assert_allclose(
        fitted.coef_[:-1], clone(learner).fit(preferences.data, preferences.target).coef_, atol=0.05
    )


@every_learner
def test_scale_of_the_features_does_not_matter(preferences, learner):
    X, y = preferences.data, preferences.target
    parameters = {name: value for name, value in learner.get_params().items() if name.startswith("alpha")}
    scaled = clone(learner).set_params(**{name: value and value * 100 for name, value in parameters.items()})
    expected = clone(learner)
    if isinstance(learner, FailureAwareIRL):  # all failures: a sample goes by content, which scaling changes
        for fitted in (scaled, expected):
            fitted.set_params(failure_rate=1.0)
    expected = expected.fit(X, y).decision_function(X)
    np.testing.assert_allclose(scaled.fit(10 * X, y).decision_function(10 * X), expected, atol=1e-8)


@every_learner
def test_float32_agrees_with_float64(preferences, learner):
    X, y = preferences.data, preferences.target
    double = clone(learner).fit(X.astype(np.float64), y)
    single = clone(learner).fit(X.astype(np.float32), y)
    assert single.decision_function(X.astype(np.float32)).dtype == np.float32
    correlation = np.corrcoef(single.decision_function(X), double.decision_function(X))[0, 1]
    assert correlation > 0.998  # failures are sampled by the bits of the rows


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_learner
def test_cpu_is_gpu(preferences, learner):
    X, y = preferences.data, preferences.target
    on_gpu = clone(learner).set_params(device="cuda").fit(X, y)
    np.testing.assert_allclose(on_gpu.coef_, clone(learner).fit(X, y).coef_, atol=1e-6)


def outputs_of(preferences):
    """Single outputs with labels, about balanced but with an offset that has to be learned."""
    X = stack_outputs(preferences.data) + 0.5
    return X, (preferences.reference_reward.ravel() > 0.3).astype(int)


@pytest.mark.parametrize("alpha", [1e-2, 1e-3])
def test_outputs_are_liblinear_with_its_penalised_intercept(preferences, alpha):
    X, y = outputs_of(preferences)
    C = 1 / (2 * alpha * len(X))
    ours = MaxEntropyIRL(alpha=alpha, tol=1e-9, random_state=0).fit(X, y)
    theirs = LogisticRegression(C=C, solver="liblinear", tol=1e-10, max_iter=10**4).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_[0], atol=1e-4)
    ours = MaxMarginIRL(alpha=alpha, tol=1e-7, max_iter=2000, random_state=0).fit(X, y)
    theirs = LinearSVC(loss="hinge", C=C, tol=1e-7, max_iter=10**6).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_[0], atol=5e-3)


@every_learner
def test_rare_desirable_outputs_still_lie_above_0(rng, learner):
    """Where one label is rare, a learned bias calls everything undesirable; the offset counts both one half."""
    X = rng.normal(size=(2000, 5))
    y = (X[:, 0] + 0.5 * rng.normal(size=2000) > 1.8).astype(int)  # about 5 %
    predicted = clone(learner).fit(X, y).predict(X)
    assert predicted[y == 1].mean() > 0.85
    assert (1 - predicted[y == 0]).mean() > 0.85


@every_learner
def test_probabilities_where_a_label_is_rare_are_frequencies_once_calibrated(rng, learner):
    """As they are, they go with `predict`, which counts both classes one half (docs: what predict means)."""
    X = rng.normal(size=(4000, 5))
    y = (X[:, 0] + 0.5 * rng.normal(size=4000) > 1.8).astype(int)  # about 5 %
    fitted = clone(learner).fit(X[:2000], y[:2000])
    plain = fitted.predict_proba(X[2000:])
    np.testing.assert_array_equal(plain.argmax(axis=1), fitted.predict(X[2000:]))
    calibrated = CalibratedClassifierCV(clone(learner)).fit(X[:2000], y[:2000]).predict_proba(X[2000:])[:, 1]
    assert plain[:, 1].mean() > 3 * y.mean()
    assert calibrated.mean() == pytest.approx(y[2000:].mean(), abs=0.01)
    # Brier scores: 0.06 to 0.10 as they are, 0.025 calibrated, 0.05 for the frequency alone
    assert brier_score_loss(y[2000:], calibrated) < 0.5 * brier_score_loss(y[2000:], plain[:, 1])
    assert brier_score_loss(y[2000:], calibrated) < 0.7 * y.mean() * (1 - y.mean())


@every_learner
def test_calibration_reads_pairs(preferences, learner):
    calibrated = CalibratedClassifierCV(clone(learner)).fit(preferences.data, preferences.target)
    assert calibrated.predict_proba(preferences.data).shape == (500, 2)


# --------------------------------------------------------------------------------------------- single outputs


def stacked(X, y, weight, pointwise_weight, stretch, labels=None):
    """Rows, and their weights, of the problem of pairs and single outputs: a margin at or above 1 is asked of each."""
    labels = np.stack([y == 1, y == 0], axis=1) if labels is None else labels
    sides = np.where(np.where(y[:, None] == 1, labels, labels[:, ::-1]) == 1, 1.0, -1.0)
    preferred, other = np.where(y[:, None, None] == 1, X, X[:, ::-1]).swapaxes(0, 1)
    between = preferred - other
    length = np.sqrt(np.average((between**2).sum(axis=1), weights=weight))
    centre = (weight @ preferred + weight @ other) / (2 * weight.sum())

    def with_constant(rows, constant):
        return np.concatenate([rows, np.full((len(rows), 1), constant)], axis=1)

    outputs = (sides[:, [k]] * with_constant(rows - centre, length) for k, rows in enumerate((preferred, other)))
    rows = np.concatenate([with_constant(between, 0.0), *(stretch * own for own in outputs)])
    share = pointwise_weight / (2 * stretch)
    return rows, np.concatenate([weight, share * weight, share * weight]) / weight.sum()


def stacked_objective(fitted, rows, weight, loss):
    """The base path's objective at its weights and the best threshold."""
    coef = fitted.base_coef_

    def of_threshold(b):
        return weight @ loss(rows @ np.append(coef, b)) + fitted.alpha * (coef @ coef + b**2)

    return minimize_scalar(of_threshold, bounds=(-1, 1), method="bounded", options={"xatol": 1e-9}).fun


@pytest.fixture
def uneven(rng):
    """Weights of the rows of the preferences."""
    return rng.uniform(0.2, 2.0, size=500) * (np.arange(500) % 7 > 0)


@pytest.mark.parametrize(("pointwise_weight", "alpha"), [(0.7, 1e-3), (3.0, 1e-2)])
def test_single_outputs_and_pairs_are_logistic_regression_on_both(preferences, uneven, pointwise_weight, alpha):
    X, y = preferences.data + 3, preferences.target
    options = {"alpha": alpha, "pointwise_weight": pointwise_weight, "random_state": 0}
    ours = FailureAwareIRL("max_entropy", tol=1e-10, **options).fit(X, y, sample_weight=uneven)
    rows, weight = stacked(X, y, uneven, pointwise_weight, 1.0)
    theirs = LogisticRegression(C=1 / (2 * alpha), fit_intercept=False, tol=1e-10, max_iter=10_000)
    side = np.where(np.arange(len(rows)) % 2, 1, -1)
    theirs.fit(rows * side[:, None], side, sample_weight=weight)
    np.testing.assert_allclose(ours.base_coef_, theirs.coef_[0, :-1], atol=1e-5)
    assert np.abs(theirs.coef_[0, -1]) > 1e-4  # the threshold is there
    pairs_only = clone(ours).set_params(pointwise_weight=0).fit(X, y, sample_weight=uneven)
    assert np.abs(ours.base_coef_ - pairs_only.base_coef_).max() > 0.02


@pytest.mark.parametrize(("pointwise_weight", "alpha"), [(0.7, 1e-3), (3.0, 1e-2)])
def test_single_outputs_and_pairs_are_linear_svc_on_both(preferences, uneven, pointwise_weight, alpha):
    X, y = preferences.data + 3, preferences.target
    options = {"alpha": alpha, "pointwise_weight": pointwise_weight, "failure_weight": 0, "random_state": 0}
    ours = FailureAwareIRL("max_margin", tol=1e-7, max_iter=1000, **options).fit(X, y, sample_weight=uneven)
    rows, weight = stacked(X, y, uneven, pointwise_weight, 2.0)
    theirs = LinearSVC(loss="hinge", C=1 / (2 * alpha), fit_intercept=False, tol=1e-8, max_iter=10**6)
    side = np.where(np.arange(len(rows)) % 2, 1, -1)
    theirs.fit(rows * side[:, None], side, sample_weight=weight)
    np.testing.assert_allclose(ours.base_coef_, theirs.coef_[0, :-1], atol=1e-3)
    assert ours.dual_gap_ <= 1e-7


def test_labels_decide_on_which_side_of_the_threshold_single_outputs_lie(preferences, uneven, rng):
    X, y = preferences.data + 3, preferences.target
    labels = rng.integers(0, 2, size=(500, 2))
    options = {"alpha": 1e-2, "pointwise_weight": 2.0, "failure_weight": 0, "random_state": 0}
    ours = FailureAwareIRL("max_entropy", tol=1e-10, failures="labels", **options)
    ours.fit(X, y, sample_weight=uneven, output_labels=labels)
    rows, weight = stacked(X, y, uneven, 2.0, 1.0, labels)
    theirs = LogisticRegression(C=1 / (2 * 1e-2), fit_intercept=False, tol=1e-10, max_iter=10_000)
    side = np.where(np.arange(len(rows)) % 2, 1, -1)
    theirs.fit(rows * side[:, None], side, sample_weight=weight)
    np.testing.assert_allclose(ours.base_coef_, theirs.coef_[0, :-1], atol=1e-5)
    by_preference = clone(ours).set_params(failures="margin").fit(X, y, sample_weight=uneven, output_labels=labels)
    assert np.abs(ours.base_coef_ - by_preference.base_coef_).max() > 0.02
    swapped = clone(ours).fit(X[:, ::-1], 1 - y, sample_weight=uneven, output_labels=labels[:, ::-1])
    np.testing.assert_allclose(swapped.coef_, ours.coef_, atol=1e-7)
    batches = {"batch_size": 50, "max_iter": 30, "learning_rate": 0.02}  # the other solver comes near
    near = clone(ours).set_params(**batches).fit(X, y, sample_weight=uneven, output_labels=labels)
    assert np.corrcoef(near.base_coef_, ours.base_coef_)[0, 1] > 0.97


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
def test_the_gap_holds_for_single_outputs_too(preferences, uneven, objective):
    X, y = preferences.data, preferences.target
    options = {"pointwise_weight": 0.7, "failure_weight": 0, "random_state": 0}
    hinge = objective == "max_margin"
    rows, weight = stacked(X, y, uneven, 0.7, 2.0 if hinge else 1.0)

    def loss(margins):
        return np.maximum(0, 1 - margins) if hinge else np.logaddexp(0, -margins)

    best = FailureAwareIRL(objective, tol=1e-7, max_iter=1000, **options).fit(X, y, sample_weight=uneven)
    optimum, unit = stacked_objective(best, rows, weight, loss), weight.sum() * loss(0.0)
    for max_iter in (2, 3, 4):
        early = FailureAwareIRL(objective, tol=1e-6, max_iter=max_iter, **options)
        with pytest.warns(ConvergenceWarning, match=f"stopped after {max_iter} rounds at a duality gap"):
            early.fit(X, y, sample_weight=uneven)
        excess = stacked_objective(early, rows, weight, loss) - optimum
        assert -1e-6 <= excess <= early.dual_gap_ * unit + 1e-9
    assert early.dual_gap_ < 0.9


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
@pytest.mark.parametrize("heads", [{}, {"batch_size": 50, "max_iter": 2}, HIDDEN], ids=["linear", "batches", "hidden"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_where_single_outputs_count(preferences, objective, heads):
    """In pairs, and not where the rows are outputs: there the loss is of single outputs as it is."""
    X, y = preferences.data, preferences.target
    plain = FailureAwareIRL(objective, random_state=0, **heads)
    pointwise = clone(plain).set_params(pointwise_weight=0.7)
    assert not np.allclose(clone(pointwise).fit(X, y).decision_function(X), clone(plain).fit(X, y).decision_function(X))
    X, y = outputs_of(preferences)
    np.testing.assert_array_equal(pointwise.fit(X, y).decision_function(X), plain.fit(X, y).decision_function(X))


def with_offsets_of_prompts(rng, n_pairs=1000):
    """Pairs whose quality shows in one feature, plus an offset of the prompt, which another feature tells."""
    y = rng.integers(0, 2, size=n_pairs)
    good = np.stack([y == 1, y == 0], axis=1)
    X = rng.normal(size=(n_pairs, 2, 5))
    X[..., 1] = 3 * rng.normal(size=(n_pairs, 1))  # the same on both sides: no pair says what it is worth
    X[..., 0] = np.where(good, 1, -1) + 0.7 * rng.normal(size=(n_pairs, 2)) + X[..., 1]
    return X, y, good.ravel()


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
@pytest.mark.parametrize(
    "heads",
    [{}, {"batch_size": 100, "learning_rate": 0.02, "max_iter": 40}, {"hidden_layer_sizes": (8,), "max_iter": 40}],
    ids=["linear", "batches", "hidden"],
)
def test_single_outputs_make_rewards_comparable_across_prompts(rng, objective, heads):
    X, y, good = with_offsets_of_prompts(rng)
    auc = {}
    for weight in (0.0, 0.7):
        learner = FailureAwareIRL(objective, pointwise_weight=weight, failure_weight=0, random_state=0, **heads)
        fitted = learner.fit(X, y)
        auc[weight] = roc_auc_score(good, fitted.decision_function(stack_outputs(X)))
        assert fitted.score(X, y) > 0.96
    assert auc[0.7] > max(0.92, auc[0.0] + 0.05)
    assert fitted.score(stack_outputs(X), good.astype(int)) > 0.75  # one threshold for all prompts


def test_threshold_is_no_part_of_the_reward(preferences):
    """As with pairs alone, heads have no bias, and the offset separates chosen from rejected best."""
    X, y = preferences.data + 3, preferences.target
    fitted = FailureAwareIRL(pointwise_weight=0.7, random_state=0).fit(X, y)
    assert fitted.coef_.shape == fitted.failure_coef_.shape == (8,)
    assert fitted.base_weights_[1] == fitted.failure_weights_[1] == 0


@pytest.mark.parametrize("heads", [{}, {"batch_size": 50, "max_iter": 5}, HIDDEN], ids=["linear", "batches", "hidden"])
def test_warm_start_with_single_outputs(preferences, heads):
    """The heads go on from where they were; the threshold is learned anew."""
    X, y = preferences.data, preferences.target
    learner = FailureAwareIRL("max_entropy", pointwise_weight=0.7, failure_weight=0, warm_start=True, **heads)
    coef = learner.set_params(random_state=0, tol=1e-6).fit(X, y).decision_function(X)
    first, before = learner.history_[0]["loss_base"], learner.history_[-1]["loss_base"]
    again = learner.fit(X, y)
    assert again.history_[0]["loss_base"] < (first + before) / 2
    if not heads:
        assert again.n_iter_ <= 4
        np.testing.assert_allclose(again.decision_function(X), coef, rtol=1e-2, atol=1e-4)
    learner.set_params(pointwise_weight=0.0).fit(X, y)  # from heads that single outputs have trained


def test_the_settings_of_the_paper(preferences):
    X, y = preferences.data, preferences.target
    for objective in ("max_margin", "max_entropy"):
        paper = FailureAwareIRL.paper(objective=objective, random_state=0).fit(X, y)
        plain = FailureAwareIRL(
            objective,
            failure_threshold=LinearSchedule(0, 1),
            failure_weight=ExponentialSchedule(start=10, decay=5),
            failure_rate=LinearSchedule(0.2, 0),
            failures="margin",
            pointwise_weight=0.0,
            failure_hidden_layer_sizes=None,
            failure_gradient="failure",
            random_state=0,
        ).fit(X, y)
        np.testing.assert_array_equal(paper.coef_, plain.coef_)
        assert paper.history_ == plain.history_
    assert FailureAwareIRL.paper(margin_fail=3.0).margin_fail == 3.0


def test_the_defaults_are_near_ties_and_estimated_outputs_in_the_schedules_of_the_paper(preferences):
    X, y = preferences.data, preferences.target
    X = X.copy()
    X[1:200:2, 0] = X[:200:2, 0]  # outputs that recur in some pairs
    named = {"objective": "max_entropy", "failures": NearTieFailures(), "pointwise_weight": "auto"}
    default = FailureAwareIRL(random_state=0).fit(X, y)
    same = FailureAwareIRL.paper(**named, recurrence_correlation=0.03, random_state=0).fit(X, y)
    np.testing.assert_array_equal(default.coef_, same.coef_)
    other = FailureAwareIRL.paper(**named, random_state=0).fit(X, y)
    assert np.abs(default.coef_ - other.coef_).max() > 1e-6


@pytest.mark.parametrize("heads", [(), (4,)])
def test_the_strength_of_the_failure_path_is_that_of_the_base_path_unless_named(preferences, heads):
    X, y = preferences.data, preferences.target

    def learned(**params):
        return FailureAwareIRL(hidden_layer_sizes=heads, max_iter=20, tol=0, random_state=0, **params).fit(X, y)

    default = learned(alpha=0.3).decision_function(X)
    np.testing.assert_array_equal(default, learned(alpha=0.3, alpha_fail=0.3).decision_function(X))
    assert np.abs(default - learned(alpha=0.3, alpha_fail=1e-3).decision_function(X)).max() > 1e-3
    with pytest.raises(ValueError, match="'alpha_fail' parameter of FailureAwareIRL must be"):
        learned(alpha_fail=-1.0)


def test_with_flipped_preferences_near_ties_find_a_better_reward_and_keep_its_sign():
    """What the detector is for: most of what a reward contradicts is noise then, of near-ties only half."""
    distances = []
    for seed in range(5):
        noisy = make_preferences(2000, 20, noise=0.3, random_state=seed)
        learners = [MaxEntropyIRL(random_state=0)]
        for name in ("margin", "near_ties"):
            for weight in (0.0, 1.0):
                learners.append(FailureAwareIRL(failures=name, pointwise_weight=weight, random_state=0))
        outputs, truth = stack_outputs(noisy.data), noisy.reference_reward.ravel()
        rewards = [learner.fit(noisy.data, noisy.target).decision_function(outputs) for learner in learners]
        assert min(np.corrcoef(own, truth)[0, 1] for own in rewards) > 0.8
        distances.append([starc_distance(own, truth) for own in rewards])
    standard, *by_margin, pairs_only, default = np.mean(distances, axis=0)
    assert max(pairs_only, default) < 0.9 * min(standard, *by_margin)


def test_rounds_beyond_the_optimum_keep_it():
    """With tol=0 rounds go on where nothing is left to gain, and rounding decides on the slope along a direction."""
    data = make_preferences(150, 4, noise=0.1, random_state=0)
    for alpha in (1e-9, 0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = MaxMarginIRL(alpha=alpha, tol=0, random_state=0).fit(data.data, data.target)
        losses = np.array([row["loss_base"] for row in fitted.history_])
        assert losses[-1] < losses.min() + 0.01


# -------------------------------------------------------------------- the failure head, and what failures move


@pytest.mark.parametrize(("objective", "pointwise_weight"), [("max_margin", 0.7), ("max_entropy", 0.0)])
@every_form
def test_without_failures_the_failure_head_and_its_gradient_decide_on_nothing(
    preferences, objective, form, pointwise_weight
):
    options = {"failure_weight": 0, "pointwise_weight": pointwise_weight, "random_state": 0}
    plain = {name: value for name, value in form.items() if not name.startswith("failure_")}
    for X, y in ((preferences.data, preferences.target), outputs_of(preferences)):
        ours = FailureAwareIRL(objective, **options, **form).fit(X, y)
        expected = FailureAwareIRL(objective, **options, **plain).fit(X, y)
        np.testing.assert_allclose(ours.decision_function(X), expected.decision_function(X), atol=1e-12)
        assert ours.n_iter_ == expected.n_iter_
        np.testing.assert_equal(ours.dual_gap_, expected.dual_gap_)


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
@pytest.mark.parametrize("pointwise_weight", [0.0, 0.7])
@pytest.mark.parametrize("failure_layers", [None, (8,)])
def test_the_base_head_is_moved_by_failures_if_they_are_told_to(
    preferences, uneven, objective, pointwise_weight, failure_layers
):
    options = {"pointwise_weight": pointwise_weight, "max_iter": 50, "tol": 1e-2, "random_state": 0}
    for X, y in ((preferences.data, preferences.target), outputs_of(preferences)):
        weight = np.resize(uneven, len(X))
        without = FailureAwareIRL(objective, failure_weight=0, **options).fit(X, y, sample_weight=weight)
        same, moved = (
            FailureAwareIRL(
                objective,
                failure_weight=3.0,
                failure_hidden_layer_sizes=failure_layers,
                failure_gradient=gradient,
                **options,
            ).fit(X, y, sample_weight=weight)
            for gradient in ("failure", "both")
        )
        np.testing.assert_array_equal(same.base_coef_, without.coef_)
        assert same.dual_gap_ == without.dual_gap_
        distance = np.linalg.norm(moved.base_coef_ - without.coef_) / np.linalg.norm(without.coef_)
        assert 0.01 < distance < 0.5
        assert np.isnan(moved.dual_gap_)
        assert not np.allclose(same.decision_function(X), without.decision_function(X), rtol=1e-3)


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
@pytest.mark.parametrize("failure_gradient", ["failure", "both"])
def test_a_failure_head_with_hidden_layers_corrects_what_a_linear_one_cannot(rng, objective, failure_gradient):
    """The sign of a product of two features, beside a linear reward that the base head knows."""
    X = rng.normal(size=(3000, 2, 3))
    reward = X[..., 0] + 1.5 * X[..., 1] * X[..., 2]
    y = (reward[:, 0] > reward[:, 1]).astype(int)
    options = {"max_iter": 60, "failure_gradient": failure_gradient, "random_state": 0}
    without, linear, hidden = (
        FailureAwareIRL.paper(objective=objective, **options, **changes).fit(X[:2000], y[:2000])
        for changes in ({"failure_weight": 0}, {}, {"failure_hidden_layer_sizes": (16,)})
    )
    wrong = np.flatnonzero(without.predict(X[:2000]) != y[:2000])
    assert len(wrong) > 400
    assert linear.score(X[wrong], y[wrong]) < 0.1
    assert hidden.score(X[wrong], y[wrong]) > 0.6
    assert linear.score(X[2000:], y[2000:]) < 0.75
    assert hidden.score(X[2000:], y[2000:]) > 0.9


@pytest.mark.parametrize(("objective", "pointwise_weight"), [("max_margin", 0.7), ("max_entropy", 0.0)])
@every_form
def test_fits_of_every_form(preferences, uneven, objective, form, pointwise_weight):
    """Sides swapped, what is saved, what is there afterwards, and where 0 lies."""
    options = {"pointwise_weight": pointwise_weight, "random_state": 0, "max_iter": 10, "tol": 0.1} | form
    learner = FailureAwareIRL(objective, **options)
    X, y = preferences.data, preferences.target
    fitted = clone(learner).fit(X, y, sample_weight=uneven)
    assert {name: fitted.get_params()[name] for name in form} == form
    np.testing.assert_array_equal(fitted.decision_function(X[:, ::-1]), -fitted.decision_function(X))
    swapped = clone(learner).fit(X[:, ::-1], 1 - y, sample_weight=uneven)
    np.testing.assert_allclose(swapped.decision_function(X), fitted.decision_function(X), atol=1e-10)
    for rows, labels in ((X, y), outputs_of(preferences)):
        fitted = clone(learner).fit(rows, labels)
        again = clone(fitted).fit(rows, labels)
        np.testing.assert_array_equal(again.decision_function(rows), fitted.decision_function(rows))
        layers = fitted._layers()
        assert [len(fitted.base_weights_), len(fitted.failure_weights_)] == [2 * len(own) + 2 for own in layers]
        assert hasattr(fitted, "coef_") == (layers == ((), ()))
        assert [hasattr(fitted, name) for name in ("base_coef_", "failure_coef_")] == [own == () for own in layers]
        assert [row["round"] for row in fitted.history_] == list(range(fitted.n_iter_))
        assert np.isfinite([list(row.values()) for row in fitted.history_]).all()
        assert any(row["n_sampled"] for row in fitted.history_)
        stored = skops.io.dumps(fitted)
        for loaded in (
            pickle.loads(pickle.dumps(fitted)),
            skops.io.loads(stored, skops.io.get_untrusted_types(data=stored)),
        ):
            np.testing.assert_array_equal(loaded.decision_function(rows), fitted.decision_function(rows))
        outputs = stack_outputs(rows) if rows.ndim == 3 else rows
        rewards = fitted.decision_function(outputs)
        high = np.stack([labels == 1, labels == 0], axis=1).ravel() if rows.ndim == 3 else labels == 1
        best = max((rewards[high] > t).mean() + (rewards[~high] <= t).mean() for t in np.unique(rewards))
        assert (rewards[high] > 0).mean() + (rewards[~high] <= 0).mean() == pytest.approx(best)


def test_failure_heads_of_outputs_learn_a_bias(preferences):
    """Beside hidden layers, which have biases, a linear head makes one of the constant behind the features."""
    X, y = outputs_of(preferences)
    base = FailureAwareIRL(failure_hidden_layer_sizes=(4,), tol=1e-6, random_state=0).fit(X, y)
    plain = FailureAwareIRL(tol=1e-6, random_state=0).fit(X, y)
    np.testing.assert_array_equal(base.base_weights_[1], plain.base_weights_[1])
    assert base.base_weights_[1] != 0
    failure = FailureAwareIRL(random_state=0, **FORMS["linear failure head"]).fit(X, y)
    assert failure.failure_weights_[1] != 0
    assert [weight.shape[1] for weight in failure.base_weights_[::2]] == [8, 8]


def test_detectors_and_labels_with_every_form(preferences):
    X, y = preferences.data, preferences.target
    labels = (preferences.reference_reward > 0).astype(int)
    for form in FORMS.values():
        options = {"failures": "labels", "random_state": 0, "max_iter": 5, "tol": 1.0} | form
        fitted = FailureAwareIRL(**options).fit(X, y, output_labels=labels)
        swapped = clone(fitted).fit(X[:, ::-1], 1 - y, output_labels=labels[:, ::-1])
        np.testing.assert_allclose(swapped.decision_function(X), fitted.decision_function(X), atol=1e-10)
        other = clone(fitted).set_params(failures="margin").fit(X, y)
        assert not np.allclose(other.decision_function(X), fitted.decision_function(X), atol=1e-3)


@every_form
def test_warm_start_of_every_form(preferences, form):
    for X, y in ((preferences.data, preferences.target), outputs_of(preferences)):
        learner = FailureAwareIRL(warm_start=True, pointwise_weight=0, random_state=0, **form).fit(X, y)
        margins = learner.decision_function(X)
        first = learner.history_[0]["loss_base"]
        again = clone(learner).fit(X, y).set_params(failure_weight=0, max_iter=1, tol=1.0, learning_rate=1e-9).fit(X, y)
        assert again.history_[0]["loss_base"] < first
        if "hidden_layer_sizes" in form or "batch_size" in form or form.get("failure_gradient") != "both":
            np.testing.assert_allclose(again.decision_function(X), margins, atol=0.3)
        with pytest.raises(
            ValueError, match=r"goes on from heads with inputs .*\(failure head\).*set warm_start=False"
        ):
            learner.set_params(failure_hidden_layer_sizes=(3,)).fit(X, y)


def test_small_batches_come_close_where_failures_move_both_heads(preferences):
    """Adam and the solver minimise the same objective."""
    X, y = preferences.data, preferences.target
    options = {"failure_gradient": "both", "failure_weight": 1.0, "failure_rate": 1.0, "alpha": 1e-2, "random_state": 0}
    full = FailureAwareIRL(**options).fit(X, y)
    batches = FailureAwareIRL(batch_size=50, learning_rate=0.05, **options).fit(X, y)
    assert np.corrcoef(batches.decision_function(X), full.decision_function(X))[0, 1] > 0.98


# ------------------------------------------------------------------------------------- what the reward recovers


@every_learner
@pytest.mark.parametrize("seed", range(3))
def test_recovers_a_known_reward(learner, seed):
    data = make_preferences(3000, 10, noise=0.05, random_state=seed)
    fitted = clone(learner).fit(data.data, data.target)
    rewards = fitted.decision_function(stack_outputs(data.data))
    assert np.corrcoef(rewards, data.reference_reward.ravel())[0, 1] > 0.98
    cosine = fitted.coef_ @ data.coef / np.linalg.norm(fitted.coef_) / np.linalg.norm(data.coef)
    assert cosine > 0.98  # the sign too (pitfall 33)


@pytest.mark.parametrize("learner", [MaxEntropyIRL, FailureAwareIRL])
def test_hidden_layers_learn_what_linear_heads_cannot(rng, learner):
    X = rng.normal(size=(3000, 2, 3))
    reward = np.abs(X[..., 0]) - np.abs(X[..., 1])
    y = (reward[:, 0] > reward[:, 1]).astype(int)
    linear = learner(random_state=0).fit(X[:2000], y[:2000]).score(X[2000:], y[2000:])
    hidden = learner(hidden_layer_sizes=(16,), random_state=0, max_iter=60).fit(X[:2000], y[:2000])
    assert linear < 0.6
    assert hidden.score(X[2000:], y[2000:]) > 0.9
    assert not hasattr(hidden, "coef_")
    assert [weight.shape for weight in hidden.base_weights_] == [(16, 3), (16,), (1, 16), (1,)]


def test_minibatches_come_close_to_the_full_batch(preferences):
    X, y = preferences.data, preferences.target
    batches = MaxEntropyIRL(batch_size=50, learning_rate=0.05, alpha=1e-2, random_state=0).fit(X, y)
    full = MaxEntropyIRL(alpha=1e-2, random_state=0).fit(X, y)
    assert np.corrcoef(batches.decision_function(X), full.decision_function(X))[0, 1] > 0.99
    assert np.isnan(batches.dual_gap_)


def test_labels_as_failures(detox, text_features):
    """Label failures are outputs on the wrong side of 0, and the offset is where the labels part."""
    X, y, labels = text_features.fit_transform(detox.data), detox.target, detox.output_labels
    by_margin = FailureAwareIRL(random_state=0).fit(X, y)
    by_label = FailureAwareIRL(failures="labels", random_state=0).fit(X, y, output_labels=labels)
    rewards = by_label.decision_function(stack_outputs(X)).reshape(-1, 2)
    wrong = ((rewards > 0) != (labels == 1)).any(axis=1).sum()
    assert by_label.history_[-1]["n_failures"] == pytest.approx(wrong, abs=4)
    assert by_label.history_[0]["n_failures"] > wrong
    assert not np.allclose(by_label.failure_coef_, by_margin.failure_coef_, rtol=0.1)

    def balanced_accuracy(fitted):
        predicted = fitted.decision_function(stack_outputs(X)).reshape(-1, 2) > 0
        return predicted[labels == 1].mean() + (~predicted[labels == 0]).mean()

    moved = clone(by_label).fit(X, y, output_labels=labels)
    moved.intercept_ = FailureAwareIRL(failures="margin", random_state=0).fit(X, y).intercept_
    assert balanced_accuracy(by_label) >= balanced_accuracy(moved)
    ignored = FailureAwareIRL(random_state=0).fit(X, y, output_labels=labels)  # the margin detector reads none
    np.testing.assert_array_equal(ignored.coef_, by_margin.coef_)
    assert ignored.intercept_ == by_margin.intercept_


def test_the_offset_separates_chosen_from_rejected(preferences):
    X, y = preferences.data + 100, preferences.target
    for learner in ALL:
        rewards = clone(learner).fit(X, y).decision_function(stack_outputs(X)).reshape(-1, 2)
        chosen = np.where(y == 1, rewards[:, 0], rewards[:, 1])
        rejected = np.where(y == 1, rewards[:, 1], rewards[:, 0])
        best = max((chosen > t).mean() + (rejected <= t).mean() for t in np.unique(rewards))
        assert (chosen > 0).mean() + (rejected <= 0).mean() == pytest.approx(best)


def test_separating_threshold():
    negative, positive = np.array([False]), np.array([True])
    assert separating_threshold(np.array([1.0, 3.0]), np.append(negative, positive), np.ones(2)) == 2.0
    assert separating_threshold(np.array([5.0, 5.0]), np.append(negative, positive), np.ones(2)) == 5.0
    # unbalanced: the single positive counts as much as all negatives
    rewards, labels = np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, True, False, False])
    assert separating_threshold(rewards, labels, np.ones(4)) == 0.5


# -------------------------------------------------------------------------------------------------- curriculum


def test_history_has_a_row_a_round_and_follows_the_schedules(preferences):
    fitted = FailureAwareIRL.paper(random_state=0).fit(preferences.data, preferences.target)
    rows = fitted.history_
    assert len(rows) == fitted.n_iter_ == 99  # the last round may sample nothing: p = 0
    assert [row["round"] for row in rows] == list(range(99))
    thresholds, weights, rates = (
        np.array([row[name] for row in rows]) for name in ("failure_threshold", "failure_weight", "failure_rate")
    )
    np.testing.assert_allclose(thresholds, np.arange(99) / 99)
    np.testing.assert_allclose(weights, 10 * np.exp(-5 * np.arange(99) / 99))
    np.testing.assert_allclose(rates, 0.2 * (1 - np.arange(99) / 99))
    sampled, failures = (np.array([row[name] for row in rows]) for name in ("n_sampled", "n_failures"))
    assert (sampled <= np.minimum(failures, rates * 500 + 1e-9)).all()
    assert rows[-1]["loss_base"] < 0.6 * rows[0]["loss_base"]


def test_number_of_failures_is_that_of_the_reward_at_that_time(preferences):
    X, y = preferences.data, preferences.target
    short = FailureAwareIRL(max_iter=100, failure_threshold=0.3, failure_weight=0, failures=MarginFailures())
    fitted = short.set_params(random_state=0).fit(X, y)
    margins = fitted.decision_function(X) * np.where(y == 1, 1, -1)
    last = fitted.history_[-1]
    assert last["n_failures"] == pytest.approx((margins <= 0.3).sum(), abs=3)
    assert last["margin_q50"] == pytest.approx(np.median(margins), abs=0.02)


def test_a_detector_of_ones_own_reaches_grid_search_and_fit(preferences):
    class LowestQuarter(MarginFailures):
        def __init__(self, share=0.25):
            self.share = share

        def detect(self, state):
            return state.margins <= np.quantile(state.margins, self.share)

    learner = FailureAwareIRL(failures=LowestQuarter(), random_state=0).set_params(failures__share=0.1)
    fitted = learner.fit(preferences.data, preferences.target)
    assert {row["n_failures"] for row in fitted.history_[1:]} == {50}  # at first all margins are 0


def test_more_failure_weight_moves_the_failure_path_further(preferences):
    X, y = preferences.data, preferences.target
    norms = [
        np.linalg.norm(FailureAwareIRL(failure_weight=weight, random_state=0).fit(X, y).failure_coef_)
        for weight in (0, 1, 5)
    ]
    assert norms[0] == 0
    assert (np.diff(norms) > 0).all()


def test_warm_start_goes_on_from_the_last_reward(preferences):
    X, y = preferences.data, preferences.target
    learner = MaxEntropyIRL(warm_start=True, random_state=0).fit(X, y)
    coef = learner.coef_.copy()
    assert learner.fit(X, y).n_iter_ == 1
    np.testing.assert_allclose(learner.coef_, coef, rtol=1e-6)
    hidden = MaxEntropyIRL(warm_start=True, random_state=0, **HIDDEN).fit(X, y)
    first_loss = hidden.history_[0]["loss_base"]
    assert hidden.fit(X, y).history_[0]["loss_base"] < first_loss
    with pytest.raises(ValueError, match="warm_start=True goes on from heads with inputs"):
        hidden.set_params(hidden_layer_sizes=(4,)).fit(X, y)


# ----------------------------------------------------------------------------------- prediction and its classes


def test_predictions_agree_with_each_other(preferences):
    X = preferences.data
    y = np.where(preferences.target == 1, "the first", "a second")  # "the first" is the larger
    fitted = FailureAwareIRL(random_state=0).fit(X, y)
    assert fitted.classes_.tolist() == ["a second", "the first"]
    margins = fitted.decision_function(X)
    np.testing.assert_array_equal(fitted.predict(X), np.where(margins > 0, "the first", "a second"))
    np.testing.assert_allclose(fitted.predict_proba(X)[:, 1], 1 / (1 + np.exp(-margins)))
    rewards = fitted.decision_function(stack_outputs(X)).reshape(-1, 2)
    np.testing.assert_allclose(rewards[:, 0] - rewards[:, 1], margins, atol=1e-10)
    assert fitted.score(X, y) == (fitted.predict(X) == y).mean()


def test_y_none_means_the_first_is_preferred(preferences):
    X, y = preferences.data, preferences.target
    oriented = np.where((y == 1)[:, None, None], X, X[:, ::-1])
    for learner in ALL:
        plain = clone(learner).fit(oriented)
        np.testing.assert_allclose(plain.coef_, clone(learner).fit(X, y).coef_, atol=1e-10)
        assert plain.score(oriented) == pytest.approx(plain.score(X, y))


@every_learner
@pytest.mark.parametrize("heads", [{}, HIDDEN], ids=["linear", "hidden"])
def test_a_fitted_estimator_is_plain_arrays(preferences, learner, heads):
    """Pitfall 18: no tensor, hence no device, in what is saved; and it is small."""
    fitted = clone(learner).set_params(**heads).fit(preferences.data, preferences.target)
    blob = pickle.dumps(fitted)
    assert b"torch" not in blob
    assert len(blob) < 60_000
    loaded = pickle.loads(blob)
    np.testing.assert_array_equal(
        loaded.decision_function(preferences.data), fitted.decision_function(preferences.data)
    )


# ------------------------------------------------------------------------------------ interrupts and bad input


def interrupt_in_round(monkeypatch, number):
    original = Curriculum.on_epoch_begin

    def interrupted(self, net, **kwargs):
        if len(self.rows_) == number:
            raise KeyboardInterrupt
        original(self, net, **kwargs)

    monkeypatch.setattr(Curriculum, "on_epoch_begin", interrupted)


@pytest.mark.parametrize("verbose", [0, 1])
def test_an_interrupted_fit_is_no_fit(preferences, monkeypatch, verbose):
    X, y = preferences.data, preferences.target
    fresh = FailureAwareIRL(random_state=0, verbose=verbose)
    fitted = clone(fresh).fit(X, y)
    expected = fitted.decision_function(X)
    interrupt_in_round(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        fresh.fit(X, y)
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    with pytest.raises(KeyboardInterrupt):
        fitted.fit(X[:, :, :3], y)
    np.testing.assert_array_equal(fitted.decision_function(X), expected)


def test_progress_bar(preferences, capsys):
    FailureAwareIRL(verbose=1, random_state=0, max_iter=20, tol=0).fit(preferences.data, preferences.target)
    shown = capsys.readouterr().err
    assert "FailureAwareIRL" in shown
    assert "failures=" in shown
    MaxMarginIRL(random_state=0).fit(preferences.data, preferences.target)
    assert capsys.readouterr().err == ""


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
    "None in y": (
        lambda X, y: (X, np.where(np.arange(len(X)) == 3, None, y)),
        {},
        "None in y, first at row 3.*drop the rows",
    ),
    "None among words": (lambda X, y: (X, np.array(["a", "b", None] * 166 + ["a", "b"], dtype=object)), {}, "at row 2"),
    "None for X": (lambda X, y: (None, y), {}, r"Found X=None. Expected features.*\(n_pairs, 2, n_features\)"),
    "four axes": (lambda X, y: (X[..., None], y), {}, r"shape \(500, 2, 8, 1\), with 4 axes.*flatten"),
    "no features": (lambda X, y: (X[:, :, :0], y), {}, r"shape \(500, 2, 0\).*at least one feature"),
    "lengths": (lambda X, y: (X, y[:-1]), {}, "500 pairs in X and 499 labels"),
    "no y for outputs": (lambda X, y: (X[:, 0], None), {}, "requires y to be passed"),
    "identical": (lambda X, y: (np.repeat(X[:, :1], 2, axis=1), y), {}, "identical on both sides"),
    "text": (lambda X, y: (np.full((4, 2), "a"), [0, 1, 0, 1]), {}, "X holds text.*PairTransformer"),
    "nan": (lambda X, y: (np.where(X > 1, np.nan, X), y), {}, "NaN"),
    "too large": (lambda X, y: (X * 1e200, y), {}, "too large"),
    "too small": (lambda X, y: (X * 1e-170, y), {}, "too small .their squares underflow.: scale them"),
    "outputs too small": (lambda X, y: (X[:, 0] * 1e-170, y), {}, "too small"),
    "negative weights": (lambda X, y: (X, y, -np.ones(len(X))), {}, "[Nn]egative"),
    "no weight": (lambda X, y: (X, y, np.zeros(len(X))), {}, "weights must contain at least one non-zero"),
    "margin_fail": (
        lambda X, y: (X, y),
        {"objective": "max_margin", "margin": 2.0},
        "margin_fail=2.0 and margin=2.0.*margin_fail > margin",
    ),
    "temperature_fail": (
        lambda X, y: (X, y),
        {"objective": "max_entropy", "temperature_fail": 3.0},
        "temperature_fail=3.0 and temperature=1.0",
    ),
    "margin": (lambda X, y: (X, y), {"margin": -1.0}, "'margin' parameter.*-1.0"),
    "objective": (lambda X, y: (X, y), {"objective": "hinge"}, "'objective' parameter.*'hinge'"),
    "failures": (lambda X, y: (X, y), {"failures": "worst"}, "'failures' parameter"),
    "detector class": (lambda X, y: (X, y), {"failures": MarginFailures}, "class MarginFailures.*Expected an object"),
    "a number of layers": (lambda X, y: (X, y), {"hidden_layer_sizes": 8}, r"hidden_layer_sizes=8, a.*\(8,\) is one"),
    "layers as text": (lambda X, y: (X, y), {"hidden_layer_sizes": "8"}, "hidden_layer_sizes='8'. Expected a sequence"),
    "no layers": (lambda X, y: (X, y), {"hidden_layer_sizes": None}, "hidden_layer_sizes=None. Expected a sequence"),
    "empty layer": (lambda X, y: (X, y), {"hidden_layer_sizes": (8, 0)}, r"hidden_layer_sizes=\(8, 0\).*at least 1"),
    "half a unit": (lambda X, y: (X, y), {"hidden_layer_sizes": (2.5,)}, r"hidden_layer_sizes=\(2.5,\)"),
    "a number of failure layers": (
        lambda X, y: (X, y),
        {"failure_hidden_layer_sizes": 8},
        r"failure_hidden_layer_sizes=8, a.*\(8,\) is one",
    ),
    "failure layers as text": (
        lambda X, y: (X, y),
        {"failure_hidden_layer_sizes": "8"},
        "failure_hidden_layer_sizes='8'. Expected a sequence",
    ),
    "empty failure layer": (
        lambda X, y: (X, y),
        {"failure_hidden_layer_sizes": (0,)},
        r"failure_hidden_layer_sizes=\(0,\).*at least 1",
    ),
    "failure gradient": (lambda X, y: (X, y), {"failure_gradient": "base"}, "'failure_gradient' parameter.*'base'"),
    "schedule with nan": (lambda X, y: (X, y), {"failure_weight": lambda t: np.nan}, "failure_weight=.*gives nan"),
    "rate above 1": (lambda X, y: (X, y), {"failure_rate": 1.5}, "failure_rate=.*1.5"),
    "negative weight of failures": (lambda X, y: (X, y), {"failure_weight": -1.0}, "failure_weight"),
    "no labels": (lambda X, y: (X, y), {"failures": "labels"}, "needs the labels of the outputs.*output_labels"),
    "shape of labels": (
        lambda X, y: (X, y, None, np.ones(len(X))),
        {"failures": "labels"},
        r"output_labels of shape \(500,\)",
    ),
    "values of labels": (
        lambda X, y: (X, y, None, np.full((len(X), 2), 2)),
        {"failures": "labels"},
        "Found the label 2 in.*Expected both 1 .desirable. and 0",
    ),
    "missing labels": (
        lambda X, y: (X, y, None, np.where(X[..., 0] > 1, None, X[..., 1] > 0)),
        {"failures": "labels"},
        "Found the label None in output_labels",
    ),
    "device": (lambda X, y: (X, y), {"device": "gpu"}, "device='gpu'.*'cpu', 'cuda'"),
}


@pytest.mark.parametrize("case", BAD_FITS)
def test_bad_input_is_named_and_changes_nothing(preferences, case):
    arguments, parameters, message = BAD_FITS[case]
    learner = FailureAwareIRL(random_state=0).set_params(**parameters)
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        learner.fit(*arguments(preferences.data, preferences.target))
    assert not [name for name in vars(learner) if name.endswith("_")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_gpu_that_is_not_there(preferences):
    X, y = preferences.data, preferences.target
    with pytest.raises(ValueError, match="no CUDA device here. Use device='cpu' or 'auto'"):
        MaxMarginIRL(device="cuda").fit(X, y)
    auto = MaxMarginIRL(device="auto", random_state=0).fit(X, y)
    np.testing.assert_array_equal(auto.coef_, MaxMarginIRL(random_state=0).fit(X, y).coef_)


def test_bad_input_at_prediction(preferences):
    fitted = MaxMarginIRL(random_state=0).fit(preferences.data, preferences.target)
    with pytest.raises(ValueError, match="9 features.*expecting 8"):
        fitted.predict(np.zeros((3, 2, 9)))
    with pytest.raises(ValueError, match="X holds text"):
        fitted.predict([["a", "b"]])
    with pytest.raises(ValueError, match="requires y for outputs"):
        fitted.score(np.zeros((3, 8)))
    with pytest.raises(NotFittedError):
        MaxMarginIRL().decision_function(preferences.data)


def test_a_fit_that_diverges_is_refused(preferences):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="The rounds diverged.*Lower learning_rate"):
        FailureAwareIRL(batch_size=32, learning_rate=1e200, max_iter=5).fit(preferences.data, preferences.target)


@pytest.mark.parametrize("heads", [{"batch_size": 32}, HIDDEN], ids=["batches", "hidden"])
def test_a_step_beyond_float32_is_a_fit_that_diverges(preferences, heads):
    learner = MaxEntropyIRL(learning_rate=1e50, **heads)
    with pytest.raises(ValueError, match="The rounds diverged.*Lower learning_rate"):
        learner.fit(preferences.data.astype(np.float32), preferences.target)
    assert not [name for name in vars(learner) if name.endswith("_")]


def test_small_features_are_not_called_identical(preferences):
    small = MaxEntropyIRL(alpha=0, random_state=0).fit(preferences.data * 1e-130, preferences.target)
    usual = MaxEntropyIRL(alpha=0, random_state=0).fit(preferences.data, preferences.target)
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
    both = FailureAwareIRL().set_params(failure_weight__decay=2.0, failure_weight=ExponentialSchedule())
    assert both.failure_weight.decay == 2.0


def test_a_tie_is_both_labels_with_half_the_weight(preferences):
    """The remedy that the message names: it draws the margins of ties to 0 and changes nothing where all agree."""
    X, y = preferences.data, preferences.target
    tied = np.arange(500) < 100
    both = np.concatenate([X, X[tied]]), np.concatenate([y, 1 - y[tied]])
    weight = np.concatenate([np.where(tied, 0.5, 1.0), np.full(100, 0.5)])
    with pytest.warns(UserWarning, match="contradict"):
        fitted = MaxEntropyIRL(alpha=0.1, random_state=0).fit(*both, sample_weight=weight)
    plain = MaxEntropyIRL(alpha=0.1, random_state=0).fit(X, y)
    assert np.abs(fitted.decision_function(X[tied])).mean() < 0.95 * np.abs(plain.decision_function(X[tied])).mean()


def test_labels_of_one_kind_once_weights_count(preferences):
    labels, weight = np.ones((500, 2), dtype=int), np.ones(500)
    labels[5], weight[5] = 0, 0
    learner = FailureAwareIRL(failures="labels", random_state=0)
    with pytest.raises(ValueError, match="one label only in output_labels where sample_weight is above 0"):
        learner.fit(preferences.data, preferences.target, sample_weight=weight, output_labels=labels)


def test_contradictory_pairs_are_counted(preferences):
    X, y = preferences.data, preferences.target
    again = np.concatenate([X, X[:3, ::-1]])
    with pytest.warns(UserWarning, match="6 of 503 pairs contradict another pair.*first row 0"):
        MaxEntropyIRL(random_state=0).fit(again, np.append(y, y[:3]))


def test_a_reward_that_turned_its_sign_is_named():
    """Pitfall 33: failures in noise, weighted up without measure, turn the reward against its own preferences."""
    noisy = make_preferences(500, 8, noise=0.3, random_state=0)

    class FlippedPairs(MarginFailures):
        def detect(self, state):
            return noisy.flipped

    extreme = FailureAwareIRL(failures=FlippedPairs(), failure_weight=1000, failure_rate=1.0, random_state=0)
    with pytest.warns(UserWarning, match="of its own training pairs.*Lower failure_weight"):
        extreme.fit(noisy.data, noisy.target)
    for seed in range(5):  # as constructed it does not
        data = make_preferences(500, 8, noise=0.3, random_state=seed)
        assert FailureAwareIRL(random_state=seed).fit(data.data, data.target).score(data.data, data.target) > 0.6


def test_a_base_path_that_has_not_converged_says_so(preferences):
    with pytest.warns(ConvergenceWarning, match="stopped after 2 rounds at a duality gap of.*Raise max_iter") as caught:
        MaxMarginIRL(max_iter=2, random_state=0).fit(preferences.data, preferences.target)
    assert [entry.filename for entry in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MaxMarginIRL(max_iter=2, tol=0, random_state=0).fit(preferences.data, preferences.target)


@pytest.mark.parametrize("learner", [MaxMarginIRL, MaxEntropyIRL])
def test_the_duality_gap_bounds_the_distance_to_the_optimum(preferences, learner):
    """The certificate is honest: a fit that stops early is at most its gap above the optimum."""
    X, y = preferences.data, preferences.target
    margin_of = np.where(y == 1, 1, -1)[:, None] * differences(X)

    def objective(coef):
        margins = margin_of @ coef
        loss = np.maximum(0, 1 - margins) if learner is MaxMarginIRL else np.logaddexp(0, -margins)
        return loss.mean() + 1e-3 * coef @ coef

    optimum = objective(learner(tol=1e-8, max_iter=2000, random_state=0).fit(X, y).coef_)
    unit = 1.0 if learner is MaxMarginIRL else np.log(2)
    for max_iter in (3, 5, 10):
        early = learner(max_iter=max_iter, tol=1e-7, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            early.fit(X, y)
        # the gap is measured before a round's step, the step only improves
        assert objective(early.coef_) - optimum <= early.dual_gap_ * unit + 1e-9


def test_schedules_are_not_changed_by_fitting(preferences):
    schedule = ExponentialSchedule(3.0, 1.0)
    learner = FailureAwareIRL(failure_weight=schedule, random_state=0).fit(preferences.data, preferences.target)
    assert learner.failure_weight is schedule
    assert schedule.get_params() == {"start": 3.0, "decay": 1.0}


def test_failures_of_outputs_with_a_rare_label_do_not_harm():
    """Nearly all sampled failures are of one class at first: a step that forgets the bias swings to and fro."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(6000, 30)) * 0.1 + np.eye(30)[0] * 0.4
    reward = X @ rng.normal(size=30)
    y = (reward + 0.15 * rng.normal(size=6000) > np.quantile(reward, 0.85)).astype(int)
    scores = {}
    for learner in (MaxMarginIRL(alpha=1e-4, random_state=0), FailureAwareIRL(alpha=1e-4, random_state=0)):
        fitted = learner.fit(X[:3000], y[:3000])
        scores[type(learner).__name__] = roc_auc_score(y[3000:], fitted.decision_function(X[3000:]))
    assert scores["FailureAwareIRL"] > scores["MaxMarginIRL"] - 0.002
    turns = np.diff(np.sign(np.diff([row["n_failures"] for row in fitted.history_])))
    assert np.count_nonzero(turns) < 15


def test_of_several_best_thresholds_the_middle_one():
    alternating = np.array([False, True] * 3)
    assert separating_threshold(np.arange(6.0), alternating, np.ones(6)) == 2.5


def test_identical_sides_contradict_nothing(preferences):
    X, y = preferences.data.copy(), preferences.target.copy()
    X[:4, 1] = X[:4, 0]
    X[2:4], y[:4] = X[:2], [0, 1, 1, 0]  # the same two outputs twice, with either label
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MaxEntropyIRL(random_state=0).fit(X, y)


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_number_of_threads_is_restored(preferences, monkeypatch, interrupted):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        if interrupted:
            interrupt_in_round(monkeypatch, 2)
            with pytest.raises(KeyboardInterrupt):
                FailureAwareIRL(random_state=0).fit(preferences.data, preferences.target)
        else:
            FailureAwareIRL(random_state=0).fit(preferences.data, preferences.target)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def last_state(capsys):
    return capsys.readouterr().err.rstrip().rpartition("\r")[2]


@pytest.mark.parametrize("learner", [MaxMarginIRL, MaxEntropyIRL])
def test_a_progress_bar_ends_full_where_the_fit_has_converged(preferences, monkeypatch, capsys, learner):
    fitted = learner(verbose=1, random_state=0).fit(preferences.data, preferences.target)
    shown = last_state(capsys)
    assert fitted.n_iter_ < 100
    assert "100%" in shown
    assert f"{fitted.n_iter_}/{fitted.n_iter_}" in shown
    assert "converged" in shown
    learner(verbose=1, max_iter=2, tol=0, random_state=0).fit(preferences.data, preferences.target)
    assert "converged" not in capsys.readouterr().err
    interrupt_in_round(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        learner(verbose=1, random_state=0).fit(preferences.data, preferences.target)
    shown = last_state(capsys)
    assert "3/100" in shown
    assert "converged" not in shown
