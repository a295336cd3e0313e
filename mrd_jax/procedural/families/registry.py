"""Lists the object families, by the decorator `family`."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from mrd_jax.procedural.geometry import Part

Builder = Callable[[np.random.Generator], Iterable[Part]]


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
  group: str, synonyms: str = "", parts: str = "", plural: bool = False
) -> Callable[[Builder], Builder]:
  """Registers a builder; its function's name is that of the class.

  Args:
    group: As in `Family`; likewise the others.
    synonyms: With commas between.
    parts: With commas between.
    plural: See there.

  Raises:
    ValueError: on the second family of a name.
  """

  def register(build: Builder) -> Builder:
    name = build.__name__.replace("_", " ")
    if name in FAMILIES:
      raise ValueError(f"family {name!r} is defined twice")
    words, named = (
      tuple(word for word in text.split(", ") if word)
      for text in (synonyms, parts)
    )
    FAMILIES[name] = Family(name, group, build, words, named, plural)
    return build

  return register
