"""Embeddings of a server that another program runs; `fairl_sk.features.encoder` asks it in place of a model."""

import json
import os
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from .loading import ModelSource

__all__ = ["embed_by_server", "find_served_model", "is_address"]

TOKEN = "FAIRL_SK_EMBEDDING_TOKEN"
_PROBE = "The quick brown fox jumps over the lazy dog."
_BATCH, _REQUESTS = 32, 4  # texts of a request, and requests at once
_SECONDS, _TRIES = 120, 6
_RETRIED = (408, 429, 500, 502, 503, 504)
_PROBES: dict = {}  # by address: the embedding of the probe when the process first asked
_LEAST_COSINE = 0.999  # of two embeddings of the probe by one model, which differ by rounding


def is_address(model):
    """Whether a model is named by the address of a server."""
    return str(model).startswith(("http://", "https://"))


@lru_cache(maxsize=16)
def find_served_model(address):
    """What is known of a server's model: its name, and the checksum of its embedding of a probe text.

    ``address`` is that of the API, such as "http://127.0.0.1:8000/v1"; "#name" behind it names one of several models.
    """
    url, name = _split(address)
    name = name or _first_model(url)
    vector = _PROBES[address] = _request(url, name, [_PROBE])[0]
    checksum = blake2b(np.round(vector / np.linalg.norm(vector), 2).astype(np.float32).tobytes(), digest_size=8)
    return ModelSource(
        path=address,
        revision=None,
        identity=f"{name}, probe {checksum.hexdigest()}",
        is_folder=False,
        has_decoder=False,
        is_part=False,
        n_features=len(vector),
        n_inner_features=len(vector),
        n_layers=0,
        n_special=0,
        n_positions=0,
        max_length=0,
        attention="of the server",
        pooling=None,
        dense=(),
        prompt="",
        is_lower=False,
        n_kept=None,
    )


def embed_by_server(source, texts):
    """Yield rows and embeddings (n_rows, n_features) of texts, batch by batch.

    Raises ConnectionError if the server does not answer, and ValueError if it refuses a request, or its embedding of
    the probe is no longer that of ``source``.
    """
    (url, _), name = _split(source.path), source.identity.rpartition(", probe ")[0]
    before, now = _PROBES[source.path], _request(url, name, [_PROBE])[0]
    alike = len(before) == len(now) and before @ now >= _LEAST_COSINE * np.linalg.norm(before) * np.linalg.norm(now)
    if not alike:
        find_served_model.cache_clear()
        raise ValueError(
            f"The server {url} gives other embeddings than before. Start it with the model {name!r} again."
        )
    parts = [np.arange(start, min(start + _BATCH, len(texts))) for start in range(0, len(texts), _BATCH)]
    threads = ThreadPoolExecutor(_REQUESTS)
    try:
        yield from zip(parts, threads.map(lambda rows: _request(url, name, texts[rows].tolist()), parts), strict=True)
    finally:
        threads.shutdown(cancel_futures=True)


def _split(address):
    url, _, name = address.partition("#")
    return url.rstrip("/"), name


def _first_model(url):
    """The name that the server tells; an empty one if it tells none."""
    try:
        return str(_answer(f"{url}/models")["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        return ""


def _request(url, name, texts):
    """Embeddings (n_texts, n_features) by the embeddings API of OpenAI, which text-embeddings-inference has too."""
    answer = _answer(f"{url}/embeddings", {"model": name, "input": texts, "encoding_format": "float"})
    try:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{url} gave no embeddings. Expected the embeddings API of OpenAI, as at .../v1.") from error
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
        raise ValueError(f"{url} gave embeddings of shape {vectors.shape} for {len(texts)} texts. Expected one each.")
    return vectors


def _answer(url, body=None):
    """The JSON answer to a request, which is tried again while the server is busy or cannot be reached."""
    headers = {"Content-Type": "application/json"}
    if os.environ.get(TOKEN):
        headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
    data, failure = None if body is None else json.dumps(body).encode(), ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(min(0.5 * 2.0 ** (attempt - 1), 10.0))
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            failure = f"{error.code} {error.reason}"
            if error.code not in _RETRIED:
                raise ValueError(f"{url} refused the request: {failure}. Check the address, and {TOKEN}.") from error
        except OSError as error:  # refused, reset, timed out
            failure = str(error)
    raise ConnectionError(f"{url} gave no answer in {_TRIES} tries ({failure}). Is the server running?")
