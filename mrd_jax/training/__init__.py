"""Trains: the set-up, the loop and the step."""
