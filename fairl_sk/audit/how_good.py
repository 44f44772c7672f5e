"""How good is the reward: scores beside nulls, calibration of its probabilities, margins. `run` and `page` read it."""

import numpy as np
from scipy.special import expit

from .. import metrics
from ..plot import COLORS, MarginDisplay
from .choice import CHANCE, shown_reward
from .sections import Picture, Section, Table, interval_text, percent_text, score_text
from .shortcuts import best_rule, described

MAX_BINS = 10
MIN_BIN_ROWS = 20
MIN_BIN_GROUPS = 5  # fewer give no interval
N_DRAWS = 200  # of a reward whose probabilities are right, for the error that chance alone gives
TITLES = {
    "pair_accuracy": "pairs in the right order",
    "output_f1": "F1 of outputs",
    "output_auc": "AUC of outputs",
    "label_f1": "F1 by the known labels",
    "label_auc": "AUC by the known labels",
    "starc": "STARC distance to the reference (lower is better)",
}
NULLS = {
    "longer output": "the number of characters",
    "shorter output": "its negative",
    "prompt only": "the share of desirable outputs in the other pairs of the prompt",
    "shuffled labels": "FailureAwareIRL, the most flexible learner, fitted to shuffled labels",
}
NO_DISTANCE = "same reward for all"  # a null without STARC


def measure_calibration(margins, groups, interval, random_state=0):
    """Compare the probability that a reward gives to its own order with the share of rows where that order is right.

    The probability is the sigmoid of the size of the margin, without any recalibration: of a pair, the probability
    that the output with the higher reward is the preferred one.

    Parameters
    ----------
    margins : ndarray of shape (n_rows,)
        R(preferred) - R(other) of held-out pairs; of outputs, rewards signed by the label.
    groups : ndarray of shape (n_rows,)
    interval : callable
        `fairl_sk.metrics.bootstrap_interval` with the settings of the audit.
    random_state : int, default=0
        Seed of the draws of ``by_chance``.

    Returns
    -------
    dict
        ``bins`` of equal numbers of rows (``rows``, ``probability``, ``right``, and ``interval`` or None); ``error``,
        the expected calibration error; ``by_chance`` and ``by_chance_high``, its mean and 97.5 % quantile for a reward
        whose probabilities are right; and ``overconfidence``, the mean probability less the share that is right.
    """
    probability, right = expit(np.abs(margins)), (margins > 0) + 0.5 * (margins == 0)
    n_bins = int(np.clip(len(margins) // MIN_BIN_ROWS, 1, MAX_BINS))
    bins = np.array_split(np.argsort(probability, kind="stable"), n_bins)
    rng = np.random.default_rng(random_state)

    def error(outcomes):
        return sum(abs((outcomes[rows] - probability[rows]).sum()) for rows in bins) / len(margins)

    by_chance = [error(rng.random(len(margins)) < probability) for _ in range(N_DRAWS)]
    return {
        "bins": [
            {
                "rows": len(rows),
                "probability": float(probability[rows].mean()),
                "right": float(right[rows].mean()),
                "interval": interval(metrics.pair_accuracy, None, margins[rows], groups=groups[rows])
                if len(np.unique(groups[rows])) >= MIN_BIN_GROUPS
                else None,
            }
            for rows in bins
        ],
        "error": float(error(right)),
        "by_chance": float(np.mean(by_chance)),
        "by_chance_high": float(np.quantile(by_chance, 0.975)),
        "overconfidence": float(probability.mean() - right.mean()),
    }


def how_good_section(result):
    """The section on scores, calibration and margins."""
    name, rows_are = shown_reward(result.choice), result.settings["rows_are"]
    measures = [measure for measure in TITLES if any(row[measure] for row in result.table)]
    main = measures[0] if rows_are == "pairs" else "output_auc"
    drawn = [main, *(measure for measure in ("starc",) if measure in measures)]
    row, rule = next(row for row in result.table if row["reward"] == name), _rule_row(result)
    compared = result.table if rule is None else [*result.table, rule]
    pictures = [
        Picture(f"scores-{measure}", lambda measure=measure: _draw_scores(compared, measure), _said(row, measure))
        for measure in drawn
    ]
    found = result.calibration
    pictures += [
        Picture(
            "reliability",
            lambda: _draw_reliability(found, rows_are),
            f"Reliability diagram of {name}: share in the right order by the probability it gives. Expected "
            f"calibration error {found['error']:.3f}.",
        ),
        Picture(
            "margins",
            lambda: _draw_margins(result.margins, rows_are),
            f"Histograms of the held-out margins. {name} has {np.mean(result.margins[name] <= 0):.1%} wrong.",
        ),
    ]
    nulls = [f"{row['reward']}: {NULLS[row['reward']]}" for row in result.table if row["reward"] in NULLS]
    also = "" if rule is None else ", and the best simple rule of the next section"
    words = [
        f"{_said(row, main)} Gray squares are nulls, baselines that do not read the content{also}: a reward should be "
        "clearly better. Lines are 95% intervals over whole groups.",
        f"The nulls are {'; '.join(nulls)}.",
        "The probability of an order is the sigmoid of the margin, the difference of two rewards. "
        f"{_confidence(name, found)}",
    ]
    if "starc" in measures:
        words.insert(2, _on_starc(result.settings["reference"]))
    tables = [_score_table(result, measures), _bin_table(found)]
    return Section("How good is the reward?", "\n".join(words), pictures, tables)


def _rule_row(result):
    """The best simple rule as a row of the picture of pair accuracies; None if no property is flagged."""
    rule = best_rule(result)
    if rule is None:
        return None
    return {**dict.fromkeys(TITLES), "reward": described(rule), "null": True, "pair_accuracy": rule["accuracy"]}


def _said(row, measure):
    if measure == "pair_accuracy":
        return f"{row['reward']} orders {percent_text(row[measure], 1)} of the held-out pairs as preferred."
    return f"{row['reward']} has {TITLES[measure]} {interval_text(row[measure])} on the held-out rows."


def _on_starc(reference):
    """What the distance means, and of which reward it is."""
    what = reference.get("reward", "given") if isinstance(reference, dict) else reference
    return (
        f"STARC is a distance between two rewards, here to the reference ({what}): 0 if they differ in scale and "
        f"offset only, 0.71 for unrelated ones, 1 for opposite ones. The null '{NO_DISTANCE}' has none."
    )


def _confidence(name, found):
    error = (
        f"The expected calibration error is {found['error']:.3f}; by chance alone, right probabilities would give up "
        f"to {found['by_chance_high']:.3f}."
    )
    if found["error"] <= found["by_chance_high"]:
        return f"{error} So nothing shows that the probabilities of {name} are wrong."
    sides = {
        side: [row["probability"] for row in found["bins"] if _off(row) == side] for side in ("too low", "too high")
    }
    clear = [
        f"{side} in {len(part)} of {len(found['bins'])} bins (from {min(part):.2f} to {max(part):.2f})"
        for side, part in sides.items()
        if part
    ]
    if clear:
        return f"{error} The probabilities of {name} are clearly {' and '.join(clear)}."
    side = "too high" if found["overconfidence"] > 0 else "too low"
    return f"{error} The probabilities of {name} are {side} on average, but not clearly in any bin."


def _off(row):
    """How the probability of a bin is clearly wrong: by its interval and, as all may be right, by chance; or ""."""
    gap, probability = row["right"] - row["probability"], row["probability"]
    if row["interval"] is None or abs(gap) < 1.96 * np.sqrt(probability * (1 - probability) / row["rows"]):
        return ""
    return "too low" if row["interval"].low > probability else "too high" if row["interval"].high < probability else ""


def _score_table(result, measures):
    rows = [
        [
            row["reward"] + (" (null)" if row["null"] else ""),
            *(score_text(measure, row[measure]) for measure in measures),
        ]
        for row in result.table
    ]
    columns = ["reward", *(TITLES[measure] for measure in measures)]
    return Table("Held-out scores with 95% intervals", columns, rows)


def _bin_table(found):
    rows = [
        [f"{row['rows']}", f"{row['probability']:.3f}", f"{row['right']:.3f}", interval_text(row["interval"])]
        for row in found["bins"]
    ]
    return Table("Probability and share in the right order, by bin", ["rows", "probability", "right", "interval"], rows)


def _figure(height):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, height), layout="constrained")
    return figure, figure.subplots()


def _draw_scores(table, measure):
    """The rewards, and the nulls below them, as points with intervals."""
    rows = [row for row in table[::-1] if row[measure] is not None]
    figure, ax = _figure(0.9 + 0.3 * len(rows))
    for place, row in enumerate(rows):
        found, style = row[measure], {"color": "0.4", "marker": "s"} if row["null"] else {"color": COLORS[0]}
        ax.plot([found.low, found.high], [place, place], lw=2, color=style["color"])
        ax.plot(found.estimate, place, **{"marker": "o", **style})
    ax.axhline(sum(row["null"] for row in rows) - 0.5, color="0.8", lw=1)
    if measure != "starc" and not measure.endswith("f1"):
        ax.axvline(CHANCE, color="0.6", lw=1, ls=":")
    ax.set_yticks(range(len(rows)), [row["reward"] for row in rows])
    ax.set_xlabel(TITLES[measure])
    if measure == "pair_accuracy":
        ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    return figure


def _draw_reliability(found, rows_are):
    figure, ax = _figure(3.4)
    ax.plot([0.5, 1], [0.5, 1], color="0.6", lw=1, ls=":", label="probabilities that are right")
    for row in found["bins"]:
        if row["interval"] is not None:
            ax.plot([row["probability"]] * 2, [row["interval"].low, row["interval"].high], color=COLORS[0], lw=1.5)
    points = [(row["probability"], row["right"]) for row in found["bins"]]
    ax.plot(*zip(*points, strict=True), "o", color=COLORS[0], label=f"held-out {rows_are}, in bins")
    ax.set(xlabel="probability given to the reward's order", ylabel="share in the right order", xlim=(0.48, 1.02))
    ax.legend(frameon=False, loc="best")
    return figure


def _draw_margins(margins, rows_are):
    figure, ax = _figure(3.4)
    MarginDisplay(margins).plot(ax=ax)
    xlabel = "margin R(preferred) - R(other)" if rows_are == "pairs" else "reward, signed by the label"
    ax.set(ylabel=rows_are, xlabel=f"{xlabel},\nin standard deviations of the reward's margins")
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return figure
