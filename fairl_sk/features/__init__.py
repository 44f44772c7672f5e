"""Texts to vectors: the encoder and its store."""

from .encoder import TransformerEmbedder
from .store import EmbeddingStore, StoreError, text_keys

__all__ = ["EmbeddingStore", "StoreError", "TransformerEmbedder", "text_keys"]
