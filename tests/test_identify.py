"""Feasible rewards against closed forms, brute force and the theorem; ambiguity against general solvers."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from scipy.spatial import HalfspaceIntersection
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from fairl_sk import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL, PairTransformer
from fairl_sk.datasets import make_preferences
from fairl_sk.identify import FeasibleRewards, ambiguity

few = settings(deadline=None, derandomize=True, database=None, max_examples=30)


def square(low=1.0, high=3.0, second=None):
    """The rewards with both weights between low and high (the second from ``second``)."""
    return FeasibleRewards(np.eye(2), [low, low if second is None else second], high)


def random_sets(seed, *, factor=None):
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
    smallest = FeasibleRewards(differences, 1.0, 1.0).smallest_bound()
    factor = rng.choice([0.5, 1.0, 2.0, 10.0]) if factor is None else factor
    bound = factor * smallest if np.isfinite(smallest) else 5.0
    aware = np.where(failures, 2.0, 1.0)
    return FeasibleRewards(differences, 1.0, bound), FeasibleRewards(differences, aware, bound)


def halfspaces(rewards):
    """scipy's rows A x + b <= 0 of the set."""
    eye, ones = np.eye(rewards.differences.shape[1]), np.full((rewards.differences.shape[1], 1), -rewards.bound)
    pairs = np.hstack([-rewards.differences, rewards.required[:, None]])
    return np.vstack([pairs, np.hstack([eye, ones]), np.hstack([-eye, ones])])


# ---------------------------------------------------------------------------------- closed forms and brute force


def test_a_square():
    rewards = square()
    ball = rewards.chebyshev()
    np.testing.assert_allclose(ball.center, [2.0, 2.0])
    assert ball.radius == pytest.approx(1.0)
    np.testing.assert_allclose(rewards.reward_range([[1.0, -1.0], [2.0, 0.0], [0.0, 0.0]]), [[-2, 2], [2, 6], [0, 0]])
    np.testing.assert_allclose(rewards.reward_range([[[1.0, 1.0], [0.0, 1.0]]]), [[1, 3]])
    assert rewards.smallest_bound() == pytest.approx(1.0)
    assert repr(rewards) == "FeasibleRewards(2 pairs, 2 features, bound=3)"
    assert rewards.contains([1.0, 3.0]) and not rewards.contains([1.0, 3.1]) and not rewards.contains([0.9, 3.0])


def test_the_slice_at_a_mean_margin():
    part = square().at_mean_margin(2.0)  # of the square, the diagonal from (1, 3) to (3, 1)
    np.testing.assert_allclose(part.reward_range([[1.0, 0.0], [1.0, 1.0], [1.0, -1.0]]), [[1, 3], [4, 4], [-2, 2]])
    assert part.chebyshev().radius == pytest.approx(0.0, abs=1e-9)
    assert part.issubset(square()) and not square().issubset(part)


@pytest.mark.parametrize("required", [1.0, 2.0])
def test_two_opposite_pairs_fall_short_by_their_required_margin(required):
    rewards = FeasibleRewards([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], required, 5.0)
    slack = rewards.slack()
    assert slack.amount == pytest.approx(required)
    np.testing.assert_array_equal(slack.conflict, [0, 1])
    assert rewards.smallest_bound() == np.inf
    with pytest.raises(ValueError, match=r"slack is [12]; the pairs in conflict: rows \[0, 1\].*No bound helps"):
        rewards.chebyshev()
    assert rewards.relax(0.99 * required).slack().amount > 0
    assert rewards.relax(1.01 * required).chebyshev().radius > 0


def test_a_bound_that_is_too_small_is_named_with_the_one_that_suffices():
    rewards = FeasibleRewards([[2.0, 0.0], [0.0, 1.0]], 3.0, 1.0)
    assert rewards.slack().amount == pytest.approx(2.0)  # the second margin is 1 at most
    np.testing.assert_array_equal(rewards.slack().conflict, [1])
    with pytest.raises(ValueError, match=r"margins of 3\..*smallest slack is 2;.*Raise bound to at least 3,.*relax"):
        rewards.reward_range(np.ones((1, 2)))
    assert FeasibleRewards(rewards.differences, 3.0, 3.0001).chebyshev().radius > 0
    same = FeasibleRewards([[0.0, 0.0], [1.0, 1.0]], 1.0, 5.0)  # no reward parts identical outputs
    np.testing.assert_array_equal(same.slack().conflict, [0])


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_features_and_of_rewards_cancel(unit):
    rewards = FeasibleRewards(np.eye(2) * unit, 1.0, 3.0 / unit)
    assert (rewards.chebyshev().radius * unit, rewards.smallest_bound() * unit) == pytest.approx((1.0, 1.0))
    ranges = FeasibleRewards(np.eye(2), unit, 3.0 * unit).reward_range(np.eye(2))
    np.testing.assert_allclose(ranges / unit, [[1, 3], [1, 3]])


@few
@given(st.integers(0, 10_000))
def test_ranges_are_those_of_the_corners_and_no_ball_is_larger(seed):
    rewards, _ = random_sets(seed, factor=5.0)
    assume(2 <= rewards.differences.shape[1] <= 4 and np.isfinite(rewards.smallest_bound()))
    ball, limits = rewards.chebyshev(), halfspaces(rewards)
    points = HalfspaceIntersection(limits, ball.center).intersections
    outputs = np.random.default_rng(seed).normal(size=(3, points.shape[1]))
    values = points @ outputs.T
    expected = np.stack([values.min(axis=0), values.max(axis=0)], axis=1)
    np.testing.assert_allclose(rewards.reward_range(outputs), expected, rtol=1e-5, atol=1e-5 * rewards.bound)
    centers = np.vstack([ball.center, np.random.default_rng(seed).dirichlet(np.ones(len(points)), size=200) @ points])
    distances = -(np.column_stack([centers, np.ones(201)]) @ limits.T) / np.linalg.norm(limits[:, :-1], axis=1)
    nearest = distances.min(axis=1)
    assert nearest[0] == pytest.approx(ball.radius, rel=1e-5)
    assert nearest.max() <= ball.radius * 1.0001


def test_many_pairs_give_the_results_of_one_linear_program(rng):
    differences = rng.normal(size=(400, 6))
    differences *= np.sign(differences @ np.ones(6))[:, None]
    rewards = FeasibleRewards(differences, 1.0, 500.0)
    low, high = rewards.reward_range(np.eye(6)[:1])[0]
    program = {"A_ub": -differences, "b_ub": -np.ones(400), "bounds": (-500, 500)}
    assert low == pytest.approx(linprog(np.eye(6)[0], **program).fun, rel=1e-5)
    assert high == pytest.approx(-linprog(-np.eye(6)[0], **program).fun, rel=1e-5)
    broken = FeasibleRewards(np.vstack([differences, -differences[7]]), 1.0, 500.0)
    slack = broken.slack()
    alone = FeasibleRewards(broken.differences[slack.conflict], 1.0, 500.0)  # no other pair is needed for it
    assert alone.slack().amount == pytest.approx(slack.amount) == 1.0
    assert broken.smallest_bound() == np.inf


# --------------------------------------------------------------------------------------------- the theorem


def test_the_inclusion_always_holds_and_is_strict_unless_the_margins_are_implied():
    kinds = {"strict": 0, "equal": 0, "aware empty": 0, "both empty": 0}
    for seed in range(60):
        standard, aware = random_sets(seed)
        assert aware.issubset(standard)
        witness = standard.witness(aware)
        if standard.slack().amount > 0:
            assert witness is None and aware.slack().amount > 0
            kinds["both empty"] += 1
            continue
        # strict exactly where some reward of the standard set gives a failure less than the stricter margin
        failures = standard.differences[aware.required > standard.required]
        limits = {"A_ub": -standard.differences, "b_ub": -standard.required}
        smallest = [linprog(row, bounds=(-standard.bound, standard.bound), **limits) for row in failures]
        assert (witness is not None) == any(result.fun < 2.0 - 1e-4 for result in smallest if result.status == 0)
        if witness is None:
            kinds["equal"] += 1
        else:
            assert standard.contains(witness) and not aware.contains(witness)
            kinds["aware empty" if aware.slack().amount > 0 else "strict"] += 1
    assert min(kinds.values()) > 0, kinds


def test_a_smaller_bound_gives_a_witness_too():
    assert square(high=3.0).issubset(square(high=4.0))
    witness = square(high=4.0).witness(square(high=3.0))
    assert square(high=4.0).contains(witness) and witness.max() > 3.0


def test_ratios_of_areas():
    others = {0.5: square(second=2.0), 0.001: square(second=2.998), 0.25: square(high=2.0), 1.0: square(0.0, 9.0)}
    for ratio, other in [*others.items(), (1.0, square()), (0.0, square(second=3.0)), (0.0, square(4.0, 5.0))]:
        assert square().volume_ratio(other) == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize("n_features", [1, 3, 6])
def test_ratios_of_volumes_in_other_dimensions(n_features):
    large, half = (np.append(np.zeros(n_features), -size) for size in (1.0, 0.5))
    simplex, small = (
        FeasibleRewards(np.vstack([np.eye(n_features), -np.ones(n_features)]), required, 1.0)
        for required in (large, half)
    )
    assert simplex.volume_ratio(small) == pytest.approx(0.5**n_features, rel=1e-6)


# ----------------------------------------------------------------------------- pairs, estimators, bad input


def test_a_pipeline_makes_the_features(preferences):
    X, y = preferences.data, preferences.target
    pipeline = make_pipeline(PairTransformer(PCA(3)), MaxMarginIRL(random_state=0)).fit(X, y)
    features = pipeline[:-1].transform(X)
    found = ambiguity(pipeline, X, y, outputs=X[:4, 0])
    np.testing.assert_allclose(found.high, ambiguity(pipeline[-1], features, y, outputs=features[:4, 0]).high)
    alone = make_pipeline(MaxMarginIRL(random_state=0)).fit(X, y)
    assert len(ambiguity(alone, X, y, outputs=X[:4, 0]).high) == 4


PAIRS = np.random.default_rng(0).normal(size=(10, 2, 3))
MASK = np.arange(10) < 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(bound=0.0), r"bound=0.0. Expected a finite number above 0"),
        (dict(margin=-1.0), r"margin=-1.0. Expected"),
        (dict(failures=MASK), r"margin_fail=None and margin=1. Expected margin_fail > margin, e.g. 2"),
        (dict(failures=MASK[:5], margin_fail=2.0), r"shape \(5,\) and type bool. Expected one bool for"),
        (dict(y=[1, 0]), r"Found 2 labels for 10 rows"),
        (dict(X=PAIRS[:, 0]), r"Found outputs, X of shape \(10, 3\). Expected pairs"),
        (dict(X=np.where(PAIRS > 1, np.nan, PAIRS)), r"contains NaN"),
    ],
)
def test_bad_pairs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeasibleRewards.from_pairs(**{"X": PAIRS, "bound": 1.0} | arguments)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: FeasibleRewards(np.zeros(3), 1.0, 1.0), r"Expected 2D array, got 1D array"),
        (lambda s: FeasibleRewards([[np.inf]], 1.0, 1.0), r"differences contains infinity"),
        (lambda s: FeasibleRewards(np.eye(2), [1.0, np.nan], 1.0), r"required margins \[ 1. nan\]. Expected a finite"),
        (lambda s: s.contains([1.0, 2.0, 3.0]), r"theta of 3 features. Expected 2"),
        (lambda s: s.contains([1.0, np.nan]), r"theta contains NaN"),
        (lambda s: s.reward_range(np.ones((1, 3))), r"X of 3 features. Expected 2"),
        (lambda s: s.relax(np.inf), r"amount=inf. Expected a finite number\."),
        (lambda s: s.at_mean_margin(np.nan), r"value=nan. Expected a finite number\."),
        (lambda s: s.at_mean_margin(2.0).volume_ratio(s), r"2 features that is flat"),
        (lambda s: s.witness(3), r"Found 3. Expected FeasibleRewards of 2 features"),
        (lambda s: s.volume_ratio(FeasibleRewards(np.eye(3), 1.0, 2.0)), r"Expected FeasibleRewards of 2 features"),
        (lambda s: (big := FeasibleRewards(np.eye(7), 1.0, 2.0)).volume_ratio(big), r"7 features.*at most 6"),
    ],
)
def test_bad_questions_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(square())


# ----------------------------------------------------------------------------------------------- ambiguity


@pytest.fixture(scope="module")
def noisy():
    return make_preferences(150, 4, noise=0.1, random_state=0)


def measured(data, reward, **options):
    """Ambiguity of six outputs; with the oriented differences, the centered outputs and the unit of the ranges."""
    outputs = data.data[:6, 0]
    differences = (data.data[:, 0] - data.data[:, 1]) * np.where(data.target == 1, 1, -1)[:, None]
    centered = outputs - outputs.mean(axis=0)
    found = ambiguity(reward, data.data, data.target, outputs=outputs, **options)
    return found, differences, centered, (centered @ reward.coef_).std()


@pytest.mark.parametrize("tolerance", [0.003, 0.03])
def test_ranges_of_max_entropy_are_those_of_a_general_solver(noisy, tolerance):
    reward = MaxEntropyIRL(temperature=0.7, tol=1e-8, random_state=0).fit(noisy.data, noisy.target)
    found, differences, centered, unit = measured(noisy, reward, tolerance=tolerance)

    def objective(theta):
        return np.logaddexp(0, -differences @ theta / 0.7).mean() + reward.alpha * theta @ theta

    budget = objective(reward.coef_) + tolerance * np.log(2)
    constraints = [
        {"type": "ineq", "fun": lambda theta: budget - objective(theta)},
        {"type": "eq", "fun": lambda theta: (theta - reward.coef_) @ differences.mean(axis=0)},
    ]
    for output, low, high in zip(centered, found.low, found.high, strict=True):
        for sign, end in ((1, low), (-1, high)):
            best = minimize(lambda theta, c=sign * output: c @ theta, reward.coef_, constraints=constraints)
            assert end == pytest.approx(sign * best.fun / unit, abs=1e-3)
    assert found.explained == 1.0
    np.testing.assert_allclose(found.rewards, centered @ reward.coef_ / unit)


def test_ranges_of_max_margin_are_those_of_the_linear_program_with_slacks(noisy):
    reward = MaxMarginIRL(random_state=0).fit(noisy.data, noisy.target).set_params(alpha=1e-9)
    found, differences, centered, unit = measured(noisy, reward)
    n = len(differences)
    budget = np.maximum(0, 1 - differences @ reward.coef_).mean() + 0.01
    program = {
        "A_ub": np.vstack([np.hstack([-differences, -np.eye(n)]), np.append(np.zeros(4), np.full(n, 1 / n))]),
        "b_ub": np.append(-np.ones(n), budget),
        "A_eq": np.append(differences.mean(axis=0), np.zeros(n))[None],
        "b_eq": [differences.mean(axis=0) @ reward.coef_],
        "bounds": [(None, None)] * 4 + [(0, None)] * n,
    }
    costs = [np.append(output, np.zeros(n)) for output in centered]
    np.testing.assert_allclose(found.low, [linprog(cost, **program).fun / unit for cost in costs], atol=5e-3)
    np.testing.assert_allclose(found.high, [-linprog(-cost, **program).fun / unit for cost in costs], atol=5e-3)


def test_what_the_pairs_do_not_show_is_open():
    data = make_preferences(200, 3, noise=0.1, random_state=0)
    X = np.concatenate([data.data, np.zeros((200, 2, 1))], axis=2)  # in the pairs the last feature never differs
    outputs = np.concatenate([X[:20, 0], np.eye(4)[3:] * 3.0])
    reward = MaxEntropyIRL(random_state=0).fit(X, data.target)
    found = ambiguity(reward, X, data.target, outputs=outputs)
    widths = found.high - found.low
    assert widths.argmax() == 20
    assert found.open[20] > 0.9 and np.median(found.open[:20]) < 0.5
    wider = ambiguity(reward.set_params(alpha=1e-4), X, data.target, outputs=outputs)
    assert wider.high[20] - wider.low[20] > 2 * widths[20]


def test_fewer_directions_give_lower_bounds(noisy):
    reward = MaxMarginIRL(random_state=0).fit(noisy.data, noisy.target)
    full, part, alone = (measured(noisy, reward, n_components=n)[0] for n in (4, 2, 1))
    assert part.explained < full.explained == 1.0
    assert (part.high - part.low <= full.high - full.low + 1e-3).all()
    np.testing.assert_allclose(alone.high, alone.low)  # the mean margin leaves no direction


@pytest.mark.parametrize("learner", [MaxEntropyIRL(tol=1e-8), MaxMarginIRL(tol=1e-8)], ids=repr)
def test_ranges_do_not_depend_on_the_unit_of_the_features(noisy, learner):
    found = []
    for unit in (1.0, 1e3):
        reward = learner.set_params(alpha=1e-3 * unit**2, random_state=0).fit(noisy.data * unit, noisy.target)
        found.append(ambiguity(reward, noisy.data * unit, noisy.target, outputs=noisy.data[:3, 0] * unit).high)
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "learner, options, message",
    [
        (MaxMarginIRL(), dict(tolerance=0.0), r"tolerance=0.0. Expected a finite number above 0"),
        (MaxMarginIRL(), dict(n_components=1.5), r"n_components=1.5. Expected a whole number"),
        (MaxMarginIRL(), dict(outputs=np.ones((5, 4))), r"the same for all 5 outputs"),
        (MaxMarginIRL(), dict(outputs=np.ones((5, 3))), r"X has 3 features, but MaxMarginIRL is expecting 4"),
        (MaxMarginIRL(), dict(X=np.ones((150, 2, 3))), r"X has 3 features, but MaxMarginIRL is expecting 4"),
        (MaxMarginIRL(), dict(y="turned"), r"mean margin of -.* check which class of y"),
        (MaxMarginIRL(alpha=0.0), {}, r"alpha=0: nothing limits its reward"),
        (FailureAwareIRL(hidden_layer_sizes=(4,)), {}, r"FailureAwareIRL with no coef_. Expected a linear reward"),
    ],
)
def test_bad_estimators_and_options_are_refused(noisy, learner, options, message):
    with pytest.raises(NotFittedError):
        ambiguity(learner, noisy.data, noisy.target, outputs=noisy.data[:3, 0])
    learner.set_params(random_state=0).fit(noisy.data, noisy.target)
    if "y" in options:
        options["y"] = 1 - noisy.target
    arguments = {"X": noisy.data, "y": noisy.target, "outputs": noisy.data[:3, 0]} | options
    with pytest.raises(ValueError, match=message):
        ambiguity(learner, **arguments)


def test_the_benchmark(capsys):
    path = Path(__file__).parent.parent / "benchmarks" / "identify.py"
    rows = runpy.run_path(str(path))["main"](size="smoke")
    assert all(row["included"] and row["strict"] and row["volume"] <= 1 for row in rows)
    assert f"inside the standard one: {len(rows)} of {len(rows)}" in capsys.readouterr().out
