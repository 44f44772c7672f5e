"""The pointwise loss: its problem by other solvers, what it is for, and its weight estimated from the pairs."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import LinearSVC

from fairl_sk import ExponentialSchedule, FailureAwareIRL
from fairl_sk.datasets import make_preferences
from fairl_sk.learning.pointwise import estimate_weight
from fairl_sk.learning.rows import number_outputs
from fairl_sk.pairs import stack_outputs

both = pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])


def of_two_populations(n_pairs=600, n_features=8, seed=0):
    """Preferred outputs drawn with weight exp(R), others uniformly: that an output is preferred tells of R."""
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal((20 * n_pairs, n_features))
    reward = 2 * outputs[:, 0] + outputs[:, 1]
    preferred = outputs[rng.choice(len(outputs), n_pairs, p=np.exp(reward) / np.exp(reward).sum())]
    other = outputs[rng.choice(len(outputs), n_pairs)]
    y = rng.permutation(n_pairs) % 2
    return np.where(y[:, None, None] == 1, np.stack([preferred, other], 1), np.stack([other, preferred], 1)), y


def of_one_population(n_pairs=600, n_features=8, seed=0):
    """Both outputs drawn alike, a fifth of the preferences flipped: only the order of a pair tells of R."""
    data = make_preferences(n_pairs, n_features, noise=0.2, random_state=seed)
    return data.data, data.target


# ------------------------------------------------------------------------------------- the problem that is solved


def stacked(X, y, weight, share, objective, labels=None):
    """Rows that need a margin of 1, and their weights: differences, and outputs on their side of a threshold."""
    stretch = 2.0 if objective == "max_margin" else 1.0
    sides = np.stack([y, 1 - y], axis=1) if labels is None else labels
    sides = np.where(sides == 1, 1.0, -1.0)
    between = np.where(y[:, None] == 1, 1, -1) * (X[:, 0] - X[:, 1])
    length = np.sqrt(np.average((between**2).sum(axis=1), weights=weight))
    centered = X - np.average(X.mean(axis=1), axis=0, weights=weight)
    above = np.concatenate([centered, np.full((len(X), 2, 1), length)], axis=2) * stretch * sides[..., None]
    rows = np.concatenate([np.column_stack([between, np.zeros(len(X))]), above[:, 0], above[:, 1]])
    weights = np.concatenate([weight, *[share / (2 * stretch) * weight] * 2]) / weight.sum()
    return rows, weights


def solved(rows, weight, alpha, objective):
    """The same problem by scikit-learn."""
    side = np.where(np.arange(len(rows)) % 2, 1, -1)
    if objective == "max_margin":
        model = LinearSVC(loss="hinge", C=1 / (2 * alpha), fit_intercept=False, tol=1e-8, max_iter=10**6)
    else:
        model = LogisticRegression(C=1 / (2 * alpha), fit_intercept=False, tol=1e-10, max_iter=10_000)
    return model.fit(rows * side[:, None], side, sample_weight=weight).coef_[0]


@both
@pytest.mark.parametrize(("share", "alpha"), [(0.7, 1e-3), (3.0, 1e-2)])
@pytest.mark.parametrize("by_label", [False, True])
def test_the_base_path_is_scikit_learns_solution(preferences, rng, objective, share, alpha, by_label):
    """On pairs and outputs; where a detector reads labels, an output lies on the side of its label."""
    X, y, labels = preferences.data + 3, preferences.target, rng.integers(0, 2, size=(500, 2)) if by_label else None
    weight = rng.uniform(0.2, 2.0, size=500) * (np.arange(500) % 7 > 0)
    options = {"failure_weight": 0, "tol": 1e-8, "max_iter": 5000, "failures": "labels" if by_label else "margin"}
    ours = FailureAwareIRL(objective, pointwise_weight=share, alpha=alpha, **options)
    ours.fit(X, y, sample_weight=weight, output_labels=labels)
    theirs = solved(*stacked(X, y, weight, share, objective, labels), alpha, objective)
    np.testing.assert_allclose(ours.base_coef_, theirs[:-1], atol=5e-3 if objective == "max_margin" else 1e-4)
    assert ours.base_weights_[1] == 0  # the threshold is no part of the reward


# ------------------------------------------------------------------------------------------------ what it is for


@both
@pytest.mark.parametrize(
    "settings",
    [{}, {"training": "joint", "learning_rate": 0.02}, {"hidden_layer_sizes": (8,), "learning_rate": 0.02}],
    ids=["two stages", "joint", "hidden"],
)
def test_it_makes_rewards_comparable_across_prompts(rng, objective, settings):
    """Of an offset that both outputs of a pair share no pair tells."""
    y = rng.integers(0, 2, size=1000)
    good = np.stack([y == 1, y == 0], axis=1)
    X = rng.normal(size=(1000, 2, 5))
    X[..., 1] = 3 * rng.normal(size=(1000, 1))
    X[..., 0] = np.where(good, 1, -1) + 0.7 * rng.normal(size=(1000, 2)) + X[..., 1]
    auc = {}
    for share in (0.0, 0.7):
        learner = FailureAwareIRL(
            objective, pointwise_weight=share, failure_weight=0, n_rounds=30, random_state=0, **settings
        )
        auc[share] = roc_auc_score(good.ravel(), learner.fit(X, y).decision_function(stack_outputs(X)))
        assert learner.score(X, y) > 0.95
    assert auc[0.7] > max(0.9, auc[0.0] + 0.05)


# --------------------------------------------------------------------------------------------- the weight, "auto"


def estimate(X, y, sample_weight=None, labels=None):
    sign = np.where(y == 1, 1, -1)
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    sides = np.stack([sign, -sign], axis=1) if labels is None else np.where(labels == 1, 1, -1)
    return estimate_weight(X, sign, weight, number_outputs(X), sides)


@pytest.mark.parametrize("seed", range(4))
def test_outputs_count_where_preferred_ones_are_a_population_of_their_own(seed):
    assert estimate(*of_two_populations(seed=seed)) > 0.2
    assert estimate(*of_one_population(seed=seed)) == 0


def test_rows_sides_and_copies_do_not_matter():
    X, y = of_two_populations(200)
    weight = estimate(X, y)
    order = np.random.default_rng(0).permutation(len(X))
    assert estimate(X[order], y[order]) == weight
    assert estimate(X[:, ::-1], 1 - y) == weight
    twice = np.arange(len(X)) < 50
    assert estimate(np.concatenate([X, X[twice]]), np.concatenate([y, y[twice]])) == estimate(X, y, 1.0 + twice)
    ignored = np.concatenate([X, X[::-1, ::-1] * 3])
    assert estimate(ignored, np.tile(y, 2), np.repeat([1.0, 0.0], len(X))) == weight


@pytest.mark.parametrize("factor", [1e-12, 1e3, 1e12])
def test_the_scale_and_place_of_features_do_not_matter(factor):
    (X, y), (other, of_other) = of_two_populations(), of_one_population()
    assert estimate(factor * (X + 7), y) > 0.2
    assert estimate(factor * (other + 7), of_other) == 0


def test_too_few_pairs_and_one_kind_of_labels_say_nothing():
    X, y = of_two_populations(100)
    assert estimate(X[:39], y[:39]) == 0
    assert estimate(X, y, labels=np.ones((100, 2))) == 0
    assert estimate(np.repeat(X[:1], 100, axis=0), y) == 0  # two distinct pairs, a hundred times
    data = make_preferences(100, 384, noise=0.1, random_state=0)
    assert estimate(data.data, data.target) == 0


def test_labels_count_by_what_they_tell():
    data = make_preferences(600, 8, noise=0.2, random_state=0)
    assert estimate(data.data, data.target, labels=data.reference_reward > 0) > 0.2
    noise = np.random.default_rng(0).integers(0, 2, (600, 2))
    assert estimate(data.data, data.target, labels=noise) == 0


@pytest.mark.parametrize("seed", range(3))
def test_what_both_outputs_share_and_loud_features_are_no_population(seed):
    rng, (X, y) = np.random.default_rng(seed), of_one_population(800, seed=seed)
    shared = rng.standard_normal((800, 1, 2)) @ rng.standard_normal((2, 8))
    assert estimate(X + 10 * shared, y) == 0
    assert estimate(X * np.r_[30.0, np.ones(7)], y) == 0
    assert estimate(np.concatenate([X, 30 * rng.standard_normal((800, 2, 1))], axis=2), y) == 0


def test_a_fit_takes_the_estimate_and_failures_count_with_the_pairs():
    X, y = of_two_populations(300)
    fitted = FailureAwareIRL().fit(X, y)
    weight = fitted.pointwise_weight_
    assert weight > 0.2
    schedule = ExponentialSchedule(10 / (1 + weight), 5)
    by_hand = FailureAwareIRL(pointwise_weight=weight, failure_weight=schedule).fit(X, y)
    np.testing.assert_allclose(fitted.coef_, by_hand.coef_, rtol=1e-5)
    assert fitted.history_[0]["failure_weight"] == pytest.approx(10 / (1 + weight))
    assert FailureAwareIRL().fit(X[:, 0], y).pointwise_weight_ == 0  # single outputs are all there is
    X, y = of_one_population(300)
    fitted = FailureAwareIRL().fit(X, y)
    assert fitted.pointwise_weight_ == 0
    np.testing.assert_array_equal(fitted.coef_, FailureAwareIRL(pointwise_weight=0.0).fit(X, y).coef_)
