"""Train a ground-truth reward on labelled texts, measure it on held-out ones, and save it for an audit.

    python benchmarks/toxicity_reference.py davidson.csv --out reference.skops
    fairl-sk audit pairs.tsv --reference reference.skops

The file has columns ``tweet`` and ``class`` (2 = neither hateful nor offensive: the desirable class). The reward is
the log-odds of a logistic classifier on TF-IDF of lower-case words; user names, links, digits and punctuation are no
words. Texts with the same words are one group, and no group is in both parts. C is chosen by cross-validation within
the training part. The classes weigh alike: the reward is 0 where a text is as likely from either class, if there were
as many of both. The classifier that is measured is the one that is saved.
"""

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np
import skops.io
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline

from fairl_sk.datasets import load_preferences
from fairl_sk.metrics import bootstrap_interval
from fairl_sk.rewards import EstimatorReward

WORDS = r"(?<![@&./\w])(?!https?:)[a-z][a-z']+"  # not what follows @ (users), & (entities), . or / (links)
SIZES = {
    "smoke": {"limit": 1000, "C": [1, 10], "folds": 2, "n_resamples": 50},
    "small": {"limit": None, "C": [0.3, 1, 3, 10, 30, 100], "folds": 3, "n_resamples": 1000},
}


def expected_calibration_error(y_true, chance, sample_weight=None, n_bins=10):
    """Mean distance between the chance given and the share found, over `n_bins` bins of chance of equal width."""
    weight = np.ones(len(chance)) if sample_weight is None else sample_weight
    bins = np.minimum((chance * n_bins).astype(int), n_bins - 1)
    return np.abs(np.bincount(bins, weight * (y_true - chance))).sum() / weight.sum()


def train(texts, labels, groups, C, folds, seed):
    """The classifier, its C chosen for the AUC on held-out groups of these texts."""
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, min_df=2, token_pattern=WORDS),
        LogisticRegression(class_weight="balanced", max_iter=2000),
    )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    search = GridSearchCV(model, {"logisticregression__C": C}, scoring="roc_auc", cv=splitter)
    return search.fit(texts, labels, groups=groups).best_estimator_


def measure(model, texts, labels, groups, n_resamples, seed):
    """Interval of each measure; both classes weigh alike in those of the probabilities, as in training."""
    reward, chance = EstimatorReward(model)(texts), EstimatorReward(model, output="probability")(texts) + 0.5
    share = labels.mean()
    balanced = {"sample_weight": np.where(labels == 1, 0.5 / share, 0.5 / (1 - share))}
    calls = {
        "AUC": ("output_auc_score", reward, None),
        "F1, desirable": ("output_f1_score", reward, None),
        "Brier score": (brier_score_loss, chance, balanced),
        "calibration error": (expected_calibration_error, chance, balanced),
    }
    options = {"groups": groups, "n_resamples": n_resamples, "random_state": seed}
    return {
        name: bootstrap_interval(statistic, labels, values, metric_params=params, **options)
        for name, (statistic, values, params) in calls.items()
    }


def main(file, out, size="small", seed=0, force=False):
    """Train, measure, print the table, save; returns the intervals."""
    out = Path(out)
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists. Name another file, or pass --force to replace it.")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {out.parent} to write {out.name} into.")
    plan = SIZES[size]
    data = load_preferences(
        file, text_column="tweet", label_column="class", desirable=2, limit=plan["limit"], random_state=seed
    )
    tokens = TfidfVectorizer(token_pattern=WORDS).build_analyzer()
    groups = np.unique([" ".join(tokens(text)) for text in data.data], return_inverse=True)[1]
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    train_rows, test_rows = next(splitter.split(data.data, data.target, groups))
    texts, labels = data.data[train_rows], data.target[train_rows]
    model = train(texts, labels, groups[train_rows], plan["C"], plan["folds"], seed)
    held_out = data.data[test_rows], data.target[test_rows], groups[test_rows]
    scores = measure(model, *held_out, plan["n_resamples"], seed)
    out.write_bytes(skops.io.dumps(model, compression=zipfile.ZIP_DEFLATED))
    print(f"{len(texts)} texts to train on, {len(test_rows)} held out, {data.target.mean():.1%} desirable")
    print(f"C = {model[-1].C:g}; held out, with 95 % intervals (bootstrap over groups):")
    for name, interval in scores.items():
        print(f"{name:20}{interval.estimate:8.4f}   {interval.low:.4f} to {interval.high:.4f}")
    print(f"{out}: {json.dumps(EstimatorReward(model).describe())}")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="labelled texts, CSV with columns tweet and class")
    parser.add_argument("--out", required=True, help="where to write the fitted pipeline (.skops)")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace --out if it exists")
    main(**vars(parser.parse_args()))
