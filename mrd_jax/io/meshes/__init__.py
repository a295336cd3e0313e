"""Reads meshes."""
