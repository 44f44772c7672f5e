"""The estimators: `MaxMarginIRL`, `MaxEntropyIRL` and `FailureAwareIRL`; the place to read what a fit does."""

import warnings
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
)  # the parameters' declared constraints
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d

from ..device import torch_device
from ..pairs import TIES_REMEDY, check_pairs, distinct_labels, preference_sign
from .failures import LabelFailures, MarginFailures, NearTieFailures, OutputSignFailures, fit_detector
from .net import (
    Curriculum,
    DualPath,
    DualPathLoss,
    DualPathNet,
    JointSolver,
    LinearSolver,
    ProgressBar,
    SliceIterator,
    SolvedBase,
    converged,
    export_heads,
    head_reward,
    import_heads,
)
from .objective import ExponentialSchedule, LinearSchedule, schedule_values
from .pointwise import estimate_weight
from .products import FormedDifferences, readable_tensor, release_freed_memory, worth_forming
from .sampling import clustered_weights, keys_of_pairs, output_keys

__all__ = ["FailureAwareIRL", "MaxEntropyIRL", "MaxMarginIRL"]

# Below so many values a pass takes less time than waiting for a second thread may, above all on a busy machine.
_WORTH_THREADS = 2**21

_DIVERGED = (
    "The rounds diverged: rewards of training outputs are not finite. Lower learning_rate or failure_weight, or raise "
    "alpha_fail."
)

_POSITIVE = Interval(Real, 0, None, closed="neither")
_NON_NEGATIVE = Interval(Real, 0, None, closed="left")
_SCHEDULE = [_NON_NEGATIVE, callable, None]


class _PreferenceIRL(ClassifierMixin, BaseEstimator):
    """What the three estimators share: reading pairs, running the rounds, and the reward that results."""

    _parameter_constraints = {
        "alpha": [_NON_NEGATIVE],
        "hidden_layer_sizes": ["array-like"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [_NON_NEGATIVE],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"auto"}), _POSITIVE],
        "device": [str],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "temperature": [_POSITIVE],
    }

    # ------------------------------------------------------------------------------------------ prediction

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
        X = check_pairs(X, estimator=self, reset=False)
        rewards = self._rewards(X)
        if X.ndim == 3:
            return rewards[:, 0] - rewards[:, 1]  # the offset cancels, and would cost digits
        return rewards + X.dtype.type(self.intercept_)

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
            Columns in the order of ``classes_``. Max-margin does not learn probabilities: see its ``temperature``.

        Notes
        -----
        Of outputs it is relative to ``intercept_``, which counts both classes one half: 1/2 stands where `predict`
        changes, not where both classes are as frequent. Where one label is rare, ``CalibratedClassifierCV`` gives
        probabilities that are frequencies. Probabilities of pairs do not depend on ``intercept_``.
        """
        scaled = self.decision_function(X) / self.temperature
        return np.exp(-np.logaddexp(0, np.stack([scaled, -scaled], axis=1)))

    def score(self, X, y=None, sample_weight=None):
        """Accuracy of `predict`: for pairs the share that is ordered rightly.

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

    def _rewards(self, X):
        """R of every output but for the offset: (n_pairs, 2) or (n_samples,)."""
        flat = X.reshape(-1, X.shape[-1])
        if hasattr(self, "coef_"):
            rewards = flat @ self.coef_.astype(X.dtype)
        else:
            rewards = head_reward(self.base_weights_, flat) + head_reward(self.failure_weights_, flat)
        return rewards.reshape(X.shape[:-1])

    # -------------------------------------------------------------------------------------------- learning

    def _fit(self, X, y, sample_weight, output_labels=None, *, hold_differences=True):
        """Fit, or leave everything as it was: an interrupt or an error does not half-fit an estimator.

        Without ``hold_differences``, those of many pairs are formed anew each time: slower, and without room for them.
        """
        before = dict(vars(self))
        try:
            self._check_layers()
            self._validate_params()
            self._learn(X, y, sample_weight, output_labels, hold_differences)
        except BaseException as error:
            vars(self).clear()
            vars(self).update(before)
            if isinstance(error, RuntimeError) and "without overflow" in str(error):  # torch: a step beyond float32
                raise ValueError(_DIVERGED) from error
            raise
        return self

    def _learn(self, X, y, sample_weight, output_labels, hold_differences):
        earlier = (self.base_weights_, self.failure_weights_) if self.warm_start and hasattr(self, "n_iter_") else None
        X = check_pairs(X, estimator=self)
        if earlier is not None:
            self._check_start(earlier)
        sign = self._check_target(X, y)
        sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if y is not None and len(np.unique(sign[sample_weight > 0])) < 2:
            raise ValueError("Found one class only among the rows whose sample_weight is above 0. Expected two.")
        curriculum = self._curriculum_settings()
        labels = self._check_labels(output_labels, X.shape, curriculum["detector"], sample_weight)

        rng = check_random_state(self.random_state)
        seed = int(rng.randint(np.iinfo(np.int32).max))
        outputs = output_keys(X, seed)
        keys, opposite = keys_of_pairs(outputs, sign, seed)
        if X.ndim == 3:
            _warn_of_contradictions(keys, opposite, sample_weight)
            sample_weight = clustered_weights(outputs, sample_weight, self._recurrence_correlation())
        detector = fit_detector(curriculum["detector"], X, sign, sample_weight, labels, seed)
        curriculum["detector"] = detector
        labels = None if getattr(detector, "partial_labels", False) else labels  # a few labels place no offset
        rows = _differences(X, sign) if hold_differences else self._formed_differences(X, sign)
        scale = _scale_of(rows, sample_weight, paired=X.ndim == 3)
        curriculum = self._settle(curriculum, lambda: outputs_weight(X, sign, sample_weight, keys, labels), X.ndim == 3)
        if X.ndim == 3 and not self._layers()[0] and self._loss_settings(scale)["pointwise_weight"] > 0:
            del rows  # before there is room for the others
            rows = centred_outputs(X, sign, sample_weight, np.arange(len(X)))

        def rewards_of(module):
            rewards = _reward_of(export_heads(module, scale, X.shape[-1]), X)
            rewards = rewards + self._offset(rewards, sign, sample_weight, labels)
            return preferred_first(rewards, sign) if X.ndim == 3 else rewards[:, None]

        callback = Curriculum(
            **curriculum,
            keys=keys,
            sample_weight=sample_weight,
            rewards=rewards_of,
            output_labels=preferred_first(labels, sign),
        )
        net = self._run_rounds(X, rows, sign, sample_weight, scale, seed, earlier, callback, labels)
        self._keep(net, callback, scale, X, sign, sample_weight, labels)

    def _formed_differences(self, X, sign):
        """What forms the differences, where that is worth it and linear heads read all of them each time."""
        worth = worth_forming(len(X), X.shape[-1], X.itemsize, torch_device(self.device))
        if not worth or any(self._layers()) or self.batch_size != "auto":
            return _differences(X, sign)
        release_freed_memory()  # of the keys
        X, sign = readable_tensor(X), torch.from_numpy(sign.astype(X.dtype))
        return FormedDifferences(X, sign, {0: np.arange(len(X))}, {0: 1.0})

    def _curriculum_settings(self):
        self._check_strictness()
        return self._schedules()

    def _check_strictness(self):
        """Refuse constraints of failures that are not stricter; the standard learners have none."""

    def _settle(self, curriculum, estimate, paired):
        """The curriculum, once the weight of single outputs is set, by ``estimate()`` if need be."""
        return curriculum

    def _alpha_fail(self):
        """L2 strength of the failure head, a head of zeros in the standard learners."""
        return self.alpha

    def _recurrence_correlation(self):
        """How much pairs of outputs that recur count less."""
        return 0.0

    def _layers(self):
        """Widths of the hidden layers of the base and of the failure head."""
        return tuple(self.hidden_layer_sizes), tuple(self.hidden_layer_sizes)

    def _check_layers(self):
        _check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)

    def _check_start(self, earlier):
        for head, weights, layers in zip(("base", "failure"), earlier, self._layers(), strict=True):
            sizes, found = [self.n_features_in_, *map(int, layers)], [weight.shape[1] for weight in weights[::2]]
            if found != sizes:
                raise ValueError(
                    f"warm_start=True goes on from heads with inputs {found} ({head} head), but X and the sizes of the "
                    f"hidden layers ask for {sizes}. Keep both as they were, or set warm_start=False."
                )

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
        self.classes_ = classes
        return preference_sign(y, len(X), classes=classes)

    def _check_labels(self, output_labels, shape, detector, sample_weight):
        partial = getattr(detector, "partial_labels", False)
        if output_labels is None:
            if getattr(detector, "requires_labels", False):
                raise ValueError(
                    f"failures={self.failures!r} needs the labels of the outputs: pass output_labels, shape "
                    f"(n_pairs, 2), 1 = desirable and 0 = not{', NaN = unknown' * partial}, to fit (through a "
                    "Pipeline as <step>__output_labels, or by set_fit_request with metadata routing)."
                )
            return None
        labels = np.asarray(output_labels)
        if len(shape) == 2 or labels.shape != shape[:2]:
            raise ValueError(
                f"Found output_labels of shape {labels.shape} for X of shape {shape}. Expected pairs "
                "(n_pairs, 2, n_features) with labels (n_pairs, 2); for outputs y already is the label."
            )
        if partial:  # which of them are enough is the detector's to say
            return labels
        known = np.isin(labels, [0, 1])
        found = labels[~known].tolist()[:1] or np.unique(labels).tolist()
        if not known.all() or len(found) < 2:
            raise ValueError(
                f"Found the label {found[0]!r} in output_labels. Expected both 1 (desirable) and 0 (not), and no other."
            )
        if len(np.unique(labels[sample_weight > 0])) < 2:
            raise ValueError("Found one label only in output_labels where sample_weight is above 0. Expected 1 and 0.")
        return labels.astype(np.int8) if getattr(detector, "requires_labels", False) else None

    def _run_rounds(self, X, rows, sign, sample_weight, scale, seed, earlier, curriculum, labels):
        base, failure = self._layers()
        device = torch_device(self.device)
        orientation = side = sign
        if not base:  # in the order (preferred, other)
            if isinstance(rows, FormedDifferences):
                rows.scales[0] = scale
            else:
                rows /= rows.dtype.type(scale)
            labels, side = preferred_first(labels, sign), np.ones(len(X))
        if base or failure:
            features = _scaled_outputs(X, scale, constant=not base or not failure)
        else:
            features, orientation = rows, side
        if not isinstance(features, FormedDifferences):
            features = torch.from_numpy(features).to(device)
        targets = [sample_weight * (len(X) / sample_weight.sum()), np.zeros(len(X)), orientation]
        targets = np.stack([*targets, *output_sides(side, labels).T])
        targets = torch.from_numpy(targets).to(device, features.dtype).T  # each column contiguous
        net = self._build_net(features, scale, seed, earlier, curriculum)
        if not base and failure:
            rows = torch.from_numpy(rows).to(device)
            net.solved_base = SolvedBase(net.module_.base, rows, **self._solver_settings(scale, rows.shape[-1]))
        threads = torch.get_num_threads()
        if features.numel() < _WORTH_THREADS:
            torch.set_num_threads(1)
        net.notify("on_train_begin", X=features, y=targets)
        try:
            for _ in range(self.max_iter):
                net.fit_loop(features, targets, epochs=1)
                if converged(net):
                    break
        finally:
            net.notify("on_train_end", X=features, y=targets)
            torch.set_num_threads(threads)
        return net

    def _batch_size(self, n_rows, linear):
        if self.batch_size == "auto":
            return n_rows if linear else min(256, n_rows)
        return min(self.batch_size, n_rows)

    def _build_net(self, features, scale, seed, earlier, curriculum):
        base, failure = self._layers()
        linear, width = not base and not failure, features.shape[-1]
        batch_size = self._batch_size(len(features), linear)
        callbacks = [curriculum] + [ProgressBar(self.max_iter, type(self).__name__)] * bool(self.verbose)
        if linear and batch_size == len(features):
            settings = self._solver_settings(scale, width)
            optimizer = {
                "optimizer": settings.pop("solver"),
                **{f"optimizer__{name}": value for name, value in settings.items()},
                "optimizer__param_groups": [("base.*", {}), ("failure.*", {})],
            }
        else:
            learning_rate = 0.003 if self.learning_rate == "auto" else self.learning_rate
            optimizer = {"optimizer": torch.optim.Adam, "optimizer__lr": learning_rate}
        loss = self._loss_settings(scale)
        start = None if earlier is None else import_heads(earlier, scale, width)
        net = DualPathNet(
            module=DualPath,
            module__n_features=self.n_features_in_,
            module__hidden_layer_sizes=base,
            module__failure_hidden_layer_sizes=failure,
            module__constant=width > self.n_features_in_,
            module__seed=seed,
            module__dtype=features.dtype,
            module__start=start,
            module__with_outputs=loss["pointwise_weight"] > 0 and (linear or bool(base)),
            criterion=DualPathLoss,
            **{f"criterion__{name}": value for name, value in loss.items()},
            **optimizer,
            batch_size=batch_size,
            iterator_train=SliceIterator,
            iterator_train__seed=seed,
            train_split=None,
            callbacks=callbacks,
            verbose=0,
            device=str(features.device),
        )
        net.initialize()
        net.curriculum = curriculum
        return net

    def _solver_settings(self, scale, width):
        """The solver of linear heads of so many inputs, and its settings."""
        loss = self._loss_settings(scale)
        return {
            "solver": JointSolver if loss.get("failure_gradient") == "both" else LinearSolver,
            "lr": self._solver_step(scale, biased=width > self.n_features_in_),
            "tol": self.tol,
            "n_rounds": self.max_iter,
        }

    def _solver_step(self, scale, *, biased):
        """Step size of the failure path under `LinearSolver`."""
        step = 0.1 if self.learning_rate == "auto" else self.learning_rate
        # the bias of outputs is a feature of length 1 / scale beside those of mean squared length 1
        return step / (1 + biased / scale**2)

    def _set_heads(self, heads):
        """Set the learned weights; return the learned bias that ``coef_`` leaves out, which outputs have."""
        for name in ("coef_", "base_coef_", "failure_coef_"):
            vars(self).pop(name, None)
        self.base_weights_, self.failure_weights_ = heads
        for name, weights in zip(("base_coef_", "failure_coef_"), heads, strict=True):
            if len(weights) == 2:
                setattr(self, name, weights[0][0])
        if any(self._layers()):
            return 0.0  # the rewards of these heads come with their biases
        self.coef_ = self.base_coef_ + self.failure_coef_
        return float(heads[0][-1][0] + heads[1][-1][0])

    def _keep(self, net, curriculum, scale, X, sign, sample_weight, labels):
        """Turn the net into plain arrays in the units of the input."""
        heads = export_heads(net.module_, scale, X.shape[-1])
        learned = self._set_heads(heads)
        rewards = _reward_of(heads, X)
        if not np.isfinite(rewards).all():
            raise ValueError(_DIVERGED)
        self.intercept_ = learned + self._offset(rewards, sign, sample_weight, labels)
        if X.ndim == 3:
            _check_orientation(sign * (rewards[:, 0] - rewards[:, 1]), sample_weight)
        self.history_ = curriculum.rows_
        self.n_iter_ = len(curriculum.rows_)
        self.dual_gap_ = float(net.solver.gap) if net.solver is not None else np.nan
        if net.solver is not None and self.dual_gap_ > 10 * self.tol > 0:
            warnings.warn(
                f"{type(self).__name__} stopped after {self.n_iter_} rounds at a duality gap of "
                f"{self.dual_gap_:.1e}, above 10 * tol = {10 * self.tol:g}. Raise max_iter or "
                "alpha, or scale the features.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _offset(self, rewards, sign, sample_weight, labels):
        """What to add so that 0 separates the outputs best: chosen from rejected or, if given, by label."""
        if rewards.ndim == 1:
            return -separating_threshold(rewards, sign > 0, sample_weight)
        positive = np.stack([sign > 0, sign < 0], axis=1) if labels is None else labels == 1
        return -separating_threshold(rewards.ravel(), positive.ravel(), np.repeat(sample_weight, 2))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.three_d_array = True
        return tags


# ------------------------------------------------------------------------------------------- steps of a fit


def separating_threshold(rewards, positive, weight):
    """Threshold that separates two sets of rewards best.

    Parameters
    ----------
    rewards : ndarray of shape (n_outputs,)
    positive : ndarray of shape (n_outputs,), bool
        Which outputs should lie above the threshold.
    weight : ndarray of shape (n_outputs,)

    Returns
    -------
    threshold : float
        Half-way between two neighbouring rewards, where the balanced accuracy (each set counts one half) is largest.
        Of several such places the middle one; a constant reward is its own threshold.

    Examples
    --------
    >>> separating_threshold(np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, False, True, True]), np.ones(4))
    1.5
    """
    if not weight.all():
        rewards, positive, weight = (values[weight > 0] for values in (rewards, positive, weight))
    share = weight.astype(np.float64)
    share[positive] /= weight[positive].sum()
    share[~positive] /= -weight[~positive].sum()
    order = np.argsort(rewards)
    rewards, share = rewards[order], share[order]
    del order
    places = np.flatnonzero(rewards[1:] > rewards[:-1])
    if not len(places):
        return float(rewards[0])
    below = np.cumsum(share, out=share)[places]  # positives less negatives at or below the place: small is good
    best = np.flatnonzero(below <= below.min() + 1e-12)
    place = places[best[(len(best) - 1) // 2]]
    return float((np.float64(rewards[place]) + rewards[place + 1]) / 2)


def preferred_first(values, sign):
    """Values (n_pairs, 2) of the outputs in the order (preferred, other); None stays None."""
    return None if values is None else np.where(sign[:, None] > 0, values, values[:, ::-1])


def _reward_of(heads, X):
    """Sum of the heads for every output, (n_pairs, 2) or (n_samples,)."""
    flat = X.reshape(-1, X.shape[-1])
    if all(len(head) == 2 for head in heads):  # the sum of linear heads is linear: one pass over X
        heads = [[base + failure for base, failure in zip(*heads, strict=True)]]
    return sum(head_reward(head, flat) for head in heads).reshape(X.shape[:-1])


def _differences(X, sign):
    """Features of the preferred minus the other output; of outputs, with a constant feature that learns a bias."""
    if X.ndim == 3:
        differences = np.subtract(X[:, 0], X[:, 1])
    else:
        differences = np.empty((len(X), X.shape[1] + 1), dtype=X.dtype)
        differences[:, :-1], differences[:, -1] = X, 1
    differences *= sign[:, None].astype(X.dtype)
    return differences


def _scaled_outputs(X, scale, *, constant):
    """Features of the outputs (n, 2, d), or (n, 1, d), in the unit of a fit; of single ones with a constant, if asked.

    The constant is that of `_differences`: linear heads learn their bias by it.
    """
    if X.ndim == 3:
        return X / X.dtype.type(scale)
    if constant:
        X = np.concatenate([X, np.ones((len(X), 1), dtype=X.dtype)], axis=1)
    return (X / X.dtype.type(scale))[:, None]


def output_sides(sign, labels):
    """Side of the threshold of every output, (n_pairs, 2): that of its label, else that of the preference."""
    return np.stack([sign, -sign], axis=1) if labels is None else np.where(labels == 1, 1.0, -1.0)


def outputs_weight(X, sign, sample_weight, keys, labels):
    """What single outputs should count beside the pairs."""
    return estimate_weight(X, sign, sample_weight, keys, output_sides(sign, labels))


def centred_outputs(X, sign, sample_weight, rows):
    """Outputs of some rows' pairs in the order (preferred, other), less their weighted mean; all else is small."""
    outputs = np.empty((len(rows), *X.shape[1:]), dtype=X.dtype)
    total = np.zeros(X.shape[-1])
    for begin in range(0, len(rows), 4096):
        own = rows[begin : begin + 4096]
        chunk = outputs[begin : begin + len(own)]
        chunk[:] = X[own]
        chunk[sign[own] < 0] = chunk[sign[own] < 0, ::-1]
        total += sample_weight[own] @ chunk.sum(axis=1, dtype=np.float64)
    outputs -= (total / (2 * sample_weight[rows].sum())).astype(X.dtype)
    return outputs


def _scale_of(differences, sample_weight, *, paired):
    """Root of the mean squared length of the differences: in this unit the step sizes have a meaning."""
    width = differences.shape[1] - (not paired)

    def chunks():  # they keep the float64 copies, which make squares of float32 safe, small
        if isinstance(differences, FormedDifferences):
            return (piece[:, :width].numpy() for piece in differences.pieces())
        return np.array_split(differences[:, :width], len(differences) // 4096 + 1)

    return checked_scale(
        np.concatenate([squared_lengths(chunk) for chunk in chunks()]),
        sample_weight,
        paired=paired,
        any_feature=lambda rows: np.concatenate([chunk.any(axis=1) for chunk in chunks()])[rows].any(),
    )


def squared_lengths(differences):
    """Squared length of every difference, (n_rows,), float64."""
    with np.errstate(over="ignore"):
        return np.square(differences, dtype=np.float64).sum(axis=1)


def checked_scale(squares, sample_weight, *, paired, any_feature):
    """Root of the mean of squared lengths; ``any_feature(rows)`` tells whether one of the rows' features is not 0."""
    with np.errstate(over="ignore"):
        scale = float(np.sqrt(np.average(squares, weights=sample_weight)))
    if not np.isfinite(scale):
        raise ValueError("The features are too large (their squares overflow): scale them, e.g. by StandardScaler.")
    tiny = scale**2 < 1e-290  # divided by it, the penalty would overflow
    if tiny and any_feature(sample_weight > 0):
        raise ValueError("The features are too small (their squares underflow): scale them, e.g. by StandardScaler.")
    if tiny and paired:
        raise ValueError(
            "All pairs are identical on both sides: no reward can be learned from them. Check that X[:, 0] and "
            "X[:, 1] hold different outputs."
        )
    return scale or 1.0


def _warn_of_contradictions(keys, opposite, sample_weight):
    counted = (sample_weight > 0) & (keys != opposite)  # a pair of identical sides contradicts nothing
    contradicted = counted & np.isin(opposite, keys[counted])
    if contradicted.any():
        warnings.warn(
            f"{contradicted.sum()} of {len(keys)} pairs contradict another pair (the same two outputs, the other one "
            f"preferred), first row {np.flatnonzero(contradicted)[0]}. No reward orders both as preferred: drop them, "
            "or keep them as ties.",
            UserWarning,
            stacklevel=5,
        )


def _check_orientation(margins, sample_weight):
    """Warn of a reward that has turned its sign: too much weight on failures can do that where labels are noisy."""
    accuracy = np.average((margins > 0) + 0.5 * (margins == 0), weights=sample_weight)
    if accuracy < 0.5 - 1 / np.sqrt(np.count_nonzero(sample_weight)):  # two standard errors below a coin
        warnings.warn(
            f"The reward orders {accuracy:.1%} of its own training pairs as preferred, fewer than half: it has turned "
            "against the preferences. Lower failure_weight, raise alpha_fail, or check which class of y means that the "
            "first output is preferred.",
            UserWarning,
            stacklevel=6,
        )


# ---------------------------------------------------------------------------------------------- estimators

_SHARED_PARAMETERS = """alpha : float >= 0, default=1e-3
        L2 strength of the base path. Larger: smaller rewards that lean on fewer directions. ``LogisticRegression``'s
        and ``LinearSVC``'s ``C`` is ``1 / (2 * alpha * n_pairs)``. With hidden layers every weight matrix is penalised
        by ``alpha`` over the squared root mean squared length of the differences, for features divided by that length.
    hidden_layer_sizes : sequence of int, default=()
        Widths of ReLU layers in each head. Empty: linear rewards, whose margins need the differences only.
    max_iter : int, default=100
        Number of rounds. Linear full-batch fits stop before, once the base path has converged and no failures are
        to come.
    tol : float >= 0, default=1e-4
        Duality gap at which a linear base path has converged and rests, as a share of the loss of a constant reward.
        A fit that ends at more than ten times of it warns. 0 runs all rounds.
    batch_size : int or "auto", default="auto"
        Pairs in a step. "auto": all for linear heads, 256 with hidden layers. Linear heads with smaller batches, and
        heads with hidden layers, are trained by Adam and reach no certified optimum. Beside a failure head with hidden
        layers, which it is for then, a linear base head takes all pairs at once.
    learning_rate : float > 0 or "auto", default="auto"
        Step size of the gradient steps by which failures move linear heads, or of Adam; in units where differences
        have root mean squared length 1 (of outputs, the bias's constant is counted), so that it does not depend on the
        features' scale. "auto": 0.1, or 0.003 for Adam.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where the rounds run. "auto": a GPU if there is one. Predictions always run on the CPU.
    random_state : int, RandomState or None, default=None
        Start of the heads, sampling of failures, halves for ``pointwise_weight="auto"``, order of batches. The same int
        gives the same bits.
    warm_start : bool, default=False
        Start from the last fit's heads (the curriculum starts anew).
    verbose : int or bool, default=0
        Show a progress bar over the rounds.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
        The reward's weights, theta_D + theta_F (both heads linear).
    base_coef_, failure_coef_ : ndarray of shape (n_features,)
        theta_D and theta_F (each where that head is linear).
    base_weights_, failure_weights_ : list of ndarray
        The heads' layers, [W, b, W, b, ...].
    intercept_ : float
        Offset of the reward. It cancels in margins, so that pairs cannot identify it: it is set after the rounds so
        that 0 separates the chosen from the rejected training outputs (the desirable from the others) best, both
        counting one half.
    classes_ : ndarray of shape (2,)
        The two classes; the larger means "the first is preferred" (of outputs: "desirable").
    history_ : list of dict
        A row a round: losses, failure threshold, weight and rate, numbers of failures and of sampled failures (rows,
        whatever their sample weights), 5 %, 50 % and 95 % quantiles of the margins (of 4,096 evenly spaced pairs), all
        before the round's step.
    n_iter_ : int
        Number of rounds that ran.
    dual_gap_ : float
        Duality gap of the base path as last measured, before its last step, as a share of the loss of a constant
        reward; NaN where Adam trained it or failures moved it. The base path's objective is at most this far from its
        optimum, as a step only lowers it. Without penalty (``alpha=0``) there is no gap, and it is the gradient's norm
        as a share of the first one.
    n_features_in_ : int
        Number of features of an output.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, for tables."""


def _document(cls):
    """Put the one text on the shared parameters into a class docstring."""
    if cls.__doc__:
        cls.__doc__ = cls.__doc__.replace("{shared}", _SHARED_PARAMETERS)
    return cls


@_document
class MaxMarginIRL(_PreferenceIRL):
    r"""Standard IRL by maximum margin: the convex, bounded form of max-margin reward learning.

    Minimises

    .. math:: \frac{1}{\sum_i w_i} \sum_i w_i \max(0, M - \Delta_i) + \alpha \|\theta\|^2,

    with :math:`\Delta_i = R(o_i^+) - R(o_i^-)` the margin of pair i, M the ``margin``, :math:`\alpha` the ``alpha``
    and :math:`w_i` the sample weights (theory, eq. 2). With linear heads it is the problem of ``LinearSVC(
    loss="hinge", fit_intercept=False)`` on the differences, and solved to a duality gap of ``tol``.

    Parameters
    ----------
    margin : float > 0, default=1.0
        Required margin M, in units of reward. Together with ``alpha`` it sets the reward's unit: scaling both by c
        and 1 / c scales the reward by c.
    temperature : float > 0, default=1.0
        Scale of `predict_proba`, in units of reward. It is not learned and does not change the reward.
    {shared}

    See Also
    --------
    MaxEntropyIRL : The probabilistic baseline.
    FailureAwareIRL : The same objectives with a failure path.

    References
    ----------
    .. [1] A. Ng and S. Russell. Algorithms for inverse reinforcement learning. ICML 2000.
    .. [2] Patel et al. Learning from failures. arXiv 2510.06092, section 4.

    Examples
    --------
    >>> from fairl_sk import MaxMarginIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, random_state=0)
    >>> MaxMarginIRL(random_state=0).fit(data.data, data.target).score(data.data, data.target) > 0.95
    True
    """

    _parameter_constraints = {**_PreferenceIRL._parameter_constraints, "margin": [_POSITIVE]}

    def __init__(
        self,
        *,
        margin=1.0,
        temperature=1.0,
        alpha=1e-3,
        hidden_layer_sizes=(),
        max_iter=100,
        tol=1e-4,
        batch_size="auto",
        learning_rate="auto",
        device="cpu",
        random_state=None,
        warm_start=False,
        verbose=0,
    ):
        self.margin = margin
        self.temperature = temperature
        self.alpha = alpha
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

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
            If a linear base path ends at a duality gap above ``10 * tol``.
        UserWarning
            If pairs contradict each other, or the reward orders clearly fewer than half of its training pairs as
            preferred.
        """
        return self._fit(X, y, sample_weight)

    def _loss_settings(self, scale):
        return _standard_loss("max_margin", self.margin, self.alpha, scale)

    def _schedules(self):
        return _no_curriculum(self.max_iter)


@_document
class MaxEntropyIRL(_PreferenceIRL):
    r"""Standard IRL by maximum entropy: the Bradley-Terry likelihood of the preferences.

    Minimises

    .. math:: \frac{1}{\sum_i w_i} \sum_i w_i \log(1 + e^{-\Delta_i / \tau}) + \alpha \|\theta\|^2,

    with :math:`\Delta_i = R(o_i^+) - R(o_i^-)` the margin of pair i, :math:`\tau` the ``temperature``,
    :math:`\alpha` the ``alpha`` and :math:`w_i` the sample weights (theory, eq. 3). With linear heads and
    :math:`\tau = 1` it is the problem of ``LogisticRegression(fit_intercept=False)`` on the differences, and solved to
    a relative duality gap of ``tol``.

    Parameters
    ----------
    temperature : float > 0, default=1.0
        Temperature tau, in units of reward: a margin of one temperature means odds of e to 1. Larger: larger rewards.
    {shared}

    See Also
    --------
    MaxMarginIRL : The baseline with required margins.
    FailureAwareIRL : The same objectives with a failure path.

    References
    ----------
    .. [1] B. Ziebart et al. Maximum entropy inverse reinforcement learning. AAAI 2008.
    .. [2] Patel et al. Learning from failures. arXiv 2510.06092, section 4.

    Examples
    --------
    >>> from fairl_sk import MaxEntropyIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, random_state=0)
    >>> reward = MaxEntropyIRL(random_state=0).fit(data.data, data.target)
    >>> reward.predict_proba(data.data[:3]).shape
    (3, 2)
    """

    def __init__(
        self,
        *,
        temperature=1.0,
        alpha=1e-3,
        hidden_layer_sizes=(),
        max_iter=100,
        tol=1e-4,
        batch_size="auto",
        learning_rate="auto",
        device="cpu",
        random_state=None,
        warm_start=False,
        verbose=0,
    ):
        self.temperature = temperature
        self.alpha = alpha
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    def fit(self, X, y=None, sample_weight=None):
        """Learn the reward. See `MaxMarginIRL.fit`: parameters, errors and warnings are the same.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None

        Returns
        -------
        self : object
        """
        return self._fit(X, y, sample_weight)

    def _loss_settings(self, scale):
        return _standard_loss("max_entropy", self.temperature, self.alpha, scale)

    def _schedules(self):
        return _no_curriculum(self.max_iter)


_DETECTORS = {
    "near_ties": NearTieFailures,
    "margin": MarginFailures,
    "sign": OutputSignFailures,
    "labels": LabelFailures,
}


@_document
class FailureAwareIRL(_PreferenceIRL):
    r"""Failure-aware IRL: a second head corrects the pairs that the reward gets wrong or nearly ties.

    The reward is :math:`R = R_D + R_F`. In round t = 0, ..., T - 1 it takes a step on

    .. math::

        \frac{1}{\sum_i w_i} \sum_i w_i\, \ell(\Delta_{D,i})
        + \lambda_t \frac{1}{\sum_{i \in S_t} w_i} \sum_{i \in S_t} w_i\, \ell_F(\Delta_{D,i} + \Delta_{F,i})
        + \alpha \|\theta_D\|^2 + \alpha_F \|\theta_F\|^2

    where :math:`\ell` is the loss of `MaxMarginIRL` or of `MaxEntropyIRL`, :math:`\ell_F` is the same with the
    stricter ``margin_fail`` or ``temperature_fail``, and :math:`S_t` is a sample of at most
    :math:`p_t \sum_i w_i` of the failures :math:`F_t` (theory, eq. 4 to 7). The second term's gradient reaches the
    failure head only (``failure_gradient``). With ``pointwise_weight=0`` and ``recurrence_correlation=0`` the base path
    is the standard learner, and with ``failure_weight=0``, too, the fit is; else the loss of single outputs is added to
    the first term, and :math:`w_i` is less for outputs that recur.

    The defaults did best without labels on development splits of our benchmarks: failures are near-ties, the objective
    is max-entropy, what single outputs count follows from the pairs, and pairs of outputs that recur count less. The
    paper's settings are `paper`. Where labels of the outputs are at hand, they are worth more:
    ``failures=ConfirmedFailures(), failure_weight=1, pointwise_weight=3``.

    Parameters
    ----------
    objective : {"max_entropy", "max_margin"}, default="max_entropy"
        Loss of a margin. The parameters of the other one are of no effect.
    margin, margin_fail : float > 0, default=1.0, 2.0
        Required margins M of all pairs and M_fail > M of sampled failures, in units of reward ("max_margin"). A larger
        ``margin_fail`` pulls failures further apart.
    temperature, temperature_fail : float > 0, default=1.0, 0.5
        Temperatures tau of all pairs and tau_fail < tau of sampled failures, in units of reward ("max_entropy"). A
        smaller ``temperature_fail`` punishes a failure harder. ``temperature`` is also the scale of `predict_proba`.
    failure_threshold : float, schedule or None, default=None
        gamma_t, in units of reward: how large the margin of a failure can be. None: rising linearly from 0 to
        ``margin`` or ``temperature``.
    failure_weight : float >= 0, schedule or None, default=None
        lambda_t. None: ``ExponentialSchedule(start=10, decay=5)``, the paper's. 0 switches the failure path off.
    failure_rate : float in [0, 1], schedule or None, default=None
        p_t, the largest share of the pairs (by weight) that a round samples as failures. None: falling linearly
        from 0.2 to 0.
    failures : {"near_ties", "margin", "sign", "labels"} or detector, default="near_ties"
        What is a failure: a margin at most ``failure_threshold`` away from 0, hence an undecided pair; one at or below
        it (the paper's), hence also a pair that is clearly contradicted, as flipped preferences are; a pair with an
        output on the wrong side of 0, which separates preferred from other outputs; an output whose reward has another
        sign than its label (the paper's with labels; needs ``output_labels`` in `fit`, which then also place the
        offset); or an object with ``detect``, see `fairl_sk.learning.failures`: ``ConfirmedFailures()`` made more of labels in
        our benchmarks.
    alpha_fail : float >= 0 or None, default=None
        L2 strength of the failure path. Larger: smaller corrections. None: that of the base path, ``alpha``.
    pointwise_weight : float >= 0 or "auto", default="auto"
        What the single outputs of the pairs count in the base path, beside the pairs' own 1: each preferred output
        should lie above a threshold that is learned, each other one below; where a detector reads labels, each
        desirable output above and the others below. Larger: rewards that compare better across prompts, where what is
        preferred means the same for every prompt. "auto": what the pairs say that it is worth, 0 where both outputs of
        a pair were drawn alike and only their order tells of the reward, up to 10, where preferred outputs have a
        population of their own (theory, "What single outputs count"); ``failure_weight`` is then divided by one more
        than it. 0: pairs only, as in the paper. Of no effect where ``X`` holds single outputs.
    recurrence_correlation : float in [0, 1], default=0.03
        How much the pairs of one output repeat each other: a pair counts :math:`1 / (1 + \\varrho (m + n - 2))` of
        its ``sample_weight`` where one of its outputs is in m distinct pairs and the other in n (theory, "Outputs
        that recur"). 0: every pair counts as if it were alone, as in the paper. Of no effect where no output is in two
        pairs, or ``X`` holds single outputs. Whatever reads ``sample_weight`` in a fit reads these weights.
    failure_hidden_layer_sizes : sequence of int or None, default=None
        Widths of ReLU layers in the failure head. None: as ``hidden_layer_sizes``; ``(64,)`` beside a linear base head
        corrects by what no linear reward can, and fits noise more easily; ``()`` is a linear correction. Beside hidden
        layers a linear base head is what it is without them.
    failure_gradient : {"failure", "both"}, default="failure"
        Which heads the gradient of the failures' term moves: the failure head only, so that the base head is that of
        the learner without failures, or both, as algorithm 1 of the paper may be read: then failures pull at the base
        head as well, against all pairs.
    {shared}
    pointwise_weight_ : float
        What single outputs counted beside the pairs; 0 where ``X`` held single outputs.

    See Also
    --------
    MaxMarginIRL, MaxEntropyIRL : The standard learners.

    Notes
    -----
    A schedule is a number, an object of `fairl_sk.learning.objective` (``ConstantSchedule``, ``LinearSchedule``,
    ``ExponentialSchedule``, ``CosineSchedule``), whose parameters ``GridSearchCV`` reaches as
    ``failure_weight__decay``, or a callable of progress in [0, 1].

    Failures are sampled by the content of the pairs: the order of the rows does not matter, and a row of weight 2 is
    the same as the row twice.

    References
    ----------
    .. [1] Patel et al. Learning from failures: understanding LLM alignment through failure-aware inverse RL.
       arXiv 2510.06092, section 4 and algorithm 1.

    Examples
    --------
    >>> from fairl_sk import FailureAwareIRL
    >>> from fairl_sk.datasets import make_preferences
    >>> data = make_preferences(500, 5, noise=0.1, random_state=0)
    >>> reward = FailureAwareIRL(random_state=0).fit(data.data, data.target)
    >>> reward.history_[0]["n_sampled"]
    100
    """

    _parameter_constraints = {
        **_PreferenceIRL._parameter_constraints,
        "objective": [StrOptions({"max_margin", "max_entropy"})],
        "margin": [_POSITIVE],
        "margin_fail": [_POSITIVE],
        "temperature_fail": [_POSITIVE],
        "failure_threshold": [Real, callable, None],
        "failure_weight": _SCHEDULE,
        "failure_rate": _SCHEDULE,
        "failures": [StrOptions(set(_DETECTORS)), HasMethods("detect")],
        "alpha_fail": [_NON_NEGATIVE, None],
        "pointwise_weight": [StrOptions({"auto"}), _NON_NEGATIVE],
        "recurrence_correlation": [Interval(Real, 0, 1, closed="both")],
        "failure_hidden_layer_sizes": ["array-like", None],
        "failure_gradient": [StrOptions({"failure", "both"})],
    }

    def __init__(
        self,
        objective="max_entropy",
        *,
        margin=1.0,
        margin_fail=2.0,
        temperature=1.0,
        temperature_fail=0.5,
        failure_threshold=None,
        failure_weight=None,
        failure_rate=None,
        failures="near_ties",
        alpha_fail=None,
        pointwise_weight="auto",
        recurrence_correlation=0.03,
        failure_hidden_layer_sizes=None,
        failure_gradient="failure",
        alpha=1e-3,
        hidden_layer_sizes=(),
        max_iter=100,
        tol=1e-4,
        batch_size="auto",
        learning_rate="auto",
        device="cpu",
        random_state=None,
        warm_start=False,
        verbose=0,
    ):
        self.objective = objective
        self.margin = margin
        self.margin_fail = margin_fail
        self.temperature = temperature
        self.temperature_fail = temperature_fail
        self.failure_threshold = failure_threshold
        self.failure_weight = failure_weight
        self.failure_rate = failure_rate
        self.failures = failures
        self.alpha_fail = alpha_fail
        self.pointwise_weight = pointwise_weight
        self.recurrence_correlation = recurrence_correlation
        self.failure_hidden_layer_sizes = failure_hidden_layer_sizes
        self.failure_gradient = failure_gradient
        self.alpha = alpha
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.tol = tol
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    @classmethod
    def paper(cls, **changes):
        """The estimator with the settings of the paper, whatever the defaults are.

        What the paper does not give, ``margin_fail``, ``temperature_fail``, the decay of ``failure_weight`` and the L2
        strengths, is as in our runs of its experiments (theory, "Where this differs from the paper"); so is what it
        leaves open, that the failures' gradient moves the failure head only.

        Parameters
        ----------
        **changes : dict
            Parameters that shall have other values.

        Returns
        -------
        estimator : FailureAwareIRL

        Examples
        --------
        >>> from fairl_sk import FailureAwareIRL
        >>> FailureAwareIRL.paper(random_state=0).failure_rate
        LinearSchedule(start=0.2, stop=0.0)
        """
        settings = {
            "objective": "max_margin",
            "margin": 1.0,
            "margin_fail": 2.0,
            "temperature": 1.0,
            "temperature_fail": 0.5,
            "failure_threshold": LinearSchedule(0.0, 1.0),
            "failure_weight": ExponentialSchedule(10.0, 5.0),
            "failure_rate": LinearSchedule(0.2, 0.0),
            "failures": "margin",
            "alpha_fail": 1e-3,
            "pointwise_weight": 0.0,
            "recurrence_correlation": 0.0,
            "failure_hidden_layer_sizes": None,
            "failure_gradient": "failure",
            "alpha": 1e-3,
            "max_iter": 100,
        }
        return cls(**{**settings, **changes})

    def set_params(self, **params):
        """Set parameters; those of a schedule or detector need the object to be there.

        Parameters
        ----------
        **params : dict
            Parameters by name, also nested: ``failure_weight__decay=2.0``.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For an unknown parameter, or a nested one of a parameter that is None, a number or a str.
        """
        for address in params:
            name, nested, _ = address.partition("__")
            value = params.get(name, getattr(self, name, None))
            if nested and name in _NESTED and not hasattr(value, "set_params"):
                raise ValueError(
                    f"Found {name}={value!r}, which has no parameters, hence no {address}. Expected an object that "
                    f"has: pass {name}={_NESTED[name]} first."
                )
        return super().set_params(**params)

    def fit(self, X, y=None, sample_weight=None, output_labels=None):
        """Learn the reward. See `MaxMarginIRL.fit` for the errors and warnings that all learners share.

        Parameters
        ----------
        X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        y : array-like of shape (n_pairs,) or (n_samples,), default=None
        sample_weight : array-like of shape (n_pairs,) or (n_samples,), default=None
        output_labels : array-like of shape (n_pairs, 2), default=None
            Labels y(o) of the outputs, in the order of ``X``: 1 = desirable, 0 = not (and NaN = unknown, for a
            detector that takes few labels). Read by detectors that ask for labels, ignored by others.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            Also if ``margin_fail <= margin``, ``temperature_fail >= temperature``, a schedule gives NaN or a value out
            of its range, or labels are needed and missing.
        """
        return self._fit(X, y, sample_weight, output_labels)

    def _loss_settings(self, scale):
        return {
            "objective": self.objective,
            "required": self._required()[0],
            "required_fail": self._required()[1],
            "alpha": self.alpha / scale**2,
            "alpha_fail": self._alpha_fail() / scale**2,
            "pointwise_weight": self.pointwise_weight_,
            "failure_gradient": self.failure_gradient,
        }

    def _alpha_fail(self):
        return self.alpha if self.alpha_fail is None else self.alpha_fail

    def _recurrence_correlation(self):
        return self.recurrence_correlation

    def _layers(self):
        base, sizes = tuple(self.hidden_layer_sizes), self.failure_hidden_layer_sizes
        return base, base if sizes is None else tuple(sizes)

    def _check_layers(self):
        super()._check_layers()
        if self.failure_hidden_layer_sizes is not None:
            _check_sizes("failure_hidden_layer_sizes", self.failure_hidden_layer_sizes)

    def _settle(self, curriculum, estimate, paired):
        if not paired or self.pointwise_weight != "auto":
            self.pointwise_weight_ = float(self.pointwise_weight) if paired else 0.0
            return curriculum
        self.pointwise_weight_ = estimate()
        # failures are of pairs, which are so much of what is learned from
        return curriculum | {"weights": curriculum["weights"] / (1 + self.pointwise_weight_)}

    def _required(self):
        if self.objective == "max_margin":
            return self.margin, self.margin_fail
        return self.temperature, self.temperature_fail

    def _schedules(self):
        """The detector and the schedules' values in every round."""
        threshold = LinearSchedule(0.0, self._required()[0])
        threshold = threshold if self.failure_threshold is None else self.failure_threshold
        weight = ExponentialSchedule() if self.failure_weight is None else self.failure_weight
        rate = LinearSchedule(0.2, 0.0) if self.failure_rate is None else self.failure_rate
        if isinstance(self.failures, type):
            raise ValueError(f"Found the class {self.failures.__name__} as failures. Expected an object of it: add ().")
        return {
            "detector": _DETECTORS[self.failures]() if isinstance(self.failures, str) else self.failures,
            "thresholds": schedule_values(threshold, self.max_iter, name="failure_threshold"),
            "weights": schedule_values(weight, self.max_iter, name="failure_weight", minimum=0),
            "rates": schedule_values(rate, self.max_iter, name="failure_rate", minimum=0, maximum=1),
        }

    def _check_strictness(self):
        if self.objective == "max_margin" and self.margin_fail <= self.margin:
            raise ValueError(
                f"Found margin_fail={self.margin_fail} and margin={self.margin}. Expected margin_fail > margin, e.g. "
                f"margin_fail={2 * self.margin:g}: failures get the stricter constraint."
            )
        if self.objective == "max_entropy" and self.temperature_fail >= self.temperature:
            raise ValueError(
                f"Found temperature_fail={self.temperature_fail} and temperature={self.temperature}. Expected "
                f"temperature_fail < temperature, e.g. temperature_fail={self.temperature / 2:g}: failures get the "
                "stricter constraint."
            )


# What to write where a nested parameter is asked for.
_NESTED = {
    "failure_threshold": "LinearSchedule(0, 1)",
    "failure_weight": "ExponentialSchedule()",
    "failure_rate": "LinearSchedule(0.2, 0)",
    "failures": "<an object of your detector's class>",
}


def _check_sizes(name, sizes):
    """Refuse widths of layers that are none."""
    if isinstance(sizes, Integral):
        raise ValueError(
            f"Found {name}={sizes}, a number. Expected a sequence with a width for each layer: ({sizes},) is one layer "
            f"of {sizes}, () is none."
        )
    if not np.iterable(sizes) or not all(isinstance(size, Integral) and size >= 1 for size in sizes):
        raise ValueError(f"Found {name}={sizes!r}. Expected a sequence of whole numbers of at least 1, e.g. (64,).")


def _standard_loss(objective, required, alpha, scale):
    alpha = alpha / scale**2
    return {
        "objective": objective,
        "required": required,
        "required_fail": required,
        "alpha": alpha,
        "alpha_fail": alpha,
        "pointwise_weight": 0.0,
    }


def _no_curriculum(n_rounds):
    zeros = np.zeros(n_rounds)
    return {"detector": MarginFailures(), "thresholds": zeros, "weights": zeros, "rates": zeros}
