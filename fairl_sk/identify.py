"""Feasible rewards and ambiguity under their public path; the code is in `fairl_sk.diagnosis`."""

from .diagnosis.ambiguity import Ambiguity, ambiguity
from .diagnosis.feasible import Ball, FeasibleRewards, Slack

__all__ = ["Ambiguity", "Ball", "FeasibleRewards", "Slack", "ambiguity"]
