"""Computes Eq. 1-13 of MRD with autograd, a row or an anchor at a time.

Letters: B samples, D channels, n and m rows and columns of a relation. A pair
mask (n, m) says which pairs (i, j), i the query, belong to a relation. Samples
without text are cut out of everything that involves text before anything is
computed, so no mask can be wrong.
"""

import functools

import torch
from torch import Tensor

REPRESENTATIONS = ("euclidean", "similarity", "partial_order")
_WEIGHTS = ("dynamic", "fixed")


def unit(x: Tensor) -> Tensor:
  """Rows of x (B, D) divided by their Euclidean norms."""
  return x / x.norm(dim=-1, keepdim=True)


# Relations, Eq. 3-8.


def relation_euclidean(a: Tensor, b: Tensor) -> Tensor:
  """Distances ||a_i - b_j||, Eq. 3 and 4 before the division by Z.

  Args:
    a: (n, D) unit vectors.
    b: (m, D) unit vectors.

  Returns:
    (n, m); the gradient of a distance of exactly 0 is 0.
  """
  return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def divide_by_mean(relation: Tensor, pair_mask: Tensor) -> Tensor:
  """Divides a relation (n, m) by its mean over its pairs (Z of Eq. 4).

  The equation leaves Z = 0 open (one sample that is its own copy): such a
  relation is all zeros and stays so.
  """
  pairs = relation[pair_mask]
  if not pairs.any():
    return relation
  return relation / pairs.mean()


def relation_log_similarity(
  a: Tensor, b: Tensor, scale: Tensor | float, pair_mask: Tensor
) -> Tensor:
  """Computes the log of the normalised similarity, Eq. 5 and 6.

  Args:
    a: (n, D) unit vectors, the queries.
    b: (m, D) unit vectors.
    scale: scalar, 1/tau.
    pair_mask: (n, m) bool.

  Returns:
    (n, m) log probabilities; each row's softmax runs over its pairs, and what
    is not a pair has -inf.
  """
  rows = []
  for query, mask in zip(a, pair_mask, strict=True):
    row = torch.full((len(b),), float("-inf"), dtype=a.dtype)
    row[mask] = torch.log_softmax(scale * (b[mask] @ query), dim=0)
    rows.append(row)
  return torch.stack(rows)


# Discrepancies, Eq. 10-12. Teachers are constants.


def mse(student: Tensor, teacher: Tensor, pair_mask: Tensor) -> Tensor:
  """Computes Eq. 10: the mean squared difference of the pairs; 0 without."""
  return ((student - teacher.detach())[pair_mask] ** 2).mean()


def jeffrey(
  log_student: Tensor, log_teacher: Tensor, pair_mask: Tensor
) -> Tensor:
  """Computes Eq. 11: KL both ways, summed; mean over rows with pairs.

  All are (n, m); the logs come from relation_log_similarity.
  """
  rows = []
  for i, mask in enumerate(pair_mask):
    log_p, log_q = log_student[i, mask], log_teacher[i, mask].detach()
    forward = (log_p.exp() * (log_p - log_q)).sum()  # KL(P || Q)
    backward = (log_q.exp() * (log_q - log_p)).sum()  # KL(Q || P)
    rows.append(forward + backward)
  return torch.stack(rows).mean()


def margin_ranking(
  student: Tensor, teacher: Tensor, pair_mask: Tensor, margin: float
) -> Tensor:
  """Computes Eq. 12: a hinge on every pair of columns of every anchor.

  For an anchor i and columns j, k: max(0, margin - sign * (d_ik - d_ij)), d the
  student's distance and sign that of the teacher's difference. Where it is 0
  the teacher has no order (Eq. 7 and 8), and there is no pair.

  Args:
    student: (n, m) the student's Euclidean distances.
    teacher: (n, m) the teacher's.
    pair_mask: (n, m) bool.
    margin: in units of distance.

  Returns:
    The mean over all anchors' pairs of columns; 0 if there is none.
  """
  hinges = []
  for d, order, mask in zip(student, teacher.detach(), pair_mask, strict=True):
    j, k = torch.combinations(mask.nonzero()[:, 0], 2).T
    sign = torch.sign(order[k] - order[j])
    hinge = (margin - sign * (d[k] - d[j])).clamp(min=0.0)
    hinges.append(hinge[sign != 0])
  if sum(map(len, hinges)) == 0:
    return torch.zeros((), dtype=student.dtype)
  return torch.cat(hinges).mean()


# Losses, Eq. 1, 2, 9 and 13.


def contrastive(a: Tensor, b: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
  """Computes Eq. 1: symmetric InfoNCE among the valid samples.

  Args:
    a: (B, D) unit vectors.
    b: (B, D) unit vectors.
    scale: scalar, 1/tau.
    valid: (B,) bool.

  Returns:
    A scalar; 0 if no sample is valid.
  """
  if not valid.any():
    return torch.zeros((), dtype=a.dtype)
  logits = scale * (a[valid] @ b[valid].T)
  rows = torch.log_softmax(logits, dim=1).diagonal()
  columns = torch.log_softmax(logits, dim=0).diagonal()
  return -(rows.mean() + columns.mean()) / 2


def relation_discrepancy(
  student: tuple[Tensor, Tensor],
  teacher: tuple[Tensor, Tensor],
  is_intra: bool,
  *,
  representation: str,
  scale: Tensor | float,
  diagonal: bool,
  normalise_intra: bool,
  margin: float,
) -> Tensor:
  """Computes D(R^student, R^teacher) of two relations given by their ends.

  Args:
    student: (a, b), unit vectors (n, D) each: the relation of a's rows to b's.
    teacher: (a, b) likewise; constants.
    is_intra: whether the relation is within one modality.
    representation: one of REPRESENTATIONS.
    scale: scalar of Eq. 5 and 6, a constant.
    diagonal: whether the relation has the pairs (i, i).
    normalise_intra: whether intra distances too are divided by their mean.
    margin: of Eq. 12.

  Returns:
    A scalar; 0 if the relation has no pair.
  """
  n = len(student[0])
  pairs = torch.ones(n, n, dtype=torch.bool)
  if not diagonal:
    pairs &= ~torch.eye(n, dtype=torch.bool)
  if not pairs.any():
    return torch.zeros((), dtype=student[0].dtype)

  if representation == "similarity":
    return jeffrey(
      relation_log_similarity(*student, scale, pairs),
      relation_log_similarity(*teacher, scale, pairs),
      pairs,
    )
  student_d = relation_euclidean(*student)
  teacher_d = relation_euclidean(*teacher)
  if representation == "partial_order":
    return margin_ranking(student_d, teacher_d, pairs, margin)
  if normalise_intra or not is_intra:
    student_d = divide_by_mean(student_d, pairs)
    teacher_d = divide_by_mean(teacher_d, pairs)
  return mse(student_d, teacher_d, pairs)


def mrd_loss(
  point: Tensor,
  image: Tensor,
  text: Tensor,
  has_text: Tensor,
  logit_scale: Tensor,
  dynamic_weights: dict[str, Tensor],
  *,
  representation: str,
  intra: bool = True,
  intra_teacher: str = "both",
  cross: bool = True,
  cross_form: str = "full",
  weights: str = "dynamic",
  intra_scale: float = 1.0,
  cross_scale: float = 1.0,
  intra_diagonal: bool = True,
  cross_diagonal: bool = True,
  normalise_intra: bool = True,
  margin: float = 0.1,
  lam: float = 3.0,
) -> tuple[Tensor, dict[str, Tensor]]:
  """Computes Eq. 13: contrast plus lam times the relation losses.

  Args:
    point: (B, D) raw embeddings of the shapes, the student.
    image: (B, D) raw embeddings of the images, a teacher.
    text: (B, D) raw embeddings of the texts, a teacher.
    has_text: (B,) bool; rows of text without it are never looked at.
    logit_scale: scalar, ln(1/tau); takes no gradient from the relations.
    dynamic_weights: {"intra", "cross_image", "cross_text"}: (2,) each, the
      logits of the weights of Eq. 9.
    representation: one of REPRESENTATIONS.
    intra: whether there is an intra-modal relation loss.
    intra_teacher: "both", or the "image" or the "text" teacher alone, whose
      term then has the weight 1.
    cross: whether there is a cross-modal relation loss.
    cross_form: "full", or "matched" for PI-TI and PT-IT alone, weighted by
      the pair "cross_image".
    weights: "dynamic", or "fixed" for 1/2 each.
    intra_scale: of Eq. 5; 0 is exp(logit_scale).
    cross_scale: of Eq. 6, likewise.
    intra_diagonal: whether intra relations have the pairs (i, i).
    cross_diagonal: whether cross relations have them.
    normalise_intra: whether intra distances too are divided by their mean.
    margin: of Eq. 12.
    lam: of Eq. 13.

  Returns:
    The loss, and its terms by name: "contrast/..", "intra/..", "cross/.." (D,
    before its weight; absent if switched off), "intra", "cross" and "loss".
  """
  if representation not in REPRESENTATIONS:
    raise ValueError(f"representation {representation!r}")
  if cross_form not in ("full", "matched") or weights not in _WEIGHTS:
    raise ValueError(f"cross_form {cross_form!r}, weights {weights!r}")
  if intra_teacher not in ("both", "image", "text"):
    raise ValueError(f"intra_teacher {intra_teacher!r}")
  scale = logit_scale.exp()

  intra_discrepancy, cross_discrepancy = (
    functools.partial(
      relation_discrepancy,
      is_intra=is_intra,
      representation=representation,
      scale=own_scale or scale.detach(),
      diagonal=diagonal,
      normalise_intra=normalise_intra,
      margin=margin,
    )
    for is_intra, own_scale, diagonal in (
      (True, intra_scale, intra_diagonal),
      (False, cross_scale, cross_diagonal),
    )
  )

  def weighted(pair: str, first: Tensor, second: Tensor) -> Tensor:
    if weights == "fixed":
      return (first + second) / 2
    w = torch.softmax(dynamic_weights[pair], dim=0)
    return w[0] * first + w[1] * second

  # All samples, and those with text ("_t").
  p, i = unit(point), unit(image)
  p_t, i_t, t_t = p[has_text], i[has_text], unit(text[has_text])
  everyone = torch.ones(len(point), dtype=torch.bool)
  terms = {
    "contrast/image": contrastive(p, i, scale, everyone),
    "contrast/text": contrastive(p_t, t_t, scale, everyone[has_text]),
  }

  # To the relations the teachers are constants, the student's ends included.
  i, i_t, t_t = i.detach(), i_t.detach(), t_t.detach()
  intra_loss = cross_loss = torch.zeros((), dtype=point.dtype)
  if intra and intra_teacher != "text":
    intra_loss = terms["intra/PP-II"] = intra_discrepancy((p, p), (i, i))
  if intra and intra_teacher != "image":
    intra_loss = intra_discrepancy((p_t, p_t), (t_t, t_t))
    terms["intra/PP-TT"] = intra_loss
  if intra and intra_teacher == "both":
    intra_loss = weighted("intra", terms["intra/PP-II"], terms["intra/PP-TT"])
  if cross:
    pi, pt, it, ti = (p_t, i_t), (p_t, t_t), (i_t, t_t), (t_t, i_t)
    pi_ti = terms["cross/PI-TI"] = cross_discrepancy(pi, ti)
    pt_it = terms["cross/PT-IT"] = cross_discrepancy(pt, it)
    if cross_form == "matched":
      cross_loss = weighted("cross_image", pi_ti, pt_it)
    else:
      pi_it = terms["cross/PI-IT"] = cross_discrepancy(pi, it)
      pt_ti = terms["cross/PT-TI"] = cross_discrepancy(pt, ti)
      cross_loss = weighted("cross_image", pi_ti, pi_it)
      cross_loss = cross_loss + weighted("cross_text", pt_it, pt_ti)

  loss = terms["contrast/image"] + terms["contrast/text"]
  loss = loss + lam * (intra_loss + cross_loss)
  terms.update({"intra": intra_loss, "cross": cross_loss, "loss": loss})
  return loss, terms
