"""What every data set does with its rows: number their groups, and draw which side comes first."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def group_rows(*columns):
    """Number the groups of rows that share a value in any column, in order of appearance; "" links nothing."""
    rows, nodes, numbers = [], [], {}
    n_rows = len(columns[0])
    for which, column in enumerate(columns):
        for row, value in enumerate(column):
            if value:
                rows.append(row)
                nodes.append(n_rows + numbers.setdefault((which, value), len(numbers)))
    size = n_rows + len(numbers)
    links = coo_array((np.ones(len(rows), dtype=np.int8), (rows, nodes)), shape=(size, size))
    labels = connected_components(links, directed=False)[1][:n_rows]
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
