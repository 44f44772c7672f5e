"""The recovered reward in TRL's hands: a callable, a Hugging Face folder, and a check of either before it is used."""

from .folder import export_reward_model, load_reward_model
from .function import RewardFunction
from .health import check_reward

__all__ = ["RewardFunction", "check_reward", "export_reward_model", "load_reward_model"]
