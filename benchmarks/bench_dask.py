"""Encoding by one and by two workers of Dask on this machine, one thread each, and a fit on the workers' features.

    python benchmarks/bench_dask.py --size full

Both clusters embed the same number of texts with the packaged encoder into a store of their own, in turns. Starting the
workers and loading the encoder do not count. The fit is `MaxEntropyIRL` on a Dask array of the features, against one in
memory with one thread.
"""

import argparse
import statistics
import sys
import time
from tempfile import TemporaryDirectory

import dask.array as da
import numpy as np
import torch
from bench_fit import make_pairs, verdict
from distributed import Client, LocalCluster

from fairl_sk import MaxEntropyIRL, TransformerEmbedder
from fairl_sk.datasets import make_detox_preferences

SIZES = {
    "smoke": {"texts": 40, "turns": 1, "pairs": 300, "features": 16},
    "full": {"texts": 4_000, "turns": 3, "pairs": 100_000, "features": 384},
}


def encode(client, texts):
    """Seconds to embed texts into a new store."""
    with TemporaryDirectory() as folder:
        embedder = TransformerEmbedder(store=folder).fit()
        start = time.perf_counter()
        embedder.transform(da.from_array(texts, chunks=max(len(texts) // 16, 1)))
        return time.perf_counter() - start


def fit(X, y):
    """Seconds of a fit, and its coefficients."""
    start = time.perf_counter()
    learner = MaxEntropyIRL().fit(X, y)
    return time.perf_counter() - start, learner.coef_


def main(size="full"):
    """Run the benchmark, print its figures, and return the ratio of the encoders' times."""
    plan, seconds = SIZES[size], {1: [], 2: []}
    data = make_detox_preferences(plan["texts"] * plan["turns"], random_state=0)
    texts = np.unique([f"{text} {number}" for number, text in enumerate(data.data[:, 0])])
    torch.set_num_threads(1)
    for turn in range(plan["turns"]):
        part = texts[turn * plan["texts"] : (turn + 1) * plan["texts"]]
        for n_workers in seconds:
            with LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0") as cluster:
                with Client(cluster) as client:
                    encode(client, texts[: 16 * n_workers])  # each worker loads the encoder
                    seconds[n_workers].append(encode(client, part))
                    print(f"{n_workers} workers: {seconds[n_workers][-1]:.1f} s", file=sys.stderr)
                    if turn == 0 and n_workers == 2:
                        X, y = make_pairs(plan["pairs"], plan["features"])
                        chunks = da.from_array(X, chunks=(max(len(X) // 8, 1), 2, plan["features"])).persist()
                        fit(chunks, y)
                        (here, coef), (there, other) = fit(X, y), fit(chunks, y)
    ratio = statistics.median(one / two for one, two in zip(*seconds.values(), strict=True))
    shown = "; ".join(f"{n} workers: " + ", ".join(f"{took:.1f}" for took in each) for n, each in seconds.items())
    print(f"{plan['texts']} texts, seconds of {plan['turns']} turns: {shown}")
    verdict("2 workers encode so many times as fast as 1", ratio, 1.7, at_least=True)
    print(f"a fit on {len(X)} pairs x {plan['features']}: {there:.2f} s on 2 workers, {here:.2f} s in memory, ", end="")
    print(f"largest difference of a coefficient {np.abs(coef - other).max() / np.abs(coef).max():.1e} of the largest")
    return ratio


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    main(**vars(parser.parse_args()))
