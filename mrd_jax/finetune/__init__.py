"""Full fine-tuning of an encoder for classification."""
