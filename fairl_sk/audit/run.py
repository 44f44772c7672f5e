"""The audit: hold out whole groups, tune three learners, measure them. The result is plain data without layout."""

import platform
import sys
import time
from functools import partial
from numbers import Integral

import numpy as np
import scipy
import sklearn
import torch
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_scalar

from .. import __version__, metrics
from ..features import TextFeatures, TransformerEmbedder
from ..features.loading import has_minilm
from ..pairs import preference_sign
from .alignment import measure_alignment
from .beyond import measure_beyond, read_beyond
from .checks import with_useful_reference
from .choice import fit_distilled, fit_tuned, ratio_rewards, recommend, shown_reward
from .contributions import Contributions, decided_by
from .data import (
    check_data,
    complete_implicit_rewards,
    fit_features,
    held_out_rows,
    on_one_line,
    package_corpus,
    split_groups,
    with_known_rewards,
    with_reference,
)
from .explain import AuditedReward, AuditedRows, explain
from .how_good import measure_calibration
from .measures import (
    accuracy_by_kind,
    auc_by_subtype,
    hardest_rows,
    margins_of,
    rewards_of,
    score_table,
    shuffled_rewards,
)
from .objectives import measure_objectives
from .page import AuditResult
from .properties import known_properties
from .uncertainty import fit_posterior, measure_uncertainty
from .unfinished import measure_parts


def audit(
    data=None,
    *,
    reference=None,
    compare=None,
    deploy=None,
    features=None,
    n_components=200,
    test_size=0.25,
    n_resamples=1000,
    n_shuffles=20,
    properties=None,
    random_state=0,
    verbose=0,
):
    """Tune three learners on pairs of texts, measure them on held-out groups, and say which one to use.

    `MaxEntropyIRL`, `MaxMarginIRL` and `FailureAwareIRL` choose alpha, and the last one whether to learn from failures,
    by cross-validation over the training groups. The defaults are kept where a class has fewer than five groups.

    Parameters
    ----------
    data : Bunch, default=None
        Pairs, or labeled outputs, from `fairl_sk.datasets.load_preferences` or `model_pairs`. None: 2,000 pairs of
        `fairl_sk.datasets.make_detox_preferences`. Prompts are not read; to include them, put
        ``fairl_sk.pairs.join_prompts(data.prompt, data.data)`` into ``data.data``. With ``implicit_rewards``, rewards
        learned from these are measured, too.
    reference : callable, default=None
        Ground-truth reward, such as one of `fairl_sk.rewards`: texts (n,) -> rewards (n,), positive if desirable.
        Its methods ``describe`` and ``subtypes`` are used if it has them. None: ``data.reference_reward``, if any.
    compare : dict of str to callable or estimator, default=None
        Other rewards by name, which are measured on the held-out rows beside the recovered one: texts (n,) -> rewards
        (n,), a reward function of TRL (``prompts=``, ``completions=``), or a fitted estimator over texts.
    deploy : Bunch, or array-like of str of shape (n_texts,) or (n_pairs, 2), default=None
        Texts or pairs on which the reward will be used. How far they are from the training texts is measured.
    features : transformer, default=None
        From texts to features: `TextFeatures`, `TransformerEmbedder`, or a `PairTransformer` around any transformer of
        texts. None: `TextFeatures` of words and characters, joined with MiniLM if the extra ``text`` is installed.
    n_components : int >= 1, default=200
        With ``features=None``: number of features of words, and of characters.
    test_size : float in (0, 1), default=0.25
        Share of the groups that is held out.
    n_resamples : int, default=1000
        Number of bootstrap draws of groups for the intervals.
    n_shuffles : int >= 1, default=20
        Number of fits on shuffled labels, for the null of that name.
    properties : dict of str to callable, default=None
        Properties of texts that may explain the preferences, beside those of `fairl_sk.audit.PROPERTIES`: texts (n,) ->
        numbers (n,). None as a value leaves one of these out.
    random_state : int >= 0, default=0
        Seed of the split, the features, the fits and the intervals.
    verbose : int or bool, default=0
        Whether the learners show progress bars.

    Returns
    -------
    result : AuditResult
        A Bunch, with ``to_html()`` for the report as a page. ``choice`` (which reward to ``use``: the simplest that is
        not clearly worse than the ``best``, by held-out pair accuracy and AUC of outputs; with implicit rewards and a
        reference, by label AUC and STARC), ``alignment`` (of `model_pairs`: what was learned, by step), ``table`` (a
        dict per reward, with a `BootstrapInterval` per measure), ``calibration`` (of the probabilities of the reward to
        use), ``kinds`` (accuracy per kind of pair), ``subtypes`` (AUC per sub-type of toxic output), ``objectives``
        (where several objectives conflict, or None), ``uncertainty`` (undecided pairs and uncertain outputs),
        ``failures`` (the hardest rows, why they are, and what decided), ``shortcuts``, ``subgroups`` and
        ``label_errors`` (see `fairl_sk.audit.explain.explain`), ``novelty``, ``learning_curve`` and ``compared`` (see
        `fairl_sk.audit.beyond.measure_beyond`), ``pipelines`` (fitted), ``margins`` (held out) and ``settings``. An
        interrupt after the scores (``subtypes`` and all before it) leaves out the other parts that are not finished;
        ``settings["interrupted"]`` names them.

    Raises
    ------
    ValueError
        If there are too few groups, or a parameter, the texts or the reference are invalid.

    Warns
    -----
    UserWarning
        If ``data.reference_reward`` or ``data.implicit_rewards`` has missing values, which is then ignored; if the
        base and the aligned model of `model_pairs` may be exchanged; and after an interrupt.
    """
    started = time.perf_counter()
    _check_numbers(n_components, n_shuffles, random_state)
    properties = known_properties(properties)
    data = _prepared(data, reference, random_state)
    train, test = split_groups(data, test_size, random_state)
    held = held_out_rows(data, test)
    beyond = read_beyond(deploy, compare, held, random_state)
    if features is None:
        features = _default_features(n_components, random_state, verbose)
    features, X_train = fit_features(features, data.data[train])
    held.X = X_test = features.transform(held.texts)
    trained = _training_rows(data, train, X_train)
    known = trained.y, trained.groups, random_state, verbose, trained.implicit_rewards
    learners, tuning = fit_tuned(X_train, *known)
    rewards = _held_out_rewards(learners, X_train, X_test, data, train, test)
    margins = {name: margins_of(values, held.sign) for name, values in rewards.items()}
    draws = {"n_resamples": n_resamples, "random_state": random_state}
    interval = partial(metrics.bootstrap_interval, **draws)
    shuffled = shuffled_rewards(learners["FailureAwareIRL"], X_train, trained.y, X_test, random_state, n_shuffles)
    table = score_table(rewards, shuffled, held, partial(interval, groups=held.groups))
    choice = recommend(table, rewards, held, n_resamples, random_state)
    pipelines = {name: Pipeline([("features", features), ("irl", learner)]) for name, learner in learners.items()}
    rows = AuditedRows(data, train, test, X_train, X_test)
    scores = {
        "choice": choice,
        "alignment": _alignment(data, reference, train, X_train, held, rewards, interval),
        "table": table,
        "calibration": measure_calibration(margins[shown_reward(choice)], held.groups, interval, random_state),
        "kinds": accuracy_by_kind(held, margins),
        "subtypes": auc_by_subtype(held, rewards, interval),
        "objectives": measure_objectives(data, test, held, margins[shown_reward(choice)], interval),
    }
    found, how = measure_parts(_parts(rows, trained, held, beyond, choice, pipelines, margins, properties, draws))
    return AuditResult(
        **scores,
        **found,
        pipelines=pipelines,
        margins=margins,
        settings={
            **_settings(data, train, test, features, learners, random_state),
            **beyond.settings | {"tuning": tuning} | how,
            "intervals": _on_intervals(n_resamples, n_shuffles),
            "seconds": round(time.perf_counter() - started, 2),
        },
    )


def _check_numbers(n_components, n_shuffles, random_state):
    check_scalar(n_components, "n_components", Integral, min_val=1)
    check_scalar(n_shuffles, "n_shuffles", Integral, min_val=1)
    check_scalar(random_state, "random_state", Integral, min_val=0)


def _training_rows(data, train, X_train):
    known = {name: _rows(data[name], train) for name in ("groups", "implicit_rewards")}
    return Bunch(texts=data.data[train], X=X_train, y=data.target[train], **known)


def _default_features(n_components, random_state, verbose):
    encoder = TransformerEmbedder(normalize=True, verbose=bool(verbose)) if has_minilm() else None
    return TextFeatures(encoder, n_components=n_components, random_state=random_state)


def _recovered(choice, pipelines):
    """The name of the reward to use, if it is one of texts; else of the one that it follows, or of the last."""
    return next(name for name in (shown_reward(choice), "DistilledIRL", "FailureAwareIRL") if name in pipelines)


def _on_intervals(n_resamples, n_shuffles):
    draws = f"95%, bootstrap of {n_resamples} draws of groups"
    return f"{draws}; of shuffled labels, the 95% range of {n_shuffles} shuffles"


def _prepared(data, reference, random_state):
    """Checked data with the rewards and labels of the reference, or the package's corpus."""
    data = package_corpus(random_state) if data is None else check_data(data)
    data = with_useful_reference(with_known_rewards(data) if reference is None else with_reference(data, reference))
    data.implicit_rewards = complete_implicit_rewards(data)
    return data


def _parts(rows, trained, held, beyond, choice, pipelines, margins, properties, draws):
    """The parts after the scores, one by one."""
    name, shown = _recovered(choice, pipelines), shown_reward(choice)
    if not beyond.compared:
        yield "compared", []
    posterior = fit_posterior(pipelines["MaxEntropyIRL"][-1], trained.X, trained.y)
    yield "uncertainty", measure_uncertainty(posterior, trained.X, trained.y, held.X, held, shown, margins[shown])
    reward = AuditedReward(name, pipelines[name], margins[name], pipelines["MaxEntropyIRL"][-1])
    for part, found in explain(rows, reward, properties=properties, **draws):
        if part != "reasons":
            yield part, found
            continue
        features, learner = pipelines[name]
        why = partial(decided_by, Contributions(features, learner.coef_), held, held.X)
        yield "failures", hardest_rows(margins[name], held, found, why)
    yield from measure_beyond(beyond, trained, held, pipelines[name], posterior, properties=properties, **draws)


def _rows(values, rows):
    return None if values is None else values[rows]


def _held_out_rewards(learners, X_train, X_test, data, train, test):
    """Rewards of the held-out outputs by each learner and, if they are known, with implicit rewards."""
    rewards = {name: rewards_of(learner, X_test) for name, learner in learners.items()}
    if data.implicit_rewards is not None:
        sign, distilled = preference_sign(data.target, len(data.target))[train], learners["DistilledIRL"]
        known = data.implicit_rewards[train], rewards_of(distilled, X_train), sign
        rewards |= ratio_rewards(*known, data.implicit_rewards[test], rewards["DistilledIRL"])
    return rewards


def _alignment(data, reference, train, X_train, held, rewards, interval):
    """What `measure_alignment` finds of two models, and how far each step's distilled reward is from the last one's."""
    models = data.get("models")
    if models is None:
        return None
    interval = partial(interval, groups=held.groups)
    found = measure_alignment(data, reference, interval)
    known = X_train, data.target[train], data.groups[train]
    earlier = [rewards_of(fit_distilled(*known, values[train]), held.X) for values in models.implicit_rewards[:-1]]
    last = rewards["DistilledIRL"]
    for step, values in zip(found["steps"][1:], [*earlier, last], strict=True):
        step["distance"] = interval(metrics.starc_distance, values, last)
    return found


def _settings(data, train, test, features, learners, random_state):
    """How the audit was made. Default parameters too, since another version may have others."""
    encoder = dict(features.union_.transformer_list).get("encoder") if isinstance(features, TextFeatures) else features
    return {
        "data": data.get("provenance"),
        "rows": len(data.data),
        "rows_are": "pairs" if data.data.ndim == 2 else "outputs",
        "train_rows": len(train),
        "test_rows": len(test),
        "groups": len(np.unique(data.groups)),
        "dropped": dict(data.get("dropped", {})),
        "columns not read": list(data.get("unread", [])),
        "features": on_one_line(features),
        "blocks": features.n_components_ if isinstance(features, TextFeatures) else {},
        "embedding": dict(getattr(encoder, "settings_", {})),
        "learners": {
            name: {key: on_one_line(value) for key, value in learner.get_params(deep=False).items()}
            for name, learner in learners.items()
        },
        "reference": data.reference,
        "starc": "L2 norm, centered by the mean over all held-out outputs",
        "seed": random_state,
        "versions": {
            "python": platform.python_version(),
            "fairl_sk": __version__,
            **{module.__name__: module.__version__ for module in (sklearn, torch, np, scipy)},
            **{name: sys.modules[name].__version__ for name in ("transformers",) if name in sys.modules},
        },
    }
