"""Run a frozen model over texts in batches of like length; the encoder and the rewards call it."""

from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ..device import ran_out_of_memory
from ..warn import warn_user
from .loading import MODEL_LOCK

_CHUNK = 4096  # texts that are tokenized at once


class TokenizedTexts:
    """Token ids of texts: arrays ``ids`` of int32, ``lengths``, and which texts were ``cut`` to ``max_length`` tokens.

    Half an emoji, as of cut JSON, is read as the replacement character U+FFFD. A text without a token is a ValueError.
    """

    def __init__(self, tokenizer, texts, *, max_length, truncation_side, special_tokens=True):
        texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        options = {"add_special_tokens": special_tokens, "return_attention_mask": False, "verbose": False}
        with MODEL_LOCK:
            tokenizer.truncation_side = truncation_side
            self.ids = _tokenize(tokenizer, texts, truncation=True, max_length=max_length, **options)
            self.lengths = np.array([len(ids) for ids in self.ids])
            self.cut = self.lengths == max_length
            full = _tokenize(tokenizer, [texts[row] for row in np.flatnonzero(self.cut)], **options)
        self.cut[self.cut] = [len(ids) > max_length for ids in full]
        if not self.lengths.all():
            row = int(np.argmin(self.lengths))
            raise ValueError(
                f"The tokenizer finds no token in {texts[row]!r:.60} ({(self.lengths == 0).sum()} such texts). Drop "
                "empty texts, or put the prompt before them (prompt_template)."
            )

    def check_vocabulary(self, module, name):
        """Refuse token ids that the model does not know; on a GPU they would end the process's use of it."""
        n_known = getattr(module.get_input_embeddings(), "num_embeddings", np.inf)
        largest = max(ids.max() for ids in self.ids)
        if largest >= n_known:
            raise OSError(
                f"The tokenizer of {name} gives the token id {largest}, but the model knows {n_known} tokens: it "
                "is the tokenizer of another model. Save the right one there by tokenizer.save_pretrained(folder)."
            )

    def pad(self, rows):
        """Ids (int64) and mask (bool), both (n_rows, longest), of some texts, padded on the right by the id 0."""
        ids = [torch.from_numpy(self.ids[row]) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).long()
        return padded, torch.arange(padded.shape[1]) < torch.from_numpy(self.lengths[rows])[:, None]


def _tokenize(tokenizer, texts, **options):
    return [
        np.array(ids, dtype=np.int32)
        for start in range(0, len(texts), _CHUNK)
        for ids in tokenizer(texts[start : start + _CHUNK], **options)["input_ids"]
    ]


def run_batches(module, tokens, pool, device, *, batch_tokens=None, **options):
    """Run a model over texts, the longest first, and yield rows and results (n_rows, n_columns), batch by batch.

    ``pool`` makes the results from the model's output and the mask of tokens. A batch has at most ``batch_tokens``
    tokens, padding included, but at least one text; half as many where memory ends. ``options`` go to ``forward``.
    On a CPU each thread runs a batch of its own, which is faster than to share the operations of small batches. Where
    padding changes the results of a model, as of FNet, a batch has texts of one length.
    """

    def run(rows):
        ids, mask = tokens.pad(rows)
        attention_mask = None if mask.all() else mask.long().to(device)
        with torch.inference_mode():
            output = module(input_ids=ids.to(device), attention_mask=attention_mask, **options)
            return pool(output, mask.to(device)).float().cpu().numpy()

    same_length = _padding_counts(module, run, tokens.lengths)
    return run_sorted(run, tokens.lengths, device, batch_tokens=batch_tokens, same_length=same_length)


_PADDING_COUNTS: WeakKeyDictionary = WeakKeyDictionary()  # by model, since the probe runs it


def _padding_counts(module, run, lengths):
    """Whether a model's results for its shortest text depend on the padding behind it."""
    shortest, excess = int(np.argmin(lengths)), lengths - lengths.min()
    longer = int(np.argmin(np.where(excess > 0, np.abs(excess - 16), np.inf)))  # some padding, at little cost
    if not excess[longer]:
        return False
    if module not in _PADDING_COUNTS:
        alone, padded = run(np.array([shortest])), run(np.array([longer, shortest]))
        tolerance = 1e-4 if next(module.parameters()).dtype == torch.float32 else 0.05
        _PADDING_COUNTS[module] = bool(np.abs(padded[1] - alone[0]).max() > tolerance * max(np.abs(alone).max(), 1e-3))
    return _PADDING_COUNTS[module]


def run_sorted(run, lengths, device, *, batch_tokens=None, batch_size=None, same_length=False):
    """Run a function of rows, the longest first, and yield rows and results, batch by batch; see `run_batches`.

    A batch has at most ``batch_size`` texts, too, with ``same_length`` of one length.
    """
    order = np.argsort(-lengths, kind="stable")
    n_threads = torch.get_num_threads() if device.type == "cpu" else 1
    batch_tokens = batch_tokens or _default_batch_tokens(device, lengths, n_threads)
    n_before = torch.get_num_threads()
    threads = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        while len(order):
            try:
                parts = list(_split(lengths, order, batch_tokens, batch_size, same_length))
                for rows, results in zip(parts, threads.map(run, parts), strict=True):
                    yield rows, results
                    order = order[len(rows) :]
            except (RuntimeError, MemoryError) as error:
                batch_tokens = _halve(batch_tokens, lengths[order[0]], error)
                torch.cuda.empty_cache()
    finally:
        threads.shutdown(cancel_futures=True)
        torch.set_num_threads(n_before)


def _split(lengths, order, batch_tokens, batch_size, same_length):
    """Parts of the order whose padded texts have at most so many tokens, but at least one text."""
    while len(order):
        size = max(1, min(int(batch_tokens // lengths[order[0]]), batch_size or len(order)))
        if same_length:
            size = min(size, int(np.count_nonzero(lengths[order] == lengths[order[0]])))
        yield order[:size]
        order = order[size:]


def _default_batch_tokens(device, lengths, n_threads):
    if device.type != "cpu":
        return 65_536
    return int(np.clip(1.2 * lengths.sum() / n_threads, 256, 1024))  # few texts are shared by all threads


def _halve(batch_tokens, longest, error):
    if not ran_out_of_memory(error):
        raise error
    if batch_tokens // 2 < longest:
        raise MemoryError(
            f"A single text of {longest} tokens does not fit into memory. Shorten it (or lower max_length), choose "
            "another device or, where the class has a dtype, dtype='bfloat16'."
        ) from error
    return batch_tokens // 2


def pool_states(states, mask, pooling):
    """Pool states (n_rows, longest, n_features) to vectors (n_rows, n_features), float32; padding does not count."""
    if pooling == "cls":
        return states[:, 0].float()
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1].float()
    states, outside = states.float(), ~mask[..., None]
    if pooling == "max":
        return states.masked_fill(outside, -torch.inf).amax(dim=1)
    return states.masked_fill(outside, 0).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def warn_of_empty(n_empty):
    """Warn that some texts are empty, if any are."""
    if n_empty:
        warn_user(
            f"Found {n_empty} empty texts (or white space only). Their embedding says nothing: drop them, or put the "
            "prompt before them."
        )


def warn_of_truncation(n_cut, n_texts, max_length, truncation_side):
    """Warn that some texts were cut, if any were."""
    if n_cut:
        end = {"left": "beginning", "right": "end"}[truncation_side]
        warn_user(
            f"{n_cut} of {n_texts} texts are longer than {max_length} tokens and lose their {end}. Raise max_length "
            "where the model allows, shorten them, or set truncation_side."
        )
