"""Preference data: two corpora whose reward is known, and the readers of files of preferences and of prompts."""

from .candidates import load_candidates, write_candidates
from .detox_grammar import make_detox_preferences
from .prompts import load_prompts
from .readers import load_preferences
from .synthetic import make_preferences

__all__ = [
    "load_candidates",
    "load_preferences",
    "load_prompts",
    "make_detox_preferences",
    "make_preferences",
    "write_candidates",
]
