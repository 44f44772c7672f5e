"""Many linear fits over the same pairs at once, for searches: one reading of the features serves all of them.

A *column* is one fit: the settings of one candidate on the training rows of one fold. All columns go through the rounds
together, and what they have in common is formed once: the margins of all columns are one matrix product of the
differences with their weights, and all gradients are one product the other way. What is a column's own, the state of
its solver and its curriculum, is the code that a single fit runs (`BasePath`, the detectors, `failure_slopes`), on
arrays of the rows of its fold. A column hence makes the same steps as a single fit, but for rounding.

The base path does not depend on the failures. It runs first, once for all columns that share its settings and fold, and
leaves the weights of every round; the failure paths follow them.

The differences are never stored: they are formed from the features in parts that stay in the cache.
"""

import contextlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from .failures import KeyOrder, MarginFailures, Round, find_failures, pair_keys, sampled_weights
from .irl import _WORTH_THREADS, centred_outputs, checked_scale, output_sides, preferred_first, squared_lengths
from .net import (
    BasePath,
    DualBundle,
    DualPathLoss,
    PairRows,
    StackedRows,
    base_direction,
    export_linear,
    failure_slopes,
    take_failure_step,
    torch_device,
)


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

    def _shared(self, work, pieces):
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
        packed = np.packbits(member, axis=1)
        _, first, kind = np.unique(packed, axis=0, return_index=True, return_inverse=True)
        parts, lengths = [], [0] * len(trains)
        rows_of: list[list] = [[np.empty(0, dtype=np.intp)] for _ in trains]
        for number, example in enumerate(first):
            folds = np.flatnonzero(member[example]).tolist()
            if not folds:
                continue
            rows = np.flatnonzero(kind.ravel() == number)
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

        self._shared(work, pieces)

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

        first, *others = self._shared(work, self._pieces(values))
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

        return sum(self._shared(work, range(0, len(rows), self.step)), start=self.X.new_zeros(len(values), self.width))

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

    def differences(self, rows):
        """First minus second output, (n_rows, width); of outputs, with the constant behind them."""
        X = torch.index_select(self.X, 0, rows, out=self._read[: len(rows)])
        differences = self._differences[: len(rows)]
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


class Fold:
    """What all columns of a fold share.

    Parameters
    ----------
    rows : ndarray of int
        Training rows, in the order of all vectors of the fold.
    sign, sample_weight : ndarray of shape (n_pairs,)
        Of all rows of the search.
    squares : ndarray of shape (n_pairs,)
        Squared lengths of the differences.
    products : PairProducts

    Attributes
    ----------
    even_weight : float or None
        The weight of all rows that have one, if it is the same.
    """

    def __init__(self, rows, sign, sample_weight, squares, products):
        self.rows = rows
        self.sign, self.sample_weight = sign[rows], sample_weight[rows]
        self.total_weight = self.sample_weight.sum()
        paired = products.X.ndim == 3

        def any_feature(chosen):
            pieces = torch.from_numpy(rows[chosen]).to(products.X.device).split(products.step)
            return any(bool(products.differences(piece)[:, : products.n_features].any()) for piece in pieces)

        self.scale = checked_scale(squares[rows], self.sample_weight, paired=paired, any_feature=any_feature)
        self.weight = torch.from_numpy(self.sample_weight * (len(rows) / self.total_weight)).to(products.X)
        # the new number of each row that can be sampled
        self.position = np.full(len(sign), -1)
        positive = self.sample_weight > 0
        self.position[rows] = np.where(positive, np.arange(len(rows)), -1)
        first = self.sample_weight[positive][0]
        self.even_weight = first if (self.sample_weight[positive] == first).all() else None


@dataclass
class Column:
    """One fit of a search: a candidate's settings on a fold's training rows.

    Parameters
    ----------
    estimator : estimator
        The candidate, whose parameters have been checked.
    fold : int
    curriculum : dict
        The candidate's detector and its schedules' values.
    labels : ndarray of shape (n_pairs, 2) or None
        The labels that the candidate's detector reads, of all rows of the search.

    Attributes
    ----------
    base, failure : ndarray of shape (width,)
        The learned weights, of scaled features.
    n_iter : int
        Rounds that a single fit would run.
    gap : float
        Duality gap of the base path.
    error : Exception or None
        What the detector raised: the column then rests, and the others go on.
    """

    estimator: object
    fold: int
    curriculum: dict
    labels: np.ndarray | None = None
    base: np.ndarray | None = None
    failure: np.ndarray | None = None
    n_iter: int = 0
    gap: float = np.nan
    error: Exception | None = None

    @property
    def base_key(self):
        """What decides on the base path."""
        settings = self.estimator._loss_settings(1.0)
        names = ("objective", "required", "alpha", "pointwise_weight")
        labelled = self.labels is not None and settings["pointwise_weight"] > 0
        return (self.fold, *(settings[n] for n in names), labelled, self.estimator.tol, self.estimator.max_iter)

    @property
    def last_active(self):
        """The last round that can sample failures; -1 if there is none."""
        return int(np.flatnonzero(self.curriculum["weights"] * self.curriculum["rates"]).max(initial=-1))


@dataclass
class _Trajectory:
    """A base path's weights at the start of each round in which it moved, and at its end."""

    weights: list
    gap: float = np.inf
    rested: int | None = None

    def at(self, t):
        return self.weights[min(t, len(self.weights) - 1)]


class Columns:
    """The rounds of many columns over the same rows.

    Parameters
    ----------
    X : ndarray of shape (n_pairs, 2, n_features) or (n_samples, n_features)
    sign : ndarray of shape (n_pairs,)
        +1 where the first side is preferred, else -1.
    sample_weight : ndarray of shape (n_pairs,)
    trains : list of ndarray of int
        Training rows of every fold.
    seed : int
        Seed of the failures' samples, the same for all columns.
    device : str
    memory : int
        Bytes that the vectors of all columns together may take.

    Attributes
    ----------
    products : PairProducts
    folds : list of Fold
    """

    def __init__(self, X, sign, sample_weight, trains, *, seed, device, memory):
        self.products = PairProducts(X, sign, trains, torch_device(device))
        self.memory = memory
        self._X, self._sign, self._sample_weight, self._trains = X, sign, sample_weight, trains
        squares = np.concatenate(
            [
                squared_lengths(self.products.differences(rows)[:, : X.shape[-1]].numpy(force=True))
                for rows in torch.arange(len(X), device=self.products.X.device).split(self.products.step)
            ]
        )
        self.folds = [Fold(rows, sign, sample_weight, squares, self.products) for rows in self.products.rows]
        self._keys, _ = pair_keys(X, sign, seed)

    @torch.no_grad()
    def run(self, candidates, *, after_round=lambda: None, after_block=lambda numbers: None):
        """Train columns: sets their ``base``, ``failure``, ``n_iter`` and ``gap``.

        Parameters
        ----------
        candidates : list of list of Column
            The columns of each candidate. Candidates that share base paths stand beside each other.
        after_round : callable, () -> None
            Called after every round of columns that run together, and after every path that runs alone.
        after_block : callable of a range
            Called with the numbers of the candidates that are finished.
        """
        self._threads = torch.get_num_threads()
        with self.products.threads(self._threads if self.products.X.numel() >= 2 * _WORTH_THREADS else 1):
            for group in self._base_blocks(candidates):
                paths = self._run_base([c for number in group for c in candidates[number]], after_round)
                for block in self._failure_blocks(group, candidates):
                    self._run_failures([c for number in block for c in candidates[number]], paths, after_round)
                    after_block(block)

    # ------------------------------------------------------------------------------------------- blocks

    def _base_blocks(self, candidates):
        """Candidates whose base paths fit into the memory together."""
        rows, width = max(len(fold.rows) for fold in self.folds), self.products.width

        def size(column):
            # three vectors of the rows, L-BFGS's memory, the bundle in float64, and the weights of some rounds
            vectors = 3 * rows * (3 if self._counts_outputs(column.estimator._loss_settings(1.0)) else 1)
            values = vectors + 2 * BasePath.memory * width + 50 * width
            return values * self.products.X.element_size() + DualBundle.size * width * 8

        known: dict = {}
        sizes = []
        for columns in candidates:
            fresh = {column.base_key: size(column) for column in columns if column.base_key not in known}
            known |= fresh
            sizes.append(sum(fresh.values()))
        return _even_ranges(0, sizes, self.memory)

    def _failure_blocks(self, group, candidates):
        """Candidates of a group whose failure paths fit into the memory together."""
        rows, width = max(len(fold.rows) for fold in self.folds), self.products.width

        def size(column):  # the margins, the slopes of sampled failures, some weights; rewards where they are read
            reads_rewards = not isinstance(column.curriculum["detector"], MarginFailures)
            values = (1.4 + 4 * reads_rewards) * rows + 4 * width
            return values * self.products.X.element_size() * (column.last_active >= 0)

        sizes = [sum(map(size, candidates[number])) for number in group]
        return _even_ranges(group.start, sizes, self.memory)

    # --------------------------------------------------------------------------------------- base paths

    def _counts_outputs(self, settings):
        """Whether single outputs count in a base path of these settings."""
        return self.products.X.ndim == 3 and settings["pointwise_weight"] > 0

    def _run_base(self, columns, after_round):
        """Trajectories of the columns' base paths, by their key."""
        representatives = {c.base_key: c for c in columns}
        entries = []
        for key, column in representatives.items():
            fold, width = self.folds[column.fold], self.products.width
            settings = column.estimator._loss_settings(fold.scale)
            stacked = self._counts_outputs(settings)
            theta = self.products.X.new_zeros(width + stacked)  # a threshold, too
            margins = self.products.X.new_zeros((3 if stacked else 1) * len(fold.rows))
            path = BasePath(theta, margins, column.estimator.tol, column.estimator.max_iter)
            entries.append((path, DualPathLoss(**settings), column.fold, _Trajectory([theta[:width].clone()]), key))
        smooth, alone = [], {}
        for entry in entries:
            path, loss, f, *_ = entry
            stacked = len(path.theta) > self.products.width
            if stacked or loss.objective == "max_margin":
                alone.setdefault((f, stacked), []).append(entry)
            else:
                smooth.append(entry)
        for f, stacked in sorted(alone):
            self._run_alone(f, stacked, alone[f, stacked], representatives, after_round)
        n_rounds = max((entry[0].n_rounds for entry in smooth), default=0)
        for t in range(n_rounds):
            moving = [entry for entry in smooth if not entry[0].resting and t < entry[0].n_rounds]
            if not moving:
                break
            self._base_round(t, moving)
            after_round()
        for path, _, _, trajectory, _ in entries:
            trajectory.gap = float(path.gap)
        return {key: trajectory for *_, trajectory, key in entries}

    def _run_alone(self, f, stacked, entries, columns, after_round):
        """Base paths of one fold one by one, as single fits run them, to the last bit.

        Near the hinge's corners a path multiplies rounding by up to ten thousand: with products that round otherwise,
        two float32 fits of the same rows would differ by up to 1 % of their weights. Paths in which single outputs
        count, ``stacked``, read outputs, not differences.
        """
        features, weight = self._fold_outputs(f) if stacked else self._fold_differences(f), self._fold_weight(f)
        torch.set_num_threads(1 if features.numel() < _WORTH_THREADS else self._threads)  # as a single fit
        try:
            for path, loss, _, trajectory, key in entries:
                sides = (self._sides(columns[key]),) if stacked else ()
                rows = (StackedRows if stacked else PairRows)(features, weight, loss, *sides)
                still = path.theta.new_zeros(self.products.width)
                for t in range(path.n_rounds):
                    direction = base_direction(path, rows)
                    if direction is None:
                        trajectory.rested = t
                        break
                    along, _ = rows.along(direction, still)
                    path.advance(direction, along, rows.weight, rows.loss)
                    trajectory.weights.append(path.theta[: self.products.width].clone())
                after_round()
        finally:
            torch.set_num_threads(1)

    def _sides(self, column):
        """Side of the threshold of every output of a fold's training pairs, in the order of the rows."""
        train = self._trains[column.fold]
        labels = None if column.labels is None else preferred_first(column.labels[train], self._sign[train])
        return torch.from_numpy(output_sides(np.ones(len(train)), labels)).to(self.products.X)

    def _fold_differences(self, f):
        """Signed and scaled differences of a fold's training pairs, in the order of the rows."""
        fold, products = self.folds[f], self.products
        rows = torch.from_numpy(self._trains[f]).to(products.X.device)
        differences = products.X.new_empty(len(rows), products.width)
        for begin in range(0, len(rows), products.step):
            piece = rows[begin : begin + products.step]
            torch.mul(
                products.differences(piece), products.sign[piece, None], out=differences[begin : begin + len(piece)]
            )
        differences /= fold.scale
        return differences

    def _fold_outputs(self, f):
        """Centred and scaled outputs of a fold's training pairs, in the order of the rows."""
        outputs = centred_outputs(self._X, self._sign, self._sample_weight, self._trains[f])
        outputs /= outputs.dtype.type(self.folds[f].scale)
        return torch.from_numpy(outputs).to(self.products.X.device)

    def _fold_weight(self, f):
        """Weights of a fold's training pairs, in the order of the rows."""
        rows, train = self.folds[f].rows, self._trains[f]
        order = np.argsort(rows)[np.searchsorted(np.sort(rows), train)]
        return self.folds[f].weight[torch.from_numpy(order).to(self.products.X.device)]

    def _base_round(self, t, entries):
        slopes = [path.slopes(self.folds[f].weight, loss) for path, loss, f, *_ in entries]
        sums = _unstacked(self.products.sums(_stacked(slopes, entries)), entries)
        going, directions = [], []
        for entry, slope, total in zip(entries, slopes, sums, strict=True):
            path, loss, f, trajectory, _ = entry
            fold = self.folds[f]
            direction = path.descend(total / fold.scale / len(fold.rows), slope, fold.weight, loss)
            if direction is None:
                trajectory.rested = t
            else:
                going.append(entry)
                directions.append(direction)
        scaled = [d / self.folds[entry[2]].scale for d, entry in zip(directions, going, strict=True)]
        weights = _stacked(scaled, going)
        along = {f: block.new_empty(len(block), len(self.folds[f].rows)) for f, block in weights.items()}
        self.products.margins(weights, along)
        for (path, loss, f, trajectory, _), direction, along_one in zip(
            going, directions, _unstacked(along, going), strict=True
        ):
            path.advance(direction, along_one, self.folds[f].weight, loss)
            trajectory.weights.append(path.theta.clone())

    # ------------------------------------------------------------------------------------ failure paths

    def _run_failures(self, columns, paths, after_round):
        for column in columns:
            self._set_rounds(column, paths[column.base_key])
        active = [c for c in columns if c.last_active >= 0]
        active.sort(key=lambda c: c.fold)
        if active:
            state = _FailureBlock(self, active, [paths[c.base_key] for c in active])
            for t in range(max(c.n_iter for c in active)):
                state.round(t)
                after_round()
            for column, weights in zip(active, state.theta, strict=True):
                column.failure = weights.numpy(force=True).copy()

    def _set_rounds(self, column, path):
        """A single fit ends once the base path rests and no failures are to come."""
        n_rounds = column.estimator.max_iter
        resting = n_rounds if path.rested is None else max(path.rested, column.last_active, 0) + 1
        column.n_iter, column.gap = min(n_rounds, resting), path.gap
        column.base = path.at(column.n_iter).numpy(force=True).copy()
        column.failure = np.zeros_like(column.base)

    # ---------------------------------------------------------------------------------- what they learned

    def heads(self, column):
        """The base and the failure head in the units of the input, as an estimator keeps them."""
        scale = self.folds[column.fold].scale
        return tuple(export_linear(w[None], scale, self.products.n_features) for w in (column.base, column.failure))

    def offsets(self, columns):
        """What to add to the rewards of each column of one fold so that 0 separates its training outputs best.

        The columns' estimators hold their weights, and as ``intercept_`` what they learned of it.
        """
        fold = self.folds[columns[0].fold]
        weights = torch.from_numpy(np.stack([c.estimator.coef_ for c in columns])).to(self.products.X)
        rewards = self.products.rewards(fold.rows, weights)
        offsets = []
        for column, own in zip(columns, rewards, strict=True):
            labels = None if column.labels is None else column.labels[fold.rows]
            own = own + own.dtype.type(column.estimator.intercept_)
            offsets.append(column.estimator._offset(own, fold.sign, fold.sample_weight, labels))
        return offsets


class _FailureBlock:
    """The failure paths of columns, sorted by fold, that go through their rounds together."""

    def __init__(self, owner, columns, paths):
        self.owner, self.columns, self.paths = owner, columns, paths
        X = owner.products.X
        self.theta = X.new_zeros(len(columns), owner.products.width)
        folds = [owner.folds[c.fold] for c in columns]
        losses = [c.estimator._loss_settings(f.scale) for c, f in zip(columns, folds, strict=True)]
        biased = owner.products.width > owner.products.n_features

        def tensor(values):
            return torch.tensor(values, dtype=X.dtype, device=X.device)

        self.scale = tensor([f.scale for f in folds])[:, None]
        self.n_rows = tensor([len(f.rows) for f in folds])[:, None]
        steps = [c.estimator._solver_step(f.scale, biased=biased) for c, f in zip(columns, folds, strict=True)]
        self.lr, self.alpha_fail = tensor(steps)[:, None], tensor([s["alpha_fail"] for s in losses])[:, None]
        self.required_fail = tensor([s["required_fail"] for s in losses])
        self.objectives = np.array([s["objective"] for s in losses])
        self.losses = {
            name: DualPathLoss(**next(s for s in losses if s["objective"] == name)) for name in set(self.objectives)
        }
        self.n_iter = np.array([c.n_iter for c in columns])
        self.sampling = np.zeros((len(columns), self.n_iter.max()), dtype=bool)
        for i, c in enumerate(columns):
            samples = c.curriculum["weights"] * c.curriculum["rates"] > 0
            self.sampling[i, : c.n_iter] = samples[: c.n_iter]
        sizes = np.bincount([c.fold for c in columns], minlength=len(owner.folds))
        self.margins = {f: X.new_empty(size, len(owner.folds[f].rows)) for f, size in enumerate(sizes) if size}
        self.by_margin = np.array([type(c.curriculum["detector"]) is MarginFailures for c in columns])
        self.labels = {}

    def round(self, t):
        """One round of every column that has not come to its end."""
        owner = self.owner
        sampling = np.flatnonzero(self.sampling[:, t])
        gradients = torch.zeros_like(self.theta)
        if len(sampling):
            weights, margins = self._margins(t, sampling)
            rows, values = self._slopes(t, sampling, weights, margins)
            chosen = torch.from_numpy(sampling).to(self.theta.device)
            gradients[chosen] = owner.products.sums_of_rows(rows, values) / self.scale[chosen] / self.n_rows[chosen]
        stepped = take_failure_step(self.theta.clone(), gradients, self.lr, self.alpha_fail)
        going = torch.from_numpy(self.n_iter > t).to(stepped.device)
        self.theta = torch.where(going[:, None], stepped, self.theta)

    def _margins(self, t, sampling):
        """Weights of R of the columns that sample, scaled, and their margins, an array for each fold."""
        base = torch.stack([self.paths[i].at(t) for i in sampling])
        weights = (base + self.theta[torch.from_numpy(sampling).to(base.device)]) / self.scale[sampling]
        folds = np.array([self.columns[i].fold for i in sampling])
        asked = {f: weights[np.flatnonzero(folds == f)] for f in np.unique(folds).tolist()}
        out = {f: self.margins[f][: len(block)] for f, block in asked.items()}
        self.owner.products.margins(asked, out)
        return weights, {f: block.numpy(force=True) for f, block in out.items()}

    def _slopes(self, t, sampling, weights, margins):
        """Rows that any column sampled, and the slopes of all columns there, (n_columns, n_rows)."""
        samples = self._samples(t, sampling, weights, margins)
        margins = [row for block in margins.values() for row in block]
        folds = [self.owner.folds[self.columns[i].fold] for i in sampling]
        rows = [fold.rows[sample] for fold, (sample, _) in zip(folds, samples, strict=True)]
        place = np.zeros(len(self.owner._sign), dtype=np.intp)
        for found in rows:
            place[found] = 1
        union = np.flatnonzero(place)
        place[union] = np.arange(len(union))
        counts = np.array([len(found) for found in rows])
        values = self.theta.new_zeros(len(sampling), len(union))
        column = np.repeat(np.arange(len(sampling)), counts)
        slopes = self._loss_slopes(
            np.concatenate([m[sample] for m, (sample, _) in zip(margins, samples, strict=True)]),
            np.concatenate([w for _, w in samples]),
            np.array([self.columns[i].curriculum["weights"][t] for i in sampling])[column],
            sampling[column],
        )
        at = torch.from_numpy(column * len(union) + place[np.concatenate(rows)]).to(values.device)
        values.view(-1)[at] = slopes
        return union, values

    def _loss_slopes(self, margins, weights, failure_weight, column):
        margins, weights, failure_weight = (
            torch.from_numpy(a).to(self.theta) for a in (margins, weights, failure_weight)
        )
        required = self.required_fail[torch.from_numpy(column).to(self.theta.device)]
        if len(self.losses) == 1:
            (loss,) = self.losses.values()
            return failure_slopes(loss, margins, weights, failure_weight, required)
        result = torch.empty_like(margins)
        for name, loss in self.losses.items():
            own = torch.from_numpy(self.objectives[column] == name).to(margins.device)
            result[own] = failure_slopes(loss, margins[own], weights[own], failure_weight[own], required[own])
        return result

    def _samples(self, t, sampling, weights, margins):
        """Sampled failures of each column and their weights."""
        order = KeyOrder(self.owner._keys, t)
        rewards, folds = _Rewards(self, sampling, weights), np.array([self.columns[i].fold for i in sampling])
        result = [None] * len(sampling)
        for f, block in margins.items():
            fold, numbers = self.owner.folds[f], np.flatnonzero(folds == f)
            own = order.of_rows(fold.position)
            by_margin = self.by_margin[sampling[numbers]] & (fold.even_weight is not None)
            for number, sample in self._samples_by_margin(t, own, fold, block, numbers, sampling, by_margin):
                result[number] = sample, np.full(len(sample), len(fold.rows) / max(len(sample), 1))
            for number in numbers[~by_margin]:
                column = self.columns[sampling[number]]
                state = Round(
                    index=t,
                    progress=t / max(column.estimator.max_iter - 1, 1),
                    threshold=column.curriculum["thresholds"][t],
                    margins=block[number - numbers[0]].copy(),  # the block is written anew, a detector may keep them
                    rewards=lambda number=number: rewards.of(number),
                    output_labels=self._labels_of(sampling[number]),
                )
                try:
                    failures = find_failures(column.curriculum["detector"], state)
                except Exception as error:  # of the user's detector: this fit fails, the others go on
                    column.error = error
                    self.sampling[sampling[number], t:] = False
                    failures = np.zeros(len(fold.rows), dtype=bool)
                budget = column.curriculum["rates"][t] * fold.total_weight
                sample = own.sample(failures, fold.sample_weight, budget)
                result[number] = sample, sampled_weights(failures, sample, fold.sample_weight)
        return result

    def _samples_by_margin(self, t, order, fold, block, numbers, sampling, chosen):
        """The same for the chosen columns of a fold, whose failures are those by margin: all at once."""
        if not chosen.any():
            return []
        settings = [self.columns[i].curriculum for i in sampling[numbers[chosen]]]
        thresholds = np.array([s["thresholds"][t] for s in settings])
        budgets = np.array([s["rates"][t] for s in settings]) * fold.total_weight
        margins = block if chosen.all() else block[chosen]
        samples = order.sample_each(margins, thresholds, fold.even_weight, budgets)
        return zip(numbers[chosen], samples, strict=True)

    def _labels_of(self, i):
        """Labels of the (preferred, other) outputs of a column's training pairs."""
        column = self.columns[i]
        if column.labels is None:
            return None
        if column.fold not in self.labels:
            fold = self.owner.folds[column.fold]
            self.labels[column.fold] = preferred_first(column.labels[fold.rows], fold.sign)
        return self.labels[column.fold]


class _Rewards:
    """Rewards of the training outputs of a round's columns, for detectors that ask: those of a fold all at once."""

    def __init__(self, block, sampling, weights):
        self.block, self.sampling, self.weights = block, sampling, weights
        self.known = {}

    def of(self, number):
        """Rewards (n_rows, 2) of the (preferred, other) outputs of the column with this number, the offset set."""
        column = self.block.columns[self.sampling[number]]
        fold, products = self.block.owner.folds[column.fold], self.block.owner.products
        if column.fold not in self.known:
            own = [k for k, i in enumerate(self.sampling) if self.block.columns[i].fold == column.fold]
            rewards = products.rewards(fold.rows, self.weights[own])
            self.known = {column.fold: dict(zip(own, rewards, strict=True))}  # of one fold at a time
        rewards = self.known[column.fold][number]
        if rewards.ndim == 1:
            rewards = rewards + self.weights[number, -1].item()
        labels = None if column.labels is None else column.labels[fold.rows]
        rewards = rewards + column.estimator._offset(rewards, fold.sign, fold.sample_weight, labels)
        return preferred_first(rewards, fold.sign) if rewards.ndim == 2 else rewards[:, None]


def _even_ranges(start, sizes, limit):
    """Ranges of consecutive numbers, from ``start``, of about the same total size and as few as the limit allows."""
    target = sum(sizes) / max(1, np.ceil(sum(sizes) / limit))
    ranges, begin, total = [], 0, 0.0
    for number, size in enumerate(sizes):
        if number > begin and total + size > target * (1 + 1e-9):
            ranges.append(range(start + begin, start + number))
            begin, total = number, 0.0
        total += size
    return [*ranges, range(start + begin, start + len(sizes))]


def _stacked(vectors, entries):
    """Vectors of base paths as a matrix for each fold."""
    rows: dict = {}
    for vector, entry in zip(vectors, entries, strict=True):
        rows.setdefault(entry[2], []).append(vector)
    return {f: torch.stack(own) for f, own in rows.items()}


def _unstacked(matrices, entries):
    """The inverse of `_stacked`."""
    rows = {f: iter(matrix) for f, matrix in matrices.items()}
    return [next(rows[entry[2]]) for entry in entries]
