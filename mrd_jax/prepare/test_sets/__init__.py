"""Converts evaluation sets and captions."""
