"""What a fitted pipeline is made of and what it was fitted on; both ways of export read it here."""

import warnings
from numbers import Real
from typing import NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ..features.encoder import TransformerEmbedder
from ..messages import as_messages, column_names, has_messages
from ..pairs import PairTransformer, preference_sign, read_texts, table_rows

# Settings that make another encoder of an embedder.
_ENCODER = ("model", "pooling", "layer", "dtype", "max_length", "truncation_side", "prompt_template", "normalize")


def flat_steps(estimator):
    """The fitted steps, in order, from within pipelines, searches and `PairTransformer`."""
    if hasattr(estimator, "best_estimator_"):
        yield from flat_steps(estimator.best_estimator_)
    elif isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            yield from flat_steps(step)
    elif isinstance(estimator, PairTransformer):
        check_is_fitted(estimator)
        yield from flat_steps(estimator.transformer_)
    elif estimator is not None and not isinstance(estimator, str):  # "passthrough"
        yield estimator


def find_reader(pipeline):
    """The step that reads texts, of a pipeline that is fitted, has rewards and still has its encoder."""
    if not hasattr(pipeline, "fit"):
        raise TypeError(f"Found {type(pipeline).__name__} {pipeline!r:.60}. Expected a fitted pipeline or estimator.")
    check_is_fitted(pipeline)
    if not hasattr(pipeline, "decision_function"):
        found = f"Found {type(pipeline).__name__} without decision_function"
        raise TypeError(f"{found}. End the pipeline in an estimator of this package, or a linear classifier.")
    for step in flat_steps(pipeline):
        if isinstance(step, TransformerEmbedder):
            _check_encoder(step)
    reader = pipeline
    while hasattr(reader, "best_estimator_") or isinstance(reader, Pipeline):
        reader = reader.best_estimator_ if hasattr(reader, "best_estimator_") else reader.steps[0][1]
    return reader


def _check_encoder(embedder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `fit` warned already
        now = clone(embedder).fit().settings_
    changed = [key for key in _ENCODER if now[key] != embedder.settings_.get(key)]
    if changed:
        found = f"The encoder is not the one that the pipeline was fitted with: {', '.join(changed)} changed"
        raise ValueError(f"{found}. Fit the pipeline again, or put the encoder's files and parameters back.")


class TrainingTexts(NamedTuple):
    """Training data as rows (prompt or None, output); of pairs, row 2i is the first and row 2i + 1 the second side."""

    rows: list
    paired: bool
    kind: str  # "array", or of a table "text" or "messages"
    has_prompts: bool | None  # None: nothing says so

    @classmethod
    def of(cls, X):
        """Read pairs or outputs; ValueError for anything but texts."""
        texts = read_texts(X)  # also checks
        if texts is None or not texts.size:
            found = "no texts" if texts is None else f"0 rows (shape {texts.shape})"
            raise ValueError(f"X holds {found}. Expected the texts of the training pairs or outputs.")
        paired, names = texts.ndim == 2, column_names(X)
        if names is None:
            return cls([(None, text) for text in texts.ravel()], paired, "array", None)
        sides = ("chosen", "rejected") if paired else ("completion",)
        rows = [(prompt, output) for prompt, *outputs in table_rows(X, sides, "prompt" in names) for output in outputs]
        kind = "messages" if has_messages(X) else "text"
        has_prompts: bool | None = True if "prompt" in names else None
        if has_prompts is None and kind == "messages":
            turns = (message for _, output in rows for message in as_messages(output, "assistant"))
            has_prompts = any(prompt for prompt, _ in rows) or any(message["role"] != "assistant" for message in turns)
        return cls(rows, paired, kind, has_prompts)


def check_sign(rewards, paired, y, pipeline):
    """Refuse a reward that prefers the wrong side of its own training data."""
    n_rows = len(rewards) // 2 if paired else len(rewards)
    if y is None and not paired:
        return
    sign = preference_sign(y, n_rows, classes=None if y is None else getattr(pipeline, "classes_", None))
    if paired:
        margin = float(np.mean(sign * (rewards[::2] - rewards[1::2])))
    else:
        margin = float(np.mean(rewards[sign > 0]) - np.mean(rewards[sign < 0]))
    if margin <= 0:
        found = f"The reward prefers the other side: its mean margin on the training data is {margin:.4g}"
        advice = (
            "If the preferred output is not always the first, pass y; else fit again, with the larger class of y for it"
        )
        raise ValueError(f"{found}. Expected one above 0. {advice}.")


def is_finite(value):
    """Whether it is a finite real number."""
    return isinstance(value, Real) and not isinstance(value, bool) and bool(np.isfinite(value))
