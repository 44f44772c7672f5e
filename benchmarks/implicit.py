"""How much of its reward do two language models hold? Alignments, their implicit rewards, and what is learned of them.

    python benchmarks/implicit.py --pairs paradetox.tsv --labelled davidson.csv --out implicit

1. The base model and the prompts are those of realign.py, made in ``--out`` (or found there).
2. policies: the base model is aligned by RLOO, GRPO and DPO, several seeds each, with a known reward. Three rewards are
   used: the classifier of words of realign.py ("words"), a published one (``pip install alt-profanity-check``), and a
   logistic regression on MiniLM ("encoder"). One run is kept after several numbers of steps.
3. pairs: the base and each aligned model complete the same prompts, 20 tokens each; both models score both outputs.
4. learners: a quarter of the prompts is held out. Every learner but the first is tuned on the other prompts by
   cross-validation. Only those of "labels" see a label.
5. transfer: rewards that are functions of features are measured on texts that people labelled, of other corpora.

Runs of seed 0 of realign.py served for development; the seeds here are others. Each stage keeps what it has finished:
an interrupted run goes on where it was. ``--policies 3`` makes and measures the first three policies only. Without
files the package's own corpus is used, and nothing is transferred.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from implicit_policies import Policy, embedder, make_policy, make_truths
from realign import SIZES as REALIGN_SIZES
from realign import Study, prepare_texts, quiet, slug, train_base, write_scale
from sklearn.metrics import precision_recall_curve, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from fairl_sk import DistilledIRL, FailureAwareIRLCV, MaxEntropyIRLCV, MaxMarginIRL, TextFeatures
from fairl_sk.datasets import load_preferences
from fairl_sk.generate import generate_preference_pairs
from fairl_sk.implicit import DistilledReward, OwnStates
from fairl_sk.implicit.distilled import SHARE
from fairl_sk.learning.distilled import fit_to_labels
from fairl_sk.learning.offset import separating_threshold
from fairl_sk.metrics import output_f1_score, pair_accuracy, pair_log_loss_scorer, starc_distance
from fairl_sk.pairs import stack_outputs
from fairl_sk.rewards import ImplicitReward

ALPHAS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
LABELS = (50, 100, 300, 1000)
MEASURES = ["pair accuracy", "F1", "best F1", "AUC", "STARC"]
FEATURES = ("MiniLM", "joined", "own states")
OF_SEVERAL = ("MiniLM", "joined")  # where several models are compared


@dataclass(frozen=True)
class Plan:
    """What is made and measured."""

    policies: tuple
    size: str  # of realign.py
    steps: int  # after which alignments with several seeds are compared
    folds: int = 4
    null_outputs: int = 1000
    other_texts: int = 4000  # of each other corpus
    truth_texts: int = 6000  # that train the truth on an encoder


SIZES = {
    "smoke": Plan(
        (Policy(steps=(2, 4)), Policy("dpo", steps=(4,)), Policy("dpo", 2, steps=(4,))), "smoke", 4, 2, 40, 100, 200
    ),
    "small": Plan(
        (
            Policy("rloo", 1, (30, 75, 150, 400)),
            *(Policy("dpo", seed) for seed in (1, 2, 3)),
            Policy("grpo", 1),
            Policy("rloo", 2),
            Policy("grpo", 2),
            Policy("rloo", 3),
            Policy("grpo", 3),
            *(Policy("rloo", 1, truth=truth) for truth in ("published", "encoder")),
            *(Policy("rloo", 1, beta=beta) for beta in (0.01, 0.5)),
        ),
        "small",
        150,
    ),
}


# ---------------------------------------------------------------------------------------------- pairs and signals


def aligned_folder(study, policy, step):
    return study.path(f"policies/{policy.name}/step-{step}")


def read_pairs(path):
    return pd.read_json(path, lines=True)[["prompt", "chosen", "rejected"]]


def make_signals(study, plan, policy, step, truths):
    """Pairs of both models, their implicit rewards, and the ground truths; the figures of the alignment itself."""
    name = f"{policy.name}-{step}"
    aligned, base = aligned_folder(study, policy, step), study.path("base")
    texts, n_tokens = study.read_json("texts.json"), REALIGN_SIZES[plan.size].n_tokens

    def write(path):
        pairs = study.path(f"pairs/{name}.jsonl")
        pairs.parent.mkdir(exist_ok=True)
        options = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens, "random_state": policy.seed, "path": pairs}
        generate_preference_pairs(str(base), str(aligned), texts["pairs"], **options)
        table = read_pairs(pairs)
        reward = ImplicitReward(aligned, base, end_token=False, store=study.path("store"))  # outputs were cut off
        values = reward.output_rewards(table)
        outputs = table[["chosen", "rejected"]].to_numpy()
        known = {key: truth.decision_function(outputs.ravel()).reshape(-1, 2) for key, truth in truths.items()}
        of_base = table[["prompt", "rejected"]].rename(columns={"rejected": "completion"})[: plan.null_outputs]
        null = ImplicitReward(aligned, base, end_token=False).null(of_base)
        rounded = ImplicitReward(aligned, base, end_token=False, dtype="bfloat16").noise_floor(of_base)
        truth = known[policy.truth]
        kl = reward.kl(table)
        figures = {
            "undesirable, base": float((truth[:, 1] <= 0).mean()),
            "undesirable, aligned": float((truth[:, 0] <= 0).mean()),
            "KL": float(kl.aligned[0]),
            "spread": float(null.spread[0]),
            "null": float(np.mean(null.null_spread)),  # of five draws
            "null, low": float(np.min(null.null_spread)),
            "null, high": float(np.max(null.null_spread)),
            "bfloat16": rounded,
            "correlation": float(np.corrcoef(values[:, 1], truth[:, 1])[0, 1]),
            "null correlation": float(
                np.mean([np.corrcoef(draw[0], truth[: plan.null_outputs, 1])[0, 1] for draw in null.null_rewards])
            ),
        }
        with open(path, "wb") as file:
            np.savez(
                file, values=values, figures=json.dumps(figures), **{f"truth {key}": v for key, v in known.items()}
            )

    return study.make(f"signals/{name}.npz", write)


def read_signals(path):
    with np.load(path) as found:
        truths = {key.removeprefix("truth "): found[key] for key in found.files if key.startswith("truth ")}
        return found["values"], truths, json.loads(str(found["figures"]))


# -------------------------------------------------------------------------------------------------------- learners


class Sample(NamedTuple):
    """Features and signals of the pairs of one policy, split by prompts."""

    X_train: np.ndarray  # (n_train, 2, n_features)
    X_test: np.ndarray
    values_train: np.ndarray  # (n_train, 2)
    values_test: np.ndarray
    labels_train: np.ndarray  # (n_train, 2), 1 = desirable by the policy's own truth
    groups: np.ndarray  # (n_train,)
    others: dict  # texts of other corpora as features, by name


def split_prompts(table, seed):
    """Rows to train on, and the held-out quarter of the prompts."""
    groups = np.unique(table["prompt"], return_inverse=True)[1]
    fold = np.random.default_rng(seed).permutation(groups.max() + 1)[groups] % 4
    return np.flatnonzero(fold > 0), np.flatnonzero(fold == 0), groups


def features_of(study, plan, policy, step, name, table, train, groups, others):
    """Features of all pairs, and of the texts of other corpora; own states have none of these."""
    outputs = table[["chosen", "rejected"]].to_numpy()
    if name == "own states":
        return own_states(study, plan, policy, step, table, train, groups), {}
    model = embedder(study) if name == "MiniLM" else TextFeatures(store=study.path("store"), random_state=0)
    model.fit(outputs[train])
    return model.transform(outputs), {key: model.transform(texts) for key, texts in others.items()}


def own_states(study, plan, policy, step, table, train, groups):
    """The states of the layer with the least loss in cross-validation over training pairs, of mean squared length 1."""
    folder = aligned_folder(study, policy, step)
    n_layers = REALIGN_SIZES[plan.size].layers
    states = OwnStates(folder, layers=range(n_layers + 1), end_token=False).transform(table)
    states = states.reshape(*states.shape[:2], n_layers + 1, -1)
    best = None
    for layer in range(n_layers + 1):
        X = states[:, :, layer] - states[train, :, layer].mean((0, 1))
        X = X / np.sqrt(np.square(X[train]).sum(-1).mean())
        search = tuned(MaxEntropyIRLCV, plan).fit(*in_random_order(X[train]), groups=groups[train])
        if best is None or search.best_score_ > best[0]:
            best = search.best_score_, X
    return best[1]


def in_random_order(X):
    """Pairs, some of which have changed sides, and their targets: 1 = the aligned model's output stands first."""
    first = np.random.default_rng(0).integers(2, size=len(X))
    return np.where(first[:, None, None] == 1, X, X[:, ::-1]), first


def tuned(search, plan, **grid):
    """A search over alpha by the log loss of held-out prompts."""
    return search(alpha=ALPHAS, scoring=pair_log_loss_scorer, cv=GroupKFold(plan.folds), random_state=0, **grid)


def rewards_of_learners(sample, plan):
    """Held-out rewards (n_test, 2) by learner, and of those that are functions of features also rewards of others."""
    X, values, groups = sample.X_train, sample.values_train, sample.groups
    sides, order = in_random_order(X)
    learners = {
        "MaxMarginIRL, untuned": MaxMarginIRL(random_state=0).fit(sides, order),
        "MaxEntropyIRL": tuned(MaxEntropyIRLCV, plan).fit(sides, order, groups=groups),
        "FailureAwareIRL": tuned(FailureAwareIRLCV, plan).fit(sides, order, groups=groups),
        "FailureAwareIRL, implicit": fit_by_implicit_failures(sides, order, values, groups, plan),
    }
    regression = DistilledIRL(cv=plan.folds)
    learners["distilled"] = regression.fit(X, implicit_rewards=values, groups=groups)

    def rewards(learner, outputs):
        return learner.decision_function(outputs.reshape(-1, X.shape[-1])).reshape(outputs.shape[:-1])

    found = {name: (rewards(model, sample.X_train), rewards(model, sample.X_test)) for name, model in learners.items()}
    implicit = values, sample.values_test
    found["implicit reward"] = implicit
    found["with the residual"] = [d + SHARE * (v - d) for d, v in zip(found["distilled"], implicit, strict=True)]
    for name in ("distilled", "implicit reward", "with the residual"):
        train, test = found[name]
        preferred = np.broadcast_to([True, False], train.shape)
        found[name] = train, test - separating_threshold(train.ravel(), preferred.ravel(), np.ones(train.size))
    held_out = {name: test for name, (_, test) in found.items()}
    others = {
        name: {key: rewards(learners[name], texts) for key, texts in sample.others.items()}
        for name in ("MaxEntropyIRL", "distilled")
    }
    columns = [np.stack([d, v], -1) for d, v in zip(found["distilled"], implicit, strict=True)]
    return held_out | rewards_by_labels(sample, *columns), others


def fit_by_implicit_failures(sides, order, values, groups, plan):
    """Failures are small margins that the implicit rewards contradict."""
    values = np.where(order[:, None] == 1, values, values[:, ::-1])
    search = tuned(FailureAwareIRLCV, plan, failures="implicit")
    return search.fit(sides, order, implicit_rewards=values, groups=groups)


def rewards_by_labels(sample, signals_train, signals_test):
    """Rewards by some labelled outputs: of features alone, and beside the distilled and the implicit reward."""
    X_train, X_test = (stack_outputs(X) for X in (sample.X_train, sample.X_test))
    signals = [stack_outputs(both) for both in (signals_train, signals_test)]
    order, found = np.random.default_rng(0).permutation(len(X_train)), {}
    for n_labels in (n for n in LABELS if n < len(order)):
        labels = np.full(len(X_train), np.nan)
        labels[order[:n_labels]] = sample.labels_train.ravel()[order[:n_labels]]
        for name, (train, test) in {
            "labels": [some[:, :0] for some in signals],
            "labels and implicit": signals,
        }.items():
            groups = np.repeat(sample.groups, 2)
            fitted = fit_to_labels(X_train, train, labels, np.ones(len(labels)), groups, cv=4)
            rewards = X_test @ fitted[0] + test @ fitted[1] + fitted[2]
            found[f"{n_labels} {name}"] = rewards.reshape(-1, 2)
    return found


def measure(rewards, truth, groups):
    """The measures of held-out rewards (n_test, 2) against a ground truth of the same shape."""
    labels = (truth > 0).astype(int)
    precision, recall, _ = precision_recall_curve(labels.ravel(), rewards.ravel())
    return {
        "pair accuracy": pair_accuracy(np.ones(len(rewards), dtype=int), rewards[:, 0] - rewards[:, 1]),
        "F1": output_f1_score(None, rewards, output_labels=labels),
        "best F1": float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))),
        "AUC": roc_auc_score(labels.ravel(), rewards.ravel()),
        "STARC": starc_distance(rewards, truth, groups=groups),
    }


def other_texts(plan, pairs, labelled):
    """Texts of other corpora and their labels by people, by name; none beside the package's own corpus."""
    if pairs is None:
        return {}
    single = load_preferences(labelled, text_column="tweet", label_column="class", desirable=2)
    paired = load_preferences(pairs)
    labels = np.stack([paired.target, 1 - paired.target], axis=1).ravel()
    corpora = {"Davidson": (single.data, single.target), "ParaDetox": (paired.data.ravel(), labels)}
    rows = {name: np.random.default_rng(0).permutation(len(texts)) for name, (texts, _) in corpora.items()}
    return {
        name: (texts[rows[name][: plan.other_texts]], known[rows[name][: plan.other_texts]])
        for name, (texts, known) in corpora.items()
    }


def make_results(study, plan, policy, step, features, files):
    """Fit and measure all learners on one kind of features; rows of the table."""
    torch.set_num_threads(1)
    table = read_pairs(study.path(f"pairs/{policy.name}-{step}.jsonl"))
    values, truths, _ = read_signals(study.path(f"signals/{policy.name}-{step}.npz"))
    train, test, groups = split_prompts(table, policy.seed)
    others = other_texts(plan, *files)
    texts = {name: some for name, (some, _) in others.items()}
    X, X_others = features_of(study, plan, policy, step, features, table, train, groups, texts)
    labels = (truths[policy.truth] > 0).astype(int)
    sample = Sample(X[train], X[test], values[train], values[test], labels[train], groups[train], X_others)
    found, found_others = rewards_of_learners(sample, plan)
    rows = []
    for learner, rewards in found.items():
        row = {"policy": policy.name, "step": step, "features": features, "learner": learner}
        measures = {name: measure(rewards, truth[test], groups[test]) for name, truth in truths.items()}
        transfer = {
            name: roc_auc_score(others[name][1], values) for name, values in found_others.get(learner, {}).items()
        }
        rows.append(row | measures.pop(policy.truth) | {"other truths": measures, "transfer": transfer})
    return rows


# ---------------------------------------------------------------------------------------------------------- tables


def print_tables(study, plan, done):
    """All results so far; ``done`` are the policies with their steps."""
    alignments = pd.DataFrame([row_of_alignment(study, policy, step) for policy, step in done])
    show("Alignments", alignments.set_index(["policy", "step"]))
    paths = sorted(study.path("results").glob("*.json"))
    rows = [row for path in paths if not path.name.startswith("several") for row in json.loads(path.read_text())]
    results = pd.json_normalize(rows)
    results["alignment"] = results["policy"].str.replace(r"-seed-\d+$", "", regex=True)
    by = ["alignment", "step", "features", "learner"]
    with_labels = results["learner"].str.contains("labels")
    by_labels, without = (results[chosen].groupby(by, sort=False) for chosen in (with_labels, ~with_labels))
    means = without[MEASURES].mean()
    show("Held-out prompts, no label; means over seeds", means.assign(seeds=without.size()))
    show("STARC against MaxEntropyIRL on the same features, in percent", changes(means["STARC"]))
    show("How many labels is it worth? Means over seeds", by_labels[MEASURES].mean())
    if several := [row for path in paths if path.name.startswith("several") for row in json.loads(path.read_text())]:
        named = ["alignment", "features", "models", "share"]
        show("Several models: other seeds of one alignment", pd.DataFrame(several).set_index(named))
    if transfer := [name for name in results if name.startswith("transfer.")]:
        show("AUC on other texts, by people's labels", without[transfer].mean().dropna())
    others = sorted(name for name in results if name.startswith("other truths.") and name.endswith((".AUC", ".STARC")))
    show("By the truths that took no part in the alignment", without[others].mean())


def row_of_alignment(study, policy, step):
    figures = read_signals(study.path(f"signals/{policy.name}-{step}.npz"))[2]
    return {"policy": policy.name, "step": step} | figures | {"times the null": figures["spread"] / figures["null"]}


def groups_of_seeds(plan, policies):
    """The policies of each alignment that was made with several seeds."""
    groups = {}
    for policy in policies:
        if plan.steps in policy.steps:
            groups.setdefault(policy._replace(seed=0, steps=()), []).append(policy)
    return [seeds for seeds in groups.values() if len(seeds) > 1]


def changes(starc):
    """By how many percent each learner's STARC differs from that of MaxEntropyIRL."""
    table = starc.unstack("learner", sort=False)
    return (100 * (table.div(table["MaxEntropyIRL"], axis=0) - 1)).drop(columns="MaxEntropyIRL")


def show(title, table):
    digits = table.round(1 if "percent" in title else 3)
    print(f"\n{title}\n\n{digits.to_string()}", flush=True)


def main(pairs=None, labelled=None, out="implicit", size="small", policies=None, jobs=None):
    """Run all stages, and print the tables."""
    start = time.monotonic()
    quiet()
    plan = SIZES[size]
    realign = REALIGN_SIZES[plan.size]
    study, files = Study(out), (pairs, labelled)
    prepare_texts(study, realign, pairs, labelled)
    texts = study.read_json("texts.json")
    study.make("base", lambda path: train_base(texts["train"], realign, path))
    study.make("scale.json", lambda path: write_scale(study, realign, path))
    truths = make_truths(study, plan, files)
    if missing := {policy.truth for policy in plan.policies[:policies]} - set(truths):
        remedy = "pip install -c constraints.txt alt-profanity-check"
        raise ImportError(f"Found no truth {', '.join(missing)}. Expected it to be installed: {remedy}.")
    jobs = jobs or (1 if size == "smoke" else os.cpu_count() or 1)
    n_threads = 1 if jobs > 1 else torch.get_num_threads()
    chosen = plan.policies[:policies]
    parallel = joblib.Parallel(jobs)
    parallel(joblib.delayed(make_policy)(out, plan, policy, files, n_threads) for policy in chosen)
    done = [(policy, step) for policy in chosen for step in policy.steps]
    for policy, step in done:
        make_signals(study, plan, policy, step, truths)
    several = groups_of_seeds(plan, chosen)
    tasks = [
        (policy, step, features)
        for policy, step in done
        for features in FEATURES[: n_features_of(plan, policy, step, several)]
    ]
    parallel(joblib.delayed(write_results)(out, plan, *task, files) for task in tasks)
    parallel(joblib.delayed(write_several)(out, plan, seeds, name) for seeds in several for name in OF_SEVERAL)
    print_tables(study, plan, done)
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes; results in {study.folder}")


def n_features_of(plan, policy, step, several):
    """How many kinds of features are measured: all where seeds are compared, one beside other steps."""
    if step != plan.steps:
        return 1
    return 3 if any(policy in seeds for seeds in several) else 2


def write_results(folder, plan, policy, step, features, files):
    study = Study(folder)
    rows = f"results/{policy.name}-{step}-{slug(features)}.json"
    if not study.path(rows).exists():
        study.write_json(rows, make_results(study, plan, policy, step, features, files))


def write_several(folder, plan, policies, features):
    """Rewards by several models of one alignment, on the pairs of the first, by share of the residual."""
    torch.set_num_threads(1)
    study, first, step = Study(folder), policies[0], plan.steps
    path = f"results/several-{first.name}-{slug(features)}.json"
    if study.path(path).exists():
        return
    table = read_pairs(study.path(f"pairs/{first.name}-{step}.jsonl"))
    _, truths, _ = read_signals(study.path(f"signals/{first.name}-{step}.npz"))
    train, test, groups = split_prompts(table, first.seed)
    encoder = embedder(study) if features == "MiniLM" else TextFeatures(store=study.path("store"), random_state=0)
    outputs = FunctionTransformer(lambda table: table[["chosen", "rejected"]].to_numpy())
    found = {}
    for models in (policies[:1], policies):
        aligned = [aligned_folder(study, policy, step) for policy in models]
        reward = ImplicitReward(aligned, study.path("base"), end_token=False, store=study.path("store"))
        for share in (0, SHARE, 0.5, 1):
            learned = DistilledReward(
                reward, make_pipeline(outputs, encoder), share=share, learner=DistilledIRL(cv=plan.folds)
            ).fit(table.iloc[train], groups=groups[train])
            rewards = learned.output_rewards(table.iloc[test])
            row = {"models": len(models), "share": share}
            found[len(models), share] = row | measure(rewards, truths[first.truth][test], groups[test])
    rows = [{"alignment": first.name, "features": features} | row for row in found.values()]
    study.write_json(path, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", help="toxic comments and their rewrites (paradetox.tsv)")
    parser.add_argument("--labelled", help="labelled texts (davidson.csv)")
    parser.add_argument("--out", default="implicit", help="folder of the run")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--policies", type=int, help="make and measure so many of the policies")
    parser.add_argument("--jobs", type=int, help="policies and fits at once, one core each")
    main(**vars(parser.parse_args()))
