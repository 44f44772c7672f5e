"""The models whose log-probabilities are compared: loaded only for new texts, identified by checksums."""

from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from ..device import torch_device
from ..features.language import CausalModel, find_tokenizer, undisturbed
from ..features.loading import import_transformers, quiet_loading

_REMEDY = (
    "An implicit reward compares log-probabilities of the same tokens. Give models of one tokenizer. For other models, "
    "give the log-probabilities of each text as columns chosen_logps, rejected_logps, ref_chosen_logps and "
    "ref_rejected_logps of a file: load_preferences(file).implicit_rewards holds their rewards."
)


class ScoredModel:
    """A causal language model, with its PEFT adapter or (``adapter=False``) without it."""

    def __init__(self, model, *, adapter=True):
        self.model, self.adapter, self.called, self.name = model, adapter, model.called, model.name
        self.dtype, self.device = model.dtype, model.device
        self._below = model.base_path()
        config = _read_config(self._below or model.path) if model.module is None else model.module.config
        self.config, self.attention = config.get_text_config(), config._attn_implementation
        if not adapter and not self.has_adapter:
            found = f"base=None, and an aligned model {self.name or type(model.module).__name__} without a PEFT adapter"
            raise ValueError(f"Found {found}. Give the base model too: only an adapter can be switched off.")

    @property
    def has_adapter(self):
        """Whether there is an adapter to switch off."""
        return self._below is not None or hasattr(self.model.module, "peft_config")

    def identity(self):
        """What tells the model from others."""
        found = self.model.fingerprint()
        if self._below is None:
            return found if self.adapter else f"{found} without its adapter"
        below = CausalModel(self._below, self.model.role, self.dtype, self.device).fingerprint()
        return f"{found} over {below}" if self.adapter else below

    def stands_on(self, base):
        """Whether this is an adapter over that base, so that one set of weights serves both."""
        if self._below is not None and base.module is None:
            return _same_place(self._below, base.path)
        inner = getattr(self.model.module, "get_base_model", None)
        return inner is not None and self.has_adapter and inner() is base.module

    @contextmanager
    def open(self):
        """The module as it has to be while it scores; all is as before afterwards."""
        model = self.model
        module = model.module
        if module is None:
            whole = self.identity() if self.adapter else ScoredModel(model).identity()
            module = _load(model.path, whole, self.dtype, str(torch_device(self.device)))
        with undisturbed(module), _without_adapter(module, self.adapter):
            yield module


@lru_cache(maxsize=2)
def _load(path, identity, dtype, device):
    """``identity`` is a part of the key, so that changed files are read again."""
    return CausalModel(path, "", dtype, device).read()


def _read_config(path):
    with quiet_loading(path):
        return import_transformers().AutoConfig.from_pretrained(path, trust_remote_code=False)


def _same_place(one, other):
    return one == other or (Path(one).is_dir() and Path(other).is_dir() and Path(one).samefile(other))


@contextmanager
def _without_adapter(module, adapter):
    """The module with its adapter switched off, unless it is to stay on."""
    if adapter:
        yield
    elif hasattr(module, "disable_adapter"):  # of peft
        with module.disable_adapter():
            yield
    else:  # of transformers
        module.disable_adapters()
        try:
            yield
        finally:
            module.enable_adapters()


def aligned_models(aligned, dtype, device):
    """One or several aligned models as a list."""
    aligned = list(aligned) if isinstance(aligned, (list, tuple)) else [aligned]
    if not aligned:
        raise ValueError("Found no aligned model. Expected one at least.")
    return [ScoredModel(CausalModel(model, "aligned", dtype, device)) for model in aligned]


def base_model(aligned, base, dtype, device):
    """The base model; the weights below an adapter of an aligned model where these are the same."""
    if base is not None:
        base = CausalModel(base, "base", dtype, device)
        sharing = [scored.model for scored in aligned if scored.stands_on(base)]
        if not sharing:
            return ScoredModel(base)
    shared = aligned[0].model if base is None else sharing[0]
    source = shared.path if shared.module is None else shared.module
    return ScoredModel(CausalModel(source, "base", dtype, device), adapter=False)


def common_tokenizer(models, given):
    """The tokenizer of all models; two of them are a ValueError that says how other models can take part."""
    return find_tokenizer([scored.model for scored in models], given, remedy=_REMEDY)
