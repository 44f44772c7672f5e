"""Collections of Dask, which several processes or machines compute: features whose chunks stay on the workers."""

import numpy as np

from .extras import import_extra

_CHUNK = 2**26  # bytes: smaller chunks are joined


def is_dask(X):
    """Whether something is a collection of Dask: an array, a bag or a DataFrame."""
    return type(X).__module__.partition(".")[0] == "dask" and hasattr(X, "__dask_graph__")


def check_dask_array(X):
    """Refuse collections of Dask that are no array of numbers of a known shape."""
    if not hasattr(type(X), "rechunk"):
        raise ValueError(
            f"Found a Dask {type(X).__name__}. Expected a Dask array of features: those of a table are "
            "table.to_dask_array(lengths=True), and TransformerEmbedder makes them of texts."
        )
    if X.ndim not in (2, 3):
        raise ValueError(
            f"Found a Dask array of shape {X.shape}. Expected features: (n_pairs, 2, n_features) or (n_samples, "
            "n_features)."
        )
    if np.isnan(X.shape).any():
        raise ValueError(f"Found a Dask array of unknown shape, {X.shape}. Call its compute_chunk_sizes() before.")
    if X.dtype.kind not in "fiub" or X.dtype.itemsize > 8:
        raise ValueError(f"Found a Dask array of {X.dtype}. Expected numbers of at most 64 bits, such as float32.")


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

    It has the shape of an ndarray, and gives some rows as one. As long as it lives, Dask keeps the chunks, in the
    workers' memory or on their disks; those of a worker that is lost are computed again. Many small chunks are joined,
    since each pass over a chunk has a fixed cost.

    Parameters
    ----------
    X : dask.array.Array
        Of numbers, see `check_dask_array`.

    Raises
    ------
    ValueError
        For chunks of other shape than the array says, or with NaN; it names the block and the row.
    RuntimeError
        Without a cluster.
    """

    def __init__(self, X):
        self._client = find_client("A Dask array")
        X = self._client.persist(X.rechunk({axis: -1 for axis in range(1, X.ndim)}))
        self.shape = X.shape
        self.dtype = np.dtype(float) if X.dtype.kind == "b" else X.dtype.newbyteorder("=")
        self._take(X)
        self._check()
        n_parts = 2 * sum(self._client.nthreads().values())
        length = min(-(-len(self) // n_parts), max(1, _CHUNK // max(1, X.nbytes // len(self))))
        if len(self.lengths) > n_parts and len(self) / len(self.lengths) < length:
            self._take(X.rechunk({0: length}))

    def _take(self, X):
        """Let the workers compute the chunks of an array, and keep those with rows."""
        chunks = self._client.compute(list(X.to_delayed().ravel()))
        filled = [(*of, number) for number, of in enumerate(zip(X.chunks[0], chunks, strict=True)) if of[0]]
        self.lengths, self._chunks, self._numbers = zip(*filled, strict=True)
        self._starts = np.cumsum([0, *self.lengths])

    def _check(self):
        for place, (shape, broken) in enumerate(self.on_chunks(_inspect)):
            first, number = int(self._starts[place]), self._numbers[place]
            expected = self.lengths[place], *self.shape[1:]
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
        """Some rows, by a slice or by positions from 0 on, as an ndarray."""
        if isinstance(rows, slice):
            rows = range(*rows.indices(len(self)))
        rows = np.asarray(rows, dtype=np.intp)
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
            self._client.submit(_call, function, self._chunks[number], self.shape[1:], self.dtype, given, pure=False)
            for number, given in arguments.items()
        ]
        try:
            return self._client.gather(calls)
        except BaseException:
            self._client.cancel(calls)  # the error, which Dask keeps, would keep them
            raise


def _call(function, chunk, row_shape, dtype, arguments):
    chunk = np.ascontiguousarray(chunk, dtype=dtype)
    if chunk.shape[-1:] == row_shape[-1:]:  # another width is reported
        chunk = chunk.reshape(-1, *row_shape)
    return function(chunk, *arguments)


def _inspect(chunk):
    """The shape of a chunk, and its first row with a value that is not finite."""
    finite = np.isfinite(chunk).all(axis=tuple(range(1, chunk.ndim)))
    return chunk.shape, None if finite.all() else int(np.argmin(finite))
