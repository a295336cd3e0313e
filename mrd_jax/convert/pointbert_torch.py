"""Runs OpenShape's PointBERT encoder with its weights, in plain PyTorch.

Needs nothing but PyTorch and `pointbert_modules.py`: copy both files and a
model's weights, and

  model = load("model.safetensors")  # and its model.json or config.json
  embeddings = model.embed(points)  # (B, N, 6) -> (B, D), unit length
  similarities = embeddings @ text_embeddings.T  # of the same CLIP

Letters: B clouds, N points, D values of an embedding.

Licence: Apache-2.0.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

if __package__:
  from . import pointbert_modules as modules
else:  # both were copied to where scripts are
  import pointbert_modules as modules  # type: ignore

# In the order of PointPatchTransformer's arguments.
_ARCHITECTURE = (
  *("width", "depth", "heads", "mlp_dim", "sa_dim"),
  *("groups", "radius", "group_size"),
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


class TorchEncoder(modules.Projected):
  """A `Projected` that knows what clouds go through before it.

  Attributes:
    config: the model's configuration, see `load`.
  """

  def __init__(
    self,
    ppat: modules.PointPatchTransformer,
    proj: nn.Linear | None,
    config: dict[str, Any],
  ):
    super().__init__(ppat, proj)
    self.config = config

  @torch.no_grad()
  def embed(
    self,
    points: Tensor | Sequence[Tensor],
    up: str = "y",
    normalize: bool = True,
  ) -> Tensor:
    """Embeds clouds, one at a time: none depends on its neighbours.

    Warns (UserWarning) of clouds with fewer than 16 different points.

    Args:
      points: (B, N, 3) or (B, N, 6), or a list of B clouds (N, 3) or (N, 6) of
        any N: xyz in any unit and rgb in [0, 1]; see `prepare`.
      up: "y" or "z", the axis of `points` that points up; clouds that are z up
        are turned.
      normalize: whether to move and scale each cloud to the unit ball.

    Returns:
      (B, D), unit length.

    Raises:
      ValueError: naming the cloud, if it cannot be used; or if the model is
        in training mode.
    """
    if self.training:
      raise ValueError("the model is in training mode; call model.eval()")
    token = self.ppat.cls_token
    rows, few = [], []
    for b, cloud in enumerate(points):
      try:
        cloud = prepare(cloud, self.config, up, normalize)
      except ValueError as error:
        raise ValueError(f"points[{b}]: {error}") from None
      some = (cloud[:100, :3], cloud[:, :3])  # mostly a hundred tell
      if all(len(xyz.unique(dim=0)) < 16 for xyz in some):
        few.append(b)
      cloud = cloud.to(token.device, token.dtype)[None]
      x = self(cloud[..., :3], cloud).to(token.dtype)
      rows.append(x / x.norm(dim=-1, keepdim=True))
    if not rows:
      raise ValueError("points holds no cloud")
    if few:
      warnings.warn(
        f"points{few}: fewer than 16 different points hardly make a shape",
        stacklevel=2,
      )
    return torch.cat(rows)


def shuffled(n: int) -> Tensor:
  """Draws a fixed pseudo-random order of n points, alike in every language.

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
  """Prepares one cloud for the encoder.

  Takes the first config["num_points"] in the order of `shuffled`, because
  groups depend on the order of a cloud's points and files are often sorted;
  turns a cloud that is z up to y up, (x, y, z) -> (x, z, -y); exchanges y and z
  if config["up_axis"] is "z" (a reflection, as in OpenShape's training); then
  subtracts the mean and divides by the largest norm. Computed in float64, so
  that the result hardly depends on who computes it.

  Args:
    points: (N, 3) xyz in any unit, or (N, 6) with rgb in [0, 1], which is
      clipped where it leaves that range by 1e-2 at most; without rgb, each
      channel is config["colour_fill"].
    config: of the model, see `load`.
    up: "y" or "z", the axis of `points` that points up.
    normalize: whether to subtract the mean and to divide.

  Returns:
    (M, 6) float32, M = min(N, config["num_points"]).

  Raises:
    ValueError: for another shape or `up`, a masked array, text, booleans, NaN
      or infinite values, colours further out, or points that all coincide.
  """
  if up not in ("y", "z"):
    raise ValueError(f"up is {up!r}, must be 'y' or 'z'")
  if hasattr(points, "filled"):  # numpy.ma, whose mask torch forgets
    raise ValueError("the cloud is a masked array; leave out what is masked")
  try:
    points = torch.as_tensor(points)
  except (TypeError, ValueError, RuntimeError):
    raise ValueError("the cloud is not an array of numbers") from None
  if points.dtype == torch.bool or points.is_complex():
    raise ValueError(f"the cloud is of {points.dtype}, not of real numbers")
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
  elif rgb.min() < -0.01 or rgb.max() > 1.01:
    in_bytes = rgb.min() >= 0 and rgb.max() > 1.5
    raise ValueError(
      f"colours reach from {rgb.min():g} to {rgb.max():g}, must be in [0, 1]"
      + ("; divide 8-bit colours by 255" if in_bytes else "")
    )
  if up == "z":
    xyz = torch.stack([xyz[:, 0], xyz[:, 2], -xyz[:, 1]], dim=1)
  if config["up_axis"] == "z":
    xyz = xyz[:, [0, 2, 1]]
  if normalize:
    xyz = xyz - xyz.mean(dim=0)
    radius = xyz.norm(dim=1).max()
    if not 0 < radius < float("inf"):
      raise ValueError("the cloud is too small or too large for float64")
    xyz = xyz / radius
  return torch.cat([xyz, rgb.clamp(0, 1)], dim=1).float()


def build(config: dict[str, Any]) -> TorchEncoder:
  """Builds a model with fresh weights from its config, see `load`.

  Raises:
    ValueError: naming the field that is missing or odd.
  """
  try:
    size = [config["architecture"][field] for field in _ARCHITECTURE]
    embed_dim = config["architecture"]["embed_dim"]
    up_axis, *_ = (config[k] for k in ("up_axis", "num_points", "colour_fill"))
  except (KeyError, TypeError) as error:
    raise ValueError(f"cannot read the field {error}") from None
  if up_axis not in ("y", "z"):
    raise ValueError(f"up_axis is {up_axis!r}, must be 'y' or 'z'")
  ppat = modules.PointPatchTransformer(*size)
  proj = None if embed_dim is None else nn.Linear(size[0], embed_dim)
  return TorchEncoder(ppat, proj, config)


def load(
  path: str | Path, config: dict[str, Any] | str | Path | None = None
) -> TorchEncoder:
  """Loads a model: on the CPU, in float32, in eval mode.

  Args:
    path: a .safetensors file, or one of torch.save: a state dict, or
      {"state_dict": ...}. A leading "module." of the names is dropped.
    config: a dict, or the JSON file that holds it; by default the one beside
      `path` with its name and the ending .json, else config.json:
        architecture: {width, depth, heads, mlp_dim, sa_dim, groups, radius,
          group_size, embed_dim}; embed_dim is D, null without a projection.
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
  where = "config"
  if not isinstance(config, dict):
    where = str(config)
    try:
      config = json.loads(Path(config).read_bytes())
    except (ValueError, RecursionError) as error:
      raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(config, dict):
      raise ValueError(f"{where} must hold a JSON object")
  try:
    with torch.device("meta"):  # nothing is drawn, all comes from the file
      model = build(config)
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from None

  read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
  tensors = {
    name.removeprefix("module."): x.float() if x.is_floating_point() else x
    for name, x in read(path).items()
  }
  try:
    model.load_state_dict(tensors, strict=True, assign=True)
  except RuntimeError as error:
    raise ValueError(f"{path} does not fit {where}: {error}") from None
  return model.eval()


def _read_torch(path: Path) -> dict[str, Tensor]:
  """Reads what torch.save wrote, without executing anything in it."""
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
  """Reads the length of the header (8 bytes), the header (JSON), tensors."""
  tensors = {}
  with path.open("rb") as file:
    left = path.stat().st_size - 8
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= left:
      raise ValueError(f"{path} is cut off, or no safetensors file")
    try:
      header = dict(json.loads(file.read(length)))
    except (ValueError, TypeError, RecursionError) as error:
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
