"""Several objectives: do they learn from each other, are learned weights right, and what counts in people's choices?

    python benchmarks/objectives.py --answers finegrained_qa.json.gz --out objectives.json

1. Sharing, known truth: STARC of each of three rewards that correlate 0.7, with ``share`` and each learner alone.
2. Weights, known truth: how often the 95 % intervals of learned weights hold the true weights.
3. Long-form answers (Fine-Grained RLHF): people marked the errors of each question's first answer, by kind, and said
   which of each two answers they prefer. A logistic regression over the pairs with the first answer tells how much each
   kind counts. The marks of the other answers are unknown; their mean is in the constant. Length is known of both.
"""

import argparse
import gzip
import itertools
import json
import time
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from paper_data import ERRORS

from fairl_sk import MaxEntropyIRL, MaxEntropyIRLCV, MultiObjectiveIRL, objective_weights
from fairl_sk.datasets import make_multi_preferences
from fairl_sk.metrics import bootstrap_interval, starc_distance
from fairl_sk.pairs import stack_outputs

SETTINGS = [  # of sharing: pairs, features, temperature, correlation, share of the pairs that an objective judges
    (1000, 50, 1.0, 0.7, 0.2),
    (1000, 50, 1.0, 0.7, 1.0),
    (1000, 20, 1.0, 0.7, 0.2),
    (1000, 20, 1.0, 0.7, 1.0),
    (1000, 50, None, 0.7, 0.2),
    (1000, 50, 1.0, 0.0, 0.2),
    (1000, 50, 1.0, 0.0, 1.0),
    (200, 10, 1.0, 0.0, 0.2),
]
SIZES = {  # seeds and settings of sharing, seeds of weights, pairs and features of weights
    "smoke": (2, [(200, 8, 1.0, 0.7, 0.5), (200, 8, 1.0, 0.7, 1.0)], 1, [(200, 4)]),
    "small": (20, SETTINGS, 100, [(3000, 20), (1000, 20)]),
}
LEARNERS = {"MaxEntropyIRL": MaxEntropyIRL(), "MaxEntropyIRLCV": MaxEntropyIRLCV(alpha=[1e-3, 1e-2, 1e-1])}
WEIGHTS = (1.0, 0.5, 0.25)
KINDS = ("irrelevant", "wrong", "incomplete")
N_TEST = 1000  # pairs whose outputs measure a reward


def distances(learner, n_pairs, n_features, temperature, correlation, judged, seed):
    """STARC (2, 3) of three rewards, alone and with sharing, on fresh outputs."""
    options = {"correlation": correlation, "judged": judged, "temperature": temperature, "random_state": seed}
    data = make_multi_preferences(n_pairs + N_TEST, n_features, **options)
    X, y, fresh = data.data[:n_pairs], data.targets[:n_pairs], stack_outputs(data.data[n_pairs:])
    truth, found = fresh @ data.coef.T, []
    for share in (False, True):
        rewards = MultiObjectiveIRL(learner, share=share).fit(X, y).decision_function(fresh)
        found.append([starc_distance(rewards[:, k], truth[:, k]) for k in range(3)])
    return found


def ratio(alone, shared, sample_weight):
    """Mean distance with sharing over that without."""
    return np.average(shared, weights=sample_weight) / np.average(alone, weights=sample_weight)


def measure_sharing(n_seeds, settings, jobs):
    """A row a setting, and one of the first setting with a tuned learner."""
    print(f"STARC of three rewards, means of {n_seeds} seeds, with 95 % intervals of the ratio\n")
    names = ["learner", "pairs", "features", "temperature", "correlation", "judged", "alone", "shared", "ratio"]
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}")
    rows, run = [], delayed(distances)
    for name, setting in [*(("MaxEntropyIRL", setting) for setting in settings), ("MaxEntropyIRLCV", settings[0])]:
        found = np.array(Parallel(jobs)(run(LEARNERS[name], *setting, seed) for seed in range(n_seeds)))
        alone, shared = found.mean(axis=2).T  # (n_seeds,) each
        interval = bootstrap_interval(ratio, alone, shared, groups=None, random_state=0)
        row = dict(zip(names, (name, *setting, alone.mean(), shared.mean(), list(interval[:3])), strict=True))
        rows.append(row)
        shown = ["{:.3f} [{:.3f}, {:.3f}]".format(*row["ratio"])]
        shown = [f"{row['judged']:.0%}", f"{row['alone']:.3f}", f"{row['shared']:.3f}", *shown]
        print(f"| {' | '.join([*(str(row[name]) for name in names[:5]), *shown])} |", flush=True)
    return rows


def weigh(n_pairs, n_features, seed):
    """Weights over the true ones (3,), and whether their intervals hold these (3,)."""
    options = {"correlation": 0.3, "weights": WEIGHTS, "temperature": 1.0, "random_state": seed}
    data = make_multi_preferences(n_pairs, n_features, **options)
    model = MultiObjectiveIRL(weights="learned", cv=10).fit(data.data, data.targets, overall=data.target)
    truth = data.weights * np.sqrt(2)  # log-odds for one standard deviation of a margin
    low, high = model.weights_interval_.T
    return model.weights_ / truth, (low <= truth) & (truth <= high)


def measure_weights(n_seeds, settings, jobs):
    """A row a setting."""
    print(f"\nLearned weights {WEIGHTS}: how many 95 % intervals hold each, and the mean of weight / truth\n")
    print(f"| pairs | features | held, of {n_seeds} | over the truth |\n|" + " --- |" * 4)
    rows, run = [], delayed(weigh)
    for n_pairs, n_features in settings:
        found = Parallel(jobs)(run(n_pairs, n_features, seed) for seed in range(n_seeds))
        shares, covered = (np.array(values) for values in zip(*found, strict=True))
        row = {"pairs": n_pairs, "features": n_features, "seeds": n_seeds, "covered": covered.sum(axis=0).tolist()}
        rows.append(row | {"over truth": shares.mean(axis=0).tolist()})
        over = ", ".join(f"{value:.2f}" for value in rows[-1]["over truth"])
        print(f"| {n_pairs} | {n_features} | {', '.join(map(str, row['covered']))} | {over} |", flush=True)
    return rows


def read_answers(path):
    """Numbers of errors of the first answers by kind (n_questions, 3), log words (n_questions, 4), preferences."""
    questions = json.loads(gzip.decompress(Path(path).read_bytes()))
    errors, words, preferences = [], [], []
    for question in questions:
        kinds = [ERRORS[error["error type"]] for error in question["feedback"]["errors"]]
        kinds += ["incomplete"] * len(question["feedback"]["missing-info"])
        errors.append([kinds.count(kind) for kind in KINDS])
        words.append([np.log(len(question[f"prediction {side}"].split())) for side in (1, 2, 3, 4)])
        preferences.append(question["preference"][:3])  # of the first answer and another one
    return np.array(errors, dtype=float), np.array(words), np.array(preferences)


def weigh_answers(errors, words, preferences):
    """`objective_weights` of kinds of errors, length and the constant, over pairs with the first answer."""
    n_questions = len(errors)
    scores = np.zeros((n_questions, 3, 2, len(KINDS) + 2))
    scores[:, :, 0, : len(KINDS)] = (errors.mean(axis=0) - errors)[:, None]  # fewer errors are better
    scores[:, :, 0, -2], scores[:, :, 1, -2] = words[:, :1], words[:, 1:]
    scores[:, :, 0, -1] = 1.0
    chosen = np.select([preferences == 1, preferences == 2], [1.0, 0.0], 0.5)
    groups = np.repeat(np.arange(n_questions), 3)
    return objective_weights(scores.reshape(-1, 2, scores.shape[-1]), chosen.ravel(), groups=groups)


def conflict_rates(errors):
    """Of each two kinds: of the pairs of first answers that differ in both, the share that conflict; with intervals."""
    rates = {}
    for a, b in itertools.combinations(range(len(KINDS)), 2):

        def rate(rows, sample_weight, a=a, b=b):
            signs = [np.sign(rows[:, k, None] - rows[None, :, k]) for k in (a, b)]
            weight = np.outer(sample_weight, sample_weight) * (signs[0] * signs[1] != 0)
            return (weight * (signs[0] * signs[1] < 0)).sum() / weight.sum()

        found = bootstrap_interval(rate, errors, groups=None, n_resamples=200, random_state=0)
        rates[f"{KINDS[a]}, {KINDS[b]}"] = list(found[:3])
    return rates


def measure_answers(path):
    """Weights, conflicts and numbers of the long-form answers, printed and returned."""
    errors, words, preferences = read_answers(path)
    found = weigh_answers(errors, words, preferences)
    row = {"pairs": found.n_pairs, "errors": dict(zip(KINDS, errors.mean(axis=0).tolist(), strict=True))}
    print(f"\nLong-form answers: {found.n_pairs} pairs with the first answer, {len(errors)} questions\n")
    print("| counts in what people prefer | log-odds per standard deviation | odds per error |\n| --- | --- | --- |")
    row["weights"] = {}
    for k, name in enumerate((*KINDS, "longer (log words)", "first answer")):
        weight, (low, high) = found.weights[k], found.interval[k]
        row["weights"][name] = [weight, low, high]
        odds = f"{np.exp(-weight / found.scale[k]):.2f}" if k < len(KINDS) else "-"
        print(f"| {name} | {weight:.2f} [{low:.2f}, {high:.2f}] | {odds} |")
    row["conflicts"] = conflict_rates(errors)
    print("\n| kinds | share of the pairs of first answers where both decide, on which they conflict |\n| --- | --- |")
    for name, (rate, low, high) in row["conflicts"].items():
        print(f"| {name} | {rate:.1%} [{100 * low:.1f}, {100 * high:.1f}] |")
    return row


def verdict(name, value, aim, *, at_least=False):
    reached = value >= aim if at_least else value <= aim
    word = "at least" if at_least else "at most"
    print(f"{name}: {value:.3g} (aim: {word} {aim:g}): {'reached' if reached else 'MISSED'}")


def main(size="small", answers=None, out=None, jobs=1, parts=("sharing", "weights")):
    """Print the tables and return their rows."""
    start, results = time.perf_counter(), {}
    n_seeds, settings, n_weight_seeds, sizes = SIZES[size]
    if "sharing" in parts:
        rows = results["sharing"] = measure_sharing(n_seeds, settings, jobs)
        worst = max(row["ratio"][0] for row in rows if row["judged"] == 1)
        print()
        verdict("STARC with sharing over alone, all judged, worst setting", worst, 1.05)
        verdict("the same, few judged, first setting", rows[0]["ratio"][0], 0.9)
    if "weights" in parts:
        rows = results["weights"] = measure_weights(n_weight_seeds, sizes, jobs)
        print()
        held = min(rows[0]["covered"]) / n_weight_seeds
        verdict("share of seeds whose interval holds the weight, first setting", held, 0.9, at_least=True)
    if answers is not None:
        results["answers"] = measure_answers(answers)
    print(f"\n{time.perf_counter() - start:.0f} s")
    if out:
        Path(out).write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--answers", help="Fine-Grained RLHF's answers, .json.gz")
    parser.add_argument("--out", help="write the rows as JSON")
    parser.add_argument("--parts", nargs="*", choices=["sharing", "weights"], default=["sharing", "weights"])
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    main(**vars(parser.parse_args()))
