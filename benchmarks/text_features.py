"""What `TextFeatures` costs and adds to the encoder alone, and where the 0 of a reward is best put.

    python benchmarks/text_features.py --pairs paradetox.tsv --realign results/realign

It measures (1) seconds of the joined features against the encoder alone, on the same texts; (2) `FailureAwareIRL`,
alpha by cross-validation, on each kind of features; (3) F1 of the desirable outputs by ground-truth labels, with 0 as
`fit` sets it, by the known share of desirable training outputs, by 100 labels of training outputs, and at the best
threshold of the test.

Data: ParaDetox, normalized as in paper_data.py, a fixed quarter of the toxic comments held out; the package's corpus;
for (3) also the completions that realign.py wrote. Without files, the package's corpus takes their place.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from bench_encoder import take_turns
from paper_data import ALPHAS, read_completions, read_rewrites, split_groups
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import FeatureUnion

from fairl_sk import FailureAwareIRLCV, TextFeatures, TransformerEmbedder, calibrate_offset
from fairl_sk.datasets import make_detox_preferences
from fairl_sk.metrics import output_auc_score, output_f1_score, pair_accuracy, pair_log_loss_scorer, starc_distance
from fairl_sk.pairs import stack_outputs

SIZES = {
    "smoke": {"texts": 40, "repeats": 1, "seeds": 1, "train": 80, "test": 20, "components": 10, "labels": 100},
    "small": {"texts": 10_000, "repeats": 2, "seeds": 5, "train": 3000, "test": 1000, "components": 200, "labels": 100},
}
FEATURES = {
    "MiniLM": {"words_weight": 0, "characters_weight": 0},
    "words": {"encoder": None, "characters_weight": 0},
    "characters": {"encoder": None, "words_weight": 0},
    "words + characters": {"encoder": None},
    "MiniLM + words + characters": {},
    "the same, hashing": {"hashing": True},
    "MiniLM with layer 3": {"encoder": [{}, {"layer": 3}], "words_weight": 0, "characters_weight": 0},
    "all three with layer 3": {"encoder": [{}, {"layer": 3}]},
    "all three with maximum": {"encoder": [{}, {"pooling": "max"}]},
}
N_DRAWS = 20  # of the labeled outputs, whose scores are averaged


def measure_cost(texts, plan):
    """Seconds of the encoder alone and of the joined features, and their ratio."""
    encoder = TransformerEmbedder(normalize=True)
    encoder.transform(texts[:64])
    joined = TextFeatures(n_components=plan["components"], random_state=0)
    calls = {"encoder": lambda: encoder.transform(texts), "joined": lambda: joined.fit_transform(texts)}
    seconds, _ = take_turns(calls, plan["repeats"])
    return {"n_texts": len(texts), "seconds": seconds, "ratio": min(seconds["joined"]) / min(seconds["encoder"])}


def read_samples(pairs, realign, plan):
    """By name, a function of the seed: pairs, target, groups, R* or None, rows to train and rows to test on."""
    size = 2 * (plan["train"] + plan["test"])
    sides, target, groups = read_rewrites(pairs, None if pairs else size)
    kept, held_out = split_groups(groups, len(groups), len(groups), np.random.default_rng(0))

    def rewrites(seed):
        rng = np.random.default_rng(seed)
        return sides, target, groups, None, rng.permutation(kept)[: plan["train"]], held_out[: plan["test"]]

    def corpus(seed):
        data = make_detox_preferences(size, random_state=seed)
        rows = split_groups(data.groups, plan["train"], plan["test"], np.random.default_rng(seed))
        return data.data, data.target, data.groups, data.reference_reward, *rows

    completions = read_completions(realign, size)

    def aligned(seed):
        return *completions, *split_groups(completions[2], plan["train"], plan["test"], np.random.default_rng(seed))

    return {"ParaDetox": rewrites, "package's corpus": corpus, "completions": aligned}


def learn(sample, seed, store, **params):
    """A fitted reward, and rewards of the training and the test outputs, (n_pairs, 2)."""
    X, y, groups, _, train, test = sample
    encoder = params.get("encoder", [{}])
    if encoder:  # one embedder, or several side by side
        embedders = [TransformerEmbedder(normalize=True, store=store, **settings) for settings in encoder]
        params["encoder"] = FeatureUnion([(str(number), embedder) for number, embedder in enumerate(embedders)])
    features = TextFeatures(random_state=seed, **params)
    X_train, X_test = features.fit_transform(X[train]), features.transform(X[test])
    learner = FailureAwareIRLCV(alpha=ALPHAS, cv=GroupKFold(3), scoring=pair_log_loss_scorer, random_state=seed)
    learner.fit(X_train, y[train], groups=groups[train])
    return learner, stack_outputs(X_train), stack_outputs(X_test)


def score_features(sample, seed, store, params):
    """Measures of one kind of features."""
    learner, _, outputs = learn(sample, seed, store, **params)
    _, y, _, truth, _, test = sample
    rewards = learner.decision_function(outputs).reshape(-1, 2)
    scores = {
        "pair accuracy": pair_accuracy(y[test], rewards[:, 0] - rewards[:, 1]),
        "output F1": output_f1_score(y[test], rewards),
        "output AUC": output_auc_score(y[test], rewards),
    }
    if truth is not None:
        labels = (truth[test] > 0).astype(int)
        scores["label AUC"] = output_auc_score(None, rewards, output_labels=labels)
        scores["STARC"] = starc_distance(rewards.ravel(), truth[test].ravel())
    return scores


def score_offsets(sample, seed, store, plan):
    """Label F1 by the rule that sets 0."""
    learner, known, outputs = learn(sample, seed, store, n_components=plan["components"])
    truth, train, test = sample[3:]
    labels, labels_known = (truth[test] > 0).astype(int).ravel(), (truth[train] > 0).astype(int).ravel()

    def f1(estimator):
        return output_f1_score(labels, estimator.decision_function(outputs))

    few = []
    for draw in range(N_DRAWS):
        rows = np.random.default_rng([seed, draw]).permutation(len(known))[: plan["labels"]]
        few.append(f1(calibrate_offset(learner, known[rows], labels_known[rows])))
    precision, recall, _ = precision_recall_curve(labels, learner.decision_function(outputs))
    return {
        "as fit sets it": f1(learner),
        "known share": f1(calibrate_offset(learner, known, prior=labels_known.mean())),
        f"{plan['labels']} labels": float(np.mean(few)),
        "best": float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()),
    }


def average(runs):
    """Mean (standard deviation) over the seeds of each measure."""
    return {name: f"{np.mean([r[name] for r in runs]):.3f} ({np.std([r[name] for r in runs]):.3f})" for name in runs[0]}


def main(pairs=None, realign=None, size="small", store=None, out=None):
    """Run the benchmark, print its tables, and return their scores."""
    plan = SIZES[size]
    warnings.filterwarnings("ignore", message="The block of .* has|Found pooling='max'")
    samples, results = read_samples(pairs, realign, plan), {"features": {}, "offset": {}}
    texts = stack_outputs(samples["ParaDetox"](0)[0])
    results["cost"] = measure_cost(np.unique(texts)[: plan["texts"]], plan)
    best = {name: f"{min(seconds):.1f} s" for name, seconds in results["cost"]["seconds"].items()}
    print(
        f"cost of {results['cost']['n_texts']} texts: {best}, ratio {results['cost']['ratio']:.2f} (aim: at most 1.3)"
    )
    for data, draw in samples.items():
        seeds = range(plan["seeds"])
        if data != "completions":
            found = results["features"][data] = {
                name: [
                    score_features(draw(seed), seed, store, {"n_components": plan["components"]} | params)
                    for seed in seeds
                ]
                for name, params in FEATURES.items()
            }
            shown = pd.DataFrame({name: average(runs) for name, runs in found.items()}).T
            print(f"\n{data}, {plan['seeds']} seeds, mean (standard deviation)\n{shown.to_string()}", flush=True)
        if data != "ParaDetox":
            results["offset"][data] = [score_offsets(draw(seed), seed, store, plan) for seed in seeds]
    shown = pd.DataFrame({name: average(runs) for name, runs in results["offset"].items()}).T
    print(f"\nlabel F1 by where 0 is, {plan['seeds']} seeds, mean (standard deviation)\n{shown.to_string()}")
    if out:
        Path(out).write_text(json.dumps(results, indent=2), encoding="utf-8")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", help="ParaDetox as TSV")
    parser.add_argument("--realign", help="folder of realign.py")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--store", help="folder of a store of embeddings; the cost is measured without it")
    parser.add_argument("--out", help="write the scores as JSON")
    main(**vars(parser.parse_args()))
