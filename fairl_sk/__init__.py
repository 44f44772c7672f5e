"""Failure-aware inverse RL as scikit-learn estimators: recover, measure and export the reward behind preferences."""

from .encoder import TransformerEmbedder
from .inspection import inspect_failures
from .irl import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
from .model_selection import FailureAwareIRLCV, MaxEntropyIRLCV, MaxMarginIRLCV
from .objective import ConstantSchedule, CosineSchedule, ExponentialSchedule, LinearSchedule
from .pairs import PairTransformer, check_pairs, make_pairs
from .uncertainty import LaplaceReward

__version__ = "0.1.0"

__all__ = [
    "ConstantSchedule",
    "CosineSchedule",
    "ExponentialSchedule",
    "FailureAwareIRL",
    "FailureAwareIRLCV",
    "LaplaceReward",
    "LinearSchedule",
    "MaxEntropyIRL",
    "MaxEntropyIRLCV",
    "MaxMarginIRL",
    "MaxMarginIRLCV",
    "PairTransformer",
    "TransformerEmbedder",
    "check_pairs",
    "inspect_failures",
    "make_pairs",
]
