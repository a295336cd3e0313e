"""Runs a function over the records of a split, on all devices and processes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mrd_jax.data.batches import Pad, Source, eval_batches
from mrd_jax.data.records import DatasetMeta
from mrd_jax.parallel import sharding


def map_split(
  forward: Callable[[Any], tuple[jax.Array, ...]],
  source: Source,
  meta: DatasetMeta,
  *,
  pad: Pad,
  batch_size: int,
  threads: int,
  mesh: Mesh,
  keep_going: Callable[[], None],
) -> list[np.ndarray]:
  """Maps a split: every process reads a part, all get the whole, once.

  Args:
    forward: A global batch -> arrays with a row a record, laid out as the
      batch is.
    source: The split.
    meta: Its padded sizes.
    pad: Makes what `forward` takes, in the reading threads.
    batch_size: Global batch, a multiple of the devices.
    threads: Reading threads.
    mesh: The devices.
    keep_going: Called before every batch; may raise to stop.

  Returns:
    What `forward` makes of all records, in their order.
  """
  layout = sharding.batch_sharding(mesh)
  parts = []
  batches = eval_batches(
    source,
    meta,
    pad=pad,
    batch_size=batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    threads=threads,
  )
  for batch in batches:
    keep_going()
    found = forward(sharding.to_global(batch, layout))
    parts.append([sharding.to_local(x) for x in found])
  # (batches, 1, this process's rows of each, ...)
  whole = [np.stack(arrays)[:, None] for arrays in zip(*parts, strict=True)]
  if jax.process_count() > 1:
    whole = [
      x[:, :, 0].swapaxes(0, 1)  # batches, processes, rows
      for x in multihost_utils.process_allgather(whole)
    ]
  return [x.reshape(-1, *x.shape[3:])[: len(source)] for x in whole]
