"""Nulls: rewards that know nothing of the preferences. Report their scores beside those of a learned reward."""

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from sklearn.utils import _safe_indexing, check_random_state  # private: rows of an array, a list or a table

from ..pairs import is_pairs, preference_sign, read_texts
from .outputs import check_output_labels
from .scorers import output_rewards
from .weighted import check_groups


def longer_null(X):
    """Reward of the null "the longer output is better": the number of characters minus its median.

    Parameters
    ----------
    X : array-like of str of shape (n_pairs, 2) or (n_outputs,), or table
        Texts, else a ValueError. A table has columns chosen and rejected, or completion; its prompts count too.

    Returns
    -------
    ndarray of shape (n_pairs, 2) or (n_outputs,)
        Rewards with median 0, so that about half of the outputs count as desirable in `output_f1_score`.

    Examples
    --------
    >>> from fairl_sk.metrics import longer_null
    >>> longer_null(["no", "never"]).tolist()
    [-1.5, 1.5]
    """
    texts = read_texts(X)
    if texts is None:
        found = f"Got X of type {type(X).__name__} without texts, but the length of an output needs its text"
        raise ValueError(f"{found}. Pass the input of the vectorizer, of shape (n_pairs, 2) or (n_outputs,).")
    lengths = np.array([len(text) for text in texts.flat], dtype=float)
    return (lengths - np.median(lengths)).reshape(texts.shape)


def shorter_null(X):
    """Reward of the null "the shorter output is better". See `longer_null` for parameters and errors.

    Returns
    -------
    ndarray of shape (n_pairs, 2) or (n_outputs,)
        The negative of `longer_null`.
    """
    return -longer_null(X)


def shuffled_labels_null(estimator, X, y=None, *, groups=None, X_test=None, random_state=None):
    """Reward of the null "labels mean nothing": a clone fitted on shuffled labels.

    A score above chance is a leak of the procedure. Pairs get balanced random labels; labels of outputs are permuted.

    Parameters
    ----------
    estimator : estimator with ``fit(X, y)`` and ``decision_function``
        Cloned before each fit. A Pipeline that starts from text works too.
    X : pairs or outputs with n_rows rows
        Training rows.
    y : array-like of shape (n_rows,) or None, default=None
        Their labels. For pairs only the two classes are used; 0 and 1 if it is None or has one class.
    groups : array-like of shape (n_rows,) or None, default=None
        Prompt of each row, kept whole by the folds. None: the rows are independent. Unused with `X_test`.
    X_test : pairs or outputs, default=None
        Rows to score after one fit on all of `X`. None: the rows of `X`, each scored out of fold (5 folds).
    random_state : int, RandomState instance or None, default=None
        Seed of the shuffling.

    Returns
    -------
    ndarray of shape (n_pairs, 2) or (n_outputs,)
        Rewards of the outputs of `X_test`, or of `X`.

    Raises
    ------
    ValueError
        If there is only one group, or if outputs come without `y`.
    """
    n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
    shuffled = _shuffled_labels(X, y, n_rows, check_random_state(random_state))
    if X_test is not None:
        return output_rewards(clone(estimator).fit(X, shuffled), X_test)
    groups = np.arange(n_rows) if groups is None else groups
    names, codes = check_groups(groups, n_rows, purpose="an out-of-fold fit")
    rewards = np.empty((n_rows, 2) if is_pairs(X) else n_rows)
    for train, test in GroupKFold(min(5, len(names))).split(codes, groups=codes):
        fitted = clone(estimator).fit(_safe_indexing(X, train), shuffled[train])
        rewards[test] = output_rewards(fitted, _safe_indexing(X, test))
    return rewards


def _shuffled_labels(X, y, n_rows, rng):
    if not is_pairs(X):
        if y is None:
            raise ValueError("Got outputs with y=None, but there are no labels to shuffle. Pass y, or pairs.")
        return rng.permutation(np.asarray(y))
    preference_sign(y, n_rows)  # raises if y does not fit
    classes = np.array([0, 1]) if y is None or len(np.unique(y)) == 1 else np.unique(y)
    return rng.permutation(classes[np.arange(n_rows) % 2])


def prompt_only_null(prompts, output_labels):
    """Reward of the null "only the prompt matters": the labels of the prompt's other pairs.

    Both outputs of a pair get the same reward, so pair accuracy is 1/2. F1 and AUC show what the prompt alone reaches.

    Parameters
    ----------
    prompts : array-like of shape (n_pairs,)
        Prompt of each pair.
    output_labels : array-like of shape (n_pairs, 2)
        1 for desirable outputs and 0 for others, else a ValueError.

    Returns
    -------
    ndarray of shape (n_pairs, 2)
        Share of desirable outputs among the *other* pairs of the prompt, or among all if there are none, minus 1/2.

    Examples
    --------
    >>> from fairl_sk.metrics import prompt_only_null
    >>> prompt_only_null(["a", "a", "b"], [[1, 1], [1, 0], [0, 0]])[:, 0].tolist()
    [0.0, 0.5, 0.0]
    """
    _, codes = check_groups(prompts, len(prompts))
    labels = check_output_labels(output_labels, (len(codes), 2)).reshape(-1, 2).mean(axis=1)
    others = np.bincount(codes)[codes] - 1
    desirable = np.bincount(codes, labels)[codes] - labels
    share = np.where(others > 0, desirable / np.maximum(others, 1), labels.mean())
    return np.repeat(share[:, None] - 0.5, 2, axis=1)
