"""Pairs to judge: `load_candidates` reads them, `write_candidates` writes those that people should judge next."""

import csv
import json
from itertools import combinations
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ..escaping import csv_cell
from .files import read_table
from .layouts import CANDIDATES, Options

__all__ = ["load_candidates", "write_candidates"]

MAX_PAIRS = 500_000


def load_candidates(source, *, prompt_column=None, quoted=True, encoding="utf-8", limit=None):
    """Read pairs of outputs that nobody judged yet.

    Parameters
    ----------
    source : str, path-like, table or list of dict
        See `load_preferences`. A record holds two outputs (``response1`` and ``response2``, or others of that kind),
        a list of ``completions``, or one ``completion``; of a list or a prompt, all pairs are candidates.
    prompt_column : str, default=None
        The column of prompts. None: "prompt", or a name such as "question", if there.
    quoted, encoding, limit
        See `load_preferences`.

    Returns
    -------
    Bunch
        In the order of the file, with the attributes

        - data : ndarray of shape (n_pairs, 2) of str
        - prompt : ndarray of shape (n_pairs,) of str, "" where a row has none
        - source_index : ndarray of shape (n_pairs, 2), the records of the file that the outputs come from, from 0
        - dropped : dict of str to int, the number of pairs left out: "empty text", "identical sides", "duplicate" (of
          the same outputs, in any order)

    Raises
    ------
    FileNotFoundError, ImportError
        See `load_preferences`.
    ValueError
        If the file is broken, has other columns, no pair, or more than 500,000 pairs.

    Examples
    --------
    >>> from fairl_sk.datasets import load_candidates
    >>> answers = [{"prompt": "Is it far?", "completion": text} for text in ("Yes.", "No.", "Five minutes.")]
    >>> load_candidates(answers).data.shape
    (3, 2)
    """
    table = read_table(source, encoding, quoted, limit)
    named = {} if prompt_column is None else {"prompt": prompt_column}
    if prompt_column is not None and prompt_column not in table.columns:
        raise ValueError(f"{table.name}: no column {prompt_column!r}, only {list(table.columns)}. Name one of them.")
    name, parts = _find_layout(table, named)
    rows, dropped = {}, dict.fromkeys(("empty text", "identical sides", "duplicate"), 0)
    for place, sources, cells in _cells(table, name, parts):
        try:
            found = CANDIDATES[name].read(cells, Options())
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        for prompt, *texts in found:
            key = (prompt, *sorted(texts))
            reason = (
                "empty text"
                if not all(map(str.strip, texts))
                else "identical sides"
                if texts[0] == texts[1]
                else "duplicate"
                if key in rows
                else None
            )
            if reason:
                dropped[reason] += 1
            else:
                rows[key] = (prompt, texts, sources)
        _check_number(table, len(rows))
    if not rows:
        raise ValueError(
            f"{table.name} holds no pair of two different outputs (left out: {dropped}). Expected at least 1."
        )
    prompts, texts, sources = zip(*rows.values(), strict=True)
    return Bunch(
        data=np.array(texts, dtype=object),
        prompt=np.array(prompts, dtype=object),
        source_index=np.array(sources),
        dropped=dropped,
    )


def _find_layout(table, named):
    for name, layout in CANDIDATES.items():
        parts = layout.find_parts(table.columns, named)
        if parts is not None:
            return name, {**parts, **named}
    known = "; ".join(layout.columns for layout in CANDIDATES.values())
    raise ValueError(f"{table.name}: the columns are {list(table.columns)}. Expected one of: {known}.")


def _cells(table, name, parts):
    """The place, the two records and the cells of each pair, or of each list of completions."""
    records = [
        dict(zip(parts, values, strict=True)) for values in zip(*map(table.columns.get, parts.values()), strict=True)
    ]
    if name != "outputs":
        yield from ((table.place(row), (row, row), cells) for row, cells in enumerate(records))
        return
    of_prompt = {}
    for row, cells in enumerate(records):
        of_prompt.setdefault(json.dumps(cells["prompt"], default=str), []).append(row)
    _check_number(table, sum(len(rows) * (len(rows) - 1) // 2 for rows in of_prompt.values()))
    for rows in of_prompt.values():
        for pair in combinations(rows, 2):
            yield table.place(pair[1]), pair, {**records[pair[0]], "second": records[pair[1]]["first"]}


def _check_number(table, n_pairs):
    if n_pairs > MAX_PAIRS:
        found = f"{table.name} makes more than {MAX_PAIRS} pairs"
        raise ValueError(f"{found}. Expected at most so many: pass limit, or split it.")


def write_candidates(path, candidates, rows, scores=None, *, random_state=0):
    """Write pairs for people to judge, as CSV or JSON Lines that Label Studio and Argilla import.

    Parameters
    ----------
    path : str or path-like
        A file .csv or .jsonl; an existing one is replaced.
    candidates : Bunch
        From `load_candidates`.
    rows : array-like of shape (n,)
        Which of them, in this order, as `fairl_sk.suggest_pairs` gives them.
    scores : array-like of shape (n,), default=None
        Their scores.
    random_state : int, RandomState instance or None, default=0
        Which outputs come first: half of the pairs are exchanged, so that a place tells nothing.

    Raises
    ------
    ValueError
        If the file is neither .csv nor .jsonl.

    Notes
    -----
    The columns are ``pair`` (row of ``candidates``), ``prompt``, ``response1``, ``response2`` and ``score``. In a .csv,
    a text that a spreadsheet would take for a formula stands behind an apostrophe, and ``escaped`` is 1 in its row;
    `load_preferences` takes the apostrophe off again.
    """
    path, rows = Path(path), np.asarray(rows)
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"{path} ends in {path.suffix!r}. Expected .csv or .jsonl.")
    swapped = check_random_state(random_state).permutation(len(rows)) < len(rows) // 2
    records = []
    for number, (row, swap) in enumerate(zip(rows.tolist(), swapped, strict=True)):
        first, second = candidates.data[row][::-1] if swap else candidates.data[row]
        record = {"pair": row, "prompt": candidates.prompt[row], "response1": first, "response2": second}
        score = None if scores is None or np.isnan(scores[number]) else float(f"{scores[number]:.6g}")
        records.append(record | {"score": score})
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            return
        columns = [*records[0], "escaped"]
        writer = csv.DictWriter(file, columns, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        for record in records:
            texts = {name: csv_cell(record[name]) for name in ("prompt", "response1", "response2")}
            escaped = int(any(texts[name] != record[name] for name in texts))
            writer.writerow({**record, **texts, "escaped": escaped})
