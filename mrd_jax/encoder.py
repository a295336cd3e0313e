"""The public way to use a trained encoder.

encoder = load_encoder("runs/demo")
embeddings = encoder(points)  # (B, N, 6) -> (B, D), unit length
"""

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mrd_jax.checkpoint import load_on_one_device
from mrd_jax.config import Config, from_config_dict
from mrd_jax.data.transforms import normalize_cloud
from mrd_jax.errors import BadInput
from mrd_jax.models.pointbert import PointBERT


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A trained encoder, ready to embed clouds.

  Attributes:
    config: The run's configuration.
    step: The training step the weights come from.
    variables: {"params", "batch_stats"} of `model`.
    model: The Flax module.
  """

  config: Config
  step: int
  variables: Any
  model: PointBERT

  def __call__(self, points: jax.typing.ArrayLike) -> jax.Array:
    """Embeds clouds; the same cloud gives the same embedding every time.

    Args:
      points: (B, N, 6): xyz, y up, in any unit, and rgb in [0, 1].

    Returns:
      (B, D) float32, unit length.

    Raises:
      BadInput: naming the row, for another shape, NaN, or a cloud whose
        points all coincide.
    """
    points_BN6 = np.asarray(points, np.float32)
    if points_BN6.ndim != 3 or points_BN6.shape[2] != 6 or not points_BN6.size:
      raise BadInput(
        f"points has shape {points_BN6.shape}, must be (B, N, 6): xyz, rgb"
      )
    for row, cloud_N6 in enumerate(points_BN6):
      if not np.isfinite(cloud_N6).all():
        raise BadInput(f"points[{row}] holds NaN or infinite values")
      if (cloud_N6[:, :3] == cloud_N6[0, :3]).all():
        raise BadInput(f"points[{row}]: all points coincide")
    return _embed(
      self.model, self.config.augment.swap_yz, self.variables, points_BN6
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(
  model: PointBERT, swap_yz: bool, variables, points_BN6: jax.Array
) -> jax.Array:
  batch, n = points_BN6.shape[:2]
  # Groups depend on the order of a cloud's points, files are often sorted.
  order_N = jax.random.permutation(jax.random.key(0), n)
  points_BN6 = points_BN6[:, order_N]
  xyz_BN3 = points_BN6[..., :3]
  if swap_yz:
    xyz_BN3 = xyz_BN3[..., jnp.array([0, 2, 1])]
  exists_N1 = jnp.ones((n, 1), bool)
  xyz_BN3 = jax.vmap(normalize_cloud, in_axes=(0, None))(xyz_BN3, exists_N1)
  points_BN6 = jnp.concatenate([xyz_BN3, points_BN6[..., 3:]], axis=-1)
  x_BD = model.apply(
    variables, points_BN6, jnp.full(batch, n, jnp.int32), train=False
  )
  return x_BD / jnp.linalg.norm(x_BD, axis=-1, keepdims=True)


def load_encoder(
  workdir: str | os.PathLike[str], checkpoint: str = "latest"
) -> Encoder:
  """Loads the encoder of a run, onto one device.

  Args:
    workdir: The run's folder, as given to `mrd_jax.main`.
    checkpoint: "latest", or "best" by the run's `checkpoint.best_metric`.

  Raises:
    BadInput: if there is no run, or it has no such checkpoint.
  """
  workdir = Path(workdir)
  try:
    values = json.loads((workdir / "config.json").read_text())
  except FileNotFoundError:
    raise BadInput(
      f"{workdir} holds no run: config.json is missing; name the folder that "
      "was given to mrd_jax.main as --workdir"
    ) from None
  config = from_config_dict(ml_collections.ConfigDict(values))
  if checkpoint not in ("latest", "best"):
    raise BadInput(f"checkpoint is {checkpoint!r}, must be 'latest' or 'best'")
  step, state = load_on_one_device(
    workdir / "checkpoints",
    best_metric=config.checkpoint.best_metric if checkpoint == "best" else None,
  )
  params = (state["average"] or state["params"])["encoder"]
  model = PointBERT(
    config.model.size,
    embed_dim=params["proj"]["bias"].shape[0],
    dtype=jnp.dtype(config.model.dtype),
    fps_chunk=config.model.fps_chunk,
    query_chunk=config.model.query_chunk,
  )
  variables = {"params": params, "batch_stats": state["batch_stats"]}
  return Encoder(config, step, variables, model)
