"""Texts to vectors by a frozen transformer model: `TransformerEmbedder`, which embeds each distinct text once."""

import json
import time
from copy import copy
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions  # the parameters' declared constraints
from tqdm.auto import tqdm

from ..cluster import is_dask
from ..device import torch_device
from ..warn import warn_user
from .batching import TokenizedTexts, pool_states, run_batches, warn_of_empty, warn_of_truncation
from .loading import (
    CHAT_DATE,
    DTYPES,
    MINILM,
    MODEL_LOCK,
    POOLING_FILE,
    find_model,
    load_dense,
    load_model,
    load_tokenizer,
    writes_date,
)
from .on_cluster import embed_on_cluster
from .server import embed_by_server, find_served_model, is_address
from .store import EmbeddingStore, StoreError, text_keys
from .templates import check_template, format_texts

__all__ = ["TransformerEmbedder"]

_COLUMNS = "embedding, whether the text was cut"  # what the store keeps of a text
_FLUSH_SECONDS = 5.0  # between two writes to the store


class TransformerEmbedder(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,  # type: ignore  # no set_output, as its tables cannot hold pairs
):
    """Embed texts, or both texts of pairs, with a frozen transformer model.

    `fit` learns nothing: it checks the parameters and reads the model's configuration. The model is loaded with the
    first text and shared by all embedders of a process. A pickle or a clone does not contain it.

    Parameters
    ----------
    model : str or path-like, default="minilm"
        A folder with a Hugging Face model, or a name in the hub (or its local cache); encoders and decoders alike.
        "minilm" is the packaged all-MiniLM-L6-v2 of the extra ``text``. "http://host:8000/v1" is a server, see Notes.
    pooling : {"mean", "last", "cls", "max"}, default="mean"
        How the states of a text's tokens become one vector: their mean, the last one (for decoders), the first one, or
        their maximum. Padding never counts.
    layer : int, default=-1
        The layer whose states are pooled: 0 is the embedding of tokens, i the i-th block, -1 the last one.
    max_length : int or None, default=None
        Longest text in tokens, special tokens included, up to the positions of the model. None: the least that the
        model's files name.
    truncation_side : {"left", "right"}, default="left"
        The end that a longer text loses. "left" keeps the completion behind its prompt.
    prompt_template : str or None, default=None
        Text with the fields ``{prompt}`` and ``{output}`` that joins the two in a table. None: the model's chat
        template for tables with messages, else `fairl_sk.messages.join_prompt`.
    normalize : bool, default=False
        Scale each embedding to length 1.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        Precision of the model. Half precision changes rewards: use the same for fitting and scoring.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where the model runs. "auto": a GPU if there is one.
    device_map : {"auto", "balanced", "sequential"}, dict or None, default=None
        How accelerate spreads a model over several GPUs and the CPU's memory, in place of ``device``; a dict maps the
        model's modules to devices. None: the model lies on one device.
    batch_tokens : int or None, default=None
        Tokens in a batch, padding included; halved where memory ends. None: up to 1,024 on a CPU, 65,536 on a GPU.
    store : str, path-like or None, default=None
        Folder of the embedding store, shared by folds, candidates, processes and runs. A stored text is not embedded
        again. None: nothing is kept between calls.
    store_dtype : {"float32", "float16"}, default="float32"
        Precision of stored embeddings. `transform` rounds to it, with or without a store.
    revision : str or None, default=None
        Branch, tag or commit of a model in the hub.
    verbose : bool or int, default=False
        Show a progress bar over the texts.

    Attributes
    ----------
    settings_ : dict
        Everything that the embeddings depend on, such as the checksum or the commit of the model. A store keeps
        embeddings by these settings (without ``normalize``) and by text.

    Notes
    -----
    The embeddings are those of sentence-transformers: dense layers behind the pooling, a default prompt, lower case and
    fewer dimensions are applied, but for its module Normalize, which is ``normalize``. Of a T5, the encoder is used. A
    chat template that writes the date writes July 26, 2024 (``settings_["chat_date"]``). If padding changes what a
    model says, as of FNet, a batch holds texts of one length.

    A server has the embeddings API of OpenAI, as vLLM and text-embeddings-inference do. "#name" behind its address
    names one of several models. The environment variable FAIRL_SK_EMBEDDING_TOKEN has its token. The model is known by
    its name and the checksum of its embedding of a probe text. The server cuts long texts, without a warning here.

    With a store, an interrupt loses at most five seconds of work. An embedding depends on the other texts of its batch
    by rounding only (1e-5). Half an emoji, as of cut JSON, is read as the replacement character U+FFFD.

    References
    ----------
    .. [1] N. Reimers and I. Gurevych. Sentence-BERT. EMNLP 2019 (mean pooling).

    Examples
    --------
    >>> from fairl_sk import TransformerEmbedder
    >>> TransformerEmbedder().fit_transform([["thank you", "go away"]]).shape
    (1, 2, 384)
    """

    _parameter_constraints = {
        "model": [str, Path],
        "pooling": [StrOptions({"mean", "last", "cls", "max"})],
        "layer": [Integral],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "truncation_side": [StrOptions({"left", "right"})],
        "prompt_template": [str, None],
        "normalize": ["boolean"],
        "dtype": [StrOptions(set(DTYPES))],
        "device": [str],
        "device_map": [str, dict, None],
        "batch_tokens": [Interval(Integral, 1, None, closed="left"), None],
        "store": [str, Path, None],
        "store_dtype": [StrOptions({"float32", "float16"})],
        "revision": [str, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model=MINILM,
        *,
        pooling="mean",
        layer=-1,
        max_length=None,
        truncation_side="left",
        prompt_template=None,
        normalize=False,
        dtype="float32",
        device="cpu",
        device_map=None,
        batch_tokens=None,
        store=None,
        store_dtype="float32",
        revision=None,
        verbose=False,
    ):
        self.model = model
        self.pooling = pooling
        self.layer = layer
        self.max_length = max_length
        self.truncation_side = truncation_side
        self.prompt_template = prompt_template
        self.normalize = normalize
        self.dtype = dtype
        self.device = device
        self.device_map = device_map
        self.batch_tokens = batch_tokens
        self.store = store
        self.store_dtype = store_dtype
        self.revision = revision
        self.verbose = verbose

    def fit(self, X=None, y=None):
        """Check the parameters and read the model's configuration; no text is embedded.

        Parameters
        ----------
        X, y : ignored

        Returns
        -------
        self : TransformerEmbedder

        Raises
        ------
        OSError
            If the model cannot be found, or lacks a file.
        ValueError
            If a parameter does not fit the model.
        """
        self.settings_ = {**self._settings(), "normalize": self.normalize}
        if not is_address(self.model) and writes_date(self._source()):
            self.settings_["chat_date"] = CHAT_DATE.date().isoformat()
        self._fitted_model = str(self.model), self.revision
        _warn_of_pooling(self)
        return self

    def _source(self):
        return find_served_model(str(self.model)) if is_address(self.model) else find_model(self.model, self.revision)

    @property
    def _n_features_out(self):
        source = self._source()
        return source.n_features if self.layer in (-1, source.n_layers) else source.n_inner_features

    def _settings(self):
        """Check the parameters; what embeddings depend on."""
        self._validate_params()
        check_template(self.prompt_template)
        torch_device(self.device)
        if self.device_map is not None and self.device != "cpu":
            raise ValueError(
                f"Found device={self.device!r} and device_map={self.device_map!r}. Expected one of them: the map says "
                "where each part of the model lies."
            )
        if is_address(self.model):
            _check_served(self)
        source = self._source()
        if not is_address(self.model):
            _check_fit(source, self.layer, self.max_length)
        return {
            "model": source.identity,
            "_name": Path(str(self.model)).name if source.is_folder else str(self.model),
            "pooling": self.pooling,
            "layer": int(self.layer),
            "dtype": self.dtype,
            "attention": source.attention,
            "max_length": self.max_length or source.max_length,
            "truncation_side": self.truncation_side,
            "prompt_template": self.prompt_template,
            "store_dtype": self.store_dtype,
        }

    def _check_unchanged(self, settings):
        """Refuse another model than that of `fit`: the estimator behind would misread its embeddings."""
        if self._fitted_model == (str(self.model), self.revision) and settings["model"] != self.settings_["model"]:
            raise ValueError(
                f"Found the model {settings['model']} at {str(self.model)!r}. Expected {self.settings_['model']}, with "
                "which this was fitted. Put that model back (for one of the hub, set revision to its commit), or fit "
                "again."
            )

    def transform(self, X):
        """Embed texts.

        Parameters
        ----------
        X : array-like of str of shape (n_samples,) or (n_pairs, 2), or table
            Texts, pairs of texts, or a table with columns ``chosen`` and ``rejected``, or ``completion`` (and
            ``prompt``), whose cells are texts or lists of messages. Also a bag, an array or a DataFrame of Dask.

        Returns
        -------
        embeddings : ndarray of shape (n_samples, n_features) or (n_pairs, 2, n_features), float32
            Of a collection of Dask: an array of Dask, whose blocks are read from the store.

        Raises
        ------
        ValueError
            For anything that is no text, or a text without a token, or if the model's files changed since `fit`.
            For a collection of Dask without ``store``.
        OSError
            See `fit`; also for a damaged store.
        MemoryError
            If a single text does not fit into memory.
        RuntimeError
            For a collection of Dask without a cluster.

        Warns
        -----
        UserWarning
            If texts are empty or were truncated, or embeddings could not be stored; without `fit`, also as `fit`.
        """
        if not hasattr(self, "settings_"):
            _warn_of_pooling(self)
        if is_dask(X):
            return self._transform_on_cluster(X)
        texts, distinct, inverse, settings = self._read(X)
        warn_of_empty(sum(not text.strip() for text in texts.flat))
        embeddings, n_cut = self._embed(distinct, settings)
        warn_of_truncation(n_cut, len(distinct), settings["max_length"], settings["truncation_side"])
        return self._normalized(embeddings[inverse]).reshape(*texts.shape, -1)

    def _normalized(self, embeddings):
        """The embeddings, scaled in place if they should be."""
        if self.normalize:
            embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        return embeddings

    def _transform_on_cluster(self, X):
        """`transform` of a collection of Dask, on its workers, by the model and the settings of this process."""
        if self.store is None:
            raise ValueError(
                "Found a collection of Dask and store=None. Set store to a folder that all workers reach: they embed "
                "each text once, and an embedding that is stored survives the loss of a worker."
            )
        worker, settings = copy(self), self._settings()
        if hasattr(self, "settings_"):
            self._check_unchanged(settings)
        worker.store, worker.verbose = Path(self.store).absolute(), False  # workers have a folder of their own
        if self._source().is_folder and Path(self.model).is_dir():
            worker.model = str(Path(self.model).absolute())
        worker.settings_ = settings
        worker._fitted_model = str(worker.model), self.revision
        embeddings, n_cut, n_texts = embed_on_cluster(
            X, worker._read, worker._embed_owned, worker._stored, self._n_features_out, verbose=self.verbose
        )
        warn_of_truncation(n_cut, n_texts, settings["max_length"], self.truncation_side)
        return embeddings

    def _embed_owned(self, part, owned):
        """Embed and store the distinct texts of a partition that a mask names; how many were cut."""
        _, distinct, _, settings = self._read(part)
        return self._embed(distinct[owned], settings, must_store=True)[1]

    def _stored(self, part):
        """Embeddings of a partition, all of which workers have stored."""
        texts, distinct, inverse, settings = self._read(part)
        found, vectors = EmbeddingStore(self.store).read({**settings, "columns": _COLUMNS}, text_keys(distinct))
        if not found.all():
            raise StoreError(
                f"The store {self.store} lacks {np.count_nonzero(~found)} of {len(found)} texts that were embedded. "
                "Expected one folder that all workers reach; if it was deleted, call transform again."
            )
        embeddings = vectors[inverse, :-1].astype(np.float32)
        return self._normalized(embeddings).reshape(*texts.shape, -1)

    def _read(self, X):
        """Texts in the shape of X, the distinct ones as they are embedded, their inverse, and settings."""
        settings, source = self._settings(), self._source()
        if hasattr(self, "settings_"):
            self._check_unchanged(settings)
        texts, templated = format_texts(X, self.prompt_template, source)
        prompted = texts.ravel()
        if not templated:
            prompted = [source.prompt + text for text in prompted]
            prompted = np.array([text.lower() for text in prompted] if source.is_lower else prompted, dtype=object)
        distinct, inverse = np.unique(prompted, return_inverse=True)
        return texts, distinct, inverse, {**settings, "special_tokens": not templated}

    def _embed(self, texts, settings, *, must_store=False):
        """Embeddings (n_texts, n_features) of distinct texts, from the store or the model, and how many were cut."""
        table = np.empty((len(texts), self._n_features_out + 1), dtype=np.float32)  # the last column: was it cut?
        store = None if self.store is None else EmbeddingStore(self.store)
        settings = {**settings, "columns": _COLUMNS}
        missing, keys = np.arange(len(texts)), None
        if store is not None:
            keys = text_keys(texts)
            found, stored = store.read(settings, keys)
            missing = np.flatnonzero(~found)
            if found.any():
                table[found] = stored
        rows, saved_at = [], time.monotonic()
        try:
            for part, vectors in self._run(texts[missing], settings) if len(missing) else ():
                table[missing[part]] = vectors
                rows.extend(missing[part])
                if time.monotonic() - saved_at > _FLUSH_SECONDS:
                    store = _save(store, settings, keys, rows, table, must_store)
                    rows, saved_at = [], time.monotonic()
        finally:
            _save(store, settings, keys, rows, table, must_store)
        return table[:, :-1], np.count_nonzero(table[:, -1])

    def _run(self, texts, settings):
        """Yield rows and what the store keeps of them, batch by batch: embeddings, and whether a text was cut."""
        source, device = self._source(), torch_device(self.device)
        if is_address(self.model):
            for rows, vectors in embed_by_server(source, texts):
                yield rows, np.column_stack([vectors, np.zeros(len(rows))])
            return
        mapped = sorted(self.device_map.items()) if isinstance(self.device_map, dict) else self.device_map
        options = () if mapped is None else (json.dumps(mapped, default=str),)
        with MODEL_LOCK:  # several threads load it once
            module = load_model(*source[:3], self.dtype, str(device), *options)
        if mapped is not None:  # inputs go to the first GPU of the map, and outputs come back to it
            places = getattr(module, "hf_device_map", {"": module.device}).values()  # without: one device has all
            device = torch.device(next((place for place in places if str(place) not in ("cpu", "disk")), "cpu"))
        how = {name: settings[name] for name in ("max_length", "truncation_side", "special_tokens")}
        tokens = TokenizedTexts(load_tokenizer(*source[:3]), texts, **how)
        tokens.check_vocabulary(module, source.path)
        options = {} if self.layer == -1 else {"output_hidden_states": True}
        batches = run_batches(module, tokens, self._pool, device, batch_tokens=self.batch_tokens, **options)
        with tqdm(total=len(texts), desc="Embedding", unit="text", disable=not self.verbose) as bar:
            for rows, vectors in batches:
                with np.errstate(over="ignore"):
                    vectors = vectors.astype(self.store_dtype)
                if not np.isfinite(vectors).all():
                    raise ValueError(
                        f"The model gave embeddings that {self.store_dtype} cannot hold (NaN, or too large). Use "
                        "dtype='float32' and store_dtype='float32'; if they are set already, the model's weights are "
                        "damaged."
                    )
                yield rows, np.column_stack([vectors, tokens.cut[rows]])
                bar.update(len(rows))

    def _pool(self, output, mask):
        states = output.last_hidden_state if self.layer == -1 else output.hidden_states[self.layer]
        pooled = pool_states(states, mask, self.pooling)
        source = self._source()
        if self.layer not in (-1, source.n_layers):
            return pooled
        if source.dense:
            pooled = load_dense(*source[:3], source.dense).to(pooled.device)(pooled)
        return pooled[:, : source.n_features]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False  # numbers are refused, as by scikit-learn's text vectorizers
        tags.requires_fit = False
        return tags

    def __sklearn_is_fitted__(self):
        return True


def _save(store, settings, keys, rows, table, must_store):
    """Write rows of the table; the store, or None once it cannot be written, which is an error if it must be."""
    if store is None or not rows:
        return store
    try:
        store.write(settings, [keys[row] for row in rows], table[rows])
    except StoreError as error:
        if must_store:
            raise
        warn_user(f"Embeddings are not stored: {error} The results are complete.")
        return None
    return store


def _check_served(embedder):
    """Refuse what only a model in this process can be told."""
    defaults = {"pooling": "mean", "layer": -1, "max_length": None, "dtype": "float32", "revision": None}
    defaults |= {"device_map": None}
    changed = {name: getattr(embedder, name) for name in defaults if getattr(embedder, name) != defaults[name]}
    if changed:
        raise ValueError(f"Found {changed} with the server {embedder.model}, which decides that itself. Drop them.")


def _check_fit(source, layer, max_length):
    """Refuse a model that is no encoder or decoder alone, and a layer or a length that it does not have."""
    if source.has_decoder:
        raise ValueError(
            f"The model {source.path} is an encoder with a decoder. Expected one of both, or a T5, whose encoder "
            "is used: name another model."
        )
    n_layers = source.n_layers
    if not -n_layers - 1 <= layer <= n_layers:
        raise ValueError(f"Found layer={layer}. Expected {-n_layers - 1} to {n_layers}: the model has {n_layers}.")
    if max_length is not None and not source.n_special < max_length <= source.n_positions:
        raise ValueError(
            f"Found max_length={max_length}. Expected {source.n_special + 1} to {source.n_positions}: {source.path} "
            f"has positions for no more tokens, and {source.n_special} of them are special ones."
        )


def _warn_of_pooling(embedder):
    source, pooling = embedder._source(), embedder.pooling
    if source.pooling not in (None, pooling) and embedder.layer in (-1, source.n_layers):
        offered = source.pooling in ("mean", "last", "cls", "max")
        warn_user(
            f"Found pooling={pooling!r}, but {embedder.model} was trained with {source.pooling!r} ({POOLING_FILE}). "
            + (f"Set pooling={source.pooling!r}." if offered else "No pooling here does that: name another model.")
        )
