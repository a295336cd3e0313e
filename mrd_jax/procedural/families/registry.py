"""The list of object families, filled by the decorator `family`."""

import dataclasses
from collections.abc import Callable

import numpy as np

from mrd_jax.procedural.geometry import Part

Builder = Callable[[np.random.Generator], list[Part]]


@dataclasses.dataclass(frozen=True)
class Family:
  """A class of objects.

  Attributes:
    name: Class name.
    group: Super-category; families of one group are related to the teacher.
    build: Draws one object's parts, y up, in any unit.
    synonyms: Other words for it in captions.
    parts: Every name that its optional parts may carry.
    plural: Whether captions say "a pair of NAME".
  """

  name: str
  group: str
  build: Builder
  synonyms: tuple[str, ...] = ()
  parts: tuple[str, ...] = ()
  plural: bool = False


# Written only while the package is imported, in order of the definitions.
FAMILIES: dict[str, Family] = {}


def family(
  name: str,
  *,
  group: str,
  synonyms: tuple[str, ...] = (),
  parts: tuple[str, ...] = (),
  plural: bool = False,
) -> Callable[[Builder], Builder]:
  """Registers a builder under a class name; raises ValueError on a second."""

  def register(build: Builder) -> Builder:
    if name in FAMILIES:
      raise ValueError(f"family {name!r} is defined twice")
    FAMILIES[name] = Family(name, group, build, synonyms, parts, plural)
    return build

  return register


def chance(rng: np.random.Generator, probability: float) -> bool:
  """True with the given probability."""
  return bool(rng.random() < probability)
