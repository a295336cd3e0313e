"""Builds and opens the index of a large gallery: FAISS's short codes.

An embedding becomes D / 2 codes of 4 bits, one for each pair of its
components (Jegou et al., Product quantization for nearest neighbor search,
TPAMI 2011; scanned in registers, Andre et al., TPAMI 2019): D / 4 bytes, 320
MB for a million embeddings of width 1,280, which take 5.1 GB.  Narrow ones,
below 128, get 8 bits a component.  All codes are scanned, which finds
candidates; `nearest.py` reads their embeddings and scores them exactly.

No part of the gallery is left out.  An inverted file or a graph would scan
less, but is made for queries that are distributed as the gallery is, and a
text's embedding is not: texts lie in a region of their own.

The file is FAISS's own and, behind it, a line of JSON that says which
embeddings it is of, the line's length, and `_MAGIC`; FAISS reads past neither.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.files import parse_json, replacing
from mrd_jax.search.gallery import Gallery, open_gallery

# Below it, the exact search takes no longer than reading the index.
SMALLEST = 10_000  # embeddings
_TRAINED_ON = 32_768  # embeddings, for 16 centres a pair of components
_NARROW = 128  # width below which codes of 4 bits a pair are too few
_MAGIC = b"mrd-index-1\n"
# How FAISS marks the kinds that are built here; others may name further files.
_KINDS = b"IxSQ", b"IPfs"


class Index(NamedTuple):
  """An index in memory.

  Attributes:
    found: FAISS's.
  """

  found: Any

  def candidates(self, query_D: np.ndarray, count: int) -> np.ndarray:
    """Finds rows that probably have the greatest cosine with the query.

    Args:
      query_D: (D,) embedding of unit length.
      count: How many rows.

    Returns:
      Them, sorted, int64.
    """
    count = min(count, self.found.ntotal)
    _, rows_1C = self.found.search(_even(query_D[None]), count)
    return np.unique(rows_1C[rows_1C >= 0])


def index_path(gallery: Path) -> Path:
  """Names the index of an .npz: embeddings.faiss."""
  return gallery.with_suffix(".faiss")


def build_index(gallery: str | os.PathLike[str]) -> Path | None:
  """Builds the index of an .npz, beside it; an older one is replaced.

  The result depends on the embeddings alone.  In memory at a time: 32,768
  embeddings for the training, then the codes and a block of embeddings.

  Args:
    gallery: What `python -m mrd_jax.embed` wrote.

  Returns:
    The index, or None: below `SMALLEST` embeddings none is needed, and an
    older one is removed.

  Raises:
    BadInput: if the .npz cannot be used, see `open_gallery`.
    ModuleNotFoundError: without FAISS.
  """
  opened = open_gallery(gallery)
  path = index_path(opened.path)
  if len(opened) < SMALLEST:
    path.unlink(missing_ok=True)
    return None
  import faiss  # an extra

  width = opened.width + opened.width % 2
  cosine = faiss.METRIC_INNER_PRODUCT
  if width < _NARROW:
    eight_bits = faiss.ScalarQuantizer.QT_8bit
    built = faiss.IndexScalarQuantizer(width, eight_bits, cosine)
  else:
    built = faiss.IndexPQFastScan(width, width // 2, 4, cosine)
  built.train(_even(opened.sample(_TRAINED_ON)))
  for _, block_nD in opened.blocks():
    built.add(_even(block_nD))
  try:
    with replacing(path) as temporary:
      faiss.write_index(built, os.fspath(temporary))
      body = _body(temporary, temporary.stat().st_size)
      said = {"embeddings": _identity(opened), "body": body}
      line = json.dumps(said).encode()
      with temporary.open("ab") as file:
        file.write(line + len(line).to_bytes(4, "little") + _MAGIC)
  except RuntimeError as error:  # FAISS's, of a full disk
    raise BadInput(f"{path} cannot be written: {error}") from None
  return path


def open_index(gallery: Gallery) -> Index | None:
  """Opens the index beside an .npz; None if there is none.

  Raises:
    BadInput: naming the index, if it is of other embeddings, damaged or cut
      off.
    ModuleNotFoundError: without FAISS.
  """
  path = index_path(gallery.path)
  if not path.exists():
    return None
  remedy = (
    "build it anew with python -m mrd_jax.embed --index, or remove it and "
    "search without"
  )
  with path.open("rb") as file:
    kind = file.read(4)
    ending = len(_MAGIC) + 4
    size = path.stat().st_size
    file.seek(max(size - ending, 0))
    tail = file.read()
    length = int.from_bytes(tail[:4], "little")
    if kind not in _KINDS or tail[4:] != _MAGIC or size < ending + length:
      raise BadInput(f"{path} is cut off, or of another program; {remedy}")
    file.seek(size - ending - length)
    try:
      said = parse_json(file.read(length))
      identity, whole = said["embeddings"], tuple(said["body"])
    except (ValueError, KeyError, TypeError):
      raise BadInput(f"{path} is damaged at its end; {remedy}") from None
  if identity != _identity(gallery):
    raise BadInput(
      f"{path} is stale: it was built of other embeddings than "
      f"{gallery.path} holds; {remedy}"
    )
  # FAISS trusts what it reads: hand it nothing that is not as it was written.
  if whole != _body(path, size - ending - length):
    raise BadInput(f"{path} is damaged; {remedy}")
  import faiss  # an extra

  try:
    found: Any = faiss.read_index(os.fspath(path))
    # What FAISS believes when it searches.
    width, rows = gallery.width + gallery.width % 2, len(gallery)
    if (found.d, found.ntotal) != (width, rows) or (
      found.codes.size() < rows * found.sa_code_size()
    ):
      raise RuntimeError("its sizes are not those of the embeddings")
    return Index(found)
  except (RuntimeError, MemoryError) as error:
    reason = (str(error).strip() or "too large").splitlines()[-1]
    raise BadInput(
      f"{path} cannot be read by FAISS ({reason}); {remedy}"
    ) from None


def _identity(gallery: Gallery) -> dict[str, int]:
  return {
    "rows": len(gallery),
    "width": gallery.width,
    "crc32": gallery.checksum,
  }


def _body(path: Path, size: int) -> tuple[int, int]:
  """Counts which of the first `size` bytes there are, with their CRC-32."""
  count = checksum = 0
  with path.open("rb") as file:
    while chunk := file.read(min(size - count, 1 << 24)):
      count += len(chunk)
      checksum = zlib.crc32(chunk, checksum)
  return count, checksum


def _even(x_ND: np.ndarray) -> np.ndarray:
  """Adds a column of zeros, which changes no product, if D is odd."""
  x_ND = np.pad(x_ND, ((0, 0), (0, x_ND.shape[1] % 2)))
  return np.ascontiguousarray(x_ND, np.float32)
