"""Finds the files of published models by name, on the hub or where one says."""

import difflib
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.errors import BadInput
from mrd_jax.io.hub import Repository
from mrd_jax.zoo.registry import NAMES, SYSTEMS
from mrd_jax.zoo.system import Page, Release


class Reference(NamedTuple):
  """What "NAME", "NAME@REVISION" or "NAME:FILE" says.

  Attributes:
    name: A key of `NAMES`.
    revision: Branch, tag or commit of its repository; "" is the main branch.
    file: Its weights; "" is where they are published.
  """

  name: str
  revision: str = ""
  file: str = ""


def parse(text: str) -> Reference | None:
  """Reads a reference; None if it names no published model, or is a path."""
  found = re.fullmatch(r"([\w-]+)(?:@([^:@]+))?(?::(.+))?", text)
  if found is None or found[1] not in NAMES or os.path.exists(text):
    return None
  return Reference(*(part or "" for part in found.groups()))


def unknown(text: str) -> BadInput:
  """Makes the error of what is neither a path nor a name."""
  name = re.split("[:@]", text)[0]
  near = difflib.get_close_matches(name.lower(), NAMES, 1)
  return BadInput(
    f"{text} does not exist, and is no name of a published model (mrd models"
    + (f"; {near[0]} is one)" if near else ")")
  )


def find(reference: Reference) -> tuple[Path, str]:
  """Finds the file of a reference, or fetches it into the hub's cache.

  What was fetched in part is fetched on, and what is there needs no network.

  Returns:
    Its path, and what to call it, with the commit that it is of.

  Raises:
    BadInput: if it is not there, or has to be fetched by hand, saying where.
  """
  name, revision, file = reference
  weights = NAMES[name][1].weights
  by_hand = f"name it as {name}:FILE (weights=FILE in Python)"
  if file:
    if revision:
      raise BadInput(
        f"{name}@{revision}:{file} names a file, which has no revision; leave "
        f"out @{revision}"
      )
    if not os.path.exists(file):  # bears a name of any length
      raise BadInput(f"{file}, the weights of {name}, does not exist")
    return Path(file), Path(file).name
  if isinstance(weights, Page):
    raise BadInput(
      f"{name} is not on the Hugging Face hub: fetch {weights.file!r}, which "
      f"{weights.address} links to, and {by_hand}"
    )
  try:
    repository = Repository(
      weights.repository,
      revision or None,
      f"a repository with {weights.file}",
      f"; where there is a network, fetch that file, and {by_hand}",
      first=weights.file,
      type=weights.kind,
    )
    path = repository.get(weights.file)
  except BadInput as error:
    raise BadInput(f"{name}: {error}") from error
  commit = repository.folder.name
  return path, f"{weights.file} of {weights.repository}@{commit}"


def release_of(config: EncoderConfig) -> Release | None:
  """Finds the published model that an encoder is, or is as large as.

  None for one that was trained here, and for other sizes.
  """
  if config.name in NAMES:
    return NAMES[config.name][1]
  if config.training_config:
    return None
  for release in SYSTEMS[config.system].RELEASES.values():
    if not differing(config.system, config.architecture, release):
      return release
  return None


def differing(system: str, size: Any, release: Release) -> str:
  """Says how a size differs from a release's, "" if it does not.

  What no file says is left out.
  """
  parts = [
    f"{x.name} {getattr(size, x.name)}, not {getattr(release.size, x.name)}"
    for x in fields(size)
    if x.compare
    and x.name not in SYSTEMS[system].UNSAID
    and getattr(size, x.name) != getattr(release.size, x.name)
  ]
  return f"it is not the published one: {', '.join(parts)}" if parts else ""
