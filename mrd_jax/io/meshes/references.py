"""Reads what a mesh file refers to: from below a folder, or not at all."""

import base64
import binascii
import os
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path

# `read_reference` of a mesh's folder.
ReadReference = Callable[..., bytes]
NO_TEXTURE = "textures that cannot be read are left out"
NO_UV = "textures are left out where a face has no coordinates for them"


def read_reference(
  folder: Path,
  reference: str,
  *,
  escaped: bool = False,
  root: Path | None = None,
) -> bytes:
  """Reads what a mesh file in `folder` refers to: a file, or data in itself.

  Of an absolute path, as many programs write it, a file of that name beside
  the mesh is taken.  Where no file has the name, the only one that has it but
  for upper and lower case is.

  Args:
    folder: Where the mesh lies.
    reference: A relative path, or a data: URI.
    escaped: Whether it is a URI, in which %20 is a blank.
    root: The folder below which the file must lie, `folder` or one above it;
      where a folder between them is a symbolic link, below its target will do.

  Raises:
    OSError: in words, if it lies outside of the folder or is not there.
  """
  if reference.startswith("data:"):
    kind, _, body = reference.partition(",")
    if not kind.endswith(";base64"):
      return urllib.parse.unquote_to_bytes(body)
    try:
      return base64.b64decode(body, validate=True)
    except binascii.Error as error:
      raise OSError(f"the data: URI is damaged ({error})") from None
  name = urllib.parse.unquote(reference) if escaped else reference
  name = name.replace("\\", "/")
  if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:", name):
    raise OSError(f"{reference!r} is not a file beside the mesh, put it there")
  if re.match(r"/|[a-zA-Z]:", name):
    name = name.rpartition("/")[2]
  roots = [folder.resolve()]
  if root is not None and folder.is_relative_to(root):
    above = folder.relative_to(root).parts
    roots += [root.joinpath(*above[:n]).resolve() for n in range(len(above))]

  def is_allowed(path: Path) -> bool:
    return any(path.is_relative_to(allowed) for allowed in roots)

  path = (folder / name).resolve()
  if is_allowed(path) and not path.is_file():
    path = folder.resolve()
    for part in Path(name).parts:
      path = _without_case(path, part)
      if not is_allowed(path):
        break
  if not is_allowed(path):
    raise OSError(
      f"{reference!r} lies outside of {root or folder}, put it beside the mesh"
    )
  if not path.is_file():
    raise OSError(f"{reference!r} is missing beside the mesh")
  return path.read_bytes()


def _without_case(folder: Path, name: str) -> Path:
  """Returns the entry of a folder that a name means."""
  path = folder / name
  if not path.exists() and folder.is_dir():
    fits = [x for x in os.listdir(folder) if x.casefold() == name.casefold()]
    path = folder / fits[0] if len(fits) == 1 else path
  return path.resolve()
