"""The audit: hold out whole groups, tune three learners, measure them. The result is plain data without layout."""

import platform
import sys
import time
import warnings
from functools import partial
from numbers import Integral

import numpy as np
import scipy
import sklearn
import torch
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_scalar

from .. import __version__, metrics
from ..datasets import make_detox_preferences
from ..diagnosis import LaplaceReward, ambiguity
from ..features import TextFeatures, TransformerEmbedder
from ..features.loading import has_minilm
from ..pairs import preference_sign, stack_outputs
from ..warn import warn_user
from .alignment import measure_alignment
from .checks import warn_of_unseen_texts, with_useful_reference, with_votes
from .choice import fit_distilled, fit_tuned, ratio_rewards, recommend

MEASURES = ("pair_accuracy", "output_f1", "output_auc", "label_f1", "label_auc", "starc")
KINDS = ("T->NT", "NT->NT", "T->T", "NT->T")  # rejected -> chosen; T: toxic, NT: not toxic
MIN_SUBTYPE_GROUPS = 5  # fewer groups give no interval
UNDECIDED = 2.0  # a margin within so many standard deviations of 0 may have either sign
N_FAILURES = 20  # the hardest misordered rows, which are listed
N_UNCERTAIN_OUTPUTS = 8
MAX_POSTERIOR_FEATURES = 1024  # a posterior takes time as the square of the features
MAX_RANGE_PAIRS = 20_000
LIKELIHOOD_DROP = 1.92  # half the 95 % quantile of chi squared with one degree of freedom


def audit(
    data=None,
    *,
    reference=None,
    features=None,
    n_components=200,
    test_size=0.25,
    n_resamples=1000,
    n_shuffles=20,
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
    random_state : int >= 0, default=0
        Seed of the split, the features, the fits and the intervals.
    verbose : int or bool, default=0
        Whether the learners show progress bars.

    Returns
    -------
    result : Bunch
        ``choice`` (which reward to ``use``: the simplest that is not clearly worse than the ``best``, by held-out pair
        accuracy and AUC of outputs; with implicit rewards and a reference, by label AUC and STARC), ``alignment`` (of
        `model_pairs`: what was learned, by step), ``table`` (a dict per reward, with a `BootstrapInterval` per
        measure), ``kinds`` (accuracy per kind of pair), ``subtypes`` (AUC per sub-type of toxic output),
        ``uncertainty`` (undecided pairs and uncertain outputs), ``failures`` (the hardest rows), ``pipelines``
        (fitted), ``margins`` (held out) and
        ``settings``.

    Raises
    ------
    ValueError
        If there are too few groups, or a parameter, the texts or the reference are invalid.

    Warns
    -----
    UserWarning
        If ``data.reference_reward`` or ``data.implicit_rewards`` has missing values, which is then ignored; and if the
        base and the aligned model of `model_pairs` may be exchanged.
    """
    started = time.perf_counter()
    check_scalar(n_components, "n_components", Integral, min_val=1)
    check_scalar(n_shuffles, "n_shuffles", Integral, min_val=1)
    check_scalar(random_state, "random_state", Integral, min_val=0)
    data = _package_corpus(random_state) if data is None else _check_data(data)
    data = with_useful_reference(_with_known_rewards(data) if reference is None else _with_reference(data, reference))
    data.implicit_rewards = _complete_implicit_rewards(data)
    train, test = _split(data, test_size, random_state)
    held = _held_out(data, test)
    if features is None:
        encoder = TransformerEmbedder(normalize=True, verbose=bool(verbose)) if has_minilm() else None
        features = TextFeatures(encoder, n_components=n_components, random_state=random_state)
    features, X_train = _fitted_features(features, data.data[train])
    X_test, y_train = features.transform(held.texts), data.target[train]

    learners, tuning = fit_tuned(
        X_train, y_train, data.groups[train], random_state, verbose, _rows(data.implicit_rewards, train)
    )
    rewards = _held_out_rewards(learners, X_train, X_test, data, train, test)
    margins = {name: _margins(values, held.sign) for name, values in rewards.items()}
    interval = partial(metrics.bootstrap_interval, n_resamples=n_resamples, random_state=random_state)
    table = [
        {"reward": name, "null": null, **_measured(values, held, partial(interval, groups=held.groups))}
        for null, group in ((False, rewards), (True, _nulls(held)))
        for name, values in group.items()
    ]
    shuffled = _shuffled(learners["FailureAwareIRL"], X_train, y_train, X_test, random_state, n_shuffles)
    scores = [_measured(values, held, _score) for values in shuffled]
    ranges = {name: _mean_and_range([row[name] for row in scores]) for name in MEASURES}
    table.append({"reward": "shuffled labels", "null": True, **ranges})
    return Bunch(
        choice=recommend(table, rewards, held, n_resamples, random_state),
        alignment=_alignment(data, reference, train, X_train, X_test, partial(interval, groups=held.groups)),
        table=table,
        kinds=_kinds(held, margins),
        subtypes=_subtypes(held, rewards, interval),
        uncertainty=_uncertainty(learners["MaxEntropyIRL"], X_train, y_train, X_test, held),
        failures=_hardest(margins["FailureAwareIRL"], held),
        pipelines={name: Pipeline([("features", features), ("irl", learner)]) for name, learner in learners.items()},
        margins=margins,
        settings={
            **_settings(data, train, test, features, learners, random_state),
            "tuning": tuning,
            "intervals": f"95 %, bootstrap of {n_resamples} draws of groups; of shuffled labels, the 95 % range of "
            f"{n_shuffles} shuffles",
            "seconds": round(time.perf_counter() - started, 2),
        },
    )


# ------------------------------------------------------------------------------------------------------- data


def _package_corpus(random_state):
    made_by = f"make_detox_preferences(2000, random_state={random_state})"
    return Bunch(**make_detox_preferences(2000, random_state=random_state), provenance={"made by": made_by})


def _check_data(data):
    """The data with arrays of texts, targets and groups, as `load_preferences` returns them."""
    expected = "Expected what fairl_sk.datasets.load_preferences returns: a Bunch with data, target and groups."
    if not isinstance(data, dict) or any(data.get(name) is None for name in ("data", "target", "groups")):
        found = list(data) if isinstance(data, dict) else ""
        raise ValueError(f"Got data of type {type(data).__name__} {found}. {expected}")
    texts = np.asarray(data["data"], dtype=object)
    if texts.ndim not in (1, 2) or texts.shape[1:] not in ((), (2,)) or not all(isinstance(t, str) for t in texts.flat):
        raise ValueError(
            f"Got data.data of shape {texts.shape} that are not texts of pairs (n_pairs, 2) or outputs (n_outputs,). "
            f"{expected} For features, fit the estimators themselves."
        )
    arrays = {"data": texts, "target": np.asarray(data["target"]), "groups": np.asarray(data["groups"])}
    return Bunch(**with_votes({**data, **arrays}))


def _with_known_rewards(data):
    """The data with complete reference rewards or None, and labels that follow from them unless it has its own."""
    rewards, labels = data.get("reference_reward"), data.get("output_labels")
    if rewards is not None and not np.isfinite(rewards).all():
        warn_user(
            f"reference_reward is missing or not finite for {np.sum(~np.isfinite(rewards))} of {np.size(rewards)} "
            "outputs, so STARC and the labels that follow from it are left out. Fill those values, drop their rows, or "
            "give a reference.",
        )
        rewards = None
    if labels is None and rewards is not None:
        labels = (rewards > 0).astype(int)
    subtypes = data.get("subtypes")
    named = [] if subtypes is None else np.unique(subtypes)
    return Bunch(
        **{**data, "reference_reward": rewards, "output_labels": labels},
        reference=None if rewards is None else "known to the data",
        of_subtype={str(name): subtypes == name for name in named if name not in ("", "none")},
    )


def _complete_implicit_rewards(data):
    """Implicit rewards of all outputs, or None."""
    values = data.get("implicit_rewards")
    if values is None:
        return None
    values = np.asarray(values, dtype=np.float64)
    if values.shape != data.data.shape:
        raise ValueError(f"Got implicit_rewards of shape {values.shape}. Expected one an output, {data.data.shape}.")
    if np.isfinite(values).all():
        return values
    warn_user(
        f"implicit_rewards are missing or not finite for {np.sum(~np.isfinite(values))} of {values.size} outputs, so "
        "rewards that are learned from them are left out. Fill those values, or drop their rows.",
    )
    return None


def _rows(values, rows):
    return None if values is None else values[rows]


def _with_reference(data, reference):
    """The data with the rewards, labels and sub-types that a reference gives to its texts."""
    texts = data.data.ravel()
    try:
        of_subtype = {}
        if hasattr(reference, "subtypes"):
            by_label = reference.subtypes(texts)
            rewards = by_label.pop(reference.describe()["label"])
            of_subtype = {name: (values <= 0).reshape(data.data.shape) for name, values in by_label.items()}
        else:
            rewards = np.asarray(reference(texts), dtype=np.float64)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"The reference failed on the {len(texts)} texts: {error} Expected a (fitted) reward that takes an array "
            "of texts and gives one finite number for each."
        ) from error
    if rewards.shape != texts.shape or not np.isfinite(rewards).all():
        raise ValueError(
            f"The reference gave an array of shape {rewards.shape} with {np.sum(~np.isfinite(rewards))} values that "
            f"are not finite. Expected one finite reward for each of the {len(texts)} texts."
        )
    known = _with_known_rewards({**data, "reference_reward": rewards.reshape(data.data.shape), "output_labels": None})
    known.of_subtype = of_subtype or known.of_subtype
    known.reference = reference.describe() if hasattr(reference, "describe") else repr(reference)
    return known


def _split(data, test_size, random_state):
    """Row numbers of the training and the held-out part, whole groups each."""
    found = f"Found {len(data.data)} rows in {len(np.unique(data.groups))} group(s) (one per prompt or rejected text)."
    if len(np.unique(data.groups)) < 2:
        raise ValueError(f"{found} Expected at least two groups: one part of them is held out.")
    splitter = GroupShuffleSplit(n_splits=1, test_size=test_size, random_state=random_state)
    train, test = next(splitter.split(data.data, groups=data.groups))
    if len(np.unique(data.groups[test])) < 2:
        raise ValueError(f"{found} Expected at least two held-out groups, for intervals: give pairs of more prompts.")
    for name, rows in (("training", train), ("held-out", test)):
        if len(np.unique(data.target[rows])) < 2:
            raise ValueError(
                f"The {name} part has {len(rows)} rows, all of one class. Expected two classes: give more pairs, "
                "another seed, or shuffle the sides."
            )
    return train, test


def _held_out(data, test):
    """The held-out rows. What is known of outputs has the shape of the texts, or is None."""
    return Bunch(
        texts=data.data[test],
        y=data.target[test],
        sign=preference_sign(data.target, len(data.target))[test],
        groups=data.groups[test],
        index=data.get("source_index", np.arange(len(data.data)))[test],
        labels=None if data.output_labels is None else data.output_labels[test],
        reference_reward=None if data.reference_reward is None else data.reference_reward[test],
        of_subtype={name: of_it[test] for name, of_it in data.of_subtype.items()},
    )


def _fitted_features(features, texts):
    """A fitted clone of a transformer, and what it makes of the training texts."""
    features = sklearn.clone(features)
    try:
        X = features.fit_transform(texts)
    except AttributeError as error:  # a text where scikit-learn's vectorizers get a pair
        raise ValueError(
            f"{_on_one_line(features)} cannot read texts of shape {texts.shape} ({error}). Expected a "
            "TransformerEmbedder or a PairTransformer: put a transformer of single texts into PairTransformer(...)."
        ) from error
    warn_of_unseen_texts(X, texts)
    return features, X


# ---------------------------------------------------------------------------------------------------- measures


def _held_out_rewards(learners, X_train, X_test, data, train, test):
    """Rewards of the held-out outputs by each learner and, if they are known, with implicit rewards."""
    rewards = {name: _rewards(learner, X_test) for name, learner in learners.items()}
    if data.implicit_rewards is not None:
        sign, distilled = preference_sign(data.target, len(data.target))[train], learners["DistilledIRL"]
        known = data.implicit_rewards[train], _rewards(distilled, X_train), sign
        rewards |= ratio_rewards(*known, data.implicit_rewards[test], rewards["DistilledIRL"])
    return rewards


def _alignment(data, reference, train, X_train, X_test, interval):
    """What `measure_alignment` finds of two models, and how far each step's distilled reward is from the last one's."""
    models = data.get("models")
    if models is None:
        return None
    found = measure_alignment(data, reference, interval)
    known = X_train, data.target[train], data.groups[train]
    learned = [_rewards(fit_distilled(*known, values[train]), X_test) for values in models.implicit_rewards]
    for step, values in zip(found["steps"][1:], learned, strict=True):
        step["distance"] = interval(metrics.starc_distance, values, learned[-1])
    return found


def _rewards(learner, X):
    """Rewards of all outputs, (n_pairs, 2) or (n_outputs,)."""
    return learner.decision_function(X) if X.ndim == 2 else learner.decision_function(stack_outputs(X)).reshape(-1, 2)


def _margins(rewards, sign):
    """Margins R(preferred) - R(other) of pairs; rewards of outputs, negated where the label is undesirable."""
    return sign * (rewards if rewards.ndim == 1 else rewards[:, 0] - rewards[:, 1])


def _nulls(held):
    nulls = {
        "all desirable": np.ones(held.texts.shape),  # the F1 of a reward that tells nothing apart
        "longer output": metrics.longer_null(held.texts),
        "shorter output": metrics.shorter_null(held.texts),
    }
    if held.texts.ndim == 2:
        labels = np.tile([1, 0], (len(held.texts), 1)) if held.labels is None else held.labels  # one of two is chosen
        nulls["prompt only"] = metrics.prompt_only_null(held.groups, labels)
    return nulls


def _shuffled(learner, X_train, y_train, X_test, random_state, n_shuffles):
    """Held-out rewards learned from shuffled labels, one array per shuffle."""
    learner = sklearn.clone(learner).set_params(verbose=0)
    with warnings.catch_warnings(action="ignore"):  # the first fit has shown them
        return [
            metrics.shuffled_labels_null(learner, X_train, y_train, X_test=X_test, random_state=random_state + shuffle)
            for shuffle in range(n_shuffles)
        ]


def _measured(rewards, held, measure):
    """What ``measure(metric, *arrays, metric_params=...)`` gives by measure; None where the data do not allow it."""
    found = dict.fromkeys(MEASURES)
    if rewards.ndim == 2:
        found["pair_accuracy"] = measure(metrics.pair_accuracy, held.y, rewards[:, 0] - rewards[:, 1], metric_params={})
    labelings = {"output": {}}
    if held.labels is not None and len(np.unique(held.labels)) == 2:
        labelings["label"] = {"output_labels": held.labels}
    for name, labels in labelings.items():
        found[f"{name}_f1"] = measure(metrics.output_f1_score, held.y, rewards, metric_params=labels)
        found[f"{name}_auc"] = measure(metrics.output_auc_score, held.y, rewards, metric_params=labels)
    if held.reference_reward is not None and np.ptp(rewards) > 0:  # the distance of a constant is a convention
        found["starc"] = measure(metrics.starc_distance, rewards, held.reference_reward, metric_params={})
    return found


def _score(metric, *arrays, metric_params):
    return metric(*arrays, **metric_params)


def _mean_and_range(scores):
    """Mean and 95 % range of one measure over several rewards, in the form of an interval."""
    if None in scores:
        return None
    low, high = np.quantile(scores, [0.025, 0.975]).tolist()
    return metrics.BootstrapInterval(float(np.mean(scores)), low, high, float(np.std(scores)), 0, len(scores))


def _accuracy(margins):
    return float(((margins > 0) + 0.5 * (margins == 0)).mean()) if len(margins) else None


def _kinds(held, margins):
    """Number of pairs of each kind, and the accuracy of each learner on them."""
    if held.labels is None or held.labels.ndim != 2:
        return []
    labels = np.where(held.sign[:, None] > 0, held.labels, held.labels[:, ::-1])
    chosen, rejected = np.array(["T", "NT"])[labels.T]
    kind = np.char.add(np.char.add(rejected, "->"), chosen)
    return [
        {
            "kind": name,
            "pairs": int((kind == name).sum()),
            "share": float((kind == name).mean()),
            **{learner: _accuracy(values[kind == name]) for learner, values in margins.items()},
        }
        for name in KINDS
    ]


def _subtypes(held, rewards, interval):
    """AUC of each learner between the desirable outputs and those of one sub-type of toxic outputs."""
    if held.labels is None:
        return []
    desirable = held.labels.ravel() == 1
    groups = np.repeat(held.groups, held.texts.size // len(held.texts))
    table = []
    for name, of_it in held.of_subtype.items():
        of_it = of_it.ravel() & ~desirable
        rows = of_it | desirable
        enough = min(len(np.unique(groups[part])) for part in (of_it, desirable)) >= MIN_SUBTYPE_GROUPS
        table.append({"subtype": name, "outputs": int(of_it.sum())})
        for learner, values in rewards.items():
            arrays = desirable[rows].astype(int), values.ravel()[rows]
            auc = interval(metrics.output_auc_score, *arrays, groups=groups[rows]) if enough else None
            table[-1][learner] = auc
    return table


def _hardest(margins, held):
    """The rows with the lowest margins among those at or below 0."""
    order = np.argsort(margins, kind="stable")[:N_FAILURES]
    rows = []
    for row in order[margins[order] <= 0]:
        texts = {"output": held.texts[row]}
        if held.texts.ndim == 2:
            texts = dict(zip(("preferred", "other"), held.texts[row][:: int(held.sign[row])], strict=True))
        shortened = {name: _shortened(text) for name, text in texts.items()}
        rows.append({"index": int(held.index[row]), "margin": float(margins[row]), **shortened})
    return rows


def _shortened(text, width=80):
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


# ------------------------------------------------------------------------------------------------- uncertainty


def _uncertainty(learner, X_train, y_train, X_test, held):
    """Held-out pairs whose order is undecided, and the held-out outputs whose rewards are most uncertain."""
    n_features = X_train.shape[-1]
    if n_features > MAX_POSTERIOR_FEATURES:
        return {"left_out": f"{n_features} features, and a posterior takes long beyond {MAX_POSTERIOR_FEATURES}"}
    with warnings.catch_warnings(action="ignore"):  # the first fit has shown them
        reward = LaplaceReward(sklearn.clone(learner).set_params(verbose=0, tol=1e-6)).fit(X_train, y_train)
    outputs = stack_outputs(X_test) if X_test.ndim == 3 else X_test
    center = X_train.mean(axis=tuple(range(X_train.ndim - 1)), dtype=np.float64)
    rewards, std = reward.decision_function(outputs, return_std=True)
    rewards = rewards - reward.decision_function(center[None])
    unit = float(rewards.std())
    if not unit > 0:
        return {"left_out": "the reward is the same for all held-out outputs"}
    texts = held.texts.ravel()
    _, distinct = np.unique(texts.astype(str), return_index=True)
    listed = distinct[np.argsort(-std[distinct], kind="stable")[:N_UNCERTAIN_OUTPUTS]]
    low, high, ranges = _ranges(reward, X_train, y_train, outputs[listed], center)
    return {
        "left_out": None,
        "alpha": reward.alpha_,
        "pairs": _undecided(reward, X_test, held.sign) if X_test.ndim == 3 else None,
        "outputs": [
            {
                **_place(row, held),
                "output": _shortened(texts[row]),
                "reward": float(rewards[row]) / unit,
                "std": float(std[row]) / unit,
                "low": None if low is None else float(low[i]) / unit,
                "high": None if high is None else float(high[i]) / unit,
            }
            for i, row in enumerate(listed)
        ],
        "ranges": ranges,
    }


def _undecided(reward, X_test, sign):
    """The pairs whose margin may have either sign, and the accuracy on them and on the other pairs."""
    margins, std = reward.decision_function(X_test, return_std=True)
    undecided = np.abs(margins) <= UNDECIDED * std
    return {
        "undecided": int(undecided.sum()),
        "share": float(undecided.mean()),
        "undecided_accuracy": _accuracy((margins * sign)[undecided]),
        "decided_accuracy": _accuracy((margins * sign)[~undecided]),
    }


def _ranges(reward, X_train, y_train, outputs, center):
    """Lowest and highest reward of each output, relative to the mean training output; and what they mean."""
    if X_train.ndim == 2:
        return None, None, "none: only pairs limit a reward"
    if len(X_train) > MAX_RANGE_PAIRS:
        return None, None, f"none: ranges take long beyond {MAX_RANGE_PAIRS} training pairs"
    # `ambiguity` subtracts the mean of the outputs; with their mirror images, it is the center.
    mirrored = np.concatenate([outputs, 2 * center - outputs])
    tolerance = LIKELIHOOD_DROP / (len(X_train) * np.log(2))
    try:
        found = ambiguity(reward.estimator_, X_train, y_train, outputs=mirrored, tolerance=tolerance)
    except ValueError as error:
        return None, None, f"none: {error}"
    unit = np.std(mirrored @ reward.coef_)
    return (
        found.low * unit,
        found.high * unit,
        f"over all rewards of the same mean margin whose penalized log-likelihood is at most {LIKELIHOOD_DROP} lower, "
        "in the directions of these outputs (fairl_sk.diagnosis.ambiguity)",
    )


def _place(row, held):
    """The user's row of a held-out output and, in pairs, its side."""
    if held.texts.ndim == 1:
        return {"index": int(held.index[row])}
    pair, side = divmod(int(row), 2)
    preferred = (held.sign[pair] > 0) == (side == 0)
    return {"index": int(held.index[pair]), "side": "preferred" if preferred else "other"}


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
        "features": _on_one_line(features),
        "blocks": features.n_components_ if isinstance(features, TextFeatures) else {},
        "embedding": dict(getattr(encoder, "settings_", {})),
        "learners": {
            name: {key: _on_one_line(value) for key, value in learner.get_params(deep=False).items()}
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


def _on_one_line(value):
    return " ".join(repr(value).split())
