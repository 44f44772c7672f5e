"""Does the audit tell texts of another topic from texts of the same kind, and does it extrapolate accuracy well?

    python benchmarks/audit_beyond.py --size full

First table: deployments of new texts of the corpus, of another topic, and of both mixed. Second table: rewards are
fitted to n pairs, the accuracy at 2 n pairs is extrapolated, and compared with that of rewards fitted to 2 n pairs, on
many other pairs.
"""

import argparse
import sys
from functools import partial

import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV
from sklearn.utils import Bunch

from fairl_sk import MaxEntropyIRL, TextFeatures
from fairl_sk.audit.learning_curve import measure_learning_curve
from fairl_sk.audit.novelty import is_other_kind, measure_novelty, read_deployed
from fairl_sk.datasets import make_detox_preferences, make_preferences
from fairl_sk.metrics import bootstrap_interval, pair_accuracy

SIZES = {
    "smoke": {"seeds": 1, "n_pairs": 300, "n_deployed": 60, "curves": {"50 features": 200}, "n_others": 500},
    "full": {
        "seeds": 20,
        "n_pairs": 1000,
        "n_deployed": 200,
        "curves": {"20 features": 400, "100 features": 1500, "n-grams": 750},
        "n_others": 2000,
    },
}
MIXED = 0.3  # share of another topic
SUBJECTS = ("The central bank", "A sorting algorithm", "The goalkeeper", "An electron", "The court of appeal")
VERBS = ("raised", "compared", "missed", "absorbed", "overturned", "halved")
OBJECTS = ("the interest rate", "every key of the array", "a penalty in extra time", "a photon", "the verdict")
ENDS = ("in the third quarter", "within milliseconds", "before the final whistle", "at low temperature", "unanimously")


def other_topic(n_texts, seed):
    """Texts of finance, computing, sports, physics and law."""
    rng = np.random.default_rng(seed)
    sentences = [" ".join(rng.choice(part) for part in (SUBJECTS, VERBS, OBJECTS, ENDS)) for _ in range(2 * n_texts)]
    pairs = zip(sentences[::2], sentences[1::2], strict=True)
    return np.array([f"{first}. {second}." for first, second in pairs], dtype=object)


def measure_deployments(seed, n_pairs, n_deployed):
    """What the audit says of each deployment: a row each."""
    corpus = make_detox_preferences(n_pairs, random_state=seed)
    held = np.flatnonzero(np.random.default_rng(seed).random(corpus.groups.max() + 1)[corpus.groups] < 0.25)
    train = np.setdiff1d(np.arange(n_pairs), held)
    rows = Bunch(texts=corpus.data[held], groups=corpus.groups[held], index=held, sign=2 * corpus.target[held] - 1)
    rows |= {"rewards": corpus.reference_reward[held], "std": None}
    same = make_detox_preferences(n_deployed, random_state=1000 + seed).data[:, 0]
    other = other_topic(n_deployed, seed)
    n_other = round(MIXED * n_deployed)
    deployments = {"the same kind": same, "another topic": other}
    deployments[f"{MIXED:.0%} of another topic"] = np.concatenate([other[:n_other], same[n_other:]])
    interval = partial(bootstrap_interval, n_resamples=200, random_state=seed)
    for name, texts in deployments.items():
        found = measure_novelty(corpus.data[train], rows, interval, read_deployed(texts), _length, seed)["deploy"]
        yield {"deployment": name, "outside": found["outside"].estimate, "claimed": is_other_kind(found)}


def _length(texts):
    return np.array([float(len(text)) for text in texts]), None


def make_pairs(kind, n_pairs, n_others, seed):
    """Features, targets and groups of 2 n pairs to train, n / 3 held out, and others."""
    n_rows = 2 * n_pairs + n_pairs // 3 + n_others
    if kind != "n-grams":
        data = make_preferences(n_rows, int(kind.split()[0]), temperature=0.7, random_state=seed)
        return data.data, data.target, np.arange(n_rows)
    data = make_detox_preferences(n_rows, random_state=seed)
    features = TextFeatures(encoder=None, n_components=100, random_state=seed).fit(data.data[:n_pairs])
    return features.transform(data.data), data.target, data.groups


def measure_curve(kind, n_pairs, n_others, seed):
    """The extrapolation from n to 2 n pairs, and what others say: a row."""
    X, y, groups = make_pairs(kind, n_pairs, n_others, seed)
    now, twice = slice(n_pairs), slice(2 * n_pairs)
    held, others = slice(2 * n_pairs, -n_others), slice(-n_others, None)
    search = GridSearchCV(MaxEntropyIRL(random_state=seed), {"alpha": [1e-1, 1e-2, 1e-3]}, cv=3)
    learner = search.fit(X[now], y[now]).best_estimator_
    found = measure_learning_curve(learner, X[now], y[now], groups[now], X[held], y[held], groups[held], seed)
    larger = MaxEntropyIRL(alpha=learner.alpha, random_state=seed).fit(X[twice], y[twice])
    before, after = (pair_accuracy(y[others], each.decision_function(X[others])) for each in (learner, larger))
    return {
        "features": kind,
        "pairs": n_pairs,
        "accuracy": after,
        "gain": after - before,
        "extrapolated gain": found["gain"].estimate,
        "width": found["twice"].high - found["twice"].low,
        "width of the gain": found["gain"].high - found["gain"].low,
        "accuracy within": found["twice"].low <= after <= found["twice"].high,
        "gain within": found["gain"].low <= after - before <= found["gain"].high,
    }


def main(size="full"):
    """Print both tables; return their rows."""
    plan = SIZES[size]
    seeds = range(plan["seeds"])
    rows = [row for seed in seeds for row in measure_deployments(seed, plan["n_pairs"], plan["n_deployed"])]
    by_deployment = pd.DataFrame(rows).groupby("deployment", sort=False)
    found = by_deployment.agg(seeds=("claimed", "size"), outside=("outside", "mean"), claimed=("claimed", "sum"))
    print(found.round(3).reset_index().to_string(index=False), flush=True)
    curves = [
        measure_curve(kind, n_pairs, plan["n_others"], seed)
        for kind, n_pairs in plan["curves"].items()
        for seed in seeds
    ]
    counts = {"accuracy within": "sum", "gain within": "sum"}
    means = {name: "mean" for name in curves[0] if name not in ("features", "pairs", *counts)}
    table = pd.DataFrame(curves).groupby(["features", "pairs"], sort=False).agg(means | counts)
    print(f"\nin {len(seeds)} seeds:\n{table.round(3).reset_index().to_string(index=False)}")
    return rows, curves


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    sys.exit(not main(parser.parse_args().size))
