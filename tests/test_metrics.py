"""Scores, distances and intervals against closed forms, scikit-learn and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from fairl_sk.metrics import (
    bootstrap_difference,
    bootstrap_interval,
    check_split,
    output_auc_score,
    output_f1_score,
    pair_accuracy,
    pair_log_loss,
    starc_distance,
    tabular_dard,
    tabular_epic,
    tabular_starc,
)

NORMS = [1, 2, np.inf]
CHAIN = np.full((2, 1, 2), 0.5)  # a table of two states and one action
N = 12
values = st.floats(-100, 100).map(lambda x: round(x, 3))
rewards = arrays(float, N, elements=values)
prompt_codes = arrays(np.intp, N, elements=st.integers(0, 3))
norms = st.sampled_from(NORMS)
steady = settings(deadline=None, derandomize=True, database=None)  # a slow machine must not fail a test


def test_pair_accuracy_is_accuracy_and_ties_count_one_half(rng):
    margins, y, weights = rng.normal(size=40), rng.integers(2, size=40), rng.random(40)
    expected = accuracy_score(y, margins > 0, sample_weight=weights)
    assert pair_accuracy(y, margins, sample_weight=weights) == pytest.approx(expected)
    assert pair_accuracy(None, [2.0, 0.0, -1.0], sample_weight=[2, 1, 1]) == 0.625


def test_pair_log_loss_is_that_of_logistic_regression_on_the_margin(rng):
    margins, weight = rng.normal(size=200), rng.uniform(size=200)
    y = (margins + rng.normal(size=200) > 0).astype(int)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8)
    model.fit(margins[:, None], y, sample_weight=weight)
    expected = log_loss(y, model.predict_proba(margins[:, None]), sample_weight=weight)
    assert pair_log_loss(y, margins, sample_weight=weight) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 0.1, 1e6])
def test_pair_log_loss_ignores_the_scale_and_the_order_of_sides(rng, scale):
    margins, y = rng.normal(size=50) + 0.5, rng.integers(0, 2, 50)
    assert pair_log_loss(None, scale * margins) == pytest.approx(pair_log_loss(None, margins), rel=1e-6)
    assert pair_log_loss(1 - y, -margins) == pytest.approx(pair_log_loss(y, margins), rel=1e-9)
    for bad in ([-1.0, -2.0], [0.0, 0.0]):  # an opposite and a constant reward
        assert pair_log_loss(None, bad) == pytest.approx(np.log(2))
    assert pair_log_loss(None, [1e308, 1e308, -1e-300]) == pytest.approx(np.log(2) / 3, abs=1e-3)  # one tie of three


@steady
@given(arrays(float, (N, 2), elements=st.integers(-2, 2)), st.integers(0, 10**6))
def test_output_metrics_are_those_of_sklearn(rewards, seed):
    rng = np.random.default_rng(seed)
    y, weights = rng.permutation(N) % 2, rng.random(N) + 0.1
    labels = np.column_stack([y, 1 - y])
    flat = labels.ravel(), rewards.ravel(), np.repeat(weights, 2)
    f1 = f1_score(flat[0], flat[1] > 0, sample_weight=flat[2], zero_division=0.0)
    auc = roc_auc_score(flat[0], flat[1], sample_weight=flat[2])
    for metric, expected in ((output_f1_score, f1), (output_auc_score, auc)):
        assert metric(y, rewards, sample_weight=weights) == pytest.approx(expected)
        assert metric(None, rewards, output_labels=labels, sample_weight=weights) == pytest.approx(expected)
        assert metric(flat[0], flat[1], sample_weight=flat[2]) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [output_f1_score, output_auc_score])
def test_one_class_is_nan_with_a_warning(metric):
    with pytest.warns(UndefinedMetricWarning, match="NaN: all outputs of positive weight have the same label"):
        assert np.isnan(metric(None, [[1.0, 2.0]], output_labels=[[1, 1]]))
    with pytest.warns(UndefinedMetricWarning, match="same label"):
        assert np.isnan(metric([0, 1], [1.0, 2.0], sample_weight=[1, 0]))


@given(st.integers(0, 10**6), norms)
@steady
def test_integer_weights_are_repetitions(seed, norm):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-3, 4, size=(2, N, 2)).astype(float)
    signs, groups, times = rng.choice([-1.0, 1.0], N), rng.integers(3, size=N), rng.integers(3, size=N)
    times[:2], signs[:2] = (1, 2), (-1, 1)
    again = np.repeat(np.arange(N), times)
    expected = starc_distance(a[again], b[again], groups=groups[again], norm=norm)
    assert starc_distance(a, b, groups=groups, norm=norm, sample_weight=times) == pytest.approx(expected, abs=1e-9)
    margins = a[:, 0] - a[:, 1]
    cases = {pair_accuracy: margins, pair_log_loss: margins, output_f1_score: a, output_auc_score: a}
    for metric, reward in cases.items():
        expected = metric(signs[again], reward[again])
        assert metric(signs, reward, sample_weight=times) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: starc_distance(np.ones((3, 3)), np.ones((3, 3))), r"reward_a of shape \(3, 3\), but expected"),
        (lambda: starc_distance([1.0, 2.0], [1.0]), r"shape \(2,\) and reward_b of shape \(1,\).*same shape"),
        (lambda: starc_distance([1.0, np.nan], [1.0, 2.0]), "reward_a contains NaN"),
        (lambda: starc_distance([], []), r"0 sample\(s\) .* minimum of 1"),
        (lambda: starc_distance(["a"], ["b"]), "could not convert string to float"),
        (lambda: starc_distance([1.0], [1.0], norm=3), "norm=3, but expected 1, 2 or numpy.inf"),
        (lambda: starc_distance([1.0], [1.0], sample_weight=[1, 2]), r"shape \(2,\), from .* expected 1 finite"),
        (lambda: starc_distance([1.0], [1.0], groups=[1, 2]), r"groups of shape \(2,\), but expected \(1,\)"),
        (lambda: starc_distance([1.0, 2.0], [1.0, 2.0], groups=["a", None]), "groups that cannot be sorted"),
        (lambda: starc_distance([1.0], [1.0], groups="pairs"), "groups='pairs', but expected .* rewards of pairs"),
        (lambda: pair_accuracy(None, [[1.0, 2.0]]), r"margins of shape \(1, 2\), but expected \(n_pairs,\)"),
        (lambda: output_f1_score(None, [1.0, 2.0]), "y_true=None with the rewards of single outputs"),
        (lambda: output_auc_score(None, [[1.0, 2.0]], output_labels=[[0, 3]]), r"output_labels .*values \[0, 3\]"),
        (lambda: tabular_starc([[0, 0]], [[0, 0]], CHAIN, 0.9), r"rewards of shapes \(1, 2\) and .*n_states"),
        (lambda: tabular_starc(CHAIN, CHAIN, 2 * CHAIN, 0.9), "transitions of shape .* sum to 1 over the last axis"),
        (lambda: tabular_starc(CHAIN, CHAIN, CHAIN, 1.0), r"discount=1.0, but expected a number in \[0, 1\)"),
    ],
)
def test_errors_say_what_was_found_and_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("groups", ["pairs", np.arange(50), [f"prompt {i}" for i in range(50)]])
def test_starc_with_one_pair_per_prompt_depends_on_the_cosine_of_the_margins_only(rng, groups):
    a, b = rng.normal(size=(2, 50, 2))
    margins_a, margins_b = a[:, 0] - a[:, 1], b[:, 0] - b[:, 1]
    cosine = margins_a @ margins_b / np.linalg.norm(margins_a) / np.linalg.norm(margins_b)
    assert starc_distance(a, b, groups=groups) == pytest.approx(np.sqrt((1 - cosine) / 2))
    pearson = np.corrcoef(a.ravel(), b.ravel())[0, 1]  # with the global mean
    assert starc_distance(a, b) == starc_distance(a.ravel(), b.ravel()) == pytest.approx(np.sqrt((1 - pearson) / 2))
    if not isinstance(groups, str):
        assert starc_distance(a, b, groups=groups) == starc_distance(a.ravel(), b.ravel(), groups=np.repeat(groups, 2))


@pytest.mark.parametrize("norm", NORMS)
def test_starc_by_hand(norm):
    # c = (2, -1, -1) and (-1, 2, -1), of length 4, sqrt(6) and 2; the difference (3, -3, 0) is divided by it
    expected = {1: 6 / 4, 2: np.sqrt(18) / np.sqrt(6), np.inf: 3 / 2}[norm] / 2
    assert starc_distance([3.0, 0.0, 0.0], [0.0, 3.0, 0.0], norm=norm) == pytest.approx(expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("constant", [0.0, 1 / 3, 1e8 / 3, -1e300, 5e-324])
def test_starc_of_constants_is_defined(norm, constant, rng):
    reward, flat = rng.normal(size=(6, 2)), np.full((6, 2), constant)
    assert starc_distance(flat, np.full((6, 2), 7.0), norm=norm) == 0.0
    assert starc_distance(flat, reward, norm=norm) == pytest.approx(0.5)
    assert starc_distance(reward, flat, norm=norm, groups="pairs") == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_starc_counts_rounding_as_constant(rng, dtype):
    noise = rng.choice([-1, 0, 1], size=(1000, 2)).astype(dtype)
    rounded = dtype(1e4) + noise * np.spacing(dtype(1e4))
    assert starc_distance(rounded, np.zeros((1000, 2))) == 0.0


@pytest.mark.parametrize("norm", NORMS)
def test_starc_survives_huge_and_tiny_rewards(norm, rng):
    signal = rng.normal(size=100)
    assert starc_distance(1e8 + 1e-3 * signal, signal, norm=norm) < 1e-4
    huge, tiny = np.array([1.7e308, -1.7e308, 0.0]), np.array([1.7e-308, -1.7e-308, 0.0])
    assert starc_distance(huge, tiny, norm=norm, sample_weight=[1e308] * 3) == pytest.approx(0, abs=1e-12)
    assert starc_distance(huge, -tiny, norm=norm) == pytest.approx(1.0)
    beside = [1e300, 1e300, 1.0, 2.0]  # the signal is in a prompt whose rewards are much smaller
    assert starc_distance(beside, [0, 0, 1, 2], groups=[0, 0, 1, 1], norm=norm) == pytest.approx(0, abs=1e-12)


@steady
@given(rewards, rewards, rewards, prompt_codes, norms, st.permutations(range(N)))
def test_starc_is_a_bounded_pseudometric_of_unordered_rows(a, b, c, groups, norm, order):
    ab, bc, ac = (starc_distance(x, y, groups=groups, norm=norm) for x, y in ((a, b), (b, c), (a, c)))
    assert 0 <= ab <= 1
    assert ab == pytest.approx(starc_distance(b, a, groups=groups, norm=norm), abs=1e-12)
    assert ac <= ab + bc + 1e-9
    order = np.array(order)
    assert starc_distance(a[order], b[order], groups=groups[order], norm=norm) == pytest.approx(ab, abs=1e-9)


@steady
@given(rewards, st.floats(0.01, 100), arrays(float, 4, elements=values), prompt_codes, norms)
def test_starc_ignores_scale_and_offsets_of_prompts(a, scale, offsets, groups, norm):
    a = np.round(a, 1)  # so that offsets do not round the signal away
    shifted = scale * a + offsets[groups]
    assert starc_distance(a, shifted, groups=groups, norm=norm) < 1e-6
    constant = all(np.ptp(a[groups == code]) == 0 for code in np.unique(groups))
    opposite = starc_distance(a, -shifted, groups=groups, norm=norm)
    assert opposite == pytest.approx(0.0 if constant else 1.0, abs=1e-6)


TABULAR = {
    "starc": lambda a, b, dynamics: tabular_starc(a, b, dynamics, 0.9),
    "epic": lambda a, b, dynamics: tabular_epic(a, b, 0.9),
    "dard": lambda a, b, dynamics: tabular_dard(a, b, dynamics, 0.9),
}


@pytest.mark.parametrize("name", TABULAR)
def test_tabular_distances_ignore_scale_and_potential_shaping(name, rng):
    distance, dynamics = TABULAR[name], rng.dirichlet(np.ones(4), size=(4, 3))
    reward, other, potential = rng.normal(size=(4, 3, 4)), rng.normal(size=(4, 3, 4)), 5 * rng.normal(size=4)
    shaping = 0.9 * potential - potential[:, None, None]
    assert distance(reward, 3 * reward + shaping, dynamics) < 1e-7
    assert distance(reward, -reward + shaping, dynamics) == pytest.approx(1)
    assert 0.05 < distance(reward, other, dynamics) < 0.95
    assert distance(reward, other, dynamics) == pytest.approx(distance(other, reward, dynamics))
    assert distance(reward, other + shaping, dynamics) == pytest.approx(distance(reward, other, dynamics))
    trivial = shaping + np.zeros_like(reward)
    assert distance(trivial, np.zeros_like(reward), dynamics) == 0
    assert distance(trivial, reward, dynamics) == pytest.approx(0.5)


def test_tabular_starc_ignores_redistribution_over_next_states_but_epic_does_not(rng):
    dynamics, (reward, noise) = rng.dirichlet(np.ones(4), size=(4, 3)), rng.normal(size=(2, 4, 3, 4))
    same = reward + noise - (dynamics * noise).sum(axis=2, keepdims=True)
    assert tabular_starc(reward, same, dynamics, 0.9) < 1e-7
    assert tabular_epic(reward, same, 0.9) > 0.1


@pytest.mark.parametrize("name", ["dard", "epic"])
def test_canonical_forms_by_loops(name, rng):
    dynamics, (a, b) = rng.dirichlet(np.ones(3), size=(3, 2)), rng.normal(size=(2, 3, 2, 3))

    def canonical(reward):
        table = reward.copy()
        for s, action, t in np.ndindex(reward.shape):
            for act in range(2):
                after, later = (dynamics[s, act], dynamics[t, act]) if name == "dard" else np.full((2, 3), 1 / 3)
                gain = 0.9 * later @ reward[t, act] - after @ reward[s, act] - 0.9 * after @ reward[:, act] @ later
                table[s, action, t] += gain / 2
        return table.ravel()

    weights = dynamics.ravel() if name == "dard" else None
    expected = starc_distance(canonical(a), canonical(b), sample_weight=weights)
    assert TABULAR[name](a, b, dynamics) == pytest.approx(expected)


def bootstrap_cases(rng):
    a, b = rng.normal(size=(2, 60, 2))
    y, weights = rng.permutation(60) % 2, {"sample_weight": rng.integers(1, 5, size=60)}
    return {
        pair_accuracy: ((y, a[:, 0] - a[:, 1]), weights),
        pair_log_loss: ((y, a[:, 0] - a[:, 1]), {}),
        output_f1_score: ((y, a), weights),
        output_auc_score: ((y, a), {"output_labels": rng.integers(2, size=(60, 2)), **weights}),
        starc_distance: ((a, a + b), {"groups": rng.integers(5, size=60), "norm": 1, **weights}),
        roc_auc_score: ((y, a[:, 0]), weights),  # any function that takes sample_weight
    }


@pytest.mark.parametrize("metric", bootstrap_cases(np.random.default_rng(0)))
def test_bootstrap_is_brute_force_resampling_of_groups(metric, rng):
    (arguments, params), groups = bootstrap_cases(rng)[metric], rng.integers(8, size=60)
    options = {"groups": groups, "n_resamples": 150, "random_state": 3, "metric_params": params}
    interval = bootstrap_interval(metric, *arguments, **options)
    draws, seed = [], np.random.RandomState(3)
    for _ in range(150):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in seed.randint(8, size=8)])
        taken = {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in params.items()}
        draws.append(metric(*(x[rows] for x in arguments), **taken))
    assert interval.estimate == pytest.approx(metric(*arguments, **params))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), rel=1e-6)
    assert interval.std == pytest.approx(np.std(draws), rel=1e-5) and interval[4:] == (8, 150)
    if metric is not roc_auc_score:
        assert bootstrap_interval(metric.__name__, *arguments, **options) == interval


def test_bootstrap_covers_the_truth(rng):
    covered = 0
    for seed in range(200):  # 40 prompts of 5 pairs, of which a random share (mean 0.7) is ordered rightly
        skill = rng.beta(7, 3, size=40)
        margins = np.where(rng.random((40, 5)) < skill[:, None], 1.0, -1.0).ravel()
        options = {"groups": np.repeat(np.arange(40), 5), "n_resamples": 200, "random_state": seed}
        interval = bootstrap_interval(pair_accuracy, None, margins, **options)
        covered += interval.low <= 0.7 <= interval.high
    assert 0.9 <= covered / 200 <= 0.99


def test_draws_without_a_score_are_dropped_counted_and_warned_about():
    labels, rewards = [[1, 0], [1, 1], [1, 1]], np.array([[2.0, 0.0], [1.0, 2.0], [1.0, 3.0]])
    options = {"groups": [0, 1, 2], "random_state": 0, "metric_params": {"output_labels": labels}}
    with pytest.warns(UserWarning, match="of 1000 bootstrap draws have no score .* Use more groups"):
        interval = bootstrap_interval("output_auc_score", None, rewards, **options)
    assert 600 < interval.n_valid < 800  # 1 - (2/3)^3 = 0.70 of the draws have the first row
    assert np.isfinite(interval[:4]).all()
    with pytest.warns(UserWarning, match="1000 of 1000"):
        interval = bootstrap_interval("output_f1_score", [0, 0], [1.0, -1.0], groups=None)
    assert interval.n_valid == 0 and np.isnan(interval[:4]).all()


def test_bootstrap_difference_is_paired(rng):
    rewards = rng.normal(size=(100, 2))
    options = {"groups": np.arange(100), "n_resamples": 100, "random_state": 0}
    same = bootstrap_difference("output_auc_score", (None, rewards), (None, rewards), **options)
    assert same[:4] == (0, 0, 0, 0)
    better = rewards + [0.5, -0.5]
    gain = bootstrap_difference("output_auc_score", (None, better), (None, rewards), **options)
    assert gain.low > 0
    assert gain.estimate == output_auc_score(None, better) - output_auc_score(None, rewards)
    with pytest.raises(ValueError, match="Got 100 and 99 rows"):
        bootstrap_difference("output_auc_score", (None, rewards), (None, rewards[1:]), **options)


def test_bootstrap_errors():
    for options, message in (
        ({"groups": ["a", "a"]}, "Got one group .* but a bootstrap over groups needs at least 2"),
        ({"groups": ["a"]}, r"groups of shape \(1,\), but expected \(2,\)"),
        ({"n_resamples": 0}, "n_resamples=0 .* expected an integer >= 1"),
        ({"confidence_level": 95}, "confidence_level=95, but .* a number between 0 and 1"),
        ({"statistic": "f1"}, "statistic='f1', but expected a callable or one of"),
    ):
        options = {"statistic": "pair_accuracy", "groups": [0, 1], **options}
        with pytest.raises(ValueError, match=message):
            bootstrap_interval(options.pop("statistic"), None, [1.0, 2.0], **options)


def test_check_split_names_the_leak():
    groups = np.array(["a", "a", "b", "b", "c", "c", "d", "d"])
    message = r"leaks 1 of 4 groups .*\(50% of the test rows\): 'b'\. Split with GroupKFold"
    with pytest.warns(UserWarning, match=message):
        leaked = check_split([0, 1, 2], [3, 4], groups)
    np.testing.assert_array_equal(leaked, ["b"])
    mask = np.array([True, False] * 4)
    with pytest.warns(UserWarning, match=r"leaks 4 of 4 .*100% of the test rows.*'a', 'b', 'c', \.\.\."):
        assert len(check_split(mask, ~mask, groups)) == 4
    assert check_split([0, 1], [2, 3], groups).size == 0
    with pytest.raises(ValueError, match="a split by groups needs at least 2"):
        check_split([0], [1], ["a", "a"])
    for rows in ([2], [0.5], [True]):
        with pytest.raises(ValueError, match="rows that do not fit .* row numbers below 2, or masks of shape"):
            check_split([0], rows, ["a", "b"])
