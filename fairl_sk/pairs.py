"""What a preference pair is, and the one place where pairs are checked; every other module starts here.

A *pair* is two outputs (texts, or their features) for the same prompt, of which one is preferred. The array's
first output is preferred where ``y`` holds the larger class (everywhere, if ``y`` is None). The *margin* of a pair
is R(preferred) - R(other); ``decision_function`` gives R(first) - R(second). A pair without an opponent is an
*output*, a row of its own, and its missing opponent has reward 0.

====================  ======================================================  =========================
rows                  features                                                texts
====================  ======================================================  =========================
pairs                 array (n_pairs, 2, n_features)                          array (n_pairs, 2); a table with
                                                                              columns ``chosen``, ``rejected``
                                                                              (and ``prompt``)
outputs               array (n_samples, n_features)                           array (n_samples,); a table with
                                                                              a column ``completion``
                                                                              (and ``prompt``)
====================  ======================================================  =========================

The text of an output is `join_prompt` of its prompt and itself, wherever it comes from.
"""

from collections.abc import Iterable
from functools import reduce
from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import _safe_indexing, check_random_state, get_tags
from sklearn.utils._set_output import _safe_set_output  # what ColumnTransformer.set_output uses
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_feature_names_in,  # what every get_feature_names_out uses
    check_array,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

__all__ = [
    "PairTransformer",
    "check_pairs",
    "is_pairs",
    "join_prompt",
    "join_prompts",
    "make_pairs",
    "preference_sign",
    "read_texts",
    "stack_outputs",
    "to_text",
]

# --------------------------------------------------------------------------------------------------- texts


def _column_names(X):
    """Names of a table's columns (pandas, polars, ``datasets.Dataset``), or None for anything else."""
    names = getattr(X, "column_names", None)
    if names is None:
        names = getattr(X, "columns", None)
    return None if names is None or callable(names) else [str(name) for name in names]


def to_text(value, *, where="the output"):
    """A text as it is; of a list of messages the contents, as one text.

    Contents are set apart by an empty line, unless white space stands between them already. Roles are left out, so
    that an answer is the same text as a string and as a message, and a conversation is the same text however much of
    it is called the prompt. If roles matter, write them into the texts, for instance with a chat template.

    Parameters
    ----------
    value : str or list of dict
        A text, or messages ``{"role": ..., "content": ...}``, none of which gives an empty text.
    where : str, default="the output"
        What an error calls the place of the value.

    Returns
    -------
    text : str

    Raises
    ------
    ValueError
        For anything else, a missing value for one.

    Examples
    --------
    >>> to_text([{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Well."}])
    'How are you?\\n\\nWell.'
    """
    if isinstance(value, str):
        return value
    messages = _messages(value)
    if messages is None:
        raise ValueError(
            f"Expected text at {where}, but found {type(value).__name__} {value!r:.60}. Every output is a string (or a "
            "list of messages with 'role' and 'content'); drop or fill missing values before fitting."
        )
    return reduce(_join, (message["content"] for message in messages), "")


def _messages(value):
    """The value as a list of messages, or None if it is something else."""
    if isinstance(value, (str, dict)) or not isinstance(value, Iterable):
        return None
    messages = list(value)
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            return None
    return messages


def _join(first, second):
    if not first or not second or first[-1].isspace() or second[0].isspace():
        return first + second
    return f"{first}\n\n{second}"


def join_prompt(prompt, output):
    """The text of an output behind its prompt: the one format that this package fits on and scores.

    They are set apart as messages are, see `to_text`.

    Parameters
    ----------
    prompt, output : str or list of dict
        Texts or messages; a prompt that is empty or None adds nothing.

    Returns
    -------
    text : str

    Raises
    ------
    ValueError
        See `to_text`.

    Examples
    --------
    >>> join_prompt("Is it far?", [{"role": "assistant", "content": "Five minutes."}])
    'Is it far?\\n\\nFive minutes.'
    >>> join_prompt("The sky is", " blue.")
    'The sky is blue.'
    """
    prompt = "" if prompt is None else to_text(prompt, where="the prompt")
    return _join(prompt, to_text(output))


def join_prompts(prompts, outputs):
    """`join_prompt` of many rows: what a table with a column ``prompt`` is read as.

    Parameters
    ----------
    prompts : array-like of shape (n_rows,) or None
        A prompt a row, a text or a list of messages; None adds nothing.
    outputs : array-like of shape (n_pairs, 2) or (n_samples,)
        The outputs, texts or lists of messages.

    Returns
    -------
    texts : ndarray of shape (n_pairs, 2) or (n_samples,)

    Raises
    ------
    ValueError
        If there are more or fewer prompts than rows, or a row is neither an output nor two.

    Examples
    --------
    >>> join_prompts(["Is it far?"], [["Five minutes.", "Find out yourself."]]).tolist()
    [['Is it far?\\n\\nFive minutes.', 'Is it far?\\n\\nFind out yourself.']]
    """
    rows = list(np.asarray(outputs) if hasattr(outputs, "__array__") else outputs)
    prompts = [None] * len(rows) if prompts is None else list(prompts)
    if len(prompts) != len(rows):
        raise ValueError(f"Found {len(prompts)} prompts for {len(rows)} rows of outputs. Expected one prompt a row.")
    texts = [
        [join_prompt(prompt, side) for side in row] if _is_two_sided(row) else join_prompt(prompt, row)
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    return _check_texts(np.array(texts, dtype=object))


def _is_two_sided(row):
    return isinstance(row, (list, tuple, np.ndarray)) and _messages(row) is None


def split_messages(prompt, chosen, rejected):
    """Texts of the prompt, the chosen and the rejected side, two lists of messages.

    The leading messages that both share, but never all of a side, belong to the prompt. A prompt that they say
    already is not said twice.

    Parameters
    ----------
    prompt : str or None
    chosen, rejected : list of dict

    Returns
    -------
    prompt, chosen, rejected : str
    """
    n_shared = count_shared(chosen, rejected)
    shared = to_text(chosen[:n_shared])
    if prompt and prompt not in (shared, *(message["content"] for message in chosen[:n_shared])):
        shared = _join(prompt, shared)
    return shared, to_text(chosen[n_shared:]), to_text(rejected[n_shared:])


def count_shared(chosen, rejected):
    """Number of leading parts that both share, but one part of either is always left."""
    n_shared, most = 0, min(len(chosen), len(rejected)) - 1
    while n_shared < most and chosen[n_shared] == rejected[n_shared]:
        n_shared += 1
    return n_shared


def _table_texts(X, names, join):
    """Texts of a table in TRL's preference or unpaired-preference format, or None if it is neither."""
    if {"chosen", "rejected"} <= set(names):
        sides = ["chosen", "rejected"]
    elif "completion" in names:
        sides = ["completion"]
    else:
        return None
    columns = [_text_column(X, side) for side in sides]
    prompts = _text_column(X, "prompt") if "prompt" in names else [None] * len(columns[0])
    rows = [
        _row_texts(prompt, *outputs) if join is None else [join(prompt, output) for output in outputs]
        for prompt, *outputs in zip(prompts, *columns, strict=True)
    ]
    texts = np.array(rows, dtype=object).reshape(-1, len(sides))
    return texts if len(sides) == 2 else texts[:, 0]


def _text_column(X, name):
    """Texts and lists of messages of a column; numbers and missing values are refused."""
    values = list(X[name])
    if all(isinstance(value, Real) for value in values) and any(value == value for value in values):
        raise ValueError(
            f"Column {name!r} holds numbers ({values[0]!r}, ...), but a table with columns 'chosen' and 'rejected', or "
            "'completion', is read as texts. Expected strings or lists of messages there. If the column is a feature, "
            "rename it or pass the numbers without names: X.to_numpy()."
        )
    for row, value in enumerate(values):
        to_text(value, where=f"row {row} of column {name!r}")
    return [value if isinstance(value, str) else _messages(value) for value in values]


def _row_texts(prompt, *outputs):
    """The texts of one or two outputs, behind their prompt."""
    prompt = "" if prompt is None else to_text(prompt)
    if len(outputs) == 2 and not any(isinstance(output, str) for output in outputs):
        prompt, *outputs = split_messages(prompt, *outputs)
    return [_join(prompt, to_text(output)) for output in outputs]


def _as_array(X):
    """``X`` as an array, whatever the container; a ragged list is refused with its first bad row."""
    if hasattr(X, "shape") and not hasattr(X, "__array_interface__") and hasattr(X, "tocsr"):
        return X  # sparse: check_array words the refusal
    try:
        values = np.asarray(X)
        listed = values.dtype.kind == "U" and isinstance(X, (list, tuple))
        return np.asarray(X, dtype=object) if listed else values  # a number or NaN among texts is not made text
    except ValueError as error:
        raise ValueError(
            "X is ragged: its rows do not all have the same shape. Expected pairs (n_pairs, 2, n_features), outputs "
            f"(n_samples, n_features) or texts (n_pairs, 2); found a list whose {_first_odd_row(X)}."
        ) from error


def _first_odd_row(rows):
    shapes = []
    for index, row in enumerate(rows):
        try:
            shapes.append(np.shape(row))
        except ValueError:
            return f"row {index} is itself ragged"
        if shapes[-1] != shapes[0]:
            return f"row 0 has shape {shapes[0]} and row {index} has shape {shapes[-1]}"
    return "rows differ in shape"


def _holds_text(values, *, sides=2):
    """Whether an array holds strings: decided by its type or, for objects, by its elements.

    Of rows of at most ``sides`` elements any string decides, as beside a text everything has to be one. Wider rows may
    be features, some of them strings: there the first element decides.
    """
    if values.dtype.kind in "UT":
        return True
    if values.dtype.kind != "O" or not values.size:
        return False
    if values.ndim not in (1, 2) or values[:1].size > sides:
        return isinstance(values.flat[0], str)
    return any(isinstance(value, str) for value in values.flat)


def _check_texts(values):
    """Texts as an object array of shape (n_samples,) or (n_pairs, 2); anything else is named and refused."""
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 2):
        raise ValueError(
            f"Found texts of shape {values.shape}. Expected (n_pairs, 2) for pairs or (n_samples,) for outputs; "
            "name the two text columns of a wider table, e.g. X[['chosen', 'rejected']]."
        )
    values = values.astype(object)
    flat = values.ravel()
    odd = next((i for i, text in enumerate(flat) if not isinstance(text, str)), None)
    if odd is not None:
        side = f", side {odd % 2}" if values.ndim == 2 else ""
        to_text(flat[odd], where=f"row {odd // values[:1].size}{side}")
    return values


def _refuse_conversations(X):
    """Outside a table nothing says what two messages in a row are, a conversation or a pair."""
    first = X.to_numpy() if hasattr(X, "to_numpy") else X
    while (isinstance(first, (list, tuple)) or getattr(first, "ndim", 0)) and len(first):
        first = first[0]
    if _messages([first]):
        raise ValueError(
            "Found messages with 'role' and 'content' outside a table. Expected conversations in columns 'chosen' and "
            "'rejected' (pairs) or 'completion' (outputs): pandas.DataFrame({'completion': conversations})."
        )


def read_texts(X, *, join=None):
    """Texts of ``X``, or None where ``X`` holds numbers.

    Parameters
    ----------
    X : array-like or table
        See the module's table of row layouts.
    join : callable, (prompt, output) -> str, default=None
        How a table's prompt (None where it has none) and output, texts or lists of messages, become one text. None: by
        `join_prompt`.

    Returns
    -------
    texts : ndarray of shape (n_samples,) or (n_pairs, 2), or None

    Raises
    ------
    ValueError
        For a missing text, texts in another layout, or conversations that are not in a table.
    """
    names = _column_names(X)
    if names is not None:
        texts = _table_texts(X, names, join)
        if texts is not None:
            return texts
        if not hasattr(X, "shape") or not hasattr(X, "dtypes"):
            raise ValueError(
                f"Found a table with columns {names}. Expected 'chosen' and 'rejected' (pairs) or 'completion' "
                "(outputs), and optionally 'prompt': rename the columns."
            )
    if hasattr(X, "tocsr"):
        return None
    if names is None:
        _refuse_conversations(X)
    values = _as_array(X)
    if not _holds_text(values, sides=2 if names is None else 0):
        return None
    if names is not None:
        raise ValueError(
            f"Found a table of texts with columns {names}. Expected 'chosen' and 'rejected' (pairs) or "
            "'completion' (outputs), and optionally 'prompt': rename the columns."
        )
    return _check_texts(values)


# ------------------------------------------------------------------------------------------------- checking


def is_pairs(X):
    """Whether the rows of ``X`` are pairs; otherwise they are outputs.

    Parameters
    ----------
    X : array-like or table
        Anything that the module's table of row layouts names.

    Returns
    -------
    bool
        True for features (n_pairs, 2, n_features), texts (n_pairs, 2) and tables with ``chosen`` and ``rejected``.

    Examples
    --------
    >>> is_pairs([["a kind answer", "a rude answer"]]), is_pairs([[0.0, 1.0]])
    (True, False)
    """
    texts = read_texts(X)
    if texts is not None:
        return texts.ndim == 2
    return not hasattr(X, "tocsr") and _as_array(X).ndim == 3


def check_pairs(X, *, estimator=None, reset=True):
    """Validate features: the one validator that every estimator's every method calls.

    The rows are checked flat, as (2 n_pairs, n_features), so that ``n_features_in_`` is always ``n_features``.

    Parameters
    ----------
    X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        Features of pairs or of outputs.
    estimator : estimator, default=None
        Where ``n_features_in_`` and ``feature_names_in_`` are set (``reset=True``) or compared (``reset=False``).
    reset : bool, default=True
        Whether this is a fit.

    Returns
    -------
    X : ndarray of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        float32 stays float32; everything else becomes float64.

    Raises
    ------
    ValueError
        For None, text, NaN, infinity, a second axis that is not 2, more than three axes, ragged lists, no rows, no
        features, another number of features than in ``fit``.

    Examples
    --------
    >>> check_pairs([[[1, 2, 3], [4, 5, 6]]]).shape
    (1, 2, 3)
    """
    if read_texts(X) is not None:
        raise ValueError(
            "X holds text, but numeric features are expected here. Put a step that makes features before the "
            "estimator: make_pipeline(PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(256))), ...)."
        )
    values, paired = _check_features(X, estimator, reset, dtype=(np.float64, np.float32))
    return values.reshape(-1, 2, values.shape[1]) if paired else values


_NOT_FINITE_REMEDY = (
    "Here: drop the rows with missing or infinite values before fitting (of y too), or impute missing ones in a step "
    "before this one: make_pipeline(PairTransformer(SimpleImputer()), ...). Clip infinite values, or make them NaN and "
    "impute them."
)


def _check_features(X, estimator, reset, **options):
    """Outputs (n_outputs, n_features) of features in any layout, checked as ``options`` say, and whether paired."""
    if X is None:
        raise ValueError(
            "Found X=None. Expected features: an array of shape (n_pairs, 2, n_features) for pairs or "
            "(n_samples, n_features) for outputs."
        )
    values = X if _column_names(X) is not None or hasattr(X, "tocsr") else _as_array(X)
    paired = values.ndim == 3
    if values.ndim > 3:
        raise ValueError(
            f"Found X of shape {values.shape}, with {values.ndim} axes. Expected (n_pairs, 2, n_features) or "
            "(n_samples, n_features): flatten the features of an output, e.g. X.reshape(n_pairs, 2, -1)."
        )
    if paired and (values.shape[1] != 2 or values.shape[2] == 0):
        raise ValueError(
            f"Found X of shape {values.shape}. Expected (n_pairs, 2, n_features) with at least one feature: the second "
            "axis holds the two outputs of a pair. More than two outputs for a prompt are several pairs: see "
            "make_pairs."
        )
    if paired:
        values = values.reshape(-1, values.shape[2])
    try:
        if estimator is None:
            return check_array(values, input_name="X", **options), paired
        return validate_data(estimator, values, reset=reset, **options), paired
    except ValueError as error:
        if "contains NaN" in str(error) or "contains infinity" in str(error):
            raise ValueError(f"{error}\n{_NOT_FINITE_REMEDY}") from error
        raise


def preference_sign(y, n_pairs, *, classes=None):
    """Which side of each pair is preferred, as +1 (the first) or -1 (the second).

    Parameters
    ----------
    y : array-like of shape (n_pairs,) or None
        Two classes, the larger meaning that the first output is preferred (for outputs: that it is desirable).
        None means that the first is preferred everywhere.
    n_pairs : int
        Number of rows that ``y`` must have.
    classes : array-like of shape (2,), default=None
        The two classes, ascending, where they are known already (``estimator.classes_``), so that a part of the
        data with one class only is still read rightly.

    Returns
    -------
    sign : ndarray of shape (n_pairs,), float64

    Raises
    ------
    ValueError
        For another length, None or NaN, ties, more than two classes, labels that are not in ``classes``, or one class
        only, if it is not one of 0, 1, -1, True, False, whose meaning is plain.

    Examples
    --------
    >>> preference_sign(["second", "first", "second"], 3, classes=["first", "second"])
    array([ 1., -1.,  1.])
    """
    if y is None:
        return np.ones(n_pairs)
    y = column_or_1d(y, warn=True)
    if len(y) != n_pairs:
        raise ValueError(f"Found {len(y)} labels for {n_pairs} rows: y needs one label a row.")
    found = distinct_labels(y)
    if classes is None:
        classes = _classes_of(y, found)
    classes = np.asarray(classes)
    unknown = np.setdiff1d(found, classes).tolist()
    if unknown:
        raise ValueError(f"Found the label {unknown[0]!r} in y. Expected one of the two classes {classes.tolist()}.")
    return np.where(y == classes[1], 1.0, -1.0)


TIES_REMEDY = (
    "Drop the rows that are ties, or give each of them twice, once with either label, with sample_weight 0.5 each (a "
    "soft label p: weights p with the larger and 1 - p with the smaller label)."
)


def distinct_labels(y):
    """Distinct labels, ascending; missing ones, and ties among 0 and 1, are refused.

    Parameters
    ----------
    y : ndarray of shape (n_rows,)

    Returns
    -------
    found : ndarray of shape (n_labels,)

    Raises
    ------
    ValueError
        For None, NaN, or numbers between 0 and 1.
    """
    missing = np.flatnonzero(np.equal(y, None)) if y.dtype.kind == "O" else ()
    if len(missing):
        raise ValueError(
            f"Found None in y, first at row {missing[0]}. Expected a label in every row: drop the rows without one, of "
            "X too."
        )
    found = np.unique(check_array(y, ensure_2d=False, ensure_min_samples=0, dtype=None, input_name="y"))
    soft = found[(found > 0) & (found < 1)] if found.dtype.kind == "f" and found.min(initial=0) >= 0 else found[:0]
    if len(soft) and found[-1] <= 1:
        raise ValueError(
            f"Unknown label type: found {soft[0].item()!r} in y, between 0 and 1. Expected two classes; ties and soft "
            f"labels are none. {TIES_REMEDY}"
        )
    return found


def _classes_of(y, found):
    check_classification_targets(y)
    if len(found) == 2:
        return found
    if len(found) == 1 and found.dtype.kind in "bif" and found[0] in (0, 1, -1):
        return np.array([found[0] - 1, found[0]]) if found[0] == 1 else np.array([found[0], 1])
    raise ValueError(
        f"Found {len(found)} class{'es' * (len(found) != 1)} in y: {found[:5].tolist()}. Expected two, the larger "
        "meaning that the first output of the pair is preferred (that the output is desirable)."
    )


def stack_outputs(X):
    """All outputs of the pairs, in rows of their own.

    Parameters
    ----------
    X : array-like of shape (n_pairs, 2, n_features) or (n_pairs, 2), or a table with chosen and rejected
        Pairs.

    Returns
    -------
    outputs : ndarray of shape (2 * n_pairs, n_features) or (2 * n_pairs,)
        Row 2i is the first and row 2i + 1 the second output of pair i. A table's texts carry their prompt.

    Raises
    ------
    ValueError
        If the rows are not pairs.

    Examples
    --------
    >>> stack_outputs([["a", "b"], ["c", "d"]])
    array(['a', 'b', 'c', 'd'], dtype=object)
    """
    texts = read_texts(X)
    values = _as_array(X) if texts is None else texts
    if values.ndim - (texts is None) != 2 or values.shape[1] != 2:
        raise ValueError(
            f"Found rows of shape {values.shape}. Expected pairs: features (n_pairs, 2, n_features), texts "
            "(n_pairs, 2) or a table with columns 'chosen' and 'rejected'."
        )
    return values.reshape(-1, *values.shape[2:])


def make_pairs(chosen, rejected, *, y=(0, 1), random_state=None):
    """Pairs with shuffled sides, and the labels that say which side is preferred.

    A classifier, a scorer or a splitter of scikit-learn needs two classes; pairs that always name the preferred
    output first have one. Shuffling the sides gives two, half of the pairs each.

    Parameters
    ----------
    chosen, rejected : array-like of shape (n_pairs,) or (n_pairs, n_features)
        Texts or features of the preferred and of the other outputs.
    y : sequence of two labels, default=(0, 1)
        The labels to write where the second and where the first output is the chosen one, in ascending order, as
        everything here reads the larger class as "the first is preferred".
    random_state : int, RandomState or None, default=None
        Which pairs are swapped: exactly half of them (rounded down), at random.

    Returns
    -------
    X : ndarray of shape (n_pairs, 2) or (n_pairs, 2, n_features)
    y : ndarray of shape (n_pairs,)

    Raises
    ------
    ValueError
        If the two sides differ in shape, hold no pair or text on one side only, or ``y`` does not hold two ascending
        labels.

    Examples
    --------
    >>> X, y = make_pairs(["good", "kind"], ["bad", "mean"], random_state=0)
    >>> X[:, 0], y
    (array(['good', 'mean'], dtype=object), array([1, 0]))
    """
    sides = [_as_array(side) for side in (chosen, rejected)]
    if sides[0].shape != sides[1].shape or sides[0].ndim not in (1, 2) or not len(sides[0]):
        raise ValueError(
            f"Found chosen of shape {sides[0].shape} and rejected of shape {sides[1].shape}. Expected equal shapes, "
            "(n_pairs,) for texts or (n_pairs, n_features) for features, with at least one pair."
        )
    labels = np.asarray(y)
    if labels.shape != (2,) or not labels[0] < labels[1]:
        raise ValueError(
            f"Found y={y!r}. Expected the two labels to write where the second and where the first output is chosen, "
            "in ascending order, e.g. (0, 1) or ('0_second', '1_first')."
        )
    X = np.stack(_check_sides(*sides), axis=1)
    swapped = check_random_state(random_state).permutation(len(X)) < len(X) // 2
    X[swapped] = X[swapped][:, ::-1]
    return X, labels[np.where(swapped, 0, 1)]


def _check_sides(chosen, rejected):
    """Both sides, checked as texts where one of them holds text."""
    texts = [_holds_text(side, sides=1) for side in (chosen, rejected)]
    if not any(texts):
        return chosen, rejected
    for holds_text, side, name in zip(texts, (chosen, rejected), ("chosen", "rejected"), strict=True):
        if not holds_text and side.dtype.kind != "O":
            raise ValueError(
                f"Found {side.dtype} values in {name}, but text on the other side. Expected texts on both sides or "
                "features on both: pass the same column or the same features of either output."
            )
    return _check_texts(chosen), _check_texts(rejected)


# ---------------------------------------------------------------------------------------------- transformer


def _distinct_rows(values):
    """First index of each distinct row and the inverse: ``values[first][inverse]`` is ``values``."""
    if values.dtype.kind == "O" and values.ndim == 2:
        return np.arange(len(values)), np.arange(len(values))
    if values.ndim == 2:  # rows compare as bytes, hence no sum or rounding decides
        values = np.ascontiguousarray(values)
        values = values.view(np.dtype((np.void, values.dtype.itemsize * values.shape[1])))[:, 0]
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first, inverse


def _first_step(transformer):
    while isinstance(transformer, Pipeline):
        transformer = transformer.steps[0][1]
    return transformer


def _reads_columns(transformer):
    """Whether a transformer reads strings as features, in columns, and not as texts, one an output."""
    first = _first_step(transformer)
    if isinstance(first, ColumnTransformer):
        return True
    return hasattr(first, "fit") and get_tags(first).input_tags.categorical


def _text_reader(transformer):
    """The step that reads texts and nothing else, or None."""
    first = _first_step(transformer)
    if isinstance(first, FeatureUnion):
        return next(filter(None, (_text_reader(part) for _, part in first.transformer_list)), None)
    tags = get_tags(first).input_tags if hasattr(first, "fit") else None
    return first if tags is not None and tags.string and not tags.two_d_array else None


def _refuse_features(X, reader):
    """Name what was found where ``reader`` needs texts."""
    found = X if _column_names(X) is not None or hasattr(X, "tocsr") or X is None else _as_array(X)
    what = "X=None" if found is None else f"{_kind_of(found)} of shape {getattr(found, 'shape', np.shape(found))}"
    raise ValueError(
        f"Found {what}, but {type(reader).__name__} reads texts. Expected texts: an array (n_pairs, 2) or "
        "(n_samples,), or a table with columns 'chosen' and 'rejected', or 'completion'. Pass the texts themselves, or "
        "replace the transformer by one of features, e.g. StandardScaler()."
    )


def _kind_of(values):
    kind = getattr(getattr(values, "dtype", None), "kind", None)
    return "numbers" if kind in set("biufc") else "features"


class PairTransformer(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Lift a transformer of outputs to pairs.

    The inner transformer sees outputs only: it is fitted on the distinct outputs of all pairs, and each distinct
    output is transformed once per call, however many pairs it stands in. Outputs that come alone, as rows of
    their own, pass through the same transformer, so that a Pipeline fitted on pairs also scores single outputs.

    Parameters
    ----------
    transformer : transformer, default=None
        Any scikit-learn transformer or Pipeline of them, over texts or features. It is cloned, never changed. It gets
        features in the type that they come in, and decides itself whether it takes NaN. None passes finite features
        through. Its parameters are reached as ``transformer__name``.

    Attributes
    ----------
    transformer_ : transformer
        The fitted clone.
    n_features_in_ : int
        Number of features of an output, for numeric input.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, for tables of numbers.

    Notes
    -----
    Pairs come out as (n_pairs, 2, n_features_out) arrays whatever ``set_output`` says, since no table holds three
    axes; ``set_output`` governs outputs. Sparse features of pairs are refused for the same reason.

    Strings are read as texts, one an output, unless the transformer (the first step of a Pipeline) is an
    ``OneHotEncoder``, an ``OrdinalEncoder``, another one with the tag ``categorical``, or a ``ColumnTransformer``. For
    these they are features: (n_pairs, 2, n_features) of type object, or tables of outputs.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.decomposition import TruncatedSVD
    >>> from sklearn.pipeline import make_pipeline
    >>> pairs = [["thank you kindly", "go away you fool"], ["thank you", "you fool"]]
    >>> lift = PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(2, random_state=0)))
    >>> lift.fit_transform(pairs).shape, lift.transform(["thank you"]).shape
    ((2, 2, 2), (1, 2))
    """

    def __init__(self, transformer=None):
        self.transformer = transformer

    def fit(self, X, y=None):
        """Fit the transformer on the distinct outputs.

        Parameters
        ----------
        X : array-like or table
            Pairs or outputs, texts or features (see the module's table of row layouts).
        y : ignored
            Preferences belong to pairs, the transformer sees outputs.

        Returns
        -------
        self : PairTransformer

        Raises
        ------
        ValueError
            For input that is neither pairs nor outputs, or for features where the transformer reads texts.
        """
        outputs, _, _ = self._outputs(X, reset=True)
        self.transformer_ = self._new_transformer().fit(outputs)
        return self

    def fit_transform(self, X, y=None):
        """Fit and transform in one pass over the distinct outputs. See `fit` and `transform`."""
        outputs, inverse, paired = self._outputs(X, reset=True)
        self.transformer_ = self._new_transformer()
        return self._scatter(self.transformer_.fit_transform(outputs), inverse, paired, X)

    def transform(self, X):
        """Transform pairs or outputs.

        Parameters
        ----------
        X : array-like or table
            Pairs or outputs of the kind that was fitted (texts or features).

        Returns
        -------
        X_out : ndarray of shape (n_pairs, 2, n_features_out), or (n_samples, n_features_out)
            For outputs in the container that ``set_output`` names.

        Raises
        ------
        ValueError
            If the transformer's result for pairs is sparse.
        """
        check_is_fitted(self)
        outputs, inverse, paired = self._outputs(X, reset=False)
        return self._scatter(self.transformer_.transform(outputs), inverse, paired, X)

    def get_feature_names_out(self, input_features=None):
        """Names of the features of an output, from the inner transformer.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the input's features.

        Returns
        -------
        names : ndarray of str objects
        """
        check_is_fitted(self)
        if hasattr(self, "n_features_in_"):
            input_features = _check_feature_names_in(self, input_features)
        return self.transformer_.get_feature_names_out(input_features)

    def set_output(self, *, transform=None):
        """Set the container of transformed outputs; pairs always come as arrays.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, default=None
            None leaves it as it is.

        Returns
        -------
        self : PairTransformer
        """
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}  # clone carries it
        for inner in (self.transformer, getattr(self, "transformer_", None)):
            if inner is not None:
                _safe_set_output(inner, transform=transform)
        return self

    def _new_transformer(self):
        if self.transformer is not None:
            return clone(self.transformer)
        passthrough = FunctionTransformer(feature_names_out="one-to-one")
        if hasattr(self, "_sklearn_output_config"):
            passthrough.set_output(**self._sklearn_output_config)
        return passthrough

    def _outputs(self, X, *, reset):
        """Distinct outputs, the inverse that scatters them, and whether the rows are pairs."""
        texts = None if _reads_columns(self.transformer) else read_texts(X)
        if texts is None:
            reader = _text_reader(self.transformer)
            if reader is not None:
                _refuse_features(X, reader)
            rows, values, paired = self._feature_outputs(X, reset)
        else:
            if not texts.size:
                raise ValueError(f"Found 0 rows (shape {texts.shape}) while a minimum of 1 is required.")
            rows = values = texts.ravel()
            paired = texts.ndim == 2
        first, inverse = _distinct_rows(values)
        return _safe_indexing(rows, first), inverse, paired

    def _feature_outputs(self, X, reset):
        passed = {"dtype": "numeric"} if self.transformer is None else {"dtype": None, "ensure_all_finite": False}
        values, paired = _check_features(X, self, reset, **passed)
        return (X if _column_names(X) is not None else values), values, paired

    def _scatter(self, result, inverse, paired, X):
        if paired and hasattr(result, "tocsr"):
            raise ValueError(
                f"{self.transformer_} gives sparse features, and pairs (n_pairs, 2, n_features) have to be dense. End "
                "the transformer with a step that gives dense features, e.g. TruncatedSVD(256)."
            )
        if paired:
            result = np.asarray(result)[inverse]
            return result.reshape(-1, 2, *result.shape[1:])
        result = _safe_indexing(result, inverse)
        if hasattr(result, "iloc"):
            result.index = X.index if hasattr(X, "iloc") else range(len(inverse))
        return result

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        if self.transformer is not None:
            tags.input_tags.allow_nan = get_tags(self.transformer).input_tags.allow_nan
        return tags
