"""What the two labels of a preference mean, and which are refused; estimators, scorers and readers ask here."""

import re
from numbers import Real

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

__all__ = ["preference_sign"]

TIES_REMEDY = (
    "Drop the rows that are ties, or give each of them twice, once with either label, with sample_weight 0.5 each (a "
    "soft label p: weights p with the larger and 1 - p with the smaller label)."
)

_NOUNS = """model response answer assistant text output completion option side human_ref choice candidate system item
generation sample summary reply conversation prefer prefers preferred""".split()
_NOUN = rf"(?:{'|'.join(_NOUNS)})[ _-]*"
_WINS = r"(?:[ _-](?:is[ _-])?(?:better|preferred|wins?|won|chosen))?"
_SIDE_NAMES = {
    1: re.compile(rf"(?:{_NOUN})?(?:a|1|left|first|one){_WINS}|a ?> ?b", re.IGNORECASE),
    -1: re.compile(rf"(?:{_NOUN})?(?:b|2|right|second|two){_WINS}|b ?> ?a", re.IGNORECASE),
}
_COUNTED_FROM_0 = re.compile(rf"{_NOUN}0{_WINS} {_NOUN}1{_WINS}", re.IGNORECASE)
_GOOD = """chosen preferred better best desirable acceptable good kind polite clean neutral safe non-toxic nontoxic
not_toxic harmless helpful correct""".split()
_BAD = "rejected worse worst undesirable unacceptable toxic unsafe unhelpful wrong rude offensive".split()


def named_side(label):
    """1 if a label names the first of two sides (left, A, model_a, response_1), -1 if the second, else None."""
    return next((side for side, names in _SIDE_NAMES.items() if names.fullmatch(str(label).strip())), None)


def check_order(classes, *, paired=True):
    """Refuse two classes, ascending, whose words say that the smaller one means "the first is preferred".

    The numbers 1 and 2 are refused for pairs only: of outputs, 2 may well be the better grade.
    """
    numbers = [isinstance(label, Real) and label == int(label) for label in classes]
    first, second = (
        str(int(label) if is_number else label).strip() for label, is_number in zip(classes, numbers, strict=True)
    )
    words = first.lower() in _GOOD and second.lower() in _BAD
    words |= bool(_COUNTED_FROM_0.fullmatch(f"{first} {second}"))
    if (named_side(first), named_side(second)) == (1, -1) and {first, second} != {"one", "two"}:
        words |= paired or not {first, second} <= {"1", "2"}
    if words:
        code = f"y = (y == {classes[0].item() if hasattr(classes[0], 'item') else classes[0]!r}).astype(int)"
        raise ValueError(
            f"Found the labels {first!r} and {second!r}, in this order. Expected that the larger one means that the "
            f"first output is preferred (that the output is desirable), but {second!r} says the opposite. Code them as "
            f"1 and 0: {code}."
        )


def preference_sign(y, n_pairs, *, classes=None, paired=False):
    """Which side of each pair is preferred, as +1 (the first) or -1 (the second).

    Parameters
    ----------
    y : array-like of shape (n_pairs,) or None
        Two classes, the larger meaning that the first output is preferred (for outputs: that it is desirable).
        None means that the first is preferred everywhere.
    n_pairs : int
        Number of rows that ``y`` must have.
    classes : array-like of shape (2,), default=None
        The two classes, ascending, where they are known (``estimator.classes_``); ``y`` may then hold one of them only.
    paired : bool, default=False
        Whether the rows are surely pairs: then the labels 1 and 2 are refused, too.

    Returns
    -------
    sign : ndarray of shape (n_pairs,), float64

    Raises
    ------
    ValueError
        For another length, missing labels, ties, more than two classes, labels that are not in ``classes``, one class
        only, unless it is 0, 1, -1, True or False, and words of the reverse order, such as left and right.

    Examples
    --------
    >>> preference_sign(["win", "lose", "win"], 3)
    array([ 1., -1.,  1.])
    """
    if y is None:
        return np.ones(n_pairs)
    y = column_or_1d(y, warn=True)
    if len(y) != n_pairs:
        raise ValueError(f"Found {len(y)} labels for {n_pairs} rows: y needs one label a row.")
    found = distinct_labels(y)
    classes = _two_classes(y, found) if classes is None else np.asarray(classes)
    unknown = np.setdiff1d(found, classes).tolist()
    if unknown:
        raise ValueError(f"Found the label {unknown[0]!r} in y. Expected one of the two classes {classes.tolist()}.")
    check_order(classes, paired=paired)
    return np.where(y == classes[1], 1.0, -1.0)


def _two_classes(y, found):
    check_classification_targets(y)
    if len(found) == 2:
        return found
    if len(found) == 1 and found.dtype.kind in "bif" and found[0] in (0, 1, -1):
        return np.array([found[0] - 1, found[0]]) if found[0] == 1 else np.array([found[0], 1])
    raise ValueError(
        f"Found {len(found)} class{'es' * (len(found) != 1)} in y: {found[:5].tolist()}. Expected two, the larger "
        "meaning that the first output of the pair is preferred (that the output is desirable)."
    )


def distinct_labels(y):
    """Distinct labels of an array, ascending; missing ones and soft ones (numbers between 0 and 1) are refused."""
    missing = np.flatnonzero(np.equal(y, None)) if y.dtype.kind == "O" else ()
    if len(missing):
        raise ValueError(
            f"Found None in y, first at row {missing[0]}. Expected a label in every row: drop the rows without one, of "
            "X too."
        )
    found = np.unique(check_array(y, ensure_2d=False, ensure_min_samples=0, dtype=None, input_name="y"))
    soft = found[(found > 0) & (found < 1)] if found.dtype.kind == "f" else found[:0]
    if len(soft) and found[0] >= 0 and found[-1] <= 1:
        raise ValueError(
            f"Unknown label type: found {soft[0].item()!r} in y, between 0 and 1. Expected two classes; ties and soft "
            f"labels are none. {TIES_REMEDY}"
        )
    return found
