"""Does the audit find what was planted in made pairs, and claim nothing where nothing was planted?

    python benchmarks/audit_truths.py --size full

Each pair has two harmless texts. In most pairs, a sentence in each tells which one is preferred. Then one truth is
planted: a property that goes with most preferences, a topic with reversed preferences, or flipped labels. The table
shows in how many seeds the audit found it, and in how many each part of the audit named anything.
"""

import argparse
import sys

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch

from fairl_sk import MaxEntropyIRL, TextFeatures
from fairl_sk.audit.data import check_data, held_out_rows, split_groups, with_known_rewards
from fairl_sk.audit.explain import AuditedReward, AuditedRows, explain
from fairl_sk.audit.measures import margins_of, rewards_of
from fairl_sk.audit.subgroups import name_of
from fairl_sk.datasets import make_detox_preferences

SIZES = {
    "smoke": {"n_pairs": 600, "n_components": 80, "seeds": 1},
    "full": {"n_pairs": 2000, "n_components": 100, "seeds": 20},
}
TRUTHS = ("nothing", "length", "capitals", "subgroup", "flipped labels")
SHARE = 0.7  # of the pairs that go with a planted property
FLIPPED = 0.1
SILENT = 0.15  # of the pairs in which both texts have the same sentence: nothing tells which one is preferred
TOPIC = "library"  # one of 12 things that prompts ask about: 8 % of the pairs
TOP = 0.05  # of the rows: the list of label errors is scored here
LEAST_PRECISION = 0.8
GOOD = ("The gate stays open.", "The north road is used.", "We begin before noon.", "The roof was built of wood.")
FILLERS = ("It lies by the river.", "The bridge is new.", "The bench is green.", "A boat stood by.")
BAD = ("The gate stays shut.", "The south road is used.", "We begin behind noon.", "The roof was built of clay.")


def make_corpus(n_pairs, truth, seed):
    """Pairs, one truth planted in them, and the mask of the rows whose labels it flipped."""
    rng = np.random.default_rng(seed)
    data = make_detox_preferences(n_pairs, kinds={"NT->NT": 1.0}, hard=0.0, random_state=seed)
    texts = np.array([list(rng.permutation(pair)) for pair in data.data], dtype=object)  # chosen, rejected: by chance
    goes = rng.random(n_pairs) < SHARE
    for row, pair in enumerate(texts):
        number = rng.integers(len(GOOD))
        good, bad = GOOD[number], BAD[number] if rng.random() >= SILENT else GOOD[number]
        told = [f"{pair[0]} {good}", f"{pair[1]} {bad}"]
        if truth == "length":
            told = _longer_side_is(told, 0 if goes[row] else 1, rng)
        elif truth == "capitals":
            told[0 if goes[row] else 1] = _shout(told[0 if goes[row] else 1])
        texts[row] = told
    flipped = np.zeros(n_pairs, dtype=bool)
    if truth == "subgroup":
        flipped = np.array([TOPIC in prompt for prompt in data.prompt])
    elif truth == "flipped labels":
        flipped = rng.random(n_pairs) < FLIPPED
    swap = (data.target == 0) ^ flipped
    texts[swap] = texts[swap][:, ::-1]
    return Bunch(data=texts, target=data.target, prompt=data.prompt, groups=data.groups), flipped


def _longer_side_is(told, side, rng):
    """The pair with a sentence more on the side that is to be longer, as often as it takes."""
    while len(told[side].split()) <= len(told[1 - side].split()):
        told[side] += f" {rng.choice(FILLERS)}"
    return told


def _shout(text):
    words = text.split()
    return " ".join([*(word.upper() for word in words[:4]), *words[4:]])


def run(truth, seed, n_pairs, n_components):
    """What the audit finds of one corpus: a row of the table."""
    data, flipped = make_corpus(n_pairs, truth, seed)
    data = with_known_rewards(check_data(data))
    train, test = split_groups(data, 0.25, seed)
    features = TextFeatures(encoder=None, n_components=n_components, random_state=seed)
    X_train = features.fit_transform(data.data[train])
    rows = AuditedRows(data, train, test, X_train, features.transform(data.data[test]))
    learner = MaxEntropyIRL(alpha=1e-3, random_state=seed).fit(X_train, data.target[train])
    held = held_out_rows(data, test)

    margins = margins_of(rewards_of(learner, rows.X_test), held.sign)
    reward = AuditedReward("MaxEntropyIRL", Pipeline([("features", features), ("irl", learner)]), margins, learner)
    found = dict(explain(rows, reward, n_resamples=200, random_state=seed))
    return {
        "truth": truth,
        "seed": seed,
        "accuracy": float(np.mean(margins > 0)),
        "properties": [row["property"] for row in found["shortcuts"]["properties"] if row["named"]],
        "subgroups": [name_of(row) for row in found["subgroups"]["tested"] if row["named"]],
        "errors": found["label_errors"]["clear"],
        "rate": found["label_errors"]["rate"],
        "precision": precision_at_top(found["label_errors"]["review"], flipped),
    }


def precision_at_top(review, flipped):
    """Share of flipped rows among the first of the list, 5 % of all rows; NaN for an empty list."""
    listed = [row["row"] for row in review[: round(TOP * len(flipped))]]
    return float(flipped[listed].mean()) if listed else np.nan


def summarize(rows):
    """One row per truth: in how many seeds it was found, and in how many anything was named."""
    table = []
    for truth, part in pd.DataFrame(rows).groupby("truth", sort=False):
        named = part["properties"].map(len), part["subgroups"].map(len)
        table.append(
            {
                "planted": truth,
                "seeds": len(part),
                "accuracy": part["accuracy"].mean(),
                "found": sum(_is_found(row) for row in part.to_dict("records")),
                "properties named": (named[0] > 0).sum(),
                "subgroups named": (named[1] > 0).sum(),
                "label errors claimed": part["errors"].sum(),
                "rate": part["rate"].mean(),
                "precision at the top": part["precision"].mean(),
            }
        )
    return pd.DataFrame(table)


def _is_found(row):
    """Whether the planted truth is named; of nothing, whether nothing is."""
    return {
        "nothing": not (row["properties"] or row["subgroups"] or row["errors"]),
        "length": row["properties"][:1] == ["length in words"],
        "capitals": row["properties"][:1] == ["share of capitals"],
        "subgroup": any(TOPIC in name for name in row["subgroups"]),
        "flipped labels": bool(row["errors"] and row["precision"] >= LEAST_PRECISION),
    }[row["truth"]]


def main(size="full", first_seed=100):
    """Run all truths and print the table. Seeds 0 to 19 served to choose the rules, so they are not reported."""
    plan = dict(SIZES[size])
    seeds = range(first_seed, first_seed + plan.pop("seeds"))
    rows = [run(truth, seed, **plan) for truth in TRUTHS for seed in seeds]
    print(summarize(rows).round(3).to_string(index=False))
    for row in rows:
        if not _is_found(row):
            print(f"not as planted: {row}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--first-seed", type=int, default=100, help="of as many as the size has")
    sys.exit(not main(**vars(parser.parse_args())))
