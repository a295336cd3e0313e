"""Reads point clouds from .pcd files."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.columns import Cloud
from mrd_jax.io.colors import find_colors
from mrd_jax.io.notes import Note

SUFFIXES = (".pcd",)
# Of the header.  A blank before it must not be a line's end, or many of those
# would take time by the square of their number.
_LAST_LINE = re.compile(
  rb"^[ \t]*DATA\s+(\w+)[ \t]*(\r\n|\n|\r|\Z)", re.M | re.I
)
_MOST = 10_000  # numbers of a field; pypcd4 makes a name for each


def read(path: Path, notes: list[Note], columns: Sequence[str] | None) -> Cloud:
  """Reads x, y, z and colours, packed or one field each."""
  from pypcd4.pypcd4 import PointCloud

  cloud = PointCloud.from_fileobj(
    io.BufferedReader(io.BytesIO(_plain(path.read_bytes())))
  )
  fields = cloud.fields
  if not {"x", "y", "z"} <= set(fields):
    raise BadInput(f"FIELDS are {', '.join(fields)}, must include x, y, z")
  if not cloud.points:
    raise BadInput("has no points")
  data = np.atleast_1d(cloud.pc_data)
  if len(data) != cloud.points:  # pypcd4 does not mind
    raise EOFError(f"{len(data)} of {cloud.points} points")
  xyz = np.stack([data[axis] for axis in "xyz"], axis=1)
  packed = next((name for name in ("rgb", "rgba") if name in fields), None)
  if packed is None:
    rgb = find_colors(fields, notes)
    return xyz, np.stack([data[c] for c in rgb], axis=1) if rgb else None
  if data[packed].dtype.itemsize != 4:
    raise BadInput(
      f"{packed} has SIZE {data[packed].dtype.itemsize}, must be 4 bytes: "
      "packed 0xAARRGGBB"
    )
  return xyz, PointCloud.decode_rgb(data[packed])


def _plain(data: bytes) -> bytes:
  """The file as pypcd4 takes it: names in lower case, one blank in between."""
  end = _LAST_LINE.search(data)
  if not end:
    return data
  lines = data[: end.end()].replace(b"\r", b"\n").splitlines()
  words = [line.split() for line in lines]
  for row in words:
    if row and row[0].upper() == b"COUNT" and max(map(int, row[1:])) > _MOST:
      raise BadInput(f"COUNT says more than {_MOST:,} numbers of a field")
  head = b"\n".join(
    b" ".join([row[0].upper(), *_values(row)]) for row in words if row
  )
  body = data[end.end() :]
  if end[1].lower() == b"ascii":
    body = re.sub(rb"[ \t]+", b" ", body.replace(b"\r", b"\n"))
    body = re.sub(rb"^ | $", b"", body, flags=re.M)
  return head + b"\n" + body


def _values(row: Sequence[bytes]) -> list[bytes]:
  """What stands behind a header's word, in the case that pypcd4 knows."""
  lower = row[0].upper() in (b"FIELDS", b"DATA")
  return [x.lower() if lower else x.upper() for x in row[1:]]
