"""The one reader of messages and prompts: every module that turns them into texts calls it.

A *message* is a dict with a ``role`` and a ``content``. A *conversation* is a list of messages.
"""

import json
import re
from ast import literal_eval
from collections.abc import Iterable
from functools import reduce
from numbers import Real

import numpy as np

__all__ = ["join_prompt", "join_prompts", "to_text"]


def column_names(X):
    """Names of a table's columns (pandas, polars, ``datasets.Dataset``), or None if ``X`` is no table."""
    names = getattr(X, "column_names", None)
    if names is None:
        names = getattr(X, "columns", None)
    return None if names is None or callable(names) else [str(name) for name in names]


def column_values(X, name):
    """The values of a table's column; those of pyarrow as Python's."""
    column = X[name]
    return column.to_pylist() if hasattr(column, "to_pylist") else column


class TextTable(dict):
    """Columns by name, which this package's readers take for a table."""

    columns = property(list)
    is_split = False  # whether it is known where the prompts end

    @classmethod
    def of(cls, rows):
        """A table of rows (prompt or None, output), which stay as they are."""
        table = cls(prompt=[prompt or "" for prompt, _ in rows], completion=[output for _, output in rows])
        table.is_split = True
        return table


def is_missing(value):
    """Whether a cell of a table is empty: None, or NaN in any form."""
    return (
        value is None or (isinstance(value, Real) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )


# ------------------------------------------------------------------------------------------------- messages

_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant"}  # ShareGPT's names of roles, in ours
_ROLES |= dict.fromkeys(("function", "observation", "ipython", "function_response", "tool_response"), "tool")
_OURS = frozenset(("system", "user", "assistant", "tool"))
_KEYS = {"role": ("role", "from"), "content": ("content", "value")}  # a message's keys, and ShareGPT's


def read_messages(value, where="the output"):
    """The value as a list of messages, or None if it is anything else.

    A message is read from a dict with ``role`` and ``content`` (or ShareGPT's ``from`` and ``value``). Its content is a
    text, nothing (None or no key), or a list of parts, of which those that are no text are skipped. Other keys stay.
    """
    if isinstance(value, dict):
        value = [value] if _find(value, "role") is not None else None
    if value is None or isinstance(value, str) or not isinstance(value, Iterable):
        return None
    messages = list(value)
    if not all(isinstance(message, dict) for message in messages):
        return None
    return [_read_message(message, where) for message in messages]


def _find(message, key):
    ours, other = _KEYS[key]
    found = message.get(ours)
    return message.get(other) if found is None else found


def _read_message(message, where):
    if len(message) == 2 and message.get("role") in _OURS and message.get("content").__class__ is str:
        return message
    role, content = _find(message, "role"), _find(message, "content")
    if not isinstance(role, str):
        raise ValueError(
            f"Found a message without a role at {where}: {message!r:.80}. Expected a dict with 'role' and 'content': "
            "add the role, such as 'user' or 'assistant'."
        )
    if not isinstance(content, str):
        texts = [_part_text(part, where) for part in _parts(content, where)]
        content = reduce(_join, (text for text in texts if text is not None), "")
    others = {key: other for key, other in message.items() if other is not None and key not in ("from", "value")}
    return {**others, "role": _ROLES.get(role.lower(), role.lower()), "content": content}


def _parts(content, where):
    if is_missing(content):
        return []
    if isinstance(content, (str, dict)) or not isinstance(content, Iterable):
        raise ValueError(
            f"Found a message at {where} whose content is {type(content).__name__} {content!r:.60}. Expected a text, a "
            "list of parts such as {'type': 'text', 'text': ...}, or nothing."
        )
    return content


def _part_text(part, where):
    """The text of one part of a content; None if it is something else, such as an image."""
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, dict) else None
    kind = part.get("type") or "text" if isinstance(part, dict) else None
    if isinstance(kind, str) and kind.endswith("text"):  # text, input_text, output_text
        if isinstance(text, str):
            return text
        raise ValueError(
            f"Found a part without text at {where}: {part!r:.80}. Expected {{'type': 'text', 'text': ...}}."
        )
    return None


def skipped_parts(value):
    """Number of parts of messages that `read_messages` skips, since they are no text."""
    messages = [value] if isinstance(value, dict) else value
    if isinstance(messages, str) or not isinstance(messages, Iterable):
        return 0
    lists = [
        content
        for message in messages
        if isinstance(message, dict) and not isinstance(content := _find(message, "content"), str)
    ]
    return sum(_part_text(part, "") is None for content in lists for part in _parts(content, ""))


_WRITTEN = re.compile(r"""\s*(\[?)\s*\{\s*(['"])(role|content|from|value)\2\s*:""")
_STRING_OR_GAP = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|\}\s*\{""", re.DOTALL)


def read_cell(value):
    """The cell of a table; messages that are written as a text, JSON or Python, become messages.

    numpy writes arrays of messages without commas between them; such a text is read as well.
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    written = _WRITTEN.match(value)
    if not written:
        return value
    for read in (json.loads, literal_eval, lambda text: literal_eval(_with_commas(text))):
        try:
            found = read(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        messages = [found] if isinstance(found, dict) else found
        is_talk = all(isinstance(each, dict) and _find(each, "role") is not None for each in messages)
        return found if is_talk else value
    if not written[1]:
        return value
    raise ValueError(
        f"Found a text that begins like a list of messages and cannot be read as one: {value!r:.80}. Expected JSON, or "
        "what Python prints. Write the messages by json.dumps, or delete the row."
    )


def _with_commas(text):
    """What numpy prints of an array of messages, with the commas between them; strings stay as they are."""
    return _STRING_OR_GAP.sub(lambda found: found[1] or "}, {", text)


def as_messages(value, role):
    """A conversation as messages, a text as one message of that role, and nothing or "" as no message."""
    if isinstance(value, str):
        return [{"role": role, "content": value}] if value else []
    return [] if is_missing(value) else read_messages(value)


def has_messages(X):
    """Whether a table holds conversations in one of the columns that are read as texts."""
    names = {"prompt", "chosen", "rejected", "completion"} & set(column_names(X) or [])
    return any(
        not isinstance(value, str) and not is_missing(value) for name in names for value in column_values(X, name)
    )


def read_output(value, *, tool_turns=False):
    """An output as a text or messages. What a tool said, the model did not write: it is left out, or counts as said."""
    messages = read_messages(value)
    if messages is None:
        return value
    if tool_turns:
        return [{**message, "role": "assistant"} if message["role"] == "tool" else message for message in messages]
    return [message for message in messages if message["role"] != "tool"]


def to_text(value, *, where="the output"):
    """Read a text or a conversation as one text.

    A text stays as it is. The contents of a conversation are joined by an empty line, or by nothing where white space
    stands between them already; so are the parts of a content. Roles are left out: write them into the texts if they
    matter.

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
    messages = read_messages(value, where)
    if messages is None:
        raise ValueError(
            f"Expected text at {where}, but found {type(value).__name__} {value!r:.60}. Every output is a string (or a "
            "list of messages with 'role' and 'content'); drop or fill missing values before fitting."
        )
    return join_contents(messages)


def join_contents(messages):
    """One text of messages, each with a text as its content; see `to_text`."""
    return reduce(_join, [message["content"] for message in messages]) if messages else ""


def _join(first, second):
    if not first or not second or first[-1].isspace() or second[0].isspace():
        return first + second
    return f"{first}\n\n{second}"


def join_prompt(prompt, output):
    """Join a prompt and an output, as `to_text` joins messages: this is the text that the package fits on and scores.

    Parameters
    ----------
    prompt, output : str or list of dict
        Texts or conversations. A prompt that is None, NaN or empty adds nothing. What a tool said is part of a prompt
        and not of an output, which is what the model wrote.

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
    prompt = "" if is_missing(prompt) else to_text(prompt, where="the prompt")
    return _join(prompt, to_text(read_output(output)))


def join_prompts(prompts, outputs):
    """Apply `join_prompt` to many rows.

    Parameters
    ----------
    prompts : array-like of shape (n_rows,) or None
        Texts, conversations, None or NaN. None for all adds no prompt to any row.
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
