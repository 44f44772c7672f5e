"""A served reward against the same reward in process: throughput, latency, and minutes of full load with restarts.

    python benchmarks/bench_serve.py --minutes 10

(1) Completions a second in requests of 64, by turns in process and through ``fairl-sk serve`` in another process, one
request at a time. (2) The latency with 8 clients at once. (3) Eight clients ask without pause while the server is
stopped and started again every quarter of the time: every request has to be answered, every reward to be right, and
the server's memory must not grow while it runs.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import skops.io
import torch
from sklearn.pipeline import make_pipeline

from fairl_sk import MaxEntropyIRL, TextFeatures, TransformerEmbedder
from fairl_sk.datasets import make_detox_preferences
from fairl_sk.export import RewardFunction
from fairl_sk.serving import RemoteReward

SIZES = {
    "smoke": {"requests": 2, "turns": 2, "clients": 2, "starts": 1},
    "small": {"requests": 10, "turns": 6, "clients": 8, "starts": 4},
}
REQUEST = 64  # completions


class Server:
    """``fairl-sk serve`` in another process."""

    def __init__(self, pipeline):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.pipeline, self.url, self.process = str(pipeline), f"http://127.0.0.1:{self.port}", None

    def start(self):
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "fairl_sk", "serve", self.pipeline, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
        line = self.process.stderr.readline().decode()
        if "Serving" not in line:
            raise RuntimeError(f"The server did not start: {line}{self.process.stderr.read().decode()}")

    def stop(self):
        """Stop it as an interrupt does, and wait."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=120)

    def megabytes(self):
        """Resident memory."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


def make_reward(folder, encoder):
    """A reward function, and the file of its pipeline."""
    data = make_detox_preferences(200, random_state=0)
    features = TransformerEmbedder(normalize=True) if encoder else TextFeatures(None, n_components=20, random_state=0)
    pipeline = make_pipeline(features, MaxEntropyIRL(random_state=0)).fit(data.data, data.target)
    skops.io.dump(pipeline, folder / "reward.skops")
    options = {"prompt_template": "{output}", "center": 0.0, "scale": 1.0}
    return RewardFunction(pipeline, **options), folder / "reward.skops"


def requests_of(n, seed):
    """Requests of distinct completions."""
    texts = np.unique(make_detox_preferences(n * REQUEST, random_state=seed).data)
    return np.random.default_rng(seed).permutation(texts)[: n * REQUEST].reshape(n, REQUEST).tolist()


def compare_throughput(local, remote, requests, turns):
    """Completions a second of both, by turns."""
    local(completions=requests[0]), remote(completions=requests[0])
    seconds = {"in process": [], "served": []}
    for _ in range(turns):
        for name, reward in (("in process", local), ("served", remote)):
            start = time.perf_counter()
            for request in requests:
                reward(completions=request)
            seconds[name].append((time.perf_counter() - start) / (len(requests) * REQUEST))
    return {name: 1 / np.median(values) for name, values in seconds.items()}


class Client(threading.Thread):
    """Asks until it is told to stop."""

    def __init__(self, url, requests, expected):
        super().__init__()
        self.reward, self.requests, self.expected = RemoteReward(url, n_tries=60), requests, expected
        self.seconds, self.wrong, self.lost, self.ended = [], 0, 0, threading.Event()

    def run(self):
        row = 0
        while not self.ended.is_set():
            start = time.perf_counter()
            try:
                found = self.reward(completions=self.requests[row % len(self.requests)])
                self.wrong += not np.allclose(found, self.expected[row % len(self.requests)], atol=1e-5)
            except (ValueError, ConnectionError):
                self.lost += 1
            self.seconds.append(time.perf_counter() - start)
            row += 1


def ask_at_once(url, requests, expected, n_clients, during):
    """Clients that ask while ``during()`` runs."""
    clients = [Client(url, requests[i::n_clients], expected[i::n_clients]) for i in range(n_clients)]
    for client in clients:
        client.start()
    try:
        during()
    finally:
        for client in clients:
            client.ended.set()
        for client in clients:
            client.join()
    return clients


def main(size="small", minutes=1.0, encoder=True):
    """Run the three parts, print a table, and return its figures."""
    torch.set_num_threads(1)
    plan, memory = SIZES[size], []
    with tempfile.TemporaryDirectory() as folder:
        local, pipeline = make_reward(Path(folder), encoder)
        requests = requests_of(max(plan["requests"], 2 * plan["clients"]), seed=1)
        expected = [local(completions=request) for request in requests]
        server = Server(pipeline)
        server.start()
        try:
            rates = compare_throughput(local, RemoteReward(server.url), requests[: plan["requests"]], plan["turns"])
            clients = ask_at_once(
                server.url, requests, expected, plan["clients"], lambda: time.sleep(max(1.0, 10 * minutes))
            )
            waits = np.concatenate([client.seconds[1:] for client in clients])

            def restart_now_and_then():
                for turn in range(plan["starts"]):
                    if turn:
                        server.stop()
                        server.start()
                    time.sleep(30 * minutes / plan["starts"])
                    early = server.megabytes()
                    time.sleep(30 * minutes / plan["starts"])
                    memory.append(server.megabytes() / early - 1)

            clients += ask_at_once(server.url, requests, expected, plan["clients"], restart_now_and_then)
        finally:
            server.stop()
    figures = {
        "completions a second, in process": rates["in process"],
        "completions a second, served": rates["served"],
        "served / in process (aim: at least 0.9)": rates["served"] / rates["in process"],
        "latency with all clients, median, s": float(np.median(waits)),
        "99 % / median (aim: below 2)": float(np.quantile(waits, 0.99) / np.median(waits)),
        "requests under full load": sum(len(client.seconds) for client in clients),
        "of them lost": sum(client.lost for client in clients),
        "of them wrong": sum(client.wrong for client in clients),
        "growth of memory, at most (aim: 5 %)": max(memory),
    }
    load = f"{minutes:g} minutes with {plan['starts']} starts"
    print(f"{plan['clients']} clients, {REQUEST} completions a request, {load}\n")
    print("\n".join(f"| {name} | {value:.3g} |" for name, value in figures.items()))
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--minutes", type=float, default=1.0, help="of full load")
    main(**vars(parser.parse_args()))
