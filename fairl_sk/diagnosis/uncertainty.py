"""How sure is a reward? `LaplaceReward` gives rewards and margins with standard deviations."""

from numbers import Real

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions  # the parameters' declared constraints
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ..device import few_threads
from ..labels import distinct_labels, preference_sign
from ..learning.estimators import MaxEntropyIRL
from ..learning.rows import difference_scale, signed_differences
from ..pairs import check_pairs
from .fitted import linear_weights, objective_of

# The evidence chooses among priors whose training margins have a root mean square within these log-odds.
_LEAST_SPREAD, _LARGEST_SPREAD = 0.1, 100.0


class LaplaceReward(ClassifierMixin, BaseEstimator):
    r"""A linear reward with standard deviations, by the Laplace approximation of the posterior of its weights.

    If the odds of a preference are :math:`e^{\theta \cdot d_i}` (Bradley and Terry), with the difference
    :math:`d_i = h(o_i^+) - h(o_i^-)` and the prior :math:`\theta \sim N(0, I / \rho)`, the posterior is about

    .. math:: \theta \sim N(m, \Sigma), \qquad
        m = \arg\min_\theta \sum_i w_i \log(1 + e^{-\theta \cdot d_i}) + \frac{\rho}{2} \|\theta\|^2, \qquad
        \Sigma^{-1} = \sum_i w_i\, p_i (1 - p_i)\, d_i d_i^\top + \rho I,

    with :math:`p_i` the probability of pair i at m. A reward with weights c and temperature T estimates
    :math:`T \theta`. The standard deviation for a difference d is the root mean square of its error,

    .. math:: \mathrm{std}(d)^2 = T^2\, d^\top \Sigma\, d + \bigl(d \cdot (T m - c)\bigr)^2 .

    The second term says how far the reward is from m. It is 0 for the `MaxEntropyIRL` that is fitted here.

    Parameters
    ----------
    estimator : estimator or None, default=None
        Learner with linear heads: MaxEntropyIRL (None: with its defaults), MaxMarginIRL, FailureAwareIRL or one of
        their searches. A clone is fitted, except of one in a ``sklearn.frozen.FrozenEstimator``.
    prior : {"evidence", "alpha"} or float > 0, default="evidence"
        Precision :math:`\rho` of each weight, in log-odds. "evidence": the one that makes the training pairs most
        probable. "alpha": :math:`2 \alpha T^2 \sum_i w_i`, the estimator's penalty (max-entropy only).

    Attributes
    ----------
    estimator_ : estimator
        The fitted learner. A `MaxEntropyIRL` that is not frozen is fitted with ``alpha_``.
    coef_, intercept_, classes_
        Its weights c, offset (which has no standard deviation) and classes.
    covariance_ : ndarray of shape (n_features, n_features)
        :math:`T^2 \Sigma`, in squared units of reward.
    deviation_ : ndarray of shape (n_features,)
        :math:`T m - c`, in units of reward.
    center_ : ndarray of shape (n_features,)
        Mean features of the training outputs. Standard deviations of outputs are relative to it.
    temperature_ : float
        T: that of a `MaxEntropyIRL`; of others the one that makes their reward most probable under the posterior.
    prior_precision_ : float
        :math:`\rho`.
    alpha_ : float
        The penalty that equals this prior, :math:`\rho / (2 T^2 \sum_i w_i)`.
    n_features_in_ : int
        Number of features of an output.

    Notes
    -----
    Time grows as n_pairs * n_features ** 2. The posterior reads pairs and their ``sample_weight`` only, no pointwise
    loss. It does not know of flipped preferences, copies of rows, or what the features cannot express.

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

    def fit(self, X, y=None, sample_weight=None, output_labels=None):
        """Fit the learner and the posterior of its weights.

        Parameters
        ----------
        X, y, sample_weight, output_labels
            See `fairl_sk.FailureAwareIRL.fit`; ``output_labels`` are for a learner that takes them.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For bad input, estimators without linear heads, ``prior="alpha"`` without a penalty that is a prior, or a
            reward that contradicts the pairs.
        """
        self._validate_params()
        features = check_pairs(X, estimator=self)
        learner, frozen = self._learner()
        weight = _check_sample_weight(sample_weight, features, dtype=np.float64, ensure_non_negative=True)
        if frozen:
            check_pairs(X, estimator=learner, reset=False)
        posterior = _Posterior(features, _sign(features, y, weight, learner.classes_ if frozen else None), weight)
        with few_threads(features.size):
            precision = self._precision(learner, posterior, weight.sum())
        if not frozen:
            if isinstance(learner, MaxEntropyIRL):
                learner.set_params(alpha=float(precision / (2 * learner.temperature**2 * weight.sum())))
            metadata = {} if output_labels is None else {"output_labels": output_labels}
            learner.fit(X, y, sample_weight=sample_weight, **metadata)
        outputs = features.mean(axis=1, dtype=np.float64) if features.ndim == 3 else features
        self.center_ = np.average(outputs, axis=0, weights=weight).astype(np.float64)
        return self._keep(learner, posterior, precision, weight.sum())

    def _learner(self):
        """The estimator to fit, or the fitted one that was frozen; and whether it was."""
        given = MaxEntropyIRL() if self.estimator is None else self.estimator
        frozen = isinstance(given, FrozenEstimator)
        learner = given.estimator if frozen else clone(given)
        if not type(learner).__module__.startswith("fairl_sk.") or isinstance(learner, LaplaceReward):
            raise ValueError(
                f"Found {type(learner).__name__} as estimator. Expected MaxEntropyIRL, MaxMarginIRL, FailureAwareIRL "
                "or one of their searches; with a Pipeline, put LaplaceReward around the last step."
            )
        if frozen:
            linear_weights(learner)
        return learner, frozen

    def _precision(self, learner, posterior, total_weight):
        """Precision rho of the weights, in log-odds."""
        if self.prior == "evidence":
            return posterior.most_probable_precision()
        if self.prior != "alpha":
            return float(self.prior)
        if hasattr(learner, "best_estimator_") or objective_of(learner) != "max_entropy" or learner.alpha == 0:
            raise ValueError(
                f"Found prior='alpha' with {learner!r}, whose penalty is no prior of log-odds. Expected a max-entropy "
                "objective and alpha > 0, or prior='evidence'."
            )
        return 2 * learner.alpha * learner.temperature**2 * float(total_weight)

    def _keep(self, fitted, posterior, precision, total_weight):
        """Turn the posterior of the log-odds into one of the learner's reward."""
        learner = getattr(fitted, "best_estimator_", fitted)
        coef = linear_weights(learner)
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
        self.alpha_ = float(precision / (2 * temperature**2 * total_weight))
        return self

    def decision_function(self, X, return_std=False):
        """Reward of outputs, or margin of pairs, and its standard deviation.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            Outputs or pairs.
        return_std : bool, default=False
            Whether to return the standard deviation too.

        Returns
        -------
        reward : ndarray of shape (n_samples,) or (n_pairs,)
            R(o) for outputs, R(first) - R(second) for pairs, as the learner gives it.
        std : ndarray of shape (n_samples,) or (n_pairs,)
            Only with ``return_std``, in units of reward. Of outputs it is that of R(o) minus the mean reward of the
            training outputs, as pairs leave the offset open.
        """
        check_is_fitted(self)
        rows = check_pairs(X, estimator=self, reset=False).astype(np.float64)
        reward = self.estimator_.decision_function(X)
        if not return_std:
            return reward
        rows = rows[:, 0] - rows[:, 1] if rows.ndim == 3 else rows - self.center_
        variance = np.einsum("ij,ij->i", rows @ self.covariance_, rows) + (rows @ self.deviation_) ** 2
        return reward, np.sqrt(np.maximum(variance, 0.0))

    def predict(self, X):
        """Class of each row. See `fairl_sk.FailureAwareIRL.predict`."""
        check_is_fitted(self)
        return self.estimator_.predict(X)

    def predict_proba(self, X):
        r"""Probability of each class; for pairs its mean over the posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, 2) or (n_pairs, 2)
            Columns in the order of ``classes_``.

        Notes
        -----
        For pairs with margin :math:`\Delta` and standard deviation s, both over ``temperature_``, it is the logistic of
        :math:`\Delta / \sqrt{1 + \pi s^2 / 8}` (MacKay 1992).
        """
        reward, std = self.decision_function(X, return_std=True)
        scaled = reward / self.temperature_
        if np.ndim(X) == 3:
            scaled = scaled / np.sqrt(1 + np.pi * (std / self.temperature_) ** 2 / 8)
        return np.stack([expit(-scaled), expit(scaled)], axis=1)

    def score(self, X, y=None, sample_weight=None):
        """Accuracy of `predict`. See `fairl_sk.FailureAwareIRL.score`."""
        check_is_fitted(self)
        return self.estimator_.score(X, y, sample_weight=sample_weight)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.three_d_array = True
        return tags


class _Posterior:
    """The posterior of Bradley-Terry weights, and the evidence for a prior precision.

    Inside, features are divided by the root mean squared length of the differences (of outputs: from their mean), so
    that the bounds of the prior are plain numbers. Outputs have a bias with a flat prior, the last weight.
    """

    def __init__(self, X, sign, weight):
        X, self.n_features, self.weight = X.astype(np.float64), X.shape[-1], weight
        if X.ndim == 2:
            X = X - np.average(X, axis=0, weights=weight)
        self.rows = signed_differences(X, sign)
        self.scale = difference_scale(self.rows[:, : self.n_features], weight)
        self.rows[:, : self.n_features] /= self.scale
        self.mode = np.zeros(self.rows.shape[1])
        self.penalty = (np.arange(self.rows.shape[1]) < self.n_features).astype(float)

    def at(self, precision):
        """Mode (n_features,) and covariance (n_features, n_features) of the weights, in the units of the input."""
        mode, _, hessian = self._fit(precision / self.scale**2)
        covariance = cho_solve(cho_factor(hessian), np.eye(len(mode)))
        d = self.n_features
        return mode[:d] / self.scale, covariance[:d, :d] / self.scale**2

    def most_probable_precision(self):
        """The precision with the largest evidence, in the units of the input."""
        bounds = np.log(1 / _LARGEST_SPREAD**2), np.log(1 / _LEAST_SPREAD**2)
        best = minimize_scalar(self._minus_log_evidence, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x
        return float(np.exp(best)) * self.scale**2

    def _minus_log_evidence(self, log_precision):
        """Up to a constant; the precision is in units of ``scale``."""
        _, loss, hessian = self._fit(np.exp(log_precision))
        return loss - self.n_features / 2 * log_precision + np.linalg.slogdet(hessian)[1] / 2

    def _fit(self, precision):
        """Mode, its loss with the penalty of the prior, and the Hessian there."""

        def loss(theta):
            return self.weight @ np.logaddexp(0, -self.rows @ theta) + precision / 2 * (self.penalty @ theta**2)

        def gradient(theta):
            return -(self.weight * expit(-self.rows @ theta)) @ self.rows + precision * self.penalty * theta

        def hessian(theta):
            p = expit(self.rows @ theta)
            half = self.rows * np.sqrt(self.weight * p * (1 - p))[:, None]
            return half.T @ half + precision * np.diag(self.penalty)

        options = {"gtol": 1e-9 * self.weight.sum(), "initial_trust_radius": 10.0, "max_trust_radius": 1e6}
        found = minimize(loss, self.mode, jac=gradient, hess=hessian, method="trust-exact", options=options)
        self.mode = found.x  # the next fit starts here
        return found.x, found.fun, hessian(found.x)


def _sign(X, y, weight, classes):
    """+1 where the first output is preferred (the output is desirable), else -1."""
    if y is None and X.ndim == 2:
        raise ValueError("LaplaceReward requires y to be passed, but the target y is None: only pairs can do without.")
    if y is not None and len(found := distinct_labels(column_or_1d(y))) > 2:
        check_classification_targets(y)
        raise ValueError(f"Only binary classification is supported. Found {len(found)} classes, {found[:5].tolist()}.")
    sign = preference_sign(y, len(X), classes=classes)
    if y is not None and classes is None and len(np.unique(sign[weight > 0])) < 2:
        raise ValueError("Found one class only in y, among rows with a sample_weight above 0. Expected both classes.")
    return sign


def _temperature_of(coef, mode, covariance):
    """The T for which coef / T is most probable: the point of the ray of coef that is nearest to the mode."""
    towards = cho_solve(cho_factor(covariance), coef)
    agreement = towards @ mode
    if agreement <= 0:
        raise ValueError(
            "The learned reward points against the pairs of this fit, or is 0 everywhere. Expected one that orders "
            "them better than chance: lower alpha or failure_weight, or check which class of y means that the first "
            "is preferred."
        )
    return float(towards @ coef / agreement)
