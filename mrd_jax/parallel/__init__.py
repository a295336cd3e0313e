"""Lays work out over devices and processes."""
