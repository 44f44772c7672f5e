"""Many linear fits over the same pairs at once, for searches: one reading of the features serves all of them.

A *column* is one fit: the settings of one candidate on the training rows of one fold. All columns go through the rounds
together, and what they have in common is formed once: the margins of all columns are one matrix product of the
differences with their weights, and all gradients are one product the other way. What is a column's own, the state of
its solver and its curriculum, is the code that a single fit runs (`BasePath`, the detectors, the losses), on
arrays of the rows of its fold. A column hence makes the same steps as a single fit, but for rounding.

The base path does not depend on the failures. It runs first, once for all columns that share its settings and fold, and
leaves the weights of every round; the failure paths follow them.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from sklearn.base import clone

from ..device import torch_device
from .estimators import (
    _WORTH_THREADS,
    centred_outputs,
    checked_scale,
    output_sides,
    outputs_weight,
    preferred_first,
    squared_lengths,
)
from .failures import MarginFailures, NearTieFailures, Round, find_failures
from .net import (
    BasePath,
    DualBundle,
    DualPathLoss,
    PairRows,
    StackedRows,
    base_direction,
    export_linear,
    take_failure_step,
)
from .products import FormedDifferences, PairProducts, worth_forming
from .sampling import KeyOrder, clustered_weights, keys_of_pairs, output_keys, sampled_weights


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
        self.rows, self._of_all = rows, (sign, sample_weight)
        own_weight = sample_weight[rows]
        self.total_weight = own_weight.sum()
        paired = products.X.ndim == 3

        def any_feature(chosen):
            pieces = torch.from_numpy(rows[chosen]).to(products.X.device).split(products.step)
            return any(bool(products.differences(piece)[:, : products.n_features].any()) for piece in pieces)

        self.scale = checked_scale(squares[rows], own_weight, paired=paired, any_feature=any_feature)
        positive = own_weight[own_weight > 0]
        self.even_weight = positive[0] if (positive == positive[0]).all() else None
        if len(positive) == len(rows) and self.even_weight is not None:
            own_weight = own_weight[:1]  # one value in memory
        own_weight = own_weight * (len(rows) / self.total_weight)
        self.weight = torch.from_numpy(own_weight).to(products.X).expand(len(rows))

    @property
    def unit(self):
        """Weight that counts as 1 where samples are counted: that of all rows, or their mean."""
        return self.even_weight or self.total_weight / len(self.rows)

    def in_units(self, budget):
        """A budget of total weight in `unit`, with room for rounding; whole where all rows weigh the same."""
        budget = budget * (1 + 1e-9) / self.unit
        return budget if self.even_weight is None else np.floor(budget)

    # what few columns ask for is formed when one does

    @cached_property
    def sign(self):
        """Of the fold's rows."""
        return self._of_all[0][self.rows]

    @cached_property
    def sample_weight(self):
        """Of the fold's rows."""
        return self._of_all[1][self.rows]

    @cached_property
    def position(self):
        """The new number of each row that can be sampled, else -1."""
        position = np.full(len(self._of_all[0]), -1)
        position[self.rows] = np.where(self.sample_weight > 0, np.arange(len(self.rows)), -1)
        return position


@dataclass
class _TrainOrder:
    """What base paths read of a fold whose rows stand as in its single fits, and whose differences are scaled."""

    rows: np.ndarray
    weight: torch.Tensor
    scale: float = 1.0


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

    def fresh_estimator(self):
        """A clone of the estimator, with the weight of single outputs that the fold's pairs decided on."""
        estimator = clone(self.estimator)
        if hasattr(self.estimator, "pointwise_weight_"):
            estimator.pointwise_weight_ = self.estimator.pointwise_weight_
        return estimator

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
    recurrence_correlation : float >= 0
        How much the pairs of one output repeat each other, among a fold's training rows.

    Attributes
    ----------
    products : PairProducts
    folds : list of Fold
    """

    def __init__(self, X, sign, sample_weight, trains, *, seed, device, memory, recurrence_correlation=0.0):
        self.products = PairProducts(X, sign, trains, torch_device(device))
        self.memory = memory
        self._X, self._sign, self._sample_weight, self._trains = X, sign, sample_weight, trains
        squares = np.concatenate(
            [
                squared_lengths(self.products.differences(rows)[:, : X.shape[-1]].numpy(force=True))
                for rows in torch.arange(len(X), device=self.products.X.device).split(self.products.step)
            ]
        )
        outputs = output_keys(X, seed)
        self._keys, _ = keys_of_pairs(outputs, sign, seed)
        recur = recurrence_correlation > 0 and X.ndim == 3
        self._weights = [
            self._clustered(rows, outputs, recurrence_correlation) if recur else sample_weight
            for rows in self.products.rows
        ]
        self.folds = [
            Fold(rows, sign, weight, squares, self.products)
            for rows, weight in zip(self.products.rows, self._weights, strict=True)
        ]
        self._outputs_weights: dict = {}
        self.products.release(rooms=True)

    def _clustered(self, rows, outputs, correlation):
        """Weights of all pairs, (n_pairs,), as a fit of these rows counts theirs; the others' are not read."""
        own = self._sample_weight[rows]
        clustered = clustered_weights(outputs[rows], own, correlation)
        if clustered is own:
            return self._sample_weight
        weight = np.zeros(len(self._X))
        weight[rows] = clustered
        return weight

    def of_candidate(self, estimator, curriculum, labels):
        """The columns of a candidate, one for each fold, settled as the fold's fit would be.

        A detector may remember earlier rounds: each column has its own, as each fit has its own clone of the estimator.
        """
        columns, paired = [], self.products.X.ndim == 3
        for fold in range(len(self.folds)):
            settled = clone(estimator)
            own = curriculum | {"detector": clone(curriculum["detector"], safe=False)}
            own = settled._settle(own, partial(self._outputs_weight, fold, labels), paired)
            columns.append(Column(settled, fold, own, labels))
        return columns

    def _outputs_weight(self, fold, labels):
        """What single outputs count on a fold, estimated once for all candidates; all labels are the same ones."""
        known = fold, labels is None
        if known not in self._outputs_weights:
            weight = np.zeros(len(self._X))  # rows of no weight are not read
            weight[self._trains[fold]] = self._weights[fold][self._trains[fold]]
            self._outputs_weights[known] = outputs_weight(self._X, self._sign, weight, self._keys, labels)
        return self._outputs_weights[known]

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
                    self.products.release(rooms=True)
                    after_block(block)

    @property
    def uneven(self):
        """Whether the pairs of any fold weigh differently."""
        return any(fold.even_weight is None for fold in self.folds)

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

        def size(column):
            if column.last_active < 0:
                return 0
            if _is_by_margin(column):
                return _MarginReader.size(self.products, self.uneven) * self.products.X.element_size()
            # the margins, the slopes of sampled failures, some weights; rewards where they are read
            reads_rewards = not isinstance(column.curriculum["detector"], (MarginFailures, NearTieFailures))
            return ((1.4 + 4 * reads_rewards) * rows + 4 * width) * self.products.X.element_size()

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
        smooth, formed, alone = [], [], {}
        for entry in entries:
            path, loss, f, *_ = entry
            stacked = len(path.theta) > self.products.width
            if not stacked and loss.objective == "max_entropy":
                smooth.append(entry)
            elif not stacked and self._worth_forming(f):
                formed.append(entry)
            else:
                alone.setdefault((f, stacked), []).append(entry)
        for f, stacked in sorted(alone):
            self._run_alone(f, stacked, alone[f, stacked], representatives, after_round)
        if formed:
            self._run_formed(formed, after_round)
        self._run_together(smooth, self.products, self.folds, after_round)
        for path, _, _, trajectory, _ in entries:
            trajectory.gap = float(path.gap)
        return {key: trajectory for *_, trajectory, key in entries}

    def _run_together(self, entries, products, folds, after_round):
        """Base paths round by round, in the order of rows and in the units that ``products`` and ``folds`` share."""
        for t in range(max((entry[0].n_rounds for entry in entries), default=0)):
            moving = [entry for entry in entries if not entry[0].resting and t < entry[0].n_rounds]
            if not moving:
                break
            self._base_round(t, moving, products, folds)
            self.products.release()
            after_round()

    def _worth_forming(self, f):
        """Whether the differences of a fold's training pairs are formed anew each time."""
        products = self.products
        return worth_forming(len(self._trains[f]), products.width, products.X.element_size(), products.X.device)

    def _run_formed(self, entries, after_round):
        """Base paths round by round, to the same last bit as single fits; see `FormedDifferences`."""
        own = {f: self.folds[f] for f in sorted({entry[2] for entry in entries})}
        differences = FormedDifferences(
            self.products.X,
            self.products.sign,
            {f: self._trains[f] for f in own},
            {f: fold.scale for f, fold in own.items()},
        )
        folds = {f: _TrainOrder(self._trains[f], self._fold_weight(f)) for f in own}
        torch.set_num_threads(self._threads)
        try:
            self._run_together(entries, differences, folds, after_round)
        finally:
            torch.set_num_threads(1)

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
        outputs = centred_outputs(self._X, self._sign, self._weights[f], self._trains[f])
        outputs /= outputs.dtype.type(self.folds[f].scale)
        return torch.from_numpy(outputs).to(self.products.X.device)

    def _fold_weight(self, f):
        """Weights of a fold's training pairs, in the order of the rows."""
        rows, train = self.folds[f].rows, self._trains[f]
        order = np.argsort(rows)[np.searchsorted(np.sort(rows), train)]
        return self.folds[f].weight[torch.from_numpy(order).to(self.products.X.device)]

    def _base_round(self, t, entries, products, folds):
        slopes = [path.slopes(folds[f].weight, loss) for path, loss, f, *_ in entries]
        sums = _unstacked(products.sums(_stacked(slopes, entries)), entries)
        going, directions = [], []
        for entry, slope, total in zip(entries, slopes, sums, strict=True):
            path, loss, f, trajectory, _ = entry
            fold = folds[f]
            direction = path.descend(total / fold.scale / len(fold.rows), slope, fold.weight, loss)
            if direction is None:
                trajectory.rested = t
            else:
                going.append(entry)
                directions.append(direction)
        scaled = [d / folds[entry[2]].scale for d, entry in zip(directions, going, strict=True)]
        weights = _stacked(scaled, going)
        along = {f: block.new_empty(len(block), len(folds[f].rows)) for f, block in weights.items()}
        products.margins(weights, along)
        for (path, loss, f, trajectory, _), direction, along_one in zip(
            going, directions, _unstacked(along, going), strict=True
        ):
            path.advance(direction, along_one, folds[f].weight, loss)
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
                self.products.release()
                after_round()
            for column, weights in zip(active, state.theta.numpy(force=True), strict=True):
                column.failure = weights
        for column in columns:
            if column.last_active < 0:
                column.failure = np.zeros_like(column.base)

    def _set_rounds(self, column, path):
        """A single fit ends once the base path rests and no failures are to come."""
        n_rounds = column.estimator.max_iter
        resting = n_rounds if path.rested is None else max(path.rested, column.last_active, 0) + 1
        column.n_iter, column.gap = min(n_rounds, resting), path.gap
        column.base = path.at(column.n_iter).numpy(force=True)

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
        self.theta, self.gradients, self.reward_weights = (
            X.new_zeros(len(columns), owner.products.width) for _ in range(3)
        )
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
        self.fold = np.array([c.fold for c in columns])
        self.by_margin = np.array([_is_by_margin(c) for c in columns])
        sizes = np.bincount(self.fold[~self.by_margin], minlength=len(owner.folds))
        self.margins = {f: X.new_empty(size, len(owner.folds[f].rows)) for f, size in enumerate(sizes) if size}
        self.labels = {}
        self.reader = _MarginReader(owner) if self.by_margin.any() else None

    def round(self, t):
        """One round of every column that has not come to its end."""
        ended = torch.from_numpy(np.flatnonzero(self.n_iter <= t)).to(self.theta.device)
        rested = self.theta[ended]
        take_failure_step(self.theta, self._gradients(t), self.lr, self.alpha_fail)
        self.theta[ended] = rested

    def _gradients(self, t):
        """Gradients of the columns' failure losses, (n_columns, width); 0 where a column samples none."""
        self.gradients.zero_()
        if self.sampling[:, t].any():
            order, weights = KeyOrder(self.owner._keys, t), self._reward_weights(t)
            for chosen, set_sums in ((self.by_margin, self._set_by_margin), (~self.by_margin, self._set_by_detector)):
                numbers = np.flatnonzero(chosen & self.sampling[:, t])
                if len(numbers):
                    set_sums(t, order, numbers, weights, self.gradients)
        return self.gradients.div_(self.scale).div_(self.n_rows)

    def _reward_weights(self, t):
        """Weights (n_columns, width) of R, in the units of the features."""
        weights = torch.stack([path.at(t) for path in self.paths], out=self.reward_weights)
        return weights.add_(self.theta).div_(self.scale)

    def _set_by_margin(self, t, order, numbers, weights, gradients):
        """Set the sums of weighted slopes times differences of failures by margin, where ``gradients`` are still 0."""
        columns = [self.columns[i] for i in numbers]
        folds = [self.owner.folds[c.fold] for c in columns]
        curricula = [c.curriculum for c in columns]
        thresholds = np.array([c["thresholds"][t] for c in curricula])
        detectors = [c["detector"] for c in curricula]
        limits = np.full((2, len(self.columns)), -np.inf, dtype=weights.numpy(force=True).dtype)
        limits[:, numbers] = _limits(thresholds, detectors, limits.dtype)
        budgets, share = np.zeros(len(self.columns)), np.ones(len(self.columns))
        budgets[numbers] = [f.in_units(c["rates"][t] * f.total_weight) for c, f in zip(curricula, folds, strict=True)]
        share[numbers] = [c["weights"][t] * len(f.rows) for c, f in zip(curricula, folds, strict=True)]
        sampled = self.reader.add_sums(order, self.fold, weights, limits, budgets, self._slopes, gradients)
        # no sample: sums of 0, or other columns'
        share = torch.from_numpy(share).to(sampled) / torch.where(sampled > 0, sampled, 1.0)
        gradients.mul_(share.to(gradients)[:, None])

    def _set_by_detector(self, t, order, numbers, weights, gradients):
        """The same for failures of any detector, which reads the margins of all training pairs."""
        own = torch.from_numpy(numbers).to(weights.device)
        weights = weights[own]
        asked = {f: weights[np.flatnonzero(self.fold[numbers] == f)] for f in np.unique(self.fold[numbers]).tolist()}
        out = {f: self.margins[f][: len(block)] for f, block in asked.items()}
        self.owner.products.margins(asked, out)
        margins = {f: block.numpy(force=True) for f, block in out.items()}
        samples = self._samples(t, order, numbers, weights, margins)
        gradients[own] = self.owner.products.sums_of_rows(*self._sampled_slopes(t, numbers, margins, samples))

    def _sampled_slopes(self, t, numbers, margins, samples):
        """Rows that any column sampled, and the weighted slopes of all columns there, (n_columns, n_rows)."""
        margins = [row for block in margins.values() for row in block]
        rows = [self.owner.folds[self.fold[i]].rows[sample] for i, (sample, _) in zip(numbers, samples, strict=True)]
        union = np.unique(np.concatenate(rows))
        values = self.theta.new_zeros(len(numbers), len(union))
        for value, i, own, found, (sample, weight) in zip(values, numbers, margins, rows, samples, strict=True):
            at = torch.from_numpy(np.searchsorted(union, found)).to(values.device)
            weight = torch.from_numpy(weight * self.columns[i].curriculum["weights"][t]).to(values)
            column = torch.tensor([i], device=values.device)
            value[at] = weight * self._slopes(torch.from_numpy(own[sample]).to(values)[None], column)[0]
        return union, values

    def _slopes(self, margins, numbers):
        """Slopes (n_columns, n_rows) of the columns' failure losses in the margins, which may be overwritten."""
        required = self.required_fail[numbers, None]
        if len(self.losses) == 1:
            ((name, loss),) = self.losses.items()
            # that of `hinge_loss`, in the margins' room
            return margins.lt_(required).neg_() if name == "max_margin" else loss.loss(margins, required)[1]
        objectives, result = self.objectives[numbers.numpy(force=True)], torch.empty_like(margins)
        for name, loss in self.losses.items():
            own = torch.from_numpy(objectives == name).to(margins.device)
            result[own] = loss.loss(margins[own], required[own])[1]
        return result

    def _samples(self, t, order, numbers, weights, margins):
        """Sampled failures of each column and their weights."""
        rewards, result = _Rewards(self, numbers, weights), []
        for f, block in margins.items():
            fold = self.owner.folds[f]
            own = order.of_rows(fold.position)
            for i, column_margins in zip(numbers[self.fold[numbers] == f], block, strict=True):
                column, number = self.columns[i], len(result)
                state = Round(
                    index=t,
                    progress=t / max(column.estimator.max_iter - 1, 1),
                    threshold=column.curriculum["thresholds"][t],
                    margins=column_margins.copy(),  # the block is written anew, a detector may keep them
                    rewards=lambda number=number: rewards.of(number),
                    output_labels=self._labels_of(i),
                )
                try:
                    failures = find_failures(column.curriculum["detector"], state)
                except Exception as error:  # of the user's detector: this fit fails, the others go on
                    column.error = error
                    self.sampling[i, t:] = False
                    failures = np.zeros(len(fold.rows), dtype=bool)
                budget = column.curriculum["rates"][t] * fold.total_weight
                sample = own.sample(failures, fold.sample_weight, budget)
                result.append((sample, sampled_weights(failures, sample, fold.sample_weight)))
        return result

    def _labels_of(self, i):
        """Labels of the (preferred, other) outputs of a column's training pairs."""
        column = self.columns[i]
        if column.labels is None:
            return None
        if column.fold not in self.labels:
            fold = self.owner.folds[column.fold]
            self.labels[column.fold] = preferred_first(column.labels[fold.rows], fold.sign)
        return self.labels[column.fold]


class _MarginReader:
    """Samples failures by margin of many columns, and reads no more pairs than fill the samples.

    The pairs are read in the order of their keys, chunk by chunk, by all columns that still look for failures: while
    the differences are at hand, they give the margins, and what the sampled failures add to the gradients. A pair
    counts by its weight in the column's fold, in that fold's unit.

    Parameters
    ----------
    owner : Columns
    """

    rows_in_chunk = 512  # enough for a matrix product's full speed, and few beside what the samples need
    # weights of all columns: with fewer, threads would mostly wait for each other, and tenfold if there is other work
    worth_threads = 2**18

    def __init__(self, owner):
        self.products = owner.products
        self.n_rows = self._chunk_size(self.products)
        device = self.products.X.device
        self.member = torch.from_numpy(self.products.member).to(device)
        used = self.products.member.any(axis=1) & (owner._sample_weight > 0)
        self.position = None if used.all() else np.where(used, np.arange(len(owner._X)), -1)
        self.weights = None  # of all pairs in every fold, in its unit; None where each counts 1
        if owner.uneven:
            weights = [torch.from_numpy(weight).to(device) for weight in owner._weights]
            self.weights = list(zip(weights, [fold.unit for fold in owner.folds], strict=True))

    @classmethod
    def _chunk_size(cls, products):
        """Rows of a chunk: on a GPU more, as starting its kernels takes longer than many pairs."""
        return min(cls.rows_in_chunk * (1 if products.X.device.type == "cpu" else 2), len(products.X))

    @classmethod
    def size(cls, products, uneven):
        """Values that the reading takes for each column."""
        return cls._chunk_size(products) * (7 if uneven else 3) + 4 * products.width

    def add_sums(self, order, folds, weights, limits, budgets, slopes, sums):
        """Add up slope times difference over the sampled failures of each column.

        Parameters
        ----------
        order : KeyOrder
            The pairs in the order of this round's keys.
        folds : ndarray of shape (n_columns,), int
        weights : Tensor of shape (n_columns, width)
            Of R, in the units of the features.
        limits : ndarray of shape (2, n_columns)
            The least and the largest margin of a failure.
        budgets : ndarray of shape (n_columns,)
            Largest total weight of a sample, by `Fold.in_units`.
        slopes : callable, (margins (n_some, n_rows), columns (n_some,)) -> Tensor of shape (n_some, n_rows)
            May overwrite the margins.
        sums : Tensor of shape (n_columns, width)
            What is added to.

        Returns
        -------
        sampled : Tensor of shape (n_columns,), float64
            Total weights of the samples, in the same units.
        """
        folds, limits, budgets = (torch.from_numpy(values).to(weights.device) for values in (folds, limits, budgets))
        order = order if self.position is None else order.of_rows(self.position)
        sampled, columns = torch.zeros_like(budgets), torch.nonzero(budgets)[:, 0]
        with self.products.one_reader(threaded=len(columns) * sums.shape[1] >= self.worth_threads) as reader:
            samples = _Samples(columns, folds[columns], limits[:, columns], budgets[columns], reader)
            for rows, first in order.chunks(self.n_rows):
                if not len(samples.columns):
                    break
                samples.extend(self._chunk(reader, rows, first), weights, slopes, sums, sampled)
        return sampled

    def _chunk(self, reader, rows, first):
        """What columns read of pairs."""
        rows, first = torch.from_numpy(rows).to(self.member.device), torch.from_numpy(first).to(self.member.device)
        differences = reader.signed_differences(rows, self.products.sign)
        weights = self.weights and torch.stack([weight[rows] / unit for weight, unit in self.weights])
        return _Chunk(differences, self.member[rows].T.to(differences), weights, first)


@dataclass
class _Chunk:
    """Pairs in the order of their keys.

    Parameters
    ----------
    differences : Tensor of shape (n_rows, width)
        Signed.
    member : Tensor of shape (n_folds, n_rows)
        1 where a fold trains on a pair, else 0.
    weights : Tensor of shape (n_folds, n_rows) or None
        None where each counts 1.
    first : Tensor of shape (n_rows + 1,), int
        Rank of the first copy of each pair, and the number of pairs.
    """

    differences: torch.Tensor
    member: torch.Tensor
    weights: torch.Tensor | None
    first: torch.Tensor


class _Samples:
    """Samples of failures by margin of some columns in one round, as they grow chunk by chunk.

    Parameters
    ----------
    columns : Tensor of shape (n_columns,), int
    folds, limits, budgets
        Of these columns, see `_MarginReader.add_sums`.
    reader : _Reader

    Attributes
    ----------
    columns : Tensor of shape (n_open,), int
        Those that still look for failures.
    """

    columns_to_cut = 16  # at a time: their totals take more room than what they are cut in

    def __init__(self, columns, folds, limits, budgets, reader):
        self.reader, self.two_sided = reader, bool(torch.isfinite(limits[0]).any())
        self.columns, self.folds, self.rest = columns, folds, budgets
        self.lower, self.upper = limits[:, :, None]

    def extend(self, chunk, weights, slopes, sums, sampled):
        """Sample failures of the next pairs, and add to ``sums`` and ``sampled`` of all columns of the search.

        What is compared and counted is 1 or 0 in the margins' precision, which is fastest to multiply with.
        """
        n_rows, width = chunk.differences.shape
        room, size = self.reader.room, len(self.columns)
        own = torch.index_select(weights, 0, self.columns, out=room("other", size, width))
        margins = self.reader.product(own, chunk.differences)
        failing = torch.le(margins, self.upper, out=room("failing", size, n_rows))
        if self.two_sided:
            failing.mul_(torch.ge(margins, self.lower, out=room("other", size, n_rows)))
        failing.mul_(torch.index_select(chunk.member, 0, self.folds, out=room("other", size, n_rows)))
        counted = None if chunk.weights is None else chunk.weights.index_select(0, self.folds)
        found = self._fill(failing, counted, chunk.first)
        values = slopes(margins, self.columns).mul_(failing)
        if counted is not None:
            values.mul_(counted)
        sums.index_add_(0, self.columns, torch.mm(values, chunk.differences, out=room("other", size, width)))
        sampled.index_add_(0, self.columns, found)
        self._close(found)

    def _fill(self, failing, weights, first):
        """Leave of the failures (n_open, n_rows) as many as are due; their total weights (n_open,), float64."""
        found = _totals(failing, weights)
        for over in torch.nonzero(found > self.rest)[:, 0].split(self.columns_to_cut):
            some_weights = None if weights is None else weights[over]
            failing[over], found[over] = _cut(failing[over], some_weights, self.rest[over], first)
            self.rest[over] = found[over]  # full, if a little below the budget
        return found

    def _close(self, found):
        """Leave out the columns whose samples are full."""
        self.rest -= found
        left = torch.nonzero(self.rest > 0)[:, 0]
        if len(left) < len(self.rest):
            for name in ("columns", "folds", "rest", "lower", "upper"):
                setattr(self, name, getattr(self, name).index_select(0, left))


def _totals(failing, weights):
    """Total weight (n_columns,), float64, of failures (n_columns, n_rows); without weights, their number."""
    return (failing.sum(dim=1) if weights is None else (weights * failing).sum(dim=1)).double()


def _cut(failing, weights, rest, first):
    """Failures of as large a total weight as is due, with no part of the copies of a pair, and their total weights."""
    totals = torch.cumsum(failing if weights is None else weights * failing, 1)
    too_many = torch.searchsorted(totals, rest[:, None].to(totals), right=True)[:, 0]
    end = first[too_many]  # of the first failure too many: its first copy
    before = totals.gather(1, (end - 1).clamp(min=0)[:, None])[:, 0]
    ranks = torch.arange(failing.shape[1], device=failing.device)
    return failing * (ranks < end[:, None]), torch.where(end > 0, before, 0).double()


def _is_by_margin(column):
    """Whether the failures of a column are those with margins in an interval."""
    return type(column.curriculum["detector"]) in (MarginFailures, NearTieFailures)


def _limits(thresholds, detectors, dtype):
    """Bounds (2, n_columns) of the margins of failures, in the margins' precision and as good to compare with."""
    upper = thresholds.astype(dtype)
    above = upper > thresholds
    upper[above] = np.nextafter(upper[above], -np.inf, dtype=dtype)
    near_ties = np.array([isinstance(detector, NearTieFailures) for detector in detectors])
    return np.stack([np.where(near_ties, -upper, -np.inf).astype(dtype), upper])


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
