"""What the audit measures of rewards on held-out rows: scores, nulls, kinds of pairs, hardest rows. `run` reads it."""

import warnings

import numpy as np
import sklearn

from .. import metrics
from ..pairs import stack_outputs

MEASURES = ("pair_accuracy", "output_f1", "output_auc", "label_f1", "label_auc", "starc")
KINDS = ("T->NT", "NT->NT", "T->T", "NT->T")  # rejected -> chosen; T: toxic, NT: not toxic
MIN_SUBTYPE_GROUPS = 5  # fewer groups give no interval
N_FAILURES = 20  # the hardest misordered rows, which are listed


def rewards_of(learner, X):
    """Rewards of all outputs, (n_pairs, 2) or (n_outputs,)."""
    return learner.decision_function(X) if X.ndim == 2 else learner.decision_function(stack_outputs(X)).reshape(-1, 2)


def margins_of(rewards, sign):
    """Margins R(preferred) - R(other) of pairs; rewards of outputs, negated where the label is undesirable."""
    return sign * (rewards if rewards.ndim == 1 else rewards[:, 0] - rewards[:, 1])


def null_rewards(held):
    """Rewards of the held-out outputs by the baselines that do not read the content, by name."""
    nulls = {
        "same reward for all": np.ones(held.texts.shape),  # positive: the F1 if all outputs are desirable
        "longer output": metrics.longer_null(held.texts),
        "shorter output": metrics.shorter_null(held.texts),
    }
    if held.texts.ndim == 2:
        labels = np.tile([1, 0], (len(held.texts), 1)) if held.labels is None else held.labels  # one of two is chosen
        nulls["prompt only"] = metrics.prompt_only_null(held.groups, labels)
    return nulls


def shuffled_rewards(learner, X_train, y_train, X_test, random_state, n_shuffles):
    """Held-out rewards learned from shuffled labels, one array per shuffle."""
    learner = sklearn.clone(learner).set_params(verbose=0)
    with warnings.catch_warnings(action="ignore"):  # the first fit has shown them
        return [
            metrics.shuffled_labels_null(learner, X_train, y_train, X_test=X_test, random_state=random_state + shuffle)
            for shuffle in range(n_shuffles)
        ]


def score_table(rewards, shuffled, held, interval):
    """A row per reward and per null, with a `BootstrapInterval` per measure; of shuffled labels, the 95 % range."""
    table = [
        {"reward": name, "null": null, **measured(values, held, interval)}
        for null, group in ((False, rewards), (True, null_rewards(held)))
        for name, values in group.items()
    ]
    scores = [measured(values, held, plain_score) for values in shuffled]
    ranges = {name: mean_and_range([row[name] for row in scores]) for name in MEASURES}
    return [*table, {"reward": "shuffled labels", "null": True, **ranges}]


def measured(rewards, held, measure):
    """What ``measure(metric, *arrays, metric_params=...)`` gives by measure; None where the data do not allow it."""
    found = dict.fromkeys(MEASURES)
    if rewards.ndim == 2:
        found["pair_accuracy"] = measure(metrics.pair_accuracy, held.y, rewards[:, 0] - rewards[:, 1], metric_params={})
    labelings = {"output": {}}
    if held.labels is not None and len(np.unique(held.labels)) == 2:
        labelings["label"] = {"output_labels": held.labels}
    for name, labels in labelings.items():
        found[f"{name}_f1"] = measure(metrics.output_f1_score, held.y, rewards, metric_params=labels)
        found[f"{name}_auc"] = measure(metrics.output_auc_score, held.y, rewards, metric_params=labels)
    if held.reference_reward is not None and np.ptp(rewards) > 0:  # the distance of a constant is a convention
        found["starc"] = measure(metrics.starc_distance, rewards, held.reference_reward, metric_params={})
    return found


def plain_score(metric, *arrays, metric_params):
    """The score alone, in the place of `fairl_sk.metrics.bootstrap_interval`."""
    return metric(*arrays, **metric_params)


def mean_and_range(scores):
    """Mean and 95 % range of one measure over several rewards, in the form of an interval."""
    if None in scores:
        return None
    low, high = np.quantile(scores, [0.025, 0.975]).tolist()
    return metrics.BootstrapInterval(float(np.mean(scores)), low, high, float(np.std(scores)), 0, len(scores))


def accuracy_of(margins):
    """Share of margins above 0, with ties as one half; None without margins."""
    return float(((margins > 0) + 0.5 * (margins == 0)).mean()) if len(margins) else None


def accuracy_by_kind(held, margins):
    """Number of pairs of each kind, and the accuracy of each learner on them."""
    if held.labels is None or held.labels.ndim != 2:
        return []
    labels = np.where(held.sign[:, None] > 0, held.labels, held.labels[:, ::-1])
    chosen, rejected = np.array(["T", "NT"])[labels.T]
    kind = np.char.add(np.char.add(rejected, "->"), chosen)
    return [
        {
            "kind": name,
            "pairs": int((kind == name).sum()),
            "share": float((kind == name).mean()),
            **{learner: accuracy_of(values[kind == name]) for learner, values in margins.items()},
        }
        for name in KINDS
    ]


def auc_by_subtype(held, rewards, interval):
    """AUC of each learner between the desirable outputs and those of one sub-type of toxic outputs."""
    if held.labels is None:
        return []
    desirable = held.labels.ravel() == 1
    groups = np.repeat(held.groups, held.texts.size // len(held.texts))
    table = []
    for name, of_it in held.of_subtype.items():
        of_it = of_it.ravel() & ~desirable
        rows = of_it | desirable
        enough = min(len(np.unique(groups[part])) for part in (of_it, desirable)) >= MIN_SUBTYPE_GROUPS
        table.append({"subtype": name, "outputs": int(of_it.sum())})
        for learner, values in rewards.items():
            arrays = desirable[rows].astype(int), values.ravel()[rows]
            auc = interval(metrics.output_auc_score, *arrays, groups=groups[rows]) if enough else None
            table[-1][learner] = auc
    return table


def hardest_rows(margins, held, reasons, decided_by):
    """The rows with the lowest margins among those at or below 0.

    Parameters
    ----------
    margins : ndarray of shape (n_rows,)
    held : Bunch
        From `held_out_rows`.
    reasons : ndarray of shape (n_rows,) of str
        Why each row is in the wrong order.
    decided_by : callable
        Row number -> the parts of the reward that decided, in words.
    """
    order = np.argsort(margins, kind="stable")[:N_FAILURES]
    rows = []
    for row in order[margins[order] <= 0]:
        why = {"reason": str(reasons[row]), "decided_by": decided_by(row)}
        rows.append({"index": int(held.index[row]), "margin": float(margins[row])})
        rows[-1] |= shortened_texts(held.texts[row], held.sign[row]) | why
    return rows


def shortened_texts(texts, sign):
    """The texts of a row, shortened: "preferred" and "other" of a pair whose sign is +1 or -1, or "output"."""
    if isinstance(texts, str):
        return {"output": shorten(texts)}
    return dict(zip(("preferred", "other"), map(shorten, texts[:: int(sign)]), strict=True))


def shorten(text, width=80):
    """A text on one line of at most ``width`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."
