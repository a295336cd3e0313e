"""A stand-in for the hub with OpenShape's release, and what came of it."""

import io
import json
import zipfile
from pathlib import Path

from openshape_bundle import ABSOLUTE

from mrd_jax.prepare.openshape.download import REPOSITORY

NAME = f"datasets/{REPOSITORY}"
LISTS = {
  "train_all": ["Objaverse/000-001/a.npy", "ABO/b.npy"],
  "val": ["ShapeNet/0123/c.npy", "nowhere/d.npy"],
}
CHUNK = 10_000  # more than the 8 KB that Python keeps back


def zip_of(members: dict[str, str]) -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, text in members.items():
      archive.writestr(name, text)
  return file.getvalue()


def lists(prefix: str = "meta_data/") -> dict[str, str]:
  return {
    f"{prefix}split/{name}.json": json.dumps(
      [{"id": path, "data_path": f"{ABSOLUTE}/{path}"} for path in paths]
    )
    for name, paths in LISTS.items()
  }


def fetched(folder: Path) -> set[str]:
  """The archives, and everything that should not be there."""
  ours = {"download.json", ".download.lock"}
  found = {f.relative_to(folder) for f in folder.rglob("*") if f.is_file()}
  return {
    f.as_posix()
    for f in found
    if f.parts[0] != "meta_data" and f.as_posix() not in ours
  }


def assert_equal(folder: Path, remote: Path, names: set[str]) -> None:
  assert fetched(folder) == names
  for name in names:
    assert (folder / name).read_bytes() == (remote / name).read_bytes()
