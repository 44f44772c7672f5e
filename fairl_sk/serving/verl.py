"""Reward functions of verl by a served reward: name this file as ``custom_reward_function.path``.

The address is ``custom_reward_function.reward_kwargs.url``, or the environment variable FAIRL_SK_REWARD_URL; a token is
read from FAIRL_SK_TOKEN. Signatures: verl 0.5, verl/workers/reward_manager/naive.py and batch.py.
"""

import os

from fairl_sk.serving import RemoteReward

__all__ = ["compute_score", "compute_scores"]


def compute_score(data_source=None, solution_str="", ground_truth=None, extra_info=None, url=None, **_):
    """Reward of one completion, for the reward manager "naive".

    Parameters
    ----------
    data_source, ground_truth : object
        Ignored.
    solution_str : str
        The completion.
    extra_info : dict, default=None
        The prompt under "prompt", if completions are scored with it.
    url : str, default=None
        Address of the server. None: FAIRL_SK_REWARD_URL.
    **_ : dict
        Ignored.

    Returns
    -------
    reward : float

    Raises
    ------
    ValueError
        See `compute_scores`.
    """
    return compute_scores(solution_strs=[solution_str], extra_infos=[extra_info], url=url)[0]


def compute_scores(data_sources=None, solution_strs=(), ground_truths=None, extra_infos=None, url=None, **_):
    """Rewards of a batch of completions, for the reward manager "batch".

    Parameters
    ----------
    data_sources, ground_truths : object
        Ignored.
    solution_strs : list of str
        The completions.
    extra_infos : list of dict, default=None
        Each prompt under "prompt", if completions are scored with it.
    url : str, default=None
        Address of the server. None: FAIRL_SK_REWARD_URL.
    **_ : dict
        Ignored.

    Returns
    -------
    rewards : list of float

    Raises
    ------
    ValueError
        If no address is known, or the server refuses the request or gives no reward: verl has no missing rewards.
    """
    url = url or os.environ.get("FAIRL_SK_REWARD_URL")
    if url is None:
        raise ValueError("Found no address of the reward. Set FAIRL_SK_REWARD_URL, or reward_kwargs.url in verl.")
    infos = [info or {} for info in (extra_infos if extra_infos is not None else [None] * len(solution_strs))]
    prompts = [info["prompt"] for info in infos] if all("prompt" in info for info in infos) else None
    reward = RemoteReward(url, token=os.environ.get("FAIRL_SK_TOKEN"))
    rewards = reward(prompts=prompts, completions=list(solution_strs))
    if None in rewards:
        found = f"no reward for completion {rewards.index(None)}, which is empty"
        raise ValueError(f"Found {found}. Start fairl-sk serve with --missing-reward NUMBER: verl needs a number.")
    return rewards
