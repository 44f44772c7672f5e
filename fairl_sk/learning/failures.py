"""Failure detectors: which pairs the curriculum treats as failures in a round; for readers who want to add one.

A detector is any object with ``detect(round)``, which gets a `Round` and returns, for every pair, either a bool
(a failure or not) or a weight >= 0 (0: no failure). Detectors derive from ``BaseEstimator`` so that
``GridSearchCV`` reaches their parameters as ``failures__name``.

A detector that has to see the pairs themselves has ``fit(X, y, sample_weight, *, output_labels, seed)`` as well, which
an estimator calls on a clone, once, before the rounds (`fit_detector`); ``detect`` then gets rounds of these pairs.
``requires_labels = True`` asks for a label of every output, ``partial_labels = True`` also takes NaN for unknown ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit
from sklearn.base import BaseEstimator, clone
from sklearn.utils._param_validation import Interval, StrOptions  # the parameters' declared constraints
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ..pairs import check_pairs, preference_sign
from .sampling import content_keys, mixed_keys, pair_keys

__all__ = [
    "ConfirmedFailures",
    "CrossFittedFailures",
    "DisagreementFailures",
    "FewLabelFailures",
    "LabelFailures",
    "MarginFailures",
    "NearTieFailures",
    "NoiseAwareFailures",
    "OutputSignFailures",
    "Round",
    "find_failures",
    "fit_detector",
]

_STRENGTH = Interval(Real, 0, None, closed="neither")


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

    What the reward clearly contradicts is no failure here: in noise, most of it is flipped preferences, and to weight
    it up is to learn them. The base path goes on counting it as any other pair.

    Examples
    --------
    >>> state = Round(0, 0.0, 0.5, np.array([-1.0, -0.2, 0.2, 3.0]), None, None)
    >>> NearTieFailures().detect(state)
    array([False,  True,  True, False])
    """

    requires_labels = False

    def detect(self, state):
        """Pairs whose margin is at most the threshold away from 0.

        Parameters
        ----------
        state : Round

        Returns
        -------
        failures : ndarray of shape (n_pairs,), bool
        """
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
        """Pairs with an output whose reward's sign disagrees with its label.

        Parameters
        ----------
        state : Round
            With ``output_labels``.

        Returns
        -------
        failures : ndarray of shape (n_pairs,), bool
        """
        return ((state.rewards() > 0) != (state.output_labels == 1)).any(axis=1)


class ConfirmedFailures(BaseEstimator):
    """Failures by margin that the labels confirm: the preferred output is desirable, the other one is not.

    It is this package's, for pairs whose outputs are labelled (theory, below eq. 6). Of the pairs that the reward
    misorders or nearly ties, only those of kind T->NT count. Where both outputs have the same label a small margin may
    be right, and where the labels contradict the preference the pair is noise.

    Examples
    --------
    >>> state = Round(0, 0.0, 0.5, np.array([-1.0, -1.0, 3.0]), None, np.array([[1, 0], [1, 1], [1, 0]]))
    >>> ConfirmedFailures().detect(state)
    array([ True, False, False])
    """

    requires_labels = True

    def detect(self, state):
        """Pairs whose margin is at or below the threshold though their labels differ as preferred.

        Parameters
        ----------
        state : Round
            With ``output_labels``.

        Returns
        -------
        failures : ndarray of shape (n_pairs,), bool
        """
        preferred, other = state.output_labels[:, 0] == 1, state.output_labels[:, 1] == 1
        return (state.margins <= state.threshold) & preferred & ~other


class OutputSignFailures(BaseEstimator):
    """Failures by sign, without labels: the preferred output is not above 0, or the other one is.

    The offset is set in every round as after a fit, so that 0 separates the chosen from the rejected outputs best. So
    these are the pairs with an output that the reward, as a classifier, puts on the wrong side: also pairs that it
    orders rightly, above or below 0 as a whole. Where both outputs of a pair are good, or both bad, that is no error
    of the reward: with labels at hand, `LabelFailures` knows.

    Examples
    --------
    >>> rewards = np.array([[2.0, -1.0], [-0.5, -1.0], [2.0, 0.5]])
    >>> state = Round(0, 0.0, 0.0, np.array([3.0, 0.5, 1.5]), lambda: rewards, None)
    >>> OutputSignFailures().detect(state)
    array([False,  True,  True])
    """

    requires_labels = False

    def detect(self, state):
        """Pairs with an output on the wrong side of 0; of single outputs, those that are.

        Parameters
        ----------
        state : Round

        Returns
        -------
        failures : ndarray of shape (n_pairs,), bool
        """
        rewards = state.rewards()
        if rewards.shape[1] == 1:  # of outputs the margin is the reward, with the sign of its label
            return state.margins <= 0
        return (rewards[:, 0] <= 0) | (rewards[:, 1] > 0)


# ----------------------------------------------------------------------------- detectors that look at the pairs

_CROSS_FIT_PARAMETERS = """cv : int >= 2, default=5
        Number of folds. Each pair is judged by linear Bradley-Terry rewards of the pairs of the other folds.
    alpha : float > 0, default=1e-3
        L2 strength of these rewards, for differences that are divided by the root of their mean squared length.
    together : {"outputs", "pairs"}, default="outputs"
        What folds never part: pairs that share an output, directly or by a chain of pairs; or copies of a pair only,
        where shared outputs (a stock refusal, say) would chain too many pairs together. ``fit`` may get ``groups``
        instead."""

_FIT_PARAMETERS = """X : array-like of shape (n_pairs, 2, n_features)
            Features of the pairs.
        y : array-like of shape (n_pairs,), default=None
            Two classes, the larger meaning that the first is preferred; None: it is everywhere.
        sample_weight : array-like of shape (n_pairs,), default=None
            Weights >= 0.
        groups : array-like of shape (n_pairs,), default=None
            Rows that folds never part, prompts for one; instead of ``together``. An estimator passes none.
        output_labels : array-like of shape (n_pairs, 2), default=None
            Not read.
        seed : int, default=0
            Seed of the folds and of the bootstrap. An estimator passes one that its ``random_state`` gives."""


def _document(cls):
    """Put the one text on cross-fitting into the docstrings of a class and of its ``fit``."""
    if cls.__doc__:
        cls.__doc__ = cls.__doc__.replace("{cross-fit}", _CROSS_FIT_PARAMETERS)
        cls.fit.__doc__ = cls.fit.__doc__.replace("{fit}", _FIT_PARAMETERS)
    return cls


class _CrossFitted(BaseEstimator):
    """What the detectors by held-out rewards share."""

    requires_labels = False
    _parameter_constraints = {
        "cv": [Interval(Integral, 2, None, closed="left")],
        "alpha": [_STRENGTH],
        "together": [StrOptions({"outputs", "pairs"})],
        "n_members": [Interval(Integral, 2, None, closed="left")],
    }

    def _hold_out(self, X, y, sample_weight, groups, seed, n_members=None):
        """Held-out margins (n_members, n_distinct), the distinct pairs, and the weights of all pairs."""
        self._validate_params()
        X, sign, weight = _check_pairs_to_fit(self, X, y, sample_weight)
        pairs = _DistinctPairs(X, sign, weight, self._links(X, groups, seed), seed)
        return pairs.held_out_margins(self.cv, self.alpha, n_members), pairs, weight

    def _links(self, X, groups, seed):
        """What ties rows together, (n_pairs, n_links): rows with an equal entry are never parted."""
        if groups is not None:
            names, links = np.unique(np.asarray(groups), return_inverse=True)
            if links.shape != (len(X),):
                raise ValueError(f"Found groups of shape {links.shape} for {len(X)} pairs. Expected one a pair.")
            return links[:, None]
        outputs = np.unique(content_keys(X.reshape(-1, X.shape[-1]), seed), return_inverse=True)[1].reshape(-1, 2)
        if self.together == "outputs":
            return outputs
        return np.unique(np.sort(outputs, axis=1), axis=0, return_inverse=True)[1].reshape(-1, 1)

    def _check_round(self, state, learned):
        check_is_fitted(self)
        if len(state.margins) != len(learned):
            raise ValueError(
                f"{self!r} was fitted on {len(learned)} pairs, and the round has {len(state.margins)}. Expected the "
                "same pairs: an estimator fits its detector itself; call fit with the round's pairs otherwise."
            )


@_document
class CrossFittedFailures(_CrossFitted):
    """Failures by margin that a reward misorders or nearly ties, too, which has not seen the pair.

    A pair that the reward gets wrong while one of the other folds gets it right was merely not memorised: what the
    other pairs say of it is enough, and it is no failure. The held-out margin is that of a linear Bradley-Terry reward
    of the other folds. It is fixed over the rounds but for its unit: it is scaled to the root mean square of the
    round's margins before it is compared with the threshold.

    Parameters
    ----------
    {cross-fit}

    Attributes
    ----------
    margins_ : ndarray of shape (n_pairs,)
        Held-out margins, in a unit of their own.

    Examples
    --------
    >>> from fairl_sk import FailureAwareIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(200, 5, noise=0.1, random_state=0)
    >>> reward = FailureAwareIRL.paper(failures=CrossFittedFailures(), alpha=0.01, random_state=0)
    >>> reward.fit(data.data, data.target).score(data.data, data.target) > 0.85
    True
    """

    def __init__(self, *, cv=5, alpha=1e-3, together="outputs"):
        self.cv = cv
        self.alpha = alpha
        self.together = together

    def fit(self, X, y=None, sample_weight=None, *, groups=None, output_labels=None, seed=0):
        """Learn the held-out margins.

        Parameters
        ----------
        {fit}

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the rows are single outputs, or there are fewer sets of pairs to part than folds.
        """
        margins, pairs, self._weight = self._hold_out(X, y, sample_weight, groups, seed)
        self.margins_ = margins[0][pairs.inverse]
        return self

    def detect(self, state):
        """Pairs whose margin and held-out margin, in the same unit, are both at or below the threshold.

        Parameters
        ----------
        state : Round
            Of the pairs of `fit`.

        Returns
        -------
        failures : ndarray of shape (n_pairs,), bool
        """
        self._check_round(state, self.__dict__.get("margins_", ()))
        held_out = self.margins_ * _unit(state.margins, self.margins_, self._weight)
        return (state.margins <= state.threshold) & (held_out <= state.threshold)


@_document
class DisagreementFailures(_CrossFitted):
    r"""Failures by margin on which an ensemble is divided: uncertain pairs, not confidently contradicted ones.

    The ensemble are ``n_members`` linear Bradley-Terry rewards of bootstrap samples of the pairs, each cross-fitted.
    A pair is uncertain if the mean m and the standard deviation s of its held-out margins have
    :math:`|m| \le c s` with c the ``n_std``. A pair that all members order against the preference is no failure here.

    Parameters
    ----------
    n_members : int >= 2, default=10
        Number of rewards that judge a pair.
    n_std : float > 0, default=2.0
        Standard deviations within which the mean margin counts as 0. Larger: more pairs are uncertain.
    {cross-fit}

    Attributes
    ----------
    margins_, std_ : ndarray of shape (n_pairs,)
        Mean and standard deviation of the held-out margins over the members.
    uncertain_ : ndarray of shape (n_pairs,), bool
        Whether the ensemble is divided.

    Examples
    --------
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, noise=0.1, random_state=0)
    >>> uncertain = DisagreementFailures().fit(data.data, data.target).uncertain_
    >>> margins = abs(np.subtract(*data.reference_reward.T))
    >>> bool(margins[uncertain].mean() < margins[~uncertain].mean() / 3)
    True
    """

    _parameter_constraints = {**_CrossFitted._parameter_constraints, "n_std": [_STRENGTH]}

    def __init__(self, *, n_members=10, n_std=2.0, cv=5, alpha=1e-3, together="outputs"):
        self.n_members = n_members
        self.n_std = n_std
        self.cv = cv
        self.alpha = alpha
        self.together = together

    def fit(self, X, y=None, sample_weight=None, *, groups=None, output_labels=None, seed=0):
        """Learn on which pairs the ensemble is divided.

        Parameters
        ----------
        {fit}

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            See `CrossFittedFailures.fit`.
        """
        members, pairs, _ = self._hold_out(X, y, sample_weight, groups, seed, self.n_members)
        self.margins_, self.std_ = _mean_and_std(members, pairs)
        self.uncertain_ = np.abs(self.margins_) <= self.n_std * self.std_
        return self

    def detect(self, state):
        """Uncertain pairs whose margin is at or below the threshold.

        Parameters
        ----------
        state : Round
            Of the pairs of `fit`.

        Returns
        -------
        failures : ndarray of shape (n_pairs,), bool
        """
        self._check_round(state, self.__dict__.get("uncertain_", ()))
        return (state.margins <= state.threshold) & self.uncertain_


@_document
class NoiseAwareFailures(_CrossFitted):
    r"""Failures by margin that are not noise: the less an ensemble is decided on a pair, the more it counts.

    The ensemble is that of `DisagreementFailures`. Its held-out margins :math:`m_b` say how probable it is that the
    reward prefers what was preferred, :math:`s = \frac{1}{B} \sum_b \sigma(k m_b)`. If preferences are flipped with
    probability :math:`\epsilon`, this preference is seen with probability
    :math:`p = \epsilon (1 - s) + (1 - \epsilon) s`; the scale k and the rate :math:`\epsilon` are those of the greatest
    likelihood [1]_, and

    .. math:: P(\text{flipped}) = \epsilon (1 - s) / p .

    A pair above ``confidence`` is suspected noise and no failure [2]_. Of the others those at or below the threshold
    are failures of weight :math:`2 \min(s, 1 - s)`: 1 where the ensemble is undecided, near 0 where it is decided.

    In the base path a pair's weight is as without it. ``sample_weight=1 - noise_probability_`` of a detector that was
    fitted before makes suspected noise count less there, too.

    Parameters
    ----------
    n_members : int >= 2, default=10
        Number of rewards that judge a pair.
    confidence : float in [0, 1], default=0.5
        Probability of a flip above which a pair is suspected noise. 1: none is.
    {cross-fit}

    Attributes
    ----------
    noise_probability_ : ndarray of shape (n_pairs,)
        Probability that the preference is flipped.
    preference_probability_ : ndarray of shape (n_pairs,)
        s: probability that the reward prefers what was preferred.
    noise_rate_ : float in [0, 0.5)
        Share of flipped preferences, as estimated. Preferences that are the less certain the closer two outputs are
        (Bradley and Terry) are not flips, and add nothing to it.
    margins_, std_ : ndarray of shape (n_pairs,)
        Mean and standard deviation of the held-out margins over the members.

    References
    ----------
    .. [1] J. B. Copas. Binary regression models for contaminated data. JRSS B, 1988.
    .. [2] C. Northcutt, L. Jiang and I. Chuang. Confident learning. JAIR 2021.

    Examples
    --------
    >>> from fairl_sk import MaxMarginIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(1000, 5, noise=0.2, random_state=0)
    >>> detector = NoiseAwareFailures().fit(data.data, data.target)
    >>> bool(data.flipped[detector.noise_probability_ > 0.5].mean() > 0.8)
    True
    >>> reward = MaxMarginIRL(alpha=0.01, random_state=0)
    >>> reward = reward.fit(data.data, data.target, sample_weight=1 - detector.noise_probability_)
    """

    _parameter_constraints = {
        **_CrossFitted._parameter_constraints,
        "confidence": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(self, *, n_members=10, confidence=0.5, cv=5, alpha=1e-3, together="outputs"):
        self.n_members = n_members
        self.confidence = confidence
        self.cv = cv
        self.alpha = alpha
        self.together = together

    def fit(self, X, y=None, sample_weight=None, *, groups=None, output_labels=None, seed=0):
        """Learn how probable it is that each preference is flipped.

        Parameters
        ----------
        {fit}

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            See `CrossFittedFailures.fit`.
        """
        members, pairs, _ = self._hold_out(X, y, sample_weight, groups, seed, self.n_members)
        self.margins_, self.std_ = _mean_and_std(members, pairs)
        scale, self.noise_rate_ = _noise_model(members, pairs.weight)
        s = self.preference_probability_ = expit(scale * members).mean(axis=0)[pairs.inverse]
        flipped = self.noise_rate_ * (1 - s)
        self.noise_probability_ = flipped / np.maximum(flipped + (1 - self.noise_rate_) * s, 1e-300)
        return self

    def detect(self, state):
        """Weights of the pairs at or below the threshold that are not suspected noise.

        Parameters
        ----------
        state : Round
            Of the pairs of `fit`.

        Returns
        -------
        failures : ndarray of shape (n_pairs,), float64
        """
        self._check_round(state, self.__dict__.get("noise_probability_", ()))
        failing = (state.margins <= state.threshold) & (self.noise_probability_ <= self.confidence)
        undecided = 2 * np.minimum(self.preference_probability_, 1 - self.preference_probability_)
        return np.where(failing, undecided, 0.0)


class FewLabelFailures(BaseEstimator):
    """Failures by margin of the kind that informs, where only a few outputs are labelled.

    `ConfirmedFailures` for those who label a hundred outputs and not all. A linear classifier of the labelled outputs,
    both labels counting one half, says of the others how probable it is that they are desirable. A pair whose
    preferred output looks desirable and whose other one does not (T->NT) is the kind that informs. The offset is set
    as without labels.

    Parameters
    ----------
    probability : float in [0, 1], default=0.7
        How probable it has to be that the preferred output is desirable, and that the other one is not. Larger: fewer
        pairs, of surer kind. At 0.5 the failures pull the reward towards the classifier, with all its errors.
    alpha : float > 0, default=1e-3
        L2 strength of the classifier, for features that are centred and divided by the root of their mean squared
        length.

    Attributes
    ----------
    desirability_ : ndarray of shape (n_pairs, 2)
        Probability that an output is desirable, in the order of ``X``; of a labelled output its label.
    informative_ : ndarray of shape (n_pairs,), bool
        Whether a pair looks like T->NT.

    Examples
    --------
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, random_state=0)
    >>> labels = np.where(data.reference_reward > 0, 1.0, 0.0)
    >>> labels[50:] = np.nan
    >>> detector = FewLabelFailures().fit(data.data, data.target, output_labels=labels)
    >>> ((detector.desirability_ > 0.5) == (data.reference_reward > 0)).mean() > 0.9
    np.True_
    """

    requires_labels = True
    partial_labels = True
    _parameter_constraints = {"probability": [Interval(Real, 0, 1, closed="both")], "alpha": [_STRENGTH]}
    _fewest = 5

    def __init__(self, *, probability=0.7, alpha=1e-3):
        self.probability = probability
        self.alpha = alpha

    def fit(self, X, y=None, sample_weight=None, *, output_labels=None, seed=0):
        """Learn from the labelled outputs which pairs look like T->NT.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features)
            Features of the pairs.
        y : array-like of shape (n_pairs,), default=None
            Two classes, the larger meaning that the first is preferred; None: it is everywhere.
        sample_weight : array-like of shape (n_pairs,), default=None
            Weights >= 0; labels in pairs of weight 0 are not learned from.
        output_labels : array-like of shape (n_pairs, 2)
            1 = desirable, 0 = not, NaN = unknown, in the order of ``X``.
        seed : int, default=0
            Not read: nothing is drawn.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the rows are single outputs, the labels are missing or of another shape, or fewer than 5 are 1 or 0.
        """
        self._validate_params()
        X, sign, weight = _check_pairs_to_fit(self, X, y, sample_weight)
        labels = self._check_labels(output_labels, X.shape)
        self.desirability_ = np.where(np.isnan(labels), self._classify(X, labels, weight), labels)
        preferred, other = np.where(sign > 0, self.desirability_.T, self.desirability_.T[::-1])
        self.informative_ = (preferred >= self.probability) & (1 - other >= self.probability)
        return self

    def _check_labels(self, output_labels, shape):
        if output_labels is None or np.shape(output_labels) != shape[:2]:
            raise ValueError(
                f"Found output_labels of shape {np.shape(output_labels)} for X of shape {shape}. Expected (n_pairs, "
                "2): 1 = desirable, 0 = not, NaN = unknown."
            )
        labels = np.asarray(output_labels, dtype=np.float64)
        if not np.isin(labels[~np.isnan(labels)], [0, 1]).all():
            raise ValueError("Found labels other than 1 (desirable), 0 (not) and NaN (unknown) in output_labels.")
        return labels

    def _classify(self, X, labels, weight):
        """Probability that each output is desirable, (n_pairs, 2)."""
        outputs, labels, weight = X.reshape(-1, X.shape[-1]), labels.ravel(), np.repeat(weight, 2)
        classes = [(labels == label) & (weight > 0) for label in (0, 1)]
        for label, members in enumerate(classes):
            if members.sum() < self._fewest:
                raise ValueError(
                    f"Found {members.sum()} outputs with the label {label} among {(~np.isnan(labels)).sum()} labelled "
                    f"ones. Expected at least {self._fewest} of 1 (desirable) and of 0 (not): label more outputs, also "
                    "of the rarer kind."
                )
        known = np.flatnonzero(classes[0] | classes[1])
        centre = np.average(outputs, axis=0, weights=weight).astype(X.dtype)
        centred = outputs - centre
        scale = np.sqrt(np.average(np.square(centred, dtype=np.float64).sum(axis=1), weights=weight)) or 1.0
        features = np.column_stack([centred / X.dtype.type(scale), np.ones(len(outputs), dtype=X.dtype)])
        share = sum(np.where(members, weight / (2 * weight[members].sum()), 0) for members in classes)
        known = known[np.argsort(content_keys(outputs[known], 0), kind="stable")]  # the order of the rows is no matter
        side = np.where(labels[known] == 1, 1, -1).astype(X.dtype)
        theta = _bradley_terry(features[known] * side[:, None], share[known, None], self.alpha)
        return expit((features @ theta.astype(X.dtype)).astype(np.float64)).reshape(-1, 2)

    def detect(self, state):
        """Pairs that look like T->NT and whose margin is at or below the threshold.

        Parameters
        ----------
        state : Round
            Of the pairs of `fit`.

        Returns
        -------
        failures : ndarray of shape (n_pairs,), bool
        """
        check_is_fitted(self)
        return (state.margins <= state.threshold) & self.informative_


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


def _check_pairs_to_fit(detector, X, y, sample_weight):
    """Checked pairs, the sign of every preference, and the weights."""
    X = check_pairs(X)
    name = type(detector).__name__
    if X.ndim != 3:
        raise ValueError(
            f"Found X of shape {X.shape}, single outputs. Expected pairs, (n_pairs, 2, n_features): {name} compares "
            "the two outputs of a pair. Use failures='margin' for outputs."
        )
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    return X, preference_sign(y, len(X)), weight


def _unit(margins, held_out, weight):
    """What makes held-out margins comparable with a round's: the ratio of their root mean squares."""
    size, own = (
        np.sqrt(np.average(np.square(values, dtype=np.float64), weights=weight)) for values in (margins, held_out)
    )
    return size / own if own > 0 else 0.0


class _DistinctPairs:
    """Each distinct pair once, in an order that is its content's, and the blocks of them that are never parted.

    So neither the order of the rows nor that of the sides matters, and a pair twice is a pair of weight 2.

    Parameters
    ----------
    X : ndarray of shape (n_pairs, 2, n_features)
    sign, sample_weight : ndarray of shape (n_pairs,)
    links : ndarray of shape (n_pairs, n_links), int
        Rows with an equal entry are in one block.
    seed : int
    """

    def __init__(self, X, sign, sample_weight, links, seed):
        keys, _ = pair_keys(X, sign, seed)
        keys, first, self.inverse = np.unique(keys, return_index=True, return_inverse=True)
        self.weight = np.bincount(self.inverse, weights=sample_weight)
        differences = (X[first, 0] - X[first, 1]) * sign[first, None].astype(X.dtype)
        lengths = np.square(differences, dtype=np.float64).sum(axis=1)
        self.differences = differences / X.dtype.type(np.sqrt(np.average(lengths, weights=self.weight)) or 1.0)
        counted = sample_weight > 0  # rows without weight tie nothing together
        rows = np.repeat(self.inverse[counted], links.shape[1])
        n_nodes = len(keys) + links.max() + 1
        edges = coo_array((np.ones(len(rows)), (rows, len(keys) + links[counted].ravel())), shape=(n_nodes, n_nodes))
        self.block = connected_components(edges, directed=False)[1][: len(keys)]
        self.block_keys = np.full(n_nodes, 2**64 - 1, dtype=np.uint64)  # the smallest key of the block's pairs
        np.minimum.at(self.block_keys, self.block, keys)
        self.counted_blocks = np.unique(self.block[self.weight > 0])

    def held_out_margins(self, cv, alpha, n_members=None):
        """Margins (n_members, n_distinct) by rewards that did not see the pair; None: one, without a bootstrap."""
        fold = self._folds(cv)
        weights = self.weight[:, None] * (np.ones((len(fold), 1)) if n_members is None else self._bootstrap(n_members))
        weights = weights[:, None, :] * (fold[:, None] != np.arange(cv))[:, :, None]
        total = weights.sum(axis=0)
        weights /= np.where(total > 0, total, 1)
        theta = _bradley_terry(self.differences, weights.reshape(len(fold), -1), alpha)
        margins = (self.differences @ theta.astype(self.differences.dtype)).reshape(weights.shape)
        return margins[np.arange(len(fold)), fold].T.astype(np.float64)

    def _folds(self, cv):
        """Fold of each pair: blocks are dealt out in the order of their keys; pairs without weight are in fold 0."""
        blocks = self.counted_blocks
        if len(blocks) < cv:
            raise ValueError(
                f"Found {len(blocks)} sets of pairs to part into cv={cv} folds ({len(self.weight)} distinct pairs; "
                "those that share an output, or a group, are one set). Expected at least as many: lower cv, or, where "
                "shared outputs chain the pairs together, pass together='pairs'."
            )
        fold_of = np.zeros(len(self.block_keys), dtype=np.intp)
        fold_of[blocks[np.argsort(mixed_keys(self.block_keys[blocks], 0))]] = np.arange(len(blocks)) % cv
        return fold_of[self.block]

    def _bootstrap(self, n_members):
        """Exponential weights (n_pairs, n_members) of the blocks: a Bayesian bootstrap (Rubin, 1981)."""
        draws = [mixed_keys(self.block_keys, 1 + member)[self.block] >> np.uint64(11) for member in range(n_members)]
        return -np.log1p(-(np.stack(draws, axis=1) / 2.0**53))


def _bradley_terry(differences, weights, alpha):
    """Linear rewards (n_features, n_models), one for each column of weights (n_pairs, n_models), of sum 1 or 0.

    All minimise sum_i w_i log(1 + exp(-theta . d_i)) + alpha |theta|^2, in one L-BFGS.
    """
    shape = (differences.shape[1], weights.shape[1])

    def objective(flat):
        theta = flat.reshape(shape)
        margins = (differences @ theta.astype(differences.dtype)).astype(np.float64)
        slopes = weights * -expit(-margins)
        gradient = differences.T @ slopes.astype(differences.dtype) + 2 * alpha * theta
        return alpha * (theta**2).sum() - (weights * log_expit(margins)).sum(), gradient.ravel().astype(np.float64)

    options = {"maxiter": 200, "gtol": 1e-3 / np.sqrt(shape[0]), "ftol": 1e-10}
    return minimize(objective, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options=options).x.reshape(shape)


def _mean_and_std(members, pairs):
    """Mean and standard deviation (n_pairs,) of margins (n_members, n_distinct) over the members."""
    return members.mean(axis=0)[pairs.inverse], members.std(axis=0, ddof=1)[pairs.inverse]


def _noise_model(members, weight):
    """Scale k of the margins (n_members, n_pairs) and rate of flips of the greatest likelihood."""
    size = np.sqrt(np.average((members**2).mean(axis=0), weights=weight)) or 1.0
    share = weight / weight.sum()

    def loss(point):
        rate, margins = point[1], np.exp(point[0]) / size * members
        each = expit(margins)
        supported = each.mean(axis=0)
        observed = np.maximum(rate + (1 - 2 * rate) * supported, 1e-12)
        slopes = (1 - 2 * rate) * (each * (1 - each) * margins).mean(axis=0), 1 - 2 * supported
        return -share @ np.log(observed), np.array([-share @ (slope / observed) for slope in slopes])

    bounds = [(np.log(1e-2), np.log(1e2)), (0.0, 0.49)]
    found = [minimize(loss, (0.5, rate), jac=True, bounds=bounds, method="L-BFGS-B") for rate in (0.05, 0.4)]
    best = min(found, key=lambda result: result.fun).x
    return float(np.exp(best[0]) / size), float(best[1])


def find_failures(detector, state):
    """A detector's answer as weights, checked.

    Parameters
    ----------
    detector : object with ``detect``
    state : Round

    Returns
    -------
    weights : ndarray of shape (n_pairs,), bool or float64
        0 or False for a pair that is no failure.

    Raises
    ------
    ValueError
        If the answer is not numbers or has another length, or a weight is negative or not finite.
    """
    expected = f"Expected one bool or one finite weight >= 0 for each of the {len(state.margins)} pairs."
    answer = detector.detect(state)
    if isinstance(answer, np.ndarray) and answer.dtype == bool and answer.shape == state.margins.shape:
        return answer
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
