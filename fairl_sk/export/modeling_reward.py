"""A reward model that pools its encoder's states: the code beside exported weights, for whoever loads such a folder.

It needs torch and transformers only: `fairl_sk.export.export_reward_model` copies this file into a folder whose reward
no class of transformers can give. Read it before passing ``trust_remote_code=True``.
"""

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class RewardConfig(PreTrainedConfig):
    """What the reward is made of: the encoder's configuration, how tokens are read, and how states are pooled."""

    model_type = "fairl_sk_reward"

    def __init__(self, **kwargs):
        defaults = {"backbone": {}, "n_features": 1, "pooling": "mean", "layer": -1, "normalize": False}
        defaults |= {"max_tokens": 512, "truncation_side": "left", "prefix_ids": [], "suffix_ids": []}
        for name, value in defaults.items():
            setattr(self, name, kwargs.pop(name, value))
        super().__init__(**kwargs)


class RewardModel(PreTrainedModel):
    """Token ids and their mask to one reward a text, ``logits`` of shape (n_texts, 1).

    Texts may be padded on either side, with whatever id: the mask decides. They may lack the encoder's special tokens
    or exceed its length: both is put right as it was when the reward was fitted.
    """

    config_class = RewardConfig
    base_model_prefix = "backbone"
    _keep_in_fp32_modules_strict = ["backbone", "shift", "head"]  # whatever dtype TRL loads the policy in

    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = AutoModel.from_config(AutoConfig.for_model(**config.backbone))
        self.shift = nn.Parameter(torch.zeros(config.n_features))  # taken off first: else large means cost digits
        self.head = nn.Linear(config.n_features, 1)
        self.post_init()

    def _init_weights(self, module):
        """NaN where a weight was not loaded, so that no random reward passes for a learned one."""
        if module is self.head:
            nn.init.constant_(module.weight, torch.nan)
            nn.init.constant_(module.bias, torch.nan)
        elif module is self:
            nn.init.constant_(self.shift, torch.nan)

    def forward(self, input_ids, attention_mask=None, **_):
        """Rewards of texts; further inputs, such as ``token_type_ids``, are ignored."""
        rows = [
            self._as_fitted(ids if attention_mask is None else ids[mask.bool()])
            for ids, mask in zip(input_ids, input_ids if attention_mask is None else attention_mask, strict=True)
        ]
        lengths = torch.tensor([len(row) for row in rows], device=input_ids.device)
        if not lengths.all():
            raise ValueError(f"Text {int(lengths.argmin())} has no token. Leave out empty texts.")
        if not torch.isfinite(self.head.weight).all() or not torch.isfinite(self.shift + self.head.bias).all():
            raise RuntimeError("The head of this reward model was not loaded. Export the folder again.")
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        with torch.autocast(ids.device.type, enabled=False):  # half precision would move the rewards
            output = self.backbone(
                input_ids=ids, attention_mask=mask.long(), output_hidden_states=self.config.layer != -1
            )
            layer = self.config.layer
            states = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
            pooled = self._pool(states.float(), mask, lengths)
            if self.config.normalize:
                pooled = pooled / pooled.norm(dim=1, keepdim=True).clamp(min=1e-12)
            logits = nn.functional.linear(pooled - self.shift.float(), self.head.weight.float(), self.head.bias.float())
        return SequenceClassifierOutput(logits=logits)

    def _as_fitted(self, ids):
        """Ids without padding: special tokens around them, and no more of them than were read when fitted."""
        prefix, suffix = (ids.new_tensor(given) for given in (self.config.prefix_ids, self.config.suffix_ids))
        end = max(len(prefix), len(ids) - len(suffix))
        if torch.equal(ids[: len(prefix)], prefix) and torch.equal(ids[end:], suffix):  # they are there already
            ids = ids[len(prefix) : end]
        room = self.config.max_tokens - len(prefix) - len(suffix)
        if len(ids) > room:
            ids = ids[-room:] if self.config.truncation_side == "left" else ids[:room]
        return torch.cat([prefix, ids, suffix])

    def _pool(self, states, mask, lengths):
        """States (n, n_tokens, n_features) to (n, n_features)."""
        if self.config.pooling == "cls":
            return states[:, 0]
        if self.config.pooling == "last":
            return states[torch.arange(len(states), device=states.device), lengths - 1]
        inside = mask[..., None]
        if self.config.pooling == "max":
            return states.masked_fill(~inside, -torch.inf).amax(dim=1)
        return states.masked_fill(~inside, 0).sum(dim=1) / lengths[:, None]
