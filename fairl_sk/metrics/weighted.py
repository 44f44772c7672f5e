"""Metrics as functions of the row weights, and the checks of their input. For whoever adds a metric.

A metric checks its arrays once and returns a `WeightedMetric`. The public function evaluates it at the sample weights;
the bootstrap evaluates it many times, at the sample weights times the number of times that each group was drawn.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_array


class WeightedMetric(NamedTuple):
    """A metric on `n_rows` checked rows; `evaluate` maps checked weights of the rows to the score, or to NaN."""

    n_rows: int
    evaluate: Callable

    def __call__(self, sample_weight=None):
        """Score at these weights, which are checked first."""
        score = float(self.evaluate(check_weights(sample_weight, self.n_rows)))
        if np.isnan(score):
            message = "The score is NaN: all outputs of positive weight have the same label. Score outputs of both."
            warnings.warn(message, UndefinedMetricWarning, stacklevel=3)
        return score


def check_rewards(rewards, name, *, margins=False):
    """Finite rewards of shape (n_outputs,) or (n_pairs, 2), or margins of shape (n_pairs,), as floats."""
    floats = [np.float64, np.float32, np.float16]
    rewards = check_array(rewards, ensure_2d=False, allow_nd=True, dtype=floats, input_name=name)
    if rewards.ndim != 1 and (margins or rewards.shape[1:] != (2,)):
        expected = "(n_pairs,)" if margins else "(n_outputs,) or (n_pairs, 2)"
        found = f"Got {name} of shape {rewards.shape}, but expected {expected}"
        raise ValueError(f"{found}. Pass one row a pair or output.")
    return rewards


def check_weights(sample_weight, n_rows):
    """Weights of shape (n_rows,) with 1 as the largest; ones where None."""
    weights = np.ones(n_rows) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (n_rows,) or not np.isfinite(weights).all() or weights.min() < 0 or weights.max() == 0:
        raise ValueError(
            f"Got sample_weight of shape {weights.shape}, from {weights.min()} to {weights.max()}, but expected "
            f"{n_rows} finite weights >= 0 that are not all 0. Leave sample_weight out to weigh all rows alike."
        )
    return weights / weights.max()  # no metric depends on the scale, and huge weights must not overflow


def check_groups(groups, n_rows, *, purpose=None):
    """The distinct groups, and the number of each row's group; with a purpose there must be at least two groups."""
    groups = np.asarray(groups)
    if groups.shape != (n_rows,):
        raise ValueError(f"Got groups of shape {groups.shape}, but expected ({n_rows},). Pass the prompt of each row.")
    try:
        names, codes = np.unique(groups, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"Got groups that cannot be sorted ({error}). Fill in missing ones.") from error
    if purpose is not None and len(names) < 2:
        found = f"Got one group for all rows, but {purpose} needs at least 2"
        raise ValueError(f"{found}. Pass the prompt of each row as groups, or row numbers if rows are independent.")
    return names, codes


def per_output(values, n_outputs):
    """Values of rows as values of outputs: both outputs of a pair get the value of the pair."""
    return values if len(values) == n_outputs else np.repeat(values, 2)
