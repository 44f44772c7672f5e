"""Time and memory of a fit, as ratios against peers in the same run.

    python benchmarks/bench_fit.py --size small

Peers: (a) ``LogisticRegression(fit_intercept=False)`` on the differences; (b) skorch with its default loader on the
same module, loss and number of rounds, batches of 128 (one or two epochs are timed, best of as many tries as ours
gets, and scaled to all rounds); (c) the floor that memory sets: the bytes that the rounds must read, over the bandwidth
at which this machine copies.

Features are anisotropic, as embeddings are, of unit length and type float32; one preference in ten is flipped.
`FailureAwareIRL` has the paper's settings, whatever its defaults become.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil  # noqa: F401  # the process that measures memory needs it: better to fail now than there
import torch
from sklearn.linear_model import LogisticRegression
from skorch import NeuralNet

from fairl_sk import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
from fairl_sk.learning.net import DualPath, DualPathLoss

SIZES = {
    "smoke": {"pairs": [1_000], "features": [64], "repeats": 1, "epochs": 1, "memory": (2_000, 64)},
    "small": {
        "pairs": [1_000, 10_000, 20_000],
        "features": [64, 384],
        "repeats": 3,
        "epochs": 2,
        "memory": (20_000, 384),
    },
    "full": {
        "pairs": [1_000, 10_000, 20_000, 50_000, 100_000, 200_000],
        "features": [64, 384, 1_024],
        "repeats": 3,
        "epochs": 1,
        "memory": (100_000, 384),
    },
}
LEARNERS = {
    "MaxMarginIRL": MaxMarginIRL,
    "MaxEntropyIRL": MaxEntropyIRL,
    "FailureAwareIRL": FailureAwareIRL.paper,
}


def make_pairs(n_pairs, n_features, seed=0):
    """Pairs (n_pairs, 2, n_features) of float32 and which side is preferred."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_pairs, 2, n_features), dtype=np.float32)
    X *= np.arange(1, n_features + 1, dtype=np.float32) ** -0.5
    for start in range(0, n_pairs, 4096):  # in place: memory is measured
        part = X[start : start + 4096]
        part /= np.linalg.norm(part, axis=2, keepdims=True)
    reward = X @ rng.standard_normal(n_features, dtype=np.float32)
    y = (reward[:, 0] > reward[:, 1]) ^ (rng.random(n_pairs) < 0.1)
    return X, y.astype(int)


def seconds(call, repeats):
    """Best wall time of several calls: the one that was disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def copy_bandwidth(n_bytes=2**28, repeats=5, device="cpu"):
    """Bytes a second at which this machine copies a block larger than its caches (the read and the write)."""
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)

    def copy():
        target.copy_(source)
        return target[:1].item()  # a GPU has done it

    copy()
    return 2 * n_bytes / seconds(copy, repeats)


def default_loader_seconds(X, y, n_rounds, epochs, repeats):
    """The same module and loss trained by skorch as it comes, with batches of 128; scaled to all rounds."""
    differences = torch.from_numpy((X[:, 0] - X[:, 1]) * np.where(y == 1, 1, -1).astype(np.float32)[:, None])
    targets = torch.ones(len(X), 3)
    net = NeuralNet(
        DualPath,
        module__n_features=X.shape[2],
        module__hidden_layer_sizes=(),
        module__seed=0,
        module__dtype=torch.float32,
        criterion=DualPathLoss,
        criterion__objective="max_margin",
        criterion__required=1.0,
        criterion__required_fail=2.0,
        criterion__alpha=0.0,
        criterion__alpha_fail=0.0,
        optimizer=torch.optim.Adam,
        batch_size=128,
        train_split=None,
        verbose=0,
        max_epochs=epochs,
    ).initialize()
    return seconds(lambda: net.partial_fit(differences, targets), repeats) * n_rounds / epochs


def bench_one(n_pairs, n_features, repeats, epochs, bandwidth):
    """Seconds of every learner and peer on one problem."""
    X, y = make_pairs(n_pairs, n_features)
    differences = X[:, 0] - X[:, 1]
    row = {"pairs": n_pairs, "features": n_features}
    row["logistic"] = seconds(lambda: LogisticRegression(fit_intercept=False).fit(differences, y), repeats)
    for name, learner in LEARNERS.items():
        row[name] = seconds(lambda learner=learner: learner(random_state=0).fit(X, y), repeats)
    fitted = FailureAwareIRL.paper(random_state=0).fit(X, y)
    row["rounds"] = fitted.n_iter_
    row["default_loader"] = default_loader_seconds(X, y, fitted.n_iter_, epochs, repeats)
    # two passes a round over the differences, one copy of the input into them
    n_bytes = 2 * differences.nbytes * fitted.n_iter_ + X.nbytes
    row["floor"] = n_bytes / bandwidth
    row["gap"] = fitted.dual_gap_
    return row


def peak_memory(n_pairs, n_features):
    """Peak memory of a fit (input included) as a multiple of the input, in a fresh process."""
    code = (
        "import sys, resource, psutil, threading, numpy as np; sys.path.insert(0, sys.argv[1])\n"
        "from bench_fit import make_pairs; from fairl_sk import FailureAwareIRL\n"
        "FailureAwareIRL.paper(random_state=0).fit(*make_pairs(200, 8))\n"  # what is loaded once is not the fit's
        "X, y = make_pairs(int(sys.argv[2]), int(sys.argv[3]))\n"
        "process, peak, done = psutil.Process(), [0], threading.Event()\n"
        "def watch():\n"
        "    while not done.wait(0.001): peak[0] = max(peak[0], process.memory_info().rss)\n"
        "before = process.memory_info().rss\n"
        "thread = threading.Thread(target=watch); thread.start()\n"
        "FailureAwareIRL.paper(random_state=0).fit(X, y); done.set(); thread.join()\n"
        "print((peak[0] - before + X.nbytes) / X.nbytes)\n"
    )
    here = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, "-c", code, here, str(n_pairs), str(n_features)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def format_rows(rows):
    """The table, times of the failure-aware learner as ratios."""
    header = (
        f"{'pairs':>8} {'feat.':>6} | {'seconds a fit':^47} | {'FailureAwareIRL, ratio to':^36} | {'gap':>7}\n"
        f"{'':>8} {'':>6} | {'MaxMargin':>11} {'MaxEntropy':>11} {'FailureAware':>12} {'logistic':>10} | "
        f"{'logistic':>9} {'skorch loader':>14} {'floor':>11} |"
    )
    lines = [
        f"{r['pairs']:>8} {r['features']:>6} | {r['MaxMarginIRL']:>11.3f} {r['MaxEntropyIRL']:>11.3f} "
        f"{r['FailureAwareIRL']:>12.3f} {r['logistic']:>10.3f} | {r['FailureAwareIRL'] / r['logistic']:>9.2f} "
        f"{'1/' + format(r['default_loader'] / r['FailureAwareIRL'], '.0f'):>14} "
        f"{r['FailureAwareIRL'] / r['floor']:>11.2f} | {r['gap']:>7.0e}"
        for r in rows
    ]
    return "\n".join([header, *lines])


def _print_growth(rows):
    """How far the time a pair rises above what it was with fewer pairs: 1 or less is at most linear growth."""
    if len(rows) > 1:
        per_pair = np.array([r["FailureAwareIRL"] / r["pairs"] for r in rows])
        rise = max((per_pair[i:] / per_pair[i]).max() for i in range(len(rows)))
        print(
            f"{rows[0]['features']} features: from {rows[0]['pairs']} to {rows[-1]['pairs']} pairs, time a pair x "
            f"{per_pair[-1] / per_pair[0]:.2f}; largest rise between two sizes x {rise:.2f} (aim: 1.3 at most): "
            f"{_verdict(rise <= 1.3)}"
        )


def bench_growth(sizes=(10_000, 20_000, 50_000, 100_000, 200_000), widths=(64, 384, 1_024), repeats=4):
    """Seconds of `FailureAwareIRL` alone as pairs are added; its rows, by number of features."""
    for n_features in widths:
        rows = []
        for n_pairs in sizes:
            X, y = make_pairs(n_pairs, n_features)
            took = seconds(lambda X=X, y=y: FailureAwareIRL.paper(random_state=0).fit(X, y), repeats)
            rows.append({"pairs": n_pairs, "features": n_features, "FailureAwareIRL": took})
            print(f"{n_pairs:>8} pairs {n_features:>5} features {took:>8.3f} s", flush=True)
        _print_growth(rows)
        yield rows


def _print_aims(rows, memory):
    """What was asked of 20,000 pairs of 384 features and of memory, and whether this run reached it."""
    for row in rows:
        if (row["pairs"], row["features"]) == (20_000, 384):
            slower, faster = row["FailureAwareIRL"] / row["logistic"], row["default_loader"] / row["FailureAwareIRL"]
            print(f"20000 x 384: {slower:.2f} times logistic regression (aim: 10 at most): {_verdict(slower <= 10)}")
            print(f"20000 x 384: {faster:.1f} times faster than the loader (aim: 30): {_verdict(faster >= 30)}")
    print(f"peak memory {memory:.2f} times the input (aim: 2.5 at most): {_verdict(memory <= 2.5)}")


def _verdict(reached):
    return "reached" if reached else "MISSED"


def main(size="small", out=None):
    """Run the benchmark, print its table, and return its rows and the peak memory."""
    plan = SIZES[size]
    rows, bandwidth = [], copy_bandwidth()
    for n_features in plan["features"]:
        for n_pairs in plan["pairs"]:
            rows.append(bench_one(n_pairs, n_features, plan["repeats"], plan["epochs"], bandwidth))
            print(f"\r{len(rows)} of {len(plan['features']) * len(plan['pairs'])} problems", end="", file=sys.stderr)
    print(file=sys.stderr)
    memory = peak_memory(*plan["memory"])
    print(f"{torch.get_num_threads()} threads, best of {plan['repeats']}, {bandwidth / 1e9:.0f} GB/s copied")
    print(format_rows(rows))
    _print_aims(rows, memory)
    for n_features in plan["features"]:
        _print_growth([r for r in rows if r["features"] == n_features and r["pairs"] >= 10_000])
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump({"rows": rows, "peak_memory": memory}, file, indent=2)
    return rows, memory


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", help="write the figures as JSON")
    parser.add_argument("--growth", action="store_true", help="only how the time grows with the pairs, without peers")
    arguments = vars(parser.parse_args())
    if arguments.pop("growth"):
        list(bench_growth())
    else:
        main(**arguments)
