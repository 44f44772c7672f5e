"""Is what was learned what was meant: the implicit reward beside its null and a reference, by step. `run` reads it."""

import numpy as np
from scipy import sparse, stats
from sklearn.feature_extraction.text import CountVectorizer

from ..warn import warn_user

N_WORDS = 10  # listed, of those raised and of those lowered
MAX_WORDS = 2000  # the most frequent ones are tried
MIN_PROMPTS = 10  # with outputs that hold a word, and with outputs that do not
LEVEL = 0.05
_CHUNK = 100  # words at a time
N_ERRORS = 2  # a KL divergence so many standard errors, and half the spread, below 0 is not its estimate's error


def measure_alignment(data, reference, interval):
    """Measure the implicit rewards of `model_pairs`: against their null, against a reference, and by step.

    Parameters
    ----------
    data : Bunch
        From `model_pairs`, with ``reference_reward`` (n_pairs, 2) or None.
    reference : callable or None
        The same ground truth: texts (n,) -> rewards (n,).
    interval : callable
        `fairl_sk.metrics.bootstrap_interval` with the settings of the audit.

    Returns
    -------
    dict
        ``steps``, a dict for the base model and for each aligned model, and ``words``, a dict for each word that
        alignment clearly raised or lowered, beside what the length of outputs and the reference, if any, explain.

    Warns
    -----
    UserWarning
        If a number shows that the base model and the aligned one may be exchanged.
    """
    models = data.models
    rows, base_side = np.arange(len(data.data)), data.target  # the target is 1 where the base's output is the second
    rewards = models.implicit_rewards[:, rows, base_side]
    within = np.mean(np.bincount(models.prompts)[models.prompts] > 1) >= 0.5
    prompts = models.prompts if within else np.zeros(len(rows), dtype=int)
    values, nulls = _centered(rewards, prompts), _centered(models.null_rewards, prompts)
    truth = None if data.reference_reward is None else data.reference_reward[rows, base_side]
    centered = None if truth is None or np.ptp(truth) == 0 else _centered(truth, prompts)
    steps = [{"step": "base", "desirable": None if truth is None else _share(interval, truth, data.groups)}]
    for number, name in enumerate(models.names):
        steps.append({"step": name, **_spread(rewards[number], models.null_rewards[:, number])})
        steps[-1] |= dict(zip(("kl", "kl_error"), models.kl[number].tolist(), strict=True))
        if centered is not None:
            steps[-1] |= _explained(values[number], centered, data.groups, interval)
        if reference is not None:
            steps[-1]["desirable"] = _share(interval, reference(models.outputs[number]), None)
    _warn_if_exchanged(data, steps[-1])
    texts = data.data[rows, base_side]
    lengths = _centered(np.array([len(text.split()) for text in texts], dtype=float), prompts)
    known = lengths[None] if centered is None else np.stack([lengths, centered])
    rest, rest_nulls = (_residual(each, known) for each in (values[-1], nulls[:, -1]))
    words, n_tried = changed_words(texts, rest, rest_nulls, models.prompts)
    return {
        "outputs": len(rows),
        "prompts": int(models.prompts.max() + 1),
        "within_prompts": bool(within),
        "end_token": models.end_token,
        "n_draws": len(models.null_rewards),
        "reference": centered is not None,
        "steps": steps,
        "words": words,
        "words_tried": n_tried,
    }


def _centered(values, prompts):
    """Values (..., n_outputs) less their mean over the outputs of each prompt: only these compare."""
    sums = np.apply_along_axis(lambda row: np.bincount(prompts, row), -1, values)
    return values - (sums / np.bincount(prompts))[..., prompts]


def _spread(rewards, nulls):
    """Standard deviation over outputs, and that of the null: its mean and range over the draws."""
    null = nulls.std(axis=1)
    found = {"spread": rewards.std(), "null_spread": null.mean(), "null_low": null.min(), "null_high": null.max()}
    found["times_noise"] = found["spread"] / null.mean() if null.mean() > 0 else np.inf
    return {name: float(value) for name, value in found.items()}


def _explained(values, reference, groups, interval):
    """Correlation with the reference, and the share of the variance that it explains."""
    return {
        "reference_correlation": interval(_correlation, values, reference, groups=groups),
        "reference_share": interval(_explained_share, values, reference, groups=groups),
    }


def _correlation(values, reference, sample_weight):
    covariance = np.cov(values, reference, aweights=sample_weight, ddof=0)
    scale = np.sqrt(covariance[0, 0] * covariance[1, 1])
    return covariance[0, 1] / scale if scale > 0 else np.nan


def _explained_share(values, reference, sample_weight):
    return _correlation(values, reference, sample_weight) ** 2


def _share(interval, rewards, groups):
    """Share of desirable outputs."""
    return interval(_mean, np.asarray(rewards) > 0, groups=groups)


def _mean(values, sample_weight):
    return np.average(values, weights=sample_weight)


def _residual(values, known):
    """Values (..., n_outputs) less their regression on what is known, (n_known, n_outputs); all have mean 0."""
    coef = np.linalg.lstsq(known.T, values.reshape(-1, values.shape[-1]).T, rcond=None)[0]
    return values - (coef.T @ known).reshape(values.shape)


def _warn_if_exchanged(data, last):
    remedy = "Check that --base is the model before alignment and --aligned the one after it."
    for name, (estimate, error) in (("aligned", data.models.kl[-1]), ("base", data.models.base_kl[-1])):
        if estimate < -max(N_ERRORS * error, last["spread"] / 2):
            found = (
                f"The KL divergence by the outputs of the {name} model is negative: {estimate:.2f} +- {error:.2f} nats"
            )
            warn_user(f"{found}. These outputs are not this model's. {remedy}")
    correlation = last.get("reference_correlation")
    if correlation is not None and correlation.high < 0:
        found = f"The implicit reward falls where the reference rises (correlation {correlation.estimate:.2f})"
        warn_user(f"{found}: the models may be exchanged, or the sign of the reference. {remedy}")


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
        ``change``: at most `N_WORDS` that were lowered and as many that were raised.
    n_tried : int
        Number of words that enough prompts have.
    """
    vectorizer = CountVectorizer(binary=True, token_pattern=r"\w[\w'’]*", max_features=MAX_WORDS)
    try:
        held = vectorizer.fit_transform(texts).astype(float)
    except ValueError:  # no word at all
        return [], 0
    by_prompt = sparse.csr_matrix((np.ones(len(texts)), (prompts, np.arange(len(texts)))))
    n_with = np.asarray(((by_prompt @ held) > 0).sum(axis=0)).ravel()
    n_prompts = np.minimum(n_with, by_prompt.shape[0] - n_with)
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
    lowered, raised = clear[change[clear] < 0][:N_WORDS], clear[change[clear] > 0][-N_WORDS:]
    names = vectorizer.get_feature_names_out()[tried]
    words = [
        {
            "word": str(names[word]),
            "outputs": int(held[:, [word]].sum()),
            "change": float(change[word]),
            "low": float(change[word] - width[word]),
            "high": float(change[word] + width[word]),
        }
        for word in (*lowered, *raised)
    ]
    return words, len(tried)


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
