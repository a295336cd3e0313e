"""Meshes in the usual files: .glb, .gltf, .obj, .ply, .stl and .off."""

import contextlib
import dataclasses
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.images import decode_texture
from mrd_jax.io.meshes import gltf, text_formats
from mrd_jax.io.meshes.references import read_reference
from mrd_jax.io.meshes.surface import Material, Mesh, Part, join

MAX_FACES = 10_000_000
SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
# Further from the origin than so many of its sizes, a shape is moved there:
# float32 would no longer hold it to a hundred-thousandth of its size.
_FAR = 100
_CLOUD = (
  "holds points and no faces: it is a point cloud, which "
  "python -m mrd_jax.embed reads"
)


def read_mesh(path: str | os.PathLike[str], *, up: str = "y") -> Mesh:
  """Reads the surfaces of one file, in one piece.

  .glb, .gltf: glTF 2.0; every instance of every mesh of the default scene in
    its place, base colours (factor x texture x colours of the vertices), and
    alpha.  Animations, skins and morph targets are not applied.
  .obj: with .mtl and textures in its folder; texture, else colours of the
    vertices, else Kd.
  .ply: texture, else colours of the vertices, else of the faces.
  .off: colours of the vertices, else of the faces.
  .stl: no colours.

  What the file names is read from its own folder only.  A texture that is
  missing or damaged is noted, and the shape kept.

  Args:
    path: The file; its suffix, in any case, says the format.
    up: Axis that points up in formats that do not say: "y" or "z".  A glTF is
      y up by its specification, whatever is asked for.

  Returns:
    The mesh, y up, in the unit of the file: glTF's is the metre, the others
    have none, and the encoder normalises the size away.

  Raises:
    BadInput: naming the file and the field, if it is missing, of another
      format, damaged, cut off, without faces, with coordinates that are not
      finite, or beyond what memory should be spent on.
  """
  path = Path(path)
  if up not in ("y", "z"):
    raise BadInput(f"up is {up!r}, must be 'y' or 'z'")
  suffix = path.suffix.lower()
  if suffix not in SUFFIXES:
    raise BadInput(
      f"{path}: suffix {path.suffix!r} is unknown, must be one of "
      f"{', '.join(SUFFIXES)}"
    )
  if not path.is_file():
    raise BadInput(f"{path}: no such file")
  notes: list[str] = []
  try:
    with _quiet() as said:
      parts = _read(suffix, path, notes)
      if any("extension" in line for line in said):
        raise BadInput("its compressed geometry is damaged, export it anew")
      return _check(parts, suffix, up, notes)
  except BadInput as error:
    raise BadInput(f"{path}: {error}") from None
  except MemoryError:
    raise BadInput(
      f"{path}: needs more memory than there is: decimate the mesh"
    ) from None
  except Exception as error:  # every library has its own for damaged files
    reason = str(error).partition("\n")[0]
    raise BadInput(
      f"{path}: cannot be read as {suffix} ({type(error).__name__}: {reason}); "
      "it is damaged, cut off or in another format, so write it anew"
    ) from None


def _read(suffix: str, path: Path, notes: list[str]) -> list[Part]:
  data = path.read_bytes()
  if suffix in (".glb", ".gltf"):
    return gltf.read_gltf(data, path.parent, notes, MAX_FACES)
  if suffix == ".obj":
    return text_formats.read_obj(data, path.parent, notes)
  if suffix == ".off":
    return text_formats.read_off(data)
  return (
    _read_ply(data, path.parent, notes)
    if suffix == ".ply"
    else (_read_stl(data))
  )


def _read_stl(data: bytes) -> list[Part]:
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


def _read_ply(data: bytes, folder: Path, notes: list[str]) -> list[Part]:
  from trimesh.exchange.ply import load_ply

  header, end, _ = data.partition(b"end_header")
  if not end:
    raise BadInput("has no end_header: it is cut off or not a .ply file")
  if not re.search(
    rb"^element\s+(face|tristrips)\s+[1-9]", header, re.MULTILINE
  ):
    raise BadInput(_CLOUD)
  for name, count in re.findall(
    rb"^element\s+(\S+)\s+(\d+)", header, re.MULTILINE
  ):
    if int(count) > len(data):
      raise BadInput(
        f"element {name.decode('utf-8', 'replace')}: says {int(count)}, more "
        "than the file has bytes: it is cut off or damaged, write it anew"
      )
  try:
    ply = load_ply(io.BytesIO(data), skip_materials=True, fix_texture=False)
  except ValueError as error:
    raise BadInput(
      f"cannot be read as .ply ({error}); it is damaged or cut off, or mixes "
      "triangles with larger polygons: triangulate it and write it anew"
    ) from None
  raw = ply["metadata"]["_ply_raw"]
  if "vertices" not in ply or ply.get("faces") is None:
    raise BadInput("has a header and no faces: it is cut off, write it anew")
  length = raw["vertex"]["length"]
  if len(ply["vertices"]) != length:
    raise BadInput(f"has {len(ply['vertices'])} of {length} vertices: cut off")
  faces = np.asarray(ply["faces"], np.int64)
  cut, whole = text_formats.fan([faces.shape[1]] * len(faces))
  corner_T3 = cut - whole[:, None] * faces.shape[1]
  uv = _ply_uv(raw, faces)
  image = re.search(rb"^comment\s+texturefile\s+(.+?)\s*$", header, re.I | re.M)
  material, color = Material(), None
  if image and uv is not None:
    file = image[1].decode("utf-8", "replace")
    try:
      texture = decode_texture(read_reference(folder, file), alpha=False)
      material = Material(texture=texture)
    except OSError as error:
      notes.append(f"TextureFile {file}: {error}")
  if material.texture is not None and uv is not None:
    uv = uv[whole[:, None], corner_T3]
    uv[..., 1] = 1 - uv[..., 1]  # v runs up in the file
  else:
    uv = None
    of_vertices, of_faces = ply.get("vertex_colors"), ply.get("face_colors")
    if of_vertices is not None:
      color_V4 = text_formats.unit_colors(of_vertices)
      text_formats.check_range("faces", faces, 0, length, "vertices")
      color = color_V4[faces[whole[:, None], corner_T3]]
    elif of_faces is not None and len(of_faces) == len(faces):
      color_F4 = text_formats.unit_colors(of_faces)
      color = np.repeat(color_F4[whole][:, None], 3, axis=1)
    elif of_faces is not None:
      notes.append("colours of faces of several sizes are not read")
  faces = faces[whole[:, None], corner_T3]
  return [Part(ply["vertices"], faces, material, uv, color)]


def _ply_uv(raw: dict, faces: np.ndarray) -> np.ndarray | None:
  """(F, corners, 2) from the faces' own list or the vertices."""
  try:
    field = raw["face"]["data"]["texcoord"]
    texcoord = field if isinstance(field, np.ndarray) else np.array(field)
    if texcoord.dtype.names:
      texcoord = texcoord["f1"]
    return texcoord.reshape(*faces.shape, 2).astype(np.float32)
  except (KeyError, ValueError, IndexError):
    pass
  vertex = raw["vertex"]["data"]
  for u, v in (("texture_u", "texture_v"), ("u", "v"), ("s", "t")):
    if u in raw["vertex"]["properties"] and v in raw["vertex"]["properties"]:
      uv_V2 = np.stack([np.ravel(vertex[u]), np.ravel(vertex[v])], axis=1)
      return uv_V2.astype(np.float32)[faces]
  return None


def _check(parts: list[Part], suffix: str, up: str, notes: list[str]) -> Mesh:
  parts = [part for part in parts if len(part.faces)]
  count = sum(len(part.faces) for part in parts)
  if not count:
    raise BadInput(
      "has no triangles: it is empty or cut off; if it is a point cloud, "
      "python -m mrd_jax.embed reads it as .ply"
    )
  if count > MAX_FACES:
    raise BadInput(
      f"has {count:,} triangles, at most {MAX_FACES:,} are read: decimate it"
    )
  checked = []
  for part in parts:
    text_formats.check_range(
      "faces", part.faces, 0, len(part.vertices), "vertices"
    )
    uv = part.uv
    if uv is not None and not np.isfinite(uv).all():
      notes.append("texture coordinates that are not finite were set to 0")
      uv = np.nan_to_num(uv, nan=0, posinf=0, neginf=0)
    xyz_V3 = part.vertices.astype(np.float64)
    if up == "z" and suffix not in (".glb", ".gltf"):
      xyz_V3 = xyz_V3[:, [0, 2, 1]] * [1, 1, -1]
    checked.append(Part(xyz_V3, part.faces, part.material, uv, part.color))
  mesh = join(checked, linear=suffix in (".glb", ".gltf"), notes=notes)
  if not np.isfinite(mesh.vertices).all():
    raise BadInput(
      "vertices hold NaN or infinite values: clean the mesh and export it anew"
    )
  low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
  size, center = (high - low).max(), (low + high) / 2
  if not 1e-18 < size < 1e18 or np.abs(center).max() > 1e18:
    raise BadInput(
      f"the shape is {size:.3g} large, must be between 1e-18 and 1e18: scale it"
    )
  if np.abs(center).max() > _FAR * size:
    mesh.vertices[:] -= center
    mesh = dataclasses.replace(
      mesh, notes=(*mesh.notes, f"moved to the origin from {center.tolist()}")
    )
  return mesh


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
  """Keeps warnings off the user's screen; gives trimesh's as a list."""
  import trimesh

  said: list[str] = []

  def keep(record: logging.LogRecord) -> bool:
    said.append(record.getMessage())
    return False

  logger = trimesh.util.log
  logger.addFilter(keep)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      # Of text that is no number, older NumPy says no more than that.
      warnings.filterwarnings("error", "string or file", DeprecationWarning)
      yield said
  finally:
    logger.removeFilter(keep)
