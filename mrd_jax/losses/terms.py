"""Which variant of the losses is computed, and what terms that gives."""

import dataclasses
from typing import Literal, NamedTuple

Representation = Literal["similarity", "euclidean", "partial_order"]
CrossForm = Literal["full", "matched"]
Weighting = Literal["dynamic", "alternating", "fixed"]
Form = Literal["auto", "dense", "gather", "ring"]

# What a gradient by dense matrices keeps at its peak (docs/losses.md).
_DENSE_MATRICES = 40
_DENSE_BYTES = 2**30  # that "auto" allows a device


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Which of the method's variants is computed; the defaults are the paper's.

  Attributes:
    representation: How a relation is represented, with its discrepancy:
      normalised similarity with Jeffrey divergence, Euclidean distance with
      mean squared error, or partial order with margin ranking.
    intra: Whether the intra-modal terms take part.
    cross: Whether the cross-modal terms take part.
    cross_form: "full": four cross terms, two pairs of weights; "matched":
      D(PI, TI) and D(PT, IT) only, one pair over them.
    weighting: "dynamic": pairs of learned weights; "alternating": the same,
      but every second step updates only them (`training/optimizer.py`); "fixed": 1/2.
    relation_weight: lambda of Eq. 13.
    relation_scale: Scale of the similarities in Eq. 5-6; 0 means the
      contrastive logit scale without its gradient.
    keep_diagonal: Whether intra relations keep the pair of a sample with
      itself.
    normalize_intra: Whether intra Euclidean distances are divided by their
      mean (Eq. 3 as printed does not, Eq. 4 does).
    margin: m of Eq. 12.
    sampled_pairs: How many random pairs per anchor Eq. 12 takes; 0 takes all.
    form: How the terms are computed; the numbers are the same.  "dense":
      from (B, B) matrices; "gather": tile by tile, every device its rows
      against all columns; "ring": the same, the columns on their way from
      device to device; "auto": `choose_form`.
    stripe: Columns of a tile in the forms "gather" and "ring".
  """

  representation: Representation = "similarity"
  intra: bool = True
  cross: bool = True
  cross_form: CrossForm = "full"
  weighting: Weighting = "dynamic"
  relation_weight: float = 3.0
  relation_scale: float = 0.0
  keep_diagonal: bool = False
  normalize_intra: bool = True
  margin: float = 0.1
  sampled_pairs: int = 0
  form: Form = "auto"
  stripe: int = 512


class Term(NamedTuple):
  """A relation term of Eq. 9: a student's relation and a teacher's.

  Attributes:
    name: "PI-TI": points to images against texts to images.
    student: "PI", query and key modality.
    teacher: "TI".
    intra: Whether both are within one modality.
    needs_text: Whether only samples with a text take part.
    diagonal: Whether a sample is paired with itself.
  """

  name: str
  student: str
  teacher: str
  intra: bool
  needs_text: bool
  diagonal: bool


def term_groups(config: LossConfig) -> dict[str, tuple[str, str]]:
  """The relation terms of Eq. 9, two by two as they share a pair of weights.

  A term is named student-teacher, each a query and a key modality: "PI-TI"
  compares the relation of points to images with that of texts to images.
  """
  groups = {}
  if config.intra:
    groups["intra"] = ("PP-II", "PP-TT")
  if config.cross and config.cross_form == "full":
    groups["cross_image"] = ("PI-TI", "PI-IT")
    groups["cross_text"] = ("PT-IT", "PT-TI")
  elif config.cross:
    groups["cross"] = ("PI-TI", "PT-IT")
  return groups


def relation_terms(config: LossConfig) -> tuple[Term, ...]:
  """The terms of `term_groups`, in order."""
  terms = []
  for group, names in term_groups(config).items():
    for name in names:
      student, teacher = name.split("-")
      intra = group == "intra"
      diagonal = config.keep_diagonal or not intra
      terms.append(Term(name, student, teacher, intra, "T" in name, diagonal))
  return tuple(terms)


def choose_form(
  config: LossConfig, batch_size: int, devices: int
) -> Literal["dense", "gather", "ring"]:
  """The form that `config.form` means: "dense", "gather" or "ring".

  "auto" is "dense" while its matrices, shared by the devices, take less than
  1 GiB on each, and "gather" from there: up to a global batch of 2,590 on one
  device and 7,327 on eight.  A ring saves memory only where all devices'
  features do not fit on one, so it is never chosen, only asked for.

  Args:
    config: The variant.
    batch_size: Global batch.
    devices: Over how many it is shared.
  """
  if config.form != "auto":
    return config.form
  matrices = _DENSE_MATRICES * 4 * batch_size**2
  return "dense" if matrices < _DENSE_BYTES * devices else "gather"
