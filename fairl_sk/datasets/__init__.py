"""Preference data: two corpora whose reward is known, and the readers of files of preferences and of prompts."""

from .detox_grammar import make_detox_preferences
from .prompts import load_prompts
from .readers import load_preferences
from .synthetic import make_multi_preferences, make_preferences

__all__ = ["load_preferences", "load_prompts", "make_detox_preferences", "make_multi_preferences", "make_preferences"]
