"""Fine-tunes all of an encoder for classification."""
