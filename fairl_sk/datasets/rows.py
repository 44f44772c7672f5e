"""What every data set does with its rows: number their groups, and draw which side comes first."""

from itertools import count

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


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
