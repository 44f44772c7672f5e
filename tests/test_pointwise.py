"""What single outputs should count beside pairs, estimated from the pairs."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from fairl_sk import ExponentialSchedule, FailureAwareIRL
from fairl_sk.datasets import make_preferences
from fairl_sk.pointwise import _least_weight, _moments, estimate_weight
from fairl_sk.sampling import pair_keys


def separate_populations(n_pairs=600, n_features=8, seed=0):
    """Chosen outputs drawn with weight exp(R), rejected ones uniformly: whether an output was chosen tells of R."""
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal((20 * n_pairs, n_features))
    reward = outputs[:, 0] + 0.5 * outputs[:, 1]
    chosen = outputs[rng.choice(len(outputs), n_pairs, p=np.exp(reward) / np.exp(reward).sum())]
    rejected = outputs[rng.choice(len(outputs), n_pairs)]
    y = rng.permutation(n_pairs) % 2
    return np.where(y[:, None, None] == 1, np.stack([chosen, rejected], 1), np.stack([rejected, chosen], 1)), y


def one_population(n_pairs=600, n_features=8, seed=0):
    """Both outputs drawn alike, a fifth of the preferences flipped: the order of a pair is all that tells of R."""
    data = make_preferences(n_pairs, n_features, noise=0.2, random_state=seed)
    return data.data, data.target


def estimate(X, y, sample_weight=None, labels=None):
    sign = np.where(y == 1, 1, -1)
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    sides = np.stack([sign, -sign], axis=1) if labels is None else np.where(labels == 1, 1, -1)
    return estimate_weight(X, sign, weight, pair_keys(X, sign, 0)[0], sides)


@pytest.mark.parametrize("seed", range(4))
def test_outputs_count_where_preferred_ones_have_a_population_of_their_own(seed):
    assert estimate(*separate_populations(seed=seed)) > 0.2
    assert estimate(*one_population(seed=seed)) == 0


def test_rows_sides_and_copies_do_not_matter():
    X, y = separate_populations(200)
    weight = estimate(X, y)
    order = np.random.default_rng(0).permutation(len(X))
    assert estimate(X[order], y[order]) == pytest.approx(weight, rel=1e-6)
    assert estimate(X[:, ::-1], 1 - y) == pytest.approx(weight, rel=1e-6)
    twice = np.arange(len(X)) < 50
    copied = estimate(np.concatenate([X, X[twice]]), np.concatenate([y, y[twice]]))
    assert copied == pytest.approx(estimate(X, y, 1.0 + twice), rel=1e-6)
    ignored = np.concatenate([X, X[::-1, ::-1] * 3])
    assert estimate(ignored, np.tile(y, 2), np.repeat([1.0, 0.0], len(X))) == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize("factor", [1e-12, 1e3, 1e12])
def test_the_scale_and_place_of_features_do_not_matter(factor):
    assert estimate(factor * (separate_populations()[0] + 7), separate_populations()[1]) > 0.2
    assert estimate(factor * (one_population()[0] + 7), one_population()[1]) == 0


def test_too_few_pairs_and_one_kind_of_labels_say_nothing():
    X, y = separate_populations(39)
    assert estimate(X, y) == 0
    X, y = separate_populations(100)
    assert estimate(X, y, labels=np.ones((100, 2))) == 0
    same = np.repeat(X[:1], 100, axis=0)
    assert estimate(same, y) == 0  # two distinct pairs, a hundred times


def test_sides_by_label_count_by_what_the_labels_tell():
    X, y = one_population()
    assert estimate(X, y, labels=(X @ np.eye(8)[0] > 0).astype(int)) >= 0
    data = make_preferences(600, 8, noise=0.2, random_state=0)
    informative = (data.reference_reward > 0).astype(int)
    assert estimate(data.data, data.target, labels=informative) > 0.2  # each label is a comparison with the threshold
    noise = np.random.default_rng(0).integers(0, 2, (600, 2))
    assert estimate(data.data, data.target, labels=noise) == 0


def test_moments_agree_with_explicit_gradients():
    rng = np.random.default_rng(1)
    outputs, theta = rng.standard_normal((400, 2, 4)), np.array([1.0, -0.5, 0.2, 0.0])
    rewards = outputs @ theta
    flip = np.where(rng.random(400) < expit(rewards[:, 0] - rewards[:, 1]), 1, -1)
    labels = np.where(rng.random((400, 2)) < expit(rewards), 1, -1)
    moments = _moments(outputs, flip, labels, np.ones(400), theta).mean(axis=0)
    # the data were drawn at scale 1 and offset 0, which the fitted ones are near
    surprise = expit(-flip * (rewards[:, 0] - rewards[:, 1]))
    surprises = expit(-labels * rewards)
    difference = outputs[:, 0] - outputs[:, 1]
    g = (flip * surprise)[:, None] * difference
    h = ((labels * surprises)[..., None] * outputs).sum(axis=1) / 2
    expected = [
        np.mean(surprise * (1 - surprise) * np.square(difference).sum(axis=1)),
        np.mean(surprises * (1 - surprises) * np.square(outputs).sum(axis=2)),
        np.mean(np.square(g).sum(axis=1)),
        np.mean((g * h).sum(axis=1)),
        np.mean(np.square(h).sum(axis=1)),
    ]
    np.testing.assert_allclose(moments, expected, rtol=0.2)


def test_the_weight_is_the_smallest_that_is_nearly_best():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        g, h = rng.standard_normal((2, 30))
        moments = [rng.uniform(0.2, 2), rng.uniform(0.2, 2), g @ g, g @ h, h @ h]

        def variance(share, moments=moments):
            a, b, gg, gh, hh = moments
            w = share / (1 - share) * a / b
            return (gg + 2 * w * gh + w**2 * hh) / (a + w * b) ** 2

        weight = _least_weight(moments)
        least = min(minimize_scalar(variance, bounds=(0, 1 - 1e-9), method="bounded").fun, variance(0))
        share = weight * moments[1] / (moments[0] + weight * moments[1])
        if weight == 0:
            assert variance(0) <= 1.1 * least * (1 + 1e-6)
        else:
            assert variance(share) == pytest.approx(1.1 * least, rel=1e-5)
            assert (np.diff([variance(s) for s in np.linspace(0, share, 50)]) < 0).all()  # the first such weight
            found.append(weight)
    assert len(found) > 20


def test_outputs_without_curvature_say_nothing():
    assert _least_weight([1.0, 0.0, 1.0, 0.0, 0.0]) == 0
    assert _least_weight([0.0, 1.0, 0.0, 0.0, 1.0]) == 0


def test_a_fit_takes_what_is_estimated_and_failures_count_with_the_pairs():
    X, y = separate_populations(300)
    fitted = FailureAwareIRL(random_state=0).fit(X, y)
    weight = fitted.pointwise_weight_
    assert weight > 0.2
    by_hand = FailureAwareIRL(
        pointwise_weight=weight, failure_weight=ExponentialSchedule(10 / (1 + weight), 5), random_state=0
    ).fit(X, y)
    np.testing.assert_allclose(fitted.coef_, by_hand.coef_, rtol=1e-5)
    assert fitted.history_[0]["failure_weight"] == pytest.approx(10 / (1 + weight))
    X, y = one_population(300)
    fitted = FailureAwareIRL(random_state=0).fit(X, y)
    assert fitted.pointwise_weight_ == 0
    np.testing.assert_array_equal(fitted.coef_, FailureAwareIRL(pointwise_weight=0.0, random_state=0).fit(X, y).coef_)


def test_single_outputs_are_all_there_is():
    X, y = separate_populations(100)
    assert FailureAwareIRL(random_state=0).fit(X[:, 0], y).pointwise_weight_ == 0


def test_what_is_no_weight_is_refused():
    X, y = separate_populations(50)
    with pytest.raises(
        ValueError, match="'pointwise_weight' parameter of FailureAwareIRL must be a str among {'auto'}"
    ):
        FailureAwareIRL(pointwise_weight="automatic").fit(X, y)
