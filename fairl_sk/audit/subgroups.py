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
from .sections import Finding, Picture, Section, Table, sample_words
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
RULE = (
    "Candidates are found on the training rows, by rewards of the other folds, and tested on the held-out rows. A "
    f"subgroup is flagged if its accuracy there is at least {100 * LEAST_GAP:g} points lower than elsewhere, with "
    f"p < {LEVEL:g} by groups, corrected for the number tested (Holm)."
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
        ``subgroup`` (its name, see `name_of`) and ``word`` (the word of the data in it), ``rows`` (held out),
        ``share``, ``accuracy`` (`BootstrapInterval`), ``elsewhere`` (accuracy of the other rows), ``p``,
        ``p_corrected`` and ``named``.
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
        A column of both outputs is averaged if it holds numbers; if it holds words, a slice is "one of both is ...".
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
                slices[f"{name}{IS}{value}"] = mask if mask.ndim == 1 else mask.any(axis=1)
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
    leaves, names = tree.apply(table), _leaf_names(tree.tree_, list(columns))
    return {name: leaves == leaf for leaf, name in names.items() if " and " in name}


def _leaf_names(tree, columns, node=0, conditions=()):
    """The conditions that lead to each leaf, by its number."""
    if tree.children_left[node] < 0:
        return {node: " and ".join(conditions)}
    name, threshold = columns[tree.feature[node]], f"{tree.threshold[node]:.3g}"
    visit = partial(_leaf_names, tree, columns)
    return {
        **visit(tree.children_left[node], (*conditions, f"{name} at most {threshold}")),
        **visit(tree.children_right[node], (*conditions, f"{name} above {threshold}")),
    }


# ----------------------------------------------------------------------------------------------------- section


def subgroups_section(result):
    """Where the reward fails: a `Section` of a report, with the hardest rows."""
    found, rows_are, title = result.subgroups, result.settings["rows_are"], "Where does it fail?"
    if found["left_out"]:
        return Section(title, found["left_out"], tables=[_hardest_table(result)])
    named = [row for row in found["tested"] if row["named"]]
    tried = f"{found['tried']} were tried on training rows, {len(found['tested'])} of them on held-out rows"
    words = [f"{found['reward']} is clearly worse in {len(named) or 'no'} subgroup{'s' * (len(named) != 1)} ({tried})."]
    words += [f"{_named(rows_are, row)}." for row in named]
    reasons = Counter(row["reason"] for row in result.failures)
    if reasons:
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        words.append(f"The {len(result.failures)} hardest {rows_are} of FailureAwareIRL, by reason: {counted}.")
    words += sample_words(found["rows"], result.settings["rows"], rows_are)
    pictures = []
    if found["tested"]:
        lowest = min(found["tested"], key=lambda row: row["accuracy"].estimate)
        alt = f"Accuracy in {len(found['tested'])} subgroups with intervals. The lowest is "
        alt += f"{lowest['accuracy'].estimate:.0%}, and {lowest['elsewhere']:.0%} elsewhere."
        pictures = [Picture("subgroups", lambda: _draw_subgroups(found["tested"]), alt)]
    tables = [_table(found["tested"]), _hardest_table(result)]
    return Section(title, f"{' '.join(words)}\n{RULE}", pictures, tables)


def subgroups_findings(result):
    """A finding for each subgroup in which the reward is clearly worse."""
    return [
        Finding(
            row["share"] * (row["elsewhere"] - row["accuracy"].estimate),
            f"The reward fails in a subgroup. {_named(result.settings['rows_are'], row)}.",
            "Read rows of this subgroup: correct their labels, add more of them, or do not use the reward there.",
        )
        for row in result.subgroups["tested"]
        if row["named"]
    ]


def _named(rows_are, row):
    low, high = row["accuracy"].low, row["accuracy"].high
    return (
        f'In the subgroup "{name_of(row)}" ({row["share"]:.0%} of the {rows_are}), {row["accuracy"].estimate:.0%} '
        f"are in the right order [{low:.0%}, {high:.0%}], elsewhere {row['elsewhere']:.0%}"
    )


def name_of(row):
    """The name of a subgroup with the word that its outputs or prompts hold, if the report has texts."""
    return row["subgroup"].replace(SOME_WORD, f"{row['word']!r}") if row.get("word") else row["subgroup"]


def _table(rows):
    return Table(
        "Subgroups tested on held-out rows, the surest first",
        ["subgroup", "rows", "share", "accuracy", "elsewhere", "p, corrected", "flagged"],
        [
            [
                name_of(row),
                f"{row['rows']}",
                f"{row['share']:.0%}",
                f"{row['accuracy'].estimate:.0%} [{row['accuracy'].low:.0%}, {row['accuracy'].high:.0%}]",
                f"{row['elsewhere']:.0%}",
                f"{row['p_corrected']:.2g}",
                "yes" if row["named"] else "no",
            ]
            for row in rows
        ],
    )


def _hardest_table(result):
    texts = ("output",) if result.settings["rows_are"] == "outputs" else ("preferred", "other")
    return Table(
        "The hardest rows of FailureAwareIRL; decided by: the largest parts of their margins",
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


def _draw_subgroups(rows):
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
    ax.set(xlabel="accuracy (in parentheses: held-out rows;\n*: flagged)", ylim=(-0.6, len(rows) - 0.4))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure
