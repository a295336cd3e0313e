"""Defines OpenShape's PointBERT encoder in plain PyTorch.

Needs nothing but PyTorch.  Weights are read by `pointbert_torch.py`, which
needs nothing but this file beside it.

Module structure and state-dict keys are those of OpenShape's `Projected(
PointPatchTransformer, Linear)` (https://github.com/Colin97/OpenShape_code), so
its published weights load as they are.  The differences:

* Farthest point sampling starts at point 0 of a cloud in a fixed pseudo-random
  order (not at a random point): the same cloud gives the same embedding.
* Squared distances are sums of squared differences (not the expansion
  -2xy + x^2 + y^2, which loses points at a ball's boundary).
* A cloud may have fewer points than its tensor has rows (`num_points`).

Letters: B clouds, N points, S patches, K samples a patch, C channels.

Licence: Apache-2.0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_HEAD_DIM = 64
# Centers whose distances to all points are held at a time.
_CENTERS = 32


def _squared_distances(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
  """Squared distances between two (x, y, z), which broadcast."""
  dx, dy, dz = (p - q for p, q in zip(a, b, strict=True))
  return dx * dx + dy * dy + dz * dz


def _exists(xyz: Tensor, num_points: Tensor | None) -> Tensor | None:
  """Which points exist, (B, N) bool; None if all do."""
  if num_points is None:
    return None
  batch, total, _ = xyz.shape
  counts = torch.as_tensor(num_points, device=xyz.device)
  if not torch.compiler.is_compiling() and (
    counts.shape != (batch,) or not ((counts >= 1) & (counts <= total)).all()
  ):
    raise ValueError(
      f"num_points {counts.tolist()} does not fit xyz {tuple(xyz.shape)}"
    )
  return torch.arange(total, device=xyz.device) < counts[:, None]


def farthest_point_sample(
  xyz: Tensor, n: int, num_points: Tensor | None = None
) -> Tensor:
  """Picks n points of each cloud, each the farthest from those before it.

  Starts at point 0. Ties go to the lowest index; when the points have run out
  (every distance is 0) that is point 0 again.

  Args:
    xyz: (B, N, 3) points.
    n: how many to pick.
    num_points: (B,) or None; only a cloud's first num_points[b] points exist.

  Returns:
    (B, n) int64 indices.

  Raises:
    ValueError: if num_points does not fit xyz.
  """
  exists = _exists(xyz, num_points)
  x, y, z = (axis.contiguous() for axis in xyz.detach().unbind(-1))
  nearest = torch.full_like(x, float("inf"))
  if exists is not None:
    nearest = nearest.masked_fill(~exists, -1.0)  # below every distance
  last = torch.zeros_like(x[:, :1], dtype=torch.int64)
  chosen = [last]
  for _ in range(n - 1):
    center = [axis.gather(1, last) for axis in (x, y, z)]
    nearest = nearest.minimum(_squared_distances((x, y, z), center))
    last = nearest.argmax(dim=1, keepdim=True)  # the first of several maxima
    chosen.append(last)
  return torch.cat(chosen, dim=1)


def ball_query(
  xyz: Tensor,
  centers: Tensor,
  radius: float,
  nsample: int,
  num_points: Tensor | None = None,
) -> Tensor:
  """Finds the first nsample points, in index order, of the ball at a center.

  A point is in the ball if its squared distance is <= radius^2. Rows with too
  few points are padded by repeating their first index.

  Args:
    xyz: (B, N, 3) points.
    centers: (B, S, 3) centers of the balls.
    radius: in the units of xyz.
    nsample: points a ball.
    num_points: (B,) or None; only a cloud's first num_points[b] points exist.

  Returns:
    (B, S, nsample) int64 indices.

  Raises:
    ValueError: if num_points does not fit xyz, or a ball is empty (never so
      for centers that are points). Neither is checked in a traced program.
  """
  exists = _exists(xyz, num_points)
  points = xyz.detach()[:, None].unbind(-1)  # (B, 1, N) each
  index = torch.arange(xyz.shape[1], device=xyz.device)
  rank = torch.arange(nsample, device=xyz.device)
  found, sizes = [], []
  for some in centers.detach().split(_CENTERS, dim=1):
    center = some[:, :, None].unbind(-1)  # (B, s, 1) each
    inside = _squared_distances(points, center) <= radius * radius
    if exists is not None:
      inside = inside & exists[:, None]
    # The running count of a ball's points is the slot of each, from 1. All
    # that is outside or too many adds 0, so no slot gets two points.
    count = inside.cumsum(dim=-1)
    taken = inside & (count <= nsample)
    slots = count.new_zeros(*count.shape[:2], nsample)
    slots = slots.scatter_add(-1, (count - 1) * taken, index * taken)
    size = count[..., -1:]
    found.append(torch.where(rank < size, slots, slots[..., :1]))
    sizes.append(size)
  if not torch.compiler.is_compiling():
    empty = (torch.cat(sizes, dim=1) == 0).nonzero()
    if len(empty):
      b, s, _ = empty[0].tolist()
      raise ValueError(f"no point within {radius} of center {centers[b, s]}")
  return torch.cat(found, dim=1)


def _take(values: Tensor, index: Tensor) -> Tensor:
  """values (B, N, C), index (B, ...) -> (B, ..., C)."""
  batch, total, channels = values.shape
  first = torch.arange(batch, device=index.device) * total
  rows = index.flatten(1) + first[:, None]
  taken = values.reshape(-1, channels)[rows]
  return taken.reshape(*index.shape, channels)


class PointNetSetAbstraction(nn.Module):
  """Groups points by FPS and ball query and embeds each group."""

  def __init__(
    self,
    patches: int,
    radius: float,
    nsample: int,
    in_channel: int,
    widths: Sequence[int],
  ):
    super().__init__()
    self.patches = patches
    self.radius = radius
    self.nsample = nsample
    self.mlp_convs = nn.ModuleList()
    self.mlp_bns = nn.ModuleList()
    for width in widths:
      self.mlp_convs.append(nn.Conv2d(in_channel, width, 1))
      self.mlp_bns.append(nn.BatchNorm2d(width))
      in_channel = width

  def forward(
    self, xyz: Tensor, features: Tensor, num_points: Tensor | None = None
  ) -> tuple[Tensor, Tensor]:
    """Embeds the patches.

    Args:
      xyz: (B, N, 3).
      features: (B, N, C).
      num_points: (B,) or None.

    Returns:
      centers (B, 3, S) and group features (B, sa_dim, S).
    """
    chosen = farthest_point_sample(xyz, self.patches, num_points)
    centers = _take(xyz, chosen)  # (B, S, 3)
    index = ball_query(xyz, centers, self.radius, self.nsample, num_points)
    relative = _take(xyz, index) - centers[:, :, None, :]
    group = torch.cat([relative, _take(features, index)], dim=-1)
    x = group.permute(0, 3, 2, 1)  # (B, S, K, C) -> (B, C, K, S)
    for conv, norm in zip(self.mlp_convs, self.mlp_bns, strict=True):
      x = torch.relu(norm(conv(x)))
    return centers.permute(0, 2, 1), x.max(dim=2).values


class ChannelsLast(nn.Module):
  """Makes (B, S, C) of (B, C, S); OpenShape has a lambda here."""

  def forward(self, x: Tensor) -> Tensor:
    return x.permute(0, 2, 1)


class PreNorm(nn.Module):
  """fn(LayerNorm(x)); the residual is added by the block."""

  def __init__(self, dim: int, fn: nn.Module):
    super().__init__()
    self.norm = nn.LayerNorm(dim)
    self.fn = fn

  def forward(self, x: Tensor) -> Tensor:
    return self.fn(self.norm(x))


class Attention(nn.Module):
  """Multi-head self-attention with heads of width 64, qkv without bias."""

  def __init__(self, dim: int, heads: int):
    super().__init__()
    self.heads = heads
    inner = heads * _HEAD_DIM
    self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
    self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(0.0))

  def forward(self, x: Tensor) -> Tensor:
    """(B, S, dim) -> (B, S, dim)."""
    queries_keys_values = self.to_qkv(x).chunk(3, dim=-1)
    q, k, v = (  # (B, heads, S, 64)
      y.unflatten(-1, (self.heads, _HEAD_DIM)).transpose(1, 2)
      for y in queries_keys_values
    )
    scores = q @ k.transpose(-1, -2) * _HEAD_DIM**-0.5  # (B, heads, S, S)
    mixed = scores.softmax(dim=-1) @ v
    return self.to_out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
  """Linear, exact GELU, Linear."""

  def __init__(self, dim: int, hidden: int):
    super().__init__()
    first, second = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
    self.net = nn.Sequential(
      first, nn.GELU(), nn.Dropout(0.0), second, nn.Dropout(0.0)
    )

  def forward(self, x: Tensor) -> Tensor:
    return self.net(x)


class Block(nn.ModuleList):
  """x + attention(LayerNorm(x)), then the same with the feed-forward net.

  A list, because OpenShape's keys number its two halves 0 and 1.
  """

  def __init__(self, dim: int, heads: int, mlp_dim: int):
    halves = (Attention(dim, heads), FeedForward(dim, mlp_dim))
    super().__init__(PreNorm(dim, half) for half in halves)

  def forward(self, x: Tensor) -> Tensor:
    """(B, S, dim) -> (B, S, dim)."""
    for half in self:
      x = x + half(x)
    return x


class Transformer(nn.Module):
  """Pre-norm blocks, with no norm after the last one."""

  def __init__(self, dim: int, depth: int, heads: int, mlp_dim: int):
    super().__init__()
    self.layers = nn.ModuleList(
      Block(dim, heads, mlp_dim) for _ in range(depth)
    )

  def forward(self, x: Tensor) -> Tensor:
    for block in self.layers:
      x = block(x)
    return x


class PointPatchTransformer(nn.Module):
  """Tokens of patches, a cls token, a transformer; returns the cls token."""

  def __init__(
    self,
    dim: int,
    depth: int,
    heads: int,
    mlp_dim: int,
    sa_dim: int,
    patches: int,
    radius: float,
    nsample: int,
    in_channel: int = 6,
  ):
    super().__init__()
    self.sa = PointNetSetAbstraction(
      patches, radius, nsample, in_channel + 3, (64, 64, sa_dim)
    )
    self.lift = nn.Sequential(
      nn.Conv1d(sa_dim + 3, dim, 1), ChannelsLast(), nn.LayerNorm(dim)
    )
    self.cls_token = nn.Parameter(torch.randn(dim))
    self.transformer = Transformer(dim, depth, heads, mlp_dim)

  def forward(
    self, xyz: Tensor, features: Tensor, num_points: Tensor | None = None
  ) -> Tensor:
    """xyz (B, N, 3), features (B, N, in_channel) -> (B, dim)."""
    centers, groups = self.sa(xyz, features, num_points)
    tokens = self.lift(torch.cat([centers, groups], dim=1))  # (B, S, dim)
    cls = self.cls_token.expand(xyz.shape[0], 1, -1)
    return self.transformer(torch.cat([cls, tokens], dim=1))[:, 0]


class Projected(nn.Module):
  """A PointPatchTransformer followed by a linear map to CLIP's space.

  Attributes:
    ppat: the PointPatchTransformer.
    proj: the nn.Linear; None for a model whose cls token is the embedding
      (OpenShape's for ViT-B/32).
  """

  def __init__(self, ppat: PointPatchTransformer, proj: nn.Linear | None):
    super().__init__()
    self.ppat = ppat
    self.proj = proj

  def forward(
    self, xyz: Tensor, features: Tensor, num_points: Tensor | None = None
  ) -> Tensor:
    """Un-normalised embeddings of clouds that are already prepared.

    Args:
      xyz: (B, N, 3) points.
      features: (B, N, in_channel), by default xyz and rgb side by side.
      num_points: (B,) or None; only a cloud's first num_points[b] points
        exist.

    Returns:
      (B, D).

    Raises:
      ValueError: if num_points does not fit xyz.
    """
    x = self.ppat(xyz, features, num_points)
    return x if self.proj is None else self.proj(x)
