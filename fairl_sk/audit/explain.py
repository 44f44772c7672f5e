"""What explains the preferences and where the reward fails: runs `shortcuts`, `subgroups` and `label_errors` on an
audit's data. `run` calls it.
"""

from typing import Any, NamedTuple

import numpy as np

from ..pairs import preference_sign
from .label_errors import (
    contradicted_rows,
    cross_fitted_margins,
    find_label_errors,
    list_for_review,
    reasons_of,
)
from .measures import margins_of, rewards_of, shortened_texts
from .properties import PROPERTIES, measure_properties
from .shortcuts import measure_edits, measure_shortcuts
from .subgroups import cluster_slices, find_subgroups, tree_slices, value_slices, word_slices, worst_subgroup

MAX_ROWS = 10_000  # training rows, and held-out rows, whose texts are searched; more are drawn
MAX_POSITIONS = 5  # parts of the file that are compared
READ_OTHERWISE = {  # of a Bunch: these are no columns that describe a row
    "data", "target", "sample_weight", "prompt", "groups", "reference_reward", "output_labels", "log_probs",
    "implicit_rewards", "source_index",
}  # fmt: skip


class AuditedRows(NamedTuple):
    """Checked data, its split, and the features of both parts.

    Attributes
    ----------
    data : Bunch
    train, test : ndarray of int
        Row numbers.
    X_train, X_test : ndarray
    """

    data: Any
    train: np.ndarray
    test: np.ndarray
    X_train: np.ndarray
    X_test: np.ndarray


class AuditedReward(NamedTuple):
    """The reward that is explained.

    Attributes
    ----------
    name : str
    pipeline : fitted Pipeline
        Features and reward.
    margins : ndarray of shape (n_test,)
        R(preferred) - R(other) of the held-out rows, or rewards signed by the label.
    learner : estimator
        Fitted to the training rows; clones of it are fitted to folds of them. A fast one will do.
    """

    name: str
    pipeline: Any
    margins: np.ndarray
    learner: Any

    def of_texts(self, texts):
        """Rewards (n_pairs, 2) of texts (n_pairs, 2)."""
        return rewards_of(self.pipeline[-1], self.pipeline[:-1].transform(texts))


def explain(rows, reward, *, properties=None, n_resamples=1000, random_state=0):
    """Shortcuts, subgroups and label errors of an audit.

    Parameters
    ----------
    rows : AuditedRows
    reward : AuditedReward
    properties : dict of str to `Property`, default=None
        From `known_properties`. None: those of the package.
    n_resamples, random_state
        Of intervals and draws.

    Yields
    ------
    part : str
    found : dict
        Each part when it is measured, by its name. ``label_errors``: ``left_out``, ``rate``, ``gain``, ``clear``,
        ``expected`` (number of wrong labels), ``review`` (see `list_for_review`) and ``held_out`` (how many of these
        are held out). ``reasons``: why each held-out row is in the wrong order, if it is, an ndarray of str (n_test,).
        ``shortcuts``: ``left_out`` (None, or why), ``reward`` (its name), ``pairs`` (held out), ``constant``
        (properties that are equal in each pair), ``properties`` and ``edits`` (see `measure_shortcuts`,
        `measure_edits`). ``subgroups``: ``left_out``, ``reward``, ``rows`` (searched), ``tried`` and ``tested`` (see
        `find_subgroups`), and ``example`` (of the worst subgroup, the row with the lowest margin, or None).
    """
    known = PROPERTIES if properties is None else properties
    sign = preference_sign(rows.data.target, len(rows.data.target))
    crossed = _cross_fitted(rows, reward, sign)
    label_errors, reasons = _label_errors(rows, reward, sign, crossed)
    yield "label_errors", label_errors
    yield "reasons", reasons
    drawn = _draw(rows, random_state)
    prompts = rows.data.get("prompt")
    texts = rows.data.data[drawn.rows]
    values = measure_properties(texts, None if prompts is None else prompts[drawn.rows], known)
    settings = {"n_resamples": n_resamples, "random_state": random_state}
    yield "shortcuts", _shortcuts(rows, reward, sign, drawn, values, known, settings)
    yield "subgroups", _subgroups(rows, reward, crossed, sign, drawn, values, settings)


class _Drawn(NamedTuple):
    rows: np.ndarray  # row numbers in the data: the drawn training rows, then the drawn held-out rows
    train: np.ndarray  # their places in `rows`
    test: np.ndarray
    trained: np.ndarray  # of the drawn training rows, their places in `train` of the split
    held: np.ndarray  # the same of the held-out rows


def _draw(rows, random_state):
    rng = np.random.default_rng(random_state)
    train, held = (np.sort(rng.permutation(len(part))[:MAX_ROWS]) for part in (rows.train, rows.test))
    numbers = np.concatenate([rows.train[train], rows.test[held]])
    return _Drawn(numbers, np.arange(len(train)), np.arange(len(train), len(numbers)), train, held)


def _shortcuts(rows, reward, sign, drawn, values, known, settings):
    found = {"left_out": None, "reward": reward.name, "properties": [], "edits": []}
    if rows.data.data.ndim == 1:
        return found | {"left_out": "Shortcuts are of pairs, and these data are single outputs."}
    numbers = drawn.rows[drawn.test]
    texts, own = rows.data.data[numbers], sign[numbers]
    held = {name: value[drawn.test] for name, value in values.items()}
    groups, margins = rows.data.groups[numbers], reward.margins[drawn.held] * own
    return found | {
        "pairs": len(numbers),
        "constant": [name for name, value in held.items() if (value[:, 0] == value[:, 1]).all()],
        "properties": measure_shortcuts(held, own, groups, margins, **settings),
        "edits": measure_edits(texts, own, reward.of_texts, known, random_state=settings["random_state"]),
    }


def _subgroups(rows, reward, crossed, sign, drawn, values, settings):
    data, numbers, random_state = rows.data, drawn.rows, settings["random_state"]
    margins = np.concatenate([crossed[numbers[drawn.train]], reward.margins[drawn.held]])
    train = drawn.train[np.isfinite(margins[drawn.train])]
    credit = (margins > 0) + 0.5 * (margins == 0)
    found = {"left_out": None, "reward": reward.name, "rows": len(numbers), "tried": 0, "tested": []}
    if not len(train):
        return found
    index = data.get("source_index", np.arange(len(data.data)))[numbers]
    columns = {**values, **_columns(data, numbers)}
    slices = value_slices(columns, train) | _position_slices(index)
    texts, prompts = data.data[numbers], data.get("prompt")
    slices |= word_slices(texts, train, "an output")
    if prompts is not None:
        slices |= word_slices(prompts[numbers], train, "the prompt")
    X = np.concatenate([rows.X_train[drawn.trained], rows.X_test[drawn.held]])
    slices |= cluster_slices(X, train, "outputs", random_state)
    slices |= tree_slices({**values, "position in the file": index}, credit, train, random_state)
    found |= find_subgroups(slices, credit, train, drawn.test, data.groups[numbers], **settings)
    test = drawn.test
    return found | {"example": _example(found["tested"], texts[test], sign[numbers[test]], index[test], margins[test])}


def _example(tested, texts, sign, index, margins):
    """The held-out row of the worst subgroup that has the lowest margin; None without a flagged subgroup."""
    worst = worst_subgroup(tested)
    if worst is None:
        return None
    row = np.flatnonzero(worst["inside"])[np.argmin(margins[worst["inside"]])]
    named = {key: worst[key] for key in ("subgroup", "word") if key in worst}
    place = {"index": int(index[row]), "margin": float(margins[row])}
    return named | place | shortened_texts(texts[row], sign[row])


def _columns(data, numbers):
    """Columns of the data that describe a row or its outputs."""
    columns = {
        name: values
        for name, values in data.items()
        if name not in READ_OTHERWISE
        and isinstance(values, np.ndarray)
        and values.shape in (data.data.shape[:1], data.data.shape)
    }
    if "subtypes" not in columns:
        columns |= data.get("of_subtype", {})
    return {f"column {name}": np.asarray(values)[numbers] for name, values in columns.items()}


def _position_slices(index):
    """Equal parts of the file."""
    part = np.minimum((index * MAX_POSITIONS) // (index.max() + 1), MAX_POSITIONS - 1)
    return {f"part {number + 1} of {MAX_POSITIONS} of the file": part == number for number in range(MAX_POSITIONS)}


def _cross_fitted(rows, reward, sign):
    def margins(learner, X, own):
        return margins_of(rewards_of(learner, X), own)

    train, test, data = rows.train, rows.test, rows.data
    held = margins(reward.learner, rows.X_test, sign[test])
    known = rows.X_train, data.target[train], sign[train], data.groups[train]
    return cross_fitted_margins(reward.learner, *known, held, train, test, margins)


def _label_errors(rows, reward, sign, crossed):
    data = rows.data
    found = find_label_errors(crossed)
    contradicted = contradicted_rows(data.data, sign, data.get("output_labels"))
    index = data.get("source_index", np.arange(len(data.data)))
    review = list_for_review(found, crossed, data.data, sign, index, data.get("prompt"), contradicted)
    arrays = found.pop("noise"), found.pop("support")
    reasons = reasons_of(*(values[rows.test] for values in arrays), contradicted[rows.test])
    left_out = None if np.isfinite(crossed[rows.train]).any() else "The training rows are one group: no folds."
    held = set(index[rows.test].tolist())
    counts = {"expected": float(arrays[0].sum()), "held_out": sum(row["row"] in held for row in review)}
    return {"left_out": left_out, **found, **counts, "review": review}, reasons
