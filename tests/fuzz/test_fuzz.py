"""Damaged files of every kind are read, or refused in a sentence.

`make fuzz` takes an hour; MRD_FUZZ_SECONDS and MRD_FUZZ_SEED change the time of
all readers together and repeat a run.  A file that does harm stays where the
failure says.
"""

import os
import random
import re

import numpy as np
import pytest
from fuzzing import Reader, fuzz
from other_readers import READERS as OTHERS
from shape_readers import CLOUDS, MESHES, PICTURES
from shape_readers import READERS as SHAPES

from mrd_jax.errors import BadInput
from mrd_jax.io import images
from mrd_jax.io.clouds.read import SUFFIXES as CLOUD_SUFFIXES
from mrd_jax.io.meshes.read import SUFFIXES as MESH_SUFFIXES

READERS = SHAPES + OTHERS
SECONDS = float(os.environ.get("MRD_FUZZ_SECONDS", "40"))
SEED = int(os.environ.get("MRD_FUZZ_SEED", "0")) or random.randrange(1, 2**31)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files(reader, tmp_path, capsys, record_property):
  pytest.importorskip(reader.needs)
  with capsys.disabled():
    print(f"\n{reader.name}: MRD_FUZZ_SEED={SEED}, in {tmp_path}", flush=True)
  draw = random.Random(f"{SEED} {reader.name}")
  share = SECONDS / len(READERS)
  count = fuzz(reader, tmp_path / "files", draw, seconds=share)
  record_property("fuzz", f"{reader.name}: {count:,} damaged files")


def _believe(folder):
  """Takes the memory that a file asks for: the fault that others check for."""
  with (folder / "file").open("rb") as file:
    try:
      np.ones(int.from_bytes(file.read(4), "little") // 4, np.uint8)
    except MemoryError:
      raise BadInput(f"{folder}: asks for too much") from None


# Readers with a fault, and what the failure says.  Two lack a check of ours: where
# it is, and what is there instead.
BELIEVING = Reader(
  "believing", lambda folder: (folder / "file").write_bytes(bytes(64)), _believe
)
FAULTS = {
  "an exception": (
    "report of an evaluation",
    "mrd_jax.report.run_folder._numbers",
    lambda values: True,
    "TypeError|ValueError|AttributeError",
  ),
  "memory": (BELIEVING.name, "", None, "MB of memory"),
  "a hang": (
    "cloud compressed.pcd",
    "mrd_jax.io.clouds.pcd._LAST_LINE",
    re.compile(rb"^\s*DATA\s+(\w+)[ \t]*(\r\n|\n|\r|\Z)", re.M | re.I),
    "more than 1 second",
  ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, tmp_path, monkeypatch):
  name, place, other, said = FAULTS[fault]
  (reader,) = (x for x in (*READERS, BELIEVING) if x.name == name)
  if place:
    monkeypatch.setattr(place, other)
  draw = random.Random(4)
  with pytest.raises(AssertionError, match=said):
    fuzz(reader, tmp_path / "files", draw, most=500, patience=1)


def test_every_format_has_a_seed():
  pictures = {name.partition(" ")[0] for name in PICTURES}
  assert pictures == images._FORMATS.keys()
  for seeds, known in ((CLOUDS, CLOUD_SUFFIXES), (MESHES, MESH_SUFFIXES)):
    assert {os.path.splitext(name)[1] for name in seeds} == {*known}
