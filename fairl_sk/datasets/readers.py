"""The reader of preference data: lines become records (files.py), records rows (layouts.py), and rows a Bunch."""

import gc
import hashlib
import json
import os
import warnings
from array import array
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import repeat
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, check_random_state

from ..messages import read_cell, skipped_parts
from ..prompts import split_texts
from .cells import canonical_label, read_column, to_number
from .corrections import correct_rows
from .files import collect, read_table
from .layouts import LAYOUTS, LOGPS_COLUMNS, PROMPT_LIKE, Options, Row, objective_parts
from .rows import draw_sides, drop_unusable, group_rows, judged_both_ways, swap_sides


def load_preferences(
    source,
    *,
    format="auto",
    prompt_column=None,
    chosen_column=None,
    rejected_column=None,
    text_column=None,
    label_column=None,
    logps_columns=None,
    objectives=None,
    desirable=None,
    completions="all",
    ties="drop",
    tool_turns=False,
    quoted=True,
    shuffle_sides=True,
    random_state=0,
    encoding="utf-8",
    limit=None,
    corrections=None,
):
    """Read preference pairs, or labeled outputs, from a file or a table.

    The user guide (Data) describes the layouts and what is left out.

    Parameters
    ----------
    source : str, path-like, table or list of dict
        A file .tsv, .csv, .jsonl or .json (each also with .gz), or .parquet; a table of pandas or polars, or a
        ``datasets.Dataset``; or records.
    format : str, default="auto"
        What the columns mean: one of the layouts of the user guide, such as "preference", "unpaired" or "paradetox"
        [1]_. "auto" finds it out.
    prompt_column, chosen_column, rejected_column : str, default=None
        The columns of prompts and of both outputs. None means "prompt", "chosen" and "rejected".
    text_column, label_column : str, default=None
        The columns of an unpaired file; None means "completion" and "label". Either one selects "unpaired".
    logps_columns : sequence of 4 str, default=None
        Columns of log-probabilities of the chosen and the rejected output by the aligned model, then by the base model.
        None: TRL's names, "chosen_logps", "rejected_logps", "ref_chosen_logps" and "ref_rejected_logps", if there.
    objectives : sequence of str, default=None
        Several objectives: columns with judgements, names of scores (chosen_NAME and rejected_NAME), or scores in a
        list of completions. None: those of the layout (PKU-SafeRLHF), if it has any.
    desirable : value or list of values, default=None
        The labels of desirable outputs in an unpaired file, such as ``2`` or ``["neither", "fine"]``. None takes the
        greater of two numbers or booleans.
    completions : {"all", "best"}, default="all"
        Of a list of completions with scores, all pairs, or the best one against another, drawn.
    ties : {"drop", "half"}, default="drop"
        Leave ties out, or read each as two rows, one for either side, with half a weight.
    tool_turns : bool, default=False
        Whether the messages of tools in an output are part of its text. The model did not write them.
    quoted : bool, default=True
        Whether quotation marks in .tsv and .csv files enclose fields (RFC 4180). False: they are plain characters.
    shuffle_sides, random_state : bool and int, RandomState instance or None, default=True, 0
        Put the chosen output first in half of the pairs (rounded down, drawn), so that `target` has both classes.
        False: in all of them.
    encoding : str, default="utf-8"
        Encoding of a text file.
    limit : int, default=None
        Read this many records at most, from the start of the file.
    corrections : path, default=None
        The ``review.csv`` of an audit of this file, in which ``corrected`` is filled in: rows then count as it says.

    Returns
    -------
    Bunch
        In the order of the file, with the attributes

        - data : ndarray of shape (n_pairs, 2) of str, or (n_samples,) for an unpaired file
        - target : ndarray of shape (n_pairs,), 1 where the first output is preferred (the output is desirable), else 0
        - sample_weight : ndarray of shape (n_pairs,), how often the same row was judged so
        - prompt : ndarray of shape (n_pairs,) of str, "" where a row has none; None if no row has one
        - groups : ndarray of shape (n_pairs,) of int, equal where prompts or rejected texts are: never split a group
        - reference_reward : ndarray of shape (n_pairs, 2), NaN where empty; None without such columns
        - output_labels : ndarray of shape (n_pairs, 2), 1 = desirable, 0 = not; None without such columns
        - log_probs : ndarray of shape (n_pairs, 2, 2), of both outputs by the aligned and the base model, NaN where
          empty; None without such columns
        - implicit_rewards : ndarray of shape (n_pairs, 2), log-probability by the aligned model minus that by the base
          model; None unless both have columns
        - strength : ndarray of shape (n_pairs,), how clearly one side is preferred, as the file says: TRL's margin,
          HelpSteer's strength, SHP's score ratio. No estimator reads it; it may serve as a weight. None without it
        - targets : ndarray of shape (n_pairs, n_objectives), `target` by each of several objectives, 0.5 for a tie, NaN
          where not judged; None for one objective
        - objective_names : list of str, of the columns of `targets`; None for one objective
        - objective_scores : ndarray of shape (n_pairs, 2, n_objectives), where objectives have scores; None without
        - dropped : dict of str to int, the number of rows left out, by reason
        - unread : list of str, the columns that were not read
        - source_index : ndarray of shape (n_pairs,), the record of the file a row comes from, from 0
        - format, provenance, DESCR : str, dict and str, the layout, the file's name and the parameters, a summary

    Raises
    ------
    FileNotFoundError, ImportError
        If there is no such file; if a .parquet file is read without pyarrow.
    ValueError
        If a parameter is wrong, the file is broken, in another encoding or layout, or has fewer than two usable rows;
        if corrections hold an unknown value, or belong to another file.

    Warns
    -----
    UserWarning
        If rows judge the same outputs in both ways, if a column looks like a prompt that was not read, or if parts of
        messages are no text.

    References
    ----------
    .. [1] V. Logacheva et al., "ParaDetox: Detoxification with Parallel Data", ACL 2022.
    """
    options = {name: value for name, value in locals().items() if name != "source"}
    _check_choices(options)
    named = _named_columns(options)
    with _no_collection():
        return _load(source, options, named)


@contextmanager
def _no_collection():
    """Keep Python from searching millions of new records for cycles, again and again; there are none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _check_choices(options):
    limit = options["limit"]
    if limit is not None and not (isinstance(limit, Integral) and limit >= 1):
        raise ValueError(f"limit is {limit!r}, but expected a whole number of at least 1, or None.")
    for name, choices in (("completions", ("all", "best")), ("ties", ("drop", "half"))):
        if options[name] not in choices:
            raise ValueError(f"{name} is {options[name]!r}, but expected {' or '.join(map(repr, choices))}.")


def _named_columns(options):
    """The columns that the user named, by the part of a layout."""
    parameters = {part: f"{part}_column" for part in ("prompt", "chosen", "rejected", "label")}
    parameters["completion"] = "text_column"
    named = {part: options[name] for part, name in parameters.items() if options[name] is not None}
    names = options["objectives"]
    if names is not None and (isinstance(names, str) or not names or len(set(names)) < len(names)):
        raise ValueError(f"objectives is {names!r}, but expected a list of names, each once.")
    if options["logps_columns"] is not None:
        named.update(_check_logps(options["logps_columns"]))
    for part, column in named.items():
        if list(named.values()).count(column) > 1:
            raise ValueError(f"Column {column!r} is named twice, once for {part!r}. Name another one.")
    wanted = {"unpaired"} if {"completion", "label"} & named.keys() else set()
    wanted |= {"preference"} if {"chosen", "rejected", *LOGPS_COLUMNS} & named.keys() else set()
    if len(wanted | {options["format"]} - {"auto"}) > 1:
        found = "text_column and label_column go with format='unpaired', chosen_column, rejected_column and "
        found += f"logps_columns with 'preference', but format is {options['format']!r}"
        raise ValueError(f"{found}. Leave out what does not belong to the file.")
    if wanted:
        options["format"] = wanted.pop()
    return named


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


def _checksum(source):
    """The SHA-256 of a file; None of a table, or of a stream, which is read once."""
    if not isinstance(source, (str, os.PathLike)) or not Path(source).is_file():
        return None
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(source, options, named):
    table = read_table(source, options["encoding"], options["quoted"], options["limit"])
    format, table, parts = _find_layout(table, options["format"], named)
    desirable, rng = options["desirable"], check_random_state(options["random_state"])
    if desirable is not None and format != "unpaired":
        found = f"desirable is {desirable!r}, but {table.name} was read as pairs (format {format!r})"
        raise ValueError(f"{found}. Leave it out, or select other columns with text_column and label_column.")
    objectives = tuple(options["objectives"] or ())
    if objectives:
        parts = {**parts, **objective_parts(format, table.columns, objectives)}
    how = Options(options["completions"], options["ties"], options["tool_turns"], rng, objectives)
    rows = _read_texts(table, format, parts) or _read_rows(table, format, parts, how)
    if format == "unpaired":
        labels = _check_desirable(table.name, set(rows["label"]) - {None}, desirable)
        rows["label"] = [None if label is None else int(label in labels) for label in rows["label"]]
    if options["corrections"] is not None:
        rows = correct_rows(rows, options["corrections"], options["ties"])
    name = table.name if table.unit == "row" else Path(table.name).name
    provenance = {"file": name, "sha256": _checksum(source), **json.loads(json.dumps(options, default=str))}
    settings = generation_settings({name: values[0] for name, values in table.columns.items()})
    if settings is not None and format == "preference":
        provenance["settings"] = settings
    sampled = "settings" in provenance
    n_rows = len(rows["prompt"])
    rows, votes, dropped = drop_unusable(rows, sampled)
    if len(votes) < 2:
        counts = ", ".join(f"{reason}: {count}" for reason, count in dropped.items() if count) or "none"
        found = f"{table.name}: {len(votes)} usable rows are left of {n_rows} (dropped: {counts})"
        raise ValueError(f"{found}, but expected at least 2. Check that the columns hold what their names say.")
    disagreeing = [] if sampled else judged_both_ways(rows)
    bunch = _bunch(rows, disagreeing, format, rng, options["shuffle_sides"])
    bunch.update(sample_weight=votes, dropped=dropped, format=format)
    bunch.objective_names = None if bunch.targets is None else list(objectives or LAYOUTS[format].objectives)
    _warn_of_disagreement(bunch, table, disagreeing)
    bunch.unread = [column for column in table.columns if column not in _read_columns(parts)]
    bunch.provenance = provenance
    _describe(bunch, table)
    return bunch


# --------------------------------------------------------------------------------------------------- layout


def _find_layout(table, format, named):
    """The name of the layout that the columns show, or of the one asked for; the table, flat; and its parts."""
    known = "; ".join(f"{name!r} (columns {layout.columns})" for name, layout in LAYOUTS.items())
    if format not in ("auto", *LAYOUTS):
        raise ValueError(f"format is {format!r}, but expected 'auto' or one of {known}.")
    for name, layout in LAYOUTS.items():
        if format in ("auto", name):
            flat = _flatten(table, layout)
            _check_named(flat, named)
            parts = layout.find_parts(flat.columns, named)
            if parts is not None:
                return name, flat, {**parts, **({"prompt": named["prompt"]} if "prompt" in named else {})}
    expected = f"one of the formats {known}" if format == "auto" else f"{format!r} (columns {LAYOUTS[format].columns})"
    remedy = "Rename the columns, or name them with prompt_column, chosen_column, ... (text_column, label_column)."
    raise ValueError(f"{table.name}: the columns are {list(table.columns)}, but expected {expected}. {remedy}")


def _flatten(table, layout):
    """The table, its records flat if they are nested as in this layout."""
    if not layout.nested or not set(layout.nested) <= table.columns.keys():
        return table
    records = (dict(zip(table.columns, values, strict=True)) for values in zip(*table.columns.values(), strict=True))
    flat = ((table.unit, number, layout.flatten(record)) for number, record in zip(table.numbers, records, strict=True))
    return collect(table.name, flat)


def _check_named(table, named):
    for column in named.values():
        if column not in table.columns:
            near = get_close_matches(column, table.columns, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{table.name}: no column {column!r}, only {list(table.columns)}.{meant} Name one of them."
            )


def _read_columns(parts):
    """The names of all columns that the parts hold."""
    return {name for part in parts.values() for name in ([part] if isinstance(part, str) else part)}


def _read_texts(table, format, parts):
    """The rows of a table of texts, as `_read_rows` gives them, by whole columns; None if a cell is anything else."""
    outputs = {"preference": ("chosen", "rejected"), "unpaired": ("completion",)}.get(format)
    if outputs is None or not parts.keys() <= {"prompt", "label", "rewards", *outputs}:
        return None
    sides, rewards = [], None
    for name in outputs:
        sides.append(read_column(table.columns[parts[name]]))
        if sides[-1] is None:
            return None
    prompt = read_column(table.columns[parts["prompt"]]) if "prompt" in parts else [""] * len(sides[0])
    try:
        if "rewards" in parts:
            rewards = [[to_number(cell, name) for cell in table.columns[name]] for name in parts["rewards"]]
    except ValueError:  # which _read_rows places
        return None
    if prompt is None:
        return None
    for source, text in enumerate(sides[0]):
        if not text:
            _check_mixed(table, source, format)
    split = zip(*map(split_texts, prompt, *sides), strict=True)
    rows = dict(zip(("prompt", "text", "other"), map(list, split), strict=False), source=range(len(prompt)))
    if "label" in parts:
        rows["label"] = list(map(canonical_label, table.columns[parts["label"]]))
    if rewards:
        rows["rewards"] = list(zip(*rewards, strict=True))
    return rows


def _read_rows(table, format, parts, options):
    """The rows of all records by column: each output, what `Row` holds and any row has, and the record's number."""
    layout = LAYOUTS[format]
    names, values = ["names"], [repeat(parts)]
    for part, columns in parts.items():
        names.append(part)
        if isinstance(columns, str):
            values.append(table.columns[columns])
        elif isinstance(columns, list):
            values.append(zip(*(table.columns[column] for column in columns), strict=True))
        else:
            values.append(zip(*(zip(repeat(column), table.columns[column]) for column in columns), strict=True))
    rows, sources = [], array("q")
    for source, cells in enumerate(zip(*values, strict=False)):  # the parts' names repeat without end
        try:
            found = layout.read(dict(zip(names, cells, strict=True)), options)
        except ValueError as error:
            _check_mixed(table, source, format)
            raise ValueError(f"{table.place(source)}: {error}") from error
        if found[0].lost or not found[0].texts[0]:
            _check_mixed(table, source, format)
        rows += found
        sources.extend([source] * len(found))
    columns = dict(zip(Row._fields, zip(*rows, strict=True), strict=True))
    texts = zip(*columns.pop("texts"), strict=True)
    return {**columns, **dict(zip(("text", "other"), texts, strict=False)), "source": sources}


def _check_mixed(table, source, format):
    """Refuse a record that has another layout than its file."""
    record = [name for name, values in table.columns.items() if values[source] is not None]
    if LAYOUTS[format].find_parts(record, {}) is None:
        others = [name for name, layout in LAYOUTS.items() if layout.find_parts(record, {}) is not None]
        if others:
            found = f"{table.place(source)}: the record has the layout {others[0]!r}, but those before {format!r}"
            raise ValueError(f"{found}. Expected one layout in a file: split it, or name the columns.")


# ----------------------------------------------------------------------------------------------------- rows


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


def _warn_of_disagreement(bunch, table, disagreeing):
    if disagreeing:
        votes, first = bunch.sample_weight[disagreeing].sum(), bunch.source_index[disagreeing[:4]]
        places = ", ".join(table.place(source).removeprefix(f"{table.name}, ") for source in first)
        found = f"{votes:g} rows judge the same outputs in both ways (the first are {places})"
        kept = "All of them are kept, and sample_weight counts their votes: pass it to fit and to scorers"
        warnings.warn(f"{table.name}: {found}. {kept}.", stacklevel=5)


def _bunch(rows, disagreeing, format, rng, shuffle_sides):
    """See the return value of `load_preferences`."""
    n_rows = len(rows["prompt"])
    sides = [rows[name] for name in ("text", "other") if name in rows]
    texts = np.empty((n_rows, len(sides)), dtype=object)
    for side, outputs in enumerate(sides):
        texts[:, side] = outputs
    prompts = np.array(rows["prompt"], dtype=object)
    same = np.full(n_rows, "", dtype=object)  # of rows that disagree: both outputs, in any order
    same[disagreeing] = ["\0".join(sorted(outputs)) for outputs in texts[disagreeing]]
    if format == "unpaired":
        target, swap = np.array(rows["label"]), None
    else:
        target = draw_sides(rng, n_rows, shuffle_sides)
        swap = target == 0

    def column(name, dtype):
        values = rows.get(name, ())
        if all(value is None for value in values):
            return None
        filled = np.full(np.shape(next(value for value in values if value is not None)), np.nan)
        values = [filled if value is None else value for value in values]
        return np.array(values, dtype=dtype)

    wins, scores = (
        np.array(rows[name], dtype=float) if any(rows.get(name, ())) else None
        for name in ("objectives", "objective_scores")
    )
    log_probs = swap_sides(column("log_probs", float), swap)
    rewards = None if log_probs is None else log_probs[..., 0] - log_probs[..., 1]
    return Bunch(
        data=texts[:, 0] if format == "unpaired" else swap_sides(texts, swap),
        target=target,
        prompt=prompts if any(prompts) else None,
        groups=group_rows(prompts, texts[:, -1], same),
        reference_reward=swap_sides(column("rewards", float), swap),
        output_labels=swap_sides(column("output_labels", int), swap),
        log_probs=log_probs,
        implicit_rewards=None if rewards is None or np.isnan(rewards).all() else rewards,
        strength=column("strength", float),
        targets=None if wins is None else np.where(target[:, None] == 1, wins, 1 - wins),
        objective_scores=None if scores is None else swap_sides(scores.transpose(0, 2, 1), swap),
        source_index=np.array(rows["source"]),
    )


def _describe(bunch, table):
    """Say what was read and what was not, in words; warn of what may be lost."""
    left_out = ", ".join(f"{count} {reason}" for reason, count in bunch.dropped.items() if count) or "nothing"
    unread = f"; columns not read: {', '.join(bunch.unread)}" if bunch.unread else ""
    read = (values for name, values in table.columns.items() if name not in bunch.unread)
    # a part that is no text has a type, so that few texts need to be read again
    cells = (value for values in read for value in values if _may_have_parts(value))
    n_skipped = sum(skipped_parts(read_cell(value)) for value in cells)
    skipped = f"; {n_skipped} parts of messages that are no text were skipped" if n_skipped else ""
    kind = "labeled outputs" if bunch.format == "unpaired" else "preference pairs"
    bunch.DESCR = f"{len(bunch.data)} {kind} in {bunch.groups.max() + 1} groups from {table.name} ({bunch.format}); "
    bunch.DESCR += f"left out: {left_out}{unread}{skipped}."
    if n_skipped:
        warnings.warn(
            f"{table.name}: skipped {n_skipped} parts of messages that are no text, such as images.", stacklevel=3
        )
    likely = [name for name in bunch.unread if PROMPT_LIKE.fullmatch(name) and _holds_texts(table.columns[name])]
    if bunch.prompt is None and likely:
        counts = ", ".join(f"{name!r} ({len(set(map(str, table.columns[name])))} distinct values)" for name in likely)
        found = f"no column of prompts was read, but these look like one: {counts}"
        remedy = "rows that share a prompt may leak between training and test data"
        warnings.warn(f"{table.name}: {found}. Pass prompt_column={likely[0]!r}: {remedy}.", stacklevel=5)


def _may_have_parts(value):
    return "type" in value if value.__class__ is str else value is not None and value.__class__ is not float


def _holds_texts(values):
    """Whether most of the values are texts of more than one word, or lists."""
    values = [value for value in values if value is not None]
    texts = (" " in value.strip() if isinstance(value, str) else not isinstance(value, Real) for value in values)
    return sum(texts) > len(values) / 2
