"""Point clouds in the usual files: .npy, .npz, .pcd, .ply and .xyz."""

import io
import os
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np

from mrd_jax.errors import BadInput

XYZ_KEYS = ("points", "xyz", "pos", "pc")
RGB_KEYS = ("rgb", "color", "colors")


def read_cloud(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads one point cloud, its points in the order of the file.

  .npy: an array (N, 3) of xyz or (N, 6) of xyz and rgb.
  .npz: such an array as `points`, or xyz and rgb as two arrays: the first of
    `XYZ_KEYS` and the first of `RGB_KEYS` that the file has.
  .pcd: fields x, y, z and, for colours, packed rgb or rgba; ascii, binary or
    binary_compressed.
  .ply: a cloud, not a mesh: vertex properties x, y, z and, for colours, red,
    green, blue; ascii or binary.
  .xyz: text, 3 or 6 columns between spaces or commas; # and // begin comment
    lines.

  Colours that are integers, or whose maximum is above 1, are on the scale 0 to
  255 and are divided by 255; the others are on the scale 0 to 1.  The scale is
  found for each file by itself, and text counts as floats.  Alpha is dropped.

  Args:
    path: The file; its suffix, in any case, says the format.

  Returns:
    (N, 3) float64 xyz in the unit of the file, which may be geographic, or
    (N, 6) with rgb in [0, 1] where the file has colours.

  Raises:
    BadInput: naming the file and the field, if the file is missing, unknown,
      damaged, a mesh or a pickle, or if it has no points, another shape, NaN
      or infinite values, or colours out of range.
  """
  path = Path(path)
  reader = _READERS.get(path.suffix.lower())
  if reader is None:
    raise BadInput(
      f"{path}: suffix {path.suffix!r} is unknown, must be one of "
      f"{', '.join(SUFFIXES)}"
    )
  if not path.is_file():
    raise BadInput(f"{path}: no such file")
  try:
    return _join(*reader(path))
  except BadInput as error:
    raise BadInput(f"{path}: {error}") from None
  except Exception as error:  # every library has its own for damaged files
    if "Object arrays" in str(error):  # numpy's refusal to unpickle
      raise BadInput(
        f"{path}: it is a pickle, which could run code and is never opened; "
        "convert OpenShape's .npy files with python -m mrd_jax.prepare "
        "openshape, save others as a plain array"
      ) from None
    reason = str(error).partition("\n")[0]
    raise BadInput(
      f"{path}: cannot be read as {path.suffix.lower()} "
      f"({type(error).__name__}: {reason}); it is damaged, cut off or in "
      "another format, so write it anew"
    ) from None


def _read_npy(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  with path.open("rb") as file:
    points = np.lib.format.read_array(file, allow_pickle=False)
  return _split("the array", points)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  if not zipfile.is_zipfile(path):
    raise zipfile.BadZipFile("not a zip archive")
  # np.load would leave a file open that it opened and found damaged.
  with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
    keys = list(arrays)
    xyz_key = next((key for key in XYZ_KEYS if key in keys), None)
    if xyz_key is None:
      raise BadInput(
        f"holds {keys or 'no arrays'}, must hold one of {list(XYZ_KEYS)}: "
        "rename the array of the points"
      )
    xyz, rgb = _split(xyz_key, arrays[xyz_key])
    rgb_key = next((key for key in RGB_KEYS if key in keys), None)
    if rgb_key is None:
      return xyz, rgb
    if rgb is not None:
      raise BadInput(
        f"{xyz_key} has 6 columns and {rgb_key} is there too: save the "
        "colours once"
      )
    return xyz, arrays[rgb_key]


def _read_pcd(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  from pypcd4.pypcd4 import PointCloud

  cloud = PointCloud.from_path(path)
  fields = cloud.fields
  if not {"x", "y", "z"} <= set(fields):
    raise BadInput(f"FIELDS are {', '.join(fields)}, must include x, y, z")
  if not cloud.points:
    raise BadInput("has no points")
  data = np.atleast_1d(cloud.pc_data)
  if len(data) != cloud.points:  # pypcd4 does not mind
    raise EOFError(f"{len(data)} of {cloud.points} points")
  xyz = np.stack([data[axis] for axis in "xyz"], axis=1)
  packed = next((name for name in ("rgb", "rgba") if name in fields), None)
  if packed is None:
    return xyz, None
  if data[packed].dtype.itemsize != 4:
    raise BadInput(
      f"{packed} has SIZE {data[packed].dtype.itemsize}, must be 4 bytes: "
      "packed 0xAARRGGBB"
    )
  return xyz, PointCloud.decode_rgb(data[packed])


def _read_ply(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  from trimesh.exchange.ply import load_ply

  data = path.read_bytes()
  header = data.partition(b"end_header")[0]
  if re.search(rb"^element\s+(face|tristrips)\s+[1-9]", header, re.MULTILINE):
    raise BadInput(
      "is a mesh, not a point cloud: sample points from its surface first, for "
      "example with trimesh.sample.sample_surface"
    )
  with warnings.catch_warnings():
    # With older numpy, text between the numbers is a warning.
    warnings.simplefilter("error", DeprecationWarning)
    # Not trimesh.load, which rounds float colours to uint8.
    ply = load_ply(io.BytesIO(data), skip_materials=True)
  if "vertices" not in ply:
    raise BadInput("has no points")
  xyz, rgb = ply["vertices"], ply.get("vertex_colors")
  length = ply["metadata"]["_ply_raw"]["vertex"]["length"]
  # trimesh minds neither missing lines nor lines that are too short.
  if len(xyz) != length:
    raise EOFError(f"{len(xyz)} of {length} vertices")
  if xyz.dtype == object or (rgb is not None and rgb.dtype == object):
    raise ValueError("a line of a vertex has too few numbers")
  return xyz, rgb


def _read_xyz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
  # Not trimesh, which turns float colours into 0 and miscounts commas.
  lines = [
    line
    for line in path.read_text(encoding="utf-8-sig").splitlines()
    if line.strip() and not line.lstrip().startswith(("#", "//"))
  ]
  if not lines:
    raise BadInput("has no points")
  delimiter = "," if "," in lines[0] else None
  return _split("the table", np.loadtxt(lines, delimiter=delimiter, ndmin=2))


_READERS = {
  ".npy": _read_npy,
  ".npz": _read_npz,
  ".pcd": _read_pcd,
  ".ply": _read_ply,
  ".xyz": _read_xyz,
}
SUFFIXES = tuple(_READERS)


def _split(
  field: str, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
  """(N, 3) or (N, 6) as xyz and rgb."""
  if points.ndim != 2 or points.shape[1] not in (3, 6):
    raise BadInput(
      f"{field} has shape {points.shape}, must be (N, 3): xyz, or (N, 6): xyz "
      "and rgb"
    )
  return points[:, :3], points[:, 3:] if points.shape[1] == 6 else None


def _join(xyz: np.ndarray, rgb: np.ndarray | None) -> np.ndarray:
  """Checks xyz (N, 3) and rgb (N, 3 or 4); see `read_cloud`."""
  for field, values in (("xyz", xyz), ("rgb", rgb)):
    if values is not None and values.dtype.kind not in "iuf":
      raise BadInput(f"{field} holds {values.dtype}, must hold numbers")
  if not len(xyz):
    raise BadInput("has no points")
  xyz_N3 = xyz.astype(np.float64)
  if not np.isfinite(xyz_N3).all():
    raise BadInput("xyz holds NaN or infinite values: drop those points")
  if rgb is None:
    return xyz_N3
  n = len(xyz)
  if rgb.shape not in ((n, 3), (n, 4)):
    raise BadInput(
      f"rgb has shape {rgb.shape}, must be ({n}, 3): a colour for each point"
    )
  rgb_N3 = rgb[:, :3].astype(np.float64)
  if not np.isfinite(rgb_N3).all():
    raise BadInput("rgb holds NaN or infinite values: drop those points")
  low, high = rgb_N3.min(), rgb_N3.max()
  if low < 0 or high > 255:
    raise BadInput(
      f"rgb runs from {low:g} to {high:g}, must lie in 0 to 1 or 0 to 255; if "
      "these columns are normals, drop them"
    )
  if rgb.dtype.kind in "iu" or high > 1:
    rgb_N3 /= 255
  return np.concatenate([xyz_N3, rgb_N3], axis=1)
