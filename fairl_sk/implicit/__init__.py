"""Rewards from an aligned language model: its implicit reward, its distillation into features, its hidden states."""

from .distilled import DistilledReward
from .reward import ImplicitReward
from .states import OwnStates

__all__ = ["DistilledReward", "ImplicitReward", "OwnStates"]
