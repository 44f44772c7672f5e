"""Scores of the rewards of single outputs, F1 and AUC. For whoever asks which outputs are desirable."""

import numpy as np

from ..pairs import preference_sign
from .weighted import WeightedMetric, check_rewards, per_output


def output_f1_score(y_true, rewards, *, output_labels=None, sample_weight=None):
    """F1 score of the prediction that an output is desirable if its reward is above 0.

    F1 depends on the offset of the reward, which this package's estimators set from their training outputs.

    Parameters
    ----------
    y_true : array-like of shape (n_pairs,) or (n_outputs,), or None
        Two classes; the larger means that the first output of the pair is preferred, or that the output is desirable.
        None: the first is always preferred. Unused with `output_labels`.
    rewards : array-like of shape (n_pairs, 2) or (n_outputs,)
        Reward of each output.
    output_labels : array-like of the shape of `rewards`, default=None
        1 for desirable outputs and 0 for others. None: the preferred outputs of the pairs are the desirable ones.
    sample_weight : array-like of shape (n_pairs,) or (n_outputs,), default=None
        Weight of each row, >= 0. Both outputs of a pair get it.

    Returns
    -------
    float
        In [0, 1]. NaN, with an `UndefinedMetricWarning`, if all outputs have the same label.

    Raises
    ------
    ValueError
        If shapes disagree, a reward is not finite, a label is not 0 or 1, or weights are negative or all 0.

    Examples
    --------
    >>> from fairl_sk.metrics import output_f1_score
    >>> output_f1_score(None, [[1.0, -1.0], [2.0, 0.5]])
    0.8
    """
    return weighted_output_f1(y_true, rewards, output_labels=output_labels)(sample_weight)


def weighted_output_f1(y_true, rewards, *, output_labels=None):
    """`output_f1_score` as a function of the weights."""
    rewards, labels = _check_outputs(y_true, rewards, output_labels)
    predicted = (rewards.ravel() > 0).astype(np.float64)
    true_positive = labels * predicted

    def evaluate(weights):
        weights = per_output(weights, len(labels))
        positive = weights @ labels
        if not 0 < positive < weights.sum():
            return np.nan
        return 2 * (weights @ true_positive) / (positive + weights @ predicted)  # 2 TP / (2 TP + FN + FP)

    return WeightedMetric(len(rewards), evaluate)


def output_auc_score(y_true, rewards, *, output_labels=None, sample_weight=None):
    """Area under the ROC curve of the reward. See `output_f1_score` for parameters and errors.

    Returns
    -------
    float
        Probability that a desirable output has a higher reward than another output; ties count one half. NaN, with an
        `UndefinedMetricWarning`, if all outputs have the same label.

    Examples
    --------
    >>> from fairl_sk.metrics import output_auc_score
    >>> output_auc_score(None, [[1.0, -1.0], [2.0, 1.5]])
    0.75
    """
    return weighted_output_auc(y_true, rewards, output_labels=output_labels)(sample_weight)


def weighted_output_auc(y_true, rewards, *, output_labels=None):
    """`output_auc_score` as a function of the weights; sorts the rewards only once."""
    rewards, labels = _check_outputs(y_true, rewards, output_labels)
    order = np.argsort(rewards, axis=None)
    ordered, labels = rewards.ravel()[order], labels[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # of each run of tied rewards

    def evaluate(weights):
        weights = per_output(weights, len(labels))[order]
        positive = np.add.reduceat(weights * labels, starts)
        negative = np.add.reduceat(weights * (1.0 - labels), starts)
        if not (positive.any() and negative.any()):
            return np.nan
        return positive @ (np.cumsum(negative) - negative / 2) / (positive.sum() * negative.sum())

    return WeightedMetric(len(rewards), evaluate)


def _check_outputs(y_true, rewards, output_labels):
    """Rewards, and the labels of their outputs: 1.0 for desirable ones, shape (n_outputs,)."""
    rewards = check_rewards(rewards, "rewards")
    if output_labels is not None:
        return rewards, check_output_labels(output_labels, rewards.shape)
    if y_true is None and rewards.ndim == 1:
        found = "Got y_true=None with the rewards of single outputs, but expected one label for each output"
        raise ValueError(f"{found}. Pass y_true or output_labels, or rewards of shape (n_pairs, 2).")
    first = preference_sign(y_true, len(rewards)) > 0
    return rewards, (np.column_stack([first, ~first]).ravel() if rewards.ndim == 2 else first).astype(np.float64)


def check_output_labels(output_labels, shape):
    """Labels 0 and 1 of this shape, as floats of shape (n_outputs,)."""
    labels = np.asarray(output_labels)
    if labels.shape != shape or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"Got output_labels of shape {labels.shape} with the values {np.unique(labels)[:5].tolist()}, but expected "
            f"shape {shape}, 1 for desirable outputs and 0 for others. Threshold scores first."
        )
    return labels.astype(np.float64).ravel()
