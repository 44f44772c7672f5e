"""Synthetic preferences between feature vectors, with a known linear reward, or one for each of several objectives."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, validate_params  # the parameters' declared constraints

from .rows import draw_sides, swap_sides


@validate_params(
    {
        "n_pairs": [Interval(Integral, 2, None, closed="left")],
        "n_features": [Interval(Integral, 1, None, closed="left")],
        "noise": [Interval(Real, 0, 0.5, closed="both")],
        "temperature": [Interval(Real, 0, None, closed="neither"), None],
        "groups": [Interval(Integral, 1, None, closed="left"), None],
    },
    prefer_skip_nested_validation=True,
)
def make_preferences(
    n_pairs=1000, n_features=20, *, noise=0.0, temperature=None, groups=None, shuffle_sides=True, random_state=None
):
    """Draw preference pairs of feature vectors, with a known linear reward.

    The features of an output are the sum of a part of its prompt and a part of its own, both standard normal.

    Parameters
    ----------
    n_pairs, n_features : int, default=1000, 20
        Number of pairs, and of features of one output.
    noise : float in [0, 0.5], default=0.0
        Probability that a preference is flipped. At 0.5 nothing is left to learn.
    temperature : float > 0, default=None
        Bradley-Terry noise: the first output is preferred with probability ``1 / (1 + exp(-margin / temperature))``.
        None means that the greater reward always wins.
    groups : int, default=None
        Number of prompts, dealt out to the pairs evenly and at random. None means one prompt for each pair.
    shuffle_sides, random_state
        See `load_preferences`; the seed also draws the pairs.

    Returns
    -------
    Bunch
        With the attributes

        - data : ndarray of shape (n_pairs, 2, n_features)
        - target : ndarray of shape (n_pairs,), 1 where the first output is preferred, else 0
        - groups : ndarray of shape (n_pairs,), the prompt of each pair
        - coef : ndarray of shape (n_features,), of length 1: the reward is ``data @ coef``
        - reference_reward : ndarray of shape (n_pairs, 2), the reward of each output
        - flipped : ndarray of shape (n_pairs,), bool, the preferences flipped by `noise` (not by `temperature`)
        - DESCR : str

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from fairl_sk.datasets import make_preferences
    >>> pairs = make_preferences(n_pairs=100, n_features=5, random_state=0)
    >>> margins = pairs.reference_reward[:, 0] - pairs.reference_reward[:, 1]
    >>> pairs.data.shape, bool(((margins > 0) == pairs.target).all())
    ((100, 2, 5), True)
    """
    rng = check_random_state(random_state)
    n_prompts = n_pairs if groups is None else groups
    if n_prompts > n_pairs:
        raise ValueError(f"Found groups={groups!r} for n_pairs={n_pairs}. Expected at most one group for each pair.")
    prompt_of = np.arange(n_pairs) if groups is None else rng.permutation(np.arange(n_pairs) % groups)
    coef = np.zeros(n_features)
    coef[rng.permutation(n_features)] = rng.standard_normal(n_features)
    coef /= np.linalg.norm(coef)
    prompts = rng.standard_normal((n_prompts, n_features))
    data = prompts[prompt_of][:, None, :] + rng.standard_normal((n_pairs, 2, n_features))
    rewards = data @ coef
    margins = rewards[:, 0] - rewards[:, 1]

    doubt = 0.0 if temperature is None else temperature * rng.logistic(size=n_pairs)
    flipped = rng.random_sample(n_pairs) < noise
    first_preferred = (margins + doubt > 0) ^ flipped
    target = draw_sides(rng, n_pairs, shuffle_sides)
    swap = first_preferred != target
    return Bunch(
        data=swap_sides(data, swap),
        target=target,
        groups=prompt_of,
        coef=coef,
        reference_reward=swap_sides(rewards, swap),
        flipped=flipped,
        DESCR=f"{n_pairs} synthetic preference pairs of {n_features} features, {n_prompts} prompts, {flipped.sum()} "
        f"preferences flipped (noise={noise}, temperature={temperature}). The true reward is data @ coef; target 1 "
        "means that the first output is preferred.",
    )


@validate_params(
    {
        "n_pairs": [Interval(Integral, 2, None, closed="left")],
        "n_features": [Interval(Integral, 1, None, closed="left")],
        "n_objectives": [Interval(Integral, 1, None, closed="left")],
        "correlation": [Interval(Real, -1, 1, closed="both")],
        "weights": ["array-like", None],
        "judged": [Interval(Real, 0, 1, closed="right")],
        "temperature": [Interval(Real, 0, None, closed="neither"), None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_multi_preferences(
    n_pairs=1000,
    n_features=20,
    *,
    n_objectives=3,
    correlation=0.0,
    weights=None,
    judged=1.0,
    temperature=None,
    random_state=None,
):
    """Draw pairs of feature vectors with preferences by several objectives, each with a known linear reward.

    Features are standard normal, and each reward has standard deviation 1. Two rewards conflict in a share of
    ``arccos(correlation) / pi`` of the pairs.

    Parameters
    ----------
    n_pairs, n_features, n_objectives : int, default=1000, 20, 3
        Number of pairs, of features of one output (at least one for each objective), and of objectives.
    correlation : float in [-1 / (n_objectives - 1), 1], default=0.0
        Correlation of each two rewards. Negative: objectives that conflict in most pairs.
    weights : array-like of shape (n_objectives,), default=None
        What a unit of each reward adds to the overall reward. None: 1 for each.
    judged : float in (0, 1], default=1.0
        Share of the pairs that an objective judges, drawn for each objective.
    temperature : float > 0, default=None
        Bradley-Terry noise of all preferences, as in `make_preferences`. None: the greater reward always wins.
    random_state : int, RandomState or None, default=None
        Seed of everything that is drawn.

    Returns
    -------
    Bunch
        With the attributes

        - data : ndarray of shape (n_pairs, 2, n_features)
        - targets : ndarray of shape (n_pairs, n_objectives), 1 where an objective prefers the first output, else 0;
          NaN where it does not judge
        - target : ndarray of shape (n_pairs,), the overall preferences, of all pairs
        - objective_names : list of str
        - coef : ndarray of shape (n_objectives, n_features), of length 1 each: the rewards are ``data @ coef.T``
        - objective_rewards : ndarray of shape (n_pairs, 2, n_objectives)
        - weights : ndarray of shape (n_objectives,); the overall reward is ``objective_rewards @ weights``
        - reference_reward : ndarray of shape (n_pairs, 2), the overall reward
        - DESCR : str

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from fairl_sk.datasets import make_multi_preferences
    >>> pairs = make_multi_preferences(100, 5, n_objectives=2, correlation=0.7, random_state=0)
    >>> pairs.targets.shape, round(float(pairs.coef[0] @ pairs.coef[1]), 3)
    ((100, 2), 0.7)
    """
    lowest = -1 / max(n_objectives - 1, 1)
    if n_objectives > n_features or correlation < lowest - 1e-12:
        raise ValueError(
            f"Found n_objectives={n_objectives}, n_features={n_features} and correlation={correlation}. Expected a "
            f"feature for each objective or more, and a correlation of at least {lowest:.3g}: more rewards than two "
            "cannot all contradict each other."
        )
    weights = np.ones(n_objectives) if weights is None else np.asarray(weights, dtype=float)
    if weights.shape != (n_objectives,) or not np.isfinite(weights).all():
        raise ValueError(f"Found weights={weights.tolist()}. Expected a number for each of {n_objectives} objectives.")
    rng = check_random_state(random_state)
    axes = np.linalg.qr(rng.standard_normal((n_features, n_objectives)))[0]
    values, vectors = np.linalg.eigh(
        np.full((n_objectives,) * 2, correlation) + (1 - correlation) * np.eye(n_objectives)
    )
    coef = vectors * np.sqrt(np.maximum(values, 0)) @ axes.T
    data = rng.standard_normal((n_pairs, 2, n_features))
    rewards = data @ coef.T
    every = np.concatenate([rewards, (rewards @ weights)[..., None]], axis=2)
    margins = every[:, 0] - every[:, 1]
    doubt = 0.0 if temperature is None else temperature * rng.logistic(size=margins.shape)
    preferred = (margins + doubt > 0).astype(float)
    targets = np.where(rng.random_sample((n_pairs, n_objectives)) < judged, preferred[:, :-1], np.nan)
    return Bunch(
        data=data,
        targets=targets,
        target=preferred[:, -1].astype(int),
        objective_names=[f"objective_{k}" for k in range(n_objectives)],
        coef=coef,
        objective_rewards=rewards,
        weights=weights,
        reference_reward=every[..., -1],
        DESCR=f"{n_pairs} synthetic pairs of {n_features} features, with preferences by {n_objectives} objectives "
        f"(correlation={correlation}, judged={judged}, temperature={temperature}). The true rewards are data @ coef.T.",
    )
