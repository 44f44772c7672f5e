"""Detectors, and a sample that depends on what the pairs are and not on where they stand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairl_sk.failures import (
    ConfirmedFailures,
    LabelFailures,
    MarginFailures,
    Round,
    content_keys,
    find_failures,
    pair_keys,
    sample_failures,
)


def a_round(margins, rewards=None, labels=None, threshold=0.0):
    return Round(0, 0.0, threshold, np.asarray(margins, dtype=float), lambda: np.asarray(rewards), labels)


def test_failures_by_margin_are_at_or_below_the_threshold():
    state = a_round([-1.0, 0.5, 0.5000001, 2.0], threshold=0.5)
    assert MarginFailures().detect(state).tolist() == [True, True, False, False]


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
