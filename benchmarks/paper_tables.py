"""The tables and pictures of the evidence benchmark, from the lines of its results. For paper.py."""

import numpy as np
import pandas as pd
from paper_data import FEATURES, REGIMES, TRUTHS
from paper_learners import FAILURES, LEARNERS
from scipy import stats

UNTUNED, NO_FAILURES = "MaxMarginIRL, untuned", "no failures"
FIRST = ("given", next(iter(FEATURES)))  # the features of the baseline, in a and elsewhere
COMPARISONS = {  # name of a difference -> (learner, features) of what it is to; None: the same
    "to untuned": (UNTUNED, FIRST),
    "to no failures": (NO_FAILURES, None),
    "to MiniLM": (None, FIRST),
}
BY_LABEL = ["label F1", "label AUC", "STARC"]
PAIRS = ["pair accuracy", "output F1", "output AUC", "ECE"]
ADDED = [*PAIRS, *BY_LABEL, *(f"{name}, second truth" for name in BY_LABEL)]
OVERVIEW = [UNTUNED, "MaxEntropyIRL", "paper", "FailureAwareIRL", "with labels", "classifier of labels", "null: length"]
EFFECTS = ["pair accuracy", "label AUC", "STARC", "ECE"]  # the measures that failures are judged by
LESS_IS_BETTER = ("STARC", "ECE")
PLACE = ["regime", "cell", "features"]
_COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]

# ------------------------------------------------------------------------------------------------------- figures


def read_scores(records):
    """A row a fit and measure, in the order of the cells and learners."""
    flat = [{name: record[name] for name in (*PLACE, "seed", "learner")} | record["scores"] for record in records]
    scores = pd.DataFrame(flat)
    measures = [name for name in scores.columns if name not in (*PLACE, "seed", "learner")]
    long = scores.melt([*PLACE, "seed", "learner"], measures, "measure").dropna(subset="value")
    orders = {
        "cell": scores["cell"].unique(),
        "features": (FIRST[0], *FEATURES),
        "learner": LEARNERS,
        "measure": measures,
    }
    for name, order in orders.items():
        long[name] = pd.Categorical(long[name], list(order), ordered=True)
    return long


def half_width(values):
    """Half the width of a 95 % t-interval of the mean; NaN of one value."""
    return stats.t.ppf(0.975, values.count() - 1) * values.sem() if values.count() > 1 else np.nan


def summarize(long):
    """Means over seeds and half the widths of their intervals: of values, and of differences seed by seed."""
    for name, (learner, features) in COMPARISONS.items():
        base = long[long["learner"] == learner] if learner else long
        base = base[base["features"].isin(features)] if features else base
        keys = [
            "regime",
            "cell",
            "seed",
            "measure",
            *([] if learner else ["learner"]),
            *([] if features else ["features"]),
        ]
        base = base.set_index(keys)["value"].rename("base")
        long = long.assign(**{name: long["value"] - long[keys].join(base, on=keys)["base"]})
    groups = long.groupby([*PLACE, "learner", "measure"], observed=True)
    columns = {"mean": ("value", "mean"), "half": ("value", half_width), "seeds": ("seed", "nunique")}
    for name in COMPARISONS:
        columns |= {name: (name, "mean"), f"{name}, half": (name, half_width)}
    return groups.agg(**columns).reset_index()


def place_names(rows):
    """Regime and cell in one text, in the order of the rows."""
    names = rows["regime"] + ". " + np.where(rows["regime"].isin(["a", "b"]), rows["regime"].map(REGIMES) + ", ", "")
    return names + rows["cell"].astype(str)


def transferred(summary):
    """The rows of c that are measured on the texts of b, as rows of another place."""
    rows = summary[summary["measure"].astype(str).str.startswith("transfer ")]
    names = rows["measure"].astype(str).str.removeprefix("transfer ")
    return rows.assign(cell="ParaDetox, measured on texts of b", measure=names)


# -------------------------------------------------------------------------------------------------------- tables


def is_clear(rows, name):
    """Whether the interval of a difference leaves out 0."""
    return rows[name].abs() > rows[f"{name}, half"]


def table(rows, columns, order):
    """Markdown: a row for each place and features, the texts of ``rows`` side by side."""
    rows = rows.assign(pairs=place_names)
    rows = rows.assign(pairs=pd.Categorical(rows["pairs"], rows["pairs"].unique(), ordered=True))
    shown = rows.assign(**{columns: rows[columns].astype(str)})
    shown = shown.pivot_table("text", ["pairs", "features"], columns, "first", observed=True)
    order = [name for name in order if name in shown]
    return shown[order].fillna("").reset_index().to_markdown(index=False, disable_numparse=True)


def overview_table(summary):
    """Label F1, label AUC and STARC of the learners of OVERVIEW; where no labels are known, pair accuracy."""
    rows = pd.concat([summary.astype({"measure": str}), transferred(summary)], ignore_index=True)
    rows = rows[rows["learner"].isin(OVERVIEW)].sort_values(["regime"], kind="stable")
    by_label = rows["measure"].isin(BY_LABEL) | rows["regime"].isin(["e", "f"]) & (rows["measure"] == "pair accuracy")
    rows = rows[by_label].assign(text=rows["mean"].map("{:.3f}".format))
    keys = [*PLACE, "learner"]
    return table(
        rows.groupby(keys, observed=True, sort=False)["text"].agg(", ".join).reset_index(), "learner", OVERVIEW
    )


def difference_table(rows, difference, columns, order):
    """Differences of one name, in bold where clear."""
    figures = zip(rows[difference], rows[f"{difference}, half"], is_clear(rows, difference), strict=True)
    texts = [f"{'**' * clear}{value:+.4f} ± {half:.4f}{'**' * clear}" for value, half, clear in figures]
    return table(rows.assign(text=texts), columns, order)


def counts_table(summary):
    """How often a variant with failures is clearly better or worse than without them."""
    rows = summary[summary["measure"].isin(EFFECTS) & summary["learner"].isin(FAILURES)]
    gain = rows["to no failures"] * np.where(rows["measure"].isin(LESS_IS_BETTER), -1, 1)
    clear = is_clear(rows, "to no failures")
    counted = rows.assign(better=clear & (gain > 0), worse=clear & (gain < 0), of=1).groupby("learner", observed=True)
    counts = counted[["better", "worse", "of"]].sum()
    return counts.rename(columns={"better": "clearly better", "worse": "clearly worse"}).to_markdown()


def cell_table(rows):
    """All learners and measures of a cell; in bold what is clearly better than the untuned standard learner."""
    sign = np.where(rows["measure"].astype(str).str.contains("STARC|ECE"), -1, 1)
    better = is_clear(rows, "to untuned") & (rows["to untuned"] * sign > 0)
    figures = zip(rows["mean"], rows["half"], better, strict=True)
    texts = [f"{'**' * bold}{mean:.3f} ± {half:.3f}{'**' * bold}" for mean, half, bold in figures]
    shown = rows.assign(text=texts).pivot_table("text", ["features", "learner"], "measure", "first", observed=True)
    return shown.fillna("").reset_index().to_markdown(index=False, disable_numparse=True)


def make_tables(summary, plan):
    """All tables, Markdown."""
    parts = [
        f"Means over {plan.seeds} seeds, ± half a 95 % t-interval. STARC and ECE (expected calibration error): less is "
        "better. A difference is paired by seed, and in bold where its interval leaves out 0.",
        "## Overview: label F1, label AUC, STARC; of e and f pair accuracy",
        overview_table(summary),
        "## Do failures pay? Differences to the same learner without failures",
        counts_table(summary),
    ]
    failing = summary[summary["learner"].isin(FAILURES)]
    for measure in [measure for measure in EFFECTS if (failing["measure"] == measure).any()]:
        rows = failing[failing["measure"] == measure]
        parts += [f"### {measure}", difference_table(rows, "to no failures", "learner", FAILURES)]
    rows = pd.concat([summary.astype({"measure": str}), transferred(summary)], ignore_index=True)
    rows = rows[(rows["features"] != FIRST[1]) & (rows["regime"] != "a")].sort_values("regime", kind="stable")
    for learner in [learner for learner in ("FailureAwareIRL", "with labels") if (rows["learner"] == learner).any()]:
        title = f"## What n-grams add to MiniLM: differences of *{learner}*"
        parts += [title, difference_table(rows[rows["learner"] == learner], "to MiniLM", "measure", ADDED)]
    parts.append("## Everything, in bold where clearly better than the untuned MaxMarginIRL on MiniLM alone")
    for (regime, _), rows in summary.groupby(["regime", "cell"], sort=False):
        transfer = rows["measure"].astype(str).str.startswith("transfer ")
        second = rows["measure"].astype(str).str.contains(", ")
        title = place_names(rows).iloc[0]
        parts += [f"### {title}", cell_table(rows[~transfer & ~second])]
        if any(TRUTHS[regime][1:]):
            kind = "errors by kind" if regime == "f" else "second truth"
            parts += [f"### {title}: {kind}", cell_table(rows[~transfer & second])]
        if transfer.any():
            parts += [f"### {title}, measured on texts of b", cell_table(rows[transfer])]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------------ pictures


def plot(rows, measures, learners, value, path, title):
    """Figures with their intervals: a panel a measure, a row for each place and features, a color a learner."""
    from matplotlib.figure import Figure

    rows = rows.assign(
        name=place_names(rows) + np.where(rows["regime"] == "a", "", ", " + rows["features"].astype(str))
    )
    names = list(dict.fromkeys(rows["name"]))
    figure = Figure(figsize=(3.2 + 2.4 * len(measures), 1.2 + 0.42 * len(names)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
    for axis, measure in zip(axes, measures, strict=True):
        for band in range(1, len(names), 2):
            axis.axhspan(band - 0.5, band + 0.5, color="0.95", zorder=0)
        if value != "mean":
            axis.axvline(0, color="0.4", lw=1)
        for number, learner in enumerate(learners):
            some = rows[(rows["measure"] == measure) & (rows["learner"] == learner)]
            y = [names.index(name) + (number - (len(learners) - 1) / 2) * 0.75 / len(learners) for name in some["name"]]
            style = {"fmt": "o", "ms": 3.5, "lw": 1, "color": _COLORS[number % len(_COLORS)], "label": learner}
            axis.errorbar(some[value], y, xerr=some["half" if value == "mean" else f"{value}, half"], **style)
        axis.set_title(measure + (" (less is better)" if measure in LESS_IS_BETTER else ""), fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize="small")
        axis.locator_params(axis="x", nbins=5)
    axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    figure.suptitle(title, fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)


def draw(summary, folder):
    """Two pictures: what learners reach, and what failures add."""
    learners = [name for name in OVERVIEW if not name.startswith("null")]
    title = "Label AUC, STARC and pair accuracy of six learners"
    plot(summary, ["label AUC", "STARC", "pair accuracy"], learners, "mean", folder / "overview.png", title)
    title = "Difference to the same learner without failures"
    plot(summary, EFFECTS, list(FAILURES), "to no failures", folder / "failures.png", title)
