"""Reads point clouds."""
