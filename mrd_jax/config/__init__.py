"""Declares every field of a run once."""
