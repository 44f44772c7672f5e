"""What a fit reads and minimizes: the prepared rows and the settings."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ..device import torch_device
from .blocks import Blocks, is_mapped, read_blocks, working_dtype
from .curriculum import Schedule
from .net import rewards_of_paths
from .pointwise import estimate_weight
from .rows import difference_scale, differences_in_file, discount_duplicates, number_outputs, signed_differences

__all__ = ["Problem", "Settings", "prepare", "settle_pointwise_weight"]


@dataclass(frozen=True)
class Settings:
    """What a fit minimizes, from an estimator's parameters."""

    objective: str
    required: float  # M or tau
    required_fail: float  # M_fail or tau_fail
    alpha: float
    alpha_fail: float
    schedule: Schedule  # idle in the standard learners
    pointwise_weight: float | str = 0.0
    recurrence_correlation: float = 0.0
    failure_gradient: str = "failure"
    learning_rate: float | str = "auto"
    tol: float = 1e-5
    max_iter: int = 1000


@dataclass(frozen=True)
class Problem:
    """The rows that a fit reads."""

    X: np.ndarray  # (n_pairs, 2, n_features), or single outputs (n_samples, n_features)
    rows: slice | np.ndarray  # the rows of X that are read: all, or those of a fold, which are not copied
    sign: np.ndarray  # +1 where the first side is preferred, else -1
    weight: np.ndarray  # of sum 1; duplicate outputs are discounted
    numbers: np.ndarray | None  # of the distinct outputs of pairs, (n_pairs, 2)
    labels: np.ndarray | None  # of the outputs, (n_pairs, 2), in the order of X
    differences: np.ndarray | Blocks  # see `signed_differences`; in units of the scale
    scale: float  # root mean squared length of the differences
    device: torch.device

    @property
    def is_paired(self):
        """Whether the rows are pairs."""
        return self.X.ndim == 3

    @property
    def dtype(self):
        """The dtype in which features are computed with."""
        return working_dtype(self.X)

    def outputs(self, *, center=False, constant=False):
        """Outputs of the rows in units of the scale, (n_rows, ..., n_features), as a tensor or `Blocks`.

        Centered if asked, or with a constant 1 behind the features of single outputs.
        """
        if is_mapped(self.X):
            middle = None
            if center:
                rows = read_blocks(self.X, self.rows, device=self.device)
                share = self.tensor(self.weight, rows.dtype)
                middle = (rows.sums(share[:, None, None].expand(-1, 2, 1))[:, 0] / 2).to(rows.dtype)
            return read_blocks(
                self.X, self.rows, 1 / self.scale, center=middle, differences=constant, device=self.device
            )
        X = torch.from_numpy(self.X[self.rows]).to(self.device)
        if constant:
            X = torch.nn.functional.pad(X, (0, 1), value=1.0)
        if not center:
            return X / self.scale
        share = self.tensor(self.weight, X.dtype)
        return (X - (share @ X[:, 0] + share @ X[:, 1]) / 2).div_(self.scale)

    def rewards(self, paths):
        """Rewards of the rows, (n_paths, n_pairs, 2) or (n_paths, n_samples); see `rewards_of_paths`."""
        return rewards_of_paths(paths, self.X)[:, self.rows]

    @property
    def target_sides(self):
        """+1 for outputs that should lie above the threshold, -1 for others, (n_pairs, 2), in the order of X."""
        if self.labels is not None:
            return np.where(self.labels == 1, 1.0, -1.0)
        return np.stack([self.sign, -self.sign], axis=1)

    @property
    def estimated_pointwise_weight(self):
        """What ``pointwise_weight="auto"`` stands for, computed once."""
        # cached_property of Python 3.11 locks all problems at once: fits in parallel threads would wait for each other.
        if "_estimate" not in self.__dict__:
            with threadpool_limits(1):  # of so few pairs; several threads would wait for each other
                given = self.X, self.sign, self.weight, self.numbers, self.target_sides, self.rows
                self.__dict__["_estimate"] = estimate_weight(*given)
        return self.__dict__["_estimate"]

    def tensor(self, values, dtype=torch.float64):
        """A tensor of an array on the device, of its own dtype if None; `Blocks` stay what they are."""
        if isinstance(values, Blocks):
            return values
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, dtype)


def prepare(X, sign, sample_weight, labels, recurrence_correlation, device, rows=slice(None)):
    """The problem of some rows of X, with a sign and a weight each.

    Raises ValueError for features that `difference_scale` refuses.
    """
    numbers = None
    if X.ndim == 3:
        numbers = number_outputs(X)[rows]
        sample_weight = discount_duplicates(numbers, sample_weight, recurrence_correlation)
    device, paired = torch_device(device), X.ndim == 3
    if is_mapped(X):
        if paired and not isinstance(rows, slice):  # of a fold: to pick them from the file in each pass takes long
            read, signs = partial(read_blocks, differences_in_file(X, sign, rows), device=device), np.ones(len(rows))
        else:
            read, signs = partial(read_blocks, X, rows, differences=True, device=device), sign
        lengths = np.sqrt(read(factor=signs).squared_lengths())
        scale = difference_scale(lengths[:, None], sample_weight, paired=paired)
        differences = read(factor=signs / scale)
    else:
        differences = signed_differences(X, sign, rows)
        scale = difference_scale(differences[:, : X.shape[-1]], sample_weight, paired=paired)
        differences /= differences.dtype.type(scale)
    weight = sample_weight / sample_weight.sum()
    return Problem(X, rows, sign, weight, numbers, labels, differences, scale, device)


def settle_pointwise_weight(problem, settings):
    """The settings with a number as ``pointwise_weight``.

    The failure weights are divided by one more than an estimate: failures are pairs, which count that much less.
    """
    if not problem.is_paired:
        return replace(settings, pointwise_weight=0.0)
    if settings.pointwise_weight != "auto":
        return settings
    estimate = problem.estimated_pointwise_weight
    schedule = replace(settings.schedule, weights=settings.schedule.weights / (1 + estimate))
    return replace(settings, pointwise_weight=estimate, schedule=schedule)
