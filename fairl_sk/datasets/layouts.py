"""What the columns of a preference file mean: one entry of `LAYOUTS` a layout, for whoever adds one."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..messages import count_shared, split_messages, to_text

_TOXIC_COLUMN = re.compile(r"toxic|en_toxic_comment")
_NEUTRAL_COLUMN = re.compile(r"neutral\d*|en_neutral_comment")
_REWARD_COLUMNS = (("chosen_reward", "rejected_reward"), ("score_chosen", "score_rejected"))
_LABEL_COLUMNS = ("chosen_label", "rejected_label")
LOGPS_COLUMNS = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")  # TRL's names
_SPEAKER = "\n\nAssistant:"
_TURN = re.compile(r"(?:\A|\n\n)(?:Human|Assistant):")


class Row(NamedTuple):
    """One pair (texts: chosen, rejected) or one output (texts: itself)."""

    texts: tuple
    prompt: str = ""
    label: Any = None
    rewards: Any = None
    output_labels: Any = None
    log_probs: Any = None  # of chosen and rejected, by the aligned and by the base model
    source: int = 0  # number of the record, from 0


class Record(dict):
    """One record of a file: values by column, and readers of them that refuse what is no such value."""

    def value(self, column):
        """The value of a column; "" if it is null."""
        if column not in self:
            raise ValueError(f"no column {column!r}, only {list(self)}. Add it, or delete the record.")
        return "" if self[column] is None else self[column]

    def text(self, column):
        """The text of a column; a conversation as one text."""
        return to_text(self.value(column), where=f"column {column!r}")

    def number(self, column, expected=()):
        """The number in a column; NaN if it is empty."""
        value = canonical_label(self.value(column))
        if isinstance(value, str) or (expected and value not in expected):
            wanted = " or ".join(map(str, expected)) or "a number or nothing"
            raise ValueError(f"{column} is {value!r}, but expected {wanted}.")
        return np.nan if value is None else value

    def log_prob(self, column):
        """The log-probability in a column; NaN if it is empty."""
        value = self.number(column)
        if value > 0 or value == -np.inf:
            raise ValueError(
                f"{column} is {value!r}, but expected a log-probability of the output: a finite number, at most 0."
            )
        return value


def canonical_label(value):
    """A number for what reads as number or boolean, None for nothing, else the text: "2", 2, 2.0 are one label."""
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return int(text.lower() == "true")
    try:
        number = float(text)
    except ValueError:
        return text or None
    return None if np.isnan(number) else int(number) if number.is_integer() else number


def _read_paradetox(record, columns):
    """One row for each rewrite; a row without a chosen text for a comment that nobody rewrote."""
    toxic = record.text(next(filter(_TOXIC_COLUMN.fullmatch, columns)))
    rewrites = [record.text(column) for column in filter(_NEUTRAL_COLUMN.fullmatch, columns)]
    return [Row((rewrite, toxic)) for rewrite in filter(str.strip, rewrites)] or [Row((None, toxic))]


def _read_preference(record, columns):
    prompt = record.text("prompt") if "prompt" in columns else None
    texts = (record.text("chosen"), record.text("rejected"))
    if all(texts):
        prompt, *texts = _split_sides(prompt, record.value("chosen"), record.value("rejected"))
    scores = next((pair for pair in _REWARD_COLUMNS if set(pair) <= set(columns)), None)
    rewards = scores and [record.number(column) for column in scores]
    has_labels = set(_LABEL_COLUMNS) <= set(columns)
    labels = [record.number(column, expected=(0, 1)) for column in _LABEL_COLUMNS] if has_labels else None
    return [
        Row(tuple(texts), prompt or "", rewards=rewards, output_labels=labels, log_probs=_log_probs(record, columns))
    ]


def _log_probs(record, columns):
    """Log-probabilities ((chosen by the aligned, by the base model), (rejected ...)), NaN where columns lack."""
    aligned, base = LOGPS_COLUMNS[:2], LOGPS_COLUMNS[2:]
    known = {side for side in (aligned, base) if set(side) <= set(columns)}
    if not known:
        return None
    values = [[record.log_prob(name) for name in side] if side in known else [np.nan] * 2 for side in (aligned, base)]
    return list(zip(*values, strict=True))


def _split_sides(prompt, chosen, rejected):
    """Texts of prompt, chosen and rejected; what conversations or transcripts share at their beginning is prompt."""
    if type(chosen) is not type(rejected):
        found = "one side is a text, the other a list of messages, but expected both to be alike"
        raise ValueError(f"{found}. Convert one of them, or delete the record.")
    if isinstance(chosen, list):
        return split_messages(prompt, chosen, rejected)
    cut = 0
    if prompt is None and all(side.lstrip().startswith("Human:") and _SPEAKER in side for side in (chosen, rejected)):
        cut = _shared_transcript(chosen, rejected)
    return prompt or chosen[:cut], chosen[cut:], rejected[cut:]


def _shared_transcript(chosen, rejected):
    """Length of the turns that both transcripts share, with the "Assistant: " behind them if both go on with it."""
    turns = [_split_turns(side) for side in (chosen, rejected)]
    cut = len("".join(turns[0][: count_shared(*turns)]))
    after = cut + len(_SPEAKER)
    # an answer that follows the colon at once keeps its speaker: join_prompt would set the two apart
    if all(side.startswith(_SPEAKER, cut) and not side[after : after + 1].strip() for side in (chosen, rejected)):
        return after + all(side.startswith(" ", after) for side in (chosen, rejected))
    return cut


def _split_turns(transcript):
    starts = [turn.start() for turn in _TURN.finditer(transcript)][1:]
    return [transcript[i:j] for i, j in zip([0, *starts], [*starts, None], strict=True)]


def _read_unpaired(record, columns):
    prompt = record.text("prompt") if "prompt" in record else ""
    return [Row((record.text("completion"),), prompt, label=canonical_label(record.value("label")))]


class Layout(NamedTuple):
    """A layout of files: its columns in words, whether it fits a set of columns, and the rows of one record."""

    columns: str
    fits: Callable
    read: Callable


LAYOUTS = {
    "paradetox": Layout(
        "columns toxic and neutral1, neutral2, ...",
        lambda columns: all(any(map(name.fullmatch, columns)) for name in (_TOXIC_COLUMN, _NEUTRAL_COLUMN)),
        _read_paradetox,
    ),
    "preference": Layout(
        "columns chosen and rejected, optionally prompt", {"chosen", "rejected"}.issubset, _read_preference
    ),
    "unpaired": Layout(
        "columns completion and label, optionally prompt, or any two named by text_column and label_column",
        {"completion", "label"}.issubset,
        _read_unpaired,
    ),
}
