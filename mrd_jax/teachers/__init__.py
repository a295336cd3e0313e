"""Computes teacher features of images and texts, by CLIP."""
