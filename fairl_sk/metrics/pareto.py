"""Trade-offs between several rewards: the Pareto front, its hypervolume, and best-of-n by weighted sums."""

import numpy as np

from ..extras import import_extra
from .weighted import check_groups

__all__ = ["best_of_n", "hypervolume", "pareto_front"]


def pareto_front(rewards, groups=None):
    """Which outputs no other output of the same group beats in all objectives.

    An output is beaten if another one is at least as good by every reward and better by one. Equal outputs do not beat
    each other.

    Parameters
    ----------
    rewards : array-like of shape (n_outputs, n_objectives)
        Rewards, higher is better.
    groups : array-like of shape (n_outputs,), default=None
        Group of each output, such as its prompt. None: all are one group.

    Returns
    -------
    on_front : ndarray of shape (n_outputs,), bool

    Raises
    ------
    ImportError
        Without moocore, which the extra ``objectives`` installs.
    ValueError
        If a reward is not finite, or shapes disagree.

    Examples
    --------
    >>> from fairl_sk.metrics import pareto_front
    >>> pareto_front([[1, 0], [0, 1], [0, 0], [1, 0]])
    array([ True,  True, False,  True])
    """
    rewards = _check_vectors(rewards)
    codes = np.zeros(len(rewards), dtype=int) if groups is None else check_groups(groups, len(rewards))[1]
    moocore = import_extra("moocore", "objectives", "pareto_front")
    return moocore.is_nondominated_within_sets(rewards, sets=codes, maximise=True, keep_weakly=True)


def hypervolume(rewards, reference):
    """Volume between the outputs and a reference point that is worse than they: one number for a whole front.

    Parameters
    ----------
    rewards : array-like of shape (n_outputs, n_objectives)
        Rewards, higher is better. Outputs that are not better than the reference in all objectives add nothing.
    reference : array-like of shape (n_objectives,)
        The reference point. Fronts compare only by the same one.

    Returns
    -------
    volume : float
        In the product of the rewards' units.

    Raises
    ------
    ImportError
        Without moocore, which the extra ``objectives`` installs.
    ValueError
        If a number is not finite, or shapes disagree.

    Examples
    --------
    >>> from fairl_sk.metrics import hypervolume
    >>> hypervolume([[2, 1], [1, 3]], [0, 0])
    4.0
    """
    rewards, reference = _check_vectors(rewards), np.asarray(reference, dtype=np.float64)
    if reference.shape != rewards.shape[1:] or not np.isfinite(reference).all():
        found = f"Got the reference {reference.tolist()} for {rewards.shape[1]} objectives"
        raise ValueError(f"{found}. Pass a finite number for each.")
    moocore = import_extra("moocore", "objectives", "hypervolume")
    return float(moocore.hypervolume(rewards, ref=reference, maximise=True))


def best_of_n(rewards, weights):
    """Rewards of the completions that weighted sums choose: the policy "best of n" for each of several weights.

    Parameters
    ----------
    rewards : array-like of shape (n_prompts, n_completions, n_objectives)
        Rewards of each prompt's completions, in comparable units.
    weights : array-like of shape (n_policies, n_objectives)
        Weights of each policy's sum.

    Returns
    -------
    chosen : ndarray of shape (n_policies, n_prompts, n_objectives)
        The mean over prompts is what a policy reaches. Of equal sums, the first completion is chosen.

    Raises
    ------
    ValueError
        If a number is not finite, or shapes disagree.

    Examples
    --------
    >>> from fairl_sk.metrics import best_of_n
    >>> best_of_n([[[3, 0], [0, 2]]], [[1, 0], [1, 1], [0, 1]]).mean(axis=1)
    array([[3., 0.],
           [3., 0.],
           [0., 2.]])
    """
    rewards, weights = np.asarray(rewards, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    finite = np.isfinite(rewards).all() and np.isfinite(weights).all()
    if rewards.ndim != 3 or weights.ndim != 2 or weights.shape[1] != rewards.shape[2] or not rewards.size or not finite:
        raise ValueError(
            f"Got rewards of shape {rewards.shape} and weights of shape {weights.shape}, but expected finite numbers, "
            "(n_prompts, n_completions, n_objectives) and (n_policies, n_objectives). Drop prompts without rewards."
        )
    chosen = (rewards @ weights.T).argmax(axis=1)  # (n_prompts, n_policies)
    return rewards[np.arange(len(rewards))[None], chosen.T]


def _check_vectors(rewards):
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 2 or not rewards.size or not np.isfinite(rewards).all():
        found = f"{rewards.shape}, {np.count_nonzero(~np.isfinite(rewards))} of them not finite"
        raise ValueError(f"Got rewards of shape {found}, but expected finite ones, (n_outputs, n_objectives).")
    return rewards
