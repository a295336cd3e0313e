"""Reads the batches of training and evaluation, each by its number alone.

The pipeline keeps no state worth saving.  A batch follows from (seed, step,
position in the global batch), so a run resumes at any step, with any number
of processes and workers, on exactly the data it would have seen.  Workers
only read and pad; decoding and augmentation happen on the device
(`data/examples.py`).  Evaluation, which augments nothing, has its clouds
prepared by the threads that read them (`encoder/input.py`).
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags

from mrd_jax.data.examples import Batch
from mrd_jax.data.order import TrainOrder
from mrd_jax.data.records import DatasetMeta
from mrd_jax.errors import BadInput, RunFailed


class WorkerLost(RunFailed):
  """A data worker died; the same command goes on from the last checkpoint."""


class Source(Protocol):
  """Random access to the encoded records of one split."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> dict[str, Any]: ...


# Makes a batch of the records of some rows: arrays with a row a record.
Pad = Callable[[Iterable[dict[str, Any]], Sequence[int], DatasetMeta], Any]

_PADDED = ("xyz", "rgb", "image_feat", "image_kind", "text_feat", "text_kind")


def pad_records(
  records: Iterable[dict[str, Any]], rows: Sequence[int], meta: DatasetMeta
) -> Batch:
  """Makes a `Batch` of the records of some rows, padded to fixed shapes."""
  size = len(rows)
  # At least one slot each, so that "the first" always exists.
  images, texts = max(meta.max_images, 1), max(meta.max_texts, 1)
  fields: dict[str, Any] = {
    "row": np.array(rows, np.int32),
    "xyz": np.zeros((size, meta.max_points, 3), np.int16),
    "rgb": np.zeros((size, meta.max_points, 3), np.uint8),
    "num_points": np.zeros(size, np.int32),
    "image_feat": np.zeros((size, images, meta.embed_dim), np.float16),
    "image_kind": np.zeros((size, images), np.uint8),
    "text_feat": np.zeros((size, texts, meta.embed_dim), np.float16),
    "text_kind": np.zeros((size, texts), np.uint8),
    "label": np.zeros(size, np.int32),
  }
  for i, record in enumerate(records):
    for name in _PADDED:
      length, room = len(record[name]), fields[name].shape[1]
      if length > room:
        raise BadInput(
          f"data.dir: {name} of shape {record['id']!r} has {length:,} rows, "
          f"metadata.json says at most {room:,}; prepare the data again"
        )
      fields[name][i, :length] = record[name]
    fields["num_points"][i] = len(record["xyz"])
    fields["label"][i] = record["label"]
  return Batch(**fields)


def require_image(record: dict[str, Any]) -> None:
  """Raises BadInput unless a record can be pre-trained on."""
  if not len(record["image_kind"]):
    raise BadInput(
      f"data.split: shape {record['id']!r} has no image feature to learn "
      "from; train on another split"
    )


def examine_batch(
  source: Source, order: TrainOrder, step: int
) -> list[dict[str, Any]]:
  """Looks for what may have made a batch's losses not finite.

  Args:
    source: The training split.
    order: Which record goes where.
    step: The step that the batch is of, from 0.

  Returns:
    For every record of the global batch, those with problems first: `row`,
    `id` ("" if it can no longer be read), and `problems`, a list of words.
  """
  found = []
  for row in order.rows(step).tolist():
    try:
      record = source[row]
      shape = {"id": record["id"], "problems": _problems(record)}
    except BadInput as error:
      shape = {"id": "", "problems": [str(error)]}
    found.append({"row": row} | shape)
  return sorted(found, key=lambda shape: not shape["problems"])


def _problems(record: dict[str, Any]) -> list[str]:
  """What `records.check_shape` would not have let pass."""
  problems = []
  for field in ("image_feat", "text_feat"):
    features = record[field].astype(np.float32)
    finite = np.isfinite(features).all(axis=1)
    zero = ~features.any(axis=1)
    for bad, words in ((~finite, "not finite"), (zero, "zero")):
      if bad.any():
        problems.append(f"{bad.sum()} of {len(bad)} {field} {words}")
  if not np.isfinite([*record["center"], record["scale"]]).all():
    problems.append("center or scale not finite")
  if record["scale"] <= 0:
    problems.append("scale not positive")
  if (record["xyz"] == record["xyz"][:1]).all():
    problems.append("all points coincide")
  return problems


def train_batches(
  source: Source,
  meta: DatasetMeta,
  order: TrainOrder,
  *,
  start_step: int,
  num_steps: int,
  process_index: int,
  process_count: int,
  threads: int,
  workers: int,
  check: Callable[[dict[str, Any]], None] = require_image,
) -> Iterator[Batch]:
  """This process's part of every global batch from `start_step` on.

  Process p of P holds positions [p * B / P, (p + 1) * B / P).

  Args:
    source: The training split.
    meta: Its metadata (padded sizes).
    order: Which record goes where.
    start_step: First step.
    num_steps: Last step + 1.
    process_index: p.
    process_count: P, a divisor of the batch size.
    threads: Reading threads in each worker.
    workers: Worker processes; 0 reads in this one.
    check: Raises BadInput for a record that cannot be trained on.

  Raises:
    BadInput: on the way, naming a record that cannot be read or trained on.
    WorkerLost: on the way, when the system has killed a worker.
  """
  local = order.batch_size // process_count
  first = process_index * local

  def read(row: int) -> dict[str, Any]:
    record = source[row]
    check(record)
    return record

  def load(step: int) -> Batch:
    rows = order.rows(step)[first : first + local].tolist()
    return pad_records(map(read, rows), rows, meta)

  dataset = grain.MapDataset.range(start_step, num_steps).map(load)
  try:
    yield from _read(dataset, threads, workers)
  except RuntimeError as error:
    # Grain has no class for it, and the worker left nothing but its exit code.
    if "Worker process was terminated" not in str(error):
      raise
    raise WorkerLost(
      f"a data worker has died ({str(error).split('. ')[0]}); if the system "
      "killed it for want of memory, lower data.workers or data.threads; the "
      "same command goes on from the last checkpoint"
    ) from error


def eval_batches(
  source: Source,
  meta: DatasetMeta,
  *,
  pad: Pad,
  batch_size: int,
  process_index: int,
  process_count: int,
  threads: int,
) -> Iterator[Any]:
  """This process's part of consecutive global batches over a whole split.

  The last batch is filled up with copies of the last record; the caller
  knows the split's length and drops them.
  """
  local = batch_size // process_count

  def load(batch: int) -> Any:
    first = batch * batch_size + process_index * local
    rows = [min(row, len(source) - 1) for row in range(first, first + local)]
    return pad(map(source.__getitem__, rows), rows, meta)

  dataset = grain.MapDataset.range(-(-len(source) // batch_size)).map(load)
  return iter(_read(dataset, threads, workers=0))


def _end_with_parent(worker: int, workers: int) -> None:
  """Lets a worker not outlive a run that was killed, nor end before it.

  SLURM sends SIGTERM to every process of a step, and a terminal Ctrl-C; the run
  is the one to stop.
  """
  del worker, workers
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
  parent = multiprocessing.parent_process()
  assert parent is not None

  def watch() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _read(
  dataset: grain.MapDataset, threads: int, workers: int
) -> grain.IterDataset:
  """Reads ahead one batch a thread.

  Of 512 clouds of 10,000 points that is 70 MB, prepared as in evaluation 125.
  """
  reader = dataset.to_iter_dataset(
    grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
  )
  if workers:
    # Grain asks absl for its flags, which nobody has parsed.
    flags.FLAGS.mark_as_parsed()
    reader = reader.mp_prefetch(
      grain.MultiprocessingOptions(num_workers=workers), _end_with_parent
    )
  return reader
