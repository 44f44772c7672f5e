"""The evidence: do failures make a better reward? Every learner, in four regimes, over several seeds.

    python benchmarks/paper.py --pairs paradetox.tsv --labelled davidson.csv --realign realign --out evidence
    python benchmarks/paper.py --only a,d --out evidence                     # some regimes; the rest later
    python benchmarks/paper.py --size full --jobs 16 ...                     # smoke, small (the default) or full

a. synthetic: `make_preferences`, the reward linear or a ReLU network, preferences flipped, 300 to 20,000 pairs.
b. Boltzmann: of labelled texts, the chosen one is drawn with weight exp(R*/beta), the rejected one uniformly. R* is
   the log-odds of a classifier trained on the labelled file (``train`` of toxicity_reference.py).
c. ParaDetox: rewrites over toxic comments, R* as in b. Each reward is then measured on the texts of b: the transfer.
d. Base and aligned: completions of a language model before and after alignment, the folder that realign.py wrote (its
   pairs.jsonl and reference.skops), else the package's own corpus.
ablations. The paper's learner with one thing changed, on one cell each of b and c. With the failure path off, a linear
   base head is the same whatever the failure head and the heads that the failure term's gradient reaches: these
   variants, too, are compared with the one learner without failures of their objective.

Texts of b and c are normalised: lower-case words only, no links and no user names. A text of b or c is desirable where
R* > 0, in d where its reference says so, in a where the true reward is above 0.

L2 strengths are chosen by the same cross-validation: the same grid of alpha (``C = 1 / (2 * alpha * n)`` for
scikit-learn's), the same folds of whole groups, `pair_log_loss` (which knows no scale), ties to the stronger alpha. One
search serves a learner and the same without failures (`MaxMarginIRL` and `MaxEntropyIRL` are *paper* without).
`FailureAwareIRL` takes the alpha that is best without failures, *objective chosen* the objective, too. The detectors,
*labels* and *confirmed* take the alpha of *paper*, ablations that of its objective's standard learner. No ground truth
takes part. ``alpha_fail`` is 1e-3 in all that `FailureAwareIRL.paper` makes, else alpha. Each seed chooses its own
alpha, but for the network and the cells of ``choose_once`` (at "small" the one with 20,000 pairs), where the first seed
chooses for all. *objective chosen* and `FailureAwareIRLCV` search by themselves: seven alphas, three folds, every seed.
A seed draws the split, the data (a and b), the start and the samples of the learner.

A figure is the mean over seeds with a 95 % t-interval, and so is its difference to the best standard learner, seed by
seed. Best is the one with the least loss in cross-validation, its mean over the seeds that chose an alpha;
ties go to the first in the registry. Seeds share the files, hence an interval speaks of other splits of these texts,
not of other texts.

Results go to ``results.jsonl``, one line a fit; an interrupted run goes on where it was, and a learner that is added
to LEARNERS, or whose parameters were changed, is fitted alone. What the package itself does is not compared: after a
change of its code, name another folder. The tables are in tables.md, all figures in summary.json, the pictures beside.
Without files, b and c take the package's own corpus.
"""

import argparse
import html
import itertools
import json
import os
import re
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from realign import Study, load_reward, slug
from scipy.special import expit
from scipy.stats import t as student
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, recall_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits
from toxicity_reference import SIZES as REFERENCE_SIZES
from toxicity_reference import expected_calibration_error
from toxicity_reference import train as train_reference
from tqdm.auto import tqdm

from fairl_sk import (
    FailureAwareIRL,
    FailureAwareIRLCV,
    LinearSchedule,
    MaxEntropyIRL,
    MaxEntropyIRLCV,
    MaxMarginIRL,
    MaxMarginIRLCV,
    TransformerEmbedder,
)
from fairl_sk.datasets import load_preferences, make_detox_preferences, make_preferences
from fairl_sk.learning.estimators import separating_threshold
from fairl_sk.learning.failures import (
    ConfirmedFailures,
    CrossFittedFailures,
    DisagreementFailures,
    FewLabelFailures,
    NearTieFailures,
    NoiseAwareFailures,
    OutputSignFailures,
)
from fairl_sk.metrics import (
    output_auc_score,
    output_f1_score,
    pair_accuracy,
    pair_log_loss,
    pair_log_loss_scorer,
    starc_distance,
)
from fairl_sk.pairs import stack_outputs
from fairl_sk.rewards import EstimatorReward

# ----------------------------------------------------------------------------------------------- learners


@dataclass(frozen=True)
class Learner:
    """A way to learn a reward from pairs, and how it takes part."""

    make: Callable  # (alpha, n_rows, seed) -> estimator
    reads: str = "pairs"  # "pairs", with their "groups", or what scikit-learn gets: "differences", "outputs"
    labels: bool = False  # knows the ground-truth labels of the training outputs
    standard: bool = False  # one of those that the others have to beat
    tuned: bool = True  # False: alpha is the package's default
    confirmed_weight: float = 1.0  # weight of pairs of kind T->NT, of which only labels tell
    n_labels: int | None = None  # so many of the labels are known, None: all
    alpha_of: str | None = None  # the learner whose alpha this one takes; None: it chooses its own
    without_failures: bool = False  # takes what that one's search chose for failure weight 0, which is this learner
    once: bool = False  # slow: the first seed chooses alpha for all


def ours(estimator_class, *, labels=False, standard=False, tuned=True, n_labels=None, alpha_of=None, **params):
    """One of this package's estimators; a class or ``FailureAwareIRL.paper``."""

    def make(alpha, n_rows, seed):
        return estimator_class(alpha=alpha, random_state=seed, **params)

    return Learner(make, labels=labels, standard=standard, tuned=tuned, n_labels=n_labels, alpha_of=alpha_of)


def of_weight_zero(name, learner):
    """A learner at the alpha of the candidates of failure weight 0 in the search for another one's; most are these."""
    return replace(learner, alpha_of=name, without_failures=True)


def logistic(reads, **options):
    """Logistic regression on differences or on single outputs."""
    settings = {"fit_intercept": reads == "outputs", "max_iter": 1000}
    return Learner(lambda alpha, n, seed: LogisticRegression(C=1 / (2 * alpha * n), **settings), reads, **options)


def search_learner(alpha, n_rows, seed):
    """The package's own search, on pairs: alpha, and whether failures count."""
    return FailureAwareIRLCV(alpha=list(ALPHAS), cv=GroupKFold(3), scoring=pair_log_loss_scorer, random_state=seed)


def linear_svm(alpha, n_rows, seed):
    """scikit-learn's own, with its squared hinge: the plain one is `MaxMarginIRL`."""
    return LinearSVC(C=1 / (2 * alpha * n_rows), fit_intercept=False, max_iter=10_000, random_state=seed)


ALPHAS = (1.0, 0.2, 0.05, 0.01, 2e-3, 5e-4, 1e-4)  # what cross-validation chooses from
PAPER = FailureAwareIRL.paper
CONFIRMED = {"failures": ConfirmedFailures(), "failure_rate": 1.0, "failure_weight": 10.0}  # as in realign.py
# Single outputs count in the base path, by their labels.
LABELLED = {"pointwise_weight": 3.0, "failures": ConfirmedFailures(), "failure_weight": 1.0}
RECURRENCE = {"recurrence_correlation": 0.03}  # pairs of outputs that recur count less
# Detectors that need no labels, with the paper's settings otherwise, at the alpha that the paper's detector chose.
DETECTORS = {
    "near ties": NearTieFailures(),
    "output sign": OutputSignFailures(),
    "cross-fitted": CrossFittedFailures(),
    "disagreement": DisagreementFailures(n_members=5),
    "noise-aware": NoiseAwareFailures(n_members=5),
}
OBJECTIVES = ("max_margin", "max_entropy")


class BaseFirst(BaseEstimator):
    """`FailureAwareIRL` whose base path, objective and alpha, is chosen by the package's search, without failures."""

    def __init__(self, reward, alphas=ALPHAS, max_iter=100, random_state=None):
        self.reward = reward
        self.alphas = alphas
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X, y, groups):
        same = {"max_iter": self.max_iter, "random_state": self.random_state}
        grid = {"objective": list(OBJECTIVES), "alpha": list(self.alphas), "failure_weight": 0}
        options = {"cv": GroupKFold(3), "scoring": pair_log_loss_scorer, "refit": False}
        search = FailureAwareIRLCV(**grid, **options, **same).fit(X, y, groups=groups)
        chosen = {name: search.best_params_[name] for name in ("objective", "alpha")}
        self.reward_ = clone(self.reward).set_params(**chosen, **same).fit(X, y)
        return self

    def decision_function(self, X):
        return self.reward_.decision_function(X)

    def predict_proba(self, X):
        return self.reward_.predict_proba(X)


def with_detectors():
    """The paper's learner in both objectives with each detector of the package."""
    learners = {}
    for objective in OBJECTIVES:
        same = {"objective": objective, "alpha_of": f"paper, {objective}"}
        for name, detector in DETECTORS.items():
            learners[f"{name}, {objective}"] = ours(PAPER, failures=detector, **same)
        few = {"failures": FewLabelFailures(), "labels": True, "n_labels": 100}
        learners[f"100 labels, {objective}"] = ours(PAPER, **few, **same)
    return learners


LEARNERS = {
    "MaxMarginIRL": of_weight_zero("paper, max_margin", ours(MaxMarginIRL, standard=True)),
    "MaxEntropyIRL": of_weight_zero("paper, max_entropy", ours(MaxEntropyIRL, standard=True)),
    "logistic regression, differences": logistic("differences", standard=True),
    "linear SVM, differences": Learner(linear_svm, "differences", standard=True),
    "MaxMarginIRL, untuned": ours(MaxMarginIRL, tuned=False),
    "logistic regression, outputs": logistic("outputs"),
    "Bradley-Terry MLP": replace(ours(MaxEntropyIRL, hidden_layer_sizes=(64,), max_iter=30), once=True),
    "outputs, max_entropy": ours(PAPER, objective="max_entropy", pointwise_weight=1.0, failure_weight=0.0),
    "recurring outputs, max_entropy": ours(PAPER, objective="max_entropy", **RECURRENCE, failure_weight=0.0),
    "no failures, max_margin": ours(FailureAwareIRL, objective="max_margin", failure_weight=0.0),
    "no failures, max_entropy": ours(FailureAwareIRL, failure_weight=0.0),
    "FailureAwareIRL, max_margin": ours(FailureAwareIRL, objective="max_margin", alpha_of="no failures, max_margin"),
    "FailureAwareIRL": ours(FailureAwareIRL, alpha_of="no failures, max_entropy"),
    "FailureAwareIRL, objective chosen": Learner(
        lambda alpha, n, seed: BaseFirst(FailureAwareIRL(), random_state=seed), reads="groups", tuned=False
    ),
    "FailureAwareIRL, alpha with failures": ours(FailureAwareIRL),
    "FailureAwareIRL, untuned": ours(FailureAwareIRL, tuned=False),
    "FailureAwareIRLCV": Learner(search_learner, reads="groups", tuned=False),
    **{f"paper, {objective}": ours(PAPER, objective=objective) for objective in OBJECTIVES},
    **with_detectors(),
    **{
        f"outputs and labels, {objective}": ours(PAPER, objective=objective, labels=True, **LABELLED)
        for objective in OBJECTIVES
    },
    **{
        f"{name}, {o}": ours(PAPER, labels=True, objective=o, alpha_of=f"paper, {o}", **settings)
        for name, settings in {"labels": {"failures": "labels"}, "confirmed": CONFIRMED}.items()
        for o in OBJECTIVES
    },
    "logistic regression, T->NT x 5": logistic("differences", labels=True, confirmed_weight=5.0),
}
SEARCHES = {MaxMarginIRL: MaxMarginIRLCV, MaxEntropyIRL: MaxEntropyIRLCV, FailureAwareIRL: FailureAwareIRLCV}
UNTUNED_ALPHA = 1e-3
# What the others are compared with besides the best standard learner; all of it is in summary.json.
UNTUNED = "MaxMarginIRL, untuned"
BASELINES = (UNTUNED, "logistic regression, outputs", "logistic regression, T->NT x 5")

OFF = "off"


def _ablation(objective="max_margin", **changes):
    return objective, changes


# By what is changed: name of the variant -> objective and parameters. Each is compared with the same objective's OFF.
ABLATIONS = {
    "failure path": {OFF: _ablation(failure_weight=0.0), "margin (the paper)": _ablation()}
    | {"near ties": _ablation(failures="near_ties"), "sign": _ablation(failures="sign")},
    "failure weight $\\lambda$": {
        **{f"{weight:g}": _ablation(failure_weight=weight) for weight in (1.0, 5.0, 10.0, 20.0)},
        "10, decaying": _ablation(),
    },
    "threshold $\\gamma$": {
        "rising 0 to 1": _ablation(),
        "falling 1 to 0": _ablation(failure_threshold=LinearSchedule(1.0, 0.0)),
        "0": _ablation(failure_threshold=0.0),
        "0.5": _ablation(failure_threshold=0.5),
        "1": _ablation(failure_threshold=1.0),
    },
    "$M_{fail}$ (M = 1)": {f"{margin:g}": _ablation(margin_fail=margin) for margin in (1.25, 2.0, 3.0, 5.0)},
    "$\\tau_{fail}$ ($\\tau$ = 1)": {
        OFF: _ablation("max_entropy", failure_weight=0.0),
        **{f"{value:g}": _ablation("max_entropy", temperature_fail=value) for value in (0.1, 0.25, 0.5, 0.8)},
    },
    "failure rate p": {
        **{f"{rate:g}": _ablation(failure_rate=rate) for rate in (0.05, 0.2, 0.5, 1.0)},
        "0.2 to 0": _ablation(),
    },
    "failure head": {"linear": _ablation(), "64 hidden units": _ablation(failure_hidden_layer_sizes=(64,))},
    "gradient": {"failure head": _ablation(), "both heads": _ablation(failure_gradient="both")},
    "64 hidden units": {
        "failures off": _ablation(hidden_layer_sizes=(64,), failure_weight=0.0),
        "margin": _ablation(hidden_layer_sizes=(64,)),
        "near ties": _ablation(hidden_layer_sizes=(64,), failures="near_ties"),
    },
    "rounds": {f"{rounds}": _ablation(max_iter=rounds) for rounds in (10, 30, 100, 300)},
}
ABLATED = {}  # what all of them change of the paper's learner, e.g. another detector
ABLATION_CELLS = {"b": "beta 3", "c": "ParaDetox"}


def ablation_names():
    """Name (group: variant) -> objective and parameters."""
    return {f"{group}: {name}": spec for group, specs in ABLATIONS.items() for name, spec in specs.items()}


def learner_of(task, rounds=None):
    """What a task fits, in at most so many rounds."""
    learner = LEARNERS.get(task.learner)
    if task.regime == "ablations":
        objective, changes = ablation_names()[task.learner]
        learner = of_weight_zero(f"paper, {objective}", ours(PAPER, objective=objective, **ABLATED | changes))
    if rounds is None or learner.reads not in ("pairs", "groups"):
        return learner

    def make(*args):
        estimator = learner.make(*args)
        return estimator.set_params(max_iter=min(estimator.max_iter, rounds))

    return replace(learner, make=make)


# -------------------------------------------------------------------------------------------------- sizes


@dataclass(frozen=True)
class Plan:
    """How large everything is."""

    seeds: int
    seeds_of_texts: int  # of b and c, where differences are small
    n_train: int  # pairs of b and d
    n_rewrites: int  # of c
    n_test: int
    n_labelled: int | None  # texts of b
    n_records: int | None  # toxic comments of c, with all rewrites
    n_completions: int | None  # pairs of d
    n_features: int  # of a
    synthetic: tuple  # (shape of the reward, pairs, noise) of the cells of a
    betas: tuple
    encoder: str
    reference: str
    alphas: tuple = ALPHAS
    folds: int = 3
    choose_once: tuple = ()  # cells where the first seed chooses alpha for all
    rounds: int | None = None  # most rounds of a fit


NOISE = (0.0, 0.1, 0.2, 0.3, 0.4)
SIZES = {
    "smoke": Plan(
        seeds=2,
        seeds_of_texts=2,
        n_train=80,
        n_rewrites=80,
        n_test=60,
        n_labelled=240,
        n_records=200,
        n_completions=200,
        n_features=6,
        synthetic=(("linear", 80, 0.3), ("ReLU", 80, 0.3)),
        betas=(3,),
        encoder="svd",
        reference="smoke",
        alphas=(1e-3, 1e-1),
        folds=2,
        choose_once=("linear, 80 pairs, noise 0.3",),
        rounds=5,
    ),
    "small": Plan(
        seeds=5,
        seeds_of_texts=10,
        n_train=2000,
        n_rewrites=5000,
        n_test=1000,
        n_labelled=6000,
        n_records=None,
        n_completions=4000,
        n_features=30,
        synthetic=(
            *(("linear", 2000, noise) for noise in NOISE),
            *(("linear", n_pairs, 0.2) for n_pairs in (300, 20_000)),
            *(("ReLU", 2000, noise) for noise in (0.0, 0.2, 0.4)),
        ),
        betas=(1, 3, 8),
        encoder="minilm",
        reference="small",
        choose_once=("linear, 20000 pairs, noise 0.2",),
    ),
    "full": Plan(
        seeds=10,
        seeds_of_texts=10,
        n_train=10_000,
        n_rewrites=10_000,
        n_test=5000,
        n_labelled=None,
        n_records=None,
        n_completions=None,
        n_features=30,
        synthetic=tuple(itertools.product(("linear", "ReLU"), (300, 2000, 20_000), NOISE)),
        betas=(1, 3, 8),
        encoder="minilm",
        reference="small",
        alphas=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        folds=5,
    ),
}
REGIMES = {
    "a": "Synthetic features with a known reward",
    "b": "Boltzmann pairs of labelled texts",
    "c": "ParaDetox",
    "d": "Base and aligned completions",
    "ablations": "Ablations",
}


def cells_of(regime, plan):
    """The settings of a regime, by name."""
    if regime == "a":
        return [f"{shape}, {n_pairs} pairs, noise {noise:g}" for shape, n_pairs, noise in plan.synthetic]
    if regime == "ablations":
        return [f"{source}, {cell}" for source, cell in ablation_cells(plan).items()]
    return {"b": [f"beta {beta}" for beta in plan.betas], "c": ["ParaDetox"], "d": ["completions"]}[regime]


def ablation_cells(plan):
    return {source: cell for source, cell in ABLATION_CELLS.items() if cell in cells_of(source, plan)}


# --------------------------------------------------------------------------------------------------- data


class Sample(NamedTuple):
    """What one seed sees of one cell."""

    X_train: np.ndarray  # (n_train, 2, n_features)
    y_train: np.ndarray  # (n_train,), 1 = the first is preferred
    groups: np.ndarray  # (n_train,)
    labels_train: np.ndarray  # (n_train, 2), 1 = desirable; for the learners that are marked so
    X_test: np.ndarray
    y_test: np.ndarray
    outputs: np.ndarray  # (n_outputs, n_features), held out, to compare with the ground truth
    truth: np.ndarray  # (n_outputs,), R*
    flipped: np.ndarray | None = None  # (n_train,), where the true preference is known
    transfer: tuple | None = None  # outputs of another corpus, and R* of them


def normalise(text):
    """Lower-case words and nothing else: no links, user names, digits or marks."""
    text = re.sub(r"https?://\S+|@\w+|\brt\b", " ", html.unescape(text).lower())
    return " ".join(re.findall(r"[a-z']*[a-z][a-z']*", text))


def read_labelled(path, limit):
    """Distinct normalised texts (n_texts,) and labels (n_texts,), 1 = desirable; ``limit`` of them, at random."""
    if path is None:
        corpus = make_detox_preferences(1000, random_state=0)
        texts, labels = stack_outputs(corpus.data), corpus.output_labels.ravel()
    else:
        data = load_preferences(path, text_column="tweet", label_column="class", desirable=2)
        texts, labels = data.data, data.target
    texts = np.array([normalise(text) for text in texts], dtype=object)
    distinct, first = np.unique(texts, return_index=True)
    known = first[distinct != ""]
    kept = np.sort(np.random.default_rng(0).permutation(len(known))[:limit])
    return texts[known], labels[known], kept


def read_rewrites(path, limit):
    """Normalised pairs (n_pairs, 2), target and groups; pairs that normalising makes equal or empty are left out.

    Of ``limit`` groups, at random: the first records of ParaDetox are much less toxic than the rest.
    """
    if path is None:
        data = make_detox_preferences(limit or 4000, kinds={"T->NT": 0.9, "T->T": 0.1}, random_state=1)
    else:
        data = load_preferences(path)
    names = np.unique(data.groups)
    kept = np.isin(data.groups, np.random.default_rng(0).permutation(names)[:limit])
    pairs = np.array([[normalise(text) for text in pair] for pair in data.data], dtype=object)
    kept &= (pairs[:, 0] != pairs[:, 1]) & (pairs != "").all(axis=1)
    return pairs[kept], data.target[kept], data.groups[kept]


def read_completions(folder, limit):
    """Pairs (n_pairs, 2), target, groups and R* (n_pairs, 2)."""
    if folder is None:
        data = make_detox_preferences(limit or 8000, random_state=2)
        return data.data, data.target, data.groups, data.reference_reward
    data = load_preferences(Path(folder) / "pairs.jsonl", random_state=0)
    rows = np.random.default_rng(0).permutation(len(data.data))[:limit]
    pairs, target, groups = data.data[rows], data.target[rows], data.groups[rows]
    truth = EstimatorReward(load_reward(Path(folder) / "reference.skops"))(stack_outputs(pairs)).reshape(-1, 2)
    return pairs, target, groups, truth


def prepare(study, plan, regimes, pairs, labelled, realign):
    """Embed what the regimes read, every text once: ``b.npz``, ``c.npz`` and ``d.npz``."""
    wanted = {"b", "c"} & regimes or ({"b"} if "d" in regimes and plan.encoder == "svd" else set())
    wanted |= {"b"} if wanted else set()  # c is measured on the texts of b
    wanted |= {"d"} & regimes
    if all(study.path(f"{name}.npz").exists() for name in wanted):
        return
    texts, labels, kept = read_labelled(labelled, plan.n_labelled) if "b" in wanted else (None, None, None)
    embed = make_embedder(study, plan, texts)

    def write(path, texts, truth, **rest):
        with open(path, "wb") as file:
            np.savez(file, X=embed(texts), truth=truth, **rest)

    if "b" in wanted:
        size = REFERENCE_SIZES[plan.reference]
        with threadpool_limits(1):
            model = train_reference(texts, labels, np.arange(len(texts)), size["C"], size["folds"], seed=0)
        reward = EstimatorReward(model)
        study.make("b.npz", lambda path: write(path, texts[kept], reward(texts[kept])))
    if "c" in wanted:
        sides, target, groups = read_rewrites(pairs, plan.n_records)
        truth = reward(stack_outputs(sides)).reshape(-1, 2)
        study.make("c.npz", lambda path: write(path, sides, truth, target=target, groups=groups))
    if "d" in wanted:
        sides, target, groups, truth = read_completions(realign, plan.n_completions)
        study.make("d.npz", lambda path: write(path, sides, truth, target=target, groups=groups))


def make_embedder(study, plan, texts):
    """Texts (n_texts,) or pairs (n_pairs, 2) -> features, float32. At size "smoke" words and SVD, no transformer."""
    if plan.encoder != "svd":
        embedder = TransformerEmbedder(plan.encoder, normalize=True, store=study.path("store"), verbose=True)
        return lambda texts: embedder.fit_transform(texts).astype(np.float32)
    embedder = make_pipeline(TfidfVectorizer(sublinear_tf=True), TruncatedSVD(16, random_state=0)).fit(texts)
    return lambda texts: embedder.transform(texts.ravel()).reshape(*texts.shape, -1).astype(np.float32)


@lru_cache(maxsize=3)
def load_corpus(path):
    with np.load(path) as arrays:
        return dict(arrays)


@lru_cache(maxsize=2)
def load_sample(folder, plan, regime, cell, seed):
    """The sample of one seed of one cell."""
    if regime == "a":
        return synthetic_sample(plan, cell, seed)
    corpus = load_corpus(Path(folder) / f"{regime}.npz")
    rng = np.random.default_rng(seed)
    if regime == "b":
        return boltzmann_sample(corpus, float(cell.removeprefix("beta ")), plan, rng)
    n_train = plan.n_rewrites if regime == "c" else plan.n_train
    train, test = split_groups(corpus["groups"], n_train, plan.n_test, rng)
    sample = pair_sample(corpus["X"], corpus["target"], corpus["groups"], corpus["truth"], train, test)
    if regime == "c":
        other = load_corpus(Path(folder) / "b.npz")
        sample = sample._replace(transfer=(other["X"], other["truth"]))
    return sample


def split_groups(groups, n_train, n_test, rng):
    """Rows to train on and rows to test on, of different groups; a quarter of the rows at most is for the test."""
    codes = np.unique(groups, return_inverse=True)[1]
    order = rng.permutation(codes.max() + 1)
    share = min(0.25, n_test / len(groups))
    n_test_groups = max(1, int(np.ceil(share * len(order))))
    in_test = np.isin(codes, order[:n_test_groups])
    train, test = (rng.permutation(np.flatnonzero(rows)) for rows in (~in_test, in_test))
    return train[:n_train], test[:n_test]


def pair_sample(X, y, groups, truth, train, test):
    """A sample of pairs whose ground truth is measured on the held-out outputs."""
    labels = (truth > 0).astype(int)
    outputs, output_truth = stack_outputs(X[test]), truth[test].ravel()
    return Sample(X[train], y[train], groups[train], labels[train], X[test], y[test], outputs, output_truth)


def synthetic_sample(plan, cell, seed):
    """Pairs with a known reward, some preferences flipped."""
    shape, n_pairs, noise = re.fullmatch(r"(\w+), (\d+) pairs, noise ([\d.]+)", cell).groups()
    n_pairs = int(n_pairs)
    n_rows = max(n_pairs + 2 * plan.n_test, 4 * plan.n_test)
    data = make_preferences(n_rows, plan.n_features, groups=n_rows // 2, random_state=seed)
    rng = np.random.default_rng(seed)
    truth = data.reference_reward if shape == "linear" else relu_reward(data.data, rng)
    flipped = rng.random(n_rows) < float(noise)
    y = ((truth[:, 0] > truth[:, 1]) ^ flipped).astype(int)
    train, test = split_groups(data.groups, n_pairs, plan.n_test, rng)
    sample = pair_sample(data.data.astype(np.float32), y, data.groups, truth, train, test)
    return sample._replace(flipped=flipped[train])


def relu_reward(X, rng, n_units=16):
    """A ReLU network with one hidden layer and random weights, of standard deviation 1 and median 0."""
    hidden = rng.standard_normal((X.shape[-1], n_units)) / np.sqrt(X.shape[-1])
    reward = np.maximum(X @ hidden, 0) @ rng.standard_normal(n_units)
    return (reward - np.median(reward)) / reward.std()


def boltzmann_sample(corpus, beta, plan, rng):
    """Chosen texts by weight exp(R*/beta), rejected ones at random; no text is on both sides of the split.

    The ground truth is measured on the held-out texts, each once. A group is the pairs of one chosen text.
    """
    X, truth = corpus["X"], corpus["truth"]
    order = rng.permutation(len(X))
    held_out, known = np.split(order, [len(X) // 3])
    train, train_rows = draw_boltzmann(truth, known, beta, plan.n_train, rng)
    test, test_rows = draw_boltzmann(truth, held_out, beta, plan.n_test, rng)
    chosen = np.where(train == 1, train_rows[:, 0], train_rows[:, 1])
    labels = (truth[train_rows] > 0).astype(int)
    return Sample(X[train_rows], train, chosen, labels, X[test_rows], test, X[held_out], truth[held_out])


def draw_boltzmann(truth, texts, beta, n_pairs, rng):
    """Target (n_pairs,) and the two texts (n_pairs, 2) of each pair, sides shuffled."""
    weight = np.exp((truth[texts] - truth[texts].max()) / beta)
    chosen = rng.choice(texts, n_pairs, p=weight / weight.sum())
    rejected = rng.choice(texts, n_pairs)
    while (same := chosen == rejected).any():
        rejected[same] = rng.choice(texts, same.sum())
    y = (rng.permutation(n_pairs) < n_pairs // 2).astype(int)
    return y, np.where(y[:, None] == 1, np.stack([chosen, rejected], 1), np.stack([rejected, chosen], 1))


# ------------------------------------------------------------------------------------------------- fitting


class Fitted(NamedTuple):
    """A fitted learner and the offset that is not its own."""

    estimator: BaseEstimator
    reads: str
    offset: float = 0.0

    def rewards(self, outputs):
        """R of outputs (n_outputs, n_features), 0 between the desirable and the others."""
        if self.reads == "differences":
            return outputs @ self.estimator.coef_[0] + self.offset
        return self.estimator.decision_function(outputs)

    def margins(self, X):
        """R(first) - R(second) of pairs."""
        if self.reads in ("pairs", "groups"):
            return self.estimator.decision_function(X)
        if self.reads == "differences":
            return (X[:, 0] - X[:, 1]) @ self.estimator.coef_[0]
        return self.rewards(X[:, 0]) - self.rewards(X[:, 1])

    def chance(self, X):
        """Probability that the first output is preferred; without one of its own, the logistic of the margin."""
        return self.estimator.predict_proba(X)[:, 1] if self.reads in ("pairs", "groups") else expit(self.margins(X))


def fit(learner, alpha, seed, X, y, labels, groups=None):
    """Fit a learner on pairs (n_pairs, 2, n_features); ``labels`` (n_pairs, 2) reach it only if it is marked so."""
    n_rows = len(X) * (2 if learner.reads == "outputs" else 1)
    estimator = learner.make(alpha, n_rows, seed)
    if learner.reads == "pairs":
        options = {"output_labels": known_labels(learner, labels, seed)} if learner.labels else {}
        return Fitted(estimator.fit(X, y, **options), "pairs")
    if learner.reads == "groups":
        return Fitted(estimator.fit(X, y, groups=groups), "groups")
    chosen = np.stack([y == 1, y == 0], axis=1)
    if learner.reads == "outputs":
        return Fitted(estimator.fit(stack_outputs(X), chosen.ravel()), "outputs")
    weight = np.ones(len(X))
    if learner.labels:
        preferred, other = np.where(y == 1, labels.T, labels.T[::-1])
        weight[(preferred == 1) & (other == 0)] = learner.confirmed_weight
    estimator.fit(X[:, 0] - X[:, 1], y, sample_weight=weight)
    rewards = X @ estimator.coef_[0]
    positive = labels == 1 if learner.labels else chosen  # as the package's estimators set it
    offset = -separating_threshold(rewards.ravel(), positive.ravel(), np.ones(rewards.size))
    return Fitted(estimator, "differences", offset)


def known_labels(learner, labels, seed):
    """The labels that the learner is given: all, or some, NaN for the others."""
    if learner.n_labels is None:
        return labels
    known = np.random.default_rng(seed).permutation(labels.size)[: learner.n_labels]
    few = np.full(labels.size, np.nan)
    few[known] = labels.ravel()[known]
    return few.reshape(labels.shape)


def choose_alpha(learner, alphas, n_folds, seed, sample):
    """The alpha of the least loss on held-out groups, of equal ones the largest, and minus that loss ("cv score").

    The package's own learners with linear heads are searched by the package, the others fit by fit. A search finds the
    same for failure weight 0, which it always has among its candidates.
    """
    alphas = sorted(alphas, reverse=True)
    folds = list(GroupKFold(n_folds).split(sample.X_train, sample.y_train, sample.groups))
    estimator = learner.make(alphas[0], len(sample.X_train), seed)
    searched = type(estimator) in SEARCHES and len(estimator.hidden_layer_sizes) == 0
    if searched:
        scores, without = search_scores(learner, estimator, alphas, folds, sample)
    else:
        scores, without = [fit_scores(learner, alpha, seed, folds, sample) for alpha in alphas], None
    best = best_alpha(alphas, scores, folds)
    return best if without is None else best | {"without failures": best_alpha(alphas, without, folds)}


def best_alpha(alphas, scores, folds):
    """The first alpha of the highest mean of its scores (n_alphas, n_folds), and that mean."""
    best = {"alpha": None, "cv score": -np.inf}
    for alpha, by_fold in zip(alphas, scores, strict=True):
        score = np.average(by_fold, weights=[len(test) for _, test in folds])
        if score > best["cv score"] + 1e-12:
            best = {"alpha": alpha, "cv score": float(score)}
    return best


def fit_scores(learner, alpha, seed, folds, sample):
    """Minus the loss of each fold."""
    X, y, labels = sample.X_train, sample.y_train, sample.labels_train
    fits = [fit(learner, alpha, seed, X[train], y[train], labels[train]) for train, _ in folds]
    return [-pair_log_loss(y[test], own.margins(X[test])) for own, (_, test) in zip(fits, folds, strict=True)]


def search_scores(learner, estimator, alphas, folds, sample):
    """Minus the losses (n_alphas, n_folds), by the search that trains all candidates together.

    Also those of the candidates of failure weight 0, which it adds; None where there are none.
    """
    params = {name: value for name, value in estimator.get_params(deep=False).items() if name != "warm_start"}
    options = {"cv": folds, "scoring": pair_log_loss_scorer, "refit": False, "error_score": "raise"}
    search = SEARCHES[type(estimator)](**params | {"alpha": alphas}, **options)
    options = {"output_labels": sample.labels_train} if learner.labels else {}
    results = search.fit(sample.X_train, sample.y_train, **options).cv_results_
    by_candidate = np.stack([results[f"split{fold}_test_score"] for fold in range(len(folds))], axis=1)
    weight = params.get("failure_weight")
    own = [i for i, found in enumerate(results["params"]) if found.get("failure_weight", weight) is weight]
    added = [i for i in range(len(by_candidate)) if i not in own]
    assert all([results["params"][i]["alpha"] for i in some] == alphas for some in (own, added) if some)
    return by_candidate[own], by_candidate[added] if added else None


def measure(fitted, sample):
    """All measures of a fitted learner on what was held out."""
    rewards, labels = fitted.rewards(sample.outputs), (sample.truth > 0).astype(int)
    test = fitted.rewards(stack_outputs(sample.X_test)).reshape(-1, 2)
    scores = {
        "pair accuracy": pair_accuracy(sample.y_test, fitted.margins(sample.X_test)),
        "output F1": output_f1_score(sample.y_test, test),
        "output AUC": output_auc_score(sample.y_test, test),
        "label F1": output_f1_score(labels, rewards),
        "label AUC": output_auc_score(labels, rewards),
        "STARC": starc_distance(rewards, sample.truth),
        "calibration error": expected_calibration_error(sample.y_test, fitted.chance(sample.X_test)),
        "correlation": correlation(rewards, sample.truth),
    }
    if sample.flipped is not None and sample.flipped.any():
        scores |= noise_scores(fitted, sample)
    if sample.transfer is not None:
        outputs, truth = sample.transfer
        rewards, labels = fitted.rewards(outputs), (truth > 0).astype(int)
        scores["transfer label F1"] = output_f1_score(labels, rewards)
        scores["transfer label AUC"] = output_auc_score(labels, rewards)
        scores["transfer STARC"] = starc_distance(rewards, truth)
    return {name: float(value) for name, value in scores.items()}


def noise_scores(fitted, sample):
    """How well flipped training pairs are found: by the detector that looks for them, else by their margin alone."""
    detector = getattr(fitted.estimator, "failures", None)
    if not isinstance(detector, NoiseAwareFailures):
        against = -fitted.margins(sample.X_train) * np.where(sample.y_train == 1, 1, -1)
        return {"flipped AUC": roc_auc_score(sample.flipped, against)}
    own = clone(detector).fit(sample.X_train, sample.y_train, seed=fitted.estimator.random_state)
    suspected = own.noise_probability_ > detector.confidence
    return {
        "flipped AUC": roc_auc_score(sample.flipped, own.noise_probability_),
        "flag precision": precision_score(sample.flipped, suspected, zero_division=0.0),
        "flag recall": recall_score(sample.flipped, suspected),
    }


def correlation(rewards, truth):
    """Pearson's; 0 for a constant reward."""
    return float(np.corrcoef(rewards, truth)[0, 1]) if np.ptp(rewards) > 0 else 0.0


# --------------------------------------------------------------------------------------------------- tasks


class Task(NamedTuple):
    """One fit: what a line of the results is about."""

    regime: str
    cell: str
    seed: int
    learner: str


def alpha_source(task, plan):
    """The task whose alpha this one takes; None where it chooses its own or needs none."""
    if task.regime == "ablations":
        source, _, cell = task.cell.partition(", ")
        return Task(source, cell, task.seed, learner_of(task).alpha_of)
    learner = LEARNERS[task.learner]
    once = learner.once or task.cell in plan.choose_once
    if learner.alpha_of:
        return task._replace(learner=learner.alpha_of, seed=0 if once else task.seed)
    if once and task.seed > 0 and learner.tuned:
        return task._replace(seed=0)
    return None


def all_tasks(plan, regimes):
    """Every fit of the regimes, those first that others take their alpha from."""
    tasks = {}
    for regime in sorted(regimes, key=list(REGIMES).index):
        names = ablation_names() if regime == "ablations" else LEARNERS
        seeds = plan.seeds_of_texts if regime in ("b", "c") else plan.seeds
        for cell, seed, name in itertools.product(cells_of(regime, plan), range(seeds), names):
            tasks.update(dict.fromkeys(with_source(Task(regime, cell, seed, name), plan)))
    return sorted(tasks, key=lambda task: alpha_source(task, plan) is not None)


def choice(task, source):
    """The alpha that a task takes from the line of its source; and minus its loss there, if that is its own."""
    if not learner_of(task).without_failures:
        return source["alpha"], None
    chosen, own = source["without failures"], task.regime != "ablations" and source["seed"] == task.seed
    return chosen["alpha"], chosen["cv score"] if own else None


def with_source(task, plan):
    source = alpha_source(task, plan)
    return [task] if source is None else [source, task]


def definition(task):
    """What is fitted, in words: a line of the results that says otherwise is of an earlier definition."""
    learner = learner_of(task)
    params = sorted(learner.make(1.0, 1, task.seed).get_params().items(), key=str)
    role = learner.reads, learner.labels, learner.tuned, learner.confirmed_weight, learner.n_labels, learner.alpha_of
    role += ("without failures",) if learner.without_failures else ()
    role += ("chosen once",) if learner.once else ()
    return re.sub(r"\s+", " ", f"{params} {role}")


def run_task(folder, plan, task, alpha=None, score=None):
    """Fit, measure, and return the line of the results; a fit that fails leaves its message."""
    torch.set_num_threads(1)
    record = {**task._asdict(), "alpha": alpha, "cv score": score, "definition": definition(task)}
    regime, cell = task.cell.split(", ", 1) if task.regime == "ablations" else (task.regime, task.cell)
    sample, learner = load_sample(folder, plan, regime, cell, task.seed), learner_of(task, plan.rounds)
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if not learner.tuned:
                alpha = UNTUNED_ALPHA
                record["alpha"] = alpha if learner.reads == "pairs" else None  # a search chooses its own
            start = time.perf_counter()
            if alpha is None:
                chosen = choose_alpha(learner, plan.alphas, plan.folds, task.seed, sample)
                record |= chosen
                alpha = chosen["alpha"]
            began = time.perf_counter()
            fitted = fit(learner, alpha, task.seed, sample.X_train, sample.y_train, sample.labels_train, sample.groups)
            record |= {"cv seconds": began - start, "fit seconds": time.perf_counter() - began}
            record["scores"] = measure(fitted, sample)
        except ValueError as error:
            record["error"] = f"{type(error).__name__}: {error}"
    record["warnings"] = dict(Counter(entry.category.__name__ for entry in caught))
    return record


def read_results(path, tasks):
    """What is finished: task -> line. Lines that are cut off, failed or of another definition do not count."""
    finished = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the run was ended while it wrote this line
            finished[Task(*(record[name] for name in Task._fields))] = record
    asked = {other.alpha_of for other in LEARNERS.values() if other.without_failures}
    return {
        task: finished[task]
        for task in tasks
        if task in finished
        and "scores" in finished[task]
        and finished[task]["definition"] == definition(task)
        # of a search, what it chose without failures too, which lines of earlier runs do not say
        and (task.learner not in asked or finished[task]["cv score"] is None or "without failures" in finished[task])
    }


def run_tasks(study, plan, tasks, jobs):
    """Run what is not finished, ``jobs`` fits at once; returns task -> line."""
    path = study.path("results.jsonl")
    done = read_results(path, tasks)
    waiting = [task for task in tasks if task not in done]
    sources = {task: alpha_source(task, plan) for task in waiting}
    run = partial(run_task, str(study.folder), plan)
    with (
        open(path, "a", encoding="utf-8") as file,
        tqdm(total=len(tasks), initial=len(done), desc="Evidence", unit="fit") as bar,
    ):
        if file.tell() and not path.read_text(encoding="utf-8").endswith("\n"):
            file.write("\n")

        def keep(task, record):
            file.write(json.dumps(record) + "\n")
            file.flush()
            if "scores" in record:
                done[task] = record
            bar.update()

        for dependent in (False, True):
            if dependent:  # but for those whose source failed
                calls = [(task, *choice(task, done[source])) for task, source in sources.items() if source in done]
            else:
                calls = [(task,) for task, source in sources.items() if source is None]
            for task, record in in_processes(run, calls, jobs):
                keep(task, record)
    return done


def in_processes(run, calls, jobs):
    """Yield (task, result) of every call as it ends; one job runs them here."""
    if jobs == 1:
        for call in calls:
            yield call[0], run(*call)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(run, *call): call[0] for call in calls}
        try:
            for finished in as_completed(pending):
                yield pending[finished], finished.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


# ------------------------------------------------------------------------------------------------- summary

MEASURES = ("pair accuracy", "output F1", "output AUC", "label F1", "label AUC", "STARC", "calibration error")
TRANSFER = ("transfer label F1", "transfer label AUC", "transfer STARC")
LESS_IS_BETTER = {"STARC", "calibration error", "transfer STARC"}


def t_interval(values):
    """Mean and half-width of its 95 % t-interval; NaN for the width of a single value."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return [float(values.mean()), float("nan")]
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [float(values.mean()), float(half)]


def by_cell(done):
    """(regime, cell) -> learner -> seed -> line."""
    cells = defaultdict(lambda: defaultdict(dict))
    for task, record in done.items():
        cells[task.regime, task.cell][task.learner][task.seed] = record
    return cells


def best_standard(runs):
    """The standard learner of the least loss in cross-validation, which is all that may choose it."""
    scores = {}
    for name in [name for name, learner in LEARNERS.items() if learner.standard and name in runs]:
        chosen = [run["cv score"] for run in runs[name].values() if run["cv score"] is not None]
        if chosen:
            scores[name] = np.mean(chosen)
    return max(scores, key=scores.get) if scores else None


def paired_difference(runs, name, baseline, measure):
    """Mean and half-width of the difference of two learners over the seeds that both have."""
    seeds = sorted(runs[name].keys() & runs[baseline].keys())
    return t_interval([runs[name][s]["scores"][measure] - runs[baseline][s]["scores"][measure] for s in seeds])


def summarise(done):
    """regime -> cell -> the baseline and, by learner, means, differences and what was chosen."""
    summary = defaultdict(dict)
    for (regime, cell), runs in by_cell(done).items():
        baseline = best_standard(runs)
        names = [name for name in (ablation_names() if regime == "ablations" else LEARNERS) if name in runs]
        summary[regime][cell] = {
            "best standard learner": baseline,
            "learners": {name: summarise_learner(runs, name, baseline) for name in names},
        }
    return dict(summary)


def summarise_learner(runs, name, baseline):
    seeds = sorted(runs[name])
    measures = runs[name][seeds[0]]["scores"]
    if baseline is None:  # an ablation: against its objective without a failure path
        baselines = [ablation_baseline(name)]
    else:
        baselines = dict.fromkeys([baseline, *BASELINES])
    return {
        "seeds": seeds,
        "labels": baseline is not None and LEARNERS[name].labels,
        "alpha": [runs[name][seed]["alpha"] for seed in seeds],
        "seconds": float(np.mean([runs[name][seed]["fit seconds"] for seed in seeds])),
        "mean": {m: t_interval([runs[name][seed]["scores"][m] for seed in seeds]) for m in measures},
        "by seed": {m: [runs[name][seed]["scores"][m] for seed in seeds] for m in measures},
        "difference": {
            other: {m: paired_difference(runs, name, other, m) for m in measures if m in measures_of(runs[other])}
            for other in baselines
            if other in runs and runs[name].keys() & runs[other].keys()
        },
    }


def measures_of(runs):
    """What was measured of a learner: the noise-aware one has more than the others."""
    return next(iter(runs.values()))["scores"]


def ablation_baseline(name):
    objective, _ = ablation_names()[name]
    return next(
        other for other, (same, changes) in ablation_names().items() if other.endswith(": " + OFF) and same == objective
    )


def is_clear(difference):
    """Whether the interval of a difference leaves 0 out."""
    return abs(difference[0]) > difference[1]


def format_figure(mean, half):
    return f"{mean:.3f} ± {half:.3f}"


def format_difference(difference, digits=3):
    """In bold where its interval leaves 0 out."""
    text = f"{difference[0]:+.{digits}f} ± {difference[1]:.{digits}f}"
    return f"**{text}**" if is_clear(difference) else text


def format_cell(cell, measures):
    """Markdown rows: mean and interval, and in brackets the paired difference to the best standard learner."""
    best = cell["best standard learner"]
    lines = ["| learner | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, row in cell["learners"].items():
        figures = []
        for measure in measures:
            figure = format_figure(*row["mean"][measure])
            difference = row["difference"].get(best, {}).get(measure)
            figures.append(figure if name == best or not difference else f"{figure} ({format_difference(difference)})")
        shown = name + (" (best standard)" if name == best else " (labels)" if row["labels"] else "")
        lines.append(f"| {shown} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


OVERVIEW = {
    "paper": "paper, max_margin",
    "FailureAwareIRL": "FailureAwareIRL",
    "objective chosen": "FailureAwareIRL, objective chosen",
    "FailureAwareIRLCV": "FailureAwareIRLCV",
    "paper, labels": "labels, max_margin",
    "outputs and labels": "outputs and labels, max_margin",
}


def format_overview(summary, measures=("label F1", "STARC")):
    """Markdown: a row a cell, the best standard learner and the differences of those in OVERVIEW to it."""
    lines = ["| pairs | measure | best standard | " + " | ".join(OVERVIEW) + " |", "|---" * (len(OVERVIEW) + 3) + "|"]
    for regime in [regime for regime in summary if regime != "ablations"]:
        for (name, cell), measure in itertools.product(summary[regime].items(), measures):
            best = cell["best standard learner"]
            differences = [cell["learners"][own]["difference"][best][measure] for own in OVERVIEW.values()]
            mean = cell["learners"][best]["mean"][measure][0]
            shown = " | ".join(map(format_difference, differences))
            lines.append(f"| {regime}. {name} | {measure} | {mean:.3f} | {shown} |")
    return "\n".join(lines)


def format_counts(summary, measures=("output F1", "output AUC", "label F1", "label AUC", "STARC")):
    """Markdown: how often, over cells and measures, each learner is clearly better or worse than the best standard."""
    better, worse = Counter(), Counter()
    cells = [cell for regime in summary if regime != "ablations" for cell in summary[regime].values()]
    for cell, measure in itertools.product(cells, measures):
        best = cell["best standard learner"]
        for name, row in cell["learners"].items():
            difference = row["difference"][best][measure]
            if name != best and is_clear(difference):
                count = better if (difference[0] > 0) != (measure in LESS_IS_BETTER) else worse
                count[name] += 1
    lines = [f"| learner | clearly better, of {len(cells) * len(measures)} | clearly worse |", "|---|---|---|"]
    for name, learner in LEARNERS.items():
        lines.append(f"| {name}{' (labels)' if learner.labels else ''} | {better[name]} | {worse[name]} |")
    return "\n".join(lines)


def pooled_difference(cells, name, measure):
    """Mean and half-width, over seeds, of the mean difference to the best standard learner over the cells."""
    differences = []  # of a cell, by seed
    for cell in cells.values():
        rows = [cell["learners"][learner] for learner in (name, cell["best standard learner"])]
        own, best = (dict(zip(row["seeds"], row["by seed"][measure], strict=True)) for row in rows)
        differences.append({seed: own[seed] - best[seed] for seed in own.keys() & best.keys()})
    common = set.intersection(*map(set, differences))
    return t_interval([np.mean([found[seed] for found in differences]) for seed in sorted(common)])


def format_regimes(summary, measures=("output F1", "output AUC", "label F1", "label AUC", "STARC")):
    """Markdown: a row a regime and learner without labels, the differences averaged over the regime's cells."""
    lines = ["| pairs | learner | " + " | ".join(measures) + " |", "|---" * (len(measures) + 2) + "|"]
    names = [name for name in OVERVIEW.values() if not LEARNERS[name].labels]
    for regime in [regime for regime in summary if regime != "ablations"]:
        for name in names:
            found = [format_difference(pooled_difference(summary[regime], name, m), digits=4) for m in measures]
            lines.append(f"| {regime}. {REGIMES[regime]} | {name} | " + " | ".join(found) + " |")
    return "\n".join(lines)


def format_untuned(summary, names=("FailureAwareIRL, untuned", "FailureAwareIRLCV", "outputs and labels, max_margin")):
    """Markdown: label F1 and AUC, a star where clear, and STARC in per cent, against the untuned standard learner."""
    lines = ["| pairs | untuned: F1, AUC, STARC | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for regime in [regime for regime in summary if regime != "ablations"]:
        for cell_name, cell in summary[regime].items():
            mean = cell["learners"][UNTUNED]["mean"]
            figures = [", ".join(f"{mean[measure][0]:.3f}" for measure in ("label F1", "label AUC", "STARC"))]
            for name in names:
                difference = cell["learners"][name]["difference"][UNTUNED]
                shown = [f"{difference[m][0]:+.3f}" + "*" * is_clear(difference[m]) for m in ("label F1", "label AUC")]
                share = f"{100 * difference['STARC'][0] / mean['STARC'][0]:+.0f} %"
                figures.append(", ".join([*shown, f"**{share}**" if is_clear(difference["STARC"]) else share]))
            lines.append(f"| {regime}. {cell_name} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def format_ablations(cell, measures=("output AUC", "label AUC", "STARC")):
    """Markdown rows: the mean, and the difference to the failure path off."""
    lines = ["| changed | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for name, row in cell["learners"].items():
        (differences,) = row["difference"].values()
        figures = [f"{format_figure(*row['mean'][m])} ({format_difference(differences[m])})" for m in measures]
        lines.append(f"| {name} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def format_signs(cells):
    """The noisy cells of a: the lowest correlation with the truth over seeds, on how many seeds it is below 0."""
    noisy = {cell: content for cell, content in cells.items() if float(cell.rpartition(" ")[2]) >= 0.3}
    lines = ["| learner | " + " | ".join(noisy) + " |", "|---" * (len(noisy) + 1) + "|"]
    for name in dict.fromkeys(itertools.chain.from_iterable(content["learners"] for content in noisy.values())):
        figures = []
        for content in noisy.values():
            row = content["learners"].get(name)
            values = np.array(row["by seed"]["correlation"] if row else [np.nan])
            flips = row["by seed"].get("flipped AUC") if row else None
            found = "" if flips is None else f"; {np.mean(flips):.3f}"
            if row and "flag recall" in row["by seed"]:
                found += " ({:.2f}, {:.2f})".format(
                    *(row["mean"][f"flag {name}"][0] for name in ("precision", "recall"))
                )
            figures.append(f"{values.min():+.3f}, {(values < 0).sum()} of {len(values)}{found}")
        lines.append(f"| {name} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def format_tables(summary, plan):
    """All tables, Markdown."""
    parts = [
        f"Mean over {plan.seeds} seeds, in the regimes b and c over {plan.seeds_of_texts}, ± half a 95 % t-interval; "
        "in brackets the paired difference to the best standard learner, in bold where its interval leaves out 0. "
        "STARC and calibration error: less is better."
    ]
    if set(summary) - {"ablations"}:
        parts += [
            "## Overview: differences to the best standard learner",
            format_overview(summary),
            format_counts(summary),
            "## By regime: differences to the best standard learner of each cell, averaged over the regime's cells",
            format_regimes(summary),
        ]
        parts += ["## Against the untuned standard learner: label F1, label AUC, STARC in %", format_untuned(summary)]
    for regime in [regime for regime in REGIMES if regime in summary]:
        parts.append(f"## {regime}. {REGIMES[regime]}" if len(regime) == 1 else f"## {REGIMES[regime]}")
        for name, cell in summary[regime].items():
            shown = format_ablations(cell) if regime == "ablations" else format_cell(cell, MEASURES)
            parts += [f"### {name}", shown]
            if regime == "c":
                parts += ["### Transfer: fitted on ParaDetox, measured on the texts of b", format_cell(cell, TRANSFER)]
        if regime == "a":
            parts += [
                "### Sign: lowest correlation with the truth, seeds on which it is below 0; AUC of the training margin "
                "as a flag of flipped pairs (noise-aware: of the probability that it gives; in brackets precision and "
                "recall of its flag)",
                format_signs(summary[regime]),
            ]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------ pictures

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def plot_forest(cells, measures, path, title):
    """Paired differences to the best standard learner: a row a learner, a panel a measure, a colour a cell."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(itertools.chain.from_iterable(cell["learners"] for cell in cells.values())))
    height = 1.6 + len(names) * max(0.28, 0.09 * len(cells))
    figure = Figure(figsize=(2.4 + 2.3 * len(measures), height), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
    for axis, measure in zip(axes, measures, strict=True):
        axis.axvline(0, color="0.4", lw=1)
        for number, (cell_name, cell) in enumerate(cells.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            place = (number - (len(cells) - 1) / 2) * 0.75 / max(1, len(cells))
            rows = [
                (names.index(name) + place, *row["difference"][cell["best standard learner"]][measure])
                for name, row in cell["learners"].items()
                if name != cell["best standard learner"] and cell["best standard learner"] in row["difference"]
            ]
            y, x, half = np.array(rows).T
            axis.errorbar(x, y, xerr=half, fmt="o", ms=3, lw=1, color=colour, label=cell_name)
        for row in range(1, len(names), 2):
            axis.axhspan(row - 0.5, row + 0.5, color="0.95", zorder=0)
        axis.set_title(measure + (" (less is better)" if measure in LESS_IS_BETTER else ""), fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize="small")
    axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    figure.suptitle(title, fontsize="medium")
    if len(cells) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


def plot_overview(summary, path):
    """STARC's difference to the best standard learner in per cent of that: a row a cell, a colour a learner."""
    from matplotlib.figure import Figure

    cells = {
        f"{regime}. {name}": cell
        for regime in summary
        if regime != "ablations"
        for name, cell in summary[regime].items()
    }
    figure = Figure(figsize=(8, 1.5 + 0.5 * len(cells)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.4", lw=1)
    for number, (shown, learner) in enumerate(OVERVIEW.items()):
        rows = []
        for row, cell in enumerate(cells.values()):
            best = cell["best standard learner"]
            mean, half = cell["learners"][learner]["difference"][best]["STARC"]
            size = cell["learners"][best]["mean"]["STARC"][0] / 100
            rows.append((row + 0.15 * (number - (len(OVERVIEW) - 1) / 2), mean / size, half / size))
        y, x, half = np.array(rows).T
        axes.errorbar(x, y, xerr=half, fmt="o", ms=4, lw=1, color=_COLOURS[number], label=shown)
    for row in range(1, len(cells), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.95", zorder=0)
    axes.set(yticks=range(len(cells)), yticklabels=cells, ylim=(len(cells) - 0.5, -0.5))
    axes.set_xlabel("STARC, difference to the best standard learner in % of it (less is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)


def plot_ablations(cells, path, measures=("output AUC", "label AUC", "STARC")):
    """Differences to the failure path off: a column for what is changed, a row a measure, a colour a cell."""
    from matplotlib.figure import Figure

    widths = [len(specs) + 1 for specs in ABLATIONS.values()]
    figure = Figure(figsize=(0.5 * sum(widths) + 2, 2.3 * len(measures) + 1), layout="constrained")
    axes = figure.subplots(len(measures), len(ABLATIONS), sharey="row", squeeze=False, width_ratios=widths)
    for row, column in itertools.product(range(len(measures)), range(len(ABLATIONS))):
        axis, measure, (group, specs) = axes[row, column], measures[row], list(ABLATIONS.items())[column]
        axis.axhline(0, color="0.4", lw=1)
        for number, (cell_name, cell) in enumerate(cells.items()):
            learners = [cell["learners"][f"{group}: {name}"] for name in specs]
            values = np.array([next(iter(learner["difference"].values()))[measure] for learner in learners])
            x = np.arange(len(specs)) + 0.2 * (number - (len(cells) - 1) / 2)
            colour = _COLOURS[number % len(_COLOURS)]
            axis.errorbar(x, values[:, 0], yerr=values[:, 1], fmt="o", ms=3, lw=1, color=colour, label=cell_name)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(-0.6, len(specs) - 0.4)
        axis.set_xticks(range(len(specs)), specs if row == len(measures) - 1 else [""] * len(specs), rotation=90)
        axis.tick_params(labelsize="small")
        if row == 0:
            axis.set_title(group, fontsize="medium")
        if column == 0:
            axis.set_ylabel(measure + ("\n(less is better)" if measure in LESS_IS_BETTER else ""), fontsize="medium")
    for row, measure in zip(axes, measures, strict=True):  # one wide interval would leave no room for the others
        differences = [
            next(iter(v["difference"].values()))[measure] for c in cells.values() for v in c["learners"].values()
        ]
        limit = 1.1 * np.quantile(np.nansum(np.abs(differences), axis=1), 0.94) or 1.0  # one seed has no interval
        row[0].set_ylim(-limit, limit)
    figure.suptitle(
        "Difference to the same objective with the failure path off (longer bars are cut)", fontsize="medium"
    )
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


def draw(summary, study):
    """All pictures; returns their paths."""
    paths = []
    title = "Paired difference to the best standard learner"
    if set(summary) - {"ablations"}:
        paths.append(study.path("overview.png"))
        plot_overview(summary, paths[-1])
    for regime, cells in summary.items():
        if regime == "ablations":
            paths.append(study.path("ablations.png"))
            plot_ablations(cells, paths[-1])
            continue
        families = defaultdict(dict)
        for name, cell in cells.items():
            family, _, setting = name.partition(", ")
            families[family if regime == "a" else ""][setting if regime == "a" else name] = cell
        for family, members in families.items():
            paths.append(study.path(f"forest-{slug(f'{regime} {family}'.strip())}.png"))
            plot_forest(members, MEASURES, paths[-1], f"{REGIMES[regime]}{family and ', ' + family}. {title}")
        if regime == "c":
            paths.append(study.path("forest-transfer.png"))
            plot_forest(cells, TRANSFER, paths[-1], f"ParaDetox to the texts of b. {title}")
    return paths


# ---------------------------------------------------------------------------------------------------- main


def main(pairs=None, labelled=None, realign=None, size="small", out="evidence", jobs=None, only=None, seeds=None):
    """Run what is missing, print the tables, write everything, and return the summary."""
    if (pairs is None) != (labelled is None):
        raise ValueError("Found one of --pairs and --labelled. Expected both, or none for the package's own corpus.")
    regimes = set(REGIMES) if only is None else set(only.split(","))
    if unknown := regimes - set(REGIMES):
        raise ValueError(f"Found --only {only}, with {sorted(unknown)}. Expected some of {', '.join(REGIMES)}.")
    start = time.monotonic()
    plan = SIZES[size] if seeds is None else replace(SIZES[size], seeds=seeds, seeds_of_texts=seeds)
    files = {"pairs": pairs, "labelled": labelled, "realign": realign}
    names = {name: path and Path(path).resolve().name for name, path in files.items()}
    study = Study(out, json.loads(json.dumps({**asdict(plan), **names})))
    tasks = all_tasks(plan, regimes)
    prepare(study, plan, {task.regime for task in tasks}, pairs, labelled, realign)
    jobs = jobs or (1 if size == "smoke" else os.cpu_count() or 1)
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # of the processes to come
    done = run_tasks(study, plan, tasks, jobs)
    # ablations alone take their alpha from a few fits of b and c, which are no tables of these
    summary = summarise({task: done[task] for task in tasks if task in done and task.regime in regimes})
    study.write_json("summary.json", summary)
    tables = format_tables(summary, plan)
    study.path("tables.md").write_text(tables, encoding="utf-8")
    draw(summary, study)
    print("\n" + tables)
    if len(done) < len(tasks):
        print(f"{len(tasks) - len(done)} fits failed: their messages are in results.jsonl; run again to try again.")
    print(f"{(time.monotonic() - start) / 60:.1f} minutes; results.jsonl, summary.json, tables.md, *.png in {out}")
    return summary


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", help="ParaDetox as TSV")
    parser.add_argument("--labelled", help="labelled texts, CSV with columns tweet and class")
    parser.add_argument("--realign", help="folder of realign.py, with pairs.jsonl and reference.skops")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", default="evidence", help="folder of the run; an interrupted one goes on")
    parser.add_argument("--jobs", type=int, help="fits at once, one core each (default: all cores)")
    parser.add_argument("--only", help=f"regimes, some of {','.join(REGIMES)}")
    parser.add_argument("--seeds", type=int, help="seeds of every regime")
    main(**vars(parser.parse_args()))
