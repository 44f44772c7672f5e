"""Metrics against closed forms, scikit-learn, brute force, and inside model selection."""

import copy
import pickle
import time

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_validate
from sklearn.pipeline import make_pipeline

from fairl_sk import metrics
from fairl_sk.metrics import (
    bootstrap_difference,
    bootstrap_interval,
    check_split,
    longer_null,
    make_starc_scorer,
    output_auc_score,
    output_auc_scorer,
    output_f1_score,
    output_f1_scorer,
    pair_accuracy,
    pair_accuracy_scorer,
    pair_log_loss,
    pair_log_loss_scorer,
    prompt_only_null,
    shorter_null,
    shuffled_labels_null,
    starc_distance,
    tabular_dard,
    tabular_epic,
    tabular_starc,
)
from fairl_sk.pairs import PairTransformer, is_pairs, stack_outputs

NORMS = [1, 2, np.inf]

steady = settings(deadline=None, derandomize=True, database=None)  # no flaking on a slow machine


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# -- Log-loss of pairs at the best scale ----------------------------------------------------------------------


def test_pair_log_loss_is_that_of_logistic_regression_on_the_margin(rng):
    margins, weight = rng.normal(size=200), rng.uniform(size=200)
    y = (margins + rng.normal(size=200) > 0).astype(int)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8)
    model.fit(margins[:, None], y, sample_weight=weight)
    expected = log_loss(y, model.predict_proba(margins[:, None]), sample_weight=weight)
    assert pair_log_loss(y, margins, sample_weight=weight) == pytest.approx(expected, rel=1e-6)


def test_pair_log_loss_knows_no_scale_and_no_order_of_sides(rng):
    margins, y = rng.normal(size=50) + 0.5, rng.integers(0, 2, 50)
    loss = pair_log_loss(None, margins)
    for scale in (1e-9, 0.1, 1e6):
        assert pair_log_loss(None, scale * margins) == pytest.approx(loss, rel=1e-6)
    assert pair_log_loss(1 - y, -margins) == pytest.approx(pair_log_loss(y, margins), rel=1e-9)
    twice = pair_log_loss(None, np.r_[margins, margins[:10]])
    assert twice == pytest.approx(pair_log_loss(None, margins, sample_weight=1 + (np.arange(50) < 10)), rel=1e-9)


def test_pair_log_loss_of_a_turned_constant_or_perfect_reward():
    assert pair_log_loss(None, [-1.0, -2.0]) == pytest.approx(np.log(2))
    assert pair_log_loss(None, [0.0, 0.0]) == pytest.approx(np.log(2))
    assert pair_log_loss(None, [1.0, 2.0]) == pytest.approx(0, abs=1e-3)
    assert pair_log_loss(None, [1.0, 2.0, -0.1]) < pair_log_loss(None, [1.0, 2.0, -0.9])  # as many right
    assert pair_log_loss(None, [1.0, 1.0, 1.0, 1.0, 1e8]) == pytest.approx(0, abs=1e-3)
    assert pair_log_loss(None, [1e308, 1e300, -1e-300]) < 1
    without = pair_log_loss(None, [1.0, 1.0, 1.0, -1.0, 0.5])
    assert pair_log_loss(None, [1.0, 1.0, 1.0, -1.0, 0.5, -1e7], sample_weight=[1] * 5 + [0]) == pytest.approx(without)


def test_pair_log_loss_in_the_bootstrap_and_as_a_scorer(rng):
    X = rng.normal(size=(60, 2, 3))
    y = (X[:, 0, 0] > X[:, 1, 0]).astype(int)
    margins = X[:, 0, 0] - X[:, 1, 0] + rng.normal(size=60)
    interval = bootstrap_interval("pair_log_loss", y, margins, groups=np.arange(60), random_state=0)
    assert interval.low < interval.estimate < interval.high
    from fairl_sk import MaxEntropyIRL

    fitted = MaxEntropyIRL(random_state=0).fit(X, y)
    assert pair_log_loss_scorer(fitted, X, y) == -pair_log_loss(y, fitted.decision_function(X))
    assert repr(pair_log_loss_scorer) == "pair_log_loss_scorer"
    with pytest.raises(ValueError, match="with single outputs, but pair log loss is defined for pairs only"):
        pair_log_loss_scorer(fitted, X[:, 0], y)


# -- STARC: closed forms -------------------------------------------------------------------------------------


def test_starc_with_the_global_mean_is_the_distance_of_pearson(rng):
    a, b = rng.normal(size=(2, 50, 2))
    rho = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert starc_distance(a, b) == pytest.approx(np.sqrt((1 - rho) / 2))
    assert starc_distance(a.ravel(), b.ravel()) == pytest.approx(np.sqrt((1 - rho) / 2))


def test_starc_with_one_pair_a_prompt_depends_on_the_cosine_of_the_margins_only(rng):
    a, b = rng.normal(size=(2, 50, 2))
    margins_a, margins_b = a[:, 0] - a[:, 1], b[:, 0] - b[:, 1]
    cosine = margins_a @ margins_b / np.linalg.norm(margins_a) / np.linalg.norm(margins_b)
    for groups in ("pairs", np.arange(50), [f"prompt {i}" for i in range(50)]):
        assert starc_distance(a, b, groups=groups) == pytest.approx(np.sqrt((1 - cosine) / 2))


def test_starc_by_hand_in_every_norm():
    a, b = [1.0, -1.0, 0.0], [1.0, 0.0, -1.0]
    assert starc_distance(a, b, norm=1) == pytest.approx(np.abs([0.0, -0.5, 0.5]).sum() / 2)
    assert starc_distance(a, b, norm=2) == pytest.approx(0.5)
    assert starc_distance(a, b, norm=np.inf) == pytest.approx(0.5)


def test_starc_groups_of_outputs_and_of_pairs_mean_the_same(rng):
    a, b = rng.normal(size=(2, 12, 2))
    prompts = np.repeat(["x", "y", "z"], 4)
    by_pair = starc_distance(a, b, groups=prompts)
    assert by_pair == starc_distance(a.ravel(), b.ravel(), groups=np.repeat(prompts, 2))
    assert by_pair != starc_distance(a, b)


@pytest.mark.parametrize("norm", NORMS)
def test_starc_of_constants_is_defined(norm, rng):
    reward = rng.normal(size=(6, 2))
    for constant in (0.0, 1 / 3, 1e8 / 3, -1e300, 5e-324):
        flat = np.full((6, 2), constant)
        assert starc_distance(flat, np.full((6, 2), 7.0), norm=norm) == 0.0
        assert starc_distance(flat, reward, norm=norm) == pytest.approx(0.5)
        assert starc_distance(reward, flat, norm=norm, groups="pairs") == pytest.approx(0.5)


def test_starc_tells_rounding_from_a_small_signal(rng):
    noise = rng.choice([-1, 0, 1], size=(1000, 2))
    rounded = 1e8 + noise * np.spacing(1e8)
    assert starc_distance(rounded, np.zeros((1000, 2))) == 0.0
    signal = rng.normal(size=(1000, 2))
    assert starc_distance(1e8 + 1e-3 * signal, signal) < 1e-4
    assert starc_distance(1e-12 * signal, signal) < 1e-7
    single = np.float32(1e4) + noise.astype(np.float32) * np.spacing(np.float32(1e4))
    assert starc_distance(single, np.zeros((1000, 2))) == 0.0


def test_starc_of_a_large_constant_in_many_groups_is_that_of_a_constant(rng):
    prompts = rng.integers(100, size=20000)
    offsets = 1e8 * rng.random(100)[prompts][:, None] + np.zeros((20000, 2))
    assert starc_distance(offsets, np.zeros((20000, 2)), groups=prompts) == 0.0


@pytest.mark.parametrize("norm", NORMS)
def test_starc_survives_huge_and_tiny_rewards(norm):
    huge, tiny = np.array([1.7e308, -1.7e308, 0.0]), np.array([1.7e-308, -1.7e-308, 0.0])
    assert starc_distance(huge, tiny, norm=norm) == pytest.approx(0.0, abs=1e-12)
    assert starc_distance(huge, -tiny, norm=norm) == pytest.approx(1.0)
    assert starc_distance(huge, tiny, norm=norm, weights=[1e308, 1e308, 1e308]) == pytest.approx(0, abs=1e-12)
    beside = [1e300, 1e300, 1.0, 2.0]  # the signal lies in a prompt far below the other
    assert starc_distance(beside, [0, 0, 1, 2], groups=[0, 0, 1, 1], norm=norm) == pytest.approx(0, abs=1e-12)


# -- STARC: properties ---------------------------------------------------------------------------------------

N = 12
values = st.floats(-100, 100).map(lambda x: round(x, 3))
rewards = arrays(float, N, elements=values)
prompt_codes = arrays(np.intp, N, elements=st.integers(0, 3))
norms = st.sampled_from(NORMS)


@steady
@given(rewards, rewards, prompt_codes, norms)
def test_starc_is_a_bounded_symmetric_number(a, b, groups, norm):
    distance = starc_distance(a, b, groups=groups, norm=norm)
    assert 0 <= distance <= 1
    assert distance == pytest.approx(starc_distance(b, a, groups=groups, norm=norm), abs=1e-12)


@steady
@given(rewards, rewards, rewards, prompt_codes, norms)
def test_starc_obeys_the_triangle_inequality(a, b, c, groups, norm):
    ab, bc, ac = (starc_distance(x, y, groups=groups, norm=norm) for x, y in ((a, b), (b, c), (a, c)))
    assert ac <= ab + bc + 1e-9


@steady
@given(rewards, st.floats(0.01, 100), arrays(float, 4, elements=values), prompt_codes, norms)
def test_starc_ignores_scale_and_offsets_of_prompts(a, scale, offsets, groups, norm):
    a = np.round(a, 1)  # so that offsets do not round the signal away
    copy_ = scale * a + offsets[groups]
    assert starc_distance(a, copy_, groups=groups, norm=norm) < 1e-6
    constant = all(np.ptp(a[groups == code]) == 0 for code in np.unique(groups))
    opposite = starc_distance(a, -copy_, groups=groups, norm=norm)
    assert opposite == pytest.approx(0.0 if constant else 1.0, abs=1e-6)


@steady
@given(rewards, rewards, prompt_codes, norms, st.permutations(range(N)))
def test_starc_ignores_the_order_of_rows(a, b, groups, norm, order):
    order = np.array(order)
    expected = starc_distance(a, b, groups=groups, norm=norm)
    assert starc_distance(a[order], b[order], groups=groups[order], norm=norm) == pytest.approx(expected, abs=1e-9)


# -- Weights are repetitions, for every metric ---------------------------------------------------------------


@given(st.integers(0, 10**6), norms)
@steady
def test_integer_weights_are_repetitions(seed, norm):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-3, 4, size=(2, N, 2)).astype(float)
    y, groups, times = rng.permutation(N) % 2, rng.integers(3, size=N), rng.integers(3, size=N)
    times[:2] = 1, 2
    again = np.repeat(np.arange(N), times)
    expected = starc_distance(a[again], b[again], groups=groups[again], norm=norm)
    assert starc_distance(a, b, groups=groups, norm=norm, weights=times) == pytest.approx(expected, abs=1e-9)
    weights = np.repeat(times[:, None], 2, axis=1)
    assert starc_distance(a, b, groups=groups, norm=norm, weights=weights) == pytest.approx(expected, abs=1e-9)
    margins = a[:, 0] - a[:, 1]
    signs = 2.0 * y - 1  # both classes stay known in the repetition
    expected = pair_accuracy(signs[again], margins[again])
    assert pair_accuracy(signs, margins, sample_weight=times) == pytest.approx(expected)
    for metric in (output_f1_score, output_auc_score):
        expected = metric(signs[again], a[again])
        assert metric(signs, a, sample_weight=times) == pytest.approx(expected)


# -- Pair and output metrics ---------------------------------------------------------------------------------


def test_ties_count_one_half():
    assert pair_accuracy(None, [0.0, 0.0]) == 0.5
    assert pair_accuracy([0, 1, 1], [0.0, 1.0, -1.0]) == 0.5
    assert pair_accuracy(None, [2.0, 0.0, -1.0], sample_weight=[2, 1, 1]) == 0.625


def test_pair_accuracy_is_accuracy_where_nothing_ties(rng):
    margins, y, weights = rng.normal(size=40), rng.integers(2, size=40), rng.random(40)
    expected = accuracy_score(y, margins > 0, sample_weight=weights)
    assert pair_accuracy(y, margins, sample_weight=weights) == pytest.approx(expected)
    names = np.where(y == 1, "yes", "no")
    assert pair_accuracy(names, margins, sample_weight=weights) == pytest.approx(expected)


@steady
@given(arrays(float, (N, 2), elements=st.integers(-2, 2)), st.integers(0, 10**6))
def test_output_metrics_are_those_of_sklearn(rewards, seed):
    rng = np.random.default_rng(seed)
    y, weights = rng.permutation(N) % 2, rng.random(N) + 0.1
    labels = np.column_stack([y, 1 - y])
    flat = labels.ravel(), rewards.ravel(), np.repeat(weights, 2)
    f1 = f1_score(flat[0], flat[1] > 0, sample_weight=flat[2], zero_division=0.0)
    auc = roc_auc_score(flat[0], flat[1], sample_weight=flat[2])
    for arguments in ((y, {}), (None, {"output_labels": labels})):
        given_, options = arguments
        options = {**options, "sample_weight": weights}
        assert output_f1_score(given_, rewards, **options) == pytest.approx(f1)
        assert output_auc_score(given_, rewards, **options) == pytest.approx(auc)
    assert output_auc_score(flat[0], flat[1], sample_weight=flat[2]) == pytest.approx(auc)
    assert output_f1_score(flat[0], flat[1], sample_weight=flat[2]) == pytest.approx(f1)


def test_output_metrics_reward_the_right_direction():
    good = np.array([[2.0, -1.0], [1.0, -2.0]])
    assert output_auc_score(None, good) == 1 and output_auc_score(None, -good) == 0
    assert output_f1_score(None, good) == 1 and output_f1_score(None, -good) == 0
    assert output_f1_score(None, good + 10) == pytest.approx(2 / 3)  # the offset matters to F1
    assert output_auc_score(None, good + 10) == 1


@pytest.mark.parametrize("metric", [output_f1_score, output_auc_score])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_nan_with_a_warning_that_names_the_metric(metric, label):
    with pytest.warns(UndefinedMetricWarning, match=f"{metric.__name__} is nan: all outputs .* same label"):
        assert np.isnan(metric(None, [[1.0, 2.0]], output_labels=[[label, label]]))
    with pytest.warns(UndefinedMetricWarning, match="same label"):
        assert np.isnan(metric([0, 1], [1.0, 2.0], sample_weight=[label, 1 - label]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: starc_distance(np.ones((3, 3)), np.ones((3, 3))),
            r"reward_a of shape \(3, 3\), but expected",
        ),
        (lambda: starc_distance([1.0, 2.0], [1.0]), r"shape \(2,\) and reward_b of shape \(1,\).*same shape"),
        (lambda: starc_distance([1.0, np.nan], [1.0, 2.0]), "1 values that are not finite .*row 1.*Drop"),
        (lambda: starc_distance([1.0, 2.0], [1.0, np.inf]), "reward_b holds 1 values that are not finite"),
        (lambda: starc_distance([], []), "reward_a without rows"),
        (lambda: starc_distance(["a"], ["b"]), "reward_a holds .* values, but expected real numbers"),
        (lambda: starc_distance([1.0], [1.0], norm=3), "norm=3, but expected 1, 2 or numpy.inf"),
        (
            lambda: starc_distance([1.0], [1.0], weights=[1, 2]),
            r"weights of shape \(2,\), but expected \(1,\)",
        ),
        (lambda: starc_distance([1.0], [1.0], weights=[-1]), "ranges from -1.0 to -1.0, but expected finite"),
        (lambda: starc_distance([1.0], [1.0], weights=[0]), "not all 0. Leave weights out"),
        (lambda: starc_distance([1.0], [1.0], groups=[1, 2]), r"groups of shape \(2,\), but expected \(1,\)"),
        (lambda: starc_distance([1.0, 2.0], [1.0, 2.0], groups=["a", None]), "groups that cannot be sorted"),
        (lambda: starc_distance([1.0], [1.0], groups="pairs"), "groups='pairs' for rewards of shape"),
        (lambda: pair_accuracy(None, [[1.0, 2.0]]), r"margins of shape \(1, 2\), but expected \(n_pairs,\)"),
        (lambda: output_f1_score(None, [1.0, 2.0]), "y_true=None with the rewards of single outputs"),
        (lambda: output_auc_score([0, 1, 2], [1.0, 2.0, 3.0]), "3 classes"),
        (
            lambda: output_auc_score(None, [[1.0, 2.0]], output_labels=[[0, 3]]),
            r"output_labels .*values \[0, 3\]",
        ),
        (
            lambda: output_auc_score(None, [[1.0, 2.0]], output_labels=[0, 1]),
            r"output_labels of shape \(2,\)",
        ),
    ],
)
def test_errors_say_what_was_found_and_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- Bootstrap -----------------------------------------------------------------------------------------------


def bootstrap_cases(rng, n_rows=60):
    a, b = rng.normal(size=(2, n_rows, 2))
    y = rng.permutation(n_rows) % 2
    prompts = rng.integers(5, size=n_rows)
    return {
        "pair_accuracy": ((y, a[:, 0] - a[:, 1]), {}),
        "output_f1_score": ((y, a), {}),
        "output_auc_score": ((y, a), {"output_labels": rng.integers(2, size=(n_rows, 2))}),
        "starc_distance": ((a, a + b), {"groups": prompts, "norm": 1}),
    }


@pytest.mark.parametrize("name", ["pair_accuracy", "output_f1_score", "output_auc_score", "starc_distance"])
def test_bootstrap_is_brute_force_resampling_of_groups(name, rng):
    arguments, params = bootstrap_cases(rng)[name]
    metric, groups = getattr(metrics, name), rng.integers(8, size=60)
    interval = bootstrap_interval(name, *arguments, groups=groups, n_resamples=50, random_state=3, metric_params=params)
    draws, seed = [], np.random.RandomState(3)
    for _ in range(50):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in seed.randint(8, size=8)])
        taken = {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in params.items()}
        draws.append(metric(*(x[rows] for x in arguments), **taken))
    assert interval.estimate == pytest.approx(metric(*arguments, **params))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert interval.std == pytest.approx(np.std(draws)) and interval[4:] == (8, 50)
    by_function = bootstrap_interval(
        metric, *arguments, groups=groups, n_resamples=50, random_state=3, metric_params=params
    )
    assert by_function == interval


def test_bootstrap_keeps_the_weights_that_rows_have_anyway(rng):
    weights, groups = rng.integers(1, 5, size=60), rng.integers(8, size=60)
    repeated = np.repeat(np.arange(60), weights)
    for name in ("pair_accuracy", "output_f1_score", "output_auc_score"):
        arguments, params = bootstrap_cases(rng)[name]
        copies = {key: value[repeated] for key, value in params.items()}
        options = {"n_resamples": 50, "random_state": 3}
        weighted = bootstrap_interval(
            name, *arguments, groups=groups, metric_params={**params, "sample_weight": weights}, **options
        )
        by_copies = bootstrap_interval(
            name, *(x[repeated] for x in arguments), groups=groups[repeated], metric_params=copies, **options
        )
        assert weighted == pytest.approx(by_copies)
        unweighted = bootstrap_interval(name, *arguments, groups=groups, metric_params=params, **options)
        assert weighted.std != pytest.approx(unweighted.std)


def test_bootstrap_takes_any_statistic_with_sample_weight(rng):
    y, scores = rng.permutation(60) % 2, rng.normal(size=60)
    weights = rng.random(60)
    options = {"groups": np.arange(60) // 3, "n_resamples": 30, "random_state": 0}
    options["metric_params"] = {"sample_weight": weights}
    theirs = bootstrap_interval(roc_auc_score, y, scores, **options)
    assert theirs == pytest.approx(bootstrap_interval("output_auc_score", y, scores, **options))


def test_bootstrap_covers_the_truth(rng):
    covered = 0
    for seed in range(200):  # 40 prompts of 5 pairs, of which a random share (mean 0.7) is ordered rightly
        skill = rng.beta(7, 3, size=40)
        margins = np.where(rng.random((40, 5)) < skill[:, None], 1.0, -1.0).ravel()
        interval = bootstrap_interval(
            pair_accuracy,
            None,
            margins,
            groups=np.repeat(np.arange(40), 5),
            n_resamples=200,
            random_state=seed,
        )
        covered += interval.low <= 0.7 <= interval.high
    assert 0.9 <= covered / 200 <= 0.99


def test_bootstrap_over_groups_is_wider_than_over_rows(rng):
    margins = np.repeat(rng.normal(size=30), 10)  # each prompt's pairs share one fate
    by_group = bootstrap_interval("pair_accuracy", None, margins, groups=np.repeat(np.arange(30), 10), random_state=0)
    by_row = bootstrap_interval("pair_accuracy", None, margins, groups=None, random_state=0)
    assert by_row.n_groups == 300
    assert by_group.std > 2 * by_row.std


def test_degenerate_draws_are_dropped_counted_and_warned_about():
    labels = np.array([[1, 1], [1, 0], [1, 1]])  # a draw without the second pair has no score
    rewards = np.array([[1.0, 2.0], [2.0, 0.0], [1.0, 3.0]])
    options = {"groups": [0, 1, 2], "random_state": 0, "metric_params": {"output_labels": labels}}
    with pytest.warns(UserWarning, match="of 1000 bootstrap draws have no score .* Use more groups"):
        interval = bootstrap_interval("output_auc_score", None, rewards, **options)
    assert 600 < interval.n_valid < 800  # 1 - (2/3)^3 = 0.70
    assert np.isfinite(interval[:4]).all()
    options["metric_params"] = {"output_labels": np.ones((3, 2))}
    with pytest.warns(UserWarning, match="1000 of 1000"):
        interval = bootstrap_interval("output_auc_score", None, rewards, **options)
    assert interval.n_valid == 0 and np.isnan(interval[:4]).all()


def test_degenerate_draws_of_any_statistic_are_dropped():
    with pytest.warns(UserWarning, match="bootstrap draws have no score"):

        def nan_without_the_first(values, sample_weight):
            return np.nan if sample_weight[0] == 0 else np.average(values, weights=sample_weight)

        interval = bootstrap_interval(nan_without_the_first, [1.0, 2.0, 3.0], groups=None, random_state=0)
    assert 0 < interval.n_valid < 1000 and interval.estimate == 2.0


def test_bootstrap_difference_is_paired(rng):
    rewards = rng.normal(size=(100, 2))
    options = {"groups": np.arange(100), "n_resamples": 100, "random_state": 0}
    same = bootstrap_difference("output_auc_score", (None, rewards), (None, rewards), **options)
    assert same[:4] == (0, 0, 0, 0)
    better = rewards + [0.5, -0.5]
    gain = bootstrap_difference("output_auc_score", (None, better), (None, rewards), **options)
    assert gain.low > 0
    assert gain.estimate == output_auc_score(None, better) - output_auc_score(None, rewards)
    with pytest.raises(ValueError, match="100 rows in arrays_a and 99 in arrays_b"):
        bootstrap_difference("output_auc_score", (None, rewards), (None, rewards[1:]), **options)


@pytest.mark.parametrize("name", ["pair_accuracy", "output_f1_score", "output_auc_score", "starc_distance"])
def test_bootstrap_of_20000_rows_takes_seconds(name, rng):
    arguments, params = bootstrap_cases(rng, 20_000)[name]
    start = time.thread_time()  # of this thread only: a busy machine is no failure
    bootstrap_interval(
        name, *arguments, groups=np.arange(20_000) // 4, n_resamples=100, random_state=0, metric_params=params
    )
    assert time.thread_time() - start < 2  # 0.1 s or less on one idle core


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"groups": ["a", "a"]},
            ValueError,
            "Got 1 group .'a'., but a bootstrap over groups needs at least 2",
        ),
        ({"groups": ["a"]}, ValueError, r"groups of shape \(1,\), but expected \(2,\)"),
        ({"n_resamples": 0}, ValueError, "n_resamples=0, but expected an integer >= 1"),
        ({"confidence_level": 95}, ValueError, "confidence_level=95, but expected a number between 0 and 1"),
        ({"statistic": "f1"}, ValueError, "statistic='f1', but expected a callable or one of"),
        ({"statistic": lambda y, m: 0.0}, TypeError, "without a parameter sample_weight.*Wrap it"),
    ],
)
def test_bootstrap_errors(options, error, message):
    options = {"statistic": "pair_accuracy", "groups": [0, 1], **options}
    with pytest.raises(error, match=message):
        bootstrap_interval(options.pop("statistic"), None, [1.0, 2.0], **options)


def test_bootstrap_needs_an_array():
    with pytest.raises(ValueError, match="no array besides None"):
        bootstrap_interval(lambda y, sample_weight: 0.0, None, groups=[0, 1])


# -- A stand-in for the estimators: the difference of a pair, and a vectoriser of pairs ----------------------


class Differences(ClassifierMixin, BaseEstimator):
    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y=None, sample_weight=None):
        X = np.asarray(X)
        y = np.ones(len(X)) if y is None else np.asarray(y)
        self.classes_ = np.unique(y) if len(np.unique(y)) == 2 else np.array([0, 1])
        features, first = (X[:, 0] - X[:, 1] if X.ndim == 3 else X), y == self.classes_[1]
        sign = np.where(first, 1.0, -1.0)
        sides, target = np.vstack([features, -features]), np.concatenate([sign, -sign])
        weights = None if sample_weight is None else np.tile(sample_weight, 2)
        model = LogisticRegression(C=self.C, fit_intercept=False).fit(sides, target, sample_weight=weights)
        self.coef_ = model.coef_[0]
        return self

    def decision_function(self, X):
        X = np.asarray(X)
        return (X[:, 0] - X[:, 1] if X.ndim == 3 else X) @ self.coef_

    def predict(self, X):
        return self.classes_[(self.decision_function(X) > 0).astype(int)]


class PairCounts(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.counts_ = CountVectorizer().fit(stack_outputs(X) if is_pairs(X) else X)
        return self

    def transform(self, X):
        if not is_pairs(X):
            return self.counts_.transform(X).toarray().astype(float)
        flat = self.counts_.transform(stack_outputs(X)).toarray().astype(float)
        return flat.reshape(-1, 2, flat.shape[1])


def kindness(texts):
    """Ground truth: kind words minus rude words."""
    return np.array([text.count("kind") - text.count("rude") for text in texts], dtype=float)


def first_feature(outputs):
    return outputs[:, 0]


@pytest.fixture
def texts(rng):
    words = np.array(["alpha", "beta", "gamma", "delta"])
    kind = ["kind " + " ".join(rng.choice(words, 3)) for _ in range(60)]
    rude = ["rude " + " ".join(rng.choice(words, 3)) for _ in range(60)]
    return np.array([kind, rude], dtype=object).T


@pytest.fixture
def pipeline():
    return make_pipeline(PairCounts(), Differences())


SCORERS = {
    "accuracy": pair_accuracy_scorer,
    "f1": output_f1_scorer,
    "auc": output_auc_scorer,
    "starc": make_starc_scorer(kindness, groups="pairs"),
}


# -- Nulls ---------------------------------------------------------------------------------------------------


def test_length_nulls():
    texts = np.array([["a long output", "short"], ["no", "a longer one"]], dtype=object)
    longer = longer_null(texts)
    assert longer.shape == (2, 2) and np.median(longer) == 0
    np.testing.assert_array_equal(longer[:, 0] - longer[:, 1], [8, -10])
    np.testing.assert_array_equal(shorter_null(texts), -longer)
    words = longer_null(texts, unit="words")
    np.testing.assert_array_equal(words[:, 0] - words[:, 1], [2, -2])
    assert longer_null(list(texts.ravel())).shape == (4,)
    with pytest.raises(ValueError, match="values other than texts.*Pass what stands before the vectoriser"):
        longer_null(np.zeros((3, 2, 4)))
    with pytest.raises(ValueError, match="unit='tokens', but expected 'characters' or 'words'"):
        longer_null(texts, unit="tokens")


def test_length_null_of_a_data_frame():
    frame = pd.DataFrame({"prompt": ["hm?", "well?"], "chosen": ["yes", "no"], "rejected": ["y", "never"]})
    rewards = longer_null(frame)
    np.testing.assert_array_equal(rewards[:, 0] - rewards[:, 1], [2, -3])


def test_length_nulls_of_a_data_frame_of_outputs():
    texts = ["a", "three", "seven words are more than one word"]
    frame = pd.DataFrame({"completion": texts, "label": [True, False, True]})
    for null in (longer_null, shorter_null):
        for unit in ("characters", "words"):
            np.testing.assert_array_equal(null(frame, unit), null(texts, unit))
    np.testing.assert_array_equal(longer_null(frame.assign(prompt=["", "p", ""])), [-7, 0, 26])  # 1, 8 and 34
    messages = frame.assign(completion=[[{"role": "assistant", "content": text}] for text in texts])
    np.testing.assert_array_equal(longer_null(messages), longer_null(texts))
    with pytest.raises(ValueError, match="values other than texts"):
        longer_null(pd.DataFrame({"age": [1.0, 2.0]}))
    with pytest.raises(ValueError, match="Column 'completion' holds numbers"):
        longer_null(pd.DataFrame({"completion": [1.0, 2.0]}))


def test_a_reference_gets_the_texts_of_a_data_frame_of_outputs():
    frame = pd.DataFrame({"prompt": ["p", "q", "r"], "completion": ["kind", "so kind", "rude"]})
    pipeline = make_pipeline(
        PairTransformer(make_pipeline(CountVectorizer(), TruncatedSVD(2, random_state=0))), LogisticRegression()
    ).fit(frame, [1, 1, 0])
    seen = []

    def reference(outputs):
        seen.append(list(outputs))
        return np.array([2.0, 1.0, 0.0])

    assert -1 <= make_starc_scorer(reference)(pipeline, frame) <= 0
    assert seen == [["p\n\nkind", "q\n\nso kind", "r\n\nrude"]]


def test_shuffled_labels_score_about_one_half(texts, pipeline):
    real = pipeline.fit(texts).decision_function(texts)
    assert pair_accuracy(None, real) == 1
    scores = []
    for seed in range(20):
        rewards = shuffled_labels_null(pipeline, texts, groups=np.arange(60) // 2, random_state=seed)
        assert rewards.shape == (60, 2)
        scores.append(pair_accuracy(None, rewards[:, 0] - rewards[:, 1]))
    assert 0.3 < np.mean(scores) < 0.7


def test_shuffled_labels_are_seeded_balanced_and_keep_the_classes(texts, pipeline, rng):
    y = np.array(["first", "second"])[rng.permutation(60) % 2]
    draws = [shuffled_labels_null(pipeline, texts, y, X_test=texts[:9], random_state=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert draws[0].shape == (9, 2) and (draws[0] != draws[2]).any()
    seed = np.random.RandomState(0)
    shuffled = metrics._shuffled_labels(texts, np.ones(60), 60, seed)
    assert set(metrics._shuffled_labels(texts, y, 60, seed)) == {"first", "second"}
    assert np.sum(metrics._shuffled_labels(texts, None, 60, seed)) == 30
    assert set(np.unique(shuffled)) == {0, 1}  # shuffling a single class would shuffle nothing


def test_shuffled_labels_errors(texts, pipeline):
    with pytest.raises(ValueError, match="an out-of-fold fit needs at least 2"):
        shuffled_labels_null(pipeline, texts, groups=np.zeros(60))
    with pytest.raises(ValueError, match="outputs with y=None.*Pass y, or pairs"):
        shuffled_labels_null(pipeline, texts.ravel())


def test_prompt_only_null_is_the_leave_one_out_mean(rng):
    prompts = np.repeat(np.arange(40), 5)
    toxic_prompt = rng.random(40)[prompts]
    labels = (rng.random((200, 2)) < toxic_prompt[:, None]).astype(int)
    rewards = prompt_only_null(prompts, labels)
    others = labels[1:5].mean() - 0.5
    np.testing.assert_allclose(rewards[0], [others, others])
    assert pair_accuracy(None, rewards[:, 0] - rewards[:, 1]) == 0.5
    assert output_auc_score(None, rewards, output_labels=labels) > 0.6
    assert output_auc_score(None, prompt_only_null(prompts)) == 0.5
    single = prompt_only_null(np.arange(200), labels)
    assert np.ptp(single) == 0  # a pair's own labels never enter
    with pytest.raises(ValueError, match=r"output_labels of shape \(200,\)"):
        prompt_only_null(prompts, labels[:, 0])


# -- Splits --------------------------------------------------------------------------------------------------


def test_check_split_names_the_leak():
    groups = np.array(["a", "a", "b", "b", "c", "c", "d", "d"])
    message = r"leaks 1 of 4 groups .*\(50% of the test rows\): 'b'\. Split with GroupKFold"
    with pytest.warns(UserWarning, match=message):
        leaked = check_split([0, 1, 2], [3, 4], groups)
    np.testing.assert_array_equal(leaked, ["b"])
    mask = np.array([True, False] * 4)
    with pytest.warns(UserWarning, match=r"leaks 4 of 4 .*100% of the test rows.*'a', 'b', 'c', \.\.\."):
        assert len(check_split(mask, ~mask, groups)) == 4
    for train, test in GroupKFold(2).split(groups, groups=groups):
        assert check_split(train, test, groups).size == 0


def test_check_split_errors():
    with pytest.raises(ValueError, match="a split by groups needs at least 2"):
        check_split([0], [1], ["a", "a"])
    with pytest.raises(ValueError, match="Got test of shape .* expected row numbers below 2, or a mask"):
        check_split([0], [2], ["a", "b"])
    with pytest.raises(ValueError, match="Got train .* of shape|Got train of shape"):
        check_split([0.5], [1], ["a", "b"])


# -- Scorers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_y", [True, False])
@pytest.mark.parametrize("routing", [True, False])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_scorers_in_cross_validate(texts, pipeline, with_y, routing, n_jobs):
    X, y = texts, None
    if with_y:
        X, y = texts.copy(), np.arange(60) % 2
        X[y == 0] = X[y == 0, ::-1]
    with sklearn.config_context(enable_metadata_routing=routing):
        results = cross_validate(pipeline, X, y, cv=KFold(3), scoring=SCORERS, n_jobs=n_jobs, error_score="raise")
    for fold, (train, test) in enumerate(KFold(3).split(X)):
        fitted = clone(pipeline).fit(X[train], None if y is None else y[train])
        rewards = fitted.decision_function(X[test].ravel()).reshape(-1, 2)
        y_test, margins = None if y is None else y[test], rewards[:, 0] - rewards[:, 1]
        truth = kindness(X[test].ravel()).reshape(-1, 2)
        assert results["test_accuracy"][fold] == pair_accuracy(y_test, margins)
        assert results["test_f1"][fold] == pytest.approx(output_f1_score(y_test, rewards))
        assert results["test_auc"][fold] == pytest.approx(output_auc_score(y_test, rewards))
        assert results["test_starc"][fold] == pytest.approx(-starc_distance(rewards, truth, groups="pairs"))
    assert results["test_auc"].min() > 0.9 and results["test_starc"].min() > -0.4


@pytest.mark.parametrize("routing", [True, False])
def test_scorers_in_a_grid_search_with_refit_by_one(texts, pipeline, routing):
    grid = {"differences__C": [1e-6, 1.0]}
    with sklearn.config_context(enable_metadata_routing=routing):
        search = GridSearchCV(pipeline, grid, scoring=SCORERS, refit="starc", cv=3, error_score="raise")
        search = pickle.loads(pickle.dumps(clone(search))).fit(texts)
    assert search.best_params_ in search.cv_results_["params"]
    assert search.best_score_ == search.cv_results_["mean_test_starc"].max()
    single = GridSearchCV(pipeline, grid, scoring=pair_accuracy_scorer, cv=3, error_score="raise").fit(texts)
    assert single.score(texts) == 1


def test_scorers_on_a_table_and_the_package_s_own_transformer(texts):
    table = pd.DataFrame({"prompt": ["well, "] * 60, "chosen": texts[:, 0], "rejected": texts[:, 1]})
    pipeline = make_pipeline(
        PairTransformer(make_pipeline(CountVectorizer(), TruncatedSVD(5, random_state=0))), Differences()
    )
    results = cross_validate(pipeline, table, scoring=SCORERS, cv=3, error_score="raise")
    assert results["test_accuracy"].min() == 1 and results["test_starc"].min() > -0.4
    rewards = shuffled_labels_null(pipeline, table, groups=np.arange(60), random_state=0)
    assert rewards.shape == (60, 2)


def test_scorers_on_features(rng):
    X = rng.normal(size=(40, 2, 3))
    fitted = Differences().fit(X, (X[:, 0, 0] > X[:, 1, 0]).astype(int))
    y = np.where(X[:, 0, 0] > X[:, 1, 0], 1, 0)
    assert pair_accuracy_scorer(fitted, X, y) > 0.9
    assert pair_accuracy_scorer(fitted, X, 1 - y) < 0.1
    assert make_starc_scorer(first_feature)(fitted, X) > -0.2
    assert make_starc_scorer(first_feature)(fitted, X[:, 0]) > -0.2
    labels = (X[..., 0] > 0).astype(int)
    assert output_auc_scorer(fitted, X, y, output_labels=labels) > 0.95
    assert output_auc_scorer(fitted, X[:, 0], labels[:, 0]) > 0.95
    assert output_f1_scorer(fitted, X[:, 0], labels[:, 0]) > 0.8
    with pytest.raises(ValueError, match="pair accuracy is defined for pairs only.*output_auc_scorer"):
        pair_accuracy_scorer(fitted, X[:, 0], labels[:, 0])


def test_scorers_on_texts_of_outputs(texts, pipeline):
    flat, y = texts.ravel(), np.tile([1, 0], 60)
    fitted = pipeline.fit(flat, y)
    assert output_f1_scorer(fitted, flat, y) == 1 and output_auc_scorer(fitted, flat, y) == 1
    with pytest.raises(ValueError, match="defined for pairs only"):
        pair_accuracy_scorer(fitted, flat, y)


def test_a_fold_with_one_class_is_read_by_the_estimator_s_classes(rng):
    X = rng.normal(size=(40, 2, 3))
    y = np.where(X[:, 0, 0] > X[:, 1, 0], "yes", "no")
    fitted = Differences().fit(X, y)
    no = y == "no"
    rewards = fitted.decision_function(X[no].reshape(-1, 3)).reshape(-1, 2)
    assert pair_accuracy_scorer(fitted, X[no], y[no]) == pair_accuracy(None, rewards[:, 1] - rewards[:, 0])
    assert output_auc_scorer(fitted, X[no], y[no]) == output_auc_score(None, rewards[:, ::-1])


def test_sample_weight_is_not_ignored(rng):
    X = rng.normal(size=(40, 2, 3))
    y = (X[:, 0, 0] > X[:, 1, 0]).astype(int)
    fitted = Differences().fit(X, y)
    y = np.where(np.arange(40) < 10, 1 - y, y)  # wrong labels, of no weight
    weights = (np.arange(40) >= 10).astype(float)
    for scorer in (pair_accuracy_scorer, output_auc_scorer, output_f1_scorer):
        expected = scorer(fitted, X[10:], y[10:])
        assert scorer(fitted, X, y, sample_weight=weights) == pytest.approx(expected)
        assert scorer(fitted, X, y) < expected
    scorer = make_starc_scorer(first_feature)
    assert scorer(fitted, X, sample_weight=weights) == pytest.approx(scorer(fitted, X[10:]))


def test_routed_metadata_reaches_the_scorers(rng):
    X, y = rng.normal(size=(40, 2, 3)), np.arange(40) % 2
    params = {
        "sample_weight": rng.integers(1, 5, size=40),
        "output_labels": rng.integers(2, size=(40, 2)),
        "reference_reward": rng.normal(size=(40, 2)),
        "groups": np.arange(40) // 4,
    }
    with sklearn.config_context(enable_metadata_routing=True):
        f1 = copy.deepcopy(output_f1_scorer).set_score_request(sample_weight=True, output_labels=True)
        accuracy = copy.deepcopy(pair_accuracy_scorer).set_score_request(sample_weight="sample_weight")
        starc = make_starc_scorer().set_score_request(reference_reward=True, groups=True, sample_weight=False)
        estimator = Differences().set_fit_request(sample_weight=True)
        results = cross_validate(
            estimator, X, y, cv=GroupKFold(4), scoring={"f1": f1, "accuracy": accuracy, "starc": starc},
            params=params, error_score="raise",
        )  # fmt: skip
        search = GridSearchCV(estimator, {"C": [0.1, 1.0]}, scoring=starc, cv=GroupKFold(4), error_score="raise")
        search.fit(X, y, **{name: value for name, value in params.items() if name != "output_labels"})
    assert np.isfinite(search.best_score_)
    for fold, (train, test) in enumerate(GroupKFold(4).split(X, groups=params["groups"])):
        fitted = Differences().fit(X[train], y[train], sample_weight=params["sample_weight"][train])
        rewards = fitted.decision_function(X[test].reshape(-1, 3)).reshape(-1, 2)
        part = {name: value[test] for name, value in params.items()}
        weights = part["sample_weight"]
        expected = output_f1_score(None, rewards, output_labels=part["output_labels"], sample_weight=weights)
        assert results["test_f1"][fold] == pytest.approx(expected)
        expected = pair_accuracy(y[test], rewards[:, 0] - rewards[:, 1], sample_weight=weights)
        assert results["test_accuracy"][fold] == pytest.approx(expected)
        expected = -starc_distance(rewards, part["reference_reward"], groups=part["groups"])
        assert results["test_starc"][fold] == pytest.approx(expected)


def test_unrequested_metadata_is_an_error_that_names_the_scorer(rng):
    X = rng.normal(size=(20, 2, 3))
    with sklearn.config_context(enable_metadata_routing=True):
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="pair_accuracy_scorer"):
            cross_validate(
                Differences().set_fit_request(sample_weight=True), X, scoring=pair_accuracy_scorer,
                params={"sample_weight": np.ones(20)},
            )  # fmt: skip
        with pytest.raises(TypeError, match="Unexpected args"):
            copy.deepcopy(pair_accuracy_scorer).set_score_request(output_labels=True)
    with pytest.raises(RuntimeError, match="metadata routing is enabled"):
        make_starc_scorer().set_score_request(groups=True)


def test_scorers_pickle_copy_and_show_themselves():
    for scorer in [*SCORERS.values(), make_starc_scorer(norm=1)]:
        assert repr(pickle.loads(pickle.dumps(scorer))) == repr(clone(scorer, safe=False)) == repr(scorer)
    assert repr(output_auc_scorer) == "output_auc_scorer" and repr(output_f1_scorer) == "output_f1_scorer"
    assert repr(make_starc_scorer()) == "make_starc_scorer(None, groups=None, norm=2)"


def test_scorer_errors(rng):
    X = rng.normal(size=(6, 2, 3))
    fitted = Differences().fit(X)
    with pytest.raises(ValueError, match="neither a reference nor the metadata reference_reward"):
        make_starc_scorer()(fitted, X)
    with pytest.raises(ValueError, match="both a reference and the metadata reference_reward"):
        make_starc_scorer(first_feature)(fitted, X, reference_reward=np.zeros((6, 2)))
    with pytest.raises(TypeError, match="PairCounts without a decision_function.*End the pipeline"):
        pair_accuracy_scorer(PairCounts(), X)
    with pytest.raises(TypeError, match="reference of type ndarray.*routed metadata reference_reward"):
        make_starc_scorer(np.zeros((6, 2)))
    with pytest.raises(ValueError, match="groups='prompts', but expected None or 'pairs'"):
        make_starc_scorer(groups="prompts")
    with pytest.raises(ValueError, match="Pass the prompts of the rows as routed metadata"):
        make_starc_scorer(groups=np.arange(6))
    with pytest.raises(ValueError, match="norm=0"):
        make_starc_scorer(norm=0)


# -- Finite MDPs ---------------------------------------------------------------------------------------------

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
    dynamics, reward = rng.dirichlet(np.ones(4), size=(4, 3)), rng.normal(size=(4, 3, 4))
    noise = rng.normal(size=(4, 3, 4))
    same = reward + noise - (dynamics * noise).sum(axis=2, keepdims=True)
    assert tabular_starc(reward, same, dynamics, 0.9) < 1e-7
    assert tabular_epic(reward, same, 0.9) > 0.1


def test_tabular_starc_of_a_bandit_is_the_distance_of_one_prompt(rng):
    a, b = rng.normal(size=(2, 1, 6, 1))
    dynamics = np.ones((1, 6, 1))
    for norm in NORMS:
        expected = starc_distance(a.ravel(), b.ravel(), norm=norm)
        assert tabular_starc(a, b, dynamics, 0.5, norm=norm) == pytest.approx(expected)


def test_epic_without_discount_centres_each_state(rng):
    a, b = rng.normal(size=(2, 3, 2, 3))
    centred = [(x - x.mean(axis=(1, 2), keepdims=True)).ravel() for x in (a, b)]
    expected = np.sqrt((1 - np.corrcoef(*centred)[0, 1]) / 2)
    assert tabular_epic(a, b, 0.0) == pytest.approx(expected)


def test_dard_by_loops(rng):
    dynamics = rng.dirichlet(np.ones(3), size=(3, 2))
    a, b = rng.normal(size=(2, 3, 2, 3))

    def canonical(reward):
        table = np.empty_like(reward)
        for s, action, t in np.ndindex(reward.shape):
            total = 0.0
            for act in range(2):
                after, later = dynamics[s, act], dynamics[t, act]
                total += 0.9 * later @ reward[t, act] - after @ reward[s, act]
                total -= 0.9 * after @ reward[:, act] @ later
            table[s, action, t] = reward[s, action, t] + total / 2
        return table.ravel()

    expected = starc_distance(canonical(a), canonical(b), weights=dynamics.ravel())
    assert tabular_dard(a, b, dynamics, 0.9) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward_a": np.zeros((2, 2))}, r"rewards of shapes \(2, 2\) and .*n_states, n_actions, n_states"),
        ({"reward_a": np.full((2, 1, 2), np.nan)}, "rewards that are not finite"),
        ({"discount": 1.0}, r"discount=1.0, but expected a number in \[0, 1\)"),
        ({"transitions": np.ones((2, 1, 2))}, "transitions of shape .* sum to 1 over the last axis"),
        ({"policy": np.ones((2, 2))}, r"policy of shape \(2, 2\), but expected chances of shape \(2, 1\)"),
        ({"norm": 7}, "norm=7"),
    ],
)
def test_tabular_errors(change, message):
    table = np.arange(4.0).reshape(2, 1, 2)
    arguments = {
        "reward_a": table,
        "reward_b": table,
        "transitions": np.full((2, 1, 2), 0.5),
        "discount": 0.9,
    }
    with pytest.raises(ValueError, match=message):
        tabular_starc(**{**arguments, **change})


def test_every_public_name_exists():
    assert all(hasattr(metrics, name) for name in metrics.__all__)
