"""How much stricter margins of failures shrink the feasible set, over random instances of Theorem 1.

    python benchmarks/identify.py --size small

The pairs follow a known linear reward without noise. Failures are the fifth with the lowest margins under a standard
fit. The tables show ratios of the failure-aware to the standard set (below 1: smaller).
"""

import argparse
import sys
import time
from itertools import product

import numpy as np
import pandas as pd

from fairl_sk import MaxMarginIRL
from fairl_sk.datasets import make_preferences
from fairl_sk.diagnosis import FeasibleRewards

CASES = [(2, 20), (5, 20), (5, 100), (5, 500), (10, 100), (10, 500), (20, 100), (20, 500)]  # features, pairs
SMALL = {"cases": CASES, "factors": [4.0, 8.0, 32.0], "strictness": [1.5, 2.0, 3.0], "seeds": 5, "large": (20_000, 384)}
SMOKE = {"cases": [(2, 20), (3, 30)], "factors": [8.0], "strictness": [1.5, 3.0], "seeds": 2, "large": (300, 10)}
SIZES = {"smoke": SMOKE, "small": SMALL}
SHARE = 0.2  # of the pairs that are failures
N_OUTPUTS = 10  # whose ranges are measured


def draw_instance(n_features, n_pairs, seed):
    """Pairs with y=None, the mask of their failures, and the true reward."""
    data = make_preferences(n_pairs, n_features, shuffle_sides=False, random_state=seed)
    margins = MaxMarginIRL(alpha=0.01, random_state=seed).fit(data.data).decision_function(data.data)
    failures = np.zeros(n_pairs, dtype=bool)
    failures[np.argsort(margins)[: round(SHARE * n_pairs)]] = True
    return data.data, failures, data.coef


def compare(standard, aware, X, truth):
    """Measures of one instance: the ratios, and what holds."""
    center = aware.chebyshev().center
    mean_margin = float(standard.differences.mean(axis=0) @ center)
    scaled = truth * standard.bound / np.abs(truth).max()  # as large as the bound allows

    def ratio_of_ranges(one, other):
        widths = [np.ptp(rewards.reward_range(X[:N_OUTPUTS, 0]), axis=1).mean() for rewards in (one, other)]
        return float(widths[0] / widths[1])

    row = {
        "included": aware.issubset(standard),
        "strict": standard.witness(aware) is not None,
        "radius": aware.chebyshev().radius / standard.chebyshev().radius,
        "range": ratio_of_ranges(aware, standard),
        "range at one unit": ratio_of_ranges(aware.at_mean_margin(mean_margin), standard.at_mean_margin(mean_margin)),
        "truth in standard": standard.contains(scaled),
        "truth in aware": aware.contains(scaled),
    }
    return row | ({"volume": standard.volume_ratio(aware)} if len(truth) <= 5 else {})


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
            rows.append(row | compare(standard, aware, X, truth))
        print(f"instance {done + 1} of {len(cases)}", file=sys.stderr)
    return rows


def format_table(rows, by):
    """Medians of the ratios, and shares of instances, by the columns ``by``."""
    measures = ["radius", "range", "range at one unit", "volume"]
    lines = ["".join(f"{name:>18}" for name in [*by, "instances", *measures, "truth in aware"])]
    for key, group in pd.DataFrame(rows).groupby(by):
        medians = ["" if np.isnan(value) else f"{value:.3g}" for value in group[measures].median()]
        known = group["truth in aware"][group["truth in standard"]]
        cells = [*(f"{value:g}" for value in (*key, len(group))), *medians, f"{known.sum()} of {len(known)}"]
        lines.append("".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def main(size="small"):
    """Print the tables and return the measures of every instance."""
    plan = SIZES[size]
    rows = run_instances(plan)
    for by in (["strictness"], ["bound", "strictness"], ["features", "pairs"]):
        print(format_table(rows, by) + "\n")
    strict, included = (sum(row[name] for row in rows) for name in ("strict", "included"))
    print(f"failure-aware set inside the standard one: {included} of {len(rows)}; strictly: {strict} of {len(rows)}")
    X, failures, _ = draw_instance(plan["large"][1], plan["large"][0], 0)
    large = FeasibleRewards.from_pairs(X, failures=failures, margin_fail=2.0, bound=1e4)
    start = time.perf_counter()
    radius = large.chebyshev().radius
    seconds = time.perf_counter() - start
    print(f"Chebyshev radius of {plan['large'][0]} pairs x {plan['large'][1]} features: {seconds:.1f} s ({radius:.4g})")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    main(**vars(parser.parse_args()))
