"""Batches from the devices' memory are those that the pipeline reads."""

import collections
import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import test_pipeline as host

from configs import debug
from mrd_jax.config.pretraining import from_config_dict, from_saved
from mrd_jax.data import batches as pipeline
from mrd_jax.data import resident
from mrd_jax.data.examples import Batch
from mrd_jax.data.records import DatasetMeta
from mrd_jax.errors import BadInput
from mrd_jax.parallel import sharding
from mrd_jax.training import set_up
from mrd_jax.training.resume import check_resumable

META = host.META
FLOATS = np.array([-0.0, np.inf, 6e-8, 65504], np.float16)  # no sum keeps these


class Odd(host.Records):
  """Counts what is read; features have values that only copies leave alone."""

  def __init__(self, size: int):
    super().__init__(size)
    self.reads = collections.Counter()

  def __getitem__(self, index: int, /) -> dict:
    self.reads[index] += 1
    record = super().__getitem__(index)
    return record | {"image_feat": record["image_feat"] * 0 + FLOATS}


def mesh_of(devices: int, fsdp: int = 1):
  return sharding.make_mesh(fsdp, jax.devices()[:devices])


def batches(size, batch_size, devices, *, start=0, steps=12, fsdp=1):
  """Both ways' batches, in host memory."""
  order = pipeline.TrainOrder(size, batch_size, seed=3)
  reading = {
    "start_step": start,
    "num_steps": steps,
    "threads": 2,
    "workers": 0,
  }
  mesh = mesh_of(devices, fsdp)
  split = sharding.batch_sharding(mesh)
  found = []
  for batch in resident.train_batches(Odd(size), META, order, mesh, **reading):
    assert all(field.sharding == split for field in batch)
    found.append(Batch(*map(np.asarray, batch)))
  expected = pipeline.train_batches(
    Odd(size), META, order, process_index=0, process_count=1, **reading
  )
  return found, list(expected)


def assert_bitwise(found, expected):
  host.assert_same(found, expected)  # which lets -0 be 0
  for one, other in zip(found, expected, strict=True):
    for a, b in zip(one, other, strict=True):
      assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


# Rows that divide by the devices and not, fewer rows than would give each
# device one, a batch of the whole split, and the axis of `fsdp`.
@pytest.mark.parametrize(
  ("size", "batch", "devices", "fsdp"),
  [
    (23, 4, 1, 1),
    (8, 8, 1, 1),
    (23, 8, 8, 1),
    (24, 16, 8, 2),
    (9, 8, 8, 8),
    (100, 96, 8, 1),
    (41, 4, 2, 1),
    (70, 6, 3, 1),
  ],
)
def test_batches_are_those_of_the_pipeline(size, batch, devices, fsdp):
  found, expected = batches(size, batch, devices, fsdp=fsdp)
  assert len(found) == 12
  assert_bitwise(found, expected)


@pytest.mark.parametrize("start", [1, 5, 7, 12])
def test_a_run_resumes_at_any_step_on_the_same_batches(start):
  whole, _ = batches(43, 8, 8)
  found, expected = batches(43, 8, 8, start=start)
  assert len(found) == 12 - start
  assert_bitwise(found, expected)
  assert_bitwise(found, whole[start:])


def test_fields_that_are_no_whole_words():
  """Odd numbers of int16 and uint8, of which a word holds two and four."""
  meta = DatasetMeta("test", "nobody", 3, 5, 3, 1, {})
  records = [
    {
      "xyz": np.full((5, 3), -7 - i, np.int16),
      "rgb": np.full((5, 3), 250 + i, np.uint8),
      "image_feat": np.full((3, 3), -0.1 * i, np.float16),
      "image_kind": np.array([1, 2, 1], np.uint8),
      "text_feat": np.full((1, 3), i, np.float16),
      "text_kind": np.array([4], np.uint8),
      "label": np.int32(-1),
    }
    for i in range(4)
  ]
  batch = pipeline.pad_records(records, [6, 2, 9, 0], meta)
  words = resident.pack(batch)
  assert words.shape == (4, 1 + 8 + 4 + 1 + 5 + 1 + 2 + 1 + 1)
  empty = pipeline.pad_records([], [], meta)
  found = jax.jit(lambda x: resident.unpack(x, empty))(words)
  assert_bitwise([Batch(*map(np.asarray, found))], [batch])


def test_every_record_is_read_once_and_lies_where_its_row_says():
  source, mesh = Odd(21), mesh_of(8)
  words = resident.load(source, META, mesh, threads=2, workers=0)
  assert source.reads == dict.fromkeys(range(21), 1)
  assert words.shape[0] == 24  # three on each device
  assert [s.data.shape[0] for s in words.addressable_shards] == [3] * 8
  held = np.asarray(words)
  assert held[:21, 0].tolist() == list(range(21))  # `row` is the first field
  assert not held[21:].any()
  share = words.addressable_shards[0].data.nbytes
  assert share == resident.bytes_needed(META, 21, 8)


def one_of_two(address: str, index: int) -> None:
  """A process with four of eight devices; see the test below."""
  jax.config.update("jax_num_cpu_devices", 4)
  jax.distributed.initialize(address, 2, index)
  order = pipeline.TrainOrder(43, 16, seed=3)
  reading = {"start_step": 1, "num_steps": 6, "threads": 2, "workers": 0}
  source = Odd(43)
  found = [
    Batch(*map(sharding.to_local, batch))
    for batch in resident.train_batches(
      source, META, order, mesh_of(8), **reading
    )
  ]
  rows = [range(24), range(24, 43)][index]  # six on each device
  assert source.reads == dict.fromkeys(rows, 1)
  expected = pipeline.train_batches(
    Odd(43), META, order, process_index=index, process_count=2, **reading
  )
  assert_bitwise(found, list(expected))


@pytest.mark.slow
def test_two_processes_read_their_own_rows_and_get_their_own_batches():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  folder = Path(__file__).parent
  processes = [
    subprocess.Popen(
      [sys.executable, "-c"]
      + [f"import test_resident as t; t.one_of_two({address!r}, {index})"],
      env=os.environ | {"PYTHONPATH": f"{folder}:{folder.parent}"},
    )
    for index in range(2)
  ]
  assert [process.wait(timeout=120) for process in processes] == [0, 0]


def test_a_split_goes_to_the_devices_in_pieces(monkeypatch):
  mesh = mesh_of(2)
  whole = resident.load(Odd(21), META, mesh, threads=2, workers=0)
  monkeypatch.setattr(resident, "_CHUNK", 4 * 4 * whole.shape[1])  # 4 records
  pieces = []
  read = resident.consecutive_batches

  def noted(*args, **kwargs):
    for batch in read(*args, **kwargs):
      pieces.append(len(batch.row))
      yield batch

  monkeypatch.setattr(resident, "consecutive_batches", noted)
  found = resident.load(Odd(21), META, mesh, threads=2, workers=0)
  np.testing.assert_array_equal(found, whole)
  assert pieces == [4, 4, 3, 4, 4, 2]


def test_a_piece_is_put_in_place():
  """The memory of a device holds its share once, not twice."""
  part = jax.ShapeDtypeStruct((1000, 300), np.uint32)
  rows = jax.ShapeDtypeStruct((10, 300), np.uint32)
  at = jax.ShapeDtypeStruct((), np.int32)
  memory = resident._put.lower(part, rows, at).compile().memory_analysis()
  assert memory is not None
  assert memory.alias_size_in_bytes == memory.output_size_in_bytes
  assert memory.temp_size_in_bytes < 1000


@pytest.mark.parametrize(("size", "devices"), [(64, 8), (512, 8), (96, 4)])
def test_a_block_holds_what_the_fullest_pair_of_devices_exchanges(
  size, devices
):
  order, share = pipeline.TrainOrder(10_000, size, 0), -(-10_000 // devices)
  for step in range(20):
    rows = order.rows(step)
    send, place = resident.exchange(rows, share, devices)
    local = size // devices
    count = np.zeros((devices, devices), int)
    for position, row in enumerate(rows):
      receiver, sender = position // local, row // share
      block, slot = divmod(place[position], send.shape[2])
      assert block == sender
      assert send[sender, receiver, slot] == row % share
      count[sender, receiver] += 1
    assert count.max() <= send.shape[2] < 1.5 * count.max() + 1
    assert send.shape[2] <= local


def test_the_exchange_is_one_of_blocks():
  """What crosses devices, in the compiled program, is the blocks alone."""
  mesh, meta = mesh_of(8), META
  gather = resident.make_gather(meta, mesh)
  send, place = resident.exchange(np.arange(64)[::-1] * 9, 80, 8)
  split = sharding.batch_sharding(mesh)
  width = resident.bytes_needed(meta, 1, 1) // 4
  arguments = [
    jax.ShapeDtypeStruct(shape, dtype, sharding=split)
    for shape, dtype in (
      ((640, width), np.uint32),
      (send.shape, np.int32),
      (place.shape, np.int32),
    )
  ]
  text = gather.lower(*arguments).compile().as_text()
  exchanged = [
    line.split("=")[1]
    for line in text.splitlines()
    if " all-to-all(" in line or " all-to-all-start(" in line
  ]
  assert len(exchanged) == 1
  assert f"u32[1,{send.shape[2]},{width}]" in exchanged[0].replace(
    "{2,1,0}", ""
  )
  for other in ("all-gather", "all-reduce", "collective-permute", "scatter"):
    assert f" {other}(" not in text


def device(limit=None, in_use=0, process=0):
  stats = {"bytes_limit": limit, "bytes_in_use": in_use} if limit else None
  return types.SimpleNamespace(
    process_index=process,
    device_kind="Kind X",
    memory_stats=lambda: stats,
  )


def test_a_split_that_does_not_fit_is_refused_with_the_figures():
  meta = DatasetMeta("test", "nobody", 1280, 10_000, 13, 4, {})
  # 60,000 + 30,000 bytes of points, 17 features, 13 + 4 kinds and 3 numbers.
  record = 90_000 + 17 * 2560 + 16 + 4 + 12
  assert resident.bytes_needed(meta, 876_001, 8) == 109_501 * record
  needed = resident.bytes_needed(meta, 876_000, 2)
  fits = device(needed + 5, in_use=5)
  resident.check_fits(meta, 876_000, [fits, fits])
  resident.check_fits(meta, 876_000, [device(), device()])  # nobody knows
  resident.check_fits(meta, 876_000, [fits, device(1, process=1)])
  with pytest.raises(
    BadInput,
    match=r"^data\.resident: 876000 records take 54\.5 GiB on each of 2 "
    r"devices, but Kind X has 40\.0 GiB free of 60\.0; set it to False",
  ):
    resident.check_fits(
      meta, 876_000, [fits, device(60 * 2**30, in_use=20 * 2**30)]
    )


def test_a_record_that_cannot_be_trained_on_is_named():
  class Bad(Odd):
    def __getitem__(self, index: int, /) -> dict:
      none = {"image_feat": np.zeros((0, host.DIM), np.float16)}
      none["image_kind"] = np.zeros(0, np.uint8)
      return super().__getitem__(index) | (none if index == 13 else {})

  with pytest.raises(BadInput, match="'shape13' has no image feature"):
    resident.load(Bad(21), META, mesh_of(2), threads=2, workers=0)


def test_a_run_learns_the_same_bitwise(data_dir):
  """108 records on eight devices, steps of three epochs."""
  config: Any = debug.get_config()
  config.data.dir = str(data_dir)
  config.model.depth = 1
  config.loss.update(intra=False, cross=False)
  config.train.steps = 8
  plain = set_up.set_up(from_config_dict(config))
  config.data.resident = True
  other = set_up.set_up(from_config_dict(config))
  assert "resident" not in plain.summary
  assert "\ndata: resident, 0.00 GiB on each device" in other.summary

  jitted: Any = plain.step_fn
  step_fn = jitted.lower(plain.init(), next(plain.batches(0))).compile(
    compiler_options={"xla_backend_optimization_level": 0}  # is soon done
  )

  def learn(batches) -> tuple[list[dict], list[np.ndarray]]:
    state, logged = plain.init(), []
    for batch in batches:
      state, metrics = step_fn(state, batch)
      logged.append(jax.tree.map(float, jax.device_get(metrics)))
    return logged, [np.asarray(leaf) for leaf in jax.tree.leaves(state)]

  logged, state = learn(plain.batches(0))
  assert len({metrics["loss"] for metrics in logged}) == 8
  for batches in (
    other.batches(0),
    # Of a run that was stopped half-way, and changed its mind.
    itertools.chain(itertools.islice(plain.batches(0), 5), other.batches(5)),
  ):
    found, final = learn(batches)
    assert found == logged
    for a, b in zip(final, state, strict=True):
      np.testing.assert_array_equal(a, b)


def test_runs_of_both_kinds_and_of_older_programs_go_on(tmp_path):
  config = from_config_dict(debug.get_config())
  values = dataclasses.asdict(config)
  saved = tmp_path / "config.json"
  saved.write_text(json.dumps(values))
  data = dataclasses.replace(config.data, resident=True)
  resident_too = dataclasses.replace(config, data=data)
  check_resumable(resident_too, saved)
  del values["data"]["resident"]
  assert from_saved(values) == config
  saved.write_text(json.dumps(values))
  check_resumable(resident_too, saved)
