"""`RewardFunction`: a fitted pipeline as a reward function of TRL, for whoever runs GRPO or RLOO with it."""

import json
import re

import numpy as np

from ..features.encoder import TransformerEmbedder
from ..features.templates import check_template
from ..messages import TextTable, as_messages, join_prompt, read_messages, read_output, to_text
from ..prompts import split_prompt
from ..warn import warn_user
from .fitted import TrainingTexts, check_sign, find_reader, is_finite

ALONE, JOIN = "{output}", "join"  # the two formats that are no templates of the user's


class RewardFunction:
    r"""A fitted pipeline as a reward function of TRL.

    .. math:: r = \operatorname{clip}\left(\frac{R(o) - \text{center}}{\text{scale}}\right)

    Center and scale are frozen when the object is made, so a completion's reward depends on nothing else in its batch.

    Parameters
    ----------
    pipeline : estimator
        Fitted, from texts to ``decision_function``; as a rule a Pipeline that ends in an estimator of this package.
    X : array-like or table, default=None
        Training pairs or outputs, from which center, scale and format are read. None: all are told by parameters.
    y : array-like of shape (n_rows,), default=None
        Two classes, the larger meaning that the first output is preferred, or that the output is desirable. None: the
        first is always preferred.
    name : str, default=None
        Name in TRL's logs, unique in a run. None: the estimator's class.
    prompt_template : str, default=None
        The text that is scored. "{output}": the completion alone. "join": behind its prompt, as the pipeline reads a
        table. Else a text with the fields ``{prompt}`` and ``{output}``. None: as ``X`` shows.
    center, scale : {"mean"} or float, {"std"} or float > 0
        What is subtracted and divided by; "mean" and "std" of the training outputs.
    clip : float > 0, "tanh" or None, default=None
        Bound of the result: cut off at -clip and clip, or its hyperbolic tangent.
    tool_turns : bool, default=False
        Whether the messages of tools in a completion are scored, which the model did not write.
    on_error : {"raise", "none"}, default="raise"
        What a malformed completion gives, such as a list of messages without a turn of the assistant: an error, or None
        with a warning, so that training goes on without it.

    Attributes
    ----------
    center, scale, prompt_template
        What was found or given.

    Raises
    ------
    NotFittedError, TypeError
        If the pipeline is not fitted, or has no ``decision_function``.
    ValueError
        If it does not score texts, its encoder changed, a parameter is out of range or cannot be found from ``X``, or
        the reward prefers the other side of its training pairs.

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
        tool_turns=False,
        on_error="raise",
    ):
        for fits, found, expected in (
            (center == "mean" or is_finite(center), f"center={center!r}", "'mean' or a finite number"),
            (scale == "std" or (is_finite(scale) and scale > 0), f"scale={scale!r}", "'std' or a number above 0"),
            (clip in (None, "tanh") or (is_finite(clip) and clip > 0), f"clip={clip!r}", "None, 'tanh' or above 0"),
            (on_error in ("raise", "none"), f"on_error={on_error!r}", "'raise' or 'none'"),
        ):
            if not fits:
                raise ValueError(f"Found {found}. Expected {expected}.")
        self.pipeline, self.clip, self.tool_turns, self.on_error = pipeline, clip, tool_turns, on_error
        self._reader = find_reader(pipeline)
        self.name = self.__name__ = _check_name(name, pipeline)  # TRL asks for the latter
        training = None if X is None else TrainingTexts.of(X)
        self.prompt_template = self._find_format(prompt_template, training)
        # Whether training texts were made of messages; None: nothing says so, and a call's messages decide.
        untold = training is None and self.prompt_template == JOIN
        self._messages = None if untold else training is not None and training.kind == "messages"
        self.center, self.scale = center, scale
        self._freeze(training, y)

    def _freeze(self, training, y):
        """Find center and scale, and check that the reward can be used."""
        if training is None and (self.center == "mean" or self.scale == "std"):
            found = f"center={self.center!r}, scale={self.scale!r} without training outputs"
            raise ValueError(f"Found {found}. Expected X, or numbers.")
        some = np.array(["Thank you."], dtype=object)
        rewards = self._raw(some if training is None else self._training_table(training))
        if not np.isfinite(rewards).all():
            found = f"{np.sum(~np.isfinite(rewards))} rewards that are not finite, of {len(rewards)}"
            raise ValueError(f"The pipeline gave {found}. Expected finite ones: fit it again.")
        if training is not None:
            check_sign(rewards, training.paired, y, self.pipeline)
        spread = float(np.std(rewards))
        if self.scale == "std" and not spread > 1e-12 * max(1.0, np.abs(rewards).max()):
            found = f"The reward is the same, {rewards[0]:.6g}, for all {len(rewards)} training outputs"
            raise ValueError(f"{found}. Expected one that tells them apart.")
        self.center = float(np.mean(rewards) if self.center == "mean" else self.center)
        self.scale = spread if self.scale == "std" else float(self.scale)

    def __call__(self, prompts=None, completions=None, **_):
        """Rewards of completions; called by TRL.

        Parameters
        ----------
        prompts, completions : list of str or of lists of messages
            One prompt for each completion, or None where completions are scored alone.
        **_ : dict
            What else TRL passes, ignored.

        Returns
        -------
        rewards : list of float or None
            None, by which TRL leaves a completion out, if it is empty or, with a UserWarning, cannot be scored; for a
            malformed one see ``on_error``.

        Raises
        ------
        ValueError
            If the lists do not match, or hold anything but texts and conversations with a turn of the assistant.
        """
        prompts, completions = self._check_call(prompts, completions)
        keys, distinct, malformed = [], {}, {}
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            try:
                scored = self._format(prompt, _check_completion(completion))
            except ValueError as error:
                if self.on_error == "raise":
                    raise ValueError(f"Completion {row} cannot be scored: {error}") from error
                scored, malformed[row] = None, error
            keys.append(json.dumps(scored, default=repr))  # messages may hold what JSON cannot: an image
            if scored is not None:
                distinct.setdefault(keys[-1], scored)
        values = dict(zip(distinct, self._scores(list(distinct.values())), strict=True))
        if malformed:
            row, why = next(iter(malformed.items()))
            warn_user(f"{len(malformed)} completions are malformed and are left out, the first in row {row}: {why}")
        lost = [row for row, key in enumerate(keys) if values.get(key, 0) is None]
        if lost:
            warn_user(f"{len(lost)} completions have no finite reward and are left out, the first in row {lost[0]}.")
        return [values.get(key) for key in keys]

    def _find_format(self, template, training):
        """The format of texts; one that disagrees with the training data or the embedder is refused."""
        has_prompts = None if training is None else training.has_prompts
        if template is None:
            if has_prompts is None:
                found = "Nothing says whether the training texts had prompts before them"
                known = "'{output}' if they had none, 'join' if join_prompt put them there, or their own template"
                raise ValueError(f"{found}. Pass prompt_template: {known}.")
            return JOIN if has_prompts else ALONE
        if template != JOIN:
            check_template(template)
            own = getattr(self._reader, "prompt_template", None)
            if own is not None:
                found = f"Found prompt_template={template!r}, but the pipeline's embedder was fitted with {own!r}"
                raise ValueError(f"{found}. Pass 'join': it formats by the embedder's own.")
        if has_prompts is not None and has_prompts != (template == JOIN or "{prompt" in template):
            found = f"Found prompt_template={template!r}, but X has {'' if has_prompts else 'no '}prompts"
            raise ValueError(f"{found}. Leave prompt_template out, or pass the X that was fitted.")
        return template

    def _format(self, prompt, completion):
        """What is scored, (prompt or None, output), or None for an empty text."""
        if not isinstance(completion, str):  # a text is what the model wrote
            prompt, completion = split_prompt(prompt, completion)
        completion = read_output(completion, tool_turns=self.tool_turns)
        if self.prompt_template == ALONE:
            prompt = None
        elif self.prompt_template != JOIN:
            return None, self.prompt_template.format(prompt=join_prompt(prompt, ""), output=to_text(completion))
        if not join_prompt(prompt, completion).strip():
            return None
        if self._messages:
            return as_messages(prompt, "user") or None, as_messages(completion, "assistant")
        if self._messages is False or not isinstance(self._reader, TransformerEmbedder):
            return join_prompt(prompt, "") or None, to_text(completion)
        return prompt, completion

    def _as_read(self, rows):
        """Rows (prompt or None, output) in the form that the pipeline reads as it read the training texts."""
        if isinstance(self._reader, TransformerEmbedder):
            own = self._reader.prompt_template is not None and self.prompt_template == JOIN
            if own or not all(isinstance(output, str) for _, output in rows):
                return TextTable.of(rows)
        return np.array([join_prompt(*row) for row in rows], dtype=object)

    def _training_table(self, training):
        rows = training.rows
        if training.kind == "array":
            return np.array([text for _, text in rows], dtype=object)
        if training.has_prompts is not None:
            rows = [self._format(*row) for row in rows]
            if None in rows:
                raise ValueError(f"Row {rows.index(None) // (1 + training.paired)} of X is empty. Drop such rows.")
        return self._as_read(rows)

    def _raw(self, table):
        """R of a table or an array of texts, (n_outputs,)."""
        try:
            return np.asarray(self.pipeline.decision_function(table), dtype=np.float64)
        except (ValueError, TypeError, AttributeError) as error:
            expected = "Expected a pipeline from texts to rewards, with the encoder that it was fitted with."
            raise ValueError(f"The pipeline cannot score texts: {error} {expected}") from error

    def _scores(self, rows):
        """The reward of each distinct row, None where there is none."""
        if not rows:
            return []
        try:
            raw = self._raw(self._as_read(rows))
        except ValueError:  # one of them is at fault: its text has no token, for instance
            return [None] if len(rows) == 1 else [self._scores([row])[0] for row in rows]
        with np.errstate(over="ignore", invalid="ignore"):  # a tiny scale overflows
            values = (raw - self.center) / self.scale
        if self.clip is not None:
            values = np.tanh(values) if self.clip == "tanh" else np.clip(values, -self.clip, self.clip)
        fits = np.isfinite(raw) & np.isfinite(values)
        return [float(value) if fit else None for value, fit in zip(values, fits, strict=True)]

    def _check_call(self, prompts, completions):
        if completions is None or isinstance(completions, str):
            found = f"completions={completions!r:.60}"
            raise ValueError(f"Found {found}. Expected a list of texts or of lists of messages.")
        if prompts is None and self.prompt_template != ALONE:
            raise ValueError(f"Found no prompts, but texts are formatted by {self.prompt_template!r}. Pass prompts.")
        completions = list(completions)
        prompts = [None] * len(completions) if prompts is None else list(prompts)
        if len(prompts) != len(completions):
            found = f"{len(prompts)} prompts and {len(completions)} completions"
            raise ValueError(f"Found {found}. Expected one prompt for each completion, repeated if need be.")
        return prompts, completions


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
        messages = read_messages(completion)
        if not any(message["role"] == "assistant" for message in messages):
            roles = ", ".join(message["role"] for message in messages) or "none"
            raise ValueError(f"found messages with the roles {roles}. Expected a turn of the assistant among them.")
    return completion
