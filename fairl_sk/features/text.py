"""Texts to features by meaning and by wording: `TextFeatures` joins an encoder with n-grams of words and characters."""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval  # the parameters' declared constraints
from sklearn.utils.validation import check_is_fitted

from ..warn import warn_user
from .encoder import TransformerEmbedder
from .loading import MINILM
from .templates import require_texts

__all__ = ["TextFeatures"]

_WEIGHT = [Interval(Real, 0, None, closed="left")]
_WHOLE = [Interval(Integral, 1, None, closed="left")]


class TextFeatures(
    TransformerMixin,
    BaseEstimator,
    auto_wrap_output_keys=None,  # type: ignore  # no set_output, as its tables cannot hold pairs
):
    """Join the embedding of a text with its n-grams of words and of characters.

    The encoder reads what a text means, the n-grams read how it is worded and spelled. Each block of n-grams is
    weighted by TF-IDF and reduced by a truncated SVD. The three blocks get the same mean squared length over the
    distinct training texts, and are multiplied by their weights.

    Parameters
    ----------
    encoder : str, path-like, transformer or None, default="minilm"
        The ``model`` of a `TransformerEmbedder`, or a transformer of texts, such as a `TransformerEmbedder` with other
        settings (it is cloned). None: n-grams only; this needs no extra.
    encoder_weight : float >= 0, default=1.0
        Root mean squared length of the encoder's block. 0: the block is left out and not computed.
    words_weight : float >= 0, default=1.0
        The same for n-grams of words.
    characters_weight : float >= 0, default=1.0
        The same for n-grams of characters.
    word_ngrams : tuple of int, default=(1, 2)
        Shortest and longest n-gram, in words.
    character_ngrams : tuple of int, default=(2, 4)
        Shortest and longest n-gram, in characters. They do not cross the edges of words.
    max_features : int, default=20_000
        Each block counts the most frequent n-grams, this many; with ``hashing``, it is the number of hash values.
    n_components : int, default=200
        Features of each block of n-grams. A block with fewer n-grams or texts gets fewer features, with a warning.
    hashing : bool, default=False
        Count n-grams by hash value. No vocabulary is built, which saves memory in large corpora. Some n-grams collide.
    store : str, path-like or None, default=None
        Folder of the embedding store, where ``encoder`` is a name or a folder. See `TransformerEmbedder`.
    random_state : int, RandomState or None, default=None
        Start of the SVD. Pass an int for the same features in each fit.

    Attributes
    ----------
    union_ : FeatureUnion
        The fitted blocks by name: "encoder", "words" and "characters", without those left out.
    n_components_ : dict of str to int
        Number of features of each block.

    See Also
    --------
    TransformerEmbedder : The encoder alone.
    PairTransformer : Any transformer of texts over pairs.

    Notes
    -----
    A text that has none of a block's n-grams has the zero vector in this block. N-grams are counted in lower case.
    A table's prompt is put before the output by `fairl_sk.messages.join_prompt`.

    Examples
    --------
    >>> from fairl_sk import TextFeatures
    >>> pairs = [["thank you kindly", "go away you fool"], ["thank you all", "what a fool"]]
    >>> TextFeatures(encoder=None, n_components=2, random_state=0).fit_transform(pairs).shape
    (2, 2, 4)
    """

    _parameter_constraints = {
        "encoder": [str, Path, HasMethods(["fit_transform", "transform"]), None],
        "encoder_weight": _WEIGHT,
        "words_weight": _WEIGHT,
        "characters_weight": _WEIGHT,
        "word_ngrams": [tuple, list],
        "character_ngrams": [tuple, list],
        "max_features": _WHOLE,
        "n_components": _WHOLE,
        "hashing": ["boolean"],
        "store": [str, Path, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        encoder=MINILM,
        *,
        encoder_weight=1.0,
        words_weight=1.0,
        characters_weight=1.0,
        word_ngrams=(1, 2),
        character_ngrams=(2, 4),
        max_features=20_000,
        n_components=200,
        hashing=False,
        store=None,
        random_state=None,
    ):
        self.encoder = encoder
        self.encoder_weight = encoder_weight
        self.words_weight = words_weight
        self.characters_weight = characters_weight
        self.word_ngrams = word_ngrams
        self.character_ngrams = character_ngrams
        self.max_features = max_features
        self.n_components = n_components
        self.hashing = hashing
        self.store = store
        self.random_state = random_state

    def fit(self, X, y=None):
        """Learn vocabulary, SVD and scale of each block from the distinct texts.

        Parameters
        ----------
        X : array-like of str of shape (n_samples,) or (n_pairs, 2), or table
            Texts, pairs of texts, or a table with columns ``chosen`` and ``rejected``, or ``completion`` (and
            ``prompt``).
        y : ignored

        Returns
        -------
        self : TextFeatures

        Raises
        ------
        ValueError
            If ``X`` holds no texts, all weights are 0, or a block finds no n-gram in any text.
        ImportError
            If the encoder needs a package that is not installed.
        OSError
            If the encoder's model cannot be found.

        Warns
        -----
        UserWarning
            If a block has fewer features than ``n_components``.
        """
        self.fit_transform(X)
        return self

    def fit_transform(self, X, y=None):
        """Fit and transform in one pass over the distinct texts. See `fit` and `transform`."""
        self._validate_params()
        texts, distinct, inverse = _read_distinct(X)
        generator = check_random_state(self.random_state)
        blocks, sizes, weights, features = [], {}, {}, []
        for name, weight in self._weights().items():
            fit = self._fit_encoder if name == "encoder" else self._fit_ngrams
            block, values = fit(name, distinct, generator)
            length = np.sqrt(np.einsum("ij,ij->", values, values, dtype=np.float64) / len(values))
            weights[name] = float(weight / length) if length > 0 else float(weight)
            blocks.append((name, block))
            sizes[name] = values.shape[1]
            features.append(values * weights[name])
        self.union_ = FeatureUnion(blocks, transformer_weights=weights)
        self.n_components_ = sizes
        return np.hstack(features)[inverse].reshape(*texts.shape, -1)

    def transform(self, X):
        """Turn texts into features.

        Parameters
        ----------
        X : array-like of str of shape (n_samples,) or (n_pairs, 2), or table
            As in `fit`.

        Returns
        -------
        features : ndarray of shape (n_samples, n_features) or (n_pairs, 2, n_features)
            float32, unless a transformer given as ``encoder`` returns float64.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If ``X`` holds no texts.
        """
        check_is_fitted(self)
        texts, distinct, inverse = _read_distinct(X)
        features = self.union_.transform(distinct)
        features = features.toarray() if hasattr(features, "tocsr") else features
        return features[inverse].reshape(*texts.shape, -1)

    def get_feature_names_out(self, input_features=None):
        """Names of the features: the block and a number, such as ``words0``.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        names : ndarray of str objects
        """
        check_is_fitted(self)
        names = [f"{block}{number}" for block, size in self.n_components_.items() for number in range(size)]
        return np.array(names, dtype=object)

    def _weights(self):
        """Weight by name, of the blocks that take part."""
        weights = {"encoder": self.encoder_weight, "words": self.words_weight, "characters": self.characters_weight}
        if self.encoder is None:
            del weights["encoder"]
        if not any(weights.values()):
            found = ", ".join(f"{name}_weight={weight:g}" for name, weight in weights.items())
            hint = "" if self.encoder is not None else " (encoder=None leaves the encoder out)"
            raise ValueError(f"Found {found}{hint}: no features are left. Expected at least one weight above 0.")
        return {name: weight for name, weight in weights.items() if weight > 0}

    def _fit_encoder(self, name, texts, generator):
        """The fitted encoder and its embeddings (n_texts, n_features)."""
        if isinstance(self.encoder, (str, Path)):
            encoder = TransformerEmbedder(self.encoder, normalize=True, store=self.store)
        elif self.store is not None:
            raise ValueError(
                f"Found store={str(self.store)!r} beside encoder={self.encoder!r:.60}. Expected the store in the "
                "encoder itself: TransformerEmbedder(..., store=...)."
            )
        else:
            encoder = clone(self.encoder)
        try:
            values = encoder.fit_transform(texts)
        except ImportError as error:
            raise ImportError(f"{error} Or go on with n-grams only: TextFeatures(encoder=None).") from error
        if hasattr(values, "tocsr"):
            raise ValueError(
                f"{encoder!r:.60} gives sparse features. Expected dense ones: end it with a step such as "
                "TruncatedSVD(256)."
            )
        return encoder, np.asarray(values)

    def _fit_ngrams(self, name, texts, generator):
        """The fitted steps of a block of n-grams, and its features (n_texts, n_components)."""
        counts = self._make_vectorizer(name)
        try:
            weighted = counts.fit_transform(texts)
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            weighted = None
        if weighted is None or not weighted.nnz:
            raise ValueError(
                f"Found no n-grams of {name} in {len(texts)} texts, such as {texts[0]!r:.40}. Pass texts with words, "
                f"or leave this block out: {name}_weight=0."
            )
        n_terms = np.count_nonzero(weighted.getnnz(axis=0))
        n_components = min(self.n_components, len(texts), n_terms)
        if n_components < self.n_components:
            warn_user(
                f"The block of {name} has {n_components} features, not n_components={self.n_components}: the "
                f"{len(texts)} distinct texts have {n_terms} of its n-grams."
            )
        if weighted.shape[1] == 1:  # TruncatedSVD wants two columns
            return counts, weighted.toarray()
        svd = TruncatedSVD(n_components, n_iter=2, random_state=generator)
        with np.errstate(invalid="ignore"):  # of one text, explained_variance_ratio_ is 0 / 0
            values = svd.fit_transform(weighted)
        return Pipeline([("tfidf", counts), ("svd", svd)]), values

    def _make_vectorizer(self, name):
        analyzer, parameter = {"words": ("word", "word_ngrams"), "characters": ("char_wb", "character_ngrams")}[name]
        lengths = getattr(self, parameter)
        if len(lengths) != 2 or not 1 <= lengths[0] <= lengths[1]:
            raise ValueError(
                f"Found {parameter}={lengths!r}. Expected the lengths of the shortest and the longest n-gram: (1, 2)."
            )
        options = {"analyzer": analyzer, "ngram_range": tuple(lengths), "dtype": np.float32}
        if not self.hashing:
            return _NGrams(sublinear_tf=True, max_features=self.max_features, **options)
        counts = HashingVectorizer(n_features=self.max_features, norm=None, alternate_sign=False, **options)
        return Pipeline([("hash", counts), ("tfidf", TfidfTransformer(sublinear_tf=True))])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


class _NGrams(TfidfVectorizer):
    """Weighted n-grams, saved with their vocabulary as one text: of a dictionary, skops saves much beside the terms."""

    def __getstate__(self):
        state = super().__getstate__()
        if "vocabulary_" in state:  # no term has a line break: tokens are split at white space
            terms = sorted(self.vocabulary_, key=self.vocabulary_.get)
            state = {**state, "vocabulary_": "\n".join(terms)}
        return state

    def __setstate__(self, state):
        if "vocabulary_" in state:
            terms = state["vocabulary_"].split("\n")
            state = {**state, "vocabulary_": {term: column for column, term in enumerate(terms)}}
        super().__setstate__(state)


def _read_distinct(X):
    """Texts (n_samples,) or (n_pairs, 2), the distinct ones, and the number of each text among these."""
    texts = require_texts(X)
    return texts, *np.unique(texts.ravel(), return_inverse=True)
