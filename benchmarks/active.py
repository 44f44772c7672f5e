"""How many chosen pairs give the accuracy of 1,000 random ones?

    python benchmarks/active.py --pairs paradetox.tsv --answers finegrained_qa.json.gz --folder results/active

A `LaplaceReward` on MiniLM embeddings is fitted to the first pairs, drawn at random. `suggest_pairs` then chooses the
next ones from the pool, round by round, by each strategy. Accuracy is that of held-out pairs, of other groups. In a
second run, a fifth of the pool's preferences is flipped. The table tells how many pairs reach the accuracy of the most
random ones, on the mean curve, and the largest loss against as many random pairs. Intervals are 95 %, of a bootstrap
over seeds. What was measured stays in the folder: a second call goes on from there.

Data: the package's corpus; ParaDetox, normalized as in paper_data.py; long-form answers that people compared. Without
files, only the first.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from paper_data import read_answers, read_rewrites, split_groups
from sklearn.exceptions import ConvergenceWarning

from fairl_sk import LaplaceReward, PairTransformer, TransformerEmbedder, suggest_pairs
from fairl_sk.datasets import make_detox_preferences

SIZES = {
    "smoke": {"seeds": 2, "corpus": 80, "n_test": 20, "n_features": 8, "rounds": (20, 30, 40), "timed": 600},
    "small": {
        "seeds": 10,
        "corpus": 6000,
        "n_test": 1000,
        "n_features": 384,
        "rounds": (100, 200, 300, 400, 600, 800, 1000),
        "timed": 100_000,
    },
}
STRATEGIES = ("random", "information", "uncertainty", "diversity")
FLIPPED = (0.0, 0.2)
N_DRAWS = 2000  # of the bootstrap
AIM = 0.6  # of the random pairs


def prepare(folder, plan, pairs=None, answers=None, random_state=0):
    """By name of the data: features (n_pairs, 2, 384), target and groups; every text is embedded once."""
    corpora = {}

    def read_corpus():
        data = make_detox_preferences(plan["corpus"], random_state=random_state)
        return data.data, data.target, data.groups

    def read_pairs():
        texts, target, groups = read_rewrites(pairs, None)
        rows = np.random.default_rng(0).permutation(len(texts))[: plan["corpus"]]
        return texts[rows], target[rows], groups[rows]

    def read_compared():
        corpus = read_answers(answers)
        return corpus["pairs"], corpus["target"], corpus["groups"]

    readers = {"package's corpus": read_corpus, "ParaDetox": pairs and read_pairs}
    readers["long-form answers"] = answers and read_compared
    embed = PairTransformer(TransformerEmbedder(normalize=True, store=folder / "store"))
    for name, read in readers.items():
        if not read:
            continue
        path = folder / f"{name}.npz"
        if not path.exists():
            texts, target, groups = read()
            np.savez(path, X=embed.fit_transform(texts).astype(np.float32), y=target, groups=groups)
        with np.load(path) as arrays:
            corpora[name] = (arrays["X"][..., : plan["n_features"]], arrays["y"], arrays["groups"])
    return corpora


def learning_curve(corpus, plan, strategy, flipped, seed):
    """Accuracy on held-out pairs after each round."""
    X, y, groups = corpus
    rng = np.random.default_rng(seed)
    pool, test = split_groups(groups, len(X), plan["n_test"], rng)
    judgments = np.where(rng.random(len(pool)) < flipped, 1 - y[pool], y[pool])
    judged, accuracies, reward = np.arange(plan["rounds"][0]), [], None  # the pool is shuffled
    for size in plan["rounds"]:
        if size > len(judged):
            chosen = suggest_pairs(
                reward, X[pool], size - len(judged), strategy=strategy, judged=judged, random_state=seed
            )
            judged = np.concatenate([judged, chosen.pairs])
        reward = LaplaceReward().fit(X[pool[judged]], judgments[judged])
        accuracies.append(float(np.mean((reward.decision_function(X[test]) > 0) == y[test])))
    return accuracies


def measure(corpora, plan, folder, first_seed=0):
    """A row a run, kept in the folder."""
    path, rows = folder / "curves.jsonl", []
    if path.exists():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    known = {(row["data"], row["flipped"], row["strategy"], row["seed"]) for row in rows}
    wanted = [
        (data, flipped, strategy, seed)
        for seed in range(first_seed, first_seed + plan["seeds"])
        for data in corpora
        for flipped in FLIPPED
        for strategy in STRATEGIES
    ]
    for data, flipped, strategy, seed in wanted:
        if (data, flipped, strategy, seed) not in known:
            accuracies = learning_curve(corpora[data], plan, strategy, flipped, seed)
            row = {"data": data, "flipped": flipped, "strategy": strategy, "seed": seed, "accuracy": accuracies}
            rows.append(row)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    return [row for row in rows if (row["data"], row["flipped"], row["strategy"], row["seed"]) in set(wanted)]


def curves_of(rows, data, flipped, strategy):
    """Accuracies (n_seeds, n_rounds), in the order of the seeds."""
    chosen = [row for row in rows if (row["data"], row["flipped"], row["strategy"]) == (data, flipped, strategy)]
    return np.array([row["accuracy"] for row in sorted(chosen, key=lambda row: row["seed"])])


def pairs_needed(curve, target, sizes):
    """Where a mean curve first reaches the target, between two rounds on the line; infinite if it never does."""
    reached = np.flatnonzero(curve >= target)
    if not len(reached):
        return np.inf
    at = reached[0]
    if at == 0:
        return float(sizes[0])
    share = (target - curve[at - 1]) / (curve[at] - curve[at - 1])
    return float(sizes[at - 1] + share * (sizes[at] - sizes[at - 1]))


def summarize(rows, plan):
    """For each data set, noise and strategy: pairs needed and the largest loss, with intervals."""
    sizes, found = np.array(plan["rounds"]), []
    for data in dict.fromkeys(row["data"] for row in rows):
        for flipped in FLIPPED:
            random = curves_of(rows, data, flipped, "random")
            draws = np.random.default_rng(0).integers(len(random), size=(N_DRAWS, len(random)))
            gain = random[:, -1] - random[:, 0]
            for strategy in STRATEGIES[1:]:
                curves = curves_of(rows, data, flipped, strategy)
                drawn = [pairs_needed(curves[d].mean(0), random[d, -1].mean(), sizes) for d in draws]
                loss = (random - curves)[:, 1:]
                at = int(np.argmax(loss.mean(axis=0)))
                found.append(
                    {
                        "data": data,
                        "flipped": flipped,
                        "strategy": strategy,
                        "random, first": float(random[:, 0].mean()),
                        "random, last": float(random[:, -1].mean()),
                        "learns": bool(np.quantile(gain[draws].mean(axis=1), 0.025) > 0),
                        "needed": pairs_needed(curves.mean(0), random[:, -1].mean(), sizes),
                        "needed, interval": np.quantile(drawn, [0.025, 0.975], method="nearest").tolist(),
                        "loss": float(loss[:, at].mean()),
                        "loss, interval": np.quantile(loss[draws, at].mean(axis=1), [0.025, 0.975]).tolist(),
                        "loss at": int(sizes[at + 1]),
                    }
                )
    return found


def report(summary, plan):
    """The tables, and what was reached of the aims."""
    aim, last = AIM * plan["rounds"][-1], plan["rounds"][-1]

    def count(number):
        return f"{number:.0f}" if np.isfinite(number) else f"> {last}"

    table = []
    for row in summary:
        low, high = row["needed, interval"]
        reached = "reached" if row["needed"] <= aim else "MISSED"
        if not row["learns"]:
            reached = "random pairs teach nothing"
        lost = "worse" if row["loss, interval"][0] > 0 else "not worse"
        low_loss, high_loss = row["loss, interval"]
        table.append(
            {
                "data": row["data"],
                "flipped": f"{row['flipped']:.0%}",
                "strategy": row["strategy"],
                "random": f"{row['random, first']:.3f} to {row['random, last']:.3f}",
                "pairs needed": f"{count(row['needed'])} ({count(low)} to {count(high)})",
                f"aim: {aim:.0f}": reached,
                "largest loss": f"{row['loss']:+.3f} ({low_loss:+.3f} to {high_loss:+.3f}) at {row['loss at']}",
                "against random": lost,
            }
        )
    return pd.DataFrame(table).to_string(index=False)


def draw(rows, plan, path):
    """Accuracy by the number of judged pairs, with 95 % intervals of the mean."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["data"] for row in rows))
    figure, axes = plt.subplots(2, len(names), figsize=(4 * len(names), 6), sharex=True, squeeze=False)
    for row, flipped in zip(axes, FLIPPED, strict=True):
        for ax, data in zip(row, names, strict=True):
            for strategy in STRATEGIES:
                curves = curves_of(rows, data, flipped, strategy)
                error = 1.96 * curves.std(axis=0, ddof=1) / np.sqrt(len(curves))
                (line,) = ax.plot(plan["rounds"], curves.mean(axis=0), marker=".", label=strategy)
                ax.fill_between(
                    plan["rounds"], curves.mean(0) - error, curves.mean(0) + error, alpha=0.15, color=line.get_color()
                )
            ax.axhline(curves_of(rows, data, flipped, "random")[:, -1].mean(), color="0.6", linewidth=1, linestyle=":")
            ax.set(title=f"{data}, {flipped:.0%} flipped")
        row[0].set(ylabel="held-out pair accuracy")
    for ax in axes[-1]:
        ax.set(xlabel="judged pairs")
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def measure_time(n_pairs):
    """Seconds, and seconds of the processors, to choose 100 of so many pairs with 384 features, by strategy."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_pairs, 2, 384), dtype=np.float32)
    y = (X[:, 0, :5].sum(axis=1) > X[:, 1, :5].sum(axis=1)).astype(int)
    reward, found = LaplaceReward(prior=1.0).fit(X[:500], y[:500]), {}
    for strategy in STRATEGIES:
        start, work = time.perf_counter(), time.process_time()
        suggest_pairs(reward, X, 100, strategy=strategy, judged=range(500), random_state=0)
        found[strategy] = (time.perf_counter() - start, time.process_time() - work)
    return found


def main(pairs=None, answers=None, folder="results/active", size="small", picture=None, first_seed=0):
    """Run the benchmark, print its tables, and return a row for each data set, noise and strategy."""
    plan, folder = SIZES[size], Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    corpora = prepare(folder, plan, pairs, answers, random_state=first_seed)
    rows = measure(corpora, plan, folder, first_seed)
    summary = summarize(rows, plan)
    print(f"{plan['seeds']} seeds, pairs judged in rounds {plan['rounds']}\n\n{report(summary, plan)}\n")
    for strategy, (seconds, work) in measure_time(plan["timed"]).items():
        print(
            f"100 of {plan['timed']} pairs x 384, {strategy}: {seconds:.1f} s (processors {work:.1f} s; aim: below 5 s)"
        )
    if picture:
        draw(rows, plan, picture)
    return summary


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", help="ParaDetox as TSV")
    parser.add_argument("--answers", help="long-form answers with preferences, as JSON (.gz)")
    parser.add_argument("--folder", default="results/active", help="embeddings and results; reused")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--first-seed", type=int, default=0, help="0: those of the report")
    parser.add_argument("--picture", help="write the learning curves as PNG")
    main(**vars(parser.parse_args()))
