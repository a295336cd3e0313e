"""Draws a mesh from around it, by casting rays on the CPU.

Rays rather than a rasteriser: that needs a display, a GPU or a system library,
and Embree comes whole in its wheel.  The same mesh gives the same bytes.
"""

import numpy as np

from mrd_jax.data.surfaces import color_at
from mrd_jax.errors import BadInput
from mrd_jax.io.meshes.mesh import Mesh

FIRST_AZIMUTH = 35.0  # degrees; the first view is from the front, half aside
ELEVATIONS = (25.0, 0.0, 55.0, -25.0)  # degrees, in turn
FIELD_OF_VIEW = 40.0  # degrees
FILL = 0.94  # of the frame, by the view that fills it most
AMBIENT = 0.5  # of the light; the rest is a lamp at the camera
MAX_LAYERS = 16  # surfaces that a ray passes, where they are transparent


def camera_directions(views: int) -> np.ndarray:
  """Returns where the cameras are, from the shape: (views, 3) unit vectors.

  Azimuths run evenly around the vertical axis, from `FIRST_AZIMUTH` on; 0 is
  +z, a glTF's front, and 90 is +x.  Elevations repeat `ELEVATIONS`, so that 12
  views are 3 at each elevation, 120 degrees apart.
  """
  azimuth = np.radians(FIRST_AZIMUTH + 360 / views * np.arange(views))
  elevation = np.radians(np.resize(ELEVATIONS, views))
  aside = np.cos(elevation) * np.sin(azimuth)
  ahead = np.cos(elevation) * np.cos(azimuth)
  return np.stack([aside, np.sin(elevation), ahead], axis=1)


def render_views(
  mesh: Mesh,
  *,
  views: int = 12,
  image_size: int = 224,
  samples: int = 2,
  background: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> np.ndarray:
  """Draws the mesh from cameras on a sphere around the centre of its box.

  The sphere is as small as lets every view contain the whole shape.  Colours
  are those of `color_at` (0.4 grey where there are none) times
  `AMBIENT + (1 - AMBIENT) |cos|` of the angle between ray and face, which is
  the same from both sides; a transparent surface is blended with what is
  behind it.

  Args:
    mesh: The surface.
    views: V.
    image_size: S, pixels along each side.
    samples: Rays along each side of a pixel; their colours are averaged.
    background: sRGB in [0, 1].

  Returns:
    (V, S, S, 3) uint8 sRGB.

  Raises:
    BadInput: if embreex is not installed, or the mesh has no size.
  """
  # By coordinate, since NumPy is slow along short rows.
  xyz_3V = mesh.vertices.T.copy()
  center_31 = (xyz_3V.min(axis=1) + xyz_3V.max(axis=1))[:, None] / 2
  # Embree computes in float32: centre and scale are taken out before.
  xyz_3V -= center_31
  size = np.sqrt(np.square(xyz_3V).sum(axis=0).max())
  if not size > 0:
    raise BadInput("has no size: all its vertices coincide, drop the mesh")
  xyz_3V = (xyz_3V / size).astype(np.float32)
  scene = _scene(xyz_3V.T.copy(), mesh.faces)
  tangent = np.tan(np.radians(FIELD_OF_VIEW / 2))
  axes_V33 = [_camera_axes(toward) for toward in camera_directions(views)]
  # A point at depth z shows at |x| / (distance - z), at most FILL * tangent.
  distance = max(
    (z + np.maximum(np.abs(x), np.abs(y)) / (FILL * tangent)).max()
    for x, y, z in (axes_33 @ xyz_3V for axes_33 in axes_V33)
  )
  ray_PSS3 = _rays(image_size, samples, tangent)
  white = np.asarray(background, np.float32)
  images = np.empty((views, image_size, image_size, 3), np.uint8)
  images[:] = np.rint(white * 255)
  for image, axes_33 in zip(images, axes_V33, strict=True):
    x, y, z = axes_33 @ xyz_3V
    pixel_2V = np.stack([x, -y]) / ((distance - z) * tangent)
    pixel_2V = (pixel_2V + 1) / 2 * image_size
    left, top = np.floor(pixel_2V.min(axis=1)).astype(int).clip(min=0)
    right, bottom = np.ceil(pixel_2V.max(axis=1)).astype(int)
    window = ray_PSS3[:, top:bottom, left:right]  # no other ray can hit
    rgb_R3 = _trace(
      scene,
      mesh,
      (axes_33[2] * distance).astype(np.float32),
      window.reshape(-1, 3) @ axes_33.astype(np.float32),
      white,
    )
    rgb = rgb_R3.reshape(window.shape).mean(axis=0)
    image[top:bottom, left:right] = np.rint(rgb * 255)
  return images


def _rays(image_size: int, samples: int, tangent: float) -> np.ndarray:
  """Returns (samples^2, S, S, 3) float32 unit vectors, one sub-pixel a row."""
  fine = image_size * samples
  along = ((np.arange(fine) + 0.5) / fine * 2 - 1) * tangent
  across, down = np.meshgrid(along, -along)
  ray = np.stack([across, down, np.full((fine, fine), -1.0)], axis=-1)
  ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
  shape = (image_size, samples, image_size, samples, 3)
  by_sample = ray.reshape(shape).transpose(1, 3, 0, 2, 4)
  return by_sample.reshape(-1, image_size, image_size, 3).astype(np.float32)


def _scene(xyz_V3: np.ndarray, faces: np.ndarray):
  try:
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene
  except ImportError:
    raise BadInput(
      "embreex, which draws the views, is not installed: pip install embreex "
      "(there are wheels for Linux and Windows on x86-64 and for macOS), or "
      "prepare the meshes on such a machine"
    ) from None
  scene = EmbreeScene()
  TriangleMesh(scene=scene, vertices=xyz_V3, indices=faces.astype(np.int32))
  return scene


def _camera_axes(toward: np.ndarray) -> np.ndarray:
  """Returns (3, 3) rows: right, up and towards the camera."""
  right = np.array([toward[2], 0, -toward[0]])
  right /= np.linalg.norm(right)
  return np.stack([right, np.cross(toward, right), toward])


def _trace(
  scene,
  mesh: Mesh,
  origin: np.ndarray,
  toward_R3: np.ndarray,
  background: np.ndarray,
) -> np.ndarray:
  """Colours (R, 3) that come along rays from one point, front to back."""
  rgb_R3 = np.zeros((len(toward_R3), 3), np.float32)
  clear_R = np.ones(len(toward_R3), np.float32)  # what still shines through
  rays = np.arange(len(toward_R3))
  origin_R3 = np.tile(origin, (len(rays), 1))
  for _ in range(1 if mesh.opaque else MAX_LAYERS):
    hits = scene.run(origin_R3, toward_R3[rays], output=1)
    struck = np.flatnonzero(hits["primID"] >= 0)
    rays = rays[struck]
    if not len(rays):
      break
    u_N, v_N = hits["u"][struck], hits["v"][struck]
    weight_N3 = np.stack([1 - u_N - v_N, u_N, v_N], axis=1)
    rgba_N4 = color_at(mesh, hits["primID"][struck], weight_N3)
    normal_N3, toward_N3 = hits["Ng"][struck], toward_R3[rays]
    length_N = np.sqrt(np.einsum("nd,nd->n", normal_N3, normal_N3))
    cosine_N = np.abs(np.einsum("nd,nd->n", normal_N3, toward_N3))
    cosine_N /= np.maximum(length_N, np.finfo(np.float32).tiny)
    light_N = AMBIENT + (1 - AMBIENT) * np.minimum(cosine_N, 1)
    covered_N = clear_R[rays] * rgba_N4[:, 3]
    rgb_R3[rays] += rgba_N4[:, :3] * (covered_N * light_N)[:, None]
    clear_R[rays] -= covered_N
    if mesh.opaque:
      break
    # On, from just behind, where less than one level of 255 is hidden.
    on = clear_R[rays] > 1 / 255
    step_N = hits["tfar"][struck] + 1e-4
    origin_R3 = (origin_R3[struck] + step_N[:, None] * toward_N3)[on]
    rays = rays[on]
  return rgb_R3 + clear_R[:, None] * background
