"""What an audit checks before it measures: votes, a reference that says something, features that see the texts."""

import numpy as np

from ..pairs import preference_sign
from ..warn import warn_user

MAX_UNSEEN = 0.01  # share of outputs that may have no features without a warning


def with_useful_reference(data):
    """The data without a reference that is the same for all outputs; one that contradicts most pairs is warned of."""
    rewards = data.reference_reward
    if rewards is None:
        return data
    if np.ptp(rewards) == 0:
        warn_user(
            f"The reference is {rewards.flat[0]:g} for all {rewards.size} outputs and says nothing about them, so "
            "STARC is left out. Check the column or the model that it comes from.",
        )
        data.reference_reward = data.reference = None
    elif rewards.ndim == 2:
        margins = preference_sign(data.target, len(data.target)) * (rewards[:, 0] - rewards[:, 1])
        against, decided = int((margins < 0).sum()), int((margins != 0).sum())
        if against > decided / 2 + np.sqrt(decided):  # two standard errors above a coin
            warn_user(
                f"The reference contradicts {against} of the {decided} preferences on which it is not tied, more than "
                "half: STARC measures the distance to a reference of the opposite sign. Check which sign it has.",
            )
    return data


def with_votes(data):
    """The data with a row for each vote: weights that are multiples of the least one are numbers of votes."""
    weights = data.get("sample_weight")
    if weights is None or np.ptp(weights) == 0:
        return data
    votes = np.asarray(weights) / np.min(weights)
    if not np.allclose(votes, votes.round()):
        raise ValueError("Found data.sample_weight that are no numbers of votes. Expected multiples of the least one.")
    votes, n_rows = votes.round().astype(int), len(weights)
    arrays = {
        name: np.repeat(values, votes, axis=0)
        for name, values in {"source_index": np.arange(n_rows), **data}.items()
        if isinstance(values, np.ndarray) and len(values) == n_rows
    }
    return {**data, **arrays}


def warn_of_unseen_texts(X, texts):
    """Warn of outputs without any feature; a fit warns of pairs whose sides have the same features."""
    if hasattr(X, "tocsr"):
        return
    blank = int((~np.any(X != 0, axis=-1)).sum())
    if blank > MAX_UNSEEN * texts.size:
        warn_user(
            f"{blank} of {texts.size} training outputs have no features. Reasons can be words of one letter, or a "
            "language without spaces between words that is read by words: choose other features."
        )
