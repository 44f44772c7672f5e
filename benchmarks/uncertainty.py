"""Do the intervals of `LaplaceReward` hold the true margins as often as they say?

    python benchmarks/uncertainty.py --size small --picture uncertainty.png

Preferences are drawn from a known linear reward, by the logistic of its margin over a temperature. Of fresh pairs, the
share is printed whose true log-odds lie within the intervals of 68, 90 and 95 % around the learned margin, with the
root mean square error of the log-odds and the mean standard deviation. Two more tables: features in a tenth of the unit
(the same ``alpha`` is then a hundred times as strong), and a tenth of the preferences flipped, which is not the model.
The learners that are no modes take most of the time: they are measured at the first temperature only.
"""

import argparse
import json
import sys
import time
import warnings
from itertools import product

import numpy as np
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning

from fairl_sk import FailureAwareIRL, LaplaceReward, MaxEntropyIRL, MaxMarginIRL
from fairl_sk.datasets import make_preferences

SIZES = {
    "smoke": {"pairs": [200], "features": [5], "temperatures": [0.5], "seeds": 2, "beyond": (200, 5)},
    "small": {
        "pairs": [300, 1000, 5000],
        "features": [10, 50],
        "temperatures": [0.5, 1.5],
        "seeds": 20,
        "beyond": (1000, 50),
    },
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
    X, y = data.data[:n_pairs] * unit, data.target[:n_pairs]
    fresh = data.data[n_pairs:] * unit
    truth = (data.reference_reward[n_pairs:, 0] - data.reference_reward[n_pairs:, 1]) / temperature
    precision = None  # the evidence is that of the pairs, whatever the learner
    for name in learners:
        learner, prior = LEARNERS[name]
        prior = precision if prior == "evidence" and precision else prior
        reward = LaplaceReward(learner(random_state=seed), prior=prior).fit(X, y)
        precision = reward.prior_precision_ if prior == "evidence" else precision
        margins, std = (values / reward.temperature_ for values in reward.decision_function(fresh, return_std=True))
        error = margins - truth
        yield name, error / std, float(np.sqrt(np.mean(error**2))), float(std.mean())


def run(settings, n_seeds, beside):
    """A row a setting and learner."""
    rows = []
    for n_pairs, n_features, temperature in settings:
        learners = LEARNERS if temperature == settings[0][2] else MODES
        found = {}
        for seed in range(n_seeds):
            measured = measure(n_pairs, n_features, temperature, seed, learners, **BESIDES[beside])
            for name, scores, error, std in measured:
                found.setdefault(name, []).append((np.abs(scores), error, std))
        for name, seeds in found.items():
            scores = np.concatenate([scores for scores, _, _ in seeds])
            row = {"data": beside, "pairs": n_pairs, "features": n_features, "temperature": temperature}
            row |= {"learner": name, "error": np.mean([seed[1] for seed in seeds])}
            row |= {"std": np.mean([seed[2] for seed in seeds])}
            row |= {"coverage": {str(level): covered(scores, level) for level in LEVELS}}
            rows.append(row | {"curve": [covered(scores, level) for level in CURVE]})
        print(f"\r{beside}: {n_pairs} pairs, {n_features} features    ", end="", file=sys.stderr)
    print(file=sys.stderr)
    return rows


def covered(scores, level):
    return float(np.mean(scores <= norm.ppf(0.5 + level / 2)))


def format_table(rows):
    header = ["pairs", "features", "temperature", "learner", *(f"{level:.0%}" for level in LEVELS), "error", "std"]
    body = [
        [f"{row['pairs']}", f"{row['features']}", f"{row['temperature']:g}", row["learner"]]
        + [f"{value:.1%}" for value in row["coverage"].values()]
        + [f"{row['error']:.2f}", f"{row['std']:.2f}"]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = ["  ".join(map(str.rjust, cells, widths)) for cells in (header, *body)]
    return "\n".join(lines)


def draw(rows, path):
    """Actual against nominal coverage, a panel for each kind of data and a line for each learner, over settings."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(BESIDES), figsize=(12, 4.2), sharey=True)
    for ax, beside in zip(axes, BESIDES, strict=True):
        ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for name in LEARNERS:
            curves = [row["curve"] for row in rows if (row["data"], row["learner"]) == (beside, name)]
            ax.plot(CURVE, np.mean(curves, axis=0), label=name)
        ax.set(title=beside, xlabel="nominal coverage", xlim=(0, 1), ylim=(0, 1))
    axes[0].set(ylabel="share of true margins inside")
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(size="small", picture=None, out=None):
    """Run the benchmark, print its tables, and return a row a setting and learner."""
    plan = SIZES[size]
    start = time.perf_counter()
    settings = {"logistic": list(product(plan["pairs"], plan["features"], plan["temperatures"]))}
    beyond = [(*plan["beyond"], plan["temperatures"][0])]
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what is left of a gap is in the standard deviation
        for beside in BESIDES:
            rows += run(settings.get(beside, beyond), plan["seeds"], beside)
            print(f"{beside}, {plan['seeds']} seeds x {N_TEST} fresh pairs:\n\n{format_table(rows_of(rows, beside))}\n")
    print(f"{time.perf_counter() - start:.0f} s")
    if picture:
        draw(rows, picture)
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    return rows


def rows_of(rows, beside):
    return [row for row in rows if row["data"] == beside]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--picture", help="write the curves of coverage as PNG")
    parser.add_argument("--out", help="write the rows as JSON")
    main(**vars(parser.parse_args()))
