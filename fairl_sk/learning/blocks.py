"""Features larger than memory: what a fit reads of X in a file or on a cluster, computed by block each time."""

import warnings
from copy import copy
from functools import partial

import numpy as np
import torch
from sklearn.utils import gen_batches

from ..cluster import ClusterFeatures

__all__ = ["Blocks", "is_mapped", "products_by_part", "read_blocks", "with_side", "working_dtype"]

# Numbers in a block: many more do not stay in a processor's cache, and fewer cost more calls. Conversion to another
# dtype goes by smaller pieces, as both dtypes have to stay in the cache. GPUs want more at once.
_BLOCK, _PIECE, _TIMES_ON_GPU = 2**21, 2**17, 64


def is_mapped(X):
    """Whether features stay where they are and are read by block: a memory map of NumPy, or chunks on a cluster."""
    return isinstance(X, (np.memmap, ClusterFeatures))


def working_dtype(X):
    """The dtype in which features are computed with: float32 for float16 and float32, else float64."""
    return np.dtype(np.float32 if X.dtype.kind == "f" and X.dtype.itemsize <= 4 else np.float64)


class Blocks:
    """Rows made of a memory-mapped X, in place of the tensor (n_rows, ..., n_features) that would hold them all.

    A row is an output, a pair (2, n_features) or, with ``differences``, the first minus the second output of a pair;
    it is multiplied by its factor. Indexing gives a tensor of some rows. ``nn.Linear`` takes the object as its input.

    Parameters
    ----------
    X : memmap of shape (n_pairs, 2, n_features) or (n_samples, n_features)
    rows : slice or ndarray, default=slice(None)
        The rows of X that are read.
    factor : array-like of shape (n_rows,) or float, default=1.0
    differences : bool, default=False
        Whether pairs are subtracted. Single outputs get a constant 1 behind their features instead.
    center : Tensor of shape (n_features,), default=None
        What is subtracted from each output.
    device : torch.device or str, default="cpu"
        Where the blocks are computed.
    """

    def __init__(self, X, rows=slice(None), factor=1.0, *, differences=False, center=None, device="cpu"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
            self._X = torch.from_numpy(np.asarray(X))
        self._rows = None if isinstance(rows, slice) and rows == slice(None) else np.arange(len(X))[rows]
        self.dtype = torch.from_numpy(np.empty(0, working_dtype(X))).dtype
        self.device, self._center, self._differences = torch.device(device), center, differences
        self.has_side, self._memories = False, {}
        times = 1 if self.device.type == "cpu" else _TIMES_ON_GPU
        self._block, self._piece = (max(1, times * numbers // X[0].size) for numbers in (_BLOCK, _PIECE))
        n_rows = len(X) if self._rows is None else len(self._rows)
        self.factor = torch.as_tensor(factor, dtype=self.dtype).to(self.device).expand(n_rows)
        self.shape = (n_rows, *self._read(slice(0, 1)).shape[1:])

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, places):
        return _scaled(self._read(places), self.factor[places])

    def _read(self, places):
        """Rows without their factors, for a slice or positions; the next call may overwrite them."""
        given = self._X[places if self._rows is None else self._rows[places]]
        if given.dtype == self.dtype and given.device == self.device and self._center is None and not self._differences:
            rows = given  # nothing to compute
        elif self._differences and given.ndim == 3:
            rows = self._memory("rows", given[:, 0])
            pairs = self._memory("pairs", given[: self._piece])
            for piece, part in zip(given.split(self._piece), rows.split(self._piece), strict=True):
                if piece.shape != pairs.shape:  # the last piece
                    pairs = pairs[: len(piece)]
                torch.sub(*pairs.copy_(piece).unbind(1), out=part)
        else:
            rows = self._memory("rows", given).copy_(given)
            if self._center is not None:
                rows -= self._center
            if self._differences:
                rows = torch.nn.functional.pad(rows, (0, 1), value=1.0)
        return rows[:, None] if self.has_side else rows

    def _memory(self, name, like):
        """A tensor for values like those given. That of a block is used again: new memory costs more than reading."""
        memory = self._memories.get(name)
        if memory is None or len(memory) < len(like):
            memory = torch.empty(like.shape, dtype=self.dtype, device=self.device)
            if len(like) <= self._block:
                self._memories[name] = memory
        return memory[: len(like)]

    def parts(self):
        """Slices of the rows, a block each."""
        return gen_batches(len(self), self._block)

    def collect(self, function, shape, dtype):
        """A tensor of ``function(rows)`` of each block, without the factors of the rows."""
        result = torch.empty(shape, dtype=dtype, device=self.device)  # small results between blocks split free memory
        for part in self.parts():
            result[part] = function(self._read(part))
        return result

    def squared_lengths(self):
        """Squared lengths of the features of each row, (n_rows,), float64."""
        function = partial(_squared_lengths, width=self._X.shape[-1])
        return (self.factor.double() ** 2 * self.collect(function, self.shape[:1], torch.float64)).cpu().numpy()

    def times(self, weights):
        """All rows times weights (n_features, n_columns): (n_rows, ..., n_columns)."""
        product = self.collect(lambda rows: rows @ weights, (*self.shape[:-1], weights.shape[1]), self.dtype)
        return _scaled(product, self.factor)

    def sums(self, slopes):
        """The sum of all rows, each times its slopes (n_rows, ..., n_columns): (n_features, n_columns), float64."""
        slopes = _scaled(slopes.to(self.dtype), self.factor)
        used = torch.nonzero(slopes.flatten(1).any(dim=1))[:, 0]
        if len(used) > len(self) / 2:
            return sum(_sum(self._read(part), slopes[part]) for part in self.parts())
        parts = used.split(self._block)  # of the failures of a round, for example: others add nothing
        return sum(_sum(self._read(some.cpu()), slopes[some]) for some in parts)

    def part_times(self, part, weights):
        """Some rows times weights (n_features,), whose gradient torch knows."""
        return _scaled(self._read(part) @ weights, self.factor[part])

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """What ``nn.Linear`` without a bias calls; other functions of torch refuse the object."""
        if function is torch.nn.functional.linear and isinstance(args[0], Blocks) and len(args) < 4:
            rows, weights, bias = (*args, None)[:3]
            product = _Product.apply(weights.T, rows)
            return product if bias is None else product + bias
        return NotImplemented


class _Product(torch.autograd.Function):
    """`Blocks.times` with its gradient, `Blocks.sums`."""

    @staticmethod
    def forward(ctx, weights, rows):
        ctx.rows = rows
        return rows.times(weights.detach())

    @staticmethod
    def backward(ctx, slopes):
        return ctx.rows.sums(slopes).to(slopes.dtype), None


class ClusterBlocks(Blocks):
    """`Blocks` of all rows of features on a cluster: workers compute the blocks, and only results travel."""

    def __init__(self, X, factor=1.0, *, differences=False, center=None, device="cpu"):
        self._X, self._options = X, {"differences": differences, "center": center, "device": device}
        self.dtype = torch.from_numpy(np.empty(0, working_dtype(X))).dtype
        self.device, self.has_side = torch.device(device), False
        self.factor = torch.as_tensor(factor, dtype=self.dtype).to(self.device).expand(len(X))
        n_added = int(differences and X.ndim == 2)
        self.shape = (len(X), *X.shape[1 + (differences and X.ndim == 3) : -1], X.shape[-1] + n_added)

    def _read(self, places):
        rows = Blocks(self._X[places], **self._options)[:]
        return rows[:, None] if self.has_side else rows

    def parts(self):
        """All rows: one request to the workers reads them."""
        return [slice(None)]

    def part_times(self, part, weights):
        return _Product.apply(weights[:, None], self)[..., 0]

    def collect(self, function, shape, dtype):
        given = function, self.has_side, tuple(shape[1:]), dtype, self._options
        parts = self._X.on_chunks(_collect, dict.fromkeys(range(len(self._X.lengths)), given))
        return torch.cat(parts).to(self.device)

    def sums(self, slopes):
        parts = _scaled(slopes.to(self.dtype), self.factor).cpu().split(self._X.lengths)
        given = {number: (part, self._options) for number, part in enumerate(parts) if part.any()}
        results = self._X.on_chunks(_sums, given)
        return sum(results, torch.zeros(self.shape[-1], slopes.shape[-1], dtype=torch.float64)).to(self.device)


@torch.no_grad()
def _collect(chunk, function, has_side, shape, dtype, options):
    rows = Blocks(chunk, **options)
    rows.has_side = has_side
    return rows.collect(function, (len(chunk), *shape), dtype).cpu()


def _sums(chunk, slopes, options):
    return Blocks(chunk, **options).sums(slopes.to(options["device"])).cpu()


def read_blocks(X, rows=slice(None), factor=1.0, **options):
    """The `Blocks` of a memory map or of features on a cluster, of which all rows are read."""
    if isinstance(X, ClusterFeatures):
        return ClusterBlocks(X, factor, **options)
    return Blocks(X, rows, factor, **options)


def _scaled(values, factor):
    return values * factor.view(-1, *[1] * (values.ndim - 1))


def _squared_lengths(rows, width):
    return rows[..., :width].double().square().sum(dim=-1)


def _sum(rows, slopes):
    return (rows.flatten(0, -2).T @ slopes.flatten(0, -2)).double()


def products_by_part(rows):
    """Products of rows with weights (n_features,), a part at a time: pairs (function of weights, slice of the rows).

    A tensor is one part. A loss that is summed over parts reads each block once for its value and its gradient.
    """
    if isinstance(rows, torch.Tensor):
        return [(rows.__matmul__, slice(None))]
    return [(partial(rows.part_times, part), part) for part in rows.parts()]


def with_side(rows):
    """Rows (n_rows, n_features), a tensor or `Blocks`, with an axis of one side: (n_rows, 1, n_features)."""
    if isinstance(rows, torch.Tensor):
        return rows[:, None]
    rows = copy(rows)
    rows.has_side, rows.shape = True, (rows.shape[0], 1, *rows.shape[1:])
    return rows
