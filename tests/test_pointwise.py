"""What single outputs should count beside pairs, estimated from the pairs."""

import numpy as np
import pytest
from fairl_sk.learning.sampling import pair_keys
from scipy.special import expit

from fairl_sk import ExponentialSchedule, FailureAwareIRL, pointwise
from fairl_sk.datasets import make_preferences
from fairl_sk.learning.pointwise import estimate_weight


def separate_populations(n_pairs=600, n_features=8, seed=0):
    """Chosen outputs drawn with weight exp(R), rejected ones uniformly: that an output was chosen tells of R."""
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal((20 * n_pairs, n_features))
    reward = 2 * outputs[:, 0] + outputs[:, 1]
    chosen = outputs[rng.choice(len(outputs), n_pairs, p=np.exp(reward) / np.exp(reward).sum())]
    rejected = outputs[rng.choice(len(outputs), n_pairs)]
    y = rng.permutation(n_pairs) % 2
    return np.where(y[:, None, None] == 1, np.stack([chosen, rejected], 1), np.stack([rejected, chosen], 1)), y


def one_population(n_pairs=600, n_features=8, seed=0):
    """Both outputs drawn alike, a fifth of the preferences flipped: the order of a pair is all that tells of R."""
    data = make_preferences(n_pairs, n_features, noise=0.2, random_state=seed)
    return data.data, data.target


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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
    data = make_preferences(600, 8, noise=0.2, random_state=0)
    informative = (data.reference_reward > 0).astype(int)
    assert estimate(data.data, data.target, labels=informative) > 0.2  # each label is a comparison with the threshold
    noise = np.random.default_rng(0).integers(0, 2, (600, 2))
    assert estimate(data.data, data.target, labels=noise) == 0


@pytest.fixture
def noisy_pairs(rng):
    """Pairs of four features whose outputs also have labels, with uneven weights, and a reward."""
    outputs, theta = rng.standard_normal((60, 2, 4)), np.array([1.0, -0.5, 0.2, 0.0])
    rewards = outputs @ theta
    flip = np.where(rng.random(60) < expit(rewards[:, 0] - rewards[:, 1]), 1, -1)
    sides = np.where(rng.random((60, 2)) < expit(rewards), 1, -1)
    return pointwise._Pairs(outputs, flip, sides, rng.uniform(0.5, 1.5, 60)), theta


def test_moments_are_those_of_the_losses_derivatives(noisy_pairs, monkeypatch):
    """By hand, pair by pair, at scales that are known: the gradients, and the curvatures by differences of them."""
    pairs, theta = noisy_pairs
    scales = iter([(1.3, 0.0), (0.7, 0.2)])
    monkeypatch.setattr(pointwise, "_logistic_scale", lambda *args, **kwargs: next(scales))
    moments = pointwise._moments(pairs, theta)
    rewards = pairs.outputs @ theta
    unit = np.sqrt(np.average(np.square(rewards).mean(axis=1), weights=pairs.weight))

    def gradient_of_pair(i, theta):
        difference = pairs.flip[i] * (pairs.outputs[i, 0] - pairs.outputs[i, 1])
        return -1.3 * expit(-1.3 * difference @ theta / unit) * difference

    def gradient_of_outputs(i, theta):
        terms = [
            -side * 0.7 * expit(-side * (0.7 * output @ theta / unit + 0.2)) * output
            for side, output in zip(pairs.sides[i], pairs.outputs[i], strict=True)
        ]
        return sum(terms) / 2

    expected, step = np.zeros((5, 4, 4)), 1e-6
    for i, weight in enumerate(pairs.weight):
        g, h = gradient_of_pair(i, theta), gradient_of_outputs(i, theta)
        for number, gradient in enumerate((gradient_of_pair, gradient_of_outputs)):
            for k, direction in enumerate(np.eye(4)):
                change = gradient(i, theta + step * direction) - gradient(i, theta - step * direction)
                expected[number, k] += weight * change * unit / (2 * step)
        expected[2:] += weight * np.stack([np.outer(g, g), np.outer(g, h), np.outer(h, h)])
    np.testing.assert_allclose(np.stack(moments), expected, rtol=1e-5, atol=1e-7)


def test_variances_are_those_of_the_sandwich(noisy_pairs):
    pairs, theta = noisy_pairs
    G, H, gg, gh, hh = pointwise._moments(pairs, theta)
    spread = pointwise._spread(pairs, theta)
    assert abs(theta @ spread @ theta) < 1e-9  # the reward's size decides on no order
    found = pointwise._variances((G, H, gg, gh, hh), spread)
    for w, value in zip(pointwise._WEIGHTS, found, strict=True):
        bread = np.linalg.inv(G + w * H + 0.05 * np.trace(G) / 4 * np.eye(4))
        assert value == pytest.approx(np.trace(spread @ bread @ (gg + w * (gh + gh.T) + w**2 * hh) @ bread))


def test_pairs_that_say_nothing_leave_outputs_without_weight(noisy_pairs):
    pairs, theta = noisy_pairs
    moments = pointwise._moments(pairs, theta)
    assert np.argmin(pointwise._variances((0 * moments[0], *moments[1:]), pointwise._spread(pairs, theta))) == 0


@pytest.mark.parametrize("size", [1, 10])
def test_what_both_outputs_of_a_pair_share_is_no_population(size):
    """As a prompt in the text: it tells nothing of the preference, however large it is."""
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X, y = one_population(800, seed=seed)
        shared = rng.standard_normal((800, 1, 2)) @ rng.standard_normal((2, 8))
        found.append(estimate(X + size * shared, y))
    assert max(found) == 0


@pytest.mark.parametrize("seed", range(3))
def test_loud_features_do_not_decide(seed):
    X, y = one_population(1000, seed=seed)
    assert estimate(X * np.r_[30.0, np.ones(7)], y) == 0
    noise = 30 * np.random.default_rng(seed).standard_normal((1000, 2, 1))
    assert estimate(np.concatenate([X, noise], axis=2), y) == 0


@pytest.mark.parametrize("seed", range(4))
def test_few_pairs_of_many_features_say_little(seed):
    data = make_preferences(100, 384, noise=0.1, random_state=seed)
    assert estimate(data.data, data.target) == 0


@pytest.mark.parametrize(
    ("least_at", "excess", "expected"),
    [
        (3, 0.24, 0.0),  # whether: pairs alone are nearly as precise
        (3, 0.26, 0.35),  # how much: the least variance, but for a fiftieth
        (0, 0.0, 0.0),
        (11, 5.0, 10.0),
    ],
)
def test_whether_outputs_count_and_how_much(monkeypatch, least_at, excess, expected):
    """Variances by hand: 1 at one weight, far above before it, 2.1 % above after it."""
    variances = np.where(np.arange(12) < least_at, 1.03 + excess, 1.021)
    variances[least_at], variances[0] = 1.0, 1.0 + excess
    monkeypatch.setattr(pointwise, "_variances", lambda *args: variances)
    assert estimate(*separate_populations(100)) == expected


def test_nearly_the_least_variance_is_enough(monkeypatch):
    variances = np.array([9.0, 3.0, 1.03, 1.019, 1.0, *[1.0] * 7])
    monkeypatch.setattr(pointwise, "_variances", lambda *args: variances)
    assert estimate(*separate_populations(100)) == 0.35


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
