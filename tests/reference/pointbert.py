"""OpenShape's point encoder: FPS, ball query, mini-PointNet, transformer.

Module structure and state-dict keys are those of OpenShape's `Projected(
PointPatchTransformer, Linear)`, so its published weights load as they are.
The differences: farthest point sampling starts at point 0 (not at a random
one), distances are direct differences (not the -2xy + x^2 + y^2 expansion),
and a cloud may have fewer valid points than the tensor has rows.

Letters: B clouds, N points, S patches, K samples a patch, C channels.
"""

import torch
from torch import nn

_HEAD_DIM = 64


def _squared_distances(points, center):
  """Squared distances (N,) of points (N, 3) to one center (3,)."""
  dx, dy, dz = (points - center).unbind(-1)
  return dx * dx + dy * dy + dz * dz


def _valid_counts(xyz, num_points):
  """Number of existing points of each cloud, a list of B ints."""
  batch, total, _ = xyz.shape
  if num_points is None:
    return [total] * batch
  counts = [int(n) for n in num_points]
  if len(counts) != batch or not all(1 <= n <= total for n in counts):
    raise ValueError(f"num_points {counts} does not fit xyz {xyz.shape}")
  return counts


def farthest_point_sample(xyz, n, num_points=None):
  """Picks n points of each cloud, each the farthest from those before it.

  Starts at point 0. Ties go to the lowest index; when the points have run out
  (every distance is 0) that is point 0 again.

  Args:
    xyz: (B, N, 3) points.
    n: how many to pick.
    num_points: (B,) or None; only a cloud's first num_points[b] points exist.

  Returns:
    (B, n) int64 indices.
  """
  rows = []
  for b, count in enumerate(_valid_counts(xyz, num_points)):
    cloud = xyz[b, :count].detach()
    nearest = torch.full((count,), float("inf"), dtype=xyz.dtype)
    chosen = [0]
    while len(chosen) < n:
      to_last = _squared_distances(cloud, cloud[chosen[-1]])
      nearest = torch.minimum(nearest, to_last)
      # The first of several maxima, spelled out.
      chosen.append(int((nearest == nearest.max()).nonzero()[0]))
    rows.append(torch.tensor(chosen[:n], dtype=torch.int64))
  return torch.stack(rows)


def ball_query(xyz, centers, radius, nsample, num_points=None):
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
    ValueError: if a ball is empty (never so for centers that are points).
  """
  clouds = []
  for b, count in enumerate(_valid_counts(xyz, num_points)):
    rows = []
    for center in centers[b].detach():
      squared = _squared_distances(xyz[b, :count].detach(), center)
      inside = (squared <= radius * radius).nonzero()[:, 0].tolist()
      if not inside:
        raise ValueError(f"no point within {radius} of center {center}")
      inside = inside[:nsample]
      rows.append(inside + [inside[0]] * (nsample - len(inside)))
    clouds.append(rows)
  return torch.tensor(clouds, dtype=torch.int64)


def _take(values, index):
  """values (B, N, C), index (B, ...) -> (B, ..., C)."""
  return torch.stack([v[i] for v, i in zip(values, index, strict=True)])


class PointNetSetAbstraction(nn.Module):
  """Groups points by FPS and ball query and embeds each group."""

  def __init__(self, patches, radius, nsample, in_channel, widths):
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

  def forward(self, xyz, features, num_points=None):
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
  """(B, C, S) -> (B, S, C); OpenShape has a parameterless lambda here."""

  def forward(self, x):
    return x.permute(0, 2, 1)


class PreNorm(nn.Module):
  """fn(LayerNorm(x)); the residual is added by the caller."""

  def __init__(self, dim, fn):
    super().__init__()
    self.norm = nn.LayerNorm(dim)
    self.fn = fn

  def forward(self, x):
    return self.fn(self.norm(x))


class Attention(nn.Module):
  """Multi-head self-attention with heads of width 64, qkv without bias."""

  def __init__(self, dim, heads):
    super().__init__()
    self.heads = heads
    inner = heads * _HEAD_DIM
    self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
    self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(0.0))

  def forward(self, x):
    """(B, S, dim) -> (B, S, dim)."""
    outputs = []
    queries, keys, values = self.to_qkv(x).chunk(3, dim=-1)
    for head in range(self.heads):
      part = slice(head * _HEAD_DIM, (head + 1) * _HEAD_DIM)
      q, k, v = queries[..., part], keys[..., part], values[..., part]
      scores = q @ k.transpose(1, 2) * _HEAD_DIM**-0.5  # (B, S, S)
      outputs.append(scores.softmax(dim=-1) @ v)
    return self.to_out(torch.cat(outputs, dim=-1))


class FeedForward(nn.Module):
  """Linear, exact GELU, Linear."""

  def __init__(self, dim, hidden):
    super().__init__()
    self.net = nn.Sequential(
      nn.Linear(dim, hidden),
      nn.GELU(),
      nn.Dropout(0.0),
      nn.Linear(hidden, dim),
      nn.Dropout(0.0),
    )

  def forward(self, x):
    return self.net(x)


class Transformer(nn.Module):
  """Pre-norm blocks, with no norm after the last one."""

  def __init__(self, dim, depth, heads, mlp_dim):
    super().__init__()
    self.layers = nn.ModuleList(
      nn.ModuleList(
        [
          PreNorm(dim, Attention(dim, heads)),
          PreNorm(dim, FeedForward(dim, mlp_dim)),
        ]
      )
      for _ in range(depth)
    )

  def forward(self, x):
    for attention, feed_forward in self.layers:
      x = x + attention(x)
      x = x + feed_forward(x)
    return x


class PointPatchTransformer(nn.Module):
  """Tokens of patches, a cls token, a transformer; returns the cls token."""

  def __init__(
    self,
    dim,
    depth,
    heads,
    mlp_dim,
    sa_dim,
    patches,
    radius,
    nsample,
    in_channel=6,
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

  def forward(self, xyz, features, num_points=None):
    """xyz (B, N, 3), features (B, N, in_channel) -> (B, dim)."""
    centers, groups = self.sa(xyz, features, num_points)
    tokens = self.lift(torch.cat([centers, groups], dim=1))  # (B, S, dim)
    cls = self.cls_token.expand(len(xyz), 1, -1)
    return self.transformer(torch.cat([cls, tokens], dim=1))[:, 0]


class Projected(nn.Module):
  """A PointPatchTransformer followed by a linear map to CLIP's space."""

  def __init__(self, ppat, proj):
    super().__init__()
    self.ppat = ppat
    self.proj = proj

  def forward(self, xyz, features, num_points=None):
    """Un-normalised embeddings.

    Args:
      xyz: (B, N, 3) points.
      features: (B, N, in_channel), by default xyz and rgb side by side.
      num_points: (B,) or None; only a cloud's first num_points[b] points
        exist.

    Returns:
      (B, D).
    """
    return self.proj(self.ppat(xyz, features, num_points))
