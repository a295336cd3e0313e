"""Makes the encoder that is fine-tuned, of any system of `zoo/`."""

from typing import Any

import jax.numpy as jnp
from jax.sharding import NamedSharding

from mrd_jax.config.finetuning import ModelConfig
from mrd_jax.errors import BadInput
from mrd_jax.finetune.start import Start
from mrd_jax.models.pointbert import PointBERT
from mrd_jax.zoo.registry import SYSTEMS

# What other systems do not have, and what may be said of them nonetheless.
# (`query_chunk` changes no number, and small machines set it.)
_POINT_BERTS = {
  "gradient_dtype": ("float32",),
  "remat": ("none",),
  "attention": ("auto",),
  "point_net": ("auto",),
  "drop_path": (0.0, ModelConfig.drop_path),
}


def make_encoder(
  config: ModelConfig, start: Start, batch_sharding: NamedSharding
) -> Any:
  """Makes a PointBERT that gives tokens, or another system's encoder.

  Args:
    config: How it is computed.
    start: Its system and sizes.
    batch_sharding: Layout of the batch over devices.

  Raises:
    BadInput: naming a field that asks of another system what only a PointBERT
      has.
  """
  if start.system == "pointbert":
    return PointBERT(
      start.architecture,
      embed_dim=None,
      dtype=jnp.dtype(config.dtype),
      gradient_dtype=jnp.dtype(config.gradient_dtype),
      remat=config.remat,
      attention=config.attention,
      point_net=config.point_net,
      fps_chunk=config.fps_chunk,
      query_chunk=config.query_chunk,
      batch_sharding=batch_sharding,
      drop_path=config.drop_path,
      output="tokens",
    )
  system = SYSTEMS[start.system]
  for name, values in _POINT_BERTS.items():
    value = getattr(config, name)
    if value not in values:
      raise BadInput(
        f"model.{name} is {value!r}, which only a PointBERT has; the encoder "
        f"{start.checkpoint} is {system.NAME}: leave it at {values[-1]!r}"
      )
  return system.make(start.architecture, dtype=jnp.dtype(config.dtype))
