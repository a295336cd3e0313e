"""Search in embeddings: by text, by image, by shape, by several at once."""
