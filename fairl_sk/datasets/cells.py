"""What a cell of a table holds: a number, a label, a text or messages. For `layouts` and `readers`."""

from collections.abc import Iterable, Mapping

import numpy as np

from ..messages import read_cell, read_output, to_text
from ..prompts import split_plain, split_prompt, split_texts


def to_number(value, name, expected=()):
    """The number in a cell; NaN if it is empty."""
    value = canonical_label(value)
    if isinstance(value, str) or (expected and value not in expected):
        wanted = " or ".join(map(str, expected)) or "a number or nothing"
        raise ValueError(f"{name} is {value!r}, but expected {wanted}.")
    return np.nan if value is None else value


def to_log_prob(value, name):
    """The log-probability in a cell; NaN if it is empty."""
    value = to_number(value, name)
    if value > 0 or value == -np.inf:
        raise ValueError(
            f"{name} is {value!r}, but expected a log-probability of the output: a finite number, at most 0."
        )
    return value


def canonical_label(value):
    """A number for what reads as number or boolean, None for nothing, else the text: "2", 2, 2.0 are one label."""
    if value.__class__ is float:
        return None if value != value else int(value) if value.is_integer() else value
    text = "" if value is None else str(value).strip()
    if text.lower() in ("true", "false"):
        return int(text.lower() == "true")
    try:
        number = float(text)
    except ValueError:
        return text or None
    return None if np.isnan(number) else int(number) if number.is_integer() else number


def text_of_cell(cell):
    """The text in a cell, or its messages; None is ""."""
    if cell.__class__ is str and cell[:1].isalnum():  # surely no messages
        return cell
    return "" if cell is None else read_cell(cell)


def read_column(cells):
    """A column of texts, None as ""; None where a cell is anything else, or cannot be read."""
    texts = []
    try:
        for cell in cells:
            text = cell if cell.__class__ is str and cell[:1].isalnum() else text_of_cell(cell)
            if text.__class__ is not str:
                return None
            texts.append(text)
    except ValueError:
        return None
    return texts


def texts_of_cells(options, prompt, *outputs):
    """Texts of a prompt and of its outputs; None is ""."""
    cells = [text_of_cell(cell) for cell in (prompt, *outputs)]
    if set(map(type, cells)) == {str}:
        return cells if "" in cells[1:] else split_texts(*cells)
    if (texts := split_plain(*cells)) is not None:
        return texts
    texts = [to_text(cell) for cell in cells]  # also checks them
    if not all(texts[1:]):
        return texts
    if len({isinstance(cell, str) for cell in cells[1:]}) > 1:
        found = "one side is a text, the other a list of messages, but expected both to be alike"
        raise ValueError(f"{found}. Convert one of them, or delete the record.")
    prompt, *outputs = split_prompt(*cells)
    return [to_text(prompt), *(to_text(read_output(output, tool_turns=options.tool_turns)) for output in outputs)]


def is_list(value):
    """Whether a cell holds several values."""
    return not isinstance(value, (str, Mapping)) and isinstance(value, Iterable)
