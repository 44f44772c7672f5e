"""Time and memory of a search, against one fit and against GridSearchCV in the same run.

    python benchmarks/bench_search.py --size small --peer-share 0.1 --picture search.png
    python benchmarks/bench_search.py --size small --peer-share 0.05 --device cuda

The grid is 60 failure-aware candidates (failure weight x failure threshold x alpha_fail) and the standard learner,
which `FailureAwareIRLCV` always adds, on 5 folds. ``--peer-share`` lets GridSearchCV run on evenly spaced candidates
only, and scales its time to all of them; the output says so.
"""

import argparse
import itertools
import json

import numpy as np
import pandas as pd
import torch
from bench_fit import make_pairs, peak_memory, seconds, verdict
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit

from fairl_sk import (
    ExponentialSchedule,
    FailureAwareIRL,
    FailureAwareIRLCV,
    LinearSchedule,
    MaxEntropyIRL,
    MaxEntropyIRLCV,
    MaxMarginIRL,
    MaxMarginIRLCV,
)

SIZES = {
    "smoke": {
        "shape": (400, 16),
        "candidates": [2, 4],
        "alphas": 2,
        "overlap": (2, 200),
        "shapes": [],
        "repeats": 1,
    },
    "small": {
        "shape": (20_000, 384),
        "candidates": [1, 3, 10, 30, 60, 150, 300],
        "alphas": 12,
        "overlap": (20, 4_000),  # random splits, pairs
        "shapes": [(5_000, 384), (10_000, 384), (20_000, 64), (20_000, 1_024)],
        "repeats": 3,
    },
}
FOLDS = KFold(5, shuffle=True, random_state=0)


def make_grid(n_candidates):
    """Values of failure weight, threshold and alpha_fail: so many combinations, or the next more."""
    n_weights = 4 if n_candidates >= 12 else 1
    thresholds = [None, 0.5, LinearSchedule(0.0, 0.5)] if n_candidates >= 3 else [None]
    n_alphas = -(-n_candidates // (n_weights * len(thresholds)))
    return {
        "failure_weight": [ExponentialSchedule(10.0 / 2**k, 1.0 + k) for k in range(n_weights)],
        "failure_threshold": thresholds,
        "alpha_fail": np.logspace(-4, -1, n_alphas).tolist(),
    }


def candidates_of(grid):
    """The standard learner and the candidates of a grid, in GridSearchCV's form."""
    standard = {name: [values[0]] for name, values in grid.items()} | {"failure_weight": [0]}
    return [
        standard,
        *({k: [v] for k, v in zip(grid, values, strict=True)} for values in itertools.product(*grid.values())),
    ]


def compare(name, search, learner, candidates, X, y, *, share=1.0, repeats=1, n_jobs=1):
    """Seconds of a search and of GridSearchCV with the same candidates and splits, and how far their scores differ."""
    took = seconds(lambda: search.fit(X, y), repeats)
    some = candidates[:: max(1, round(1 / share))]
    peer = GridSearchCV(learner, some, cv=search.cv, n_jobs=n_jobs)
    peer_took = seconds(lambda: peer.fit(X, y))
    # the last fit happens once, however many candidates there are
    peer_took = (peer_took - peer.refit_time_) * len(candidates) / len(some) + peer.refit_time_
    ours = [search.cv_results_["params"].index(params) for params in peer.cv_results_["params"]]
    scores = search.cv_results_["mean_test_score"][ours]
    return {
        "search": name,
        "candidates": len(candidates),
        "peer ran": len(some),
        "seconds": took,
        "peer seconds": peer_took,
        "times faster": peer_took / took,
        "largest difference of a score": float(np.abs(scores - peer.cv_results_["mean_test_score"]).max()),
        "same choice": bool(np.argmax(scores) == peer.best_index_),
    }


def bench_peers(plan, share, device):
    """Rows of `compare`: the grid, values of alpha (each with its own base path), and splits that overlap."""
    X, y = make_pairs(*plan["shape"])
    same = {"device": device, "random_state": 0}
    grid = make_grid(main_number(plan))
    search, learner = FailureAwareIRLCV(**grid, cv=FOLDS, **same), FailureAwareIRL(**same)
    shared = {"share": share, "repeats": plan["repeats"]}
    rows = [compare("failure paths", search, learner, candidates_of(grid), X, y, **shared)]
    alphas = np.logspace(-4, -1, plan["alphas"]).tolist()
    for standard, search_class in ((MaxMarginIRL, MaxMarginIRLCV), (MaxEntropyIRL, MaxEntropyIRLCV)):
        search = search_class(alpha=alphas, cv=FOLDS, **same)
        rows.append(
            compare(f"alpha, {standard.__name__}", search, standard(**same), [{"alpha": [a]} for a in alphas], X, y)
        )
    n_splits, n_pairs = plan["overlap"]
    grid = {"failure_weight": [1.0, 2.0, 5.0]}
    search = FailureAwareIRLCV(**grid, cv=ShuffleSplit(n_splits, random_state=0), **same)
    X, y = make_pairs(n_pairs, 32)
    rows.append(compare(f"{n_splits} random splits", search, learner, candidates_of(grid), X, y))
    return rows


def main_number(plan):
    """Candidates of the main grid."""
    return max(n for n in plan["candidates"] if n <= 60)


def bench_candidates(plan, device):
    """Seconds of a search as candidates are added."""
    X, y = make_pairs(*plan["shape"])
    rows = []
    for n_candidates in plan["candidates"]:
        grid = make_grid(n_candidates)
        search = FailureAwareIRLCV(**grid, cv=FOLDS, device=device, random_state=0)
        took, n = seconds(lambda search=search: search.fit(X, y)), len(candidates_of(grid))
        rows.append({"candidates": n, "seconds": took, "seconds each": took / n})
    return rows


def bench_shapes(plan, device):
    """Time, in single fits, and peak memory of the main grid, by shape of the features."""
    same = {"device": device, "random_state": 0}
    rows = []
    for n_pairs, n_features in [*plan["shapes"], plan["shape"]]:
        X, y = make_pairs(n_pairs, n_features)
        search = FailureAwareIRLCV(**make_grid(main_number(plan)), cv=FOLDS, **same)
        one = seconds(lambda X=X, y=y: FailureAwareIRL(**same).fit(X, y), plan["repeats"])
        took = seconds(lambda search=search, X=X, y=y: search.fit(X, y))
        peak = peak_memory(search, n_pairs, n_features) if device == "cpu" else float("nan")
        shape = {"pairs": n_pairs, "features": n_features}
        rows.append({**shape, "one fit": one, "search": took, "single fits": took / one, "memory / input": peak})
    return rows


def draw(rows, peer_each, path):
    """Seconds a candidate as candidates are added."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    number = [row["candidates"] for row in rows]
    axes.plot(number, [row["seconds each"] for row in rows], "o-", label="FailureAwareIRLCV")
    axes.axhline(peer_each, ls="--", color="0.4", label="GridSearchCV")
    axes.set(xscale="log", yscale="log", xlabel="candidates", ylabel=f"seconds a candidate ({FOLDS.n_splits} folds)")
    axes.set_xticks(number, map(str, number))
    axes.set_xticks([], minor=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def show(title, rows):
    """Print a table."""
    print(f"\n{title}\n{pd.DataFrame(rows).to_string(index=False, float_format='{:.4g}'.format)}", flush=True)


def main(size="small", peer_share=1.0, picture=None, out=None, device="cpu"):
    """Run the benchmark, print its tables, and return its results."""
    plan = SIZES[size]
    print("{} pairs x {} features,".format(*plan["shape"]), f"{FOLDS.n_splits} folds, {device},", end=" ")
    print(f"{torch.get_num_threads()} threads")
    peers = bench_peers(plan, peer_share, device)
    show("Against GridSearchCV(n_jobs=1)", peers)
    if peers[0]["peer ran"] < peers[0]["candidates"]:
        print("EXTRAPOLATED: GridSearchCV ran {peer ran} of {candidates} candidates, scaled to all".format(**peers[0]))
    candidates = bench_candidates(plan, device)
    show("As candidates are added", candidates)
    shapes = bench_shapes(plan, device)
    show(f"By shape, {peers[0]['candidates']} candidates", shapes)
    verdict("\ntimes faster than GridSearchCV", peers[0]["times faster"], 10, at_least=True)
    verdict("time in single fits", shapes[-1]["single fits"], 25)
    if device == "cpu":
        verdict("peak memory, times the input", shapes[-1]["memory / input"], 2)
    verdict("largest difference of a score, x 1000", 1000 * max(r["largest difference of a score"] for r in peers), 2)
    results = {"peers": peers, "candidates": candidates, "shapes": shapes}
    if picture:
        draw(candidates, peers[0]["peer seconds"] / peers[0]["candidates"], picture)
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--peer-share", type=float, default=1.0, help="share of the candidates that GridSearchCV runs")
    parser.add_argument("--picture", help="write the picture of the time a candidate as PNG")
    parser.add_argument("--out", help="write the figures as JSON")
    parser.add_argument("--device", default="cpu", help="where the learners fit, e.g. cuda")
    main(**vars(parser.parse_args()))
