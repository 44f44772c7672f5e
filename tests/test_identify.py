"""Feasible rewards against closed forms, brute force and the theorem; ambiguity against a general convex solver."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from scipy.spatial import ConvexHull, HalfspaceIntersection
from scipy.stats import kstest
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairl_sk import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL, PairTransformer, identify
from fairl_sk.datasets import make_preferences
from fairl_sk.diagnosis.feasible import FeasibleRewards, ambiguity
from fairl_sk.pairs import stack_outputs

few = settings(deadline=None, derandomize=True, database=None, max_examples=30)


def square(low=1.0, high=3.0, second=None):
    """The rewards with both weights between low and high (the second from ``second``)."""
    return FeasibleRewards(np.eye(2), [low, low if second is None else second], high)


def triangle():
    """The triangle with the corners (0, 0), (3, 0) and (0, 4), sides 3, 4 and 5."""
    return FeasibleRewards([[1.0, 0.0], [0.0, 1.0], [-4.0, -3.0]], [0.0, 0.0, -12.0], 10.0)


def random_sets(seed, *, strictness=2.0, factor=None):
    """(standard, failure-aware) sets of a random instance: feasible, degenerate or empty."""
    rng = np.random.default_rng(seed)
    n_pairs, n_features = int(rng.integers(1, 25)), int(rng.integers(1, 6))
    differences = rng.normal(size=(n_pairs, n_features))
    if rng.random() < 0.8:  # a reward that orders all pairs exists
        differences *= np.sign(differences @ rng.normal(size=n_features))[:, None]
    if rng.random() < 0.3:
        differences[rng.integers(n_pairs)] = differences[0] * rng.choice([1.0, 3.0])
    failures = rng.random(n_pairs) < 0.4
    failures[rng.integers(n_pairs)] = True
    required = np.ones(n_pairs)
    smallest = FeasibleRewards(differences, required, 1.0).smallest_bound()
    factor = rng.choice([0.5, 1.0, 2.0, 10.0]) if factor is None else factor
    bound = factor * smallest if np.isfinite(smallest) else 5.0
    aware = np.where(failures, strictness, required)
    return FeasibleRewards(differences, required, bound), FeasibleRewards(differences, aware, bound)


def halfspaces(rewards):
    """scipy's rows A x + b <= 0 of the set."""
    eye, ones = np.eye(rewards.differences.shape[1]), np.full((rewards.differences.shape[1], 1), -rewards.bound)
    pairs = np.hstack([-rewards.differences, rewards.required[:, None]])
    return np.vstack([pairs, np.hstack([eye, ones]), np.hstack([-eye, ones])])


def corners(rewards):
    return HalfspaceIntersection(halfspaces(rewards), rewards.chebyshev().centre).intersections


# -------------------------------------------------------------------------------------------- closed forms


def test_a_square():
    rewards = square()
    ball = rewards.chebyshev()
    np.testing.assert_allclose(ball.centre, [2.0, 2.0])
    assert ball.radius == pytest.approx(1.0)
    assert rewards.width([5.0, 0.0]) == pytest.approx(2.0)
    assert rewards.width([1.0, 1.0]) == pytest.approx(2 * np.sqrt(2))
    np.testing.assert_allclose(rewards.reward_range([[1.0, -1.0], [2.0, 0.0], [0.0, 0.0]]), [[-2, 2], [2, 6], [0, 0]])
    np.testing.assert_allclose(rewards.reward_range([[[1.0, 1.0], [0.0, 1.0]]]), [[1, 3]])
    assert rewards.smallest_bound() == pytest.approx(1.0)
    assert repr(rewards) == "FeasibleRewards(2 pairs, 2 features, bound=3)"


def test_a_right_angled_triangle_of_sides_3_4_5_has_the_inradius_1():
    ball = triangle().chebyshev()
    assert ball.radius == pytest.approx(1.0)
    np.testing.assert_allclose(ball.centre, [1.0, 1.0])
    np.testing.assert_allclose([triangle().width(axis) for axis in np.eye(2)], [3.0, 4.0])
    assert triangle().width([4.0, 3.0]) == pytest.approx(12 / 5)  # the height on the longest side


def test_membership_is_the_two_inequalities(rng):
    rewards = square()
    theta = rng.uniform(0, 4, size=(200, 2))
    expected = ((theta >= 1) & (theta <= 3)).all(axis=1)
    np.testing.assert_array_equal(rewards.contains(theta), expected)
    assert rewards.contains([1.0, 3.0]) is True
    assert rewards.contains([1.0, 3.1]) is False
    assert rewards.contains([0.9, 3.0], tol=0.1)


def test_the_slice_at_a_mean_margin():
    part = square().at_mean_margin(2.0)  # of the square, the diagonal from (1, 3) to (3, 1)
    np.testing.assert_allclose(part.reward_range([[1.0, 0.0], [1.0, 1.0], [1.0, -1.0]]), [[1, 3], [4, 4], [-2, 2]])
    assert part.chebyshev().radius == pytest.approx(0.0, abs=1e-9)
    assert part.issubset(square())
    assert not square().issubset(part)


@pytest.mark.parametrize("required", [1.0, 2.0])
def test_two_opposite_pairs_fall_short_by_their_required_margin(required):
    rewards = FeasibleRewards([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], required, 5.0)
    slack = rewards.slack()
    assert slack.amount == pytest.approx(required)
    np.testing.assert_array_equal(slack.conflict, [0, 1])
    assert rewards.smallest_bound() == np.inf
    with pytest.raises(ValueError, match=r"slack is [12]; the pairs in conflict: rows \[0, 1\].*No bound helps"):
        rewards.chebyshev()
    assert not rewards.relax(0.99 * required).contains(slack.reward)
    assert rewards.relax(required).contains(slack.reward)
    assert rewards.relax(1.01 * required).chebyshev().radius > 0


def test_a_bound_that_is_too_small_is_named_with_the_one_that_suffices():
    rewards = FeasibleRewards([[2.0, 0.0], [0.0, 1.0]], 3.0, 1.0)
    assert rewards.slack().amount == pytest.approx(2.0)  # the second margin is 1 at most
    np.testing.assert_array_equal(rewards.slack().conflict, [1])
    with pytest.raises(ValueError, match=r"margins of 3\..*smallest slack is 2;.*Raise bound to at least 3,.*relax"):
        rewards.reward_range(np.ones((1, 2)))
    assert FeasibleRewards(rewards.differences, 3.0, 3.0001).chebyshev().radius > 0
    assert rewards.slack().amount == pytest.approx(FeasibleRewards(rewards.differences * 10, 30.0, 1.0).slack()[0] / 10)


def test_identical_outputs_have_no_reward_that_parts_them():
    rewards = FeasibleRewards([[0.0, 0.0], [1.0, 1.0]], 1.0, 5.0)
    np.testing.assert_array_equal(rewards.slack().conflict, [0])
    assert not rewards.contains([1.0, 1.0])
    assert FeasibleRewards([[0.0, 0.0]], 0.0, 1.0).chebyshev().radius == pytest.approx(1.0)  # 0 is enough: the box
    assert FeasibleRewards([[0.0, 0.0]], 0.0, 1.0).smallest_bound() == 0.0


def test_the_unit_of_features_and_rewards_changes_nothing_else():
    for unit in (1e-6, 1e6):
        rewards = FeasibleRewards(np.eye(2) * unit, 1.0, 3.0 / unit)
        assert rewards.chebyshev().radius * unit == pytest.approx(1.0)
        assert rewards.smallest_bound() * unit == pytest.approx(1.0)
        rewards = FeasibleRewards(np.eye(2), unit, 3.0 * unit)
        np.testing.assert_allclose(rewards.reward_range(np.eye(2)) / unit, [[1, 3], [1, 3]])


# --------------------------------------------------------------------------------------------- brute force


@few
@given(st.integers(0, 10_000))
def test_ranges_are_those_of_the_corners(seed):
    rewards, _ = random_sets(seed, factor=5.0)
    assume(2 <= rewards.differences.shape[1] <= 4 and np.isfinite(rewards.smallest_bound()))
    ball = rewards.chebyshev()
    points = corners(rewards)
    outputs = np.random.default_rng(seed).normal(size=(3, points.shape[1]))
    values = points @ outputs.T
    expected = np.stack([values.min(axis=0), values.max(axis=0)], axis=1)
    np.testing.assert_allclose(rewards.reward_range(outputs), expected, rtol=1e-5, atol=1e-5 * rewards.bound)
    distances = -halfspaces(rewards) @ np.append(ball.centre, 1.0)
    nearest = (distances / np.linalg.norm(halfspaces(rewards)[:, :-1], axis=1)).min()
    assert ball.radius == pytest.approx(nearest, rel=1e-5)  # the ball touches, and no ball is larger:
    others = np.random.default_rng(seed).dirichlet(np.ones(len(points)), size=200) @ points
    distances = -(np.hstack([others, np.ones((200, 1))]) @ halfspaces(rewards).T)
    assert (distances / np.linalg.norm(halfspaces(rewards)[:, :-1], axis=1)).min(axis=1).max() <= ball.radius * 1.0001
    assert rewards.width(outputs[0]) >= 2 * ball.radius * (1 - 1e-6)


@few
@given(st.integers(0, 10_000))
def test_the_ends_of_ranges_are_reached_within_the_set_and_not_beyond(seed):
    rewards, _ = random_sets(seed, factor=3.0)
    assume(np.isfinite(rewards.smallest_bound()))
    row = np.random.default_rng(seed).normal(size=rewards.differences.shape[1])
    low, high = rewards.reward_range(row[None])[0]
    for value in (low, high):  # the row as a pair of the set: required margins up to the end can be met, no higher
        for sign, end in ((1.0, high), (-1.0, -low)):
            grown = FeasibleRewards(
                np.vstack([rewards.differences, sign * row]), np.append(rewards.required, end), rewards.bound
            )
            size = np.linalg.norm(row) * rewards.bound
            assert grown.relax(1e-5 * size).slack().amount == 0
            assert grown.slack().amount <= 1e-5 * size
            beyond = FeasibleRewards(grown.differences, np.append(rewards.required, end + 0.1 * size), rewards.bound)
            assert beyond.slack().amount > 0
        assert low <= value <= high


def test_growing_programs_give_the_result_of_whole_ones(rng, monkeypatch):
    differences = rng.normal(size=(400, 6))
    differences *= np.sign(differences @ np.ones(6))[:, None]
    outputs = rng.normal(size=(3, 6))

    def measured():
        rewards = FeasibleRewards(differences, 1.0, 500.0)
        found = [rewards.smallest_bound(), rewards.chebyshev().radius, *rewards.reward_range(outputs).ravel()]
        broken = FeasibleRewards(np.vstack([differences, -differences[7]]), 1.0, 500.0)
        slack = broken.slack()
        alone = FeasibleRewards(broken.differences[slack.conflict], 1.0, 500.0)  # no other pair is needed for it
        assert alone.slack().amount == pytest.approx(slack.amount)
        return [*found, slack.amount, broken.smallest_bound()]

    whole = measured()
    monkeypatch.setattr(identify, "_ALL_AT_ONCE", 10)
    np.testing.assert_allclose(measured(), whole, rtol=1e-5)


# --------------------------------------------------------------------------------------------- the theorem


def test_the_inclusion_holds_in_every_random_instance_and_strictly_unless_the_margins_are_implied():
    kinds = {"strict": 0, "equal": 0, "aware empty": 0, "both empty": 0}
    for seed in range(200):
        standard, aware = random_sets(seed)
        assert aware.issubset(standard)
        witness = standard.witness(aware)
        # Strict exactly where the standard set has a reward whose margin of a failure is below the stricter one:
        # checked by linprog itself, in the plain variables.
        if standard.slack().amount > 0:
            assert witness is None
            assert aware.slack().amount > 0
            kinds["both empty"] += 1
            continue
        strict = witness is not None
        if seed < 60:
            failures = aware.required > standard.required
            limits = {
                "A_ub": -standard.differences,
                "b_ub": -standard.required,
                "bounds": (-standard.bound, standard.bound),
            }
            smallest = [linprog(row, **limits) for row in standard.differences[failures]]
            assert strict == any(result.fun < 2.0 - 1e-4 for result in smallest if result.status == 0)
        if strict:
            assert standard.contains(witness)
            assert not aware.contains(witness)
            kinds["aware empty" if aware.slack().amount > 0 else "strict"] += 1
        else:
            kinds["equal"] += 1
    assert min(kinds.values()) > 0, kinds
    assert 200 - kinds["both empty"] >= 100


def test_a_failure_whose_stricter_margin_others_imply_does_not_shrink_the_set():
    differences = np.array([[1.0, 0.0], [3.0, 0.0]])
    standard = FeasibleRewards(differences, 1.0, 5.0)
    aware = FeasibleRewards(differences, [1.0, 2.0], 5.0)
    assert standard.witness(aware) is None
    assert standard.issubset(aware)
    assert standard.chebyshev().radius == aware.chebyshev().radius


def test_a_reward_of_the_set_that_finds_the_failures_is_a_witness(rng):
    """Strictness where failures are found by the margin of a reward in the set: that reward is left out."""
    for seed in range(20):
        standard, _ = random_sets(seed, factor=4.0)
        if not np.isfinite(standard.smallest_bound()):
            continue
        reward = standard.reward_range(standard.differences[:1])  # any query: the set has a reward
        assert np.isfinite(reward).all()
        theta = standard.chebyshev().centre
        margins = standard.differences @ theta
        failures = margins <= np.quantile(margins, 0.2)
        required = np.where(failures, 1.01 * margins[failures].max(), standard.required)
        aware = FeasibleRewards(standard.differences, np.maximum(required, standard.required), standard.bound)
        assert not aware.contains(theta)
        assert standard.witness(aware) is not None


@few
@given(st.integers(0, 10_000), st.floats(1.01, 3.0), st.floats(1.01, 3.0))
def test_the_stricter_the_smaller(seed, first, second):
    standard, aware = random_sets(seed, strictness=first, factor=12.0)
    assume(np.isfinite(standard.smallest_bound()))
    failures = aware.required > standard.required
    stricter = FeasibleRewards(standard.differences, np.where(failures, first * second, 1.0), standard.bound)
    row = np.random.default_rng(seed).normal(size=(1, standard.differences.shape[1]))
    sets = (standard, aware, stricter)
    tol = 1e-5 * standard.bound
    radii = [rewards.chebyshev().radius for rewards in sets]
    widths = [rewards.width(row[0]) for rewards in sets]
    assert radii[0] + tol >= radii[1] >= radii[2] - tol
    assert widths[0] + tol >= widths[1] >= widths[2] - tol
    assert stricter.issubset(aware)


def test_a_smaller_bound_gives_a_witness_too():
    assert square(high=3.0).issubset(square(high=4.0))
    witness = square(high=4.0).witness(square(high=3.0))
    assert square(high=4.0).contains(witness)
    assert witness.max() > 3.0
    assert square(high=4.0).witness(FeasibleRewards(np.eye(2)[:1], 1.0, 4.0)) is None  # fewer pairs


# ------------------------------------------------------------------------------------------------ sampling


def test_samples_are_even_over_a_square():
    draws = square().sample(4000, random_state=0)
    assert draws.shape == (4000, 2)
    thinned = draws[::4]  # nearly independent
    for axis in (np.array([1.0, 0.0]), np.array([0.0, 1.0])):
        assert kstest((thinned @ axis - 1) / 2, "uniform").pvalue > 1e-3
    counts = np.histogram2d(*draws.T, bins=4, range=[[1, 3]] * 2)[0]
    assert np.abs(counts / 4000 - 1 / 16).max() < 0.02
    np.testing.assert_array_equal(square().sample(100, random_state=1), square().sample(100, random_state=1))
    assert square().contains(draws).all()


def test_samples_of_a_long_thin_triangle_have_its_mean_and_covariance():
    rewards = FeasibleRewards([[1.0, 0.0], [0.0, 1.0], [-1.0, -1000.0]], [0.0, 0.0, -1.0], 10.0)  # (1, 0), (0, 0.001)
    draws = rewards.sample(6400, random_state=0) * [1.0, 1000.0]
    np.testing.assert_allclose(draws.mean(axis=0), [1 / 3, 1 / 3], atol=0.015)
    np.testing.assert_allclose(np.cov(draws.T), np.array([[2, -1], [-1, 2]]) / 36, atol=0.005)


@pytest.mark.parametrize("second, ratio", [(2.0, 0.5), (2.9, 0.05), (2.998, 0.001)])
def test_ratios_of_areas(second, ratio):
    found = square().volume_ratio(square(second=second), n_samples=3200, random_state=0)
    assert found.low <= ratio <= found.high
    assert found.ratio == pytest.approx(ratio, rel=0.2)


def test_ratios_of_volumes_by_the_corners():
    for seed in (2, 5, 8):
        standard, aware = random_sets(seed, strictness=1.5, factor=6.0)
        if not 2 <= standard.differences.shape[1] <= 4 or not np.isfinite(standard.smallest_bound()):
            continue
        exact = ConvexHull(corners(aware)).volume / ConvexHull(corners(standard)).volume
        found = standard.volume_ratio(aware, n_samples=3200, random_state=seed)
        width = found.high - found.low
        assert found.low - width / 2 <= exact <= found.high + width / 2


def test_intervals_cover_the_ratio_about_as_often_as_they_say():
    hits = 0
    for seed in range(30):
        found = square().volume_ratio(square(second=2.6), n_samples=640, random_state=seed)
        hits += found.low <= 0.2 <= found.high
    assert hits >= 25


def test_ratios_that_are_exact():
    assert square().volume_ratio(square()) == (1.0, 1.0, 1.0)
    assert square().volume_ratio(square(second=3.0)) == (0.0, 0.0, 0.0)  # a line has no area
    assert square().volume_ratio(square(low=4.0, high=5.0)) == (0.0, 0.0, 0.0)
    small = square(high=2.0)
    assert square().volume_ratio(small, random_state=0).ratio == pytest.approx(0.25, rel=0.15)
    assert small.volume_ratio(square()).ratio == 1.0


# ----------------------------------------------------------------------------- pairs, estimators, bad input


def test_pairs_with_sides_and_labels_turned_give_the_same_set(preferences):
    X, y = preferences.data, preferences.target
    failures = np.arange(len(X)) % 5 == 0
    rewards = FeasibleRewards.from_pairs(X, y, margin=0.5, failures=failures, margin_fail=2.0, bound=3.0)
    turned = FeasibleRewards.from_pairs(X[:, ::-1], 1 - y, margin=0.5, failures=failures, margin_fail=2.0, bound=3.0)
    np.testing.assert_allclose(turned.differences, rewards.differences)
    np.testing.assert_array_equal(np.unique(rewards.required, return_counts=True), [[0.5, 2.0], [400, 100]])


def test_the_set_of_an_estimator(preferences):
    X, y = preferences.data, preferences.target
    aware = FailureAwareIRL.paper(random_state=0).fit(X, y)
    rewards = FeasibleRewards.from_estimator(aware, X, y)
    margins = aware.decision_function(X) * np.where(y == 1, 1, -1)
    threshold = aware.history_[-1]["failure_threshold"]
    clear = np.abs(margins - threshold) > 1e-9
    np.testing.assert_array_equal(rewards.required[clear], np.where(margins <= threshold, 2.0, 1.0)[clear])
    assert 0 < (rewards.required == 2.0).mean() < 1
    assert rewards.bound == pytest.approx(2 * np.abs(aware.coef_).max())
    with pytest.raises(ValueError, match=r"smallest slack is .* No bound helps, since pairs contradict"):
        rewards.chebyshev()
    relaxed = rewards.relax(1.01 * rewards.slack().amount)
    assert relaxed.chebyshev().radius > 0
    standard = FeasibleRewards.from_estimator(aware, X, y, failures=np.zeros(len(X), dtype=bool), bound=7.0)
    assert (set(standard.required), standard.bound) == ({1.0}, 7.0)
    for name in ("near_ties", "sign"):
        aware.set_params(failures=name).fit(X, y)
        margins = aware.decision_function(X) * np.where(y == 1, 1, -1)
        preferred, other = np.where(
            y == 1, (of := aware.decision_function(stack_outputs(X)).reshape(-1, 2)).T, of.T[::-1]
        )
        failing = {"near_ties": np.abs(margins) <= threshold, "sign": (preferred <= 0) | (other > 0)}[name]
        rewards = FeasibleRewards.from_estimator(aware, X, y)
        np.testing.assert_array_equal(rewards.required[clear], np.where(failing, 2.0, 1.0)[clear])
    plain = FeasibleRewards.from_estimator(MaxMarginIRL(margin=3.0).fit(X, y), X, y)
    assert set(plain.required) == {3.0}


def test_the_set_of_a_pipeline(preferences):
    X, y = preferences.data, preferences.target
    pipeline = make_pipeline(PairTransformer(PCA(3)), MaxMarginIRL(random_state=0)).fit(X, y)
    features = pipeline[:-1].transform(X)
    expected = FeasibleRewards.from_estimator(pipeline[-1], features, y)
    np.testing.assert_array_equal(FeasibleRewards.from_estimator(pipeline, X, y).differences, expected.differences)
    found = ambiguity(pipeline, X, y, outputs=X[:4, 0], random_state=0)
    same = ambiguity(pipeline[-1], features, y, outputs=features[:4, 0], random_state=0)
    np.testing.assert_allclose(found.high, same.high)
    alone = make_pipeline(MaxMarginIRL(random_state=0)).fit(X, y)
    assert FeasibleRewards.from_estimator(alone, X, y).differences.shape == (500, 8)


PAIRS = np.random.default_rng(0).normal(size=(10, 2, 3))
MASK = np.arange(10) < 2
BAD_SETS = [
    (dict(bound=0.0), r"bound=0.0. Expected a finite number above 0"),
    (dict(bound=np.inf), r"bound=inf. Expected a finite number above 0"),
    (dict(bound=True), r"bound=True"),
    (dict(bound=1.0, margin=-1.0), r"margin=-1.0. Expected"),
    (dict(bound=1.0, failures=MASK), r"failures without margin_fail. Expected .* 2 \* margin"),
    (dict(bound=1.0, failures=MASK, margin_fail=1.0), r"margin_fail=1 and margin=1. Expected margin_fail > margin"),
    (dict(bound=1.0, margin_fail=0.5), r"margin_fail=0.5 and margin=1"),
    (dict(bound=1.0, failures=MASK[:5], margin_fail=2.0), r"shape \(5,\) and type bool. Expected one bool for each"),
    (dict(bound=1.0, failures=[0, 1], margin_fail=2.0), r"type int64. Expected one bool for each of the 10"),
    (dict(bound=1.0, y=[1, 0]), r"Found 2 labels for 10 rows"),
    (dict(bound=1.0, X=PAIRS[:, 0]), r"Found outputs, X of shape \(10, 3\). Expected pairs"),
    (dict(bound=1.0, X=np.where(PAIRS > 1, np.nan, PAIRS)), r"contains NaN"),
    (dict(bound=1.0, X=[["a", "b"]]), r"X holds text"),
]


@pytest.mark.parametrize("arguments, message", BAD_SETS)
def test_bad_pairs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeasibleRewards.from_pairs(arguments.pop("X", PAIRS), **arguments)


@pytest.mark.parametrize(
    "differences, required, message",
    [
        (np.zeros(3), 1.0, r"differences of shape \(3,\). Expected finite numbers, shape \(n_pairs, n_features\)"),
        (np.zeros((0, 3)), 1.0, r"differences of shape \(0, 3\)"),
        ([[np.inf]], 1.0, r"values that are not finite"),
        (np.eye(2), [1.0, 2.0, 3.0], r"required margins of shape \(3,\). Expected a finite number, or one for each"),
        (np.eye(2), [1.0, np.nan], r"required margins .* not finite"),
    ],
)
def test_bad_differences_are_refused(differences, required, message):
    with pytest.raises(ValueError, match=message):
        FeasibleRewards(differences, required, 1.0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: s.contains([1.0, 2.0, 3.0]), r"theta of shape \(3,\). Expected finite weights, shape \(2,\)"),
        (lambda s: s.contains([1.0, np.nan]), r"theta .* not finite"),
        (lambda s: s.width([0.0, 0.0]), r"length 0. Expected one direction"),
        (lambda s: s.width(np.eye(2)), r"Expected one direction, shape \(2,\)"),
        (lambda s: s.reward_range(np.ones((1, 3))), r"X of shape \(1, 3\)"),
        (lambda s: s.relax(-1.0), r"amount=-1.0. Expected a finite number of at least 0"),
        (lambda s: s.at_mean_margin(np.nan), r"value=nan. Expected a finite number\."),
        (lambda s: s.at_mean_margin(2.0).sample(10), r"flat: it has rewards, but no volume"),
        (lambda s: s.at_mean_margin(99.0).chebyshev(), r"The smallest slack is"),
        (lambda s: s.sample(0), r"n_samples=0. Expected a whole number above 0"),
        (lambda s: s.witness(3), r"Found 3. Expected FeasibleRewards of 2 features"),
        (lambda s: s.volume_ratio(FeasibleRewards(np.eye(3), 1.0, 2.0)), r"Expected FeasibleRewards of 2 features"),
        (
            lambda s: FeasibleRewards(np.eye(11), 1.0, 2.0).sample(5),
            r"Found 11 features. Expected at most 10 .*\(PCA\)",
        ),
    ],
)
def test_bad_questions_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(square())


def test_programs_that_fail_say_so(monkeypatch):
    class Failed:
        status, message = 4, "Numerical difficulties."

    monkeypatch.setattr(identify, "linprog", lambda *args, **options: Failed())
    with pytest.raises(RuntimeError, match=r"HiGHS gave no solution: Numerical difficulties. Scale the features"):
        square().chebyshev()


# ----------------------------------------------------------------------------------------------- ambiguity


@pytest.fixture(scope="module")
def noisy():
    return make_preferences(150, 4, noise=0.1, random_state=0)


def largest_reward(estimator, loss, data, output, tolerance):
    """The largest reward of an output (centred features) by a general solver, from several starts."""
    differences = (data.data[:, 0] - data.data[:, 1]) * np.where(data.target == 1, 1, -1)[:, None]
    theta, mean = estimator.coef_, differences.mean(axis=0)

    def objective(weights):
        return loss(differences @ weights).mean() + estimator.alpha * weights @ weights

    budget = objective(theta) + tolerance * loss(np.zeros(1))[0]
    constraints = [
        {"type": "ineq", "fun": lambda weights: budget - objective(weights)},
        {"type": "eq", "fun": lambda weights: (weights - theta) @ mean},
    ]
    result = minimize(lambda w: -(w @ output), theta, jac=lambda w: -output, constraints=constraints, method="SLSQP")
    assert result.success
    return result.x @ output


@pytest.mark.parametrize("tolerance", [0.003, 0.03])
def test_ranges_of_max_entropy_are_those_of_a_general_solver(noisy, tolerance):
    reward = MaxEntropyIRL(temperature=0.7, tol=1e-8, random_state=0).fit(noisy.data, noisy.target)
    found = ambiguity(reward, noisy.data, noisy.target, tolerance=tolerance, max_outputs=3, random_state=0)
    outputs = noisy.data.reshape(-1, 4)
    centred = outputs - outputs.mean(axis=0)
    unit = (centred @ reward.coef_).std()
    for row, low, high in zip(found.rows, found.low, found.high, strict=True):
        ends = [
            sign * largest_reward(reward, lambda m: np.logaddexp(0, -m / 0.7), noisy, sign * centred[row], tolerance)
            for sign in (-1.0, 1.0)
        ]
        np.testing.assert_allclose([low, high], np.array(ends) / unit, atol=1e-3)
    assert found.explained == 1.0
    assert found.gap < 1e-3
    np.testing.assert_allclose(found.rewards, (centred @ reward.coef_)[found.rows] / unit)


def test_ranges_of_max_margin_are_those_of_the_linear_program_with_slacks(noisy):
    reward = MaxMarginIRL(random_state=0).fit(noisy.data, noisy.target)
    found = ambiguity(reward, noisy.data, noisy.target, alpha=1e-9, max_outputs=5, random_state=0)
    differences = (noisy.data[:, 0] - noisy.data[:, 1]) * np.where(noisy.target == 1, 1, -1)[:, None]
    outputs = noisy.data.reshape(-1, 4)
    centred = outputs - outputs.mean(axis=0)
    unit = (centred @ reward.coef_).std()
    n = len(differences)
    budget = np.maximum(0, 1 - differences @ reward.coef_).mean() + 0.01
    program = {
        "A_ub": np.vstack([np.hstack([-differences, -np.eye(n)]), np.append(np.zeros(4), np.full(n, 1 / n))]),
        "b_ub": np.append(-np.ones(n), budget),
        "A_eq": np.append(differences.mean(axis=0), np.zeros(n))[None],
        "b_eq": [differences.mean(axis=0) @ reward.coef_],
        "bounds": [(None, None)] * 4 + [(0, None)] * n,
    }
    for row, low, high in zip(found.rows, found.low, found.high, strict=True):
        cost = np.append(centred[row], np.zeros(n))
        ends = np.array([linprog(cost, **program).fun, -linprog(-cost, **program).fun]) / unit
        slack = found.gap + 1e-3
        assert ends[0] - 1e-4 <= low <= ends[0] + slack
        assert ends[1] - slack <= high <= ends[1] + 1e-4
    assert found.gap < 0.02


def test_what_the_pairs_do_not_show_is_open():
    data = make_preferences(200, 3, noise=0.1, random_state=0)
    X = np.concatenate([data.data, np.zeros((200, 2, 1))], axis=2)  # in the pairs the last feature never differs
    outputs = np.concatenate([X[:20, 0], np.eye(4)[3:] * 3.0])
    reward = MaxEntropyIRL(random_state=0).fit(X, data.target)
    found = ambiguity(reward, X, data.target, outputs=outputs)
    widths = found.high - found.low
    assert widths.argmax() == 20
    assert found.open[20] > 0.9
    assert np.median(found.open[:20]) < 0.5
    wider = ambiguity(reward, X, data.target, outputs=outputs, alpha=1e-4)
    assert wider.high[20] - wider.low[20] > 2 * widths[20]


def test_more_pairs_more_tolerance_and_stricter_failures(noisy):
    def mean_width(data, **options):
        reward = MaxEntropyIRL(random_state=0).fit(data.data, data.target)
        found = ambiguity(reward, data.data, data.target, outputs=noisy.data[:10], **options)
        return (found.high - found.low).mean()

    more = make_preferences(3000, 4, noise=0.1, random_state=0)
    assert mean_width(more, tolerance=1 / 3000) < 0.5 * mean_width(noisy, tolerance=1 / 150)
    assert mean_width(noisy, tolerance=0.04) > 1.5 * mean_width(noisy, tolerance=0.01)
    aware = FailureAwareIRL("max_entropy", random_state=0).fit(noisy.data, noisy.target)
    none = np.zeros(150, dtype=bool)
    strict = ambiguity(aware, noisy.data, noisy.target, max_outputs=10, random_state=0)
    plain = ambiguity(aware, noisy.data, noisy.target, max_outputs=10, random_state=0, failures=none)
    assert not np.allclose(strict.high, plain.high)


def test_failures_are_those_of_the_fit(noisy):
    """Whatever the parameters say by now; and none, where none was sampled."""
    X, y, options = noisy.data, noisy.target, {"max_outputs": 5, "random_state": 0}
    aware = FailureAwareIRL(random_state=0).fit(X, y)
    before = ambiguity(aware, X, y, **options)
    np.testing.assert_array_equal(ambiguity(aware.set_params(max_iter=10), X, y, **options).high, before.high)
    standard = FailureAwareIRL(failure_weight=0, random_state=0).fit(X, y)
    none = ambiguity(standard, X, y, failures=np.zeros(len(X), dtype=bool), **options)
    np.testing.assert_array_equal(ambiguity(standard, X, y, **options).high, none.high)


def test_fewer_directions_give_lower_bounds(noisy):
    reward = MaxMarginIRL(random_state=0).fit(noisy.data, noisy.target)
    full = ambiguity(reward, noisy.data, noisy.target, max_outputs=8, random_state=0)
    part = ambiguity(reward, noisy.data, noisy.target, max_outputs=8, random_state=0, n_components=2)
    assert part.explained < full.explained == 1.0
    assert (part.high - part.low <= full.high - full.low + 2 * full.gap).all()
    np.testing.assert_array_equal(part.rows, full.rows)
    alone = ambiguity(reward, noisy.data, noisy.target, max_outputs=8, random_state=0, n_components=1)
    np.testing.assert_allclose(alone.high, alone.low)  # the mean margin leaves no direction


def test_one_feature_leaves_nothing_but_the_unit_open():
    data = make_preferences(50, 1, random_state=0)
    reward = MaxMarginIRL().fit(data.data, data.target)
    found = ambiguity(reward, data.data, data.target)
    assert len(found.rows) == 100
    np.testing.assert_allclose(found.low, found.high)
    assert found.gap == 0.0


def test_ranges_do_not_depend_on_the_unit_of_the_features(noisy):
    found = []
    for unit in (1.0, 1e3):
        reward = MaxEntropyIRL(alpha=1e-3 * unit**2, tol=1e-8, random_state=0).fit(noisy.data * unit, noisy.target)
        found.append(ambiguity(reward, noisy.data * unit, noisy.target, max_outputs=5, random_state=0))
    np.testing.assert_allclose(found[0].high, found[1].high, rtol=1e-3, atol=1e-3)


def test_estimators_that_have_no_answer_are_refused(noisy):
    X, y = noisy.data, noisy.target
    deep = MaxMarginIRL(hidden_layer_sizes=(4,), max_iter=2, random_state=0).fit(X, y)
    labels = FailureAwareIRL("max_margin", failures="labels", random_state=0)
    labels.fit(X, y, output_labels=np.stack([y, 1 - y], axis=1))
    linear = MaxMarginIRL(random_state=0).fit(X, y)
    for ask in (ambiguity, FeasibleRewards.from_estimator):
        with pytest.raises(NotFittedError):
            ask(MaxMarginIRL(), X, y)
        with pytest.raises(ValueError, match=r"MaxMarginIRL with no coef_. Expected .*linear heads"):
            ask(deep, X, y)
        with pytest.raises(ValueError, match=r"LogisticRegression with a coef_ of shape \(1, 4\)"):
            ask(LogisticRegression().fit(X[:, 0], y), X, y)
        with pytest.raises(ValueError, match=r"failures='labels'.* Expected the mask: pass failures"):
            ask(labels, X, y)
        with pytest.raises(ValueError, match=r"Found pairs of 2 features. Expected 4"):
            ask(linear, X[:, :, :2], y)
    assert len(ambiguity(labels, X, y, failures=y == 2, max_outputs=2).rows) == 2
    with pytest.raises(ValueError, match=r"max-entropy objective, which has no required margins. .*from_pairs"):
        FeasibleRewards.from_estimator(MaxEntropyIRL().fit(X, y), X, y)
    linear.coef_ = np.zeros(4)
    with pytest.raises(ValueError, match=r"All fitted weights are 0: lower alpha"):
        FeasibleRewards.from_estimator(linear, X, y)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(tolerance=0.0), r"tolerance=0.0. Expected a finite number above 0"),
        (dict(alpha=0.0), r"alpha=0.0. Expected"),
        (dict(n_components=1.5), r"n_components=1.5. Expected a whole number"),
        (dict(max_outputs=0), r"max_outputs=0"),
        (dict(failures=[True]), r"one bool for each of the 150 pairs"),
        (dict(outputs=np.ones((5, 4))), r"the same for all 5 outputs"),
        (dict(outputs=np.ones((1, 4))), r"the same for all 1 outputs"),
        (dict(outputs=np.ones((5, 3))), r"Found outputs of 3 features. Expected 4"),
    ],
)
def test_bad_options_are_refused(noisy, options, message):
    reward = MaxMarginIRL(random_state=0).fit(noisy.data, noisy.target)
    with pytest.raises(ValueError, match=message):
        ambiguity(reward, noisy.data, noisy.target, **options)


def test_a_reward_against_the_preferences_and_one_without_penalty_are_refused(noisy):
    reward = MaxEntropyIRL(alpha=0.0, max_iter=200, random_state=0).fit(noisy.data, noisy.target)
    with pytest.raises(ValueError, match=r"alpha=0: without a penalty .* pass alpha"):
        ambiguity(reward, noisy.data, noisy.target)
    assert len(ambiguity(reward, noisy.data, noisy.target, alpha=1e-6, max_outputs=3).rows) == 3
    with pytest.raises(ValueError, match=r"mean margin of -.* check which class of y"):
        ambiguity(reward, noisy.data, 1 - noisy.target, alpha=1e-6)


def test_scaled_features_give_the_same_as_a_pipeline_that_scales(noisy):
    pipeline = make_pipeline(PairTransformer(StandardScaler()), MaxMarginIRL(random_state=0))
    pipeline.fit(noisy.data, noisy.target)
    assert len(ambiguity(pipeline, noisy.data, noisy.target, max_outputs=3).rows) == 3


# ----------------------------------------------------------------------------------------------- benchmark


def test_the_benchmark(capsys, tmp_path):
    path = Path(__file__).parent.parent / "benchmarks" / "identify.py"
    spec = importlib.util.spec_from_file_location("bench_identify", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = module.main(size="smoke", out=tmp_path / "identify.json")
    shown = capsys.readouterr().out
    assert all(row["included"] and row["strict"] for row in rows)
    assert f"inside the standard one: {len(rows)} of {len(rows)}" in shown
    for row in rows:
        assert max(row["radius"], row["range"], row["range at one unit"]) <= 1 + 1e-6
        assert row["volume"] <= 1
    assert f"{np.median([row['radius'] for row in rows if row['strictness'] == 3.0]):.3g}" in shown
    assert len(json.loads((tmp_path / "identify.json").read_text(encoding="utf-8"))) == len(rows)
