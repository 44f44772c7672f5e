"""What the diagnoses read of a fitted linear reward and of its pairs, with the checks that they share."""

from numbers import Integral, Real

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..learning.failures import Round, find_failures, make_detector
from ..learning.rows import preferred_first, signed_differences
from ..pairs import check_pairs, preference_sign, stack_outputs


def split_pipeline(estimator, *inputs):
    """The last step of a Pipeline with each input as the steps before it transform it; other estimators unchanged."""
    if not isinstance(estimator, Pipeline):
        return estimator, *inputs
    check_is_fitted(estimator)
    steps = estimator[:-1]
    return estimator[-1], *(value if value is None or not len(steps) else steps.transform(value) for value in inputs)


def linear_weights(estimator):
    """Weights (n_features,) of a fitted estimator with linear heads; others are refused."""
    check_is_fitted(estimator)
    theta = np.asarray(getattr(estimator, "coef_", np.nan), dtype=np.float64)
    if theta.ndim != 1:
        found = "no coef_" if theta.ndim == 0 else f"a coef_ of shape {theta.shape}"
        raise ValueError(
            f"Found {type(estimator).__name__} with {found}. Expected a linear reward: one of this package's "
            "estimators with linear heads (hidden_layer_sizes=())."
        )
    return theta


def objective_of(estimator):
    """The estimator's objective, "max_margin" or "max_entropy"."""
    return getattr(estimator, "objective", "max_margin" if hasattr(estimator, "margin") else "max_entropy")


def required_of_pairs(estimator, failures):
    """Required margin (max-margin) or temperature (max-entropy) of each pair, the stricter one for failures."""
    name, factor = ("margin", 2.0) if objective_of(estimator) == "max_margin" else ("temperature", 0.5)
    standard = getattr(estimator, name)
    strict = getattr(estimator, f"{name}_fail", standard)
    return np.where(failures, factor * standard if strict is None else strict, standard)


def oriented_differences(X, y, estimator=None):
    """Features of the preferred minus the other output of each pair, (n_pairs, n_features), float64."""
    X = check_pairs(X, estimator=estimator, reset=False)
    if X.ndim != 3:
        raise ValueError(
            f"Found outputs, X of shape {X.shape}. Expected pairs, (n_pairs, 2, n_features): only pairs limit a reward."
        )
    return signed_differences(X.astype(np.float64), preference_sign(y, len(X)))


def failures_of(estimator, X, y, margins, failures=None):
    """Mask of the failures: the given one, or what the estimator's detector finds with the fitted reward."""
    if failures is not None or not hasattr(estimator, "failures"):
        return check_failures(failures, len(margins))
    detector = make_detector(estimator.failures)
    if hasattr(detector, "fit") or getattr(detector, "requires_labels", False):
        raise ValueError(
            f"Found an estimator with failures={estimator.failures!r}, which need labels, or a fit of their own. "
            "Expected the mask: pass failures, shape (n_pairs,), bool (all False for the standard set)."
        )
    last, sign = estimator.history_[-1], preference_sign(y, len(margins))
    if not any(row["n_sampled"] for row in estimator.history_):  # the fit used no failure
        return np.zeros(len(margins), dtype=bool)
    state = Round(
        index=len(estimator.history_) - 1,
        progress=1.0,
        threshold=last["failure_threshold"],
        margins=margins,
        rewards=lambda: preferred_first(estimator.decision_function(stack_outputs(X)).reshape(-1, 2), sign),
        output_labels=None,
    )
    return find_failures(detector, state) > 0


def check_failures(failures, n_pairs):
    """A mask of failures, (n_pairs,), bool; None means that no pair is one."""
    failures = np.zeros(n_pairs, dtype=bool) if failures is None else np.asarray(failures)
    if failures.shape != (n_pairs,) or failures.dtype != bool:
        raise ValueError(
            f"Found failures of shape {failures.shape} and type {failures.dtype}. Expected one bool for each of the "
            f"{n_pairs} pairs, e.g. margins <= threshold."
        )
    return failures


def check_number(name, value, *, low=0.0, high=np.inf, kind=Real, allow_low=False):
    """A finite number from ``low`` (itself excluded unless ``allow_low``) to ``high``; else an error that names it."""
    number = isinstance(value, kind) and not isinstance(value, bool) and np.isfinite(value)
    if not number or not (low < value <= high or (allow_low and value == low)):
        what = "a whole number" if kind is Integral else "a finite number"
        limit = "" if low == -np.inf else f" {'of at least' if allow_low else 'above'} {low:g}"
        raise ValueError(f"Found {name}={value!r}. Expected {what}{limit}{f' and at most {high:g}' * (high < np.inf)}.")
    return int(value) if kind is Integral else float(value)
