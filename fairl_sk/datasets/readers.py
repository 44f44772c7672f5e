"""The reader of preference files: lines become records (files.py), records rows (layouts.py), and rows a Bunch."""

import json
import warnings
from numbers import Integral

import numpy as np
from sklearn.utils import Bunch, check_random_state

from .files import check_path, read_records
from .layouts import LAYOUTS, LOGPS_COLUMNS, Record, canonical_label
from .rows import draw_sides, group_rows, swap_sides

_REASONS = ("empty text", "identical sides", "duplicate", "contradiction", "no rewrite", "no label")


def load_preferences(
    path,
    *,
    format="auto",
    text_column=None,
    label_column=None,
    logps_columns=None,
    desirable=None,
    quoted=True,
    shuffle_sides=True,
    random_state=0,
    encoding="utf-8",
    limit=None,
):
    """Read preference pairs, or labeled outputs, from a file.

    The user guide (Data) describes the layouts and what is left out.

    Parameters
    ----------
    path : str or path-like
        A file .tsv, .csv, .jsonl or .json (each also with .gz), or .parquet.
    format : {"auto", "paradetox", "preference", "unpaired"}, default="auto"
        What the columns mean: ParaDetox's [1]_, TRL's preference or TRL's unpaired layout. "auto" finds it out.
    text_column, label_column : str, default=None
        The columns of an unpaired file; None means "completion" and "label". Either one selects "unpaired".
    logps_columns : sequence of 4 str, default=None
        Columns of log-probabilities of the chosen and the rejected output by the aligned model, then by the base model.
        None: TRL's names, "chosen_logps", "rejected_logps", "ref_chosen_logps" and "ref_rejected_logps", if there.
    desirable : value or list of values, default=None
        The labels of desirable outputs in an unpaired file, such as ``2`` or ``["neither", "fine"]``. None takes the
        greater of two numbers or booleans.
    quoted : bool, default=True
        Whether quotation marks in .tsv and .csv files enclose fields (RFC 4180). False: they are plain characters.
    shuffle_sides, random_state : bool and int, RandomState instance or None, default=True, 0
        Put the chosen output first in half of the pairs (rounded down, drawn), so that `target` has both classes.
        False: in all of them.
    encoding : str, default="utf-8"
        Encoding of a text file.
    limit : int, default=None
        Read this many records at most, from the start of the file.

    Returns
    -------
    Bunch
        In the order of the file, with the attributes

        - data : ndarray of shape (n_pairs, 2) of str, or (n_samples,) for an unpaired file
        - target : ndarray of shape (n_pairs,), 1 where the first output is preferred (the output is desirable), else 0
        - prompt : ndarray of shape (n_pairs,) of str, "" where a row has none; None if no row has one
        - groups : ndarray of shape (n_pairs,) of int, equal where prompts or rejected texts are: never split a group
        - reference_reward : ndarray of shape (n_pairs, 2), NaN where empty; None without such columns
        - output_labels : ndarray of shape (n_pairs, 2), 1 = desirable, 0 = not; None without such columns
        - log_probs : ndarray of shape (n_pairs, 2, 2), of both outputs by the aligned and the base model, NaN where
          empty; None without such columns
        - implicit_rewards : ndarray of shape (n_pairs, 2), log-probability by the aligned model minus that by the base
          model; None unless both have columns
        - dropped : dict of str to int, the number of rows left out, by reason
        - source_index : ndarray of shape (n_pairs,), the record of the file a row comes from, from 0
        - format, provenance, DESCR : str, dict and str, the layout, the file's name and the parameters, a summary

    Raises
    ------
    FileNotFoundError, ImportError
        If there is no such file; if a .parquet file is read without pyarrow.
    ValueError
        If a parameter is wrong, the file is broken, in another encoding or layout, or has fewer than two usable rows.

    Warns
    -----
    UserWarning
        If preferences contradict each other.

    References
    ----------
    .. [1] V. Logacheva et al., "ParaDetox: Detoxification with Parallel Data", ACL 2022.
    """
    options = {name: value for name, value in locals().items() if name != "path"}
    path = check_path(path)
    if limit is not None and not (isinstance(limit, Integral) and limit >= 1):
        raise ValueError(f"limit is {limit!r}, but expected a whole number of at least 1, or None.")
    provenance = {"file": path.name, **json.loads(json.dumps(options, default=str))}
    records = read_records(path, encoding, quoted, limit)
    columns = (("completion", text_column), ("label", label_column))
    names = {column: name for column, name in columns if name is not None}
    if names and format not in ("auto", "unpaired"):
        raise ValueError(f"text_column and label_column go with format='unpaired', but format is {format!r}.")
    wanted = "unpaired" if names else format if logps_columns is None else "preference"
    if logps_columns is not None:
        names.update(_check_logps(logps_columns))
    records = [(where, _rename(path, where, values, names)) for where, values in records]
    format = _find_layout(path, list(records[0][1]), wanted)
    if desirable is not None and format != "unpaired":
        found = f"desirable is {desirable!r}, but {path} was read as pairs (format {format!r})"
        raise ValueError(f"{found}. Leave it out, or select other columns with text_column and label_column.")
    rows = _read_rows(path, records, format)
    if format == "unpaired":
        labels = _check_desirable(path, {row.label for row in rows} - {None}, desirable)
        rows = [row if row.label is None else row._replace(label=int(row.label in labels)) for row in rows]
    settings = generation_settings(records[0][1]) if format == "preference" else None
    if settings is not None:
        provenance["settings"] = settings
    kept, dropped, contradictions = _drop_unusable(path, rows, sampled=settings is not None)
    if contradictions:
        first = ", ".join(records[row.source][0] for row in contradictions[:4])
        found = f"{len(contradictions)} rows contradict each other (two outputs each preferred to the other, or one "
        found += f"output with both labels) and were all dropped; the first are {first}"
        warnings.warn(f"{path}: {found}. Decide which of them hold and delete the others.", stacklevel=2)
    return _bunch(path, kept, dropped, format, check_random_state(random_state), shuffle_sides, provenance)


def _check_logps(columns):
    """Names of the columns of log-probabilities by the layout's names."""
    if isinstance(columns, str) or len(columns) != len(LOGPS_COLUMNS):
        expected = f"{len(LOGPS_COLUMNS)} names, of {', '.join(LOGPS_COLUMNS)}"
        raise ValueError(f"logps_columns is {columns!r}, but expected {expected}.")
    return dict(zip(LOGPS_COLUMNS, columns, strict=True))


def generation_settings(record):
    """The settings in the first record of a file that `generate_preference_pairs` wrote; of any other, None."""
    settings = record.get("settings")
    return settings if isinstance(settings, dict) and "generated_by" in settings else None


def _rename(path, where, values, names):
    """The record with its columns of these names under the layout's names."""
    missing = [name for name in names.values() if name not in values]
    if missing:
        raise ValueError(f"{path}, {where}: no column {missing}, only {list(values)}. Name two of them.")
    others = {column: value for column, value in values.items() if column not in names.values()}
    return Record(others | {column: values[name] for column, name in names.items()})


def _find_layout(path, columns, format):
    """The name of the layout that the columns show, or of the one asked for if they have what it needs."""
    known = "; ".join(f"{name!r} ({layout.columns})" for name, layout in LAYOUTS.items())
    if format not in ("auto", *LAYOUTS):
        raise ValueError(f"format is {format!r}, but expected 'auto' or one of {known}.")
    for name, layout in LAYOUTS.items():
        if format in ("auto", name) and layout.fits(columns):
            return name
    expected = f"one of the formats {known}" if format == "auto" else f"{format!r} ({LAYOUTS[format].columns})"
    remedy = "Rename the columns, or name those of an unpaired file with text_column and label_column."
    raise ValueError(f"{path}: the columns are {columns}, but expected {expected}. {remedy}")


def _read_rows(path, records, format):
    columns = list(records[0][1])
    rows = []
    for source, (where, record) in enumerate(records):
        try:
            rows += [row._replace(source=source) for row in LAYOUTS[format].read(record, columns)]
        except ValueError as error:
            raise ValueError(f"{path}, {where}: {error}") from error
    return rows


def _check_desirable(path, found, desirable):
    """The labels that mean desirable, as a set."""
    listed = ", ".join(map(repr, sorted(found, key=str)))
    if desirable is None:
        if len(found) == 2 and not any(isinstance(label, str) for label in found):
            return {max(found)}
        found = (
            f"{path} holds the labels {listed}: which of them are desirable? (Of two numbers, the greater is taken.)"
        )
        raise ValueError(f"{found} Find out what each label means, and name the desirable ones: desirable=[...].")
    values = desirable if isinstance(desirable, list | tuple | set | frozenset | np.ndarray) else [desirable]
    wanted = {canonical_label(value) for value in values}
    if not wanted < found:
        found = f"desirable is {desirable!r}, but {path} holds the labels {listed}"
        raise ValueError(f"{found}. Name one of them or more, but not all.")
    return wanted


def _drop_unusable(path, rows, sampled):
    """The rows kept, the number dropped for each reason, and the rows that contradict each other.

    Sampled rows are what two models happened to say: all of them count but those without a text.
    """
    dropped = dict.fromkeys(_REASONS, 0)
    unique = {}
    for row in rows:
        key = row.source if sampled else (row.prompt, row.texts, row.label)
        reason = _unusable(row, sampled) or ("duplicate" if key in unique else None)
        if reason:
            dropped[reason] += 1
        else:
            unique[key] = row
    mirrors = {key for key, row in unique.items() if not sampled and _mirror(row) in unique}
    kept = [row for key, row in unique.items() if key not in mirrors]
    dropped["contradiction"] = len(mirrors)
    if len(kept) < 2:
        counts = ", ".join(f"{reason}: {count}" for reason, count in dropped.items() if count) or "none"
        found = f"{path}: {len(kept)} usable rows are left of {len(rows)} (dropped: {counts})"
        raise ValueError(f"{found}, but expected at least 2. Check that the columns hold what their names say.")
    return kept, dropped, [row for key, row in unique.items() if key in mirrors]


def _unusable(row, sampled):
    """Why a row is of no use by itself, or None."""
    if row.texts[0] is None:
        return "no rewrite"
    if not all(text.strip() for text in row.texts):
        return "empty text"
    if len(row.texts) == 2 and row.texts[0] == row.texts[1] and not sampled:
        return "identical sides"
    return "no label" if len(row.texts) == 1 and row.label is None else None


def _mirror(row):
    """The key of the row that says the opposite."""
    return row.prompt, row.texts[::-1], None if row.label is None else 1 - row.label


def _bunch(path, rows, dropped, format, rng, shuffle_sides, provenance):
    """See the return value of `load_preferences`."""
    texts = np.empty((len(rows), len(rows[0].texts)), dtype=object)
    texts[:] = [row.texts for row in rows]
    prompts = np.array([row.prompt for row in rows], dtype=object)
    groups = group_rows(prompts, texts[:, -1])
    if format == "unpaired":
        target, swap = np.array([row.label for row in rows], dtype=int), None
    else:
        target = draw_sides(rng, len(rows), shuffle_sides)
        swap = target == 0

    def column(name, dtype):
        values = [getattr(row, name) for row in rows]
        return None if values[0] is None else swap_sides(np.array(values, dtype=dtype), swap)

    log_probs = column("log_probs", float)
    rewards = None if log_probs is None else log_probs[..., 0] - log_probs[..., 1]
    left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "nothing"
    return Bunch(
        data=texts[:, 0] if format == "unpaired" else swap_sides(texts, swap),
        target=target,
        prompt=prompts if any(prompts) else None,
        groups=groups,
        reference_reward=column("rewards", float),
        output_labels=column("output_labels", int),
        log_probs=log_probs,
        implicit_rewards=None if rewards is None or np.isnan(rewards).all() else rewards,
        dropped=dropped,
        source_index=np.array([row.source for row in rows]),
        format=format,
        provenance=provenance,
        DESCR=f"{len(rows)} {'labeled outputs' if format == 'unpaired' else 'preference pairs'} in "
        f"{groups.max() + 1} groups from {path} ({format}); left out: {left_out}.",
    )
