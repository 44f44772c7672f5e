"""The data of the evidence benchmark: how large it is, and what one seed sees of each regime. For paper.py.

a. synthetic: `make_preferences`, the reward linear or a ReLU network, some preferences flipped.
b. Boltzmann: of labelled texts, the chosen one is drawn with weight exp(R*/beta), the rejected one uniformly. R* is
   the log-odds of a classifier trained on the labelled file (``train`` of toxicity_reference.py).
c. ParaDetox: rewrites chosen over toxic comments, R* as in b. Each reward is also measured on the texts of b.
d. Base and aligned: completions of a language model before and after alignment, from the folder that realign.py wrote.

Without files, b, c and d use the package's own corpus. Texts of b and c are normalized: lower-case words, no links and
no user names. No group (prompt, toxic comment, in b no text) is on both sides of a split.
"""

import html
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from realign import load_reward
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits
from toxicity_reference import SIZES as REFERENCE_SIZES
from toxicity_reference import train as train_reference

from fairl_sk import TransformerEmbedder
from fairl_sk.datasets import load_preferences, make_detox_preferences, make_preferences
from fairl_sk.pairs import stack_outputs
from fairl_sk.rewards import EstimatorReward

REGIMES = {
    "a": "Synthetic features with a known reward",
    "b": "Boltzmann pairs of labelled texts",
    "c": "ParaDetox",
    "d": "Base and aligned completions",
    "ablations": "Ablations",
}
ALPHAS = (1.0, 0.2, 0.05, 0.01, 2e-3, 5e-4, 1e-4)  # what cross-validation chooses from


@dataclass(frozen=True)
class Plan:
    """How large everything is."""

    seeds: int
    seeds_of_texts: int  # of b and c, where differences are small
    n_train: int  # pairs of b and d
    n_rewrites: int  # pairs of c
    n_test: int
    n_labelled: int | None  # texts of b
    n_records: int | None  # toxic comments of c, with all rewrites
    n_completions: int  # pairs of d
    n_features: int  # of a
    synthetic: tuple  # (shape of the reward, pairs, noise) of the cells of a
    betas: tuple
    encoder: str
    reference: str
    alphas: tuple = ALPHAS
    folds: int = 3
    rounds: int | None = None  # of the curriculum; None: as the learner has it
    first_seed: int = 0


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
        alphas=(1e-1, 1e-3),
        folds=2,
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
            *(("linear", 2000, noise) for noise in (0.0, 0.1, 0.2, 0.3, 0.4)),
            *(("linear", n_pairs, 0.2) for n_pairs in (300, 20_000)),
            *(("ReLU", 2000, noise) for noise in (0.0, 0.2, 0.4)),
        ),
        betas=(1, 3, 8),
        encoder="minilm",
        reference="small",
    ),
}


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


def cells_of(regime, plan):
    """Names of the settings of a regime."""
    if regime == "a":
        return [f"{shape}, {n_pairs} pairs, noise {noise:g}" for shape, n_pairs, noise in plan.synthetic]
    named = {"b": [f"beta {beta}" for beta in plan.betas], "c": ["ParaDetox"], "d": ["completions"]}
    return named.get(regime, ["b, beta 3", "c, ParaDetox"])  # of the ablations: cells of b and c


# --------------------------------------------------------------------------------------------- files to features


def normalize(text):
    """Lower-case words and nothing else: no links, user names, digits or marks."""
    text = re.sub(r"https?://\S+|@\w+|\brt\b", " ", html.unescape(text).lower())
    return " ".join(re.findall(r"[a-z']*[a-z][a-z']*", text))


def read_labelled(path, limit):
    """Distinct texts (n_texts,), labels (n_texts,), 1 = desirable, and rows of ``limit`` of them, drawn at random."""
    if path is None:
        corpus = make_detox_preferences(1000, random_state=0)
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


def prepare(study, plan, pairs, labelled, realign):
    """Embed every text once: ``b.npz``, ``c.npz`` and ``d.npz`` in the folder of the run."""
    if all(study.path(f"{regime}.npz").exists() for regime in "bcd"):
        return
    texts, labels, kept = read_labelled(labelled, plan.n_labelled)
    embed = make_embedder(study, plan, texts)
    size = REFERENCE_SIZES[plan.reference]
    with threadpool_limits(1):
        model = train_reference(texts, labels, np.arange(len(texts)), size["C"], size["folds"], seed=0)
    reward = EstimatorReward(model)

    def write(name, texts, truth, **rest):
        def write_to(path):
            with open(path, "wb") as file:
                np.savez(file, X=embed(texts), truth=truth, **rest)

        study.make(name, write_to)

    write("b.npz", texts[kept], reward(texts[kept]))
    sides, target, groups = read_rewrites(pairs, plan.n_records)
    write("c.npz", sides, reward(stack_outputs(sides)).reshape(-1, 2), target=target, groups=groups)
    sides, target, groups, truth = read_completions(realign, plan.n_completions)
    write("d.npz", sides, truth, target=target, groups=groups)


def make_embedder(study, plan, texts):
    """Texts (n_texts,) or pairs (n_pairs, 2) -> features, float32. At size "smoke" words and SVD, no transformer."""
    if plan.encoder != "svd":
        embedder = TransformerEmbedder(plan.encoder, normalize=True, store=study.path("store"), verbose=True)
        return lambda texts: embedder.fit_transform(texts).astype(np.float32)
    embedder = make_pipeline(TfidfVectorizer(sublinear_tf=True), TruncatedSVD(16, random_state=0)).fit(texts)
    return lambda texts: embedder.transform(texts.ravel()).reshape(*texts.shape, -1).astype(np.float32)


# ---------------------------------------------------------------------------------------------- features to samples


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
    """Rows to train on and rows to test on, of different groups; at most a quarter of the rows is for the test."""
    codes = np.unique(groups, return_inverse=True)[1]
    order = rng.permutation(codes.max() + 1)
    n_test_groups = max(1, int(np.ceil(min(0.25, n_test / len(groups)) * len(order))))
    in_test = np.isin(codes, order[:n_test_groups])
    train, test = (rng.permutation(np.flatnonzero(rows)) for rows in (~in_test, in_test))
    return train[:n_train], test[:n_test]


def pair_sample(X, y, groups, truth, train, test):
    """A sample of pairs; the ground truth is measured on the held-out outputs."""
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
    """Chosen texts by weight exp(R*/beta), rejected ones at random; a group is the pairs of one chosen text.

    The ground truth is measured on the held-out texts, each once.
    """
    X, truth = corpus["X"], corpus["truth"]
    held_out, known = np.split(rng.permutation(len(X)), [len(X) // 3])
    y_train, train = draw_boltzmann(truth, known, beta, plan.n_train, rng)
    y_test, test = draw_boltzmann(truth, held_out, beta, plan.n_test, rng)
    chosen = np.where(y_train == 1, train[:, 0], train[:, 1])
    labels = (truth[train] > 0).astype(int)
    return Sample(X[train], y_train, chosen, labels, X[test], y_test, X[held_out], truth[held_out])


def draw_boltzmann(truth, texts, beta, n_pairs, rng):
    """Target (n_pairs,) and the two texts (n_pairs, 2) of each pair, sides shuffled."""
    weight = np.exp((truth[texts] - truth[texts].max()) / beta)
    chosen = rng.choice(texts, n_pairs, p=weight / weight.sum())
    rejected = rng.choice(texts, n_pairs)
    while (same := chosen == rejected).any():
        rejected[same] = rng.choice(texts, same.sum())
    y = (rng.permutation(n_pairs) < n_pairs // 2).astype(int)
    return y, np.where(y[:, None] == 1, np.stack([chosen, rejected], 1), np.stack([rejected, chosen], 1))
