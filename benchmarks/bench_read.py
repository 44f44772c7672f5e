"""Time and memory of `load_preferences` on JSON Lines, beside pandas.read_json: ``python benchmarks/bench_read.py``.

Each reader runs in a process of its own, in one thread; its time is the processor's. Memory is the largest that the
process held, less what it held before.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WORDS = "the and of bench green kind away bus minute question answer please thank you morning five seven".split()
READERS = {
    "load_preferences": "from fairl_sk.datasets import load_preferences as read",
    "pandas.read_json": "from pandas import read_json\nread = lambda path: read_json(path, lines=True)",
}


def as_texts(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def as_messages(prompt, chosen, rejected):
    asked = {"role": "user", "content": prompt}
    return {
        name: [asked, {"role": "assistant", "content": text}]
        for name, text in (("chosen", chosen), ("rejected", rejected))
    }


def with_scores(prompt, chosen, rejected):
    scores = {"score_chosen": len(chosen) / 8, "score_rejected": len(rejected) / 8}
    return {**as_texts(prompt, chosen, rejected), **scores}


KINDS = {"texts": as_texts, "conversations": as_messages, "texts and scores": with_scores}


def write(path, n_rows, record):
    """Write pairs of texts of 15 words, four for each prompt of 10 words."""
    draw = random.Random(0).choices
    with open(path, "w", encoding="utf-8") as file:
        for n in range(n_rows):
            if n % 4 == 0:
                prompt = f"{n // 4} {' '.join(draw(WORDS, k=10))}"
            chosen, rejected = (f"{n} {' '.join(draw(WORDS, k=15))}" for _ in range(2))
            file.write(json.dumps(record(prompt, chosen, rejected)) + "\n")


def read(name, path):
    """Read the file in this process; seconds and bytes."""
    names = {}
    exec(READERS[name], names)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    names["read"](path)
    return time.process_time() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        print(*read(options.reader, options.path))
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind, record in KINDS.items():
            path = Path(folder, "pairs.jsonl")
            write(path, options.rows, record)
            compare(kind, path, options)


def compare(kind, path, options):
    """Print time and memory of both readers for one file."""
    size = os.path.getsize(path)
    print(f"{options.rows:,} rows of {kind}, {size / 2**20:.0f} MiB, the least of {options.repeats} runs")
    found = {}
    for name in READERS:
        command = [sys.executable, __file__, "--reader", name, "--path", str(path)]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(options.repeats)]
        found[name] = np.array([run.stdout.split() for run in runs], dtype=float).min(axis=0)
        print(f"{name:18} {found[name][0]:6.2f} s {found[name][1] / size:5.2f} times the file in memory")
    ratio = found["load_preferences"][0] / found["pandas.read_json"][0]
    print(f"load_preferences takes {ratio:.2f} times as long as pandas.read_json\n")


if __name__ == "__main__":
    main()
