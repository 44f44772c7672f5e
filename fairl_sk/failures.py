"""Failure detectors: which pairs the curriculum treats as failures in a round; for readers who want to add one.

A detector is any object with ``detect(round)``. It gets a `Round` and returns for every pair a bool (a failure or not)
or a weight >= 0 (0: no failure). Derive it from ``BaseEstimator``, so that ``GridSearchCV`` reaches its parameters as
``failures__name``. ``requires_labels = True`` asks for a label of every output. A detector that needs the features has
``fit(X, y, sample_weight, *, output_labels, seed)`` too; an estimator calls it on a clone before the first round.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator, clone

__all__ = [
    "ConfirmedFailures",
    "ImplicitFailures",
    "LabelFailures",
    "MarginFailures",
    "NearTieFailures",
    "Round",
    "find_failures",
    "fit_detector",
    "make_detector",
]


@dataclass(frozen=True)
class Round:
    """What is known at the start of a round.

    Parameters
    ----------
    index : int
        The round t, from 0.
    progress : float
        t / (T - 1), in [0, 1].
    threshold : float
        The failure threshold gamma_t, in units of reward.
    margins : ndarray of shape (n_pairs,)
        R(preferred) - R(other) of every pair.
    rewards : callable, () -> ndarray of shape (n_pairs, 2)
        The rewards of the (preferred, other) outputs, with the offset set as after a fit. It costs a pass over the
        features, hence a call.
    output_labels : ndarray of shape (n_pairs, 2) or None
        Labels of the (preferred, other) outputs, 1 = desirable, 0 = not, where the user gave them.
    """

    index: int
    progress: float
    threshold: float
    margins: np.ndarray
    rewards: Callable[[], np.ndarray]
    output_labels: np.ndarray | None


class MarginFailures(BaseEstimator):
    r"""Failures by margin, :math:`F_t = \{i : \Delta_i \le \gamma_t\}`: pairs misordered or nearly tied.

    It is the paper's detector (theory, eq. 5).

    Examples
    --------
    >>> state = Round(0, 0.0, 0.5, np.array([-1.0, 0.2, 3.0]), None, None)
    >>> MarginFailures().detect(state)
    array([ True,  True, False])
    """

    requires_labels = False

    def detect(self, state):
        """Pairs whose margin is at or below the threshold.

        Parameters
        ----------
        state : Round

        Returns
        -------
        failures : ndarray of shape (n_pairs,), bool
        """
        return state.margins <= state.threshold


class NearTieFailures(BaseEstimator):
    r"""Failures by ambiguity, :math:`F_t = \{i : |\Delta_i| \le \gamma_t\}`: pairs that are nearly tied.

    A pair that the reward clearly contradicts is no failure here: with label noise, most of these are mislabeled.

    Examples
    --------
    >>> state = Round(0, 0.0, 0.5, np.array([-1.0, -0.2, 0.2, 3.0]), None, None)
    >>> NearTieFailures().detect(state)
    array([False,  True,  True, False])
    """

    requires_labels = False

    def detect(self, state):
        """Pairs whose margin is near 0. See `fairl_sk.failures.MarginFailures.detect`."""
        return np.abs(state.margins) <= state.threshold


class LabelFailures(BaseEstimator):
    """Failures by label: an output of the pair is on the wrong side of 0 for its label y(o).

    It is the paper's supervised detector (theory, eq. 6).

    Examples
    --------
    >>> rewards = np.array([[2.0, -1.0], [-0.5, -1.0]])
    >>> state = Round(0, 0.0, 0.0, np.array([3.0, 0.5]), lambda: rewards, np.array([[1, 0], [1, 0]]))
    >>> LabelFailures().detect(state)
    array([False,  True])
    """

    requires_labels = True

    def detect(self, state):
        """Pairs with a reward on the wrong side of 0. See `fairl_sk.failures.MarginFailures.detect`."""
        return ((state.rewards() > 0) != (state.output_labels == 1)).any(axis=1)


class ConfirmedFailures(BaseEstimator):
    """Failures by margin that the labels confirm: the preferred output is desirable, the other one is not.

    With equal labels a small margin may be right, and with opposite labels the pair is noise (theory, below eq. 6).

    Examples
    --------
    >>> state = Round(0, 0.0, 0.5, np.array([-1.0, -1.0, 3.0]), None, np.array([[1, 0], [1, 1], [1, 0]]))
    >>> ConfirmedFailures().detect(state)
    array([ True, False, False])
    """

    requires_labels = True

    def detect(self, state):
        """Margin failures whose labels differ as preferred. See `fairl_sk.failures.MarginFailures.detect`."""
        preferred, other = state.output_labels[:, 0] == 1, state.output_labels[:, 1] == 1
        return (state.margins <= state.threshold) & preferred & ~other


class ImplicitFailures(ConfirmedFailures):
    """Failures by margin that two language models confirm: the preferred output has the larger implicit reward.

    A small margin against the implicit rewards is noise, not a failure. The estimator's ``fit`` gets them as
    ``implicit_rewards``; the output of a pair with the larger one has the label 1 here, and the other one 0.

    Examples
    --------
    >>> state = Round(0, 0.0, 0.5, np.array([-1.0, -1.0, 3.0]), None, np.array([[1, 0], [0, 1], [1, 0]]))
    >>> ImplicitFailures().detect(state)
    array([ True, False, False])
    """


_DETECTORS = {
    "near_ties": NearTieFailures,
    "margin": MarginFailures,
    "labels": LabelFailures,
    "confirmed": ConfirmedFailures,
    "implicit": ImplicitFailures,
}


def make_detector(failures):
    """The detector of an estimator's parameter ``failures``.

    Parameters
    ----------
    failures : {"near_ties", "margin", "labels", "confirmed", "implicit"} or object with ``detect``

    Returns
    -------
    detector : object with ``detect``

    Raises
    ------
    ValueError
        For another string, or for a class in place of an object.
    """
    if isinstance(failures, type):
        raise ValueError(f"Found the class {failures.__name__} as failures. Expected an object of it: add ().")
    if not isinstance(failures, str):
        return failures
    if failures not in _DETECTORS:
        raise ValueError(f"Found failures={failures!r}. Expected one of {sorted(_DETECTORS)} or a detector object.")
    return _DETECTORS[failures]()


def fit_detector(detector, X, sign, sample_weight, output_labels, seed):
    """A detector that is ready for the rounds: fitted, on a clone, if it has ``fit``.

    Parameters
    ----------
    detector : object with ``detect``
    X : ndarray of shape (n_pairs, 2, n_features) or (n_samples, n_features)
    sign : ndarray of shape (n_pairs,) or (n_samples,)
        +1 where the first side is preferred, else -1.
    sample_weight : ndarray of shape (n_pairs,) or (n_samples,)
    output_labels : ndarray of shape (n_pairs, 2) or None
        In the order of ``X``.
    seed : int

    Returns
    -------
    detector : object with ``detect``
    """
    if not hasattr(detector, "fit"):
        return detector
    return clone(detector, safe=False).fit(X, sign, sample_weight, output_labels=output_labels, seed=seed)


def find_failures(detector, state):
    """A detector's answer as weights, checked.

    Parameters
    ----------
    detector : object with ``detect``
    state : Round

    Returns
    -------
    weights : ndarray of shape (n_pairs,), float64
        0 for a pair that is no failure.

    Raises
    ------
    ValueError
        If the answer is not numbers or has another length, or a weight is negative or not finite.
    """
    expected = f"Expected one bool or one finite weight >= 0 for each of the {len(state.margins)} pairs."
    answer = detector.detect(state)
    try:
        weights = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{detector!r}.detect returned {answer!r:.40}..., not numbers. {expected}") from error
    if weights.shape != state.margins.shape or not np.isfinite(weights).all() or weights.min(initial=0.0) < 0:
        raise ValueError(
            f"{detector!r}.detect returned an array of shape {weights.shape} with minimum {weights.min(initial=0.0)}. "
            f"{expected}"
        )
    return weights
