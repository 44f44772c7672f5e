"""What people judged by several objectives: checks of the judgements, names and weights that `objectives` reads."""

from typing import NamedTuple

import numpy as np

from ..messages import column_names

__all__ = ["Judgements", "check_weights", "read_judgements", "read_overall"]


class Judgements(NamedTuple):
    """Judgements by several objectives."""

    signs: np.ndarray  # (n_rows, n_objectives): 1 = the first is preferred, -1 = the second, NaN = a tie or not judged
    ties: np.ndarray  # (n_rows, n_objectives), bool
    classes: np.ndarray  # (2,)
    names: list

    @property
    def n_judged(self):
        """Number of rows that each objective judged, without ties."""
        return np.count_nonzero(~np.isnan(self.signs), axis=0)

    @property
    def n_ties(self):
        """Number of ties of each objective."""
        return np.count_nonzero(self.ties, axis=0)


def read_judgements(y, n_rows, names=None, *, classes=None):
    """Judgements (n_rows, n_objectives) of a fit, or with known classes.

    ``names`` are those of the objectives; None: of a table's columns, or numbers. Raises ValueError for another shape,
    other values, names given twice, and, in a fit, an objective without both classes.
    """
    if y is None:
        raise ValueError("MultiObjectiveIRL requires y to be passed, but the target y is None.")
    values = _to_numbers(y)
    if values.ndim != 2 or len(values) != n_rows or not values.shape[1]:
        raise ValueError(
            f"Found y of shape {values.shape} for {n_rows} rows: inconsistent numbers of samples, or not a column for "
            "each objective. Expected (n_rows, n_objectives); one objective is y.reshape(-1, 1)."
        )
    names = _check_names(column_names(y) if names is None else names, values.shape[1])
    fits = classes is None
    classes = _find_classes(values) if fits else classes
    ties = values == classes.mean()
    known = np.isnan(values) | ties | np.isin(values, classes)
    if not known.all():
        raise ValueError(
            f"Found {values[~known][0]:g} in y. Expected {classes[1]:g} (the first output is preferred), "
            f"{classes[0]:g} (the second), {classes.mean():g} (a tie) or NaN (not judged)."
        )
    signs = np.where(ties | np.isnan(values), np.nan, np.where(values == classes[1], 1.0, -1.0))
    judged = Judgements(signs, ties, classes, names)
    if fits:
        _check_both_sides(judged)
    return judged


def _to_numbers(y):
    """The values of an array or table as float64; None is NaN."""
    names = column_names(y)
    try:
        if names is not None and not hasattr(y, "__array__"):
            return np.column_stack([np.asarray(y[name], dtype=np.float64) for name in names])
        return np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"y is not numeric ({error}). Expected 1 (the first output is preferred), 0 (the second), 0.5 (a tie) or "
            "NaN (not judged): code the labels, e.g. by (labels == 'first').astype(float)."
        ) from error


def _check_names(names, n_objectives):
    if names is None:
        return [f"objective_{k}" for k in range(n_objectives)]
    names = [str(name) for name in names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Found the objective {twice!r} twice, in {names}. Expected a name for each: rename one.")
    if len(names) != n_objectives:
        raise ValueError(f"Found the names {names} for {n_objectives} columns of y. Expected one for each.")
    return names


def _find_classes(values):
    """The two classes, ascending: 0 and 1, or -1 and 1, or the only two values."""
    found = np.unique(values[~np.isnan(values)])
    if np.isinf(found).any():
        raise ValueError("Found infinity in y. Expected numbers, or NaN for pairs that were not judged.")
    for classes in ((0.0, 1.0), (-1.0, 1.0)):
        if np.isin(found, [*classes, np.mean(classes)]).all():
            return np.array(classes)
    if len(found) == 2:
        return found
    raise ValueError(
        f"Unknown label type: found {len(found)} values in y: {found[:5].tolist()}. Expected 1 (the first output is "
        "preferred), 0 (the second), 0.5 (a tie) and NaN (not judged)."
    )


def _check_both_sides(judged):
    for name, sign, ties in zip(judged.names, judged.signs.T, judged.n_ties, strict=True):
        sides = np.unique(sign[~np.isnan(sign)])
        if not len(sides):
            found = f"is judged in no row ({ties} ties)"
            raise ValueError(f"Objective {name!r} {found}. Expected judgements: leave its column out of y.")
        if len(sides) == 1:
            found = f"is judged the same everywhere: found one class only, {judged.classes[int(sides[0] > 0)]:g}"
            raise ValueError(
                f"Objective {name!r} {found}. Expected both. If the preferred output always stands first, exchange the "
                "sides of half of the pairs, X[rows] = X[rows, ::-1] and y[rows] = 1 - y[rows]."
            )


def read_overall(y, n_rows):
    """Signs of overall preferences (n_rows,): 1, -1, or NaN for ties and what was not judged."""
    if np.ndim(y) != 1:
        raise ValueError(f"Found overall preferences of shape {np.shape(y)}. Expected one a pair, (n_pairs,).")
    return read_judgements(np.reshape(y, (-1, 1)), n_rows, ["overall preference"]).signs[:, 0]


def check_weights(weights, names):
    """Weights (n_objectives,) that sum to 1."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(names),) or not np.isfinite(weights).all():
        raise ValueError(f"Found weights {weights.tolist()} for the objectives {names}. Expected a number for each.")
    if (weights < 0).any() or not weights.sum() > 0:
        what = "sum to 0" if (weights >= 0).all() else "are negative in part"
        raise ValueError(
            f"Found weights {weights.tolist()}, which {what}. Expected weights >= 0 with a sum above 0. If less of an "
            "objective is better, exchange its judgements."
        )
    return weights / weights.sum()
