"""The one reader of messages and prompts: every module that turns them into texts calls it.

A *message* is a dict with a ``role`` and a ``content``. A *conversation* is a list of messages.
"""

from collections.abc import Iterable
from functools import reduce
from itertools import takewhile

import numpy as np

__all__ = ["join_prompt", "join_prompts", "to_text"]


def column_names(X):
    """Names of a table's columns (pandas, polars, ``datasets.Dataset``), or None if ``X`` is no table."""
    names = getattr(X, "column_names", None)
    if names is None:
        names = getattr(X, "columns", None)
    return None if names is None or callable(names) else [str(name) for name in names]


class TextTable(dict):
    """Columns by name, which this package's readers take for a table."""

    columns = property(list)

    @classmethod
    def of(cls, rows):
        """A table of rows (prompt or None, output)."""
        return cls(prompt=[prompt or "" for prompt, _ in rows], completion=[output for _, output in rows])


def read_messages(value):
    """The value as a list of messages, or None if it is anything else."""
    if isinstance(value, (str, dict)) or not isinstance(value, Iterable):
        return None
    messages = list(value)
    return messages if all(map(_is_message, messages)) else None


def _is_message(value):
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def as_messages(value, role):
    """A conversation as it is, a text as one message of that role, and None or "" as no message."""
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value else []
    return [] if value is None else list(value)


def has_messages(X):
    """Whether a table holds conversations in one of the columns that are read as texts."""
    names = {"prompt", "chosen", "rejected", "completion"} & set(column_names(X) or [])
    return any(not isinstance(value, str) for name in names for value in X[name])


def to_text(value, *, where="the output"):
    """Read a text or a conversation as one text.

    A text stays as it is. The contents of a conversation are joined by an empty line, or by nothing where white space
    stands between them already. Roles are left out: write them into the texts if they matter.

    Parameters
    ----------
    value : str or list of dict
        A text or a conversation; an empty conversation gives "".
    where : str, default="the output"
        The place of the value, for the error.

    Returns
    -------
    text : str

    Raises
    ------
    ValueError
        For any other value, such as a missing one.
    """
    if isinstance(value, str):
        return value
    messages = read_messages(value)
    if messages is None:
        raise ValueError(
            f"Expected text at {where}, but found {type(value).__name__} {value!r:.60}. Every output is a string (or a "
            "list of messages with 'role' and 'content'); drop or fill missing values before fitting."
        )
    return reduce(_join, (message["content"] for message in messages), "")


def _join(first, second):
    if not first or not second or first[-1].isspace() or second[0].isspace():
        return first + second
    return f"{first}\n\n{second}"


def join_prompt(prompt, output):
    """Join a prompt and an output, as `to_text` joins messages: this is the text that the package fits on and scores.

    Parameters
    ----------
    prompt, output : str or list of dict
        Texts or conversations. A prompt that is None or empty adds nothing.

    Returns
    -------
    text : str

    Examples
    --------
    >>> join_prompt("Is it far?", [{"role": "assistant", "content": "Five minutes."}])
    'Is it far?\\n\\nFive minutes.'
    >>> join_prompt("The sky is", " blue.")
    'The sky is blue.'
    """
    prompt = "" if prompt is None else to_text(prompt, where="the prompt")
    return _join(prompt, to_text(output))


def join_prompts(prompts, outputs):
    """Apply `join_prompt` to many rows.

    Parameters
    ----------
    prompts : array-like of shape (n_rows,) or None
        Texts, conversations or None. None for all adds no prompt to any row.
    outputs : array-like of shape (n_pairs, 2) or (n_samples,)
        Texts or conversations.

    Returns
    -------
    texts : ndarray of shape (n_pairs, 2) or (n_samples,)

    Raises
    ------
    ValueError
        If the numbers of prompts and rows differ, or a row holds neither one output nor two.
    """
    rows = list(np.asarray(outputs) if hasattr(outputs, "__array__") else outputs)
    prompts = [None] * len(rows) if prompts is None else list(prompts)
    if len(prompts) != len(rows):
        raise ValueError(f"Found {len(prompts)} prompts for {len(rows)} rows of outputs. Expected one prompt a row.")
    texts = [
        [join_prompt(prompt, side) for side in row] if _is_two_sided(row) else join_prompt(prompt, row)
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    return check_texts(np.array(texts, dtype=object))


def _is_two_sided(row):
    return isinstance(row, (list, tuple, np.ndarray)) and read_messages(row) is None


def check_texts(values):
    """An array of texts (n_pairs, 2) or (n_samples,) as objects; another shape or a missing text is refused."""
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 2):
        expected = "(n_pairs, 2) for pairs or (n_samples,) for outputs: X[['chosen', 'rejected']] of a wider table"
        raise ValueError(f"Found texts of shape {values.shape}. Expected {expected}.")
    values = values.astype(object)
    for index, value in np.ndenumerate(values):
        if not isinstance(value, str):
            to_text(value, where=f"row {index[0]}" + (f", side {index[1]}" if values.ndim == 2 else ""))
    return values


def split_messages(prompt, chosen, rejected):
    """Texts of the prompt (what both conversations begin with), the chosen and the rejected output.

    A given prompt, a text, stands in front of the messages that both share, unless they say it already.
    """
    n_shared = count_shared(chosen, rejected)
    shared = chosen[:n_shared]
    if prompt and not _says(shared, prompt):
        shared = [{"role": "user", "content": prompt}, *shared]
    return to_text(shared), to_text(chosen[n_shared:]), to_text(rejected[n_shared:])


def count_shared(chosen, rejected):
    """Number of leading parts that both lists share. At least one part of each list is left over."""
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def separate_prompt(prompt, output):
    """Prompt and output, each a text or messages; an output that begins with the prompt gives it up.

    The prompt is then the leading messages of the output, up to those that say it.
    """
    if prompt and not isinstance(output, str):
        text = to_text(prompt)
        for n_shared in range(1, len(output)):
            if _says(output[:n_shared], text):
                return output[:n_shared], output[n_shared:]
    return prompt, output


def _says(messages, prompt):
    """Whether messages say a prompt already: all of them together, or one of them."""
    return prompt in (to_text(messages), *(message["content"] for message in messages))
