"""`check_reward`: what a reward function does with a model's completions, before that model is aligned with it."""

import json
from numbers import Real

import numpy as np
from scipy.stats import rankdata
from sklearn.utils import Bunch

from ..messages import to_text
from ..warn import warn_user
from .folder import folder_function

# The least and the most that is expected of each measure, and what to do about another value.
_MEASURES = {
    "spread": (1e-12, np.inf, "The reward is the same within every group: nothing is learned from it."),
    "flat groups": (0, 0.1, "{value:.1%} of the groups have one reward for all their completions and teach nothing "
        "(expected {expected}). Sample at a higher temperature, raise clip, or use harder prompts."),
    "ties": (0, 0.2, "{value:.1%} of the completions have the reward of another text of their group (expected "
        "{expected}). Raise clip, or use a finer reward."),
    "missing": (0, 0.01, "{value:.1%} of the completions have no reward (expected {expected}). Look at them; empty "
        "ones come from a model that ends at once."),
    "not finite": (0, 0, "{value} rewards are NaN or infinite: they poison their groups. Return None instead."),
    "saturation": (0, 0.2, "{value:.1%} of the rewards lie at an end of their range (expected {expected}): differences "
        "there are lost. Raise clip or scale."),
    "length": (-0.5, 0.5, "The reward follows the length of completions (rank correlation {value:.2f}, expected "
        "{expected}): it will teach length. Fit on pairs of equal length, or control it."),
    "batch": (0, 1e-3, "A reward changes by {value:.2g} standard deviations when it is computed alone (expected "
        "{expected}): it depends on the batch. Look for padding, randomness or half precision."),
    "nats per spread": (1, 100, "A standard deviation of the reward buys {value:.3g} nats of KL in RLOO (expected "
        "{expected}). Below, the penalty drowns the reward; above, nothing holds the model. Change scale or beta."),
}  # fmt: skip
_N_ALONE = 64  # completions that are scored again, one at a time


def check_reward(reward, prompts, completions, *, beta=0.05, **columns):
    """Look at a reward function on completions of the model that is to be aligned with it.

    Parameters
    ----------
    reward : callable or path
        A `RewardFunction`, any reward function of TRL, or the path of a folder that `export_reward_model` wrote.
    prompts, completions : list of shape (n_completions,)
        Texts or lists of messages. Completions of equal prompts are a group, as in GRPO and RLOO: give several each.
    beta : float > 0 or None, default=0.05
        KL coefficient of RLOO. None: for GRPO, where the scale does not matter.
    **columns : dict of list
        Further columns of the data set that the reward function reads.

    Returns
    -------
    result : Bunch
        ``table``, a list of dicts with ``measure``, ``value`` (None where there is none), ``expected`` and ``ok``, and
        ``warnings``, a list of str.

    Raises
    ------
    ValueError
        If lengths differ, there is no group of two completions, or no reward is a finite number.

    Warns
    -----
    UserWarning
        For every measure that is not as expected.

    Notes
    -----
    ``spread``: root mean squared standard deviation within groups. ``flat groups``: share of groups with one reward.
    ``ties``: share of completions with the reward of a different text of their group. ``missing``: share of None. ``not
    finite``: number of NaN and infinities. ``saturation``: share of distinct completions within 1 % of the range from
    either end. ``length``: Spearman's correlation of reward and number of words, within groups. ``batch``: largest
    change of a reward that is computed alone, in standard deviations. ``nats per spread``: ``spread / beta``, the nats
    of KL divergence that RLOO pays for one standard deviation.

    Examples
    --------
    >>> from fairl_sk.export import check_reward
    >>> def loud(prompts, completions, **_):
    ...     return [float(completion.count("!")) for completion in completions]
    >>> completions = ["Well!!", "Oh, well.", "No, not now!!!", "Yes, so it is!"]
    >>> check_reward(loud, ["Hello."] * 4, completions, beta=None).warnings
    []
    """
    reward = reward if callable(reward) else folder_function(reward)
    prompts, completions = list(prompts), list(completions)
    lengths = {"prompts": len(prompts), "completions": len(completions)} | {k: len(v) for k, v in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Found {', '.join(f'{n} {name}' for name, n in lengths.items())}. Expected as many of each.")
    if beta is not None and not (isinstance(beta, Real) and beta > 0):
        raise ValueError(f"Found beta={beta!r}. Expected a number above 0, or None.")

    def ask(rows):
        chosen = {name: [values[i] for i in rows] for name, values in columns.items()}
        given = reward(prompts=[prompts[i] for i in rows], completions=[completions[i] for i in rows], **chosen)
        if len(given) != len(rows):
            raise ValueError(f"The reward function gave {len(given)} rewards for {len(rows)} completions.")
        return np.array([np.nan if value is None else float(value) for value in given]), sum(v is None for v in given)

    values, n_missing = ask(range(len(prompts)))
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError(f"None of {len(values)} rewards is a finite number. Expected some: check the reward function.")
    groups = [rows for rows in _group_rows(prompts) if len(rows) > 1]
    if not groups:
        raise ValueError(f"Found {len(prompts)} prompts, no two of them equal. Expected several completions of each.")
    texts = np.array([to_text(completion) for completion in completions], dtype=object)
    groups = [kept for rows in groups if len(kept := rows[finite[rows]]) > 1]
    spread = float(np.sqrt(np.mean([np.var(values[rows]) for rows in groups]))) if groups else 0.0
    flat = [np.ptp(values[rows]) <= 1e-9 * np.abs(values[rows]).max() for rows in groups]
    measures = {
        "spread": spread,
        "flat groups": float(np.mean(flat)) if flat else 1.0,
        "ties": _ties(values, texts, groups),
        "missing": n_missing / len(values),
        "not finite": int((~finite).sum()) - n_missing,
        "saturation": _saturation(values[finite], texts[finite]),
        "length": _length_correlation(values, texts, groups),
        "batch": _batch_change(values, ask),
        **({} if beta is None else {"nats per spread": spread / beta}),
    }
    return _judge(measures)


def _judge(measures):
    """The table of these measures, and a warning for each that is not as expected."""
    table = []
    for measure, value in measures.items():
        low, high, _ = _MEASURES[measure]
        ok = value is None or low <= value <= high
        table.append({"measure": measure, "value": value, "expected": f"{low:g} to {high:g}", "ok": bool(ok)})
    messages = [_MEASURES[row["measure"]][-1].format(**row) for row in table if not row["ok"]]
    for message in messages:
        warn_user(message)
    return Bunch(table=table, warnings=messages)


def _group_rows(prompts):
    """Rows of each distinct prompt, a list of arrays."""
    groups: dict[str, list] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(json.dumps(prompt, default=repr), []).append(row)
    return [np.array(rows) for rows in groups.values()]


def _ties(values, texts, groups):
    """Share of completions of the groups that have the reward of a different text of their group."""
    distinct = [{(values[row], texts[row]) for row in rows} for rows in groups]
    both = list(zip(groups, distinct, strict=True))
    tied = [sum(value == values[row] for value, _ in pairs) > 1 for rows, pairs in both for row in rows]
    return float(np.mean(tied)) if tied else 0.0


def _saturation(values, texts):
    """Share of distinct texts at an end of the range; the one text that makes the end is not counted."""
    values = np.sort(list(dict(zip(texts, values, strict=True)).values()))
    width = 0.01 * np.ptp(values)
    ends = [np.sum(values >= values[-1] - width), np.sum(values <= values[0] + width)]
    return float(sum(n for n in ends if n > 1) / len(values)) if width else 0.0


def _length_correlation(values, texts, groups):
    """Spearman's correlation with the number of words, of ranks within groups; None where either never differs."""
    ranks = []
    for rows in groups:
        both = np.array([rankdata(values[rows]), rankdata([len(text.split()) for text in texts[rows]])])
        ranks.append((both - both.mean(axis=1, keepdims=True)) / len(rows))
    if not ranks or not np.concatenate(ranks, axis=1).any(axis=1).all():
        return None
    return float(np.corrcoef(np.concatenate(ranks, axis=1))[0, 1])


def _batch_change(values, ask):
    """Largest change, in standard deviations, of a reward that is computed alone."""
    rows = np.flatnonzero(np.isfinite(values))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(_N_ALONE, len(rows))).astype(int))]
    alone = np.array([ask([int(row)])[0][0] for row in rows])
    if not np.isfinite(alone).all():
        return float("inf")
    return float(np.abs(alone - values[rows]).max() / (np.std(values[rows]) or 1.0))
