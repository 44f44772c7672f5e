"""The evidence benchmark: what it reads, runs, keeps, compares and prints."""

import functools
import gzip
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from tiny_models import save_encoder_of

from fairl_sk import TextFeatures, TransformerEmbedder
from fairl_sk.datasets import make_detox_preferences
from fairl_sk.failures import Round

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FEW = ("MaxEntropyIRL", "no failures", "FailureAwareIRL", "with labels", "null: length")


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield patch


@pytest.fixture(scope="module")
def data(patch):
    return importlib.import_module("paper_data")


@pytest.fixture(scope="module")
def learners(patch):
    return importlib.import_module("paper_learners")


@pytest.fixture(scope="module")
def tables(patch):
    return importlib.import_module("paper_tables")


@pytest.fixture(scope="module")
def paper(patch):
    return importlib.import_module("paper")


@pytest.fixture(scope="module")
def sample(data):
    return data.synthetic_sample(data.SIZES["smoke"], "linear, 80 pairs, noise 0.3", 0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of e and f as their authors lay them out: questions with answers."""
    folder = tmp_path_factory.mktemp("files")
    rows = [
        {
            "Question": f"What is number {number}?",
            "Category": f"kind {number % 9}",
            "Correct Answers": f"It is {number}; A number is {number}; I do not know",
            "Incorrect Answers": f"It is not {number}; Nothing equals {number}",
        }
        for number in range(60)
    ]
    pd.DataFrame(rows).to_csv(folder / "truthful.csv", index=False)
    kinds = ("Irrelevant", "Wrong-Grounding", "Redundant")
    questions = [
        {
            "question": f"Why {number}?",
            **{f"prediction {side}": f"because of {number} and {side}" for side in (1, 2, 3, 4)},
            "preference": [1, 2, 0, 1, 2, 1],
            "feedback": {
                "errors": [{"error type": kinds[number % 3]}] * (number % 2),
                "missing-info": [{}] * (number % 3),
            },
        }
        for number in range(40)
    ]
    (folder / "answers.json.gz").write_bytes(gzip.compress(json.dumps(questions).encode()))
    return {"truthful": folder / "truthful.csv", "answers": folder / "answers.json.gz"}


@pytest.fixture(scope="module")
def registry(learners):
    """All learners; the module's own are fewer once `smoke` has run."""
    return dict(learners.LEARNERS)


@pytest.fixture(scope="module")
def smoke(registry, paper, data, learners, tables, files, patch, tmp_path_factory):
    """Folder, summary and tables of all regimes at the smallest size, with a few learners and a tiny encoder."""
    known = [
        *make_detox_preferences(400, random_state=0).data.ravel(),
        "because of and it is not nothing equals a number",
    ]
    encoder = save_encoder_of([*known, *map(str, range(60))], tmp_path_factory.mktemp("encoder"))
    for features in (TransformerEmbedder, TextFeatures):
        patch.setattr(data, features.__name__, functools.partial(features, encoder))
    for some in (learners.LEARNERS, learners.FAILURES):
        for name in [name for name in some if name not in FEW]:
            patch.delitem(some, name)
    patch.setitem(tables.COMPARISONS, "to untuned", ("MaxEntropyIRL", tables.FIRST))
    out = tmp_path_factory.mktemp("paper") / "run"
    summary = paper.main(size="smoke", out=out, **files)
    return out, summary, (out / "tables.md").read_text(encoding="utf-8")


def read(out):
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def test_every_learner_takes_part_in_every_cell(paper, learners, smoke):
    out, summary, _ = smoke
    records = read(out)
    assert len(records) == len(paper.all_tasks(paper.SIZES["smoke"], set(paper.REGIMES)))
    assert all("scores" in record for record in records) and (summary["seeds"] == 2).all()
    told = {name for name, learner in learners.LEARNERS.items() if learner.labels}
    for regime in paper.REGIMES:
        rows = summary[summary["regime"] == regime]
        expected = set(FEW) - (told if regime in "ef" else {"null: length"} if regime == "a" else set())
        assert set(rows["learner"]) == expected
        assert set(rows["features"]) == ({"given"} if regime == "a" else set(paper.FEATURES))
    measures = summary.groupby("regime")["measure"].agg(lambda own: set(own.astype(str)))
    assert {"pair accuracy", "ECE", "label F1", "STARC"} <= measures["a"]
    assert {"label AUC, second truth", "transfer label AUC", "transfer STARC, second truth"} <= measures["c"]
    assert measures["e"] == {"pair accuracy", "output F1", "output AUC", "ECE"} and "label AUC, wrong" in measures["f"]
    assert {path.name for path in out.glob("*.png")} == {"overview.png", "failures.png"}


def test_tables_say_what_was_measured(smoke):
    """Every figure follows from the lines of the results."""
    out, summary, text = smoke
    values = {
        (*(record[key] for key in ("regime", "cell", "features", "learner", "seed")), measure): value
        for record in read(out)
        for measure, value in record["scores"].items()
    }
    found = {re.sub(r"\s+", " ", line) for line in text.splitlines()}

    def shown(place, measure, base=None):
        own = np.array([values[*place, seed, measure] for seed in (0, 1)])
        own = own if base is None else own - [values[*base, seed, measure] for seed in (0, 1)]
        half = stats.t.ppf(0.975, 1) * stats.sem(own)
        return own.mean(), half, abs(own.mean()) > half

    for regime, cell, features in summary[["regime", "cell", "features"]].drop_duplicates().itertuples(index=False):
        mean, half, clear = shown(
            (regime, cell, features, "FailureAwareIRL"), "ECE", (regime, cell, features, "no failures")
        )
        figure = f"{mean:+.4f} ± {half:.4f}"
        figure = f"**{figure}**" if clear else figure
        assert any(line.endswith(f"| {features} | {figure} |") for line in found)
        first = "given" if regime == "a" else "MiniLM"
        mean, half, _ = shown((regime, cell, features, "no failures"), "pair accuracy")
        gain, _, clear = shown(
            (regime, cell, features, "no failures"), "pair accuracy", (regime, cell, first, "MaxEntropyIRL")
        )
        figure = f"{mean:.3f} ± {half:.3f}"
        figure = f"**{figure}**" if clear and gain > 0 else figure
        assert any(line.startswith(f"| {features} | no failures | {figure} |") for line in found)


def test_a_second_run_goes_on(paper, smoke, files, monkeypatch):
    """Nothing is fitted twice; what was cut off, failed or defined otherwise is."""
    out, summary, _ = smoke
    run_tasks, again = paper.run_tasks, []

    def counted(folder, plan, tasks, alphas):
        again.extend(tasks)
        return run_tasks(folder, plan, tasks, alphas)

    monkeypatch.setattr(paper, "draw", lambda summary, folder: None)  # another test's
    monkeypatch.setattr(paper, "run_tasks", counted)
    assert paper.main(size="smoke", out=out, **files).equals(summary) and not again
    other, failed, cut, *rest = read(out)
    lines = [other | {"definition": "other parameters"}, {k: v for k, v in failed.items() if k != "scores"}, *rest]
    text = "\n".join([*map(json.dumps, lines), json.dumps(cut)[:100]])
    (out / "results.jsonl").write_text(text, encoding="utf-8")
    resumed = paper.main(size="smoke", out=out, **files)
    assert set(again) == {paper.Task(*(record[key] for key in paper.Task._fields)) for record in (other, failed, cut)}
    np.testing.assert_allclose(resumed["mean"], summary["mean"])
    with pytest.raises(ValueError, match="other settings .seeds"):
        paper.main(size="smoke", out=out, seeds=3, **files)


def test_refusals(paper, tmp_path):
    with pytest.raises(ValueError, match="Expected both, or none"):
        paper.main(pairs="pairs.tsv", out=tmp_path)
    with pytest.raises(ValueError, match="with .'z'.*Expected some of a, b"):
        paper.main(only="a,z", out=tmp_path)


def test_questions_with_answers(data, files):
    """The preferred answer is a correct one, or the one that people preferred; truths count errors."""
    corpus = data.read_truthful(files["truthful"], n_pairs=2)
    preferred = np.where(corpus["target"] == 1, *corpus["pairs"].T)
    assert len(preferred) == 120 and len(set(corpus["groups"])) == 9 and 0.3 < corpus["target"].mean() < 0.7
    assert all(re.search(r"It is \d|A number is", text) for text in preferred)
    assert not any("not know" in text for text in corpus["pairs"].ravel())  # an answer to several questions
    corpus = data.read_answers(files["answers"])
    rows = corpus["groups"] == 3
    sides = [[text[-1] for text in pair] for pair in corpus["pairs"][rows]]
    assert sides == [["1", "2"], ["1", "3"], ["2", "3"], ["2", "4"], ["3", "4"]]
    assert corpus["target"][rows].tolist() == [1, 0, 1, 0, 1]
    assert corpus["truths"][:5].tolist() == [  # irrelevant, wrong, incomplete
        [0.5, 0.5, 0.5],
        [0.5, -0.5, -0.5],
        [0.5, 0.5, -1.5],
        [-0.5, 0.5, 0.5],
        [0.5, 0.5, -0.5],
    ]


def test_differences_are_paired_by_seed(tables):
    starc = {"MaxEntropyIRL": (0.7, 0.8, 0.9), "no failures": (0.9, 0.8, 0.7), "FailureAwareIRL": (0.8, 0.7, 0.7)}
    records = [
        {"regime": "d", "cell": "one", "features": features, "seed": seed, "learner": name, "scores": {"STARC": value}}
        for name, own in starc.items()
        for features, shift in (("MiniLM", 0.0), ("MiniLM + n-grams", 0.1))
        for seed, value in enumerate(np.array(own) + shift)
    ]
    rows = tables.summarize(tables.read_scores(records)).set_index(["features", "learner"])
    joined = rows.loc["MiniLM + n-grams", "FailureAwareIRL"]
    assert joined["to MiniLM"] == pytest.approx(0.1) and joined["to MiniLM, half"] == pytest.approx(0, abs=1e-12)
    test = stats.ttest_rel(starc["FailureAwareIRL"], starc["no failures"])
    low = test.confidence_interval().low
    for features in ("MiniLM", "MiniLM + n-grams"):
        row = rows.loc[features, "FailureAwareIRL"]
        assert row["to no failures"] - row["to no failures, half"] == pytest.approx(low)


def record_of(state_margins, threshold):
    return Round(0, 0.0, threshold, np.array(state_margins), None, None)


def test_alike_sides_count(learners):
    X = np.array([[[1.0, 0.0], [1.0, 0.1]], [[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [1.0, 0.1]], [[1.0, 0], [-1, 0]]])
    detector = learners.ContrastFailures().fit(X, np.ones(4), np.ones(4), output_labels=None, seed=0)
    assert detector.detect(record_of([0.1, 0.1, 0.1, 0.1], 0.5)).tolist() == [True, False, True, False]
    assert not detector.detect(record_of([0.6, 0.1, -0.6, 0.1], 0.5)).any()


def test_clusters_count_the_same(learners):
    rng = np.random.default_rng(0)
    directions = np.repeat(np.eye(3), [60, 20, 5], axis=0)
    X = np.stack([directions + 0.01 * rng.standard_normal(directions.shape), np.zeros_like(directions)], axis=1)
    detector = learners.ClusteredFailures(3).fit(X, np.ones(85), np.ones(85), output_labels=None, seed=0)
    weights = detector.detect(record_of(np.where(np.arange(85) % 2, 0.1, 2.0), 0.5))
    assert (weights[::2] == 0).all()
    assert [weights[rows].sum() for rows in np.split(np.arange(85), [60, 80])] == pytest.approx([1, 1, 1])


def test_a_mixture_trusts_random_pairs_less(learners, data):
    sample = data.synthetic_sample(data.SIZES["small"], "linear, 1000 pairs, noise 0.2", 0)
    plain, mixed = (
        learners.fit(learners.ours(kind, {"failure_weight": 0.0}), 1e-4, 0, sample.X_train, sample.y_train, None)
        for kind in (learners.FailureAwareIRL, learners.MixtureIRL)
    )
    assert learners.measure(mixed, sample)["STARC"] < learners.measure(plain, sample)["STARC"]


def test_nulls_know_nothing(learners, sample):
    texts = np.array([["a", "bb"], ["ccc", "d"], ["e", "ffff"]])
    null = learners.LengthNull().fit(texts, np.array([1, 0, 1]))  # the shorter one is preferred
    assert null.direction_ == -1 and (null.decision_function(texts)[:, 0] > 0).tolist() == [True, False, True]
    null = learners.fit(learners.ours(learners.ShuffledIRL), 0.1, 0, sample.X_train, sample.y_train, None)
    learned = learners.fit(learners.ours(learners.MaxEntropyIRL), 0.1, 0, sample.X_train, sample.y_train, None)
    assert learners.measure(null, sample)["STARC"] > learners.measure(learned, sample)["STARC"] + 0.2


@pytest.mark.parametrize("name", ["MaxMarginIRL", "MaxEntropyIRL", "no failures"])
def test_a_search_chooses_as_fold_by_fold(data, registry, learners, sample, name):
    plan = learners.replace(data.SIZES["smoke"], alphas=(1.0, 1e-1, 1e-2), folds=3)
    learner = registry[name]
    found = learners.choose_alpha(learner, plan, 0, sample)
    assert found == learners.choose_alpha(learners.replace(learner, search=None), plan, 0, sample)


def test_equal_losses_take_the_stronger_alpha(data, learners, sample):
    plan = learners.replace(data.SIZES["smoke"], alphas=(0.1, 10.0, 1.0))
    for labels in (False, True):  # of a learner that is deaf to alpha
        learner = learners.Learner(lambda alpha, n_rows, seed: LogisticRegression(), "outputs", labels=labels)
        assert learners.choose_alpha(learner, plan, 0, sample) == 10.0


def test_pairs_of_one_seed(data, learners):
    """Texts are on one side of the split, labels are in the order of the sides, noise is as named."""
    plan, rng = data.SIZES["smoke"], np.random.default_rng(0)
    truth = rng.normal(0, 3, 300)
    corpus = {"outputs": np.arange(300), "truths": np.stack([truth, -truth, truth], axis=1)}
    sample = data.boltzmann_sample(corpus, 1.0, plan, np.random.default_rng(1))
    train, test = sample.X_train, sample.X_test
    assert not set(train.ravel()) & set(test.ravel()) and set(test.ravel()) <= set(sample.outputs)
    assert (train[:, 0] != train[:, 1]).all() and sample.y_train.mean() == 0.5
    assert (sample.labels_train == (truth[train] > 0)).all()
    assert (sample.truths == corpus["truths"][sample.outputs, :2]).all()
    chosen = np.where(sample.y_train == 1, *train.T)
    assert (chosen == sample.groups).all()
    assert truth[chosen].mean() > truth.mean() + 3  # tilted by exp(R*): by a variance, 9
    for shape in ("linear", "ReLU"):
        sample = data.synthetic_sample(plan, f"{shape}, 400 pairs, noise 0.3", 0)
        assert len(sample.X_train) == 400
        fitted = learners.fit(learners.LEARNERS["MaxEntropyIRL"], 1e-2, 0, sample.X_train, sample.y_train, None)
        assert learners.measure(fitted, sample)["STARC"] < 0.5


@pytest.mark.parametrize("reads", ["differences", "outputs", "pairs"])
def test_margins_are_differences_of_rewards(learners, sample, reads):
    learner = learners.ours(learners.MaxEntropyIRL) if reads == "pairs" else learners.logistic(reads)
    fitted = learners.fit(learner, 1e-2, 0, sample.X_train, sample.y_train, None)
    rewards = fitted.rewards(sample.X_test.reshape(-1, 6)).reshape(-1, 2)
    assert fitted.margins(sample.X_test) == pytest.approx(rewards[:, 0] - rewards[:, 1], abs=1e-5)
    assert ((fitted.probability(sample.X_test) > 0.5) == (rewards[:, 0] > rewards[:, 1])).all()


def test_only_marked_learners_are_told_labels(registry, learners, sample):
    """Without labels all learners fit that are not marked; the marked ones fail."""
    for name, learner in registry.items():
        if learner.reads == "texts":
            continue
        call = (learner, 0.1, 0, sample.X_train, sample.y_train, None)
        if learner.labels:
            with pytest.raises((ValueError, TypeError, AttributeError)):
                learners.fit(*call)
        else:
            learners.fit(*call)
        assert learner.labels == ("labels" in name)


def test_normalized_text(data):
    text = "RT @user: It&apos;s 3 &quot;Nice   DAYS!!!&quot; https://t.co/x #sun"
    assert data.normalize(text) == "it's nice days sun"
