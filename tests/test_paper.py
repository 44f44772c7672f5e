"""The evidence benchmark: what it runs, keeps, compares and prints."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
FEW = ("training: joint", "failures: labels", "failures: off")


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield patch


@pytest.fixture(scope="module")
def paper(patch):
    """The benchmark, found beside the others that it imports, with fewer ablations."""
    module = importlib.import_module("paper")
    kept = {name: module.ABLATIONS[name] for name in (importlib.import_module("paper_tables").DEFAULT, *FEW)}
    patch.setattr(module, "ABLATIONS", kept)
    return module


@pytest.fixture(scope="module")
def learners(patch):
    return importlib.import_module("paper_learners")


@pytest.fixture(scope="module")
def tables(patch):
    return importlib.import_module("paper_tables")


@pytest.fixture(scope="module")
def data(patch):
    return importlib.import_module("paper_data")


@pytest.fixture(scope="module")
def sample(data):
    return data.synthetic_sample(data.SIZES["smoke"], "linear, 80 pairs, noise 0.3", 0)


@pytest.fixture(scope="module")
def smoke(paper, tmp_path_factory):
    """Folder, summary and tables of all regimes at the smallest size."""
    out = tmp_path_factory.mktemp("paper") / "run"
    summary = paper.main(size="smoke", out=out)
    return out, summary, (out / "tables.md").read_text(encoding="utf-8")


def read(out):
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def test_every_learner_takes_part_in_every_cell(paper, tables, smoke):
    out, summary, _ = smoke
    plan = paper.SIZES["smoke"]
    records = read(out)
    assert len(records) == len(paper.all_tasks(plan, set(paper.REGIMES)))
    assert all("scores" in record for record in records)
    for regime in paper.REGIMES:
        expected = set(paper.ABLATIONS) if regime == "ablations" else {*paper.LEARNERS, tables.OBJECTIVE_CHOSEN}
        for cell in paper.cells_of(regime, plan):
            rows = summary[(summary["regime"] == regime) & (summary["cell"] == cell)]
            assert set(rows["learner"]) == expected and (rows["seeds"] == 2).all()
            assert set(tables.MEASURES) <= set(rows["measure"])
    pictures = {path.name for path in out.glob("*.png")}
    forests = {f"forest-{name}.png" for name in ("a-linear", "a-relu", "b", "c", "d", "transfer")}
    assert pictures == {"overview.png", "ablations.png"} | forests


def test_tables_say_what_was_measured(paper, tables, smoke):
    """Every figure of a learner's row follows from the lines of the results."""
    out, summary, text = smoke
    assert len(json.loads((out / "summary.json").read_text(encoding="utf-8"))) == len(summary)
    values = {
        (*(record[key] for key in ("regime", "cell", "learner", "seed")), measure): value
        for record in read(out)
        for measure, value in record["scores"].items()
    }
    found = {re.sub(r"\s+", " ", line) for line in text.splitlines()}
    for (regime, cell), rows in summary.groupby(["regime", "cell"]):
        (best,) = set(rows["baseline"])
        assert regime == "ablations" or paper.LEARNERS[best].standard
        for name in set(rows["learner"]) - {tables.OBJECTIVE_CHOSEN}:
            shown = []
            for measure in tables.COUNTED if regime == "ablations" else tables.MEASURES:
                own, base = (
                    np.array([values[regime, cell, who, seed, measure] for seed in (0, 1)]) for who in (name, best)
                )
                interval = stats.t.interval(0.95, 1, own.mean(), stats.sem(own)) if np.ptp(own) else own
                figure = f"{own.mean():.3f} ± {np.ptp(interval) / 2:.3f}"
                if name != best:
                    mean, half = (own - base).mean(), stats.t.ppf(0.975, 1) * stats.sem(own - base)
                    difference = f"{mean:+.3f} ± {half:.3f}"
                    figure += f" (**{difference}**)" if abs(mean) > half else f" ({difference})"
                shown.append(figure)
            learner = (paper.ABLATIONS if regime == "ablations" else paper.LEARNERS)[name]
            role = " (best standard)" if name == best and learner.standard else " (labels)" if learner.labels else ""
            assert f"| {name}{role} | " + " | ".join(shown) + " |" in found


def test_the_objective_is_chosen_without_failures(tables, smoke):
    scores = tables.read_scores(read(smoke[0]))
    scores = scores[scores["regime"] != "ablations"].set_index(["regime", "cell", "seed", "learner"])
    for place, chosen in scores.xs(tables.OBJECTIVE_CHOSEN, level="learner").iterrows():
        loss = {
            name: scores.loc[(*place, f"no failures, {name}")]["cv score"] for name in ("max_margin", "max_entropy")
        }
        own = tables.CHOSEN_FROM[int(loss["max_entropy"] > loss["max_margin"])]
        assert chosen["STARC"] == scores.loc[(*place, own)]["STARC"]


def test_a_second_run_goes_on(paper, smoke, monkeypatch):
    """Nothing is fitted twice; what was cut off, failed or defined otherwise is."""
    out, summary, _ = smoke
    run_task, again = paper.run_task, []

    def counted(folder, plan, task, source):
        again.append(task)
        return run_task(folder, plan, task, source)

    monkeypatch.setattr(paper, "draw", lambda summary, folder: None)  # another test's
    monkeypatch.setattr(paper, "run_task", counted)
    assert paper.main(size="smoke", out=out).equals(summary) and not again
    other, failed, cut, *rest = read(out)
    lines = [other | {"definition": "other parameters"}, {k: v for k, v in failed.items() if k != "scores"}, *rest]
    text = "\n".join([*map(json.dumps, lines), json.dumps(cut)[:100]])
    (out / "results.jsonl").write_text(text, encoding="utf-8")
    resumed = paper.main(size="smoke", out=out)
    assert set(again) == {paper.Task(*(record[key] for key in paper.Task._fields)) for record in (other, failed, cut)}
    np.testing.assert_allclose(resumed["mean"], summary["mean"])
    with pytest.raises(ValueError, match="other settings .seeds"):
        paper.main(size="smoke", out=out, seeds=3)


def test_ablations_alone(paper, monkeypatch, tmp_path):
    """Their alphas come from fits of b and c, which are in no table."""
    monkeypatch.setattr(paper, "ABLATIONS", dict(list(paper.ABLATIONS.items())[:2]))
    summary = paper.main(size="smoke", out=tmp_path, only="ablations")
    assert set(summary["regime"]) == {"ablations"} and set(summary["baseline"]) == {next(iter(paper.ABLATIONS))}
    assert {record["learner"] for record in read(tmp_path)} - set(paper.ABLATIONS) == {"no failures, max_entropy"}
    assert {path.name for path in tmp_path.glob("*.png")} == {"ablations.png"}


def test_refusals(paper, tmp_path):
    with pytest.raises(ValueError, match="Expected both, or none"):
        paper.main(pairs="pairs.tsv", out=tmp_path)
    with pytest.raises(ValueError, match="with .'e'.*Expected some of a, b"):
        paper.main(only="a,e", out=tmp_path)


def record(learner, seed, cv, starc, cell="one"):
    scores = {"STARC": starc, "label F1": 1 - starc}
    place = {"regime": "d", "cell": cell, "seed": seed, "learner": learner}
    return {**place, "alpha": 0.1, "cv score": cv, "scores": scores}


def test_differences_are_paired_by_seed(tables):
    """The best standard learner is the one of the better cross-validation, whatever the ground truth says."""
    starc = {"MaxMarginIRL": (0.7, 0.8, 0.9), "MaxEntropyIRL": (0.9, 0.8, 0.7), "FailureAwareIRL": (0.8, 0.9)}
    cv = {"MaxMarginIRL": -0.1, "MaxEntropyIRL": -0.2, "FailureAwareIRL": -0.05}
    lines = [record(name, seed, cv[name], value) for name, own in starc.items() for seed, value in enumerate(own)]
    lines += [record(name, seed, cv[name], value, "two") for name in starc for seed, value in enumerate((0.2, 0.4))]
    scores = tables.read_scores(lines)
    long = tables.compare(scores, tables.best_standard(scores))
    summary = tables.summarize(long)
    assert set(summary["baseline"]) == {"MaxMarginIRL"}
    rows = summary[(summary["cell"] == "one") & (summary["measure"] == "STARC")].set_index("learner")
    row = rows.loc["FailureAwareIRL"]
    assert row[["mean", "difference", "difference half"]].tolist() == pytest.approx([0.85, 0.1, 0], abs=1e-12)
    row = rows.loc["MaxEntropyIRL"]
    test = stats.ttest_rel(starc["MaxEntropyIRL"], starc["MaxMarginIRL"])
    assert row["difference"] - row["difference half"] == pytest.approx(test.confidence_interval().low)
    pooled = tables.pool(long).set_index(["learner", "measure"]).loc["FailureAwareIRL", "STARC"]
    assert pooled["difference"] == pytest.approx(0.05) and pooled["seeds"] == 2  # of 0.1 and 0
    counts = re.sub(r"\s+", " ", tables.counts_table(summary))
    assert "clearly better, of 10" in counts and "| FailureAwareIRL | 0 | 2 |" in counts  # F1 and STARC of one cell


@pytest.mark.parametrize(
    "name", ["MaxMarginIRL", "MaxEntropyIRL", "no failures, max_margin", "no failures, max_entropy"]
)
def test_a_search_chooses_as_fold_by_fold(data, learners, sample, name):
    plan = learners.replace(data.SIZES["smoke"], alphas=(1.0, 1e-1, 1e-2), folds=3)
    learner = learners.LEARNERS[name]
    found = learners.choose_alpha(learner, plan, 0, sample)
    expected = learners.choose_alpha(learners.replace(learner, search=None), plan, 0, sample)
    assert found["alpha"] == expected["alpha"]
    assert found["cv score"] == pytest.approx(expected["cv score"], abs=1e-3)


def test_equal_losses_take_the_stronger_alpha(data, learners, sample):
    plan = learners.replace(data.SIZES["smoke"], alphas=(0.1, 10.0, 1.0))
    learner = learners.Learner(lambda alpha, n_rows, seed: LogisticRegression(), "differences")  # deaf to alpha
    chosen = learners.choose_alpha(learner, plan, 0, sample)
    assert chosen["alpha"] == 10.0 and -0.7 < chosen["cv score"] < 0


def test_where_alphas_come_from(paper, data, learners):
    plan = learners.replace(data.SIZES["smoke"], seeds_of_texts=3, first_seed=100)

    def source(regime, cell, seed, learner):
        found = learners.source_of(learners.Task(regime, cell, seed, learner), plan)
        return found and (found.regime, found.cell, found.seed, found.learner)

    assert source("b", "beta 3", 101, "MaxMarginIRL") is None  # each seed chooses its own
    assert source("b", "beta 3", 101, "MaxMarginIRL, untuned") is None
    assert source("b", "beta 3", 101, "FailureAwareIRL") == ("b", "beta 3", 101, "no failures, max_entropy")
    assert source("b", "beta 3", 101, "paper") == ("b", "beta 3", 100, "paper")  # slow: the first seed chooses
    assert source("b", "beta 3", 100, "paper") is None
    assert source("b", "beta 3", 101, "paper, labels") == ("b", "beta 3", 100, "paper")
    assert source("ablations", "b, beta 3", 101, "training: joint") == ("b", "beta 3", 101, "no failures, max_entropy")
    seeds = {regime: set() for regime in paper.REGIMES}
    for task in paper.all_tasks(plan, set(paper.REGIMES)):
        seeds[task.regime].add(task.seed)
    assert {regime: len(own) for regime, own in seeds.items()} == {"a": 2, "b": 3, "c": 3, "d": 2, "ablations": 2}
    assert min(set.union(*seeds.values())) == 100


def test_pairs_of_one_seed(data, learners):
    """Texts are on one side of the split, labels are in the order of the sides, noise is as named."""
    plan, rng = data.SIZES["smoke"], np.random.default_rng(0)
    corpus = {"X": np.arange(300.0)[:, None], "truth": rng.normal(0, 3, 300)}
    sample = data.boltzmann_sample(corpus, 1.0, plan, np.random.default_rng(1))
    train, test = sample.X_train[..., 0].astype(int), sample.X_test[..., 0].astype(int)
    assert not set(train.ravel()) & set(test.ravel()) and set(test.ravel()) <= set(sample.outputs.ravel().astype(int))
    assert (train[:, 0] != train[:, 1]).all() and sample.y_train.mean() == 0.5
    assert (sample.labels_train == (corpus["truth"][train] > 0)).all()
    chosen = np.where(sample.y_train == 1, *train.T)
    assert (chosen == sample.groups).all()
    assert corpus["truth"][chosen].mean() > corpus["truth"].mean() + 3  # tilted by exp(R*): by a variance, 9
    for shape in ("linear", "ReLU"):
        sample = data.synthetic_sample(plan, f"{shape}, 400 pairs, noise 0.3", 0)
        assert len(sample.X_train) == 400 and abs(sample.flipped.mean() - 0.3) < 0.06
        fitted = learners.fit(learners.LEARNERS["MaxEntropyIRL"], 1e-2, 0, sample.X_train, sample.y_train, None)
        assert learners.measure(fitted, sample)["correlation"] > 0.4


@pytest.mark.parametrize("name", ["logistic regression, differences", "logistic regression, outputs", "MaxEntropyIRL"])
def test_margins_are_differences_of_rewards(learners, sample, name):
    fitted = learners.fit(learners.LEARNERS[name], 1e-2, 0, sample.X_train, sample.y_train, sample.labels_train)
    rewards = fitted.rewards(sample.X_test.reshape(-1, 6)).reshape(-1, 2)
    assert fitted.margins(sample.X_test) == pytest.approx(rewards[:, 0] - rewards[:, 1], abs=1e-5)
    assert ((fitted.probability(sample.X_test) > 0.5) == (rewards[:, 0] > rewards[:, 1])).all()


def test_only_marked_learners_are_told_labels(learners, sample):
    """Without labels all learners fit that are not marked; the marked ones fail."""
    for name, learner in {**learners.LEARNERS, **learners.ABLATIONS}.items():
        call = (learner, 0.1, 0, sample.X_train, sample.y_train, None, sample.groups)
        if learner.labels:
            with pytest.raises((ValueError, TypeError, AttributeError)):
                learners.fit(*call)
        else:
            learners.fit(*call)
        assert learner.labels == bool(re.search("labels|confirmed|T->NT", name))


def test_confirmed_pairs_weigh_more(learners, sample):
    learner = learners.LEARNERS["logistic regression, T->NT x 5"]
    X, y = sample.X_train, sample.y_train
    labels = np.stack([y, 1 - y], axis=1)
    some = np.arange(len(y)) < 20
    labels[~some] = 1
    copies = np.concatenate([np.arange(len(y)), *[np.flatnonzero(some)] * 4])
    plain = learners.logistic("differences")
    weighted = learners.fit(learner, 0.1, 0, X, y, labels).estimator.coef_
    repeated = learners.fit(plain, 0.1 * len(y) / len(copies), 0, X[copies], y[copies], labels[copies]).estimator.coef_
    assert weighted == pytest.approx(repeated, abs=1e-3)


def test_normalized_text(data):
    text = "RT @user: It&apos;s 3 &quot;Nice   DAYS!!!&quot; https://t.co/x #sun"
    assert data.normalize(text) == "it's nice days sun"
