"""Reads what a glTF's surfaces look like: base colours, textures and alpha.

Lights and reflections are left out: metallic and roughness, normal, occlusion
and emissive maps.  Of pbrSpecularGlossiness materials the diffuse colour is
the base colour.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.meshes.mesh import Material
from mrd_jax.io.meshes.references import NO_TEXTURE, NO_UV, ReadReference
from mrd_jax.io.meshes.textures import Textures
from mrd_jax.io.notes import Note

_GLOSSY = "KHR_materials_pbrSpecularGlossiness"
_TRANSFORM = "KHR_texture_transform"
_WRAP = {10497: "repeat", 33071: "clamp", 33648: "mirror"}


def material_reader(
  tree: dict[str, Any],
  view: Callable[[int], bytes],
  read_reference: ReadReference,
  notes: list[Note],
) -> Callable[[dict[str, Any]], tuple[Material, dict[str, Any]]]:
  """Returns what reads the material of a primitive.

  It gives the material and its textureInfo, {} without texture; the texture is
  left out where the primitive has no coordinates for it.

  Args:
    tree: The document.
    view: Gives the bytes of a bufferView by its index.
    read_reference: Reads images that are files.
    notes: What is lost is appended.
  """

  textures = Textures()

  @functools.cache
  def decode(index: int, alpha: bool) -> np.ndarray | None:
    image = tree["images"][index]
    try:
      if "bufferView" in image:
        data = view(image["bufferView"])
      else:
        data = read_reference(image["uri"], escaped=True)
      return textures.decode(data, alpha=alpha)
    except OSError as error:
      notes.append(Note(NO_TEXTURE, f"images[{index}]: {error}"))
      return None

  def base_color(index: int) -> tuple[Any, dict[str, Any]]:
    """Reads the base colour factor (or None) and textureInfo (or {})."""
    material = tree["materials"][index]
    glossy = material.get("extensions", {}).get(_GLOSSY)
    if glossy is not None:
      return glossy.get("diffuseFactor"), glossy.get("diffuseTexture", {})
    rough = material.get("pbrMetallicRoughness", {})
    return rough.get("baseColorFactor"), rough.get("baseColorTexture", {})

  @functools.cache
  def read(index: int, has_uv: bool) -> tuple[Material, dict[str, Any]]:
    material = tree["materials"][index]
    factor, info = base_color(index)
    if factor is not None:
      factor = np.array(factor, np.float32)
      if factor.shape != (4,) or not np.isfinite(factor).all():
        raise BadInput(
          f"materials[{index}]: the base colour is {factor.tolist()}, must be "
          "four numbers"
        )
    alpha = material.get("alphaMode", "OPAQUE").lower()
    if alpha not in ("opaque", "mask", "blend"):
      detail = f"materials[{index}]: alphaMode {alpha} is unknown"
      notes.append(Note("alpha modes that are unknown are left out", detail))
      alpha = "opaque"
    pixels, wrap = None, ("repeat", "repeat")
    if info and has_uv:
      entry = tree["textures"][info["index"]]
      webp = entry.get("extensions", {}).get("EXT_texture_webp", {})
      source = entry.get("source", webp.get("source"))
      if source is None:
        detail = (
          f"textures[{info['index']}]: only PNG, JPEG and WebP images are read"
        )
        notes.append(Note(NO_TEXTURE, detail))
      else:
        pixels = decode(source, alpha != "opaque")
        sampler = (
          tree["samplers"][entry["sampler"]] if "sampler" in entry else {}
        )
        u, v = sampler.get("wrapS", 10497), sampler.get("wrapT", 10497)
        wrap = _WRAP[u], _WRAP[v]
    elif info:
      detail = (
        f"materials[{index}]: its texture is left out where a primitive has no "
        f"{uv_name(info)}"
      )
      notes.append(Note(NO_UV, detail))
    cutoff = float(material.get("alphaCutoff", 0.5))
    look = Material(factor, pixels, wrap, alpha, cutoff)
    return look, info if pixels is not None else {}

  def read_of(primitive: dict[str, Any]) -> tuple[Material, dict[str, Any]]:
    index = primitive.get("material")
    if index is None:
      return Material(), {}
    info = base_color(index)[1]
    return read(index, uv_name(info) in primitive["attributes"])

  return read_of


def uv_name(info: dict[str, Any]) -> str:
  """Names the attribute that holds a texture's coordinates."""
  transform = info.get("extensions", {}).get(_TRANSFORM, {})
  return f"TEXCOORD_{transform.get('texCoord', info.get('texCoord', 0))}"


def transform_uv(info: dict[str, Any], uv: np.ndarray) -> np.ndarray:
  """Applies KHR_texture_transform: scale, then rotation, then offset.

  A rotation by r turns coordinates counter-clockwise as seen on the image,
  whose v runs down: u' = u cos r + v sin r, v' = v cos r - u sin r.

  Args:
    info: A textureInfo.
    uv: (..., 2) texture coordinates.
  """
  transform = info.get("extensions", {}).get(_TRANSFORM)
  if transform is None:
    return uv
  turn = float(transform.get("rotation", 0))
  cos, sin = np.cos(turn), np.sin(turn)
  matrix = np.array([[cos, sin], [-sin, cos]])
  scaled = uv * _pair(transform, "scale", 1)
  return (scaled @ matrix.T + _pair(transform, "offset", 0)).astype(np.float32)


def _pair(transform: dict[str, Any], field: str, missing: float) -> np.ndarray:
  return np.array(transform.get(field, [missing] * 2), float).reshape(2)
