"""Draws shapes, sheets and charts."""
