"""Synthetic preferences between feature vectors, with a known linear reward."""

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
