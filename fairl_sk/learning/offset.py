"""The offset of a reward, which pairs cannot identify: where 0 is (docs, "What predict means")."""

import numpy as np

__all__ = ["output_offset", "separating_threshold"]


def separating_threshold(rewards, positive, weight):
    """Threshold above which the positive outputs lie best: with the largest balanced accuracy.

    It is half-way between two neighboring rewards; of several such places the middle one. A constant reward is its own
    threshold.

    Examples
    --------
    >>> separating_threshold(np.array([0.0, 1.0, 2.0, 3.0]), np.array([False, False, True, True]), np.ones(4))
    1.5
    """
    counted = weight > 0
    rewards, positive, weight = rewards[counted], positive[counted], weight[counted].astype(np.float64)
    share = np.where(positive, weight / weight[positive].sum(), -weight / weight[~positive].sum())
    order = np.argsort(rewards)
    rewards, share = rewards[order], share[order]
    places = np.flatnonzero(rewards[1:] > rewards[:-1])
    if not len(places):
        return float(rewards[0])
    below = np.cumsum(share)[places]  # positives less negatives at or below the place: small is good
    best = np.flatnonzero(below <= below.min() + 1e-12)
    place = places[best[(len(best) - 1) // 2]]
    return float((np.float64(rewards[place]) + rewards[place + 1]) / 2)


def output_offset(problem, rewards):
    """What to add to rewards so that 0 separates the outputs best: chosen from rejected or, if given, by label."""
    if not problem.is_paired:
        return -separating_threshold(rewards, problem.sign > 0, problem.weight)
    positive = problem.target_sides > 0
    return -separating_threshold(rewards.ravel(), positive.ravel(), np.repeat(problem.weight, 2))
