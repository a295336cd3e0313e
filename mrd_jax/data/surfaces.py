"""Samples the surface of a mesh: points and their colours.

Colours that come out are sRGB, as the published data and the image teachers
have them.  Of a glTF, whose factors and vertex colours are linear, these are
multiplied with linearised texels and the product is encoded again.
"""

from collections.abc import Sequence

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io.meshes.mesh import Material, Mesh, to_linear, to_srgb

VISIBLE = 0.1  # a sample is dropped where the surface is more transparent


def color_at(
  mesh: Mesh, face_N: np.ndarray, weight_N3: np.ndarray
) -> np.ndarray:
  """Finds the colours of points on the surface, without light.

  A texel is the nearest one: textures are finer than samples or pixels, and
  small ones, where a texel is a colour of its own, do not bleed.

  Args:
    mesh: The surface.
    face_N: (N,) rows of `mesh.faces`.
    weight_N3: (N, 3) barycentric weights of the face's corners.

  Returns:
    (N, 4) float32 in [0, 1]: sRGB, and alpha, which is 1 where the material
    is opaque and 0 or 1 where it is a mask.
  """
  weight_N3 = weight_N3.astype(np.float32, copy=False)
  factor_M4 = np.array([m.factor for m in mesh.materials], np.float32)
  material_N = mesh.face_material[face_N]
  rgba_N4 = factor_M4[material_N]
  if mesh.color is not None:
    own_N34 = mesh.color[face_N]
    rgba_N4 *= np.einsum("nc,ncd->nd", weight_N3, own_N34)
  for index in np.flatnonzero(np.bincount(material_N)):
    material = mesh.materials[index]
    if material.texture is None and material.alpha == "opaque":
      continue
    rows = np.flatnonzero(material_N == index)
    if material.texture is not None and mesh.uv is not None:
      uv = np.einsum("nc,ncd->nd", weight_N3[rows], mesh.uv[face_N[rows]])
      texel = _texels(material, uv).astype(np.float32) / 255
      if mesh.linear:
        texel[:, :3] = to_linear(texel[:, :3])
      rgba_N4[rows, : texel.shape[1]] *= texel
    if material.alpha == "mask":
      rgba_N4[rows, 3] = rgba_N4[rows, 3] >= material.cutoff
  opaque_M = np.array([m.alpha == "opaque" for m in mesh.materials])
  rgba_N4[opaque_M[material_N], 3] = 1
  np.clip(rgba_N4, 0, 1, out=rgba_N4)
  if mesh.linear:
    rgba_N4[:, :3] = to_srgb(rgba_N4[:, :3])
  return rgba_N4


def _texels(material: Material, uv_N2: np.ndarray) -> np.ndarray:
  texture = material.texture
  assert texture is not None
  index = []
  for axis, wrap in enumerate(material.wrap):
    size = texture.shape[1 - axis]
    along = uv_N2[:, axis]
    if wrap == "repeat":
      along = along - np.floor(along)
    elif wrap == "mirror":
      along = 1 - np.abs(np.mod(along, 2) - 1)
    index.append(np.clip(along * size, 0, size - 1).astype(np.int32))
  return texture[index[1], index[0]]


def sample_mesh(
  mesh: Mesh, num_points: int = 10_000, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
  """Makes the cloud of a mesh that was read from a file, as `sample_surface`.

  The bytes of the file seed it, so that a mesh is the same cloud everywhere.
  """
  return sample_surface(mesh, num_points, seed=[seed, mesh.checksum])


def sample_surface(
  mesh: Mesh, num_points: int = 10_000, *, seed: int | Sequence[int]
) -> tuple[np.ndarray, np.ndarray | None]:
  """Draws points evenly over the surface: as many to a face as its area says.

  Within a triangle, `(1 - sqrt(r)) a + sqrt(r) (1 - s) b + sqrt(r) s c` with
  uniform r, s is uniform (Osada et al., "Shape distributions", 2002).  Where
  a glTF's material lets more than 1 - `VISIBLE` through, a hole in a mask for
  example, there is no point.

  Args:
    mesh: The surface.
    num_points: N.
    seed: Of the draw; the same seed gives the same points.

  Returns:
    xyz (N, 3) float32 in the unit of the mesh, and rgb (N, 3) float32 sRGB in
    [0, 1], or None if the file gives no colour.

  Raises:
    BadInput: if all faces have no area, or the surface can hardly be seen.
  """
  rng = np.random.default_rng(seed)
  corner_F33 = mesh.vertices[mesh.faces]
  # In units of the shape's size, so that no square over- or underflows.
  size = np.ptp(mesh.vertices, axis=0).max()
  edge_F23 = (corner_F33[:, 1:] - corner_F33[:, :1]) / (size or 1)
  area_F = np.linalg.norm(np.cross(edge_F23[:, 0], edge_F23[:, 1]), axis=1)
  up_to_F = np.cumsum(area_F)
  if not up_to_F[-1] > 0:
    raise BadInput(
      "has no surface: all its triangles are degenerate; export the shape anew"
    )
  last = np.flatnonzero(area_F)[-1]
  xyz, rgb, count = [], [], 0
  for _ in range(100):
    place_N = rng.random(num_points) * up_to_F[-1]
    face_N = np.searchsorted(up_to_F, place_N, side="right").clip(max=last)
    r_N, s_N = np.sqrt(rng.random(num_points)), rng.random(num_points)
    weight_N3 = np.stack([1 - r_N, r_N * (1 - s_N), r_N * s_N], axis=1)
    rgba_N4 = color_at(mesh, face_N, weight_N3)
    seen_N = rgba_N4[:, 3] >= VISIBLE
    xyz_N3 = np.einsum("nc,ncd->nd", weight_N3, corner_F33[face_N])
    xyz.append(xyz_N3[seen_N])
    rgb.append(rgba_N4[seen_N, :3])
    count += seen_N.sum()
    if count >= num_points:
      xyz_N3 = np.concatenate(xyz)[:num_points].astype(np.float32)
      rgb_N3 = np.concatenate(rgb)[:num_points]
      return xyz_N3, rgb_N3 if mesh.colored else None
  raise BadInput(
    "its surface is transparent almost everywhere (alphaMode, base colour's "
    "alpha); export the shape with opaque materials"
  )
