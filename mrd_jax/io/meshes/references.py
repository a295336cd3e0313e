"""Reads what a mesh file refers to: from its own folder, or not at all."""

import base64
import binascii
import re
import urllib.parse
from pathlib import Path


def read_reference(
  folder: Path, reference: str, *, escaped: bool = False
) -> bytes:
  """Reads what a mesh file in `folder` refers to: a file, or data in itself.

  Of an absolute path, as many programs write it, a file of that name beside
  the mesh is taken.

  Args:
    folder: Where the mesh lies.
    reference: A relative path, or a data: URI.
    escaped: Whether it is a URI, in which %20 is a blank.

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
  root = folder.resolve()
  path = (root / name).resolve()
  if not path.is_relative_to(root):
    raise OSError(
      f"{reference!r} lies outside of the mesh's folder, put it beside the mesh"
    )
  if not path.is_file():
    raise OSError(f"{reference!r} is missing beside the mesh")
  return path.read_bytes()
