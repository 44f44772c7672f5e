"""How sure is a reward? `LaplaceReward` gives rewards and margins with their standard deviations.

Read `LaplaceReward.fit` first, then `_Posterior`, which holds the mathematics and knows nothing of estimators.
"""

from numbers import Real

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions  # the parameters' declared constraints
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ..learning.estimators import MaxEntropyIRL, _differences, _scale_of
from ..pairs import check_pairs, preference_sign

__all__ = ["LaplaceReward"]

_CHUNK = 4096  # rows whose float64 copies are held at a time
# Bounds of the prior that the evidence chooses from: before any pair is seen, the root mean square of the training
# margins' log-odds is between a tenth and a hundred.
_LEAST_SPREAD, _LARGEST_SPREAD = 0.1, 100.0
_ENSEMBLE = (
    "For other heads an ensemble gives a standard deviation: fit clones on sample_weight=rng.exponential(size=n_pairs) "
    "and take np.std of their margins over the clones."
)


class LaplaceReward(ClassifierMixin, BaseEstimator):
    r"""A linear reward with standard deviations: the Laplace approximation of what the pairs say about its weights.

    Where the odds of a preference are :math:`e^{\theta \cdot d_i}` (Bradley and Terry), with the difference
    :math:`d_i = h(o_i^+) - h(o_i^-)` and a prior :math:`\theta \sim N(0, I / \rho)`, the posterior of the weights is
    about normal,

    .. math:: \theta \sim N(m, \Sigma), \qquad
        m = \arg\min_\theta \sum_i w_i \log(1 + e^{-\theta \cdot d_i}) + \frac{\rho}{2} \|\theta\|^2, \qquad
        \Sigma^{-1} = \sum_i w_i\, p_i (1 - p_i)\, d_i d_i^\top + \rho I,

    with :math:`p_i` the probability of pair i at m. A reward R of one temperature T, with weights c, estimates
    :math:`T \theta`. The standard deviation of what it says about a difference d of features is the root mean square of
    its error under this posterior,

    .. math:: \mathrm{std}(d)^2 = T^2\, d^\top \Sigma\, d + \bigl(d \cdot (T m - c)\bigr)^2 .

    The second term is 0 where the reward is the posterior's mode, as that of a `MaxEntropyIRL` is here. It says how far
    from the mode another reward is: that of a `MaxMarginIRL`, a failure path, or a penalty that is not the prior.

    Parameters
    ----------
    estimator : estimator or None, default=None
        The learner, with linear heads: a `MaxEntropyIRL` (None: one with default parameters), `MaxMarginIRL` or
        `FailureAwareIRL`, or one of their searches. A clone of it is fitted. A fitted one in a
        ``sklearn.frozen.FrozenEstimator`` is not fitted again; the rows of ``fit`` should be those that it saw.
    prior : {"evidence", "alpha"} or float > 0, default="evidence"
        Precision :math:`\rho` of each weight before the pairs are seen, in log-odds (1 / the square of log-odds by unit
        of the feature). Larger: rewards nearer to 0, and smaller standard deviations. "evidence": the one under which
        the training pairs are the most probable (Laplace's approximation of it), such that their margins have a root
        mean square of 0.1 to 100 in log-odds beforehand. "alpha": that of the estimator's penalty,
        :math:`2 \alpha \tau^2 \sum_i w_i`, of a max-entropy objective only.

        A `MaxEntropyIRL` that is not frozen is fitted with the ``alpha`` of this prior, whatever its own is.

    Attributes
    ----------
    estimator_ : estimator
        The fitted learner.
    coef_ : ndarray of shape (n_features,)
        Its weights c.
    intercept_ : float
        Its offset. It has no standard deviation: see `decision_function`.
    classes_ : ndarray of shape (2,)
        Its two classes.
    covariance_ : ndarray of shape (n_features, n_features)
        :math:`T^2 \Sigma`, in squared units of reward.
    deviation_ : ndarray of shape (n_features,)
        :math:`T m - c`, in units of reward.
    centre_ : ndarray of shape (n_features,)
        Mean features of the training outputs, by sample weight, whose reward those of outputs are relative to.
    temperature_ : float
        T, in units of reward: that of a `MaxEntropyIRL`; of another learner the one with which its reward is the most
        probable under the posterior.
    prior_precision_ : float
        :math:`\rho`.
    alpha_ : float
        The penalty that is this prior, in units of the reward: :math:`\rho / (2 T^2 \sum_i w_i)`.
    n_features_in_ : int
        Number of features of an output.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, for tables.

    See Also
    --------
    fairl_sk.diagnosis.feasible.ambiguity : The range of each output's reward over all rewards that fit nearly as well.
    fairl_sk.metrics.bootstrap_interval : Intervals of a score, over the held-out groups.

    Notes
    -----
    Time grows as n_pairs * n_features ** 2, some twenty times over for "evidence", and memory holds the differences
    once and two matrices of n_features ** 2. Hence it is not part of every fit.

    The posterior is of the pairs alone, each by its ``sample_weight``, also where single outputs counted in the fit
    (``pointwise_weight``) and pairs of outputs that recur counted less (``recurrence_correlation``): how far that moved
    the reward from the posterior's mode is in the second term.

    The standard deviations are about the reward that generates preferences in the way above. Preferences that are
    flipped, that depend on what the features cannot express, or rows that are copies of each other, are not known to
    it: see the measured coverage in the page on what the pairs leave open.

    References
    ----------
    .. [1] D. MacKay. The evidence framework applied to classification networks. Neural Computation 4, 1992.
    .. [2] C. Rasmussen and C. Williams. Gaussian processes for machine learning. 2006, sections 3.4 and 5.5.

    Examples
    --------
    >>> from fairl_sk import LaplaceReward
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, temperature=0.5, random_state=0)
    >>> reward = LaplaceReward().fit(data.data, data.target)
    >>> margins, std = reward.decision_function(data.data[:3], return_std=True)
    >>> margins.shape, bool((std > 0).all())
    ((3,), True)
    """

    _parameter_constraints = {
        "estimator": [HasMethods(["fit", "decision_function"]), None],
        "prior": [StrOptions({"evidence", "alpha"}), Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, estimator=None, *, prior="evidence"):
        self.estimator = estimator
        self.prior = prior

    # --------------------------------------------------------------------------------------------- fitting

    def fit(self, X, y=None, sample_weight=None, output_labels=None):
        """Fit the learner and the posterior of its weights.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
            Features of pairs, or of single outputs (whose learned offset is taken as unknown).
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
            Two classes, the larger meaning "the first is preferred" (of outputs: "desirable"). For pairs None means
            that the first is preferred everywhere.
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None
            Weights >= 0; a weight of 2 is the same as the row twice.
        output_labels : array-like of shape (n_pairs, 2), default=None
            For a learner whose ``fit`` takes them. See `FailureAwareIRL.fit`.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For rows that the learner refuses, a parameter out of range, heads with hidden layers, an estimator that is
            none of this package's, ``prior="alpha"`` where there is no penalty that is a prior, a frozen estimator of
            another width, or a reward that the pairs contradict (it has no temperature then).
        NotFittedError
            For a frozen estimator that was not fitted.
        """
        before = dict(vars(self))
        try:
            self._validate_params()
            self._learn(X, y, sample_weight, output_labels)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        return self

    def _learn(self, X, y, sample_weight, output_labels):
        features = check_pairs(X, estimator=self)
        learner, frozen = self._learner()
        weight = _check_sample_weight(sample_weight, features, dtype=np.float64, ensure_non_negative=True)
        sign = self._check_target(learner, features, y, weight, frozen)
        posterior = _Posterior(features, sign, weight)
        precision = self._precision(learner, posterior, weight.sum())
        if isinstance(learner, MaxEntropyIRL) and not frozen:
            learner.set_params(alpha=float(precision / (2 * learner.temperature**2 * weight.sum())))
        if not frozen:
            metadata = {} if output_labels is None else {"output_labels": output_labels}
            learner.fit(X, y, sample_weight=sample_weight, **metadata)
        self._keep(learner, posterior, precision, weight)
        self.centre_ = _mean_output(features, weight)

    def _learner(self):
        """The estimator to fit, or the fitted one that was frozen; and whether it was."""
        given = MaxEntropyIRL() if self.estimator is None else self.estimator
        frozen = isinstance(given, FrozenEstimator)
        learner = given.estimator if frozen else clone(given)
        if not type(learner).__module__.startswith("fairl_sk.") or isinstance(learner, LaplaceReward):
            raise ValueError(
                f"Found {type(learner).__name__} as estimator. Expected MaxEntropyIRL, MaxMarginIRL, FailureAwareIRL "
                "or one of their searches; of a Pipeline, put LaplaceReward around the last step: "
                "make_pipeline(features, LaplaceReward(MaxEntropyIRL()))."
            )
        if frozen:
            check_is_fitted(learner)
        for name in ("hidden_layer_sizes", "failure_hidden_layer_sizes"):
            layers = getattr(learner, name, None)
            if layers is not None and np.size(np.asarray(layers, dtype=object)):
                raise ValueError(
                    f"Found {type(learner).__name__} with {name}={layers!r}. Expected linear heads, (): the posterior "
                    f"of other heads' weights is not near to a normal one. {_ENSEMBLE}"
                )
        return learner, frozen

    def _check_target(self, learner, X, y, weight, frozen):
        if frozen:
            if len(learner.coef_) != X.shape[-1]:
                raise ValueError(
                    f"Found rows of {X.shape[-1]} features and a frozen estimator of {len(learner.coef_)}. Expected "
                    "the rows that it was fitted on, or others of the same features."
                )
            return preference_sign(y, len(X), classes=learner.classes_)
        reader = MaxEntropyIRL()
        sign = reader._check_target(X, y)
        if y is not None and len(np.unique(sign[weight > 0])) < 2:
            raise ValueError("Found rows of one class only with a sample_weight above 0. Expected both classes.")
        return sign

    def _precision(self, learner, posterior, total_weight):
        """Precision rho of the weights, in log-odds."""
        if self.prior == "evidence":
            return posterior.most_probable_precision()
        if self.prior != "alpha":
            return float(self.prior)
        if not _is_max_entropy(learner):
            raise ValueError(
                f"Found prior='alpha' with {type(learner).__name__}, whose penalty is no prior of log-odds. Expected "
                "an estimator with a max-entropy objective, or prior='evidence'."
            )
        if learner.alpha == 0:
            raise ValueError("Found prior='alpha' with alpha=0, which is no prior. Expected alpha > 0, or 'evidence'.")
        return 2 * learner.alpha * learner.temperature**2 * float(total_weight)

    def _keep(self, fitted, posterior, precision, weight):
        """Turn the posterior of the log-odds into one of the learner's reward."""
        learner = getattr(fitted, "best_estimator_", fitted)
        if not hasattr(learner, "coef_"):
            raise ValueError(
                f"Found {type(learner).__name__} without coef_ after its fit. Expected linear heads. {_ENSEMBLE}"
            )
        coef = np.asarray(learner.coef_, dtype=np.float64)
        mode, covariance = posterior.at(precision)
        if isinstance(learner, MaxEntropyIRL):
            temperature = float(learner.temperature)
        else:
            temperature = _temperature_of(coef, mode, covariance)
        self.estimator_ = fitted
        self.classes_, self.coef_, self.intercept_ = learner.classes_, learner.coef_, learner.intercept_
        self.covariance_ = temperature**2 * covariance
        self.deviation_ = temperature * mode - coef
        self.temperature_ = temperature
        self.prior_precision_ = float(precision)
        self.alpha_ = float(precision / (2 * temperature**2 * weight.sum()))

    # ------------------------------------------------------------------------------------------ prediction

    def decision_function(self, X, return_std=False):
        """Reward of outputs, or margin of pairs, and how far it may be off.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            Outputs or pairs.
        return_std : bool, default=False
            Whether to give the standard deviation too.

        Returns
        -------
        reward : ndarray of shape (n_samples,) or (n_pairs,)
            R(o) for outputs, R(first) - R(second) for pairs, as the learner gives it.
        std : ndarray of shape (n_samples,) or (n_pairs,)
            Only with ``return_std``. In units of reward. Of pairs that of the margin. Of outputs that of R(o) less the
            mean reward of the training outputs: rewards are known up to a constant, and this is the one that is fixed.
            The learner's offset does not change it.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            For rows that `check_pairs` refuses.
        """
        check_is_fitted(self)
        features = check_pairs(X, estimator=self, reset=False)
        reward = self.estimator_.decision_function(X)
        return (reward, self._std(features)) if return_std else reward

    def _std(self, X):
        std = np.empty(len(X))
        for begin in range(0, len(X), _CHUNK):
            rows = X[begin : begin + _CHUNK].astype(np.float64)
            rows = rows[:, 0] - rows[:, 1] if X.ndim == 3 else rows - self.centre_
            variance = np.einsum("ij,ij->i", rows @ self.covariance_, rows) + (rows @ self.deviation_) ** 2
            std[begin : begin + _CHUNK] = np.sqrt(np.maximum(variance, 0.0))
        return std

    def predict(self, X):
        """Class of each row: the larger where `decision_function` is above 0.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_pairs,)
        """
        check_is_fitted(self)
        return self.estimator_.predict(X)

    def predict_proba(self, X):
        r"""Probability of each class: of pairs its mean over the rewards that the pairs allow.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, 2) or (n_pairs, 2)
            Columns in the order of ``classes_``.

        Notes
        -----
        Of pairs, with the margin :math:`\Delta` and its standard deviation s, both over ``temperature_``, it is the
        logistic of :math:`\Delta / \sqrt{1 + \pi s^2 / 8}` (MacKay 1992): nearer to 1/2 than the plain one, the less is
        known of the pair. Of outputs it is the plain logistic of the reward, as 0 is where the offset was put.
        """
        reward, std = self.decision_function(X, return_std=True)
        scaled = reward / self.temperature_
        if np.ndim(X) == 3:
            scaled = scaled / np.sqrt(1 + np.pi * (std / self.temperature_) ** 2 / 8)
        return np.exp(-np.logaddexp(0, np.stack([scaled, -scaled], axis=1)))

    def score(self, X, y=None, sample_weight=None):
        """Accuracy of `predict`: for pairs the share that is ordered rightly. See `FailureAwareIRL.score`.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None

        Returns
        -------
        accuracy : float in [0, 1]
        """
        check_is_fitted(self)
        return self.estimator_.score(X, y, sample_weight=sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.three_d_array = True
        return tags


# --------------------------------------------------------------------------------------------- the posterior


class _Posterior:
    """The posterior of Bradley-Terry weights, and the evidence of a prior precision.

    Inside, features are divided by the root of the mean squared length of the differences (of outputs: from their
    mean), so that the bounds of the prior are plain numbers. Outputs have a bias with a flat prior, the last weight.
    """

    def __init__(self, X, sign, weight):
        self.n_features = X.shape[-1]
        if X.ndim == 2:
            X = X - np.average(X, axis=0, weights=weight).astype(X.dtype)
        self.rows, self.weight = _differences(X, sign), weight
        self.scale = _scale_of(self.rows, weight, paired=X.ndim == 3)
        self.rows[:, : self.n_features] /= self.rows.dtype.type(self.scale)
        self.penalised = np.arange(self.rows.shape[1]) < self.n_features
        self.mode = np.zeros(self.rows.shape[1])

    def at(self, precision):
        """Mode (n_features,) and covariance (n_features, n_features) of the weights, in the units of the input."""
        inside = precision / self.scale**2
        self._climb(inside, tol=1e-18)
        covariance = self._covariance(self._hessian(self._margins(self.mode), inside))
        d = self.n_features
        return self.mode[:d] / self.scale, covariance[:d, :d] / self.scale**2

    def most_probable_precision(self):
        """The precision with the largest evidence, in the units of the input."""
        low, high = np.log(1 / _LARGEST_SPREAD**2), np.log(1 / _LEAST_SPREAD**2)
        at, slope = 0.0, self._evidence_slope(0.0)
        step = np.log(10.0) * np.sign(slope)
        while slope and low < at < high:
            further = float(np.clip(at + step, low, high))
            beyond = self._evidence_slope(further)
            if beyond * slope <= 0:
                at = brentq(self._evidence_slope, *sorted((at, further)), xtol=1e-4)
                break
            at = further
        return float(np.exp(at)) * self.scale**2

    def _evidence_slope(self, log_precision):
        r"""Twice the derivative of the log evidence by log rho.

        With H the Hessian at the mode m, log evidence = -loss(m) - rho/2 |m|^2 + d/2 log rho - 1/2 log det H. The loss
        and the prior are flat at m; H depends on rho by itself and by m, with dm/drho = -H^-1 m. MacKay's update
        leaves the latter out, and with few pairs its precisions are too large.
        """
        precision = np.exp(log_precision)
        self._climb(precision, tol=1e-9)
        margins = self._margins(self.mode)
        covariance = self._covariance(self._hessian(margins, precision))
        weights = np.where(self.penalised, self.mode, 0.0)
        p = expit(margins)
        turn = self.weight * p * (1 - p) * (1 - 2 * p) * self._margins(covariance @ weights)
        leverage = np.concatenate([np.einsum("ij,ij->i", rows @ covariance, rows) for rows in self._chunks(self.rows)])
        traces = np.trace(covariance[self.penalised][:, self.penalised]) - turn @ leverage
        return self.n_features - precision * (weights @ weights + traces)

    def _climb(self, precision, tol):
        """Newton's method to the mode, from the last one; halved steps where the objective would rise.

        It ends after a step that the model of second order gave a decrease below ``tol``, as a share of 1 plus the
        objective: the step itself squares the distance.
        """
        for _ in range(100):
            margins = self._margins(self.mode)
            slopes = -self.weight * expit(-margins)
            gradient = self._transposed(slopes) + precision * np.where(self.penalised, self.mode, 0.0)
            factor = cho_factor(self._hessian(margins, precision))
            step = -cho_solve(factor, gradient)
            decrement = -gradient @ step
            move, now = self._margins(step), self._objective(margins, self.mode, precision)
            size = 1.0
            while self._objective(margins + size * move, self.mode + size * step, precision) > now and size > 1e-8:
                size /= 2
            self.mode = self.mode + (size if size > 1e-8 else 0.0) * step
            if decrement <= tol * (1 + now) or size <= 1e-8:
                return

    def _objective(self, margins, theta, precision):
        return float(self.weight @ np.logaddexp(0, -margins) + precision / 2 * np.sum(theta[self.penalised] ** 2))

    def _hessian(self, margins, precision):
        p = expit(margins)
        roots = self._chunks(np.sqrt(self.weight * p * (1 - p)))
        halves = (rows * root[:, None] for rows, root in zip(self._chunks(self.rows), roots, strict=True))
        hessian = sum(half.T @ half for half in halves)  # BLAS forms half of a product of a matrix with itself
        hessian[self.penalised, self.penalised] += precision
        return hessian

    @staticmethod
    def _covariance(hessian):
        return cho_solve(cho_factor(hessian), np.eye(len(hessian)))

    def _margins(self, theta):
        return np.concatenate([rows @ theta for rows in self._chunks(self.rows)])

    def _transposed(self, values):
        return sum(rows.T @ part for rows, part in zip(self._chunks(self.rows), self._chunks(values), strict=True))

    @staticmethod
    def _chunks(values):
        return (values[begin : begin + _CHUNK].astype(np.float64) for begin in range(0, len(values), _CHUNK))


def _temperature_of(coef, mode, covariance):
    """The T for which coef / T is the most probable: the foot of the mode on the ray of coef, in the posterior."""
    factor = cho_factor(covariance)
    towards = cho_solve(factor, coef)
    agreement = towards @ mode
    if agreement <= 0:
        raise ValueError(
            "The learned reward points against the pairs of this fit, or is 0 everywhere, so that no temperature makes "
            "log-odds of its margins. Expected a reward that orders the training pairs better than chance: lower alpha "
            "or failure_weight, or, of a frozen estimator, check which class of y means that the first is preferred."
        )
    return float(towards @ coef / agreement)


def _mean_output(X, weight):
    return np.average(X.mean(axis=1, dtype=np.float64) if X.ndim == 3 else X, axis=0, weights=weight).astype(np.float64)


def _is_max_entropy(learner):
    return isinstance(learner, MaxEntropyIRL) or getattr(learner, "objective", None) == "max_entropy"
