"""Products of the differences of pairs with the weights of many columns, without the differences of all pairs at hand.

They are formed from the features in parts that stay in the cache.
"""

import contextlib
import ctypes
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch.nn import functional

_WORTH_FORMING = 2**23  # bytes of differences

_BAG = 1024  # rows that a sum adds up one after the other, before it adds up the bags
_LEAST_PART = 64  # rows of a part on the average, below which its products are mostly overhead


@dataclass
class Part:
    """Rows that are in the training rows of the same folds, which are read together.

    Parameters
    ----------
    rows : Tensor of shape (n_rows,), int
    folds : list of int
        The folds that train on them.
    starts : list of int
        Where the rows begin among the training rows of each of these folds.
    """

    rows: torch.Tensor
    folds: list
    starts: list


class PairProducts:
    """Products of the differences of pairs with the weights of many columns, by the rows of folds.

    Parameters
    ----------
    X : ndarray of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        Features; those of outputs get a constant feature behind them, the bias.
    sign : ndarray of shape (n_pairs,)
        +1 where the first side is preferred, else -1.
    trains : list of ndarray of int
        The training rows of every fold.
    device : torch.device

    Attributes
    ----------
    rows : list of ndarray of int
        The training rows of every fold, in the order of all vectors here.
    member : ndarray of shape (n_pairs, n_folds), bool
        Which folds train on which rows.
    width : int
        Length of a column's weights.
    """

    part_bytes = 3 * 2**18  # of the features that are read at a time: they and their differences stay in the cache

    def __init__(self, X, sign, trains, device):
        self.X = readable_tensor(X).to(device)
        self.sign = torch.from_numpy(sign).to(self.X)
        self.n_features = X.shape[-1]
        self.width = self.n_features + (X.ndim == 2)
        part_bytes = self.part_bytes * (1 if self.X.device.type == "cpu" else 64)
        self.step = min(len(X), max(64, int(part_bytes // X[:1].nbytes)))
        self._readers = [_Reader(self.X, self.step, self.width)]
        self.parts, self.rows = self._parts(trains)

    @contextlib.contextmanager
    def threads(self, number):
        """Within it, so many threads, of which this one is the first, share the pieces, each with products of its own.

        Threads that split each small product would wait for each other after every one, and on a machine with other
        work far longer than the product takes.
        """
        number = number if self.X.device.type == "cpu" else 1
        threads, readers = torch.get_num_threads(), self._readers
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(max(1, number - 1)) as self._pool:
                self._readers = [*readers, *(_Reader(self.X, self.step, self.width) for _ in range(number - 1))]
                yield
        finally:
            self._readers, self._pool = readers, None
            torch.set_num_threads(threads)

    @contextlib.contextmanager
    def one_reader(self, *, threaded):
        """The reader of this thread; if ``threaded``, torch parts its products among as many threads as share pieces.

        Where what is read next depends on the last products, threads of our own would all form the same differences, or
        wait for each other twice a product. Torch's wait as often, which is worth it for long products only.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(len(self._readers) if threaded else 1)
        try:
            yield self._readers[0]
        finally:
            torch.set_num_threads(threads)

    def shared(self, work, pieces):
        """Results of ``work(reader, pieces)`` on as many equal shares of the pieces as there are threads."""
        size = max(1, -(-len(pieces) // len(self._readers)))
        shares = [pieces[begin : begin + size] for begin in range(0, len(pieces), size)]
        others = [
            self._pool.submit(work, *call) for call in zip(self._readers[1 : len(shares)], shares[1:], strict=True)
        ]
        try:  # the first share here: MKL keeps room of several MB for every thread that forms products
            results = [work(self._readers[0], share) for share in shares[:1]]
        finally:
            wait(others)  # they write into what the caller owns
        return results + [other.result() for other in others]  # in this order, hence the same bits

    def release(self, *, rooms=False):
        """Give freed memory back to the system, where the features are so large that it counts.

        Parameters
        ----------
        rooms : bool, default=False
            Also free what readers keep for their next products.
        """
        if rooms:
            for reader in self._readers:
                reader.rooms.clear()
        if worth_forming(len(self.X), self.width, self.X.element_size(), self.X.device):
            release_freed_memory()

    def _parts(self, trains):
        """Rows by the folds that train on them, and the training rows of every fold in that order.

        Where folds overlap so variously that parts would be tiny, each fold is a part, and rows are in many.
        """
        member = np.zeros((len(self.X), len(trains)), dtype=bool)
        for fold, rows in enumerate(trains):
            member[rows, fold] = True
        self.member = member
        packed = np.packbits(member, axis=1)
        _, first, kind = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        if len(first) * _LEAST_PART > len(self.X) and len(first) > len(trains):
            rows = [np.flatnonzero(member[:, fold]).astype(trains[0].dtype) for fold in range(len(trains))]
            return [Part(torch.from_numpy(own).to(self.X.device), [f], [0]) for f, own in enumerate(rows)], rows
        parts, lengths = [], [0] * len(trains)
        rows_of: list[list] = [[trains[0][:0]] for _ in trains]
        for number, example in enumerate(first):
            folds = np.flatnonzero(member[example]).tolist()
            if not folds:
                continue
            rows = np.flatnonzero(kind.ravel() == number).astype(trains[0].dtype)
            parts.append(Part(torch.from_numpy(rows).to(self.X.device), folds, [lengths[f] for f in folds]))
            for f in folds:
                lengths[f] += len(rows)
                rows_of[f].append(rows)
        return parts, [np.concatenate(rows) for rows in rows_of]

    def differences(self, rows):
        """First minus second output of at most ``step`` rows, (n_rows, width); valid until the next call."""
        return self._readers[0].differences(rows)

    def _pieces(self, folds):
        """Pieces of the parts, for the folds that are asked for: rows, and where each of the folds has them."""
        pieces = []
        for part in self.parts:
            asked = [(f, start) for f, start in zip(part.folds, part.starts, strict=True) if f in folds]
            for begin in range(0, len(part.rows) if asked else 0, self.step):
                rows = part.rows[begin : begin + self.step]
                pieces.append((rows, [(f, slice(start + begin, start + begin + len(rows))) for f, start in asked]))
        return pieces

    def margins(self, weights, out):
        """Margins of the training pairs of every fold, in favour of the preferred side.

        Parameters
        ----------
        weights : dict of Tensor of shape (n_columns, width)
            Of some folds, by their number.
        out : dict of Tensor of shape (n_columns, n_rows)
            Where the margins are written.
        """
        pieces = self._pieces(weights)
        stacked = {folds: torch.cat([weights[f] for f in folds]) for folds in {_folds_of(p) for _, p in pieces}}

        def work(reader, pieces):
            for rows, places in pieces:
                product = reader.product(stacked[_folds_of(places)], reader.differences(rows))
                sign = self.sign[rows]
                for (f, place), block in zip(places, product.split([len(weights[f]) for f, _ in places]), strict=True):
                    torch.mul(block, sign, out=out[f][:, place])

        self.shared(work, pieces)

    def sums(self, values):
        """Sums of the signed differences of every fold's training pairs, weighted.

        Parameters
        ----------
        values : dict of Tensor of shape (n_columns, n_rows)
            Of some folds, by their number.

        Returns
        -------
        sums : dict of Tensor of shape (n_columns, width)
        """

        def work(reader, pieces):
            result = {f: self.X.new_zeros(len(block), self.width) for f, block in values.items()}
            for rows, places in pieces:
                stacked = torch.cat([values[f][:, place] for f, place in places]) * self.sign[rows]
                product = stacked @ reader.differences(rows)
                for (f, _), block in zip(places, product.split([len(values[f]) for f, _ in places]), strict=True):
                    result[f] += block
            return result

        first, *others = self.shared(work, self._pieces(values))
        for other in others:
            for f, block in other.items():
                first[f] += block
        return first

    def sums_of_rows(self, rows, values):
        """Sums (n_columns, width) of the signed differences of some rows, by weights (n_columns, n_rows)."""
        rows = torch.from_numpy(rows).to(self.X.device)

        def work(reader, begins):
            result = self.X.new_zeros(len(values), self.width)
            for begin in begins:
                piece = rows[begin : begin + self.step]
                weights = values[:, begin : begin + len(piece)] * self.sign[piece]
                result.addmm_(weights, reader.differences(piece))
            return result

        return sum(self.shared(work, range(0, len(rows), self.step)), start=self.X.new_zeros(len(values), self.width))

    def decisions(self, rows, weights, intercepts):
        """R(first) - R(second) of pairs, or R of outputs, (n_columns, n_rows), for weights (n_columns, n_features)."""
        rows, weights = torch.from_numpy(rows).to(self.X.device), torch.from_numpy(weights).to(self.X)
        result = self.X.new_empty(len(weights), len(rows))
        for piece, part in zip(rows.split(self.step), result.split(self.step, dim=1), strict=True):
            part.copy_(weights @ self.differences(piece)[:, : self.n_features].T)
        decisions = result.numpy(force=True)
        if self.X.ndim == 2:
            decisions += np.array(intercepts, dtype=decisions.dtype)[:, None]
        return decisions

    def rewards(self, rows, weights):
        """Rewards (n_columns, n_rows, 2) of the pairs, or (n_columns, n_rows) of outputs, without their bias."""
        rows = torch.from_numpy(rows).to(self.X.device)
        weights = weights[:, : self.n_features]
        parts = [
            torch.tensordot(weights, self.X[piece], dims=([1], [self.X.ndim - 1])) for piece in rows.split(self.step)
        ]
        return torch.cat(parts, dim=1).numpy(force=True)


class _Reader:
    """Forms differences and products of some rows at a time, in the same room each time.

    New arrays each time would cost as much as the reading. What a call returns is valid until the next; a product,
    until the next or until other differences are formed.
    """

    def __init__(self, X, step, width):
        self.X, self.step, self.width = X, step, width
        self.rooms: dict = {}

    def differences(self, rows, out=None):
        """First minus second output of at most ``step`` rows, (n_rows, width); of outputs, with a constant behind."""
        out = self.room("differences", len(rows), self.width) if out is None else out
        other = self.room("scratch", len(rows), self.X.shape[-1])
        if self.X.ndim == 3:
            torch.index_select(self.X[:, 0], 0, rows, out=out)
            return out.sub_(torch.index_select(self.X[:, 1], 0, rows, out=other))
        out[:, :-1] = torch.index_select(self.X, 0, rows, out=other)
        out[:, -1] = 1
        return out

    def signed_differences(self, rows, sign):
        """Differences of any number of rows, (n_rows, width), in favour of the preferred sides."""
        result = self.room("differences", len(rows), self.width)
        for some, out in zip(rows.split(self.step), result.split(self.step), strict=True):
            self.differences(some, out).mul_(sign[some, None])
        return result

    def product(self, weights, differences):
        """Differences of the rewards of some rows, (n_columns, n_rows), for weights (n_columns, width)."""
        return torch.mm(weights, differences.T, out=self.room("scratch", len(weights), len(differences)))

    def room(self, name, n_rows, n_columns):
        """Room for a matrix, until the next of this name."""
        size, room = n_rows * n_columns, self.rooms.get(name)
        if room is None or room.numel() < size:
            self.rooms[name] = room = self.X.new_empty(size)
        return room[:size].view(n_rows, n_columns)


def release_freed_memory():
    """Give freed memory back to the system; does nothing where the C library is not glibc.

    Torch's arrays are aligned, and before version 2.38 glibc seldom uses the memory of such an array again once it is
    freed (its bug 14581): over the rounds of a search it would add up to a quarter of the features.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim():
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim


def worth_forming(n_rows, width, dtype_size, device):
    """Whether differences should be formed anew each time, not held, where memory counts.

    Less than 8 MB are not worth the time; on a GPU, products would round otherwise than those of a fit.
    """
    return n_rows * width * dtype_size >= _WORTH_FORMING and device.type == "cpu"


def _folds_of(places):
    return tuple(f for f, _ in places)


def readable_tensor(array):
    """The array as a tensor that is only read: an array of another process may be read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def weighted_sum(weights, differences, rows=None):
    """``weights @ differences[rows]``, without a copy of the rows; in bags, which are summed in parallel."""
    if rows is None:
        rows = torch.arange(len(differences), device=differences.device)
    starts = torch.arange(0, len(rows), _BAG, device=rows.device)
    return functional.embedding_bag(rows, differences, starts, mode="sum", per_sample_weights=weights).sum(dim=0)


@dataclass
class _Place:
    """Rows of a piece that belong to a set: which of the piece, and where among the rows of the set they begin."""

    number: int
    begin: int
    ranks: torch.Tensor

    def bags(self):
        """The bags that have them: number, where the rows stand in the set, and their ranks."""
        begin, end = self.begin, self.begin + len(self.ranks)
        while begin < end:
            bag = begin // _BAG
            stop = min(end, (bag + 1) * _BAG)
            yield bag, slice(begin, stop), self.ranks[begin - self.begin : stop - self.begin]
            begin = stop


class FormedDifferences:
    """Signed and scaled differences of sets of pairs, formed anew, in parts, each time that they are read.

    The products are those of a fit that holds the differences, to the last bit: near the hinge's corners a base path
    multiplies rounding by up to ten thousand. Sets that hold most of the pairs in their order, as the training rows of
    most folds do, are read together.

    Parameters
    ----------
    X : Tensor of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        On the CPU.
    sign : Tensor of shape (n_pairs,)
        +1 where the first side is preferred, else -1.
    rows : dict of ndarray of int
        The rows of every set, by its number.
    scales : dict of float
        What the differences of every set are divided by.

    Attributes
    ----------
    width : int
        Features, and of outputs the constant behind them.
    """

    part_bytes = 2**21  # of the features of a piece, whose differences stay in the cache

    def __init__(self, X, sign, rows, scales):
        self.X, self.sign, self.scales = X, sign, scales
        self.lengths = {number: len(own) for number, own in rows.items()}
        self.width = X.shape[-1] + (X.ndim == 2)
        # a power of two, at most a bag: pieces of chosen pairs, of so many rows, part no bag; the others may
        self.step = 2 ** int(np.log2(np.clip(self.part_bytes // (X[0].numel() * X.element_size()), 128, _BAG)))
        self._plain = X.new_ones(self.step, self.width)
        self._scaled = X.new_empty(1 + self.step, self.width)  # before them what a bag has summed so far
        self._pieces = [*self._shared_pieces(rows), *self._own_pieces(rows)]

    # Where there is one set, number 0, it stands for the tensor of its differences: a net asks what follows.

    def __len__(self):
        return self.lengths[0]

    @property
    def shape(self):
        return torch.Size((self.lengths[0], self.width))

    @property
    def dtype(self):
        return self.X.dtype

    @property
    def device(self):
        return self.X.device

    def numel(self):
        return self.shape.numel()

    def _is_shared(self, rows):
        return 2 * len(rows) >= len(self.X) and bool((np.diff(rows) > 0).all())

    def _shared_pieces(self, sets):
        """Consecutive pairs, and the places of the sets that hold most of them."""
        sets = {number: rows for number, rows in sets.items() if self._is_shared(rows)}
        for begin, end in self._bounds(len(self.X) if sets else 0):
            piece, places = slice(begin, end), []
            for number, rows in sets.items():
                first, last = np.searchsorted(rows, np.array([begin, end], dtype=rows.dtype))  # else rows are copied
                if first < last:
                    ranks = torch.from_numpy((rows[first:last] - begin).astype(np.int32))
                    places.append(_Place(number, int(first), ranks))
            yield piece, places

    def _own_pieces(self, sets):
        """Pairs of one set, in its order."""
        for number, rows in sets.items():
            for begin, end in self._bounds(0 if self._is_shared(rows) else len(rows)):
                piece = torch.from_numpy(rows[begin:end])
                yield piece, [_Place(number, begin, torch.arange(len(piece), dtype=torch.int32))]

    def _bounds(self, n_rows):
        """Where pieces begin and end, all about as long: MKL's products of few rows round otherwise."""
        bounds = np.linspace(0, n_rows, -(-n_rows // self.step) + 1).astype(int).tolist()
        return zip(bounds[:-1], bounds[1:], strict=True)

    def _read(self, numbers):
        """Places of some sets, each with what is valid until the next: room for a sum, and the piece's differences."""
        for piece, places in self._pieces:
            asked = [place for place in places if place.number in numbers]
            if asked:
                plain = self._form(piece)
            for place in asked:
                yield place, self._scale(plain, piece, self.scales[place.number])

    def pieces(self):
        """First minus second output, piece by piece of all pairs in their order; valid until the next."""
        for begin, end in self._bounds(len(self.X)):
            yield self._form(slice(begin, end))

    def _form(self, piece):
        """First minus second output of pairs, which are a slice or numbers."""
        sign = self.sign[piece]
        plain, others = self._plain[: len(sign)], self._scaled[: len(sign)]
        if self.X.ndim == 2:
            plain[:, :-1] = self.X[piece]
            return plain
        if isinstance(piece, slice):
            return torch.sub(self.X[piece, 0], self.X[piece, 1], out=plain)
        torch.index_select(self.X[:, 0], 0, piece, out=plain)
        return plain.sub_(torch.index_select(self.X[:, 1], 0, piece, out=others))

    def _scale(self, plain, piece, scale):
        room = self._scaled[: 1 + len(plain)]
        torch.div(plain, (self.sign[piece] * scale)[:, None], out=room[1:])
        return room

    def margins(self, weights, out):
        """Margins of the rows of sets, in favour of the preferred side.

        Parameters
        ----------
        weights : dict of Tensor of shape (n_columns, width)
            Of some sets, by their number.
        out : dict of Tensor of shape (n_columns, n_rows)
            Where the margins are written.
        """
        # two at a time, as in a fit of two paths: MKL's product with one vector rounds otherwise, and is slower
        pairs = {f: functional.pad(own, (0, 0, 0, len(own) % 2)).split(2) for f, own in weights.items()}
        for place, room in self._read(weights):
            end = place.begin + len(place.ranks)
            for number, pair in enumerate(pairs[place.number]):
                block = out[place.number][2 * number : 2 * number + 2, place.begin : end]
                block.copy_(functional.linear(room[1:], pair).index_select(0, place.ranks).T[: len(block)])

    def sums(self, values):
        """Sums of the differences of sets, weighted.

        Parameters
        ----------
        values : dict of Tensor of shape (n_columns, n_rows)
            Of some sets, by their number.

        Returns
        -------
        sums : dict of Tensor of shape (n_columns, width)
        """
        bags = {f: self._empty_bags(self.lengths[f], len(own)) for f, own in values.items()}
        for place, room in self._read(values):
            for bag, rows, ranks in place.bags():
                for total, own in zip(bags[place.number], values[place.number], strict=True):
                    _go_on(total[bag], room, ranks, own[rows])
        return {f: own.sum(dim=1) for f, own in bags.items()}

    def sum_of_some(self, number, values, rows):
        """Sum (width,) of the differences of some pairs by values (n_some,), in the scale of a set."""
        total = self._empty_bags(len(rows), 1)[0]
        ranks = torch.arange(self.step, dtype=torch.int32)
        for begin in range(0, len(rows), self.step):
            piece = rows[begin : begin + self.step]
            room = self._scale(self._form(piece), piece, self.scales[number])
            _go_on(total[begin // _BAG], room, ranks[: len(piece)], values[begin : begin + self.step])
        return total.sum(dim=0)

    def _empty_bags(self, n_rows, n_columns):
        return self.X.new_zeros(n_columns, -(-n_rows // _BAG), self.width)


def _go_on(total, room, ranks, values):
    """Add to what a bag has summed so far, as if it had not been parted: ``total`` is the first row that it sums."""
    room[0] = total
    rows = functional.pad(ranks + 1, (1, 0))
    weights = functional.pad(values, (1, 0), value=1.0)
    start = rows.new_zeros(1)
    total.copy_(functional.embedding_bag(rows, room, start, mode="sum", per_sample_weights=weights)[0])
