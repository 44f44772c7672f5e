"""Preference data: two corpora whose reward is known, and the readers of files of preferences, prompts and texts."""

from .candidates import load_candidates, write_candidates
from .detox_grammar import make_detox_preferences
from .prompts import load_prompts, load_texts
from .readers import load_preferences
from .synthetic import make_multi_preferences, make_preferences

__all__ = [
    "load_candidates",
    "load_preferences",
    "load_prompts",
    "load_texts",
    "make_detox_preferences",
    "make_multi_preferences",
    "make_preferences",
    "write_candidates",
]
