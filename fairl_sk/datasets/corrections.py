"""Corrected labels: the file ``review.csv`` of an audit, filled in by a person, read back by `load_preferences`."""

import csv
import hashlib
from pathlib import Path

from .files import check_path, open_text

OF_PAIRS = ("preferred", "other", "tie", "drop")  # what `corrected` may say: the column of the better output, ...
OF_OUTPUTS = ("desirable", "undesirable", "drop")
COLUMNS = ("row", "corrected", "checksum")
REASON = "dropped by review"


def text_checksum(prompt, texts):
    """Checksum of a row's texts, (preferred, other) or (output,), by which a correction finds it again."""
    joined = "\0".join([prompt, *texts])
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_corrections(path, paired):
    """What reviewers filled in, by the checksum of the row: (record of the file, value, place for errors).

    Parameters
    ----------
    path : path
        ``review.csv``: columns ``row``, ``corrected`` and ``checksum`` are read. Rows with an empty ``corrected`` stay.
    paired : bool
        Whether the data are pairs.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it lacks a column, or holds another value or no number of a row.
    """
    path = check_path(Path(path))
    known = OF_PAIRS if paired else OF_OUTPUTS
    found = {}
    with open_text(path, "utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path}: no column {missing[0]!r}, only {list(reader.fieldnames or ())}. Expected the columns of an "
                f"audit's review.csv, among them {', '.join(COLUMNS)}."
            )
        for record in reader:
            place = f"{path}, line {reader.line_num}"
            value = (record["corrected"] or "").strip().lower()
            if not value:
                continue
            if value not in known:
                raise ValueError(
                    f"{place}: corrected is {record['corrected']!r}. Expected one of {', '.join(known)}, or nothing."
                )
            number = (record["row"] or "").strip()
            if not number.isdecimal():
                raise ValueError(
                    f"{place}: row is {record['row']!r}. Expected the number of a record, as in the audit."
                )
            checksum = (record["checksum"] or "").strip()
            if found.get(checksum, (0, value))[1] != value:
                raise ValueError(f"{place}: corrected is {value!r}, but {found[checksum][1]!r} in an earlier line.")
            found[checksum] = int(number), value, place
    return found


def correct_rows(rows, path, ties):
    """The corrected rows, as columns by name (see `fairl_sk.datasets.rows`).

    Every row with the same prompt and texts, in the same order, is corrected.

    Parameters
    ----------
    rows : dict of str to sequence
        With "source", the record of each row.
    path : path
        See `read_corrections`.
    ties : {"drop", "half"}
        What becomes of ties.

    Raises
    ------
    ValueError
        See `read_corrections`; and if the record of a correction does not hold its texts, because it was made for
        another file.
    """
    corrections, matched = read_corrections(path, "other" in rows), set()
    defaults = {name: [value] * len(rows["prompt"]) for name, value in (("lost", ""), ("weight", 1.0))}
    rows = defaults | rows
    corrected = {name: [] for name in rows}
    for cells in zip(*rows.values(), strict=True):
        row = dict(zip(rows, cells, strict=True))
        texts = [row[name] or "" for name in ("text", "other") if name in row]
        checksum = text_checksum(row["prompt"], texts)
        number, value, _ = (None, "", "") if row["lost"] else corrections.get(checksum, (None, "", ""))
        if row["source"] == number:
            matched.add(checksum)
        for new in _corrected(row, value, ties):
            for name, cell in new.items():
                corrected[name].append(cell)
    for checksum, (number, _, place) in corrections.items():
        if checksum not in matched:
            raise ValueError(
                f"{place}: record {number} does not hold the texts of this correction. Expected corrections of the "
                "same file, read with the same parameters: audit it again."
            )
    return corrected


def _corrected(row, value, ties):
    if value in ("drop", "tie") and (value, ties) != ("tie", "half"):
        return [row | {"lost": REASON if value == "drop" else "tie"}]
    if value == "tie":
        half = _without_strength(row) | {"weight": row["weight"] / 2}
        return [half, _turned(half)]
    if value == "other":
        return [_turned(_without_strength(row))]
    if value in ("desirable", "undesirable"):
        return [row | {"label": int(value == "desirable")}]
    return [row]


def _without_strength(row):
    """The row without the strength of the preference, which was that of another one."""
    return row | {"strength": None} if "strength" in row else row


def _turned(row):
    """The row with its sides exchanged."""
    turned = row | {"text": row["other"], "other": row["text"]}
    for name in ("rewards", "output_labels", "log_probs"):
        if turned.get(name) is not None:
            turned[name] = turned[name][::-1]
    if "objectives" in turned:
        turned["objectives"] = tuple(1 - value for value in turned["objectives"])
    return turned
