"""The learners of the evidence benchmark, how each takes its alpha, and what is measured. For paper.py."""

import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from paper_data import TRUTHS, load_sample
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
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
from fairl_sk.failures import NearTieFailures
from fairl_sk.learning.offset import separating_threshold
from fairl_sk.metrics import (
    longer_null,
    output_auc_score,
    output_f1_score,
    pair_accuracy,
    pair_log_loss,
    pair_log_loss_scorer,
    starc_distance,
)
from fairl_sk.pairs import stack_outputs

# ------------------------------------------------------------------------------------------- nulls and new ideas


class LengthNull(BaseEstimator):
    """A null: the longer text is better, or the shorter one if that orders more training pairs."""

    def fit(self, X, y):
        length = longer_null(X)
        self.direction_ = 1.0 if pair_accuracy(y, length[:, 0] - length[:, 1]) >= 0.5 else -1.0
        return self

    def decision_function(self, X):
        return self.direction_ * longer_null(X)


class ShuffledIRL(MaxEntropyIRL):
    """A null: `MaxEntropyIRL` of preferences that are shuffled."""

    def fit(self, X, y):
        return super().fit(X, np.random.default_rng(self.random_state).permutation(y))


class ContrastFailures(NearTieFailures):
    """Near ties whose two sides are alike: little differs, so what differs decides. The alike half counts."""

    def fit(self, X, sign, sample_weight, *, output_labels, seed):
        lengths = np.linalg.norm(X, axis=2)
        cosine = np.einsum("ij,ij->i", X[:, 0], X[:, 1]) / np.maximum(lengths.prod(axis=1), 1e-12)
        self.alike_ = cosine >= np.median(cosine)
        return self

    def detect(self, state):
        return super().detect(state) & self.alike_


class ClusteredFailures(NearTieFailures):
    """Near ties clustered by what their sides differ in; each cluster counts the same."""

    def __init__(self, n_clusters=8):
        self.n_clusters = n_clusters

    def fit(self, X, sign, sample_weight, *, output_labels, seed):
        differences = (X[:, 0] - X[:, 1]) * sign[:, None]
        differences /= np.maximum(np.linalg.norm(differences, axis=1, keepdims=True), 1e-12)
        self.cluster_ = KMeans(min(self.n_clusters, len(X)), n_init=1, random_state=seed).fit_predict(differences)
        return self

    def detect(self, state):
        failures = super().detect(state)
        counts = np.bincount(self.cluster_[failures], minlength=self.cluster_.max() + 1)
        return failures / np.maximum(counts[self.cluster_], 1)


class MixtureIRL(FailureAwareIRL):
    """A pair was chosen by the reward or at random. By EM, it weighs its probability of the former."""

    def fit(self, X, y):
        chance, weight = 0.1, np.ones(len(X))
        for _ in range(5):
            super().fit(X, y, sample_weight=weight)
            by_reward = (1 - chance) * expit(self.decision_function(X) * np.where(y == 1, 1, -1) / self.temperature)
            weight = by_reward / (by_reward + chance / 2)
            chance = 1 - weight.mean()
        return self


# ----------------------------------------------------------------------------------------------------- registry


@dataclass(frozen=True)
class Learner:
    """A way to learn a reward from pairs, and how it takes part."""

    make: Callable  # (alpha, n_rows, seed) -> estimator
    reads: str = "pairs"  # what it is fitted on: "pairs", "differences", single "outputs", or pairs of "texts"
    labels: bool = False  # is told the first truth's labels of the training outputs
    search: type | None = None  # this package's search that chooses alpha; None: fold by fold
    alpha: float | None = None  # fixed, not chosen
    alpha_of: str | None = None  # the learner whose alpha this one takes


def ours(estimator_class, params=None, **role):
    """A learner of this package, by class or ``FailureAwareIRL.paper``, with other parameters."""
    return Learner(lambda alpha, n_rows, seed: estimator_class(alpha=alpha, random_state=seed, **params or {}), **role)


def logistic(reads, **role):
    """Logistic regression on differences or on single outputs."""
    settings = {"fit_intercept": reads == "outputs", "max_iter": 1000}
    return Learner(lambda alpha, n, seed: LogisticRegression(C=1 / (2 * alpha * n), **settings), reads, **role)


def failing(estimator_class=FailureAwareIRL, **params):
    """A variant of `FailureAwareIRL` at the alpha that is best without failures."""
    return ours(estimator_class, params, alpha_of="no failures")


CONSTANT = {"failure_threshold": 0.5, "failure_weight": 1.0, "failure_rate": 0.1}
FAILURES = {  # each is compared with "no failures"
    "FailureAwareIRL": failing(),
    "failures: margin": failing(failures="margin"),
    "no curriculum": failing(**CONSTANT),
    "near duplicates": failing(failures=ContrastFailures()),
    "clusters": failing(failures=ClusteredFailures()),
    "mixture": failing(MixtureIRL, failure_weight=0.0),
}
WITH_LABELS = {"failures": "confirmed", "failure_weight": 1.0, "pointwise_weight": 3.0, "recurrence_correlation": 0.0}
LEARNERS = {
    "MaxMarginIRL, untuned": ours(MaxMarginIRL, alpha=1e-3),  # fixed settings, which the paper compares with
    "MaxMarginIRL": ours(MaxMarginIRL, search=MaxMarginIRLCV),
    "MaxEntropyIRL": ours(MaxEntropyIRL, search=MaxEntropyIRLCV),
    "MLP": ours(MaxEntropyIRL, {"hidden_layer_sizes": (16,)}, alpha=1e-3),
    "paper": ours(FailureAwareIRL.paper, alpha_of="MaxMarginIRL"),
    "no failures": ours(FailureAwareIRL, {"failure_weight": 0.0}, search=FailureAwareIRLCV),
    **FAILURES,
    "with labels": ours(FailureAwareIRL, WITH_LABELS, labels=True, search=FailureAwareIRLCV),
    "classifier of labels": logistic("outputs", labels=True),
    "null: length": Learner(lambda alpha, n_rows, seed: LengthNull(), "texts", alpha=0.0),
    "null: shuffled": ours(ShuffledIRL, alpha_of="MaxEntropyIRL"),
}


class Task(NamedTuple):
    """One fit: what a line of the results is about."""

    regime: str
    cell: str
    features: str
    seed: int
    learner: str


# ------------------------------------------------------------------------------------------------------ one fit


class Fitted(NamedTuple):
    """A fitted learner, and the offset of a reward that was learned from differences."""

    estimator: BaseEstimator
    reads: str
    offset: float = 0.0

    def rewards(self, outputs):
        """R of outputs (n_outputs, n_features), or of texts; 0 separates desirable outputs from the others."""
        if self.reads == "differences":
            return outputs @ self.estimator.coef_[0] + self.offset
        return self.estimator.decision_function(outputs)

    def margins(self, X):
        """R(first) - R(second) of pairs."""
        if self.reads == "pairs":
            return self.estimator.decision_function(X)
        first, second = self.rewards(stack_outputs(X)).reshape(-1, 2).T
        return first - second

    def probability(self, X):
        """Probability that the first output is preferred."""
        return self.estimator.predict_proba(X)[:, 1] if self.reads == "pairs" else expit(self.margins(X))


def fit(learner, alpha, seed, X, y, labels):
    """Fit a learner on pairs (n_pairs, 2, n_features); it is told ``labels`` (n_pairs, 2) only if it is marked so."""
    estimator = learner.make(alpha, len(X) * (2 if learner.reads == "outputs" else 1), seed)
    if learner.reads in ("pairs", "texts"):
        return Fitted(estimator.fit(X, y, **({"output_labels": labels} if learner.labels else {})), learner.reads)
    chosen = np.stack([y == 1, y == 0], axis=1)
    if learner.reads == "outputs":
        return Fitted(estimator.fit(stack_outputs(X), (labels if learner.labels else chosen).ravel()), "outputs")
    rewards = X @ estimator.fit(X[:, 0] - X[:, 1], y).coef_[0]
    offset = -separating_threshold(rewards.ravel(), chosen.ravel(), np.ones(rewards.size))
    return Fitted(estimator, "differences", offset)


def choose_alpha(learner, plan, seed, sample):
    """The alpha of the best score on held-out groups (of equal ones the largest).

    The score is minus the log loss of pairs; of a classifier of labels, the AUC of the labels.
    """
    X, y, labels = sample.X_train, sample.y_train, sample.labels_train
    alphas = sorted(plan.alphas, reverse=True)
    folds = list(GroupKFold(plan.folds).split(X, y, sample.groups))
    if learner.search is not None:
        params = learner.make(alphas[0], len(X), seed).get_params(deep=False) | {"alpha": alphas}
        params |= {"failure_weight": 0} if learner.search is FailureAwareIRLCV else {}
        search = learner.search(**params, cv=folds, scoring=pair_log_loss_scorer, refit=False, error_score="raise")
        return search.fit(X, y, **({"output_labels": labels} if learner.labels else {})).best_params_["alpha"]

    def score(alpha, train, test):
        fitted = fit(learner, alpha, seed, X[train], y[train], labels[train] if learner.labels else None)
        if learner.labels:
            return output_auc_score(labels[test].ravel(), fitted.rewards(stack_outputs(X[test])))
        return -pair_log_loss(y[test], fitted.margins(X[test]))

    return alphas[int(np.argmax([np.mean([score(alpha, *fold) for fold in folds]) for alpha in alphas]))]


def measure(fitted, sample, truths=("",)):
    """All measures of a fitted learner on what was held out; ``truths`` are the names of the sample's truths."""
    held_out, margins = fitted.rewards(stack_outputs(sample.X_test)).reshape(-1, 2), fitted.margins(sample.X_test)
    scores = {
        "pair accuracy": pair_accuracy(sample.y_test, margins),
        "output F1": output_f1_score(sample.y_test, held_out),
        "output AUC": output_auc_score(sample.y_test, held_out),
    }
    if fitted.reads != "texts":
        scores["ECE"] = expected_calibration_error(sample.y_test, fitted.probability(sample.X_test))
    measured = {"": (sample.outputs, sample.truths)} | ({"transfer ": sample.transfer} if sample.transfer else {})
    for prefix, (outputs, known) in measured.items():
        rewards = fitted.rewards(outputs) if len(truths) else None
        for name, truth in zip(truths, known.T, strict=True):
            labels, suffix = (truth > 0).astype(int), f", {name}" if name else ""
            scores[f"{prefix}label F1{suffix}"] = output_f1_score(labels, rewards)
            scores[f"{prefix}label AUC{suffix}"] = output_auc_score(labels, rewards)
            scores[f"{prefix}STARC{suffix}"] = starc_distance(rewards, truth)
    return {name: float(value) for name, value in scores.items()}


def definition(learner):
    """What is fitted, in words. A line of the results that says otherwise is not used again."""
    params = sorted(learner.make(1.0, 1, 0).get_params().items())
    return " ".join(f"{params} {replace(learner, make=None)}".split())


def with_rounds(learner, rounds):
    """A learner whose curriculum has at most so many rounds, for quick runs."""

    def make(*args):
        estimator = learner.make(*args)
        return estimator.set_params(n_rounds=rounds) if "n_rounds" in estimator.get_params() else estimator

    return learner if rounds is None else replace(learner, make=make)


def run_tasks(folder, plan, tasks, alphas):
    """Fit and measure tasks of one sample, and return their lines; a fit that fails leaves its message.

    ``alphas`` maps the learners of this sample that are finished to their alpha.
    """
    torch.set_num_threads(1)
    alphas, records = dict(alphas), []
    with threadpool_limits(1):
        texts, sample = load_sample(folder, plan, *tasks[0][:-1])
        for task in tasks:
            learner = with_rounds(LEARNERS[task.learner], plan.rounds)
            known = texts if learner.reads == "texts" else sample
            record = {**task._asdict(), "definition": definition(LEARNERS[task.learner])}
            start = time.perf_counter()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    alpha = alphas[learner.alpha_of] if learner.alpha_of else learner.alpha
                    alpha = choose_alpha(learner, plan, task.seed, known) if alpha is None else alpha
                    began = time.perf_counter()
                    fitted = fit(learner, alpha, task.seed, known.X_train, known.y_train, known.labels_train)
                    record |= {"alpha": alpha, "cv seconds": began - start, "seconds": time.perf_counter() - began}
                    record["scores"] = measure(fitted, known, TRUTHS[task.regime])
                    alphas[task.learner] = alpha
                except (ValueError, KeyError) as error:  # KeyError: the learner that gives the alpha failed
                    record["error"] = f"{type(error).__name__}: {error}"
            record["warnings"] = dict(Counter(entry.category.__name__ for entry in caught))
            records.append(record)
    return records
