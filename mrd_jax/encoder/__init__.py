"""Loads a trained encoder, saves it and embeds with it."""

from mrd_jax.encoder.encoder import Encoder, load_encoder

__all__ = ["Encoder", "load_encoder"]
