"""The data of the evidence benchmark: how large it is, and what one seed sees of each regime. For paper.py.

a. synthetic: `make_preferences`, the reward linear or a ReLU network, some preferences flipped.
b. Boltzmann: of labelled texts, the chosen one is drawn with weight exp(R*/beta), the rejected one uniformly.
c. ParaDetox: rewrites chosen over toxic comments. Each reward is also measured on the texts of b (transfer).
d. Base and aligned: completions of a language model before and after alignment, from the folder that realign.py wrote.
e. TruthfulQA: a correct answer over an incorrect one to the same question. Categories are held out, not questions.
f. Long-form answers: what people preferred of four answers to a question. Of the first answer, people marked errors.

Outputs are measured against several truths. In b, c and d the first is the log-odds of a classifier of words, trained
on the labelled file (``train`` of toxicity_reference.py; in d the one that the model was aligned with). The second is
what people said of the text (b, transfer), or a classifier on the encoder's embeddings (c, d), trained on people's
labels of texts that are not in b, c or d. In f the truths are the errors: minus the number of each kind, plus 1/2.

Without files, b, c and d use the package's own corpus, e and f are left out. Texts of b and c are normalized:
lower-case words, no links and no user names. No group (prompt, toxic comment, category, in b no text) is on both sides
of a split. The n-grams of `TextFeatures` are fitted on the training pairs.
"""

import gzip
import html
import itertools
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from realign import load_reward
from sklearn.linear_model import LogisticRegressionCV
from threadpoolctl import threadpool_limits
from toxicity_reference import SIZES as REFERENCE_SIZES
from toxicity_reference import train as train_reference

from fairl_sk import TextFeatures, TransformerEmbedder
from fairl_sk.datasets import load_preferences, make_detox_preferences, make_preferences
from fairl_sk.messages import join_prompt
from fairl_sk.pairs import stack_outputs
from fairl_sk.rewards import EstimatorReward

REGIMES = {
    "a": "Synthetic features",
    "b": "Boltzmann",
    "c": "ParaDetox",
    "d": "Completions",
    "e": "TruthfulQA",
    "f": "Long-form answers",
}
TRUTHS = {  # what outputs are measured against, by name; the first one of a, b, c and d has none
    "a": ("",),
    "b": ("", "second truth"),
    "c": ("", "second truth"),
    "d": ("", "second truth"),
    "e": (),
    "f": ("irrelevant", "wrong", "incomplete"),
}
FILE_OF = {"e": "truthful", "f": "answers"}  # regimes that need a file
FEATURES = {  # parameters of TextFeatures
    "MiniLM": {"words_weight": 0, "characters_weight": 0},
    "MiniLM + n-grams": {},
}
ALPHAS = (1.0, 0.2, 0.05, 0.01, 2e-3, 5e-4, 1e-4)  # what cross-validation chooses from
ERRORS = {  # of long-form answers: name in the file -> kind
    "Irrelevant": "irrelevant",
    "Redundant": "irrelevant",
    "Incoherent": "irrelevant",
    "Wrong-Grounding": "wrong",
    "Unverifiable": "wrong",
}


@dataclass(frozen=True)
class Plan:
    """How large everything is."""

    seeds: int
    n_train: int  # pairs of b, d, e and f
    n_rewrites: int  # pairs of c
    n_test: int
    n_labelled: int | None  # texts of b
    n_records: int | None  # toxic comments of c, with all rewrites
    n_completions: int  # pairs of d
    n_synthetic: int  # features of a
    synthetic: tuple  # (shape of the reward, pairs, noise) of the cells of a
    betas: tuple
    n_components: int  # of TextFeatures
    reference: str
    alphas: tuple = (*ALPHAS, 2e-5)
    folds: int = 3
    rounds: int | None = None  # of the curriculum; None: as the learner has it
    first_seed: int = 0


SIZES = {
    "smoke": Plan(
        seeds=2,
        n_train=80,
        n_rewrites=80,
        n_test=60,
        n_labelled=240,
        n_records=200,
        n_completions=200,
        n_synthetic=6,
        synthetic=(("linear", 80, 0.3),),
        betas=(3,),
        n_components=10,
        reference="smoke",
        alphas=(1e-1, 1e-3),
        folds=2,
        rounds=5,
    ),
    "small": Plan(
        seeds=4,
        n_train=2000,
        n_rewrites=5000,
        n_test=1000,
        n_labelled=6000,
        n_records=None,
        n_completions=4000,
        n_synthetic=30,
        synthetic=(("linear", 2000, 0.0), ("linear", 2000, 0.2), ("ReLU", 2000, 0.2)),
        betas=(1, 8),
        n_components=200,
        reference="small",
    ),
}


class Sample(NamedTuple):
    """What one seed sees of one cell. Outputs are texts first, then features."""

    X_train: np.ndarray  # (n_train, 2), of features (n_train, 2, n_features)
    y_train: np.ndarray  # (n_train,), 1 = the first is preferred
    groups: np.ndarray  # (n_train,)
    labels_train: np.ndarray | None  # (n_train, 2), 1 = desirable; for the learners that are told labels
    X_test: np.ndarray
    y_test: np.ndarray
    outputs: np.ndarray  # (n_outputs,), held out, to compare with the truths
    truths: np.ndarray  # (n_outputs, n_truths)
    transfer: tuple | None = None  # outputs of another corpus, and the truths of them


def cells_of(regime, plan):
    """Names of the settings of a regime."""
    if regime == "a":
        return [f"{shape}, {n_pairs} pairs, noise {noise:g}" for shape, n_pairs, noise in plan.synthetic]
    return [f"beta {beta}" for beta in plan.betas] if regime == "b" else [REGIMES[regime]]


# ---------------------------------------------------------------------------------------------- files to corpora


def normalize(text):
    """Lower-case words and nothing else: no links, user names, digits or marks."""
    text = re.sub(r"https?://\S+|@\w+|\brt\b", " ", html.unescape(text).lower())
    return " ".join(re.findall(r"[a-z']*[a-z][a-z']*", text))


def read_labelled(path, limit):
    """Distinct texts (n_texts,), labels (n_texts,), 1 = desirable, and rows of ``limit`` of them, drawn at random."""
    if path is None:
        corpus = make_detox_preferences(2 * limit if limit else 1000, random_state=0)
        texts, labels = stack_outputs(corpus.data), corpus.output_labels.ravel()
    else:
        data = load_preferences(path, text_column="tweet", label_column="class", desirable=2)
        texts, labels = data.data, data.target
    texts = np.array([normalize(text) for text in texts], dtype=object)
    distinct, first = np.unique(texts, return_index=True)
    known = first[distinct != ""]
    return texts[known], labels[known], np.sort(np.random.default_rng(0).permutation(len(known))[:limit])


def read_rewrites(path, limit):
    """Pairs (n_pairs, 2), target and groups of ``limit`` comments, drawn at random; without equal and empty texts."""
    if path is None:
        data = make_detox_preferences(limit or 4000, kinds={"T->NT": 0.9, "T->T": 0.1}, random_state=1)
    else:
        data = load_preferences(path)
    names = np.unique(data.groups)
    kept = np.isin(data.groups, np.random.default_rng(0).permutation(names)[:limit])
    pairs = np.array([[normalize(text) for text in pair] for pair in data.data], dtype=object)
    kept &= (pairs[:, 0] != pairs[:, 1]) & (pairs != "").all(axis=1)
    return pairs[kept], data.target[kept], data.groups[kept]


def read_completions(folder, limit):
    """Pairs (n_pairs, 2), target, groups and R* (n_pairs, 2)."""
    if folder is None:
        data = make_detox_preferences(limit, random_state=2)
        return data.data, data.target, data.groups, data.reference_reward
    data = load_preferences(Path(folder) / "pairs.jsonl", random_state=0)
    rows = np.random.default_rng(0).permutation(len(data.data))[:limit]
    pairs = data.data[rows]
    truth = EstimatorReward(load_reward(Path(folder) / "reference.skops"))(stack_outputs(pairs)).reshape(-1, 2)
    return pairs, data.target[rows], data.groups[rows], truth


def read_truthful(path, n_pairs=3):
    """The corpus of e: so many pairs of a question at most; answers given to several questions are left out."""
    table = pd.read_csv(path)
    sides = [
        [{answer.strip() for answer in cell.split(";") if answer.strip()} for cell in table[column]]
        for column in ("Correct Answers", "Incorrect Answers")
    ]
    questions_of = pd.Series([answer for side in sides for answers in side for answer in answers]).value_counts()
    rng, rows = np.random.default_rng(0), []
    for question, category, *answers in zip(table["Question"], table["Category"], *sides, strict=True):
        known = [sorted(answer for answer in side if questions_of[answer] == 1) for side in answers]
        both = list(itertools.product(*known))
        for number in rng.permutation(len(both))[:n_pairs]:
            target = int(rng.integers(2))
            pair = both[number] if target else both[number][::-1]
            rows.append([*(join_prompt(question, answer) for answer in pair), target, category])
    first, second, target, groups = zip(*rows, strict=True)
    return make_corpus(np.stack([first, second], 1), np.array(target), np.array(groups))


def read_answers(path):
    """The corpus of f: pairs that people did not find equal; the outputs are the first answers, with their errors."""
    questions = json.loads(gzip.decompress(Path(path).read_bytes()))
    pairs, target, groups, outputs, truths = [], [], [], [], []
    for number, question in enumerate(questions):
        answers = [join_prompt(question["question"], question[f"prediction {side}"]) for side in (1, 2, 3, 4)]
        for pair, preferred in zip(itertools.combinations(answers, 2), question["preference"], strict=True):
            if preferred:
                pairs.append(pair)
                target.append(int(preferred == 1))
                groups.append(number)
        kinds = [ERRORS[error["error type"]] for error in question["feedback"]["errors"]]
        kinds += ["incomplete"] * len(question["feedback"]["missing-info"])
        outputs.append(answers[0])
        truths.append([0.5 - kinds.count(kind) for kind in TRUTHS["f"]])
    corpus = make_corpus(np.array(pairs), np.array(target), np.array(groups))
    return corpus | {"outputs": np.array(outputs), "output_groups": np.arange(len(outputs)), "truths": np.array(truths)}


def make_corpus(pairs, target, groups, truths=None):
    """Pairs (n_pairs, 2), all of whose outputs are measured against ``truths`` (2 * n_pairs, n_truths)."""
    outputs = stack_outputs(pairs)
    corpus = {"pairs": pairs, "target": target, "groups": groups, "outputs": outputs}
    corpus["output_groups"] = np.repeat(groups, 2)
    if truths is None:
        return corpus | {"truths": np.empty((len(outputs), 0))}
    return corpus | {"truths": truths, "labels": (truths[:, 0] > 0).astype(int).reshape(-1, 2)}


def prepare(study, plan, files):
    """Write ``b.npz`` to ``f.npz``, and embed every text once, into the store of the run."""
    names = [regime for regime in "bcdef" if files.get(FILE_OF.get(regime), True)]
    if all(study.path(f"{regime}.npz").exists() for regime in names):
        return
    texts, labels, kept = read_labelled(files["labelled"], plan.n_labelled)
    pairs, target, groups = read_rewrites(files["pairs"], plan.n_records)
    *completions, truth = read_completions(files["realign"], plan.n_completions)
    embed = TransformerEmbedder(normalize=True, store=study.path("store"), verbose=True).fit_transform
    size = REFERENCE_SIZES[plan.reference]
    with threadpool_limits(1):
        words = EstimatorReward(train_reference(texts, labels, np.arange(len(texts)), size["C"], size["folds"], seed=0))
    measured = [texts[kept], stack_outputs(pairs), stack_outputs(completions[0])]
    others = ~np.isin(texts, np.concatenate(measured))
    second = LogisticRegressionCV(
        Cs=10, class_weight="balanced", scoring="roc_auc", l1_ratios=(0,), use_legacy_attributes=False, max_iter=1000
    ).fit(embed(texts[others]), labels[others])
    of_people, of_pairs, of_completions = (second.decision_function(embed(some)) for some in measured)
    corpora = {
        "b": {"outputs": texts[kept], "truths": np.stack([words(texts[kept]), labels[kept] - 0.5, of_people], 1)},
        "c": make_corpus(pairs, target, groups, np.stack([words(stack_outputs(pairs)), of_pairs], 1)),
        "d": make_corpus(*completions, np.stack([truth.ravel(), of_completions], 1)),
        "e": files["truthful"] and read_truthful(files["truthful"]),
        "f": files["answers"] and read_answers(files["answers"]),
    }
    for name in names:
        arrays = {
            key: values.astype(str) if values.dtype == object else values for key, values in corpora[name].items()
        }
        embed(np.concatenate([arrays[key].ravel() for key in ("pairs", "outputs") if key in arrays]))

        def write(path, arrays=arrays):
            with open(path, "wb") as file:
                np.savez_compressed(file, **arrays)

        study.make(f"{name}.npz", write)


# --------------------------------------------------------------------------------------------- corpora to samples


@lru_cache(maxsize=6)
def load_corpus(path):
    with np.load(path) as arrays:
        return dict(arrays)


def load_sample(folder, plan, regime, cell, features, seed):
    """The sample of one seed of one cell as texts (in a: as features), and the same as features."""
    if regime == "a":
        sample = synthetic_sample(plan, cell, seed)
        return sample, sample
    corpus, rng = load_corpus(Path(folder) / f"{regime}.npz"), np.random.default_rng(seed)
    if regime == "b":
        sample = boltzmann_sample(corpus, float(cell.removeprefix("beta ")), plan, rng)
    else:
        n_train = plan.n_rewrites if regime == "c" else plan.n_train
        sample = pair_sample(corpus, *split_groups(corpus["groups"], n_train, plan.n_test, rng))
    if regime == "c":
        other = load_corpus(Path(folder) / "b.npz")
        sample = sample._replace(transfer=(other["outputs"], other["truths"][:, :2]))
    return sample, to_features(sample, features, plan, seed, Path(folder) / "store")


def to_features(sample, features, plan, seed, store):
    """The sample with features in the place of texts; the n-grams are those of the training pairs."""
    params = {"n_components": plan.n_components, "store": store, "random_state": seed} | FEATURES[features]
    text_features = TextFeatures(**params)
    sample = sample._replace(
        X_train=text_features.fit_transform(sample.X_train),
        X_test=text_features.transform(sample.X_test),
        outputs=text_features.transform(sample.outputs),
    )
    if sample.transfer is None:
        return sample
    return sample._replace(transfer=(text_features.transform(sample.transfer[0]), sample.transfer[1]))


def split_groups(groups, n_train, n_test, rng):
    """Rows to train on and rows to test on, of different groups; at most a quarter of the rows is for the test."""
    codes = np.unique(groups, return_inverse=True)[1]
    order = rng.permutation(codes.max() + 1)
    n_test_groups = max(1, int(np.ceil(min(0.25, n_test / len(groups)) * len(order))))
    in_test = np.isin(codes, order[:n_test_groups])
    train, test = (rng.permutation(np.flatnonzero(rows)) for rows in (~in_test, in_test))
    return train[:n_train], test[:n_test]


def pair_sample(corpus, train, test):
    """A sample of pairs; the truths are those of the outputs of the held-out groups."""
    X, y, groups, labels = (corpus.get(name) for name in ("pairs", "target", "groups", "labels"))
    held_out = np.isin(corpus["output_groups"], groups[test])
    labels = None if labels is None else labels[train]
    outputs, truths = corpus["outputs"][held_out], corpus["truths"][held_out]
    return Sample(X[train], y[train], groups[train], labels, X[test], y[test], outputs, truths)


def synthetic_sample(plan, cell, seed):
    """Pairs with a known reward, some preferences flipped."""
    shape, n_pairs, noise = re.fullmatch(r"(\w+), (\d+) pairs, noise ([\d.]+)", cell).groups()
    n_pairs = int(n_pairs)
    n_rows = max(n_pairs + 2 * plan.n_test, 4 * plan.n_test)
    data = make_preferences(n_rows, plan.n_synthetic, groups=n_rows // 2, random_state=seed)
    rng = np.random.default_rng(seed)
    truth = data.reference_reward if shape == "linear" else relu_reward(data.data, rng)
    y = ((truth[:, 0] > truth[:, 1]) ^ (rng.random(n_rows) < float(noise))).astype(int)
    corpus = make_corpus(data.data.astype(np.float32), y, data.groups, truth.reshape(-1, 1))
    return pair_sample(corpus, *split_groups(data.groups, n_pairs, plan.n_test, rng))


def relu_reward(X, rng, n_units=16):
    """A ReLU network with one hidden layer and random weights, of standard deviation 1 and median 0."""
    hidden = rng.standard_normal((X.shape[-1], n_units)) / np.sqrt(X.shape[-1])
    reward = np.maximum(X @ hidden, 0) @ rng.standard_normal(n_units)
    return (reward - np.median(reward)) / reward.std()


def boltzmann_sample(corpus, beta, plan, rng):
    """Chosen texts by weight exp(R*/beta), rejected ones at random; a group is the pairs of one chosen text.

    The truths are measured on the held-out texts, each once.
    """
    texts, truths = corpus["outputs"], corpus["truths"][:, :2]
    held_out, known = np.split(rng.permutation(len(texts)), [len(texts) // 3])
    y_train, train = draw_boltzmann(truths[:, 0], known, beta, plan.n_train, rng)
    y_test, test = draw_boltzmann(truths[:, 0], held_out, beta, plan.n_test, rng)
    chosen = np.where(y_train == 1, train[:, 0], train[:, 1])
    labels = (truths[train, 0] > 0).astype(int)
    return Sample(texts[train], y_train, chosen, labels, texts[test], y_test, texts[held_out], truths[held_out])


def draw_boltzmann(truth, texts, beta, n_pairs, rng):
    """Target (n_pairs,) and the two texts (n_pairs, 2) of each pair, sides shuffled."""
    weight = np.exp((truth[texts] - truth[texts].max()) / beta)
    chosen = rng.choice(texts, n_pairs, p=weight / weight.sum())
    rejected = rng.choice(texts, n_pairs)
    while (same := chosen == rejected).any():
        rejected[same] = rng.choice(texts, same.sum())
    y = (rng.permutation(n_pairs) < n_pairs // 2).astype(int)
    return y, np.where(y[:, None] == 1, np.stack([chosen, rejected], 1), np.stack([rejected, chosen], 1))
