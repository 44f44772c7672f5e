"""Log-probabilities of outputs, and mean states over them, from one pass of a model; kept in the store."""

import time
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..features.batching import run_sorted
from ..features.loading import count_positions
from ..features.store import EmbeddingStore, StoreError, text_keys
from ..warn import warn_user

_FLUSH_SECONDS = 5.0  # between two writes to the store
_N_PROBED = 8  # tokens on which a model is checked
_CHUNK = 2**20  # logits that are made at once where the head runs on its own: such a number stays in a CPU's cache
_GPU_CHUNK = 2**26  # the same on a GPU
_LEAST_POSITIONS = 64  # of a chunk: each reads all weights of the head
_BATCH = 2**27  # logits of a batch where a model makes all of them


class Settings(NamedTuple):
    """How models score."""

    n_vocabulary: int  # rows of the softmax
    batch_size: int | None
    store: str | None
    verbose: bool


class Values(NamedTuple):
    """What one model gives distinct outputs."""

    log_probs: np.ndarray  # (n_distinct,), float64, natural logarithms
    n_tokens: np.ndarray  # (n_distinct,)
    states: np.ndarray  # (n_distinct, n_layers, n_features), float32


def score(model, outputs, settings, layers=()):
    """Score distinct outputs by a model; it runs only on those that the store lacks.

    Parameters
    ----------
    model : ScoredModel, or anything with its methods
    outputs : TokenizedOutputs
    settings : Settings
    layers : sequence of int, default=()
        Layers whose states are wanted; -1 is the last one.

    Returns
    -------
    Values
    """
    n_features = model.config.hidden_size
    table = np.full((len(outputs.ids), 2), np.nan)
    states = np.full((len(outputs.ids), len(layers), n_features), np.nan, dtype=np.float32)
    shelf = _Shelf(model, settings, layers)
    missing = shelf.read(outputs.keys(), table, states)
    if len(missing):
        some = outputs.select(missing)
        try:
            for rows, log_probs, pooled in run_model(model, some, settings, layers):
                table[missing[rows]] = [(values.sum(dtype=np.float64), len(values)) for values in log_probs]
                states[missing[rows]] = pooled
                shelf.write(missing[rows])
        finally:
            shelf.flush()
    return Values(table[:, 0], table[:, 1], states)


def token_log_probs(model, outputs, settings):
    """Log-probabilities of the tokens of each distinct output; the model runs, since the store keeps only their sums.

    Parameters
    ----------
    model, outputs, settings
        See `score`.

    Returns
    -------
    log_probs : list of ndarray of shape (n_tokens,)
    """
    found: list = [None] * len(outputs.ids)
    for rows, log_probs, _ in run_model(model, outputs, settings):
        for row, values in zip(rows, log_probs, strict=True):
            found[row] = values.astype(np.float64)
    return found


class _Shelf:
    """What the store holds of a model: a table for log-probabilities, one for each layer."""

    def __init__(self, model, settings, layers):
        self.store = None if settings.store is None else EmbeddingStore(settings.store)
        if self.store is None:
            return
        about = {
            "model": model.identity(),
            "_name": model.name,
            "dtype": model.dtype,
            "attention": model.attention,
            "vocabulary": settings.n_vocabulary,
        }
        self.names = [{**about, "columns": "log-probability, tokens", "store_dtype": "float64"}]
        for layer in layers:
            pooled = {"columns": "mean state of the output's tokens", "layer": int(layer), "store_dtype": "float32"}
            self.names.append({**about, **pooled})

    def read(self, keys, table, states):
        """Fill in what is stored; the outputs that lack something."""
        self.waiting, self.saved_at = [], time.monotonic()
        if self.store is None:
            return np.arange(len(keys))
        self.keys = text_keys(keys)
        self.columns = [table, *np.moveaxis(states, 1, 0)]
        lacking = np.zeros(len(keys), dtype=bool)
        for name, column in zip(self.names, self.columns, strict=True):
            found, vectors = self.store.read(name, self.keys)
            if found.any():
                column[found] = vectors
            lacking |= ~found
        return np.flatnonzero(lacking)

    def write(self, rows):
        self.waiting.extend(rows)
        if time.monotonic() - self.saved_at > _FLUSH_SECONDS:
            self.flush()

    def flush(self):
        """Write what waits; a store that cannot be written is given up with a warning."""
        rows, self.waiting, self.saved_at = self.waiting, [], time.monotonic()
        if self.store is None or not rows:
            return
        try:
            for name, column in zip(self.names, self.columns, strict=True):
                self.store.write(name, [self.keys[row] for row in rows], column[rows])
        except StoreError as error:
            warn_user(f"Values are not stored: {error} The results are complete.")
            self.store = None


def run_model(model, outputs, settings, layers=()):
    """Yield rows, the log-probabilities of the tokens of each and mean states (n_rows, n_layers, n_features), by batch.

    Log-probabilities are in float32 whatever the precision of the model.
    """
    with model.open() as module:
        _check_tokens(model, module, outputs, settings.n_vocabulary)
        run = _Pass(model, module, outputs, settings, layers)
        bar = tqdm(total=len(outputs.ids), desc=f"Scoring by the {model.called}", disable=not settings.verbose)
        options = {"batch_size": settings.batch_size, "batch_tokens": run.batch_tokens}
        with bar:
            for rows, values in run_sorted(run, outputs.lengths, module.device, **options):
                pooled = values[:, : len(layers) * run.n_features].reshape(len(rows), len(layers), run.n_features)
                values = values[:, len(layers) * run.n_features :]
                n_tokens = outputs.lengths[rows] - outputs.starts[rows]
                log_probs = [row[:n] for row, n in zip(values, n_tokens, strict=True)]
                for row, found in zip(rows, log_probs, strict=True):
                    _check_finite(model, outputs, row, found)
                yield rows, log_probs, pooled
                bar.update(len(rows))


class _Pass:
    """A pass over a batch of rows: the body of the model, and its head on the positions that tell an output's tokens.

    Results are states of all layers, then log-probabilities, (n_rows, n_layers * n_features + longest output).
    """

    def __init__(self, model, module, outputs, settings, layers):
        self.module, self.outputs, self.layers, self.n_vocabulary = module, outputs, layers, settings.n_vocabulary
        self.n_features = model.config.hidden_size
        inner = module.get_base_model() if hasattr(module, "get_base_model") else module
        self.body, self.head, self.batch_tokens = inner.base_model, inner.get_output_embeddings(), None
        if not self._head_is_all(model, inner):
            self.body, self.batch_tokens = None, max(1, _BATCH // model.config.vocab_size)

    def _head_is_all(self, model, inner):
        """Check on a text that the model is causal; whether body and head give its logits, without a last step."""
        ids = torch.from_numpy(self.outputs.ids[0][:_N_PROBED])[None].to(self.module.device)
        with torch.inference_mode():
            logits = self.module(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]
            before = self.module(input_ids=ids[:, :-1], use_cache=False).logits[:, 1 - ids.shape[1] :]
            finite = logits[:, :-1].isfinite() & before.isfinite()
            one, other = logits[:, :-1][finite].float(), before[finite].float()
            if one.numel() and (one - other).abs().mean() > 0.05 * one.std(correction=0):
                found = f"The {model.called} {model.name} gives a token another probability when more text follows"
                raise ValueError(
                    f"{found}. Expected a causal language model: an encoder gives no probability of a text."
                )
            if self.head is None or self.body is inner:
                return False
            found = self.head(self.body(input_ids=ids, use_cache=False).last_hidden_state)
        return found.shape == logits.shape and torch.allclose(found, logits, rtol=1e-5, atol=1e-5)

    def __call__(self, rows):
        device = self.module.device
        parts = [torch.from_numpy(self.outputs.ids[row]) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).to(device)
        bounds = (self.outputs.starts[rows], self.outputs.lengths[rows])
        starts, ends = (torch.from_numpy(bound)[:, None].to(device) for bound in bounds)
        places = torch.arange(ids.shape[1], device=device)
        options = {"use_cache": False, "output_hidden_states": bool(self.layers)}
        with torch.inference_mode():
            mask = (places < ends).long() if len(set(map(len, parts))) > 1 else None
            output = (self.body or self.module)(input_ids=ids, attention_mask=mask, **options)
            said = (places >= starts) & (places < ends)  # the tokens of outputs
            asked = said[:, 1:]  # the positions before them, which tell their probabilities
            targets = ids[:, 1:][asked]
            if self.body is None:
                found = _log_softmax(output.logits[:, -ids.shape[1] : -1][asked][:, : self.n_vocabulary], targets)
            else:
                size = _CHUNK if device.type == "cpu" else _GPU_CHUNK
                hidden, n_rows = (
                    output.last_hidden_state[:, :-1][asked],
                    max(_LEAST_POSITIONS, size // self.n_vocabulary),
                )
                chunks = zip(hidden.split(n_rows), targets.split(n_rows), strict=True)
                found = torch.cat([_log_softmax(self.head(h)[:, : self.n_vocabulary], t) for h, t in chunks])
            n_tokens = (ends - starts)[:, 0]
            log_probs = torch.nn.utils.rnn.pad_sequence(found.split(n_tokens.tolist()), batch_first=True)
            states = [self._mean(output, layer, said, n_tokens) for layer in self.layers]
            return torch.cat([*states, log_probs], dim=1).cpu().numpy()

    def _mean(self, output, layer, said, n_tokens):
        states = output.hidden_states[layer][:, -said.shape[1] :].float()
        return states.masked_fill(~said[..., None], 0).sum(dim=1) / n_tokens[:, None]


def _log_softmax(logits, targets):
    return -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def _check_tokens(model, module, outputs, n_vocabulary):
    longest = count_positions(module)
    too_long = np.flatnonzero(outputs.lengths > longest)
    if len(too_long):
        first = too_long[0]
        n_prompt, n_tokens = int(outputs.starts[first]), int(outputs.lengths[first])
        raise ValueError(
            f"The text in {outputs.place(first)} is too long for the {model.called}: {n_prompt} tokens of its prompt "
            f"and {n_tokens - n_prompt} of its output ({len(too_long)} of {len(outputs.ids)} texts are). Expected "
            f"{longest} at most, all that the model reads: shorten or drop such rows."
        )
    n_known = min(n_vocabulary, module.get_input_embeddings().num_embeddings)
    largest = max(int(ids.max()) for ids in outputs.ids)
    if largest >= n_known:
        found = f"The tokenizer gives the token id {largest}, but the {model.called} knows {n_known} tokens"
        raise OSError(f"{found}: it is the tokenizer of another model. Give the right one as tokenizer=...")


def _check_finite(model, outputs, row, log_probs):
    bad = np.flatnonzero(~np.isfinite(log_probs))
    if not len(bad):
        return
    where = f"token {bad[0]} of the output in {outputs.place(row)}"
    if np.isneginf(log_probs[bad[0]]):
        raise ValueError(
            f"The {model.called} gives {where} the probability 0, so that its reward is infinite. Expected a model "
            "that can say each output: drop such rows, or leave out what forbids the token."
        )
    raise ValueError(
        f"The {model.called} gives {where} a log-probability that is not finite. Use dtype='float32'; if that is set, "
        "the model's weights are damaged."
    )
