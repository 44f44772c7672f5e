"""Several objectives: rewards, what they share, their weights, conflicts, fronts, and the data that has them."""

import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from fairl_sk import (
    FailureAwareIRL,
    MaxEntropyIRL,
    MaxMarginIRL,
    MultiObjectiveIRL,
    PairTransformer,
    inspect_failures,
    objective_weights,
)
from fairl_sk.audit.objectives import measure_objectives, objectives_section
from fairl_sk.datasets import load_preferences, make_multi_preferences
from fairl_sk.metrics import (
    best_of_n,
    bootstrap_interval,
    hypervolume,
    objective_scorers,
    pair_log_loss,
    pareto_front,
    starc_distance,
)
from fairl_sk.pairs import stack_outputs

ALONE = MultiObjectiveIRL(share=False)


@pytest.fixture(scope="module")
def data():
    return make_multi_preferences(300, 6, n_objectives=3, correlation=0.3, temperature=1.0, random_state=0)


@pytest.fixture(scope="module")
def model(data):
    return MultiObjectiveIRL(objective_names=["helpful", "safe", "short"]).fit(data.data, data.targets)


# --------------------------------------------------------------------------------------------- the estimator


@pytest.mark.parametrize("learner", [MaxMarginIRL(tol=1e-2), MaxEntropyIRL(alpha=0.1), FailureAwareIRL(n_rounds=5)])
def test_without_sharing_each_reward_is_that_of_its_own_learner(data, learner):
    model = MultiObjectiveIRL(learner, share=False).fit(data.data, data.targets)
    for k, y in enumerate(data.targets.T):
        own = sklearn.clone(learner).fit(data.data, y.astype(int))
        np.testing.assert_allclose(model.decision_function(data.data)[:, k], own.decision_function(data.data))


def test_rows_that_an_objective_did_not_judge_or_found_equal_do_not_count_for_it(data):
    y = data.targets.copy()
    y[:100, 0], y[100:150, 0] = np.nan, 0.5
    model = sklearn.clone(ALONE).fit(data.data, y)
    own = MaxEntropyIRL().fit(data.data[150:], y[150:, 0].astype(int))
    np.testing.assert_allclose(model.decision_function(data.data)[:, 0], own.decision_function(data.data))
    assert model.n_judged_.tolist() == [150, 300, 300] and model.n_ties_.tolist() == [50, 0, 0]


@pytest.mark.parametrize(
    "code", [lambda y: 2 * y - 1, lambda y: y + 3, lambda y: pd.DataFrame(y), lambda y: y.tolist()]
)
def test_any_two_classes_and_any_table_give_the_same_reward(data, code):
    y = data.targets.copy()
    y[:50, 1] = np.nan
    expected = sklearn.clone(ALONE).fit(data.data, y).decision_function(data.data)
    model = sklearn.clone(ALONE).fit(data.data, code(y))
    np.testing.assert_allclose(model.decision_function(data.data), expected)
    assert model.score(data.data, code(y)) == pytest.approx(sklearn.clone(ALONE).fit(data.data, y).score(data.data, y))
    assert set(np.unique(model.predict(data.data))) == set(model.classes_)


def test_names_are_those_given_of_a_table_or_numbers(data, model):
    assert model.objective_names_ == ["helpful", "safe", "short"]
    table = pd.DataFrame(data.targets, columns=["a", "b", "c"])
    assert sklearn.clone(ALONE).fit(data.data, table).objective_names_ == ["a", "b", "c"]
    assert sklearn.clone(ALONE).fit(data.data, data.targets).objective_names_[2] == "objective_2"


def test_objectives_that_share_learn_more_where_few_pairs_are_judged():
    found = []
    for seed in range(2):
        data = make_multi_preferences(500, 30, correlation=0.9, judged=0.2, temperature=1.0, random_state=seed)
        outputs, truth = stack_outputs(data.data), data.objective_rewards.reshape(-1, 3)
        for share in (False, True):
            rewards = MultiObjectiveIRL(share=share).fit(data.data, data.targets).decision_function(outputs)
            found.append(np.mean([starc_distance(rewards[:, k], truth[:, k]) for k in range(3)]))
    assert found[1] + found[3] < 0.85 * (found[0] + found[2])


def test_the_margin_of_a_pair_is_the_difference_of_its_rewards(data, model):
    rewards = model.decision_function(stack_outputs(data.data)).reshape(-1, 2, 3)
    np.testing.assert_allclose(model.decision_function(data.data), rewards[:, 0] - rewards[:, 1], atol=1e-9)
    swapped = model.decision_function(data.data[:, ::-1])
    np.testing.assert_allclose(swapped, -model.decision_function(data.data), atol=1e-9)


def test_the_scalarized_reward_weighs_standard_deviations(data, model):
    margins = model.decision_function(data.data)
    scaled = margins / np.sqrt((margins**2).mean(axis=0))
    np.testing.assert_allclose(model.scalarize(data.data), scaled.mean(axis=1))
    np.testing.assert_allclose(model.scalarize(data.data, [2, 0, 2]), scaled[:, [0, 2]].mean(axis=1))
    np.testing.assert_allclose(model.scalarize(data.data, "safe"), margins[:, 1])
    given = MultiObjectiveIRL(weights=[3, 1, 0]).fit(data.data, data.targets)
    np.testing.assert_allclose(given.scalarize(data.data), scaled @ [0.75, 0.25, 0])


@pytest.mark.parametrize("weights", [None, [1, 0, 2], "short"])
def test_a_single_reward_is_a_learner_with_the_same_rewards(data, model, weights):
    outputs = stack_outputs(data.data)
    reward = model.single_reward(weights)
    for X in (data.data, outputs):
        np.testing.assert_allclose(reward.decision_function(X), model.scalarize(X, weights), atol=1e-9)
    assert reward.n_features_in_ == 6 and set(reward.predict(outputs)) <= {0.0, 1.0}


def test_single_rewards_are_linear(data):
    hidden = MaxEntropyIRL(hidden_layer_sizes=(4,), random_state=0)
    model = MultiObjectiveIRL(hidden, share=False).fit(data.data[:50], data.targets[:50])
    with pytest.raises(ValueError, match=r"without coef_.*scalarize\(X\) gives the rewards"):
        model.single_reward()
    with pytest.raises(ValueError, match="Found the objective 'kind'. Expected one of"):
        model.scalarize(data.data, "kind")


def test_in_a_pipeline_cross_validation_and_a_grid(data):
    y = data.targets.copy()
    y[::3, 2] = np.nan
    pipeline = make_pipeline(PairTransformer(StandardScaler()), ALONE)
    scoring = objective_scorers(["a", "b", "c"])
    found = cross_validate(pipeline, data.data, y, cv=GroupKFold(2), groups=np.arange(300) // 2, scoring=scoring)
    assert all((found[f"test_{name}"] > 0.55).all() for name in "abc")
    grid = GridSearchCV(
        pipeline, {"multiobjectiveirl__estimator": [MaxEntropyIRL(alpha=a) for a in (0.01, 100.0)]}, cv=2,
        scoring=objective_scorers(["a", "b", "c"], pair_log_loss, greater_is_better=False), refit="a",
    ).fit(data.data, y)  # fmt: skip
    assert grid.cv_results_["mean_test_c"].shape == (2,) and (grid.cv_results_["mean_test_a"] < 0).all()
    assert GridSearchCV(ALONE, {"share": [False, True]}, cv=2).fit(data.data[:100], y[:100]).best_score_ > 0.55
    again = pickle.loads(pickle.dumps(grid.best_estimator_))
    np.testing.assert_array_equal(again.decision_function(data.data), grid.decision_function(data.data))


def test_a_scorer_counts_the_rows_that_its_objective_judged(data, model):
    y = np.where(np.arange(300)[:, None] < [300, 100, 0], data.targets, np.nan)
    y[:20, 1] = 0.5
    margins = model.decision_function(data.data)
    scorers = objective_scorers(model.objective_names_)
    assert scorers["safe"](model, data.data, y) == ((margins[20:100, 1] > 0) == y[20:100, 1]).mean()
    weight = np.arange(300)
    expected = np.average((margins[:, 0] > 0) == y[:, 0], weights=weight)
    assert scorers["helpful"](model, data.data, y, sample_weight=weight) == pytest.approx(expected)
    with pytest.warns(UndefinedMetricWarning, match="judged in none"):
        assert np.isnan(scorers["short"](model, data.data, y))
    with pytest.raises(ValueError, match="score a MultiObjectiveIRL"):
        scorers["safe"](MaxEntropyIRL().fit(data.data, data.target), data.data, y)
    with pytest.raises(ValueError, match="each once. Rename"):
        objective_scorers(["a", "a"])


# ------------------------------------------------------------------------------------------------- weights


def test_learned_weights_are_those_of_the_overall_preferences():
    data = make_multi_preferences(1500, 5, weights=[1.0, 0.5, 0.0], temperature=1.0, random_state=1)
    model = MultiObjectiveIRL(weights="learned").fit(data.data, data.targets, overall=data.target)
    truth = data.weights * np.sqrt(2)  # margins of rewards with standard deviation 1
    low, high = model.weights_interval_.T
    assert (low < truth).all() and (truth < high).all() and (high - low < 0.6).all()
    direct = objective_weights(data.objective_rewards, data.target)
    np.testing.assert_allclose(direct.weights, model.weights_, atol=0.15)
    margins = np.diff(data.objective_rewards, axis=1)[:, 0]
    np.testing.assert_allclose(direct.scale, np.sqrt((margins**2).mean(axis=0)))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_weights_know_no_units_order_or_ties(seed, unit):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(80, 2, 2))
    y = (np.diff(scores, axis=1)[:, 0] @ [-1.0, -0.5] + rng.logistic(size=80) > 0).astype(float)
    found = objective_weights(scores, y)
    again = objective_weights(np.concatenate([scores[:, ::-1] * [unit, 1], scores[:3]]), [*(1 - y), 0.5, np.nan, 0.5])
    np.testing.assert_allclose(again.weights, found.weights, rtol=1e-3, atol=1e-4)
    assert again.n_pairs == found.n_pairs == 80
    twice = objective_weights(np.tile(scores, (2, 1, 1)), np.tile(y, 2), groups=np.tile(np.arange(80), 2))
    np.testing.assert_allclose(twice.interval, found.interval, rtol=1e-3, atol=1e-4)  # copies add no certainty


def test_scores_that_order_every_pair_have_no_finite_weights(rng):
    scores = rng.normal(size=(40, 2, 1))
    with pytest.warns(UserWarning, match="no finite estimate.*Judge more pairs"):
        objective_weights(scores, scores[:, 0, 0] > scores[:, 1, 0])


# ---------------------------------------------------------------------------------- failures and conflicts


def test_conflicts_are_decided_by_judgements_else_by_rewards(data, model):
    sides = np.sign(model.decision_function(data.data))
    np.testing.assert_array_equal(model.conflicts(data.data)[:, 0, 1], sides[:, 0] != sides[:, 1])
    y = np.full((300, 3), np.nan)
    y[0], y[1] = [1, 0, 0.5], [np.nan, 1, 1]
    found = model.conflicts(data.data, y)
    assert found[0, 0, 1] and found[0, 1, 0] and not found[0, 2].any() and not found[1, 1, 2]
    assert found[1, 0, 1] == (sides[1, 0] < 0)
    np.testing.assert_array_equal(found[2:], model.conflicts(data.data)[2:])


def test_the_conflict_rate_follows_from_the_correlation():
    data = make_multi_preferences(4000, 4, n_objectives=2, correlation=-0.5, random_state=0)
    assert (data.targets[:, 0] != data.targets[:, 1]).mean() == pytest.approx(2 / 3, abs=0.03)


def test_failures_are_listed_by_objective_and_conflicts_are_their_own_kind(data, model):
    y = data.targets.copy()
    y[::2, 2] = np.nan
    texts = [[f"first {n}", f"second {n}"] for n in range(300)]
    table = inspect_failures(model, data.data, y, texts=texts, k=10**6)
    assert len(table) == 750 and set(table["objective"]) == {"helpful", "safe", "short"}
    column = table["objective"].map(model.objective_names_.index)
    margins = (model.decision_function(data.data) / model.scale_)[table["pair"], column]
    sign = np.where(y[table["pair"], column] == 1, 1, -1)
    np.testing.assert_allclose(table["margin"], sign * margins)
    fails, against = table["margin"] <= 0, table["conflict"] != ""
    assert (fails == ~table["reason"].isin(["conflict", "none"])).all()
    assert ((table["reason"] == "conflict") == (~fails & against)).all()
    assert (table["reason"].map({"conflict": 1, "none": 2}).fillna(0).diff().dropna() >= 0).all()
    assert table["preferred"][0].split()[0] == ("first" if sign[0] > 0 else "second")
    row = table[against].iloc[0]
    conflicts = model.conflicts(data.data, y)[row["pair"], model.objective_names_.index(row["objective"])]
    assert row["conflict"] == ", ".join(np.array(model.objective_names_)[conflicts])
    assert len(inspect_failures(model, data.data, y, k=7, groups=np.arange(300) // 3)) == 7
    with pytest.raises(ValueError, match="Found output_labels or implicit_rewards with several"):
        inspect_failures(model, data.data, y, output_labels=np.ones((300, 2)))
    with pytest.raises(ValueError, match="no judgement in y"):
        inspect_failures(model, data.data, np.full((300, 3), np.nan))


# ----------------------------------------------------------------------------------------------- bad input


def changed(column, value):
    return lambda y: np.where(np.arange(y.shape[1]) == column, value, y)


BAD = {
    "never judged": (changed(1, np.nan), {}, r"'objective_1' is judged in no row \(0 ties\).*leave its column out"),
    "ties only": (changed(1, 0.5), {}, r"judged in no row \(300 ties\)"),
    "same everywhere": (changed(2, 1.0), {}, "'objective_2' is judged the same everywhere.*exchange the sides of half"),
    "named twice": (None, {"objective_names": ["a", "b", "a"]}, "Found the objective 'a' twice.*rename one"),
    "too few names": (None, {"objective_names": ["a"]}, "Found the names .* for 3 columns"),
    "negative weights": (None, {"weights": [1, -1, 1]}, "are negative in part.*exchange its judgements"),
    "weights of sum 0": (None, {"weights": [0, 0, 0]}, "which sum to 0. Expected weights >= 0"),
    "too few weights": (None, {"weights": [1, 1]}, "Expected a number for each"),
    "learned of nothing": (None, {"weights": "learned"}, "Found no overall preferences.*pass overall to fit"),
    "one column": (lambda y: y[:, 0], {}, r"Found y of shape \(300,\).*y.reshape\(-1, 1\)"),
    "other rows": (lambda y: y[1:], {}, r"shape \(299, 3\) for 300 rows"),
    "words": (lambda y: np.where(y == 1, "first", "second"), {}, "y is not numeric.*code the labels"),
    "more classes": (changed(0, 7), {}, "found 3 values in y"),
    "infinite": (changed(0, np.inf), {}, "Found infinity in y"),
    "no y": (lambda y: None, {}, "requires y to be passed"),
    "folds": (None, {"cv": [(np.arange(200), np.arange(200, 300))]}, "does not hold out each row once"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(data, case):
    change, parameters, message = BAD[case]
    y = data.targets if change is None else change(data.targets)
    with pytest.raises(ValueError, match=message):
        MultiObjectiveIRL(**parameters).fit(data.data, y)


def test_bad_input_beside_the_judgements(data, model):
    with pytest.raises(ValueError, match="overall preferences with weights='equal'"):
        MultiObjectiveIRL().fit(data.data, data.targets, overall=data.target)
    with pytest.raises(ValueError, match=r"Found groups of shape \(3,\) for 300 rows"):
        MultiObjectiveIRL().fit(data.data, data.targets, groups=[0, 1, 2])
    with pytest.raises(ValueError, match="Found 0.7 in y. Expected 1 .the first"):
        model.score(data.data, np.full((300, 3), 0.7))
    few = np.full((300, 3), np.nan)
    few[:2], few[::5, 0] = [[0, 1, 0], [1, 0, 1]], data.targets[::5, 0]
    with pytest.raises(ValueError, match="Objective 'objective_1' .without one of the folds; see cv and share.: Found"):
        MultiObjectiveIRL().fit(data.data, few)
    assert np.isnan(model.score(data.data, np.full((300, 3), np.nan)))


def test_an_objective_that_contradicts_itself_is_warned_of_by_name(data):
    X, y = np.concatenate([data.data, data.data[:9]]), np.concatenate([data.targets, data.targets[:9]])
    y[-9:, 1] = 1 - y[-9:, 1]
    with pytest.warns(UserWarning, match="Objective 'objective_1': 18 of 309 pairs contradict another pair") as raised:
        MultiObjectiveIRL().fit(X, y)
    assert len(raised) == 1 and raised[0].filename == __file__


@pytest.mark.parametrize(
    ("scores", "y", "options", "message"),
    [
        (np.full((4, 2, 1), np.nan), [0, 1, 0, 1], {}, "8 not finite.*drop the pairs without"),
        (np.zeros((4, 2)), [0, 1, 0, 1], {}, r"scores of shape \(4, 2\)"),
        (np.zeros((4, 2, 1)), [0, 1, 0, 1], {}, "Objective 0 has the same score for both outputs"),
        (np.ones((4, 2, 1)), [1, 1, 1, 1], {}, "'overall preference' is judged the same everywhere"),
        (np.ones((4, 2, 1)), [[1], [0], [1], [0]], {}, r"overall preferences of shape \(4, 1\)"),
        (np.ones((4, 2, 1)), [1, 0, 1, 0], {"confidence_level": 95}, "confidence_level=95"),
        (np.ones((4, 2, 1)), [1, 0, 1, 0], {"groups": [1]}, r"groups of shape \(1,\) for 4 pairs"),
    ],
)
def test_bad_input_of_weights(scores, y, options, message):
    with pytest.raises(ValueError, match=message):
        objective_weights(scores, y, **options)


# ------------------------------------------------------------------------------------------- Pareto fronts


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12), st.integers(1, 3))
def test_the_front_is_what_no_output_of_the_group_beats(rewards, n_groups):
    rewards, groups = np.array(rewards, dtype=float), np.arange(len(rewards)) % n_groups
    beaten = [
        any((b >= a).all() and (b > a).any() for b, other in zip(rewards, groups, strict=True) if other == group)
        for a, group in zip(rewards, groups, strict=True)
    ]
    np.testing.assert_array_equal(pareto_front(rewards, groups), ~np.array(beaten))


def test_hypervolume_of_a_box_and_of_what_is_worse_than_the_reference():
    assert hypervolume([[2, 3, 4]], [1, 1, 1]) == 6
    assert hypervolume([[2, 3, 4], [0, 9, 9], [2, 2, 2]], [1, 1, 1]) == 6


def test_more_completions_and_more_weight_give_more(rng):
    rewards = rng.normal(size=(200, 8, 2))
    few, many = (best_of_n(rewards[:, :n], [[1, 0], [1, 1], [0, 1]]).mean(axis=1) for n in (2, 8))
    assert (np.diff(many[:, 0]) < 0).all() and (np.diff(many[:, 1]) > 0).all()
    assert ((many - few) @ [1, 1] > 0).all()
    np.testing.assert_array_equal(best_of_n(rewards, [[1, 0]])[0, :, 0], rewards[..., 0].max(axis=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pareto_front([1, 2]), r"shape \(2,\).*n_objectives"),
        (lambda: pareto_front([[np.nan, 1]]), "1 of them not finite"),
        (lambda: pareto_front([[0, 1]], [1, 2]), r"groups of shape \(2,\)"),
        (lambda: hypervolume([[0, 1]], [0]), "a finite number for each"),
        (lambda: best_of_n(np.zeros((2, 2)), [[1, 1]]), r"rewards of shape \(2, 2\)"),
        (lambda: best_of_n(np.zeros((2, 2, 3)), [[1, 1]]), r"weights of shape \(1, 2\)"),
    ],
)
def test_bad_input_of_fronts(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------------------------------------------- data


def test_multi_preferences_have_the_rewards_that_they_say():
    data = make_multi_preferences(
        2000, 10, n_objectives=4, correlation=-0.2, weights=[1, 2, 0, 0], judged=0.3, random_state=0
    )
    np.testing.assert_allclose(data.coef @ data.coef.T, 1.2 * np.eye(4) - 0.2, atol=1e-9)
    np.testing.assert_allclose(data.objective_rewards, data.data @ data.coef.T)
    np.testing.assert_allclose(data.reference_reward, data.objective_rewards @ [1, 2, 0, 0])
    judged = ~np.isnan(data.targets)
    assert judged.mean() == pytest.approx(0.3, abs=0.02)
    better = data.objective_rewards[:, 0] > data.objective_rewards[:, 1]
    np.testing.assert_array_equal(data.targets[judged], better[judged])
    np.testing.assert_array_equal(data.target, data.reference_reward[:, 0] > data.reference_reward[:, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_objectives": 3, "correlation": -0.6}, "correlation of at least -0.5.*cannot all contradict"),
        ({"n_objectives": 30}, "a feature for each objective"),
        ({"weights": [1.0]}, "a number for each of 3"),
        ({"judged": 0}, "'judged' parameter"),
    ],
)
def test_bad_input_of_multi_preferences(options, message):
    with pytest.raises(ValueError, match=message):
        make_multi_preferences(50, 20, **options)


SCORED = [
    {"prompt": f"p{n}", "chosen": f"a {n}", "rejected": f"b {n}", "chosen_help": helpful, "rejected_help": 2}
    | {"safe_chosen": 1, "safe_rejected": safe}
    for n, (helpful, safe) in enumerate([(4, 3), (1, 0), (2, None), (3, 1)])
]


@pytest.mark.parametrize("shuffle_sides", [True, False])
def test_score_columns_become_targets_and_scores(shuffle_sides):
    bunch = load_preferences(SCORED, objectives=["help", "safe"], shuffle_sides=shuffle_sides)
    first = np.array([text[0] == "a" for text in bunch.data[:, 0]])
    np.testing.assert_array_equal(bunch.targets[:, 0], np.where(first, [1, 0, 0.5, 1], [0, 1, 0.5, 0]))
    np.testing.assert_array_equal(bunch.targets[:, 1], np.where(first, [0, 1, np.nan, 0.5], [1, 0, np.nan, 0.5]))
    assert bunch.objective_names == ["help", "safe"] and not bunch.unread
    scores = np.where(first[:, None], bunch.objective_scores[..., 0], bunch.objective_scores[:, ::-1, 0])
    np.testing.assert_array_equal(scores, [[4, 2], [1, 2], [2, 2], [3, 2]])


def test_scores_of_completions_and_judgements_in_columns_are_objectives():
    rated = {"annotations": {"honesty": {"Rating": "5"}}, "helpful": 1}
    other = {"annotations": {"honesty": {"Rating": "N/A"}}, "helpful": 2}
    completions = [{"response": "a", "score": 2, **rated}, {"response": "b", "score": 1, **other}]
    records = [{"prompt": f"p{n}", "completions": completions} for n in range(2)]
    bunch = load_preferences(records, objectives=["honesty", "helpful"], shuffle_sides=False)
    np.testing.assert_array_equal(bunch.targets, [[np.nan, 0]] * 2)
    judged = [{"response1": f"a{n}", "response2": "b", "preference": "left", "safer": "right"} for n in range(3)]
    bunch = load_preferences(judged, objectives=["safer"], shuffle_sides=False)
    assert bunch.target.tolist() == [1] * 3 and bunch.targets.tolist() == [[0]] * 3
    assert load_preferences(judged).targets is None and load_preferences(judged).objective_names is None


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (["help", "kind"], "objective 'kind' is not in the columns .*chosen_NAME and rejected_NAME"),
        (["help", "help"], "a list of names, each once"),
        ("help", "a list of names, each once"),
    ],
)
def test_bad_objectives(objectives, message):
    with pytest.raises(ValueError, match=message):
        load_preferences(SCORED, objectives=objectives)


def test_layouts_without_objectives_say_so():
    with pytest.raises(ValueError, match="the layout 'unpaired' has none"):
        load_preferences([{"completion": "a", "label": 1}, {"completion": "b", "label": 0}], objectives=["x"])
    completions = [{"prompt": "p", "completions": [{"text": "a", "score": 1}, {"text": "b", "score": 2}]}] * 2
    with pytest.raises(ValueError, match="a completion has no score 'x'"):
        load_preferences(completions, objectives=["x"])


def test_outputs_with_labels_by_several_objectives(data):
    outputs = stack_outputs(data.data)
    y = (data.objective_rewards.reshape(-1, 3) > 0).astype(int)
    model = MultiObjectiveIRL(cv=KFold(3)).fit(outputs, y)
    assert model.score(outputs, y) > 0.9 and model.decision_function(data.data).shape == (300, 3)


# ------------------------------------------------------------------------------------------------- the report


def test_the_report_of_an_audit_counts_conflicts_and_whom_the_reward_follows():
    """Judgements of six pairs: 1, 0, a tie, not judged. The last four are held out; the reward prefers the first."""
    targets = np.array([[1, 0, 1], [1, 1, np.nan], [0, 1, np.nan], [1, 0.5, 1], [1, 0, np.nan], [0, 1, np.nan]])
    data = Bunch(targets=targets, objective_names=["helpful", "safe", "short"], groups=np.arange(6))
    held = Bunch(sign=np.array([1, -1, 1, -1]), groups=np.arange(2, 6))
    interval = partial(bootstrap_interval, n_resamples=20, random_state=0)
    found = measure_objectives(data, np.arange(2, 6), held, 2.0 * held.sign, interval)
    assert [row["decided"] for row in found["objectives"]] == [6, 5, 2]
    assert [row["accuracy"] and row["accuracy"].estimate for row in found["objectives"]] == [0.5, 2 / 3, None]
    assert [row["both"] for row in found["conflicts"]] == [5, 2, 1]
    assert [row["rate"] and row["rate"].estimate for row in found["conflicts"]] == [0.8, 0.0, None]
    section = objectives_section(Bunch(objectives=found))
    assert "helpful and safe decide against each other in 80% [" in section.words
    assert section.tables[0].rows[2] == ["safe and short", "1", "too few"]
    assert measure_objectives(Bunch(targets=None), None, held, None, interval) is objectives_section(Bunch()) is None
