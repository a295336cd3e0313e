"""Measures encoders on test sets."""
