"""Texts to vectors: the encoder, its store, and the encoder joined with n-grams."""

from .encoder import TransformerEmbedder
from .store import EmbeddingStore, StoreError, text_keys
from .text import TextFeatures

__all__ = ["EmbeddingStore", "StoreError", "TextFeatures", "TransformerEmbedder", "text_keys"]
