"""MRD (Multi-modal Relation Distillation, ECCV 2024) in JAX."""

__version__ = "0.1.0"
