"""Time and memory of one fit, against scikit-learn's logistic regression in the same run.

    python benchmarks/bench_fit.py --size small
    python benchmarks/bench_fit.py --size full --device cuda

Features look like embeddings: float32, of unit length, with unequal variances. One preference in ten is flipped.
The peer is ``LogisticRegression(fit_intercept=False)`` on the differences of the pairs, always on the CPU.
"""

import argparse
import json
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import psutil
import torch
from sklearn.linear_model import LogisticRegression
from tqdm.auto import tqdm

from fairl_sk import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL

SIZES = {
    "smoke": {"pairs": [300, 1_000], "features": [16], "repeats": 1, "memory": (2_000, 64)},
    "small": {"pairs": [1_000, 10_000, 20_000], "features": [64, 384], "repeats": 3, "memory": (20_000, 384)},
    "full": {"pairs": [10_000, 50_000, 200_000], "features": [384, 1_024], "repeats": 3, "memory": (100_000, 384)},
}
LEARNERS = {
    "MaxMarginIRL": MaxMarginIRL,
    "MaxEntropyIRL": MaxEntropyIRL,
    "FailureAwareIRL": FailureAwareIRL,
    "paper": FailureAwareIRL.paper,  # joint training: timed once
}
AIM = 20_000, 384  # the problem that the aim in seconds speaks of


def make_pairs(n_pairs, n_features, seed=0):
    """Pairs (n_pairs, 2, n_features) of float32, and (n_pairs,) 1 where the first is preferred."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_pairs, 2, n_features), dtype=np.float32)
    X *= np.arange(1, n_features + 1, dtype=np.float32) ** -0.5
    for part in np.array_split(X, n_pairs // 4096 + 1):  # in place, since memory is measured
        part /= np.linalg.norm(part, axis=2, keepdims=True)
    reward = X @ rng.standard_normal(n_features, dtype=np.float32)
    y = (reward[:, 0] > reward[:, 1]) ^ (rng.random(n_pairs) < 0.1)
    return X, y.astype(int)


def seconds(call, repeats=1):
    """Shortest wall time of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def bench_one(n_pairs, n_features, repeats, device):
    """Seconds of every learner and of the peer on one problem."""
    X, y = make_pairs(n_pairs, n_features)
    differences = X[:, 0] - X[:, 1]
    row = {"pairs": n_pairs, "features": n_features}
    for name, make in LEARNERS.items():
        learner = make(device=device, random_state=0)
        row[name] = seconds(lambda learner=learner: learner.fit(X, y), 1 if name == "paper" else repeats)
    row["logistic"] = seconds(lambda: LogisticRegression(fit_intercept=False).fit(differences, y), repeats)
    row["ratio"] = row["FailureAwareIRL"] / row["logistic"]
    return row


def peak_memory(learner, n_pairs, n_features):
    """Peak memory of ``learner.fit``, input included, as a multiple of the input; measured in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_here, learner, n_pairs, n_features).result()


def _peak_here(learner, n_pairs, n_features):
    learner.fit(*make_pairs(300, 8))  # libraries that are loaded once do not count
    X, y = make_pairs(n_pairs, n_features)
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch():
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    learner.fit(X, y)
    done.set()
    thread.join()
    return (peak - before + X.nbytes) / X.nbytes


def verdict(text, value, aim, *, at_least=False):
    """Print a figure, its aim, and whether it was reached."""
    reached = value >= aim if at_least else value <= aim
    sign = "at least" if at_least else "at most"
    print(f"{text}: {value:.2f} (aim: {sign} {aim:g}): {'reached' if reached else 'MISSED'}")


def growth(rows):
    """Largest factor by which the time a pair rises as pairs are added; 1 or less: growth is at most linear."""
    each = np.array([row["FailureAwareIRL"] / row["pairs"] for row in rows])
    return float(max((each[i:] / each[i]).max() for i in range(len(each))))


def main(size="small", device="cpu", out=None):
    """Run the benchmark, print its table, and return its rows and the peak memory."""
    plan, rows = SIZES[size], []
    problems = [(pairs, features) for features in plan["features"] for pairs in plan["pairs"]]
    for problem in tqdm(problems, desc="Fits"):
        rows.append(bench_one(*problem, plan["repeats"], device))
    results = {"rows": rows, "peak memory": None}
    print(f"{device}, {torch.get_num_threads()} threads, best of {plan['repeats']}; seconds a fit;")
    print("ratio: FailureAwareIRL / logistic")
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))
    for row in rows:
        if (row["pairs"], row["features"]) == AIM:
            verdict("{} x {}: times logistic regression".format(*AIM), row["ratio"], 4)
    for features in plan["features"]:
        some = [row for row in rows if row["features"] == features and row["pairs"] >= 10_000]
        if len(some) > 1:
            verdict(f"{features} features: largest rise of the time a pair", growth(some), 1.3)
    if device == "cpu":
        results["peak memory"] = peak_memory(FailureAwareIRL(random_state=0), *plan["memory"])
        verdict("peak memory, times the input", results["peak memory"], 2.5)
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu", help="where the learners fit, e.g. cuda")
    parser.add_argument("--out", help="write the figures as JSON")
    main(**vars(parser.parse_args()))
