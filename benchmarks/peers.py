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

import argparse
import copy
import math
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs import base
from mrd_jax.compare.torch_optimizer import make_optimizer
from mrd_jax.config.pretraining import Config
from mrd_jax.convert import bridge, pointbert_modules
from mrd_jax.data.examples import Batch, train_examples
from mrd_jax.encoder.encoder import Encoder
from mrd_jax.losses.mrd import init_dynamic_weights

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


def training(
  args: argparse.Namespace, encoder: Callable, batch: Batch
) -> Callable[[], Tensor]:
  """Each call makes a step on the clouds of our first, and returns its loss."""
  values = base.get_config()
  values.augment.num_points = args.points
  config = Config.from_dict(values)
  examples = jax.jit(
    lambda: train_examples(batch, config.augment, seed=0, step=jnp.int32(0))
  )()
  assert np.asarray(examples.has_text).all()
  points, image, text = (
    torch.tensor(np.asarray(x, np.float32), device=args.torch_device)
    for x in (examples.points, examples.image, examples.text)
  )
  model = encoder.model.to(args.torch_device).train()
  scalars = {
    "logit_scale": torch.tensor(math.log(config.logit_scale.init)),
    **{name: torch.zeros(2) for name in init_dynamic_weights(config.loss)},
  }
  scalars = {
    name: x.to(args.torch_device).requires_grad_()
    for name, x in scalars.items()
  }
  logit_scale = scalars.pop("logit_scale")
  optimizer = make_optimizer(
    dict(model.named_parameters()) | {"logit_scale": logit_scale},
    scalars,
    lr=1e-4,
    dynamic_lr=1e-4,
  )

  def run() -> Tensor:
    with torch.autocast(
      args.torch_device, torch.bfloat16, enabled=args.dtype == "bfloat16"
    ):
      point = encoder(points[..., :3].contiguous(), points)
    loss = mrd_loss(point.float(), image, text, logit_scale, scalars)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss

  return run


def inference(
  args: argparse.Namespace, encoder: Callable, points: np.ndarray
) -> Callable[[], Tensor]:
  """Each call embeds the clouds."""
  encoder.model.to(args.torch_device).eval()
  clouds = torch.tensor(points, device=args.torch_device)

  def run() -> Tensor:
    with (
      torch.inference_mode(),
      torch.autocast(
        args.torch_device, torch.bfloat16, enabled=args.dtype == "bfloat16"
      ),
    ):
      return encoder(clouds[..., :3].contiguous(), clouds)

  return run


def forms(
  args: argparse.Namespace, ours: Encoder, batch: Batch, points: np.ndarray
) -> dict[str, Callable[[], Tensor]]:
  """Prepares the forms that `benchmarks.encoder` was asked for.

  Args:
    args: Its flags.
    ours: The weights.
    batch: What the training steps take.
    points: (B, N, 6) float32, what inference takes.
  """
  torch.set_num_threads(args.threads)
  model = bridge.torch_model(ours)
  made = {
    name: encoder(copy.deepcopy(model), name)
    for name in args.forms
    if name in FORMS
  }
  if args.work == "train":
    return {name: training(args, form, batch) for name, form in made.items()}
  return {name: inference(args, form, points) for name, form in made.items()}
