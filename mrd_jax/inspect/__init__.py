"""Looks at a prepared dataset before a training run is spent on it."""
