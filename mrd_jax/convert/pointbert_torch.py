"""OpenShape's PointBERT point-cloud encoder in one file of plain PyTorch.

Needs nothing but PyTorch: copy the file and a model's weights, and

  model = load("model.safetensors")  # and its model.json or config.json
  embeddings = model.embed(points)  # (B, N, 6) -> (B, D), unit length
  similarities = embeddings @ text_embeddings.T  # of the same CLIP

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

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
  """(B, C, S) -> (B, S, C); OpenShape has a parameterless lambda here."""

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
    self.net = nn.Sequential(
      nn.Linear(dim, hidden),
      nn.GELU(),
      nn.Dropout(0.0),
      nn.Linear(hidden, dim),
      nn.Dropout(0.0),
    )

  def forward(self, x: Tensor) -> Tensor:
    return self.net(x)


class Block(nn.ModuleList):
  """x + attention(LayerNorm(x)), then the same with the feed-forward net.

  A list, because OpenShape's keys number its two halves 0 and 1.
  """

  def __init__(self, dim: int, heads: int, mlp_dim: int):
    super().__init__(
      [
        PreNorm(dim, Attention(dim, heads)),
        PreNorm(dim, FeedForward(dim, mlp_dim)),
      ]
    )

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
    config: the model's configuration, see `load`; None if built by hand.
  """

  def __init__(
    self,
    ppat: PointPatchTransformer,
    proj: nn.Linear | None,
    config: dict[str, Any] | None = None,
  ):
    super().__init__()
    self.ppat = ppat
    self.proj = proj
    self.config = config

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

  @torch.no_grad()
  def embed(
    self,
    points: Tensor | Sequence[Tensor],
    up: str = "y",
    normalize: bool = True,
  ) -> Tensor:
    """Embeds clouds, one at a time: none depends on its neighbours.

    Args:
      points: (B, N, 3) or (B, N, 6), or a list of B clouds (N, 3) or (N, 6) of
        any N: xyz in any unit and rgb in [0, 1]; see `prepare`.
      up: "y" or "z", the axis of `points` that points up.
      normalize: whether to move and scale each cloud to the unit ball.

    Returns:
      (B, D), unit length.

    Raises:
      ValueError: naming the cloud, if it cannot be used; or if the model has
        no config, or is in training mode.
    """
    if self.config is None:
      raise ValueError("the model has no config; load() gives it one")
    if self.training:
      raise ValueError("the model is in training mode; call model.eval()")
    token = self.ppat.cls_token
    rows = []
    for b, cloud in enumerate(points):
      try:
        cloud = prepare(cloud, self.config, up, normalize)
      except ValueError as error:
        raise ValueError(f"points[{b}]: {error}") from None
      cloud = cloud.to(token.device, token.dtype)[None]
      x = self(cloud[..., :3], cloud).to(token.dtype)
      rows.append(x / x.norm(dim=-1, keepdim=True))
    if not rows:
      raise ValueError("points holds no cloud")
    return torch.cat(rows)


def shuffled(n: int) -> Tensor:
  """A fixed pseudo-random order of n points, the same in every language.

  The order of fmix32(1), ..., fmix32(n), fmix32 being the last step of
  murmur3's 32-bit hash. It maps no two numbers to one, so there are no ties.

  Returns:
    (n,) int64 indices.
  """
  h = torch.arange(1, n + 1)
  # Products overflow int64 and keep their lower 32 bits.
  h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
  h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
  return (h ^ (h >> 16)).argsort()


def prepare(
  points: Tensor, config: dict[str, Any], up: str = "y", normalize: bool = True
) -> Tensor:
  """What one cloud goes through before the encoder.

  Takes the first config["num_points"] in the order of `shuffled`, because
  groups depend on the order of a cloud's points and files are often sorted;
  exchanges y and z if `up` is not the axis that the model was trained with (a
  reflection, as in OpenShape's training); then subtracts the mean and divides
  by the largest norm. Computed in float64, so that the result hardly depends
  on who computes it.

  Args:
    points: (N, 3) xyz in any unit, or (N, 6) with rgb in [0, 1]; without rgb,
      each channel is config["colour_fill"].
    config: of the model, see `load`.
    up: "y" or "z", the axis of `points` that points up.
    normalize: whether to subtract the mean and to divide.

  Returns:
    (M, 6) float32, M = min(N, config["num_points"]).

  Raises:
    ValueError: for another shape or `up`, NaN or infinite values, colours
      outside [0, 1], or points that all coincide.
  """
  if up not in ("y", "z"):
    raise ValueError(f"up is {up!r}, must be 'y' or 'z'")
  points = torch.as_tensor(points)
  if points.ndim != 2 or points.shape[1] not in (3, 6) or not len(points):
    raise ValueError(
      f"a cloud has shape {tuple(points.shape)}, must be (N, 3) or (N, 6)"
    )
  points = points.double()
  if not points.isfinite().all():
    raise ValueError("the cloud holds NaN or infinite values")
  order = shuffled(len(points))[: config["num_points"]]
  points = points[order.to(points.device)]
  xyz, rgb = points[:, :3], points[:, 3:]
  if (xyz == xyz[0]).all():
    raise ValueError("all points of the cloud coincide")
  if not rgb.shape[1]:
    rgb = torch.full_like(xyz, config["colour_fill"])
  elif rgb.min() < 0 or rgb.max() > 1:
    raise ValueError(
      f"colours reach from {rgb.min():g} to {rgb.max():g}, must be in [0, 1]; "
      "divide 8-bit colours by 255"
    )
  if up != config["up_axis"]:
    xyz = xyz[:, [0, 2, 1]]
  if normalize:
    xyz = xyz - xyz.mean(dim=0)
    radius = xyz.norm(dim=1).max()
    if not 0 < radius < float("inf"):
      raise ValueError("the cloud is too small or too large for float64")
    xyz = xyz / radius
  return torch.cat([xyz, rgb], dim=1).float()


# Files.

# In the order of PointPatchTransformer's arguments.
_ARCHITECTURE = (
  "width",
  "depth",
  "heads",
  "mlp_dim",
  "sa_dim",
  "groups",
  "radius",
  "group_size",
)

_SAFETENSORS_DTYPES = {
  "BOOL": torch.bool,
  "U8": torch.uint8,
  "I8": torch.int8,
  "I16": torch.int16,
  "I32": torch.int32,
  "I64": torch.int64,
  "F16": torch.float16,
  "BF16": torch.bfloat16,
  "F32": torch.float32,
  "F64": torch.float64,
}


def build(config: dict[str, Any]) -> Projected:
  """A model with fresh weights from its config, see `load`.

  Raises:
    ValueError: naming the field that is missing or odd.
  """
  try:
    size = [config["architecture"][field] for field in _ARCHITECTURE]
    embed_dim = config["embed_dim"]
    up_axis, *_ = (config[k] for k in ("up_axis", "num_points", "colour_fill"))
  except (KeyError, TypeError) as error:
    raise ValueError(f"cannot read the field {error}") from None
  if up_axis not in ("y", "z"):
    raise ValueError(f"up_axis is {up_axis!r}, must be 'y' or 'z'")
  ppat = PointPatchTransformer(*size)
  proj = None if embed_dim is None else nn.Linear(size[0], embed_dim)
  return Projected(ppat, proj, config)


def load(
  path: str | Path, config: dict[str, Any] | str | Path | None = None
) -> Projected:
  """Loads a model: on the CPU, in float32, in eval mode.

  Args:
    path: a .safetensors file, or one of torch.save: a state dict, or
      {"state_dict": ...}. A leading "module." of the names is dropped.
    config: a dict, or the JSON file that holds it; by default the one beside
      `path` with its name and the ending .json, else config.json:
        architecture: {width, depth, heads, mlp_dim, sa_dim, groups, radius,
          group_size}.
        embed_dim: D; null if there is no projection.
        up_axis: "y" or "z", the axis that pointed up in training.
        num_points: how many points of a cloud are used at most.
        colour_fill: rgb of clouds without colour, in [0, 1].
      Other fields are ignored.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: naming the file, if it cannot be read, or if weights and
      config do not fit.
  """
  path = Path(path)
  if config is None:
    beside = (path.with_suffix(".json"), path.with_name("config.json"))
    config = next((file for file in beside if file.is_file()), None)
    if config is None:
      raise FileNotFoundError(
        f"{path} has neither {beside[0].name} nor config.json beside it; put "
        "the model's config there or give it to load()"
      )
  where = "config" if isinstance(config, dict) else str(config)
  if not isinstance(config, dict):
    config = _read_json(Path(config))
  try:
    with torch.device("meta"):  # nothing is drawn, all comes from the file
      model = build(config)
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from None

  if path.suffix == ".safetensors":
    tensors = _read_safetensors(path)
  else:
    tensors = _read_torch(path)
  tensors = {
    name.removeprefix("module."): x.float() if x.is_floating_point() else x
    for name, x in tensors.items()
  }
  try:
    model.load_state_dict(tensors, strict=True, assign=True)
  except RuntimeError as error:
    raise ValueError(f"{path} does not fit {where}: {error}") from None
  return model.eval()


def _read_json(path: Path) -> dict[str, Any]:
  try:
    values = json.loads(path.read_bytes())
  except ValueError as error:
    raise ValueError(f"{path} is not JSON: {error}") from None
  if not isinstance(values, dict):
    raise ValueError(f"{path} must hold a JSON object")
  return values


def _read_torch(path: Path) -> dict[str, Tensor]:
  try:
    tensors = torch.load(path, weights_only=True, map_location="cpu")
  except OSError:
    raise
  except Exception:  # what damage leads to is anything
    # PyTorch's own message advises to trust the file.
    raise ValueError(
      f"{path} is not a file of weights: it is damaged, or holds more than "
      "tensors and plain values; nothing in it was executed"
    ) from None
  if isinstance(tensors, dict):
    tensors = tensors.get("state_dict", tensors)
  if not isinstance(tensors, dict) or not all(
    isinstance(x, Tensor) for x in tensors.values()
  ):
    raise ValueError(f"{path} holds no state dict")
  return dict(tensors)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
  """Length of the header (8 bytes), header (JSON), tensors."""
  tensors = {}
  with path.open("rb") as file:
    left = path.stat().st_size - 8
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= left:
      raise ValueError(f"{path} is cut off, or no safetensors file")
    try:
      header = dict(json.loads(file.read(length)))
    except (ValueError, TypeError) as error:
      raise ValueError(f"{path}: the header is broken: {error}") from None
    header.pop("__metadata__", None)
    for name, entry in header.items():
      try:
        dtype = _SAFETENSORS_DTYPES[entry["dtype"]]
        start, end = map(int, entry["data_offsets"])
        shape = [int(n) for n in entry["shape"]]
        size = torch.empty(shape, dtype=dtype, device="meta").nbytes
      except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
          f"{path}: cannot read the header of {name}: {error!r}"
        ) from None
      if not 0 <= start <= end <= left - length:
        raise ValueError(
          f"{path}: {name} ends at byte {end} of {left - length}; the file is "
          "cut off"
        )
      if end - start != size:
        raise ValueError(
          f"{path}: {name} has {end - start} bytes, its shape needs {size}"
        )
      tensors[name] = torch.empty(shape, dtype=dtype)
      if size:
        file.seek(8 + length + start)
        data = bytearray(file.read(size))
        tensors[name] = torch.frombuffer(data, dtype=dtype).reshape(shape)
  return tensors
