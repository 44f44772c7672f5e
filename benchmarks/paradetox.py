"""Learners on ParaDetox through TF-IDF and SVD, at one fixed alpha, over several splits by toxic comment.

    python benchmarks/paradetox.py paradetox.tsv --labelled davidson.csv

All learners see the same features and the same L2 strength: ``alpha`` for ours, ``C = 1 / (2 * alpha * n_pairs)`` for
scikit-learn's. The ground truth is the classifier of toxicity_reference.py, trained on the labelled file (columns
``tweet`` and ``class``, 2 = neither); it measures and does nothing else.
"""

import argparse
import json

import numpy as np
import pandas as pd
from paper_data import make_corpus, normalize, pair_sample
from paper_learners import Learner, fit, logistic, measure, ours
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from toxicity_reference import SIZES as REFERENCE_SIZES
from toxicity_reference import train as train_reference
from tqdm.auto import tqdm

from fairl_sk import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL, PairTransformer
from fairl_sk.datasets import load_preferences
from fairl_sk.pairs import stack_outputs
from fairl_sk.rewards import EstimatorReward

SIZES = {
    "smoke": {"limit": 400, "components": 16, "seeds": 2},
    "small": {"limit": None, "components": 256, "seeds": 5},
}
BASELINE = "logistic regression"
MEASURES = ["pair accuracy", "output F1", "output AUC", "label AUC", "STARC"]


def linear_svm(alpha, n_rows, seed):
    """The problem that `MaxMarginIRL` solves."""
    return LinearSVC(C=1 / (2 * alpha * n_rows), loss="hinge", fit_intercept=False, max_iter=100_000)


LEARNERS = {
    BASELINE: logistic("differences"),
    "linear SVM": Learner(linear_svm, "differences"),
    "MaxEntropyIRL": ours(MaxEntropyIRL),
    "MaxMarginIRL": ours(MaxMarginIRL),
    "FailureAwareIRL": ours(FailureAwareIRL),
    "FailureAwareIRL, max_margin": ours(FailureAwareIRL, {"objective": "max_margin"}),
    "paper": ours(FailureAwareIRL.paper),
}


def one_split(data, truth, alpha, components, seed):
    """Measures of every learner on one split: name -> measure -> value."""
    train, test = next(GroupShuffleSplit(1, test_size=0.25, random_state=seed).split(data.data, groups=data.groups))
    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32)
    features = PairTransformer(make_pipeline(tfidf, TruncatedSVD(components, random_state=seed)))
    X = features.fit(data.data[train]).transform(data.data)
    corpus = make_corpus(X, data.target, data.groups, truth.reshape(-1, 1))
    sample = pair_sample(corpus, train, test)
    pairs = sample.X_train, sample.y_train
    return {name: measure(fit(own, alpha, seed, *pairs, None), sample) for name, own in LEARNERS.items()}


def format_scores(runs):
    """Means over the splits, and the paired difference to the baseline with its standard error."""
    values = np.array([[[scores[m] for m in MEASURES] for scores in run.values()] for run in runs])
    differences = values - values[:, [list(LEARNERS).index(BASELINE)]]
    error = differences.std(axis=0, ddof=1) / np.sqrt(len(runs))
    cells = zip(values.mean(axis=0).ravel(), differences.mean(axis=0).ravel(), error.ravel(), strict=True)
    shown = np.reshape([f"{mean:.4f} ({difference:+.4f} ± {e:.4f})" for mean, difference, e in cells], error.shape)
    return pd.DataFrame(shown, index=list(LEARNERS), columns=MEASURES).to_string()


def main(pairs, labelled, size="small", alpha=1e-3, out=None):
    """Run the benchmark, print its table, and return the scores of every split."""
    plan, reference = SIZES[size], REFERENCE_SIZES[size]
    data = load_preferences(pairs, limit=plan["limit"])
    data.data = np.array([[normalize(text) for text in pair] for pair in data.data], dtype=object)
    full = (data.data != "").all(axis=1)  # a side without any word is no text
    data.data, data.target, data.groups = data.data[full], data.target[full], data.groups[full]
    single = load_preferences(labelled, text_column="tweet", label_column="class", desirable=2)
    groups = np.arange(len(single.data))
    model = train_reference(single.data, single.target, groups, reference["C"], reference["folds"], seed=0)
    truth = EstimatorReward(model)(stack_outputs(data.data)).reshape(-1, 2)
    splits = tqdm(range(plan["seeds"]), desc="Splits")
    runs = [one_split(data, truth, alpha, plan["components"], seed) for seed in splits]
    print(f"{len(data.data)} pairs, alpha={alpha:g}, {plan['seeds']} splits; in brackets the paired difference to")
    print(f"{BASELINE}, with its standard error over the splits\n{format_scores(runs)}")
    if out:
        with open(out, "w", encoding="utf-8") as file:
            json.dump(runs, file, indent=2)
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", help="ParaDetox as TSV")
    parser.add_argument("--labelled", required=True, help="labelled texts to train the ground truth on, CSV")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--alpha", type=float, default=1e-3)
    parser.add_argument("--out", help="write the scores as JSON")
    main(**vars(parser.parse_args()))
