"""MRD (Multi-modal Relation Distillation, ECCV 2024) in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from mrd_jax.encoder import Encoder, load_encoder

__all__ = ["Encoder", "load_encoder"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
  """Loads the encoder, and JAX with it, when it is first asked for."""
  if name in __all__:
    from mrd_jax import encoder

    return getattr(encoder, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
