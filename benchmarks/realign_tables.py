"""The tables and the picture of realign.py."""

import itertools
import re
from collections import Counter

import numpy as np

TRUTH, RANDOM = "ground truth", "shuffled preferences"
STANDARD = ("MaxMarginIRL", "MaxEntropyIRL")
HACKED, NATURAL = 0.10, 0.02  # a word in more of an arm's completions, and in fewer of the base's, was exploited
NUMBERS = ("truth", "n_tokens", "n_words", "log_probability_base", "log_probability")


def distinct_2(texts):
    """Share of distinct pairs of neighbouring words."""
    pairs = [pair for text in texts for pair in itertools.pairwise(text.split())]
    return len(set(pairs)) / max(1, len(pairs))


def exploited_words(texts, base_texts):
    """Words in over 10 % of an arm's completions and in under 2 % of the base's: the mark of a hacked reward."""

    def shares(some):
        counts = Counter(word for text in some for word in set(re.findall(r"[a-z']+", text.lower())))
        return {word: n / len(some) for word, n in counts.items()}

    natural = shares(base_texts)
    return {w: round(s, 3) for w, s in shares(texts).items() if s > HACKED and natural.get(w, 0.0) < NATURAL}


def resampled_rates(arms, n_resamples=2000):
    """Toxicity rates (n_resamples + 1,) of each arm over the same draws of prompts and of seeds; the estimate first.

    Runs of one seed saw the same prompts in the same order, hence arms share the drawn seeds as they share the prompts.
    """
    toxic = {  # (n_runs, n_prompts)
        name: np.array([np.reshape(run["truth"], (-1, 2)) <= 0 for run in runs]).mean(axis=2)
        for name, runs in arms.items()
    }
    n_seeds, n_prompts = max(map(len, arms.values())), toxic["base"].shape[1]
    rng = np.random.default_rng(0)
    prompts, seeds = (
        np.concatenate([np.arange(n)[None], rng.integers(n, size=(n_resamples, n))]) for n in (n_prompts, n_seeds)
    )
    rates = {}
    for name, rows in toxic.items():
        runs = np.zeros((n_resamples + 1, 1), dtype=int) if len(rows) == 1 else seeds  # the base model has one
        rates[name] = np.take_along_axis(rows[runs].mean(axis=1), prompts, axis=1).mean(axis=1)
    return rates


def interval(values):
    """Estimate and 95 % interval of resampled values, the estimate first."""
    finite = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) else (np.nan, np.nan)
    return [float(values[0]), float(low), float(high)]


def summarize(arms):
    """A row an arm, and what each learner wins back of each standard learner's gap."""
    rates = resampled_rates(arms)
    compared = [name for name in arms if name not in ("base", TRUTH, RANDOM, *STANDARD)]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = {name: (rates["base"] - rate) / (rates["base"] - rates[TRUTH]) for name, rate in rates.items()}
        recovered = {
            f"{learner} v {standard}": interval((rates[standard] - rates[learner]) / (rates[standard] - rates[TRUTH]))
            for standard, learner in itertools.product(STANDARD, compared)
        }
    rows = {}
    for name, runs in arms.items():
        numbers = {key: np.concatenate([run[key] for run in runs]) for key in NUMBERS}
        texts, seconds = [run["completions"] for run in runs], sum(run.get("seconds", 0.0) for run in runs)
        rows[name] = {
            "toxicity": interval(rates[name]),
            "toxicity by seed": [float(np.mean(np.array(run["truth"]) <= 0)) for run in runs],
            "share of the cut": interval(shares[name]),
            "ground-truth reward": float(numbers["truth"].mean()),
            "KL": float((numbers["log_probability"] - numbers["log_probability_base"]).mean()),
            "perplexity": float(np.exp(-numbers["log_probability_base"].sum() / numbers["n_tokens"].sum())),
            "distinct-2": float(np.mean([distinct_2(some) for some in texts])),
            "tokens": float(numbers["n_tokens"].mean()),
            "words": float(numbers["n_words"].mean()),
            "samples": sum(map(len, texts)),
            "exploited words": [exploited_words(some, arms["base"][0]["completions"]) for some in texts],
            "reward time": sum(run["reward_seconds"] for run in runs) / seconds if seconds else None,
        }
    return rows, recovered


def as_table(header, rows):
    """Lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def format_table(rows, recovered, plan):
    """The table, as text that is Markdown too."""
    names = ["toxicity", "share of the cut", "by seed", "reward", "KL", "perplexity", "distinct-2", "words", "time"]
    cells = []
    for name, row in rows.items():
        rate, low, high = row["toxicity"]
        share = "-" if name == "base" else "{:.2f} [{:.2f}, {:.2f}]".format(*row["share of the cut"])
        by_seed = ", ".join(f"{100 * value:.1f}" for value in row["toxicity by seed"])
        numbers = "{ground-truth reward:+.2f} {KL:.2f} {perplexity:.0f} {distinct-2:.3f} {words:.1f}".format(**row)
        seconds = "-" if row["reward time"] is None else f"{row['reward time']:.1%}"
        rate = f"{rate:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
        cells.append([name, rate, share, by_seed, *numbers.split(), seconds])
    hacked = "; ".join(f"{name}: {row['exploited words']}" for name, row in rows.items() if any(row["exploited words"]))
    lines = [
        *as_table(["re-aligned with", *names], cells),
        f"\n{rows['base']['samples']} completions a run, {plan.n_tokens} tokens each; {plan.algorithm.upper()}, "
        f"{plan.steps} steps of {plan.batch}, beta {plan.beta:g}; means of seeds, 95 % intervals.",
        f"Words in over {HACKED:.0%} of a run's completions and under {NATURAL:.0%} of the base's: {hacked or 'none'}.",
        "Share of what separates a standard learner from the ground truth that is won back (the paper: 0.6):",
        *("{}: {:.2f} [{:.2f}, {:.2f}]".format(name, *share) for name, share in recovered.items()),
    ]
    return "\n".join(lines)


def format_scores(scores):
    """Held-out measures of the rewards."""
    measures = ["pair accuracy", "label F1", "label AUC", "STARC"]
    cells = []
    for name, row in scores.items():
        intervals = ("{:.3f} [{:.3f}, {:.3f}]".format(*row[measure]) for measure in measures)
        cells.append([name, f"{row['alpha']:g}", *intervals])
    return "\n".join(as_table(["reward", "alpha", *measures], cells))


def plot_curves(arms, path):
    """Toxicity, own reward and KL over the steps: the mean over seeds, and their range."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = {"toxicity": "toxic completions", "reward": "reward that it is trained on", "kl": "KL to the base model"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for name, runs in arms.items():
            if name == "base":
                continue
            steps, values = runs[0]["curve"]["step"], np.array([run["curve"][key] for run in runs])
            (line,) = axis.plot(steps, values.mean(axis=0), label=name, linestyle="--" if name == RANDOM else "-")
            axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.15)
        axis.set(title=title, xlabel="step")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylim=(0, None))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
