"""The evidence benchmark: what it runs, keeps, compares and prints."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def paper():
    """The benchmark, found beside the others that it imports, with fewer ablations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        module = importlib.import_module("paper")
        some = ("failure path", "failure head", "gradient", "rounds")
        some += tuple(group for group in module.ABLATIONS if "tau" in group)
        patch.setattr(module, "ABLATIONS", {group: module.ABLATIONS[group] for group in some})  # 17 of 39
        yield module


@pytest.fixture(scope="module")
def smoke(paper, tmp_path_factory):
    """Folder, summary and tables of all regimes at the smallest size."""
    out = tmp_path_factory.mktemp("paper") / "run"
    summary = paper.main(size="smoke", out=out)
    return out, summary, (out / "tables.md").read_text(encoding="utf-8")


def test_every_learner_takes_part_in_every_cell(paper, smoke):
    out, summary, _ = smoke
    plan = paper.SIZES["smoke"]
    assert list(summary) == list(paper.REGIMES)
    for regime, cells in summary.items():
        assert set(cells) == set(paper.cells_of(regime, plan))
        for cell in cells.values():
            names = set(paper.ablation_names() if regime == "ablations" else paper.LEARNERS)
            assert set(cell["learners"]) == names
            assert all(row["seeds"] == [0, 1] for row in cell["learners"].values())
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(paper.all_tasks(plan, set(paper.REGIMES)))
    for record in map(json.loads, lines):
        learner = paper.learner_of(paper.Task(*(record[key] for key in paper.Task._fields)))
        assert record["alpha"] in ([None] if learner.reads == "groups" else plan.alphas)  # a search chooses its own
    pictures = {path.name for path in out.glob("*.png")}
    assert {"ablations.png", "forest-a-linear.png", "forest-a-relu.png", "forest-transfer.png"} <= pictures
    assert {f"forest-{regime}.png" for regime in "bcd"} <= pictures


def test_tables_say_what_the_summary_holds(paper, smoke, capsys):
    out, summary, tables = smoke
    assert summary == json.loads((out / "summary.json").read_text(encoding="utf-8"))
    for regime in "abcd":
        for cell in summary[regime].values():
            best = cell["best standard learner"]
            assert paper.LEARNERS[best].standard and f"| {best} (best standard) |" in tables
            for name, row in cell["learners"].items():
                figures = []
                for measure in paper.MEASURES:
                    values = row["by seed"][measure]
                    mean, half = row["mean"][measure]
                    assert mean == pytest.approx(np.mean(values)) and half >= 0
                    figure = f"{mean:.3f} ± {half:.3f}"
                    if name != best:
                        against = cell["learners"][best]["by seed"][measure]
                        difference, width = row["difference"][best][measure]
                        assert difference == pytest.approx(np.mean(np.subtract(values, against)), abs=1e-12)
                        shown = f"{difference:+.3f} ± {width:.3f}"
                        figure += f" (**{shown}**)" if abs(difference) > width else f" ({shown})"
                    figures.append(figure)
                role = " (best standard)" if name == best else " (labels)" if paper.LEARNERS[name].labels else ""
                assert f"| {name}{role} | " + " | ".join(figures) + " |" in tables
    (cell,) = summary["c"].values()
    best = cell["best standard learner"]
    found = [paper.format_difference(cell["learners"][n]["difference"][best]["STARC"]) for n in paper.OVERVIEW.values()]
    mean = cell["learners"][best]["mean"]["STARC"][0]
    assert f"| c. ParaDetox | STARC | {mean:.3f} | " + " | ".join(found) + " |" in tables
    row = cell["learners"]["FailureAwareIRLCV"]["difference"][paper.UNTUNED]["STARC"]
    share = f"{100 * row[0] / cell['learners'][paper.UNTUNED]['mean']['STARC'][0]:+.0f} %"
    (line,) = [line for line in paper.format_untuned(summary).splitlines() if line.startswith("| c. ParaDetox")]
    assert share in line.split(" | ")[3] and line in tables
    row = {"difference": {"best": {"label F1": (0.2, 0.1), "STARC": (0.2, 0.1), "label AUC": (0.1, 0.2)}}}
    cell = {"best standard learner": "best", "learners": {"FailureAwareIRLCV": row}}
    counts = paper.format_counts({"a": {"one": cell, "two": cell}}, ("label F1", "STARC", "label AUC"))
    assert "better, of 6 |" in counts and "| FailureAwareIRLCV | 2 | 2 |" in counts


def test_a_second_run_goes_on(paper, smoke, monkeypatch):
    """Nothing is fitted twice; what was cut off, failed or defined otherwise is."""
    out, summary, _ = smoke
    run_task = paper.run_task

    def refused(*call):
        raise AssertionError(f"fitted again: {call}")

    monkeypatch.setattr(paper, "draw", lambda summary, study: None)  # another test's
    monkeypatch.setattr(paper, "run_task", refused)
    assert paper.main(size="smoke", out=out) == summary
    results = out / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines()
    other = json.loads(lines[1]) | {"definition": "an earlier one"}
    failed = {key: value for key, value in json.loads(lines[2]).items() if key != "scores"} | {"error": "ValueError"}
    asked = [n for n, line in enumerate(lines) if json.loads(line)["learner"].startswith("paper, ")]
    search = next(n for n in asked if n > 2 and "without failures" in json.loads(lines[n]))
    earlier = {key: value for key, value in json.loads(lines[search]).items() if key != "without failures"}
    damaged = [0, 1, 2, search, len(lines) - 1]  # the last one takes its alpha from another
    kept = [line for number, line in enumerate(lines) if number not in damaged]
    text = "\n".join([*map(json.dumps, (other, failed, earlier)), *kept, lines[0][:100]])
    results.write_text(text, encoding="utf-8")
    again = []

    def counted(folder, plan, task, *chosen):
        again.append(task)
        return run_task(folder, plan, task, *chosen)

    monkeypatch.setattr(paper, "run_task", counted)
    resumed = paper.main(size="smoke", out=out)
    assert sorted(again) == sorted(
        paper.Task(*(json.loads(lines[number])[key] for key in paper.Task._fields)) for number in damaged
    )
    for name, row in summary["a"][again[0].cell]["learners"].items():
        assert resumed["a"][again[0].cell]["learners"][name]["by seed"] == row["by seed"]
    with pytest.raises(ValueError, match="other settings .seeds"):
        paper.main(size="smoke", out=out, seeds=3)


def test_ablations_alone(paper, monkeypatch, tmp_path):
    """Their alphas come from fits of b and c; what is the same without failures is compared with the same fit."""
    some = {"failure path": {paper.OFF: paper.ABLATIONS["failure path"][paper.OFF]}}
    monkeypatch.setattr(
        paper, "ABLATIONS", some | {group: paper.ABLATIONS[group] for group in ("failure head", "gradient")}
    )
    summary = paper.main(size="smoke", out=tmp_path, only="ablations")
    assert list(summary) == ["ablations"] and (tmp_path / "ablations.png").exists()
    tables = (tmp_path / "tables.md").read_text(encoding="utf-8")
    for cell in summary["ablations"].values():
        learners = cell["learners"]
        assert {tuple(row["difference"]) for row in learners.values()} == {("failure path: off",)}
        linear, default = learners["failure head: linear"], learners["gradient: failure head"]
        assert linear["by seed"] == default["by seed"]
        for name in ("failure head: 64 hidden units", "gradient: both heads"):
            assert learners[name]["by seed"]["STARC"] != default["by seed"]["STARC"] and f"| {name} |" in tables
    sample = paper.load_sample(str(tmp_path), paper.SIZES["smoke"], "c", "ParaDetox", 0)

    def margins(changes):
        estimator = paper.ours(paper.PAPER, **changes, failure_weight=0.0).make(0.1, 1, 0)
        return estimator.fit(sample.X_train, sample.y_train).decision_function(sample.X_train)

    for group in ("failure head", "gradient"):
        for _, changes in paper.ABLATIONS[group].values():
            np.testing.assert_allclose(margins(changes), margins({}), atol=1e-6)


def test_refusals(paper, tmp_path):
    with pytest.raises(ValueError, match="Expected both, or none"):
        paper.main(pairs="pairs.tsv", out=tmp_path)
    with pytest.raises(ValueError, match="with .'e'.*Expected some of a, b"):
        paper.main(only="a,e", out=tmp_path)


def line(cv, **scores):
    return {"cv score": cv, "alpha": 0.1, "fit seconds": 1.0, "scores": scores}


def test_differences_are_paired_by_seed(paper):
    """By hand: the best standard learner is the one of the better cross-validation, whatever the ground truth says."""
    values = {
        "MaxMarginIRL": ((0.7, 0.8, 0.9), (0.90, 0.92, 0.91)),
        "MaxEntropyIRL": ((0.9, 0.9, 0.9), (0.90, 0.90, 0.91)),
        "outputs, max_entropy": ((0.8, 0.9, 1.0), (0.99, 0.99, 0.99)),
    }
    done = {
        paper.Task("d", "completions", seed, name): line(cv[seed], STARC=starc[seed])
        for name, (starc, cv) in values.items()
        for seed in range(3)
    }
    del done[paper.Task("d", "completions", 2, "outputs, max_entropy")]  # not finished
    cell = paper.summarise(done)["d"]["completions"]
    assert cell["best standard learner"] == "MaxMarginIRL"
    row = cell["learners"]["outputs, max_entropy"]
    assert row["mean"]["STARC"][0] == pytest.approx(0.85)
    assert row["difference"]["MaxMarginIRL"]["STARC"] == pytest.approx([0.1, 0], abs=1e-12)
    difference, half = cell["learners"]["MaxEntropyIRL"]["difference"]["MaxMarginIRL"]["STARC"]
    test = stats.ttest_rel(values["MaxEntropyIRL"][0], values["MaxMarginIRL"][0])
    assert difference == pytest.approx(0.1)
    assert difference - half == pytest.approx(test.confidence_interval().low)
    assert not paper.is_clear([difference, half]) and paper.is_clear([0.1, 0.0])
    assert "(+0.100 ± 0.248)" in paper.format_cell(cell, ["STARC"])


@pytest.mark.parametrize(
    "name",
    [
        "paper, max_margin",
        "paper, max_entropy",
        "labels, max_entropy",
        "no failures, max_margin",
        "FailureAwareIRL, alpha with failures",
    ],
)
def test_the_search_chooses_as_fit_by_fit(paper, name):
    plan = paper.SIZES["smoke"]
    sample = paper.synthetic_sample(plan, "linear, 80 pairs, noise 0.3", 0)
    folds = list(GroupKFold(3).split(sample.X_train, sample.y_train, sample.groups))
    learner, alphas = paper.LEARNERS[name], [1.0, 1e-1, 1e-2]
    found, without = paper.search_scores(learner, learner.make(1.0, 80, 0), alphas, folds, sample)
    expected = [paper.fit_scores(learner, alpha, 0, folds, sample) for alpha in alphas]
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # products that round otherwise, in float32
    chosen = paper.choose_alpha(learner, alphas, 3, 0, sample)
    assert chosen["alpha"] in alphas
    others = [n for n, other in paper.LEARNERS.items() if other.without_failures and other.alpha_of == name]
    assert (without is None) == ("without failures" not in chosen)
    for other in others:  # what it takes from the search is what its own would have chosen
        expected = [paper.fit_scores(paper.LEARNERS[other], alpha, 0, folds, sample) for alpha in alphas]
        np.testing.assert_allclose(without, expected, rtol=1e-6)
        own = paper.best_alpha(alphas, expected, folds)
        assert chosen["without failures"] == {"alpha": own["alpha"], "cv score": pytest.approx(own["cv score"])}
    assert len(others) == name.startswith("paper")


def test_the_base_path_is_chosen_before_failures_count(paper):
    sample = paper.synthetic_sample(paper.SIZES["smoke"], "linear, 80 pairs, noise 0.3", 1)
    folds = list(GroupKFold(3).split(sample.X_train, sample.y_train, sample.groups))
    alphas, best = sorted(paper.ALPHAS, reverse=True), {}
    for objective in paper.OBJECTIVES:
        learner = paper.LEARNERS[f"no failures, {objective}"]
        scores, without = paper.search_scores(learner, learner.make(1.0, 80, 0), alphas, folds, sample)
        assert without is None
        best[objective] = paper.best_alpha(alphas, scores, folds)
    objective = max(best, key=lambda name: best[name]["cv score"])
    options = {"objective": objective, "alpha": best[objective]["alpha"], "random_state": 0}
    expected = paper.FailureAwareIRL(**options).fit(sample.X_train, sample.y_train)
    data = sample.X_train, sample.y_train, sample.labels_train, sample.groups
    found = paper.fit(paper.LEARNERS["FailureAwareIRL, objective chosen"], None, 0, *data)
    np.testing.assert_array_equal(found.margins(sample.X_test), expected.decision_function(sample.X_test))
    np.testing.assert_array_equal(found.chance(sample.X_test), expected.predict_proba(sample.X_test)[:, 1])


def test_differences_of_a_regime_are_averaged_seed_by_seed(paper):
    def cell(best, own, seeds):
        rows = {"MaxMarginIRL": best, "FailureAwareIRL": own}
        learners = {name: {"seeds": seeds, "by seed": {"STARC": values}} for name, values in rows.items()}
        return {"best standard learner": "MaxMarginIRL", "learners": learners}

    cells = {"one": cell([0.5, 0.5, 0.6], [0.4, 0.3, 0.9], [0, 1, 2]), "two": cell([0.2, 0.3], [0.2, 0.1], [0, 1])}
    mean, half = paper.pooled_difference(cells, "FailureAwareIRL", "STARC")  # -0.05 and -0.2: seed 2 is of one cell
    assert mean == pytest.approx(-0.125)
    assert half == pytest.approx(stats.t.ppf(0.975, 1) * 0.075)


def test_what_a_learner_takes_from_a_search(paper):
    line = {"alpha": 0.1, "seed": 0, "without failures": {"alpha": 1.0, "cv score": -0.5}}
    task = paper.Task("b", "beta 3", 0, "MaxMarginIRL")
    assert paper.choice(task, line) == (1.0, -0.5)
    assert paper.choice(task._replace(seed=1), line) == (1.0, None)  # that loss is the first seed's
    assert paper.choice(task._replace(learner="near ties, max_margin"), line) == (0.1, None)
    assert paper.choice(paper.Task("ablations", "b, beta 3", 0, "rounds: 10"), line) == (1.0, None)


def test_where_alphas_come_from_and_how_many_seeds(paper):
    plan = replace(paper.SIZES["smoke"], seeds_of_texts=3)
    (once,) = plan.choose_once

    def source(regime, cell, seed, learner):
        found = paper.alpha_source(paper.Task(regime, cell, seed, learner), plan)
        return found and (found.cell, found.seed, found.learner)

    assert source("b", "beta 3", 1, "Bradley-Terry MLP") == ("beta 3", 0, "Bradley-Terry MLP")
    assert source("b", "beta 3", 0, "Bradley-Terry MLP") is None
    assert source("a", once, 1, "MaxMarginIRL") == (once, 0, "paper, max_margin")
    assert source("a", once, 1, "paper, max_margin") == (once, 0, "paper, max_margin")
    assert source("b", "beta 3", 1, "paper, max_margin") is None
    assert source("ablations", "b, beta 3", 1, "rounds: 10") == ("beta 3", 1, "paper, max_margin")
    seeds = {task.regime: set() for task in paper.all_tasks(plan, set(paper.REGIMES))}
    for task in paper.all_tasks(plan, set(paper.REGIMES)):
        seeds[task.regime].add(task.seed)
    assert {regime: len(own) for regime, own in seeds.items()} == {"a": 2, "b": 3, "c": 3, "d": 2, "ablations": 2}


def test_equal_losses_take_the_stronger_alpha(paper):
    sample = paper.synthetic_sample(paper.SIZES["smoke"], "linear, 80 pairs, noise 0", 0)
    learner = paper.Learner(lambda alpha, n_rows, seed: LogisticRegression(), "differences")  # deaf to alpha
    chosen = paper.choose_alpha(learner, [0.1, 10.0, 1.0], 2, 0, sample)
    assert chosen["alpha"] == 10.0 and -0.5 < chosen["cv score"] < 0


def test_pairs_of_one_seed(paper):
    """Texts are on one side of the split, labels are in the order of the sides, noise is as named."""
    plan = paper.SIZES["smoke"]
    rng = np.random.default_rng(0)
    corpus = {"X": np.arange(300.0)[:, None], "truth": rng.normal(0, 3, 300)}
    sample = paper.boltzmann_sample(corpus, 1.0, plan, np.random.default_rng(1))
    train, test = sample.X_train[..., 0].astype(int), sample.X_test[..., 0].astype(int)
    assert not set(train.ravel()) & set(test.ravel()) and set(test.ravel()) <= set(sample.outputs.ravel().astype(int))
    assert (train[:, 0] != train[:, 1]).all() and sample.y_train.mean() == 0.5
    assert (sample.labels_train == (corpus["truth"][train] > 0)).all()
    chosen = np.where(sample.y_train == 1, *train.T)
    assert (chosen == sample.groups).all()
    assert corpus["truth"][chosen].mean() > corpus["truth"].mean() + 3  # tilted by exp(R*): by a variance, 9
    for shape in ("linear", "ReLU"):
        sample = paper.synthetic_sample(plan, f"{shape}, 400 pairs, noise 0.3", 0)
        assert len(sample.X_train) == 400 and abs(sample.flipped.mean() - 0.3) < 0.06
        fitted = paper.fit(paper.LEARNERS["MaxEntropyIRL"], 1e-2, 0, sample.X_train, sample.y_train, None)
        assert paper.measure(fitted, sample)["correlation"] > 0.4


@pytest.mark.parametrize("name", ["logistic regression, differences", "logistic regression, outputs", "MaxEntropyIRL"])
def test_margins_are_differences_of_rewards(paper, name):
    sample = paper.synthetic_sample(paper.SIZES["smoke"], "linear, 80 pairs, noise 0", 0)
    fitted = paper.fit(paper.LEARNERS[name], 1e-2, 0, sample.X_train, sample.y_train, sample.labels_train)
    rewards = fitted.rewards(sample.X_test.reshape(-1, 6)).reshape(-1, 2)
    assert fitted.margins(sample.X_test) == pytest.approx(rewards[:, 0] - rewards[:, 1], abs=1e-5)
    assert ((fitted.chance(sample.X_test) > 0.5) == (rewards[:, 0] > rewards[:, 1])).all()


def test_only_marked_learners_are_told_labels(paper):
    """Without labels all learners fit that are not marked; the marked ones fail."""
    sample = paper.synthetic_sample(paper.SIZES["smoke"], "linear, 80 pairs, noise 0", 0)
    for name, learner in paper.LEARNERS.items():
        call = (learner, 0.1, 0, sample.X_train, sample.y_train, None, sample.groups)
        if learner.labels:
            with pytest.raises((ValueError, TypeError, AttributeError)):
                paper.fit(*call)
        else:
            paper.fit(*call)
        assert learner.labels == bool(re.search("labels|confirmed|T->NT", name))


def test_confirmed_pairs_weigh_more(paper):
    sample = paper.synthetic_sample(paper.SIZES["smoke"], "linear, 80 pairs, noise 0", 0)
    learner = paper.LEARNERS["logistic regression, T->NT x 5"]
    labels = np.stack([sample.y_train, 1 - sample.y_train], axis=1)
    X, y = sample.X_train, sample.y_train
    some = np.arange(len(y)) < 20
    labels[~some] = 1
    copies = np.concatenate([np.arange(len(y)), *[np.flatnonzero(some)] * 4])
    plain = paper.logistic("differences")
    weighted = paper.fit(learner, 0.1, 0, X, y, labels).estimator.coef_
    repeated = paper.fit(plain, 0.1 * len(y) / len(copies), 0, X[copies], y[copies], labels[copies]).estimator.coef_
    assert weighted == pytest.approx(repeated, abs=1e-3)


def test_normalised_text(paper):
    assert (
        paper.normalise("RT @user: It&apos;s 3 &quot;Nice   DAYS!!!&quot; https://t.co/x #sun") == "it's nice days sun"
    )
