"""Reads .stl files, which have no colours."""

import io

from mrd_jax.errors import BadInput
from mrd_jax.io.meshes.mesh import Material, Part
from mrd_jax.io.meshes.references import ReadReference
from mrd_jax.io.notes import Note

SUFFIXES = (".stl",)


def read(
  data: bytes, read_reference: ReadReference, notes: list[Note]
) -> list[Part]:
  """Reads an .stl file, of text or binary."""
  from trimesh.exchange.stl import load_stl

  if (
    data[:5].lower() == b"solid"
    and b"vertex" in data[:2000].lower()
    and b"endsolid" not in data[-2000:].lower()
  ):
    raise BadInput("ends without endsolid: it is cut off, write it anew")
  stl = load_stl(io.BytesIO(data))
  solids = stl.get("geometry", {"": stl}).values()
  return [
    Part(solid["vertices"], solid["faces"], Material())
    for solid in solids
    if "faces" in solid
  ]
