"""Loads an encoder, saves it and embeds with it."""
