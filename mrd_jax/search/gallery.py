"""Opens a gallery: embeddings as `python -m mrd_jax.embed` writes them."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.arrays import map_npz
from mrd_jax.io.files import parse_json

_BLOCK_BYTES = 1 << 26  # of embeddings that are read at a time
_OFF = 0.01  # by which a squared length may differ from 1: float16 rounds
# What `source` must say.
_SAID = ("checkpoint", "step", "weights", "embedding_space", "up", "normalize")
_REMEDY = "make it with python -m mrd_jax.embed"


@dataclasses.dataclass(frozen=True)
class Gallery:
  """What is searched in; nothing of it is read before it is asked for.

  Attributes:
    path: The .npz.
    embeddings: (N, D), of unit length, of any float type, memory-mapped.
    files: (N,) str: the file of each, or the id of a record.
    source: What the embeddings were made with.
    records: (N,) rows in the split that `source` names, or None for files.
    checksum: CRC-32 of the embeddings, by which an index knows them.
  """

  path: Path
  embeddings: np.ndarray
  files: np.ndarray
  source: dict[str, Any]
  records: np.ndarray | None
  checksum: int

  def __len__(self) -> int:
    return len(self.embeddings)

  @property
  def width(self) -> int:
    return self.embeddings.shape[1]

  def rows(self, rows_K: np.ndarray) -> np.ndarray:
    """Reads some embeddings.

    Args:
      rows_K: (K,) row numbers.

    Returns:
      (K, D) float32.

    Raises:
      BadInput: naming the file, if one is not of unit length.
    """
    return self._checked(self.embeddings[rows_K], rows_K)

  def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
    """Reads all embeddings, some 64 MB at a time.

    Yields:
      The first row, and the (n, D) float32 embeddings from there on.

    Raises:
      BadInput: naming the file, if one is not of unit length.
    """
    size = max(1, _BLOCK_BYTES // (4 * self.width))
    for first in range(0, len(self), size):
      block_nD = self.embeddings[first : first + size]
      yield first, self._checked(block_nD, first + np.arange(len(block_nD)))

  def sample(self, count: int) -> np.ndarray:
    """Reads at most `count` embeddings, evenly spaced: (n, D) float32."""
    n = min(count, len(self))
    return self.rows(np.linspace(0, len(self) - 1, n).astype(np.int64))

  def _checked(self, x_KD: np.ndarray, rows_K: np.ndarray) -> np.ndarray:
    x_KD = np.asarray(x_KD, np.float32)
    square_K = np.einsum("kd,kd->k", x_KD, x_KD)
    bad = ~(np.abs(square_K - 1) < _OFF)  # NaN, too
    if bad.any():
      row = int(rows_K[bad.argmax()])
      raise BadInput(
        f"{self.path}: embedding {row} ({self.files[row]}) has length "
        f"{np.sqrt(square_K[bad.argmax()]):g}, must be 1; the file is damaged "
        f"or was not normalised: {_REMEDY}"
      )
    return x_KD


def open_gallery(path: str | os.PathLike[str]) -> Gallery:
  """Opens the .npz of `python -m mrd_jax.embed`.

  Raises:
    BadInput: naming the file and the array, if it is missing, truncated, of
      another program, a pickle, or empty.
  """
  path = Path(path)
  if not path.is_file():
    raise BadInput(f"{path}: no such file; {_REMEDY}")
  arrays, checksums = map_npz(path, _REMEDY)
  missing = [
    name for name in ("files", "embeddings", "source") if name not in arrays
  ]
  if missing:
    raise BadInput(f"{path} lacks {', '.join(missing)}; {_REMEDY}")
  embeddings, files = arrays["embeddings"], arrays["files"]
  records = arrays.get("records")
  if embeddings.ndim != 2 or embeddings.dtype.kind != "f":
    raise BadInput(
      f"{path}: embeddings is {embeddings.dtype} {embeddings.shape}, must be "
      f"floats (N, D); {_REMEDY}"
    )
  if not embeddings.size:
    raise BadInput(f"{path} holds no embeddings; {_REMEDY}")
  for name, array, kind in (("files", files, "U"), ("records", records, "i")):
    if array is not None and (
      array.shape != embeddings.shape[:1] or array.dtype.kind != kind
    ):
      raise BadInput(
        f"{path}: {name} is {array.dtype} {array.shape}, must have one entry "
        f"for each of {len(embeddings)} embeddings; {_REMEDY}"
      )
  try:
    source = parse_json(str(arrays["source"]))
  except ValueError:
    source = None
  source = source if isinstance(source, dict) else {}
  missing = [name for name in _SAID if name not in source]
  if missing:
    raise BadInput(
      f"{path}: source does not say {', '.join(missing)}, with which the "
      f"embeddings were made; {_REMEDY}"
    )
  return Gallery(
    path, embeddings, files, source, records, checksums["embeddings"]
  )
