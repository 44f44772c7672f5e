"""What a preference pair is, and the one place where pairs are checked; every other module starts here.

A *pair* is two outputs (texts or their features) for one prompt. The first output is preferred where ``y`` holds the
larger class, or everywhere if ``y`` is None. The *margin* of a pair is R(preferred) - R(other); ``decision_function``
gives R(first) - R(second). An *output* in a row of its own has no opponent: the missing opponent has reward 0.

=======  ==============================  ======================================================================
rows     features                        texts
=======  ==============================  ======================================================================
pairs    array (n_pairs, 2, n_features)  array (n_pairs, 2), or a table with columns ``chosen`` and ``rejected``
outputs  array (n_samples, n_features)   array (n_samples,), or a table with a column ``completion``
=======  ==============================  ======================================================================

A table may have a column ``prompt``. `fairl_sk.messages` joins prompts and outputs to texts.
"""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import InputTags, TransformerTags, _safe_indexing, check_random_state, get_tags
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from .cluster import ClusterFeatures, check_dask_array, is_dask
from .labels import preference_sign
from .messages import (
    TextTable,
    check_texts,
    column_names,
    column_values,
    is_missing,
    join_prompt,
    join_prompts,
    read_cell,
    skipped_parts,
    to_text,
)
from .prompts import split_prompt
from .warn import warn_user

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


def read_texts(X, *, join=None):
    """Read the texts of ``X``.

    Parameters
    ----------
    X : array-like or table
        Rows in any layout of the module's table.
    join : callable, (prompt, output) -> str, default=None
        How a table's prompt (or None) and output become one text. None means `join_prompt`.

    Returns
    -------
    texts : ndarray of shape (n_samples,) or (n_pairs, 2), or None
        None if ``X`` holds features.

    Raises
    ------
    ValueError
        For a missing text, texts in another layout, or conversations outside a table.
    """
    if hasattr(X, "tocsr"):
        return None
    names = column_names(X)
    for sides in (["chosen", "rejected"], ["completion"]):
        if set(sides) <= set(names or []):
            return _table_texts(X, sides, "prompt" in names, join)
    if names is None:
        values = _as_array(X)
        return check_texts(values) if _holds_text(values) else None
    if not hasattr(X, "dtypes") or isinstance(next(iter(_as_array(X).flat), None), str):
        raise ValueError(
            f"Found a table of texts with columns {names}. Expected 'chosen' and 'rejected' (pairs) or 'completion' "
            "(outputs), and optionally 'prompt': rename the columns."
        )
    return None


def _table_texts(X, sides, has_prompts, join):
    rows = [
        [(join or join_prompt)(prompt, output) for output in outputs]
        for prompt, *outputs in table_rows(X, sides, has_prompts)
    ]
    texts = np.array(rows, dtype=object).reshape(-1, len(sides))
    return texts if len(sides) == 2 else texts[:, 0]


def table_rows(X, sides, has_prompts):
    """Rows (prompt, output, ...) of a table, each a text or messages, that say the prompt once; see `split_prompt`."""
    columns = [_text_column(X, side) for side in sides]
    prompts = _text_column(X, "prompt") if has_prompts else [""] * len(columns[0])
    rows = zip(prompts, *columns, strict=True)
    return list(rows) if isinstance(X, TextTable) and X.is_split else [split_prompt(*row) for row in rows]


def _text_column(X, name):
    values = [read_cell(value) for value in column_values(X, name)]
    for row, value in enumerate(values):
        if isinstance(value, str) or (name == "prompt" and is_missing(value)):
            continue
        if isinstance(value, Real) and value == value:
            raise ValueError(
                f"Column {name!r} holds numbers ({value!r}, ...). Expected strings or lists of messages there: "
                "rename a column of features."
            )
        to_text(value, where=f"row {row} of column {name!r}")
    n_skipped = sum(map(skipped_parts, values))
    if n_skipped:
        warn_user(f"Skipped {n_skipped} parts of messages in column {name!r} that are no text, such as images.")
    return values


def _as_array(X):
    try:
        values = np.asarray(X)
    except ValueError as error:
        raise ValueError(
            f"X is ragged ({error}). Expected pairs (n_pairs, 2, n_features), outputs (n_samples, n_features) or texts "
            "(n_pairs, 2); conversations belong in a column of a table."
        ) from error
    # as objects, a number among texts does not become a text
    return np.asarray(X, dtype=object) if values.dtype.kind == "U" and isinstance(X, (list, tuple)) else values


def _holds_text(values):
    """Whether an array holds texts; nothing says what messages in an array are, a conversation or a pair."""
    if values.dtype.kind != "O" or not values.size:
        return values.dtype.kind in "UT"
    if isinstance(values.flat[0], dict) and {"chosen", "completion"} & set(values.flat[0]):
        raise ValueError(
            f"Found a list of records with the keys {list(values.flat[0])}. Expected a table: pass "
            "pandas.DataFrame(records), or read them by fairl_sk.datasets.load_preferences(records)."
        )
    if isinstance(values.flat[0], (dict, list)) and isinstance(values.flat[-1], (dict, list)):
        raise ValueError(
            "Found messages or lists outside a table. Expected conversations in columns 'chosen' and 'rejected' "
            "(pairs) or 'completion' (outputs): pandas.DataFrame({'completion': conversations})."
        )
    if values.ndim == 1 or values.shape[1:] == (2,):  # beside a text everything has to be text
        return any(isinstance(value, str) for value in values.flat)
    return isinstance(values.flat[0], str)


# -------------------------------------------------------------------------------------------------- pairs


def is_pairs(X):
    """Whether the rows of ``X`` are pairs; otherwise they are outputs.

    Parameters
    ----------
    X : array-like or table
        Rows in any layout of the module's table.

    Returns
    -------
    bool
        See the module's table; errors are those of `read_texts`.
    """
    texts = read_texts(X)
    if texts is not None:
        return texts.ndim == 2
    return not hasattr(X, "tocsr") and _as_array(X).ndim == 3


def check_pairs(X, *, estimator=None, reset=True, mapped=False):
    """Validate features; every method of every estimator calls this.

    The outputs are checked in rows of their own, so ``n_features_in_`` is always the number of features of an output.

    Parameters
    ----------
    X : array-like of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        Features of pairs or of outputs.
    estimator : estimator, default=None
        Where ``n_features_in_`` and ``feature_names_in_`` are set (``reset=True``) or compared (``reset=False``).
    reset : bool, default=True
        Whether this is a fit.
    mapped : bool, default=False
        Whether a ``numpy.memmap`` or an array of Dask is checked by block and stays where it is, with its dtype, not
        copied into memory.

    Returns
    -------
    X : ndarray of shape (n_pairs, 2, n_features) or (n_samples, n_features)
        float32 stays float32; everything else becomes float64. Of an array of Dask, `ClusterFeatures`.

    Raises
    ------
    ValueError
        For anything but finite features of these shapes, or another number of features than in ``fit``.
    """
    if mapped and is_dask(X):
        check_dask_array(X)
        _check_shape(X)
        _check_features(np.zeros((min(len(X), 1), *X.shape[1:])), estimator, reset)  # the number of features
        return ClusterFeatures(X)
    if read_texts(X) is not None:
        raise ValueError(
            "X holds text, but numeric features are expected here. Put a step that makes features before the "
            "estimator: make_pipeline(PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(256))), ...)."
        )
    if mapped and isinstance(X, np.memmap):
        return _check_mapped(X, estimator, reset)
    values, paired = _check_features(X, estimator, reset, dtype=(np.float64, np.float32))
    return values.reshape(-1, 2, values.shape[1]) if paired else values


def _check_mapped(X, estimator, reset):
    """A memory map of features, checked by block."""
    if X.dtype.kind not in "fiu" or not X.dtype.isnative:
        raise ValueError(
            f"Found a memory map of {X.dtype}. Expected numbers in this machine's order of bytes, such as float16."
        )
    size = max(1, 2**21 // max(1, int(np.prod(X.shape[1:]))))
    for begin in range(0, max(len(X), 1), size):
        block = X[begin : begin + size]
        if begin == 0:  # sets or compares the number of features
            _check_features(np.zeros(block[:1].shape), estimator, reset)
        finite = np.isfinite(block)
        if not finite.all():
            row = begin + int(np.flatnonzero(~finite.reshape(len(block), -1).all(axis=1))[0])
            raise ValueError(
                f"Input X contains NaN or infinity, first in row {row} of {len(X)}. Drop the rows with such values "
                "before fitting (of y too): write a file without them."
            )
    return X


def _check_shape(values, *, is_none=False):
    """Refuse what has not the shape of features; whether they are those of pairs."""
    paired = values.ndim == 3
    if values.ndim not in (1, 2, 3) or (paired and (values.shape[1] != 2 or not values.shape[2])):
        raise ValueError(
            f"Found {'X=None' if is_none else f'X of shape {values.shape}, with {values.ndim} axes'}. Expected "
            "features: (n_pairs, 2, n_features) or (n_samples, n_features), with at least one feature. More outputs "
            "than two are several pairs; flatten further axes, e.g. by X.reshape(n_pairs, 2, -1)."
        )
    return paired


def _check_features(X, estimator, reset, **options):
    """Features in any layout as checked outputs (n_outputs, n_features), and whether they came in pairs."""
    values = X if column_names(X) is not None or hasattr(X, "tocsr") else _as_array(X)
    paired = _check_shape(values, is_none=X is None)
    if paired:
        values = values.reshape(-1, values.shape[2])
    try:
        with np.errstate(invalid="ignore"):  # the error for infinite features suffices
            if estimator is None:
                return check_array(values, input_name="X", **options), paired
            return validate_data(estimator, values, reset=reset, **options), paired
    except ValueError as error:
        if "contains NaN" not in str(error) and "contains infinity" not in str(error):
            raise
        raise ValueError(
            f"{error}\nHere: drop the rows with such values before fitting (of y too), or impute them in a step before "
            "this one: make_pipeline(PairTransformer(SimpleImputer()), ...)."
        ) from error


def stack_outputs(X):
    """All outputs of the pairs, in rows of their own.

    Parameters
    ----------
    X : array-like of shape (n_pairs, 2, n_features) or (n_pairs, 2), or a table with chosen and rejected
        Pairs.

    Returns
    -------
    outputs : ndarray of shape (2 * n_pairs, n_features) or (2 * n_pairs,)
        Row 2i is the first and row 2i + 1 the second output of pair i, behind its prompt if there is one.

    Raises
    ------
    ValueError
        If the rows are not pairs.
    """
    texts = read_texts(X)
    values = _as_array(X) if texts is None else texts
    if values.ndim - (texts is None) != 2 or values.shape[1] != 2:
        expected = "features (n_pairs, 2, n_features), texts (n_pairs, 2) or a table with 'chosen' and 'rejected'"
        raise ValueError(f"Found rows of shape {values.shape}. Expected pairs: {expected}.")
    return values.reshape(-1, *values.shape[2:])


def make_pairs(chosen, rejected, *, random_state=None):
    """Make pairs with shuffled sides, and the labels that say which side is preferred.

    Classifiers, scorers and splitters of scikit-learn need two classes; pairs that always name the preferred output
    first have one.

    Parameters
    ----------
    chosen, rejected : array-like of shape (n_pairs,) or (n_pairs, n_features)
        Texts or features of the preferred and of the other outputs.
    random_state : int, RandomState or None, default=None
        Which pairs are swapped: exactly half of them (rounded down), at random.

    Returns
    -------
    X : ndarray of shape (n_pairs, 2) or (n_pairs, 2, n_features)
    y : ndarray of shape (n_pairs,)
        1 where the first output is the chosen one, else 0.

    Raises
    ------
    ValueError
        If the sides differ in shape or are empty, or a text is missing.

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
    if sides[0].ndim == 1:
        sides = [check_texts(side) for side in sides]
    X = np.stack(sides, axis=1)
    swapped = check_random_state(random_state).permutation(len(X)) < len(X) // 2
    X[swapped] = X[swapped][:, ::-1]
    return X, np.where(swapped, 0, 1)


def split_pairs(X):
    """The outputs of pairs as `stack_outputs` orders them, but a table stays one, with its prompts apart."""
    names = column_names(X)
    if names is None or not {"chosen", "rejected"} <= set(names):
        return stack_outputs(X)
    rows = table_rows(X, ("chosen", "rejected"), "prompt" in names)
    outputs = TextTable.of([(prompt, output) for prompt, *outputs in rows for output in outputs])
    others = set(names) - {"chosen", "rejected", "prompt", "completion"}
    outputs.update({name: [value for value in column_values(X, name) for _ in range(2)] for name in others})
    return outputs


# ---------------------------------------------------------------------------------------------- transformer


class PairTransformer(BaseEstimator):  # no TransformerMixin: the tables of its set_output cannot hold pairs
    """Apply a transformer of outputs to pairs.

    The inner transformer is fitted on the distinct outputs of all pairs, and transforms each distinct output once per
    call. Rows that are single outputs are transformed likewise: a Pipeline fitted on pairs also scores outputs.

    Parameters
    ----------
    transformer : transformer, default=None
        A transformer or Pipeline of texts or features; it is cloned. None passes finite features through.
        Strings are texts, but for a ``ColumnTransformer`` and for encoders of categories they are features.

    Attributes
    ----------
    transformer_ : transformer
        The fitted clone.
    n_features_in_, feature_names_in_
        Number and names of an output's features, where these are numbers.

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
            Pairs or outputs, texts or features.
        y : ignored
            Preferences belong to pairs, and the transformer sees outputs.

        Returns
        -------
        self : PairTransformer
        """
        outputs, _, _ = self._outputs(X, reset=True)
        self.transformer_ = self._new_transformer().fit(outputs)
        return self

    def fit_transform(self, X, y=None):
        """Fit and transform in one pass over the distinct outputs. See `fit` and `transform`."""
        outputs, inverse, paired = self._outputs(X, reset=True)
        self.transformer_ = self._new_transformer()
        return self._scatter(self.transformer_.fit_transform(outputs), inverse, paired)

    def transform(self, X):
        """Transform pairs or outputs.

        Parameters
        ----------
        X : array-like or table
            Pairs or outputs of the kind that was fitted (texts or features).

        Returns
        -------
        X_out : ndarray of shape (n_pairs, 2, n_features_out) or (n_samples, n_features_out)
            For outputs a sparse matrix, if the transformer gives one; for pairs, such a matrix is a ValueError.
        """
        check_is_fitted(self)
        outputs, inverse, paired = self._outputs(X, reset=False)
        return self._scatter(self.transformer_.transform(outputs), inverse, paired)

    def get_feature_names_out(self, input_features=None):
        """Names of an output's features, from the inner transformer.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the input's features.

        Returns
        -------
        names : ndarray of str objects
        """
        check_is_fitted(self)
        return self.transformer_.get_feature_names_out(input_features)

    def _new_transformer(self):
        if self.transformer is None:
            return FunctionTransformer(feature_names_out="one-to-one")
        return clone(self.transformer)

    def _outputs(self, X, *, reset):
        """Distinct outputs, the inverse that scatters them, and whether the rows are pairs."""
        first = _first_step(self.transformer)
        tags = get_tags(first).input_tags if hasattr(first, "fit") else InputTags()
        has_columns = tags.categorical or isinstance(first, ColumnTransformer)
        texts = None if has_columns else read_texts(X)
        if texts is not None:
            if not texts.size:
                raise ValueError(f"Found 0 rows (shape {texts.shape}) while a minimum of 1 is required.")
            distinct, inverse = np.unique(texts.ravel(), return_inverse=True)
            return distinct, inverse, texts.ndim == 2
        if tags.string and not tags.two_d_array:
            found = "X=None" if X is None else f"features of shape {X.shape if hasattr(X, 'shape') else np.shape(X)}"
            raise ValueError(
                f"Found {found}, but {type(first).__name__} reads texts, (n_pairs, 2), (n_samples,) or a table. Pass "
                "the texts themselves, or replace the transformer by one of features, e.g. StandardScaler()."
            )
        passed = {"dtype": "numeric"} if self.transformer is None else {"dtype": None, "ensure_all_finite": False}
        values, paired = _check_features(X, self, reset, **passed)
        first, inverse = _distinct_rows(values)
        return _safe_indexing(values if column_names(X) is None else X, first), inverse, paired

    def _scatter(self, result, inverse, paired):
        if not hasattr(result, "tocsr"):
            result = np.asarray(result)[inverse]
            return result.reshape(-1, 2, *result.shape[1:]) if paired else result
        if paired:
            raise ValueError(
                f"{self.transformer_} gives sparse features, and those of pairs have to be dense. End it with a step "
                "that gives dense features, e.g. TruncatedSVD(256)."
            )
        return result[inverse]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        if self.transformer is not None:
            tags.input_tags.allow_nan = get_tags(self.transformer).input_tags.allow_nan
        return tags


def _distinct_rows(values):
    """First index of each distinct row and the inverse; rows compare as bytes, so NaN equals NaN."""
    if values.dtype.kind == "O":
        return np.arange(len(values)), np.arange(len(values))
    values = np.ascontiguousarray(values)
    rows = values.view(np.dtype((np.void, values.dtype.itemsize * values.shape[1])))[:, 0]
    return np.unique(rows, return_index=True, return_inverse=True)[1:]


def _first_step(transformer):
    while isinstance(transformer, (Pipeline, FeatureUnion)):
        steps = transformer.steps if isinstance(transformer, Pipeline) else transformer.transformer_list
        transformer = steps[0][1]
    return transformer
