"""Learners on ParaDetox through TF-IDF and SVD, better or worse, over several splits by toxic comment.

    python benchmarks/paradetox.py paradetox.tsv --labelled davidson.csv

The text is normalised (lower case, words only). All learners see the same features and the same L2 strength:
``alpha`` for ours, ``C = 1 / (2 * alpha * n_pairs)`` for scikit-learn's. With ``--labelled`` (a file with columns
``tweet`` and ``class``, 2 = neither) a TF-IDF and logistic classifier trained on it is the ground-truth reward; it is
used to measure and for nothing else.
"""

import argparse
import json
import sys

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from fairl_sk import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL, PairTransformer
from fairl_sk.datasets import load_preferences
from fairl_sk.learning.estimators import separating_threshold
from fairl_sk.metrics import output_auc_score, output_f1_score, pair_accuracy, starc_distance
from fairl_sk.pairs import stack_outputs

SIZES = {
    "smoke": {"limit": 400, "components": 16, "seeds": 2},
    "small": {"limit": None, "components": 256, "seeds": 5},
}


def learners(alpha, n_pairs, seed):
    """Every learner by name; scikit-learn's work on the differences."""
    C = 1 / (2 * alpha * n_pairs)
    ours = {"alpha": alpha, "random_state": seed}
    return {
        "logistic regression": LogisticRegression(C=C, fit_intercept=False, max_iter=1000),
        "linear SVM": LinearSVC(C=C, loss="hinge", fit_intercept=False, max_iter=100_000),
        "MaxEntropyIRL": MaxEntropyIRL(**ours),
        "MaxMarginIRL": MaxMarginIRL(**ours),
        "FailureAwareIRL max_entropy": FailureAwareIRL.paper(objective="max_entropy", **ours),
        "FailureAwareIRL max_margin": FailureAwareIRL.paper(**ours),
    }


def rewards_of(learner, X_train, y_train, X_test):
    """Rewards (n_pairs, 2) of the test outputs by a fitted learner, offset as `FailureAwareIRL` sets it."""
    if not isinstance(learner, (LogisticRegression, LinearSVC)):
        learner.fit(X_train, y_train)
        return learner.decision_function(stack_outputs(X_test)).reshape(-1, 2)
    learner.fit(X_train[:, 0] - X_train[:, 1], y_train)
    train, test = X_train @ learner.coef_[0], X_test @ learner.coef_[0]
    chosen = np.stack([y_train == 1, y_train == 0], axis=1)
    return test - separating_threshold(train.ravel(), chosen.ravel(), np.ones(train.size))


def reference_reward(path):
    """Ground-truth reward of texts: log-odds of a classifier trained on labelled single texts."""
    data = load_preferences(path, text_column="tweet", label_column="class", desirable=2)
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2)),
        LogisticRegression(C=10, class_weight="balanced", max_iter=1000),
    )
    return model.fit(data.data, data.target).decision_function


def one_split(data, truth, alpha, components, seed):
    """Measures of every learner on one split: dict of name to dict of measure to value."""
    train, test = next(GroupShuffleSplit(1, test_size=0.25, random_state=seed).split(data.data, groups=data.groups))
    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32)
    features = PairTransformer(make_pipeline(tfidf, TruncatedSVD(components, random_state=seed)))
    X_train, X_test = features.fit_transform(data.data[train]), features.transform(data.data[test])
    y_train, y_test = data.target[train], data.target[test]
    scores = {}
    for name, learner in learners(alpha, len(train), seed).items():
        rewards = rewards_of(learner, X_train, y_train, X_test)
        scores[name] = {
            "pair accuracy": pair_accuracy(y_test, rewards[:, 0] - rewards[:, 1]),
            "output F1": output_f1_score(y_test, rewards),
            "output AUC": output_auc_score(y_test, rewards),
        }
        if truth is not None:
            labels = (truth[test] > 0).astype(int)
            scores[name]["label AUC"] = output_auc_score(None, rewards, output_labels=labels)
            scores[name]["STARC"] = starc_distance(rewards, truth[test])
    return scores


def format_scores(runs, baseline="logistic regression"):
    """Means over the splits, and the paired difference to the baseline with its standard error."""
    measures = list(runs[0][baseline])
    lines = [f"{'':28}" + "".join(f"{name:>26}" for name in measures)]
    for learner in runs[0]:
        cells = []
        for name in measures:
            values = np.array([run[learner][name] for run in runs])
            difference = values - [run[baseline][name] for run in runs]
            error = difference.std(ddof=1) / np.sqrt(len(runs))
            cells.append(f"{values.mean():.4f} ({difference.mean():+.4f} ± {error:.4f})")
        lines.append(f"{learner:28}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)


def main(pairs, labelled=None, size="small", alpha=1e-3, out=None):
    """Run the benchmark, print its table, and return the scores of every split."""
    plan = SIZES[size]
    data = load_preferences(pairs, limit=plan["limit"])
    data.data = np.array([[" ".join(text.lower().split()) for text in pair] for pair in data.data], dtype=object)
    truth = None
    if labelled is not None:
        truth = reference_reward(labelled)(stack_outputs(data.data)).reshape(-1, 2)
    runs = []
    for seed in range(plan["seeds"]):
        runs.append(one_split(data, truth, alpha, plan["components"], seed))
        print(f"\rsplit {seed + 1} of {plan['seeds']}", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(f"{len(data.data)} pairs, alpha={alpha:g}, {plan['seeds']} splits; in brackets the paired difference to")
    print("logistic regression, with its standard error over the splits\n" + format_scores(runs))
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(runs, file, indent=2)
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", help="ParaDetox as TSV")
    parser.add_argument("--labelled", help="labelled texts to train the ground-truth reward on, CSV")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--alpha", type=float, default=1e-3)
    parser.add_argument("--out", help="write the scores as JSON")
    main(**vars(parser.parse_args()))
