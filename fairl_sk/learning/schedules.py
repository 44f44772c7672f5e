"""Schedules: how the failure threshold, weight and rate change over the rounds of the curriculum."""

import numbers

import numpy as np
from sklearn.base import BaseEstimator

__all__ = ["ConstantSchedule", "CosineSchedule", "ExponentialSchedule", "LinearSchedule", "schedule_values"]


class ConstantSchedule(BaseEstimator):
    """The same value in every round.

    Parameters
    ----------
    value : float, default=1.0
        The value.

    Examples
    --------
    >>> ConstantSchedule(5.0)(0.3)
    5.0
    """

    def __init__(self, value=1.0):
        self.value = value

    def __call__(self, progress):
        return self.value


class LinearSchedule(BaseEstimator):
    """From ``start`` to ``stop`` in equal steps.

    Parameters
    ----------
    start, stop : float, default=0.0, 1.0
        Values in the first and in the last round.

    Examples
    --------
    >>> LinearSchedule(0.2, 0.0)(0.5)
    0.1
    """

    def __init__(self, start=0.0, stop=1.0):
        self.start = start
        self.stop = stop

    def __call__(self, progress):
        return self.start + (self.stop - self.start) * progress


class ExponentialSchedule(BaseEstimator):
    """Exponential decay, ``start * exp(-decay * progress)``.

    Parameters
    ----------
    start : float, default=10.0
        Value in the first round.
    decay : float, default=5.0
        Number of e-folds over the whole fit: 5 leaves 0.7 % of ``start`` in the last round, 0 leaves all of it. As
        it counts in fits, not in rounds, it keeps its meaning when ``n_rounds`` changes.

    Examples
    --------
    >>> round(ExponentialSchedule(10.0, 5.0)(1.0), 3)
    0.067
    """

    def __init__(self, start=10.0, decay=5.0):
        self.start = start
        self.decay = decay

    def __call__(self, progress):
        return self.start * float(np.exp(-self.decay * progress))


class CosineSchedule(BaseEstimator):
    """From ``start`` to ``stop`` along half a cosine: slow, fast, slow.

    Parameters
    ----------
    start, stop : float, default=1.0, 0.0
        Values in the first and in the last round.

    Examples
    --------
    >>> round(CosineSchedule(1.0, 0.0)(0.5), 3)
    0.5
    """

    def __init__(self, start=1.0, stop=0.0):
        self.start = start
        self.stop = stop

    def __call__(self, progress):
        return self.stop + (self.start - self.stop) * float(1 + np.cos(np.pi * progress)) / 2


def schedule_values(schedule, n_rounds, *, name, minimum=-np.inf, maximum=np.inf):
    """A schedule's value in every round, checked.

    Parameters
    ----------
    schedule : float or callable
        A number (constant), or a callable of progress, which runs from 0 (first round) to 1 (last round).
    n_rounds : int
        Number of rounds.
    name : str
        The parameter's name, for messages.
    minimum, maximum : float
        Bounds that every value must keep.

    Returns
    -------
    values : ndarray of shape (n_rounds,)

    Raises
    ------
    ValueError
        If a value is not a number, NaN, infinite or out of bounds.
    TypeError
        If the schedule is neither a number nor callable.

    Examples
    --------
    >>> schedule_values(LinearSchedule(0.2, 0.0), 3, name="failure_rate")
    array([0.2, 0.1, 0. ])
    """
    if isinstance(schedule, numbers.Real):
        schedule = ConstantSchedule(float(schedule))
    if not callable(schedule) or isinstance(schedule, type):
        raise TypeError(
            f"Found {name}={schedule!r}. Expected a number, a schedule such as ExponentialSchedule(start=10, decay=5), "
            "or a callable of progress in [0, 1]."
        )
    values = np.empty(n_rounds)
    for t in range(n_rounds):
        progress = t / max(n_rounds - 1, 1)
        value = schedule(progress)
        if not isinstance(value, numbers.Real) or not np.isfinite(value) or not minimum <= value <= maximum:
            value = value.item() if isinstance(value, np.generic) else value
            raise ValueError(
                f"{name}={schedule!r} gives {value!r} at progress {progress:.3g} (round {t}). Expected a finite "
                f"number in [{minimum:g}, {maximum:g}] in every round."
            )
        values[t] = value
    return values
