"""Products of the differences of pairs with the weights of many columns, without the differences of all pairs at hand.

They are formed from the features in parts that stay in the cache.
"""

import contextlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

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
    part_of : ndarray of shape (n_pairs,), int, or None
        The part of every row, -1 if no fold trains on it; None where folds overlap so variously that parts would be
        tiny: then each fold is a part, and rows are in many.
    width : int
        Length of a column's weights.
    """

    part_bytes = 2**20  # of the features that are read at a time: they and their differences stay in the cache

    def __init__(self, X, sign, trains, device):
        with warnings.catch_warnings():  # an array of another process may be read-only: it is only read
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.X = torch.from_numpy(X).to(device)
        self.sign = torch.from_numpy(sign).to(self.X)
        self.n_features = X.shape[-1]
        self.width = self.n_features + (X.ndim == 2)
        part_bytes = self.part_bytes * (1 if self.X.device.type == "cpu" else 64)
        self.step = min(len(X), max(64, int(part_bytes // X[:1].nbytes)))
        self._readers = [_Reader(self.X, self.step, self.width)]
        self.parts, self.rows = self._parts(trains)

    @contextlib.contextmanager
    def threads(self, number):
        """Within it, so many threads share the pieces, each with products of its own.

        Threads that split each small product would wait for each other after every one, and on a machine with other
        work far longer than the product takes.
        """
        number = number if self.X.device.type == "cpu" else 1
        threads, readers = torch.get_num_threads(), self._readers
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(number) as self._pool:
                self._readers = [*readers, *(_Reader(self.X, self.step, self.width) for _ in range(number - 1))]
                yield
        finally:
            self._readers, self._pool = readers, None
            torch.set_num_threads(threads)

    def shared(self, work, pieces):
        """Results of ``work(reader, pieces)`` on as many equal shares of the pieces as there are threads."""
        size = max(1, -(-len(pieces) // len(self._readers)))
        shares = [pieces[begin : begin + size] for begin in range(0, len(pieces), size)]
        if len(shares) <= 1:
            return [work(self._readers[0], share) for share in shares]
        return list(self._pool.map(work, self._readers[: len(shares)], shares))  # in this order, hence the same bits

    def _parts(self, trains):
        """Rows by the folds that train on them, and the training rows of every fold in that order."""
        member = np.zeros((len(self.X), len(trains)), dtype=bool)
        for fold, rows in enumerate(trains):
            member[rows, fold] = True
        self.member = member
        packed = np.packbits(member, axis=1)
        _, first, kind = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        if len(first) * _LEAST_PART > len(self.X) and len(first) > len(trains):
            self.part_of, rows = None, [np.flatnonzero(member[:, fold]) for fold in range(len(trains))]
            return [Part(torch.from_numpy(own).to(self.X.device), [f], [0]) for f, own in enumerate(rows)], rows
        parts, lengths = [], [0] * len(trains)
        self.part_of = np.full(len(self.X), -1)
        rows_of: list[list] = [[np.empty(0, dtype=np.intp)] for _ in trains]
        for number, example in enumerate(first):
            folds = np.flatnonzero(member[example]).tolist()
            if not folds:
                continue
            rows = np.flatnonzero(kind.ravel() == number)
            self.part_of[rows] = len(parts)
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
                product = reader.product(stacked[_folds_of(places)], rows)
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
        parts = [weights @ self.differences(piece)[:, : self.n_features].T for piece in rows.split(self.step)]
        decisions = torch.cat(parts, dim=1).numpy(force=True)
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

    New arrays each time would cost as much as the reading. What a call returns is valid until the next.
    """

    def __init__(self, X, step, width):
        self.X = X
        self._read = X.new_empty(step, *X.shape[1:])
        self._differences = X.new_ones(step, width)
        self._room = X.new_empty(0)

    def differences(self, rows, out=None):
        """First minus second output, (n_rows, width); of outputs, with the constant that ``out`` has behind them."""
        X = torch.index_select(self.X, 0, rows, out=self._read[: len(rows)])
        differences = self._differences[: len(rows)] if out is None else out
        if X.ndim == 3:
            return torch.sub(X[:, 0], X[:, 1], out=differences)
        differences[:, :-1] = X
        return differences

    def product(self, weights, rows):
        """Differences of the rewards of some rows, (n_columns, n_rows), for weights (n_columns, width)."""
        size = len(weights) * len(rows)
        if self._room.numel() < size:
            self._room = self.X.new_empty(len(weights) * len(self._read))
        return torch.mm(weights, self.differences(rows).T, out=self._room[:size].view(len(weights), len(rows)))


def _folds_of(places):
    return tuple(f for f, _ in places)
