"""Searches in embeddings: by text, image and shape, by several at once."""
