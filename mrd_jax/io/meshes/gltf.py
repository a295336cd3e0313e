"""Reads glTF 2.0 files: the document itself here, its geometry by trimesh.

trimesh gets a copy of the document in which every primitive is a mesh of its
own and has no material: what it makes of materials loses wrap modes, texture
transforms, further texture coordinates and whether a factor was there at all.
It gets the bytes of all buffers too, and so opens no file by itself.
"""

import importlib.util
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.meshes import gltf_materials
from mrd_jax.io.meshes.mesh import MAX_FACES, Part
from mrd_jax.io.meshes.references import ReadReference
from mrd_jax.io.notes import Note

SUFFIXES = (".glb", ".gltf")
SPECIFIED = True
_DRACO = "KHR_draco_mesh_compression"
_MESHOPT = {"EXT_meshopt_compression", "KHR_meshopt_compression"}
_TRIANGLES, _STRIP = 4, 5
_MOVES = ("matrix", "translation", "rotation", "scale")
_MAX_ITEMS = 50_000_000  # of an accessor
_LIMITS = {5120: 127, 5121: 255, 5122: 32767, 5123: 65535}  # of integers
_NO_ACCESSOR = {"componentType": 5126, "count": 0, "type": "SCALAR"}


def read(
  data: bytes, read_reference: ReadReference, notes: list[Note]
) -> list[Part]:
  """Reads a .glb or .gltf file: a part for each primitive at each place.

  Args:
    data: The file's bytes.
    read_reference: Reads what it refers to.
    notes: What is lost is appended.

  Raises:
    BadInput: naming the field, where a remedy is known.
    Exception: of other kinds, from the libraries, where the file is damaged.
  """
  import trimesh

  text, chunk = _split_glb(data) if data[:4] == b"glTF" else (data, None)
  tree = json.loads(text)
  version = str(tree.get("asset", {}).get("version", "2.0"))
  if not version.startswith("2."):
    raise BadInput(f"asset.version is {version}, must be 2.0: export it anew")
  meshopt = set(tree.get("extensionsRequired", ())) & _MESHOPT
  if meshopt:
    raise BadInput(
      f"needs {meshopt.pop()}, which is not read: unpack it, for example with "
      "gltf-transform, or export it without compression"
    )
  buffers: list[bytes] = []
  for index, entry in enumerate(tree.get("buffers", [])):
    try:
      buffer = chunk or b""
      if "uri" in entry:
        buffer = read_reference(entry["uri"], escaped=True)
    except OSError as error:
      raise BadInput(f"buffers[{index}].uri: {error}") from None
    if len(buffer) < entry["byteLength"]:
      raise BadInput(
        f"buffers[{index}] has {len(buffer)} of {entry['byteLength']} bytes: "
        "it is cut off, fetch it anew"
      )
    buffers.append(buffer)

  def view(index: int) -> bytes:
    entry = tree["bufferViews"][index]
    start = entry.get("byteOffset", 0)
    return buffers[entry["buffer"]][start : start + entry["byteLength"]]

  read_material = gltf_materials.material_reader(
    tree, view, read_reference, notes
  )
  primitives = _drawn(tree, notes)
  looks = [read_material(primitive) for primitive in primitives]
  if tree.get("skins"):
    detail = "skins: the shape is read as modelled, without them"
    notes.append(Note("skins are left out", detail))
  uvs = [gltf_materials.uv_name(info) for _, info in looks]
  plain = _plain(tree, primitives, uvs)
  scene = trimesh.load_scene(
    io.BytesIO(json.dumps(plain).encode()),
    file_type="gltf",
    resolver={str(i): buffer for i, buffer in enumerate(buffers)},
    process=False,
  )
  parts, count = [], 0
  # In the document's order, whatever trimesh's own is.
  for node in sorted(
    scene.graph.nodes_geometry, key=lambda name: int(name.removeprefix("node "))
  ):
    matrix, name = scene.graph[node]
    geometry: Any = scene.geometry[name]
    number = int(str(name))
    primitive = primitives[number]
    material, info = looks[number]
    count += len(geometry.faces)
    if count > MAX_FACES:
      raise BadInput(
        f"has more than {MAX_FACES:,} triangles, instances counted: decimate it"
      )
    accessor = {
      name: tree["accessors"][i] for name, i in primitive["attributes"].items()
    }
    xyz_V3 = _unpack("POSITION", geometry.vertices, accessor)
    faces = np.asarray(geometry.faces, np.int64)
    uv = color = None
    if faces.size and faces.max() < len(xyz_V3):
      if info:
        values = geometry.vertex_attributes["_UV"]
        uv_V2 = _unpack(uvs[number], values, accessor)
        uv = gltf_materials.transform_uv(info, uv_V2[faces])
      if "COLOR_0" in accessor:
        values = geometry.vertex_attributes["_COLOR"]
        color_V = _unpack("COLOR_0", values, accessor)
        color = np.ones((*faces.shape, 4), np.float32)
        color[..., : color_V.shape[1]] = color_V[faces]
    xyz_V3 = xyz_V3 @ matrix[:3, :3].T + matrix[:3, 3]
    parts.append(Part(xyz_V3, faces, material, uv, color))
  return parts


def _split_glb(data: bytes) -> tuple[bytes, bytes | None]:
  """The JSON and the binary chunk of a .glb file."""
  version, length = np.frombuffer(data[4:12], "<u4").tolist()
  if version != 2:
    raise BadInput(f"is glTF {version}, must be 2: export it anew")
  if len(data) < length:
    raise BadInput(
      f"has {len(data)} of {length} bytes: it is cut off, fetch it anew"
    )
  chunks, start = [], 12
  while start + 8 <= length and len(chunks) < 2:
    size = int(np.frombuffer(data[start : start + 4], "<u4")[0])
    chunks.append(data[start + 8 : start + 8 + size])
    start += 8 + size
  return chunks[0], chunks[1] if len(chunks) > 1 else None


def _drawn(tree: dict[str, Any], notes: list[Note]) -> list[dict[str, Any]]:
  """All primitives that are triangles and that can be read.

  Each mesh gets the list of its primitives' places in that list, "numbers".
  """
  accessors = tree.get("accessors", [])
  primitives: list[dict[str, Any]] = []
  skipped = 0
  for m, mesh in enumerate(tree.get("meshes", [])):
    mesh["numbers"] = []
    for p, primitive in enumerate(mesh["primitives"]):
      field = f"meshes[{m}].primitives[{p}]"
      if primitive.get("mode", _TRIANGLES) not in (_TRIANGLES, _STRIP):
        skipped += 1
        continue
      extensions = primitive.get("extensions", {})
      if _DRACO in extensions and not importlib.util.find_spec("DracoPy"):
        raise BadInput(
          f"{field} is compressed with Draco: pip install DracoPy, or export "
          "the mesh without compression"
        )
      used = [*primitive["attributes"].values()]
      used += [primitive["indices"]] if "indices" in primitive else []
      for index in used:
        count = accessors[index]["count"]
        if not 0 <= count <= _MAX_ITEMS:
          raise BadInput(
            f"accessors[{index}].count is {count}, must be at most "
            f"{_MAX_ITEMS:,}: decimate the mesh"
          )
        if "sparse" in accessors[index]:
          raise BadInput(
            f"accessors[{index}] is sparse, which is not read: export it anew"
          )
      mesh["numbers"].append(len(primitives))
      primitives.append(primitive)
  if skipped:
    kind = "points, lines and fans are left out"
    detail = f"{skipped} primitives of points, lines or fans are left out"
    notes.append(Note(kind, detail))
  return primitives


def _plain(
  tree: dict[str, Any], primitives: Sequence[dict[str, Any]], uvs: Sequence[str]
) -> dict[str, Any]:
  """The document for trimesh: geometry, nodes, one mesh a primitive."""
  accessors = tree.get("accessors", [])
  needed: set[int] = set()
  meshes = []
  for number, (primitive, uv) in enumerate(zip(primitives, uvs, strict=True)):
    # Names with an underscore come back as they are, without conversions.
    names = {"POSITION": "POSITION", uv: "_UV", "COLOR_0": "_COLOR"}
    attributes = {
      names[name]: index
      for name, index in primitive["attributes"].items()
      if name in names
    }
    copy = {"attributes": attributes, "mode": primitive.get("mode", _TRIANGLES)}
    if "indices" in primitive:
      copy["indices"] = primitive["indices"]
    draco = primitive.get("extensions", {}).get(_DRACO)
    if draco is not None:
      ids = {names.get(k, k): v for k, v in draco["attributes"].items()}
      copy["extensions"] = {_DRACO: {**draco, "attributes": ids}}
    needed |= {*attributes.values(), primitive.get("indices", -1)}
    meshes.append({"name": str(number), "primitives": [copy]})
  nodes: list[dict[str, Any]] = []
  for number, node in enumerate(tree.get("nodes", [])):
    moves = {key: node[key] for key in _MOVES if key in node}
    for key, value in moves.items():
      # trimesh would leave such a transform out.
      if not np.isfinite(np.array(value, float)).all():
        raise BadInput(f"nodes[{number}].{key} holds NaN or infinite values")
    nodes.append({**moves, "children": node.get("children", [])})
  parents = {child for node in nodes for child in node["children"]}
  scenes = tree.get("scenes") or [
    {"nodes": [i for i in range(len(nodes)) if i not in parents]}
  ]
  for node, original in zip(list(nodes), tree.get("nodes", []), strict=True):
    if "mesh" in original:
      numbers = tree["meshes"][original["mesh"]]["numbers"]
      places = range(len(nodes), len(nodes) + len(numbers))
      node["children"] = [*node["children"], *places]
      nodes += [{"mesh": number} for number in numbers]
  for number, node in enumerate(nodes):
    node["name"] = f"node {number}"
  return {
    "asset": {"version": "2.0"},
    "buffers": [{"uri": str(i)} for i in range(len(tree.get("buffers", [])))],
    "bufferViews": tree.get("bufferViews", []),
    "accessors": [
      accessor if index in needed else _NO_ACCESSOR
      for index, accessor in enumerate(accessors)
    ],
    "meshes": meshes,
    "nodes": nodes,
    "scenes": [scenes[tree.get("scene", 0)]],
  }


def _unpack(
  name: str, values: np.ndarray, accessors: dict[str, dict[str, Any]]
) -> np.ndarray:
  """An attribute; integers that stand for [0, 1] or [-1, 1] as such."""
  values = np.asarray(values)
  widths = {"POSITION": (3,), "COLOR_0": (3, 4)}.get(name, (2,))
  if values.ndim != 2 or values.shape[1] not in widths:
    raise BadInput(f"{name} has shape {values.shape}: export the mesh anew")
  accessor = accessors[name]
  limit = _LIMITS.get(accessor["componentType"])
  if not accessor.get("normalized") or limit is None:
    return values
  return np.maximum(values.astype(np.float64) / limit, -1)
