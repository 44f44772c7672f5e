"""A linear reward on a transformer as a Hugging Face folder: how it is written, compared, described and loaded."""

import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .. import __version__
from ..features.encoder import TransformerEmbedder
from ..features.loading import MODEL_LOCK, find_model, import_transformers, load_model, load_weights, quiet_loading
from ..features.templates import format_texts
from ..messages import TextTable
from ..pairs import read_texts
from ..warn import warn_user
from .fitted import TrainingTexts, check_sign, find_reader, flat_steps, is_finite

TOLERANCE = 1e-4  # of rewards up to 1 in size, else of the largest: what a folder may differ by from its pipeline
PAD = "<|fairl_sk_pad|>"  # a token of its own: where a text holds the pad token, native classes pool before it
_CODE = "modeling_reward.py"
_RECORD = "fairl_sk"  # the key in config.json
_INSTEAD = "Use fairl_sk.export.RewardFunction, which takes any pipeline over texts."
_TEXTS = ("Thank you.", "No.", "I would rather not say.\n\nAsk the neighbor, she knows the way.")  # without X
# `fairl_sk.pairs.join_prompt` of messages, in the language of chat templates.
_JOIN_TEMPLATE = (
    "{%- set ns = namespace(text='') -%}{%- for message in messages -%}{%- set content = message['content'] -%}"
    "{%- if ns.text and content and not ns.text[-1].isspace() and not content[0].isspace() -%}"
    "{%- set ns.text = ns.text + '\\n\\n' -%}{%- endif -%}{%- set ns.text = ns.text + content -%}{%- endfor -%}"
    "{{- ns.text -}}"
)


def export_reward_model(pipeline, folder, X=None, y=None, *, center=0.0, scale=1.0, custom_code=False):
    """Write a reward as a Hugging Face folder, which TRL and transformers load by its path.

    ``AutoModelForSequenceClassification.from_pretrained(folder)`` gives the rewards as ``logits`` (n_texts, 1). They
    are compared with the pipeline's before the folder appears under its name.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted: a `TransformerEmbedder`, affine steps (scalers, PCA) and a linear estimator, in any nesting.
    folder : path
        New, or empty.
    X, y : array-like or table, and array-like of shape (n_rows,), default=None
        Training data to compare (up to 500 rows) and to check the sign on, see `RewardFunction`. None: a few sentences.
    center, scale : float, default=0.0, 1.0
        The folder gives ``(R - center) / scale``; those of a `RewardFunction` are frozen from training outputs.
    custom_code : bool, default=False
        True: the folder carries its own modeling code (``trust_remote_code=True``), which cuts long texts and scores in
        float32. False: only if no class of transformers gives the reward.

    Returns
    -------
    folder : Path
        With weights, configuration, tokenizer and the model card ``README.md``.

    Raises
    ------
    NotFittedError, TypeError, ValueError
        See `RewardFunction`; also if the pipeline cannot be written as such a folder.
    RuntimeError, OSError
        If the folder's rewards are not the pipeline's; if it holds anything, or cannot be written.

    Warns
    -----
    UserWarning
        If the pipeline read another text than TRL's prompt + completion.
    """
    folder = _check_new(folder)
    if not is_finite(center) or not is_finite(scale) or scale <= 0:
        raise ValueError(f"Found center={center!r}, scale={scale!r}. Expected a number, and a number above 0.")
    reader = find_reader(pipeline)
    head = _fold(pipeline, center, scale)
    training = None if X is None else TrainingTexts.of(X)
    outputs, texts, templated = _texts_of(head, reader, training)
    expected = (np.asarray(pipeline.decision_function(outputs), dtype=np.float64) - center) / scale
    if training is not None:
        check_sign(expected, training.paired, y, pipeline)
    with MODEL_LOCK, quiet_loading(head.source.path), torch.random.fork_rng(devices=[]):
        tokenizer = import_transformers().AutoTokenizer.from_pretrained(head.source.path, revision=head.source.revision)
        special = ([], []) if templated else _special_ids(tokenizer)
        custom_code = bool(custom_code) or not _is_native(head, special)
        model = (_custom_model if custom_code else _native_model)(head, tokenizer, special)
        tokenizer.truncation_side, tokenizer.padding_side = head.embedder.truncation_side, "right"
        tokenizer.model_max_length = head.embedder.settings_["max_length"]
        _set_chat_template(tokenizer, head.embedder, reader, templated)
    encoder = {key.lstrip("_"): value for key, value in head.embedder.settings_.items()}
    record = {"version": __version__, "custom_code": custom_code, "center": float(center), "scale": float(scale)}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        written = Path(temporary) / folder.name
        written.mkdir()
        setattr(model.config, _RECORD, {**record, "encoder": encoder})
        model.config._name_or_path = ""
        with quiet_loading(head.source.path):
            model.save_pretrained(written)
            tokenizer.save_pretrained(written)
        if custom_code:
            shutil.copyfile(Path(__file__).with_name(_CODE), written / _CODE)
        chosen = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), 500)).astype(int))
        room = np.inf if custom_code else encoder["max_length"]
        record["largest difference from the pipeline"] = _compare(written, texts[chosen], expected[chosen], room)
        (written / "README.md").write_text(_card(folder.name, pipeline, record, encoder), encoding="utf-8")
        os.replace(written, folder)
    if training is not None:
        _warn_of_format(training, texts)
    return folder


def _check_new(folder):
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already. Name another folder, or remove it: nothing is overwritten.")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {folder.parent} to write {folder.name} into. Make it first.")
    return folder


class _Head(NamedTuple):
    """A reward as (states - shift) @ weight + bias of what the embedder pools."""

    embedder: TransformerEmbedder
    source: NamedTuple  # of find_model
    shift: np.ndarray
    weight: np.ndarray
    bias: float


def _fold(pipeline, center, scale):
    """Affine steps and the estimator as one linear head, in float64."""
    embedder, *steps = flat_steps(pipeline)
    if not isinstance(embedder, TransformerEmbedder) or not steps:
        found = f"The pipeline starts with {type(embedder).__name__}, which is no transformer model"
        raise ValueError(f"{found}. Expected a TransformerEmbedder first. {_INSTEAD}")
    if embedder.dtype != "float32":
        found = f"The embedder runs in {embedder.dtype}, but folders are written in float32"
        raise ValueError(f"{found}. Fit with dtype='float32'. {_INSTEAD}")
    source = find_model(embedder.model, embedder.revision)
    if source.dense or source.prompt or source.is_lower or source.n_kept or source.is_part:
        found = (
            "The encoder has a dense layer, a prompt, lower case or fewer dimensions by sentence-transformers, or is "
        )
        found += "the encoder of a T5"
        raise ValueError(f"{found}. Expected a model that is written as it is. {_INSTEAD}")
    n_features = len(embedder.get_feature_names_out())
    *steps, last = steps
    coef, intercept = _linear(last)
    shift = np.asarray(getattr(steps[0] if steps else None, "mean_", np.zeros(n_features)), dtype=np.float64)
    points = np.vstack([np.zeros(n_features), shift, np.eye(n_features)])
    for step in steps:
        points = _apply(step, points)
    if points.shape[1] != len(coef):
        found = f"{type(last).__name__} has {len(coef)} weights for {points.shape[1]} features"
        raise ValueError(f"{found}: it was fitted on features of another encoder. Fit the pipeline again.")
    at = points @ coef
    bias = float((at[1] + intercept - center) / scale)
    return _Head(embedder, source, shift, (at[2:] - at[0]) / scale, bias)


def _apply(step, points):
    """An affine step at points (n, n_features), in float64."""
    steps = np.random.default_rng(0).normal(scale=100.0, size=(2, points.shape[1]))
    with warnings.catch_warnings():  # steps that were fitted on named columns miss them
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        probed = step.transform(np.vstack([points, points[0] + steps, points[:1] + steps.sum(axis=0)]))
    *images, a, b, both = np.asarray(probed, dtype=np.float64)
    if np.abs(images[0] + both - a - b).max(initial=0) > 1e-6 * np.abs(both).max(initial=0):
        raise ValueError(f"The step {type(step).__name__} is not affine, as a linear layer is. {_INSTEAD}")
    return np.array(images)


def _linear(estimator):
    """Weights (n_features,) and intercept of a linear estimator of two classes."""
    name = type(estimator).__name__
    coef, intercept = getattr(estimator, "coef_", None), getattr(estimator, "intercept_", None)
    if coef is None or intercept is None:
        raise ValueError(f"{name} is not linear: it has no coef_ and intercept_. {_INSTEAD}")
    coef, intercept = np.asarray(coef, dtype=np.float64), np.asarray(intercept, dtype=np.float64)
    if coef.ndim > 2 or (coef.ndim == 2 and len(coef) > 1) or intercept.size != 1:
        raise ValueError(f"{name} has weights of shape {coef.shape}. Expected those of one reward: two classes.")
    return coef.ravel(), float(intercept.ravel()[0])


def _is_native(head, special):
    """Whether a class of transformers gives the reward: a linear head on the last token, and a place for the offset."""
    transformers, embedder = import_transformers(), head.embedder
    config = transformers.AutoConfig.from_pretrained(head.source.path, revision=head.source.revision)
    return (
        config.model_type in ("gpt2", "gpt_neox")
        and embedder.pooling == "last"
        and embedder.layer in (-1, config.num_hidden_layers)
        and not embedder.normalize
        and not any(special)  # TRL leaves them out
    )


def _native_model(head, tokenizer, _):
    """A class of transformers with the head set; the offset goes into the last normalization's bias."""
    model_class = import_transformers().AutoModelForSequenceClassification
    options = {"unread": "score", "revision": head.source.revision, "num_labels": 1, "dtype": torch.float32}
    model = load_weights(model_class, head.source.path, **options)
    norm = model.base_model.ln_f if hasattr(model.base_model, "ln_f") else model.base_model.final_layer_norm
    square = max(float(head.weight @ head.weight), 1e-300)
    with torch.no_grad():
        model.score.weight.copy_(torch.from_numpy(head.weight)[None])
        norm.bias.copy_(norm.bias.double() + torch.from_numpy(head.weight * (head.bias / square) - head.shift))
    tokenizer.add_special_tokens({"pad_token": PAD})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model


def _custom_model(head, tokenizer, special):
    from .modeling_reward import RewardConfig, RewardModel  # imports transformers

    embedder = head.embedder
    if tokenizer.pad_token is None:  # masked by this model, whichever it is
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or PAD
    module = load_model(head.source.path, head.source.revision, head.source.identity, "float32", "cpu")
    backbone = {key: value for key, value in module.config.to_dict().items() if not key.startswith("_")}
    same = {name: getattr(embedder, name) for name in ("pooling", "layer", "normalize", "truncation_side")}
    same |= {"max_tokens": embedder.settings_["max_length"], "prefix_ids": special[0], "suffix_ids": special[1]}
    head_options = {"num_labels": 1, "pad_token_id": tokenizer.pad_token_id, "dtype": "float32"}
    config = RewardConfig(backbone=backbone, n_features=len(head.shift), **same, **head_options)
    classes = {"AutoConfig": "RewardConfig", "AutoModelForSequenceClassification": "RewardModel"}
    config.auto_map = {auto: f"{Path(_CODE).stem}.{name}" for auto, name in classes.items()}
    model = RewardModel(config).eval()
    model.backbone.load_state_dict(module.state_dict())
    with torch.no_grad():
        model.shift.copy_(torch.from_numpy(head.shift))
        model.head.weight.copy_(torch.from_numpy(head.weight)[None])
        model.head.bias.fill_(head.bias)
    return model


def _texts_of(head, reader, training):
    """Outputs as the pipeline takes them, the texts that it makes of them, and whether a chat template did."""
    if training is None:
        outputs = np.array(_TEXTS, dtype=object)
    elif training.kind == "array":
        outputs = np.array([text for _, text in training.rows], dtype=object)
    else:
        outputs = TextTable.of(training.rows)
    if reader is not head.embedder:
        return outputs, read_texts(outputs), False
    return outputs, *format_texts(outputs, reader.prompt_template, head.source)


def _special_ids(tokenizer):
    """Ids that the tokenizer puts before and after a text, which TRL tells it not to."""
    plain, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    start = next((start for start in range(len(whole)) if whole[start : start + len(plain)] == plain), 0)
    return whole[:start], whole[start + len(plain) :]


def _set_chat_template(tokenizer, embedder, reader, templated):
    """Have TRL format messages as the pipeline does."""
    if reader is embedder and embedder.prompt_template is not None:
        tokenizer.chat_template = "{{ raise_exception('This reward reads texts that a prompt_template made.') }}"
    elif not (templated or (reader is embedder and tokenizer.chat_template)):
        tokenizer.chat_template = _JOIN_TEMPLATE


def _warn_of_format(training, texts):
    """Warn if TRL's prompt + completion is not the text that the pipeline read."""
    rows = zip(training.rows, texts, strict=True)
    if any(isinstance(p, str) and isinstance(output, str) and p + output != text for (p, output), text in rows):
        found = "The pipeline read more than prompt + completion, which is what TRL gives the folder"
        warn_user(f"{found}. Write the rest (such as an empty line) into the prompts, or use RewardFunction.")


def _compare(folder, texts, expected, room):
    """Largest difference between the folder, loaded again, and the pipeline."""
    model, tokenizer = load_reward_model(folder)
    texts = texts.tolist()
    n_long = sum(len(ids) > room for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    if n_long:
        found = f"{n_long} of {len(texts)} texts are longer than {room} tokens"
        raise ValueError(f"{found}: this folder would not cut them. Pass custom_code=True, or shorter texts as X.")
    found = np.concatenate([score_texts(model, tokenizer, texts), score_texts(model, tokenizer, texts[:8], 1)])
    difference = float(np.abs(found - np.concatenate([expected, expected[:8]])).max())
    most = TOLERANCE * max(1.0, np.abs(expected).max())
    if not difference <= most:
        found = f"The folder's rewards differ from the pipeline's by up to {difference:.2g} (expected {most:.2g})"
        advice = "Features of a tiny scale, or store_dtype='float16', cost digits: refit without"
        raise RuntimeError(f"{found}. {advice}. {_INSTEAD}")
    return difference


def score_texts(model, tokenizer, texts, batch_size=64):
    """Rewards (n_texts,) of texts, tokenized as TRL does."""
    rewards, texts = [], list(texts)
    options = {"return_tensors": "pt", "padding": True, "padding_side": "right", "add_special_tokens": False}
    for start in range(0, len(texts), batch_size):
        inputs = tokenizer(text=texts[start : start + batch_size], **options)
        with torch.inference_mode():
            rewards.append(model(**inputs).logits[:, 0].numpy())
    return np.concatenate(rewards)


def load_reward_model(folder):
    """Load a folder of `export_reward_model` without code from it, making sure that no weight is missing.

    Parameters
    ----------
    folder : path

    Returns
    -------
    model, tokenizer : PreTrainedModel, PreTrainedTokenizer
        In evaluation mode; ``reward_funcs`` takes the model, too.

    Raises
    ------
    ValueError, OSError
        If it is not an export of this package; if there is no such folder, or it lacks weights.
    """
    transformers, folder = import_transformers(), Path(folder)
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"There is no reward model in {folder}: it has no config.json.")
    record = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(_RECORD)
    if record is None:
        raise ValueError(f"{folder} was not written by export_reward_model. Load it by transformers.")
    if record["custom_code"]:
        from .modeling_reward import RewardModel as model_class  # imports transformers
    else:
        model_class = transformers.AutoModelForSequenceClassification
    model = load_weights(model_class, str(folder), num_labels=1)
    with quiet_loading(str(folder)):
        return model, transformers.AutoTokenizer.from_pretrained(folder, config=model.config)


def folder_function(folder):
    """The reward function that TRL makes of a folder of `export_reward_model`.

    Parameters
    ----------
    folder : path

    Returns
    -------
    reward : callable
        ``reward(prompts=, completions=)`` -> list of float. Texts are joined with nothing between them, messages by the
        chat template.
    """
    model, tokenizer = load_reward_model(folder)

    def as_text(prompt, completion):
        if isinstance(prompt, str):
            return prompt + completion
        return tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)

    return lambda prompts, completions, **_: list(score_texts(model, tokenizer, map(as_text, prompts, completions)))


def _card(name, pipeline, record, encoder):
    """The model card, in Markdown."""
    steps = [type(step).__name__ for step in flat_steps(pipeline)]
    load = ", trust_remote_code=True" if record["custom_code"] else ""
    template = encoder["prompt_template"]
    form = "outputs alone, or behind their prompts and an empty line" if template is None else f"`{template!r}`"
    rows = {f"encoder {key}": value for key, value in encoder.items()} | record
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [reward-model, trl, fairl_sk]
---

# {name}

A reward recovered from preferences by fairl_sk: {" > ".join(steps)}.
Load it by `AutoModelForSequenceClassification.from_pretrained({name!r}{load})`; `logits[:, 0]` is the reward.

TRL gives it prompt + completion, with nothing between. It was fitted on {form}: give it texts of that form.
Texts of more than {encoder["max_length"]} tokens are {"cut as in training" if load else "misread"}.
{"" if load else "In bfloat16 the rewards move: train with `bf16=False`."}

{chr(10).join(f"- {key.replace('_', ' ')}: {value}" for key, value in rows.items())}
"""
