"""Where a reward fails: subgroups in which it is clearly worse than elsewhere.

Candidates are chosen on training rows, by rewards of other folds, and tested on held-out rows. `run` adds the result to
the audit; `page` shows it.
"""

from collections import Counter
from functools import partial
from textwrap import fill

import numpy as np
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.tree import DecisionTreeClassifier

from ..metrics import bootstrap_interval, pair_accuracy
from ..plot import COLORS
from .label_errors import BY_A_COPY, BY_LABELS, MISLABELED, OWN_ERROR
from .sections import Finding, Picture, Section, Table, percent_text, sample_words
from .significance import holm, lower_p_value

LEVEL = 0.01  # of the corrected p-values
LEAST_GAP = 0.05  # a subgroup is named if its accuracy is lower by at least this
N_TESTED = 10  # candidates that are tested on held-out rows
CANDIDATE_LEVEL = 0.01  # of the p-values on training rows, uncorrected
MIN_GROUPS = 5  # of a subgroup, in either part
MIN_SHARE = 0.02  # of the training rows
SAME = 0.7  # candidates that share this part of their union are one
MAX_VALUES = 20  # a column with more values is cut into quarters, or left out if it holds words
MAX_WORDS = 300
N_CLUSTERS = 8
HOLDS, IS, SOME_WORD = " holds ", " is ", "a certain word"  # in names of subgroups
MAX_CLUSTERED = 5_000  # training rows that find the clusters
REMEDY = "Read rows of the subgroup: correct their labels, add more of them, or do not use the reward there."
RULE = (
    "Candidates are found on training rows, by rewards that were not fitted to these rows, and tested on held-out "
    f"rows. A subgroup is flagged if its accuracy there is at least {100 * LEAST_GAP:g} points lower than elsewhere, "
    f"and chance hardly explains that: p < {LEVEL:g} in a binomial test with the design effect of groups, with Holm's "
    "correction for the number tested."
)


def find_subgroups(slices, credit, train, test, groups, *, n_resamples=1000, random_state=0):
    """Subgroups whose accuracy is surely lower than that of the other held-out rows.

    Parameters
    ----------
    slices : dict of str to ndarray of shape (n_rows,), bool
        Candidates by name, over all rows. What defines them, such as quantiles, comes from training rows.
    credit : ndarray of shape (n_rows,)
        1 where the row is in the right order, 0 where it is not, 1/2 for a tie: in training rows by a reward that was
        fitted to other training rows, in held-out rows by the reward that is audited.
    train, test : ndarray of int
        Row numbers of both parts.
    groups : ndarray of shape (n_rows,)
    n_resamples, random_state
        Of the intervals.

    Returns
    -------
    found : dict
        ``tried`` (number of candidates that are large enough), and ``tested``, a list of dict, the surest first:
        ``subgroup`` (its name, see `name_of`) and ``word`` (the word of the data in it), ``inside`` (n_test,), bool,
        ``rows`` (held out), ``share``, ``accuracy`` (`BootstrapInterval`), ``elsewhere`` (accuracy of the other rows),
        ``p``, ``p_corrected`` and ``named``.
    """
    chosen, tried = _choose(slices, credit, train, groups)
    tested = []
    for name in chosen:
        inside = slices[name][test]
        n_groups = len(np.unique(groups[test][inside]))
        if n_groups < MIN_GROUPS or inside.all():
            continue
        own = credit[test][inside]
        tested.append(
            {
                **_name_parts(name),
                "inside": inside,
                "rows": int(inside.sum()),
                "share": float(inside.mean()),
                "accuracy": bootstrap_interval(
                    pair_accuracy,
                    None,
                    own - 0.5,
                    groups=groups[test][inside],
                    n_resamples=n_resamples,
                    random_state=random_state,
                ),
                "elsewhere": float(credit[test][~inside].mean()),
                "p": lower_p_value(credit[test], inside, groups[test]),
            }
        )
    for row, corrected in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_corrected"] = float(corrected)
        row["named"] = bool(corrected < LEVEL and row["accuracy"].estimate <= row["elsewhere"] - LEAST_GAP)
    return {"tried": tried, "tested": sorted(tested, key=lambda row: (row["p_corrected"], row["p"]))}


def _name_parts(name):
    """The name of a subgroup, apart from the word of the data in it, which a report without texts leaves out."""
    for verb in (HOLDS, IS):
        what, found, word = name.partition(verb)
        if found:
            return {"subgroup": f"{what}{verb}{SOME_WORD}", "word": word}
    return {"subgroup": name}


def _choose(slices, credit, train, groups):
    """Names of the candidates with clearly lower accuracy on training rows, no two nearly the same; and how many."""
    groups, credit, ranked = groups[train], credit[train], []
    for name, mask in slices.items():
        inside = mask[train]
        if not MIN_SHARE <= inside.mean() < 1 or len(np.unique(groups[inside])) < MIN_GROUPS:
            continue
        gap = credit[~inside].mean() - credit[inside].mean()
        ranked.append((lower_p_value(credit, inside, groups) if gap >= LEAST_GAP else 1.0, name))
    chosen = []
    for p, name in sorted(ranked):
        mask = slices[name][train]
        overlaps = ((mask & slices[other][train]).sum() / (mask | slices[other][train]).sum() for other in chosen)
        if p < CANDIDATE_LEVEL and len(chosen) < N_TESTED and all(overlap < SAME for overlap in overlaps):
            chosen.append(name)
    return chosen, len(ranked)


# ------------------------------------------------------------------------------------------------------ slices


def value_slices(columns, train):
    """Slices by columns of numbers or words.

    Parameters
    ----------
    columns : dict of str to ndarray of shape (n_rows,) or (n_rows, 2)
        A column of both outputs is averaged if it holds numbers. If it holds words, a slice is "NAME of an output is
        ...".
    train : ndarray of int
        Rows whose quartiles cut numbers.

    Returns
    -------
    dict of str to ndarray of shape (n_rows,), bool
    """
    slices = {}
    for name, values in columns.items():
        distinct = np.unique(values.astype(str) if values.dtype.kind == "O" else values)
        if len(distinct) < 2:
            continue
        if values.dtype.kind in "iufb" and (len(distinct) > MAX_VALUES or values.ndim == 2):
            slices |= _quarters(name, values.astype(np.float64), train)
        elif len(distinct) <= MAX_VALUES:
            for value in distinct:
                mask = values.astype(distinct.dtype) == value
                if mask.ndim == 1:
                    slices[f"{name}{IS}{value}"] = mask
                else:
                    slices[f"{name} of an output{IS}{value}"] = mask.any(axis=1)
    return slices


def _quarters(name, values, train):
    values = values if values.ndim == 1 else values.mean(axis=1)
    known = values[train][np.isfinite(values[train])]
    if not len(known):
        return {}
    low, high = np.quantile(known, [0.25, 0.75])
    return {f"{name} at most {low:.3g}": values <= low, f"{name} at least {high:.3g}": values >= high}


def word_slices(texts, train, what):
    """Slices of rows whose texts hold a word, "WHAT holds word", for the words that most training rows hold.

    Parameters
    ----------
    texts : ndarray of str of shape (n_rows,) or (n_rows, 2)
    train : ndarray of int
    what : str
        Where the word is, such as "the prompt".
    """
    joined = texts if texts.ndim == 1 else [" ".join(pair) for pair in texts]
    vectorizer = CountVectorizer(binary=True, min_df=MIN_SHARE, max_df=0.5, max_features=MAX_WORDS, dtype=np.int8)
    try:
        vectorizer.fit([joined[row] for row in train])
    except ValueError:  # no word that is frequent enough
        return {}
    held = vectorizer.transform(joined).tocsc()
    names = vectorizer.get_feature_names_out()
    return {f"{what}{HOLDS}{name}": held[:, [i]].toarray()[:, 0] > 0 for i, name in enumerate(names)}


def cluster_slices(X, train, what, random_state=0):
    """Slices of k-means clusters of the rows' features.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features) or (n_rows, 2, n_features)
        Features of both outputs are averaged.
    train : ndarray of int
        Rows that the clusters are fitted to, at most `MAX_CLUSTERED` of them, drawn.
    what : str
        What is in the clusters, such as "outputs".
    random_state : int

    Returns
    -------
    dict of str to ndarray of shape (n_rows,), bool
        "cluster 3 of WHAT", ...
    """
    X = X if X.ndim == 2 else X.mean(axis=1)
    drawn = np.random.default_rng(random_state).permutation(train)[:MAX_CLUSTERED]
    n_clusters = min(N_CLUSTERS, len(np.unique(X[drawn], axis=0)))
    if n_clusters < 2:
        return {}
    clusters = KMeans(n_clusters, n_init=1, random_state=random_state).fit(X[drawn]).predict(X)
    return {f"cluster {number + 1} of {what}": clusters == number for number in range(n_clusters)}


def tree_slices(columns, credit, train, random_state=0):
    """Slices of combined conditions: the leaves of a shallow tree that predicts wrong order from columns of numbers.

    Parameters
    ----------
    columns : dict of str to ndarray of shape (n_rows,) or (n_rows, 2)
    credit : ndarray of shape (n_rows,)
        Only that of training rows is read.
    train : ndarray of int
    random_state : int
    """
    columns = {
        name: values if values.ndim == 1 else values.mean(axis=1)
        for name, values in columns.items()
        if values.dtype.kind in "iufb" and np.isfinite(values).all() and len(np.unique(values)) > 1
    }
    wrong = credit[train] < 0.5
    if not columns or wrong.all() or not wrong.any():
        return {}
    table = np.column_stack(list(columns.values())).astype(np.float64)
    tree = DecisionTreeClassifier(max_depth=2, min_samples_leaf=MIN_SHARE, random_state=random_state)
    tree.fit(table[train], wrong)
    leaves, conditions = tree.apply(table), _conditions_of_leaves(tree.tree_, list(columns))
    return {_in_words(of_leaf): leaves == leaf for leaf, of_leaf in conditions.items() if len(of_leaf) > 1}


def _conditions_of_leaves(tree, columns, node=0, conditions=()):
    """The conditions that lead to each leaf, by its number: of each the column, and the ends of its values."""
    if tree.children_left[node] < 0:
        return {node: conditions}
    name, threshold = columns[tree.feature[node]], float(tree.threshold[node])
    visit = partial(_conditions_of_leaves, tree, columns)
    return {
        **visit(tree.children_left[node], (*conditions, (name, -np.inf, threshold))),
        **visit(tree.children_right[node], (*conditions, (name, threshold, np.inf))),
    }


def _in_words(conditions):
    """Conditions of a leaf in words, one a column."""
    ranges = {}
    for name, low, high in conditions:
        known = ranges.get(name, (-np.inf, np.inf))
        ranges[name] = max(low, known[0]), min(high, known[1])
    return " and ".join(
        f"{name} above {low:.3g}" if high == np.inf
        else f"{name} at most {high:.3g}" if low == -np.inf
        else f"{name} between {low:.3g} and {high:.3g}"
        for name, (low, high) in ranges.items()
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- section


def subgroups_section(result):
    """Where the reward fails: a `Section` of a report, with the hardest rows."""
    found, rows_are, title = result.subgroups, result.settings["rows_are"], "Where does it fail?"
    if found["left_out"]:
        return Section(title, found["left_out"], tables=[_hardest_table(result)])
    named = [row for row in found["tested"] if row["named"]]
    words = [f"{found['reward']} is clearly worse in {len(named) or 'no'} subgroup{'s' * (len(named) != 1)}."]
    words += [f"{_named(rows_are, row)}." for row in named] + [REMEDY] * bool(named)
    tested = len(found["tested"])
    clearest = "none was clearly worse there"
    if tested:
        clearest = (
            f"the {f'{tested} clearest were' if tested > 1 else 'clearest one was'} tested on held-out {rows_are}"
        )
    words.append(f"{found['tried']} candidates were searched on training {rows_are}; {clearest}.")
    words += sample_words(found["rows"], result.settings["rows"], rows_are)
    pictures = []
    shown = named or found["tested"]
    if shown:
        lowest = min(shown, key=lambda row: row["accuracy"].estimate)
        alt = f"Accuracy in {len(shown)} {'flagged ' * bool(named)}subgroups with intervals. The lowest is "
        alt += f"{lowest['accuracy'].estimate:.0%}, and {lowest['elsewhere']:.0%} elsewhere."
        pictures = [Picture("subgroups", lambda: _draw_subgroups(shown, rows_are), alt)]
    tables = [*_example_table(result), _table(found["tested"], rows_are), _hardest_table(result)]
    return Section(title, "\n".join(filter(None, [" ".join(words), _reasons(result)])), pictures, tables)


def _reasons(result):
    """Why the hardest rows are in the wrong order, and what follows from that."""
    reasons, rows_are = Counter(row["reason"] for row in result.failures), result.settings["rows_are"]
    if not reasons:
        return ""
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    text = f"The {len(result.failures)} hardest {rows_are}, by reason: {counted}."
    if reasons[BY_LABELS]:
        text += " (Output labels, of the data or of the reference, say of each output alone whether it is desirable.)"
    mislabeled = sum(reasons[reason] for reason in (BY_A_COPY, BY_LABELS, MISLABELED))
    if 2 * mislabeled > len(result.failures):
        text += " So most look like wrong labels rather than errors of the reward: correct these labels first."
    elif 2 * reasons[OWN_ERROR] > len(result.failures):
        text += " So most are errors of the reward: add pairs like these."
    return text


def subgroups_findings(result):
    """A finding for each subgroup in which the reward is clearly worse."""
    return [
        Finding(
            _doubt(row),
            f"The reward fails in a subgroup. {_named(result.settings['rows_are'], row)}.",
            REMEDY,
            f'in the subgroup "{name_of(row)}", {row["accuracy"].estimate:.0%} are in the right order',
        )
        for row in result.subgroups["tested"]
        if row["named"]
    ]


def worst_subgroup(tested):
    """Of tested subgroups, the flagged one with the most pairs in the wrong order beyond those elsewhere, or None."""
    return max((row for row in tested if row["named"]), key=_doubt, default=None)


def _doubt(row):
    return row["share"] * (row["elsewhere"] - row["accuracy"].estimate)


def _named(rows_are, row):
    return (
        f'In the subgroup "{name_of(row)}" ({row["share"]:.0%} of the {rows_are}), {percent_text(row["accuracy"])} '
        f"are in the right order, elsewhere {row['elsewhere']:.0%}"
    )


def name_of(row):
    """The name of a subgroup with the word that its outputs or prompts hold, if the report has texts."""
    return row["subgroup"].replace(SOME_WORD, f"{row['word']!r}") if row.get("word") else row["subgroup"]


def _table(rows, rows_are):
    return Table(
        f"Subgroups tested on held-out {rows_are}, the surest first",
        ["subgroup", rows_are, "share", "accuracy", "elsewhere", "p, corrected", "flagged"],
        [
            [
                name_of(row),
                f"{row['rows']}",
                f"{row['share']:.0%}",
                percent_text(row["accuracy"]),
                f"{row['elsewhere']:.0%}",
                f"{row['p_corrected']:.2g}",
                "yes" if row["named"] else "no",
            ]
            for row in rows
        ],
    )


def _example_table(result):
    """One pair of the worst subgroup, in a list; empty if there is none."""
    row = result.subgroups.get("example")
    if row is None:
        return []
    texts = [name for name in ("preferred", "other", "output") if name in row]
    cells = [f"{row['index']}", f"{row['margin']:+.2f}", *(row[name] for name in texts)]
    caption = f"One of the {result.settings['rows_are']} in the worst subgroup. The lowest margin where {name_of(row)}"
    return [Table(caption, ["row", "margin", *texts], [cells], of_texts=True, is_open=True)]


def _hardest_table(result):
    texts = ("output",) if result.settings["rows_are"] == "outputs" else ("preferred", "other")
    return Table(
        f"The hardest {result.settings['rows_are']}, by the lowest margins; decided by: the largest parts of these",
        ["row", "margin", "reason", *texts, "decided by"],
        [
            [
                f"{row['index']}",
                f"{row['margin']:+.2f}",
                row["reason"],
                *(row.get(t, "") for t in texts),
                row.get("decided_by", ""),
            ]
            for row in result.failures
        ],
        of_texts=True,
    )


def _draw_subgroups(rows, rows_are):
    """Accuracy in each tested subgroup with its interval, and elsewhere."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(8, 1.2 + 0.5 * len(rows)), layout="constrained")
    ax = figure.subplots()
    at = np.arange(len(rows))[::-1]
    value, low, high = np.array([row["accuracy"][:3] for row in rows]).T
    errors = np.maximum((value - low, high - value), 0)
    ax.errorbar(value, at, xerr=errors, fmt="o", capsize=2, color=COLORS[0], label="in the subgroup")
    ax.plot([row["elsewhere"] for row in rows], at, "|", markersize=12, color=COLORS[1], label="elsewhere")
    ax.set_yticks(at, [fill(f"{name_of(row)} ({row['rows']}){' *' * row['named']}", 45) for row in rows])
    ax.set(xlabel=f"accuracy (in parentheses: held-out {rows_are}; *: flagged)", ylim=(-0.6, len(rows) - 0.4))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure
