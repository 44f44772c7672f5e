"""What else explains the preferences: properties of a text that order the pairs alone, and how far the reward follows.

`run` adds the result to the audit; `page` shows it.
"""

from functools import partial

import numpy as np
from scipy import stats

from ..metrics import bootstrap_interval, pair_accuracy
from ..plot import COLORS
from .properties import PROPERTIES
from .sections import Finding, Picture, Section, Table, percent_text, sample_words
from .significance import group_p_value, holm

LEVEL = 0.01  # of the corrected p-values
LEAST_EFFECT = 0.05  # a property is named if it orders at least this share more than half of the pairs
MAX_EDITED_PAIRS = 200  # features of edited texts are new work for an encoder
MAX_EDITED_CHARACTERS = 200_000
RULE = (
    f"A property is flagged if it alone orders at least {0.5 + LEAST_EFFECT:.0%} of the held-out pairs in one "
    f"direction, and chance hardly explains that: p < {LEVEL:g} in a t-test of whole groups, with Holm's correction "
    "for the number of properties."
)


def measure_shortcuts(values, sign, groups, margins, *, n_resamples=1000, random_state=0):
    """How many pairs each property orders alone, and how much of the reward it explains.

    Parameters
    ----------
    values : dict of str to ndarray of shape (n_pairs, 2)
        From `measure_properties`, of held-out pairs.
    sign : ndarray of shape (n_pairs,)
        +1 where the first output is preferred, else -1.
    groups : ndarray of shape (n_pairs,)
    margins : ndarray of shape (n_pairs,)
        R(first) - R(second) by the learned reward.
    n_resamples, random_state
        Of the intervals.

    Returns
    -------
    rows : list of dict
        For each property that differs in any pair, the strongest first: ``property``; ``direction`` (+1 if the output
        with more of it is preferred more often); ``accuracy`` (a `BootstrapInterval`: share of pairs that it orders in
        this direction, 1/2 for a tie); ``p`` and ``p_corrected``; ``r2`` (of the signed ranks of margins, by those of
        the property's differences, with interval); of pairs where the property is equal, goes with (favored), or is
        opposed to the preference, ``<part>_pairs`` and ``<part>_accuracy`` of the reward (None without pairs); and
        ``named``.
    """
    interval = partial(bootstrap_interval, groups=groups, n_resamples=n_resamples, random_state=random_state)
    rows = []
    margin_ranks = _signed_ranks(margins)
    for name, value in values.items():
        difference = value[:, 0] - value[:, 1]
        if not difference.any():
            continue
        favors = np.sign(difference) * sign
        direction = -1 if favors.sum() < 0 else 1
        row = {
            "property": name,
            "direction": direction,
            "accuracy": interval(pair_accuracy, None, favors * direction),
            "p": group_p_value(favors, groups),
            "r2": interval(_explained, margin_ranks, _signed_ranks(difference)),
        }
        for part, where in (("equal", 0), ("favored", direction), ("opposed", -direction)):
            inside = favors == where
            row[f"{part}_pairs"] = int(inside.sum())
            row[f"{part}_accuracy"] = pair_accuracy(None, (margins * sign)[inside]) if inside.any() else None
        rows.append(row)
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_corrected"] = float(corrected)
        row["named"] = bool(corrected < LEVEL and row["accuracy"].estimate >= 0.5 + LEAST_EFFECT)
    return sorted(rows, key=lambda row: -row["accuracy"].estimate)


def _signed_ranks(values):
    """Ranks of the sizes with the signs of the values; equal sizes share a rank, and 0 stays 0."""
    return np.sign(values) * stats.rankdata(np.abs(values))


def _explained(values, known, sample_weight):
    """Share of the values' mean square that a multiple of what is known explains; 0 if either is 0."""
    product = sample_weight @ (values * known)
    squares = (sample_weight @ values**2) * (sample_weight @ known**2)
    return product**2 / squares if squares > 0 else 0.0


def measure_edits(texts, sign, reward, properties=None, *, random_state=0):
    """How much rewards move where a property is edited out of the texts.

    Parameters
    ----------
    texts : ndarray of str of shape (n_pairs, 2)
        Held-out pairs; at most `MAX_EDITED_PAIRS` of them are drawn, of `MAX_EDITED_CHARACTERS` characters.
    sign : ndarray of shape (n_pairs,)
        +1 where the first output is preferred, else -1.
    reward : callable
        Texts (n_pairs, 2) -> rewards (n_pairs, 2).
    properties : dict of str to `Property`, default=None
        None: those of the package.
    random_state : int
        Seed of the draw.

    Returns
    -------
    rows : list of dict
        For each property with an edit: ``property``, ``edit`` (in words; a text of which it leaves nothing stays as it
        is), ``pairs`` (drawn), ``changed`` (share of outputs that the edit changes); over all drawn outputs, in
        standard deviations of their rewards, ``moved`` (mean size of the change) and ``shift`` (mean change);
        ``flipped`` (share of pairs whose order changes), and ``accuracy`` before and ``edited_accuracy`` after.
    """
    drawn = _draw(texts, random_state)
    before, sign = reward(texts[drawn]), sign[drawn]
    spread = float(np.std(before))
    if not spread > 0:
        return []
    margins = before[:, 0] - before[:, 1]
    rows = []
    for name, known in (PROPERTIES if properties is None else properties).items():
        if known.edit is None:
            continue
        edited = known.edit(texts[drawn])
        edited = np.where([[not text.strip() for text in pair] for pair in edited], texts[drawn], edited)
        after = reward(edited)
        edited_margins = after[:, 0] - after[:, 1]
        rows.append(
            {
                "property": name,
                "edit": known.edited or f"{name} taken out",
                "pairs": len(drawn),
                "changed": float(np.mean(edited != texts[drawn])),
                "moved": float(np.mean(np.abs(after - before))) / spread,
                "shift": float(np.mean(after - before)) / spread,
                "flipped": float(np.mean(np.sign(margins) != np.sign(edited_margins))),
                "accuracy": pair_accuracy(None, margins * sign),
                "edited_accuracy": pair_accuracy(None, edited_margins * sign),
            }
        )
    return rows


def _draw(texts, random_state):
    """Numbers of the pairs that are edited: as many as the limits allow, at least one."""
    order = np.random.default_rng(random_state).permutation(len(texts))[:MAX_EDITED_PAIRS]
    lengths = np.cumsum([sum(map(len, texts[row])) for row in order])
    return np.sort(order[: max(1, np.searchsorted(lengths, MAX_EDITED_CHARACTERS, side="right"))])


# ----------------------------------------------------------------------------------------------------- section


def shortcuts_section(result):
    """What else explains the preferences: a `Section` of a report."""
    found, title = result.shortcuts, "What else explains the preferences?"
    if found["left_out"]:
        return Section(title, found["left_out"])
    rows = found["properties"]
    named = [row for row in rows if row["named"]]
    paragraphs = [_flagged(named, found["reward"]), _beyond(named, found["reward"])] if named else [_nothing_said(rows)]
    edited = [_edited(row) for row in found["edits"] if row["flipped"] >= LEAST_EFFECT]
    if found["constant"]:
        edited.append(f"Equal in both outputs of each pair: {', '.join(found['constant'])}.")
    paragraphs += [" ".join(edited)] if edited else []
    paragraphs += sample_words(found["pairs"], result.settings["test_rows"], "held-out pairs")
    highest = f"at most {rows[0]['accuracy'].estimate:.0%}, by {rows[0]['property']}" if rows else "none was tried"
    alt = f"Share of {found['pairs']} held-out pairs that each of {len(rows)} properties orders alone: {highest}."
    pictures = [Picture("shortcuts", lambda: _draw_properties(rows), alt)] if rows else []
    tables = [property_table(rows), _edit_table(found["edits"])]
    return Section(title, "\n".join(paragraphs), pictures, tables)


def shortcuts_findings(result):
    """A finding for each named property: the reward may have learned it."""
    return [
        Finding(
            _doubt(row),
            f"{_said(row)} {_where_opposed(row)}",
            "If that is not what the preferences are about, add pairs in which this property is equal or opposed.",
            f"{described(row)} alone orders {row['accuracy'].estimate:.0%} of the pairs",
        )
        for row in result.shortcuts["properties"]
        if row["named"]
    ]


def _doubt(row):
    """Share of the pairs that the reward has wrong since it follows the property, at most."""
    pairs = sum(row[f"{part}_pairs"] for part in ("equal", "favored", "opposed"))
    if not row["opposed_pairs"] or not row["favored_pairs"]:
        return 2 * row["accuracy"].estimate - 1
    return row["opposed_pairs"] / pairs * max(0.0, row["favored_accuracy"] - row["opposed_accuracy"])


def _where_opposed(row):
    if not row["opposed_pairs"]:
        return "No pair shows whether the reward has learned more than that."
    right = f"In the pairs where the other output was preferred, the reward is right in {row['opposed_accuracy']:.0%}"
    return f"{right}, elsewhere in {row['favored_accuracy']:.0%}." if row["favored_pairs"] else f"{right}."


def best_rule(result):
    """The flagged property that orders the most held-out pairs alone; None if none is flagged."""
    return next((row for row in result.shortcuts["properties"] if row["named"]), None)


def described(row):
    """A property with its direction, such as "greater length in words"."""
    return f"{'greater' if row['direction'] > 0 else 'smaller'} {row['property']}"


def _said(row):
    preferred = f"The output with the {described(row)} is the preferred one"
    return f"{preferred} in {percent_text(row['accuracy'])} of the held-out pairs."


def _flagged(rows, reward):
    """How many pairs each flagged property orders alone, and how often the reward is right where it is opposed."""
    sentences = []
    for row in rows:
        name = described(row)
        where = "no pair is opposed to it"
        if row["opposed_pairs"]:
            where = f"in the pairs that are opposed to it, {reward} is right in {row['opposed_accuracy']:.0%}"
        ordered = f"{name[0].upper()}{name[1:]} alone orders {percent_text(row['accuracy'])} of the held-out pairs"
        sentences.append(f"{ordered}; {where}.")
    return " ".join(sentences)


def _beyond(rows, reward):
    """Whether a reward has learned more than flagged properties."""
    alike = [f"the {described(row)}" for row in rows if not row["opposed_pairs"] or row["opposed_accuracy"] <= 0.5]
    text = f"So {reward} has learned more than {'any of these' if len(rows) > 1 else 'this'}."
    if alike:
        text = f"Nothing shows that {reward} has learned more than {' or '.join(alike)}."
    return f"{text} Whether a property is a shortcut, or what the preferences are about, only you can say."


def _nothing_said(rows):
    if not rows:
        return "No property was tried."
    return (
        f"None of the {len(rows)} properties tried is flagged: none orders surely enough more than half of the "
        f"held-out pairs (at most {rows[0]['accuracy'].estimate:.0%}, by {described(rows[0])})."
    )


def followed(row, reward):
    """How far a reward of that name goes with a property, in words."""
    share = percent_text(row["r2"])
    text = f"{row['property'].capitalize()} explains {share} of the variance of the margins of {reward}."
    if row["opposed_pairs"]:
        text += f" In the pairs that are opposed to it, {reward} is right in {row['opposed_accuracy']:.0%}."
    return text


def _edited(row):
    changed = f"{row['flipped'] * row['pairs']:.0f} of {row['pairs']} pairs change their order"
    return f"With {row['edit']}, {changed}, and {row['edited_accuracy']:.0%} are right (before: {row['accuracy']:.0%})."


def property_table(rows, reward=None):
    """The table of `measure_shortcuts`; ``reward`` names a reward other than the recovered one."""
    whose = "" if reward is None else f" and {reward}"
    columns = ["property", "preferred", "pairs it orders alone", "p, corrected", "explains of the variance of margins"]
    columns += [f"reward's accuracy where {part}" for part in ("equal", "in favor", "opposed")]
    return Table(
        f"Properties of the texts{whose}, held-out pairs (in brackets: 95% intervals; in parentheses: pairs)",
        columns,
        [
            [
                row["property"],
                "greater" if row["direction"] > 0 else "smaller",
                percent_text(row["accuracy"]),
                f"{row['p_corrected']:.2g}",
                percent_text(row["r2"]),
                *(_part(row, part) for part in ("equal", "favored", "opposed")),
            ]
            for row in rows
        ],
    )


def _part(row, part):
    return f"{row[f'{part}_accuracy']:.0%} ({row[f'{part}_pairs']})" if row[f"{part}_pairs"] else "-"


def _edit_table(rows):
    return Table(
        "What an edit of the texts changes (rewards in standard deviations)",
        ["edit", "pairs", "outputs changed", "rewards move by", "mean change", "pairs that flip", "accuracy", "edited"],
        [
            [
                row["edit"],
                f"{row['pairs']}",
                f"{row['changed']:.0%}",
                f"{row['moved']:.2f}",
                f"{row['shift']:+.2f}",
                f"{row['flipped']:.0%}",
                f"{row['accuracy']:.0%}",
                f"{row['edited_accuracy']:.0%}",
            ]
            for row in rows
        ],
    )


def _draw_properties(rows):
    """Accuracy of each property alone, and the share of the margins that it explains."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles = {
        "accuracy": "held-out pairs ordered correctly\nby this property alone",
        "r2": "share of the variance of\nmargins that it explains",
    }
    at = np.arange(len(rows))[::-1]
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        for named, marker, color in ((True, "o", COLORS[0]), (False, ".", "0.5")):
            part = [i for i, row in enumerate(rows) if row["named"] == named]
            value, low, high = np.array([rows[i][name][:3] for i in part]).reshape(-1, 3).T
            ax.errorbar(value, at[part], xerr=np.maximum((value - low, high - value), 0), fmt=marker, color=color)
        ax.set(xlabel=title)
        ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes[0].axvline(0.5, color="gray", linewidth=1)
    axes[0].set_yticks(at, [f"{described(row)}{' (flagged)' * row['named']}" for row in rows])
    return figure
