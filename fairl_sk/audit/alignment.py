"""Is what was learned what was meant: the implicit reward beside its null and a reference, by step. `run` reads it."""

import numpy as np

from ..warn import warn_user
from .changes import changed_tokens, changed_words, token_effects

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
        ``steps``, a dict for the base model and for each aligned model, and ``words`` and ``tokens``, a dict for each
        one that alignment clearly raised or lowered, beside what the reference, if any, explains, and of words also the
        length of outputs.

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
    words, words_tried = changed_words(texts, rest, rest_nulls, models.prompts)
    tokens, tokens_tried = _tokens(models, truth)
    return {
        "outputs": len(rows),
        "prompts": int(models.prompts.max() + 1),
        "within_prompts": bool(within),
        "end_token": models.end_token,
        "n_draws": len(models.null_rewards),
        "reference": centered is not None,
        "steps": steps,
        "words": words,
        "words_tried": words_tried,
        "tokens": tokens,
        "tokens_tried": tokens_tried,
        "token_outputs": len(np.unique(models.tokens.rows)),
    }


def _tokens(models, truth):
    """`changed_tokens` of what the reference leaves of their shares."""
    found = models.tokens
    known = np.empty((0, len(found.rows)))
    if truth is not None:
        known = token_effects(found.tokens, found.rows, truth)[None]
    shares, nulls, known = (part - part.mean(axis=-1, keepdims=True) for part in (found.shares, found.nulls, known))
    rest, rest_nulls = (_residual(part, known) for part in (shares, nulls))
    return changed_tokens(found.tokens, rest, rest_nulls, models.prompts[found.rows])


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
