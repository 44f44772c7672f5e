r"""Losses of a margin and the schedules of the curriculum; for readers of the theory page, whose equations it holds.

A loss here is a function of margins only. It returns, elementwise, the loss, its first and its second derivative
with respect to the margin, so that every solver (line search, gradient step, duality gap) reads from one text.
"""

import numbers

import numpy as np
import torch
from sklearn.base import BaseEstimator

__all__ = [
    "ConstantSchedule",
    "CosineSchedule",
    "ExponentialSchedule",
    "LinearSchedule",
    "hinge_loss",
    "logistic_loss",
    "schedule_values",
]

# -------------------------------------------------------------------------------------------------- losses


def hinge_loss(margins, required, smoothing=0.0):
    r"""Hinge of max-margin IRL, :math:`\max(0, M - \Delta)`, optionally with a rounded corner.

    It is the loss of theory, eq. 2.

    Parameters
    ----------
    margins : Tensor of shape (n_pairs,)
        Margins, in units of reward.
    required : float
        The required margin M.
    smoothing : float, default=0
        Width of the interval below M on which the corner is replaced by a parabola; 0 is the plain hinge. The
        smooth loss is at most ``smoothing / 2`` below the hinge.

    Returns
    -------
    loss, slope, curvature : Tensor of shape (n_pairs,)
        The loss and its first two derivatives in the margin. The slope is in [-1, 0].
    """
    missing = required - margins
    if smoothing == 0:
        return missing.clamp(min=0), (missing > 0).to(margins.dtype).neg_(), torch.zeros_like(margins)
    inside = (missing / smoothing).clamp(0, 1)
    loss = torch.where(inside < 1, inside * missing / 2, missing - smoothing / 2)
    curvature = ((inside > 0) & (inside < 1)).to(margins.dtype) / smoothing
    return loss, -inside, curvature


def logistic_loss(margins, temperature):
    r"""Negative log-likelihood of max-entropy IRL, :math:`\log(1 + e^{-\Delta/\tau})`.

    It is the loss of theory, eq. 3.

    Parameters
    ----------
    margins : Tensor of shape (n_pairs,)
        Margins, in units of reward.
    temperature : float
        The temperature tau, in units of reward: a margin of one temperature means odds of e to 1.

    Returns
    -------
    loss, slope, curvature : Tensor of shape (n_pairs,)
        The loss and its first two derivatives in the margin. The slope is in (-1/tau, 0).
    """
    scaled = -margins / temperature
    probability = torch.sigmoid(scaled)  # of the preference being the other way round
    curvature = probability * (1 - probability) / temperature**2
    return torch.nn.functional.softplus(scaled), -probability / temperature, curvature


# ----------------------------------------------------------------------------------------------- schedules


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
        it counts in fits, not in rounds, it keeps its meaning when ``max_iter`` changes.

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
