"""Reads and writes files; parses all that a stranger may have written."""
