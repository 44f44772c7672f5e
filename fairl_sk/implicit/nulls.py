"""Nulls of an implicit reward: the base model with random noise on its weights, and in float32."""

import copy
from contextlib import contextmanager

import numpy as np
import torch

from ..features.language import is_quantized


class NoisyModel:
    """The base model, each tensor moved by normal noise as large (root mean square) as the alignment moved it."""

    def __init__(self, base, aligned, seed):
        self.base, self.aligned, self.seed = base, aligned, [int(number) for number in seed]
        self.called, self.name = "base model with noise", base.name
        self.dtype, self.config, self.attention = base.dtype, base.config, base.attention

    def identity(self):
        """What tells the model from others."""
        return f"{self.base.identity()} moved as {self.aligned.identity()}, seed {self.seed}"

    @contextmanager
    def open(self):
        """A copy of the base model with noise."""
        with self.aligned.open() as module:
            moved = _plain_copy(module, self.aligned)
        with self.base.open() as module:
            noisy = _plain_copy(module, self.base)
        sizes = _sizes_of_moves(noisy, moved)
        del moved
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(self.seed).generate_state(1)[0]))
        with torch.no_grad():
            for (_, part), size in zip(noisy.named_parameters(), sizes, strict=True):
                part += (size * torch.randn(part.shape, generator=generator)).to(part)
        yield noisy.eval()


class ExactModel:
    """A model in float32, whatever its own precision."""

    def __init__(self, model):
        self.model, self.called, self.name = model, model.called, model.name
        self.dtype, self.config, self.attention = "float32", model.config, model.attention

    def identity(self):
        """What tells the model from others."""
        return f"{self.model.identity()} of {self.model.dtype}"

    @contextmanager
    def open(self):
        """A copy of the model in float32."""
        with self.model.open() as module:
            yield copy.deepcopy(module).float()


def _plain_copy(module, scored):
    """A copy of a model; an adapter that is switched on is merged into it, one that is off is left out."""
    if is_quantized(module):
        raise ValueError(
            f"Found a quantized {scored.called}. Expected floating-point weights, to which noise can be added: load "
            "both models without quantization for the null."
        )
    copied = copy.deepcopy(module)
    if not scored.has_adapter:
        return copied
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copied.get_base_model() if hasattr(copied, "get_base_model") else copied
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            if scored.adapter:
                layer.merge()
            plain.set_submodule(name, layer.get_base_layer())
    return plain


def _sizes_of_moves(base, moved):
    """Root mean square of the change of each tensor; of a longer vocabulary, the rows that both have."""
    moved, sizes = dict(moved.named_parameters()), []
    for name, part in base.named_parameters():
        other = moved.get(name)
        if other is None or other.shape[1:] != part.shape[1:]:
            found = f"The aligned model has no weights {name!r} of the base model's shape {tuple(part.shape)}"
            raise ValueError(f"{found}. Expected a model that was trained from this base: there is no null of another.")
        n_rows = min(len(part), len(other))
        change = other.detach().float()[:n_rows].to(part.device) - part.detach().float()[:n_rows]
        sizes.append(change.square().mean().sqrt().item())
    return sizes
