"""What users come from, in PyTorch, as other programs write it.

The weights' names are those of `mrd_jax/convert/pointbert_modules.py`, which is
our own port; here its parts are exchanged:

  eager    as OpenShape writes it: the ball query sorts the indices of all
           points, attention is two products and a softmax.  (Sampling is the
           port's loop, which is faster than OpenShape's fallback; its DGL
           kernel is a package that no longer installs.)
  tuned    the port's ball query by counting, PyTorch's fused attention
  compile  tuned, through torch.compile
"""

import copy
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrd_jax.convert import pointbert_modules

FORMS = ("eager", "tuned", "compile")


def sorting_ball_query(
  xyz: Tensor,
  centers: Tensor,
  radius: float,
  nsample: int,
  num_points: Tensor | None = None,
) -> Tensor:
  """(B, S, nsample): indices outside become N, and all are sorted."""
  del num_points  # all points exist
  d2 = (centers[:, :, None] - xyz[:, None]).square().sum(-1)
  index = torch.arange(xyz.shape[1], device=xyz.device).expand(d2.shape).clone()
  index[d2 > radius**2] = xyz.shape[1]
  first = index.sort(dim=-1).values[..., :nsample]
  return torch.where(first < xyz.shape[1], first, first[..., :1])


class FusedAttention(pointbert_modules.Attention):
  """The port's attention, but for its kernel."""

  def forward(self, x: Tensor) -> Tensor:
    q, k, v = (
      y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
      for y in self.to_qkv(x).chunk(3, dim=-1)
    )
    mixed = F.scaled_dot_product_attention(q, k, v)
    return self.to_out(mixed.transpose(1, 2).flatten(2))


def encoder(
  model: pointbert_modules.Projected, form: str
) -> Callable[[Tensor, Tensor], Tensor]:
  """(xyz (B, N, 3), features (B, N, 6)) -> embeddings, with `model`'s weights.

  The model that it computes with is its attribute `model`.
  """
  if form == "eager":

    def eager(xyz: Tensor, features: Tensor) -> Tensor:
      with mock.patch.object(
        pointbert_modules, "ball_query", sorting_ball_query
      ):
        return eager.model(xyz, features)

    eager.model = model
    return eager
  for module in model.modules():
    if type(module) is pointbert_modules.Attention:
      module.__class__ = FusedAttention
  run = torch.compile(model) if form == "compile" else model

  def call(xyz: Tensor, features: Tensor) -> Tensor:
    return run(xyz, features)

  call.model = model
  return call


def copies(model: nn.Module, forms: list[str]) -> dict[str, Callable]:
  """Each form with its own copy of the weights."""
  return {form: encoder(copy.deepcopy(model), form) for form in forms}


def mrd_loss(
  point: Tensor,
  image: Tensor,
  text: Tensor,
  logit_scale: Tensor,
  dynamic_weights: dict[str, Tensor],
) -> Tensor:
  """The paper's loss (similarity, Eq. 13), a whole matrix at a time.

  Args:
    point: (B, D) embeddings.
    image: (B, D), constants.
    text: (B, D), likewise; all samples have one.
    logit_scale: ln(1 / temperature).
    dynamic_weights: {"intra", "cross_image", "cross_text"}: (2,) logits.
  """
  p, i, t = (F.normalize(x, dim=-1) for x in (point, image, text))
  target = torch.arange(len(p), device=p.device)
  own = torch.eye(len(p), dtype=torch.bool, device=p.device)
  scale = logit_scale.exp()

  def contrast(a: Tensor, b: Tensor) -> Tensor:
    z = scale * a @ b.T
    return (F.cross_entropy(z, target) + F.cross_entropy(z.T, target)) / 2

  def relation(a: Tensor, b: Tensor) -> Tensor:
    z = scale.detach() * a @ b.T
    if a is b:
      z = z.masked_fill(own, -1e9)
    return z.log_softmax(dim=-1)

  def jeffrey(student: Tensor, teacher: Tensor) -> Tensor:
    difference = student - teacher
    return ((student.exp() - teacher.exp()) * difference).sum(-1).mean()

  def weighted(name: str, first: Tensor, second: Tensor) -> Tensor:
    w = dynamic_weights[name].softmax(0)
    return w[0] * first + w[1] * second

  pp, pi, pt = relation(p, p), relation(p, i), relation(p, t)
  ii, tt, it, ti = (relation(*x) for x in ((i, i), (t, t), (i, t), (t, i)))
  relations = (
    weighted("intra", jeffrey(pp, ii), jeffrey(pp, tt))
    + weighted("cross_image", jeffrey(pi, ti), jeffrey(pi, it))
    + weighted("cross_text", jeffrey(pt, it), jeffrey(pt, ti))
  )
  return contrast(p, i) + contrast(p, t) + 3.0 * relations
