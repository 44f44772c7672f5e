"""What the pairs determine: uncertainty of a reward, feasible rewards, ambiguous outputs, the hardest pairs."""

from .ambiguity import Ambiguity, ambiguity
from .feasible import Ball, FeasibleRewards, Slack
from .inspection import inspect_failures
from .suggestion import Suggestions, suggest_pairs
from .uncertainty import LaplaceReward

__all__ = [
    "Ambiguity",
    "Ball",
    "FeasibleRewards",
    "LaplaceReward",
    "Slack",
    "Suggestions",
    "ambiguity",
    "inspect_failures",
    "suggest_pairs",
]
