"""The main job and its command line: what is measured, what is written, and what users get told."""

import csv
import errno
import functools
import io
import json
import os
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import skops.io
import torch
import transformers
from matplotlib.image import imread
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import Bunch
from test_rewards import save_checkpoint, save_classifier, save_tokenizer, tiny

import fairl_sk.audit
import fairl_sk.features.encoder
from fairl_sk import (
    FailureAwareIRL,
    LaplaceReward,
    MaxEntropyIRL,
    MaxMarginIRL,
    PairTransformer,
    TransformerEmbedder,
)
from fairl_sk.audit import (
    KINDS,
    MEASURES,
    OF_A_RUN,
    _of_no_run,
    audit,
    format_audit,
    load_pipeline,
    prepare_folder,
    results_folder,
    write_audit,
)
from fairl_sk.cli import main
from fairl_sk.datasets import make_detox_preferences
from fairl_sk.features.store import EmbeddingStore
from fairl_sk.metrics import BootstrapInterval, starc_distance
from fairl_sk.pairs import stack_outputs

LEARNERS = ["MaxMarginIRL", "MaxEntropyIRL", "FailureAwareIRL"]
NULLS = ["all desirable", "longer output", "shorter output", "prompt only", "shuffled labels"]
N_SHUFFLES = fairl_sk.audit.N_SHUFFLES  # what users get; the tests make do with fewer
FILES = [*(f"{name}.skops" for name in sorted(LEARNERS)), "failures.csv", "history.png", "margins.png"]
FILES += ["table.csv", "table.json"]
SMALL = {"n_components": 24, "n_resamples": 50, "n_failures": 5}


@pytest.fixture(scope="module", autouse=True)
def few_shuffles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fairl_sk.audit, "N_SHUFFLES", 3)
        yield


@pytest.fixture(scope="module")
def corpus():
    return make_detox_preferences(480, hard=0.0, random_state=0)


@pytest.fixture(scope="module")
def result(corpus):
    return audit(corpus, **SMALL)


@pytest.fixture(scope="module")
def unpaired(corpus):
    """Outputs with the labels that their rewards have, in the layout of `load_preferences`."""
    texts, labels = corpus.data[:150].ravel(), corpus.output_labels[:150].ravel()
    return Bunch(data=texts, target=labels, groups=np.arange(len(texts)) // 2, output_labels=None)


def kindness(texts):
    return np.array([("thank" in text) + ("appreciate" in text) - ("you are" in text.lower()) - 0.5 for text in texts])


def scores(table, name):
    return {row["reward"]: row[name] and row[name].estimate for row in table}


# --------------------------------------------------------------------------------------------------- measuring


def test_every_measure_of_every_reward_has_an_interval(result):
    assert [row["reward"] for row in result.table] == LEARNERS + NULLS
    assert [row["null"] for row in result.table] == [False] * len(LEARNERS) + [True] * len(NULLS)
    for row in result.table:
        for name in MEASURES:
            interval = row[name]
            if (row["reward"], name) == ("all desirable", "starc"):
                assert interval is None  # the distance of a constant is a convention
                continue
            assert 0 <= interval.low <= interval.estimate <= interval.high <= 1, (row["reward"], name)


def test_learners_beat_the_nulls(corpus, result):
    for name in ("pair_accuracy", "output_auc", "label_auc", "label_f1"):
        found = scores(result.table, name)
        nulls = NULLS[1:] if name == "label_f1" else NULLS  # a threshold by balanced accuracy is not the one of best F1
        assert min(found[learner] for learner in LEARNERS) > max(found[null] for null in nulls), name
    labels = corpus.output_labels[held_out(corpus, len(result.margins["MaxMarginIRL"]))[1]]
    share = labels.mean()
    assert scores(result.table, "output_f1")["all desirable"] == pytest.approx(2 / 3)  # half of the outputs are chosen
    assert scores(result.table, "label_f1")["all desirable"] == pytest.approx(2 * share / (1 + share))
    starc = scores(result.table, "starc")
    assert max(starc[learner] for learner in LEARNERS) < min(starc[null] for null in NULLS[1:])
    assert scores(result.table, "pair_accuracy")["prompt only"] == 0.5
    accuracy = scores(result.table, "pair_accuracy")
    assert accuracy["longer output"] + accuracy["shorter output"] == pytest.approx(1)


def held_out(data, n_test, seed=0):
    """The rows of the audit's split, found again by hand."""
    from sklearn.model_selection import GroupShuffleSplit

    split = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=seed)
    train, test = next(split.split(data.data, groups=data.groups))
    assert len(test) == n_test
    return train, test


def test_kinds_add_up(corpus, result):
    assert [row["kind"] for row in result.kinds] == list(KINDS)
    n_test = result.settings["test_rows"]
    assert sum(row["pairs"] for row in result.kinds) == n_test
    assert sum(row["share"] for row in result.kinds) == pytest.approx(1)
    _, test = held_out(corpus, n_test)
    for row in result.kinds:
        assert row["pairs"] == (corpus.kinds[test] == row["kind"]).sum()
    for name in LEARNERS:
        right = sum(row["pairs"] * row[name] for row in result.kinds if row["pairs"])
        assert right / n_test == pytest.approx(scores(result.table, "pair_accuracy")[name])


def test_a_kind_without_pairs_has_no_accuracy():
    few = make_detox_preferences(200, kinds={"T->NT": 1.0}, hard=0.0, random_state=0)
    row = audit(few, **SMALL).kinds[KINDS.index("NT->T")]
    assert row == {"kind": "NT->T", "pairs": 0, "share": 0.0} | dict.fromkeys(LEARNERS)


def test_groups_are_held_out_whole(corpus, result):
    train, test = held_out(corpus, result.settings["test_rows"])
    assert result.settings["train_rows"] == len(train)
    assert not np.intersect1d(corpus.groups[train], corpus.groups[test]).size
    assert result.settings["groups"] == len(np.unique(corpus.groups))


def test_failures_are_the_hardest_held_out_rows_and_really_misordered(corpus, result):
    margins = [row["margin"] for row in result.failures]
    assert margins == sorted(margins)
    assert 0 < len(margins) <= 5
    assert margins[-1] <= 0
    assert margins == np.sort(result.margins["FailureAwareIRL"])[: len(margins)].tolist()
    _, test = held_out(corpus, result.settings["test_rows"])
    pipeline = result.pipelines["FailureAwareIRL"]
    for row in result.failures:
        assert row["index"] in test
        pair = corpus.data[row["index"]][:: 1 if corpus.target[row["index"]] == 1 else -1]
        preferred, other = pipeline.decision_function(pair)
        assert preferred - other == pytest.approx(row["margin"], abs=1e-6)
        for text, shown in zip(pair, (row["preferred"], row["other"]), strict=True):
            assert len(shown) <= 80
            assert text.startswith(shown.removesuffix("..."))


def test_long_texts_are_shortened_to_a_line(corpus):
    texts = np.array([[f"{a}\n\n{a} " * 3, b] for a, b in corpus.data[:200]], dtype=object)
    found = audit(Bunch(**{**corpus, **subset(corpus, 200), "data": texts}), **SMALL).failures
    assert any(row["preferred"].endswith("...") or row["other"].endswith("...") for row in found)
    assert all("\n" not in row[side] and len(row[side]) <= 80 for row in found for side in ("preferred", "other"))


def subset(data, n_rows):
    return {name: value[:n_rows] for name, value in data.items() if isinstance(value, np.ndarray)}


def test_the_saved_pipelines_give_the_tables_numbers(corpus, result, tmp_path):
    write_audit(result, tmp_path)
    _, test = held_out(corpus, result.settings["test_rows"])
    texts, y = corpus.data[test], corpus.target[test]
    for name in LEARNERS:
        pipeline = load_pipeline(tmp_path / f"{name}.skops")
        margins = pipeline.decision_function(texts)  # raw texts
        assert ((margins > 0) == y).mean() == pytest.approx(scores(result.table, "pair_accuracy")[name])
        assert pipeline.score(texts, y) == pytest.approx(scores(result.table, "pair_accuracy")[name])
        rewards = pipeline.decision_function(stack_outputs(texts)).reshape(-1, 2)
        distance = starc_distance(rewards, corpus.reference_reward[test])
        assert distance == pytest.approx(scores(result.table, "starc")[name])


def test_the_seed_decides(corpus, result):
    again = audit(corpus, **SMALL)
    assert again.table == result.table
    assert again.failures == result.failures
    assert audit(corpus, random_state=1, **SMALL).table != result.table


def test_preferences_of_another_corpus_with_the_sides_in_order_are_refused(corpus):
    with pytest.raises(ValueError, match="shuffle the sides"):
        audit(Bunch(**{**corpus, "target": np.ones(len(corpus.data), dtype=int)}), **SMALL)


# ---------------------------------------------------------------------------------------- outputs and references


def test_outputs(unpaired, tmp_path):
    result = audit(unpaired, **SMALL)
    assert [row["reward"] for row in result.table] == LEARNERS + [null for null in NULLS if null != "prompt only"]
    for row in result.table:
        assert row["pair_accuracy"] is row["label_f1"] is row["starc"] is None
        assert 0 <= row["output_auc"].low <= row["output_auc"].high <= 1
    auc = scores(result.table, "output_auc")
    assert auc["FailureAwareIRL"] > 0.1 + max(auc["longer output"], auc["shorter output"], auc["shuffled labels"])
    assert result.kinds == []
    assert result.settings["rows_are"] == "outputs"
    assert result.failures
    for row in result.failures:
        sign = 1 if unpaired.target[row["index"]] == 1 else -1
        reward = result.pipelines["FailureAwareIRL"].decision_function(unpaired.data[[row["index"]]])[0]
        assert reward * sign == pytest.approx(row["margin"], abs=1e-6)
    text = format_audit(result)
    assert "pair accuracy" not in text
    assert "300 outputs, 150 groups" in text
    assert "output: desirable v undesirable." in text
    assert "chosen v rejected" not in text
    write_audit(result, tmp_path)
    assert (tmp_path / "failures.csv").read_text().startswith("index,margin,output\n")
    assert not plt.get_fignums()


def test_a_reference_brings_starc_labels_and_kinds(corpus):
    bare = Bunch(**{**subset(corpus, 240), "reference_reward": None, "output_labels": None})
    without = audit(bare, **SMALL)
    assert {row["starc"] for row in without.table} == {row["label_f1"] for row in without.table} == {None}
    assert without.kinds == []
    with_reference = audit(bare, reference=kindness, **SMALL)
    assert all(row["label_f1"] and row["label_auc"] for row in with_reference.table)
    assert [row["reward"] for row in with_reference.table if row["starc"] is None] == ["all desirable"]
    assert [row["kind"] for row in with_reference.kinds] == list(KINDS)
    assert [row["pair_accuracy"] for row in with_reference.table] == [row["pair_accuracy"] for row in without.table]
    _, test = held_out(bare, with_reference.settings["test_rows"])
    rewards = with_reference.pipelines["MaxMarginIRL"].decision_function(stack_outputs(bare.data[test]))
    expected = starc_distance(rewards, kindness(stack_outputs(bare.data[test])))
    assert scores(with_reference.table, "starc")["MaxMarginIRL"] == pytest.approx(expected)


def test_a_reference_for_outputs(unpaired):
    table = audit(unpaired, reference=kindness, **SMALL).table
    assert all(row["label_auc"] and (row["starc"] or row["reward"] == "all desirable") for row in table)
    assert {row["pair_accuracy"] for row in table} == {None}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (lambda texts: np.full(len(texts), np.nan), "960 values that are not finite"),
        (lambda texts: np.where(np.arange(len(texts)) == 3, np.inf, 0.0), "1 values that are not finite"),
        (lambda texts: np.zeros((len(texts), 2)), r"shape \(960, 2\).*one finite reward for each of the 960 texts"),
        (lambda texts: 1.0, r"shape \(\)"),
        (lambda texts: ["bad"] * len(texts), "reference failed on the 960 texts.*'bad'"),
        (TfidfVectorizer().transform, "reference failed on the 960 texts.*not fitted"),
    ],
    ids=["nan", "inf", "shape", "scalar", "text", "unfitted"],
)
def test_a_reference_that_is_none(corpus, reference, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        audit(corpus, reference=reference, **SMALL)


def test_a_reference_reward_with_gaps_is_left_out_with_a_warning(corpus):
    rewards = corpus.reference_reward.copy()
    rewards[3, 0] = np.nan
    data = Bunch(**{**corpus, "reference_reward": rewards, "output_labels": None})
    with pytest.warns(UserWarning, match="not finite for 1 of 960 outputs.*left out.*Fill") as caught:
        table = audit(data, **SMALL).table
    assert caught[0].filename == __file__
    assert {row["starc"] for row in table} == {row["label_f1"] for row in table} == {None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": np.zeros(480)}, "480 rows in 1 group .*at least two groups"),
        ({"groups": np.arange(480) % 3}, "3 groups .*only one group is held out. Expected at least 2"),
        ({"data": np.zeros((480, 2, 4))}, "not texts of pairs"),
        ({"data": np.zeros((480, 2))}, "not texts of pairs"),
        ({"data": [["a", "b", "c"]] * 480}, r"shape \(480, 3\)"),
        ({"groups": None}, "data with data, target and groups|Bunch with data, target and groups"),
        ({"data": np.array([["same", "same"]] * 480, dtype=object)}, "No features in the .* training texts"),
    ],
    ids=["one group", "three groups", "features", "numbers", "triples", "no groups", "no words"],
)
def test_unfit_data(corpus, change, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        audit(Bunch(**{**corpus, **change}), **SMALL)


def test_unfit_arguments(corpus):
    with pytest.raises(ValueError, match="data of type list.*load_preferences returns"):
        audit([["a", "b"]])
    for name, value in {"n_components": 0, "random_state": -1}.items():
        with pytest.raises(ValueError, match=f"Got {name}={value}. Expected a whole number of at least"):
            audit(corpus, **{name: value})


@pytest.mark.parametrize("n_components", [1, 100_000])
def test_any_number_of_components(n_components):
    small = make_detox_preferences(60, hard=0.0, random_state=0)
    result = audit(small, n_components=n_components, n_resamples=10)
    assert result.pipelines["MaxMarginIRL"]["irl"].n_features_in_ <= n_components


# ------------------------------------------------------------------------------------------ what the pairs leave open


def test_undecided_pairs_are_those_with_margins_near_0(corpus, result):
    found = result.left_open
    train, test = held_out(corpus, result.settings["test_rows"])
    features = result.pipelines["MaxEntropyIRL"]["features"]
    X, X_test = features.transform(corpus.data[train]), features.transform(corpus.data[test])
    reward = LaplaceReward(MaxEntropyIRL(random_state=0, tol=1e-6)).fit(X, corpus.target[train])
    margins, std = reward.decision_function(X_test, return_std=True)
    undecided = np.abs(margins) <= 2 * std
    right = (margins > 0) == corpus.target[test]
    pairs = found["pairs"]
    # features of training rows come from fit_transform, whose last digits differ
    close = functools.partial(pytest.approx, rel=0.02)
    assert pairs["undecided"] == close(undecided.sum()) and pairs["share"] == pairs["undecided"] / len(test)
    assert pairs["undecided_accuracy"] == close(right[undecided].mean())
    assert pairs["decided_accuracy"] == close(right[~undecided].mean())
    assert pairs["decided_accuracy"] > pairs["undecided_accuracy"]
    assert found["alpha"] == close(reward.alpha_)

    outputs = features.transform(stack_outputs(corpus.data[test]))
    rewards, std = reward.decision_function(outputs, return_std=True)
    unit = rewards.std()
    listed = found["outputs"]
    assert len(listed) == fairl_sk.audit.N_LEAST_KNOWN
    assert listed[0]["std"] == close(std.max() / unit)
    assert [row["std"] for row in listed] == sorted((row["std"] for row in listed), reverse=True)
    assert len({row["output"] for row in listed}) == len(listed)  # each text once
    for row in listed:
        assert row["index"] in test and row["side"] in ("preferred", "other") and len(row["output"]) <= 80
        text = corpus.data[row["index"]][int((corpus.target[row["index"]] == 1) != (row["side"] == "preferred"))]
        assert text.startswith(row["output"].removesuffix("..."))
        (reward_of_it,), (std_of_it,) = reward.decision_function(features.transform([text]), return_std=True)
        centre = reward.decision_function(reward.centre_[None])[0]
        assert row["reward"] == pytest.approx((reward_of_it - centre) / unit, abs=0.02)
        assert row["std"] == close(std_of_it / unit)
        assert row["low"] < row["reward"] < row["high"]
        assert (row["high"] - row["low"]) / (2 * 1.96 * row["std"]) == pytest.approx(1, abs=0.5)


def test_what_is_left_open_is_reported_by_row_numbers(result, tmp_path):
    text = format_audit(result)
    pairs = result.left_open["pairs"]
    assert "What the pairs leave open" in text
    assert f"{pairs['undecided']} held-out pairs ({pairs['share']:.1%}) are undecided" in text
    for row in result.left_open["outputs"]:
        assert any(line.split()[:2] == [f"{row['index']}", row["side"]] for line in text.splitlines())
        assert row["output"] not in text
    write_audit(result, tmp_path)
    assert json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))["left_open"] == result.left_open


def test_outputs_alone_have_no_undecided_pairs_and_no_ranges(unpaired):
    result = audit(unpaired, **SMALL)
    assert result.left_open["pairs"] is None
    assert all(row["low"] is row["high"] is None and "side" not in row for row in result.left_open["outputs"])
    text = format_audit(result)
    assert "What the outputs leave open" in text and "undecided" not in text
    assert "Range (low, high): none: only pairs limit a reward." in text


def test_what_is_too_large_is_left_out_and_said_to_be(corpus, monkeypatch):
    monkeypatch.setattr(fairl_sk.audit, "MOST_PAIRS", 100)
    result = audit(corpus, **SMALL)
    assert all(row["low"] is None and row["std"] > 0 for row in result.left_open["outputs"])
    assert "training pairs, of which ranges take long" in format_audit(result)
    monkeypatch.setattr(fairl_sk.audit, "MOST_FEATURES", 10)
    text = format_audit(audit(corpus, **SMALL))
    assert "leave open: not computed, 24 features, of which a posterior takes long (at most 10 here)." in text


# ---------------------------------------------------------------------------------------------------- reporting


def test_report(result):
    text = format_audit(result)
    lines = text.splitlines()
    assert f"{result.settings['test_rows']} held out (whole groups)" in lines[0]
    assert all(line == line.rstrip() for line in lines)
    interval = result.table[0]["pair_accuracy"]
    assert f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]" in text
    for name in [*LEARNERS, *NULLS, *KINDS]:
        assert sum(line.startswith(name + " ") for line in lines) == 1
    assert text.isascii()
    assert "output: chosen v rejected; label: " in text
    assert "Shortcut" not in text


def test_a_shortcut_is_named(corpus):
    chosen_first = corpus.target[:, None] == [1, 0]
    texts = np.where(chosen_first, corpus.data + " And so on and so forth, on and on." * 5, corpus.data)
    found = audit(Bunch(**{**corpus, "data": texts}), **SMALL)
    assert "Shortcut: 'longer output' alone orders" in format_audit(found)


def test_a_shortcut_of_outputs_is_named(unpaired):
    longer = np.where(unpaired.target == 1, unpaired.data + " And so on and so forth." * 5, unpaired.data)
    text = format_audit(audit(Bunch(**{**unpaired, "data": longer}), **SMALL))
    assert "Shortcut: 'longer output' alone tells the outputs apart with an AUC of " in text
    assert "Compare on outputs of equal length" in text
    assert "'shorter output' alone" not in text
    assert "Shortcut" not in format_audit(audit(unpaired, **SMALL))


def test_a_shortcut_between_the_outputs_of_pairs_is_named_once(result):
    sure, unsure = BootstrapInterval(0.7, 0.6, 0.8, 0.05, 0, 50), BootstrapInterval(0.6, 0.5, 0.7, 0.05, 0, 50)
    for accuracy, auc, claim in (
        (sure, sure, "orders 70.0% of the pairs"),
        (sure, unsure, "orders 70.0% of the pairs"),
        (unsure, sure, "tells the outputs apart with an AUC of 0.700"),
    ):
        changed = {"pair_accuracy": accuracy, "output_auc": auc}
        table = [row | (changed if row["reward"] == "longer output" else {}) for row in result.table]
        text = format_audit(Bunch(**{**result, "table": table}))
        assert text.count("Shortcut") == text.count(f"Shortcut: 'longer output' alone {claim}; ") == 1


def test_files(result, tmp_path):
    paths = write_audit(result, tmp_path)
    assert [path.name for path in paths] == FILES == sorted(path.name for path in tmp_path.iterdir())
    check_written(tmp_path)
    document = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert document["kinds"] == result.kinds
    assert document["failures"] == result.failures
    assert document["settings"]["seed"] == 0
    assert document["settings"]["versions"]["fairl_sk"] == fairl_sk.__version__
    assert sum(path.stat().st_size for path in paths) < 3_000_000
    assert not plt.get_fignums()


def check_written(folder):
    """The JSON holds the same as the CSV, the pictures show something, the pipelines load."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    document = json.loads((folder / "table.json").read_text(encoding="utf-8"), parse_constant=refuse)
    with open(folder / "table.csv", newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["reward"] for row in rows] == [row["reward"] for row in document["table"]]
    for flat, row in zip(rows, document["table"], strict=True):
        assert flat["null"] == str(row["null"])
        for name in MEASURES:
            for part, column in (("estimate", name), ("low", f"{name}_low"), ("high", f"{name}_high")):
                expected = None if row[name] is None else row[name][part]
                assert (float(flat[column]) if flat[column] else None) == expected
    with open(folder / "failures.csv", newline="", encoding="utf-8") as lines:
        failures = list(csv.DictReader(lines))
    assert [int(row["index"]) for row in failures] == [row["index"] for row in document["failures"]]
    for name in ("margins.png", "history.png"):
        pixels = imread(folder / name)[..., :3]
        assert min(pixels.shape[:2]) > 400
        assert len(np.unique(pixels @ [1.0, 10.0, 100.0])) > 20  # colours
        assert 0.005 < (pixels < 0.9).any(axis=2).mean() < 0.5
    for name in LEARNERS:
        assert load_pipeline(folder / f"{name}.skops").decision_function(["you are kind"]).shape == (1,)
    return document


def test_no_failures_and_no_numbers_are_written_as_such(result, tmp_path):
    nan = result.table[0]["pair_accuracy"]._replace(low=np.nan, high=np.nan)
    changed = Bunch(**{**result, "failures": [], "table": [{**result.table[0], "starc": nan, "label_f1": None}]})
    write_audit(changed, tmp_path)
    row = check_written(tmp_path)["table"][0]
    assert row["starc"]["low"] is None
    assert row["starc"]["estimate"] == nan.estimate
    assert (tmp_path / "failures.csv").read_text() == "index,margin,preferred,other\n"


@pytest.mark.parametrize("name", ["MaxEntropyIRL.skops", "table.json"])
def test_a_folder_where_a_file_belongs_stops_the_writing_before_it_begins(result, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "failures.csv").write_text("old")
    with pytest.raises(IsADirectoryError, match=f"{name} is a folder"):
        write_audit(result, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "failures.csv"])
    assert (tmp_path / "failures.csv").read_text() == "old"


def test_results_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt), results_folder(None) as folder:
        assert folder.is_dir()
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), results_folder("a/b/c") as folder:
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    Path("a").mkdir()  # was there before: stays, although empty
    with pytest.raises(RuntimeError), results_folder("a/b") as folder:
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    with pytest.raises(RuntimeError), results_folder("full") as folder:
        (folder / "notes.txt").write_text("mine")
        raise RuntimeError
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    assert prepare_folder(None) == Path("fairl_sk_audit")
    assert prepare_folder(None) == Path("fairl_sk_audit_2")


# ------------------------------------------------------------------------------------------- pipelines from files


@pytest.fixture(scope="module")
def judge(corpus):
    """A ground-truth reward of one's own: a text classifier."""
    classifier = make_pipeline(TfidfVectorizer(), LogisticRegression())
    return classifier.fit(corpus.data.ravel(), corpus.output_labels.ravel())


def shout(texts):
    return [text.upper() for text in texts]


def damaged(path, judge):
    skops.io.dump(judge, path)
    path.write_bytes(path.read_bytes()[:-200])


def without_schema(path, judge):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def tampered(name):
    """A pipeline whose vectoriser names another type."""

    def write(path, judge):
        with zipfile.ZipFile(io.BytesIO(skops.io.dumps(judge))) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        content = json.loads(members["schema.json"])
        module, _, attribute = name.rpartition(".")
        step = content["content"]["content"]["steps"]["content"][0]["content"][1]
        step["__module__"], step["__class__"] = module, attribute
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in {**members, "schema.json": json.dumps(content)}.items():
                archive.writestr(member, data)

    return write


BAD_PIPELINES = {
    "garbage": (lambda path, judge: path.write_text("chosen,rejected\n"), "not a file that skops can read.*BadZipFile"),
    "empty": (lambda path, judge: path.write_bytes(b""), "not a file that skops can read"),
    "no schema": (without_schema, "not a file that skops can read.*KeyError"),
    "damaged": (damaged, "not a file that skops can read"),
    "unknown type": (
        lambda path, judge: skops.io.dump(make_pipeline(FunctionTransformer(shout), judge), path),
        "types that are not trusted: .*test_audit.shout.*Read that list",
    ),
    "tampered": (tampered("subprocess.Popen"), "not trusted: .*subprocess.Popen"),
    "through our own modules": (tampered("fairl_sk.audit.Path"), "not trusted: .*fairl_sk.audit.Path"),
    "our own function": (tampered("fairl_sk.audit.prepare_folder"), "not trusted: .*prepare_folder"),
    "no module of ours": (tampered("fairl_sk.nothing.Thing"), "not trusted: .*fairl_sk.nothing.Thing"),
    "nothing there": (lambda path, judge: None, "There is no file .*judge.skops"),
}


@pytest.mark.parametrize("case", BAD_PIPELINES)
def test_a_file_that_holds_no_pipeline(judge, tmp_path, monkeypatch, capsys, case):
    write, message = BAD_PIPELINES[case]
    path = tmp_path / "judge.skops"
    write(path, judge)
    with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){message}"):
        load_pipeline(path)
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "--reference", str(path))
    assert not (tmp_path / "fairl_sk_audit").exists()


def test_all_that_we_save_loads(tmp_path, preferences):
    """Schedules and detectors are types of ours, too."""
    from fairl_sk import CosineSchedule
    from fairl_sk.learning.failures import MarginFailures

    learner = FailureAwareIRL(failure_weight=CosineSchedule(3.0, 1.0), failures=MarginFailures(), random_state=0)
    learner.fit(preferences.data, preferences.target)
    skops.io.dump(learner, tmp_path / "one.skops")
    loaded = load_pipeline(tmp_path / "one.skops")
    np.testing.assert_array_equal(
        loaded.decision_function(preferences.data), learner.decision_function(preferences.data)
    )
    assert loaded.failure_weight.get_params() == learner.failure_weight.get_params()


# ------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def place(tmp_path, monkeypatch, corpus):
    """An empty working folder with files beside it, and an audit of few draws."""
    monkeypatch.setattr(fairl_sk.audit, "audit", functools.partial(audit, n_resamples=50))
    monkeypatch.setattr(fairl_sk.audit, "make_detox_preferences", lambda n, random_state: corpus)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    sides = np.where(corpus.target[:, None] == 1, corpus.data, corpus.data[:, ::-1])[:200]
    records = [{"prompt": p, "chosen": c, "rejected": r} for p, (c, r) in zip(corpus.prompt[:200], sides, strict=True)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    with open(tmp_path / "outputs.csv", "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(["", "class", "tweet"])
        kinds = np.array(["rude", "fine"])[corpus.output_labels[:100].ravel()]
        writer.writerows(zip(range(200), kinds, corpus.data[:100].ravel(), strict=True))
    return work


RUN = ["--quiet", "--components", "8"]


def run(*arguments):
    return main(["audit", *RUN, *map(str, arguments)])


def refused(capsys, *arguments):
    """The one line on stderr of a run that ends with status 2 and prints nothing else."""
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fairl-sk: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_default_folders_are_new_ones(place, capsys):
    assert run() == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "FailureAwareIRL" in shown.out
    assert f"Written to fairl_sk_audit: {', '.join(FILES)}" in shown.out
    first = {path.name: path.read_bytes() for path in Path("fairl_sk_audit").iterdir()}
    assert sorted(first) == FILES
    check_written(place / "fairl_sk_audit")
    assert run("--seed", 1) == 0
    assert "Written to fairl_sk_audit_2" in capsys.readouterr().out
    assert first == {path.name: path.read_bytes() for path in Path("fairl_sk_audit").iterdir()}
    documents = [json.loads(Path(f"fairl_sk_audit{n}/table.json").read_text()) for n in ("", "_2")]
    assert [document["settings"]["seed"] for document in documents] == [0, 1]
    assert documents[0]["table"] != documents[1]["table"]


def test_nothing_is_overwritten_without_force(place, capsys):
    out = place / "results"
    assert run("../pairs.jsonl", "--out", out) == 0
    (out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "already holds files. Name another folder, or add --force" in refused(capsys, "--out", out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    assert run("../pairs.jsonl", "--out", out, "--seed", 1, "--force") == 0
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(after) == sorted([*FILES, "notes.txt"])
    assert after["notes.txt"] == b"mine"
    assert after["table.csv"] != before["table.csv"]
    assert json.loads(after["table.json"])["settings"]["seed"] == 1


def test_pairs_from_a_file(place):
    (place / "empty").mkdir()
    assert run("../pairs.jsonl", "--limit", 150, "--out", "empty") == 0
    settings = check_written(place / "empty")["settings"]
    assert settings["rows"] == 150
    assert settings["rows_are"] == "pairs"
    assert "n_components=8" in settings["features"]
    assert (settings["data"]["file"], settings["data"]["limit"], settings["data"]["quoted"]) == (
        "pairs.jsonl",
        150,
        True,
    )
    assert settings["learners"] == {
        learner.__name__: {
            name: repr(value) for name, value in learner(random_state=0, verbose=False).get_params().items()
        }
        for learner in (MaxMarginIRL, MaxEntropyIRL, FailureAwareIRL)
    }
    assert "\n" not in "".join(value for known in settings["learners"].values() for value in known.values())


def test_the_report_tells_how_to_load_a_pipeline(place, capsys):
    assert run("../pairs.jsonl", "--out", "o") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "Load one with fairl_sk.audit.load_pipeline('o/FailureAwareIRL.skops')"
    assert eval(last.removeprefix("Load one with "), {"fairl_sk": fairl_sk}).score(["you are kind"], [1]) in (0, 1)


def test_as_many_shuffles_as_the_report_says(place, monkeypatch, capsys):
    monkeypatch.setattr(fairl_sk.audit, "N_SHUFFLES", N_SHUFFLES)
    assert run("--out", "o") == 0
    assert "of shuffled labels, the range of 20 shuffles." in capsys.readouterr().out
    document = check_written(place / "o")
    row = next(row for row in document["table"] if row["reward"] == "shuffled labels")
    assert row["pair_accuracy"]["n_valid"] == row["output_auc"]["n_valid"] == 20
    assert document["settings"]["data"] == {"made by": "make_detox_preferences(2000, random_state=0)"}


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(place, capsys):
    records = [json.loads(line) for line in Path("../pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    first = records[0] | {"chosen": records[0]["rejected"], "rejected": records[0]["chosen"]}
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, [*records, first])), encoding="utf-8")
    shown = warnings.showwarning
    assert run("pairs.jsonl", "--out", "o") == 0
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("fairl-sk: warning: pairs.jsonl: 2 rows contradict each other")
    assert all(line.startswith("fairl-sk: warning: ") for line in errors)
    assert warnings.showwarning is shown


def test_outputs_from_a_file(place, capsys):
    run_on = ["../outputs.csv", "--text-column", "tweet", "--label-column", "class", "--out", "o"]
    assert "which of them are desirable" in refused(capsys, *run_on)
    assert run(*run_on, "--desirable", "fine") == 0
    document = check_written(place / "o")
    assert document["settings"]["rows_are"] == "outputs"
    assert document["table"][0]["pair_accuracy"] is None
    assert document["table"][0]["output_auc"]["estimate"] > 0.6


def test_the_options_of_labels_may_stand_before_the_file(place):
    columns = ["--text-column", "tweet", "--label-column", "class", "--out", "o"]
    lines = Path("../outputs.csv").read_text(encoding="utf-8").splitlines()
    Path("o.csv").write_text("\n".join([*lines, ",great,Thank you for that", ",great,Well done"]), encoding="utf-8")
    assert run(*columns, "--desirable", "fine", "--desirable", "great", "o.csv") == 0
    settings = check_written(place / "o")["settings"]
    assert settings["rows"] + sum(settings["dropped"].values()) == len(lines) + 1


def test_encoding_quotes_and_format_of_a_file(place, capsys, corpus):
    sides = corpus.data[:150]
    lines = [f'{first} "naïve\t{second}\t1' for first, second in sides]
    Path("pairs.tsv").write_text("\n".join(["chosen\trejected\ttoxic", *lines]), encoding="cp1252")
    shown = refused(capsys, "pairs.tsv", "--out", "o")
    assert "line 2: the bytes are not utf-8" in shown and shown.endswith("On the command line: --encoding.\n")
    arguments = ["pairs.tsv", "--out", "o", "--encoding", "cp1252", "--no-quotes", "--format"]
    assert "'paradetox' (columns toxic and neutral1" in refused(capsys, *arguments, "paradetox")
    assert run(*arguments, "preference") == 0
    assert check_written(place / "o")["settings"]["rows"] > 100


@pytest.mark.parametrize(
    ("header", "record", "options", "parameter", "named"),
    [
        ("chosen\trejected", 'a\t"b" c\n', [], "quoted=False", "--no-quotes (for quoted=False)"),
        ("chosen\trejected", "a\tb", ["--encoding", "utf-99"], "encoding is 'utf-99'", "--encoding"),
        ("chosen\tworse", "a\tb", [], "text_column and label_column", "--text-column, --label-column"),
        ("chosen\trejected", "a\tb", ["--format", "trl"], "format is 'trl'", "--format, --text-column, --label-column"),
        ("completion\tlabel", "a\tb", [], "desirable=[...]", "--desirable"),
        ("completion\tlabel", "a\tb", ["--desirable", "c"], "desirable is ['c']", "--desirable"),
        (
            "completion\tlabel",
            "a\tb",
            ["--format", "preference", "--text-column", "completion"],
            "go with format='unpaired'",
            "--format, --text-column, --label-column",
        ),
    ],
)
def test_parameters_in_a_message_are_named_as_options_too(place, capsys, header, record, options, parameter, named):
    Path("file.tsv").write_text(f"{header}\n{record}\n", encoding="utf-8")
    shown = refused(capsys, "file.tsv", *options)
    assert parameter in shown
    assert shown.endswith(f" On the command line: {named}.\n")
    assert "command line" not in refused(capsys, "gone.tsv")


def test_a_reference_from_a_file(place, judge, capsys):
    skops.io.dump(judge, "judge.skops")
    assert run("../pairs.jsonl", "--reference", "judge.skops", "--out", "o") == 0
    assert "STARC: distance to the reference reward" in capsys.readouterr().out
    document = check_written(place / "o")
    assert [row["kind"] for row in document["kinds"]] == list(KINDS)
    assert document["table"][0]["starc"]["estimate"] < 0.7
    # the pipeline of one audit is the reference of another
    assert run("../pairs.jsonl", "--reference", "o/FailureAwareIRL.skops", "--out", "p") == 0
    assert check_written(place / "p")["table"][2]["starc"]["estimate"] == pytest.approx(0, abs=1e-6)
    skops.io.dump(TfidfVectorizer(), "features.skops")
    assert "without decision_function" in refused(capsys, "--reference", "features.skops")
    skops.io.dump(make_pipeline(TfidfVectorizer(), LogisticRegression()), "unfitted.skops")
    assert "reference failed" in refused(capsys, "../pairs.jsonl", "--reference", "unfitted.skops")


BAD_FILES = {
    "missing": ("gone.tsv", None, "There is no file gone.tsv .looked in .*Check the name"),
    "empty": ("empty.csv", "", "empty.csv is empty"),
    "header only": ("head.csv", "chosen,rejected\n", r"head.csv has a header .*no records.*fetch the file again.\n$"),
    "column": ("column.csv", "chosen,worse\na,b\nc,d\n", r"columns are \['chosen', 'worse'\], but expected.*Rename"),
    "broken line": ("broken.jsonl", '{"chosen": "a", "rejected": "b"}\n{"cho', "broken.jsonl, line 2: no JSON"),
    "fields": ("f.csv", "chosen,rejected\na,b\nc,d,e\n", "f.csv, line 3: found 3 fields, but expected 2"),
    "suffix": ("pairs.docx", "hello", "ends in '.docx', but the suffixes known are"),
    "one pair": ("one.csv", "chosen,rejected\nyes,no\n", "1 usable rows are left of 1.*at least 2"),
    "one group": ("same.csv", "chosen,rejected\n" + "".join(f"fine{i},no\n" for i in range(9)), "9 rows in 1 group"),
    "identical": ("i.csv", "chosen,rejected\na,a\nb,b\n", "0 usable rows are left of 2 .dropped: identical sides: 2"),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("out", [[], ["--out", "a/b"]], ids=["default", "out"])
def test_unfit_files_are_named_and_leave_no_folder(place, capsys, case, out):
    name, content, message = BAD_FILES[case]
    if content is not None:
        Path(name).write_text(content)
    before = sorted(place.iterdir())
    shown = refused(capsys, name, *out)
    assert pytest.raises(AssertionError, match=message).matches(AssertionError(shown)), shown
    assert sorted(place.iterdir()) == before


BAD_OPTIONS = {
    "components": (["--components", 0], "--components is 0. Expected a whole number from 1"),
    "components below 0": (["--components", -4], "--components is -4"),
    "limit": (["../pairs.jsonl", "--limit", -1], "--limit is -1. Expected a whole number from 2"),
    "limit 1": (["../pairs.jsonl", "--limit", 1], "--limit is 1. Expected"),
    "seed": (["--seed", -1], "--seed is -1. Expected a whole number from 0"),
    "seed too large": (["--seed", 2**40], "--seed is 1099511627776. Expected a whole number from 0 to 2147483647"),
    "limit of nothing": (["--limit", 5], "Found --limit without PAIRS"),
    "columns of nothing": (
        ["--text-column", "a", "--label-column", "b"],
        "Found --text-column and --label-column without PAIRS",
    ),
    "reading of nothing": (
        ["--encoding", "utf-8", "--no-quotes", "--format", "unpaired", "--desirable", "2"],
        "Found --format and --desirable and --no-quotes and --encoding without PAIRS",
    ),
    "folder": ([".."], ".. is a folder, but expected a file"),
    "out is a file": (["--out", "../pairs.jsonl"], "--out ../pairs.jsonl is a file. Name a folder"),
    "out below a file": (["--out", "../pairs.jsonl/a"], "Cannot write to --out ../pairs.jsonl/a: Not a directory"),
    "label column": (
        ["../outputs.csv", "--text-column", "tweet", "--label-column", "clas"],
        "has no column ['clas']. Its columns are ['', 'class', 'tweet']",
    ),
    "desirable": (
        ["../outputs.csv", "--text-column", "tweet", "--label-column", "class", "--desirable", "2"],
        "holds the labels 'fine', 'rude'",
    ),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_unfit_options_are_named_and_leave_no_folder(place, capsys, case):
    arguments, message = BAD_OPTIONS[case]
    assert message in refused(capsys, *arguments)
    assert not list(place.iterdir())


def test_unknown_options_are_argparses(capsys):
    for arguments in (["audit", "--seed", "many"], ["audit", "--nothing"], [], ["train"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("out", [[], ["--out", "a/b"]], ids=["default", "out"])
@pytest.mark.parametrize("where", ["mkdir", "file"])
def test_a_folder_that_cannot_be_written_to(place, monkeypatch, capsys, out, where):
    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    if where == "mkdir":
        monkeypatch.setattr(Path, "mkdir", denied)
    else:
        monkeypatch.setattr(fairl_sk.audit.tempfile, "TemporaryFile", denied)
    name = out[1] if out else "fairl_sk_audit"
    assert f"Cannot write to --out {name}: Permission denied. Name a folder that you may write to." in refused(
        capsys, *out
    )
    assert not list(place.iterdir())


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_write_that_fails_changes_nothing_and_shows_the_table(place, monkeypatch, capsys):
    assert run("../pairs.jsonl", "--out", "old") == 0
    before = {path.name: path.read_bytes() for path in Path("old").iterdir()}
    capsys.readouterr()
    monkeypatch.setattr(skops.io, "dump", full_disk)
    for out, force in (("old", ["--force"]), ("new", [])):
        assert run("../pairs.jsonl", "--seed", 1, "--out", out, *force) == 2
        shown = capsys.readouterr()
        assert f"Cannot write the results to {out}: No space left on device. The folder is as it was" in shown.err
        assert shown.err.count("\n") == 1
        assert "FailureAwareIRL" in shown.out
        assert "Written to" not in shown.out
    assert before == {path.name: path.read_bytes() for path in Path("old").iterdir()}
    assert not Path("new").exists()
    assert not plt.get_fignums()


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["fit", "write"])
def test_an_interrupt_leaves_nothing(place, monkeypatch, capsys, moment):
    if moment == "fit":
        monkeypatch.setattr(FailureAwareIRL, "fit", interrupt)
    else:
        monkeypatch.setattr(skops.io, "dump", interrupt)
    assert run("../pairs.jsonl") == 130
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "interrupted; what this run had computed is lost, nothing was written" in shown.err
    assert not list(place.iterdir())


def test_progress_bars_unless_quiet(place, capsys):
    assert main(["audit", "../pairs.jsonl", "--components", "4"]) == 0
    shown = capsys.readouterr().err
    assert all(name in shown for name in LEARNERS)


# -------------------------------------------------------------------------------------------- processes of its own


def python(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(fairl_sk.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120, **options
    )


# A run whose audit is the given one: what counts here is how it ends.
STUB = """
import sys, fairl_sk.audit as module
from fairl_sk.cli import main
module.audit = lambda *args, **kwargs: None
module.format_audit = lambda result: "{report}"
module.write_audit = lambda result, folder: [(folder / "table.csv")] + [(folder / "table.csv").write_text("kept")][:0]
sys.exit(main(["audit", "--out", "{out}"]))
"""


@pytest.mark.parametrize("reader", ["head", "full"])
def test_results_are_written_before_a_reader_can_leave(tmp_path, reader):
    out = tmp_path / "results"
    script = STUB.format(report='" + 50_000 * "row\\n" + "', out=out)
    environment = {**os.environ, "PYTHONPATH": str(Path(fairl_sk.__file__).parents[1])}
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE if reader == "head" else full,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        if reader == "head":
            assert process.stdout.readline() == "row\n"
            process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        status = process.wait(timeout=60)
    assert (out / "table.csv").read_text() == "kept"
    if reader == "head":
        assert (status, errors) == (0, "")
    else:
        assert status == 2
        assert errors == "fairl-sk: error: cannot print: No space left on device. The results are written.\n"


def test_names_that_the_terminal_cannot_show(tmp_path):
    out = tmp_path / "prüfung"
    environment = {**os.environ, "PYTHONPATH": str(Path(fairl_sk.__file__).parents[1]), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", STUB.format(report="table", out=out)], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "pr\\xfcfung: table.csv" in done.stdout
    assert (out / "table.csv").exists()


def test_help_and_version():
    done = python("-m", "fairl_sk", "audit", "--help")
    assert done.returncode == 0
    for option in ("PAIRS", "--out", "--force", "--reference", "--seed", "--label-column", "--limit", "--quiet"):
        assert option in done.stdout
    done = python("-m", "fairl_sk", "--version")
    assert (done.returncode, done.stdout) == (0, f"fairl-sk {fairl_sk.__version__}\n")


BASELINE = "import sklearn, torch, skorch"


def test_importing_the_package_loads_nothing_heavy():
    loaded = {}
    for line in (BASELINE, "import fairl_sk"):
        loaded[line] = set(python("-c", f"{line}; import sys; print(*sys.modules)").stdout.split())
    heavy = {"transformers", "trl", "datasets", "detoxify", "matplotlib", "pandas", "skops"}
    assert not heavy & loaded["import fairl_sk"] - loaded[BASELINE]
    assert not {"transformers", "trl", "datasets", "detoxify"} & loaded["import fairl_sk"]
    ours = {name for name in loaded["import fairl_sk"] if name.startswith("fairl_sk.")}
    assert not ours & {"fairl_sk.audit", "fairl_sk.plot", "fairl_sk.datasets", "fairl_sk.cli"}


def test_importing_the_package_takes_less_than_half_as_long_again():
    """The best of several alternating runs each, so that other load does not decide; more where it is close."""
    best = {BASELINE: np.inf, "import fairl_sk": np.inf}
    for _ in range(6):
        for line in best:
            start = time.perf_counter()
            assert python("-c", line).returncode == 0
            best[line] = min(best[line], time.perf_counter() - start)
        if best["import fairl_sk"] < 1.25 * best[BASELINE]:
            break
    assert best["import fairl_sk"] < 1.5 * best[BASELINE], best


# ------------------------------------------------------------------------------------------ encoders and rewards


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A text classifier, and a checkpoint of Detoxify with the folder of its architecture."""
    folder = tmp_path_factory.mktemp("models")
    tiny(transformers.BertConfig).save_pretrained(save_tokenizer(folder / "architecture"))
    save_checkpoint(folder / "tiny.ckpt", folder / "architecture")
    save_classifier(folder / "classifier", ["neutral", "toxic"], max_position_embeddings=64)
    return folder


def encode(*arguments):
    return main(["audit", "--quiet", "../pairs.jsonl", *map(str, arguments)])


def test_an_encoder_with_a_store(place, corpus, capsys):
    assert encode("--encoder", "minilm", "--store", "vectors", "--out", "o") == 0
    document = check_written(place / "o")
    assert document["settings"]["embedding"]["pooling"] == "mean"
    assert main(["store", "vectors"]) == 0
    shown = capsys.readouterr().out.splitlines()[-1]
    assert "minilm  pooling mean, layer -1, dtype float32, max_length 256" in shown
    with pytest.MonkeyPatch.context() as patch:  # the second time no text is embedded
        patch.setattr(fairl_sk.features.encoder, "_load_model", None)
        assert encode("--encoder", "minilm", "--store", "vectors", "--out", "p") == 0
    assert check_written(place / "p")["table"] == document["table"]
    pipeline = load_pipeline(place / "o" / "FailureAwareIRL.skops")
    assert pipeline.score(corpus.data[:200], corpus.target[:200]) > 0.8  # most of them it was fitted on


def test_the_store_is_pruned(tmp_path, capsys):
    store = EmbeddingStore(tmp_path)
    for name in ("a", "b"):
        store.write({"model": name, "_name": name}, [b"k" * 16], np.ones((1, 4)))
    ids = {row["settings"]["_name"]: row["id"] for row in store.list()}
    assert main(["store", str(tmp_path), "--prune", ids["a"]]) == 0
    assert "Forgot 1 embeddings" in capsys.readouterr().out
    assert [row["id"] for row in store.list()] == [ids["b"]]
    assert main(["store", str(tmp_path), "--prune", "ffff"]) == 2
    assert f"holds no settings 'ffff'. It holds: ['{ids['b']}']" in capsys.readouterr().err
    assert main(["store", str(tmp_path), "--prune", "all"]) == 0
    assert main(["store", str(tmp_path)]) == 0
    assert "is empty" in capsys.readouterr().out
    assert main(["store", str(tmp_path / "gone")]) == 2
    assert "There is no embedding store" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*bootstrap draws have no score")  # random weights call few texts toxic
@pytest.mark.filterwarnings("ignore:.*longer than 32 tokens")
def test_references_of_all_kinds_are_recorded(place, models, judge, capsys):
    skops.io.dump(judge, "judge.skops")
    recorded = {}
    for name, options in {
        "judge": ["judge.skops"],
        "chance": ["judge.skops", "--reference-output", "probability"],
        "detoxify": [models / "tiny.ckpt", "--reference-config", models / "architecture"],
        "classifier": [models / "classifier", "--toxic-label", "Toxic"],
        "turned": [models / "classifier", "--nontoxic-label", "neutral"],
    }.items():
        assert run("../pairs.jsonl", "--out", name, "--reference", *options) == 0
        recorded[name] = check_written(place / name)
    settings = {name: document["settings"]["reference"] for name, document in recorded.items()}
    assert [settings[name]["output"] for name in ("judge", "chance")] == ["logit", "probability"]
    starc = {name: document["table"][0]["starc"]["estimate"] for name, document in recorded.items()}
    assert starc["judge"] != starc["chance"]  # they are different rewards
    assert settings["detoxify"]["reward"] == "DetoxifyReward"
    assert settings["detoxify"]["label"] == "toxicity"
    # "not toxic" and "neutral" are one reward where these are the two labels
    assert starc["classifier"] == pytest.approx(starc["turned"], abs=1e-6)
    assert (settings["classifier"]["desirable"], settings["turned"]["desirable"]) == (False, True)
    shown = capsys.readouterr().out
    assert "Reference: reward DetoxifyReward, model Detoxify" in shown
    kinds = {row["subtype"] for row in recorded["detoxify"]["subtypes"]}
    assert kinds == {"severe_toxicity", "obscene", "threat", "insult", "identity_attack"}


class Judge:
    """A reference that knows two sub-types of what it calls undesirable."""

    def __init__(self, corpus):
        self.known = {
            text: (reward, kind)
            for text, reward, kind in zip(
                corpus.data.ravel(), corpus.reference_reward.ravel(), corpus.subtypes.ravel(), strict=True
            )
        }

    def __call__(self, texts):
        raise AssertionError("all in one pass, by subtypes")

    def subtypes(self, texts):
        rewards = np.array([self.known[text][0] for text in texts])
        kinds = np.array([self.known[text][1] for text in texts])
        return {"all": rewards, **{name: np.where(kinds == name, -1.0, 1.0) for name in ("insult", "threat", "never")}}

    def describe(self):
        return {"label": "all"}


def test_subtypes_of_the_corpus_and_of_a_reference_agree(corpus, result):
    rows = {row["subtype"]: row for row in result.subtypes}
    assert set(rows) == {"identity", "insult", "obscenity", "threat"}
    _, test = held_out(corpus, len(result.margins["MaxMarginIRL"]))
    for name, row in rows.items():
        assert row["outputs"] == (corpus.subtypes[test] == name).sum()
        assert row["FailureAwareIRL"].low <= row["FailureAwareIRL"].estimate <= row["FailureAwareIRL"].high
    again = {row["subtype"]: row for row in audit(corpus, reference=Judge(corpus), **SMALL).subtypes}
    assert again["insult"] == rows["insult"]
    assert again["never"]["MaxMarginIRL"] is None
    labels = np.where(corpus.output_labels[test] == 1, 1, np.where(corpus.subtypes[test] == "insult", 0, -1)).ravel()
    rewards = rewards_of(result, corpus, test)
    expected = roc_auc_score(labels[labels >= 0], rewards[labels >= 0])
    assert rows["insult"]["MaxMarginIRL"].estimate == pytest.approx(expected)
    text = format_audit(result)
    assert "by sub-type, AUC" in text
    assert "insult" in text


def rewards_of(result, corpus, test):
    return result.pipelines["MaxMarginIRL"].decision_function(corpus.data[test].ravel())


def test_saved_pipelines_name_neither_store_nor_device(place):
    assert encode("--encoder", "minilm", "--store", "vectors", "--device", "auto", "--out", "o") == 0
    settings = check_written(place / "o")["settings"]
    assert "store='vectors'" in settings["features"]  # the record has them
    for name in LEARNERS:
        pipeline = load_pipeline(place / "o" / f"{name}.skops")
        own = {name: value for name, value in pipeline.get_params().items() if name.rpartition("__")[2] in OF_A_RUN}
        assert {"features__store", "features__device", "features__verbose", "irl__verbose"} <= set(own)
        assert all(value == OF_A_RUN[name.rpartition("__")[2]] for name, value in own.items())
    assert settings["versions"]["transformers"] == transformers.__version__


def test_what_is_not_ours_is_saved_as_it_is(result):
    texts = Pipeline([("words", TfidfVectorizer()), ("own", OwnStep(store="mine", device="tpu"))], verbose=True)
    features = PairTransformer(Pipeline([("texts", texts), ("embed", TransformerEmbedder(store="s", verbose=True))]))
    saved = _of_no_run(Pipeline([("features", features), ("irl", result.pipelines["MaxMarginIRL"]["irl"])]))
    inner = saved["features"].transformer
    assert (inner["texts"].verbose, inner["texts"]["own"].store, inner["texts"]["own"].device) == (True, "mine", "tpu")
    assert (inner["embed"].store, inner["embed"].verbose) == (None, False)
    assert features.transformer["embed"].store == "s"  # a copy was changed
    np.testing.assert_array_equal(saved["irl"].coef_, result.pipelines["MaxMarginIRL"]["irl"].coef_)


class OwnStep(TransformerMixin, BaseEstimator):
    def __init__(self, store=None, device=None):
        self.store = store
        self.device = device


def test_half_a_surrogate_pair_is_written_as_json_writes_it(place, corpus, result):
    cut = [{**row, "preferred": "so kind \ud83d"} for row in result.failures]
    write_audit(Bunch(**{**result, "failures": cut}), place)
    document = json.loads((place / "table.json").read_text(encoding="utf-8"))
    assert document["failures"] == cut
    assert "so kind \\ud83d" in (place / "failures.csv").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:.*bootstrap draws have no score")
@pytest.mark.parametrize("features", [["--components", 8], ["--encoder", "minilm"]])
def test_cut_emojis_stop_no_audit(place, models, features):
    records = [json.loads(line) for line in Path("../pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    for record in records[:150]:
        record["rejected"] += " \ud83d"
    Path("cut.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    reference = ["--reference", models / "classifier", "--toxic-label", "toxic"]
    assert main(["audit", "--quiet", "cut.jsonl", "--out", "o", *map(str, [*features, *reference])]) == 0
    check_written(place / "o")


@pytest.fixture
def named(place, corpus):
    """A text classifier whose classes have names, of which the larger is the bad one."""
    labels = np.array(["toxic", "fine"])[corpus.output_labels.ravel()]
    judge = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(corpus.data.ravel(), labels)
    skops.io.dump(judge, place / "named.skops")
    return judge


def test_the_label_of_a_saved_reference_is_read(place, named):
    records = {}
    for name, options in {
        "toxic": ["--toxic-label", "toxic"],
        "fine": ["--nontoxic-label", "Fine"],
        "turned": ["--nontoxic-label", "toxic"],
    }.items():
        assert run("../pairs.jsonl", "--out", name, "--reference", "named.skops", *options) == 0
        records[name] = check_written(place / name)
    starc = {name: document["table"][0]["starc"]["estimate"] for name, document in records.items()}
    assert starc["toxic"] == pytest.approx(starc["fine"])
    assert starc["toxic"] + 0.2 < starc["turned"]
    references = {name: document["settings"]["reference"] for name, document in records.items()}
    assert [(r["label"], r["desirable"]) for r in references.values()] == [
        ("toxic", False),
        ("fine", True),
        ("toxic", True),
    ]


def test_a_saved_reference_with_named_classes_needs_one_that_it_has(place, named, capsys, judge):
    shown = refused(capsys, "../pairs.jsonl", "--reference", "named.skops")
    assert "named.skops has the classes 'fine', 'toxic', and nothing says which of them are desirable" in shown
    assert "Expected --toxic-label or --nontoxic-label" in shown
    shown = refused(capsys, "../pairs.jsonl", "--reference", "named.skops", "--toxic-label", "TYPO")
    assert "'TYPO'" in shown and "'fine', 'toxic'" in shown
    skops.io.dump(judge, "judge.skops")  # classes 0 and 1
    assert run("../pairs.jsonl", "--reference", "judge.skops", "--toxic-label", 0, "--out", "o") == 0
    assert check_written(place / "o")["settings"]["reference"]["label"] == "0"


def test_the_network_that_is_not_there_is_answered_with_options(place, models, monkeypatch, capfd):
    def unreachable(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(place.parent))
    assert encode("--reference", "detoxify") == 2
    shown = capfd.readouterr().err
    assert shown.startswith("fairl-sk: error: Could not download https://")
    assert shown.endswith(" On the command line: --reference FILE.ckpt, --reference-config.\n")
    assert shown.count("\n") == 1
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("A single text of 9 tokens does not fit into memory."), "error: A single text of 9 tokens"),
        (MemoryError(), "error: Memory ran out. On the command line: fewer records with --limit"),
        (torch.OutOfMemoryError("CUDA out of memory."), "error: CUDA out of memory. On the command line"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "can't allocate memory On the"),
    ],
)
def test_memory_that_ends_is_an_error_in_a_line(place, monkeypatch, capsys, error, message):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(fairl_sk.audit, "audit", fail)
    assert message in refused(capsys)
    assert not list(place.iterdir())


def test_an_error_of_ours_keeps_its_traceback(place, monkeypatch):
    monkeypatch.setattr(fairl_sk.audit, "audit", lambda *args, **options: exec("raise RuntimeError('ours')"))
    with pytest.raises(RuntimeError, match="ours"):
        run()


BAD_REFERENCES = {
    "no label": (["--reference", "dx/clf"], "without --toxic-label and --nontoxic-label. Expected one of them"),
    "label of detoxify": (
        ["--reference", "detoxify", "--nontoxic-label", "x"],
        "Found --nontoxic-label with --reference detoxify. Expected it without",
    ),
    "label of a checkpoint": (
        ["--reference", "a.ckpt", "--toxic-label", "x"],
        "Found --toxic-label with --reference a",
    ),
    "folder of a pipeline": (
        ["--reference", "named.skops", "--reference-config", "nofolder"],
        "Found --reference-config with --reference named.skops. Expected it with detoxify or a FILE.ckpt",
    ),
    "folder of a classifier": (
        ["--reference", "dx/clf", "--toxic-label", "x", "--reference-config", "nofolder"],
        "Found --reference-config with --reference dx/clf",
    ),
    "device of nothing": (["--device", "cuda"], "Found --device without a model that could run there"),
    "device of a pipeline": (["--reference", "a.skops", "--device", "cpu"], "Found --device without a model"),
    "no such device": (
        ["--reference", "dx/clf", "--toxic-label", "x", "--device", "tpu9"],
        "Found device='tpu9'. Expected 'cpu', 'cuda'",
    ),
    "output without": (["--reference-output", "logit"], "Found --reference-output without --reference."),
    "store without": (["--store", "s"], "Found --store without --encoder."),
    "pooling without": (["--pooling", "last"], "Found --pooling without --encoder."),
    "variant": (["--reference", "detoxify:best"], "Got variant='best', but expected one of"),
    "no model": (["--encoder", "no/model"], "Cannot load the model 'no/model'"),
    "no classifier": (["--reference", "no/model", "--toxic-label", "a"], "'hf download no/model'"),
    "components": (["--encoder", "minilm", "--components", 8], "Found --components and --encoder. Expected one"),
}


@pytest.mark.parametrize("case", BAD_REFERENCES)
def test_unfit_encoders_and_references_are_named_and_leave_no_folder(place, capsys, case):
    arguments, message = BAD_REFERENCES[case]
    capsys.readouterr()
    assert encode(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(place.iterdir())
