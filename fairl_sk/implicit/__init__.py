"""What an aligned language model holds: its implicit reward, features that learn it, and its own states."""

from .distilled import DistilledReward
from .reward import ImplicitReward
from .states import OwnStates

__all__ = ["DistilledReward", "ImplicitReward", "OwnStates"]
