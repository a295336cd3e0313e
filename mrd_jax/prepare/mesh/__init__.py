"""Meshes: their files, their surface, pictures of them."""
