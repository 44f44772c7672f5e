"""Time and memory of fits on features in a file, against fits on the same features in memory.

    python benchmarks/bench_scale.py --size full --picture docs/scale.png

Features are those of bench_fit.py, as float16 in a file of NumPy. A fit in memory gets them as float32. Each fit runs
in a fresh process. ``anonymous`` is the largest RssAnon that was sampled: all resident memory but pages of files, which
the system takes back when it needs them. ``peak`` is VmHWM, with these pages. Both are of Linux.
"""

import argparse
import json
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from bench_fit import make_pairs, verdict

import fairl_sk

SIZES = {
    "small": {"pairs": [300, 1_000], "features": 16, "in_memory": 1_000},
    "full": {"pairs": [10_000, 100_000, 500_000, 2_000_000], "features": 384, "in_memory": 500_000},
}
LEARNERS = ("MaxEntropyIRL", "FailureAwareIRL", "MaxMarginIRL")


def write_pairs(path, n_pairs, n_features):
    """Write features (n_pairs, 2, n_features), float16, and beside them the labels, a block at a time."""
    X = np.lib.format.open_memmap(path, "w+", np.float16, (n_pairs, 2, n_features))
    labels, reward = [], np.random.default_rng(0).standard_normal(n_features, dtype=np.float32)
    for begin in range(0, n_pairs, 10_000):
        block, _ = make_pairs(min(10_000, n_pairs - begin), n_features, seed=begin)
        X[begin : begin + len(block)] = block
        margins = (block[:, 0] - block[:, 1]) @ reward
        labels.append((margins > 0) ^ (np.random.default_rng(begin).random(len(block)) < 0.1))
    np.save(path.with_suffix(".labels.npy"), np.concatenate(labels).astype(int))


def memory():
    """Resident memory of this process in GB: without pages of files, and the peak with them."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return [int(status[name].split()[0]) * 1024 / 1e9 for name in ("RssAnon", "VmHWM")]


def fit_here(learner, path, in_memory):
    """Fit a learner; its time and memory."""
    learner = (
        getattr(fairl_sk, learner)(random_state=0) if learner == "FailureAwareIRL" else getattr(fairl_sk, learner)()
    )
    learner.fit(*make_pairs(300, 8))  # loading libraries does not count
    y = np.load(path.with_suffix(".labels.npy"))
    X = np.load(path, mmap_mode="r")
    X = X.astype(np.float32) if in_memory else X
    done, largest = threading.Event(), memory()[0]

    def watch():
        nonlocal largest
        while not done.wait(0.01):
            largest = max(largest, memory()[0])

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    learner.fit(X, y)
    seconds = time.perf_counter() - start
    done.set()
    thread.join()
    accuracy = learner.score(X[:10_000], y[:10_000])
    return {
        "seconds": seconds,
        "anonymous": largest,
        "peak": memory()[1],
        "steps": learner.n_iter_,
        "accuracy": accuracy,
    }


def measure(learner, path, in_memory):
    """`fit_here` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(fit_here, learner, path, in_memory).result()


def draw(table, path):
    """A picture of time and memory against pairs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, (column, label) in zip(axes, [("seconds", "seconds a fit"), ("anonymous", "memory, GB")], strict=True):
        for (learner, place), rows in table.groupby(["learner", "features in"]):
            style = "-" if place == "file" else "--"
            color = f"C{LEARNERS.index(learner)}"
            axis.plot(rows["pairs"], rows[column], style, marker="o", color=color, label=f"{learner}, {place}")
        axis.set(xscale="log", yscale="log", xlabel="pairs", ylabel=label)
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def extrapolate(rows, n_features, pairs=10**8, features=8_192):
    """Print what a fit of far more pairs takes, from the rows of one learner: time by numbers, memory by pairs."""
    small, large = rows.iloc[0], rows.iloc[-1]
    each = large["seconds"] / (large["pairs"] * 2 * n_features)
    added = (large["anonymous"] - small["anonymous"]) / (large["pairs"] - small["pairs"])
    numbers = pairs * 2 * features
    print(f"{large['learner']}, {pairs:.0e} pairs x {features:,}:")
    print(f"  file: {pairs:.0e} * 2 * {features:,} * 2 bytes = {numbers * 2 / 1e12:.2f} TB")
    print(f"  time: {numbers:.2e} numbers * {each * 1e9:.2f} ns = {numbers * each / 3600:,.0f} hours")
    start, total = small["anonymous"], small["anonymous"] + pairs * added
    print(f"  memory: {start:.2f} GB + {pairs:.0e} * {added * 1e9:.0f} bytes = {total:.0f} GB")


def main(size="small", picture=None, out=None, learners=LEARNERS):
    """Run the benchmark, print its table, and return it."""
    plan, rows = SIZES[size], []
    with TemporaryDirectory() as folder:
        for n_pairs in plan["pairs"]:
            path = Path(folder) / f"{n_pairs}.npy"
            write_pairs(path, n_pairs, plan["features"])
            for learner in learners:
                for place in ("file", "memory") if n_pairs <= plan["in_memory"] else ("file",):
                    found = measure(learner, path, place == "memory")
                    rows.append({"pairs": n_pairs, "learner": learner, "features in": place, **found})
                    print(rows[-1], file=sys.stderr, flush=True)
            path.unlink()
    table = pd.DataFrame(rows)
    table["microseconds a pair"] = table["seconds"] / table["pairs"] * 1e6
    print(f"{plan['features']} features, {torch.get_num_threads()} threads; memory in GB")
    print(table.to_string(index=False, float_format="{:.3g}".format))
    largest = plan["in_memory"]
    for learner in learners:
        each = table[table["learner"] == learner].set_index(["pairs", "features in"])["microseconds a pair"]
        for n_pairs in sorted({largest, plan["pairs"][-1]}):
            ratio = each[n_pairs, "file"] / each[largest, "memory"]
            verdict(f"{learner}, {n_pairs:,} pairs in a file: time a pair, times {largest:,} in memory", ratio, 2)
        most = table[(table["learner"] == learner) & (table["features in"] == "file")]["anonymous"].max()
        verdict(f"{learner}: resident memory without pages of files, GB", most, 1.5)
        extrapolate(table[(table["learner"] == learner) & (table["features in"] == "file")], plan["features"])
    if picture:
        draw(table, picture)
    if out:
        Path(out).write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=LEARNERS)
    parser.add_argument("--picture", help="draw time and memory into this file")
    parser.add_argument("--out", help="write the figures as JSON")
    main(**vars(parser.parse_args()))
