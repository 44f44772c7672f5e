"""Rows: which outputs are duplicates, which pairs contradict each other, and the design effect of duplicates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairl_sk import FailureAwareIRL, MaxEntropyIRL
from fairl_sk.datasets import make_preferences
from fairl_sk.learning.rows import array_in_file, discount_duplicates, number_outputs


def with_duplicates(n_pairs=300, seed=0):
    """Pairs of which every second one has one of three outputs on its first side."""
    data = make_preferences(n_pairs, 5, noise=0.1, random_state=seed)
    X = data.data.copy()
    hub = np.random.default_rng(seed).integers(3, size=n_pairs)
    X[::2, 0] = X[hub[::2], 0]
    return X, data.target


def discounted(X, sample_weight, correlation):
    return discount_duplicates(number_outputs(np.asarray(X, dtype=float)), np.asarray(sample_weight), correlation)


# ------------------------------------------------------------------------------------------------- duplicates


@given(st.integers(0, 10**6), st.integers(10, 60), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=50, deadline=None)
def test_outputs_have_one_number_if_and_only_if_they_are_the_same(seed, n_distinct, dtype):
    rng = np.random.default_rng(seed)
    which = rng.integers(n_distinct, size=(100, 2))
    X = rng.normal(size=(n_distinct, 6))[which].astype(dtype)
    X *= (1 + 1e-7 * rng.normal(size=X.shape)).astype(dtype)
    same = which.ravel()[:, None] == which.ravel()
    numbers = number_outputs(X).ravel()
    np.testing.assert_array_equal(numbers[:, None] == numbers, same)


def test_an_output_between_two_duplicates_does_not_part_them(rng):
    """Among thousands of outputs some lie nearer to a duplicate, along any one direction, than its rounding."""
    X = np.repeat(rng.normal(size=(5000, 1, 30)), 2, axis=1) * (1 + 1e-7 * rng.normal(size=(5000, 2, 30)))
    numbers = number_outputs(X.astype(np.float32))
    np.testing.assert_array_equal(numbers[:, 0], numbers[:, 1])
    assert len(np.unique(numbers)) == 5000


def test_a_pair_counts_by_the_pairs_of_its_outputs():
    a, b, c, d, e = np.eye(5)
    X = [[a, b], [c, a], [a, d], [d, e]]  # a is in three pairs, d in two, the others in one
    np.testing.assert_allclose(discounted(X, [1.0, 1, 2, 1], 0.5), [1 / 2, 1 / 2, 2 / 2.5, 1 / 1.5])


@pytest.mark.parametrize(
    "pairs", ["ab ab ba ac", "ab ba aa bb"], ids=["copies and weight 0", "contradictions and identical sides"]
)
def test_what_is_no_other_pair_is_no_duplicate(pairs):
    outputs = dict(zip("abc", np.eye(3), strict=True))
    X = [[outputs[side] for side in pair] for pair in pairs.split()]
    weight = [1.0, 1, 1, 0]
    np.testing.assert_array_equal(discounted(X, weight, 1.0), weight)


@given(st.floats(0, 1), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_copy_is_weight_2_and_a_design_effect_only_lowers(correlation, seed):
    X, _ = with_duplicates(60, seed)
    twice = np.random.default_rng(seed).random(60) < 0.3
    weighted = discounted(X, 1.0 + twice, correlation)
    copied = discounted(np.concatenate([X, X[twice]]), np.ones(60 + twice.sum()), correlation)
    np.testing.assert_allclose(weighted, copied[:60] * (1 + twice))
    assert (weighted <= 1 + twice).all()
    unlike = make_preferences(60, 5, random_state=0).data
    np.testing.assert_array_equal(discounted(unlike, np.ones(60), correlation), np.ones(60))


@pytest.mark.parametrize("objective", ["max_margin", "max_entropy"])
def test_a_fit_with_a_correlation_is_a_fit_with_discounted_weights(objective):
    X, y = with_duplicates()
    found = FailureAwareIRL(objective, recurrence_correlation=0.5).fit(X, y)
    weighted = FailureAwareIRL(objective, recurrence_correlation=0)
    same = weighted.fit(X, y, sample_weight=discounted(X, np.ones(len(X)), 0.5)).coef_
    np.testing.assert_allclose(found.coef_, same, rtol=1e-6)
    assert np.abs(found.coef_ - weighted.fit(X, y).coef_).max() > 1e-3
    outputs = [FailureAwareIRL(recurrence_correlation=share).fit(X[:, 0], y).coef_ for share in (0.0, 1.0)]
    np.testing.assert_array_equal(*outputs)  # single outputs are in no pair


# -------------------------------------------------------------------------------------------- contradictions


def test_contradictory_pairs_are_counted(preferences):
    X, y = preferences.data, preferences.target
    with pytest.warns(UserWarning, match="6 of 503 pairs contradict another pair.*first row 0"):
        MaxEntropyIRL().fit(np.concatenate([X, X[:3, ::-1]]), np.append(y, y[:3]))


def test_pairs_with_equal_sides_are_warned_of_above_one_percent(preferences):
    X = preferences.data.copy()
    X[: len(X) // 100, 1] = X[: len(X) // 100, 0]
    MaxEntropyIRL(random_state=0).fit(X, preferences.target)
    X[:50, 1] = X[:50, 0]
    with pytest.warns(
        UserWarning, match="50 of 500 pairs have the same features on both sides, first row 0: they teach"
    ):
        MaxEntropyIRL(random_state=0).fit(X, preferences.target)


def test_identical_sides_and_pairs_of_no_weight_contradict_nothing(preferences):
    """Warnings are errors in this suite."""
    X, y, weight = preferences.data.copy(), preferences.target.copy(), np.ones(500)
    X[:4, 1] = X[:4, 0]
    X[2:4], y[:4] = X[:2], [0, 1, 1, 0]  # the same output on both sides, with either label
    X[5], y[5], weight[5] = X[4, ::-1], y[4], 0.0
    MaxEntropyIRL().fit(X, y, sample_weight=weight)


def test_a_full_disk_is_named(monkeypatch):
    """/dev/full refuses what is written to it."""
    monkeypatch.setattr("fairl_sk.learning.rows.TemporaryFile", lambda: open("/dev/full", "wb"))
    with pytest.raises(OSError, match="There is no room for 0.0 GB of features in .*No space left.*Set .* TMPDIR"):
        array_in_file([np.ones((2, 3))], float, (2, 3))
