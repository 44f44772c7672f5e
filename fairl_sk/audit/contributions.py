"""Which words decided: the parts of a linear reward's margin, by n-gram or by feature. The hardest rows show them."""

import numpy as np

from ..features import TextFeatures

N_LISTED = 3


BLOCKS = {
    "encoder": "meaning (encoder)",
    "words": "wording (n-grams of words)",
    "characters": "spelling (n-grams of characters)",
}


class Contributions:
    """The largest parts of the margins of a linear reward of texts.

    Parameters
    ----------
    features : fitted transformer
        Of a `TextFeatures`, each n-gram of words is a part, the encoder is one, and all n-grams of characters are one.
        Of others, parts are features, where ``get_feature_names_out`` names them.
    coef : ndarray of shape (n_features,)
        Weights of the features in the reward.
    """

    def __init__(self, features, coef):
        self.coef = np.asarray(coef, dtype=np.float64)
        self.names, self.blocks, self.words = None, {}, None
        if isinstance(features, TextFeatures):
            ends = np.cumsum([0, *features.n_components_.values()])
            self.blocks = dict(zip(features.n_components_, map(slice, ends[:-1], ends[1:]), strict=True))
            self.words = self._word_weights(features)
        else:
            self.names = _feature_names(features, len(self.coef))

    def _word_weights(self, features):
        """The vectorizer of words with the weight of each n-gram in the reward; None where words are hashed."""
        block = dict(features.union_.transformer_list).get("words")
        steps = getattr(block, "named_steps", {})
        vectorizer, svd = steps.get("tfidf", block), steps.get("svd")
        if not hasattr(vectorizer, "vocabulary_"):
            return None
        weights = self.coef[self.blocks["words"]] * features.union_.transformer_weights["words"]
        return vectorizer, weights if svd is None else weights @ svd.components_

    def of_pair(self, texts, x):
        """The largest of the parts that have the sign of the margin.

        Parameters
        ----------
        texts : sequence of two str
            The preferred and the other output.
        x : ndarray of shape (2, n_features)
            Their features.

        Returns
        -------
        list of (str, float)
            At most `N_LISTED` parts of R(preferred) - R(other) with their names; empty where features have no names.
        """
        parts = self.coef * (np.asarray(x[0], dtype=np.float64) - x[1])
        if not self.blocks:
            return [] if self.names is None else _largest(dict(zip(self.names, parts, strict=True)))
        found = {BLOCKS[name]: parts[columns].sum() for name, columns in self.blocks.items()}
        if self.words is not None:
            del found[BLOCKS["words"]]
            vectorizer, weights = self.words
            counts = vectorizer.transform(list(texts))
            difference = (counts[[0]] - counts[[1]]).tocoo()
            names = vectorizer.get_feature_names_out()[difference.col]
            found |= dict(zip(map(repr, names), difference.data * weights[difference.col], strict=True))
        return _largest(found)


def decided_by(contributions, held, X, row):
    """The largest parts of the margin of a held-out pair, such as "'fool' -0.52; 'kind' +0.20"; of outputs, "".

    Parameters
    ----------
    contributions : Contributions
    held : Bunch
        From `held_out_rows`.
    X : ndarray of shape (n_rows, 2, n_features)
        Their features.
    row : int
    """
    if X.ndim == 2:
        return ""
    order = int(held.sign[row])
    parts = contributions.of_pair(held.texts[row][::order], X[row][::order])
    return "; ".join(f"{name} {part:+.2f}" for name, part in parts)


def _largest(parts):
    side = -1 if sum(parts.values()) < 0 else 1
    ordered = sorted(parts.items(), key=lambda part: -side * part[1])
    return [(str(name), float(part)) for name, part in ordered[:N_LISTED] if side * part > 0]


def _feature_names(features, n_features):
    try:
        names = features.get_feature_names_out()
    except (AttributeError, ValueError, TypeError):  # a transformer without names
        return None
    return names if len(names) == n_features else None
