"""Preference pairs from two language models: the aligned one's answer is chosen, the base one's is rejected."""

from .completions import generate_completions
from .pairs import PAIR_KINDS, generate_preference_pairs, pair_kinds

__all__ = ["PAIR_KINDS", "generate_completions", "generate_preference_pairs", "pair_kinds"]
