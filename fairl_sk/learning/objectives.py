"""Several objectives, such as helpful and safe: a reward for each, and one that weighs them. For whoever trades off."""

import warnings
from numbers import Integral

import numpy as np
from scipy.stats import t
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GroupKFold, check_cv
from sklearn.utils import ClassifierTags
from sklearn.utils._param_validation import HasMethods, StrOptions  # the parameters' declared constraints
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from ..pairs import check_pairs
from ..warn import warn_user
from .estimators import MaxEntropyIRL
from .judgements import check_weights, read_judgements, read_overall
from .weighing import NO_PENALTY, fit_logistic, weigh_margins

__all__ = ["MultiObjectiveIRL"]

_PENALTY = 3.0  # on the squares of what a reward takes from other objectives, beside the summed log loss of its pairs


class MultiObjectiveIRL(BaseEstimator):
    r"""A reward for each of several objectives, and one reward that weighs them.

    A clone of the learner is fitted for each objective, on the pairs that were judged by it. This gives the rewards
    :math:`Q_j`. With ``share``, objectives learn from each other: the reward of objective k is

    .. math:: R_k(o) = \sum_j a_{kj} Q_j(o) ,

    where :math:`a_k` are the weights of a logistic regression of the preferences by objective k on the margins of
    held-out pairs (stacking [1]_), with a penalty on what is taken from other objectives. This helps if few pairs are
    judged and objectives correlate. The *scalarized* reward is :math:`\sum_k w_k R_k(o) / s_k`, where :math:`s_k` is
    the root mean square of the margins of the training pairs.

    Parameters
    ----------
    estimator : estimator or None, default=None
        Learner of this package, of which clones are fitted. None: `MaxEntropyIRL` with its defaults.
    weights : {"equal", "learned"} or array-like of shape (n_objectives,), default="equal"
        Weights of the scalarized reward. Given ones are >= 0 and are divided by their sum. "learned": how much each
        objective counts in the overall preferences that `fit` gets, by `objective_weights`.
    share : bool, default=True
        Whether objectives learn from each other. False: each reward is that of its own learner.
    cv : int >= 2, splitter or iterable of (train, test), default=5
        Folds for the held-out margins, each row in one: so many of whole groups, or others. Read with ``share`` or
        ``weights="learned"``.
    objective_names : sequence of str, default=None
        Names of the columns of ``y``. None: those of a table, else "objective_0", "objective_1", ...

    Attributes
    ----------
    estimators_ : list of n_objectives estimators
        The fitted learners Q.
    mixing_ : ndarray of shape (n_objectives, n_objectives)
        The weights a; the identity without ``share``.
    scale_ : ndarray of shape (n_objectives,)
        The standard deviations s.
    weights_ : ndarray of shape (n_objectives,)
        The weights w. Learned ones are log-odds for one standard deviation of an objective's margin.
    weights_interval_ : ndarray of shape (n_objectives, 2) or None
        Their 95 % intervals by the jackknife over the folds, which covers errors of the rewards; None unless learned.
    objective_names_ : list of str
        Names of the objectives.
    n_judged_, n_ties_ : ndarray of shape (n_objectives,)
        Number of pairs that each objective learned from, and of ties, which it left out.
    classes_ : ndarray of shape (2,)
        The two classes of ``y``; the larger one means that the first output is preferred.
    n_features_in_ : int
        Number of features of an output.

    See Also
    --------
    objective_weights : How much each objective counts, from known scores.
    fairl_sk.metrics.pareto_front : The outputs that no other one beats in all objectives.

    Notes
    -----
    With ``share`` or learned weights, each learner is fitted ``cv`` more times. The intervals are narrower with more
    folds. With fewer than some 100 judged pairs and objectives that have little in common, ``share`` does harm.

    References
    ----------
    .. [1] D. Wolpert. Stacked generalization. Neural Networks 5, 1992.

    Examples
    --------
    >>> from fairl_sk import MultiObjectiveIRL
    >>> from fairl_sk.datasets import make_multi_preferences
    >>> data = make_multi_preferences(500, 5, n_objectives=2, random_state=0)
    >>> model = MultiObjectiveIRL().fit(data.data, data.targets)
    >>> model.decision_function(data.data).shape, model.scalarize(data.data).shape
    ((500, 2), (500,))
    """

    _parameter_constraints = {
        "estimator": [HasMethods(["fit", "decision_function"]), None],
        "weights": [StrOptions({"equal", "learned"}), "array-like"],
        "share": ["boolean"],
        "cv": ["cv_object"],
        "objective_names": ["array-like", None],
    }

    def __init__(self, estimator=None, *, weights="equal", share=True, cv=5, objective_names=None):
        self.estimator = estimator
        self.weights = weights
        self.share = share
        self.cv = cv
        self.objective_names = objective_names

    def fit(self, X, y, sample_weight=None, overall=None, groups=None):
        """Learn a reward for each objective, and their weights.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
            Features of pairs, or of single outputs.
        y : array-like of shape (n_pairs, n_objectives), or table
            Preferences by each objective: 1 = the first output is preferred (the output is desirable), 0 = not,
            0.5 = tie, NaN = not judged. Any other two numbers are classes, of which the larger is 1.
        sample_weight : array-like of shape (n_pairs,), default=None
            Weights >= 0 of the rows.
        overall : array-like of shape (n_pairs,), default=None
            Overall preferences, coded as ``y``, for ``weights="learned"``.
        groups : array-like of shape (n_pairs,), default=None
            Rows of one group, such as a prompt, stay in one fold. None: each row is a group.

        Returns
        -------
        self : MultiObjectiveIRL

        Raises
        ------
        ValueError
            For rows that `check_pairs` refuses, an objective that is never judged or judged the same everywhere, two
            of one name, weights that are negative or sum to 0, or learned weights without overall preferences.

        Warns
        -----
        UserWarning
            What the learners warn of, such as pairs that contradict each other, with the name of the objective.
        """
        self._validate_params()
        features = check_pairs(X, estimator=self)
        judged = read_judgements(y, len(features), self.objective_names)
        weight = _check_sample_weight(sample_weight, features, dtype=np.float64, ensure_non_negative=True)
        given = None if isinstance(self.weights, str) else check_weights(self.weights, judged.names)
        sign = self._check_overall(overall, len(features))
        self.objective_names_, self.classes_ = judged.names, judged.classes
        self.n_judged_, self.n_ties_ = judged.n_judged, judged.n_ties
        self.estimators_ = [self._fit_one(features, judged, weight, k) for k in range(len(judged.names))]
        alone = _margins(self.estimators_, features)
        size = _root_mean_square(alone, weight)
        shares, mixing = self.share and len(judged.names) > 1, np.eye(len(size))
        if shares or sign is not None:
            held_out, folds = self._held_out_margins(features, judged, weight, groups)
        if shares:
            mixing = np.stack([_stack(held_out, judged.signs[:, k], weight, k) for k in range(len(size))])
        self.mixing_ = mixing / size if shares else mixing
        self.scale_ = _root_mean_square(alone @ self.mixing_.T, weight)
        self.weights_, self.weights_interval_ = given, None
        if sign is not None:
            self.weights_ = weigh_margins(held_out @ mixing.T, sign, weight).weights
            self.weights_interval_ = _jackknife(self.weights_, folds, mixing, sign, weight)
        elif given is None:
            self.weights_ = np.full(len(size), 1 / len(size))
        return self

    def decision_function(self, X):
        """Reward of outputs, or margin of pairs, by each objective.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)

        Returns
        -------
        rewards : ndarray of shape (n_samples, n_objectives) or (n_pairs, n_objectives)
            R_k(o) for outputs, R_k(first) - R_k(second) for pairs.
        """
        check_is_fitted(self)
        return _margins(self.estimators_, check_pairs(X, estimator=self, reset=False)) @ self.mixing_.T

    def scalarize(self, X, weights=None):
        """Reward of outputs, or margin of pairs, by the weighted sum of all objectives.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
        weights : array-like of shape (n_objectives,) or str, default=None
            Other weights than ``weights_``, or the name of one objective.

        Returns
        -------
        reward : ndarray of shape (n_samples,) or (n_pairs,)
        """
        return self.decision_function(X) @ self._combination(weights)

    def single_reward(self, weights=None):
        """The scalarized reward as a fitted learner, for all that takes one reward, such as an export to TRL.

        Parameters
        ----------
        weights : array-like of shape (n_objectives,) or str, default=None
            See `scalarize`.

        Returns
        -------
        reward : MaxEntropyIRL
            With the weights of this reward, as if fitted.

        Raises
        ------
        ValueError
            If the learners are not linear.
        """
        check_is_fitted(self)
        learners = [getattr(learner, "best_estimator_", learner) for learner in self.estimators_]
        if not all(hasattr(learner, "coef_") for learner in learners):
            raise ValueError(
                f"Found {type(learners[0]).__name__} without coef_. Expected learners with linear heads "
                "(hidden_layer_sizes=()); of others, scalarize(X) gives the rewards."
            )
        combination = self._combination(weights) @ self.mixing_
        coef = combination @ np.stack([learner.coef_ for learner in learners])
        intercept = combination @ [learner.intercept_ for learner in learners]
        reward = MaxEntropyIRL()
        reward.coef_, reward.intercept_, reward.classes_ = coef, float(intercept), self.classes_
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self, name):
                setattr(reward, name, getattr(self, name))
        return reward

    def predict(self, X):
        """Class of each row by each objective: the larger where `decision_function` is above 0.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples, n_objectives) or (n_pairs, n_objectives)
        """
        preferred = self.decision_function(X) > 0
        return self.classes_[preferred.astype(int)]

    def score(self, X, y, sample_weight=None):
        """Accuracy of `predict`, the mean of the objectives, each over the rows that it judged other than as ties.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        y : array-like of shape (n_pairs, n_objectives)
            As in `fit`.
        sample_weight : array-like of shape (n_pairs,), default=None

        Returns
        -------
        accuracy : float in [0, 1]
            NaN if no objective was judged.
        """
        margins = self.decision_function(X)
        weight = _check_sample_weight(sample_weight, margins, dtype=np.float64, ensure_non_negative=True)
        signs = read_judgements(y, len(margins), self.objective_names_, classes=self.classes_).signs
        counted = ~np.isnan(signs) * weight[:, None]
        objectives = counted.sum(axis=0) > 0
        if not objectives.any():
            return np.nan
        right = (signs > 0) == (margins > 0)
        return float(((right * counted).sum(axis=0)[objectives] / counted.sum(axis=0)[objectives]).mean())

    def conflicts(self, X, y=None):
        """Where two objectives decide against each other: by their judgements, else by the signs of their rewards.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features)
            Pairs.
        y : array-like of shape (n_pairs, n_objectives), default=None
            Judgements, as in `fit`; a tie decides for no side. None: none.

        Returns
        -------
        conflicts : ndarray of shape (n_pairs, n_objectives, n_objectives), bool
            The mean over pairs is the conflict rate of each two objectives.
        """
        sides = np.sign(self.decision_function(X))
        if y is not None:
            judged = read_judgements(y, len(sides), self.objective_names_, classes=self.classes_)
            sides = np.where(judged.ties, 0, np.where(np.isnan(judged.signs), sides, judged.signs))
        return sides[:, :, None] * sides[:, None, :] < 0

    # -------------------------------------------------------------------------------------------- learning

    def _check_overall(self, overall, n_rows):
        """Signs of the overall preferences (n_rows,) if the weights are learned; None if not."""
        learned = isinstance(self.weights, str) and self.weights == "learned"
        if learned == (overall is None):
            found = "no overall preferences" if learned else f"overall preferences with weights={self.weights!r}"
            raise ValueError(
                f'Found {found}. Expected them with weights="learned" and only there: pass overall to fit, of shape '
                "(n_pairs,), or let other weights."
            )
        return read_overall(overall, n_rows) if learned else None

    def _learner(self):
        return MaxEntropyIRL() if self.estimator is None else clone(self.estimator)

    def _fit_one(self, X, judged, weight, k, rows=slice(None), where=""):
        """A learner of objective k, fitted on some rows; its errors and warnings name the objective."""
        rows = np.arange(len(X))[rows]
        rows = rows[~np.isnan(judged.signs[rows, k])]
        preferred = (judged.signs[rows, k] > 0).astype(int)
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            try:
                learner = self._learner().fit(X[rows], preferred, sample_weight=weight[rows])
            except ValueError as error:
                raise ValueError(f"Objective {judged.names[k]!r}{where}: {error}") from error
        if not where:
            for warning in raised:
                warn_user(f"Objective {judged.names[k]!r}: {warning.message}", warning.category)
        return learner

    def _held_out_margins(self, X, judged, weight, groups):
        """Margins (n_rows, n_objectives) of each row by learners of the other folds, in their root mean squares.

        Also, for each fold, the rows of the others and their margins by these learners.
        """
        if groups is not None and np.shape(groups) != (len(X),):
            raise ValueError(f"Found groups of shape {np.shape(groups)} for {len(X)} rows. Expected one a row.")
        folds = check_cv(self.cv)
        if isinstance(self.cv, Integral):
            folds, groups = GroupKFold(self.cv), np.arange(len(X)) if groups is None else groups
        folds = list(folds.split(X, groups=groups))
        held_out = np.sort(np.concatenate([test for _, test in folds]))
        if not np.array_equal(held_out, np.arange(len(X))):
            raise ValueError(f"Found cv={self.cv!r}, which does not hold out each row once. Expected folds that do.")
        margins, where = np.empty(judged.signs.shape), " (without one of the folds; see cv and share)"
        others = []
        for train, test in folds:
            learners = [self._fit_one(X, judged, weight, k, train, where) for k in range(len(judged.names))]
            margins[test], inside = (_margins(learners, X[rows]) for rows in (test, train))
            others.append((train, inside / _root_mean_square(inside, weight[train])))
        return margins / _root_mean_square(margins, weight), others

    def _combination(self, weights):
        """Weights (n_objectives,) of the rewards R, which are not in standard deviations."""
        check_is_fitted(self)
        if isinstance(weights, str):
            if weights not in self.objective_names_:
                raise ValueError(f"Found the objective {weights!r}. Expected one of {self.objective_names_}.")
            return (np.array(self.objective_names_) == weights).astype(float)
        weights = self.weights_ if weights is None else check_weights(weights, self.objective_names_)
        return weights / self.scale_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        tags.classifier_tags = ClassifierTags(multi_class=False)
        tags.input_tags.three_d_array = True
        return tags


def _margins(learners, X):
    """Rewards or margins (n_rows, n_objectives) by a learner for each objective."""
    return np.column_stack([learner.decision_function(X) for learner in learners]).astype(np.float64)


def _jackknife(weights, folds, mixing, sign, weight):
    """95 % intervals (n_objectives, 2) of weights: learners and weights were fitted again without each fold."""
    again = [weigh_margins(margins @ mixing.T, sign[rows], weight[rows]).weights for rows, margins in folds]
    n_folds = len(again)
    deviation = np.sqrt((n_folds - 1) * np.var(again, axis=0))
    width = t.ppf(0.975, n_folds - 1) * deviation
    return np.stack([weights - width, weights + width], axis=1)


def _root_mean_square(margins, weight):
    """Root mean squares (n_objectives,), 1 where all margins are 0."""
    size = np.sqrt(np.average(np.square(margins), axis=0, weights=weight))
    return np.where(size > 0, size, 1.0)


def _stack(margins, sign, weight, k):
    """What objective k takes of the margins (n_rows, n_objectives) of all: (n_objectives,)."""
    rows = np.flatnonzero(~np.isnan(sign) & (weight > 0))
    signed, weight = margins[rows] * sign[rows, None], weight[rows]
    center = np.zeros(margins.shape[1])
    center[k] = fit_logistic(signed[:, [k]], weight, NO_PENALTY, np.zeros(1))[0]
    n_effective = weight.sum() ** 2 / np.square(weight).sum()
    return fit_logistic(signed, weight, _PENALTY / n_effective, center)
