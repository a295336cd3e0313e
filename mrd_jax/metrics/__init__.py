"""Scores arrays."""
