"""What the tests share: a quiet, offline, single-threaded machine and preferences whose reward is known."""

import os
import socket
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before scipy is imported: scikit-learn's array API check runs
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# before numpy and torch are imported: on two cores, two workers with two threads each would wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from fairl_sk import PairTransformer
from fairl_sk.datasets import make_detox_preferences, make_preferences

torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter):
    """Nothing is skipped without a reason printed, snippets of the docs included."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "skipped snippet":
                terminalreporter.write_line(f"SKIPPED snippet: {value}")


@pytest.fixture(autouse=True)
def _no_figure_of_an_earlier_test():
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def without_pictures(monkeypatch):
    """Results with empty pictures, since drawing takes seconds; test_report.py and test_audit.py look at pictures."""
    monkeypatch.setattr("fairl_sk.audit.page.svg_of", lambda picture: "")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **options: Path(path).touch())


@pytest.fixture
def untuned(monkeypatch):
    """Audits with the learners' defaults, as of fewer groups than folds: a search takes half of their time."""
    monkeypatch.setattr("fairl_sk.audit.choice.N_FOLDS", 1000)


@pytest.fixture(scope="module")
def cluster():
    """Two workers of Dask, which are threads of this process."""
    from distributed import Client, LocalCluster

    options = {"processes": False, "protocol": "inproc://", "dashboard_address": ":0"}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster, Client(cluster):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def preferences():
    """500 pairs of 8 features with a known linear reward, one in ten preferences flipped."""
    return make_preferences(500, 8, noise=0.1, random_state=0)


@pytest.fixture(scope="session")
def detox():
    """400 pairs of mild texts with a known reward."""
    return make_detox_preferences(400, random_state=0)


@pytest.fixture(scope="session")
def running():
    """A context manager: the address of a web application in a thread of this process."""
    import uvicorn

    @contextmanager
    def run(app):
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="error"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                while not server.started:
                    time.sleep(0.01)
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()

    return run


@pytest.fixture
def text_features():
    """The features that the audit uses, small."""
    return PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(16, random_state=0)))


def chosen_first(bunch, values=None):
    """The pairs of a bunch as tuples (chosen, rejected)."""
    values = bunch.data if values is None else values
    return [tuple(row if target else row[::-1]) for row, target in zip(values, bunch.target, strict=True)]
