"""Failure-aware inverse RL as scikit-learn estimators: recover, measure and export the reward behind preferences."""

from .diagnosis.inspection import inspect_failures
from .diagnosis.suggestion import suggest_pairs
from .diagnosis.uncertainty import LaplaceReward
from .features.encoder import TransformerEmbedder
from .features.text import TextFeatures
from .learning.distilled import DistilledIRL
from .learning.estimators import FailureAwareIRL, MaxEntropyIRL, MaxMarginIRL
from .learning.objectives import MultiObjectiveIRL
from .learning.offset import calibrate_offset
from .learning.schedules import ConstantSchedule, CosineSchedule, ExponentialSchedule, LinearSchedule
from .learning.search_estimators import FailureAwareIRLCV, MaxEntropyIRLCV, MaxMarginIRLCV
from .learning.weighing import objective_weights
from .pairs import PairTransformer, check_pairs, make_pairs

__version__ = "0.1.0"

__all__ = [
    "ConstantSchedule",
    "CosineSchedule",
    "DistilledIRL",
    "ExponentialSchedule",
    "FailureAwareIRL",
    "FailureAwareIRLCV",
    "LaplaceReward",
    "LinearSchedule",
    "MaxEntropyIRL",
    "MaxEntropyIRLCV",
    "MaxMarginIRL",
    "MaxMarginIRLCV",
    "MultiObjectiveIRL",
    "PairTransformer",
    "TextFeatures",
    "TransformerEmbedder",
    "calibrate_offset",
    "check_pairs",
    "inspect_failures",
    "make_pairs",
    "objective_weights",
    "suggest_pairs",
]
