"""Converts published weights into ours, and ours into other formats."""
