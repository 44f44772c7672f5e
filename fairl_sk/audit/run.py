"""The main job: from pairs of texts to a fitted, measured, saved reward; `audit` does it, `write_audit` keeps it.

Read `audit` from top to bottom: load, split by group, embed, fit, measure. The command line is `fairl_sk.__main__`.
"""

import copy
import csv
import importlib
import io
import itertools
import json
import os
import platform
import sys
import tempfile
import time
import warnings
import zipfile
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path

import numpy as np
import scipy
import sklearn
import skops.io
import torch
from sklearn.base import BaseEstimator
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import Bunch

from .. import __version__
from ..datasets.readers import make_detox_preferences
from ..diagnosis.feasible import ambiguity
from ..diagnosis.uncertainty import LaplaceReward
from ..learning.estimators import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
from ..metrics.metrics import (
    BootstrapInterval,
    bootstrap_interval,
    check_split,
    longer_null,
    output_auc_score,
    output_f1_score,
    pair_accuracy,
    prompt_only_null,
    shorter_null,
    shuffled_labels_null,
    starc_distance,
)
from ..pairs import PairTransformer, preference_sign, stack_outputs
from ..plot import HistoryDisplay, MarginDisplay

__all__ = ["audit", "load_pipeline", "prepare_folder", "write_audit"]

OF_A_RUN = {"store": None, "device": "cpu", "verbose": False}  # parameters of ours that change no reward, as saved
KINDS = ("T->NT", "NT->NT", "T->T", "NT->T")
MEASURES = ("pair_accuracy", "output_f1", "output_auc", "label_f1", "label_auc", "starc")
FAILURE_AWARE = "FailureAwareIRL"
N_SHUFFLES = 20  # each learns an arbitrary direction, so that one alone says little
HARDEST = ("index", "margin", "preferred", "other"), ("index", "margin", "output")  # columns: of pairs, of outputs
MIN_TEST_GROUPS = 2  # a bootstrap over groups needs as many
MIN_SUBTYPE_GROUPS = 5  # one draw of groups in 150 has none of 5
OUTPUT_LABELS = {"pairs": "chosen v rejected", "outputs": "desirable v undesirable"}
UNDECIDED = 2.0  # a margin within so many standard deviations of 0 may have either sign
N_LEAST_KNOWN = 8  # outputs to list
MOST_FEATURES = 1024  # a posterior takes time as their square
MOST_PAIRS = 20_000  # for the ranges of outputs
PROFILE = 1.92  # half the 95 % quantile of chi squared: the log-likelihood that a range may cost
SHORTCUT = 0.05  # a null whose score is surely this far from 1/2 is worth a warning
SHORTCUTS = {
    "pair_accuracy": "orders {:.1%} of the pairs",
    "output_auc": "tells the outputs apart with an AUC of {:.3f}",
}

# --------------------------------------------------------------------------------------------------- auditing


def audit(
    data=None,
    *,
    reference=None,
    features=None,
    n_components=256,
    test_size=0.25,
    n_resamples=1000,
    n_failures=20,
    random_state=0,
    verbose=0,
):
    """Fit the three learners on pairs of texts and measure what they learned on held-out groups.

    Parameters
    ----------
    data : Bunch, default=None
        What `fairl_sk.datasets.load_preferences` returns: pairs, or single outputs with labels. None: 2,000 pairs of
        `fairl_sk.datasets.make_detox_preferences`. Rewards are of ``data.data`` alone. To have the prompts read too,
        write them in: ``data.data = join_prompts(data.prompt, data.data)``, from `fairl_sk.pairs`; the saved pipelines
        then expect outputs behind their prompts.
    reference : callable, default=None
        Ground-truth reward to compare with: texts (n,) -> rewards (n,), higher is better and above 0 desirable, for
        instance one of `fairl_sk.rewards`. Its ``describe()``, if it has one, is kept with the figures, and its
        ``subtypes(texts)`` gives a table by sub-type. None: the data's own ``reference_reward``, where it has one.
    features : transformer, default=None
        From texts of pairs or of outputs to features: a `TransformerEmbedder`, or a `PairTransformer` around any
        transformer of texts. None: TF-IDF of words and pairs of words, and a truncated SVD.
    n_components : int >= 1, default=256
        Number of features of an output after the SVD.
    test_size : float in (0, 1), default=0.25
        Share of the groups that is held out.
    n_resamples : int, default=1000
        Draws of groups for the intervals.
    n_failures : int, default=20
        Number of the hardest failures to list.
    random_state : int >= 0, default=0
        Seed of the split, the features, the fits and the intervals.
    verbose : int or bool, default=0
        Show the learners' progress bars.

    Returns
    -------
    result : Bunch
        ``table`` (a row a reward: dicts of `BootstrapInterval` by measure), ``kinds`` (a row a kind of pair, where
        labels are known), ``subtypes`` (a row a sub-type of undesirable outputs, where they are known),
        ``left_open`` (how many held-out pairs are undecided, and the outputs whose reward is least known, by
        `LaplaceReward`),
        ``failures`` (the hardest, by `FailureAwareIRL`), ``pipelines`` (fitted, by name),
        ``margins`` (held out, by name) and ``settings``.

    Raises
    ------
    ValueError
        If there are too few groups, or a parameter, the texts or the reference are unfit.

    Warns
    -----
    UserWarning
        If the data's own ``reference_reward`` is known for some of the outputs only; it is left out then.
    """
    started = time.perf_counter()
    _check_at_least("n_components", n_components, 1)
    _check_at_least("random_state", random_state, 0)
    data = _own_corpus(random_state) if data is None else _check_data(data)
    data = _with_reference(data, reference)
    train, test = _split(data, test_size, random_state)
    if features is None:
        features = _text_features(n_components, data.data[train], random_state)
    else:
        features = sklearn.clone(features)
    X_train, X_test = features.fit_transform(data.data[train]), features.transform(data.data[test])
    y_train, y_test = data.target[train], data.target[test]

    learners = {
        "MaxMarginIRL": MaxMarginIRL(random_state=random_state, verbose=verbose),
        "MaxEntropyIRL": MaxEntropyIRL(random_state=random_state, verbose=verbose),
        FAILURE_AWARE: FailureAwareIRL(random_state=random_state, verbose=verbose),
    }
    for learner in learners.values():
        learner.fit(X_train, y_train)
    intervals = {"groups": data.groups[test], "n_resamples": n_resamples, "random_state": random_state}

    def measured(reward):
        return {
            name: None if call is None else bootstrap_interval(*call[0], **call[1], **intervals)
            for name, call in _measures(reward, data, test).items()
        }

    rewards = {name: _rewards(learner, X_test) for name, learner in learners.items()}
    table = [{"reward": name, "null": False, **measured(reward)} for name, reward in rewards.items()]
    table += [{"reward": name, "null": True, **measured(reward)} for name, reward in _nulls(data, test).items()]
    shuffled = _shuffled(learners[FAILURE_AWARE], X_train, y_train, X_test, random_state)
    table.append({"reward": "shuffled labels", "null": True, **_spread(shuffled, data, test)})
    margins = {name: _signed(rewards[name], y_test) for name in learners}
    return Bunch(
        table=table,
        kinds=_kinds_table(data, test, margins),
        subtypes=_subtypes_table(data, test, {name: rewards[name] for name in learners}, intervals),
        left_open=_left_open(learners["MaxEntropyIRL"], X_train, y_train, X_test, data, test),
        failures=_hardest(margins[FAILURE_AWARE], data, test, n_failures),
        pipelines={name: Pipeline([("features", features), ("irl", learner)]) for name, learner in learners.items()},
        margins=margins,
        settings=_settings(
            data, train, test, features, learners, random_state, n_resamples, time.perf_counter() - started
        ),
    )


def _own_corpus(random_state):
    corpus = make_detox_preferences(2000, random_state=random_state)
    return Bunch(**corpus, provenance={"made by": f"make_detox_preferences(2000, random_state={random_state})"})


def _check_at_least(name, value, low):
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"Got {name}={value!r}. Expected a whole number of at least {low}.")


def _check_data(data):
    """The data, if it is what `load_preferences` returns: texts, their preferences and their groups."""
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
    return Bunch(**{**data, "data": texts, "target": np.asarray(data["target"]), "groups": np.asarray(data["groups"])})


def _with_reference(data, reference):
    """The data with ``reference_reward`` and ``output_labels``, either of which may be None."""
    data = Bunch(**data)
    if reference is None:
        data.reference_reward = _complete(data.get("reference_reward"))
    if reference is not None:
        texts = stack_outputs(data.data) if data.data.ndim == 2 else data.data
        try:
            rewards, subtypes = _ask(reference, texts)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"The reference failed on the {len(texts)} texts: {error} Expected a (fitted) reward that takes an "
                "array of texts and gives one finite number for each."
            ) from error
        if rewards.shape != texts.shape or not np.isfinite(rewards).all():
            raise ValueError(
                f"The reference gave an array of shape {rewards.shape} with {np.sum(~np.isfinite(rewards))} values "
                f"that are not finite. Expected one finite reward for each of the {len(texts)} texts."
            )
        data.reference_reward = rewards.reshape(data.data.shape)
        data.output_labels = (data.reference_reward > 0).astype(int)
        data.of_subtype = {name: of_it.reshape(data.data.shape) for name, of_it in subtypes.items()}
        data.reference = reference.describe() if hasattr(reference, "describe") else repr(reference)
    elif data.get("output_labels") is None and data.get("reference_reward") is not None:
        data.output_labels = (data.reference_reward > 0).astype(int)
    return data


def _ask(reference, texts):
    """Rewards (n_texts,), and which texts are of which sub-type of undesirable ones, of a reference that knows some."""
    if not hasattr(reference, "subtypes"):
        return np.asarray(reference(texts), dtype=np.float64), {}
    rewards = reference.subtypes(texts)  # all in one pass
    overall = reference.describe()["label"]
    of_subtype = {name: values <= 0 for name, values in rewards.items() if name != overall}
    return rewards[overall], of_subtype


def _complete(rewards):
    """The rewards, or None with a warning where some are missing: a distance needs all of them."""
    if rewards is None or np.isfinite(rewards).all():
        return rewards
    warnings.warn(
        f"reference_reward is missing or not finite for {np.sum(~np.isfinite(rewards))} of {np.size(rewards)} outputs, "
        "so STARC and the labels that follow from it are left out. Fill those values, drop their rows, or give a "
        "reference.",
        UserWarning,
        stacklevel=4,
    )
    return None


def _split(data, test_size, random_state):
    n_groups = len(np.unique(data.groups))
    if n_groups < 2:
        raise ValueError(
            f"Found {len(data.data)} rows in {n_groups} group (one prompt or one rejected text). Expected at least two "
            "groups: a held-out measure needs groups that were not trained on."
        )
    splitter = GroupShuffleSplit(n_splits=1, test_size=test_size, random_state=random_state)
    train, test = next(splitter.split(data.data, groups=data.groups))
    check_split(train, test, data.groups)
    if len(np.unique(data.groups[test])) < MIN_TEST_GROUPS:
        raise ValueError(
            f"Found {len(data.data)} rows in {n_groups} groups (one prompt or one rejected text each), so that only "
            f"one group is held out. Expected at least {MIN_TEST_GROUPS}, for the intervals: give more pairs, of more "
            "prompts."
        )
    for name, rows in (("train", train), ("test", test)):
        if len(rows) < 2 or len(np.unique(data.target[rows])) < 2:
            raise ValueError(
                f"The {name} part has {len(rows)} rows and {len(np.unique(data.target[rows]))} class. Expected at "
                "least two of each: give more pairs, another --seed, or shuffle the sides."
            )
    return train, test


def _text_features(n_components, texts, random_state):
    """TF-IDF of lower-case words and pairs of words, then SVD, lifted to pairs.

    Case and punctuation are no features: in real preference data they are shortcuts.
    """
    tfidf = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2, dtype=np.float32)
    try:
        n_words = len(tfidf.fit(np.unique(texts.ravel())).vocabulary_)
    except ValueError as error:
        raise ValueError(
            f"No features in the {texts.size} training texts: no word occurs in two of them. Give more pairs."
        ) from error
    svd = TruncatedSVD(min(n_components, n_words - 1) or 1, random_state=random_state)
    return PairTransformer(make_pipeline(tfidf, svd))


def _rewards(learner, X):
    """Rewards of all outputs, (n_pairs, 2) or (n_outputs,)."""
    if X.ndim == 2:
        return learner.decision_function(X)
    return learner.decision_function(stack_outputs(X)).reshape(-1, 2)


def _signed(rewards, y):
    """Margin R(preferred) - R(other); of outputs the reward, signed by the label."""
    decision = rewards if rewards.ndim == 1 else rewards[:, 0] - rewards[:, 1]
    return decision * preference_sign(y, len(y))


def _nulls(data, test):
    texts = data.data[test]
    nulls = {
        "all desirable": np.ones(texts.shape),  # what F1 is worth where nothing is told apart
        "longer output": longer_null(texts),
        "shorter output": shorter_null(texts),
    }
    if texts.ndim == 2:
        labels = None if data.get("output_labels") is None else data.output_labels[test]
        nulls["prompt only"] = prompt_only_null(data.groups[test], labels)
    return nulls


def _shuffled(learner, X_train, y_train, X_test, random_state):
    """Rewards learned from shuffled labels, one for each of several shuffles."""
    learner = sklearn.clone(learner).set_params(verbose=0)
    with _quiet():  # shuffled labels contradict each other and fit badly: that is their point
        return [
            shuffled_labels_null(learner, X_train, y_train, X_test=X_test, random_state=random_state + shuffle)
            for shuffle in range(N_SHUFFLES)
        ]


@contextmanager
def _quiet():
    """Without the warnings of a fit that is not the first on these pairs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*contradict another pair")
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _measures(rewards, data, test):
    """The call of each measure, ((metric, *arrays), options); None where the data do not allow it."""
    y, paired = data.target[test], rewards.ndim == 2
    calls = dict.fromkeys(MEASURES)
    if paired:
        calls["pair_accuracy"] = (pair_accuracy, y, rewards[:, 0] - rewards[:, 1]), {}
    calls["output_f1"] = (output_f1_score, y, rewards), {}
    calls["output_auc"] = (output_auc_score, y, rewards), {}
    labels = data.get("output_labels")
    if labels is not None and len(np.unique(labels[test])) == 2:
        known = {"metric_params": {"output_labels": labels[test]}}
        calls["label_f1"] = (output_f1_score, y, rewards), known
        calls["label_auc"] = (output_auc_score, y, rewards), known
    if data.get("reference_reward") is not None and np.ptp(rewards) > 0:  # a constant's distance is a convention
        calls["starc"] = (starc_distance, rewards, data.reference_reward[test]), {}
    return calls


def _spread(all_rewards, data, test):
    """Mean and 95 % range of each measure over several rewards."""
    scores = {name: [] for name in MEASURES}
    for rewards in all_rewards:
        for name, call in _measures(rewards, data, test).items():
            if call is not None:
                (metric, *arrays), options = call
                scores[name].append(metric(*arrays, **options.get("metric_params", {})))
    return {
        name: BootstrapInterval(
            float(np.mean(values)), *np.quantile(values, [0.025, 0.975]).tolist(), float(np.std(values)), 0, len(values)
        )
        if values
        else None
        for name, values in scores.items()
    }


def _kinds_table(data, test, margins):
    """Number of pairs of each kind, and how many of them each learner orders as preferred."""
    labels = data.get("output_labels")
    if labels is None or np.ndim(labels) != 2:
        return []
    sign, labels = preference_sign(data.target[test], len(test)), labels[test]
    chosen, rejected = (np.where(sign > 0, labels[:, side], labels[:, 1 - side]) for side in (0, 1))
    letters = np.array(["T", "NT"])
    kind = np.char.add(np.char.add(letters[rejected], "->"), letters[chosen])
    return [
        {
            "kind": name,
            "pairs": int((kind == name).sum()),
            "share": float((kind == name).mean()),
            **{learner: _accuracy(values[kind == name]) for learner, values in margins.items()},
        }
        for name in KINDS
    ]


def _subtypes_table(data, test, rewards, intervals):
    """AUC of each learner between the desirable outputs and those of a sub-type of undesirable ones."""
    known = data.get("of_subtype") or _own_subtypes(data)
    labels = data.get("output_labels")
    if not known or labels is None:
        return []
    desirable = labels[test].ravel() == 1
    groups = np.repeat(intervals["groups"], labels[test].size // len(test))
    table = []
    for name, of_it in known.items():
        of_it = of_it[test].ravel() & ~desirable
        chosen = of_it | desirable
        row = {"subtype": name, "outputs": int(of_it.sum())}
        enough = min(len(np.unique(groups[rows])) for rows in (of_it, desirable)) >= MIN_SUBTYPE_GROUPS
        for learner, values in rewards.items():
            arrays = desirable[chosen].astype(int), values.ravel()[chosen]
            options = {**intervals, "groups": groups[chosen]}
            row[learner] = bootstrap_interval(output_auc_score, *arrays, **options) if enough else None
        table.append(row)
    return table


def _own_subtypes(data):
    """Which outputs are of which sub-type, where the data name one for each output."""
    named = data.get("subtypes")
    if named is None:
        return {}
    return {str(name): named == name for name in np.unique(named) if name not in ("", "none")}


def _accuracy(margins):
    return float(((margins > 0) + 0.5 * (margins == 0)).mean()) if len(margins) else None


def _hardest(margins, data, test, n_failures):
    """The rows with the lowest margins among those at or below 0."""
    order = np.argsort(margins, kind="stable")[:n_failures]
    sources = data.get("source_index", np.arange(len(data.data)))
    rows = []
    for row in order[margins[order] <= 0]:
        texts = np.atleast_1d(data.data[test[row]])
        chosen_first = preference_sign(data.target, len(data.target))[test[row]] > 0
        texts = texts if chosen_first else texts[::-1]
        names = ("preferred", "other") if len(texts) == 2 else ("output",)
        shortened = {name: _shortened(text) for name, text in zip(names, texts, strict=True)}
        rows.append({"index": int(sources[test[row]]), "margin": float(margins[row]), **shortened})
    return rows


def _left_open(learner, X_train, y_train, X_test, data, test):
    """How many held-out pairs are undecided, and the held-out outputs whose reward is least known."""
    n_features = X_train.shape[-1]
    if n_features > MOST_FEATURES:
        return {"left_out": f"{n_features} features, of which a posterior takes long (at most {MOST_FEATURES} here)"}
    with _quiet():  # what is left of the gap is part of the standard deviations
        reward = LaplaceReward(sklearn.clone(learner).set_params(verbose=0, tol=1e-6)).fit(X_train, y_train)
    outputs = stack_outputs(X_test) if X_test.ndim == 3 else X_test
    rewards, std = reward.decision_function(outputs, return_std=True)
    rewards = rewards - reward.decision_function(reward.centre_[None])
    spread = float(rewards.std())
    if not spread > 0:
        return {"left_out": "the reward is the same for all held-out outputs"}
    texts = data.data[test].ravel()
    _, distinct = np.unique(texts.astype(str), return_index=True)
    least = distinct[np.argsort(-std[distinct], kind="stable")[:N_LEAST_KNOWN]]
    ranges, searched = _ranges(reward, X_train, y_train, outputs[least])
    rows = [
        {
            **_place(row, data, test),
            "output": _shortened(texts[row]),
            "reward": float(rewards[row]) / spread,
            "std": float(std[row]) / spread,
            "low": None if ends is None else float(ends[0]) / spread,
            "high": None if ends is None else float(ends[1]) / spread,
        }
        for row, ends in zip(least, ranges, strict=True)
    ]
    return {
        "left_out": None,
        "alpha": reward.alpha_,
        "pairs": _undecided(reward, X_test, data.target[test]) if X_test.ndim == 3 else None,
        "outputs": rows,
        "ranges": searched,
    }


def _undecided(reward, X_test, y_test):
    """Held-out pairs whose margin may have either sign, and the share ordered as preferred of them and of the rest."""
    margins, std = reward.decision_function(X_test, return_std=True)
    undecided = np.abs(margins) <= UNDECIDED * std
    signed = margins * preference_sign(y_test, len(y_test))
    return {
        "undecided": int(undecided.sum()),
        "share": float(undecided.mean()),
        "undecided_accuracy": _accuracy(signed[undecided]),
        "decided_accuracy": _accuracy(signed[~undecided]),
    }


def _ranges(reward, X_train, y_train, outputs):
    """The range of each output's reward, less that of the mean training output, by `ambiguity`; and what was done."""
    if X_train.ndim == 2:
        return [None] * len(outputs), "none: only pairs limit a reward"
    if len(X_train) > MOST_PAIRS:
        return [None] * len(outputs), f"none: {len(X_train)} training pairs, of which ranges take long"
    # with their mirror images their mean, which `ambiguity` subtracts, is that of the training outputs
    mirrored = np.concatenate([outputs, 2 * reward.centre_ - outputs])
    try:
        found = ambiguity(
            reward.estimator_,
            X_train,
            y_train,
            outputs=mirrored,
            max_outputs=len(mirrored),
            tolerance=PROFILE / (len(X_train) * np.log(2)),
        )
    except ValueError as error:
        return [None] * len(outputs), f"none: {error}"
    unit = np.std(mirrored @ reward.coef_)
    ends = np.stack([found.low, found.high], axis=1)[: len(outputs)] * unit
    return list(ends), (
        f"by ambiguity, over rewards of the same mean margin whose log-likelihood with the penalty is at most "
        f"{PROFILE} lower, in the directions of these outputs"
    )


def _place(row, data, test):
    """The row of the data that a held-out output is from and, of a pair, its side."""
    sources = data.get("source_index", np.arange(len(data.data)))
    if data.data.ndim == 1:
        return {"index": int(sources[test[row]])}
    pair, side = divmod(int(row), 2)
    first = preference_sign(data.target, len(data.target))[test[pair]] > 0
    return {"index": int(sources[test[pair]]), "side": "preferred" if first == (side == 0) else "other"}


def _shortened(text, width=80):
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _settings(data, train, test, features, learners, random_state, n_resamples, seconds):
    return {
        "data": data.get("provenance"),
        "rows": len(data.data),
        "rows_are": "pairs" if data.data.ndim == 2 else "outputs",
        "train_rows": len(train),
        "test_rows": len(test),
        "groups": len(np.unique(data.groups)),
        "dropped": dict(data.get("dropped", {})),
        "features": _on_one_line(features),
        "embedding": dict(getattr(features, "settings_", {})),
        "learners": {name: _parameters(learner) for name, learner in learners.items()},
        "reference": data.get("reference", "known to the data" if data.get("reference_reward") is not None else None),
        "starc": "L2 norm, centred by the global mean over the held-out outputs",
        "intervals": f"95 %, bootstrap of {n_resamples} draws of groups",
        "seed": random_state,
        "seconds": round(seconds, 2),
        "versions": {
            "python": platform.python_version(),
            "fairl_sk": __version__,
            **{module.__name__: module.__version__ for module in (sklearn, torch, np, scipy)},
            **{name: sys.modules[name].__version__ for name in ("transformers",) if name in sys.modules},
        },
    }


def _parameters(estimator):
    """All parameters, the defaults too: these may differ in another version."""
    return {name: _on_one_line(value) for name, value in estimator.get_params(deep=False).items()}


def _on_one_line(value):
    return " ".join(repr(value).split())


# --------------------------------------------------------------------------------------------------- reporting


def format_audit(result):
    """The result as text for a terminal.

    Parameters
    ----------
    result : Bunch
        From `audit`.

    Returns
    -------
    text : str
    """
    settings = result.settings
    columns = [name for name in MEASURES if any(row[name] is not None for row in result.table)]
    header = ["reward", *(name.replace("_", " ") for name in columns)]
    body = [[row["reward"], *(_cell(row[name]) for name in columns)] for row in result.table]
    n_learners = sum(not row["null"] for row in result.table)
    lines = [
        f"{settings['rows']} {settings['rows_are']}, {settings['groups']} groups; "
        f"{settings['train_rows']} to train, {settings['test_rows']} held out (whole groups).",
        *([f"dropped: {_dropped(settings['dropped'])}"] if any(settings["dropped"].values()) else []),
        "",
        *_aligned([header, *body[:n_learners], ["nulls", *[""] * len(columns)], *body[n_learners:]]),
        "",
        f"Intervals: {settings['intervals']}; of shuffled labels, the range of {N_SHUFFLES} shuffles.",
        f"output: {OUTPUT_LABELS[settings['rows_are']]}"
        + ("; label: v the known label of each output." if "label_f1" in columns else "."),
    ]
    if "starc" in columns:
        lines.append(f"STARC: distance to the reference reward, 0 to 1, lower is better; {settings['starc']}.")
        lines.append(f"Reference: {_reference_line(settings['reference'])}.")
    lines += _shortcuts(result.table)
    if result.kinds:
        names = list(result.pipelines)
        rows = [
            [k["kind"], f"{k['pairs']}", f"{k['share']:.1%}", *(_share(k[name]) for name in names)]
            for k in result.kinds
        ]
        lines += ["", "Held-out pairs by kind (rejected -> chosen; T toxic, NT not), share ordered as preferred:", ""]
        lines += _aligned([["kind", "pairs", "share", *names], *rows])
    if result.subtypes:
        names = list(result.pipelines)
        rows = [[k["subtype"], f"{k['outputs']}", *(_cell(k[name]) for name in names)] for k in result.subtypes]
        lines += ["", "Held-out toxic outputs by sub-type, AUC of telling them from the non-toxic ones:", ""]
        lines += _aligned([["sub-type", "outputs", *names], *rows])
    return "\n".join([*lines, "", *_open_lines(result.left_open, settings["rows_are"])])


def _open_lines(left_open, rows_are):
    """What the pairs leave open, by row numbers: texts may be offensive, and stand in the JSON."""
    if left_open["left_out"] is not None:
        return [f"What the {rows_are} leave open: not computed, {left_open['left_out']}."]
    lines = [
        f"What the {rows_are} leave open, by the standard deviations of MaxEntropyIRL's reward (LaplaceReward; alpha "
        f"{left_open['alpha']:.2g}, by evidence):",
        "",
    ]
    if left_open["pairs"] is not None:
        pairs = left_open["pairs"]
        lines += [
            f"{pairs['undecided']} held-out pairs ({pairs['share']:.1%}) are undecided, with margins within "
            f"{UNDECIDED:g} standard deviations of 0. Ordered as preferred: {_share(pairs['undecided_accuracy'])} of "
            f"these, {_share(pairs['decided_accuracy'])} of the others.",
            "",
        ]
    names = [name for name in ("side", "reward", "std", "low", "high") if left_open["outputs"][0].get(name) is not None]
    cells = [
        [f"{row['index']}", *(row[name] if name == "side" else f"{row[name]:.2f}" for name in names)]
        for row in left_open["outputs"]
    ]
    return [
        *lines,
        "Held-out outputs whose reward is least known, in standard deviations of held-out rewards from the mean "
        "training output:",
        "",
        *_aligned([["row", *names], *cells]),
        "",
        f"Range (low, high): {left_open['ranges']}.",
    ]


def _reference_line(reference):
    """The reference in a line; all of it is in the settings."""
    if not isinstance(reference, dict):
        return str(reference)
    shown = ("reward", "model", "label", "desirable", "output")
    return ", ".join(f"{name} {reference[name]}" for name in shown if name in reference)


def _shortcuts(table):
    """A line for each null that knows nothing and yet orders the pairs, or the outputs."""
    lines = []
    for row in table:
        if not row["null"] or row["reward"] == "shuffled labels":
            continue
        sure = [name for name in SHORTCUTS if row[name] and row[name].low > 0.5 + SHORTCUT]
        if sure:
            kind = "outputs" if row["pair_accuracy"] is None else "pairs"
            lines.append(
                f"Shortcut: '{row['reward']}' alone {SHORTCUTS[sure[0]].format(row[sure[0]].estimate)}; a reward may "
                f"have learned no more than that. Compare on {kind} of equal length, or control it."
            )
    return lines


def _cell(interval):
    return "-" if interval is None else f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _share(value):
    return "-" if value is None else f"{value:.3f}"


def _dropped(dropped):
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)


def _aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def prepare_folder(folder, *, force=False):
    """Make sure, before any work, that results can be written to a folder without losing what is there.

    Parameters
    ----------
    folder : path or None
        None: ``fairl_sk_audit``, or the first of ``fairl_sk_audit_2``, ``_3``, ... that does not exist.
    force : bool, default=False
        Allow a folder that holds files; those of an earlier audit are replaced.

    Returns
    -------
    folder : Path
        It exists and can be written to.

    Raises
    ------
    FileExistsError
        If the folder holds files and ``force`` is False.
    OSError
        If the folder cannot be made or written to.
    """
    folder = _new_folder() if folder is None else Path(folder)
    if folder.is_file():
        raise FileExistsError(f"--out {folder} is a file. Name a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        in_use = any(folder.iterdir()) and not force
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _cannot_write(folder, error) from error
    if in_use:
        raise FileExistsError(
            f"--out {folder} already holds files. Name another folder, or add --force to replace the results of an "
            "earlier audit (other files stay)."
        )
    return folder


def _new_folder():
    """Make fairl_sk_audit, or the first of _2, _3, ... that nobody has made, and return it."""
    for number in itertools.count(1):
        folder = Path("fairl_sk_audit" if number == 1 else f"fairl_sk_audit_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise _cannot_write(folder, error) from error
        return folder


def _cannot_write(folder, error):
    return OSError(f"Cannot write to --out {folder}: {error.strerror}. Name a folder that you may write to.")


@contextmanager
def results_folder(folder, *, force=False):
    """`prepare_folder`, undone if the body fails: a folder that was made for it and holds nothing is removed."""
    if folder is None:
        folder = _new_folder()
        made = [folder]
    else:
        folder = Path(folder)
        made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield prepare_folder(folder, force=force)
    except BaseException:  # an interrupt too
        for path in made:
            with suppress(OSError):  # it was not made after all, or holds something
                path.rmdir()
        raise


def write_audit(result, folder):
    """Write an audit: tables, pictures, failures, and the fitted pipelines.

    Everything is written beside the folder's files first and moved in at the end, so that a failure leaves the
    folder as it was.

    Parameters
    ----------
    result : Bunch
        From `audit`.
    folder : path
        From `prepare_folder`.

    Returns
    -------
    paths : list of Path
        What was written: ``table.json`` (everything, with the settings), ``table.csv``, ``failures.csv``,
        ``margins.png``, ``history.png``, and ``<learner>.skops`` for each learner, which names neither the store nor
        the device of this run.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        temporary = Path(temporary)
        document = {
            "table": [_plain(row) for row in result.table],
            "kinds": result.kinds,
            "subtypes": [_plain(row) for row in result.subtypes],
            "left_open": result.left_open,
            "failures": result.failures,
            "settings": result.settings,
        }
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        columns = HARDEST[result.settings["rows_are"] == "outputs"]
        for name, content in (
            ("table.json", text + "\n"),
            ("table.csv", _table_csv(result.table)),
            ("failures.csv", _csv(result.failures, columns)),
        ):  # half a surrogate pair (a cut emoji) has no UTF-8, and is written \\ud83d, which JSON reads as what it was
            (temporary / name).write_text(content, encoding="utf-8", errors="backslashreplace")
        _draw(result, temporary)
        for name, pipeline in result.pipelines.items():  # deflated: the words of TF-IDF are most of it
            skops.io.dump(_of_no_run(pipeline), temporary / f"{name}.skops", compression=zipfile.ZIP_DEFLATED)
        names = sorted(path.name for path in temporary.iterdir())
        for path in (folder / name for name in names):
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder, where a file is to be written. Name another --out.")
        for name in names:
            os.replace(temporary / name, folder / name)
    return [folder / name for name in names]


def _of_no_run(pipeline):
    """A copy whose estimators of this package name no store, no device and no progress bar: these are of a run."""
    copied = copy.deepcopy(pipeline)
    parameters = copied.get_params()
    owners = {"": copied, **parameters}
    changed = {
        name: OF_A_RUN[parameter]
        for name in parameters
        for owner, _, parameter in [name.rpartition("__")]
        if parameter in OF_A_RUN and type(owners[owner]).__module__.startswith("fairl_sk.")
    }
    return copied.set_params(**changed)


def _plain(row):
    return {name: _finite(value._asdict()) if hasattr(value, "_asdict") else value for name, value in row.items()}


def _finite(numbers):
    """Numbers by name, None where they are not finite: JSON has no NaN."""
    return {name: value if np.isfinite(value) else None for name, value in numbers.items()}


def _table_csv(table):
    rows = []
    for row in table:
        flat = {"reward": row["reward"], "null": row["null"]}
        for name in MEASURES:
            parts = {} if row[name] is None else _finite(row[name]._asdict())
            flat |= {name: parts.get("estimate"), f"{name}_low": parts.get("low"), f"{name}_high": parts.get("high")}
        rows.append(flat)
    return _csv(rows, list(rows[0]))


def _csv(rows, columns):
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _draw(result, folder):
    import matplotlib.pyplot as plt

    kind = result.settings["rows_are"]
    margins = MarginDisplay(result.margins).plot()
    margins.figure_.suptitle(f"Held-out {kind}")
    margins.ax_.set(ylabel=kind)
    if kind == "outputs":
        margins.ax_.set(xlabel="reward, signed by the label, in standard deviations")
    history = HistoryDisplay.from_estimator(result.pipelines[FAILURE_AWARE]["irl"])
    history.figure_.suptitle(f"{FAILURE_AWARE}, training {kind}")
    history.axes_[1].set(ylabel=kind)
    for name, display in (("margins", margins), ("history", history)):
        display.figure_.savefig(folder / f"{name}.png", dpi=150)
        plt.close(display.figure_)


def load_pipeline(path):
    """Load a fitted pipeline that was saved with skops, if it holds types of known libraries only.

    Parameters
    ----------
    path : path
        A ``.skops`` file, from an audit or from ``skops.io.dump``.

    Returns
    -------
    pipeline : estimator

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If skops cannot read the file, or it holds a type other than scikit-learn's, NumPy's, SciPy's and the
        estimators of this package.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} (looked in {Path.cwd()}). Check the name and the folder.")
    data = path.read_bytes()  # once: what is loaded is what was looked at
    try:
        named = skops.io.get_untrusted_types(data=data)
        unknown = [name for name in named if not _is_own_estimator(name)]
        loaded = None if unknown else skops.io.loads(data, trusted=named)
    except Exception as error:  # a damaged archive fails anywhere in zipfile, json, numpy or skops
        raise ValueError(
            f"{path} is not a file that skops can read ({type(error).__name__}: {error}). Expected a fitted pipeline, "
            "saved by an audit or by skops.io.dump."
        ) from error
    if unknown:
        raise ValueError(
            f"{path} holds types that are not trusted: {', '.join(unknown[:5])}. Read that list, load the file "
            "yourself with skops.io.load(path, trusted=[...]), and give its decision_function to fairl_sk.audit.audit."
        )
    return loaded


def _is_own_estimator(name):
    """Whether a type's full name is that of an estimator, a schedule or a detector that this package defines."""
    module, _, attribute = name.rpartition(".")
    if not module.startswith("fairl_sk."):
        return False
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, BaseEstimator) and found.__module__ == module
