"""How much stricter margins of failures shrink the feasible set, over random instances of Theorem 1.

    python benchmarks/identify.py --size small

An instance: pairs with a known linear reward and no noise. The fifth of them with the lowest margins under a standard
fit are the failures. The bound is ``slack_factor`` times the smallest with which the standard set has a reward. Printed
are ratios of the failure-aware to the standard set (below 1: smaller): Chebyshev radius, mean range of the reward of
outputs, the same among rewards of one mean margin (what is left once the unit of the reward is fixed), and volume.
"""

import argparse
import json
import sys
import time
from itertools import product

import numpy as np

from fairl_sk import MaxMarginIRL
from fairl_sk.datasets import make_preferences
from fairl_sk.diagnosis.feasible import FeasibleRewards

SIZES = {
    "smoke": {"cases": [(2, 20), (3, 30)], "factors": [8.0], "strictness": [1.5, 3.0], "seeds": 2, "large": (300, 10)},
    "small": {
        "cases": [(2, 20), (5, 20), (5, 100), (5, 500), (10, 100), (10, 500), (20, 100), (20, 500)],
        "factors": [4.0, 8.0, 32.0],
        "strictness": [1.5, 2.0, 3.0],
        "seeds": 5,
        "large": (20_000, 384),
    },
}
SHARE = 0.2  # of the pairs that are failures
N_OUTPUTS = 10  # whose ranges are measured


def draw_instance(n_features, n_pairs, seed):
    """Pairs with y=None, the mask of their failures, and the true reward."""
    data = make_preferences(n_pairs, n_features, shuffle_sides=False, random_state=seed)
    fitted = MaxMarginIRL(alpha=0.01, random_state=seed).fit(data.data)
    margins = fitted.decision_function(data.data)
    failures = np.zeros(n_pairs, dtype=bool)
    failures[np.argsort(margins)[: round(SHARE * n_pairs)]] = True
    return data.data, failures, data.coef


def mean_range(rewards, outputs):
    return float(np.ptp(rewards.reward_range(outputs), axis=1).mean())


def compare(standard, aware, X, truth, seed):
    """Measures of one instance: the ratios, and what holds."""
    outputs = X[:N_OUTPUTS, 0]
    mean_margin = float(standard.differences.mean(axis=0) @ aware.chebyshev().centre)
    slices = [rewards.at_mean_margin(mean_margin) for rewards in (standard, aware)]
    scaled = truth * standard.bound / np.abs(truth).max()  # as large as the bound allows
    row = {
        "included": aware.issubset(standard),
        "strict": standard.witness(aware) is not None,
        "radius": aware.chebyshev().radius / standard.chebyshev().radius,
        "range": mean_range(aware, outputs) / mean_range(standard, outputs),
        "range at one unit": mean_range(slices[1], outputs) / mean_range(slices[0], outputs),
        "truth in standard": standard.contains(scaled),
        "truth in aware": aware.contains(scaled),
    }
    if len(truth) <= 5:
        row["volume"] = standard.volume_ratio(aware, n_samples=640, random_state=seed).ratio
    return row


def run_instances(plan):
    """Measures of every instance, with what it was."""
    rows = []
    cases = list(product(plan["cases"], range(plan["seeds"])))
    for done, ((n_features, n_pairs), seed) in enumerate(cases):
        X, failures, truth = draw_instance(n_features, n_pairs, seed)
        smallest = FeasibleRewards.from_pairs(X, bound=1.0).smallest_bound()
        for factor, strictness in product(plan["factors"], plan["strictness"]):
            setting = {"margin": 1.0, "bound": factor * smallest}
            standard = FeasibleRewards.from_pairs(X, **setting)
            aware = FeasibleRewards.from_pairs(X, failures=failures, margin_fail=strictness, **setting)
            row = {"features": n_features, "pairs": n_pairs, "seed": seed, "bound": factor, "strictness": strictness}
            rows.append(row | compare(standard, aware, X, truth, seed))
        print(f"\rinstance {done + 1} of {len(cases)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return rows


def format_table(rows, by):
    """Medians of the ratios, and shares of instances, by the columns ``by``."""
    measures = ["radius", "range", "range at one unit", "volume", "truth in aware"]
    lines = ["".join(f"{name:>18}" for name in [*by, "instances", *measures])]
    for key in sorted({tuple(row[name] for name in by) for row in rows}):
        chosen = [row for row in rows if tuple(row[name] for name in by) == key]
        cells = [f"{value:g}" for value in (*key, len(chosen))]
        for name in measures[:4]:
            values = [row[name] for row in chosen if name in row]
            cells.append(f"{np.median(values):.3g}" if values else "")
        known = [row["truth in aware"] for row in chosen if row["truth in standard"]]
        cells.append(f"{sum(known)} of {len(known)}")
        lines.append("".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def time_large(n_pairs, n_features):
    """Seconds of the Chebyshev radius of one large set."""
    X, failures, _ = draw_instance(n_features, n_pairs, 0)
    rewards = FeasibleRewards.from_pairs(X, failures=failures, margin_fail=2.0, bound=1e4)
    start = time.perf_counter()
    radius = rewards.chebyshev().radius
    return time.perf_counter() - start, radius


def main(size="small", out=None):
    """Run the benchmark, print its tables, and return the measures of every instance."""
    plan = SIZES[size]
    rows = run_instances(plan)
    for by in (["strictness"], ["bound", "strictness"], ["features", "pairs"]):
        print(format_table(rows, by) + "\n")
    strict = sum(row["strict"] for row in rows)
    included = sum(row["included"] for row in rows)
    print(f"failure-aware set inside the standard one: {included} of {len(rows)}; strictly: {strict} of {len(rows)}")
    seconds, radius = time_large(*plan["large"])
    print(f"Chebyshev radius of {plan['large'][0]} pairs x {plan['large'][1]} features: {seconds:.1f} s ({radius:.4g})")
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", help="write the measures as JSON")
    main(**vars(parser.parse_args()))
