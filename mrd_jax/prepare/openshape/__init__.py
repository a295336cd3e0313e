"""Converts OpenShape's release."""
