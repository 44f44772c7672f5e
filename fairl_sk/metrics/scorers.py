"""Scorers for ``scoring=`` of scikit-learn's cross-validation and searches. For whoever selects a model.

Scorers of `sklearn.metrics.make_scorer` need y. These work without y too, and they score the outputs of pairs.
"""

import warnings

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils.metadata_routing import UNUSED

from ..pairs import is_pairs, preference_sign, read_texts, split_pairs, stack_outputs
from .distances import check_norm, starc_distance
from .outputs import output_auc_score, output_f1_score
from .pairs import pair_accuracy, pair_log_loss


def output_rewards(estimator, X):
    """Reward of each output by a fitted estimator: shape (n_pairs, 2) for pairs, (n_outputs,) for outputs."""
    if hasattr(estimator, "output_rewards"):
        return np.asarray(estimator.output_rewards(X))
    if is_pairs(X):
        return _decide(estimator, split_pairs(X)).reshape(-1, 2)
    return _decide(estimator, X)


def _decide(estimator, X):
    if not hasattr(estimator, "decision_function"):
        found = f"Got {type(estimator).__name__} without a decision_function, but the scorer needs rewards"
        raise TypeError(f"{found}. End the pipeline in one of this package's estimators.")
    return np.asarray(estimator.decision_function(X))


def _read_labels(estimator, y):
    """y as -1 and 1 by the estimator's classes, so that a fold with one class is read correctly."""
    classes = getattr(estimator, "classes_", None)
    if y is None or classes is None or len(classes) != 2 or not np.isin(y, classes).all():
        return y
    return preference_sign(y, len(y), classes=classes)


class _Scorer(BaseEstimator):
    """Callable ``scorer(estimator, X, y)``; BaseEstimator adds the ``set_score_request`` of the keywords of `score`."""

    __metadata_request__score = {"estimator": UNUSED}

    def __call__(self, estimator, X, y=None, **metadata):
        return self.score(estimator, X, y, **metadata)

    def _accept_sample_weight(self):  # scikit-learn asks several scorers for it if routing is off
        return True


class PairScorer(_Scorer):
    """Scorer of the margins of pairs: `sign` times `metric`. Takes `sample_weight` as metadata."""

    def __init__(self, metric, sign=1):
        self.metric = metric
        self.sign = sign

    def score(self, estimator, X, y=None, *, sample_weight=None):
        """Score of a fitted estimator on pairs; higher is better."""
        if not is_pairs(X):
            name = self.metric.__name__
            raise ValueError(f"Got single outputs, but {name} needs pairs. Score pairs, or use an output scorer.")
        return self.sign * self.metric(_read_labels(estimator, y), _decide(estimator, X), sample_weight=sample_weight)


class ObjectiveScorer(_Scorer):
    """Scorer of the margins of one of several objectives. Takes `sample_weight` as metadata."""

    def __init__(self, objective, metric, sign=1):
        self.objective = objective
        self.metric = metric
        self.sign = sign

    def score(self, estimator, X, y, *, sample_weight=None):
        """Score of a fitted estimator by one objective, over the rows that it judged; NaN without any."""
        margins, judged = _decide(estimator, X), np.asarray(y, dtype=np.float64)
        if margins.ndim != 2 or judged.shape != margins.shape or self.objective >= margins.shape[1]:
            raise ValueError(
                f"Got margins of shape {margins.shape} and y of shape {judged.shape} for objective {self.objective}. "
                "Expected both to be (n_rows, n_objectives): score a MultiObjectiveIRL, and give "
                "objective_scorers the names of all its objectives, in their order."
            )
        judged = judged[:, self.objective]
        rows = np.flatnonzero(np.isin(judged, estimator.classes_))
        if not len(rows):
            message = f"Objective {self.objective} was judged in none of these rows; its score is NaN. Use fewer folds."
            warnings.warn(message, UndefinedMetricWarning, stacklevel=2)
            return np.nan
        weight = None if sample_weight is None else np.asarray(sample_weight)[rows]
        labels = np.where(judged[rows] == estimator.classes_[1], 1, 0)
        return self.sign * self.metric(labels, margins[rows, self.objective], sample_weight=weight)


class OutputScorer(_Scorer):
    """Scorer of the rewards of outputs. Takes `sample_weight` and `output_labels` as metadata."""

    def __init__(self, metric):
        self.metric = metric

    def score(self, estimator, X, y=None, *, sample_weight=None, output_labels=None):
        """Score of a fitted estimator on pairs or outputs; higher is better."""
        labels, rewards = _read_labels(estimator, y), output_rewards(estimator, X)
        return self.metric(labels, rewards, output_labels=output_labels, sample_weight=sample_weight)


class StarcScorer(_Scorer):
    """Scorer of minus the distance to a reference; see `make_starc_scorer`."""

    def __init__(self, reference=None, groups=None, norm=2):
        self.reference = reference
        self.groups = groups
        self.norm = norm

    def score(self, estimator, X, y=None, *, sample_weight=None, reference_reward=None, groups=None):
        """Minus the distance of a fitted estimator's reward to the reference."""
        if (self.reference is None) == (reference_reward is None):
            found = "neither a reference nor" if reference_reward is None else "both a reference and"
            raise ValueError(
                f"The STARC scorer got {found} the metadata reference_reward, but expected one of the two. Give "
                "make_starc_scorer a callable, or call sklearn.set_config(enable_metadata_routing=True) and "
                "set_score_request(reference_reward=True), and pass it in params."
            )
        rewards = output_rewards(estimator, X)
        if reference_reward is None:
            reference_reward = np.reshape(self._ask_reference(X), rewards.shape)
        groups = self.groups if groups is None else groups
        return -starc_distance(rewards, reference_reward, groups=groups, sample_weight=sample_weight, norm=self.norm)

    def _ask_reference(self, X):
        if hasattr(self.reference, "output_rewards"):  # it reads prompts
            return self.reference.output_rewards(X)
        texts = read_texts(X)
        return self.reference(stack_outputs(X) if is_pairs(X) else X if texts is None else texts)


pair_accuracy_scorer = PairScorer(pair_accuracy)
pair_log_loss_scorer = PairScorer(pair_log_loss, sign=-1)
output_f1_scorer = OutputScorer(output_f1_score)
output_auc_scorer = OutputScorer(output_auc_score)


def make_starc_scorer(reference=None, *, groups=None, norm=2):
    """Scorer that compares an estimator's reward with a reference: **minus** the STARC distance.

    Scikit-learn expects that greater is better: 0 is perfect, -1 the opposite reward.

    Parameters
    ----------
    reference : callable or None, default=None
        Function of outputs (texts or features, two per pair) that returns one reward for each; it must pickle for
        ``n_jobs``. None: the routed metadata `reference_reward`, of shape (n_pairs, 2) or (n_outputs,).
    groups : {"pairs", None}, default=None
        As in `starc_distance`. The routed metadata `groups`, of shape (n_rows,), takes precedence.
    norm : {1, 2, numpy.inf}, default=2
        See `starc_distance`.

    Returns
    -------
    callable
        ``scorer(estimator, X, y=None)``. Its ``set_score_request`` takes `sample_weight`, `reference_reward` and
        `groups`.

    Raises
    ------
    ValueError
        If a parameter is not valid; when called, if there is not exactly one reference.
    """
    check_norm(norm)
    if not (groups is None or isinstance(groups, str) and groups == "pairs"):
        found = f"Got groups={groups!r}, but expected None or 'pairs'"
        raise ValueError(f"{found}. Pass prompts as routed metadata groups.")
    if not (reference is None or callable(reference)):
        found = f"Got a reference of type {type(reference).__name__}, but expected a callable or None"
        raise ValueError(f"{found}. Pass an array of rewards as routed metadata reference_reward.")
    return StarcScorer(reference, groups, norm)


def objective_scorers(names, metric=pair_accuracy, *, greater_is_better=True):
    """Scorers of a `MultiObjectiveIRL`, one an objective, for ``scoring=`` of `cross_validate` and `GridSearchCV`.

    Parameters
    ----------
    names : sequence of str
        Names of the objectives, in the order of y's columns.
    metric : callable, default=pair_accuracy
        Metric of preferences and margins, ``metric(y_true, margins, sample_weight=...)``. It sees the rows that the
        objective judged, without ties.
    greater_is_better : bool, default=True
        False: the scorers give minus the metric, as for `pair_log_loss`.

    Returns
    -------
    scorers : dict of str to callable
        ``scorer(estimator, X, y)`` by name.

    Raises
    ------
    ValueError
        If a name is given twice.

    Examples
    --------
    >>> from sklearn.model_selection import cross_validate
    >>> from fairl_sk import MultiObjectiveIRL
    >>> from fairl_sk.datasets import make_multi_preferences
    >>> from fairl_sk.metrics import objective_scorers
    >>> data = make_multi_preferences(200, 5, n_objectives=2, random_state=0)
    >>> scoring = objective_scorers(["helpful", "safe"])
    >>> sorted(cross_validate(MultiObjectiveIRL(), data.data, data.targets, scoring=scoring, cv=3))[2:]
    ['test_helpful', 'test_safe']
    """
    names = list(names)
    if isinstance(names, str) or len(set(names)) < len(names) or not names:
        raise ValueError(f"Got the names {names}, but expected one or more, each once. Rename an objective.")
    return {name: ObjectiveScorer(k, metric, 1 if greater_is_better else -1) for k, name in enumerate(names)}
