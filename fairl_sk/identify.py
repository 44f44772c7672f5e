"""Feasible rewards and ambiguity under their public path; they live in `fairl_sk.diagnosis`."""

from .diagnosis.feasible import *  # noqa: F403
from .diagnosis.feasible import __all__  # noqa: F401
