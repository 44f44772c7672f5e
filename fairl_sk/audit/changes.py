"""What an alignment raised and lowered: words whose outputs, and tokens whose shares, differ. `alignment` reads it."""

import numpy as np
from scipy import sparse, stats
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import RidgeCV

N_LISTED = 10  # of those raised, and of those lowered
MAX_TRIED = 2000  # the most frequent ones
MIN_PROMPTS = 10  # with a word, and with outputs that do not hold it
LEVEL = 0.05
_CHUNK = 100  # words at a time
_ALPHAS = np.logspace(-1, 3, 9)


def changed_words(texts, rewards, nulls, prompts):
    """Words whose outputs have clearly higher, or lower, rewards than outputs without them.

    The interval of this difference holds for all words that are tried at once (Bonferroni), over prompts and over
    random changes of the weights: the variance of the null is added.

    Parameters
    ----------
    texts : ndarray of shape (n_outputs,)
    rewards : ndarray of shape (n_outputs,)
        Implicit rewards, or what a reference leaves of them.
    nulls : ndarray of shape (n_draws, n_outputs)
        The same of each draw of the null.
    prompts : ndarray of shape (n_outputs,)
        Number of each output's prompt.

    Returns
    -------
    words : list of dict
        ``word``, ``outputs`` (how many hold it), ``change`` (the difference, in nats), ``low`` and ``high``, sorted by
        ``change``: at most `N_LISTED` that were lowered and as many that were raised.
    n_tried : int
        Number of words that enough prompts have.
    """
    vectorizer = CountVectorizer(binary=True, token_pattern=r"\w[\w'’]*", max_features=MAX_TRIED)
    try:
        held = vectorizer.fit_transform(texts).astype(float)
    except ValueError:  # no word at all
        return [], 0
    clear, n_tried = _clear_changes(held, rewards, nulls, prompts)
    words = vectorizer.get_feature_names_out()
    return [{"word": str(words[word]), "outputs": count, **change} for word, count, change in clear], n_tried


def changed_tokens(tokens, shares, nulls, prompts):
    """Tokens whose shares in the rewards are clearly higher, or lower, than those of other tokens.

    Parameters
    ----------
    tokens : ndarray of shape (n_occurrences,)
        The tokens of some outputs.
    shares : ndarray of shape (n_occurrences,)
        Their shares in the implicit rewards, or what a reference leaves of them.
    nulls : ndarray of shape (n_draws, n_occurrences)
        The same of each draw of the null.
    prompts : ndarray of shape (n_occurrences,)
        Number of the prompt of each.

    Returns
    -------
    tokens : list of dict
        ``token``, ``occurrences``, and else as of `changed_words`.
    n_tried : int
        Number of tokens that enough prompts have.
    """
    names, number, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:MAX_TRIED]
    held = sparse.csr_matrix((np.ones(len(tokens)), (np.arange(len(tokens)), number)))[:, frequent]
    clear, n_tried = _clear_changes(held, shares, nulls, prompts)
    names = names[frequent]
    return [{"token": str(names[token]), "occurrences": count, **change} for token, count, change in clear], n_tried


def token_effects(tokens, outputs, rewards):
    """What each token adds to the rewards of outputs: ridge regression on the counts of tokens.

    Parameters
    ----------
    tokens, outputs : ndarray of shape (n_occurrences,)
        The tokens, and the number of the output of each.
    rewards : ndarray
        Reward of each output, by its number.

    Returns
    -------
    effects : ndarray of shape (n_occurrences,)
    """
    number = np.unique(tokens, return_inverse=True)[1]
    which, row = np.unique(outputs, return_inverse=True)
    counts = sparse.csr_matrix((np.ones(len(tokens)), (row, number)))
    return RidgeCV(alphas=_ALPHAS).fit(counts, rewards[which]).coef_[number]


def _clear_changes(held, rewards, nulls, prompts):
    """Columns of ``held`` (n_rows, n_columns) whose rows clearly differ from others, with their count and change."""
    by_prompt = sparse.csr_matrix((np.ones(len(prompts)), (prompts, np.arange(len(prompts)))))
    by_prompt = by_prompt[by_prompt.getnnz(axis=1) > 0]
    n_rows = by_prompt.getnnz(axis=1)
    counts = (by_prompt @ held).tocoo()
    n_with = np.bincount(counts.col, minlength=held.shape[1])
    only_with = np.bincount(counts.col[counts.data == n_rows[counts.row]], minlength=held.shape[1])
    n_prompts = np.minimum(n_with, len(n_rows) - only_with)
    tried = np.flatnonzero(n_prompts >= MIN_PROMPTS)
    if not len(tried):
        return [], 0
    held = held.tocsc()[:, tried]
    change, error = _differences(held, rewards, by_prompt)
    of_null = np.array([_differences(held, null, by_prompt)[0] for null in nulls])
    by_chance = np.maximum((of_null**2).mean(axis=0), (of_null**2).mean())
    quantile = stats.t.ppf(1 - LEVEL / 2 / len(tried), n_prompts[tried] - 1)
    width = quantile * np.sqrt(error**2 + by_chance)
    clear = np.flatnonzero(np.abs(change) > width)
    clear = clear[np.argsort(change[clear], kind="stable")]
    lowered, raised = clear[change[clear] < 0][:N_LISTED], clear[change[clear] > 0][-N_LISTED:]
    found = []
    for column in (*lowered, *raised):
        ends = {"low": float(change[column] - width[column]), "high": float(change[column] + width[column])}
        found.append((tried[column], int(held[:, [column]].sum()), {"change": float(change[column]), **ends}))
    return found, len(tried)


def _differences(held, rewards, by_prompt):
    """Mean reward of outputs with each word less that of outputs without it, and its standard error over prompts."""
    parts = []
    for first in range(0, held.shape[1], _CHUNK):
        has = held[:, first : first + _CHUNK].toarray()
        n_with, n_without = has.sum(axis=0), (1 - has).sum(axis=0)
        mean_with, mean_without = rewards @ has / n_with, rewards @ (1 - has) / n_without
        away = np.where(has, (rewards[:, None] - mean_with) / n_with, (mean_without - rewards[:, None]) / n_without)
        parts.append([mean_with - mean_without, np.sqrt(np.square(by_prompt @ away).sum(axis=0))])
    return np.concatenate(parts, axis=1)
