"""What the diagnoses read of a fitted linear reward and of its pairs, with the checks that they share."""

from numbers import Integral, Real

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..learning.rows import signed_differences
from ..pairs import check_pairs, preference_sign


def split_pipeline(estimator, *inputs):
    """The last step of a Pipeline with each input as the steps before it transform it; other estimators unchanged."""
    if not isinstance(estimator, Pipeline):
        return estimator, *inputs
    check_is_fitted(estimator)
    steps = estimator[:-1]
    return estimator[-1], *(steps.transform(value) if len(steps) else value for value in inputs)


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


def oriented_differences(X, y, estimator=None):
    """Features of the preferred minus the other output of each pair, (n_pairs, n_features), float64."""
    X = check_pairs(X, estimator=estimator, reset=False)
    if X.ndim != 3:
        raise ValueError(
            f"Found outputs, X of shape {X.shape}. Expected pairs, (n_pairs, 2, n_features): only pairs limit a reward."
        )
    return signed_differences(X.astype(np.float64), preference_sign(y, len(X)))


def check_number(name, value, *, low=0.0, kind=Real):
    """A finite number above ``low``; else an error that names it."""
    if not isinstance(value, kind) or isinstance(value, bool) or not np.isfinite(value) or value <= low:
        what = "a whole number" if kind is Integral else "a finite number"
        raise ValueError(f"Found {name}={value!r}. Expected {what}{f' above {low:g}' * (low > -np.inf)}.")
    return int(value) if kind is Integral else float(value)
