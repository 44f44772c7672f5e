"""`DistilledReward`: what features learn of an implicit reward, and a share of what they leave out; texts in."""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.pipeline import make_pipeline
from sklearn.utils._param_validation import HasMethods, Interval  # the parameters' declared constraints
from sklearn.utils.validation import check_is_fitted

from ..features.text import TextFeatures
from ..learning.distilled import DistilledIRL
from ..learning.offset import separating_threshold
from ..pairs import preference_sign

__all__ = ["DistilledReward"]


class DistilledReward(ClassifierMixin, BaseEstimator):
    r"""Reward of texts from two language models, without labels.

    .. math:: R(o) = D(o) + \lambda \, (v(o) - D(o))

    v is the implicit reward of the models. D is the part of it that features explain (`fairl_sk.DistilledIRL`): the
    same for outputs that mean the same, and known for texts that neither model would write. The residual holds what the
    features miss of the reward, and what alignment changed besides; :math:`\lambda` is the share of it that counts.

    Parameters
    ----------
    implicit : ImplicitReward
        The reward by the two models. It is cloned.
    features : transformer, default=None
        Transformer of texts and pairs of texts, such as `TransformerEmbedder` or `OwnStates`; it is cloned. None:
        ``TextFeatures(random_state=0)``.
    share : float in [0, 1], default=0.25
        :math:`\lambda`. With 0 predictions need the features only, no language model.
    learner : DistilledIRL, default=None
        Regression on the features; it is cloned. None: ``DistilledIRL()``.

    Attributes
    ----------
    pipeline_ : Pipeline
        Fitted features and learner: D alone, which can be exported like every pipeline of this package.
    explained_ : float <= 1
        Share of the variance of the implicit reward over the training outputs that D explains.
    intercept_ : float
        What is added to D and the residual, so that 0 separates preferred outputs from others best.
    classes_ : ndarray of shape (2,)
        The two classes.

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

    def __init__(self, implicit, features=None, *, share=0.25, learner=None):
        self.implicit = implicit
        self.features = features
        self.share = share
        self.learner = learner

    def fit(self, X, y=None, sample_weight=None, groups=None):
        """Score the outputs by the models, and learn the part that features explain.

        Parameters
        ----------
        X : array-like of str of shape (n_samples,) or (n_pairs, 2), or table
            See `ImplicitReward.decision_function`.
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
            Sets where 0 is only. See `DistilledIRL.fit`.
        sample_weight, groups : array-like of shape (n_pairs,) or (n_samples,), default=None
            See `DistilledIRL.fit`.

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
        metadata = {"sample_weight": sample_weight, "implicit_rewards": values, "groups": groups}
        given = {f"{pipeline.steps[-1][0]}__{name}": value for name, value in metadata.items()}
        pipeline.fit(X, y, **given)
        self.implicit_, self.pipeline_, self.classes_ = implicit, pipeline, learner.classes_
        distilled = self._distilled(X)
        self.residual_mean_ = float(np.mean(values - distilled))
        self.explained_ = float(1 - np.var(values - distilled) / np.var(values))
        self.intercept_ = 0.0
        if values.ndim == 2 or y is not None:
            rewards = self._add_residual(distilled, values)
            sign = preference_sign(y, len(values))
            positive = np.stack([sign, -sign], axis=1) > 0 if values.ndim == 2 else sign > 0
            weight = np.ones(len(values)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
            weight = np.repeat(weight, values.size // len(values))
            self.intercept_ = -separating_threshold(rewards.ravel(), positive.ravel(), weight)
        return self

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
        values = self.implicit_.output_rewards(X) if self.share else 0.0
        return self._add_residual(self._distilled(X), values) + self.intercept_

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
        return (
            self.pipeline_[-1].decision_function(features.reshape(-1, features.shape[-1])).reshape(features.shape[:-1])
        )

    def _add_residual(self, distilled, values):
        return distilled + self.share * (values - distilled - self.residual_mean_) if self.share else distilled

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags
