"""An embedding server in place of a model: the same interface, batches, retries, and a model that is recognized."""

import numpy as np
import pytest
from embedding_api import serving, vector

from fairl_sk import TransformerEmbedder
from fairl_sk.features import server as client
from fairl_sk.store import EmbeddingStore


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)


def test_texts_are_embedded_in_batches_once_and_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRL_SK_EMBEDDING_TOKEN", "s3cret")
    texts = np.array([f"text {number % 70}" for number in range(140)]).reshape(70, 2)
    with serving(failures=[503]) as (address, state):
        embedder = TransformerEmbedder(address, store=tmp_path).fit()
        found = embedder.transform(texts)
        assert embedder.settings_["model"].startswith("tiny, probe ")
        np.testing.assert_allclose(found[3, 1], vector("text 7", 0), rtol=1e-6)
        sizes = sorted(size for _, size, _ in state["requests"])
        assert sizes == [1, 1, 1, 6, 32, 32]  # two probes, one of them tried twice, and 70 distinct texts
        assert {(name, token) for name, _, token in state["requests"]} == {("tiny", "Bearer s3cret")}
        np.testing.assert_array_equal(TransformerEmbedder(f"{address}#tiny", store=tmp_path).transform(texts), found)
        assert sum(size for _, size, _ in state["requests"]) - sum(sizes) == 1  # the probe: the rest is in the store
    assert [row["n_vectors"] for row in EmbeddingStore(tmp_path).list()] == [70]


def test_another_model_behind_the_address_is_refused():
    with serving() as (address, state):
        embedder = TransformerEmbedder(address).fit()
        before = embedder.settings_["model"]
        state["seed"] = 1
        with pytest.raises(ValueError, match="other embeddings than before"):
            embedder.transform(["a"])
        with pytest.raises(ValueError, match=f"Expected {before}"):
            embedder.transform(["a"])
        assert embedder.fit().transform(["a"]).shape == (1, 8)


def test_what_a_server_cannot_do_is_told():
    with serving(failures=[404]) as (address, _):
        with pytest.raises(ValueError, match="Found {'pooling': 'last'} with the server"):
            TransformerEmbedder(address, pooling="last").fit()
        with pytest.raises(ValueError, match="refused the request: 404"):
            TransformerEmbedder(address).fit()
    with pytest.raises(ConnectionError, match="gave no answer in 6 tries"):
        TransformerEmbedder(address).fit()
