"""Rewards and features that an aligned language model holds: its implicit reward, and its own states."""

from .reward import ImplicitReward
from .states import OwnStates

__all__ = ["ImplicitReward", "OwnStates"]
