"""Preference data: two corpora whose reward is known, and the reader of preference files."""

from .detox_grammar import make_detox_preferences
from .readers import load_preferences
from .synthetic import make_preferences

__all__ = ["load_preferences", "make_detox_preferences", "make_preferences"]
