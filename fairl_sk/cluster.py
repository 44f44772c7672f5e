"""Collections of Dask, which several processes or machines compute: features whose chunks stay on the workers."""

import numpy as np

from .extras import import_extra


def is_dask(X):
    """Whether something is a collection of Dask: an array, a bag or a DataFrame."""
    return hasattr(X, "__dask_graph__") and not isinstance(X, type)


def find_client(user):
    """The client of the cluster that this process is connected to; a RuntimeError says how to start one."""
    distributed = import_extra("distributed", "cluster", user)
    try:
        return distributed.get_client()
    except ValueError as error:
        raise RuntimeError(
            f"{user} needs a cluster that computes it, and this process is connected to none. Start one on this "
            "machine by dask.distributed.Client(n_workers=2, threads_per_worker=1), or connect to one by its address."
        ) from error


class ClusterFeatures:
    """Features (n_pairs, 2, n_features) or (n_samples, n_features) of a Dask array, in chunks of rows on the workers.

    Where a fit needs only their shape or some rows, the object behaves as an ndarray. A worker's chunks are kept by
    Dask, in its memory or on its disk; those of a worker that is lost are computed again.

    Parameters
    ----------
    X : dask.array.Array

    Raises
    ------
    ValueError
        For chunks of unknown or of other shape than the array says, other than numbers, or NaN, with the row.
    RuntimeError
        Without a cluster.
    """

    def __init__(self, X):
        self._client = find_client("A Dask array")
        if np.isnan(X.shape).any():
            raise ValueError(f"Found a Dask array of unknown shape, {X.shape}. Call its compute_chunk_sizes() before.")
        if X.dtype.kind not in "fiu":
            raise ValueError(f"Found a Dask array of {X.dtype}. Expected numbers, such as float32.")
        X = X.rechunk({axis: -1 for axis in range(1, X.ndim)})
        self.shape, self.dtype, self.lengths = X.shape, X.dtype, X.chunks[0]
        self._starts = np.cumsum([0, *self.lengths])
        self._chunks = self._client.compute(list(X.to_delayed().ravel()))
        for number, (shape, broken) in enumerate(self.on_chunks(_inspect)):
            first, expected = int(self._starts[number]), (self.lengths[number], *self.shape[1:])
            if shape != expected:
                raise ValueError(
                    f"Block {number} of the Dask array (from row {first}) has shape {shape}. Expected {expected}, as "
                    "the array says: make all blocks by one encoder, and name their true shape."
                )
            if broken is not None:
                raise ValueError(
                    f"Input X contains NaN or infinity, first in row {first + broken} of {len(self)} (block {number})."
                    " Drop the rows with such values before fitting (of y too)."
                )
        filled = [number for number, length in enumerate(self.lengths) if length]
        self._chunks, self.lengths = ([of[number] for number in filled] for of in (self._chunks, self.lengths))
        self._starts = np.cumsum([0, *self.lengths])

    @property
    def ndim(self):
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self):
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """Some rows, by slice, mask or positions, as an ndarray."""
        if isinstance(rows, slice):
            rows = range(*rows.indices(len(self)))
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows % len(self)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        numbers = np.unique(owners)
        places = [np.flatnonzero(owners == number) for number in numbers]
        wanted = {number: (rows[some] - self._starts[number],) for number, some in zip(numbers, places, strict=True)}
        for some, part in zip(places, self.on_chunks(np.ndarray.__getitem__, wanted), strict=True):
            found[some] = part
        return found

    def as_outputs(self):
        """The outputs of pairs in rows of their own, (2 n_pairs, n_features); the chunks are shared."""
        outputs = object.__new__(type(self))
        vars(outputs).update(vars(self), shape=(self.size // self.shape[-1], self.shape[-1]))
        times = outputs.shape[0] // max(self.shape[0], 1)
        outputs.lengths, outputs._starts = [times * length for length in self.lengths], times * self._starts
        return outputs

    def on_chunks(self, function, arguments=None):
        """Call ``function(chunk, *arguments)`` where the chunks lie; its results in the order of the chunks.

        ``arguments`` maps the numbers of the chunks that are read to their arguments; None: all, without any.
        """
        if arguments is None:
            arguments = dict.fromkeys(range(len(self._chunks)), ())
        calls = [
            self._client.submit(_call, function, self._chunks[number], self.shape[1:], given, pure=False)
            for number, given in arguments.items()
        ]
        return self._client.gather(calls)


def _call(function, chunk, row_shape, arguments):
    chunk = np.asarray(chunk)
    if chunk.shape[-1:] == row_shape[-1:]:  # another width is reported
        chunk = chunk.reshape(-1, *row_shape)
    return function(chunk, *arguments)


def _inspect(chunk):
    """The shape of a chunk, and its first row with a value that is not finite."""
    finite = np.isfinite(chunk).all(axis=tuple(range(1, chunk.ndim)))
    return chunk.shape, None if finite.all() else int(np.argmin(finite))
