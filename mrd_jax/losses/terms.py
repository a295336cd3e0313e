"""Says which variant of the losses is computed, and of what terms."""

from typing import Literal, NamedTuple

from mrd_jax.config.pretraining import LossConfig

# Eq. 2: the teachers of the contrast, and which embeddings are compared.
CONTRASTS = {"image": "PI", "text": "PT"}

# What a gradient by dense matrices keeps at its peak (docs/losses.md).
DENSE_MATRICES = 40
_DENSE_BYTES = 2**30  # that "auto" allows a device


class Term(NamedTuple):
  """A relation term of Eq. 9: a student's relation and a teacher's.

  Attributes:
    name: "PI-TI": points to images against texts to images.
    student: "PI", query and key modality.
    teacher: "TI".
    intra: Whether both are within one modality.
    needs_text: Whether only samples with a text take part.
    diagonal: Whether a sample is paired with itself.
    scale: Of the similarities in Eq. 5-6; 0 is the contrast's.
  """

  name: str
  student: str
  teacher: str
  intra: bool
  needs_text: bool
  diagonal: bool
  scale: float


def term_groups(config: LossConfig) -> dict[str, tuple[str, ...]]:
  """Groups the relation terms of Eq. 9, two by two, as they share weights.

  A term is named student-teacher, each a query and a key modality: "PI-TI"
  compares the relation of points to images with that of texts to images.
  One intra teacher alone shares its weight with nothing.
  """
  groups = {}
  if config.intra:
    teachers = {"image": ("PP-II",), "text": ("PP-TT",)}
    groups["intra"] = teachers.get(config.intra_teacher, ("PP-II", "PP-TT"))
  if config.cross and config.cross_form == "full":
    groups["cross_image"] = ("PI-TI", "PI-IT")
    groups["cross_text"] = ("PT-IT", "PT-TI")
  elif config.cross:
    groups["cross"] = ("PI-TI", "PT-IT")
  return groups


def relation_terms(config: LossConfig) -> tuple[Term, ...]:
  """Lists the terms of `term_groups`, in order."""
  return tuple(
    Term(
      name=name,
      student=name[:2],
      teacher=name[3:],
      intra=group == "intra",
      needs_text="T" in name,
      diagonal=config.intra_diagonal
      if group == "intra"
      else config.cross_diagonal,
      scale=config.intra_scale if group == "intra" else config.cross_scale,
    )
    for group, names in term_groups(config).items()
    for name in names
  )


def choose_form(
  config: LossConfig, batch_size: int, devices: int
) -> Literal["dense", "gather"]:
  """Chooses the form that `config.form` means: "dense" or "gather".

  "auto" is "dense" while its matrices, shared by the devices, take less than
  1 GiB on each, and "gather" from there: up to a global batch of 2,590 on one
  device and 7,327 on eight.

  Args:
    config: The variant.
    batch_size: Global batch.
    devices: Over how many it is shared.
  """
  if config.form != "auto":
    return config.form
  matrices = DENSE_MATRICES * 4 * batch_size**2
  return "dense" if matrices < _DENSE_BYTES * devices else "gather"
