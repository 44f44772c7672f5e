"""Load sequence classifiers of Hugging Face and Detoxify, ready to score texts; the rewards call it."""

import inspect
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..extras import import_extra
from .batching import TokenizedTexts, pool_states
from .loading import count_positions, import_transformers, load_tokenizer, load_weights, quiet_loading

CATEGORY_NAMES = {"toxic": "toxicity", "severe_toxic": "severe_toxicity", "identity_hate": "identity_attack"}
_PROBES = ["Well, is it?", "Well, is it? It is."]  # of two lengths


class Classifier(NamedTuple):
    """A sequence classifier that is ready to score."""

    name: str
    revision: str | None
    model: Any
    tokenizer: Any
    labels: list  # of the first logits; a head may have more
    exclusive: bool  # whether softmax makes the probabilities, not the logistic function
    longest: int  # tokens that the model can read
    known: dict  # logits by text, end that was cut and length


def _prepare(name, revision, model, tokenizer, labels, exclusive, device):
    """The parts as a `Classifier`, if they belong together."""
    text_config = model.config.get_text_config()
    text_config.use_cache = False  # no keys and values for a next token
    longest = min(tokenizer.model_max_length, count_positions(model))
    tokens = TokenizedTexts(tokenizer, _PROBES, max_length=longest, truncation_side="right")
    tokens.check_vocabulary(model, name)
    module, pool = find_head(model)
    if module is not model:
        text_config.pad_token_id = None  # its own class then reads the last token of a text alone
    inputs = tokenizer([_PROBES[0]], truncation=True, max_length=longest, return_tensors="pt")
    inputs = {key: inputs[key] for key in inputs if key in inspect.signature(model.forward).parameters}
    ids, mask = tokens.pad(np.arange(len(_PROBES)))
    with torch.inference_mode():
        batch, alone = pool(module(input_ids=ids, attention_mask=mask.long()), mask), model(**inputs).logits
    if not torch.allclose(batch[:1], alone, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{name} gives other logits for padded token ids than for a text alone, of which it reads "
            f"{', '.join(inputs)}. Expected a model that reads token ids and ignores padding: wrap this one into a "
            "callable of your own, from texts to rewards."
        )
    return Classifier(name, revision, model.to(device), tokenizer, list(labels), exclusive, longest, {})


def find_head(model):
    """What to run, and how its output and the mask of tokens become logits (n_texts, n_labels).

    The own class of a decoder reads the last token that is not the pad token, and fails where there is none. Here the
    mask says which token is the last.
    """
    score = getattr(model, "score", None)
    if not isinstance(score, torch.nn.Linear) or model.config.is_encoder_decoder:
        return model, lambda output, mask: output.logits
    return model.base_model, lambda output, mask: score(pool_states(output.last_hidden_state, mask, "last"))


@lru_cache(maxsize=2)
def load_classifier(path, revision, identity, device):
    """Load a classifier once a process; the arguments are those of a `ModelSource`."""
    transformers = import_transformers()
    model = load_weights(transformers.AutoModelForSequenceClassification, path, revision=revision, dtype=torch.float32)
    config = model.config
    exclusive = config.num_labels > 1 and config.problem_type != "multi_label_classification"
    labels = [config.id2label[index] for index in range(config.num_labels)]
    return _prepare(path, revision, model, load_tokenizer(path, revision, identity), labels, exclusive, device)


@lru_cache(maxsize=2)
def load_detoxify(variant, checkpoint, config_folder, device):
    """Load a model of Detoxify once a process; see `DetoxifyReward`."""
    transformers = import_transformers()
    name = f"Detoxify {checkpoint or variant}"
    architecture, classes, weights = _read_checkpoint(variant, checkpoint, name)
    n_logits = architecture.get("num_classes", len(classes))  # "unbiased" has 16, of which 7 have names
    if n_logits < len(classes):
        found = f"{name} names {len(classes)} classes, but has {n_logits} logits"
        raise ValueError(f"{found}. Expected a logit for each: name the classes of its logits only, and save it again.")
    source = config_folder or architecture["model_type"]
    remedy = (
        f"Pass config_folder=..., a folder with config.json and the tokenizer files of {architecture['model_type']}."
    )
    with quiet_loading(f"{name} in the architecture {source}", remedy):
        model_class = getattr(transformers, architecture["model_name"])
        config = model_class.config_class.from_pretrained(source, num_labels=n_logits)
        tokenizer = load_tokenizer(source, None, None)
    options = {"config": config, "state_dict": weights, "dtype": torch.float32}
    model = load_weights(model_class, None, name=name, remedy=remedy, **options)
    return _prepare(name, None, model, tokenizer, classes, False, device)


def _read_checkpoint(variant, checkpoint, name):
    """Names of the architecture, names of the categories, and weights, from a checkpoint in Detoxify's format."""
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise FileNotFoundError(f"There is no checkpoint {checkpoint} (looked in {Path.cwd()}).")
    try:
        options = {"map_location": "cpu", "weights_only": True}
        saved = torch.load(checkpoint, **options) if checkpoint else _download(variant, **options)
        architecture = saved["config"]["arch"]["args"]
        named = [part for part in (saved["config"]["dataset"]["args"], architecture) if "classes" in part]
        classes = [CATEGORY_NAMES.get(category, category) for category in named[0]["classes"]]
        return architecture, classes, saved["state_dict"]
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{name} holds more than weights and plain values: loading it could run any code. If you trust its source, "
            "load it by torch.load(..., weights_only=False), and save its config and state_dict alone."
        ) from error
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"{name} is not in Detoxify's format, a dict with config.arch.args, config.dataset.args (one of which "
            "names the classes) and state_dict. For a model of the hub, use ClassifierReward."
        ) from error


def _download(variant, **options):
    url = import_extra("detoxify.detoxify", "toxicity", "DetoxifyReward").MODEL_URLS[variant]
    try:
        return torch.hub.load_state_dict_from_url(url, check_hash=True, **options)
    except (OSError, RuntimeError) as error:  # no network, no room; another checksum
        raise FileNotFoundError(
            f"Could not download {url} ({error}). Download it where there is a network, and pass checkpoint='"
            f"{url.rpartition('/')[2]}', and config_folder=... with the configuration and the tokenizer of its "
            "architecture."
        ) from error
