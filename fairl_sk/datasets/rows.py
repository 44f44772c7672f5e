"""What every data set does with its rows: drop what is of no use, count votes, number groups, draw the first side.

Rows are columns by name: "prompt", "text" (an output, of pairs the chosen one), "other" (of pairs the rejected one),
"label" (of single outputs), and what else a row of `fairl_sk.datasets.layouts` holds. A missing column has its default.
"""

from collections import Counter
from itertools import count

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .corrections import REASON

_REASONS = (
    "empty text",
    "identical sides",
    "duplicate",
    "tie",
    "no rewrite",
    "no label",
    "one completion",
    REASON,
)
_DISTINCT = ("prompt", "text", "other", "label", "strength", "objectives")  # rows that differ in one are distinct


def drop_unusable(rows, sampled):
    """The distinct usable rows, the votes for each, and how many rows were dropped for each reason.

    Sampled rows are what two models happened to say: all of them count but those without a text.
    """
    n_rows = len(rows["prompt"])
    reasons = np.array(rows.get("lost", [""] * n_rows), dtype=object)

    def drop(where, reason):
        reasons[where & (reasons == "")] = reason

    sides = [np.array(rows[name], dtype=object) for name in ("text", "other") if name in rows]
    for side in sides:
        drop(np.array([not text or text.isspace() for text in side]), "empty text")
    if len(sides) == 1:
        drop(np.equal(np.array(rows["label"], dtype=object), None), "no label")
    elif not sampled:
        drop(sides[0] == sides[1], "identical sides")
    dropped = Counter(reasons.tolist())
    rows = _take(rows, reasons == "")
    if not sampled:
        rows, votes = _merge_votes(rows)
        dropped["duplicate"] = dropped[""] - len(votes)
    else:
        votes = np.ones(dropped[""])
    return rows, votes, {reason: dropped[reason] for reason in _REASONS}


def _merge_votes(rows):
    """The distinct rows, in order of appearance, and the sum of the weights of each."""
    n_rows = len(rows["prompt"])
    keys = zip(*(rows[name] for name in _DISTINCT if name in rows), strict=True)
    first = np.fromiter(map({}.setdefault, keys, count()), np.intp, n_rows)
    is_first = first == np.arange(n_rows)
    votes = np.bincount(first, rows.get("weight", np.ones(n_rows)), n_rows)
    return _take(rows, is_first), votes[is_first]


def _take(rows, where):
    if where.all():
        return rows
    kept = np.flatnonzero(where).tolist()
    return {name: [values[row] for row in kept] for name, values in rows.items()}


def judged_both_ways(rows):
    """Numbers of the distinct rows of which another one says the opposite; ties say nothing."""
    prompts, texts, others = rows["prompt"], rows["text"], rows.get("other")
    numbers = np.flatnonzero(np.equal(rows.get("weight", np.ones(len(texts))), 1)).tolist()  # half a weight: a tie
    if others is None:
        said = {(prompts[n], texts[n], rows["label"][n]): n for n in numbers}
        return sorted(n for (prompt, text, label), n in said.items() if (prompt, text, 1 - label) in said)
    chosen = set(texts)
    numbers = [n for n in numbers if others[n] in chosen]
    said = {(prompts[n], texts[n], others[n]) for n in numbers}
    return [n for n in numbers if (prompts[n], others[n], texts[n]) in said]


def group_rows(*columns):
    """Number the groups of rows that share a value in any column, in order of appearance; "" links nothing."""
    n_rows, links = len(columns[0]), []
    for column in filter(any, columns):
        firsts = {}
        first = np.fromiter(map(firsts.setdefault, column, count()), np.intp, n_rows)
        rows = np.flatnonzero(np.asarray(column, dtype=bool))
        links.append([rows, first[rows]])  # each to the first one of the same value
    ends = np.concatenate(links, axis=1) if links else np.empty((2, 0), dtype=np.intp)
    graph = coo_array((np.ones(ends.shape[1], dtype=np.int8), tuple(ends)), shape=(n_rows, n_rows))
    labels = connected_components(graph, directed=False)[1]
    _, first, groups = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups]


def draw_sides(rng, n_pairs, shuffle_sides=True):
    """Targets of pairs, 1 where the chosen output goes first: in half of them (rounded down), or in all."""
    return rng.permutation(np.arange(n_pairs) % 2) if shuffle_sides else np.ones(n_pairs, dtype=int)


def swap_sides(values, where):
    """A copy of an array (n_pairs, 2, ...) with the two sides exchanged in these rows; None stays None."""
    if values is None:
        return None
    swapped = values.copy()
    swapped[where] = values[where, ::-1]
    return swapped
