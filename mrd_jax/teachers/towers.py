"""Runs CLIP's towers on all local devices, in batches of one shape."""

import collections
import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mrd_jax.errors import BadInput
from mrd_jax.models.clip import (
  CLIP,
  Attention,
  CLIPSize,
  CLIPText,
  TextTowerSize,
)
from mrd_jax.teachers.images import normalize

AHEAD = 2  # batches on the devices, and as many more in preparation


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
    size: TextTowerSize,
    dtype: str,
    *,
    batch_size: int,
    scale: float = 1.0,
    mean: Iterable[float] = (0.0, 0.0, 0.0),
    std: Iterable[float] = (1.0, 1.0, 1.0),
    attention: Attention = "xla",
  ):
    """Prepares the devices; parameters come by `put` into `params`.

    Args:
      size: The architecture; without an image tower no `CLIPSize`.
      dtype: Of the matrix products, "float32" or "bfloat16".
      batch_size: Rows of a batch on each device.
      scale: Of images, see `images.normalize`.
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
    kind: Any = CLIP if isinstance(size, CLIPSize) else CLIPText
    self.model = kind(size, jnp.dtype(dtype), attention)
    self.throughput = Throughput()
    self.params: Any = None
    self._pixels = scale, tuple(map(float, mean)), tuple(map(float, std))
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

  def text(
    self, ids: np.ndarray, mask: np.ndarray, unit: bool = True
  ) -> jax.Array:
    """Embeds (batch, L) int32 tokens and mask: (batch, D) float32.

    Of unit length, or as they are.  Returns before they are computed.
    """
    return self._run("text", ids, mask, unit=unit)

  def _run(
    self, tower: str, *inputs: np.ndarray, unit: bool = True
  ) -> jax.Array:
    # A copy: on CPUs a device may go on reading the caller's memory.
    placed = jax.device_put([x.copy() for x in inputs], self._rows)
    start = time.perf_counter()
    features = _features(
      *(self.model, tower, self._pixels, self._rows, self.params),
      *placed,
      unit=unit,
    )
    if (tower, inputs[0].shape, unit) not in self._compiled:
      self._compiled.add((tower, inputs[0].shape, unit))
      self.throughput.compile_seconds += time.perf_counter() - start
    return features


def fetch(
  kind: str, batches: Iterable[tuple[jax.Array, Sequence[int]]]
) -> Iterator[tuple[Sequence[int], np.ndarray]]:
  """Brings features to the host, in order, a few batches behind the devices.

  Args:
    kind: What messages call a row.
    batches: Features, being computed, with the rows that they are of; further
      rows fill the batch.
  """
  waiting: collections.deque = collections.deque()
  # After the last batch come as many rounds as there are batches behind.
  for batch in itertools.chain(batches, [None] * AHEAD):
    waiting.append(batch)
    if len(waiting) <= AHEAD:
      continue
    features, rows = waiting.popleft()
    part = np.asarray(features)[: len(rows)]
    bad = ~np.isfinite(part).all(axis=1)
    if bad.any():
      raise BadInput(
        f"{kind} {rows[int(bad.argmax())]}: its features are NaN or infinite; "
        "the weights are damaged, or need dtype='float32'"
      )
    yield rows, part


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), static_argnames="unit")
def _features(
  model: CLIP | CLIPText,
  tower: str,
  pixels: tuple[float, tuple[float, ...], tuple[float, ...]],
  rows: NamedSharding,
  params: Any,
  *inputs: jax.Array,
  unit: bool = True,
) -> jax.Array:
  """Computes features; compiled once for all teachers of one architecture."""
  if tower == "image":
    scale, mean, std = pixels
    inputs = (normalize(inputs[0], scale, *np.array([mean, std], np.float32)),)
  x_BD = model.apply({"params": params}, *inputs, method=tower)
  if unit:
    x_BD = x_BD / jnp.linalg.norm(x_BD, axis=-1, keepdims=True)
  return jax.lax.with_sharding_constraint(x_BD, rows)
