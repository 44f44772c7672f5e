"""Two objectives in a re-alignment, toxicity and fluency: three weights by GRPO, beside best-of-n of the base model.

    python benchmarks/tradeoff.py --pairs paradetox.tsv --labelled davidson.csv --out tradeoff --picture tradeoff.png

Base model, prompts and ground truth are those of realign.py; from a run of it, copy base, texts.json and
reference.skops into ``--out``. The objectives of a completion of fixed length are the classifier's log-odds that it is
not toxic, and its fluency: the mean log-probability of a token under the base model, behind the prompt. Both rewards
are in standard deviations over the base model's completions and bounded by tanh; TRL's GRPO adds them by
``reward_weights``. The table measures completions of prompts that no stage has seen, with 95 % intervals over prompts
and seeds, and says where a policy's figure collapses. An interrupted run goes on where it was.
"""

import argparse
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import joblib
import numpy as np
import torch
from realign import (
    SIZES,
    Study,
    align,
    as_reward_function,
    fetch,
    load_model,
    load_reward,
    load_tokenizer,
    log_probabilities,
    measure,
    prepare_texts,
    quiet,
    train_base,
)
from realign_tables import as_table, distinct_2, exploited_words

from fairl_sk.generate import generate_completions
from fairl_sk.metrics import best_of_n
from fairl_sk.plot import COLORS

WEIGHTS = (1.0, 0.5, 0.0)  # of toxicity; fluency has the rest
SUMS = np.linspace(0, 1, 11)  # weights of toxicity in the curve of best-of-n
N_COMPLETIONS = {"smoke": 4, "small": 16, "gpu": 16}
FIGURES = ("not toxic", "log-probability a token")
COLLAPSED = 0.5  # share of the base model's distinct-2, and a base standard deviation of an objective


def fluency(model, tokenizer, prompts, completion_ids):
    """Mean log-probability of a token (n_completions,) under the base model."""
    sums = log_probabilities(model, tokenizer, prompts, completion_ids)
    return np.array(sums) / [len(ids) for ids in completion_ids]


def complete(study, plan, prompts, n_completions, seed):
    """Completions of the base model (n_prompts * n_completions,), their fluency, and their prompts."""
    model, tokenizer = load_model(study.path("base")), load_tokenizer(study.path("base"))
    options = {"max_new_tokens": plan.n_tokens, "min_new_tokens": plan.n_tokens, "random_state": seed}
    found = generate_completions(model, prompts, tokenizer=tokenizer, n_completions=n_completions, **options)
    asked = np.repeat(np.array(prompts, dtype=object), n_completions)
    return found.texts.ravel().tolist(), fluency(model, tokenizer, asked, found.token_ids.ravel().tolist())


def write_scale(study, plan, path):
    """Completions of the base model over which both rewards are scaled."""
    texts, values = complete(study, plan, study.read_json("texts.json")["align"], 1, seed=2)
    path.write_text(json.dumps({"texts": texts, "fluency": values.tolist()}), encoding="utf-8")


def write_best(study, plan, n_completions, path):
    """Both figures (n_sums, n_prompts, 2) of the completions that weighted sums choose of n by the base model."""
    prompts, scale = study.read_json("texts.json")["test"], study.read_json("scale-two.json")
    texts, values = complete(study, plan, prompts, n_completions, seed=3)
    truth = load_reward(study.path("reference.skops")).decision_function
    log_odds, spread = truth(texts), np.std(truth(scale["texts"]))
    rewards = np.stack([log_odds / spread, standardize(values, scale)], axis=1)
    shape = (len(prompts), n_completions, 2)
    # best_of_n chooses by the rewards; the figures of the same completions ride along with weight 0
    both = np.concatenate([rewards, np.stack([log_odds > 0, values], axis=1)], axis=1).reshape(*shape[:2], 4)
    sums = np.stack([SUMS, 1 - SUMS, 0 * SUMS, 0 * SUMS], axis=1)
    path.write_text(json.dumps(best_of_n(both, sums)[..., 2:].tolist()), encoding="utf-8")


def standardize(values, scale):
    return (values - np.mean(scale["fluency"])) / np.std(scale["fluency"])


class Fluency:
    """The fluency of completions as TRL calls it."""

    __name__ = "fluency"

    def __init__(self, base, scale):
        self.model, self.tokenizer, self.scale = load_model(base), load_tokenizer(base), scale

    def __call__(self, prompts, completions, completion_ids, **_):
        values = fluency(self.model, self.tokenizer, prompts, completion_ids)
        return np.tanh(standardize(values, self.scale)).tolist()


def run_arm(folder, plan, weight, seed, n_threads):
    """Align the base model with both rewards and measure it; the file of the arm holds its figures and curves."""
    torch.set_num_threads(n_threads)
    quiet()
    study = Study(folder)
    texts, scale, base = study.read_json("texts.json"), study.read_json("scale-two.json"), str(study.path("base"))
    truth = load_reward(study.path("reference.skops"))
    rewards = as_reward_function(truth, scale["texts"]), Fluency(base, scale)

    def write(path):
        trainer, weights = path.with_suffix(".trainer"), (weight, 1 - weight)
        policy, curve, _ = align(base, *rewards, texts["align"], plan, seed, trainer, weights=weights)
        shutil.rmtree(trainer, ignore_errors=True)
        curve = {"step": curve["step"], "toxicity": curve["reward"], "fluency": curve["toxicity"], "kl": curve["kl"]}
        path.write_text(json.dumps({"curve": curve, **measure(study, plan, policy, truth)}), encoding="utf-8")

    return study.make(arm_file(weight, seed), write)


def arm_file(weight, seed):
    return f"arms-two/{weight:g}-{seed}.json"


def figures(run):
    """Both figures of a run, (n_prompts, 2): means of a prompt's completions."""
    values = np.stack([np.array(run["truth"]) > 0, np.array(run["log_probability_base"]) / run["n_tokens"]], axis=1)
    return values.reshape(-1, 2, 2).mean(axis=1)


def resampled_means(values, n_resamples=2000):
    """Means (n_resamples + 1, 2) of figures (n_seeds, n_prompts, 2) over draws of seeds and prompts; all of them first.

    The same draws for all policies, which saw the same prompts.
    """
    n_seeds, n_prompts, _ = values.shape
    rng = np.random.default_rng(0)
    prompts = np.concatenate([np.arange(n_prompts)[None], rng.integers(n_prompts, size=(n_resamples, n_prompts))])
    seeds = np.concatenate([np.arange(n_seeds)[None], rng.integers(n_seeds, size=(n_resamples, n_seeds))])
    return np.stack([values[s][:, p].mean(axis=(0, 1)) for s, p in zip(seeds, prompts, strict=True)])


def summarize(base, arms):
    """A row a policy: both figures with intervals, diversity, and what collapsed."""
    spread = figures(base).std(axis=0)
    floor = figures(base).mean(axis=0) - spread
    rows = {}
    for name, runs in {"base": [base], **arms}.items():
        draws = resampled_means(np.stack([figures(run) for run in runs]))
        low, high = np.quantile(draws[1:], [0.025, 0.975], axis=0)
        row = {figure: [draws[0, k], low[k], high[k]] for k, figure in enumerate(FIGURES)}
        row["distinct-2"] = float(np.mean([distinct_2(run["completions"]) for run in runs]))
        words = [exploited_words(run["completions"], base["completions"]) for run in runs]
        collapsed = [figure for k, figure in enumerate(FIGURES) if draws[0, k] < floor[k]]
        if rows and row["distinct-2"] < COLLAPSED * rows["base"]["distinct-2"]:
            collapsed.append("diversity")
        rows[name] = row | {"exploited words": words, "collapsed": collapsed}
    return rows


def format_table(rows):
    cells = []
    for name, row in rows.items():
        rate, low, high = row[FIGURES[0]]
        shown = [f"{rate:.1%} [{100 * low:.1f}, {100 * high:.1f}]", "{:.2f} [{:.2f}, {:.2f}]".format(*row[FIGURES[1]])]
        words = {word: share for found in row["exploited words"] for word, share in found.items()}
        says = ", ".join(row["collapsed"]) or "-"
        cells.append([name, *shown, f"{row['distinct-2']:.3f}", ", ".join(words) or "-", says])
    return "\n".join(as_table(["policy", *FIGURES, "distinct-2", "exploited words", "collapsed"], cells))


def draw(rows, best, path):
    """Both figures of each policy with intervals, and the curve of best-of-n."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.2), layout="constrained")
    ax = figure.subplots()
    curve = best.mean(axis=1)
    ax.plot(*curve.T, color="0.5", marker=".", label="best of n by the base model, weighted sums")
    for color, (name, row) in zip(("0.2", *COLORS), rows.items(), strict=False):
        (x, x_low, x_high), (y, y_low, y_high) = (row[figure] for figure in FIGURES)
        bars = {"xerr": [[x - x_low], [x_high - x]], "yerr": [[y - y_low], [y_high - y]]}
        mark = " (collapsed: " + ", ".join(row["collapsed"]) + ")" if row["collapsed"] else ""
        ax.errorbar(x, y, **bars, marker="o", color=color, ls="", capsize=2, label=name + mark)
    ax.set(xlabel="completions that are not toxic", ylabel="mean log-probability of a token under the base model")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)


def main(pairs=None, labelled=None, out="tradeoff", size="small", base=None, jobs=None, picture=None, **changes):
    """Run all stages, print the table, and return its rows."""
    quiet()
    changes = {name: value for name, value in changes.items() if value is not None}
    plan = replace(SIZES[size], algorithm="grpo", **changes)
    study = Study(out, {**asdict(plan), "two objectives": list(WEIGHTS)})
    prepare_texts(study, plan, pairs, labelled)
    texts, truth = study.read_json("texts.json"), load_reward(study.path("reference.skops"))
    study.make("base", lambda path: train_base(texts["train"], plan, path) if base is None else fetch(base, path))

    def write_base(path):
        path.write_text(json.dumps(measure(study, plan, load_model(study.path("base")), truth)), encoding="utf-8")

    study.make("base-two.json", write_base)
    study.make("scale-two.json", lambda path: write_scale(study, plan, path))
    study.make("best.json", lambda path: write_best(study, plan, N_COMPLETIONS[size], path))
    tasks = [(weight, seed) for seed in range(plan.seeds) for weight in WEIGHTS]
    tasks = [task for task in tasks if not study.path(arm_file(*task)).exists()]
    jobs = jobs or (1 if size == "smoke" else os.cpu_count() or 1)
    run = joblib.delayed(run_arm)
    joblib.Parallel(jobs)(run(study.folder, plan, *task, 1 if jobs > 1 else torch.get_num_threads()) for task in tasks)
    arms = {
        f"GRPO, {weight:g} toxicity + {1 - weight:g} fluency": [
            study.read_json(arm_file(weight, seed)) for seed in range(plan.seeds)
        ]
        for weight in WEIGHTS
    }
    rows, best = summarize(study.read_json("base-two.json"), arms), np.array(study.read_json("best.json"))
    print("\n" + format_table(rows))
    print(f"\n{plan.seeds} seeds, {plan.steps} steps of {plan.batch}, beta {plan.beta:g}; 95 % intervals.")
    print("Collapsed: a figure one standard deviation below the base model's, or distinct-2 below half of its.")
    print(f"Best of {N_COMPLETIONS[size]} by the base model, {FIGURES[0]} and {FIGURES[1]}, by the weight of toxicity:")
    for weight, (rate, value) in zip(SUMS, best.mean(axis=1), strict=True):
        print(f"  {weight:.1f}: {rate:.1%}, {value:.2f}")
    study.write_json("table-two.json", {"policies": rows, "best of n": best.mean(axis=1).tolist()})
    draw(rows, best, Path(picture or study.path("tradeoff.png")))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", help="ParaDetox as TSV: texts to learn to write")
    parser.add_argument("--labelled", help="labelled texts, CSV with columns tweet and class: the ground truth")
    parser.add_argument("--out", default="tradeoff", help="folder of the run; an interrupted one goes on")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--base", help="folder or hub id of a causal language model, in place of the one made here")
    parser.add_argument("--steps", type=int, help="in place of the size's")
    parser.add_argument("--seeds", type=int, help="in place of the size's")
    parser.add_argument("--jobs", type=int, help="runs at once, one core each (default: all cores)")
    parser.add_argument("--picture", help="file of the picture (default: tradeoff.png in the folder)")
    main(**vars(parser.parse_args()))
