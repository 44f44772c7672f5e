"""Ground-truth rewards: callables from texts to numbers, against which a recovered reward is measured.

For whoever needs a `reference` for `fairl_sk.make_starc_scorer` or `fairl_sk.audit`. Three sources, one contract: texts
of shape (n_outputs,) in, rewards of shape (n_outputs,) out, float64, higher is better, each distinct text scored once.
With p the chance that an output is desirable (that it lacks an undesirable label):

===============  ==========================  =========================  =======================================
`output`         reward                      range                      where it is 0
===============  ==========================  =========================  =======================================
"logit"          log(p / (1 - p)), log-odds  unbounded                  p = 1/2
"probability"    p - 1/2                     [-1/2, 1/2]                p = 1/2
===============  ==========================  =========================  =======================================

They order outputs alike and yet are different rewards, at different STARC distances from any third one: a probability
hardly tells the bad from the worse. A figure says which one it is about by keeping what `describe` returns. Both are
above 0 exactly where an output is more likely desirable than not, which is what an audit takes for its label; the
offset of 1/2 changes no distance. Models load when they are first called, once a process, and never travel in a pickle;
a text that a process has scored is looked up from then on, so that folds and candidates cost nothing.
"""

import hashlib
import inspect
import pickle
import re
from importlib import import_module
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from scipy.special import expit, logsumexp
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from .device import torch_device
from .features.encoder import (
    _LOADING,
    _check_vocabulary,
    _files_of,
    _run_batches,
    _Tokens,
    _warn_of_truncation,
    count_positions,
    default_budget,
)
from .features.store import text_keys

__all__ = ["ClassifierReward", "DetoxifyReward", "EstimatorReward"]

# Detoxify's variants, and its own names for the categories of its first training set (detoxify.load_checkpoint).
_VARIANTS = ("original", "unbiased", "multilingual", "original-small", "unbiased-small")
_CATEGORY_NAMES = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}
_MAX_LOADED = 2  # models that a process keeps, as encoders
_PROBE, _PADDING = "Well, is it?", 3  # a text, and tokens behind it, to see whether a model stands them
_MAX_KNOWN = 100_000  # texts of which a loaded model keeps the logits: some 30 MB


# ------------------------------------------------------------------------------------------ what they share


class _TextReward:
    """A reward of texts: `_score` maps distinct texts to rewards, `_record` says by what, the rest is here."""

    def __init__(self, desirable, output):
        if output not in ("logit", "probability"):
            raise ValueError(f"Got output={output!r}, but expected 'logit' or 'probability'.")
        if not isinstance(desirable, (bool, np.bool_)):
            raise ValueError(f"Got desirable={desirable!r}, but expected True or False: is the label a good one?")
        self.desirable = bool(desirable)
        self.output = output

    def __call__(self, texts):
        """Rewards (n_outputs,) of texts (n_outputs,)."""
        return self._scattered(self._score, texts)

    def describe(self):
        """What the rewards depend on, for the record of a figure; loads the model.

        Returns
        -------
        dict
            Of text, numbers and booleans, for JSON: the class, the model with a fingerprint of its weights (and its
            commit, if it comes from the hub), the label, whether it is desirable, `output`, and what else changes a
            reward: length, precision, versions.
        """
        return {"reward": type(self).__name__, "output": self.output, **self._record()}

    def _scattered(self, score, texts):
        """What `score` says of the distinct texts, a row for each text."""
        texts = _check_texts(texts)
        distinct, inverse = np.unique(texts, return_inverse=True)
        rewards = np.asarray(score(distinct), dtype=np.float64)
        bad = ~np.isfinite(rewards).all(axis=tuple(range(1, rewards.ndim)))[inverse]
        if bad.any():
            raise ValueError(
                f"{self!r} gave a reward that is not finite for {bad.sum()} of {len(texts)} texts (the first in row "
                f"{np.argmax(bad)}). Check the weights of the model."
            )
        return rewards[inverse]

    def __repr__(self):
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in inspect.signature(type(self)).parameters)
        return f"{type(self).__name__}({' '.join(values.split())})"


def _check_texts(texts):
    """Texts as an object array (n_outputs,); the first row that is no text, or an empty one, is named."""
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
    exact = [index for index, label in enumerate(labels) if label == name]
    alike = [index for index, label in enumerate(labels) if label.casefold() == str(name).casefold()]
    found = exact or alike
    if len(found) != 1:
        raise ValueError(f"Got {name!r}, but {whose} has the labels {', '.join(map(repr, labels))}. Name one of them.")
    return found[0]


def _as_reward(log_odds, desirable, output):
    """The reward of log-odds, as the table at the top has it."""
    log_odds = log_odds if desirable else -log_odds
    return log_odds if output == "logit" else expit(log_odds) - 0.5


def _import_extra(module, extra, user):
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{user} needs {module}, which cannot be imported here ({error}). Run pip install 'fairl-sk[{extra}]'."
        ) from error


# ----------------------------------------------------------------------------------------- transformers


class _Loaded(NamedTuple):
    """A sequence classifier, ready to score: `exclusive` says that softmax, not logistic, makes its probabilities."""

    model: Any
    tokenizer: Any
    labels: list  # of the first logits; a head may have more
    exclusive: bool
    longest: int  # tokens that the model can read
    module: Any  # what runs, and how its output and the mask of the tokens become logits, see `_head`
    pool: Any
    alone: bool  # whether padding would change the logits, so that each text is a batch
    known: dict  # logits by what was read: the key of a text, and how it was cut


_LOADED: dict[tuple, _Loaded] = {}  # what this process keeps, by source and device, the latest last


class _TransformerReward(_TextReward):
    """Batches and record of a Hugging Face sequence classifier; `_load` and `_source` say where it comes from."""

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

    @property
    def _classifier(self):
        """The model on its device: one of those that this process keeps, or loaded now."""
        device = torch_device(self.device)
        key = (type(self), str(device), *self._source())
        with _LOADING:
            loaded = _LOADED.pop(key, None)
            while loaded is None and len(_LOADED) >= _MAX_LOADED:
                del _LOADED[next(iter(_LOADED))]
            if loaded is None:
                loaded = self._load()
                loaded.model.to(device)
            _LOADED[key] = loaded
        return loaded

    def _longest(self):
        longest = self._classifier.longest
        if self.max_length is not None and not 3 <= self.max_length <= longest:
            raise ValueError(f"Got max_length={self.max_length!r}, but expected None or 3 to {longest}, in tokens.")
        return longest if self.max_length is None else self.max_length

    def _logits(self, texts):
        """Logits (n_texts, n_labels); the model runs on those that this process has not scored yet."""
        loaded = self._classifier
        cut = {"truncation_side": self.truncation_side, "max_length": self._longest()}
        keys = [(key, *cut.values()) for key in text_keys(texts)]
        is_known = np.array([key in loaded.known for key in keys])
        logits = np.empty((len(texts), len(loaded.labels)))
        for row in np.flatnonzero(is_known):
            logits[row] = loaded.known[keys[row]]
        new = np.flatnonzero(~is_known)
        for rows, values in self._run(loaded, texts[new], cut) if len(new) else ():
            logits[new[rows]] = values[:, : len(loaded.labels)]
            _remember(loaded.known, [keys[row] for row in new[rows]], logits[new[rows]])
        return logits

    def _run(self, loaded, texts, cut):
        """Yield (rows, logits) of batches of texts."""
        device = torch_device(self.device)
        tokens = _Tokens(loaded.tokenizer, list(texts), {**cut, "special_tokens": True})
        _check_vocabulary(loaded.model, tokens, self._model_name())
        _warn_of_truncation(tokens.cut.sum(), len(texts), cut)
        budget = 1 if loaded.alone else self.batch_tokens or default_budget(device, tokens.lengths)
        with tqdm(total=len(texts), desc=type(self).__name__, unit="text", disable=not self.verbose) as bar:
            for rows, logits in _run_batches(loaded.module, tokens, loaded.pool, budget, device):
                yield rows, logits
                bar.update(len(rows))

    def _score(self, texts):
        column, logits = self._column(), self._logits(texts)
        log_odds = logits[:, column]
        if self._classifier.exclusive:
            log_odds = log_odds - logsumexp(np.delete(logits, column, axis=1), axis=1)
        return _as_reward(log_odds, self.desirable, self.output)

    def _record(self):
        model, _, labels, exclusive, *_ = self._classifier
        return {
            "model": self._model_name(),
            "revision": getattr(model.config, "_commit_hash", None),
            "weights_sha256": _weights_sha256(model),
            "label": labels[self._column()],
            "desirable": self.desirable,
            "labels": "exclusive" if exclusive else "independent",
            "max_length": self._longest(),
            "truncation_side": self.truncation_side,
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
            "versions": {name: version(name) for name in ("torch", "transformers")},
        }


def _state_of(path):
    """What changes where a model's files change: their sizes and times."""
    if path is None or not Path(path).exists():
        return ()
    if Path(path).is_dir():
        return tuple(sorted(_files_of(path)))
    return Path(path).stat().st_size, Path(path).stat().st_mtime_ns


def _remember(known, keys, logits):
    """Keep logits by key, and of all only the latest."""
    known.update(zip(keys, logits, strict=True))
    while len(known) > _MAX_KNOWN:
        del known[next(iter(known))]


def _weights_sha256(model):
    """Fingerprint of all weights by name, the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _fetch(load, source, name, remedy, **options):
    """What transformers loads, quietly; what is missing is named, with the remedy."""
    logging = import_module("transformers.utils.logging")
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return load(source, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"Could not load {name}: {reason} {remedy}") from error
    finally:
        if had_bars:
            logging.enable_progress_bar()


def _fetch_model(model_class, source, name, remedy, **options):
    """A model in float32 with all its weights; one that would get random ones is refused."""
    options |= {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = _fetch(model_class.from_pretrained, source, name, remedy, **options)
    random = [*info["missing_keys"], *info["mismatched_keys"]]
    if random:
        raise ValueError(
            f"{name} has no weights, or weights of another shape, for {', '.join(sorted(map(str, random))[:4])}: these "
            "would be random, and so would the rewards. Expected a trained classifier, and its own configuration."
        )
    return model.eval()


def _check_loaded(model, tokenizer, labels, exclusive, name):
    """The parts as `_Loaded`, if they belong together."""
    if len(tokenizer) - len(tokenizer.all_special_ids) < 3:  # what transformers makes without files, in silence
        raise FileNotFoundError(
            f"The tokenizer of {name} knows no words: the files of its vocabulary are missing. Put them "
            "(tokenizer.json, vocab.txt or the like) beside config.json."
        )
    model.config.get_text_config().use_cache = False  # keys and values of a text that nobody continues
    longest = min(tokenizer.model_max_length, count_positions(model))
    cut = {"truncation_side": "right", "max_length": longest - _PADDING}
    _check_vocabulary(model, _Tokens(tokenizer, [_PROBE], {**cut, "special_tokens": True}), name)
    inputs = tokenizer([_PROBE], truncation=True, max_length=cut["max_length"], return_tensors="pt")
    _check_inputs(model, inputs, name)
    module, pool = _head(model)
    if module is not model:
        model.config.get_text_config().pad_token_id = None  # its own class needs none for a text alone
    alone = not _stands_padding(model, module, pool, inputs["input_ids"])
    if alone and not model.config.is_encoder_decoder:
        module, pool, model.config.get_text_config().pad_token_id = model, _own_logits, None
    return _Loaded(model, tokenizer, list(labels), exclusive, longest, module, pool, alone, {})


def _own_logits(output, mask):
    return output.logits.float()


def _head(model):
    """What to run, and how its output and the mask of the tokens become logits (n_texts, n_labels).

    The own class of a decoder takes the state of the last token that is not the pad id: a wrong one where a text ends
    in that id, and no other text than one alone where there is no such id. The mask knows the last token.
    """
    score = getattr(model, "score", None)
    if not isinstance(score, torch.nn.Linear) or model.config.is_encoder_decoder:
        return model, _own_logits

    def last_logits(output, mask):
        states = output.last_hidden_state
        return score(states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]).float()

    return model.base_model, last_logits


def _stands_padding(model, module, pool, ids):
    """Whether a text has the logits that the model gives it alone, where it is padded on the right."""
    padded = torch.nn.functional.pad(ids, (0, _PADDING))
    mask = torch.arange(padded.shape[1])[None] < ids.shape[1]
    with torch.inference_mode():
        logits = pool(module(input_ids=padded, attention_mask=mask.long()), mask)
        return _alike(logits, model(input_ids=ids).logits)


def _check_inputs(model, inputs, name):
    """That token ids are all that the model reads, of what its tokenizer gives."""
    known = inspect.signature(model.forward).parameters
    inputs = {key: value for key, value in inputs.items() if key in known}
    with torch.inference_mode():
        same = _alike(model(**inputs).logits, model(input_ids=inputs["input_ids"]).logits)
    if not same:
        read = ", ".join(key for key in inputs if key not in ("input_ids", "attention_mask"))
        raise ValueError(
            f"{name} reads {read} of its tokenizer, and gives its tokens alone other logits. Expected a model that "
            "reads tokens: wrap this one into a callable of your own, from texts to rewards."
        )


def _alike(logits, others):
    return torch.allclose(logits.float(), others.float(), rtol=1e-3, atol=1e-3)


class ClassifierReward(_TransformerReward):
    r"""Reward of a text: how surely a Hugging Face sequence classifier gives it a label, or does not.

    With the logits :math:`z` of the classifier and the index j of the label, the log-odds of the label are

    .. math:: \ell_j = z_j - \log \sum_{k \ne j} \exp z_k \quad\text{or}\quad \ell_j = z_j,

    the first where labels exclude each other (softmax; with two labels, the difference of the logits), the second
    for a model with one logit and one whose configuration says ``problem_type="multi_label_classification"``.

    Parameters
    ----------
    model : str or path
        A folder with a model and its tokenizer, or the name of a model on the Hugging Face hub (read from the cache
        where it is cached; nothing is downloaded where ``HF_HUB_OFFLINE=1``).
    label : str or None
        Name of the label, in any case. None is for a model with one logit.
    desirable : bool
        Whether outputs with the label are the good ones: False for "toxic", True for "neutral". It has no default,
        as a wrong sign turns every figure round.
    output : {"logit", "probability"}, default="logit"
        The log-odds, or the probability minus 1/2, of a desirable output.
    revision : str, default=None
        Branch, tag or commit of a model on the hub. `describe` returns the commit that was read.
    batch_tokens : int or None, default=None
        Most tokens in a batch, padding included, but at least one text; halved where memory ends. It changes rewards by
        rounding only. None: as of `TransformerEmbedder`.
    max_length : int, default=None
        Tokens of a text that are read, special ones included. None: all that the model can read.
    truncation_side : {"left", "right"}, default="right"
        Which end a longer text loses; how many texts do is said in a warning.
    device : {"cpu", "cuda", "auto"} or str, default="cpu"
        Where the model runs, in float32. "auto": a GPU if there is one.
    verbose : bool, default=False
        Whether to show a progress bar.

    Notes
    -----
    Errors come with the first call, which loads the model: FileNotFoundError for a model or a file that is missing,
    ValueError for a label that the model does not have (the message names those it has), for weights that are missing
    and would be random, for an empty text or what is not a text (the message names the row), and for a device that is
    not there, MemoryError for a single text that does not fit, ImportError without transformers. Half of a surrogate
    pair (a cut emoji in JSON) is read as U+FFFD.

    A process keeps the two models that it used last, and with each the logits of the last 100,000 texts: a reward that
    scores the same texts again, as in every fold of a search, runs no model. A decoder is read at the last token by
    the mask of the padding, so that no padding token is needed, and one that a text ends in counts as any other.

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

    def _model_name(self):
        return str(self.model)

    def _source(self):
        return str(self.model), self.revision, _state_of(self.model)

    def _column(self):
        model, _, labels, *_ = self._classifier
        if model.config.problem_type == "regression" and self.output == "probability":
            raise ValueError(
                f"The classifier {self.model} is a regression, its logit is no log-odds. Use output='logit'."
            )
        if self.label is None and len(labels) == 1:
            return 0
        return _find_label(labels, self.label, f"the classifier {self.model}")

    def _load(self):
        transformers = _import_extra("transformers", "text", type(self).__name__)
        where = f"the classifier {self.model}", self._remedy()
        options = {"revision": self.revision or "main", "trust_remote_code": False}
        model = _fetch_model(transformers.AutoModelForSequenceClassification, self.model, *where, **options)
        tokenizer = _fetch(transformers.AutoTokenizer.from_pretrained, self.model, *where, **options)
        config = model.config
        exclusive = config.num_labels > 1 and config.problem_type != "multi_label_classification"
        labels = [config.id2label[index] for index in range(config.num_labels)]
        return _check_loaded(model, tokenizer, labels, exclusive, where[0])

    def _remedy(self):
        if Path(self.model).is_dir():
            found = ", ".join(sorted(path.name for path in Path(self.model).iterdir())) or "nothing"
            return f"The folder holds {found}, but config.json, model.safetensors and tokenizer files are expected."
        return (
            "It is no folder here, and not in the Hugging Face cache. Where there is a network, run "
            f"'hf download {self.model}'; else copy its folder here and give the path."
        )


class DetoxifyReward(_TransformerReward):
    """Reward of a text: how surely Detoxify does not call it toxic.

    Detoxify [1]_ is trained on comments labelled by people with several kinds of toxicity, which do not exclude each
    other. With its logit z of one kind, the log-odds of a desirable output are -z, and its probability 1 - p is
    :math:`1 / (1 + e^z)`, where p is what ``detoxify.Detoxify.predict`` returns.

    Parameters
    ----------
    variant : {"original", "unbiased", "multilingual", "original-small", "unbiased-small"}, default="original"
        Which of the published models to download (once, into PyTorch's cache, by the package detoxify's addresses).
    output : {"logit", "probability"}, default="logit"
        -z, or 1 - p - 1/2. The probability of most texts is next to 0 or 1: the logit tells them apart.
    category : str, default=None
        Name of the kind of toxicity, in any case; "insult", for instance. None: "toxicity", over all kinds. Both of
        Detoxify's names of a kind are known ("toxic" and "toxicity").
    checkpoint : path, default=None
        A model in Detoxify's own format, instead of a published one; the package detoxify is not needed then.
    config_folder : path, default=None
        Folder with the configuration and the tokenizer of the model's architecture (config.json, vocab.txt or the
        like). With `checkpoint`, nothing is looked for on a network. None: read from the Hugging Face hub or its cache.
    weights_only : bool, default=True
        Whether a checkpoint that holds more than weights and plain values is refused. Loading one can run any code.
    batch_tokens, max_length, truncation_side, device, verbose
        See `ClassifierReward`.

    Notes
    -----
    The package's own ``predict`` puts all texts into one batch, returns a bare number for a list of one, asks the hub
    for a configuration even if it is given a folder, and lets missing weights be random; none of that here. The same
    model as "original" is on the hub: ``ClassifierReward("unitary/toxic-bert", "toxic", desirable=False)``. For errors
    see `ClassifierReward`.

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
        weights_only=True, batch_tokens=None, max_length=None, truncation_side="right", device="cpu", verbose=False,
    ):  # fmt: skip
        super().__init__(False, output, batch_tokens, max_length, truncation_side, device, verbose)
        if variant not in _VARIANTS:
            raise ValueError(f"Got variant={variant!r}, but expected one of {', '.join(map(repr, _VARIANTS))}.")
        self.variant = variant
        self.category = category
        self.checkpoint = checkpoint
        self.config_folder = config_folder
        self.weights_only = weights_only

    def subtypes(self, texts):
        """Rewards for every kind of toxicity, in one pass over the texts.

        Parameters
        ----------
        texts : array-like of str of shape (n_outputs,)
            The outputs.

        Returns
        -------
        dict
            Name of each kind to its rewards, shape (n_outputs,), in the unit that `output` names;
            ``pandas.DataFrame(...)`` makes it a table.
        """
        rewards = self._scattered(lambda distinct: _as_reward(self._logits(distinct), False, self.output), texts)
        return dict(zip(self._classifier.labels, rewards.T.copy(), strict=True))

    def _column(self):
        category = "toxicity" if self.category is None else str(self.category).casefold()
        return _find_label(self._classifier.labels, _CATEGORY_NAMES.get(category, category), self._model_name())

    def _model_name(self):
        return f"Detoxify {self.variant if self.checkpoint is None else self.checkpoint}"

    def _source(self):
        places = self.checkpoint, self.config_folder
        return self.variant, self.weights_only, *map(str, places), *map(_state_of, places)

    def _load(self):
        transformers = _import_extra("transformers", "toxicity", type(self).__name__)
        architecture, classes, weights = self._read_checkpoint()
        source = architecture["model_type"] if self.config_folder is None else Path(self.config_folder)
        if self.config_folder is not None and not source.is_dir():
            raise FileNotFoundError(f"There is no folder {source} (looked in {Path.cwd()}) for {self._model_name()}.")
        model_class, tokenizer_class = (
            getattr(transformers, architecture[key], None) for key in ("model_name", "tokenizer_name")
        )
        if not hasattr(model_class, "config_class") or not hasattr(tokenizer_class, "from_pretrained"):
            raise ValueError(f"{self._model_name()} names classes that transformers does not have: {architecture}.")
        where = (
            f"{self._model_name()} in the architecture {source}",
            "Pass config_folder=..., a folder with config.json and the tokenizer files of "
            f"{architecture['model_type']}.",
        )
        n_logits = architecture.get("num_classes", len(classes))  # "unbiased" has 16, of which the first 7 are named
        if n_logits < len(classes):
            raise ValueError(f"{self._model_name()} names {len(classes)} categories, but has {n_logits} logits.")
        config = _fetch(model_class.config_class.from_pretrained, source, *where, num_labels=n_logits)
        tokenizer = _fetch(tokenizer_class.from_pretrained, source, *where)
        model = _fetch_model(model_class, None, *where, config=config, state_dict=weights)
        return _check_loaded(model, tokenizer, classes, False, where[0])

    def _read_checkpoint(self):
        """Names of the architecture, names of the categories, and weights, from Detoxify's own format."""
        try:
            saved = self._download() if self.checkpoint is None else self._open()
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{self._model_name()} holds more than weights and plain values: loading it could run any code. If "
                "you trust its source, pass weights_only=False."
            ) from error
        try:
            architecture = saved["config"]["arch"]["args"]
            named = [part for part in (saved["config"]["dataset"]["args"], architecture) if "classes" in part]
            classes = [_CATEGORY_NAMES.get(name, name) for name in named[0]["classes"]]
            return architecture, classes, saved["state_dict"]
        except (LookupError, TypeError) as error:
            raise ValueError(
                f"{self._model_name()} is not in Detoxify's format, a dict with config.arch.args, "
                "config.dataset.args (one of which names the classes) and state_dict. For a model of the hub, use "
                "ClassifierReward."
            ) from error

    def _open(self):
        if not Path(self.checkpoint).is_file():
            raise FileNotFoundError(f"There is no checkpoint {self.checkpoint} (looked in {Path.cwd()}).")
        return torch.load(self.checkpoint, map_location="cpu", weights_only=self.weights_only)

    def _download(self):
        url = _import_extra("detoxify.detoxify", "toxicity", type(self).__name__).MODEL_URLS[self.variant]
        path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])  # where torch.hub looks, too
        if not path.exists():
            digest = re.search(r"-([0-9a-f]+)\.", path.name)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, path, digest and digest[1], progress=self.verbose)
            except (OSError, RuntimeError) as error:  # no network, no room; another digest
                raise FileNotFoundError(
                    f"Could not download {url} ({error}). Download it where there is a network, and pass checkpoint='"
                    f"{path.name}', and config_folder=... with the configuration and the tokenizer of its architecture."
                ) from error
        return torch.load(path, map_location="cpu", weights_only=self.weights_only)


# ----------------------------------------------------------------------------------------- scikit-learn


class EstimatorReward(_TextReward):
    """Reward of a text: how surely a fitted scikit-learn classifier puts it into a class, or does not.

    Parameters
    ----------
    estimator : classifier or Pipeline
        Fitted on texts of shape (n_samples,).
    column : class label, default=None
        The class. None: of two classes the larger, which this package reads as the desirable one.
    desirable : bool, default=True
        Whether outputs of the class are the good ones.
    output : {"logit", "probability"}, default="logit"
        "logit": with two classes ``decision_function`` as it is (log-odds for logistic regression, a margin in its own
        unit for a support vector machine); else, or without it, the log-odds of ``predict_proba``, cut off at 36, as
        forests give probabilities of 0 and 1. "probability": by ``predict_proba``, of a desirable output, minus 1/2.

    Raises
    ------
    ValueError
        When called: for a class that is unknown or missing where there are more than two, for an estimator without the
        method that `output` needs, for an empty text or what is not a text.
    NotFittedError
        When called: if the estimator is not fitted.

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
