"""Runs CLIP's towers on all local devices, in batches of one shape."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mrd_jax.errors import BadInput
from mrd_jax.models.clip import CLIP, Attention, CLIPSize
from mrd_jax.teachers.images import normalize


@dataclasses.dataclass
class Throughput:
  """What was done and how long it took, compilation apart.

  Attributes:
    images: Embedded images.
    image_seconds: From the first image's preparation to the last's features.
    texts: Embedded texts.
    text_seconds: Likewise, tokenizing included.
    truncated: Texts among them that were longer than the context.
    compile_seconds: Of the programs.
  """

  images: int = 0
  image_seconds: float = 0.0
  texts: int = 0
  text_seconds: float = 0.0
  truncated: int = 0
  compile_seconds: float = 0.0

  def __str__(self) -> str:
    parts = [
      f"{count:,} {kind} at {count / seconds:,.0f}/s"
      for kind, count, seconds in (
        ("images", self.images, self.image_seconds),
        ("texts", self.texts, self.text_seconds),
      )
      if count
    ]
    if self.truncated:
      parts.append(f"{self.truncated:,} texts cut at the context's length")
    return ", ".join([*parts, f"{self.compile_seconds:.0f} s of compiling"])


class Towers:
  """A model on the local devices: whole on each, the batch divided.

  Attributes:
    model: The Flax module.
    batch: Rows of a batch, over all devices.
    devices: How many there are.
    throughput: What was compiled so far; the caller counts the rest.
  """

  def __init__(
    self,
    size: CLIPSize,
    dtype: str,
    *,
    batch_size: int,
    scale: float,
    mean: np.ndarray,
    std: np.ndarray,
    attention: Attention = "xla",
  ):
    """Prepares the devices; parameters come by `put` into `params`.

    Args:
      size: The architecture.
      dtype: Of the matrix products, "float32" or "bfloat16".
      batch_size: Rows of a batch on each device.
      scale: See `images.normalize`.
      mean: Likewise.
      std: Likewise.
      attention: See `CLIP`.

    Raises:
      BadInput: naming the argument.
    """
    if dtype not in ("float32", "bfloat16"):
      raise BadInput(f"dtype is {dtype!r}, must be 'float32' or 'bfloat16'")
    if batch_size < 1:
      raise BadInput(f"batch_size is {batch_size}, must be at least 1")
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ("batch",), axis_types=(AxisType.Auto,))
    self.devices = len(devices)
    self.batch = batch_size * len(devices)
    self.model = CLIP(size, jnp.dtype(dtype), attention)
    self.throughput = Throughput()
    self.params: Any = None
    self._pixels = scale, tuple(mean.tolist()), tuple(std.tolist())
    self._whole = NamedSharding(mesh, P())
    self._rows = NamedSharding(mesh, P("batch"))
    self._compiled: set[Any] = set()

  def put(self, parameter: np.ndarray) -> jax.Array:
    """Copies a parameter to every device."""
    return jax.device_put(parameter, self._whole)

  def image(self, pixels: np.ndarray) -> jax.Array:
    """Embeds (batch, 3, S, S) uint8: (batch, D) float32 of unit length.

    Returns before they are computed.
    """
    return self._run("image", pixels)

  def text(self, ids: np.ndarray, mask: np.ndarray) -> jax.Array:
    """Embeds (batch, L) int32 tokens and mask: (batch, D), unit length.

    Returns before they are computed.
    """
    return self._run("text", ids, mask)

  def _run(self, tower: str, *inputs: np.ndarray) -> jax.Array:
    # A copy: on CPUs a device may go on reading the caller's memory.
    placed = jax.device_put([x.copy() for x in inputs], self._rows)
    start = time.perf_counter()
    features = _features(
      self.model, tower, self._pixels, self._rows, self.params, *placed
    )
    if (tower, inputs[0].shape) not in self._compiled:
      self._compiled.add((tower, inputs[0].shape))
      self.throughput.compile_seconds += time.perf_counter() - start
    return features


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _features(
  model: CLIP,
  tower: str,
  pixels: tuple[float, tuple[float, ...], tuple[float, ...]],
  rows: NamedSharding,
  params: Any,
  *inputs: jax.Array,
) -> jax.Array:
  """Computes features; compiled once for all teachers of one architecture."""
  if tower == "image":
    scale, mean, std = pixels
    inputs = (normalize(inputs[0], scale, *np.array([mean, std], np.float32)),)
  x_BD = model.apply({"params": params}, *inputs, method=tower)
  x_BD = x_BD / jnp.linalg.norm(x_BD, axis=-1, keepdims=True)
  return jax.lax.with_sharding_constraint(x_BD, rows)
