"""Builds small meshes of every format and way of colouring, made by a seed."""

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from trimesh.visual import ColorVisuals

from mrd_jax.data.surfaces import color_at
from mrd_jax.io.images import encode_png
from mrd_jax.io.meshes.mesh import Mesh

FORMATS = ("glb", "gltf", "obj", "ply", "stl", "off")
_COMPONENT = {"u1": 5121, "i1": 5120, "u2": 5123, "i2": 5122, "u4": 5125}
_TYPE = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}

# Two triangles in the plane z = 0, facing +z, and the corners' places on an
# image whose v runs down: the first vertex is the image's lower left corner.
QUAD = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
QUAD_FACES = np.array([[0, 1, 2], [0, 2, 3]])
QUAD_UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
# Rows of an image: red, green / blue, white; no corner is like another.
CORNERS = np.array(
  [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8
)


class Gltf:
  """A glTF document, written by hand: nothing of it comes from trimesh."""

  def __init__(self):
    self.data = b""
    self.tree: dict[str, Any] = {
      "asset": {"version": "2.0"},
      "accessors": [],
      "bufferViews": [],
      "meshes": [],
      "nodes": [],
      "scenes": [{"nodes": []}],
      "scene": 0,
    }

  def add(self, field: str, entry: dict[str, Any]) -> int:
    """Appends to one of the document's lists; returns the index."""
    self.tree.setdefault(field, []).append(entry)
    return len(self.tree[field]) - 1

  def view(self, data: bytes) -> int:
    start = len(self.data)
    self.data += data + b"\0" * (-len(data) % 4)
    entry = {"buffer": 0, "byteOffset": start, "byteLength": len(data)}
    return self.add("bufferViews", entry)

  def accessor(self, values: np.ndarray, normalized: bool = False) -> int:
    values = np.ascontiguousarray(values)
    entry = {
      "bufferView": self.view(values.tobytes()),
      "componentType": _COMPONENT.get(values.dtype.str[1:], 5126),
      "count": len(values),
      "type": _TYPE[1 if values.ndim == 1 else values.shape[1]],
      "normalized": normalized,
    }
    return self.add("accessors", entry)

  def mesh(
    self,
    vertices: np.ndarray,
    faces: np.ndarray,
    material: int | None = None,
    **attributes: int,
  ) -> int:
    """A mesh of one primitive; attributes by name, as accessors."""
    primitive: dict[str, Any] = {
      "attributes": {
        "POSITION": self.accessor(np.asarray(vertices, np.float32)),
        **attributes,
      },
      "indices": self.accessor(np.asarray(faces, np.uint32).ravel()),
    }
    if material is not None:
      primitive["material"] = material
    return self.add("meshes", {"primitives": [primitive]})

  def node(self, root: bool = True, **fields: Any) -> int:
    index = self.add("nodes", fields)
    if root:
      self.tree["scenes"][0]["nodes"].append(index)
    return index

  def texture(self, image: bytes, **sampler: int) -> int:
    source = self.add("images", {"bufferView": self.view(image)})
    return self.add(
      "textures", {"source": source, "sampler": self.add("samplers", sampler)}
    )

  def write(self, path: Path, uri: str = "") -> Path:
    """Writes the file; `uri` is where a .gltf says that its bytes are."""
    buffer: dict[str, Any] = {"byteLength": len(self.data)}
    tree = {**self.tree, "buffers": [buffer]}
    if path.suffix == ".gltf":
      body = base64.b64encode(self.data).decode()
      buffer["uri"] = uri or "data:application/octet-stream;base64," + body
      path.write_text(json.dumps(tree))
      return path
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    chunks += struct.pack("<II", len(self.data), 0x004E4942) + self.data
    head = b"glTF" + struct.pack("<II", 2, 12 + len(chunks))
    path.write_bytes(head + chunks)
    return path


def gltf_quad(
  material: dict[str, Any] | None = None,
  attributes: Any = (),
  image: np.ndarray | None = None,
  **sampler: int,
) -> Gltf:
  """A document with one quad; `material` may refer to texture 0."""
  gltf = Gltf()
  if image is not None:
    gltf.texture(encode_png(image), **sampler)
  index = None if material is None else gltf.add("materials", material)
  found = {
    name: gltf.accessor(*args) for name, args in dict(attributes).items()
  }
  gltf.node(mesh=gltf.mesh(QUAD, QUAD_FACES, index, **found))
  return gltf


def textured(**info: Any) -> dict[str, Any]:
  return {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, **info}}}


def corner_colors(
  mesh: Mesh, faces: Sequence[int], corners: Sequence[int]
) -> np.ndarray:
  """(N, 3) colours of corners, one of each face."""
  return color_at(mesh, np.array(faces), np.eye(3)[corners])[:, :3]


def check_corners(mesh: Mesh) -> None:
  """Checks that the quad shows `CORNERS` the right way up."""
  signs = {(-1, 1): (0, 0), (1, 1): (0, 1), (-1, -1): (1, 0), (1, -1): (1, 1)}
  for face in range(len(mesh.faces)):
    for corner in range(3):  # near each corner
      weights = np.full((1, 3), 0.05)
      weights[0, corner] = 0.9
      place = weights[0] @ mesh.vertices[mesh.faces[face]]
      rgba = color_at(mesh, np.array([face]), weights)[0]
      if np.abs(place[:2]).min() > 0.1:
        row, column = signs[tuple(np.sign(place[:2]).astype(int))]
        np.testing.assert_array_equal(
          np.rint(rgba[:3] * 255), CORNERS[row, column]
        )


def write_obj(
  path: Path,
  vertices: np.ndarray,
  faces: np.ndarray,
  *,
  uv: np.ndarray | None = None,
  colors: np.ndarray | None = None,
  mtl: str = "",
) -> Path:
  """An .obj, and its .mtl if there is text for it.

  `uv` is as in a glTF, with v down, and is turned; the material is "m".
  """
  lines = []
  if mtl:
    lines += [f"mtllib {path.stem}.mtl", "usemtl m"]
    path.with_suffix(".mtl").write_text("newmtl m\n" + mtl)
  rows = vertices if colors is None else np.hstack([vertices, colors])
  lines += ["v " + " ".join(f"{x:.6f}" for x in row) for row in rows]
  if uv is not None:
    lines += [f"vt {u:.6f} {1 - v:.6f}" for u, v in uv]
  pattern = "{0}/{0}" if uv is not None else "{0}"
  for face in np.asarray(faces) + 1:
    lines.append("f " + " ".join(pattern.format(corner) for corner in face))
  path.write_text("\n".join(lines) + "\n")
  return path


def write_off(
  path: Path,
  vertices: np.ndarray,
  faces: np.ndarray,
  *,
  colors: np.ndarray | None = None,
  face_colors: np.ndarray | None = None,
) -> Path:
  """An .off with colours (N, 4) or (F, 3) on the scale 0 to 255."""
  lines = ["OFF" if colors is None else "COFF"]
  lines.append(f"{len(vertices)} {len(faces)} 0")
  rows = vertices if colors is None else np.hstack([vertices, colors])
  lines += [" ".join(f"{x:g}" for x in row) for row in rows]
  for i, face in enumerate(faces):
    row = [len(face), *face]
    row += [] if face_colors is None else list(face_colors[i])
    lines.append(" ".join(map(str, row)))
  path.write_text("\n".join(lines) + "\n")
  return path


def make_meshes(folder: Path, count: int) -> list[Path]:
  """Writes `count` meshes in turn of all six formats; returns their paths.

  Boxes, balls, cylinders, rings, capsules and cones of random proportions;
  without colour, or with textures, colours of vertices, faces and materials,
  as the format can; every third glTF is a scene of two shapes that stand beside
  each other by their nodes' transforms.  The bytes are the same each time.
  """
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  paths = []
  for i in range(count):
    suffix, turn = FORMATS[i % len(FORMATS)], i // len(FORMATS)
    kind, shape = _shape(i + turn, rng)
    path = folder / f"{kind}_{i:02d}.{suffix}"
    writer = _write_gltf if suffix in ("glb", "gltf") else _write_other
    writer(path, shape, turn, rng)
    paths.append(path)
  return paths


def _shape(i: int, rng: np.random.Generator) -> tuple[str, trimesh.Trimesh]:
  a, b, c = rng.uniform(0.4, 1.2, 3)
  makers = {
    "box": lambda: trimesh.creation.box((a, b, c)),
    "ball": lambda: trimesh.creation.icosphere(2, a),
    "cylinder": lambda: trimesh.creation.cylinder(a / 2, 2 * b, sections=24),
    "ring": lambda: trimesh.creation.torus(
      1, 0.1 + c / 4, major_sections=24, minor_sections=12
    ),
    "capsule": lambda: trimesh.creation.capsule(2 * b, a / 2, (16, 16)),
    "cone": lambda: trimesh.creation.cone(a, 2 * b, sections=24),
  }
  kind = list(makers)[i % len(makers)]
  return kind, makers[kind]()


def _uv(vertices: np.ndarray) -> np.ndarray:
  """A picture thrown from the front, twice along each side."""
  low, high = vertices.min(axis=0), vertices.max(axis=0)
  return 2 * ((vertices - low) / (high - low))[:, :2].astype(np.float32)


def _write_gltf(
  path: Path, shape: trimesh.Trimesh, turn: int, rng: np.random.Generator
) -> None:
  gltf = Gltf()
  vertices = np.asarray(shape.vertices)
  rough: dict[str, Any] = {"baseColorFactor": [*rng.random(3).round(3), 1]}
  attributes = {}
  if turn % 3 == 0:
    image = encode_png(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    rough = {"baseColorTexture": {"index": gltf.texture(image)}}
    attributes = {"TEXCOORD_0": gltf.accessor(_uv(vertices))}
  elif turn % 3 == 1:
    colors = rng.integers(0, 256, (len(vertices), 4), dtype=np.uint8)
    attributes = {"COLOR_0": gltf.accessor(colors, normalized=True)}
  material = gltf.add("materials", {"pbrMetallicRoughness": rough})
  gltf.node(mesh=gltf.mesh(vertices, shape.faces, material, **attributes))
  if turn % 3 == 2:
    other = trimesh.creation.box((0.5, 0.5, 0.5))
    red = gltf.add(
      "materials", {"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 1]}}
    )
    child = gltf.node(
      False, mesh=gltf.mesh(other.vertices, other.faces, red), scale=[1, 3, 1]
    )
    gltf.node(translation=[1.5, 0, 0], children=[child])
  gltf.write(path)


def _write_other(
  path: Path, shape: trimesh.Trimesh, turn: int, rng: np.random.Generator
) -> None:
  vertices, faces = np.asarray(shape.vertices), np.asarray(shape.faces)
  colors = rng.integers(0, 256, (len(vertices), 4))
  style = turn % 3
  look: dict[str, Any] = {}
  if path.suffix == ".obj":
    if style == 0:
      image = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
      path.with_suffix(".png").write_bytes(encode_png(image))
      mtl = f"Kd 0 0 0\nmap_Kd {path.stem}.png\n"
      look = {"uv": _uv(vertices), "mtl": mtl}
    elif style == 1:
      look = {"colors": colors[:, :3] / 255}
    else:
      look = {"mtl": "Kd 0.8 0.3 0.1\n"}
    write_obj(path, vertices, faces, **look)
  elif path.suffix == ".off":
    if style == 1:
      look = {"colors": colors}
    elif style == 2:
      look = {"face_colors": rng.integers(0, 256, (len(faces), 3))}
    write_off(path, vertices, faces, **look)
  else:
    if path.suffix == ".ply" and style < 2:
      shape.visual = ColorVisuals(shape, vertex_colors=colors.astype(np.uint8))
    in_text = path.suffix == ".ply" and turn % 2
    shape.export(path, **{"encoding": "ascii"} if in_text else {})
