"""The reward over HTTP: for trainers in other processes or on other machines. ``fairl-sk serve`` runs it."""

from .client import RemoteReward

__all__ = ["RemoteReward"]
