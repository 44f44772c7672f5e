"""What a learner reads of the rows: differences of a pair's features, their scale, and which outputs are duplicates."""

from mmap import mmap
from tempfile import TemporaryFile, gettempdir

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.utils import gen_batches

from ..cluster import ClusterFeatures
from ..warn import warn_user
from .blocks import is_mapped, read_blocks, working_dtype

__all__ = [
    "array_in_file",
    "difference_scale",
    "differences_in_file",
    "discount_duplicates",
    "labels_of_pairs",
    "mapped_array",
    "number_outputs",
    "preferred_first",
    "signed_differences",
    "take_rows",
    "warn_of_contradictions",
    "warn_of_equal_sides",
]


def preferred_first(values, sign):
    """Values of shape (n_pairs, 2) in the order (preferred, other); None stays None."""
    return None if values is None else np.where(sign[:, None] > 0, values, values[:, ::-1])


def labels_of_pairs(output_labels, implicit_rewards):
    """Labels that failure detectors read, (n_pairs, 2): those given, or 1 for the larger implicit reward of a pair."""
    if implicit_rewards is None:
        return output_labels
    if output_labels is not None:
        raise ValueError("Found output_labels and implicit_rewards. Expected one of them, or none.")
    values = np.asarray(implicit_rewards, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        found = f"implicit_rewards of shape {values.shape}, {np.count_nonzero(~np.isfinite(values))} not finite"
        raise ValueError(f"Found {found}. Expected finite numbers, one for each output: (n_pairs, 2).")
    return (values > values[:, ::-1]).astype(np.int8)


def signed_differences(X, sign, rows=slice(None)):
    """Features of the preferred output minus those of the other one, (n_pairs, n_features), for some rows of X.

    Single outputs have no opponent: they are multiplied by their sign, +1 if desirable, else -1, and behind them stands
    a constant that learns a bias, (n_samples, n_features + 1).
    """
    if X.ndim == 3:
        rows = np.arange(len(X))[rows]
        differences = mapped_array((len(sign), X.shape[-1]), X.dtype)
        for part in gen_batches(len(sign), 1024):  # without a copy of all features
            np.subtract(X[rows[part], 0], X[rows[part], 1], out=differences[part])
    else:
        differences = np.column_stack([X[rows], np.ones(len(sign), dtype=X.dtype)])
    differences *= sign[:, None].astype(X.dtype)
    return differences


def differences_in_file(X, sign, rows):
    """`signed_differences` of some rows of pairs, in a temporary file, see `array_in_file`."""

    def blocks():
        for part in gen_batches(len(rows), 1024):
            pairs = X[rows[part]].astype(working_dtype(X), copy=False)
            yield (pairs[:, 0] - pairs[:, 1]) * sign[part, None].astype(pairs.dtype)

    return array_in_file(blocks(), working_dtype(X), (len(rows), X.shape[-1]))


def array_in_file(blocks, dtype, shape):
    """Blocks of an array, one behind the other, in a temporary file: its memory map, which cannot be written.

    On a full disk it raises OSError, where writing through a map would end the process.
    """
    try:
        with TemporaryFile() as file:
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype=dtype))
            file.flush()
            return np.memmap(file, dtype, "r", shape=shape)
    except OSError as error:
        size = np.prod(shape) * np.dtype(dtype).itemsize / 1e9
        raise OSError(
            f"There is no room for {size:.1f} GB of features in {gettempdir()} ({error}). Set the environment variable "
            "TMPDIR to a folder on a larger disk."
        ) from error


def mapped_array(shape, dtype):
    """An array in a memory map of its own: freed, it goes back to the system, where malloc would keep it."""
    count = int(np.prod(shape))
    memory = mmap(-1, max(count * np.dtype(dtype).itemsize, 1))
    return np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)


def take_rows(X, rows):
    """A copy of some rows of X that lies in memory, or in a temporary file if X does in a file."""
    shape = (len(rows), *X.shape[1:])
    if not is_mapped(X):
        return np.take(X, rows, axis=0, out=mapped_array(shape, X.dtype), mode="clip")
    return array_in_file((X[rows[part]] for part in gen_batches(len(rows), 1024)), X.dtype, shape)


def difference_scale(differences, sample_weight, *, paired=False):
    """Root of the mean squared length of the differences: the unit in which the net and the solvers work.

    It is 1 where all single outputs are zero. Raises ValueError if all pairs are identical on both sides, or the
    squares overflow or underflow.
    """
    with np.errstate(over="ignore"):
        squares = np.einsum("ij,ij->i", differences, differences).astype(np.float64)
        scale = float(np.sqrt(np.average(squares, weights=sample_weight)))
    if not np.isfinite(scale):
        raise ValueError("The features are too large (their squares overflow): scale them, e.g. by StandardScaler.")
    if scale**2 < 1e-290:
        if differences[sample_weight > 0].any():
            raise ValueError(
                "The features are too small (their squares underflow): scale them, e.g. by StandardScaler."
            )
        if paired:
            raise ValueError(
                "All pairs are identical on both sides: no reward can be learned from them. Check that X[:, 0] and "
                "X[:, 1] hold different outputs."
            )
    return scale or 1.0


# ----------------------------------------------------------------------------------------------- duplicates

_ROUNDING = 2e-6  # features that differ by less, as a share of the largest, are the same


def number_outputs(X):
    """Number every distinct output of pairs, (n_pairs, 2): duplicates, up to rounding, have the same number."""
    outputs = X.as_outputs() if isinstance(X, ClusterFeatures) else X.reshape(-1, X.shape[-1])
    dtype = working_dtype(X)
    along, across = _projections(outputs, np.random.default_rng(0).normal(size=(2, X.shape[-1])).astype(dtype))
    order = np.argsort(along, kind="stable")  # duplicates are neighbors
    along, across = along[order], across[order]
    close, near = _ROUNDING * np.abs(along).max(), 10 * _ROUNDING * np.abs(across).max()
    links = []
    for lag in (1, 2, 3):  # another output may lie between two that differ by rounding
        neighbors = (along[lag:] - along[:-lag] <= close) & (np.abs(across[lag:] - across[:-lag]) <= near)
        neighbors = np.flatnonzero(neighbors)
        for places in np.split(neighbors, range(1024, len(neighbors), 1024)):  # a few rows at a time
            rows, others = (outputs[order[some]].astype(dtype, copy=False) for some in (places, places + lag))
            same = np.abs(rows - others).max(axis=1) <= _ROUNDING * np.abs(rows).max(axis=1)
            links.append(np.stack([places, places + lag])[:, same])
    links = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(links.shape[1]), links), shape=(len(order), len(order)))
    numbers = np.empty(len(order), dtype=np.intp)
    numbers[order] = connected_components(graph, directed=False)[1]
    return numbers.reshape(-1, 2)


def _projections(outputs, directions):
    """Outputs (n_outputs, n_features) along each of the directions."""
    if is_mapped(outputs):
        return read_blocks(outputs).times(torch.from_numpy(directions.T)).numpy().T
    return [outputs @ direction for direction in directions]


def warn_of_contradictions(numbers, sign, sample_weight):
    """Warn of pairs of the same two outputs, by their numbers, with opposite preferences."""
    preferred, other = preferred_first(numbers, sign).T
    counted = (sample_weight > 0) & (preferred != other)
    pairs, opposite = (a * (numbers.max() + 1) + b for a, b in ((preferred, other), (other, preferred)))
    contradicted = counted & np.isin(opposite, pairs[counted])
    if contradicted.any():
        warn_user(
            f"{contradicted.sum()} of {len(sign)} pairs contradict another pair (the same features of two outputs, the "
            f"other one preferred), first row {np.flatnonzero(contradicted)[0]}. No reward orders both as preferred: "
            "drop them, or keep them as ties."
        )


def warn_of_equal_sides(numbers, sample_weight):
    """Warn if more than 1 % of the pairs have the same features on both sides."""
    equal = (sample_weight > 0) & (numbers[:, 0] == numbers[:, 1])
    if equal.sum() > 0.01 * len(numbers):
        warn_user(
            f"{equal.sum()} of {len(numbers)} pairs have the same features on both sides, first row "
            f"{np.flatnonzero(equal)[0]}: they teach nothing. Drop identical outputs. If their texts differ, "
            "choose other features: these cannot tell apart texts that are cut (max_length), words of one letter, or a "
            "language without spaces that is read by words."
        )


def discount_duplicates(numbers, sample_weight, correlation):
    r"""Weights of pairs with duplicate outputs, divided by their design effect (theory, "Duplicate outputs").

    They are :math:`w_i / (1 + \varrho (m_i + n_i - 2))`, where the outputs of pair i, known by their numbers, are in
    :math:`m_i` and :math:`n_i` distinct pairs, and :math:`\varrho` is the correlation of pairs that share an output.
    """
    counted = (sample_weight > 0) & (numbers[:, 0] != numbers[:, 1])
    n_outputs = numbers.max() + 1
    distinct = np.unique(numbers[counted].min(axis=1) * n_outputs + numbers[counted].max(axis=1))
    counts = np.bincount(np.concatenate(np.divmod(distinct, n_outputs)), minlength=n_outputs)
    return sample_weight / (1 + correlation * np.maximum(counts[numbers].sum(axis=1) - 2, 0))
