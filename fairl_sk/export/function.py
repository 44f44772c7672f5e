"""The reward, handed on to TRL: a callable, a Hugging Face folder, and a health check before either is optimised.

For whoever fitted a reward on preference pairs and now aligns a model with it, by GRPO or RLOO. There are two ways:

========================  =============================================  =========================================
                          `RewardFunction`                               `export_reward_model`
========================  =============================================  =========================================
what it takes             any fitted pipeline over texts                 `TransformerEmbedder`, affine steps, and a
                                                                         linear estimator
what TRL gets             ``reward_funcs=reward``                        ``reward_funcs="folder"``
how texts are formatted   as the training texts were                     as TRL does: prompt + completion
centre, scale, bound      frozen from training outputs                   centre and scale, as numbers
========================  =============================================  =========================================

`check_reward` looks at either of them, or at any other reward function, on completions of the model to be aligned.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
import warnings
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from .. import __version__
from ..features import encoder
from ..features.encoder import TransformerEmbedder
from ..pairs import PairTransformer, _column_names, join_prompt, preference_sign, read_texts, to_text

__all__ = ["RewardFunction", "check_reward", "export_reward_model", "load_reward_model"]

TOLERANCE = 1e-4  # of rewards up to 1 in size, else of the largest: what a folder may differ by from its pipeline
PAD = "<|fairl_sk_pad|>"  # a token of its own: where a text holds the pad token, native classes pool before it
ALONE, JOIN = "{output}", "join"  # the two formats that are no templates of the user's
_CODE = "modeling_reward.py"
_RECORD = "fairl_sk"  # the key in config.json
_TEXTS = (  # what an export is compared on where no texts are given
    "Thank you for the quick answer.",
    "No.",
    "The bench in the park is green.",
    "I would rather not say.\n\nAsk the neighbour, she knows the way.",
    "Rain is expected in the evening, so take a coat with you when you leave the house.",
    "Is it far? Five minutes on foot, and ten if you stop to look at the river!",
)
# `fairl_sk.pairs.join_prompt` of messages, in the language of chat templates.
_JOIN_TEMPLATE = (
    "{%- set ns = namespace(text='') -%}{%- for message in messages -%}{%- set content = message['content'] -%}"
    "{%- if ns.text and content and not ns.text[-1].isspace() and not content[0].isspace() -%}"
    "{%- set ns.text = ns.text + '\\n\\n' -%}{%- endif -%}{%- set ns.text = ns.text + content -%}{%- endfor -%}"
    "{{- ns.text -}}"
)


class _Rows(dict):
    """Columns by name, which this package's readers take for a table; pandas is not needed."""

    @property
    def columns(self):
        return list(self)

    @classmethod
    def of(cls, prompts, outputs):
        """Outputs, and their prompts where there are any."""
        if all(prompt is None for prompt in prompts):
            return cls(completion=outputs)
        return cls(prompt=["" if prompt is None else prompt for prompt in prompts], completion=outputs)


# ------------------------------------------------------------------------------------------- the callable


class RewardFunction:
    r"""A fitted pipeline as a reward function of TRL.

    .. math:: r = \operatorname{clip}\left(\frac{R(o) - \text{center}}{\text{scale}}\right)

    Centre and scale are numbers, frozen when the object is made: the reward of a completion depends on nothing else in
    its batch. Each distinct completion is scored once a call. The object can be pickled, also for processes that are
    spawned; an embedder's model loads where it is first needed.

    Parameters
    ----------
    pipeline : estimator
        Fitted, from texts to ``decision_function``; as a rule a Pipeline that ends in an estimator of this package.
    X : array-like or table, default=None
        Training pairs or outputs: they freeze centre and scale, show how prompts were read, and for pairs prove that
        the reward prefers the preferred. None: everything is told by parameters.
    y : array-like of shape (n_rows,), default=None
        Two classes, the larger meaning that the first of a pair is preferred (that the output is desirable). None:
        the first everywhere.
    name : str, default=None
        Name in TRL's logs, unique among the rewards of a run. None: the estimator's class.
    prompt_template : str, default=None
        How a prompt and a completion become the text that is scored. "{output}": the completion alone. "join": behind
        its prompt, as the pipeline reads a table with the columns ``prompt`` and ``completion``. Else a text with the
        fields ``{prompt}`` and ``{output}``. None: as ``X`` shows, if its prompts stand in a column or in messages. A
        call's messages go through the encoder's chat template only if those of ``X`` did, or if "join" is given without
        ``X``.
    center : {"mean"} or float, default="mean"
        What is subtracted; "mean" of the training outputs.
    scale : {"std"} or float > 0, default="std"
        What is divided by; "std" of the training outputs. In RLOO it weighs the reward against the KL penalty.
    clip : float > 0, "tanh" or None, default=None
        Bound of the result: cut off at -clip and clip, or its hyperbolic tangent.
    decimals : int >= 0 or None, default=None
        Round the result: what differs by less is a tie. GRPO divides by a group's standard deviation, and so makes
        differences of rounding as large as real ones.
    on_error : {"raise", "none"}, default="raise"
        What a completion that cannot be scored gives (no text, no assistant's turn, no token, a reward that is not
        finite): an error that names the row, or None, by which TRL leaves the completion out of its group (where it has
        rewards of other functions, these alone count).

    Attributes
    ----------
    center, scale : float
        The frozen numbers.
    prompt_template : str
        The format that was found or given.

    Raises
    ------
    NotFittedError
        If the pipeline is not fitted.
    TypeError
        If it has no ``decision_function``.
    ValueError
        If it does not score texts, its encoder is not the one that it was fitted with, a parameter is out of range or
        cannot be found from ``X``, or the reward prefers the other side of its training pairs.

    Notes
    -----
    An empty completion without a prompt is no error, as a model may well end at once: it gives None, always.

    Through TRL's ``log_metric`` it logs, under ``rewards/<name>/``: ``flat_groups``, the share of prompts whose
    completions all have one reward and teach nothing; ``clipped``, the share at the bound; ``unscored``, that of None.

    Examples
    --------
    >>> from sklearn.decomposition import TruncatedSVD
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from fairl_sk import MaxEntropyIRL, PairTransformer
    >>> from fairl_sk.export import RewardFunction
    >>> pairs = [["thank you kindly", "go away you fool"], ["thank you", "you fool"]]
    >>> features = PairTransformer(make_pipeline(TfidfVectorizer(), TruncatedSVD(2, random_state=0)))
    >>> fitted = make_pipeline(features, MaxEntropyIRL(random_state=0)).fit(pairs)
    >>> reward = RewardFunction(fitted, pairs, name="kindness", prompt_template="{output}", clip=3.0)
    >>> kind, rude = reward(prompts=["Hello."] * 2, completions=["thank you", "you fool"])
    >>> kind > 0 > rude
    True
    """

    def __init__(
        self,
        pipeline,
        X=None,
        y=None,
        *,
        name=None,
        prompt_template=None,
        center="mean",
        scale="std",
        clip=None,
        decimals=None,
        on_error="raise",
    ):
        _check_reward_parameters(center, scale, clip, decimals, on_error)
        self.pipeline = pipeline
        self._reader = _check_pipeline(pipeline)
        self.name = self.__name__ = _check_name(name, pipeline)
        self.clip, self.decimals, self.on_error = clip, decimals, on_error
        training = None if X is None else _read_training(X)
        self.prompt_template = self._format(prompt_template, training)
        # Whether training texts were made of messages; None: nothing says so, and a call's messages decide.
        untold = training is None and self.prompt_template == JOIN
        self._messages = None if untold else training is not None and training.kind == "messages"
        if training is None:
            needed = [f"{key}={value!r}" for key, value in (("center", center), ("scale", scale)) if value in _FROZEN]
            if needed:
                raise ValueError(f"Found {' and '.join(needed)} without training outputs. Expected X, or a number.")
            rewards = self._raw(_texts_array(_TEXTS[:1]))  # whether it scores texts
        else:
            rewards = self._raw(self._training_table(training))
            _check_sign(rewards, training.paired, y, pipeline)
        if not np.isfinite(rewards).all():
            raise ValueError(
                f"The pipeline gave {np.sum(~np.isfinite(rewards))} rewards that are not finite, of {len(rewards)}. "
                "Expected finite ones: fit it again."
            )
        self.center = float(np.mean(rewards) if isinstance(center, str) else center)
        self.scale = float(np.std(rewards) if isinstance(scale, str) else scale)
        if isinstance(scale, str) and not self.scale > 1e-12 * max(1.0, abs(self.center)):
            raise ValueError(
                f"The reward is the same, {self.center:.6g}, for all {len(rewards)} training outputs. Expected one "
                "that tells them apart."
            )

    def __call__(self, prompts=None, completions=None, *, log_metric=None, **_):
        """Rewards of completions; called by TRL.

        Parameters
        ----------
        prompts : list of str or of lists of messages, default=None
            May be None where the completions are scored alone.
        completions : list of str or of lists of messages
            One for each prompt.
        log_metric : callable, (name, value) -> None, default=None
            Where the metrics of the batch go.
        **_ : dict
            What else TRL passes, ignored: token ids, the trainer's state, the data set's columns.

        Returns
        -------
        rewards : list of float or None
            Finite where they are numbers.

        Raises
        ------
        ValueError
            If there are not as many prompts as completions, or a completion cannot be scored and ``on_error`` is
            "raise".
        """
        prompts, completions = self._check_call(prompts, completions)
        places: dict[str, int] = {}
        inputs: list = []
        inverse = []
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            try:
                scored = self._input(prompt, _check_completion(completion))
            except ValueError as error:
                if self.on_error == "raise":
                    raise ValueError(f"Completion {row} cannot be scored: {error}") from error
                scored = None
            if scored is None:
                inverse.append(-1)
                continue
            place = places.setdefault(_key(scored), len(inputs))
            inputs += [scored] * (place == len(inputs))
            inverse.append(place)
        distinct = self._scores(inputs, inverse)
        rewards = [None if place < 0 else distinct[place] for place in inverse]
        if log_metric is not None:
            self._log(log_metric, prompts, rewards)
        return rewards

    def __repr__(self):
        names = ("name", "prompt_template", "center", "scale", "clip", "decimals", "on_error")
        return f"RewardFunction({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    # ------------------------------------------------------------------------------------------- formats

    def _format(self, template, training):
        """The format of texts; one that disagrees with the training data or the embedder is refused."""
        has_prompts = None if training is None else training.has_prompts
        if template is None:
            if has_prompts is None:
                raise ValueError(
                    "Nothing says whether the training texts had prompts before them: "
                    + ("X is not given. " if training is None else "X has no column 'prompt', and no messages. ")
                    + "Pass prompt_template='{output}' if they had none, 'join' if prompts were joined to them "
                    "(fairl_sk.pairs.join_prompt), or the template that they were made with."
                )
            return JOIN if has_prompts else ALONE
        if template != JOIN:
            encoder._check_template(template)
        own = getattr(self._reader, "prompt_template", None)
        if template != JOIN and own is not None:
            if template != own:
                raise ValueError(
                    f"Found prompt_template={template!r}, but the pipeline's embedder was fitted with {own!r}. Pass "
                    "'join': it formats by the embedder's own."
                )
            return JOIN
        if has_prompts is not None and has_prompts != (template == JOIN or "{prompt" in template):
            found = "has prompts" if has_prompts else "has no prompts"
            raise ValueError(
                f"Found prompt_template={template!r}, but X {found}: texts in training would be formatted otherwise "
                "than they were when the reward was fitted. Leave prompt_template out, or pass the X that was fitted."
            )
        return template

    def _input(self, prompt, completion):
        """What the pipeline scores, (prompt or None, output), or None for an empty text."""
        prompt, completion = encoder._apart(prompt, completion)
        if self.prompt_template == ALONE:
            prompt = None
        elif self.prompt_template != JOIN:
            filled = self.prompt_template.format(prompt=join_prompt(prompt, ""), output=to_text(completion))
            return None, filled
        if not join_prompt(prompt, completion).strip():
            return None
        if self._messages:
            return encoder._as_messages(prompt, "user") or None, encoder._as_messages(completion, "assistant")
        if self._messages is False or not isinstance(self._reader, TransformerEmbedder):
            return (join_prompt(prompt, "") or None), to_text(completion)
        return prompt, completion

    def _training_table(self, training):
        if training.kind == "array":  # texts as they are
            return _texts_array([text for _, text in training.rows])
        inputs = training.rows if training.has_prompts is None else [self._input(*row) for row in training.rows]
        if None in inputs:
            raise ValueError(f"Row {inputs.index(None) // (1 + training.paired)} of X is empty. Drop such rows.")
        return self._as_table(inputs)

    def _as_table(self, inputs):
        """Inputs in the form that the pipeline's reader formats as it formatted the training texts."""
        prompts, outputs = [prompt for prompt, _ in inputs], [output for _, output in inputs]
        if all(prompt is None for prompt in prompts) and all(isinstance(output, str) for output in outputs):
            if self.prompt_template == JOIN and getattr(self._reader, "prompt_template", None) is not None:
                return _Rows(completion=outputs)
            return _texts_array(outputs)
        if isinstance(self._reader, (TransformerEmbedder, PairTransformer)):
            return _Rows.of(prompts, outputs)
        return _texts_array([join_prompt(prompt, output) for prompt, output in inputs])

    # ------------------------------------------------------------------------------------------- rewards

    def _raw(self, table):
        """R of a table or an array of texts, (n_outputs,)."""
        try:
            return np.asarray(self.pipeline.decision_function(table), dtype=np.float64)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"The pipeline cannot score texts: {error} Expected a pipeline from texts to rewards, with the encoder "
                "that it was fitted with."
            ) from error

    def _scores(self, inputs, inverse):
        """The reward of each distinct input, None where there is none."""
        if not inputs:
            return []
        try:
            raw = self._raw(self._as_table(inputs))
        except ValueError:
            if self.on_error == "raise":
                raise
            raw = np.array([self._one(scored) for scored in inputs])
        with np.errstate(over="ignore", invalid="ignore"):
            values = self._bounded((raw - self.center) / self.scale)
        bad = ~(np.isfinite(raw) & np.isfinite(values))  # a tiny scale and many decimals overflow
        if bad.any() and self.on_error == "raise":
            place = int(np.argmax(bad))
            raise ValueError(
                f"Completion {inverse.index(place)} has a reward that is not finite ({raw[place]}, {values[place]} "
                "when centred, scaled and rounded). Fit the pipeline again, or pass on_error='none'."
            )
        return [None if unfit else float(value) for value, unfit in zip(values, bad, strict=True)]

    def _one(self, scored):
        try:
            return self._raw(self._as_table([scored]))[0]
        except ValueError:
            return np.nan

    def _bounded(self, values):
        if self.clip == "tanh":
            values = np.tanh(values)
        elif self.clip is not None:
            values = np.clip(values, -self.clip, self.clip)
        return values if self.decimals is None else np.round(values, self.decimals)

    def _log(self, log_metric, prompts, rewards):
        groups: dict[str, list] = {}
        known = [reward for reward in rewards if reward is not None]
        for prompt, reward in zip(prompts, rewards, strict=True):
            if reward is not None:
                groups.setdefault(_key(prompt), []).append(reward)
        bound = {None: np.inf, "tanh": 0.99}.get(self.clip, self.clip)
        metrics = {
            "flat_groups": np.mean([_is_flat(values) for values in groups.values()]) if groups else 1.0,
            "clipped": np.mean(np.abs(known) >= bound) if known else 0.0,
            "unscored": 1 - len(known) / len(rewards) if rewards else 0.0,
        }
        for key, value in metrics.items():
            log_metric(f"rewards/{self.name}/{key}", float(value))

    def _check_call(self, prompts, completions):
        if completions is None or isinstance(completions, str):
            raise ValueError(
                f"Found completions={completions!r:.60}. Expected a list of texts or of lists of messages."
            )
        completions = list(completions)
        if prompts is None and self.prompt_template != ALONE:
            raise ValueError(
                f"Found no prompts, but texts are formatted by prompt_template={self.prompt_template!r}. Pass prompts, "
                "one for each completion."
            )
        prompts = [None] * len(completions) if prompts is None else list(prompts)
        if len(prompts) != len(completions):
            raise ValueError(
                f"Found {len(prompts)} prompts and {len(completions)} completions. Expected one prompt for each "
                "completion, repeated where several belong to it."
            )
        return prompts, completions


_FROZEN = ("mean", "std")


def _check_reward_parameters(center, scale, clip, decimals, on_error):
    def number(value):
        return isinstance(value, Real) and not isinstance(value, bool) and np.isfinite(value)

    for fits, name, value, expected in (
        (center == "mean" or number(center), "center", center, "'mean' or a finite number"),
        (scale == "std" or (number(scale) and scale > 0), "scale", scale, "'std' or a number above 0"),
        (clip in (None, "tanh") or (number(clip) and clip > 0), "clip", clip, "None, 'tanh' or a number above 0"),
        (decimals is None or (isinstance(decimals, Integral) and decimals >= 0), "decimals", decimals, "None or >= 0"),
        (on_error in ("raise", "none"), "on_error", on_error, "'raise' or 'none'"),
    ):
        if not fits:
            raise ValueError(f"Found {name}={value!r}. Expected {expected}.")


def _check_name(name, pipeline):
    if name is None:
        steps = getattr(pipeline, "steps", None)
        return type(steps[-1][1] if steps else pipeline).__name__
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"Found name={name!r}. Expected letters, digits, '_', '-' and '.': it names columns of logs.")
    return name


def _check_completion(completion):
    """The completion, if it is a text or holds a turn of the assistant."""
    if not isinstance(completion, str):
        to_text(completion)
        if not any(message["role"] == "assistant" for message in completion):
            roles = ", ".join(message["role"] for message in completion) or "none"
            raise ValueError(f"found messages with the roles {roles}. Expected a turn of the assistant among them.")
    return completion


def _key(value):
    """A text or messages, which may hold what JSON cannot (an image), as one text."""
    return json.dumps(value, default=repr)


def _texts_array(texts):
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


# --------------------------------------------------------------------------------------- what was fitted


class _Training(NamedTuple):
    """Training data as rows (prompt or None, output); of pairs, row 2i is the first and row 2i + 1 the second side."""

    rows: list
    paired: bool
    kind: str  # "array", or of a table "text" or "messages"
    has_prompts: bool | None  # None: texts do not say


def _read_training(X):
    texts = read_texts(X)  # also checks
    if texts is None:
        raise ValueError(
            "X holds no texts. Expected the texts of the training pairs or outputs: the pipeline makes features itself."
        )
    if not texts.size:
        raise ValueError(f"Found 0 rows in X (shape {texts.shape}). Expected at least one.")
    paired, names = texts.ndim == 2, _column_names(X)
    if names is None:
        return _Training([(None, text) for text in texts.ravel()], paired, "array", None)
    sides = [list(X[side]) for side in (("chosen", "rejected") if paired else ("completion",))]
    prompts = list(X["prompt"]) if "prompt" in names else None
    rows = [
        (None if prompts is None else prompts[row], _plain(side[row])) for row in range(len(sides[0])) for side in sides
    ]
    messages = encoder._has_messages(X)  # in one row is in all, as the embedder reads them
    has_prompts: bool | None = True if prompts is not None else None
    if prompts is None and messages:
        turns = (message for _, output in rows for message in encoder._as_messages(output, "assistant"))
        has_prompts = any(message["role"] != "assistant" for message in turns)
    return _Training(rows, paired, "messages" if messages else "text", has_prompts)


def _plain(value):
    return value if isinstance(value, str) else list(value)


def _check_pipeline(pipeline):
    """The step that reads texts, of a pipeline that is fitted, has rewards and still has its encoder."""
    if not hasattr(pipeline, "fit"):
        raise TypeError(f"Found {type(pipeline).__name__} {pipeline!r:.60}. Expected a fitted pipeline or estimator.")
    check_is_fitted(pipeline)
    if not hasattr(pipeline, "decision_function"):
        raise TypeError(
            f"Found {type(pipeline).__name__} without decision_function. Expected rewards: end the pipeline in an "
            "estimator of this package, or a linear classifier."
        )
    steps = list(_flat(pipeline))
    for step in steps:
        if isinstance(step, TransformerEmbedder) and hasattr(step, "settings_"):
            _check_encoder(step)
    first = pipeline
    while hasattr(first, "best_estimator_") or isinstance(first, Pipeline):
        first = first.best_estimator_ if hasattr(first, "best_estimator_") else first.steps[0][1]
    return first


# Which of an embedder's settings make another encoder of it.
_ENCODER = ("model", "pooling", "layer", "dtype", "max_length", "truncation_side", "prompt_template", "normalize")


def _check_encoder(embedder):
    now = {**embedder._settings(), "normalize": embedder.normalize}
    changed = [key for key in _ENCODER if now[key] != embedder.settings_.get(key)]
    if changed:
        raise ValueError(
            f"The encoder is not the one that the pipeline was fitted with: {', '.join(changed)} changed. Its rewards "
            "would mean nothing: fit the pipeline again, or put the encoder's files and parameters back."
        )


def _flat(estimator):
    """The fitted steps, in order, from within pipelines, searches and `PairTransformer`."""
    if hasattr(estimator, "best_estimator_"):
        yield from _flat(estimator.best_estimator_)
    elif isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            yield from _flat(step)
    elif isinstance(estimator, PairTransformer):
        check_is_fitted(estimator)
        yield from _flat(estimator.transformer_)
    elif estimator is not None and not isinstance(estimator, str):  # "passthrough"
        yield estimator


def _check_sign(rewards, paired, y, pipeline):
    """Refuse a reward that prefers the wrong side of its own training data."""
    n_rows = len(rewards) // 2 if paired else len(rewards)
    if y is None and not paired:
        return
    classes = getattr(pipeline, "classes_", None)
    sign = preference_sign(y, n_rows, classes=None if y is None else classes)
    if paired:
        margin = float(np.mean(sign * (rewards[::2] - rewards[1::2])))
    else:
        margin = float(np.mean(rewards[sign > 0]) - np.mean(rewards[sign < 0]))
    if margin <= 0:
        raise ValueError(
            f"The reward prefers the other side: its mean margin on the training data is {margin:.4g}. Expected one "
            "above 0. If the preferred output is not always the first, pass y; else fit the pipeline again, with the "
            "larger class of y meaning that the first output is preferred."
        )


# ------------------------------------------------------------------------------------------- the folder


def export_reward_model(pipeline, folder, X=None, y=None, *, center=0.0, scale=1.0, custom_code=None, audit=None):
    """Write a reward as a Hugging Face folder, which TRL and transformers load by its path.

    ``AutoModelForSequenceClassification.from_pretrained(folder)`` gives the rewards as ``logits`` (n_texts, 1). Scaler,
    PCA and estimator become the weights of one linear layer. The folder is loaded again and compared with the pipeline
    before it appears under its name.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted: a `TransformerEmbedder`, steps that are affine, and a linear estimator, in any nesting of pipelines,
        `PairTransformer` and searches.
    folder : path
        New, or empty.
    X : array-like or table, default=None
        Pairs or outputs, as they were fitted: up to 500 are compared, and the reward has to prefer the preferred. None:
        a few sentences of this package.
    y : array-like of shape (n_rows,), default=None
        Which is preferred, see `RewardFunction`.
    center, scale : float, default=0.0, 1.0
        The folder gives ``(R - center) / scale``; those of a `RewardFunction` are frozen from training outputs.
    custom_code : bool, default=None
        Whether the folder carries its own modelling code, to be loaded with ``trust_remote_code=True``. None: only if
        no class of transformers gives the reward. True: also cuts long texts as the pipeline does, undoes autocast and
        takes padding on either side. False: never; an offset that the class has no place for is left out with a
        warning, as a constant changes nothing in GRPO and RLOO.
    audit : Bunch, default=None
        What `fairl_sk.audit.audit` returned: its data, settings, measures and nulls go into the model card.

    Returns
    -------
    folder : Path
        With weights, configuration, tokenizer and the model card ``README.md``.

    Raises
    ------
    FileExistsError
        If the folder holds anything.
    NotFittedError, TypeError
        See `RewardFunction`.
    ValueError
        If the pipeline cannot be written as such a folder, or its encoder changed; it says what to do instead.
    RuntimeError
        If the folder's rewards are not the pipeline's.
    OSError
        If it cannot be written. No part of it is left.

    Warns
    -----
    UserWarning
        If TRL's text, prompt + completion, is not what the pipeline made of prompt and output, and if an offset is left
        out.

    Notes
    -----
    No own code is needed for last-token pooling over GPT-2, GPT-NeoX, and Llama and its kin, if the tokenizer adds no
    special tokens. Such a folder never cuts a text, and scores in bfloat16 where TRL trains in it (its default) or
    ``model_init_kwargs`` name it, which are the reward's, too: train in float32, or export with ``custom_code=True``,
    which is always scored in it. These classes have no bias; the reward's offset goes into the bias of the last
    normalisation, which Llama has not.

    TRL sets nothing between prompt and completion, and formats messages by the chat template of the folder, which is
    the pipeline's way of joining messages.
    """
    folder = _check_new(folder)
    _check_reward_parameters(center, scale, None, None, "raise")
    if custom_code not in (None, True, False):
        raise ValueError(f"Found custom_code={custom_code!r}. Expected None, True or False.")
    reader = _check_pipeline(pipeline)
    plan = _plan(pipeline, reader, center, scale)
    training = None if X is None else _read_training(X)
    outputs, texts, templated = _comparison(plan, reader, training)
    expected = (np.asarray(pipeline.decision_function(outputs), dtype=np.float64) - center) / scale
    if training is not None:
        _check_sign(expected, training.paired, y, pipeline)
    # A tokenizer of its own: the one that embedders share stays as it is.
    tokenizer = encoder._load_tokenizer.__wrapped__(*plan.source[:3])
    plan = plan._replace(special=([], []) if templated else _special_ids(tokenizer))
    model, native, dropped = _build(plan, tokenizer, custom_code)
    _set_chat_template(tokenizer, plan.embedder, reader, templated)
    record = _record(plan, model, native, dropped, center, scale)
    chosen = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), 500)).astype(int))
    with _written_at_once(folder) as temporary:
        model.config._name_or_path = ""
        setattr(model.config, _RECORD, record)
        _save_quietly(model, temporary)
        tokenizer.save_pretrained(temporary)
        if not native:
            shutil.copyfile(Path(__file__).with_name(_CODE), temporary / _CODE)
        difference = _compare(temporary, [texts[i] for i in chosen], expected[chosen] - dropped, plan, native)
        card = _card(folder.name, pipeline, record, difference, len(chosen), audit, native)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    if reader is plan.embedder and plan.embedder.prompt_template is not None:
        encoder._warn(
            f"The folder reads texts that prompt_template={plan.embedder.prompt_template!r} made, but TRL gives it "
            "prompt + completion: write the rest of the template into the prompts, or use RewardFunction."
        )
    elif training is not None and _is_set_apart(training.rows, texts):
        encoder._warn(
            "The pipeline read an empty line between prompt and output, but TRL gives the folder prompt + completion: "
            "end the prompts in an empty line, or use RewardFunction."
        )
    if dropped:
        encoder._warn(
            f"The folder's rewards lack the pipeline's offset, {dropped:.6g}: this class of transformers has no place "
            "for it. Differences of rewards are right; for the rest, export with custom_code=True."
        )
    return folder


class _Plan(NamedTuple):
    """A reward as (states - shift) @ weight + bias of what the embedder pools."""

    embedder: TransformerEmbedder
    settings: dict
    source: encoder._Source
    shift: np.ndarray
    weight: np.ndarray
    bias: float
    special: tuple = ([], [])  # ids that the tokenizer puts before and after a text


_INSTEAD = "Use fairl_sk.export.RewardFunction, which takes any pipeline over texts."


def _plan(pipeline, reader, center, scale):
    embedder, *steps, last = _steps_of(pipeline)
    for step in steps:
        _check_affine(step)
    n_features = embedder._n_features_out
    coef, intercept = _linear(last)
    shift = _first_mean(steps, n_features)
    points = np.vstack([np.zeros(n_features), shift, np.eye(n_features)])
    for step in steps:
        points = _apply(step, points)
    if points.shape[1] != len(coef):
        raise ValueError(
            f"{type(last).__name__} has {len(coef)} weights for {points.shape[1]} features: it was fitted on features "
            "of another encoder. Fit the pipeline again."
        )
    at = points @ coef
    bias = at[1] + intercept
    settings = embedder._settings()
    if embedder.dtype != "float32":
        raise ValueError(
            f"The embedder runs in {embedder.dtype}, but folders are written in float32, in which rewards differ. Fit "
            f"with dtype='float32'. {_INSTEAD}"
        )
    source = encoder._find_model(embedder.model, embedder.revision)
    return _Plan(embedder, settings, source, shift, (at[2:] - at[0]) / scale, float((bias - center) / scale))


def _steps_of(pipeline):
    steps = list(_flat(pipeline))
    if not isinstance(steps[0], TransformerEmbedder) or len(steps) < 2:
        raise ValueError(
            f"The pipeline starts with {type(steps[0]).__name__}, which is no transformer model, so that there is no "
            f"Hugging Face folder for it. Expected a TransformerEmbedder first. {_INSTEAD}"
        )
    return steps


_AFFINE = (StandardScaler, MaxAbsScaler, MinMaxScaler, RobustScaler, PCA, IncrementalPCA, TruncatedSVD, SelectorMixin)


def _check_affine(step):
    affine = isinstance(step, _AFFINE) and not getattr(step, "clip", False)
    if not affine and not (isinstance(step, FunctionTransformer) and step.func is None):
        what = f"{type(step).__name__}(clip=True)" if getattr(step, "clip", False) else type(step).__name__
        raise ValueError(
            f"The step {what} is not known to be affine, so that it cannot become part of a linear layer. Expected "
            f"scalers, PCA, TruncatedSVD or selectors between the embedder and the estimator. {_INSTEAD}"
        )


def _linear(estimator):
    """Weights (n_features,) and intercept of a linear estimator of two classes."""
    name = type(estimator).__name__
    coef, intercept = getattr(estimator, "coef_", None), getattr(estimator, "intercept_", None)
    if coef is None or intercept is None:
        names = ("hidden_layer_sizes", "failure_hidden_layer_sizes")
        layers = {name: getattr(estimator, name, None) or () for name in names}
        reason = ", ".join(f"{name}={sizes!r}" for name, sizes in layers.items() if len(sizes))
        reason = reason or "it has no coef_ and intercept_"
        raise ValueError(f"{name} is not linear ({reason}), and only linear rewards are exported. {_INSTEAD}")
    coef, intercept = np.asarray(coef, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
    if coef.ndim > 2 or (coef.ndim == 2 and len(coef) > 1) or intercept.size != 1:
        raise ValueError(f"{name} has weights of shape {coef.shape}. Expected those of one reward: two classes.")
    return coef.ravel(), float(intercept.ravel()[0])


def _first_mean(steps, n_features):
    mean = getattr(steps[0], "mean_", None) if steps else None
    return np.zeros(n_features) if mean is None else np.asarray(mean, dtype=np.float64)


def _apply(step, points):
    """A step at points (n, n_features), in float64 and whatever container it was set to."""
    with warnings.catch_warnings():  # steps that were fitted on named columns miss them
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        return np.asarray(step.transform(points), dtype=np.float64)


# ----------------------------------------------------------------------------------------- its texts


def _comparison(plan, reader, training):
    """Outputs as the pipeline takes them, the texts that it makes of them, and whether a chat template did."""
    if training is None:
        return _texts_array(_TEXTS), list(_TEXTS), False
    if training.kind == "array":
        outputs = _texts_array([text for _, text in training.rows])
    else:
        rows = [encoder._apart(*row) for row in training.rows]
        outputs = _Rows.of([prompt for prompt, _ in rows], [output for _, output in rows])
    if reader is plan.embedder:
        texts, templated = plan.embedder._read(outputs)
    else:
        texts, templated = read_texts(outputs), False
    return outputs, list(texts), templated


def _special_ids(tokenizer):
    """Ids that the tokenizer puts before and after a text, which TRL tells it not to."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    raise ValueError(f"The tokenizer writes {whole} for {plain} and special tokens: not around it. {_INSTEAD}")


def _set_chat_template(tokenizer, embedder, reader, templated):
    """Have TRL format messages as the pipeline does."""
    if reader is embedder and embedder.prompt_template is not None:
        tokenizer.chat_template = (
            "{{ raise_exception('This reward reads texts that a prompt_template made, not messages. Use "
            "fairl_sk.export.RewardFunction.') }}"
        )
    elif not (templated or (reader is embedder and tokenizer.chat_template)):
        tokenizer.chat_template = _JOIN_TEMPLATE


# ---------------------------------------------------------------------------------------- its weights


def _build(plan, tokenizer, custom_code):
    """The model, whether its class is of transformers, and the offset that it lacks."""
    reason = "custom_code=True" if custom_code else _why_custom(plan)
    tokenizer.model_max_length = plan.settings["max_length"]
    tokenizer.truncation_side, tokenizer.padding_side = plan.embedder.truncation_side, "right"
    with encoder._LOADING, torch.random.fork_rng(devices=[]):
        if reason is None:
            model = _native_model(plan)
            dropped = _fill_native(model, plan)
            if not dropped or custom_code is False:
                _add_pad_token(model, tokenizer)
                return model, True, dropped
        if custom_code is False:
            raise ValueError(
                f"No class of transformers gives this reward ({reason}). Let custom_code be None, and load the folder "
                f"with trust_remote_code=True. {_INSTEAD}"
            )
        if tokenizer.pad_token is None:  # masked by this model, whichever it is
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or PAD
        return _custom_model(plan, tokenizer), False, 0.0


def _why_custom(plan):
    """Why no class of transformers gives the reward, or None."""
    embedder = plan.embedder
    transformers = encoder._import_transformers()
    with encoder._loading(plan.source.path):
        config = transformers.AutoConfig.from_pretrained(plan.source.path, revision=plan.source.revision)
    native = transformers.models.auto.modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    generic = transformers.modeling_layers.GenericForSequenceClassification
    if native is None or not (config.model_type in ("gpt2", "gpt_neox") or issubclass(native, generic)):
        return f"models of type {config.model_type} have no class with a linear head on the last token"
    if embedder.pooling != "last":
        return f"pooling={embedder.pooling!r}"
    if embedder.layer not in (-1, plan.source.n_layers):
        return f"layer={embedder.layer}"
    if embedder.normalize:
        return "normalize=True"
    if any(plan.special):
        return "the tokenizer adds special tokens, which TRL leaves out"
    return None


def _native_model(plan):
    transformers = encoder._import_transformers()
    with encoder._loading(plan.source.path):
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            plan.source.path,
            revision=plan.source.revision,
            trust_remote_code=False,
            num_labels=1,
            dtype=torch.float32,
        ).eval()


def _last_norm(model):
    """The normalisation that gives the last states, if it has a bias."""
    base = model.base_model
    for name in ("ln_f", "final_layer_norm"):
        norm = getattr(base, name, None)
        if isinstance(norm, torch.nn.LayerNorm) and norm.bias is not None:
            return norm
    return None


def _fill_native(model, plan):
    """Set the head; the offset goes where score @ (states + change) = score @ states + offset. What is left of it."""
    norm, offset = _last_norm(model), plan.bias - float(plan.weight @ plan.shift)
    square = float(plan.weight @ plan.weight)
    with torch.no_grad():
        model.score.weight.copy_(torch.from_numpy(plan.weight)[None])
        if norm is None or not square:
            return 0.0 if abs(offset) < 1e-7 else offset
        change = plan.weight * (plan.bias / square) - plan.shift
        norm.bias.copy_(norm.bias.double() + torch.from_numpy(change))
    return 0.0


def _add_pad_token(model, tokenizer):
    tokenizer.add_special_tokens({"pad_token": PAD})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id


def _custom_model(plan, tokenizer):
    from .modeling_reward import RewardConfig, RewardModel  # imports transformers

    embedder = plan.embedder
    module = encoder._load_model(*plan.source[:3], "float32", "cpu")
    backbone = {key: value for key, value in module.config.to_dict().items() if not key.startswith("_")}
    config = RewardConfig(
        backbone=backbone,
        n_features=len(plan.shift),
        pooling=embedder.pooling,
        layer=embedder.layer,
        normalize=embedder.normalize,
        max_tokens=plan.settings["max_length"],
        truncation_side=embedder.truncation_side,
        prefix_ids=plan.special[0],
        suffix_ids=plan.special[1],
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    name = Path(_CODE).stem
    config.auto_map = {
        "AutoConfig": f"{name}.RewardConfig",
        "AutoModelForSequenceClassification": f"{name}.RewardModel",
    }
    model = RewardModel(config).eval()
    model.backbone.load_state_dict(module.state_dict())
    with torch.no_grad():
        model.shift.copy_(torch.from_numpy(plan.shift))
        model.head.weight.copy_(torch.from_numpy(plan.weight)[None])
        model.head.bias.fill_(plan.bias)
    return model


# ------------------------------------------------------------------------------- writing and comparing


def _check_new(folder):
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} is there already{' and holds files' if folder.is_dir() else ', and is no folder'}. Name another "
            "folder, or remove it first: nothing is overwritten."
        )
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {folder.parent} to write {folder.name} into. Make it first.")
    return folder


@contextmanager
def _written_at_once(folder):
    """A folder beside the given one, which gets its name at the end, or vanishes."""
    temporary = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    try:
        try:
            temporary.mkdir()
            yield temporary
            os.replace(temporary, folder)
        except (OSError, RuntimeError, ValueError):
            raise
        except Exception as error:  # what safetensors raises is of its own kind
            if "SafetensorError" not in type(error).__name__:
                raise
            raise OSError(f"Could not write {folder}: {error}. Make room, or name a folder elsewhere.") from error
    except BaseException:  # an interrupt too
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _save_quietly(model, folder):
    logging = encoder._import_transformers().utils.logging
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if had_bars:
            logging.enable_progress_bar()


def _compare(folder, texts, expected, plan, native):
    """Largest difference between the folder, loaded again, and the pipeline."""
    model, tokenizer = load_reward_model(folder)
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
    room = plan.settings["max_length"] - sum(map(len, plan.special))
    n_long = sum(length > room for length in lengths)
    if native and n_long:
        raise ValueError(
            f"{n_long} of {len(texts)} texts are longer than {room} tokens, which the pipeline cuts and this folder "
            "would not. Pass custom_code=True, or shorter texts as X."
        )
    found = np.concatenate([_score(model, tokenizer, texts), _score(model, tokenizer, texts[:8], batch_size=1)])
    difference = float(np.abs(found - np.concatenate([expected, expected[:8]])).max())
    most = TOLERANCE * max(1.0, np.abs(expected).max())
    if not difference <= most:
        raise RuntimeError(
            f"The folder's rewards differ from the pipeline's by up to {difference:.2g} (expected {most:.2g}), so it "
            "was removed. Features with a tiny scale, or store_dtype='float16', cost digits: refit without. "
            f"{_INSTEAD}"
        )
    return difference


def _score(model, tokenizer, texts, batch_size=64):
    """Rewards (n_texts,) of texts, tokenised as TRL does; texts of like length share a batch."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rewards = np.empty(len(texts))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        inputs = tokenizer(
            text=[texts[i] for i in rows],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            add_special_tokens=False,
        )
        with torch.inference_mode():
            rewards[rows] = model(**inputs).logits[:, 0].numpy()
    return rewards


def load_reward_model(folder):
    """Load an exported reward, making sure that its head is the one that was written.

    transformers gives weights that a file lacks at random, and says so in a log only. This does not. A folder with
    modelling code is loaded by this package's own, so that no code of the folder is run.

    Parameters
    ----------
    folder : path
        From `export_reward_model`.

    Returns
    -------
    model : PreTrainedModel
        In evaluation mode; ``reward_funcs`` takes it, too.
    tokenizer : PreTrainedTokenizer

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is not an export of this package, lacks weights, or has another head than its configuration says.
    """
    transformers = encoder._import_transformers()
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"There is no reward model in {folder}: it has no config.json.")
    record = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(_RECORD)
    if not isinstance(record, dict) or "checksum" not in record:
        raise ValueError(f"{folder} was not written by export_reward_model. Load it by transformers.")
    if record["custom_code"]:
        from .modeling_reward import RewardModel  # imports transformers

        model_class = RewardModel
    else:
        model_class = transformers.AutoModelForSequenceClassification
    with encoder._LOADING, encoder._loading(str(folder)), torch.random.fork_rng(devices=[]):
        model, report = model_class.from_pretrained(
            folder, num_labels=1, output_loading_info=True, ignore_mismatched_sizes=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, config=model.config)
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lost:
        raise ValueError(
            f"The weights in {folder} lack {', '.join(lost[:3])}, so that rewards would be random. Export again, and "
            "copy the whole folder."
        )
    found = _checksum(model, record["head"])
    if found != record["checksum"]:
        raise ValueError(
            f"The head in {folder} is not the one that was exported (checksum {found[:12]}, expected "
            f"{record['checksum'][:12]}): it was trained, re-initialised or replaced. Export again."
        )
    return model.eval(), tokenizer


def _checksum(model, names):
    """SHA-256 of the head's tensors, in the order of their names."""
    digest, state = hashlib.sha256(), model.state_dict()
    for name in names:
        digest.update(name.encode() + b"\0" + state[name].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _record(plan, model, native, dropped, center, scale):
    """What config.json keeps of the export."""
    if native:
        head = [model.score.weight, getattr(_last_norm(model), "bias", None)]
        names = [name for name, weight in model.named_parameters() if any(weight is part for part in head)]
    else:
        names = ["shift", "head.weight", "head.bias"]
    return {
        "version": __version__,
        "custom_code": not native,
        "head": names,
        "checksum": _checksum(model, names),
        "encoder": {key.lstrip("_"): value for key, value in plan.settings.items()}
        | {"normalize": plan.embedder.normalize},
        "center": float(center),
        "scale": float(scale),
        "offset_left_out": float(dropped),
    }


def _is_set_apart(rows, texts):
    """Whether the text of any prompt and output, two strings, has more in it than both, one behind the other."""
    return any(
        isinstance(prompt, str) and isinstance(output, str) and prompt + output != text
        for (prompt, output), text in zip(rows, texts, strict=True)
    )


# ------------------------------------------------------------------------------------------- its card


def _card(name, pipeline, record, difference, n_texts, audit, native):
    """The model card, in Markdown."""
    settings = record["encoder"]
    load = "" if native else ", trust_remote_code=True"
    trl = "" if native else "args=GRPOConfig(trust_remote_code=True), "
    fitted = list(_flat(pipeline))
    steps = " > ".join(type(step).__name__ for step in fitted)
    between = (
        f"The texts that it was fitted on were made by `prompt_template={settings['prompt_template']!r}`."
        if settings["prompt_template"]
        else "It was fitted on texts in which an empty line stands between prompt and output, unless there was white "
        "space already, or on outputs alone: see the data. Give it texts of that form."
    )
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags: [reward-model, trl, fairl_sk]",
        "---",
        "",
        f"# {name}",
        "",
        f"A reward recovered from preferences by fairl_sk {record['version']}: {steps}. Higher is better.",
        "",
        "```python",
        f"model = AutoModelForSequenceClassification.from_pretrained({name!r}{load})  # model(...).logits[:, 0]",
        f"GRPOTrainer({trl}reward_funcs={name!r}, ...)",
        f"fairl_sk.export.load_reward_model({name!r})  # checks the head",
        "```",
        "",
        "## Texts",
        "",
        f"TRL gives it prompt + completion, with nothing between. {between}",
        "Messages are formatted by the chat template of this folder.",
        f"At most {settings['max_length']} tokens: longer texts are "
        + ("refused or misread." if native else f"cut on the {settings['truncation_side']}."),
        *(["In bfloat16 the rewards move: train with `bf16=False`, and no dtype in `model_init_kwargs`."] * native),
        "",
        "## Settings",
        "",
        *(f"- encoder {key}: {value}" for key, value in settings.items()),
        f"- estimator: {' '.join(repr(fitted[-1]).split())}",
        f"- center {record['center']:.6g}, scale {record['scale']:.6g}",
        f"- offset left out: {record['offset_left_out']:.6g}",
        f"- largest difference from the pipeline on {n_texts} texts: {difference:.1e}",
        f"- SHA-256 of the head ({', '.join(record['head'])}): {record['checksum']}",
        "",
        *_audit_lines(audit),
    ]
    return "\n".join(lines) + "\n"


def _audit_lines(audit):
    if audit is None:
        return ["## Data, measures and nulls", "", "Not given. Pass the result of an audit to have them here."]
    settings, kept = audit["settings"], ("data", "rows", "rows_are", "train_rows", "test_rows", "groups", "dropped")
    names = [key for key in audit["table"][0] if key not in ("reward", "null")]
    names = [key for key in names if any(row[key] is not None for row in audit["table"])]

    def table(null):
        rows = [
            [row["reward"], *(_interval(row[key]) for key in names)] for row in audit["table"] if row["null"] == null
        ]
        header = ["reward", *(key.replace("_", " ") for key in names)]
        return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]

    return [
        "## Data and pairs",
        "",
        *(f"- {key.replace('_', ' ')}: {settings.get(key)}" for key in kept),
        f"- reference: {settings.get('reference')}",
        f"- seed: {settings.get('seed')}",
        "",
        "## Measures, held out",
        "",
        *table(False),
        "",
        f"Intervals: {settings.get('intervals')}.",
        "",
        "## Nulls",
        "",
        "What a reward that has learned nothing reaches on the same data:",
        "",
        *table(True),
    ]


def _interval(value):
    return "-" if value is None else f"{value.estimate:.3f} [{value.low:.3f}, {value.high:.3f}]"


# -------------------------------------------------------------------------------------- the health check

MAX_FLAT, MAX_TIES, MAX_MISSING, MAX_SATURATED, MAX_LENGTH = 0.1, 0.2, 0.01, 0.2, 0.5
MAX_BATCH = 1e-3  # in standard deviations of the reward
NATS = 1.0, 100.0  # of KL, that one standard deviation of the reward may buy


def check_reward(reward, prompts, completions, *, beta=0.05, n_batch=64, **columns):
    """Look at a reward function on completions of the model that is to be aligned with it, before that is done.

    Parameters
    ----------
    reward : callable or path
        A `RewardFunction`, or any reward function of TRL: ``reward(prompts=..., completions=..., **columns)`` gives a
        list of float or None. A path: the folder that `export_reward_model` wrote, as TRL scores with it.
    prompts, completions : list of shape (n_completions,)
        Texts or lists of messages. Completions of equal prompts are a group, as in GRPO and RLOO: give several each.
    beta : float > 0 or None, default=0.05
        KL coefficient of RLOO, whose penalty is taken from the reward (its default in TRL). None: leave that out, for
        GRPO, where the reward's scale does not matter.
    n_batch : int >= 2, default=64
        Completions that are scored again, one at a time.
    **columns : dict of list
        Further columns of the data set that the reward function reads.

    Returns
    -------
    result : Bunch
        ``table``, a list of dicts with ``measure``, ``value`` (None where there is none), ``expected`` and ``ok``, and
        ``warnings``, a list of str.

    Raises
    ------
    ValueError
        If lengths differ, there is no group of two completions, or no reward is a finite number; for a folder, see
        `load_reward_model`.

    Warns
    -----
    UserWarning
        For every measure that is not as expected.

    Notes
    -----
    ``spread`` is the root mean squared standard deviation within groups; ``flat groups`` the share of groups with one
    reward, from which nothing is learned; ``ties`` the share of completions with the very reward of a different text
    of their group; ``missing`` the share of None; ``not finite`` the number of NaN and infinities; ``saturation`` the
    share of distinct completions within 1 % of the range from either end; ``length`` Spearman's correlation of the
    reward with the number of words, within groups; ``batch`` the largest change of a reward that is computed alone, in
    standard deviations; ``nats per spread`` is ``spread / beta``, the KL divergence, in nats a completion, that RLOO
    pays for one standard deviation.

    Examples
    --------
    >>> from fairl_sk.export import check_reward
    >>> def loud(prompts, completions, **_):
    ...     return [float(completion.count("!")) for completion in completions]
    >>> completions = ["Well!!", "Oh, well.", "No, not now!!!", "Yes, so it is!"]
    >>> result = check_reward(loud, ["Hello."] * 4, completions, beta=None)
    >>> [row["measure"] for row in result.table if not row["ok"]]
    []
    """
    reward = reward if callable(reward) else _folder_function(reward)
    prompts, completions = list(prompts), list(completions)
    _check_columns(prompts, completions, columns, beta, n_batch)
    given = _ask(reward, prompts, completions, columns, range(len(prompts)))
    values = np.array([np.nan if value is None else float(value) for value in given])
    missing = np.array([value is None for value in given])
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError(f"None of {len(values)} rewards is a finite number. Expected some: check the reward function.")
    texts = np.array([to_text(completion) for completion in completions], dtype=object)
    groups = [rows for rows in _groups(prompts) if len(rows) > 1]
    if not groups:
        raise ValueError(f"Found {len(prompts)} prompts, no two of them equal. Expected several completions of each.")
    groups = [kept for rows in groups if len(kept := rows[finite[rows]]) > 1]
    spread = float(np.sqrt(np.mean([np.var(values[rows]) for rows in groups]))) if groups else 0.0
    rows = [
        _row("spread", spread, "> 0", spread > 0),
        _at_most("flat groups", np.mean([_is_flat(values[rows]) for rows in groups]) if groups else 1.0, MAX_FLAT),
        _at_most("ties", _ties(values, texts, groups), MAX_TIES),
        _at_most("missing", missing.mean(), MAX_MISSING),
        _at_most("not finite", int((~finite & ~missing).sum()), 0),
        _at_most("saturation", _saturation(values[finite], texts[finite]), MAX_SATURATED),
    ]
    length = _length_correlation(values, texts, groups)
    rows.append(_row("length", length, f"-{MAX_LENGTH} to {MAX_LENGTH}", length is None or abs(length) <= MAX_LENGTH))
    rows.append(_at_most("batch", _batch_change(reward, prompts, completions, columns, values, n_batch), MAX_BATCH))
    if beta is not None:
        nats = spread / beta
        rows.append(_row("nats per spread", nats, f"{NATS[0]:g} to {NATS[1]:g}", NATS[0] <= nats <= NATS[1]))
    messages = [_MEANING[row["measure"]].format(**row) for row in rows if not row["ok"]]
    for message in messages:
        encoder._warn(message)
    return Bunch(table=rows, warnings=messages)


_MEANING = {
    "spread": "The reward is the same within every group: nothing is learned from it.",
    "flat groups": "{value:.1%} of the groups have one reward for all their completions and teach nothing (expected "
    "{expected}). Sample at a higher temperature, raise decimals or clip, or use harder prompts.",
    "ties": "{value:.1%} of the completions have the reward of another text of their group (expected {expected}). "
    "Raise decimals or clip, or use a finer reward.",
    "missing": "{value:.1%} of the completions have no reward (expected {expected}): they are left out of their "
    "groups. Look at them; empty ones come from a model that ends at once.",
    "not finite": "{value} rewards are NaN or infinite: they poison their groups. Return None instead.",
    "saturation": "{value:.1%} of the rewards lie at an end of their range (expected {expected}): differences there "
    "are lost. Raise clip or scale.",
    "length": "The reward follows the length of completions (rank correlation {value:.2f}, expected {expected}): it "
    "will teach length. Fit on pairs of equal length, or control it.",
    "batch": "A reward changes by {value:.2g} standard deviations when it is computed alone (expected {expected}): it "
    "depends on the batch. Look for padding, normalisation within the batch, randomness or half precision.",
    "nats per spread": "A standard deviation of the reward buys {value:.3g} nats of KL in RLOO (expected {expected}). "
    "Below, the penalty drowns the reward; above, nothing holds the model. Change scale or beta; for GRPO: beta=None.",
}


def _row(measure, value, expected, ok):
    value = value if value is None or isinstance(value, int) else float(value)
    return {"measure": measure, "value": value, "expected": expected, "ok": bool(ok)}


def _at_most(measure, value, most):
    return _row(measure, value, f"<= {most:g}", value <= most)


def _check_columns(prompts, completions, columns, beta, n_batch):
    lengths = {"prompts": len(prompts), "completions": len(completions)} | {k: len(v) for k, v in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Found {', '.join(f'{n} {name}' for name, n in lengths.items())}. Expected as many of each.")
    if beta is not None and not (isinstance(beta, Real) and beta > 0):
        raise ValueError(f"Found beta={beta!r}. Expected a number above 0, or None.")
    if not isinstance(n_batch, Integral) or n_batch < 2:
        raise ValueError(f"Found n_batch={n_batch!r}. Expected a whole number of at least 2.")


def _ask(reward, prompts, completions, columns, rows):
    chosen = {name: [values[i] for i in rows] for name, values in columns.items()}
    given = reward(prompts=[prompts[i] for i in rows], completions=[completions[i] for i in rows], **chosen)
    given = list(given)
    if len(given) != len(rows):
        raise ValueError(f"The reward function gave {len(given)} rewards for {len(rows)} completions.")
    return given


def _folder_function(folder):
    """The reward function that TRL makes of an exported folder."""
    model, tokenizer = load_reward_model(folder)

    def score(prompts, completions, **_):
        texts = [
            prompt + completion
            if isinstance(prompt, str)
            else tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        return _score(model, tokenizer, texts).tolist()

    return score


def _groups(prompts):
    groups: dict[str, list] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(_key(prompt), []).append(row)
    return [np.array(rows) for rows in groups.values()]


def _is_flat(values):
    return np.ptp(values) <= 1e-9 * max(1.0, np.abs(values).max())


def _ties(values, texts, groups):
    """Share of completions of the groups that have the reward of a different text of their group."""
    tied = total = 0
    for rows in groups:
        texts_by_reward: dict[float, set] = {}
        for row in rows:
            texts_by_reward.setdefault(values[row], set()).add(texts[row])
        tied += sum(len(texts_by_reward[values[row]]) > 1 for row in rows)
        total += len(rows)
    return tied / total if total else 0.0


def _saturation(values, texts):
    """Share of distinct texts at an end of the range; the one text that makes the end is not counted."""
    _, first = np.unique(texts.astype(str), return_index=True)
    values = values[first]
    width = 0.01 * np.ptp(values)
    if not width:
        return 0.0
    ends = [np.sum(values >= values.max() - width), np.sum(values <= values.min() + width)]
    return float(sum(n for n in ends if n > 1) / len(values))


def _length_correlation(values, texts, groups):
    """Spearman's correlation with the number of words, of ranks within groups; None where either never differs."""
    ranks = []
    for rows in groups:
        both = np.array([rankdata(values[rows]), rankdata([len(text.split()) for text in texts[rows]])])
        ranks.append((both - both.mean(axis=1, keepdims=True)) / len(rows))
    reward, length = np.concatenate(ranks, axis=1) if ranks else np.zeros((2, 1))
    norm = np.sqrt(np.sum(reward**2) * np.sum(length**2))
    return float(np.sum(reward * length) / norm) if norm else None


def _batch_change(reward, prompts, completions, columns, values, n_batch):
    """Largest change, in standard deviations, of a reward that is computed alone."""
    rows = np.flatnonzero(np.isfinite(values))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(n_batch, len(rows))).astype(int))]
    alone = [_ask(reward, prompts, completions, columns, [int(row)])[0] for row in rows]
    alone = np.array([np.nan if value is None else float(value) for value in alone])
    if not np.isfinite(alone).all():
        return float("inf")
    return float(np.abs(alone - values[rows]).max() / (np.std(values[rows]) or 1.0))
