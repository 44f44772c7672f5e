"""`DistilledIRL`: a linear reward fitted to implicit rewards by ridge regression, and optionally to labels."""

from numbers import Integral

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.utils._param_validation import Interval  # the parameters' declared constraints
from sklearn.utils.validation import _check_sample_weight

from ..pairs import check_pairs
from .offset import separating_threshold
from .preference import POSITIVE, PreferenceIRL

__all__ = ["DistilledIRL", "check_output_labels", "fit_to_labels"]

_ALPHAS = tuple(np.logspace(-5, 0, 11).tolist())
_STRENGTHS = np.logspace(-3, 4, 8).tolist()  # C of the logistic regression on labels
_LOG_LOSS = make_scorer(log_loss, response_method="predict_proba", greater_is_better=False, labels=[0, 1])
_SIGNAL = 3.0  # standard deviation of a signal beside features of mean squared length 1


class DistilledIRL(PreferenceIRL):
    r"""Distill implicit rewards into a linear reward: ridge regression on the features.

    The implicit reward (`fairl_sk.rewards.ImplicitReward`) is a number for every output, while a preference is one bit
    for each pair. It also contains side effects of alignment, most of which the features cannot express. With
    :math:`v_j` the implicit reward of output j, it minimizes

    .. math:: \frac{1}{\sum_j w_j} \sum_j w_j (R(o_j) - v_j)^2 + \alpha s^2 \|\theta\|^2

    over linear rewards R, with s the root mean squared length of the centered features and :math:`w_j` the sample
    weights. Preferences only set the offset.

    Labels of some outputs can correct this reward D. A logistic regression on D and the features then gives the
    log-odds that an output is desirable, :math:`a D(o) + \delta^\top \phi(o) + b`. The penalty is on :math:`\delta`
    and hardly on a, so few labels change D little.

    Parameters
    ----------
    alphas : sequence of float > 0, default=10^-5, 10^-4.5, ..., 1
        Penalties, of which cross-validation chooses one, by the squared error of held-out implicit rewards.
    cv : int >= 2, default=5
        Number of folds, of whole groups; of labeled outputs at most the number of the rarer label.
    temperature : float > 0, default=1.0
        Scale of `predict_proba`, in units of reward.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
        Weights of the reward.
    intercept_ : float
        Of pairs: 0 separates preferred outputs from others best, by balanced accuracy. Of outputs with ``y``: desirable
        from others; without: rewards have the mean of the implicit rewards. With labels: by the logistic regression.
    alpha_ : float
        The chosen strength.
    classes_ : ndarray of shape (2,)
        The two classes.
    n_features_in_ : int
        Number of features of an output.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, for tables.

    See Also
    --------
    fairl_sk.implicit.DistilledReward : The same from texts and models, plus a share of the residual.

    Examples
    --------
    >>> from fairl_sk import DistilledIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, random_state=0)
    >>> model = DistilledIRL().fit(data.data, data.target, implicit_rewards=data.reference_reward)
    >>> model.score(data.data, data.target) > 0.95
    True
    """

    _parameter_constraints = {
        "alphas": ["array-like"],
        "cv": [Interval(Integral, 2, None, closed="left")],
        "temperature": [POSITIVE],
    }

    def __init__(self, *, alphas=_ALPHAS, cv=5, temperature=1.0):
        self.alphas = alphas
        self.cv = cv
        self.temperature = temperature

    def fit(self, X, y=None, sample_weight=None, implicit_rewards=None, output_labels=None, groups=None):
        """Learn the reward.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
            Features of pairs, or of single outputs.
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
            Two classes, the larger meaning "the first is preferred" (of outputs: "desirable"). For pairs None means
            that the first is preferred everywhere.
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None
            Weights >= 0 of the rows.
        implicit_rewards : array-like of shape (n_pairs, 2) or (n_samples,)
            Implicit rewards of the outputs, such as `ImplicitReward.output_rewards` of the same rows.
        output_labels : array-like of shape (n_pairs, 2) or (n_samples,), default=None
            Labels of some outputs: 1 = desirable, 0 = not, NaN = unknown.
        groups : array-like of shape (n_pairs,) or (n_samples,), default=None
            Rows of one group, such as a prompt, stay in one fold. None: each row is a group.

        Returns
        -------
        self : DistilledIRL

        Raises
        ------
        ValueError
            For rows that `check_pairs` refuses, implicit rewards that are missing, not finite or all the same, other
            labels or fewer than two of each, fewer groups than folds, or a parameter out of range.
        """
        return self._fit(X, y, sample_weight, (implicit_rewards, output_labels, groups))

    def _check_params(self):
        self._validate_params()
        alphas = np.asarray(self.alphas)
        if alphas.ndim != 1 or not alphas.size or alphas.dtype.kind not in "fiu" or not (alphas > 0).all():
            raise ValueError(f"Found alphas={self.alphas!r}. Expected one or more numbers above 0.")

    def _learn(self, X, y, sample_weight, metadata):
        implicit_rewards, output_labels, groups = metadata
        X = check_pairs(X, estimator=self)
        if y is None and X.ndim == 2:
            sign, self.classes_ = None, np.array([0, 1])
        else:
            sign = self._check_target(X, y)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        values = _check_implicit_rewards(implicit_rewards, X, weight)
        labels = check_output_labels(output_labels, X.shape[:-1])
        groups = np.arange(len(X)) if groups is None else np.asarray(groups)
        if groups.shape != weight.shape:
            raise ValueError(f"Found groups of shape {groups.shape} for {len(X)} rows. Expected one a row.")
        per_row = values.size // len(X)
        outputs, weight = X.reshape(-1, X.shape[-1]).astype(np.float64), np.repeat(weight, per_row)
        counted = weight > 0
        outputs, values, groups = outputs[counted], values.ravel()[counted], np.repeat(groups, per_row)[counted]
        self._regress(outputs, values, weight[counted], groups)
        if sign is not None:
            positive = np.stack([sign, -sign], axis=1).ravel() > 0 if per_row == 2 else sign > 0
            rewards = outputs @ self.coef_
            self.intercept_ = -separating_threshold(rewards, positive[counted], weight[counted])
        if labels is not None:
            distilled = (outputs @ self.coef_)[:, None]
            given = labels.ravel()[counted], weight[counted], groups, self.cv
            coef, (share,), self.intercept_ = fit_to_labels(outputs, distilled, *given)
            self.coef_ = coef + share * self.coef_

    def _regress(self, outputs, values, weight, groups):
        n_groups = len(np.unique(groups))
        if n_groups < self.cv:
            raise ValueError(f"Found {n_groups} groups for cv={self.cv} folds. Expected a group a fold or more.")
        weight = weight / weight.mean()
        center = np.average(outputs, axis=0, weights=weight)
        scale = len(outputs) * np.average(np.square(outputs - center).sum(axis=1), weights=weight)
        if not scale > 0:
            raise ValueError("All outputs have the same features: no reward can be learned from them.")
        folds = list(GroupKFold(self.cv).split(outputs, groups=groups))
        ridge = RidgeCV(alphas=np.asarray(self.alphas, dtype=np.float64) * scale, cv=folds)
        ridge.fit(outputs, values, sample_weight=weight)
        self.coef_, self.intercept_ = ridge.coef_, float(ridge.intercept_)
        self.alpha_ = float(ridge.alpha_ / scale)


def fit_to_labels(outputs, signals, labels, weight, groups, cv):
    """Logistic regression of labels on signals that are hardly penalized and features that are: the log-odds of 1.

    It gives the weights of the features (n_features,) and of the signals (n_signals,), and the intercept. ``outputs``
    are features (n_outputs, n_features), ``signals`` (n_outputs, n_signals), ``labels`` (n_outputs,) with NaN for
    unknown ones.
    """
    centers = outputs.mean(axis=0), signals.mean(axis=0)
    outputs, signals = outputs - centers[0], signals - centers[1]
    size = np.sqrt(np.square(outputs).sum(axis=1).mean())
    scale = _SIGNAL / signals.std(axis=0)
    known = np.flatnonzero(~np.isnan(labels))
    features = np.column_stack([outputs[known] / size, signals[known] * scale])
    labels, weight, groups = labels[known], weight[known], groups[known]
    n_folds = min(cv, *(len(np.unique(groups[labels == label])) for label in (0, 1)))
    if n_folds < 2:
        counts = f"{np.count_nonzero(labels == 1)} labels 1 and {np.count_nonzero(labels == 0)} labels 0"
        raise ValueError(f"Found {counts} in output_labels. Expected at least two of each, in different groups.")
    folds = list(StratifiedGroupKFold(n_folds).split(features, labels, groups))
    search = GridSearchCV(
        LogisticRegression(max_iter=2000), {"C": _STRENGTHS}, scoring=_LOG_LOSS, cv=folds, error_score="raise"
    ).fit(features, labels, sample_weight=weight)
    coef, weights = np.split(search.best_estimator_.coef_[0], [outputs.shape[1]])
    coef, weights = coef / size, weights * scale
    intercept = search.best_estimator_.intercept_[0] - centers[0] @ coef - centers[1] @ weights
    return coef, weights, float(intercept)


def check_output_labels(output_labels, shape):
    """Labels as float64 with NaN for unknown ones, of a shape (n_pairs, 2) or (n_samples,)."""
    if output_labels is None:
        return None
    labels = np.asarray(output_labels, dtype=np.float64)
    if labels.shape != shape:
        raise ValueError(f"Found output_labels of shape {labels.shape}. Expected {shape}, one for each output.")
    wrong = labels[~np.isin(labels, [0, 1]) & ~np.isnan(labels)]
    if wrong.size:
        raise ValueError(f"Found {wrong[0]:g} in output_labels. Expected 1 (desirable), 0 (not) or NaN (unknown).")
    return labels


def _check_implicit_rewards(implicit_rewards, X, weight):
    """Implicit rewards as float64, (n_pairs, 2) or (n_samples,)."""
    shape = X.shape[:-1]
    if implicit_rewards is None:
        raise ValueError(
            f"DistilledIRL needs implicit_rewards of shape {shape}: pass ImplicitReward(...).output_rewards(texts), or "
            "the implicit_rewards of load_preferences, to fit (through a Pipeline as <step>__implicit_rewards)."
        )
    values = np.asarray(implicit_rewards, dtype=np.float64)
    if values.shape != shape:
        raise ValueError(f"Found implicit_rewards of shape {values.shape} for X of shape {X.shape}. Expected {shape}.")
    counted = values[weight > 0]
    if not np.isfinite(counted).all():
        found = f"{np.count_nonzero(~np.isfinite(counted))} implicit_rewards that are not finite"
        raise ValueError(f"Found {found}. Leave their rows out, or give them a sample_weight of 0.")
    if counted.size and np.ptp(counted) == 0:
        raise ValueError(f"All implicit_rewards are {counted.flat[0]:g}: the aligned model has learned nothing.")
    return values
