"""What explains the preferences, and where a reward fails: shortcuts, subgroups, label errors and their correction."""

import csv

import numpy as np
import pytest
from scipy import stats

from fairl_sk import MaxEntropyIRL, TextFeatures
from fairl_sk.audit.contributions import Contributions
from fairl_sk.audit.label_errors import (
    contradicted_rows,
    cross_fitted_margins,
    find_label_errors,
    list_for_review,
    reasons_of,
)
from fairl_sk.audit.properties import PROPERTIES, cut_to_equal_length, known_properties, measure_properties
from fairl_sk.audit.shortcuts import measure_edits, measure_shortcuts
from fairl_sk.audit.significance import group_p_value, holm, lower_p_value
from fairl_sk.audit.subgroups import cluster_slices, find_subgroups, name_of, tree_slices, value_slices, word_slices
from fairl_sk.datasets import load_preferences

WORDS = "share of positive words", "share of negative words"


def array(*texts):
    return np.array(texts, dtype=object)


# -------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("length in words", "It's a test, is it?", 5),
        ("length in words", "我喜欢书", 4),
        ("share of capitals", "AbCd 12", 0.5),
        ("share of punctuation", "a, b.", 2 / 5),
        ("number of list and code marks", "- one\n2. two\n`x`", 4),
        ("share of digits", "ab12", 0.5),
        ("share of emoji", "ok 😀", 1 / 4),
        ("number of refusals", "I'm sorry, but I can’t do that.", 2),
        ("share of hedges", "maybe it is", 1 / 3),
        (WORDS[0], "good and kind", 2 / 3),
        (WORDS[1], "A bad, rude man", 2 / 4),
        ("share of letters that are not Latin", "été да", 2 / 5),
    ],
)
def test_properties_count_what_they_say(name, text, expected):
    assert measure_properties(array(text))[name] == pytest.approx(expected)


def test_the_overlap_with_the_prompt_needs_prompts():
    name, pairs = "overlap with the prompt", np.array([["the red bus", "a car"]], dtype=object)
    assert name not in measure_properties(pairs)
    assert measure_properties(pairs, array("Is the bus late?"))[name].tolist() == [[2 / 3, 0]]


@pytest.mark.parametrize(
    "text", ["", " ", "שלום עולם", "你好，世界", "😀👍🏽", "\ud83d", "a\0b\x1b[0m", "word. " * 170_000]
)
def test_every_text_has_finite_properties(text):
    values = measure_properties(np.array([[text, "A text."]], dtype=object), array(text))
    assert values.keys() == PROPERTIES.keys()
    assert all(value.shape == (1, 2) and np.isfinite(value).all() for value in values.values())
    for known in PROPERTIES.values():
        if known.edit:
            assert known.edit(np.array([[text, "A text."]], dtype=object)).shape == (1, 2)


def test_users_add_and_remove_properties():
    known = known_properties({"vowels": lambda texts: [text.count("a") for text in texts], "share of emoji": None})
    values = measure_properties(array("banana", "no"), properties=known)
    assert values["vowels"].tolist() == [3, 0] and "share of emoji" not in values
    with pytest.raises(ValueError, match=r"properties\['vowels'\]=3.*Expected a function of texts"):
        known_properties({"vowels": 3})
    for function, found in (
        (lambda texts: [1.0], r"shape \(1,\)"),
        (lambda texts: [np.nan] * len(texts), "2 values that are not finite"),
        (lambda texts: 1 / 0, "ZeroDivisionError"),
    ):
        with pytest.raises(ValueError, match=f"property 'vowels'.*{found}.*Expected"):
            measure_properties(array("a", "b"), properties=known_properties({"vowels": function}))


def test_both_sides_are_cut_to_the_same_number_of_words():
    cut = cut_to_equal_length(np.array([["one, two. three", "a b!"], ["", "x y"]], dtype=object))
    assert cut.tolist() == [["one, two", "a b!"], ["", ""]]


# ------------------------------------------------------------------------------------------------ significance


@pytest.mark.parametrize("alternative", ["two-sided", "less"])
def test_p_values_are_those_of_a_t_test_of_groups_but_few_groups_never_look_sure(rng, alternative):
    groups = np.repeat(np.arange(30), 4)
    values = rng.normal(-0.2, 1, 120)
    sums = values.reshape(30, 4).sum(axis=1)
    assert group_p_value(values, groups, alternative=alternative) == pytest.approx(
        stats.ttest_1samp(sums, 0, alternative=alternative).pvalue
    )
    assert group_p_value(-np.ones(500), np.arange(500) % 2, alternative=alternative) >= 0.25
    assert group_p_value(np.zeros(9), np.arange(9)) == 1


@pytest.mark.parametrize(
    "size, accuracy, n_inside", [(1, 0.8, 80), (1, 0.98, 40), (4, 0.8, 80), (8, 0.9, 40), (4, 0.7, 200)]
)
def test_lower_p_values_are_valid(rng, size, accuracy, n_inside):
    groups, inside = np.arange(400) // size, np.arange(400) < n_inside

    def chance():  # half of the groups are right or wrong as a whole
        own, shared = rng.random(400), np.repeat(rng.random(400 // size), size)
        return np.where(np.repeat(rng.random(400 // size) < 0.5, size), own, shared) < accuracy

    found = np.array([lower_p_value(chance().astype(float), inside, groups) for _ in range(1000)])
    assert np.mean(found < 0.05) < 0.07 and np.mean(found < 0.01) < 0.02


def test_lower_p_values_find_a_clear_gap():
    inside, groups = np.arange(400) < 40, np.arange(400) // 4
    assert lower_p_value(np.where(inside, 0.0, 1.0), inside, groups) < 1e-5
    assert lower_p_value(np.where(inside, 0.0, 1.0), inside, np.where(inside, 0, groups)) > 0.05  # one group
    assert lower_p_value(np.where(inside, 1.0, 0.5), inside, groups) == 1
    assert lower_p_value(np.ones(400), np.ones(400, dtype=bool), groups) == 1


def test_holm():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]).shape == (0,) and holm([0.9, 0.8]).tolist() == [1, 1]


# --------------------------------------------------------------------------------------------------- shortcuts


def drawn_pairs(rng, n_pairs, share):
    """Signs, groups, and a property that is greater in the preferred output in this share of the pairs."""
    sign, goes = rng.choice([-1, 1], n_pairs), rng.random(n_pairs) < share
    value = np.zeros((n_pairs, 2))
    value[:, 0] = np.where(goes, sign, -sign) * rng.integers(1, 5, n_pairs)
    return sign, np.arange(n_pairs) // 2, value


def test_a_shortcut_is_found_with_the_reward_that_follows_it(rng):
    sign, groups, value = drawn_pairs(rng, 400, 0.7)
    noise = rng.normal(size=(400, 2))
    margins = value[:, 0] + 0.1 * rng.normal(size=400)
    found = measure_shortcuts(
        {"noise": noise, "planted": -value, "constant": np.ones((400, 2))}, sign, groups, margins, n_resamples=50
    )
    assert [(row["property"], row["named"]) for row in found] == [("planted", True), ("noise", False)]
    assert found[0]["direction"] == -1 and found[0]["accuracy"].estimate == pytest.approx(0.7, abs=0.06)
    assert found[0]["r2"].estimate > 0.9 > 0.1 > found[1]["r2"].estimate
    assert found[0]["opposed_accuracy"] == 0 and found[0]["favored_accuracy"] == 1 and found[0]["equal_pairs"] == 0


@pytest.mark.parametrize("n_pairs, n_groups", [(400, 2), (4, 4), (400, 200)])
def test_no_shortcut_is_claimed_by_chance_or_of_few_groups(rng, n_pairs, n_groups):
    sign, _, value = drawn_pairs(rng, n_pairs, 1.0 if n_groups < 9 else 0.5)
    groups = np.arange(n_pairs) % n_groups
    found = measure_shortcuts({"p": value}, sign, groups, rng.normal(size=n_pairs), n_resamples=20)
    assert not any(row["named"] for row in found)


def test_edits_say_how_far_rewards_move():
    texts = np.array([["HELLO", "bye bye"], ["Yes", "NO NO NO"], ["...", "fine"]], dtype=object)

    def capitals(texts):
        return np.array([[sum(map(str.isupper, text)) for text in pair] for pair in texts], dtype=float)

    rows = {row["property"]: row for row in measure_edits(texts, np.ones(3), capitals)}
    lower = rows["share of capitals"]
    before = capitals(texts)
    assert lower["moved"] == pytest.approx(before.mean() / before.std()) and lower["shift"] == -lower["moved"]
    assert lower["changed"] == 3 / 6 and lower["flipped"] == 2 / 3  # two orders become ties
    assert rows["share of punctuation"]["changed"] == 0  # nothing would be left of "..."
    assert measure_edits(texts, np.ones(3), lambda texts: np.zeros(texts.shape)) == []


def test_edits_are_of_a_bounded_number_of_texts():
    seen = []

    def reward(texts):
        seen.append(sum(map(len, texts.flat)))
        return np.arange(texts.size, dtype=float).reshape(texts.shape)

    rows = measure_edits(np.full((30, 2), "Word " * 10_000, dtype=object), np.ones(30), reward)
    assert 0 < rows[0]["pairs"] < 30 and max(seen) <= 200_000


# --------------------------------------------------------------------------------------------------- subgroups


def made_credit(rng, n_rows=2000, planted=True):
    """Credit of rows, one in ten of which are wrong; in the topic 'ferry', 8 % of the rows, most are."""
    prompts = np.where(np.arange(n_rows) % 12 == 0, "about the ferry", "about the mill").astype(object)
    wrong = rng.random(n_rows) < np.where((prompts == "about the ferry") & planted, 0.8, 0.1)
    rows = rng.permutation(n_rows)
    return prompts, 1.0 - wrong, np.sort(rows[: n_rows * 3 // 4]), np.sort(rows[n_rows * 3 // 4 :])


@pytest.mark.parametrize("planted", [True, False])
def test_a_subgroup_is_named_only_if_it_is_there(rng, planted):
    prompts, credit, train, test = made_credit(rng, planted=planted)
    columns = {"number": rng.normal(size=(2000, 2)), "kind": rng.choice(["a", "b", "c"], 2000)}
    slices = word_slices(prompts, train, "the prompt") | value_slices(columns, train)
    found = find_subgroups(slices, credit, train, test, np.arange(2000) // 2, n_resamples=20)
    named = [row for row in found["tested"] if row["named"]]
    assert [name_of(row) for row in named] == ["the prompt holds 'ferry'"] * planted
    assert found["tried"] == len(slices)
    if planted:
        assert named[0]["accuracy"].estimate < 0.4 < 0.85 < named[0]["elsewhere"]
        assert named[0]["rows"] == sum("ferry" in prompts[row] for row in test)


def test_subgroups_of_two_groups_are_not_tested(rng):
    prompts, credit, train, test = made_credit(rng)
    slices = word_slices(prompts, train, "the prompt")
    assert find_subgroups(slices, credit, train, test, np.arange(2000) % 2) == {"tried": 0, "tested": []}


def test_slices_are_cut_by_training_rows_alone(rng):
    values, train = rng.normal(size=100), np.arange(50)
    values[50:] += 100
    slices = value_slices({"x": values, "constant": np.ones(100), "nan": np.full(100, np.nan)}, train)
    assert [mask[:50].mean() for mask in slices.values()] == pytest.approx([0.26, 0.26])
    assert [mask[50:].mean() for mask in slices.values()] == [0, 1]
    columns = {"subtype": np.array([["none", "threat"], ["none", "none"]], dtype=object)}
    found = value_slices(columns, np.arange(2))
    assert {name: mask.tolist() for name, mask in found.items()} == {
        "subtype of an output is none": [True, True],
        "subtype of an output is threat": [True, False],
    }


def test_clusters_and_trees_are_slices(rng):
    X = np.r_[rng.normal(0, 0.1, (60, 2, 3)), rng.normal(5, 0.1, (60, 2, 3))]
    slices = cluster_slices(X, np.arange(0, 120, 2), "outputs")
    assert np.sum(list(slices.values()), axis=0).tolist() == [1] * 120
    assert all(len(set(np.flatnonzero(mask) >= 60)) == 1 for mask in slices.values())
    assert cluster_slices(np.zeros((9, 2)), np.arange(9), "outputs") == {}
    a, b = rng.random((2, 4000))
    credit = 1.0 - ((a > 0.6) & (b > 0.7))
    leaves = tree_slices({"a": a, "b": b, "constant": np.ones(4000)}, credit, np.arange(2000))
    worst = min(leaves, key=lambda name: credit[leaves[name]].mean())
    assert {part.split(" ")[0] for part in worst.split(" and ")} == {"a", "b"} and worst.count(" above ") == 2
    assert credit[leaves[worst]].mean() < 0.05
    assert tree_slices({"a": a}, np.ones(4000), np.arange(2000)) == {}
    middle = tree_slices({"a": a}, 1.0 - ((a > 0.4) & (a < 0.5)), np.arange(2000))
    (name,) = (name for name, mask in middle.items() if a[mask].mean() == pytest.approx(0.45, abs=0.02))
    assert name.startswith("a between 0.") and name.count("a ") == 1  # one range, not two conditions


# ------------------------------------------------------------------------------------------------ label errors


def test_flipped_labels_are_listed_first_and_clean_ones_not_at_all(rng):
    margins = rng.logistic(2.5, 1, 2000)
    assert not find_label_errors(np.abs(rng.normal(3, 1, 2000)))["clear"]
    flipped = rng.random(2000) < 0.1
    found = find_label_errors(np.where(flipped, -4, 4) + 0 * margins + rng.normal(0, 1, 2000))
    assert found["clear"] and found["rate"] == pytest.approx(flipped.mean(), abs=0.02)
    assert flipped[np.argsort(-found["noise"])[:100]].mean() == 1
    assert not find_label_errors(np.full(5, np.nan))["clear"] and not find_label_errors(np.zeros(5))["clear"]


def test_margins_are_of_rewards_that_did_not_see_the_row(preferences):
    X, y, groups = preferences.data, preferences.target, np.arange(500) // 2
    sign, train, test = np.where(y == 1, 1, -1), np.arange(0, 400), np.arange(400, 500)
    learner = MaxEntropyIRL(random_state=0).fit(X[train], y[train])

    def margins_of(learner, X, sign):
        return learner.decision_function(X) * sign

    known = X[train], y[train], sign[train]
    held = margins_of(learner, X[test], sign[test])
    found = cross_fitted_margins(learner, *known, groups[train], held, train, test, margins_of)
    assert np.isfinite(found).all() and np.array_equal(found[test], held)
    inside = margins_of(learner, X[train], sign[train])
    assert 0.8 < np.corrcoef(found[train], inside)[0, 1] < 1 - 1e-6 and found[train].mean() < inside.mean()
    alone = cross_fitted_margins(learner, *known, np.zeros(400), held, train, test, margins_of)
    assert np.isnan(alone[train]).all()


def test_reasons():
    texts = np.array([["A b!", "c"], ["c", "a B"], ["d", "e"], ["d", "e"], ["f", "g"]], dtype=object)
    sign = np.array([1, 1, 1, 1, -1])
    labels = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 1]])
    contradicted = contradicted_rows(texts, sign, labels)
    copy, other = "contradicted by a copy", "contradicted by the output labels"
    assert contradicted.tolist() == [copy, copy, other, "", ""]
    noise, support = np.array([0, 0, 0, 0.9, 0.1]), np.array([0.5, 0.5, 0.5, 0.1, 0.9])
    expected = [copy, copy, other, "probably mislabeled", "error of the reward"]
    assert reasons_of(noise, support, contradicted).tolist() == expected
    assert reasons_of(np.zeros(1), np.full(1, np.nan), np.array([""])).tolist() == ["ambiguous"]
    assert contradicted_rows(array("x", "X", "y"), np.array([1, -1, 1])).tolist() == [copy, copy, ""]


def review_of(data, flipped):
    """The list for review in which these rows are probably wrong."""
    sign = np.where(data.target == 1, 1, -1)
    found = {"noise": np.where(flipped, 0.9, 0.0)}
    nothing = np.full(len(sign), "")
    return list_for_review(found, -1.0 * flipped, data.data, sign, data.source_index, data.prompt, nothing)


PAIRS = [("p", "good", "bad"), ("p", "=1+2", "fine"), ("q", "one", "two"), ("q", "x", "y"), ("r", "u", "v")]


@pytest.fixture
def pairs_file(tmp_path):
    path = tmp_path / "pairs.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("prompt", "chosen", "rejected"), *PAIRS])
    return path


def write_review(path, rows, values):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "corrected": value} for row, value in zip(rows, values, strict=True))
    return path


@pytest.mark.parametrize("ties", ["drop", "half"])
def test_corrections_are_read_back(pairs_file, tmp_path, ties):
    data = load_preferences(pairs_file)
    rows = review_of(data, np.array([True, True, True, True, False]))
    assert [row["preferred"] for row in rows] == ["good", "=1+2", "one", "x"]
    assert all("1.0 standard" not in row["why"] and row["corrected"] == "" for row in rows)
    review = write_review(tmp_path / "review.csv", rows, ["Other ", "tie", "drop", "preferred"])
    again = load_preferences(pairs_file, corrections=review, ties=ties, shuffle_sides=False)
    tied = [["=1+2", "fine"], ["fine", "=1+2"]] if ties == "half" else []
    assert again.data.tolist() == [["bad", "good"], *tied, ["x", "y"], ["u", "v"]]
    assert again.dropped["dropped by review"] == 1 and again.dropped["tie"] == (ties == "drop")
    untouched = load_preferences(pairs_file, corrections=write_review(review, rows, [""] * 4))
    assert untouched.data.tolist() == data.data.tolist() and untouched.target.tolist() == data.target.tolist()


def test_corrections_of_outputs(tmp_path):
    path = tmp_path / "outputs.csv"
    path.write_text("completion,label\na,1\nb,0\nc,1\nd,0\n")
    data = load_preferences(path)
    rows = review_of(data, np.array([True, True, True, False]))
    assert [row["label"] for row in rows] == ["desirable", "undesirable", "desirable"]
    review = write_review(tmp_path / "review.csv", rows, ["undesirable", "desirable", "drop"])
    again = load_preferences(path, corrections=review)
    assert again.data.tolist() == ["a", "b", "d"] and again.target.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"corrected": "first"}, "line 2: corrected is 'first'. Expected one of preferred, other, tie, drop"),
        ({"row": "x"}, "line 2: row is 'x'. Expected the number of a record"),
        ({"row": "4"}, "line 2: record 4 does not hold the texts of this correction. Expected corrections of the same"),
        ({"checksum": "0"}, "line 2: record 0 does not hold the texts of this correction"),
        (None, "no column 'corrected', only .* Expected the columns of an audit's review.csv"),
    ],
)
def test_other_corrections_are_refused(pairs_file, tmp_path, change, message):
    rows = review_of(load_preferences(pairs_file), np.array([True, False, False, False, False]))
    review = tmp_path / "review.csv"
    if change is None:
        review.write_text("row,texts\n0,a\n")
    else:
        write_review(review, [{**rows[0], **change}], [change.get("corrected", "other")])
    with pytest.raises(ValueError, match=message):
        load_preferences(pairs_file, corrections=review)


# ----------------------------------------------------------------------------------------------- contributions


def test_the_parts_of_a_margin_are_words():
    texts = np.array([["good day", "bad day"], ["good night", "bad night"], ["good", "dull"]] * 4, dtype=object)
    features = TextFeatures(encoder=None, characters_weight=0, word_ngrams=(1, 1), n_components=3, random_state=0)
    X = features.fit_transform(texts)
    reward = MaxEntropyIRL(random_state=0).fit(X)
    parts = Contributions(features, reward.coef_)
    pair = ["good", "unseen"]
    margin = np.ptp(reward.decision_function(features.transform(pair)))
    ((name, part),) = parts.of_pair(pair, features.transform(pair))
    assert name == "'good'" and part == pytest.approx(margin, rel=1e-4)
    assert parts.of_pair(pair[::-1], features.transform(pair[::-1]))[0][1] == pytest.approx(-margin, rel=1e-4)
