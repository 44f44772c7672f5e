"""A causal language model that answers prompts under a seed, and its tokenizer; for the functions of this room."""

import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..device import ran_out_of_memory, torch_device
from ..features.loading import (
    DTYPES,
    checksum_of_files,
    count_positions,
    import_transformers,
    load_tokenizer,
    load_weights,
    weights_sha256,
)

_ROLES = ("", "base", "aligned")
_FILES = ("*.safetensors", "*.bin", "config.json", "adapter_config.json")  # what a folder's answers depend on


class LanguageModel:
    """A causal language model; ``role`` ("base", "aligned" or "") names it in errors and enters its seed."""

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
        folder = Path(self.path)
        if not folder.is_dir():
            return self.path
        return checksum_of_files(folder, {file.name for pattern in _FILES for file in folder.glob(pattern)})

    def find_tokenizer(self):
        """The tokenizer that lies with the model, or None."""
        try:
            return load_tokenizer(self.path, None, "") if self.path else None
        except OSError:
            return None

    def load(self, tokenizer, prompt_ids, max_new_tokens):
        """Load the model, and refuse prompts that it cannot continue and weights that give no numbers."""
        if self.module is None:
            self.module = _load(self.path, DTYPES[self.dtype], torch_device(self.device))
        self.tokenizer = tokenizer
        n_known = self.module.get_input_embeddings().num_embeddings
        own = self.module.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
        self.end_ids = sorted(end for end in ends if end is not None and end < n_known)
        lengths, longest = np.array([len(ids) for ids in prompt_ids]), count_positions(self.module)
        too_long = np.flatnonzero(lengths + max_new_tokens > longest)
        if len(too_long):
            found = f"Prompt {too_long[0]} is too long for the {self.called} ({len(too_long)} of {len(lengths)} are)"
            sizes = f"{lengths[too_long[0]]} tokens and max_new_tokens={max_new_tokens} exceed its context of {longest}"
            raise ValueError(f"{found}: {sizes}. Shorten or drop such prompts, or lower max_new_tokens.")
        largest = max(map(max, prompt_ids))
        if largest >= n_known:
            found = f"The tokenizer gives the token id {largest}, but the {self.called} knows {n_known} tokens"
            raise OSError(f"{found}: it is the tokenizer of another model. Give the right one as tokenizer=...")
        if not torch.isfinite(self.logits(prompt_ids[0])).all():
            found = f"The {self.called} gives logits that are not finite"
            raise ValueError(f"{found}. Use dtype='float32'; if that is set, the model's weights are damaged.")

    def logits(self, ids):
        """Logits (1, n_tokens, n_vocabulary) of one text."""
        with _undisturbed(self.module), torch.no_grad():
            return self.module(input_ids=torch.tensor([ids], device=self.module.device)).logits

    def answer(self, prompt_ids, first, settings, seed):
        """The tokens of completions of prompts; ``first``, the index of the first, enters the seed of the batch."""
        seed = np.random.SeedSequence([seed, _ROLES.index(self.role), first]).generate_state(1)[0]
        device = self.module.device
        pad = self.end_ids[0] if self.end_ids else 0  # masked before a prompt, cut off behind an end
        rows = [torch.tensor(ids) for ids in prompt_ids]
        left = {"batch_first": True, "padding_side": "left"}
        ids = torch.nn.utils.rnn.pad_sequence(rows, padding_value=pad, **left).to(device)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], **left).to(device)
        config = import_transformers().GenerationConfig(**settings, eos_token_id=self.end_ids or None, pad_token_id=pad)
        with _undisturbed(self.module), torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(seed))
            try:
                found = self.module.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            except (MemoryError, RuntimeError) as error:
                if ran_out_of_memory(error):
                    found = f"Memory ended for a batch of {len(rows)} prompts with all their completions"
                    error.add_note(f"{found}. Lower batch_size; a file that was given as path is continued.")
                raise
        found = found[:, ids.shape[1] :].cpu().numpy()
        is_end = np.isin(found, self.end_ids)
        n_tokens = np.where(is_end.any(axis=1), is_end.argmax(axis=1), found.shape[1])
        return [row[:n].tolist() for row, n in zip(found, n_tokens, strict=True)]

    def decode(self, token_ids):
        """The texts of completions."""
        return self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)


def _load(path, dtype, device):
    transformers = import_transformers()
    if (Path(path) / "adapter_config.json").exists() and not transformers.utils.is_peft_available():
        raise ImportError(f"{path} holds a PEFT adapter, which needs peft: pip install peft.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what peft asks of transformers
        module = load_weights(transformers.AutoModelForCausalLM, path, dtype=dtype)
    return module.requires_grad_(False).to(device)


@contextmanager
def _undisturbed(module):
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


def find_tokenizer(models, given):
    """The tokenizer given, or the first model's; one with a chat template if any has one."""
    if given is not None:
        return load_tokenizer(str(given), None, "") if isinstance(given, (str, Path)) else given
    first, *others = (model.find_tokenizer() for model in models)
    if first is None:
        found = f"There is no tokenizer with the {models[0].called} {models[0].name}"
        raise ValueError(f"{found}. Give it as tokenizer=..., or save it there by tokenizer.save_pretrained(folder).")
    found = [first, *(other for other in others if other is not None)]
    one, two = found[0].get_vocab(), found[-1].get_vocab()
    differing = sorted(token for token in one.keys() | two.keys() if one.get(token) != two.get(token))
    if differing:
        found = f"{len(one)} and {len(two)} tokens, of which {len(differing)} differ ({differing[0]!r}, ...)"
        advice = "Give an aligned model that was trained from this base; if one tokenizer fits both, pass tokenizer=..."
        raise ValueError(f"The models have different tokenizers: {found}. {advice}")
    return next((tokenizer for tokenizer in found if tokenizer.chat_template), first)
