"""Reads the header and the elements of .ply files, of clouds and of meshes.

Read here rather than by trimesh, which reads no strips, no polygons of several
sizes in a binary file, and colours by three names only.
"""

import mmap
import re
import struct
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrd_jax.io.colors import find_colors
from mrd_jax.io.notes import Note

_TYPES = {
  **dict.fromkeys(("char", "int8"), "i1"),
  **dict.fromkeys(("uchar", "uint8"), "u1"),
  **dict.fromkeys(("short", "int16"), "i2"),
  **dict.fromkeys(("ushort", "uint16"), "u2"),
  **dict.fromkeys(("int", "int32"), "i4"),
  **dict.fromkeys(("uint", "uint32"), "u4"),
  **dict.fromkeys(("float", "float32"), "f4"),
  **dict.fromkeys(("double", "float64"), "f8"),
}
_CODES = {name: np.dtype(name).char for name in _TYPES.values()}  # struct's
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


class Property(NamedTuple):
  """What a header says of one property; `counts` is the type before a list."""

  name: str
  type: str
  counts: str | None


class Element(NamedTuple):
  """What a header says of one element."""

  name: str
  count: int
  properties: list[Property]


class Ragged(NamedTuple):
  """A list of several numbers a row: all of them, and how many each row has."""

  values: np.ndarray
  lengths: np.ndarray


Columns = dict[str, np.ndarray | Ragged]


class Header(NamedTuple):
  """A header.

  Attributes:
    order: "<", ">" or, of text, "".
    elements: In the order of the file.
    texture: The file that a comment names, or "".
    size: Its bytes.
    end: The end of its lines.
  """

  order: str
  elements: list[Element]
  texture: str
  size: int
  end: bytes

  @property
  def has_faces(self) -> bool:
    """Says whether it announces faces."""
    return any(
      e.name in ("face", "tristrips") and e.count for e in self.elements
    )


def read_header(data: bytes | mmap.mmap) -> Header:
  """Reads the header of a file; its lines may end in LF, CR or both.

  Raises:
    ValueError: if it is damaged, or announces more than the file can hold.
  """
  first = re.match(rb"ply[ \t]*(\r\n|\r|\n)", data)
  last = re.search(rb"^[ \t]*end_header[ \t]*(\r\n|\r|\n|\Z)", data, re.M)
  if first and first[1] == b"\r":
    last = re.search(rb"\r[ \t]*end_header[ \t]*(\r|\Z)", data)
  if not first or not last:
    raise ValueError("does not begin with ply or has no end_header")
  order, texture = None, ""
  elements: list[Element] = []
  for line in re.split(
    r"[\r\n]+", data[: last.end()].decode("utf-8", "replace")
  ):
    words = line.split()
    key = words[0].lower() if words else ""
    if key == "format":
      order = _FORMATS[words[1].lower()]
    elif key == "comment" and words[1:] and words[1].lower() == "texturefile":
      texture = line.split(maxsplit=2)[2].strip() if words[2:] else ""
    elif key == "element":
      elements.append(Element(words[1].lower(), int(words[2]), []))
      if not 0 <= elements[-1].count <= len(data):
        raise ValueError(
          f"element {words[1]} says {words[2]}, more than the file has bytes"
        )
    elif key == "property":
      types = [_TYPES[word.lower()] for word in words[1:-1] if word != "list"]
      counts = types[0] if words[1] == "list" else None
      found = Property(words[-1].lower(), types[-1], counts)
      elements[-1].properties.append(found)
  if order is None:
    raise ValueError("has no line format")
  return Header(order, elements, texture, last.end(), first[1])


def read_elements(data: bytes, header: Header) -> dict[str, Columns]:
  """Reads all elements of a file, each a column a property.

  Raises:
    Exception: of many kinds, if the file is damaged or cut off.
  """
  found: dict[str, Columns] = {}
  at = header.size
  if not header.order:
    body = data[at:].replace(b"\r", b"\n") if header.end == b"\r" else data[at:]
    body = body if body.endswith(b"\n") else body + b"\n"
    ends = np.flatnonzero(np.frombuffer(body, np.uint8) == ord("\n")) + 1
    at = line = 0
  for element in header.elements:
    if header.order:
      columns, at = _read_columns(data, at, element, header.order)
    elif element.count:
      line += element.count
      if line > len(ends):
        raise EOFError(f"{len(ends)} lines, too few for element {element.name}")
      numbers = _numbers(body[at : ends[line - 1]])
      at = ends[line - 1]
      columns, end = _read_columns(numbers, 0, _as_text(element), "=")
      if end != len(numbers):
        raise ValueError(
          f"element {element.name} has other numbers than it says"
        )
      types = {p.name: np.dtype(p.type) for p in element.properties}
      columns = {k: _typed(v, types[k]) for k, v in columns.items()}
    else:
      columns = {p.name: np.zeros(0) for p in element.properties}
    found[element.name] = columns
  return found


def _numbers(text: bytes) -> bytes:
  """Reads numbers between blanks, as the bytes of float64."""
  with warnings.catch_warnings():
    # With older NumPy, text between the numbers is a warning.
    warnings.simplefilter("error", DeprecationWarning)
    return np.fromstring(text, np.float64, sep=" ").tobytes()


def _as_text(element: Element) -> Element:
  """The element with every number a float64."""
  return element._replace(
    properties=[
      Property(p.name, "f8", "f8" if p.counts else None)
      for p in element.properties
    ]
  )


def _typed(column: np.ndarray | Ragged, dtype: np.dtype):
  """Numbers of text in the type that the header gives them."""
  if isinstance(column, Ragged):
    return Ragged(_typed(column.values, dtype), column.lengths)
  if dtype.kind in "iu":
    limits = np.iinfo(dtype)
    if not ((column >= limits.min) & (column <= limits.max)).all():
      raise ValueError(f"a number is beyond its type, {dtype}")
  return column.astype(dtype)


def _read_columns(
  data: bytes, at: int, element: Element, order: str
) -> tuple[Columns, int]:
  """Reads the rows of an element from `at` on; also says where they end."""
  count, properties = element.count, element.properties
  if not count or not properties:
    return {p.name: np.zeros(0) for p in properties}, at
  # Most files have as many numbers in each row as in the first.
  lengths, _ = _row(data, at, properties, order)
  row = np.dtype(
    [
      field
      for i, (p, n) in enumerate(zip(properties, lengths, strict=True))
      for field in ([(f"count {i}", order + p.counts)] if p.counts else [])
      + [(f"value {i}", order + p.type, (n,) if p.counts else ())]
    ]
  )
  if at + count * row.itemsize <= len(data):
    rows = np.frombuffer(data, row, count, at)
    if all(
      (rows[f"count {i}"] == n).all()
      for i, (p, n) in enumerate(zip(properties, lengths, strict=True))
      if p.counts
    ):
      columns: Columns = {}
      for i, (p, n) in enumerate(zip(properties, lengths, strict=True)):
        values = rows[f"value {i}"]
        same = np.full(count, n)
        columns[p.name] = Ragged(values.ravel(), same) if p.counts else values
      return columns, at + rows.nbytes
  if not any(p.counts for p in properties):
    raise EOFError(f"element {element.name} has fewer than {count} rows")
  return _read_rows(data, at, element, order)


def _read_rows(
  data: bytes, at: int, element: Element, order: str
) -> tuple[Columns, int]:
  """Reads rows of several lengths, each where the one before it ends."""
  starts, counts = [], []
  for _ in range(element.count):
    lengths, places = _row(data, at, element.properties, order)
    starts.append(places[:-1])
    counts.append(lengths)
    at = places[-1]
  start_RP, length_RP = np.array(starts), np.array(counts)
  columns: Columns = {}
  raw = np.frombuffer(data, np.uint8)
  for i, p in enumerate(element.properties):
    dtype = np.dtype(order + p.type)
    lengths = length_RP[:, i]
    within = np.arange(lengths.sum()) - np.repeat(
      np.cumsum(lengths) - lengths, lengths
    )
    places = np.repeat(start_RP[:, i], lengths) + within * dtype.itemsize
    values = raw[places[:, None] + np.arange(dtype.itemsize)].view(dtype)[:, 0]
    columns[p.name] = Ragged(values, lengths) if p.counts else values
  return columns, at


def _row(
  data: bytes, at: int, properties: Sequence[Property], order: str
) -> tuple[list[int], list[int]]:
  """How many numbers each property of a row has, where they start, its end."""
  lengths, places = [], []
  for p in properties:
    count = 1
    if p.counts:
      count = int(struct.unpack_from(order + _CODES[p.counts], data, at)[0])
      at += int(p.counts[1])
    if not 0 <= count <= len(data):
      raise ValueError(f"a list of {p.name} says {count} numbers")
    lengths.append(count)
    places.append(at)
    at += count * int(p.type[1])
  if at > len(data):
    raise EOFError(f"a list of {properties[-1].name} reaches beyond the file")
  return lengths, [*places, at]


def vertices(columns: Columns) -> np.ndarray:
  """Returns x, y, z of the vertices, (V, 3).

  Raises:
    ValueError: if the file has none.
  """
  if not {"x", "y", "z"} <= columns.keys():
    raise ValueError(f"vertices have {', '.join(columns)}, must have x, y, z")
  return np.stack([columns[axis] for axis in "xyz"], axis=1)


def colors(columns: Columns, notes: list[Note]) -> np.ndarray | None:
  """Returns red, green, blue as in the file, (N, 3), or None."""
  flat = [k for k, v in columns.items() if isinstance(v, np.ndarray)]
  rgb = find_colors(flat, notes)
  return np.stack([columns[k] for k in rgb], axis=1) if rgb else None
