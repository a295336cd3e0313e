"""Decodes the textures of a mesh: each once, and all within a bound."""

import hashlib

import numpy as np

from mrd_jax.io.images import MAX_SIDE, decode_texture

# After so many bytes textures are reduced to half the side, and so on.
_BYTES = 2**25


class Textures:
  """What is decoded for one mesh; the same file is not decoded twice.

  Ten textures are as large as `MAX_SIDE`, forty more half of it: finer still
  than the samples that fall on each of so many.
  """

  def __init__(self):
    self._found: dict[tuple[bytes, bool], np.ndarray | OSError] = {}
    self._bytes = 0

  def decode(self, data: bytes, *, alpha: bool) -> np.ndarray:
    """Decodes an image; arguments and errors are those of `decode_texture`."""
    key = hashlib.sha256(data).digest(), alpha
    if key not in self._found:
      side = max(1, MAX_SIDE >> self._bytes // _BYTES)
      try:
        texture = decode_texture(data, alpha=alpha, side=side)
        self._bytes += texture.nbytes
        self._found[key] = texture
      except OSError as error:
        self._found[key] = error
    found = self._found[key]
    if isinstance(found, OSError):
      raise found
    return found
