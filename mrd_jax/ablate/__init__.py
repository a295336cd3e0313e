"""Trains the rows of a table on several seeds."""
