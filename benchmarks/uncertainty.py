"""Do the intervals of `LaplaceReward` hold the true margins as often as they say?

    python benchmarks/uncertainty.py --size small --picture uncertainty.png

Preferences follow the logistic of a known linear reward. The tables show how often intervals hold the true log-odds of
fresh pairs, and the error and standard deviation of the log-odds. In the last two, features have a tenth of the unit
(one ``alpha`` is then a hundred times as strong), or a tenth of the preferences is flipped.
"""

import argparse
import json
import sys
import time
import warnings
from itertools import product

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning

from fairl_sk import FailureAwareIRL, LaplaceReward, MaxEntropyIRL, MaxMarginIRL
from fairl_sk.datasets import make_preferences

SIZES = {  # pairs, features, temperatures, seeds; pairs and features of the last two tables
    "smoke": ([200], [5], [0.5], 2, (200, 5)),
    "small": ([300, 1000, 5000], [10, 50], [0.5, 1.5], 20, (1000, 50)),
}
LEVELS = (0.68, 0.9, 0.95)
CURVE = np.round(np.arange(0.05, 1.0, 0.05), 2)  # nominal levels of the picture
N_TEST = 500  # pairs whose true margin is compared
LEARNERS = {
    "MaxEntropyIRL": (MaxEntropyIRL, "evidence"),
    "MaxEntropyIRL, alpha": (MaxEntropyIRL, "alpha"),
    "MaxMarginIRL": (MaxMarginIRL, "evidence"),
    "FailureAwareIRL": (FailureAwareIRL.paper, "evidence"),
}
MODES = list(LEARNERS)[:2]
BESIDES = {"logistic": {}, "features / 10": {"unit": 0.1}, "a tenth flipped": {"noise": 0.1}}


def measure(n_pairs, n_features, temperature, seed, learners, *, unit=1.0, noise=0.0):
    """(learner, errors over their standard deviations, root mean square error, mean std), all in log-odds."""
    data = make_preferences(n_pairs + N_TEST, n_features, temperature=temperature, noise=noise, random_state=seed)
    X, y, fresh = data.data[:n_pairs] * unit, data.target[:n_pairs], data.data[n_pairs:] * unit
    truth = (data.reference_reward[n_pairs:, 0] - data.reference_reward[n_pairs:, 1]) / temperature
    for name in learners:
        learner, prior = LEARNERS[name]
        reward = LaplaceReward(learner(random_state=seed), prior=prior).fit(X, y)
        margins, std = (values / reward.temperature_ for values in reward.decision_function(fresh, return_std=True))
        error = margins - truth
        yield name, np.abs(error / std), float(np.sqrt(np.mean(error**2))), float(std.mean())


def run(settings, n_seeds, beside):
    rows = []
    for case in settings:
        print(f"{beside}: pairs, features, temperature {case}", file=sys.stderr)
        learners = LEARNERS if case[2] == settings[0][2] else MODES
        measured = [measure(*case, seed, learners, **BESIDES[beside]) for seed in range(n_seeds)]
        for found in zip(*measured, strict=True):  # of one learner, a seed each
            names, scores, errors, stds = zip(*found, strict=True)
            row = {"data": beside, **dict(zip(("pairs", "features", "temperature"), case, strict=True))}
            row |= {"learner": names[0], "error": np.mean(errors), "std": np.mean(stds)}
            covered = [float(np.mean(np.ravel(scores) <= norm.ppf(0.5 + level / 2))) for level in (*LEVELS, *CURVE)]
            rows.append(row | {"coverage": dict(zip(map(str, LEVELS), covered, strict=False)), "curve": covered[3:]})
    return rows


def format_table(rows):
    table = pd.DataFrame(rows)[["pairs", "features", "temperature", "learner"]]
    for level in LEVELS:
        table[f"{level:.0%}"] = [f"{row['coverage'][str(level)]:.1%}" for row in rows]
    return table.assign(**{name: [f"{row[name]:.2f}" for row in rows] for name in ("error", "std")}).to_string(
        index=False
    )


def draw(rows, path):
    """Actual against nominal coverage, a panel for each kind of data and a line for each learner, over settings."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(BESIDES), figsize=(12, 4.2), sharey=True)
    for ax, beside in zip(axes, BESIDES, strict=True):
        ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for name in LEARNERS:
            curves = [row["curve"] for row in rows if (row["data"], row["learner"]) == (beside, name)]
            ax.plot(CURVE, np.mean(curves, axis=0), label=name)
        ax.set(title=beside, xlabel="nominal coverage", ylabel="share of true margins inside", xlim=(0, 1), ylim=(0, 1))
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main(size="small", picture=None, out=None):
    """Print the tables and return a row a setting and learner."""
    pairs, features, temperatures, n_seeds, beyond = SIZES[size]
    start, rows = time.perf_counter(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what is left of a gap is in the standard deviation
        for beside in BESIDES:
            cases = product(pairs, features, temperatures) if beside == "logistic" else [(*beyond, temperatures[0])]
            found = run(list(cases), n_seeds, beside)
            print(f"{beside}, {n_seeds} seeds x {N_TEST} fresh pairs:\n\n{format_table(found)}\n")
            rows += found
    print(f"{time.perf_counter() - start:.0f} s")
    if picture:
        draw(rows, picture)
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--picture", help="write the curves of coverage as PNG")
    parser.add_argument("--out", help="write the rows as JSON")
    main(**vars(parser.parse_args()))
