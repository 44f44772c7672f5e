"""Ground-truth rewards: callables from texts to numbers, with which a recovered reward is compared.

Pass one as ``reference`` to `fairl_sk.make_starc_scorer` or `fairl_sk.audit`. All take texts of shape (n_outputs,) and
return rewards of shape (n_outputs,), float64, higher is better. With p the probability that an output is desirable:

===============  ==========================  =========================
`output`         reward                      range
===============  ==========================  =========================
"logit"          log(p / (1 - p)), log-odds  unbounded
"probability"    p - 1/2                     [-1/2, 1/2]
===============  ==========================  =========================

Both are above 0 where p > 1/2, and rank outputs alike. Their STARC distances to a third reward differ: a probability
hardly separates bad from worse. `describe` says which of them a figure is about.

`ImplicitReward` is no such probability: it is a log-ratio of two language models, and reads prompts and pairs, too.
"""

import inspect
from importlib.metadata import version
from numbers import Integral

import joblib
import numpy as np
from scipy.special import expit, logsumexp
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from .device import torch_device
from .features.batching import TokenizedTexts, run_batches, warn_of_truncation
from .features.classifiers import CATEGORY_NAMES, find_head, load_classifier, load_detoxify
from .features.loading import find_model, weights_sha256
from .implicit.reward import ImplicitReward

__all__ = ["ClassifierReward", "DetoxifyReward", "EstimatorReward", "ImplicitReward"]

_VARIANTS = ("original", "unbiased", "multilingual", "original-small", "unbiased-small")  # of Detoxify
_MAX_KNOWN = 100_000  # texts whose logits a loaded model keeps


class _TextReward:
    """What all rewards share. `_score` maps distinct texts to rewards, `_record` says by what."""

    def __init__(self, desirable, output):
        if output not in ("logit", "probability"):
            raise ValueError(f"Got output={output!r}, but expected 'logit' or 'probability'.")
        if not isinstance(desirable, (bool, np.bool_)):
            raise ValueError(f"Got desirable={desirable!r}, but expected True or False: is the label a good one?")
        self.desirable = bool(desirable)
        self.output = output

    def __call__(self, texts):
        """Rewards (n_outputs,) of texts (n_outputs,)."""
        return self._of_distinct(self._score, texts)

    def describe(self):
        """Describe what the rewards depend on, for the record of a figure. It loads the model.

        Returns
        -------
        dict
            Ready for JSON: the class, the model with a checksum of its weights (and its commit in the hub), the label,
            whether it is desirable, `output`, length, precision and versions.
        """
        return {"reward": type(self).__name__, "output": self.output, **self._record()}

    def _of_distinct(self, score, texts):
        """Score each distinct text once; a row for each text."""
        texts, inverse = np.unique(_check_texts(texts), return_inverse=True)
        rewards = np.asarray(score(texts), dtype=np.float64)[inverse]
        bad = ~np.isfinite(rewards).all(axis=tuple(range(1, rewards.ndim)))
        if bad.any():
            raise ValueError(
                f"{self!r} gave a reward that is not finite for {bad.sum()} of {len(bad)} texts (the first in row "
                f"{np.argmax(bad)}). Check the weights of the model."
            )
        return rewards

    def __repr__(self):
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in inspect.signature(type(self)).parameters)
        return f"{type(self).__name__}({' '.join(values.split())})"


def _check_texts(texts):
    if isinstance(texts, str):
        raise ValueError(f"Got one text, {texts!r:.60}, but expected a list of texts. Put it into a list.")
    texts = np.asarray(texts, dtype=object)
    if texts.ndim != 1 or not len(texts):
        raise ValueError(
            f"Got texts of shape {texts.shape}, but expected (n_outputs,) with at least one. Pairs are flattened by "
            "fairl_sk.pairs.stack_outputs(X), and their rewards reshaped by .reshape(-1, 2)."
        )
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            found = "an empty text" if isinstance(text, str) else f"{type(text).__name__} {text!r:.60}"
            raise ValueError(f"Found {found} in row {row}, but expected a text. Drop or fill such rows first.")
    return texts


def _find_label(labels, name, whose):
    """Position of a label, by its name in any case."""
    found = [index for index, label in enumerate(labels) if label.casefold() == str(name).casefold()]
    if len(found) != 1:
        raise ValueError(f"Got {name!r}, but {whose} has the labels {', '.join(map(repr, labels))}. Name one of them.")
    return found[0]


def _to_reward(log_odds, desirable, output):
    log_odds = log_odds if desirable else -log_odds
    return log_odds if output == "logit" else expit(log_odds) - 0.5


class _TransformerReward(_TextReward):
    """What rewards by a sequence classifier share. `_classifier` loads it, `_column` is the position of its label."""

    def __init__(self, desirable, output, batch_tokens, max_length, truncation_side, device, verbose):
        super().__init__(desirable, output)
        if batch_tokens is not None and (not isinstance(batch_tokens, Integral) or batch_tokens < 1):
            raise ValueError(f"Got batch_tokens={batch_tokens!r}, but expected None or a whole number of at least 1.")
        if truncation_side not in ("left", "right"):
            raise ValueError(f"Got truncation_side={truncation_side!r}, but expected 'left' or 'right'.")
        self.batch_tokens = batch_tokens
        self.max_length = max_length
        self.truncation_side = truncation_side
        self.device = device
        self.verbose = verbose

    def _longest(self):
        longest = self._classifier.longest
        if self.max_length is not None and not 3 <= self.max_length <= longest:
            raise ValueError(f"Got max_length={self.max_length!r}, but expected None or 3 to {longest}, in tokens.")
        return self.max_length or longest

    def _logits(self, texts):
        """Logits (n_texts, n_labels); the model runs on texts that it has not scored yet."""
        classifier, length = self._classifier, self._longest()
        keys = [(text, self.truncation_side, length) for text in texts]
        logits = {key: classifier.known[key] for key in keys if key in classifier.known}
        new = [key for key in keys if key not in logits]
        for rows, values in self._run(classifier, [text for text, *_ in new], length) if new else ():
            logits.update(zip([new[row] for row in rows], values[:, : len(classifier.labels)], strict=True))
        if len(classifier.known) + len(new) > _MAX_KNOWN:
            classifier.known.clear()
        classifier.known.update(list(logits.items())[-_MAX_KNOWN:])
        return np.array([logits[key] for key in keys], dtype=np.float64)

    def _run(self, classifier, texts, length):
        how = {"max_length": length, "truncation_side": self.truncation_side}
        tokens = TokenizedTexts(classifier.tokenizer, texts, **how)
        tokens.check_vocabulary(classifier.model, classifier.name)
        warn_of_truncation(tokens.cut.sum(), len(texts), **how)
        module, pool = find_head(classifier.model)
        device = torch_device(self.device)
        with tqdm(total=len(texts), desc=type(self).__name__, unit="text", disable=not self.verbose) as bar:
            for rows, logits in run_batches(module, tokens, pool, device, batch_tokens=self.batch_tokens):
                yield rows, logits
                bar.update(len(rows))

    def _score(self, texts):
        column, logits = self._column(), self._logits(texts)
        log_odds = logits[:, column]
        if self._classifier.exclusive:
            log_odds = log_odds - logsumexp(np.delete(logits, column, axis=1), axis=1)
        return _to_reward(log_odds, self.desirable, self.output)

    def _record(self):
        classifier = self._classifier
        return {
            "model": classifier.name,
            "revision": classifier.revision,
            "weights_sha256": weights_sha256(classifier.model),
            "label": classifier.labels[self._column()],
            "desirable": self.desirable,
            "labels": "exclusive" if classifier.exclusive else "independent",
            "max_length": self._longest(),
            "truncation_side": self.truncation_side,
            "dtype": str(classifier.model.dtype).removeprefix("torch."),
            "attention": classifier.model.config._attn_implementation,
            "versions": {name: version(name) for name in ("torch", "transformers")},
        }


class ClassifierReward(_TransformerReward):
    r"""Reward of a text by a Hugging Face sequence classifier: the log-odds of a label, or of its absence.

    With the logits :math:`z` of the classifier and the index j of the label, the log-odds of the label are

    .. math:: \ell_j = z_j - \log \sum_{k \ne j} \exp z_k \quad\text{or}\quad \ell_j = z_j,

    the first where labels exclude each other (softmax; with two labels, the difference of the logits), the second for a
    model with one logit, or with ``problem_type="multi_label_classification"`` in its configuration.

    Parameters
    ----------
    model : str or path
        A folder with a model and its tokenizer, or a name in the Hugging Face hub or its cache.
    label : str or None
        Name of the label, in any case. None is for a model with one logit.
    desirable : bool
        Whether outputs with the label are the good ones: False for "toxic", True for "neutral". There is no default,
        since a wrong sign reverses every figure.
    output : {"logit", "probability"}, default="logit"
        The log-odds, or the probability minus 1/2, of a desirable output.
    revision : str, default=None
        Branch, tag or commit of a model in the hub.
    batch_tokens : int or None, default=None
        Tokens in a batch, padding included. See `TransformerEmbedder`.
    max_length : int, default=None
        Tokens of a text that are read, special ones included. None: all that the model can read.
    truncation_side : {"left", "right"}, default="right"
        The end that a longer text loses. A warning counts such texts.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where the model runs, in float32. "auto": a GPU if there is one.
    verbose : bool, default=False
        Show a progress bar.

    Notes
    -----
    The first call loads the model, and raises OSError for missing files or weights, ValueError for an unknown label, an
    empty text or a missing device, and MemoryError for a text that does not fit. A process keeps the last two models
    and the logits of up to 100,000 texts each, so that a search scores each text once.

    Examples
    --------
    >>> from fairl_sk.rewards import ClassifierReward
    >>> reward = ClassifierReward("s-nlp/roberta_toxicity_classifier", "toxic", desirable=False)
    >>> reward.output  # nothing is loaded yet
    'logit'
    """

    def __init__(
        self, model, label, *, desirable, output="logit", revision=None, batch_tokens=None, max_length=None,
        truncation_side="right", device="cpu", verbose=False,
    ):  # fmt: skip
        super().__init__(desirable, output, batch_tokens, max_length, truncation_side, device, verbose)
        self.model = model
        self.label = label
        self.revision = revision

    @property
    def _classifier(self):
        device = str(torch_device(self.device))
        return load_classifier(*find_model(self.model, self.revision)[:3], device)

    def _column(self):
        classifier = self._classifier
        if classifier.model.config.problem_type == "regression" and self.output == "probability":
            raise ValueError(
                f"The classifier {classifier.name} is a regression, its logit is no log-odds. Use output='logit'."
            )
        if self.label is None and len(classifier.labels) == 1:
            return 0
        return _find_label(classifier.labels, self.label, f"the classifier {classifier.name}")


class DetoxifyReward(_TransformerReward):
    """Reward of a text by Detoxify: the log-odds that it is not toxic.

    Detoxify [1]_ is trained on comments that people labeled with several kinds of toxicity. With its logit z of one
    kind, the log-odds of a desirable output are -z. ``detoxify.Detoxify.predict`` returns :math:`1 / (1 + e^{-z})`.

    Parameters
    ----------
    variant : {"original", "unbiased", "multilingual", "original-small", "unbiased-small"}, default="original"
        The published model to download, once, into PyTorch's cache.
    output : {"logit", "probability"}, default="logit"
        The log-odds, or the probability minus 1/2, of a desirable output.
    category : str, default=None
        Name of the kind of toxicity, in any case; "insult", for instance. None: "toxicity", over all kinds.
    checkpoint : path, default=None
        A local model in Detoxify's format, instead of a published one. The package detoxify is not needed then.
    config_folder : path, default=None
        Folder with the configuration and the tokenizer of the model's architecture. With `checkpoint`, no network is
        needed. None: from the Hugging Face hub or its cache.
    batch_tokens, max_length, truncation_side, device, verbose
        See `ClassifierReward`, also for errors.

    Notes
    -----
    The model "original" is in the hub, too: ``ClassifierReward("unitary/toxic-bert", "toxic", desirable=False)``.

    References
    ----------
    .. [1] Hanu and Unitary team, "Detoxify", https://github.com/unitaryai/detoxify, 2020.

    Examples
    --------
    >>> from fairl_sk.rewards import DetoxifyReward
    >>> reward = DetoxifyReward("unbiased", category="insult", output="probability")
    >>> reward.category  # nothing is loaded yet
    'insult'
    """

    def __init__(
        self, variant="original", *, output="logit", category=None, checkpoint=None, config_folder=None,
        batch_tokens=None, max_length=None, truncation_side="right", device="cpu", verbose=False,
    ):  # fmt: skip
        super().__init__(False, output, batch_tokens, max_length, truncation_side, device, verbose)
        if variant not in _VARIANTS:
            raise ValueError(f"Got variant={variant!r}, but expected one of {', '.join(map(repr, _VARIANTS))}.")
        self.variant = variant
        self.category = category
        self.checkpoint = checkpoint
        self.config_folder = config_folder

    def subtypes(self, texts):
        """Score every kind of toxicity in one pass over the texts.

        Parameters
        ----------
        texts : array-like of str of shape (n_outputs,)

        Returns
        -------
        dict
            Name of each kind to its rewards, shape (n_outputs,), in the unit that `output` names.
        """
        rewards = self._of_distinct(lambda distinct: _to_reward(self._logits(distinct), False, self.output), texts)
        return dict(zip(self._classifier.labels, rewards.T.copy(), strict=True))

    @property
    def _classifier(self):
        places = (None if place is None else str(place) for place in (self.checkpoint, self.config_folder))
        return load_detoxify(self.variant, *places, str(torch_device(self.device)))

    def _column(self):
        category = "toxicity" if self.category is None else str(self.category).casefold()
        classifier = self._classifier
        return _find_label(classifier.labels, CATEGORY_NAMES.get(category, category), classifier.name)


class EstimatorReward(_TextReward):
    """Reward of a text by a fitted scikit-learn classifier: the log-odds of a class, or of its absence.

    Parameters
    ----------
    estimator : classifier or Pipeline
        Fitted on texts of shape (n_samples,).
    column : class label, default=None
        The class. None: of two classes the larger, which this package reads as the desirable one.
    desirable : bool, default=True
        Whether outputs of the class are the good ones.
    output : {"logit", "probability"}, default="logit"
        "logit": with two classes ``decision_function``, in its own unit; else, or without it, the log-odds of
        ``predict_proba``, cut off at 36. "probability": ``predict_proba`` of a desirable output, minus 1/2.

    Raises
    ------
    ValueError, NotFittedError
        When called: for an unknown class, none of more than two, a missing method, an empty text, or before ``fit``.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from fairl_sk.rewards import EstimatorReward
    >>> fitted = make_pipeline(CountVectorizer(), LogisticRegression()).fit(["kind", "rude"], ["good", "toxic"])
    >>> EstimatorReward(fitted, column="toxic", desirable=False)(["kind", "rude"]).round(2)
    array([ 0.4, -0.4])
    """

    def __init__(self, estimator, *, column=None, desirable=True, output="logit"):
        super().__init__(desirable, output)
        self.estimator = estimator
        self.column = column

    def _record(self):
        index, method = self._index(), self._method()
        steps = [step for _, step in getattr(self.estimator, "steps", [(None, self.estimator)])]
        return {
            "model": " > ".join(type(step).__name__ for step in steps),
            "fingerprint": joblib.hash(self.estimator, hash_name="sha1"),
            "label": str(self.estimator.classes_[index]),
            "desirable": self.desirable,
            "method": method,
            "versions": {"scikit-learn": version("scikit-learn")},
        }

    def _index(self):
        check_is_fitted(self.estimator)
        if not hasattr(self.estimator, "classes_"):
            raise ValueError(f"{type(self.estimator).__name__} has no classes_, but a fitted classifier is expected.")
        labels = [str(label) for label in self.estimator.classes_]
        if self.column is None and len(labels) == 2:
            return 1
        return _find_label(labels, str(self.column), f"the {type(self.estimator).__name__}")

    def _method(self):
        wanted = ["predict_proba"]
        if self.output == "logit" and len(self.estimator.classes_) == 2:
            wanted.insert(0, "decision_function")
        for method in wanted:
            if hasattr(self.estimator, method):
                return method
        raise ValueError(
            f"{type(self.estimator).__name__} has no {' and no '.join(wanted)}, but output={self.output!r} with "
            f"{len(self.estimator.classes_)} classes needs it. Wrap it in sklearn.calibration.CalibratedClassifierCV."
        )

    def _score(self, texts):
        index, method = self._index(), self._method()
        values = getattr(self.estimator, method)(texts)
        if method == "decision_function":
            return values if (index == 1) == self.desirable else -values
        chance = values[:, index] if self.desirable else 1 - values[:, index]
        if self.output == "probability":
            return chance - 0.5
        epsilon = np.finfo(np.float64).eps  # log-odds of +-36
        chance = np.clip(chance, epsilon, 1 - epsilon)
        return np.log(chance) - np.log1p(-chance)
