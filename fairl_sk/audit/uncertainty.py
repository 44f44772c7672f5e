"""What the data do not determine: undecided held-out pairs, and the least known held-out outputs. `run` reads it."""

import warnings

import numpy as np
import sklearn

from ..diagnosis import LaplaceReward, ambiguity
from ..pairs import stack_outputs
from .measures import accuracy_of, shorten
from .sections import Section, Table

UNDECIDED = 2.0  # a margin within so many standard deviations of 0 may have either sign
N_UNCERTAIN_OUTPUTS = 8
MAX_POSTERIOR_FEATURES = 1024  # a posterior takes time as the square of the features
MAX_RANGE_PAIRS = 20_000
NOTABLE = 0.05  # a difference of accuracies that is worth words
LIKELIHOOD_DROP = 1.92  # half the 95 % quantile of chi squared with one degree of freedom


def fit_posterior(learner, X, y):
    """The posterior of a reward fitted to training rows; None if it has so many features that it takes long."""
    if X.shape[-1] > MAX_POSTERIOR_FEATURES:
        return None
    with warnings.catch_warnings(action="ignore"):  # the first fit has shown them
        return LaplaceReward(sklearn.clone(learner).set_params(verbose=0, tol=1e-6)).fit(X, y)


def measure_uncertainty(reward, X_train, y_train, X_test, held, name, margins):
    """Held-out pairs whose order is undecided, and the held-out outputs whose rewards are most uncertain.

    ``margins`` (n_rows,), R(preferred) - R(other), are those of the reward of that name, whose accuracy is given.
    """
    if reward is None:
        found = f"{X_train.shape[-1]} features, and a posterior takes long beyond {MAX_POSTERIOR_FEATURES}"
        return {"left_out": found}
    outputs = stack_outputs(X_test) if X_test.ndim == 3 else X_test
    center = X_train.mean(axis=tuple(range(X_train.ndim - 1)), dtype=np.float64)
    rewards, std = reward.decision_function(outputs, return_std=True)
    rewards = rewards - reward.decision_function(center[None])
    unit = float(rewards.std())
    if not unit > 0:
        return {"left_out": "the reward is the same for all held-out outputs"}
    texts = held.texts.ravel()
    _, distinct = np.unique(texts, return_index=True)
    listed = distinct[np.argsort(-std[distinct], kind="stable")[:N_UNCERTAIN_OUTPUTS]]
    low, high, ranges = _ranges(reward, X_train, y_train, outputs[listed], center)
    return {
        "left_out": None,
        "alpha": reward.alpha_,
        "reward": name,
        "pairs": _undecided(reward, X_test, margins) if X_test.ndim == 3 else None,
        "outputs": [
            {
                **_place(row, held),
                "output": shorten(texts[row]),
                "reward": float(rewards[row]) / unit,
                "std": float(std[row]) / unit,
                "low": None if low is None else float(low[i]) / unit,
                "high": None if high is None else float(high[i]) / unit,
            }
            for i, row in enumerate(listed)
        ],
        "ranges": ranges,
    }


def _undecided(reward, X_test, margins):
    """The pairs whose margin may have either sign, and the accuracy on them and on the other pairs."""
    of_posterior, std = reward.decision_function(X_test, return_std=True)
    undecided = np.abs(of_posterior) <= UNDECIDED * std
    return {
        "undecided": int(undecided.sum()),
        "share": float(undecided.mean()),
        "undecided_accuracy": accuracy_of(margins[undecided]),
        "decided_accuracy": accuracy_of(margins[~undecided]),
    }


def _ranges(reward, X_train, y_train, outputs, center):
    """Lowest and highest reward of each output, relative to the mean training output; and what they mean."""
    if X_train.ndim == 2:
        return None, None, "none: only pairs limit a reward"
    if len(X_train) > MAX_RANGE_PAIRS:
        return None, None, f"none: ranges take long beyond {MAX_RANGE_PAIRS} training pairs"
    # `ambiguity` subtracts the mean of the outputs; with their mirror images, it is the center.
    mirrored = np.concatenate([outputs, 2 * center - outputs])
    tolerance = LIKELIHOOD_DROP / (len(X_train) * np.log(2))
    try:
        found = ambiguity(reward.estimator_, X_train, y_train, outputs=mirrored, tolerance=tolerance)
    except ValueError as error:
        return None, None, f"none: {error}"
    unit = np.std(mirrored @ reward.coef_)
    return (
        found.low * unit,
        found.high * unit,
        f"over all rewards of the same mean margin whose penalized log-likelihood is at most {LIKELIHOOD_DROP} lower, "
        "in the directions of these outputs (fairl_sk.diagnosis.ambiguity)",
    )


def _place(row, held):
    """The user's row of a held-out output and, in pairs, its side."""
    if held.texts.ndim == 1:
        return {"index": int(held.index[row])}
    pair, side = divmod(int(row), 2)
    preferred = (held.sign[pair] > 0) == (side == 0)
    return {"index": int(held.index[pair]), "side": "preferred" if preferred else "other"}


def open_section(result):
    """The section on what the data do not determine."""
    found, rows_are = result.uncertainty, result.settings["rows_are"]
    title = f"What do the {rows_are} leave open?"
    if found["left_out"] is not None:
        return Section(title, f"Not computed: {found['left_out']}.")
    words = [
        f"Many rewards agree with the same {rows_are}: how far they differ is the uncertainty of a reward (a posterior "
        "standard deviation)."
    ]
    if pairs := found["pairs"]:
        words.append(
            f"{pairs['undecided']} held-out pairs ({pairs['share']:.1%}) are undecided: the difference of their "
            f"rewards is at most {UNDECIDED:g} of its standard deviations. {_right(found['reward'], pairs)}"
        )
    outputs = found["outputs"]
    names = [name for name in ("side", "reward", "std", "low", "high", "output") if outputs[0].get(name) is not None]
    rows = [
        [f"{row['index']}", *(f"{row[name]:.2f}" if isinstance(row[name], float) else row[name] for name in names)]
        for row in outputs
    ]
    caption = (
        "The held-out outputs whose rewards are least known. 0 is the mean training output, 1 the standard deviation "
        f"of held-out rewards; low to high: {found['ranges']}."
    )
    return Section(title, " ".join(words), tables=[Table(caption, ["row", *names], rows, "output" in names)])


def _right(reward, pairs):
    """How often a reward is right where it is undecided and elsewhere, and what follows."""
    shares = {"undecided": pairs["undecided_accuracy"], "other": pairs["decided_accuracy"]}
    known = {name: share for name, share in shares.items() if share is not None}
    text = (
        f"{reward} is right in {' and in '.join(f'{share:.1%} of the {name} ones' for name, share in known.items())}."
    )
    if len(known) < 2:
        return text
    less = known["other"] - known["undecided"] > NOTABLE
    return f"{text} So trust {'its order of the others more' if less else 'both alike'}."
