"""Time and memory of a search, against one fit, GridSearchCV and as many fits of logistic regression in the same run.

    python benchmarks/bench_search.py --size small --peer-share 0.1 --picture search.png

The grid is 60 failure-aware candidates (failure weight x failure threshold x strength) and the standard learner, which
`FailureAwareIRLCV` always adds, on 5 folds. ``--peer-share`` runs the peers on evenly spaced candidates only, and
scales their time to all of them: the output says so. The limits in the picture are measured in the same run:
arithmetic is the time of one matrix product a round, memory that of reading the differences for every fit by itself.

    python benchmarks/bench_search.py --device cuda

measures a search on a GPU alone: which share of its time the bytes that it moves would take at the bandwidth that is
measured, or its products at the speed of one.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import psutil  # noqa: F401  # the process that measures memory needs it: better to fail now than there
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

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

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench_fit import copy_bandwidth, make_pairs, seconds

SIZES = {
    "smoke": {
        "pairs": 400,
        "features": 16,
        "candidates": [2, 4],
        "alphas": 2,
        "overlap": {"splits": 4, "pairs": 200},
        "grow": [(200, 16), (400, 8)],
        "recurring": {"pairs": 200, "features": 16, "candidates": 4},
        "device": {"pairs": 400, "features": 16},
        "repeats": 1,
    },
    "small": {
        "pairs": 20_000,
        "features": 384,
        "candidates": [1, 3, 10, 30, 60, 150, 300],
        "alphas": 12,
        "overlap": {"splits": 20, "pairs": 4_000},
        "grow": [(5_000, 384), (10_000, 384), (20_000, 64), (20_000, 128), (20_000, 1_024)],
        "recurring": {"pairs": 5_000, "features": 384, "candidates": 24},
        "device": {"pairs": 20_000, "features": 4_096},
        "repeats": 3,
    },
}
N_FOLDS, N_ROUNDS = 5, 100
# With the grid's values, the settings of FailureAwareIRL.paper.
PAPER = {"objective": "max_margin", "failures": "margin", "pointwise_weight": 0.0, "recurrence_correlation": 0.0}


def make_grid(n_candidates):
    """Values of failure weight, threshold and strength, with so many combinations, or the next more."""
    n_weights = 4 if n_candidates >= 12 else 1
    thresholds = [None, 0.5, LinearSchedule(0.0, 0.5)] if n_candidates >= 3 else [None]
    n_strengths = -(-n_candidates // (n_weights * len(thresholds)))
    return {
        "failure_weight": [ExponentialSchedule(10.0 / 2**k, 1.0 + k) for k in range(n_weights)],
        "failure_threshold": thresholds,
        "alpha_fail": np.logspace(-4, -1, n_strengths).tolist(),
    }


def candidates_of(grid):
    """The candidates of a grid and the standard learner, in GridSearchCV's form."""
    combinations = itertools.product(*grid.values())
    first = {name: [values[0]] for name, values in grid.items()} | {"failure_weight": [0]}
    return [first, *({name: [v] for name, v in zip(grid, values, strict=True)} for values in combinations)]


def search_seconds(X, y, grid, repeats, cv):
    """Best wall time of a search, and the search."""
    search = FailureAwareIRLCV(**PAPER, **grid, cv=cv, random_state=0)
    return seconds(lambda: search.fit(X, y), repeats), search


def peer_seconds(X, y, candidates, share, n_jobs, cv):
    """Wall time of GridSearchCV over a share of the candidates, scaled to all; the peer; the candidates that it ran."""
    step = max(1, round(1 / share))
    chosen = candidates[::step]
    peer = GridSearchCV(FailureAwareIRL.paper(random_state=0), chosen, cv=cv, n_jobs=n_jobs)
    took = seconds(lambda: peer.fit(X, y), 1)
    # the last fit happens once however many candidates there are
    return (took - peer.refit_time_) * len(candidates) / len(chosen) + peer.refit_time_, peer, len(chosen)


def logistic_seconds(X, y, n_fits, share):
    """Wall time of so many fits of logistic regression on the differences of a fold's rows, from a share of them."""
    differences = (X[:, 0] - X[:, 1])[: len(X) * (N_FOLDS - 1) // N_FOLDS]
    some = max(1, round(n_fits * share))
    strengths = np.logspace(-2, 2, some)

    def fit_all():
        for C in strengths:
            LogisticRegression(C=C, fit_intercept=False).fit(differences, y[: len(differences)])

    return seconds(fit_all, 1) * n_fits / some


def limits(n_pairs, n_features, n_candidates, bandwidth):
    """Seconds a candidate at which arithmetic, and reading for each candidate by itself, would bound the rounds.

    The failure paths need one product a round with the columns of all folds; reading it alone, each column reads its
    fold's differences twice a round.
    """
    X = torch.randn(1_024, n_features)
    weights = torch.randn(min(300, max(2, n_candidates * N_FOLDS)), n_features)
    out = torch.empty(len(weights), len(X))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what all cores could do: two threads would wait for each other
    took = seconds(lambda: torch.mm(weights, X.T, out=out), 20)
    torch.set_num_threads(threads)
    flops = threads * 2 * len(weights) * len(X) * n_features / took
    rows = n_pairs * (N_FOLDS - 1) / N_FOLDS
    return {
        "arithmetic": 2 * rows * n_features * N_FOLDS * N_ROUNDS / flops,
        "memory": 2 * rows * n_features * 4 * N_FOLDS * N_ROUNDS / bandwidth,
        "flops": flops,
    }


def peak_memory(n_pairs, n_features, n_candidates, refit):
    """Peak memory of a search (input included) as a multiple of the input, in a fresh process.

    Without pages of files, which are libraries'; and counted from where freed memory has been given back: it would hide
    as much of what the search takes.
    """
    code = (
        "import sys, psutil, threading, numpy as np; sys.path.insert(0, sys.argv[1])\n"
        "from bench_search import PAPER, make_grid, make_pairs; from fairl_sk import FailureAwareIRLCV\n"
        "from fairl_sk.learning.products import release_freed_memory\n"
        "grid = {**PAPER, **make_grid(int(sys.argv[4]))}\n"
        "search = FailureAwareIRLCV(**grid, refit=sys.argv[5] == 'True', random_state=0)\n"
        "search.fit(*make_pairs(300, 8))\n"  # what is loaded once is not the search's
        "X, y = make_pairs(int(sys.argv[2]), int(sys.argv[3]))\n"
        "process, peak, done = psutil.Process(), [0], threading.Event()\n"
        "def held():\n"
        "    info = process.memory_info()\n"
        "    return info.rss - getattr(info, 'shared', 0)\n"
        "def watch():\n"
        "    while not done.wait(0.001): peak[0] = max(peak[0], held())\n"
        "release_freed_memory(); before = held()\n"
        "thread = threading.Thread(target=watch); thread.start()\n"
        "search.fit(X, y); done.set(); thread.join()\n"
        "print((peak[0] - before + X.nbytes) / X.nbytes)\n"
    )
    here = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, "-W", "ignore", "-c", code, here]
    command += [str(value) for value in (n_pairs, n_features, n_candidates, refit)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(search, peer, params):
    """Largest difference of a mean score from the peer's, on the candidates that both have."""
    ours = [c["params"].index(p) for c in [search.cv_results_] for p in params]
    return float(np.abs(search.cv_results_["mean_test_score"][ours] - peer.cv_results_["mean_test_score"]).max())


def draw(rows, path):
    """Seconds a candidate as candidates are added, and both limits."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    number = [row["candidates"] for row in rows]
    axes.plot(number, [row["seconds"] / row["candidates"] for row in rows], "o-", label="FailureAwareIRLCV")
    axes.plot(number, [row["memory"] for row in rows], "--", label="limit: each candidate reads the features")
    axes.plot(number, [row["arithmetic"] for row in rows], ":", label="limit: one matrix product a round")
    axes.set(xscale="log", yscale="log", xlabel="candidates", ylabel=f"seconds a candidate ({N_FOLDS} folds)")
    axes.set_xticks(number, map(str, number))
    axes.set_xticks([], minor=True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


def _verdict(reached):
    return "reached" if reached else "MISSED"


def bench_grid(plan, peer_share):
    """The grid of the largest number of candidates up to 60, and its peers."""
    X, y = make_pairs(plan["pairs"], plan["features"])
    n_candidates = max(n for n in plan["candidates"] if n <= 60)
    grid, cv = make_grid(n_candidates), KFold(N_FOLDS, shuffle=True, random_state=0)
    candidates = candidates_of(grid)
    result = {"candidates": len(candidates), "one fit": seconds(lambda: _one_fit(X, y), plan["repeats"])}
    result["search"], search = search_seconds(X, y, grid, plan["repeats"], cv)
    result["last fit"] = search.refit_time_
    for n_jobs in (1, 2):
        result[f"GridSearchCV(n_jobs={n_jobs})"], peer, ran = peer_seconds(X, y, candidates, peer_share, n_jobs, cv)
    result["peer candidates"] = ran
    result["largest difference"] = compare(search, peer, peer.cv_results_["params"])
    result["logistic"] = logistic_seconds(X, y, len(candidates) * N_FOLDS, peer_share)
    return result


def _one_fit(X, y):
    FailureAwareIRL.paper(random_state=0).fit(X, y)


def print_grid(result, plan):
    """The table of `bench_grid`, with what was asked."""
    n, ran = result["candidates"], result["peer candidates"]
    print(f"{plan['pairs']} pairs x {plan['features']}, {n} candidates x {N_FOLDS} folds, {_threads()} threads")
    if ran < n:
        print(f"EXTRAPOLATED: peers ran {ran} of {n} candidates (and as large a share of the logistic fits), scaled")
    for name in ("search", "last fit", "one fit", "GridSearchCV(n_jobs=1)", "GridSearchCV(n_jobs=2)", "logistic"):
        print(f"{name:24} {result[name]:9.3f} s   {result[name] / result['search']:7.2f} x the search")
    faster, fits = result["GridSearchCV(n_jobs=1)"] / result["search"], result["search"] / result["one fit"]
    print(f"{faster:.1f} times faster than GridSearchCV(n_jobs=1) (aim: 15): {_verdict(faster >= 15)}")
    print(f"{fits:.1f} times one fit (aim: 18 at most): {_verdict(fits <= 18)}")
    difference = result["largest difference"]
    print(f"largest difference of a mean score {difference:.1e} (aim: 1e-5): {_verdict(difference <= 1e-5)}")


def bench_alphas(plan):
    """Rows of the standard learners' searches over alpha, each of whose values has a base path of its own."""
    X, y = make_pairs(plan["pairs"], plan["features"])
    cv, alphas, rows = KFold(N_FOLDS, shuffle=True, random_state=0), np.logspace(-4, -1, plan["alphas"]).tolist(), []
    for learner, search_class in ((MaxMarginIRL, MaxMarginIRLCV), (MaxEntropyIRL, MaxEntropyIRLCV)):
        search = search_class(alpha=alphas, cv=cv, random_state=0)
        took = seconds(lambda search=search: search.fit(X, y), 1)
        peer = GridSearchCV(learner(random_state=0), {"alpha": alphas}, cv=cv)
        alone = seconds(lambda peer=peer: peer.fit(X, y), 1)
        difference = compare(search, peer, peer.cv_results_["params"])
        rows.append({"learner": learner.__name__, "search": took, "peer": alone, "difference": difference})
        print(
            f"{len(alphas)} alphas, {learner.__name__}: {took:.3f} s, {alone / took:.1f} times faster than "
            f"GridSearchCV(n_jobs=1); largest difference of a mean score {difference:.1e}",
            flush=True,
        )
    return rows


def bench_overlap(plan):
    """Seconds of a search of four candidates on random splits, so many that few rows are in the same ones."""
    n_splits = plan["overlap"]["splits"]
    X, y = make_pairs(plan["overlap"]["pairs"], 32)
    cv, grid = ShuffleSplit(n_splits, random_state=0), {"failure_weight": [1.0, 2.0, 5.0]}
    took, search = search_seconds(X, y, grid, 1, cv)
    peer = GridSearchCV(FailureAwareIRL.paper(random_state=0), candidates_of(grid), cv=cv)
    alone = seconds(lambda: peer.fit(X, y), 1)
    difference = compare(search, peer, peer.cv_results_["params"])
    print(
        f"{n_splits} random splits, {len(X)} pairs x 32, 4 candidates: {took:.3f} s, {alone / took:.1f} times faster "
        f"than GridSearchCV(n_jobs=1); largest difference of a mean score {difference:.1e}",
        flush=True,
    )
    return {"search": took, "peer": alone, "difference": difference}


def bench_candidates(plan, bandwidth):
    """Rows of time and limits as candidates are added."""
    X, y = make_pairs(plan["pairs"], plan["features"])
    cv = KFold(N_FOLDS, shuffle=True, random_state=0)
    rows = []
    for n_candidates in plan["candidates"]:
        took, search = search_seconds(X, y, make_grid(n_candidates), 1, cv)
        n = len(search.cv_results_["params"])
        row = {"candidates": n, "seconds": took, **limits(plan["pairs"], plan["features"], n, bandwidth)}
        rows.append(row)
        print(
            f"{n:>5} candidates {took:>8.3f} s {took / n:>8.4f} s each; limits: arithmetic {row['arithmetic']:.4f} "
            f"({row['flops'] / 1e9:.0f} GFLOP/s), memory {row['memory']:.4f}",
            flush=True,
        )
    each = np.array([row["seconds"] / row["candidates"] for row in rows])
    print(
        f"time a candidate from {each[0]:.4f} to {each[-1]:.4f} s: {_verdict((np.diff(each) <= 0.05 * each[1:]).all())}"
    )
    return rows


def bench_growth(plan):
    """Rows of time as pairs and features are added, with as many candidates as the main grid."""
    n_candidates, rows = max(n for n in plan["candidates"] if n <= 60), []
    cv = KFold(N_FOLDS, shuffle=True, random_state=0)
    for n_pairs, n_features in plan["grow"]:
        X, y = make_pairs(n_pairs, n_features)
        one = seconds(lambda X=X, y=y: _one_fit(X, y), plan["repeats"])
        took, _ = search_seconds(X, y, make_grid(n_candidates), 1, cv)
        peak = peak_memory(n_pairs, n_features, n_candidates, False)
        rows.append({"pairs": n_pairs, "features": n_features, "seconds": took, "one fit": one, "memory": peak})
        print(
            f"{n_pairs:>6} pairs x {n_features:>4}: {took:>8.3f} s, {took / one:>6.1f} times one fit, peak memory "
            f"{peak:.2f} times the input",
            flush=True,
        )
    return rows


def bench_recurrence(plan):
    """Seconds of a search on pairs of which a third have a side from a few outputs: counted as less, and not."""
    n_pairs, n_features, n_candidates = plan["recurring"].values()
    X, y = make_pairs(n_pairs, n_features)
    rng = np.random.default_rng(0)
    some = rng.random(n_pairs) < 1 / 3
    X[some, 0] = X[rng.choice(n_pairs // 25, some.sum()), 0]
    grid, result = make_grid(n_candidates), {}
    for correlation in (0.0, 0.03):
        search = FailureAwareIRLCV(**{**PAPER, "recurrence_correlation": correlation}, **grid, refit=False)
        result[correlation] = seconds(lambda search=search: search.fit(X, y), plan["repeats"])
    n = len(search.cv_results_["params"])
    print(
        f"{n} candidates, {n_pairs} pairs x {n_features}, outputs that recur: {result[0.03]:.3f} s, "
        f"{result[0.03] / result[0.0]:.2f} times as long as if they count as others do",
        flush=True,
    )
    return {"as others": result[0.0], "less": result[0.03]}


class Traffic(TorchDispatchMode):
    """Counts the bytes that torch's operations read and write, but for views."""

    GATHERS = ("index_select", "index", "gather", "embedding_bag")

    def __init__(self):
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and not name.startswith(("empty", "new_empty")):
            written = self._bytes(result)
            read = self._bytes([args, kwargs])
            # what is gathered from is not read as a whole
            self.n_bytes += written + (min(read, written) if any(gather in name for gather in self.GATHERS) else read)
        return result

    @staticmethod
    def _bytes(values):
        return sum(value.nbytes for value in tree_leaves(values) if isinstance(value, torch.Tensor))


def product_speed(n_rows, n_features, n_columns, device):
    """Floating point operations a second of one matrix product of the weights of all columns."""
    X = torch.randn(n_rows, n_features, device=device)
    weights = torch.randn(n_columns, n_features, device=device)
    took = seconds(lambda: torch.mm(weights, X.T)[0, 0].item(), 5)
    return 2 * n_rows * n_features * n_columns / took


def bench_device(plan, device):
    """A search on a device, and which share of its time bandwidth or arithmetic, whichever is slower, would take."""
    n_pairs, n_features = plan["device"].values()
    X, y = make_pairs(n_pairs, n_features)
    grid = make_grid(max(n for n in plan["candidates"] if n <= 60))
    cv = KFold(N_FOLDS, shuffle=True, random_state=0)
    search = FailureAwareIRLCV(**PAPER, **grid, cv=cv, random_state=0, refit=False, device=device)
    took = seconds(lambda: search.fit(X, y), plan["repeats"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # only this thread's operations are counted
    with Traffic() as traffic, FlopCounterMode(display=False) as flops:
        search.fit(X, y)
    torch.set_num_threads(threads)
    n_columns = len(search.cv_results_["params"]) * N_FOLDS
    bound = {
        "bandwidth": traffic.n_bytes / copy_bandwidth(device=device),
        "arithmetic": flops.get_total_flops() / product_speed(n_pairs, n_features, n_columns, device),
    }
    binds = max(bound, key=bound.get)
    share = bound[binds] / took
    verdict = f" (aim: 50%): {_verdict(share >= 0.5)}" if device != "cpu" else ""  # asked of a GPU
    print(
        f"{n_pairs} pairs x {n_features}, {n_columns} columns on {device}: {took:.3f} s; "
        f"{traffic.n_bytes / 1e9:.3g} GB at the measured bandwidth {bound['bandwidth']:.3g} s, "
        f"{flops.get_total_flops() / 1e9:.3g} GFLOP at the speed of one product {bound['arithmetic']:.3g} s: "
        f"{share:.0%} of the bound by {binds}{verdict}",
        flush=True,
    )
    return {"seconds": took, "bytes": traffic.n_bytes, "flops": flops.get_total_flops(), **bound, "share": share}


def _threads():
    return torch.get_num_threads()


def main(size="small", peer_share=1.0, picture=None, out=None, device=None):
    """Run the benchmark, print its tables, and return its results; with a device, of the search on it alone."""
    plan = SIZES[size]
    if device is not None:
        return _saved({"device": bench_device(plan, device)}, out)
    bandwidth = copy_bandwidth()
    results = {"grid": bench_grid(plan, peer_share)}
    print_grid(results["grid"], plan)
    results["alphas"] = bench_alphas(plan)
    results["overlap"] = bench_overlap(plan)
    results["recurrence"] = bench_recurrence(plan)
    results["candidates"] = bench_candidates(plan, bandwidth)
    results["growth"] = bench_growth(plan)
    shape = (plan["pairs"], plan["features"], max(n for n in plan["candidates"] if n <= 60))
    results["memory"] = {"search": peak_memory(*shape, False), "with the last fit": peak_memory(*shape, True)}
    for name, peak in results["memory"].items():
        print(f"peak memory, {name}: {peak:.2f} times the input (aim: 1.2 at most): {_verdict(peak <= 1.2)}")
    if picture:
        draw(results["candidates"], picture)
    return _saved(results, out)


def _saved(results, out):
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--peer-share", type=float, default=1.0, help="share of the candidates that peers run")
    parser.add_argument("--picture", help="write the picture of time a candidate as PNG")
    parser.add_argument("--out", help="write the figures as JSON")
    parser.add_argument("--device", help="measure the search on this device alone, e.g. cuda")
    main(**vars(parser.parse_args()))
