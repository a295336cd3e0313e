"""The training split in the devices' memory: no reading while a run trains.

Where a small encoder takes more shapes a second than a few cores can read, all
records of the split are read once, by the same pipeline, and kept on the
devices as they are stored (int16, uint8, float16).  Every step then picks the
rows that `pipeline.TrainOrder` names, so its batch is bit for bit the one that
the pipeline would have read; what is drawn of it at random is drawn later
anyway, inside the step (`transforms.py`).

Every device holds a share of consecutive rows, and a process reads only those
of its own devices.  A batch's rows lie anywhere, so the devices exchange them,
each record going once, straight to the device that trains on it.  How many go
from which device to which is known on the host; they travel in one all-to-all
of blocks of one size, the largest count rounded up, so a device sends
(n - 1) * block records: of 8 devices that train on 64 each 1.3 to 2 times as
many as it trains on, of 64 devices 6 to 8 times, and one device sends none.
(A sum of masked shares would send n - 1 times as many, and lose -0.)

A record lies in memory as one row of 32-bit words: one gather and one
exchange for all its fields, and no padding of its axis of length 3, which
takes 128 lanes on a TPU.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mrd_jax.data.batches import (
  Source,
  TrainOrder,
  consecutive_batches,
  pad_records,
)
from mrd_jax.data.examples import Batch
from mrd_jax.data.records import DatasetMeta
from mrd_jax.errors import BadInput
from mrd_jax.parallel import sharding

_CHUNK = 2**25  # bytes that go to a device at a time
_GIB = 2**30


def bytes_needed(meta: DatasetMeta, num_records: int, num_devices: int) -> int:
  """What a split takes in the memory of each device."""
  words = sum(_words(field) for field in pad_records([], [], meta))
  return _share(num_records, num_devices) * words * 4


def check_fits(
  meta: DatasetMeta, num_records: int, devices: Sequence[Any]
) -> None:
  """Raises BadInput unless every device has room for its share of a split.

  Args:
    meta: The dataset's metadata (padded sizes).
    num_records: Size of the split.
    devices: All that share it.  Those of other processes are not asked, nor
      can those be that do not tell what they have (CPUs).
  """
  needed = bytes_needed(meta, num_records, len(devices))
  for device in devices:
    if device.process_index != jax.process_index():
      continue
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
      continue
    free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if needed > free:
      raise BadInput(
        f"data.resident: {num_records} records take {needed / _GIB:.1f} GiB on "
        f"each of {len(devices)} devices, but {device.device_kind} has "
        f"{free / _GIB:.1f} GiB free of {stats['bytes_limit'] / _GIB:.1f}; set "
        "it to False or use more devices"
      )


def train_batches(
  source: Source,
  meta: DatasetMeta,
  order: TrainOrder,
  mesh: Mesh,
  *,
  start_step: int,
  num_steps: int,
  threads: int,
  workers: int,
) -> Iterator[Batch]:
  """The batches of `pipeline.train_batches`, as global arrays, from memory.

  The split is read before the first one.

  Args:
    source: The training split.
    meta: Its metadata (padded sizes).
    order: Which record goes where; all devices share its batches evenly.
    mesh: The devices.
    start_step: First step.
    num_steps: Last step + 1.
    threads: Reading threads in each worker.
    workers: Worker processes; 0 reads in this one.

  Raises:
    BadInput: before the first batch, naming a record of the split that cannot
      be read or trained on, also one that is in none of these batches.
    WorkerLost: before the first batch, when the system has killed a worker.
  """
  words = load(source, meta, mesh, threads=threads, workers=workers)
  gather = make_gather(meta, mesh)
  split = sharding.batch_sharding(mesh)
  for step in range(start_step, num_steps):
    tables = exchange(order.rows(step), words.shape[0] // mesh.size, mesh.size)
    yield gather(
      words,
      *(
        jax.make_array_from_callback(table.shape, split, table.__getitem__)
        for table in tables
      ),
    )


def load(
  source: Source, meta: DatasetMeta, mesh: Mesh, *, threads: int, workers: int
) -> jax.Array:
  """Reads a split into the devices' memory.

  Returns:
    (n * share, W) uint32, n devices and as many rows on each, the last rows
    zero where the records do not divide; W words a record, see `pack`.

  Raises:
    BadInput, WorkerLost: as `train_batches`.
  """
  size = sum(_words(field) for field in pad_records([], [], meta))
  share = _share(len(source), mesh.size)
  chunk = max(_CHUNK // (size * 4), 1)
  parts = []
  for position, device in enumerate(mesh.devices.flat):
    if device.process_index != jax.process_index():
      continue
    part = jnp.zeros((share, size), jnp.uint32, device=device)
    at = 0
    for batch in consecutive_batches(
      source,
      meta,
      range(len(source))[position * share : (position + 1) * share],
      batch_size=chunk,
      threads=threads,
      workers=workers,
    ):
      part = _put(part, jax.device_put(pack(batch), device), np.int32(at))
      part.block_until_ready()  # or the host would run ahead of the transfers
      at += len(batch.row)
    parts.append(part)
  return jax.make_array_from_single_device_arrays(
    (mesh.size * share, size), sharding.batch_sharding(mesh), parts
  )


@partial(jax.jit, donate_argnums=0)
def _put(part: jax.Array, rows: jax.Array, at: jax.Array) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(part, rows, at, axis=0)


def make_gather(
  meta: DatasetMeta, mesh: Mesh
) -> Callable[[jax.Array, jax.Array, jax.Array], Batch]:
  """A jitted function (`load`'s array, *`exchange`'s tables) -> global batch.

  It is compiled for every block size anew, of which a run has two or three.
  """
  template = pad_records([], [], meta)

  def local(words_RW, send_1NC, place_B) -> Batch:
    sent_NCW = words_RW.at[send_1NC[0]].get(mode="promise_in_bounds")
    got_NCW = jax.lax.all_to_all(sent_NCW, sharding.BATCH, 0, 0, tiled=True)
    got_RW = got_NCW.reshape(-1, words_RW.shape[1])
    words_BW = got_RW.at[place_B].get(mode="promise_in_bounds")
    return unpack(words_BW, template)

  split = sharding.batch_sharding(mesh)
  return jax.jit(
    jax.shard_map(local, mesh=mesh, in_specs=split.spec, out_specs=split.spec),
    in_shardings=split,
    out_shardings=split,
  )


def exchange(
  rows: np.ndarray, share: int, num_devices: int
) -> tuple[np.ndarray, np.ndarray]:
  """Which device sends which rows to which, for one batch.

  Args:
    rows: (B,) rows of the batch; device d trains on the d-th part of it.
    share: Rows on each device.
    num_devices: n, a divisor of B.

  Returns:
    (n, n, block) int32, for every device what it sends to every device, as
    numbers of its own rows (0 where there is nothing to send), and (B,) int32,
    for every position of the batch where in the n blocks its device finds it.
  """
  size, n = len(rows), num_devices
  sender, row = np.divmod(rows, share)
  receiver = np.arange(size) // (size // n)
  pair = sender * n + receiver
  count = np.bincount(pair, minlength=n * n)
  by_pair = np.argsort(pair, kind="stable")
  slot = np.empty(size, np.int64)  # of a row among those of its pair
  slot[by_pair] = np.arange(size) - np.repeat(np.cumsum(count) - count, count)
  # Two leading bits of the largest count, rounded up: few sizes to compile
  # for, and at most half as much again to send.
  largest = int(count.max())
  unit = 1 << max(largest.bit_length() - 2, 0)
  block = min(-(-largest // unit) * unit, size // n)
  send = np.zeros((n, n, block), np.int32)
  send[sender, receiver, slot] = row
  return send, (sender * block + slot).astype(np.int32)


def pack(batch: Batch) -> np.ndarray:
  """The fields of a batch in host memory, one row of words for each record.

  Returns:
    (B, W) uint32: the bytes of every field, each filled up to whole words.
  """
  fields: list[np.ndarray] = [np.asarray(field) for field in batch]
  size = len(fields[0])
  words = np.zeros((size, sum(map(_words, fields))), np.uint32)
  at = 0
  for field in fields:
    flat = np.ascontiguousarray(field).reshape(size, -1).view(np.uint8)
    words.view(np.uint8)[:, 4 * at : 4 * at + flat.shape[1]] = flat
    at += _words(field)
  return words


def unpack(words_BW: jax.Array, template: Batch) -> Batch:
  """The reverse of `pack`, in a program; the template's B does not matter."""
  fields, at = [], 0
  for field in template:
    end = at + _words(field)
    values = jax.lax.bitcast_convert_type(words_BW[:, at:end], field.dtype)
    values = values.reshape(len(words_BW), -1)
    values = values[:, : int(np.prod(field.shape[1:]))]
    fields.append(values.reshape(-1, *field.shape[1:]))
    at = end
  return Batch(*fields)


def _words(field: Any) -> int:
  """32-bit words of one record's part of a field."""
  return -(-int(np.prod(field.shape[1:])) * field.dtype.itemsize // 4)


def _share(num_records: int, num_devices: int) -> int:
  return -(-num_records // num_devices)
