"""From texts or messages to tokens of prompts and outputs; `scoring` reads them."""

from itertools import takewhile
from typing import NamedTuple

import numpy as np

from ..features.language import apply_chat_template
from ..features.loading import MODEL_LOCK
from ..features.templates import require_texts
from ..messages import TextTable, as_messages, column_names, to_text

_SIDES = ("chosen", "rejected", "completion")


class TokenizedOutputs(NamedTuple):
    """Distinct outputs as token ids, each behind its prompt."""

    ids: list  # arrays of int64, of prompt and output
    starts: np.ndarray  # where the output begins; at least 1
    first_rows: np.ndarray  # the first output of the rows that each of them is
    inverse: np.ndarray  # the distinct output of each output of the rows
    paired: bool

    @property
    def lengths(self):
        """Tokens of each distinct output, those of its prompt included."""
        return np.array([len(ids) for ids in self.ids])

    def keys(self):
        """A text for each distinct output that tells it from all others."""
        return [f"{start} {ids.tolist()}" for start, ids in zip(self.starts, self.ids, strict=True)]

    def select(self, which):
        """Some of the distinct outputs."""
        ids = [self.ids[index] for index in which]
        return self._replace(ids=ids, starts=self.starts[which], first_rows=self.first_rows[which])

    def place(self, index):
        """Where the user finds a distinct output."""
        row = int(self.first_rows[index])
        return f"row {row // 2}, side {row % 2}" if self.paired else f"row {row}"

    def shape(self, values):
        """Values of distinct outputs (n_distinct, ...) as values of the rows: (n_outputs, ...) or (n_pairs, 2, ...)."""
        values = np.asarray(values)[self.inverse]
        return values.reshape(-1, 2, *values.shape[1:]) if self.paired else values


def tokenize_outputs(X, tokenizer, *, prompt_column, end_token):
    """Read rows in any layout of `fairl_sk.pairs`, and tokenize prompts and outputs.

    A prompt of text is continued by its output as it stands, a conversation by the chat template. An output begins
    where its tokens differ from those of the prompt alone. The end token follows an output that is a text.
    """
    rows, paired = _read_rows(X, prompt_column)
    places = {}
    for row, (prompt, output) in enumerate(rows):
        if not to_text(output).strip():
            where = f"row {row // 2}, side {row % 2}" if paired else f"row {row}"
            raise ValueError(f"Found an empty output in {where}. Expected a text: drop such rows first.")
        places.setdefault((_hashable(prompt), _hashable(output)), []).append(row)
    firsts = [rows_of_one[0] for rows_of_one in places.values()]
    inverse = np.empty(len(rows), dtype=np.intp)
    for index, rows_of_one in enumerate(places.values()):
        inverse[rows_of_one] = index
    ids, starts = _encode([rows[row] for row in firsts], tokenizer, end_token)
    return TokenizedOutputs(ids, np.array(starts), np.array(firsts), inverse, paired)


def _read_rows(X, prompt_column):
    """Rows (prompt or None, output) of texts or messages, and whether two of them are a pair."""
    names, rows = column_names(X), []
    if names is not None and prompt_column != "prompt":
        if prompt_column is not None and prompt_column not in names:
            raise ValueError(f"Found a table with columns {names}. Expected one of prompts, {prompt_column!r}.")
        columns = {side: X[side] for side in _SIDES if side in names}
        X = TextTable(columns if prompt_column is None else {**columns, "prompt": X[prompt_column]})

    def keep(prompt, output):
        rows.append((prompt, output))
        return ""

    texts = require_texts(X, keep)
    return rows or [(None, text) for text in texts.ravel()], texts.ndim == 2


def _hashable(value):
    return value if isinstance(value, str) or value is None else tuple((m["role"], m["content"]) for m in value)


def _encode(rows, tokenizer, end_token):
    """Token ids of prompt and output, and where the output begins, of each row."""
    texts = [_format(prompt, output, tokenizer) for prompt, output in rows]
    ids: list = [None] * len(rows)
    starts = [0] * len(rows)
    for is_chat in (False, True):
        some = [row for row, text in enumerate(texts) if text[2] == is_chat]
        before = dict.fromkeys(texts[row][0] for row in some)
        before = dict(zip(before, _tokenize(tokenizer, list(before), not is_chat), strict=True))
        for row, found in zip(some, _tokenize(tokenizer, [texts[row][1] for row in some], not is_chat), strict=True):
            start = _n_shared(before[texts[row][0]], found)
            if start == len(found):
                raise ValueError(f"The tokenizer finds no token in the output {rows[row][1]!r:.60}. Drop such rows.")
            found = found if is_chat or not end_token else _with_end(found, tokenizer)
            ids[row], starts[row] = _with_begin(found, start, tokenizer)
    return ids, starts


def _n_shared(one, other):
    """Tokens that both begin with."""
    return sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(one, other, strict=False)))


def _format(prompt, output, tokenizer):
    """The text of the prompt alone, of both, and whether the chat template wrote them."""
    if isinstance(output, str) and (prompt is None or isinstance(prompt, str)):
        return prompt or "", (prompt or "") + output, False
    before, after = as_messages(prompt, "user"), as_messages(output, "assistant")
    n_given = max((n for n, message in enumerate(after, 1) if message["role"] == "tool"), default=0)
    if not before and not n_given:
        n_given = len(after) - 1
    before, after = [*before, *after[:n_given]], after[n_given:]  # what a tool said is given, not scored
    if not before:
        raise ValueError(
            f"Found the output {to_text(output)!r:.60} as a message without a prompt. Expected messages before it, or "
            "a column of prompts; outputs without prompts are texts."
        )
    both = apply_chat_template(tokenizer, [*before, *after], to_answer=False)
    return apply_chat_template(tokenizer, before), both, True


def _tokenize(tokenizer, texts, special_tokens):
    if not texts:
        return []
    texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
    with MODEL_LOCK:
        return tokenizer(texts, add_special_tokens=special_tokens, verbose=False)["input_ids"]


def _with_end(ids, tokenizer):
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("The tokenizer has no end token (eos_token). Set one, or pass end_token=False.")
    return ids if ids[-1] == end else [*ids, end]


def _with_begin(ids, start, tokenizer):
    """The ids behind a token that the first one can follow, and where the output begins then."""
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start == 0 and begin is None:
        raise ValueError(
            "Found an output without a prompt, and a tokenizer that has neither a token for the beginning of a text "
            "(bos_token) nor for its end. Expected one, which the first token of the output can follow: set it, or "
            "give a column of prompts."
        )
    ids = ids if start else [begin, *ids]
    return np.array(ids, dtype=np.int64), start or 1
