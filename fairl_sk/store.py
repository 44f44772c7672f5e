"""The public path of the embedding store, which lives in `fairl_sk.features`."""

from .features.store import EmbeddingStore, StoreError, text_keys

__all__ = ["EmbeddingStore", "StoreError", "text_keys"]
