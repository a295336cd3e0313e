"""Finds the files of published models by name, on the hub or where one says."""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

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
  revision: str
  file: str


def parse(text: str) -> Reference | None:
  """Reads a reference; None if it names no published model."""
  found = re.fullmatch(r"([\w-]+)(?:@([^:@]+))?(?::(.+))?", text)
  if found is None or found[1] not in NAMES:
    return None
  return Reference(*(part or "" for part in found.groups()))


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
    if not Path(file).exists():
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
  system = SYSTEMS[config.system]
  for release in system.RELEASES.values():
    unsaid = {x: getattr(release.size, x) for x in system.UNSAID}
    if replace(config.architecture, **unsaid) == release.size:
      return release
  return None
