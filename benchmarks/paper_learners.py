"""The learners of the evidence benchmark, and one fit: how alpha is chosen and what is measured. For paper.py."""

import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from paper_data import ALPHAS, load_sample
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits
from toxicity_reference import expected_calibration_error

from fairl_sk import (
    FailureAwareIRL,
    FailureAwareIRLCV,
    MaxEntropyIRL,
    MaxEntropyIRLCV,
    MaxMarginIRL,
    MaxMarginIRLCV,
)
from fairl_sk.failures import ConfirmedFailures
from fairl_sk.learning.offset import separating_threshold
from fairl_sk.metrics import (
    output_auc_score,
    output_f1_score,
    pair_accuracy,
    pair_log_loss,
    pair_log_loss_scorer,
    starc_distance,
)
from fairl_sk.pairs import stack_outputs

# ----------------------------------------------------------------------------------------------------- registry


@dataclass(frozen=True)
class Learner:
    """A way to learn a reward from pairs, and how it takes part."""

    make: Callable  # (alpha, n_rows, seed) -> estimator
    reads: str = "pairs"  # what it is fitted on: "pairs"; for scikit-learn's, "differences" or single "outputs"
    labels: bool = False  # is told the ground truth's labels of the training outputs
    standard: bool = False  # one of those that the others have to beat
    search: type | None = None  # this package's search that chooses alpha; None: fold by fold
    alpha: float | None = None  # fixed, not chosen
    alpha_of: str | None = None  # the learner whose alpha this one takes
    once: bool = False  # slow: the first seed of a cell chooses alpha for all
    confirmed_weight: float = 1.0  # weight of the pairs that labels confirm (T->NT)


def ours(estimator_class, params=None, **role):
    """A learner of this package, by class or ``FailureAwareIRL.paper``, with other parameters."""
    return Learner(lambda alpha, n_rows, seed: estimator_class(alpha=alpha, random_state=seed, **params or {}), **role)


def logistic(reads, **role):
    """Logistic regression on differences or on single outputs."""
    settings = {"fit_intercept": reads == "outputs", "max_iter": 1000}
    return Learner(lambda alpha, n, seed: LogisticRegression(C=1 / (2 * alpha * n), **settings), reads, **role)


def linear_svm(alpha, n_rows, seed):
    """scikit-learn's, with its squared hinge; `MaxMarginIRL` has the plain one."""
    return LinearSVC(C=1 / (2 * alpha * n_rows), fit_intercept=False, max_iter=10_000, random_state=seed)


def search_all(alpha, n_rows, seed):
    """This package's search over alpha and over whether failures count."""
    return FailureAwareIRLCV(alpha=list(ALPHAS), cv=GroupKFold(3), scoring=pair_log_loss_scorer, random_state=seed)


UNTUNED = "MaxMarginIRL, untuned"  # fixed settings, which the paper compares with
UNTUNED_ALPHA = 1e-3
OBJECTIVES = ("max_margin", "max_entropy")
CONFIRMED = {"failures": ConfirmedFailures(), "failure_weight": 1.0}
LEARNERS = {
    "MaxMarginIRL": ours(MaxMarginIRL, standard=True, search=MaxMarginIRLCV),
    "MaxEntropyIRL": ours(MaxEntropyIRL, standard=True, search=MaxEntropyIRLCV),
    "logistic regression, differences": logistic("differences", standard=True),
    "linear SVM, differences": Learner(linear_svm, "differences", standard=True),
    UNTUNED: ours(MaxMarginIRL, alpha=UNTUNED_ALPHA),
    "logistic regression, outputs": logistic("outputs"),
    "paper": ours(FailureAwareIRL.paper, once=True),
    **{
        f"no failures, {o}": ours(FailureAwareIRL, {"objective": o, "failure_weight": 0.0}, search=FailureAwareIRLCV)
        for o in OBJECTIVES
    },
    "FailureAwareIRL, max_margin": ours(
        FailureAwareIRL, {"objective": "max_margin"}, alpha_of="no failures, max_margin"
    ),
    "FailureAwareIRL": ours(FailureAwareIRL, alpha_of="no failures, max_entropy"),
    "FailureAwareIRL, untuned": ours(FailureAwareIRL, alpha=UNTUNED_ALPHA),
    "FailureAwareIRLCV": Learner(search_all, alpha=UNTUNED_ALPHA),  # chooses its own
    "paper, labels": ours(FailureAwareIRL.paper, {"failures": "labels"}, labels=True, alpha_of="paper"),
    **{
        f"outputs and labels, {o}": ours(
            FailureAwareIRL,
            {"objective": o, "pointwise_weight": 3.0, "recurrence_correlation": 0.0, **CONFIRMED},
            labels=True,
            search=FailureAwareIRLCV,
        )
        for o in OBJECTIVES
    },
    "logistic regression, T->NT x 5": logistic("differences", labels=True, confirmed_weight=5.0),
}
# Not fitted: of these two the one whose base path, without failures, has the lower loss in cross-validation.
OBJECTIVE_CHOSEN = "FailureAwareIRL, objective chosen"
CHOSEN_FROM = ("FailureAwareIRL, max_margin", "FailureAwareIRL")


def changed(params=None, **role):
    """`FailureAwareIRL` with one thing changed, at the alpha of its defaults."""
    return ours(FailureAwareIRL, params, alpha_of="no failures, max_entropy", **role)


DEFAULT = "default: near ties, pointwise weight auto"  # what every ablation is compared with
ABLATIONS = {
    DEFAULT: changed(),
    "failures: off": changed({"failure_weight": 0.0}),
    "failures: margin": changed({"failures": "margin"}),
    "failures: labels": changed({"failures": "labels"}, labels=True),
    "failures: confirmed": changed({"failures": ConfirmedFailures()}, labels=True),
    "pointwise weight: 0": changed({"pointwise_weight": 0.0}),
    "recurrence correlation: 0": changed({"recurrence_correlation": 0.0}),
    "training: joint": changed({"training": "joint"}),
    "training: joint, gradient: both heads": changed({"training": "joint", "failure_gradient": "both"}),
    "hidden layers: 64": changed({"hidden_layer_sizes": (64,)}),
    "hidden layers: 64, failures: off": changed({"hidden_layer_sizes": (64,), "failure_weight": 0.0}),
}


class Task(NamedTuple):
    """One fit: what a line of the results is about."""

    regime: str
    cell: str
    seed: int
    learner: str


def learner_of(task):
    return (ABLATIONS if task.regime == "ablations" else LEARNERS)[task.learner]


def place_of(task):
    """Regime and cell of a task's data: ablations use those of other regimes."""
    return task.cell.split(", ", 1) if task.regime == "ablations" else (task.regime, task.cell)


def source_of(task, plan):
    """The task whose alpha this one takes; None where it chooses its own or needs none."""
    name = learner_of(task).alpha_of or task.learner
    once = name in LEARNERS and LEARNERS[name].once
    source = Task(*place_of(task), plan.first_seed if once else task.seed, name)
    return None if source == task else source


# ------------------------------------------------------------------------------------------------------ one fit


class Fitted(NamedTuple):
    """A fitted learner, and the offset of a reward that was learned from differences."""

    estimator: BaseEstimator
    reads: str
    offset: float = 0.0

    def rewards(self, outputs):
        """R of outputs (n_outputs, n_features); 0 separates desirable outputs from the others."""
        if self.reads == "differences":
            return outputs @ self.estimator.coef_[0] + self.offset
        return self.estimator.decision_function(outputs)

    def margins(self, X):
        """R(first) - R(second) of pairs."""
        if self.reads == "pairs":
            return self.estimator.decision_function(X)
        return self.rewards(X[:, 0]) - self.rewards(X[:, 1])

    def probability(self, X):
        """Probability that the first output is preferred."""
        return self.estimator.predict_proba(X)[:, 1] if self.reads == "pairs" else expit(self.margins(X))


def fit(learner, alpha, seed, X, y, labels, groups=None):
    """Fit a learner on pairs (n_pairs, 2, n_features); it is told ``labels`` (n_pairs, 2) only if it is marked so."""
    estimator = learner.make(alpha, len(X) * (2 if learner.reads == "outputs" else 1), seed)
    if learner.reads == "pairs":
        told = {"output_labels": labels} if learner.labels else {}
        told |= {"groups": groups} if isinstance(estimator, FailureAwareIRLCV) else {}
        return Fitted(estimator.fit(X, y, **told), "pairs")
    chosen = np.stack([y == 1, y == 0], axis=1)
    if learner.reads == "outputs":
        return Fitted(estimator.fit(stack_outputs(X), chosen.ravel()), "outputs")
    weight = np.ones(len(X))
    if learner.labels:
        preferred, other = np.where(y == 1, labels.T, labels.T[::-1])
        weight[(preferred == 1) & (other == 0)] = learner.confirmed_weight
    estimator.fit(X[:, 0] - X[:, 1], y, sample_weight=weight)
    rewards = X @ estimator.coef_[0]
    positive = labels == 1 if learner.labels else chosen  # as this package's estimators set their offset
    offset = -separating_threshold(rewards.ravel(), positive.ravel(), np.ones(rewards.size))
    return Fitted(estimator, "differences", offset)


def choose_alpha(learner, plan, seed, sample):
    """The alpha of the least loss on held-out groups (of equal ones the largest), and minus that loss."""
    X, y, labels = sample.X_train, sample.y_train, sample.labels_train
    alphas = sorted(plan.alphas, reverse=True)
    folds = list(GroupKFold(plan.folds).split(X, y, sample.groups))
    if learner.search is not None:
        params = learner.make(alphas[0], len(X), seed).get_params(deep=False) | {"alpha": alphas}
        params |= {"failure_weight": 0} if learner.search is FailureAwareIRLCV else {}
        search = learner.search(**params, cv=folds, scoring=pair_log_loss_scorer, refit=False, error_score="raise")
        search.fit(X, y, **({"output_labels": labels} if learner.labels else {}))
        return {"alpha": search.best_params_["alpha"], "cv score": float(search.best_score_)}

    def score(alpha, train, test):
        fitted = fit(learner, alpha, seed, X[train], y[train], labels[train])
        return -pair_log_loss(y[test], fitted.margins(X[test]))

    scores = [np.mean([score(alpha, *fold) for fold in folds]) for alpha in alphas]
    best = int(np.argmax(scores))
    return {"alpha": alphas[best], "cv score": float(scores[best])}


def measure(fitted, sample):
    """All measures of a fitted learner on what was held out."""
    held_out = fitted.rewards(stack_outputs(sample.X_test)).reshape(-1, 2)
    rewards, labels = fitted.rewards(sample.outputs), (sample.truth > 0).astype(int)
    scores = {
        "pair accuracy": pair_accuracy(sample.y_test, fitted.margins(sample.X_test)),
        "output F1": output_f1_score(sample.y_test, held_out),
        "output AUC": output_auc_score(sample.y_test, held_out),
        "label F1": output_f1_score(labels, rewards),
        "label AUC": output_auc_score(labels, rewards),
        "STARC": starc_distance(rewards, sample.truth),
        "calibration error": expected_calibration_error(sample.y_test, fitted.probability(sample.X_test)),
        "correlation": np.corrcoef(rewards, sample.truth)[0, 1] if np.ptp(rewards) > 0 else 0.0,
    }
    if sample.flipped is not None and sample.flipped.any():
        against = -fitted.margins(sample.X_train) * np.where(sample.y_train == 1, 1, -1)
        scores["flipped AUC"] = roc_auc_score(sample.flipped, against)
    if sample.transfer is not None:
        outputs, truth = sample.transfer
        rewards, labels = fitted.rewards(outputs), (truth > 0).astype(int)
        scores["transfer label F1"] = output_f1_score(labels, rewards)
        scores["transfer label AUC"] = output_auc_score(labels, rewards)
        scores["transfer STARC"] = starc_distance(rewards, truth)
    return {name: float(value) for name, value in scores.items()}


def definition(task):
    """What is fitted, in words. A line of the results that says otherwise is not used again."""
    learner = learner_of(task)
    params = sorted(learner.make(1.0, 1, task.seed).get_params().items())
    return " ".join(f"{params} {replace(learner, make=None)}".split())


def with_rounds(learner, rounds):
    """A learner whose curriculum has at most so many rounds, for quick runs."""

    def make(*args):
        estimator = learner.make(*args)
        return estimator.set_params(n_rounds=rounds) if "n_rounds" in estimator.get_params() else estimator

    return learner if rounds is None else replace(learner, make=make)


def run_task(folder, plan, task, source=None):
    """Fit, measure, and return the line of the results; a fit that fails leaves its message.

    ``source`` is the line of the task whose alpha this one takes.
    """
    torch.set_num_threads(1)
    learner = with_rounds(learner_of(task), plan.rounds)
    record = {**task._asdict(), "alpha": learner.alpha, "cv score": None, "definition": definition(task)}
    sample = load_sample(folder, plan, *place_of(task), task.seed)
    start = time.perf_counter()
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if source is not None:
                record |= {name: source[name] for name in ("alpha", "cv score")}
            elif learner.alpha is None:
                record |= choose_alpha(learner, plan, task.seed, sample)
            began = time.perf_counter()
            data = sample.X_train, sample.y_train, sample.labels_train, sample.groups
            fitted = fit(learner, record["alpha"], task.seed, *data)
            record |= {"cv seconds": began - start, "fit seconds": time.perf_counter() - began}
            record["scores"] = measure(fitted, sample)
        except ValueError as error:
            record["error"] = f"{type(error).__name__}: {error}"
    record["warnings"] = dict(Counter(entry.category.__name__ for entry in caught))
    return record
