"""Reads the header and the elements of .ply files, of clouds and of meshes."""

import io
import re
import warnings
from typing import Any, NamedTuple

import numpy as np


class Ply(NamedTuple):
  """What a file holds.

  Attributes:
    vertices: (V, 3).
    colors: (V, 3 or 4) as in the file, or None.
    faces: (F, corners) rows of `vertices`, or None.
    face_colors: (F, 3 or 4) as in the file, or None.
    elements: Every element as trimesh reads it, for further properties.
  """

  vertices: np.ndarray
  colors: np.ndarray | None
  faces: np.ndarray | None
  face_colors: np.ndarray | None
  elements: dict[str, Any]


def read_header(data: bytes) -> tuple[bytes, bool]:
  """Returns the header of a file, and whether it announces faces.

  Raises:
    ValueError: if it has no end, or announces more than the file can hold.
  """
  header, end, _ = data.partition(b"end_header")
  if not end:
    raise ValueError("has no end_header")
  elements = re.findall(rb"^element\s+(\S+)\s+(\d+)", header, re.MULTILINE)
  for name, count in elements:
    if int(count) > len(data):
      raise ValueError(
        f"element {name.decode('utf-8', 'replace')} says {int(count)}, more "
        "than the file has bytes"
      )
  return header, any(
    name in (b"face", b"tristrips") and int(count) for name, count in elements
  )


def read_elements(data: bytes) -> Ply:
  """Reads all elements of a file with a good header.

  Raises:
    Exception: of many kinds, if the file is damaged or cut off.
  """
  from trimesh.exchange.ply import load_ply

  with warnings.catch_warnings():
    # With older numpy, text between the numbers is a warning.
    warnings.simplefilter("error", DeprecationWarning)
    # Not trimesh.load, which rounds float colours to uint8.
    found = load_ply(io.BytesIO(data), skip_materials=True, fix_texture=False)
  elements = found["metadata"]["_ply_raw"]
  vertices = found.get("vertices", np.zeros((0, 3)))
  colors = found.get("vertex_colors")
  length = elements["vertex"]["length"]
  # trimesh minds neither missing lines nor lines that are too short.
  if len(vertices) != length:
    raise EOFError(f"{len(vertices)} of {length} vertices")
  if object in (vertices.dtype, None if colors is None else colors.dtype):
    raise ValueError("a line of a vertex has too few numbers")
  return Ply(
    vertices, colors, found.get("faces"), found.get("face_colors"), elements
  )
