"""Embeds point-cloud files."""
