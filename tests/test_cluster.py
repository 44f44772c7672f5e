"""Texts in a collection of Dask: workers embed them into one store, each text once, whatever happens to a worker."""

import logging
import os
import shutil
import signal
import threading
import time

import dask.array as da
import dask.bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from embedding_api import serving, vector
from tiny_models import CHAT, WORDS, save_model

from fairl_sk import MaxEntropyIRL, TransformerEmbedder
from fairl_sk.store import EmbeddingStore, StoreError

TEXTS = np.array([f"text {number % 37}" for number in range(80)]).reshape(40, 2)


def collections():
    table = pd.DataFrame(TEXTS, columns=["chosen", "rejected"])
    yield "bag", dask.bag.from_sequence(TEXTS.tolist(), npartitions=3)
    yield "array", da.from_array(TEXTS, chunks=(15, 1))
    yield "table", dd.from_pandas(table, npartitions=4)


@pytest.mark.parametrize("kind", ["bag", "array", "table"])
def test_each_text_is_embedded_once_on_the_whole_cluster(kind, cluster, tmp_path):
    X = dict(collections())[kind]
    with serving() as (address, state):
        embedder = TransformerEmbedder(address, store=tmp_path, normalize=True).fit()
        found = embedder.transform(X)
        assert sorted(text for text in state["texts"] if text.startswith("text")) == sorted(set(TEXTS.flat))
        expected = np.array([[vector(text, 0) for text in pair] for pair in TEXTS])
        expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
        assert found.shape == (40, 2, 8) and found.dtype == np.float32
        n_texts = len(state["texts"])
        np.testing.assert_allclose(found.compute(), expected, rtol=1e-5)
        assert len(state["texts"]) == n_texts  # blocks are read from the store


def test_a_pipeline_from_texts_to_rewards_on_a_cluster(cluster, tmp_path):
    """A real encoder, whose embeddings and rewards are those of one process, and what the texts are warned of."""
    save_model(tmp_path / "model")
    rng = np.random.default_rng(0)
    texts = np.array([" ".join(rng.choice(WORDS, 6)) for _ in range(80)], dtype=object).reshape(40, 2)
    texts[7, 1], texts[30, 0], texts[31, 0] = " ", " ".join(WORDS * 2), texts[2, 1]
    plain = TransformerEmbedder(tmp_path / "model", max_length=16).fit()
    embedder = TransformerEmbedder(tmp_path / "model", max_length=16, store=tmp_path / "store")
    with pytest.warns(UserWarning, match="1 empty texts"), pytest.warns(UserWarning, match="1 of 79 texts are longer"):
        expected = plain.transform(texts)
    with pytest.warns(UserWarning, match="1 empty texts"), pytest.warns(UserWarning, match="1 of 79 texts are longer"):
        found = embedder.fit_transform(da.from_array(texts, chunks=(15, 2)))
    np.testing.assert_allclose(found.compute(), expected, atol=1e-5)
    y = np.arange(40) % 2
    reward = MaxEntropyIRL().fit(found, y)
    np.testing.assert_allclose(
        reward.decision_function(found), MaxEntropyIRL().fit(expected, y).decision_function(expected), atol=0.02
    )


def test_what_is_wrong_with_texts_on_a_cluster_is_named(cluster, tmp_path, monkeypatch):
    with serving() as (address, _):
        embedder = TransformerEmbedder(address, store=tmp_path / "store").fit()
        with pytest.raises(ValueError, match="In partition 1 .partitions and rows count from 0.: .*3"):
            embedder.transform(dask.bag.from_sequence(["a", "b", "c", 3], npartitions=2))
        with pytest.raises(ValueError, match="Found 0 texts in the collection"):
            embedder.transform(dask.bag.from_sequence([], npartitions=1))
        with pytest.raises(ValueError, match="Expected a bag, an array or a DataFrame"):
            embedder.transform(dask.delayed(["a"]))
        with pytest.raises(ValueError, match="store=None. Set store"):
            TransformerEmbedder(address).fit().transform(da.from_array(TEXTS))

        with pytest.raises(ValueError, match="Found single texts in partition 0 .* pairs in partition 1"):
            embedder.transform(dask.bag.from_sequence(["a", ["b", "c"]], npartitions=2))
        found = embedder.transform(da.from_array(TEXTS))
        shutil.rmtree(tmp_path / "store")
        with pytest.raises(StoreError, match="lacks 37 of 37 texts that were embedded. Expected one folder"):
            found.compute()

        def full(*given):
            raise StoreError("Cannot use the store: database or disk is full.")

        monkeypatch.setattr(EmbeddingStore, "write", full)
        with pytest.raises(StoreError, match="disk is full"):
            embedder.transform(da.from_array(TEXTS))


def test_a_table_with_messages_in_one_partition_only_is_refused(cluster, tmp_path):
    """In memory, the chat template would join the texts, too."""
    save_model(tmp_path / "model", "llama", chat_template=CHAT)
    cells = ["you are kind", "thank you", [{"role": "user", "content": "go away"}], [{"role": "user", "content": "a"}]]
    table = pd.DataFrame({"completion": cells})
    embedder = TransformerEmbedder(tmp_path / "model", pooling="last", store=tmp_path / "store")
    with pytest.raises(ValueError, match="looks like messages that Dask turned into text"):
        embedder.transform(dd.from_pandas(table, npartitions=2))
    with dask.config.set({"dataframe.convert-string": False}):
        table = dd.from_pandas(table, npartitions=2)
    with pytest.raises(ValueError, match="single texts in partition 0 .* single texts of messages in partition 1"):
        embedder.transform(table)


def test_a_killed_worker_costs_no_stored_text_and_changes_no_number(tmp_path, monkeypatch, capfd):
    """Two processes; one is killed when the first of twelve partitions are stored. A fit there, and another model."""
    monkeypatch.chdir(tmp_path)  # workers have another folder
    texts = np.array([f"text {number}" for number in range(240)])
    killed = []

    def kill(client, store):
        while not store.exists() or not store.list()[0]["n_vectors"]:
            time.sleep(0.02)
        pid = next(iter(client.run(os.getpid).values()))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with (
        LocalCluster(n_workers=2, **options) as cluster,
        Client(cluster) as client,
        serving(seconds=0.2) as (address, state),
    ):
        embedder = TransformerEmbedder(address, store="store").fit()
        thread = threading.Thread(target=kill, args=(client, EmbeddingStore(tmp_path / "store")), daemon=True)
        thread.start()
        found = embedder.transform(da.from_array(texts, chunks=20))
        thread.join()
        n_embedded = sum(text.startswith("text") for text in state["texts"])
        expected = [vector(text, 0) for text in texts]
        np.testing.assert_allclose(found.compute(), expected, rtol=1e-5)
        y = np.arange(240) % 2
        reward = MaxEntropyIRL().fit(found, y)
        np.testing.assert_allclose(reward.coef_, MaxEntropyIRL().fit(np.float32(expected), y).coef_, atol=1e-4)
        state["seed"] = 1
        with pytest.raises(ValueError, match="other embeddings than before|Expected tiny, probe"):
            embedder.transform(da.from_array(np.array(["new"])))
    assert "Warning" not in capfd.readouterr().err
    assert len(killed) == 1
    assert 240 <= n_embedded <= 260  # only the partition that the worker was at is embedded again
