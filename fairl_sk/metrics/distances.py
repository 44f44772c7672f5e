"""Distances in [0, 1] between two rewards, on sampled outputs (STARC) and in finite MDPs (STARC, EPIC, DARD).

For whoever compares a learned reward with a reference whose unit and offset are unknown.
"""

import numpy as np
from sklearn.utils import check_array

from .weighted import WeightedMetric, check_groups, check_rewards, per_output

_EPS = float(np.finfo(np.float64).eps)


def starc_distance(reward_a, reward_b, *, groups=None, sample_weight=None, norm=2):
    r"""STARC distance between two rewards of the same outputs.

    .. math:: d(R_a, R_b) = \tfrac12 \lVert s(R_a) - s(R_b) \rVert, \quad s(R) = c(R) / \lVert c(R) \rVert,

    where :math:`c(R)` is R minus its mean over the outputs of the same prompt (theory, eq. 9 and 10; Skalse et al.,
    ICLR 2024). So neither scale nor offsets of prompts matter.

    Parameters
    ----------
    reward_a, reward_b : array-like of shape (n_outputs,) or (n_pairs, 2)
        The two rewards, each in its own unit.
    groups : array-like of shape (n_outputs,) or (n_pairs,), "pairs" or None, default=None
        Prompt of each row, whose outputs share a mean. ``"pairs"``: each pair is a prompt of its own. None: the global
        mean of all outputs.
    sample_weight : array-like of shape (n_outputs,) or (n_pairs,), default=None
        Weight of each row in means and norms, >= 0. An integer weight is a repetition.
    norm : {1, 2, numpy.inf}, default=2
        A few large disagreements count least in 1 and most in ``inf``.

    Returns
    -------
    float
        0 for rewards that differ by scale and by offsets of the prompts, 1 for opposite rewards. A reward that is
        constant within prompts is at distance 0 from another such reward and at 1/2 from all others; never NaN.

    Raises
    ------
    ValueError
        If shapes differ, a reward is not finite, weights are negative or all 0, or `norm` is unknown.

    Notes
    -----
    With the global mean and norm 2 it is :math:`\sqrt{(1-\rho)/2}` with Pearson's :math:`\rho`. With one pair per
    prompt it depends only on the cosine of the two vectors of margins. Compare distances on the same outputs only.

    Examples
    --------
    >>> from fairl_sk.metrics import starc_distance
    >>> truth = [[2.0, 0.0], [1.0, 0.0]]
    >>> starc_distance(truth, [[7.0, 3.0], [1.0, -1.0]], groups="pairs")  # twice the margins
    0.0
    >>> starc_distance(truth, [[5.0, 5.0], [5.0, 5.0]])  # a constant
    0.5
    """
    return weighted_starc(reward_a, reward_b, groups=groups, norm=norm)(sample_weight)


def weighted_starc(reward_a, reward_b, *, groups=None, norm=2):
    """`starc_distance` as a function of the weights."""
    reward_a, reward_b = check_rewards(reward_a, "reward_a"), check_rewards(reward_b, "reward_b")
    if reward_a.shape != reward_b.shape:
        found = f"Got reward_a of shape {reward_a.shape} and reward_b of shape {reward_b.shape}"
        raise ValueError(f"{found}, but expected the same shape. Evaluate both rewards on the same outputs.")
    check_norm(norm)
    codes = _prompt_codes(groups, reward_a.shape)
    origin = np.unique(codes, return_index=True)[1][codes]  # the first output of each output's prompt
    sides = [_from_origin(reward, origin) for reward in (reward_a, reward_b)]

    def evaluate(weights):
        weights = per_output(weights, len(codes))
        keep = weights > 0
        centered = [_centered(reward[keep], rounding[keep], codes[keep], weights[keep]) for reward, rounding in sides]
        return _distance(*centered, weights[keep], norm)

    return WeightedMetric(len(reward_a), evaluate)


def check_norm(norm):
    """Raise ValueError for an unknown norm."""
    if norm not in (1, 2, np.inf):
        raise ValueError(f"Got norm={norm!r}, but expected 1, 2 or numpy.inf.")


def _prompt_codes(groups, shape):
    """Number of each output's prompt, shape (n_outputs,)."""
    if groups is None:
        return np.zeros(np.prod(shape), dtype=np.intp)
    if isinstance(groups, str):
        if groups != "pairs" or len(shape) == 1:
            raise ValueError(f"Got groups={groups!r}, but expected None, an array, or 'pairs' with rewards of pairs.")
        groups = np.arange(shape[0])
    return per_output(check_groups(groups, shape[0])[1], np.prod(shape))


def _from_origin(reward, origin):
    """Reward minus that of its prompt's first output, and the size below which a deviation is rounding.

    The subtraction turns a constant into exact zeros before any mean is taken. The division keeps sums finite.
    """
    precision = 16 * max(np.finfo(reward.dtype).eps, _EPS)
    reward = reward.ravel().astype(np.float64)
    reward = reward / (np.abs(reward).max() or 1.0)
    return reward - reward[origin], precision * np.abs(reward)


def _centered(reward, rounding, codes, weights):
    """c(R): the reward minus the weighted mean of its group, with rounding set to 0."""
    total = np.bincount(codes, weights)
    mean = np.bincount(codes, weights * reward) / np.where(total > 0, total, 1.0)
    centered = reward - mean[codes]
    return np.where(np.abs(centered) <= rounding, 0.0, centered)


def _distance(centered_a, centered_b, weights, norm):
    """|s(R_a) - s(R_b)| / 2 with s(R) = c(R) / |c(R)|, which is 0 for a constant reward."""

    def length(values):
        if norm == np.inf:
            return np.abs(values).max()
        return weights @ np.abs(values) if norm == 1 else np.sqrt(weights @ values**2)

    def standardized(centered):
        centered = centered / (np.abs(centered).max() or 1.0)  # so that no square underflows
        return centered / (length(centered) or 1.0)

    return float(min(1.0, length(standardized(centered_a) - standardized(centered_b)) / 2))


def tabular_starc(reward_a, reward_b, transitions, discount, *, norm=2):
    r"""STARC distance between two rewards of a finite MDP, with value-adjusted leveling.

    .. math:: c(R)(s, a) = E_{S' \sim \tau(s, a)}[R(s, a, S') - V^\pi(s) + \gamma V^\pi(S')]

    is the advantage of a in s under the uniform policy :math:`\pi`. It removes potential shaping and S'-redistribution
    (Skalse et al., ICLR 2024). The rest is as in `starc_distance`, over all (s, a) with equal weights.

    Parameters
    ----------
    reward_a, reward_b : array-like of shape (n_states, n_actions, n_states)
        R(s, a, s').
    transitions : array-like of shape (n_states, n_actions, n_states)
        Probability of s' after a in s; the last axis sums to 1.
    discount : float in [0, 1)
        Discount :math:`\gamma` per step.
    norm : {1, 2, numpy.inf}, default=2
        See `starc_distance`.

    Returns
    -------
    float
        0 if and only if both rewards order all policies alike, if policies reach every state.

    Raises
    ------
    ValueError
        If shapes disagree, probabilities do not sum to 1, or a parameter is out of range.
    """
    rewards, transitions = _check_mdp(reward_a, reward_b, transitions, discount)
    check_norm(norm)
    moves = transitions.mean(axis=1)

    def advantage(reward):
        expected = (transitions * reward).sum(axis=2)
        value = np.linalg.solve(np.eye(len(moves)) - discount * moves, expected.mean(axis=1))
        leveled = expected - value[:, None] + discount * transitions @ value
        return _without_rounding(leveled, max(np.abs(reward).max(), np.abs(value).max()))

    return _distance(*map(advantage, rewards), np.ones(moves.shape[0] * transitions.shape[1]), norm)


def tabular_epic(reward_a, reward_b, discount):
    r"""EPIC distance between two rewards of a finite MDP. See `tabular_starc` for parameters and errors.

    It is `tabular_dard` with uniform next states, since EPIC ignores the dynamics (definition 4.1 of Gleave et al.,
    "Quantifying Differences in Reward Functions", ICLR 2021).

    Returns
    -------
    float
        See `tabular_dard`.
    """
    uniform = np.full(np.shape(reward_a), 1 / np.shape(reward_a)[-1])
    return tabular_dard(reward_a, reward_b, uniform, discount)


def tabular_dard(reward_a, reward_b, transitions, discount):
    r"""Dynamics-aware reward distance (DARD) of two rewards. See `tabular_starc` for parameters and errors.

    Pearson's distance :math:`\sqrt{(1-\rho)/2}` of the canonical forms

    .. math:: c(R)(s, a, s') = R(s, a, s') + E[\gamma R(s', A, S'') - R(s, A, S') - \gamma R(S', A, S'')]

    with uniform A, S' from :math:`\tau(s, A)` and S'' from :math:`\tau(s', A)`, over uniform s and a and s' from
    :math:`\tau(s, a)` (Wulfe et al., "Dynamics-Aware Comparison of Learned Reward Functions", ICLR 2022).

    Returns
    -------
    float
        In [0, 1]; 1/2 if exactly one of the canonical forms is constant.
    """
    rewards, transitions = _check_mdp(reward_a, reward_b, transitions, discount)

    def canonical(reward):
        mean = (transitions * reward).sum(axis=2).mean(axis=1)  # E R(s, A, S')
        # E R(S', A, S'') for each s and s'
        skipped = np.einsum("sau,tav,uav->st", transitions, transitions, reward, optimize=True) / reward.shape[1]
        shaped = reward + discount * mean - mean[:, None, None] - discount * skipped[:, None, :]
        return _without_rounding(shaped, np.abs(reward).max())

    return starc_distance(*map(canonical, rewards), sample_weight=transitions.ravel())


def _check_mdp(reward_a, reward_b, transitions, discount):
    options = {"ensure_2d": False, "allow_nd": True, "dtype": np.float64}
    rewards = [check_array(reward, input_name="reward", **options) for reward in (reward_a, reward_b)]
    shape = rewards[0].shape
    if len(shape) != 3 or shape[0] != shape[2] or rewards[1].shape != shape:
        found = f"Got rewards of shapes {shape} and {rewards[1].shape}, but expected (n_states, n_actions, n_states)"
        raise ValueError(f"{found} twice. Broadcast a reward of states or of states and actions first.")
    transitions = np.asarray(transitions, dtype=np.float64)
    if transitions.shape != shape or transitions.min() < 0 or not np.allclose(transitions.sum(axis=2), 1):
        expected = f"probabilities of shape {shape} that sum to 1 over the last axis. Divide them by their sum"
        raise ValueError(f"Got transitions of shape {transitions.shape}, but expected {expected}.")
    if not 0 <= discount < 1:
        raise ValueError(f"Got discount={discount!r}, but expected a number in [0, 1).")
    return rewards, transitions


def _without_rounding(canonical, size):
    """The flat canonical form, a sum of many terms of this size, with rounding set to 0."""
    return np.where(np.abs(canonical) <= 1000 * _EPS * size, 0.0, canonical).ravel()
