"""A causal language model, its tokenizer and its chat template; generation and implicit rewards build on it."""

import json
import re
import warnings
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch

from ..device import torch_device
from .loading import (
    DTYPES,
    checksum_of_files,
    import_transformers,
    load_tokenizer,
    load_weights,
    weights_sha256,
)

_FILES = ("*.safetensors", "*.bin", "config.json", "adapter_config.json")  # what a folder's answers depend on
_OTHER_HEADS = re.compile(r"(Classification|QuestionAnswering|MaskedLM|MultipleChoice)$|(?<!LMHead)Model$")
_REMEDY = "Give an aligned model that was trained from this base; if one tokenizer fits both, pass tokenizer=..."


class CausalModel:
    """A causal language model, not loaded yet or loaded; ``role`` ("base", "aligned" or "") names it in errors."""

    def __init__(self, model, role, dtype, device):
        self.role, self.called, self.dtype, self.device = role, f"{role} model".strip(), dtype, device
        self.module = model if isinstance(model, torch.nn.Module) else None
        if self.module is not None:
            if not hasattr(model, "generate") or model.config.is_encoder_decoder:
                found = f"The {self.called} is a {type(model).__name__}, not a causal language model"
                raise ValueError(f"{found}. Load it by transformers.AutoModelForCausalLM.")
            self.dtype = str(model.dtype).removeprefix("torch.")
            model = model.name_or_path
        elif not isinstance(model, (str, Path)):
            found = f"{type(model).__name__} {model!r:.60} as the {self.called}"
            raise ValueError(f"Found {found}. Expected the folder or hub id of a model, or a loaded one.")
        elif dtype not in DTYPES:
            raise ValueError(f"Found dtype={dtype!r}. Expected one of {', '.join(map(repr, DTYPES))}.")
        self.path = str(model)
        self.name = Path(self.path).name if Path(self.path).is_dir() else self.path

    def fingerprint(self):
        """Checksum of a loaded model's weights or of a folder's files; of a model in the hub its id."""
        if self.module is not None:
            return weights_sha256(self.module)
        files = self._files()
        if files is None:
            return self.path
        return _checksum(self.path, tuple((file.name, *_state(file)) for file in files))

    def find_tokenizer(self):
        """The tokenizer that lies with the model, or None."""
        for path in filter(None, (self.path, self.base_path())):
            try:
                return load_tokenizer(path, None, "")
            except OSError:
                continue
        return None

    def read(self):
        """The module: the loaded one, or the one of the folder or the hub, which is loaded by each call."""
        if self.module is not None:
            return self.module
        self._check_head()
        return load_causal_model(self.path, DTYPES[self.dtype], torch_device(self.device))

    def base_path(self):
        """Where the weights below a folder's PEFT adapter lie; None for a model without an adapter."""
        file = Path(self.path) / "adapter_config.json"
        if self.module is not None or not file.exists():
            return None
        return json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")

    def _files(self):
        folder = Path(self.path)
        if folder.is_dir():
            return sorted({file for pattern in _FILES for file in folder.glob(pattern)})
        return None

    def _check_head(self):
        """Refuse a folder whose configuration names another head, which transformers would replace by a random one."""
        file = Path(self.path) / "config.json"
        names = json.loads(file.read_text(encoding="utf-8")).get("architectures") if file.exists() else None
        if names and _OTHER_HEADS.search(names[0]):
            found = f"The {self.called} {self.name} is a {names[0]}, not a causal language model"
            raise ValueError(f"{found}. Name a model that transformers.AutoModelForCausalLM saved.")


def _state(file):
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=64)
def _checksum(folder, states):
    """``states`` is a part of the key, so that a folder is read again after a change."""
    return checksum_of_files(folder, {name for name, *_ in states})


def load_causal_model(path, dtype, device):
    """Load a causal language model, or a PEFT adapter with its base, on a device, without gradients."""
    transformers = import_transformers()
    if (Path(path) / "adapter_config.json").exists() and not transformers.utils.is_peft_available():
        raise ImportError(f"{path} holds a PEFT adapter, which needs peft: pip install peft.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what peft asks of transformers
        module = load_weights(transformers.AutoModelForCausalLM, path, dtype=dtype).requires_grad_(False)
    return module if is_quantized(module) else module.to(device)  # a quantized one lies where its quantizer put it


def is_quantized(module):
    """Whether weights are held in another form than floating-point numbers."""
    marked = getattr(module, "is_quantized", False) or getattr(module.config, "quantization_config", None) is not None
    return bool(marked) or not all(part.is_floating_point() for part in module.parameters())


@contextmanager
def undisturbed(module):
    """The model in evaluation mode and without generation settings of its own; all is as before afterwards."""
    transformers = import_transformers()
    parts = [module, *([module.get_base_model()] if hasattr(module, "get_base_model") else [])]
    kept = {part: part.generation_config for part in parts if "generation_config" in vars(part)}
    was_training = module.training
    module.eval()
    for part in kept:
        part.generation_config = transformers.GenerationConfig()
    try:
        yield
    finally:
        for part, config in kept.items():
            part.generation_config = config
        module.train(was_training)


def find_tokenizer(models, given, *, remedy=_REMEDY):
    """The tokenizer given, or the first model's; one with a chat template if any has one.

    Models of two tokenizers are a ValueError that ends in the remedy.
    """
    if given is not None:
        return load_tokenizer(str(given), None, "") if isinstance(given, (str, Path)) else given
    first, *others = (model.find_tokenizer() for model in models)
    if first is None:
        found = f"There is no tokenizer with the {models[0].called} {models[0].name}"
        raise ValueError(f"{found}. Give it as tokenizer=..., or save it there by tokenizer.save_pretrained(folder).")
    found = [first, *(other for other in others if other is not None)]
    one = first.get_vocab()
    for other in found[1:]:
        two = other.get_vocab()
        differing = sorted(token for token in one.keys() | two.keys() if one.get(token) != two.get(token))
        if differing:
            what = f"{len(one)} and {len(two)} tokens, of which {len(differing)} differ ({differing[0]!r}, ...)"
            raise ValueError(f"The models have different tokenizers: {what}. {remedy}")
    return next((tokenizer for tokenizer in found if tokenizer.chat_template), first)


def apply_chat_template(tokenizer, messages, *, to_answer=True):
    """A conversation as text, by the chat template; ``to_answer`` puts the beginning of an answer behind it."""
    if not tokenizer.chat_template:
        found = "The tokenizer has no chat template for prompts of messages"
        raise ValueError(f"{found}. Set tokenizer.chat_template, or give texts.")
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=to_answer)
    except Exception as error:  # whatever a template raises
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(f"The chat template refuses messages with the roles {roles}: {error}") from error
