"""Each benchmark runs at its smallest size, and what it prints is what it measured."""

import functools
import gzip
import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from sklearn.model_selection import KFold
from tiny_models import save_encoder_of

from fairl_sk import MaxEntropyIRL, TextFeatures, TransformerEmbedder
from fairl_sk.datasets import make_detox_preferences

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_benchmark_is_tested():
    names = {
        "active",
        "audit_beyond",
        "audit_truths",
        "bench_dask",
        "bench_encoder",
        "bench_fit",
        "bench_loop",
        "bench_read",
        "bench_scale",
        "bench_search",
        "bench_serve",
        "gpu",
        "identify",
        "implicit",
        "implicit_cost",
        "implicit_policies",
        "objectives",
        "paper",
        "paper_data",
        "paper_learners",
        "paper_tables",
        "paradetox",
        "realign",
        "realign_tables",
        "text_features",
        "toxicity_reference",
        "tradeoff",
        "uncertainty",
    }
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == names


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    """A run of realign.py that has made its base model, which the tests below go on with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        realign = importlib.import_module("realign")
    study, plan = realign.Study(tmp_path_factory.mktemp("realign")), realign.SIZES["smoke"]
    realign.prepare_texts(study, plan, None, None)
    study.make("base", lambda path: realign.train_base(study.read_json("texts.json")["train"], plan, path))
    return study.folder


@pytest.fixture(scope="module")
def encoder_folder(base_folder, tmp_path_factory):
    """A tiny encoder that knows the words of the base model's texts, in place of MiniLM."""
    texts = json.loads((base_folder / "texts.json").read_text(encoding="utf-8"))["train"]
    return save_encoder_of(texts, tmp_path_factory.mktemp("encoder"))


def test_audit_truths(monkeypatch, capsys):
    """Truths are found in small corpora. A subgroup of 8 % has too few rows in them."""
    audit_truths = load("audit_truths")
    monkeypatch.setattr(audit_truths, "TRUTHS", ("nothing", "length", "flipped labels"))
    table = audit_truths.summarize(audit_truths.main("smoke")).set_index("planted")
    assert table["found"].tolist() == [1, 1, 1]
    assert table.loc["nothing", ["properties named", "subgroups named", "label errors claimed"]].tolist() == [0, 0, 0]
    assert "planted" in capsys.readouterr().out


def test_bench_scale(monkeypatch, capsys, tmp_path):
    """A row for each fit; processes of their own cost time, so fits run in this one."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    bench_scale = load("bench_scale")
    monkeypatch.setattr(bench_scale, "measure", bench_scale.fit_here)
    monkeypatch.setattr(bench_scale, "verdict", lambda *given: None)  # the sizes are too small for the aims
    table = bench_scale.main(picture=tmp_path / "scale.png", out=tmp_path / "rows.json", learners=["MaxEntropyIRL"])
    assert table["features in"].tolist() == ["file", "memory"] * 2 and (tmp_path / "scale.png").exists()
    assert table["accuracy"].nunique() == 2 and (table["peak"] >= table["anonymous"]).all()
    assert "microseconds a pair" in capsys.readouterr().out


def test_bench_dask(monkeypatch, capsys):
    """One cluster for both sides: threads of this process, as processes would have to start."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    bench_dask = load("bench_dask")
    options = {"processes": False, "protocol": "inproc://"}
    monkeypatch.setattr(bench_dask, "LocalCluster", functools.partial(bench_dask.LocalCluster, **options))
    assert bench_dask.main(size="smoke") > 0
    assert "times as fast" in (shown := capsys.readouterr().out) and "a fit on 300 pairs x 16" in shown


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # trl, of transformers
@pytest.mark.filterwarnings("ignore:.*:sklearn.exceptions.ConvergenceWarning")
def test_implicit(monkeypatch, capsys, tmp_path, base_folder, encoder_folder):
    """All stages for RLOO, kept after 2 and 4 steps, and DPO; a second call has nothing to do."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    implicit = importlib.import_module("implicit")
    monkeypatch.setattr(implicit, "FEATURES", ("joined", "own states"))
    monkeypatch.setattr(implicit, "OF_SEVERAL", ("joined",))
    monkeypatch.setattr(implicit, "LABELS", (50,))
    monkeypatch.setattr(implicit, "ALPHAS", [1e-2])
    monkeypatch.setattr(
        implicit, "TextFeatures", functools.partial(implicit.TextFeatures, encoder_folder, n_components=20)
    )
    embedder = functools.partial(TransformerEmbedder, encoder_folder, normalize=True)
    monkeypatch.setattr("implicit_policies.embedder", lambda study: embedder(store=study.path("store")))
    shutil.copytree(base_folder, tmp_path / "run")
    texts = json.loads((tmp_path / "run/texts.json").read_text(encoding="utf-8"))
    (tmp_path / "run/texts.json").write_text(json.dumps({**texts, "pairs": texts["pairs"][:100]}), encoding="utf-8")
    implicit.main(size="smoke", out=tmp_path / "run")
    shown = capsys.readouterr().out
    measured = {
        ("rloo-words-beta-0.1-seed-1", 2): ["joined"],
        ("rloo-words-beta-0.1-seed-1", 4): ["joined", "own-states"],
        ("dpo-words-beta-0.1-seed-2", 4): ["joined", "own-states"],
    }
    accuracies = {}
    for (policy, step), kinds in measured.items():
        values, truths, figures = implicit.read_signals(tmp_path / f"run/signals/{policy}-{step}.npz")
        assert values.shape == truths["words"].shape == truths["encoder"].shape == (100, 2)
        assert figures["spread"] == pytest.approx(values[:, 1][:40].std(), rel=1e-3)
        assert figures["spread"] > 2 * figures["null"] > 0 and figures["bfloat16"] > 0
        for features in kinds:
            rows = json.loads((tmp_path / f"run/results/{policy}-{step}-{features}.json").read_text(encoding="utf-8"))
            alone = next(row for row in rows if row["learner"] == "implicit reward")
            assert 0 < alone["STARC"] < 1
            accuracies[policy[:4], step] = alone["pair accuracy"]
            assert {row["learner"] for row in rows} >= {"MaxEntropyIRL", "distilled", "with the residual", "50 labels"}
    assert min(accuracies["rloo", 4], accuracies["dpo-", 4]) > max(0.6, accuracies["rloo", 2])
    assert "STARC against MaxEntropyIRL on the same features" in shown and "Several models" in shown
    for stage in ("make_policy", "make_results", "DistilledReward"):
        monkeypatch.setattr(implicit, stage, lambda *args: None if len(args) == 5 else pytest.fail("made again"))
    implicit.main(size="smoke", out=tmp_path / "run")
    assert capsys.readouterr().out.splitlines()[:-1] == shown[shown.index("\nAlignments") :].splitlines()[:-1]


@pytest.mark.filterwarnings("ignore:Only .* pairs are T->NT:UserWarning")  # 160 of a model that has learned nothing yet
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # trl, of transformers
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # 120 pairs, almost no penalty
def test_realign(monkeypatch, capsys, tmp_path, base_folder, encoder_folder):
    """The plumbing, that alignment raises the reward that it is given, and that a second call has nothing to do."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    realign = importlib.import_module("realign")
    monkeypatch.setattr(realign, "ALPHAS", [1e-3])
    labelled, distilled = "FailureAwareIRL, joined, labels", "DistilledIRL, own states"
    some = ("MaxMarginIRL", "MaxEntropyIRL", labelled, distilled, realign.RANDOM)  # each way to make a reward
    monkeypatch.setattr(realign, "REWARDS", {name: realign.REWARDS[name] for name in some})
    out = shutil.copytree(base_folder, tmp_path / "run")
    options = {"size": "smoke", "out": out, "encoder": encoder_folder}
    rows = realign.main(**options)
    shown = capsys.readouterr().out
    assert list(rows) == ["base", realign.TRUTH, *realign.REWARDS]
    assert rows["base"]["KL"] == pytest.approx(0, abs=1e-4) and rows["base"]["samples"] == 100
    assert rows[realign.TRUTH]["KL"] > 0.1 and rows[realign.TRUTH]["share of the cut"][0] == 1
    assert rows[realign.TRUTH]["ground-truth reward"] > rows["base"]["ground-truth reward"] + 0.5
    for name, row in rows.items():
        low, high = row["toxicity"][1:]
        assert low <= row["toxicity"][0] <= high and row["tokens"] == 20
        assert f"| {name} | {row['toxicity'][0]:.1%}" in shown
    curve = json.loads((out / "arms/ground-truth-0/arm.json").read_text(encoding="utf-8"))["curve"]
    assert curve["step"] == list(range(1, 9)) and np.isfinite(curve["reward"]).all()
    assert (out / "curves.png").stat().st_size > 10_000
    assert len(json.loads((out / "samples.json").read_text(encoding="utf-8"))["base"]) == 20
    monkeypatch.setattr(realign, "align", None)
    assert realign.main(**options) == rows
    with pytest.raises(ValueError, match="other settings .beta.*another folder"):
        realign.main(**options, beta=1.0)
    with pytest.raises(ValueError, match="Expected both, or none"):
        realign.main(pairs="pairs.tsv", out=tmp_path / "other")


def test_what_the_realignment_table_is_made_of(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    realign, tables = importlib.import_module("realign"), importlib.import_module("realign_tables")
    assert realign.clean("RT @user: &quot;Nice   day!!!&quot; #sun https://t.co/x") == "nice day! sun"
    assert tables.distinct_2(["a b a b", "a b"]) == 2 / 4
    assert tables.exploited_words(["bird and you"] * 2 + ["me"], ["you and me", "bird"]) == {}
    assert tables.exploited_words(["bird and you"] * 2 + ["me"], ["you and me"]) == {"bird": 0.667}
    runs = {name: [{"truth": truth}] for name, truth in {"base": [-1, -1, -1, 1], "arm": [-1, 1, 1, 1]}.items()}
    rates = tables.resampled_rates(runs, n_resamples=200)
    assert (rates["base"][0], rates["arm"][0]) == (0.75, 0.25)
    assert set(rates["base"][1:]) == {0.5, 0.75, 1.0} and (rates["base"] - rates["arm"] == 0.5).all()
    never, always = {"truth": [1] * 4}, {"truth": [-1] * 4}  # by seed; the rate of one prompt is that of all
    runs = {"base": [always], "arm": [never, always], "other": [always, never], "twin": [never, always]}
    rates = tables.resampled_rates(runs, n_resamples=200)
    assert (rates["base"] == 1).all() and rates["arm"][0] == 0.5 and set(rates["arm"]) == {0.0, 0.5, 1.0}
    np.testing.assert_array_equal(rates["arm"], rates["twin"])  # arms share the seeds that are drawn
    np.testing.assert_array_equal(rates["arm"], 1 - rates["other"])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # trl, of transformers
def test_realignment_by_grpo_without_a_penalty_from_a_given_base(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    realign = importlib.import_module("realign")
    texts = [realign.clean(text) for text in make_detox_preferences(60, random_state=0).data.ravel()]
    plan = replace(realign.SIZES["smoke"], algorithm="grpo", beta=0.0, steps=2)
    realign.train_base(texts, plan, tmp_path / "made")
    realign.fetch(tmp_path / "made", tmp_path / "base")
    prompts = [" ".join(text.split()[:3]) for text in texts[:10]]

    def reward(completions, **_):
        return [float(len(set(text))) for text in completions]

    def truth(completions, **_):
        return [float("you" in text) for text in completions]

    _, curve, timing = realign.align(tmp_path / "base", reward, truth, prompts, plan, 0, tmp_path / "run")
    assert curve["step"] == [1, 2] and np.isfinite(curve["reward"] + curve["toxicity"]).all()
    assert np.isnan(curve["kl"]).all() and 0 < timing["reward_seconds"] < timing["seconds"]


def test_bench_serve(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    figures = importlib.import_module("bench_serve").main(size="smoke", minutes=0.01, encoder=False)
    assert figures["of them lost"] == figures["of them wrong"] == 0 and figures["requests under full load"] >= 4


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # trl, of transformers
def test_tradeoff(monkeypatch, capsys, tmp_path, base_folder):
    """All stages; each policy's figures, and a second call that has nothing to do."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    tradeoff = importlib.import_module("tradeoff")
    monkeypatch.setattr(tradeoff, "WEIGHTS", (0.5,))
    out = shutil.copytree(base_folder, tmp_path / "run")
    rows = tradeoff.main(size="smoke", out=out, steps=2)
    shown = capsys.readouterr().out
    assert list(rows) == ["base", "GRPO, 0.5 toxicity + 0.5 fluency"] and rows["base"]["collapsed"] == []
    for name, row in rows.items():
        rate, low, high = row["not toxic"]
        assert low <= rate <= high and f"| {name} | {rate:.1%}" in shown
    best = np.array(json.loads((out / "best.json").read_text(encoding="utf-8"))).mean(axis=1)
    assert best.shape == (11, 2) and best[-1, 0] > best[0, 0] and best[0, 1] > best[-1, 1]
    base = json.loads((out / "base-two.json").read_text(encoding="utf-8"))
    runs = [{**base, "truth": [-5.0] * 100, "completions": ["zzz zzz zzz"] * 100}]
    worse = tradeoff.summarize(base, {"worse": runs})["worse"]
    assert worse["collapsed"] == ["not toxic", "diversity"] and worse["exploited words"] == [{"zzz": 1.0}]
    assert (out / "tradeoff.png").stat().st_size > 10_000
    monkeypatch.setattr(tradeoff, "align", None)
    assert tradeoff.main(size="smoke", out=out, steps=2) == rows


def test_objectives(monkeypatch, capsys, tmp_path):
    """The tables, on known rewards and on a file in the layout of Fine-Grained RLHF where wrong answers lose."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    objectives = importlib.import_module("objectives")
    monkeypatch.setitem(objectives.LEARNERS, "MaxEntropyIRLCV", MaxEntropyIRL())  # no search: 42 fits
    rng, questions = np.random.default_rng(0), []
    for number in range(60):
        counts = rng.integers(0, 4, size=3)
        errors = [{"error type": kind} for kind in ["Irrelevant"] * counts[0] + ["Unverifiable"] * counts[1]]
        preference = np.where(counts[1] + rng.logistic(size=6) < 1.5, 1, 2).tolist()
        question = {f"prediction {side}": "word " * int(rng.integers(3, 9)) for side in (1, 2, 3, 4)}
        question |= {"question": f"Q {number}?", "preference": preference}
        questions.append({**question, "feedback": {"errors": errors, "missing-info": [{}] * int(counts[2])}})
    path = tmp_path / "answers.json.gz"
    path.write_bytes(gzip.compress(json.dumps(questions).encode()))
    results = objectives.main(size="smoke", answers=path, out=tmp_path / "rows.json")
    shown = capsys.readouterr().out
    for row in results["sharing"]:
        assert row["ratio"][0] == pytest.approx(row["shared"] / row["alone"]) and 0 < row["shared"] < 0.5
    weights = results["answers"]["weights"]
    assert weights["wrong"][1] > 0 > weights["irrelevant"][1]
    assert f"| wrong | {weights['wrong'][0]:.2f} [" in shown
    assert all(0 < low <= rate <= high < 1 for rate, low, high in results["answers"]["conflicts"].values())
    assert json.loads((tmp_path / "rows.json").read_text(encoding="utf-8")) == results
    objectives.verdict("distance", 2.0, 1.0)
    assert capsys.readouterr().out == "distance: 2 (aim: at most 1): MISSED\n"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # trl, of transformers
def test_bench_loop(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    figures, aims = importlib.import_module("bench_loop").main(size="smoke", out=tmp_path / "loop.json")
    shown = capsys.readouterr().out
    made = figures["generation"]
    assert made["ratio"] == made["alone, s"] / made["batched, s"] and made["same texts"] > 0.8
    for name in ("minilm", "policy"):
        assert figures[name]["share"] == figures[name]["reward, s"] / figures[name]["step, s"] > 0
        assert max(figures[name]["difference"].values()) < 1e-4
        assert figures[name]["least, s"] > 0
        assert 0.99 < figures[f"{name}, bfloat16"]["correlation"] < 1
    for name, value in aims.items():
        assert f"{name}: {value:.3g} (" in shown
    assert json.loads((tmp_path / "loop.json").read_text(encoding="utf-8"))["aims"] == aims


def test_bench_fit(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("bench_fit")
    results = module.main(size="smoke", out=tmp_path / "fit.json")
    shown = capsys.readouterr().out
    assert [(row["pairs"], row["features"]) for row in results["rows"]] == [(300, 16), (1000, 16)]
    for row in results["rows"]:
        assert all(row[name] > 0 for name in module.LEARNERS)
        assert row["ratio"] == row["FailureAwareIRL"] / row["logistic"] and f"{row['ratio']:.3f}" in shown
    assert results["peak memory"] > 1  # the input itself counts
    assert f"peak memory, times the input: {results['peak memory']:.2f} (aim: at most 2.5)" in shown
    assert json.loads((tmp_path / "fit.json").read_text(encoding="utf-8")) == results
    rows = [{"pairs": pairs, "FailureAwareIRL": took} for pairs, took in ((1, 1.0), (2, 1.0), (4, 3.0))]
    assert module.growth(rows) == pytest.approx(1.5)  # 1, 0.5 and 0.75 seconds a pair
    module.verdict("faster", 9, 10, at_least=True)
    assert "faster: 9.00 (aim: at least 10): MISSED" in capsys.readouterr().out


def test_bench_search(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("bench_search")
    monkeypatch.setattr(module, "peak_memory", lambda *search: 1.5)  # a new process, tested with bench_fit
    monkeypatch.setattr(module, "FOLDS", KFold(2, shuffle=True, random_state=0))
    results = module.main(size="smoke", peer_share=0.5, picture=tmp_path / "a.png", out=tmp_path / "search.json")
    shown = capsys.readouterr().out
    grid = results["peers"][0]
    assert (grid["candidates"], grid["peer ran"]) == (7, 4)
    assert "EXTRAPOLATED: GridSearchCV ran 4 of 7 candidates" in shown
    assert f"times faster than GridSearchCV: {grid['times faster']:.2f} (aim: at least 10)" in shown
    assert all(row["largest difference of a score"] <= 2e-3 and row["same choice"] for row in results["peers"])
    assert [row["candidates"] for row in results["candidates"]] == [3, 7]
    assert "peak memory, times the input: 1.50 (aim: at most 2): reached" in shown
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert json.loads((tmp_path / "search.json").read_text(encoding="utf-8")) == results
    assert len(module.candidates_of(module.make_grid(60))) == 61


def test_gpu(capsys, monkeypatch, tmp_path):
    """Every row on the CPU. The figures follow from the seconds, and are those in the table and in the file."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu = importlib.import_module("gpu")
    rows = gpu.main(size="smoke", device="cpu", out=tmp_path / "gpu.json")
    shown = capsys.readouterr().out
    assert shown.startswith("cpu, ") and "FAILED" not in shown
    assert all(row["seconds"] > 0 and row["peak GB"] is row["error"] is None and row["unit"] in shown for row in rows)
    seconds, figures = ({row["what"]: row[name] for row in rows} for name in ("seconds", "figure"))
    assert figures["copy"] == pytest.approx(2 * 2**20 / 1e9 / seconds["copy"])
    fitted = MaxEntropyIRL().fit(*gpu.make_pairs(300, 16))
    n_bytes = 2 * (fitted.n_iter_ + 1) * 300 * 16 * 4
    assert figures["fit, MaxEntropyIRL"] == pytest.approx(
        n_bytes / 1e9 / seconds["fit, MaxEntropyIRL"] / figures["copy"]
    )
    assert all(figures[f"rewards, {name}"] < 1e-4 for name in gpu.LEARNERS)
    cosines = [float(re.search("cosine (.*)\\)", row["unit"])[1]) for row in rows if row["what"].startswith("encode")]
    assert len(cosines) == 4 and min(cosines) > 0.99
    assert figures["generate pairs"] == pytest.approx(2 * 4 * 8 / seconds["generate pairs"])
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["rows"] == rows


def test_a_row_of_gpu_that_fails(capsys, monkeypatch, tmp_path):
    """It is told in the table, the next one runs, and the command fails; a stand-in plays the card."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu = importlib.import_module("gpu")

    def break_down():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    rows = [("breaks", "1", break_down), ("works", "2", lambda: {"seconds": 4.0, "figure": 5.0, "unit": "times"})]
    monkeypatch.setattr(gpu, "list_rows", lambda *_: rows)
    card = SimpleNamespace(name="some card", total_memory=2**34)
    for name, value in {"is_available": True, "get_device_properties": card, "max_memory_allocated": 3e9}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    with pytest.raises(SystemExit, match="1 of 2 rows failed: breaks"):
        gpu.main(size="smoke", out=tmp_path / "gpu.json")
    shown = capsys.readouterr().out
    assert shown.startswith("some card, 16 GiB, driver ")
    assert "FAILED, out of memory: CUDA out of memory. Tried to allocate 9 GiB" in shown
    assert re.search("works +2 +4 +3 +5 +times", shown)
    assert json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["rows"][1]["peak GB"] == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, message in {"cuda": "no CUDA device", "mps": "Expected cpu, cuda"}.items():
        with pytest.raises(SystemExit, match=message):
            gpu.main(size="smoke", device=device)


def test_active(monkeypatch, capsys, tmp_path):
    """Figures that are printed are those returned; a second call measures nothing again."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    active = importlib.import_module("active")
    monkeypatch.setattr(active, "STRATEGIES", ("random", "information"))
    monkeypatch.setattr(active, "N_DRAWS", 50)
    rows = active.main(size="smoke", folder=tmp_path / "run", picture=tmp_path / "curves.png")
    shown = capsys.readouterr().out
    assert [(row["flipped"], row["strategy"]) for row in rows] == [
        (flipped, strategy) for flipped in active.FLIPPED for strategy in active.STRATEGIES[1:]
    ]
    for row in rows:
        assert row["needed, interval"][0] <= row["needed"] <= row["needed, interval"][1] and row["needed"] >= 20
        assert f"{row['random, first']:.3f} to {row['random, last']:.3f}" in shown
        assert row["loss, interval"][0] <= row["loss"] <= row["loss, interval"][1]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    monkeypatch.setattr(active, "learning_curve", None)
    assert active.main(size="smoke", folder=tmp_path / "run") == rows


def test_pairs_needed(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    needed = importlib.import_module("active").pairs_needed
    assert [needed(np.array([0.5, 0.6, 0.8]), target, [10, 20, 40]) for target in (0.4, 0.6, 0.7, 0.9)] == [
        10,
        20,
        pytest.approx(30),
        np.inf,
    ]


def test_uncertainty(capsys, tmp_path):
    module = load("uncertainty")
    rows = module.main(size="smoke", picture=tmp_path / "curves.png", out=tmp_path / "rows.json")
    shown = capsys.readouterr().out
    assert [row["learner"] for row in rows] == list(module.LEARNERS) * len(module.BESIDES)
    for row in rows:
        assert all(0 <= value <= 1 for value in row["curve"])
        assert f"{row['coverage']['0.95']:.1%}" in shown
        if row["data"] == "logistic":
            assert row["coverage"]["0.68"] > 0.4 and row["coverage"]["0.95"] > 0.8
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))[0]["pairs"] == 200


def test_bench_encoder(capsys, tmp_path):
    results = load("bench_encoder").main(size="smoke", out=tmp_path / "encoder.json")
    shown = capsys.readouterr().out
    for row in results["speed"]:
        assert row["cosine"] > (0.99999 if row["dtype"] == "float32" else 0.99)
        best = {side: min(seconds) for side, seconds in row["seconds"].items()}
        assert row["ratio"] == best["peer"] / best["ours"]
        assert f"{row['n_tokens'] / best['ours']:.0f}" in shown
    assert results["store"]["gain"] > 1
    assert results["large store"]["bytes"] > 3000 * 384 * 2
    assert min(results["large store"]["memory"].values()) > 0
    written = json.loads((tmp_path / "encoder.json").read_text(encoding="utf-8"))
    assert len(written["aims"]) >= 9
    for aim in written["aims"]:
        assert f"{aim['value']} ({aim['aim']}): {'reached' if aim['reached'] else 'MISSED'}" in shown


def test_implicit_cost(capsys):
    result = load("implicit_cost").main(size="smoke", vocabulary=600)
    ratios = [
        reward / plain for reward, plain in zip(*(result["seconds"][k] for k in ("reward", "plain")), strict=True)
    ]
    assert result["ratio"] == pytest.approx(np.median(ratios)) and result["outputs"] == 40
    shown = f"two plain passes: {result['ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f} over 2 turns"
    assert shown in capsys.readouterr().out


def test_bench_read(capsys, monkeypatch):
    module = load("bench_read")
    monkeypatch.setattr(module, "KINDS", dict(list(module.KINDS.items())[-1:]))  # a new process for each costs seconds
    monkeypatch.setattr("sys.argv", [module.__file__, "--rows", "400", "--repeats", "1"])
    module.main()
    shown = capsys.readouterr().out
    seconds = [float(re.search(rf"{name} +([\d.]+) s", shown)[1]) for name in ("load_preferences", "pandas.read_json")]
    ratio = float(re.search("takes ([\\d.]+) times", shown)[1])
    assert shown.startswith("400 rows") and ratio == pytest.approx(seconds[0] / seconds[1], abs=0.5 + 0.5 * ratio)


def test_mixed_lengths():
    module = load("bench_encoder")
    tokenizer = transformers.AutoTokenizer.from_pretrained(module.packaged_model())
    texts = make_detox_preferences(50, random_state=0).data.ravel()
    mixed = module.mix_lengths(texts, tokenizer, 200)
    lengths = module.count_tokens(mixed, tokenizer)
    wanted = np.random.default_rng(0).integers(5, 401, size=200)
    assert (np.sort(lengths) == np.sort(wanted)).all()
    assert set(" ".join(mixed).split()) <= set(" ".join(texts).split())


@pytest.fixture
def paradetox_file(tmp_path):
    """A file in ParaDetox's layout, of mild texts."""
    corpus = make_detox_preferences(300, kinds={"T->NT": 1.0}, random_state=0)
    toxic, neutral = np.where(corpus.target[:, None] == 1, corpus.data[:, ::-1], corpus.data).T
    pd.DataFrame({"toxic": toxic, "neutral1": neutral}).to_csv(tmp_path / "pairs.tsv", sep="\t", index=False)
    labels = np.where(corpus.output_labels.ravel() == 1, 2, 1)
    pd.DataFrame({"tweet": corpus.data.ravel(), "class": labels}).to_csv(tmp_path / "labelled.csv", index=False)
    return tmp_path


def test_paradetox(paradetox_file, capsys, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("paradetox")
    runs = module.main(paradetox_file / "pairs.tsv", labelled=paradetox_file / "labelled.csv", size="smoke")
    assert len(runs) == 2
    for run in runs:
        # the same problem, solved by other means
        assert abs(run["MaxEntropyIRL"]["pair accuracy"] - run["logistic regression"]["pair accuracy"]) < 0.02
        assert abs(run["MaxMarginIRL"]["pair accuracy"] - run["linear SVM"]["pair accuracy"]) < 0.03
        assert run["MaxEntropyIRL"]["pair accuracy"] > 0.55
        assert 0 < run["MaxEntropyIRL"]["STARC"] < 0.7
    values = [run["MaxMarginIRL"]["output F1"] for run in runs]
    differences = np.subtract(values, [run["logistic regression"]["output F1"] for run in runs])
    error = differences.std(ddof=1) / np.sqrt(2)
    assert f"{np.mean(values):.4f} ({differences.mean():+.4f} ± {error:.4f})" in capsys.readouterr().out


def test_text_features(monkeypatch, capsys, tmp_path, encoder_folder):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = load("text_features")
    for features, name in ((TransformerEmbedder, "model"), (TextFeatures, "encoder")):
        monkeypatch.setattr(module, features.__name__, functools.partial(features, **{name: encoder_folder}))
    monkeypatch.setattr(module, "ALPHAS", [1e-3, 1e-1])
    some = ("MiniLM", "words", "MiniLM + words + characters")
    monkeypatch.setattr(module, "FEATURES", {name: module.FEATURES[name] for name in some})
    results = module.main(size="smoke", store=tmp_path / "store", out=tmp_path / "scores.json")
    shown = capsys.readouterr().out
    assert f"ratio {results['cost']['ratio']:.2f} (aim: at most 1.3)" in shown
    assert set(results["features"]["ParaDetox"]) == set(module.FEATURES)
    assert set(results["features"]["package's corpus"]["MiniLM"][0]) > {"output F1", "STARC"}
    for runs in results["offset"].values():
        assert max(runs[0], key=runs[0].get) == "best"
        assert all(f"{value:.3f} (0.000)" in shown for value in runs[0].values())
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == results


def test_audit_beyond(capsys):
    rows, curves = load("audit_beyond").main(size="smoke")
    assert [row["claimed"] for row in rows] == [False, True, True]
    assert capsys.readouterr().out.count("another topic") == 2 and len(curves) == 1
