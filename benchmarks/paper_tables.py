"""The tables and pictures of the evidence benchmark, from the lines of its results. For paper.py."""

import numpy as np
import pandas as pd
from paper_data import REGIMES
from paper_learners import ABLATIONS, CHOSEN_FROM, DEFAULT, LEARNERS, OBJECTIVE_CHOSEN, UNTUNED
from scipy import stats

MEASURES = ["pair accuracy", "output F1", "output AUC", "label F1", "label AUC", "STARC", "calibration error"]
COUNTED = MEASURES[1:6]
TRANSFER = ["transfer label F1", "transfer label AUC", "transfer STARC"]
ABLATED = ["output F1", "label AUC", "STARC"]  # the measures of the picture of ablations
MOST_PERCENT = 60  # larger differences would hide the others
LESS_IS_BETTER = {"STARC", "calibration error", "transfer STARC"}
OVERVIEW = {  # short name -> learner
    "paper": "paper",
    "FailureAwareIRL": "FailureAwareIRL",
    "objective chosen": OBJECTIVE_CHOSEN,
    "FailureAwareIRLCV": "FailureAwareIRLCV",
    "paper, labels": "paper, labels",
    "outputs and labels": "outputs and labels, max_margin",
}
AGAINST_UNTUNED = ["FailureAwareIRL, untuned", "FailureAwareIRLCV", "outputs and labels, max_margin"]
WITH_LABELS = {name for name, learner in {**LEARNERS, **ABLATIONS}.items() if learner.labels}
PLACE = ["regime", "cell"]
_COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]

# ------------------------------------------------------------------------------------------------------- figures


def read_scores(records):
    """A row a fit: place, seed, learner, alpha, loss in cross-validation, and every measure."""
    flat = [{k: v for k, v in r.items() if k not in ("scores", "warnings")} | r["scores"] for r in records]
    scores = pd.DataFrame(flat).astype({"cv score": float})
    pair = scores[scores["learner"].isin(CHOSEN_FROM) & (scores["regime"] != "ablations")]
    best = pair.groupby([*PLACE, "seed"])["cv score"].idxmax()
    scores = pd.concat([scores, scores.loc[best].assign(learner=OBJECTIVE_CHOSEN)], ignore_index=True)
    after = list(LEARNERS).index(CHOSEN_FROM[-1]) + 1
    order = [*list(LEARNERS)[:after], OBJECTIVE_CHOSEN, *list(LEARNERS)[after:], *ABLATIONS]
    scores["learner"] = pd.Categorical(scores["learner"], order, ordered=True)
    return scores.sort_values("learner", kind="stable", ignore_index=True)


def best_standard(scores):
    """By regime and cell, the standard learner of the least loss in cross-validation; of ablations the default."""
    standard = scores[scores["learner"].isin([name for name, learner in LEARNERS.items() if learner.standard])]
    loss = standard.groupby([*PLACE, "learner"], observed=True)["cv score"].mean()
    best = loss.groupby(PLACE).idxmax().map(lambda key: key[-1])
    ablations = scores.loc[scores["regime"] == "ablations", PLACE].drop_duplicates().set_index(PLACE).index
    return pd.concat([best, pd.Series(DEFAULT, ablations)])


def compare(scores, baseline):
    """A row a fit and measure: its value, and its difference to the baseline of the cell on the same seed."""
    measures = [name for name in [*MEASURES, "correlation", "flipped AUC", *TRANSFER] if name in scores]
    long = scores.melt([*PLACE, "seed", "learner"], measures, "measure").dropna(subset="value")
    long["measure"] = pd.Categorical(long["measure"], measures, ordered=True)
    long = long.join(baseline.rename("baseline"), on=PLACE)
    keys = [*PLACE, "seed", "measure"]
    against = long[long["learner"].astype(str) == long["baseline"]].set_index(keys)["value"]
    long["difference"] = long["value"] - long[keys].join(against, on=keys)["value"]
    return long


def half_width(values):
    """Half the width of a 95 % t-interval of the mean; NaN of one value."""
    return stats.t.ppf(0.975, values.count() - 1) * values.sem() if values.count() > 1 else np.nan


def summarize(long, by=(*PLACE, "learner", "measure", "baseline")):
    """Means over seeds and half the widths of their intervals, of the values and of the differences."""
    groups = long.groupby(list(by), observed=True, sort=False)
    columns = {"mean": ("value", "mean"), "half": ("value", half_width), "seeds": ("seed", "nunique")}
    columns |= {"difference": ("difference", "mean"), "difference half": ("difference", half_width)}
    return groups.agg(**columns).reset_index()


def pool(long):
    """Differences averaged over the cells of a regime seed by seed, then over the seeds that all cells have."""
    by_seed = long.groupby(["regime", "learner", "measure", "seed"], observed=True)
    pooled = by_seed[["value", "difference"]].mean().assign(cells=by_seed.size()).reset_index()
    n_cells = long.groupby("regime")["cell"].nunique()
    return summarize(pooled[pooled["cells"] == pooled["regime"].map(n_cells)], ["regime", "learner", "measure"])


# -------------------------------------------------------------------------------------------------------- tables


def is_clear(row):
    """Whether the interval of a difference leaves out 0."""
    return abs(row["difference"]) > row["difference half"]


def show_difference(row, digits=3):
    """In bold where its interval leaves out 0."""
    text = f"{row['difference']:+.{digits}f} ± {row['difference half']:.{digits}f}"
    return f"**{text}**" if is_clear(row) else text


def show_figure(row):
    """Mean and interval; in brackets the difference to the baseline."""
    text = f"{row['mean']:.3f} ± {row['half']:.3f}"
    return text if row["learner"] == row["baseline"] else f"{text} ({show_difference(row)})"


def table(rows, index, columns, show, order):
    """Markdown of one text a row and column."""
    shown = rows.assign(text=rows.apply(show, axis=1)).pivot(index=index, columns=columns, values="text")
    shown = shown[order].fillna("")
    return shown.rename_axis(columns=None).reset_index().to_markdown(index=False, disable_numparse=True)


def cell_table(rows, measures):
    """All learners of a cell."""
    roles = {name: f"{name} (labels)" for name in WITH_LABELS}
    roles |= {name: f"{name} (best standard)" for name in rows["baseline"] if name in LEARNERS}
    rows = rows[rows["measure"].isin(measures)]
    names = rows["learner"].cat.remove_unused_categories().cat.rename_categories(roles)
    rows = rows.assign(text=rows.apply(show_figure, axis=1), learner=names)
    return table(rows, "learner", "measure", lambda row: row["text"], measures)


def place_names(rows):
    """Regime and cell in one text, in the order of the rows."""
    names = rows["regime"] + ". " + rows["cell"]
    return pd.Categorical(names, names.unique(), ordered=True)


def overview_table(summary):
    """The best standard learner's figures, and the differences of the learners of OVERVIEW."""
    rows = summary[summary["measure"].isin(["label F1", "STARC"])]
    best = rows[rows["learner"].astype(str) == rows["baseline"]].assign(column="best standard")
    others = rows[rows["learner"].isin(OVERVIEW.values())]
    others = others.assign(column=others["learner"].astype(str).map({v: k for k, v in OVERVIEW.items()}))
    rows = pd.concat([best, others])

    def show(row):
        return f"{row['mean']:.3f}" if row["column"] == "best standard" else show_difference(row)

    return table(rows.assign(pairs=place_names), ["pairs", "measure"], "column", show, ["best standard", *OVERVIEW])


def counts_table(summary):
    """How often, over cells and measures, a learner is clearly better or worse than the best standard one."""
    rows = summary[summary["measure"].isin(COUNTED)]
    of = rows[PLACE].drop_duplicates().shape[0] * len(COUNTED)
    gain = rows["difference"] * np.where(rows["measure"].isin(LESS_IS_BETTER), -1, 1)
    clear = is_clear(rows) & (rows["learner"].astype(str) != rows["baseline"])
    counted = rows.assign(better=clear & (gain > 0), worse=clear & (gain < 0)).groupby("learner", observed=True)
    counts = counted[["better", "worse"]].sum()
    counts.index = [f"{name} (labels)" if name in WITH_LABELS else name for name in counts.index]
    return counts.rename(columns={"better": f"clearly better, of {of}", "worse": "clearly worse"}).to_markdown()


def regimes_table(long):
    """Differences of the learners without labels, averaged over the cells of a regime."""
    rows = pool(long[long["measure"].isin(COUNTED)])
    rows = rows[rows["learner"].isin(set(OVERVIEW.values()) - WITH_LABELS)]
    rows = rows.assign(pairs=[f"{regime}. {REGIMES[regime]}" for regime in rows["regime"]])
    return table(rows, ["pairs", "learner"], "measure", lambda row: show_difference(row, 4), COUNTED)


def untuned_table(scores):
    """Label F1 and AUC, a star where clear, and STARC in percent, against the untuned standard learner."""
    places = scores[PLACE].drop_duplicates().set_index(PLACE).index
    rows = summarize(compare(scores, pd.Series(UNTUNED, places)))
    rows = rows[rows["learner"].isin([UNTUNED, *AGAINST_UNTUNED])]
    rows = rows[rows["measure"].isin(["label F1", "label AUC", "STARC"])]
    base = (rows["mean"] - rows["difference"]).where(rows["measure"] == "STARC")

    def show(row):
        if row["learner"] == UNTUNED:
            return f"{row['mean']:.3f}"
        if row["measure"] != "STARC":
            return f"{row['difference']:+.3f}" + "*" * is_clear(row)
        percent = f"{100 * row['difference'] / row['base']:+.0f} %"
        return f"**{percent}**" if is_clear(row) else percent

    rows = rows.assign(base=base, pairs=place_names)
    rows["text"] = rows.apply(show, axis=1)
    joined = rows.groupby(["pairs", "learner"], observed=True, sort=False)["text"].agg(", ".join).reset_index()
    return table(joined, "pairs", "learner", lambda row: row["text"], [UNTUNED, *AGAINST_UNTUNED])


def signs_table(scores):
    """Of the cells with many flipped preferences, whether the sign of the reward is right, and who flipped."""
    noise = scores["cell"].str.extract(r"noise ([\d.]+)", expand=False).astype(float)
    by_place = scores[noise >= 0.3].groupby(["learner", "cell"], observed=True, sort=False)
    found = by_place.agg(
        low=("correlation", "min"), wrong=("correlation", lambda v: (v < 0).sum()), flips=("flipped AUC", "mean")
    )
    show = "{low:+.3f}, {wrong:.0f}; {flips:.3f}".format_map
    return table(found.reset_index(), "learner", "cell", show, list(scores.loc[noise >= 0.3, "cell"].unique()))


def make_tables(scores, long, summary, plan):
    """All tables, Markdown."""
    parts = [
        f"Mean over {plan.seeds} seeds, in the regimes b and c over {plan.seeds_of_texts}, ± half a 95 % t-interval. "
        "In brackets: the paired difference to the best standard learner (of ablations: to the default), in bold "
        "where its interval leaves out 0. STARC and calibration error: less is better."
    ]
    main = [frame[frame["regime"] != "ablations"] for frame in (scores, long, summary)]
    if len(main[0]):
        parts += [
            "## Overview: differences to the best standard learner",
            overview_table(main[2]),
            counts_table(main[2]),
        ]
        parts += ["## By regime: differences averaged over the cells of a regime", regimes_table(main[1])]
        parts += ["## Against the untuned standard learner: label F1, label AUC, STARC in %", untuned_table(main[0])]
    for regime in [regime for regime in REGIMES if regime in set(summary["regime"])]:
        parts.append(f"## {REGIMES[regime]}" if regime == "ablations" else f"## {regime}. {REGIMES[regime]}")
        own = summary[summary["regime"] == regime]
        for cell, rows in own.groupby("cell", sort=False):
            parts += [f"### {cell}", cell_table(rows, COUNTED if regime == "ablations" else MEASURES)]
            if regime == "c":
                parts += ["### Transfer: fitted on ParaDetox, measured on the texts of b", cell_table(rows, TRANSFER)]
        if regime == "a":
            parts += ["### Sign: lowest correlation with the truth, seeds on which it is below 0; AUC of the training "]
            parts[-1] += "margin as a flag of flipped pairs"
            parts.append(signs_table(scores[scores["regime"] == "a"]))
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------------ pictures


def plot_differences(rows, row, color, path, title):
    """Differences with their intervals: a panel a measure, named rows, and colors."""
    from matplotlib.figure import Figure

    names, colors, measures = (list(dict.fromkeys(rows[column].astype(str))) for column in (row, color, "measure"))
    height = 1.6 + len(names) * max(0.28, 0.09 * len(colors))
    figure = Figure(figsize=(2.8 + max(5.2, 2.3 * len(measures)), height), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(measures), sharey=True))
    for axis, measure in zip(axes, measures, strict=True):
        axis.axvline(0, color="0.4", lw=1)
        for band in range(1, len(names), 2):
            axis.axhspan(band - 0.5, band + 0.5, color="0.95", zorder=0)
        for number, label in enumerate(colors):
            some = rows[(rows["measure"] == measure) & (rows[color].astype(str) == label)]
            y = [names.index(str(name)) + (number - (len(colors) - 1) / 2) * 0.75 / len(colors) for name in some[row]]
            style = {"fmt": "o", "ms": 3, "lw": 1, "color": _COLORS[number % len(_COLORS)], "label": label}
            axis.errorbar(some["difference"], y, xerr=some["difference half"], **style)
        axis.set_title(measure + (" (less is better)" if measure in LESS_IS_BETTER else ""), fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize="small")
    axes[0].set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    figure.suptitle(title, fontsize="medium")
    if len(colors) > 1:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)


def draw(summary, folder):
    """All pictures: the overview, and for every regime (of a: every shape of the reward) the differences."""
    others = summary[(summary["learner"].astype(str) != summary["baseline"]) & summary["difference"].notna()]
    starc = others[(others["regime"] != "ablations") & (others["measure"] == "STARC")]
    starc = starc[starc["learner"].isin(OVERVIEW.values())].assign(pairs=place_names)
    if len(starc):
        percent = 100 / (starc["mean"] - starc["difference"])
        starc[["difference", "difference half"]] = starc[["difference", "difference half"]].mul(percent, axis=0)
        starc.loc[starc["difference"] > MOST_PERCENT, ["difference", "difference half"]] = MOST_PERCENT, 0
        starc["learner"] = starc["learner"].astype(str).map({v: k for k, v in OVERVIEW.items()})
        title = f"Difference to the best standard learner, in % of its STARC ({MOST_PERCENT} stands for more)"
        plot_differences(starc, "pairs", "learner", folder / "overview.png", title)
    for regime, rows in others.groupby("regime", sort=False):
        title = f"{REGIMES[regime]}: difference to the " + (
            "default" if regime == "ablations" else "best standard learner"
        )
        families = rows["cell"].str.split(",").str[0] if regime == "a" else pd.Series("", rows.index)
        shown = ABLATED if regime == "ablations" else MEASURES
        for family, some in rows[rows["measure"].isin(shown)].groupby(families, sort=False):
            name = "-".join(part for part in (regime, family.lower()) if part)
            path = "ablations.png" if regime == "ablations" else f"forest-{name}.png"
            plot_differences(some, "learner", "cell", folder / path, title)
        if regime == "c":
            some = rows[rows["measure"].isin(TRANSFER)]
            plot_differences(some, "learner", "cell", folder / "forest-transfer.png", f"{title}, on the texts of b")
