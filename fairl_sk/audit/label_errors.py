"""Probable label errors: rows that rewards of the other rows contradict, as a list to review.

`run` adds the list to the audit, `report` writes it as ``review.csv``, and `load_preferences` reads the corrections.
"""

from collections import defaultdict

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GroupKFold

from ..datasets.corrections import OF_OUTPUTS, OF_PAIRS, text_checksum
from ..diagnosis.inspection import CONFIDENCE, fit_noise
from .measures import shorten
from .properties import split_words
from .sections import Finding, Section, Table

N_FOLDS = 5
LEAST_NOISE = 0.5  # probability of a flip from which on a row is listed
LEAST_GAIN = 5.0  # nats that label errors have to gain in likelihood; without errors, chance gains more in 1 of 600
MAX_LISTED = 1_000
N_SHOWN = 20  # in the report
BY_A_COPY, BY_LABELS = "contradicted by a copy", "contradicted by the output labels"
MISLABELED, OWN_ERROR = "probably mislabeled", "error of the reward"
RULE = (
    f"A row is listed if its label is wrong with a probability of at least {LEAST_NOISE:g}, or if a copy of it has "
    "the opposite label. Label errors are claimed if they raise the log-likelihood of the margins by at least "
    f"{LEAST_GAIN:g}."
)


def cross_fitted_margins(learner, X, y, sign, groups, margins, train, test, margins_of):
    """Margin of each row by a reward that was fitted to training rows of other groups.

    Parameters
    ----------
    learner : estimator
        Fitted to the training rows. Clones of it are fitted to the folds of whole training groups.
    X, y, groups : ndarray of shape (n_train, ...)
        Training rows.
    sign : ndarray of shape (n_train,)
        +1 where the first output is preferred (the output is desirable), else -1.
    margins : ndarray of shape (n_test,)
        Margins of the held-out rows by the learner itself.
    train, test : ndarray of int
        Row numbers of both parts.
    margins_of : callable
        Learner, rows X, sign -> margins.

    Returns
    -------
    ndarray of shape (n_train + n_test,)
        NaN in training rows if there is only one training group, or a fold lacks a class.
    """
    found = np.full(len(train) + len(test), np.nan)
    found[test] = margins
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        return found
    learner = clone(learner).set_params(verbose=0)
    for fit, rest in GroupKFold(min(N_FOLDS, n_groups), shuffle=True, random_state=0).split(X, groups=groups):
        if len(np.unique(y[fit])) == 2:
            found[train[rest]] = margins_of(clone(learner).fit(X[fit], y[fit]), X[rest], sign[rest])
    return found


def find_label_errors(margins):
    """Probability that each label is wrong, by margins of rewards that were fitted to other rows.

    Parameters
    ----------
    margins : ndarray of shape (n_rows,)
        From `cross_fitted_margins`; NaN where unknown.

    Returns
    -------
    found : dict
        ``rate`` (share of wrong labels that fits best), ``gain`` (its gain in log-likelihood, in nats), ``clear``
        (whether that is at least `LEAST_GAIN`), ``noise`` and ``support`` (n_rows,): the probability that a label is
        wrong, 0 unless clear, and that the preferred output is better.
    """
    known = np.isfinite(margins)
    noise, support = np.zeros(len(margins)), np.full(len(margins), np.nan)
    spread = np.std(margins[known]) if known.any() else 0.0
    if not spread > 0:
        return {"rate": 0.0, "gain": 0.0, "clear": False, "noise": noise, "support": support}
    fitted = fit_noise(margins[known] / spread)
    clear = fitted.gain >= LEAST_GAIN
    noise[known], support[known] = fitted.noise * clear, fitted.support
    return {"rate": fitted.rate, "gain": fitted.gain, "clear": bool(clear), "noise": noise, "support": support}


def contradicted_rows(texts, sign, output_labels=None):
    """What contradicts each label: a copy with the opposite label, or the labels of its outputs.

    Parameters
    ----------
    texts : ndarray of str of shape (n_pairs, 2) or (n_outputs,)
        Copies may differ in case, punctuation and spaces.
    sign : ndarray of shape (n_pairs,) or (n_outputs,)
        +1 where the first output is preferred (the output is desirable), else -1.
    output_labels : ndarray of shape (n_pairs, 2), default=None
        1 for desirable outputs, 0 for others.

    Returns
    -------
    reasons : ndarray of shape (n_rows,) of str
        "contradicted by a copy", "contradicted by the output labels" or "".
    """
    said = defaultdict(set)
    keys = []
    for row, one in zip(texts, sign, strict=True):
        if texts.ndim == 1:
            key, side = " ".join(split_words(row)), one
        else:
            first, second = (" ".join(split_words(text)) for text in row)
            key, side = ((first, second), one) if first <= second else ((second, first), -one)
            if first == second:
                key = None  # they differ in case or punctuation alone: a copy may be meant
        keys.append(key)
        said[key].add(side)
    copied = np.array([key not in (None, "") and len(said[key]) > 1 for key in keys], dtype=bool)
    labeled = np.zeros(len(texts), dtype=bool)
    if output_labels is not None and texts.ndim == 2:
        labeled = (output_labels[:, 0] - output_labels[:, 1]) * sign < 0
    return np.select([copied, labeled], [BY_A_COPY, BY_LABELS], "")


def reasons_of(noise, support, contradicted):
    """Why rows are ordered wrongly, if they are: one phrase a row, (n_rows,).

    Parameters
    ----------
    noise, support : ndarray of shape (n_rows,)
        From `find_label_errors`.
    contradicted : ndarray of shape (n_rows,) of str
        From `contradicted_rows`.
    """
    kinds = [contradicted != "", noise > CONFIDENCE, support > CONFIDENCE]
    return np.select(kinds, [contradicted, MISLABELED, OWN_ERROR], "ambiguous")


def list_for_review(found, margins, texts, sign, index, prompts, contradicted):
    """The rows to review, the most probable errors first, each once.

    Parameters
    ----------
    found : dict
        From `find_label_errors`.
    margins : ndarray of shape (n_rows,)
    texts : ndarray of str of shape (n_pairs, 2) or (n_outputs,)
    sign : ndarray of shape (n_rows,)
    index : ndarray of shape (n_rows,)
        Record of the user's file.
    prompts : ndarray of str of shape (n_rows,) or None
    contradicted : ndarray of shape (n_rows,) of str

    Returns
    -------
    rows : list of dict, at most `MAX_LISTED`
        ``row``, ``preferred`` and ``other`` (or ``output`` and ``label``), ``probability`` (of a wrong label), ``why``,
        ``corrected`` ("", to be filled in) and ``checksum`` (of the texts).
    """
    noise, rows, seen = found["noise"], [], set()
    spread = np.nanstd(margins) or 1.0
    for row in np.argsort(-noise - 1e-9 * (contradicted == BY_A_COPY), kind="stable"):
        is_copy = contradicted[row] == BY_A_COPY
        if len(rows) == MAX_LISTED or (noise[row] < LEAST_NOISE and not is_copy):
            continue
        prompt = "" if prompts is None else prompts[row]
        if texts.ndim == 1:
            own = {"output": texts[row], "label": "desirable" if sign[row] > 0 else "undesirable"}
            outputs = (texts[row],)
        else:
            outputs = tuple(texts[row][:: int(sign[row])])
            own = dict(zip(("preferred", "other"), outputs, strict=True))
        checksum = text_checksum(prompt, outputs)
        if (checksum, sign[row]) in seen:
            continue
        seen.add((checksum, sign[row]))
        why = [contradicted[row]] if contradicted[row] else []
        if noise[row] >= LEAST_NOISE:
            against = f"rewards of the other rows say the opposite, by {-margins[row] / spread:.1f} standard deviations"
            why.insert(0, against)
        rows.append(
            {
                "row": int(index[row]),
                **own,
                "probability": float(noise[row]),
                "why": "; ".join(why),
                "corrected": "",
                "checksum": checksum,
            }
        )
    return rows


def review_columns(result, texts):
    """The columns of ``review.csv``, which a person fills in; for ``texts``, see `write_audit`."""
    outputs = result.settings["rows_are"] == "outputs"
    columns = () if texts == "none" else ("output",) if outputs else ("preferred", "other")
    return ("row", *columns, *["label"] * outputs, "probability", "why", "corrected", "checksum")


def label_errors_section(result):
    """Probable label errors: a `Section` of a report."""
    found, rows_are, title = result.label_errors, result.settings["rows_are"], "Which labels are probably wrong?"
    if found["left_out"]:
        return Section(title, found["left_out"])
    words = [_estimated(result)]
    if not found["clear"]:
        words = ["No label errors stand out: rewards contradict no more labels than if all labels were right."]
    if review := found["review"]:
        likely = sum(row["probability"] >= LEAST_NOISE for row in review)
        copies = len(review) - likely
        kinds = [f"{likely:,} {rows_are} in which a wrong label is likelier than a right one"] * (likely > 0)
        kinds += [f"{copies:,} {rows_are if copies > 1 else rows_are[:-1]} that a copy contradicts"] * (copies > 0)
        words += [
            f"`review.csv`, beside this page, lists {' and '.join(kinds)}.",
            f"{found['held_out']:,} of them are held out: correcting these changes the scores, too.",
            f"Fill in its column `corrected` ({_values(rows_are)}), and audit again: `fairl-sk audit PAIRS.csv "
            "--corrections review.csv`.",
        ]
    if found["clear"]:
        words.append("Read before you correct: if the reward cannot express a preference, a right label looks wrong.")
    texts = ("output", "label") if rows_are == "outputs" else ("preferred", "other")
    table = Table(
        f"The most probable label errors, {min(N_SHOWN, len(found['review']))} of {len(found['review'])}",
        ["row", "probability", "why", *texts],
        [
            [f"{row['row']}", f"{row['probability']:.0%}", row["why"], *(shorten(row.get(name, "")) for name in texts)]
            for row in found["review"][:N_SHOWN]
        ],
        of_texts=True,
    )
    return Section(title, " ".join(words), tables=[table] if found["review"] else [])


def label_errors_findings(result):
    """A finding if labels are surely wrong."""
    found = result.label_errors
    if found["left_out"] or not found["clear"]:
        return []
    remedy = f"Review the {len(found['review']):,} {result.settings['rows_are']} of `review.csv`, and audit again."
    return [
        Finding(found["rate"], _estimated(result), remedy, f"an estimated {found['rate']:.0%} of the labels look wrong")
    ]


def _estimated(result):
    """How many labels are wrong, in words."""
    rate, number = result.label_errors["rate"], result.label_errors["expected"]
    return (
        f"An estimated {rate:.0%} of the labels ({number:,.0f} of {result.settings['rows']:,}) look wrong to rewards "
        "that were not fitted to them."
    )


def _values(rows_are):
    return ", ".join(OF_PAIRS if rows_are == "pairs" else OF_OUTPUTS)
