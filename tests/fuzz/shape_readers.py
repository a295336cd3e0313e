"""Readers of clouds, meshes and pictures, and small files for each of them."""

import functools
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np
import trimesh
from clips import encoded
from clouds import (
  BYTES,
  COLOURED,
  PCD_HEADER,
  RGB,
  XYZ,
  axes,
  channels,
  pcd,
  ply_bytes,
)
from fuzzing import Reader
from meshes import (
  CORNERS,
  QUAD,
  QUAD_FACES,
  QUAD_UV,
  gltf_quad,
  textured,
  write_obj,
  write_off,
)
from PIL import Image
from pypcd4 import Encoding
from runs import REPOSITORY

from mrd_jax.data.shape_files import read_shape
from mrd_jax.errors import BadInput
from mrd_jax.io.clouds.read import read_cloud
from mrd_jax.io.images import decode_texture, encode_png, to_rgb
from mrd_jax.io.meshes.read import read_mesh

_CASES = REPOSITORY / "tests" / "cases" / "meshes"


def check_points(points: np.ndarray) -> None:
  """Asserts what `read_cloud` and `read_shape` promise of points."""
  assert points.ndim == 2 and points.shape[1] in (3, 6) and len(points)
  assert points.dtype.kind == "f" and np.isfinite(points).all()
  rgb = points[:, 3:]
  assert not rgb.size or (rgb.min() >= 0 and rgb.max() <= 1)


def _cloud(path: Path) -> None:
  points = read_cloud(path)
  assert points.dtype == np.float64
  check_points(points)


def _mesh(path: Path) -> None:
  mesh = read_mesh(path)
  vertices, faces = mesh.vertices, mesh.faces
  assert vertices.dtype == np.float64 and np.isfinite(vertices).all()
  assert faces.dtype == np.int64 and faces.shape[1] == vertices.shape[1] == 3
  np.testing.assert_array_equal(np.unique(faces), np.arange(len(vertices)))
  assert mesh.face_material.max() < len(mesh.materials)
  for values, width in ((mesh.uv, 2), (mesh.color, 4)):
    if values is not None:
      assert values.shape == (len(faces), 3, width)
      assert values.dtype == np.float32 and np.isfinite(values).all()
  for material in mesh.materials:
    assert np.isfinite(material.factor).all() and np.isfinite(material.cutoff)
  check_points(read_shape(path)[0])


def _picture(path: Path) -> None:
  try:
    texture = decode_texture(path.read_bytes(), alpha=True)
  except OSError:
    pass  # its caller names the file
  except BadInput:
    pass
  else:
    assert texture.dtype == np.uint8 and texture.ndim == 3
    assert texture.shape[2] == 4 and 0 < max(texture.shape[:2]) <= 1024
  image = to_rgb(path)
  assert image.mode == "RGB" and min(image.size) > 0


def _las(path: Path) -> None:
  import laspy

  las = laspy.create(point_format=3)
  las.x, las.y, las.z = XYZ.T
  las.red, las.green, las.blue = 257 * BYTES.T.astype(np.uint16)
  las.write(path)


def _text(path: Path, header: str = "", sep: str = " ") -> None:
  np.savetxt(path, COLOURED, "%.4f", sep, header=header, comments="")


# A cloud of each format and flavour, by the name of its file.
CLOUDS = {
  "array.npy": lambda path: np.save(path, COLOURED),
  "arrays.npz": lambda path: np.savez_compressed(path, points=XYZ, rgb=BYTES),
  "plain.npz": lambda path: np.savez(
    path, xyz=XYZ, **dict(zip("RGB", RGB.T, strict=True))
  ),
  "ascii.pcd": lambda path: path.write_text(
    PCD_HEADER.format(n=50) + "1 2 3 4294967295\n" * 25 + "3 2 1 255\n" * 25
  ),
  "binary.pcd": lambda path: pcd("rgb").save(path, Encoding.BINARY),
  "compressed.pcd": lambda path: pcd("rgb").save(
    path, Encoding.BINARY_COMPRESSED
  ),
  "ascii.ply": lambda path: trimesh.PointCloud(XYZ, BYTES).export(
    path, encoding="ascii"
  ),
  "little.ply": lambda path: path.write_bytes(ply_bytes(axes() | channels())),
  "big.ply": lambda path: path.write_bytes(
    ply_bytes(axes() | channels(), order=">")
  ),
  "table.xyz": _text,
  "table.txt": functools.partial(_text, sep=","),
  "table.csv": functools.partial(_text, header="x,y,z,r,g,b", sep=","),
  "table.pts": functools.partial(_text, header="50"),
  "scan.las": _las,
  "scan.laz": _las,
}


def _draco(path: Path) -> None:
  ball = trimesh.creation.icosphere(1)
  path.write_bytes(ball.export(file_type="glb", extension_draco=True))


def _gltf(path: Path) -> None:
  """A quad in two places, with a texture, its transform and colours."""
  uv_moved = {"KHR_texture_transform": {"rotation": 0.5, "scale": [2, 2]}}
  attributes = {
    "TEXCOORD_0": (QUAD_UV,),
    "COLOR_0": (np.full((4, 4), 200, np.uint8), True),
  }
  material = {"alphaMode": "MASK", **textured(extensions=uv_moved)}
  gltf = gltf_quad(material, attributes, CORNERS, wrapS=33071)
  gltf.node(mesh=0, translation=[1, 0, 0], children=[0])
  gltf.write(path)


def _obj(path: Path) -> None:
  path.with_name("a.png").write_bytes(encode_png(CORNERS))
  mtl = "Kd 0.5 0.2 0.1\nmap_Kd -clamp on a.png\n"
  write_obj(path, QUAD, QUAD_FACES, uv=QUAD_UV, mtl=mtl)
  path.write_text(path.read_text() + "f -1 -2 -3 -4\n")


def _copy(name: str, path: Path) -> None:
  shutil.copy(_CASES / name, path)


def _ball(path: Path, **options: str) -> None:
  trimesh.creation.icosphere(1).export(path, **options)


# Meshes likewise.
MESHES = {
  "scene.glb": _gltf,
  "draco.glb": _draco,
  "scene.gltf": _gltf,
  "quad.obj": _obj,
  "ascii.ply": functools.partial(_copy, "m11_mixed/ascii.ply"),
  "binary.ply": functools.partial(_copy, "m11_mixed/binary.ply"),
  "strips.ply": functools.partial(_copy, "m09_tristrips/box.ply"),
  "quad.off": lambda path: write_off(
    path, QUAD, QUAD_FACES, colors=np.full((4, 4), 99)
  ),
  "faces.off": lambda path: write_off(
    path, QUAD, QUAD_FACES, face_colors=np.full((2, 3), 99)
  ),
  "ball.stl": _ball,
  "ascii.stl": functools.partial(_ball, file_type="stl_ascii"),
}
_NEEDS = {"scan.las": "laspy", "scan.laz": "lazrs", "draco.glb": "DracoPy"}


def _smooth(mode: str) -> Image.Image:
  x, y = np.mgrid[:24, :32].astype(np.uint8)
  rgba = np.stack([8 * x, 7 * y, x + y, 255 - 4 * y], axis=2)
  return Image.fromarray(rgba).convert(mode)


def _write_picture(
  kind: str, mode: str, path: Path, **options: str | bool
) -> None:
  path.write_bytes(encoded(_smooth(mode), kind, **options))


# By the kind that Pillow calls it; the flavours of some behind a blank.
PICTURES = {
  "PNG": functools.partial(_write_picture, "PNG", "RGBA"),
  "PNG palette": functools.partial(_write_picture, "PNG", "P"),
  "JPEG": functools.partial(_write_picture, "JPEG", "RGB"),
  "JPEG progressive": functools.partial(
    _write_picture, "JPEG", "RGB", progressive=True
  ),
  "WEBP": functools.partial(_write_picture, "WEBP", "RGBA"),
  "BMP": functools.partial(_write_picture, "BMP", "P"),
  "TGA": functools.partial(
    _write_picture, "TGA", "RGBA", compression="tga_rle"
  ),
  "TIFF": functools.partial(_write_picture, "TIFF", "RGB"),
  "TIFF lzw": functools.partial(
    _write_picture, "TIFF", "RGBA", compression="tiff_lzw"
  ),
  "TIFF jpeg": functools.partial(
    _write_picture, "TIFF", "RGB", compression="jpeg"
  ),
  "GIF": functools.partial(_write_picture, "GIF", "P"),
  "DDS": functools.partial(_write_picture, "DDS", "RGBA"),
  "DDS DXT5": functools.partial(
    _write_picture, "DDS", "RGBA", pixel_format="DXT5"
  ),
}


def _of(name: str, kind: str, make, read) -> Reader:
  """The reader of one file."""
  return Reader(
    f"{kind} {name}",
    lambda folder: make(folder / name),
    lambda folder: read(folder / name),
    needs=_NEEDS.get(name, "numpy"),
  )


def _with_sums(data: bytes) -> bytes:
  """A PNG whose pieces have the checksums of what is in them."""
  whole, at = data[:8], 8
  while at + 8 <= len(data):
    end = at + 8 + int.from_bytes(data[at : at + 4], "big")
    checksum = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
    whole += data[at:end] + checksum
    at = end + 4
  return whole


def _png_inside(folder: Path) -> None:
  """Checksums of a PNG are no hindrance to who damages it on purpose."""
  sound = folder.with_name("sound.png")
  sound.write_bytes(_with_sums((folder / "a.png").read_bytes()))
  try:
    _picture(sound)
  except BadInput as error:
    raise BadInput(f"{folder}: {error}") from None


def _npz_inside(folder: Path) -> None:
  """Neither are those of a zip archive."""
  packed = folder.with_name("packed.npz")
  with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
    for file in folder.iterdir():
      archive.write(file, file.name)
  try:
    _cloud(packed)
  except BadInput as error:
    raise BadInput(f"{folder}: {error}") from None


def _arrays(folder: Path) -> None:
  np.save(folder / "points.npy", XYZ)
  np.save(folder / "rgb.npy", BYTES)


READERS = (
  *(_of(name, "cloud", make, _cloud) for name, make in CLOUDS.items()),
  *(_of(name, "mesh", make, _mesh) for name, make in MESHES.items()),
  *(_of(name, "picture", make, _picture) for name, make in PICTURES.items()),
  Reader("inside .npz", _arrays, _npz_inside),
  Reader(
    "inside PNG",
    lambda folder: PICTURES["PNG"](folder / "a.png"),
    _png_inside,
  ),
)
