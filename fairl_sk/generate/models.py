"""A causal language model that answers prompts under a seed; the other modules of `generate` use it."""

import numpy as np
import torch

from ..device import ran_out_of_memory
from ..features.language import CausalModel, undisturbed
from ..features.loading import count_positions, import_transformers

_ROLES = ("", "base", "aligned")


class LanguageModel(CausalModel):
    """A causal language model that answers prompts; ``role`` ("base", "aligned" or "") enters its seed."""

    def load(self, tokenizer, prompt_ids, max_new_tokens):
        """Load the model, and refuse prompts that it cannot continue and weights that give no numbers."""
        self.module = self.read()
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
        with undisturbed(self.module), torch.no_grad():
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
        with undisturbed(self.module), torch.random.fork_rng([device] if device.type == "cuda" else []):
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
