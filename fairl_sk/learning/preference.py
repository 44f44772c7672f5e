"""What the three estimators share: checking rows and labels, the order of a fit's steps, and predicting."""

import inspect
from dataclasses import replace
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions  # the parameters' declared constraints
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d

from ..device import few_threads
from ..failures import fit_detector
from ..labels import TIES_REMEDY, distinct_labels, preference_sign
from ..pairs import check_pairs
from ..warn import warn_user
from .fitting import solve_base, train_failures, train_jointly
from .net import rewards_of_heads
from .offset import output_offset
from .problem import prepare, settle_pointwise_weight
from .rows import warn_of_contradictions, warn_of_equal_sides

__all__ = ["PairClassifier", "PreferenceIRL", "document"]

POSITIVE = Interval(Real, 0, None, closed="neither")
NON_NEGATIVE = Interval(Real, 0, None, closed="left")
WHOLE = Interval(Integral, 1, None, closed="left")

_DIVERGED = (
    "The rounds diverged: rewards of training outputs are not finite. Lower learning_rate or failure_weight, or raise "
    "alpha_fail."
)


def document(**texts):
    """A decorator that puts shared texts into a class docstring, in the place of their names in braces."""

    def put(cls):
        if cls.__doc__:
            cls.__doc__ = inspect.cleandoc(cls.__doc__)
            for name, text in texts.items():
                cls.__doc__ = cls.__doc__.replace(f"{{{name}}}", inspect.cleandoc(text))
        return cls

    return put


class PairClassifier(ClassifierMixin, BaseEstimator):
    """Base class of the learners and of their searches: a classifier of pairs."""

    def _keep_parameters(self, parameters):
        """Keep the arguments of ``__init__`` under their names, as scikit-learn asks."""
        vars(self).update({name: value for name, value in parameters.items() if name != "self"})

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.three_d_array = True
        return tags


class PreferenceIRL(PairClassifier):
    """Base class of the estimators. A subclass gives its `Settings` by ``_settings()``."""

    _parameter_constraints = {
        "temperature": [POSITIVE],
        "alpha": [NON_NEGATIVE],
        "hidden_layer_sizes": ["array-like"],
        "n_rounds": [WHOLE],
        "learning_rate": [StrOptions({"auto"}), POSITIVE],
        "batch_size": [StrOptions({"auto"}), WHOLE],
        "max_iter": [WHOLE],
        "tol": [NON_NEGATIVE],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def fit(self, X, y=None, sample_weight=None):
        """Learn the reward.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
            Features of pairs, or of single outputs.
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
            Two classes, the larger meaning "the first is preferred" (of outputs: "desirable"). For pairs None means
            that the first is preferred everywhere.
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None
            Weights >= 0; a weight of 2 is the same as the row twice.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For rows that `check_pairs` refuses, fewer than 2 of them, one class only, pairs all identical on both
            sides, or a parameter out of range.

        Warns
        -----
        ConvergenceWarning
            If a linear base path ends at a duality gap far above ``tol``.
        UserWarning
            If pairs contradict each other, if over 1 % of them have equal sides, or if the reward orders clearly fewer
            than half of its training pairs as preferred.
        """
        return self._fit(X, y, sample_weight)

    def decision_function(self, X):
        """Reward of outputs, or margin of pairs.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            Outputs or pairs.

        Returns
        -------
        reward : ndarray of shape (n_samples,) or (n_pairs,)
            R(o) for outputs. R(first) - R(second) for pairs: positive where the first output is preferred.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            For rows that `check_pairs` refuses.
        """
        check_is_fitted(self)
        X = check_pairs(X, estimator=self, reset=False, mapped=True)
        is_linear = hasattr(self, "coef_")
        heads = [[self.coef_[None], np.zeros(1)]] if is_linear else [self.base_weights_, self.failure_weights_]
        rewards = rewards_of_heads(heads, X)
        if X.ndim == 3:
            return rewards[:, 0] - rewards[:, 1]  # the offset cancels, and would cost digits
        return rewards + rewards.dtype.type(self.intercept_)

    def predict(self, X):
        """Class of each row: the larger where `decision_function` is above 0.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_pairs,)
        """
        preferred = self.decision_function(X) > 0
        return self.classes_[preferred.astype(int)]

    def predict_proba(self, X):
        """Probability of each class: the logistic of `decision_function` over ``temperature``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_pairs, 2, n_features)

        Returns
        -------
        probabilities : ndarray of shape (n_samples, 2) or (n_pairs, 2)
            Columns in the order of ``classes_``. Those of outputs depend on ``intercept_``, which counts both classes
            one half; ``CalibratedClassifierCV`` makes them frequencies.
        """
        scaled = self.decision_function(X) / self.temperature
        return np.exp(-np.logaddexp(0, np.stack([scaled, -scaled], axis=1)))

    def score(self, X, y=None, sample_weight=None):
        """Accuracy of `predict`: for pairs the share that is ordered correctly.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
            True classes; for pairs, None means that the first is preferred everywhere.
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None

        Returns
        -------
        accuracy : float in [0, 1]
        """
        predicted = self.predict(X)
        if y is None:
            if np.ndim(X) != 3:
                raise ValueError("score requires y for outputs; only pairs have an order that is known without it.")
            y = np.full(len(predicted), self.classes_[1])
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))

    # -------------------------------------------------------------------------------------------- learning

    def _fit(self, X, y, sample_weight, output_labels=None):
        """Fit, or leave everything as it was: an interrupt or an error does not half-fit an estimator."""
        before = dict(vars(self))
        try:
            self._check_params()
            self._learn(X, y, sample_weight, output_labels)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        return self

    def _check_params(self):
        """Refuse a parameter that no fit takes, whatever the others are."""
        self._validate_params()
        _check_layers(self.hidden_layer_sizes)

    def _learn(self, X, y, sample_weight, output_labels):
        settings = self._settings()
        X = check_pairs(X, estimator=self, mapped=True)
        sign = self._check_target(X, y)
        sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if y is not None and len(np.unique(sign[sample_weight > 0])) < 2:
            raise ValueError("Found one class only among the rows whose sample_weight is above 0. Expected two.")
        labels = self._check_labels(output_labels, X.shape, settings.schedule.detector, sample_weight)
        problem = prepare(X, sign, sample_weight, labels, settings.recurrence_correlation, self.device)
        if problem.is_paired:
            warn_of_contradictions(problem.numbers, sign, sample_weight)
            warn_of_equal_sides(problem.numbers, sample_weight)
        generator = check_random_state(self.random_state)
        seed = int(generator.randint(np.iinfo(np.int32).max))
        detector = fit_detector(settings.schedule.detector, X, sign, sample_weight, labels, seed)
        settings = replace(settings, schedule=replace(settings.schedule, detector=detector))
        settings = settle_pointwise_weight(problem, settings)
        name = type(self).__name__ if self.verbose else None
        n_values = self._batch_size(len(X)) * X.size // len(X) if self._is_joint() else X.size
        with few_threads(n_values):
            if self._is_joint():
                heads = self._train_jointly(problem, settings, seed, generator, name)
            else:
                heads = self._train_in_two_stages(problem, settings, name)
        self._keep(problem, settings, heads)
        self._warn_of_gap()

    def _is_joint(self):
        """Whether both heads are trained together, by Adam."""
        return bool(len(self.hidden_layer_sizes))

    def _batch_size(self, n_rows):
        return min(256 if self.batch_size == "auto" else self.batch_size, n_rows)

    def _train_in_two_stages(self, problem, settings, name):
        differences = problem.tensor(problem.differences, None)
        base = solve_base(problem, settings, differences)
        self.dual_gap_, self.n_iter_ = base.gap, base.n_iter
        n_rounds = 1 if settings.schedule.is_idle else self.n_rounds  # a round of an idle path writes the history
        heads, self.history_ = train_failures(problem, [settings], base, differences, n_rounds, progress=name)
        return base.head, heads[0]

    def _train_jointly(self, problem, settings, seed, generator, name):
        layers = tuple(self.hidden_layer_sizes)
        *heads, self.history_ = train_jointly(
            problem,
            settings,
            layers,
            self._batch_size(len(problem.sign)),
            self.n_rounds,
            seed,
            generator,
            progress=name,
        )
        self.dual_gap_, self.n_iter_ = np.nan, self.n_rounds
        return heads

    def _keep(self, problem, settings, heads, rewards=None):
        """Set the attributes that a prediction reads, from heads in the units of the input, and their rewards."""
        self.base_weights_, self.failure_weights_ = heads
        rewards = problem.rewards([heads])[0] if rewards is None else rewards
        if not np.isfinite(rewards).all():
            raise ValueError(_DIVERGED)
        self.intercept_ = output_offset(problem, rewards)
        for name in ("coef_", "base_coef_", "failure_coef_"):
            vars(self).pop(name, None)
        if len(heads[0]) == 2:
            self.base_coef_, self.failure_coef_ = (weights[0][0] for weights in heads)
            self.coef_ = self.base_coef_ + self.failure_coef_
            self.intercept_ += float(heads[0][1][0] + heads[1][1][0])  # the bias, which ``coef_`` leaves out
        if problem.is_paired:
            _check_orientation(problem.sign * (rewards[:, 0] - rewards[:, 1]), problem.weight)

    def _warn_of_gap(self):
        if self.dual_gap_ > max(100 * self.tol, 1e-3):
            warn_user(
                f"{type(self).__name__} stopped after {self.n_iter_} iterations at a duality gap of "
                f"{self.dual_gap_:.1e}, far above tol = {self.tol:g}. Raise max_iter or alpha, or scale the features.",
                ConvergenceWarning,
            )

    # -------------------------------------------------------------------------------------------- checking

    def _check_target(self, X, y):
        """Set ``classes_`` and return +1 or -1 a row."""
        kind = "pairs" if X.ndim == 3 else "outputs"
        if len(X) < 2:
            raise ValueError(f"Found {len(X)} of the {kind} (n_samples=1), while a minimum of 2 is required to fit.")
        if y is None:
            if X.ndim == 2:
                raise ValueError(
                    f"{type(self).__name__} requires y to be passed, but the target y is None. Only pairs, of shape "
                    "(n_pairs, 2, n_features), can do without: there None means that the first is preferred."
                )
            self.classes_ = np.array([0, 1])
            return np.ones(len(X))
        y = column_or_1d(y, warn=True)
        if len(y) != len(X):
            raise ValueError(f"Found {len(X)} {kind} in X and {len(y)} labels in y: inconsistent numbers of samples.")
        self.classes_ = _check_classes(y)
        return preference_sign(y, len(X), classes=self.classes_, paired=X.ndim == 3)

    def _check_labels(self, output_labels, shape, detector, sample_weight):
        """Labels of the outputs as integers; None where no detector reads them."""
        is_read = getattr(detector, "requires_labels", False)
        if output_labels is None:
            if is_read:
                raise ValueError(
                    f"failures={self.failures!r} needs to know the outputs: pass output_labels, shape (n_pairs, 2), 1 "
                    "= desirable and 0 = not, or implicit_rewards, of the same shape, to fit (through a Pipeline as "
                    "<step>__output_labels, or by set_fit_request with metadata routing)."
                )
            return None
        labels = np.asarray(output_labels)
        if len(shape) == 2 or labels.shape != shape[:2]:
            raise ValueError(
                f"Found output_labels of shape {labels.shape} for X of shape {shape}. Expected pairs "
                "(n_pairs, 2, n_features) with labels (n_pairs, 2); for outputs y already is the label."
            )
        found = set(labels[sample_weight > 0].ravel().tolist()) | set(labels[~np.isin(labels, [0, 1])].tolist())
        if found != {0, 1}:
            raise ValueError(
                f"Found the labels {sorted(found, key=repr)[:4]} in output_labels (where sample_weight is above 0). "
                "Expected both 1 (desirable) and 0 (not), and no other."
            )
        return labels.astype(np.int8) if is_read else None


def _check_classes(y):
    """The two classes of labels ``y``."""
    classes = distinct_labels(y)
    check_classification_targets(y)
    if len(classes) > 2:
        ties = f" If one of the three means a tie: {TIES_REMEDY}" if len(classes) == 3 else ""
        raise ValueError(
            "Only binary classification is supported. The type of the target is multiclass: found "
            f"{len(classes)} classes, {classes[:5].tolist()}. Expected two, the larger meaning 'the first output "
            f"is preferred' (for outputs: 'desirable').{ties}"
        )
    if len(classes) < 2:
        raise ValueError(
            f"Found one class only in y: {classes.tolist()[0]!r}. Expected two. If the first output is always the "
            "preferred one, pass y=None, or shuffle the sides with fairl_sk.make_pairs (scorers and splitters need "
            "two classes)."
        )
    return classes


def _check_layers(sizes):
    """Refuse widths of hidden layers that are none."""
    if not np.iterable(sizes) or not all(isinstance(size, Integral) and size >= 1 for size in sizes):
        raise ValueError(
            f"Found hidden_layer_sizes={sizes!r}. Expected a sequence of whole numbers of at least 1, a width for each "
            "layer: (64,) is one layer of 64, () is none."
        )


def _check_orientation(margins, weight):
    """Warn of a reward that has turned its sign: too much weight on failures can do that with label noise."""
    accuracy = np.average((margins > 0) + 0.5 * (margins == 0), weights=weight)
    if accuracy < 0.5 - 1 / np.sqrt(np.count_nonzero(weight)):  # two standard errors below a coin
        warn_user(
            f"The reward orders {accuracy:.1%} of its own training pairs as preferred, fewer than half: it has turned "
            "against the preferences. Lower failure_weight, raise alpha_fail, or check which class of y means that the "
            "first output is preferred."
        )
