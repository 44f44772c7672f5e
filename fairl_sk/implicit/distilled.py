"""`DistilledReward`: an implicit reward distilled into features, plus a share of the residual; it reads texts."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.pipeline import make_pipeline
from sklearn.utils._param_validation import HasMethods, Interval  # the parameters' declared constraints
from sklearn.utils.validation import check_is_fitted

from ..features.text import TextFeatures
from ..learning.distilled import DistilledIRL, check_output_labels, fit_to_labels
from ..learning.offset import separating_threshold
from ..pairs import preference_sign

__all__ = ["SHARE", "DistilledReward"]

SHARE = 0.25  # of the residual of one model; decided on alignments that no reported figure uses


class DistilledReward(ClassifierMixin, BaseEstimator):
    r"""Reward of texts from two language models, without labels.

    .. math:: R(o) = D(o) + \lambda \, (v(o) - D(o))

    v is the implicit reward of the models. D is the regression of v on features (`fairl_sk.DistilledIRL`), which also
    has values for texts that neither model would write. The residual v - D contains what the features miss of the
    reward, and side effects of alignment; :math:`\lambda` is the share of it that is added.

    Parameters
    ----------
    implicit : ImplicitReward
        The reward by the two models. It is cloned.
    features : transformer, default=None
        Transformer of texts and pairs of texts, such as `TransformerEmbedder` or `OwnStates`; it is cloned. None:
        ``TextFeatures(random_state=0)``.
    share : float in [0, 1], default=0.25
        :math:`\lambda`. With 0, predictions need no language model. If there are labels, they decide the share, unless
        it is 0.
    learner : DistilledIRL, default=None
        Regression on the features; it is cloned. None: ``DistilledIRL()``.

    Attributes
    ----------
    pipeline_ : Pipeline
        Fitted features and learner: D alone. It can be exported like every pipeline of this package.
    share_ : float
        The share that is used. With labels, the weight of the residual over the slope of the other terms on D.
    explained_ : float in [0, 1]
        Squared correlation of D with the implicit reward over the training outputs.
    weights_ : tuple of two floats
        Factors of the reward of ``pipeline_`` and of the implicit reward.
    intercept_ : float
        Offset added to their sum, so that 0 separates preferred outputs from others best.
    classes_ : ndarray of shape (2,)
        The two classes.

    Notes
    -----
    With labels, the reward is the log-odds that an output is desirable, by logistic regression on D, the residual and
    the features. The terms of D and of the features are the reward of ``pipeline_``.

    Examples
    --------
    >>> from fairl_sk.implicit import DistilledReward, ImplicitReward
    >>> reward = DistilledReward(ImplicitReward("folder/of/the/aligned/model", "folder/of/the/base/model"))
    >>> reward.share  # nothing is loaded yet
    0.25
    """

    _parameter_constraints = {
        "implicit": [HasMethods(["output_rewards"])],
        "features": [HasMethods(["fit_transform", "transform"]), None],
        "share": [Interval(Real, 0, 1, closed="both")],
        "learner": [HasMethods(["fit", "decision_function"]), None],
    }

    def __init__(self, implicit, features=None, *, share=SHARE, learner=None):
        self.implicit = implicit
        self.features = features
        self.share = share
        self.learner = learner

    def fit(self, X, y=None, sample_weight=None, output_labels=None, groups=None):
        """Compute the implicit rewards, and fit the features to them.

        Parameters
        ----------
        X : array-like of str of shape (n_samples,) or (n_pairs, 2), or table
            See `ImplicitReward.decision_function`.
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
            Only sets the offset. See `DistilledIRL.fit`.
        sample_weight, groups : array-like of shape (n_pairs,) or (n_samples,), default=None
            See `DistilledIRL.fit`.
        output_labels : array-like of shape (n_pairs, 2) or (n_samples,), default=None
            Labels of some outputs: 1 = desirable, 0 = not, NaN = unknown.

        Returns
        -------
        self : DistilledReward

        Raises
        ------
        ValueError, OSError, MemoryError
            See `ImplicitReward.decision_function` and `DistilledIRL.fit`.
        """
        self._validate_params()
        implicit = clone(self.implicit).fit(X)
        values = implicit.output_rewards(X)
        features = TextFeatures(random_state=0) if self.features is None else clone(self.features)
        learner = DistilledIRL() if self.learner is None else clone(self.learner)
        pipeline = make_pipeline(features, learner)
        by_labels = output_labels is not None and self.share != 0
        metadata = {"sample_weight": sample_weight, "implicit_rewards": values, "groups": groups}
        if output_labels is not None and not by_labels:
            metadata["output_labels"] = output_labels
        pipeline.fit(X, y, **{f"{pipeline.steps[-1][0]}__{name}": value for name, value in metadata.items()})
        self.implicit_, self.pipeline_, self.classes_ = implicit, pipeline, learner.classes_
        distilled = self._distilled(X)
        self.explained_ = float(np.corrcoef(distilled.ravel(), values.ravel())[0, 1] ** 2)
        weight = np.ones(len(values)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        weight = np.repeat(weight, values.size // len(values))
        if by_labels:
            self._fit_to_labels(X, distilled, values, output_labels, weight, groups)
            return self
        self.share_ = float(self.share)
        self.weights_, self.intercept_ = (1 - self.share_, self.share_), 0.0
        if output_labels is None and (values.ndim == 2 or y is not None):
            sign = preference_sign(y, len(values))
            positive = np.stack([sign, -sign], axis=1) > 0 if values.ndim == 2 else sign > 0
            self.intercept_ = -separating_threshold(self._join(distilled, values).ravel(), positive.ravel(), weight)
        return self

    def _fit_to_labels(self, X, distilled, values, output_labels, weight, groups):
        """Fit the log-odds of labels by features, D and the residual; the first two go into the pipeline."""
        labels = check_output_labels(output_labels, values.shape).ravel()
        features, learner = self.pipeline_[:-1].transform(X), self.pipeline_[-1]
        outputs = features.reshape(-1, features.shape[-1]).astype(np.float64)
        groups = np.repeat(np.arange(len(values)) if groups is None else groups, values.size // len(values))
        linear = outputs @ learner.coef_
        signals = np.stack([linear, values.ravel() - linear], axis=1)
        counted = weight > 0
        given = outputs[counted], signals[counted], labels[counted], weight[counted], groups[counted]
        coef, (of_reward, of_residual), intercept = fit_to_labels(*given, learner.cv)
        learner.coef_, learner.intercept_ = coef + (of_reward - of_residual) * learner.coef_, intercept
        rest = self._distilled(X) + of_residual * distilled  # without the residual
        self.share_ = float(of_residual * np.var(distilled) / np.cov(rest.ravel(), distilled.ravel(), ddof=0)[0, 1])
        self.weights_, self.intercept_ = (1.0, float(of_residual)), 0.0

    def output_rewards(self, X):
        """Rewards of outputs; of pairs, of both outputs.

        Parameters
        ----------
        X : array-like or table
            As in `fit`.

        Returns
        -------
        rewards : ndarray of shape (n_samples,) or (n_pairs, 2)

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError, OSError, MemoryError
            See `ImplicitReward.decision_function`.
        """
        check_is_fitted(self, "pipeline_")
        values = self.implicit_.output_rewards(X) if self.weights_[1] else 0.0
        return self._join(self._distilled(X), values)

    def decision_function(self, X):
        """Reward of outputs, or margin of pairs; parameters and errors are those of `output_rewards`.

        Parameters
        ----------
        X : array-like or table
            As in `fit`.

        Returns
        -------
        reward : ndarray of shape (n_samples,) or (n_pairs,)
        """
        rewards = self.output_rewards(X)
        return rewards[:, 0] - rewards[:, 1] if rewards.ndim == 2 else rewards

    def predict(self, X):
        """Class of each row: the larger where `decision_function` is above 0.

        Parameters
        ----------
        X : array-like or table
            As in `fit`.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_pairs,)
        """
        return self.classes_[(self.decision_function(X) > 0).astype(int)]

    def score(self, X, y=None, sample_weight=None):
        """Accuracy of `predict`; for pairs, y=None means that the first is preferred.

        Parameters
        ----------
        X : array-like or table
            As in `fit`.
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
            True classes.
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None

        Returns
        -------
        accuracy : float in [0, 1]
        """
        right = self.predict(X) == (self.classes_[1] if y is None else np.asarray(y))
        return float(np.average(right, weights=sample_weight))

    def _distilled(self, X):
        """D of the outputs."""
        features = self.pipeline_[:-1].transform(X)
        rewards = self.pipeline_[-1].decision_function(features.reshape(-1, features.shape[-1]))
        return rewards.reshape(features.shape[:-1])

    def _join(self, distilled, values):
        of_reward, of_implicit = self.weights_
        return of_reward * distilled + of_implicit * values + self.intercept_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags
